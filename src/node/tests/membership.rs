//! Who is one of the cluster: forming it through crashes and losses, and directories that went back in time.

use super::{CORES, Client, Cluster, PORT, SHARDS, config, key_of};
use crate::node::cluster::standing::Exclusion;
use crate::node::data_dir::identity::{self, Identity};
use crate::node::run::core::CoreEventKind;
use corelith_io::sim::SimNode;
use corelith_io::{Receiver, Sender};
use corelith_wire::StoreId;
use corelith_wire::request;
use corelith_wire::response::Answer;
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
