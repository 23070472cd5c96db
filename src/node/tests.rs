//! A simulated cluster, asked over its wire protocol.

mod abuse;
mod damage;
mod grow;
mod membership;
mod scans;
mod uploads;

use crate::node::config::NodeConfig;
use crate::node::limits;
use crate::node::run::beats;
use crate::node::run::core::{self, CoreEvent, CoreEventKind, PreparedNode};
use bytes::{Bytes, BytesMut};
use corelith_io::sim::{Sim, SimNode};
use corelith_io::{ReadHalf, Receiver, Sender, TcpStream, WriteHalf};
use corelith_wire::frame::Accepts;
use corelith_wire::handshake::{Hello, Status, WELCOME_BYTES, Welcome};
use corelith_wire::request::{self, Condition, GetRequest, OpenSession, Operation, WriteRequest};
use corelith_wire::response::{Answer, Failure};
use corelith_wire::{
    ClusterId, Epoch, FrameParser, Head, Kind, NodeId, Outbox, RequestId, ShardId, placement,
};
use std::net::SocketAddr;
use std::time::Duration;

const PORT: u16 = 7411;
const CORES: u16 = 2;
const SHARDS: u32 = 6;

struct Cluster {
    sim: Sim,
    nodes: Vec<SimNode>,
    client: SimNode,
    events: Receiver<CoreEvent>,
    stops: Vec<Sender<()>>,
}

fn config(me: u32, count: u32) -> NodeConfig {
    let nodes: Vec<String> = (1..=count)
        .map(|id| {
            format!("{{ id = {id}, host = \"10.0.0.{id}\", port = {PORT}, cores = {CORES} }}")
        })
        .collect();
    let text = format!(
        "node = {{ id = {me}, data_dir = \"/data\" }}\n\
         storage = {{ memtable_bytes = 1048576, segment_bytes = 16777216 }}\n\
         clients = {{ memory_bytes = 67108864 }}\n\
         cluster = {{ name = \"test\", shards = {SHARDS}, nodes = [{}] }}",
        nodes.join(", ")
    );
    NodeConfig::parse("test", &text).unwrap()
}

/// The cluster that the node at `address` is of.
async fn cluster_id(address: SocketAddr) -> ClusterId {
    Client::connect(address).await.1.cluster
}

impl Cluster {
    /// A cluster of nodes that do not run.
    fn idle(seed: u64, count: u32) -> Self {
        let sim = Sim::new(seed);
        let nodes: Vec<SimNode> = (0..count).map(|_| sim.add_node()).collect();
        let client = sim.add_node();
        let (_, events) = corelith_io::channel(1000);
        Self {
            sim,
            nodes,
            client,
            events,
            stops: Vec::new(),
        }
    }

    /// Starts `count` nodes and waits until all their cores are ready.
    fn start(seed: u64, count: u32) -> Self {
        let mut cluster = Self::idle(seed, count);
        let (sender, events) = corelith_io::channel(1000);
        cluster.events = events;
        for node in cluster.nodes.clone() {
            cluster.start_node(node, config(node.number(), count), &sender);
        }
        cluster.wait_ready(usize::from(CORES) * count as usize);
        cluster
    }

    fn start_node(&mut self, node: SimNode, config: NodeConfig, events: &Sender<CoreEvent>) {
        let of_beats = config.cores;
        let PreparedNode {
            cores,
            beats,
            stops,
        } = core::prepare(config, node.address(PORT), "", events);
        self.stops.extend(stops);
        for (core, setup) in (0..).zip(cores) {
            self.sim.start(node, core, move || core::run(setup));
        }
        self.sim.start(node, of_beats.into(), || beats::run(beats));
    }

    fn wait_ready(&self, cores: usize) {
        let mut ready = 0;
        let all = self.sim.run_until(
            || {
                while let Some(event) = self.events.try_recv() {
                    match event.what {
                        CoreEventKind::Ready => ready += 1,
                        CoreEventKind::Ended(result) => panic!("{}: {result:?}", event.node),
                    }
                }
                ready == cores
            },
            Duration::from_secs(30),
        );
        assert!(all, "only {ready} of {cores} cores are ready");
    }
}

struct Client {
    read: ReadHalf,
    write: WriteHalf,
    buffer: BytesMut,
    next_id: u64,
    /// Of the last answer.
    last_kind: Option<Kind>,
}

impl Client {
    async fn connect(address: SocketAddr) -> (Self, Welcome) {
        Self::introduce(address, Hello::client(ClusterId(0))).await
    }

    async fn introduce(address: SocketAddr, hello: Hello) -> (Self, Welcome) {
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        write.write_all(&hello.encode()).await.unwrap();
        let mut buffer = BytesMut::new();
        while buffer.len() < WELCOME_BYTES {
            assert_ne!(read.read_buf(&mut buffer).await.unwrap(), 0, "closed");
        }
        let welcome = buffer.split_to(WELCOME_BYTES);
        let welcome = Welcome::parse(welcome.first_chunk().unwrap()).unwrap();
        (
            Self {
                read,
                write,
                buffer,
                next_id: 1,
                last_kind: None,
            },
            welcome,
        )
    }

    fn head(&mut self, shard: u32) -> Head {
        self.next_id += 1;
        Head {
            kind: Kind::GET,
            request_id: RequestId(self.next_id),
            shard: ShardId(shard),
            epoch: Epoch(1),
        }
    }

    async fn send(&mut self, out: &Outbox) {
        for slice in out.slices() {
            self.write.write_all(slice).await.unwrap();
        }
    }

    /// The next answer with its request's id; `None` when the server has closed.
    async fn receive(&mut self) -> Option<(RequestId, Answer)> {
        let parser = FrameParser::new(Accepts::Answers);
        loop {
            let missing = parser.missing(&self.buffer).unwrap();
            if missing == 0 {
                let header = corelith_wire::Header::parse(&self.buffer, Accepts::Answers)
                    .unwrap()
                    .unwrap();
                let mut one = self.buffer.split_to(header.frame_bytes());
                let frame = parser.take(&mut one).next().unwrap().unwrap();
                self.last_kind = Some(frame.header.head.kind);
                return Some((frame.header.head.request_id, Answer::parse(&frame).unwrap()));
            }
            self.buffer.reserve(missing);
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn ask(&mut self, shard: u32, encode: impl FnOnce(&mut Outbox, Head)) -> Answer {
        let head = self.head(shard);
        let mut out = Outbox::default();
        encode(&mut out, head);
        self.send(&out).await;
        let (id, answer) = self.receive().await.unwrap();
        assert_eq!(id, head.request_id);
        answer
    }

    async fn get(&mut self, shard: u32, key: &[u8]) -> Answer {
        self.ask(shard, |out, head| {
            request::encode_get(out, head, &GetRequest { key })
        })
        .await
    }

    async fn open_session(&mut self, shard: u32) -> u64 {
        let answer = self
            .ask(shard, |out, head| {
                request::encode_open_session(out, head, OpenSession { client: 1 })
            })
            .await;
        match answer {
            Answer::SessionOpened { session, .. } => session,
            other => panic!("{other:?}"),
        }
    }

    async fn put(&mut self, shard: u32, write: (u64, u64), key: &[u8], value: &[u8]) -> Answer {
        let value = Bytes::copy_from_slice(value);
        self.write(shard, write, Operation::Put, key, value).await
    }

    async fn delete(&mut self, shard: u32, write: (u64, u64), key: &[u8]) -> Answer {
        self.write(shard, write, Operation::Delete, key, Bytes::new())
            .await
    }

    async fn write(
        &mut self,
        shard: u32,
        (session, number): (u64, u64),
        operation: Operation,
        key: &[u8],
        value: Bytes,
    ) -> Answer {
        let request = WriteRequest {
            session,
            number,
            answered_below: number,
            condition: Condition::Any,
            operation,
            key,
        };
        self.ask(shard, |out, head| {
            request::encode_write(out, head, &request, &value)
        })
        .await
    }
}

/// A key of the shard.
fn key_of(shard: u32, salt: u32) -> Vec<u8> {
    (0..)
        .map(|n: u32| format!("key-{salt}-{n}").into_bytes())
        .find(|key| placement::shard_of(key, SHARDS).0 == shard)
        .unwrap()
}

/// The node that leads a shard, as the node at `address` says, once it knows one.
async fn leader_of(address: SocketAddr, shard: u32) -> u32 {
    let (mut client, _) = Client::connect(address).await;
    for _ in 0..1_000 {
        let status = match client.ask(0, request::encode_status).await {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        };
        let of_shard = status.shards.iter().find(|status| status.shard == shard);
        match u32::try_from(of_shard.unwrap().leader).unwrap() {
            0 => corelith_io::sleep(Duration::from_millis(10)).await,
            leader => return leader,
        }
    }
    panic!("shard {shard} has no leader");
}

#[test]
fn requests_at_any_core_of_the_leader_are_answered() {
    let cluster = Cluster::start(1, 3);
    let nodes = cluster.nodes.clone();
    cluster.sim.block_on(cluster.client, async move {
        let cluster_id = cluster_id(nodes[0].address(PORT)).await;
        for shard in 0..SHARDS {
            let leader = leader_of(nodes[0].address(PORT), shard).await;
            let node = nodes[leader as usize - 1];
            for core in 0..CORES {
                let (mut client, welcome) = Client::connect(node.address(PORT + core)).await;
                assert_eq!(welcome.status, Status::Welcome);
                assert_eq!((welcome.core, welcome.cluster), (core, cluster_id));
                let session = client.open_session(shard).await;
                let key = key_of(shard, core.into());
                assert!(matches!(
                    client.get(shard, &key).await,
                    Answer::NotFound { .. }
                ));
                let written = client.put(shard, (session, 1), &key, b"value").await;
                let Answer::Written { version, .. } = written else {
                    panic!("{written:?}");
                };
                match client.get(shard, &key).await {
                    Answer::Value {
                        value,
                        version: read,
                        meta,
                    } => {
                        assert_eq!((value.as_ref(), read), (&b"value"[..], version));
                        assert!(meta.index >= version && meta.term > 0);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn an_older_client_is_answered_in_its_version() {
    let cluster = Cluster::start(4, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        for (newest, spoken, kind) in [
            (1, 1, Kind::STORAGE_REPLY),
            (2, 2, Kind::STORAGE_REPLY_2),
            (9, 6, Kind::STORAGE_REPLY_2),
        ] {
            let hello = Hello {
                newest,
                ..Hello::client(ClusterId(0))
            };
            let (mut client, welcome) = Client::introduce(address, hello).await;
            assert_eq!((welcome.status, welcome.version), (Status::Welcome, spoken));
            let answer = client.ask(0, request::encode_storage).await;
            let Answer::Storage(storage) = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(storage.shards.len(), SHARDS as usize);
            assert_eq!(client.last_kind, Some(kind));
        }
    });
}

#[test]
fn followers_name_the_leader() {
    let cluster = Cluster::start(2, 3);
    let nodes = cluster.nodes.clone();
    cluster.sim.block_on(cluster.client, async move {
        let leader = leader_of(nodes[0].address(PORT), 0).await;
        for node in nodes.iter().filter(|node| node.number() != leader) {
            let (mut client, _) = Client::connect(node.address(PORT)).await;
            match client.get(0, &key_of(0, 0)).await {
                Answer::Failure {
                    failure: Failure::NotLeader { leader: named },
                    ..
                } => {
                    assert_eq!(named, u64::from(leader));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn bad_requests_get_typed_failures_and_the_connection_lives() {
    let cluster = Cluster::start(3, 4);
    let nodes = cluster.nodes.clone();
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(nodes[0].address(PORT)).await;
        let failure = |answer| match answer {
            Answer::Failure { failure, .. } => failure,
            other => panic!("{other:?}"),
        };
        let key = key_of(0, 0);
        // Shard 1 is on the nodes 2, 3 and 4.
        assert_eq!(
            failure(client.get(1, &key_of(1, 0)).await),
            Failure::WrongNode
        );
        assert_eq!(failure(client.get(SHARDS, &key).await), Failure::Malformed);
        assert_eq!(failure(client.get(0, b"").await), Failure::Malformed);
        assert_eq!(
            failure(client.get(0, &key_of(2, 0)).await),
            Failure::Malformed
        );
        let old = async |client: &mut Client, shard: u32| {
            let key = key_of(shard, 0);
            let asked = client.ask(shard, |out, head| {
                let head = Head {
                    epoch: Epoch(0),
                    ..head
                };
                request::encode_get(out, head, &GetRequest { key: &key });
            });
            asked.await
        };
        // A shard that is here is answered for, whatever the epoch.
        match old(&mut client, 0).await {
            Answer::NotFound { .. } => {}
            other => assert!(matches!(failure(other), Failure::NotLeader { .. })),
        }
        match failure(old(&mut client, 1).await) {
            Failure::WrongEpoch { map } => assert_eq!((map.epoch, map.shard_count()), (1, SHARDS)),
            other => panic!("{other:?}"),
        }
        match client.ask(0, request::encode_describe).await {
            Answer::Map(map) => assert_eq!(map.nodes.len(), 4),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_broken_stream_is_refused_and_closed() {
    let cluster = Cluster::start(4, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let head = client.head(0);
        let mut out = Outbox::default();
        request::encode_get(&mut out, head, &GetRequest { key: b"k" });
        let mut bytes: Vec<u8> = out.slices().flatten().copied().collect();
        *bytes.last_mut().unwrap() ^= 1;
        client.write.write_all(&bytes).await.unwrap();
        match client.receive().await {
            Some((_, Answer::Failure { failure, .. })) => assert_eq!(failure, Failure::Malformed),
            other => panic!("{other:?}"),
        }
        assert_eq!(client.receive().await, None);
    });
}

#[test]
fn strangers_and_the_silent_are_turned_away() {
    let cluster = Cluster::start(5, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let introduced = async |hello| Client::introduce(address, hello).await.1.status;
        let cluster_id = cluster_id(address).await;
        let other = ClusterId(cluster_id.0 ^ 1);
        assert_eq!(introduced(Hello::client(other)).await, Status::OtherCluster);
        assert_eq!(
            introduced(Hello::peer(cluster_id, NodeId(9))).await,
            Status::RoleRefused
        );
        assert_eq!(
            introduced(Hello::peer(cluster_id, NodeId(1))).await,
            Status::RoleRefused
        );

        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        write
            .write_all(&Hello::client(ClusterId(0)).encode()[..20])
            .await
            .unwrap();
        let start = corelith_io::now();
        let mut byte = [0; 1];
        assert!(matches!(read.read(&mut byte).await, Ok(0) | Err(_)));
        assert!(start.elapsed() >= limits::HANDSHAKE_DEADLINE);
    });
}

#[test]
fn half_a_frame_has_a_deadline() {
    let cluster = Cluster::start(6, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let head = client.head(0);
        let mut out = Outbox::default();
        request::encode_get(&mut out, head, &GetRequest { key: b"k" });
        let bytes: Vec<u8> = out.slices().flatten().copied().collect();
        let start = corelith_io::now();
        for byte in bytes {
            if client.write.write_all(&[byte]).await.is_err() {
                break;
            }
            corelith_io::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(client.receive().await, None);
        assert!(start.elapsed() >= limits::TRANSFER_DEADLINE);
    });
}

#[test]
fn many_requests_in_one_write_are_all_answered() {
    let cluster = Cluster::start(7, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let key = key_of(0, 0);
        let session = client.open_session(0).await;
        client.put(0, (session, 1), &key, &[7; 3000]).await;
        let mut out = Outbox::default();
        let mut wanted = std::collections::BTreeSet::new();
        for _ in 0..5000 {
            let head = client.head(0);
            wanted.insert(head.request_id.0);
            request::encode_get(&mut out, head, &GetRequest { key: &key });
        }
        let bytes: Vec<u8> = out.slices().flatten().copied().collect();
        let mut write = client.write;
        let sending = corelith_io::spawn(async move {
            write.write_all(&bytes).await.unwrap();
            write
        });
        client.write = TcpStream::connect(address).await.unwrap().into_split().1;
        while !wanted.is_empty() {
            let (id, answer) = client.receive().await.unwrap();
            assert!(wanted.remove(&id.0));
            assert!(matches!(answer, Answer::Value { .. }), "{answer:?}");
        }
        sending.await;
    });
}

#[test]
fn a_stopped_node_ends_in_order_and_finds_its_data_again() {
    let mut cluster = Cluster::start(9, 1);
    let node = cluster.nodes[0];
    let key = key_of(3, 0);
    let put_key = key.clone();
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(node.address(PORT)).await;
        let session = client.open_session(3).await;
        client.put(3, (session, 1), &put_key, b"kept").await;
    });
    cluster.stops.clear();
    let mut ended = 0;
    let all = cluster.sim.run_until(
        || {
            while let Some(event) = cluster.events.try_recv() {
                assert!(
                    matches!(event.what, CoreEventKind::Ended(Ok(()))),
                    "{event:?}"
                );
                ended += 1;
            }
            ended == CORES
        },
        limits::STOP_DEADLINE,
    );
    assert!(all);
    // The process ends when its cores have.
    cluster.sim.kill(node);
    let (sender, events) = corelith_io::channel(1000);
    cluster.events = events;
    cluster.start_node(node, config(1, 1), &sender);
    cluster.wait_ready(usize::from(CORES));
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(node.address(PORT)).await;
        match client.get(3, &key).await {
            Answer::Value { value, .. } => assert_eq!(value.as_ref(), b"kept"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_directory_of_another_configuration_is_refused() {
    let mut cluster = Cluster::start(10, 1);
    let node = cluster.nodes[0];
    cluster.stops.clear();
    cluster.sim.run_for(Duration::from_secs(5));
    let (sender, events) = corelith_io::channel(1000);
    let mut other = config(1, 1);
    other.cluster.shards += 1;
    cluster.start_node(node, other, &sender);
    cluster.sim.run_for(Duration::from_secs(1));
    let failures: Vec<_> = std::iter::from_fn(|| events.try_recv())
        .filter_map(|event| match event.what {
            CoreEventKind::Ended(result) => result.err(),
            CoreEventKind::Ready => None,
        })
        .collect();
    assert_eq!(
        failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "the data directory /data was created with the number of shards 6, but the configuration \
          says 7: use the configuration it was created with, or another directory"
        ]
    );
}
