//! A cluster in this process that speaks the protocol, keeps its data in memory, and misbehaves on
//! request.

mod uploads;

use bytes::{Bytes, BytesMut};
use corelith_client::Client;
use corelith_wire::cluster::{ClusterAnswer, ClusterAsk};
use corelith_wire::frame::Accepts;
use corelith_wire::handshake::{HELLO_BYTES, Hello, Status, Welcome};
use corelith_wire::map::{ClusterMap, MapNode};
use corelith_wire::request::{Condition, GetRequest, Operation, ScanRequest, WriteCommand};
use corelith_wire::response::{
    self, Answer, Failure, ReplyMeta, ScanHead, ScanItem, ScanPage, ScanValue,
};
use corelith_wire::status::{ShardStatus, StatusReply};
use corelith_wire::{
    ClusterId, Epoch, Flags, Frame, FrameParser, Head, Kind, NodeId, Outbox, ShardId,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use uploads::Uploads;

/// Pieces in which the bytes of a second arrive on a slow connection.
const UPLINK_PIECES: usize = 20;

pub(crate) const CLUSTER: ClusterId = ClusterId(0xc0);

/// How the mock treats the next write, get or scan.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Serve it.
    Serve,
    /// Answer this failure.
    Fail(Failure),
    /// Close the connection without doing it.
    DropBefore,
    /// Do it, and close the connection without an answer.
    DropAfter,
    /// Never answer.
    Hold,
    /// Do it, and never answer.
    HoldAfter,
    /// Answer twice.
    Twice,
    /// Send the answer with a flipped bit.
    Damage,
    /// Forget all sessions, then serve it.
    Forget,
}

#[derive(Debug, Default)]
struct Shard {
    index: u64,
    /// Key: (version, value).
    data: BTreeMap<Bytes, (u64, Bytes)>,
    /// Session: results by number.
    sessions: BTreeMap<u64, BTreeMap<u64, Answer>>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) map: ClusterMap,
    shards: Vec<Shard>,
    /// Per shard: the node that leads.
    pub(crate) leaders: Vec<u64>,
    pub(crate) script: VecDeque<Act>,
    /// Writes, gets and scans that arrived.
    pub(crate) requests: usize,
    /// Questions for the status.
    pub(crate) questions: usize,
    /// Touches: scan requests that only keep the scan's state.
    pub(crate) touches: usize,
    /// Writes that changed something or conflicted, by arrival at the state machine.
    pub(crate) applied: usize,
    /// Most unanswered requests seen on one connection.
    pub(crate) in_flight_seen: usize,
    pub(crate) welcome: Box<dyn FnMutWelcome>,
    /// Whether it answers requests without values with heads, as current releases do.
    pub(crate) knows_heads: bool,
    /// A node whose data is damaged, and how many reads of a shard that it leads it refuses before it hands
    /// the lead to node 2.
    pub(crate) damaged: Option<(u64, usize)>,
    /// Whether followers answer reads that let them, as current releases do.
    pub(crate) knows_followers: bool,
    /// The nodes that answered gets of a key and scans.
    pub(crate) answered_by: Vec<u64>,
    /// How long each node's answers take to arrive.
    pub(crate) distances: BTreeMap<u64, Duration>,
    pub(crate) uploads: Uploads,
    /// Bytes that arrive on a connection in a second, if that is limited.
    pub(crate) uplink: Option<usize>,
}

pub(crate) trait FnMutWelcome: FnMut(&mut Welcome) + Send {}
impl<F: FnMut(&mut Welcome) + Send> FnMutWelcome for F {}
impl std::fmt::Debug for dyn FnMutWelcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("welcome")
    }
}

/// The running cluster. It ends when dropped.
pub(crate) struct Mock {
    pub(crate) state: Arc<Mutex<State>>,
    servers: BTreeMap<u64, JoinSet<()>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

impl Mock {
    /// `nodes` nodes of two cores, `shards` shards.
    pub(crate) async fn start(nodes: u64, shards: u32) -> Self {
        let mut listeners = BTreeMap::new();
        let mut listed = Vec::new();
        for id in 1..=nodes {
            let (base_port, pair) = adjacent_ports().await;
            listed.push(MapNode {
                id,
                host: "127.0.0.1".into(),
                base_port,
                cores: 2,
            });
            listeners.insert(id, pair);
        }
        let map = ClusterMap::place(Epoch(1), CLUSTER, listed, shards, 3);
        let state = Arc::new(Mutex::new(State {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            leaders: map.shards.iter().map(|shard| shard.replicas[0]).collect(),
            map,
            script: VecDeque::new(),
            requests: 0,
            questions: 0,
            touches: 0,
            applied: 0,
            in_flight_seen: 0,
            welcome: Box::new(|_: &mut Welcome| {}),
            knows_heads: true,
            damaged: None,
            knows_followers: true,
            answered_by: Vec::new(),
            distances: BTreeMap::new(),
            uploads: Uploads::default(),
            uplink: None,
        }));
        let mut mock = Self {
            state,
            servers: BTreeMap::new(),
        };
        for (id, pair) in listeners {
            mock.serve(id, pair);
        }
        mock
    }

    fn serve(&mut self, node: u64, listeners: [TcpListener; 2]) {
        let mut servers = JoinSet::new();
        for (core, listener) in listeners.into_iter().enumerate() {
            let state = Arc::clone(&self.state);
            servers.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(connection(Arc::clone(&state), node, core as u16, stream));
                }
            });
        }
        self.servers.insert(node, servers);
    }

    /// Closes a node's sockets.
    pub(crate) async fn stop(&mut self, node: u64) {
        self.servers.remove(&node).unwrap().shutdown().await;
    }

    /// Opens a node's sockets again.
    pub(crate) async fn restart(&mut self, node: u64) {
        let port = self.state().map.node(NodeId(node)).unwrap().base_port;
        let listen = async |port| loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let pair = [listen(port).await, listen(port + 1).await];
        self.serve(node, pair);
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.state().script.extend(acts);
    }

    pub(crate) fn seed(&self) -> String {
        let state = self.state();
        format!("127.0.0.1:{}", state.map.nodes[0].base_port)
    }

    pub(crate) async fn client(&self) -> Client {
        let deadline = Duration::from_secs(8);
        Client::builder()
            .seeds([self.seed()])
            .deadline(deadline)
            .connect()
            .await
            .unwrap()
    }
}

async fn adjacent_ports() -> (u16, [TcpListener; 2]) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Some(next) = port.checked_add(1)
            && let Ok(second) = TcpListener::bind(("127.0.0.1", next)).await
        {
            return (port, [first, second]);
        }
    }
}

async fn connection(state: Arc<Mutex<State>>, node: u64, core: u16, mut stream: TcpStream) {
    let mut hello = [0; HELLO_BYTES];
    if stream.read_exact(&mut hello).await.is_err() {
        return;
    }
    let hello = Hello::parse(&hello).unwrap();
    let mut welcome = Welcome::answer(&hello, CLUSTER, Epoch(1), NodeId(node), core);
    (lock(&state).welcome)(&mut welcome);
    stream.write_all(&welcome.encode()).await.unwrap();
    if welcome.status != Status::Welcome {
        return;
    }
    let parser = FrameParser::new(Accepts::Requests);
    let (mut buffer, mut held) = (BytesMut::new(), 0);
    loop {
        buffer.reserve(1 << 16);
        let uplink = lock(&state).uplink;
        if uplink.is_some() {
            tokio::time::sleep(Duration::from_secs(1) / UPLINK_PIECES as u32).await;
        }
        let piece = uplink.map_or(usize::MAX, |uplink| uplink / UPLINK_PIECES);
        match (&mut stream).take(piece as u64).read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let frames: Vec<Frame> = parser.take(&mut buffer).map(Result::unwrap).collect();
        let mut out = Outbox::default();
        {
            let mut state = lock(&state);
            state.in_flight_seen = state.in_flight_seen.max(held + frames.len());
            // Answers come in any order: here in the reverse one.
            for frame in frames.into_iter().rev() {
                match state.handle(node, core, &frame, &mut out) {
                    Go::On => {}
                    Go::Held => held += 1,
                    Go::Close => return,
                }
            }
        }
        let distance = lock(&state).distances.get(&node).copied();
        if let Some(distance) = distance {
            tokio::time::sleep(distance).await;
        }
        let mut bytes = Vec::new();
        out.slices()
            .for_each(|slice| bytes.extend_from_slice(slice));
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

enum Go {
    On,
    Held,
    Close,
}

impl State {
    fn handle(&mut self, node: u64, core: u16, frame: &Frame, out: &mut Outbox) -> Go {
        let head = frame.header.head;
        match head.kind {
            Kind::DESCRIBE => response::encode_map(out, head, &self.map),
            Kind::STATUS => {
                self.questions += 1;
                response::encode_status_reply(out, head, &self.status(node));
            }
            _ => {
                assert_eq!(
                    head.shard.0 as usize % 2,
                    usize::from(core),
                    "at the shard's core"
                );
                if head.kind != Kind::OPEN_SESSION {
                    self.requests += 1;
                    return self.act(node, frame, out);
                }
                let answer = self.serve(node, frame);
                encode(out, head, answer);
            }
        }
        Go::On
    }

    fn act(&mut self, node: u64, frame: &Frame, out: &mut Outbox) -> Go {
        let head = frame.header.head;
        let act = self.script.pop_front().unwrap_or(Act::Serve);
        match act {
            Act::DropBefore => return Go::Close,
            Act::Hold => return Go::Held,
            Act::Fail(failure) => {
                response::encode_failure(out, head, ReplyMeta::default(), failure);
                return Go::On;
            }
            Act::Forget => self
                .shards
                .iter_mut()
                .for_each(|shard| shard.sessions.clear()),
            _ => {}
        }
        let answer = self.serve(node, frame);
        match act {
            Act::DropAfter => return Go::Close,
            Act::HoldAfter => return Go::Held,
            Act::Twice => encode(out, head, answer.clone()),
            Act::Damage => {
                encode(out, head, answer);
                if let Some(last) = out.buffer().last_mut() {
                    *last ^= 1;
                }
                return Go::On;
            }
            _ => {}
        }
        encode(out, head, answer);
        Go::On
    }

    fn serve(&mut self, node: u64, frame: &Frame) -> Answer {
        if frame.header.head.kind == Kind::CLUSTER {
            let ask = ClusterAsk::parse(frame.body()).unwrap();
            let lines = vec![format!("{:?} at node {node}", ask.order)];
            return Answer::Cluster(ClusterAnswer::Done { lines });
        }
        let (kind, ShardId(shard)) = (frame.header.head.kind, frame.header.head.shard);
        let leader = self.leaders[shard as usize];
        let fail = |failure| Answer::Failure {
            meta: ReplyMeta::default(),
            failure,
        };
        let is_read = matches!(kind, Kind::GET | Kind::SCAN);
        let may_follow = frame.header.flags.contains(Flags::FOLLOWER_MAY_ANSWER);
        let follows = is_read && may_follow && self.knows_followers;
        if kind == Kind::READ_CHUNK {
            self.answered_by.push(node);
            return self.uploads.read_chunk(node, frame.body());
        }
        if leader != node && !follows {
            return fail(Failure::NotLeader { leader });
        }
        if let Some((damaged, reads_left)) = &mut self.damaged
            && *damaged == node
            && matches!(kind, Kind::GET | Kind::SCAN)
        {
            match reads_left.checked_sub(1) {
                Some(left) => *reads_left = left,
                None => self.leaders[shard as usize] = 2,
            }
            return fail(Failure::Corrupt);
        }
        if is_read && !is_probe(frame) {
            self.answered_by.push(node);
        }
        let shard_count = self.map.shard_count();
        let heads = frame.header.flags.contains(Flags::WITHOUT_VALUES);
        let knows_heads = self.knows_heads;
        let place = &mut self.shards[shard as usize];
        let meta = |index| ReplyMeta { term: 1, index };
        if let Some(answer) = self.uploads.serve(kind, shard, frame, place) {
            return answer;
        }
        match kind {
            Kind::OPEN_SESSION => {
                place.index += 1;
                place.sessions.insert(place.index, BTreeMap::new());
                Answer::SessionOpened {
                    meta: meta(place.index),
                    session: place.index,
                }
            }
            Kind::GET => {
                let key = GetRequest::parse(frame.body()).unwrap().key;
                let described = !heads || frame.header.flags.contains(Flags::DESCRIBED);
                let large = self.uploads.live(key, place);
                match place.data.get(key) {
                    Some(_) if described && large.is_some() => Answer::Large(large.unwrap()),
                    Some((version, value)) if knows_heads && heads => Answer::Head {
                        meta: meta(place.index),
                        version: *version,
                        value_len: value.len() as u64,
                    },
                    Some((version, value)) => Answer::Value {
                        meta: meta(place.index),
                        version: *version,
                        value: value.clone(),
                    },
                    None => Answer::NotFound {
                        meta: meta(place.index),
                    },
                }
            }
            Kind::SCAN => {
                let request = ScanRequest::parse(frame.body()).unwrap();
                if request.at_version != 0 && request.start == request.end {
                    self.touches += 1;
                }
                let mut page = place.scan(&request);
                for item in &mut page.items {
                    if let Some(large) = self.uploads.live(&item.key, place) {
                        item.value = ScanValue::Large { len: large.len };
                    }
                }
                if knows_heads && heads {
                    let mut page = page_of_heads(page);
                    let described = frame.header.flags.contains(Flags::DESCRIBED);
                    for item in page.items.iter_mut().filter(|_| described) {
                        let large = self.uploads.live(&item.key, place);
                        item.committed_us = large.map(|large| large.committed_us);
                    }
                    return Answer::ScanHeads(page);
                }
                Answer::ScanPage(page)
            }
            _ => {
                let command = WriteCommand::parse(frame.payload()).unwrap();
                let owner = corelith_wire::placement::shard_of(&command.key, shard_count);
                assert_eq!(owner, ShardId(shard));
                let Some(results) = place.sessions.get(&command.session) else {
                    return fail(Failure::SessionExpired);
                };
                if let Some(first) = results.get(&command.number) {
                    return first.clone();
                }
                self.applied += 1;
                let answer = place.apply(&command);
                let results = place.sessions.get_mut(&command.session).unwrap();
                results.retain(|number, _| *number >= command.answered_below);
                results.insert(command.number, answer.clone());
                answer
            }
        }
    }

    fn status(&self, node: u64) -> StatusReply {
        let shards = self
            .leaders
            .iter()
            .enumerate()
            .map(|(shard, leader)| ShardStatus {
                shard: shard as u32,
                leader: *leader,
                // Node 1 leads first.
                term: *leader,
                ..ShardStatus::default()
            });
        StatusReply {
            node,
            shards: shards.collect(),
            ..StatusReply::default()
        }
    }
}

impl Shard {
    fn apply(&mut self, command: &WriteCommand) -> Answer {
        self.index += 1;
        let meta = ReplyMeta {
            term: 1,
            index: self.index,
        };
        let current = self
            .data
            .get(&command.key)
            .map_or(0, |(version, _)| *version);
        let holds = match command.condition {
            Condition::Any => true,
            Condition::Absent => current == 0,
            Condition::Version(version) => current == version,
        };
        if !holds {
            return Answer::Conflict { meta, current };
        }
        match command.operation {
            Operation::Put => {
                let value = (self.index, command.value.clone());
                self.data.insert(command.key.clone(), value);
            }
            Operation::Delete => drop(self.data.remove(&command.key)),
        }
        Answer::Written {
            meta,
            version: self.index,
        }
    }

    fn scan(&self, request: &ScanRequest<'_>) -> ScanPage {
        let at = if request.at_version == 0 {
            self.index
        } else {
            request.at_version
        };
        let found = self.data.range(Bytes::copy_from_slice(request.start)..);
        let mut found = found
            .take_while(|(key, _)| request.end.is_empty() || key.as_ref() < request.end)
            .filter(|(_, (version, _))| *version <= at);
        // Small pages, so that there are many.
        let items: Vec<ScanItem> = found
            .by_ref()
            .take(7.min(request.limit_items as usize))
            .map(|(key, (version, value))| ScanItem {
                key: key.clone(),
                version: *version,
                value: value.clone().into(),
            })
            .collect();
        let meta = ReplyMeta {
            term: 1,
            index: self.index,
        };
        ScanPage {
            meta,
            at_version: at,
            more: found.next().is_some(),
            items,
        }
    }
}

fn page_of_heads(page: ScanPage) -> ScanPage<ScanHead> {
    let head = |item: ScanItem| ScanHead {
        key: item.key,
        version: item.version,
        value_len: item.value.len(),
        committed_us: None,
    };
    ScanPage {
        meta: page.meta,
        at_version: page.at_version,
        more: page.more,
        items: page.items.into_iter().map(head).collect(),
    }
}

fn encode(out: &mut Outbox, head: Head, answer: Answer) {
    response::encode(out, head, &answer);
}

/// Addresses that never accept, and addresses that refuse. The first live as long as the listeners.
pub(crate) fn silent_and_closed() -> (std::net::TcpListener, String, String) {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent, closed) = (bind(), bind());
    let address = |listener: &std::net::TcpListener| listener.local_addr().unwrap().to_string();
    let (at, gone) = (address(&silent), address(&closed));
    (silent, at, gone)
}

/// Whether it only measures how far the node is away.
fn is_probe(frame: &Frame) -> bool {
    frame.header.head.kind == Kind::GET
        && GetRequest::parse(frame.body()).is_ok_and(|request| request.key.is_empty())
}
