//! Simulated nodes with one core each: three that form the groups, and maybe more.

mod commands;
mod large;
mod node;

pub(crate) use commands::{abort, begin, chunk, command, commit, commit_of, delete, put};
pub(super) use large::{UploadAnswer, UploadAsk};
use node::{Node, open_admitted, shard_options};
pub(crate) use node::{introduction, lone_groups};

use super::tamper;
use crate::{
    GroupError, Groups, Liveness, LivenessOptions, Options, Outcome, ReadPoint, WriteReply,
};
use bytes::Bytes;
pub(crate) use commands::open_body;
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_io::{Sender, channel};
use corelith_shards::{Found, ItemValue, LogId, NodeId, ReplicaId, Shard, ShardId, ShardOptions};
use corelith_wire::StoreId;
use corelith_wire::peer::{Introduction, Verdict};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: u64 = 77;
pub(super) const PORT: u16 = 7000;

/// A write or read that a client asks of a node, with where the answer goes.
pub(super) enum Ask {
    Write(ShardId, Bytes, Sender<Result<WriteReply, GroupError>>),
    Open(ShardId, Sender<Result<WriteReply, GroupError>>),
    Get(ShardId, Bytes, Sender<GetReply>),
    /// A read that this node may answer whether it leads or not.
    GetHere(ShardId, Bytes, Sender<GetReply>),
    /// Something about an upload.
    Upload(ShardId, UploadAsk, Sender<UploadAnswer>),
}

pub(super) type GetReply = Result<(ReadPoint, Option<Found>), GroupError>;

/// The doors of the nodes that run.
pub(super) type Doors = Rc<RefCell<Vec<Option<Sender<Ask>>>>>;

/// Between which nodes there are no new connections for groups.
type Shut = Rc<RefCell<BTreeSet<(NodeId, NodeId)>>>;

pub(super) struct Cluster {
    pub(super) sim: Sim,
    pub(super) nodes: Vec<SimNode>,
    /// Where clients live.
    pub(super) outside: SimNode,
    pub(super) doors: Doors,
    groups: Rc<RefCell<Vec<Option<Groups>>>>,
    options: Options,
    pub(super) liveness: LivenessOptions,
    /// The stores that were started before, and may have promised something.
    started: RefCell<BTreeMap<u128, u64>>,
    shards: u32,
    pub(super) memtable_bytes: usize,
    /// Changes how shards are opened.
    pub(super) tune: fn(&mut ShardOptions),
    /// Whether peers reach each other through `tamper.rs`.
    pub(super) tampered: bool,
    /// The stores that the groups are formed with.
    pub(super) founding: [u128; 3],
    /// The stores of the nodes, each with files of its own.
    pub(super) stores: RefCell<Vec<u128>>,
    /// Which replica of each shard the nodes have.
    held: RefCell<Vec<Held>>,
    /// Whether stores come up that groups do not know.
    pub(super) has_strangers: bool,
    /// An answer may name a leader that was removed before this node came: it is left. In which term a peer is that peer
    /// tells when it stands.
    pub(super) members_change: bool,
    /// A node whose address no other node can find out.
    pub(super) hidden: Option<NodeId>,
    /// (from, to): the second one takes no new connections for groups from the first one, only those for beats.
    pub(super) shut: Shut,
    /// What a node makes of another.
    pub(super) judge: Rc<dyn Fn(NodeId, Introduction) -> Verdict>,
}

/// The replica that a node has, as its identity would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// One of those that form the group.
    Founding,
    /// One that was taken in later.
    Admitted(ReplicaId),
    /// None.
    Nothing,
}

impl Cluster {
    pub(super) fn new(seed: u64, config: SimConfig, options: Options, shards: u32) -> Self {
        Self::of(seed, config, options, shards, 3)
    }

    /// Of that many nodes, of which the first three form the groups.
    pub(super) fn of(
        seed: u64,
        config: SimConfig,
        options: Options,
        shards: u32,
        count: usize,
    ) -> Self {
        let sim = Sim::with_config(seed, config);
        let nodes: Vec<SimNode> = (0..count).map(|_| sim.add_node()).collect();
        let held = |at| match at < 3 {
            true => Held::Founding,
            false => Held::Nothing,
        };
        let outside = sim.add_node();
        Self {
            sim,
            doors: Rc::new(RefCell::new(nodes.iter().map(|_| None).collect())),
            groups: Rc::new(RefCell::new(nodes.iter().map(|_| None).collect())),
            liveness: LivenessOptions::default(),
            started: RefCell::default(),
            nodes,
            outside,
            options,
            shards,
            memtable_bytes: 1 << 20,
            tune: |_| {},
            tampered: false,
            founding: [1, 2, 3],
            stores: RefCell::new((1..=count as u128).collect()),
            held: RefCell::new((0..count).map(held).collect()),
            has_strangers: false,
            members_change: false,
            hidden: None,
            shut: Shut::default(),
            judge: Rc::new(|_, _| Verdict::Known),
        }
    }

    /// A cluster with the default latencies, all nodes started.
    pub(super) fn started(seed: u64) -> Self {
        Self::started_with(seed, Options::default())
    }

    pub(super) fn started_with(seed: u64, options: Options) -> Self {
        let cluster = Self::new(seed, SimConfig::default(), options, 1);
        cluster.start_all();
        cluster
    }

    pub(super) fn start_all(&self) {
        for at in 0..self.nodes.len() {
            self.start(at);
        }
    }

    /// Where a node reaches each node.
    fn peers_of(&self, at: usize) -> Vec<SocketAddr> {
        let address = |peer: usize| match self.tampered {
            true => self.outside.address(tamper::port(at, peer)),
            false => self.nodes[peer].address(PORT),
        };
        (0..self.nodes.len()).map(address).collect()
    }

    /// Starts a node that is down: a core for its shards, and one for its beats.
    pub(super) fn start(&self, at: usize) {
        let store = self.stores.borrow()[at];
        let incarnation = {
            let mut started = self.started.borrow_mut();
            let starts = started.entry(store).or_insert(0);
            *starts += 1;
            *starts
        };
        let promised_before = match incarnation {
            1 => Duration::ZERO,
            _ => self.liveness.promise,
        };
        let (hand_over, inbound) = channel(16);
        let node = Node {
            me: NodeId(at as u64 + 1),
            address: self.nodes[at].address(PORT),
            store: StoreId(store),
            liveness: LivenessOptions {
                promised_before,
                ..self.liveness
            },
            hand_over,
            founding: self.founding,
            held: self.held.borrow()[at],
            judge: Rc::clone(&self.judge),
            hidden: self.hidden,
            shut: Rc::clone(&self.shut),
            peers: self.peers_of(at),
            options: self.options.clone(),
            shards: self.shards,
            memtable_bytes: self.memtable_bytes,
            tune: self.tune,
        };
        let (door, asks) = channel(10_000);
        self.doors.borrow_mut()[at] = Some(door);
        let groups = Rc::clone(&self.groups);
        let (tell, told) = channel(1);
        self.sim.start(self.nodes[at], 0, move || async move {
            let mut me = introduction(node.me, node.store);
            me.start.incarnation = incarnation;
            let liveness = Liveness::new(node.me, me.start, 1, node.liveness);
            drop(tell.try_send(node.beats(me, Arc::clone(&liveness))));
            let opened = node.open(me, liveness).await;
            groups.borrow_mut()[at] = Some(opened.clone());
            node.serve(opened, asks).await;
        });
        self.sim.start(self.nodes[at], 1, move || async move {
            if let Ok(beats) = told.recv().await {
                beats(inbound).run().await;
            }
        });
    }

    pub(super) fn crash(&self, at: usize) {
        self.forget(at);
        self.sim.crash(self.nodes[at]);
    }

    pub(super) fn kill(&self, at: usize) {
        self.forget(at);
        self.sim.kill(self.nodes[at]);
    }

    fn forget(&self, at: usize) {
        self.doors.borrow_mut()[at] = None;
        let groups = self.groups.borrow_mut()[at].take();
        let refused = groups.as_ref().map_or(0, |groups| {
            let refusals = groups.refusals();
            match self.members_change {
                true => refusals.total() - refusals.nobodies(),
                false => refusals.total(),
            }
        });
        let last = groups.as_ref().map(|groups| groups.refusals().last());
        assert!(
            self.tampered || self.has_strangers || refused == 0 || std::thread::panicking(),
            "node {at} refused {refused} messages of nodes that do as they should, the last one {last:?}"
        );
        self.sim.enter(self.nodes[at], || drop(groups));
    }

    pub(super) fn is_up(&self, at: usize) -> bool {
        self.doors.borrow()[at].is_some()
    }

    /// The groups of a node, once it has opened them.
    pub(super) fn groups(&self, at: usize) -> Option<Groups> {
        self.groups.borrow()[at].clone()
    }

    /// Which node leads shard 0 with a majority's consent, if one does.
    pub(super) fn leader(&self) -> Option<usize> {
        self.leader_of(ShardId(0))
    }

    pub(super) fn leader_of(&self, shard: ShardId) -> Option<usize> {
        (0..self.nodes.len()).find(|at| {
            let group = self.groups(*at).and_then(|groups| groups.group(shard));
            group.is_some_and(|group| {
                self.sim
                    .enter(self.nodes[*at], || group.try_read_point().is_some())
            })
        })
    }

    /// Waits for a leader.
    pub(super) fn wait_leader(&self) -> usize {
        let limit = Duration::from_secs(15);
        let found = self.sim.run_until(|| self.leader().is_some(), limit);
        assert!(found, "no leader after {limit:?}: {:#?}", self.stands());
        self.leader().unwrap()
    }

    /// Where the replicas of shard 0 stand, in words.
    pub(super) fn stands(&self) -> Vec<String> {
        let stand = |at: usize| {
            let group = self.groups(at).and_then(|groups| groups.group(ShardId(0)));
            group.map_or("down".to_owned(), |group| {
                let sim = &self.sim;
                let node = self.nodes[at];
                sim.enter(node, || {
                    format!("{:?} {:?}", group.status(), group.stands_for())
                })
            })
        };
        (0..self.nodes.len()).map(stand).collect()
    }

    /// Has a node that runs, or will, close the replica that it has and open another one of shard 0.
    pub(super) fn admit(&self, at: usize, replica: ReplicaId, told: Option<(LogId, Bytes)>) {
        self.held.borrow_mut()[at] = Held::Admitted(replica);
        let Some(groups) = self.groups(at) else {
            return;
        };
        let (store, memtable_bytes) = (StoreId(self.stores.borrow()[at]), self.memtable_bytes);
        self.sim.enter(self.nodes[at], || {
            drop(corelith_io::spawn(async move {
                groups.close(ShardId(0)).await;
                open_admitted(&groups, store, memtable_bytes, replica, told).await;
            }));
        });
    }

    /// Opens shard 0 of a node that is down, as a command does that runs while the node does not.
    pub(super) fn offline<T: 'static>(
        &self,
        at: usize,
        work: impl AsyncFnOnce(&Shard) -> T + 'static,
    ) -> T {
        assert!(!self.is_up(at), "node {at} is down");
        let store = StoreId(self.stores.borrow()[at]);
        let options = shard_options(ShardId(0), self.memtable_bytes);
        let dir = match self.held.borrow()[at] {
            Held::Founding => format!("/data-{store}/shard-0"),
            Held::Admitted(replica) => format!("/data-{store}/shard-0-{}", replica.generation()),
            Held::Nothing => panic!("node {at} has a replica"),
        };
        let (told, done) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(None)));
        let tell = Rc::clone(&told);
        self.sim.start(self.nodes[at], 0, move || async move {
            let shard = Shard::open(&PathBuf::from(dir), options).await.unwrap();
            let found = work(&shard).await;
            shard.close().await.unwrap();
            tell.replace(Some(found));
        });
        self.sim.run_until(
            || {
                let found = told.take();
                let is_done = found.is_some();
                done.replace(found);
                is_done
            },
            Duration::from_secs(60),
        );
        self.sim.kill(self.nodes[at]);
        let found = done.take();
        found.expect("the work ends")
    }

    /// Has a node close and forget the replica that it has.
    pub(super) fn dismiss(&self, at: usize) {
        self.held.borrow_mut()[at] = Held::Nothing;
        let Some(groups) = self.groups(at) else {
            return;
        };
        self.sim.enter(self.nodes[at], || {
            drop(corelith_io::spawn(
                async move { groups.close(ShardId(0)).await },
            ));
        });
    }

    /// The replica that a node has.
    pub(super) fn held(&self, at: usize) -> Option<ReplicaId> {
        match self.held.borrow()[at] {
            Held::Founding => Some(ReplicaId(at as u64 + 1)),
            Held::Admitted(replica) => Some(replica),
            Held::Nothing => None,
        }
    }

    /// Starts a node that is down with a new store, on which there is nothing.
    pub(super) fn start_wiped(&self, at: usize, store: u128) {
        self.held.borrow_mut()[at] = Held::Nothing;
        self.start_with(at, store);
    }

    /// Starts a node that is down with another store.
    pub(super) fn start_with(&self, at: usize, store: u128) {
        self.stores.borrow_mut()[at] = store;
        self.start(at);
    }

    /// The slots of shard 0's group as a node knows them.
    pub(super) fn slots(&self, at: usize) -> Option<[u128; 3]> {
        let group = self.groups(at)?.group(ShardId(0))?;
        let slot = |node| group.stores().slot(ReplicaId(node)).unwrap().0;
        Some([slot(1), slot(2), slot(3)])
    }

    /// Runs until `condition` holds.
    pub(super) fn wait(&self, what: &str, condition: impl FnMut() -> bool) {
        let limit = Duration::from_secs(60);
        assert!(
            self.sim.run_until(condition, limit),
            "not in {limit:?}: {what}: {:#?}",
            self.stands()
        );
    }

    /// All keys and values of a node's shard with their versions.
    pub(super) fn content(&self, at: usize, shard: ShardId) -> Vec<(Bytes, Found)> {
        let engine = self
            .groups(at)
            .unwrap()
            .group(shard)
            .unwrap()
            .engine()
            .clone();
        self.sim.block_on(self.nodes[at], async move {
            let page = engine
                .scan(
                    &corelith_shards::ScanRange::default(),
                    None,
                    1_000_000,
                    usize::MAX,
                )
                .await
                .unwrap();
            assert!(!page.more);
            page.items
                .into_iter()
                .map(|item| {
                    let value = match item.value {
                        ItemValue::Bytes(value) => value,
                        ItemValue::Large(large) => Bytes::copy_from_slice(&large.encode()),
                    };
                    let version = item.version;
                    (item.key, Found { version, value })
                })
                .collect()
        })
    }

    /// Waits until all replicas have applied the same, and compares what they hold.
    pub(super) fn check_replicas_equal(&self) {
        for shard in (0..self.shards).map(ShardId) {
            // A leader drops what is dead meanwhile.
            while !self.are_replicas_equal(shard) {}
        }
    }

    /// Compares what replicas hold; `false` if they have gone on meanwhile.
    fn are_replicas_equal(&self, shard: ShardId) -> bool {
        let applied = |at: usize| {
            let status = self.groups(at)?.group(shard)?.status();
            status
                .applied
                .filter(|applied| Some(*applied) == status.last_log)
        };
        let all_apply_the_same = || {
            let first = applied(0);
            first.is_some() && applied(1) == first && applied(2) == first
        };
        self.wait("all replicas apply the same", all_apply_the_same);
        let before = applied(0);
        let all = 0..self.nodes.len();
        let held = all.clone().map(|at| {
            let (content, rows) = (self.content(at, shard), self.upload_rows(at, shard));
            self.check_uploads(at, shard);
            (content, rows)
        });
        let held: Vec<_> = held.collect();
        if !all.into_iter().all(|at| applied(at) == before) {
            return false;
        }
        for (at, (content, rows)) in held.iter().enumerate() {
            let (first, first_rows) = &held[0];
            assert_eq!(first, content, "replica {at} of {shard} differs");
            assert!(
                first_rows == rows,
                "the uploads of replica {at} of {shard} differ"
            );
        }
        true
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for at in 0..self.nodes.len() {
                self.forget(at);
            }
        }
    }
}

/// Asks one node and waits for its answer.
impl Cluster {
    pub(super) fn write(&self, at: usize, command: Bytes) -> Result<WriteReply, GroupError> {
        let group = self.groups(at).unwrap().group(ShardId(0)).unwrap();
        self.sim
            .block_on(self.nodes[at], async move { group.write(command).await })
    }

    pub(super) fn open_session(&self, at: usize) -> u64 {
        let group = self.groups(at).unwrap().group(ShardId(0)).unwrap();
        let opened = self.sim.block_on(self.nodes[at], async move {
            group.open_session(open_body()).await
        });
        match opened.unwrap().outcome {
            Outcome::SessionOpened { session } => session,
            other => panic!("{other:?}"),
        }
    }

    /// Reads at a node whether it leads or not.
    pub(super) fn get_here(&self, at: usize, key: &str) -> GetReply {
        let group = self.groups(at).unwrap().group(ShardId(0)).unwrap();
        let key = key.to_owned();
        self.sim.block_on(self.nodes[at], async move {
            let point = group.replica_read_barrier().await?;
            Ok((point, group.engine().get(key.as_bytes()).await.unwrap()))
        })
    }

    pub(super) fn get(&self, at: usize, key: &str) -> GetReply {
        let group = self.groups(at).unwrap().group(ShardId(0)).unwrap();
        let key = key.to_owned();
        self.sim.block_on(self.nodes[at], async move {
            let point = group.read_barrier().await?;
            Ok((point, group.engine().get(key.as_bytes()).await.unwrap()))
        })
    }
}
