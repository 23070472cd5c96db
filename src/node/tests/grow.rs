//! A cluster whose nodes and replicas change: nodes that join, replicas that move, nodes with other cores, and emptied
//! nodes that are taken in again.

use super::{Client, Cluster, PORT, SHARDS, config, key_of};
use crate::node::cluster::map::{Map, MapEdit, NodeState, Why};
use crate::node::config::NodeConfig;
use crate::node::data_dir::identity::HeldState;
use crate::node::data_dir::{identity, map_file};
use crate::node::meta::testing;
use crate::node::neighbours::Neighbours;
use crate::node::run::core::{CoreEvent, CoreEventKind};
use corelith_io::sim::SimNode;
use corelith_io::{Receiver, Sender, TcpStream};
use corelith_shards::{NodeId, ShardId};
use corelith_wire::cluster::{
    ClusterAnswer, ClusterAsk, ClusterOrder, ClusterView, encode_cluster_ask,
};
use corelith_wire::limits::HEADER_BYTES;
use corelith_wire::peer::{NodeAsk, NodeReply};
use corelith_wire::request::{self, GetRequest, OpenSession};
use corelith_wire::response::{Answer, Failure};
use corelith_wire::{Epoch, Head, Kind, Outbox, ReplicaId, RequestId, StoreId};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);

/// The configuration of a machine that joins the cluster of the node at the first address.
fn joining(node: SimNode, cores: u16) -> NodeConfig {
    let text = format!(
        "node = {{ data_dir = \"/data\", listen = \"{}:{PORT}\", cores = {cores}, \
         join = [\"10.0.0.1:{PORT}\", \"10.0.0.2:{PORT}\"] }}\n\
         storage = {{ memtable_bytes = 1048576, segment_bytes = 16777216 }}\n\
         clients = {{ memory_bytes = 67108864 }}",
        node.ip()
    );
    NodeConfig::parse("joining", &text).unwrap()
}

fn with_cores(mut config: NodeConfig, cores: u16) -> NodeConfig {
    config.cores = cores;
    config
}

/// The map that a node has written down.
fn written(cluster: &Cluster, node: SimNode) -> Option<Map> {
    let path = std::path::Path::new("/data");
    let file = path.join(map_file::FILE_NAME).display().to_string();
    let bytes = cluster.sim.disk(node).read(&file)?;
    Some(map_file::decode(&bytes).unwrap())
}

/// What a node has listed of a shard.
fn listed(cluster: &Cluster, node: SimNode, shard: ShardId) -> Option<(u16, HeldState)> {
    let file = format!("/data/{}", identity::FILE_NAME);
    let bytes = cluster.sim.disk(node).read(&file)?;
    let identity = identity::decode(&file, &bytes).unwrap();
    let held = identity.held.get(&shard)?;
    Some((held.generation, held.state))
}

/// Whether there is anything of a shard on the disk of a node.
fn has_files(cluster: &Cluster, node: SimNode, shard: ShardId) -> bool {
    let dir = identity::shard_dir("/data".as_ref(), shard);
    let dir = dir.display().to_string();
    let files = cluster.sim.disk(node).files();
    files.iter().any(|(file, _)| file.starts_with(&dir))
}

/// Runs until `done`.
fn until(cluster: &Cluster, what: &str, done: impl FnMut() -> bool) {
    assert!(cluster.sim.run_until(done, LONG), "{what}");
}

/// Whether the newest map that a node goes by fulfils this.
fn knows(node: u64, is_so: impl Fn(&Map) -> bool) -> bool {
    let running = testing::running(NodeId(node));
    running.is_some_and(|node| node.map.now().map().is_some_and(|map| is_so(map)))
}

/// The leader of the meta shard, once there is one that knows the newest map.
async fn leader() -> Rc<Neighbours> {
    loop {
        if let Some(leader) = testing::leader() {
            return leader;
        }
        corelith_io::sleep(PAUSE).await;
    }
}

/// Has a shard get a replica on `add` in place of `remove`, and waits until it has.
async fn replace(shard: ShardId, add: NodeId, remove: ReplicaId) -> ReplicaId {
    let leader = leader().await;
    let begin = MapEdit::Begin {
        shard,
        add: Some(add),
        remove: Some(remove),
        why: Why::Move,
    };
    testing::edit(&leader, &[begin]).await;
    settled(&leader, shard).await;
    let now = leader.map.now();
    let place = now.map().unwrap().shard(shard).unwrap().clone();
    place.on(add).unwrap()
}

/// Waits until no change of the shard is under way, as a node knows.
async fn settled(node: &Neighbours, shard: ShardId) {
    for _ in 0..1200 {
        let now = node.map.now();
        if now.map().unwrap().shard(shard).unwrap().change.is_none() {
            return;
        }
        corelith_io::sleep(PAUSE).await;
    }
    panic!("the change of {shard} does not end");
}

/// Replicas move only when a test says so.
async fn hold_still() {
    let leader = leader().await;
    let now = leader.map.now();
    let mut settings = now.map().unwrap().settings;
    settings.balance = false;
    testing::edit(&leader, &[MapEdit::Settings(settings)]).await;
}

impl Cluster {
    /// A cluster with values in all shards, and a machine that is none of it.
    fn with_another(seed: u64) -> (Self, SimNode, Sender<CoreEvent>, Receiver<CoreEvent>) {
        let cluster = Self::start(seed, 3);
        let other = cluster.sim.add_node();
        let nodes = cluster.nodes.clone();
        cluster.sim.block_on(cluster.client, async move {
            for shard in 0..SHARDS {
                put(&nodes, shard, 0).await;
            }
        });
        cluster.sim.block_on(cluster.nodes[0], hold_still());
        let (sender, events) = corelith_io::channel(1000);
        (cluster, other, sender, events)
    }

    /// The value of each shard is there, at whichever of these nodes leads it.
    fn all_there(&self, nodes: Vec<SimNode>, salt: u32) {
        self.sim.block_on(self.client, async move {
            for shard in 0..SHARDS {
                let answer = at_leader(&nodes, shard, salt).await;
                assert!(
                    matches!(answer, Answer::Value { .. }),
                    "{shard}: {answer:?}"
                );
            }
        });
    }
}

/// What a node answers, if it runs.
async fn get(address: SocketAddr, shard: u32, key: &[u8]) -> Option<Answer> {
    drop(TcpStream::connect(address).await.ok()?);
    let (mut client, _) = Client::connect(address).await;
    let head = client.head(shard);
    let mut out = Outbox::default();
    request::encode_get(&mut out, head, &GetRequest { key });
    for slice in out.slices() {
        client.write.write_all(slice).await.ok()?;
    }
    Some(client.receive().await?.1)
}

/// Asks the nodes in turn for a value until one of them leads.
async fn at_leader(nodes: &[SimNode], shard: u32, salt: u32) -> Answer {
    let key = key_of(shard, salt);
    let mut last = None;
    for _ in 0..600 {
        for node in nodes {
            match get(node.address(PORT), shard, &key).await {
                Some(Answer::Failure { failure, .. }) => last = Some(failure),
                Some(answer) => return answer,
                None => {}
            }
        }
        corelith_io::sleep(PAUSE).await;
    }
    panic!("shard {shard}: {last:?}");
}

async fn put(nodes: &[SimNode], shard: u32, salt: u32) {
    at_leader(nodes, shard, u32::MAX - salt).await;
    for node in nodes.iter().cycle().take(600) {
        if TcpStream::connect(node.address(PORT)).await.is_err() {
            corelith_io::sleep(PAUSE).await;
            continue;
        }
        let (mut client, _) = Client::connect(node.address(PORT)).await;
        let opened = client.ask(shard, |out, head| {
            request::encode_open_session(out, head, OpenSession { client: 1 });
        });
        if let Answer::SessionOpened { session, .. } = opened.await {
            let key = key_of(shard, salt);
            let answer = client.put(shard, (session, 1), &key, b"value").await;
            assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
            return;
        }
        corelith_io::sleep(PAUSE).await;
    }
    panic!("no leader of shard {shard}");
}

/// A machine that knows an address of the cluster becomes a node of it, and gets replicas: clients find it, the nodes
/// that gave theirs away keep nothing, and after a start everybody has what it had.
#[test]
fn a_node_joins_and_takes_replicas_over() {
    let (mut cluster, other, sender, events) = Cluster::with_another(300);
    cluster.start_node(other, joining(other, 3), &sender);
    let fourth = |map: &Map| map.node(NodeId(4)).is_some();
    until(&cluster, "all know the new node", || {
        (1..=4).all(|node| knows(node, fourth))
    });
    assert_eq!(cluster.identity_of(other).node, NodeId(4));
    let mut ready = 0;
    until(&cluster, "its cores are ready", || {
        while let Some(event) = events.try_recv() {
            assert!(matches!(event.what, CoreEventKind::Ready), "{event:?}");
            assert_eq!(event.node, NodeId(4));
            ready += 1;
        }
        ready == 3
    });
    // One from each node, one of them its leader, most likely.
    let moved = [(0, 1), (1, 2), (5, 3)];
    for (shard, from) in moved {
        cluster.sim.block_on(cluster.nodes[0], async move {
            let from = ReplicaId::first(NodeId(from));
            let added = replace(ShardId(shard), NodeId(4), from).await;
            assert_eq!(added, ReplicaId::new(NodeId(4), 1));
        });
    }
    for (shard, from) in moved {
        let (shard, from) = (ShardId(shard), cluster.nodes[from as usize - 1]);
        until(&cluster, "the replica is dropped", || {
            listed(&cluster, from, shard) == Some((0, HeldState::Gone))
        });
        assert!(!has_files(&cluster, from, shard), "{shard}");
        assert_eq!(listed(&cluster, other, shard), Some((1, HeldState::Made)));
    }
    let mut nodes = cluster.nodes.clone();
    nodes.push(other);
    cluster.all_there(nodes.clone(), 0);
    // Who has not heard of it is told at a node that has given its replica away.
    let first = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(first).await;
        match client.get(0, &key_of(0, 0)).await {
            Answer::Failure {
                failure: Failure::WrongEpoch { map },
                ..
            } => {
                assert!(map.shards[0].replicas.contains(&4), "{map:?}");
                assert_eq!(map.node(NodeId(4)).unwrap().cores, 3);
            }
            other => panic!("{other:?}"),
        }
    });
    // Everybody opens what it has listed, whatever the configuration says.
    for node in nodes.clone() {
        cluster.sim.crash(node);
    }
    for node in cluster.nodes.clone() {
        cluster.start_node(node, config(node.number(), 3), &sender);
    }
    cluster.start_node(other, joining(other, 3), &sender);
    cluster.all_there(nodes.clone(), 0);
    cluster.sim.block_on(cluster.client, async move {
        for shard in 0..SHARDS {
            put(&nodes, shard, 1).await;
        }
    });
    let first = cluster.nodes[0];
    assert!(!has_files(&cluster, first, ShardId(0)));
    assert_eq!(written(&cluster, first), written(&cluster, other));
}

/// A step is asked for again only once there was time to report what came of it.
#[test]
fn no_step_is_asked_for_without_end() {
    let (mut cluster, other, sender, _events) = Cluster::with_another(304);
    cluster.start_node(other, joining(other, 1), &sender);
    until(&cluster, "it has joined", || {
        knows(1, |map| map.node(NodeId(4)).is_some())
    });
    testing::steps();
    for (shard, from) in [(0, 1), (1, 2), (2, 3)] {
        let began = cluster.sim.now();
        cluster.sim.block_on(cluster.nodes[0], async move {
            let from = ReplicaId::first(NodeId(from));
            replace(ShardId(shard), NodeId(4), from).await;
        });
        let seconds = (cluster.sim.now() - began).as_secs();
        let steps = testing::steps();
        assert!(
            u64::from(steps) <= 8 * (seconds + 1),
            "{steps} steps in {seconds} s"
        );
    }
}

/// A node whose replica went elsewhere while it was down drops it as it starts, and is ready without it.
#[test]
fn a_node_is_ready_without_a_replica_that_it_has_lost() {
    let (mut cluster, other, sender, events) = Cluster::with_another(305);
    cluster.start_node(other, joining(other, 1), &sender);
    until(&cluster, "it has joined", || {
        (1..=4).all(|node| knows(node, |map| map.node(NodeId(4)).is_some()))
    });
    let third = cluster.nodes[2];
    cluster.sim.crash(third);
    let lost = ShardId(2);
    cluster.sim.block_on(cluster.nodes[0], async move {
        replace(lost, NodeId(4), ReplicaId::first(NodeId(3))).await;
    });
    let third_config = config(3, 3);
    let cores = usize::from(third_config.cores);
    cluster.start_node(third, third_config, &sender);
    let mut ready = 0;
    until(&cluster, "its cores are ready", || {
        while let Some(event) = events.try_recv() {
            if event.node == NodeId(3) && matches!(event.what, CoreEventKind::Ready) {
                ready += 1;
            }
        }
        ready == cores
    });
    until(&cluster, "the replica is dropped", || {
        listed(&cluster, third, lost) == Some((0, HeldState::Gone))
    });
}

/// A node that is started with another number of cores has its shards on other cores, and its peers find them.
#[test]
fn a_node_is_started_with_other_cores() {
    let (mut cluster, _, sender, _events) = Cluster::with_another(301);
    for (round, cores) in [3, 1, 5].into_iter().enumerate() {
        for node in cluster.nodes.clone() {
            cluster.sim.crash(node);
            let config = with_cores(config(node.number(), 3), cores);
            cluster.start_node(node, config, &sender);
            let number = u64::from(node.number());
            let is_so = |map: &Map| {
                map.node(NodeId(number))
                    .is_some_and(|node| node.cores == cores)
            };
            until(&cluster, "all know the cores", || {
                (1..=3).all(|node| knows(node, is_so))
            });
        }
        let nodes = cluster.nodes.clone();
        cluster.all_there(nodes.clone(), round as u32);
        cluster.sim.block_on(cluster.client, async move {
            for shard in 0..SHARDS {
                put(&nodes, shard, round as u32 + 1).await;
            }
        });
    }
}

/// A node whose disk was emptied asks to be taken in again, and gets its replicas anew.
#[test]
fn an_emptied_node_is_taken_in_again() {
    let (mut cluster, _, sender, _events) = Cluster::with_another(302);
    let node = cluster.nodes[2];
    let before = cluster.identity_of(node);
    cluster.sim.crash(node);
    cluster.empty(node);
    cluster.start_node(node, config(3, 3), &sender);
    let store = |map: &Map| map.node(NodeId(3)).map(|node| node.store);
    until(&cluster, "all know the new store", || {
        (1..=3).all(|node| knows(node, |map| store(map) != Some(before.store)))
    });
    let now = cluster.identity_of(node);
    assert!(knows(1, |map| store(map) == Some(now.store)));
    assert_eq!((now.node, now.excluded), (NodeId(3), None));
    assert!(now.held.is_empty(), "nothing of the founding is made anew");
    for shard in (0..SHARDS).map(ShardId).chain([ShardId::META]) {
        until(&cluster, "the replica is there", || {
            listed(&cluster, node, shard).is_some_and(|(_, state)| state == HeldState::Made)
        });
    }
    until(&cluster, "everything has come to rest", || {
        knows(1, |map| {
            map.all_shards().all(|(_, shard)| shard.change.is_none())
        })
    });
    // It counts: another one may be away.
    cluster.sim.crash(cluster.nodes[0]);
    let left = cluster.nodes[1..].to_vec();
    cluster.all_there(left.clone(), 0);
    cluster.sim.block_on(cluster.client, async move {
        for shard in 0..SHARDS {
            put(&left, shard, 1).await;
        }
    });
    // The store before it is no node's any more.
    assert_ne!(now.store, before.store);
    assert_ne!(before.store, StoreId(0));
}

/// A node that was removed ends, and says why; it does not come back.
#[test]
fn a_removed_node_is_told_so() {
    let (mut cluster, other, sender, events) = Cluster::with_another(303);
    cluster.start_node(other, joining(other, 1), &sender);
    until(&cluster, "it has joined", || {
        knows(4, |map| map.node(NodeId(4)).is_some())
    });
    cluster.sim.block_on(cluster.nodes[0], async move {
        let remove = MapEdit::State {
            node: NodeId(4),
            state: NodeState::Removed,
        };
        testing::edit(&*leader().await, &[remove]).await;
    });
    let told = |events: &Receiver<CoreEvent>| {
        let mut why = String::new();
        while let Some(event) = events.try_recv() {
            if let CoreEventKind::Ended(Err(error)) = event.what {
                why = error.to_string();
            }
        }
        why
    };
    let is_told = |cluster: &Cluster| {
        let mut why = String::new();
        until(cluster, "it is told", || {
            why = told(&events);
            !why.is_empty()
        });
        assert!(why.contains("node 4 was removed from the cluster"), "{why}");
    };
    is_told(&cluster);
    // Who starts it again is told so too, and it ends.
    cluster.sim.crash(other);
    cluster.start_node(other, joining(other, 1), &sender);
    is_told(&cluster);
    assert!(cluster.identity_of(other).excluded.is_some());
    assert!(knows(1, |map| map.node(NodeId(4)).is_none()));
}

/// What a node answers an operator who asks for the state of the cluster.
async fn state(asked: &Neighbours) -> ClusterView {
    let ask = ClusterAsk {
        order: ClusterOrder::Status,
        dry_run: false,
    };
    let mut out = Outbox::default();
    let head = Head {
        kind: Kind::CLUSTER,
        request_id: RequestId(0),
        shard: ShardId(0),
        epoch: Epoch(0),
    };
    encode_cluster_ask(&mut out, head, &ask);
    let ask = out.buffer().split_off(HEADER_BYTES).to_vec();
    match asked.ask_meta(&NodeAsk::Admin { ask }).await {
        Some(NodeReply::Admin { answer }) => match ClusterAnswer::parse(&answer) {
            Ok(ClusterAnswer::Status { view }) => view,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Another node that leads the map has no reports at first, and those that know the one before must not wait for it.
#[test]
fn the_state_is_whole_soon_after_the_leader_of_the_map_is_gone() {
    for seed in 305..309 {
        let (cluster, _, _, _events) = Cluster::with_another(seed);
        let first = cluster.nodes[0];
        let gone = cluster.sim.block_on(first, async { leader().await.me });
        // Nothing changes, so that the reports are rare.
        cluster.sim.run_for(Duration::from_secs(20));
        cluster.sim.crash(cluster.nodes[gone.0 as usize - 1]);
        until(&cluster, "another node leads the map", || {
            testing::leader().is_some_and(|leader| leader.me != gone)
        });
        let leads = testing::leader().unwrap().me;
        let asked = (1..=3).find(|id| ![gone.0, leads.0].contains(id)).unwrap();
        let node = cluster.nodes[asked as usize - 1];
        let (took, view) = cluster.sim.block_on(node, async move {
            let began = corelith_io::now();
            let view = state(&testing::running(NodeId(asked)).unwrap()).await;
            (began.elapsed(), view)
        });
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(view.leader, leads.0);
        let silent = view.nodes.iter().filter(|node| node.heard_ms.is_none());
        let silent: Vec<u64> = silent.map(|node| node.node).collect();
        assert_eq!(silent, [gone.0], "{view:?}");
        // Whose shards have no leader yet is not known before it has been silent for a while.
        let said = format!("node {} has not reported to it yet", gone.0);
        let troubles = &view.troubles;
        assert!(
            troubles.len() == 1 && troubles[0].ends_with(&said),
            "{troubles:?}"
        );
    }
}

/// Whenever the power of the node goes that gives a replica away: the shard is whole, and nothing is left behind.
#[test]
fn a_crash_while_a_replica_is_dropped_leaves_nothing() {
    for at in [0, 2, 5, 9] {
        let (mut cluster, other, sender, _events) = Cluster::with_another(310 + at);
        cluster.start_node(other, joining(other, 2), &sender);
        until(&cluster, "it has joined", || {
            (1..=4).all(|node| knows(node, |map| map.node(NodeId(4)).is_some()))
        });
        let (shard, from) = (ShardId(2), cluster.nodes[2]);
        // The node that leads the meta shard must not be the one that crashes.
        cluster.sim.block_on(cluster.nodes[0], async move {
            replace(shard, NodeId(4), ReplicaId::first(NodeId(3))).await;
        });
        cluster.sim.crash_at_io(from, 1 + 2 * at);
        cluster.sim.run_for(Duration::from_secs(3));
        cluster.sim.crash(from);
        cluster.start_node(from, config(3, 3), &sender);
        until(&cluster, "the replica is dropped", || {
            listed(&cluster, from, shard) == Some((0, HeldState::Gone))
        });
        assert!(!has_files(&cluster, from, shard), "crash at {at}");
        let mut nodes = cluster.nodes.clone();
        nodes.push(other);
        cluster.all_there(nodes, 0);
    }
}

impl Cluster {
    fn identity_of(&self, node: SimNode) -> identity::Identity {
        let file = format!("/data/{}", identity::FILE_NAME);
        let bytes = self.sim.disk(node).read(&file).unwrap();
        identity::decode(&file, &bytes).unwrap()
    }

    /// Takes everything away from the disk of a node that does not run.
    fn empty(&self, node: SimNode) {
        let blank = self.sim.add_node();
        let image = self.sim.disk(blank).image();
        self.sim.disk(node).restore(&image);
    }
}
