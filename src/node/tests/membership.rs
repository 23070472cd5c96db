//! Who is one of the cluster: forming it through crashes and losses, and directories that went back in time.

use super::{CORES, Client, Cluster, PORT, SHARDS, config, key_of};
use crate::node::cluster::formation::Acceptor;
use crate::node::cluster::standing::Exclusion;
use crate::node::data_dir::identity::{self, Identity};
use crate::node::limits::{MARK_EVERY, MARK_LOOK};
use crate::node::run::core::CoreEventKind;
use corelith_io::sim::SimNode;
use corelith_io::{Receiver, Sender};
use corelith_wire::request;
use corelith_wire::response::Answer;
use corelith_wire::{Mark, StoreId};
use std::collections::BTreeSet;
use std::time::Duration;

const SEEDS: u64 = 16;

impl Cluster {
    /// What a node has on its disk.
    fn identity(&self, node: SimNode) -> Option<Identity> {
        let file = format!("/data/{}", identity::FILE_NAME);
        let bytes = self.sim.disk(node).read(&file)?;
        Some(identity::decode(&file, &bytes).unwrap())
    }

    /// The clusters that any of the nodes knows.
    fn formed(&self) -> BTreeSet<u128> {
        let identities = self.nodes.iter().filter_map(|node| self.identity(*node));
        let charters = identities.filter_map(|identity| identity.formation.charter);
        charters.map(|charter| charter.cluster.0).collect()
    }

    /// Acknowledged writes: a key of each shard.
    fn write(&self, salt: u32) -> Vec<(u32, Vec<u8>)> {
        let nodes = self.nodes.clone();
        self.sim.block_on(self.client, async move {
            let mut written = Vec::new();
            for shard in 0..SHARDS {
                let leader = super::leader_of(nodes[0].address(PORT), shard).await;
                let address = nodes[leader as usize - 1].address(PORT);
                let (mut client, _) = Client::connect(address).await;
                let session = client.open_session(shard).await;
                let key = key_of(shard, salt);
                let answer = client.put(shard, (session, 1), &key, b"value").await;
                assert!(matches!(answer, Answer::Written { .. }), "{answer:?}");
                written.push((shard, key));
            }
            written
        })
    }

    /// All of them are there, as the leaders say that `node` knows.
    fn are_there(&self, node: SimNode, written: Vec<(u32, Vec<u8>)>) {
        let nodes = self.nodes.clone();
        self.sim.block_on(self.client, async move {
            for (shard, key) in written {
                let leader = super::leader_of(node.address(PORT), shard).await;
                let address = nodes[leader as usize - 1].address(PORT);
                let (mut client, _) = Client::connect(address).await;
                let answer = client.get(shard, &key).await;
                assert!(matches!(answer, Answer::Value { .. }), "{answer:?}");
            }
        });
    }

    fn start_again(&mut self, node: SimNode, events: &Sender<super::CoreEvent>) {
        let count = u32::try_from(self.nodes.len()).unwrap();
        self.start_node(node, config(node.number(), count), events);
    }
}

/// Waits until as many cores are ready as the nodes have that run now.
fn wait_ready(cluster: &Cluster, events: &Receiver<super::CoreEvent>, what: &str) {
    let mut ready = BTreeSet::new();
    let all = cluster.sim.run_until(
        || {
            while let Some(event) = events.try_recv() {
                assert!(
                    matches!(event.what, CoreEventKind::Ready),
                    "{what}: {event:?}"
                );
                ready.insert((event.node, event.core));
            }
            ready.len() == usize::from(CORES) * cluster.nodes.len()
        },
        Duration::from_secs(120),
    );
    assert!(all, "{what}: only {ready:?} are ready");
}

/// Whatever is lost and whoever loses its power meanwhile: one cluster is formed, and all are of it.
#[test]
fn a_cluster_is_formed_through_crashes_and_losses() {
    // In the last one three nodes of five were enough once, and a shard with two replicas on the others never had a
    // leader.
    for seed in (0..SEEDS).chain([91]) {
        let count = [1, 3, 3, 5][seed as usize % 4];
        let mut cluster = Cluster::idle(100 + seed, count);
        let (sender, events) = corelith_io::channel(1000);
        for node in cluster.nodes.clone() {
            cluster.start_again(node, &sender);
        }
        cluster.sim.net().set_packet_loss(0.1);
        let mut formed = BTreeSet::new();
        for _ in 0..12 {
            let below = |bound| cluster.sim.random_below(bound);
            let (at, alone) = (below(u64::from(count)), below(u64::from(count)));
            let node = cluster.nodes[at as usize];
            if below(3) > 0 {
                let io = cluster.sim.io_count(node) + below(40);
                cluster.sim.crash_at_io(node, io);
            }
            // A moment while the others agree, or long enough for them to go on without this one.
            let moment = Duration::from_millis(below(120));
            let long = Duration::from_secs(6);
            cluster.sim.run_for(moment);
            cluster.sim.net().isolate(cluster.nodes[alone as usize]);
            // The power is gone now, if it was not before.
            cluster.sim.crash(node);
            formed.append(&mut cluster.formed());
            cluster.start_again(node, &sender);
            cluster.sim.run_for(if cluster.sim.random_below(2) == 0 {
                moment
            } else {
                long
            });
            cluster.sim.net().heal_all();
        }
        while events.try_recv().is_some() {}
        cluster.sim.net().set_packet_loss(0.0);
        for node in cluster.nodes.clone() {
            cluster.sim.crash(node);
            cluster.start_again(node, &sender);
        }
        wait_ready(&cluster, &events, &format!("seed {seed}"));
        formed.append(&mut cluster.formed());
        assert_eq!(formed.len(), 1, "seed {seed}");
        for node in cluster.nodes.clone() {
            let identity = cluster.identity(node).unwrap();
            let named = identity.formation.charter.unwrap().store_of(identity.node);
            assert!(
                [Some(identity.store), Some(StoreId::UNCLAIMED)].contains(&named),
                "seed {seed}"
            );
            assert_eq!(identity.excluded, None, "seed {seed}");
        }
        cluster.stops.clear();
    }
}

/// A disk that went back to an earlier day: the node takes part in nothing, also after more starts than were
/// forgotten, and the others say so.
#[test]
fn a_disk_that_went_back_is_found_out() {
    let mut cluster = Cluster::start(150, 3);
    let (sender, _events) = corelith_io::channel(1000);
    let node = cluster.nodes[2];
    let start = |cluster: &mut Cluster| {
        cluster.sim.crash(node);
        cluster.start_again(node, &sender);
        cluster.sim.run_for(Duration::from_secs(5));
    };
    let image = cluster.sim.disk(node).image();
    start(&mut cluster);
    start(&mut cluster);
    let newest = cluster.identity(node).unwrap();
    cluster.sim.crash(node);
    cluster.sim.disk(node).restore(&image);
    // Nobody hears of these.
    cluster.sim.net().isolate(node);
    for _ in 0..4 {
        start(&mut cluster);
    }
    let again = cluster.identity(node).unwrap();
    assert!(again.incarnation > newest.incarnation);
    assert_eq!(again.excluded, None);
    cluster.sim.net().heal_all();
    start(&mut cluster);
    match cluster.identity(node).unwrap().excluded {
        Some(Exclusion::RolledBack(met)) => assert_eq!(met.incarnation, newest.incarnation),
        other => panic!("{other:?}"),
    }
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        match client.ask(0, request::encode_status).await {
            Answer::Status(status) => {
                let said: Vec<_> = status.strangers.iter().map(|s| s.node).collect();
                assert_eq!(said, [3], "{status:?}");
            }
            other => panic!("{other:?}"),
        }
        // The other two go on.
        for shard in 0..SHARDS {
            super::leader_of(address, shard).await;
        }
        client.get(0, &key_of(0, 0)).await;
    });
}

/// A node that nobody could tell at its start is told as soon as it meets one of the others, and ends.
#[test]
fn a_running_node_that_is_refused_ends_and_remembers_it() {
    let mut cluster = Cluster::start(151, 3);
    let (sender, events) = corelith_io::channel(1000);
    let node = cluster.nodes[2];
    let start = |cluster: &mut Cluster| {
        cluster.sim.crash(node);
        cluster.start_again(node, &sender);
        cluster.sim.run_for(Duration::from_secs(5));
    };
    let image = cluster.sim.disk(node).image();
    start(&mut cluster);
    start(&mut cluster);
    cluster.sim.crash(node);
    cluster.sim.disk(node).restore(&image);
    cluster.sim.net().isolate(node);
    start(&mut cluster);
    while events.try_recv().is_some() {}
    cluster.sim.net().heal_all();
    let mut why = String::new();
    let has_ended = cluster.sim.run_until(
        || {
            while let Some(event) = events.try_recv() {
                if let CoreEventKind::Ended(Err(error)) = event.what {
                    why = error.to_string();
                }
            }
            !why.is_empty()
        },
        Duration::from_secs(30),
    );
    assert!(has_ended);
    assert!(why.contains("old state of node 3"), "{why}");
    let excluded = cluster.identity(node).unwrap().excluded;
    assert!(
        matches!(excluded, Some(Exclusion::RolledBack(_))),
        "{excluded:?}"
    );
}

/// An image that was taken while the node ran, put back before its next start: the others have met a later mark.
/// The same if all nodes have lost their power meanwhile.
#[test]
fn an_image_of_a_running_node_is_found_out() {
    for seed in 0..6 {
        let mut cluster = Cluster::start(160 + seed, 3);
        let (sender, _events) = corelith_io::channel(1000);
        let at = cluster.sim.random_below(3) as usize;
        let node = cluster.nodes[at];
        let runs = cluster.sim.random_below(15_000);
        cluster.sim.run_for(Duration::from_millis(runs));
        let mut written = cluster.write(0);
        let image = cluster.sim.disk(node).image();
        let before = cluster.identity(node).unwrap();
        // The mark rises, and the others write down that it has.
        cluster.sim.run_for(MARK_EVERY + 3 * MARK_LOOK);
        written.extend(cluster.write(1));
        let stopped = match seed % 2 {
            0 => vec![node],
            _ => cluster.nodes.clone(),
        };
        for node in &stopped {
            cluster.sim.crash(*node);
        }
        cluster.sim.disk(node).restore(&image);
        for node in stopped {
            cluster.start_again(node, &sender);
        }
        let is_excluded = cluster.sim.run_until(
            || {
                cluster
                    .identity(node)
                    .is_some_and(|identity| identity.excluded.is_some())
            },
            Duration::from_secs(30),
        );
        let now = cluster.identity(node).unwrap();
        assert!(
            is_excluded,
            "seed {seed}: with mark {} it passes",
            before.mark
        );
        match now.excluded {
            Some(Exclusion::Behind(met)) => assert!(met > before.mark, "seed {seed}"),
            other => panic!("seed {seed}: {other:?}"),
        }
        assert_eq!(now.mark, before.mark, "seed {seed}: it raises none");
        cluster.sim.run_for(Duration::from_secs(2));
        cluster.are_there(cluster.nodes[(at + 1) % 3], written);
        cluster.stops.clear();
    }
}

/// The same before any mark has risen: a leader that lives notices what is lost.
#[test]
fn a_leader_finds_out_who_lacks_what_it_had_acknowledged() {
    for seed in 0..6 {
        let mut cluster = Cluster::start(190 + seed, 3);
        let (sender, _events) = corelith_io::channel(1000);
        let at = cluster.sim.random_below(3) as usize;
        let node = cluster.nodes[at];
        let mut written = cluster.write(0);
        let image = cluster.sim.disk(node).image();
        written.extend(cluster.write(1));
        // All of them have it.
        cluster.sim.run_for(Duration::from_millis(1_500));
        assert_eq!(cluster.identity(node).unwrap().mark, Mark(0));
        cluster.sim.crash(node);
        cluster.sim.disk(node).restore(&image);
        cluster.start_again(node, &sender);
        let is_excluded = cluster.sim.run_until(
            || {
                cluster
                    .identity(node)
                    .is_some_and(|identity| identity.excluded.is_some())
            },
            Duration::from_secs(30),
        );
        assert!(is_excluded, "seed {seed}: it passes");
        let excluded = cluster.identity(node).unwrap().excluded;
        assert_eq!(excluded, Some(Exclusion::LostEntries), "seed {seed}");
        cluster.sim.run_for(Duration::from_secs(2));
        cluster.are_there(cluster.nodes[(at + 1) % 3], written);
        cluster.stops.clear();
    }
}

/// Whenever the power goes, of one node or of all, and however long one is away: no other node has met more of a store
/// than it finds when it starts, and nobody is refused.
#[test]
fn no_crash_makes_a_node_an_old_state() {
    for seed in 0..4 {
        let mut cluster = Cluster::start(170 + seed, 3);
        let (sender, events) = corelith_io::channel(1000);
        let away = cluster.nodes[seed as usize % 3];
        for round in 0..6 {
            let below = |bound| cluster.sim.random_below(bound);
            for node in cluster.nodes.clone() {
                if below(2) == 0 {
                    let io = cluster.sim.io_count(node) + below(24);
                    cluster.sim.crash_at_io(node, io);
                }
            }
            let long = MARK_EVERY.as_millis() as u64 + below(4_000);
            cluster.sim.run_for(Duration::from_millis(long));
            let is_up = |node: &SimNode| cluster.sim.is_up(*node);
            let stopped: Vec<SimNode> = match below(2) {
                0 => cluster.nodes.clone(),
                _ => cluster
                    .nodes
                    .iter()
                    .copied()
                    .filter(|node| !is_up(node))
                    .collect(),
            };
            for node in &stopped {
                cluster.sim.crash(*node);
            }
            for node in stopped {
                let theirs = cluster.identity(node).unwrap();
                for other in &cluster.nodes {
                    let identity = cluster.identity(*other).unwrap();
                    let met = identity.met.get(&theirs.node);
                    let mark = met.map_or(Mark(0), |met| met.mark);
                    assert!(mark <= theirs.mark, "seed {seed}: mark {mark} was met");
                }
                if node != away || !(1..4).contains(&round) {
                    cluster.start_again(node, &sender);
                }
            }
        }
        while events.try_recv().is_some() {}
        for node in cluster.nodes.clone() {
            cluster.sim.crash(node);
            cluster.start_again(node, &sender);
        }
        wait_ready(&cluster, &events, &format!("seed {seed}"));
        let mut highest = Mark(0);
        for node in cluster.nodes.clone() {
            let identity = cluster.identity(node).unwrap();
            assert_eq!(identity.excluded, None, "seed {seed}");
            highest = highest.max(identity.mark);
        }
        assert!(highest > Mark(0), "seed {seed}: no mark was raised");
        cluster.stops.clear();
    }
}

/// Two nodes that were emptied, while the third is down, form nothing if the cluster was formed before; a node that was
/// not there when it was formed becomes one of it all the same.
#[test]
fn emptied_nodes_of_an_existing_cluster_form_none() {
    let existing = |node: SimNode| {
        let mut config = config(node.number(), 3);
        config.cluster.existing = true;
        config
    };
    let mut cluster = Cluster::idle(180, 3);
    let (sender, events) = corelith_io::channel(1000);
    let [first, second, third] = cluster.nodes[..] else {
        panic!("three nodes")
    };
    let empty = cluster.sim.disk(first).image();
    for node in [first, second] {
        cluster.start_again(node, &sender);
    }
    cluster.sim.run_for(Duration::from_secs(8));
    assert_eq!(cluster.formed().len(), 1);
    cluster.start_node(third, existing(third), &sender);
    wait_ready(&cluster, &events, "the third comes late");

    for node in cluster.nodes.clone() {
        cluster.sim.crash(node);
    }
    for node in [first, second] {
        cluster.sim.disk(node).restore(&empty);
        cluster.start_node(node, existing(node), &sender);
    }
    cluster.sim.run_for(Duration::from_secs(20));
    for node in [first, second] {
        let formation = cluster.identity(node).unwrap().formation;
        assert_eq!(
            formation,
            Acceptor::default(),
            "it neither promised nor accepted"
        );
    }
    cluster.start_node(third, existing(third), &sender);
    let are_told = cluster.sim.run_until(
        || {
            [first, second].iter().all(|node| {
                let identity = cluster.identity(*node);
                let excluded = identity.and_then(|identity| identity.excluded);
                matches!(excluded, Some(Exclusion::OtherStore(_)))
            })
        },
        Duration::from_secs(30),
    );
    assert!(are_told, "they are told that they are new");
    cluster.stops.clear();
}
