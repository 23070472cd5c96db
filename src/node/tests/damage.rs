//! Shards that are damaged, missing or in each other's place, of a node that starts.

use super::{CORES, Client, Cluster, PORT, SHARDS, config, key_of};
use crate::node::data_dir::identity;
use crate::node::run::core::CoreEventKind;
use corelith_io::sim::SimNode;
use corelith_wire::request;
use corelith_wire::response::{Answer, Failure, Reason};
use corelith_wire::status::ShardRole;
use std::time::Duration;

const DOWN: Failure = Failure::Unavailable {
    reason: Reason::StorageFailed,
    nothing_done: true,
};

fn dir(shard: u32) -> String {
    format!("/data/shards/{shard:05}/")
}

impl Cluster {
    /// Starts a node again, after a crash, and waits until all its cores are ready.
    fn restart(&mut self, node: SimNode, count: u32) {
        let (sender, events) = corelith_io::channel(1000);
        self.events = events;
        self.start_node(node, config(node.number(), count), &sender);
        self.wait_ready(usize::from(CORES));
    }

    /// The files of a shard of a node, without their directory.
    fn files_of(&self, node: SimNode, shard: u32) -> Vec<(String, Vec<u8>)> {
        let disk = self.sim.disk(node);
        let files = disk.files().into_iter();
        let files = files.filter_map(|(path, _)| {
            let name = path.strip_prefix(&dir(shard))?.to_owned();
            Some((name, disk.read(&path)?))
        });
        files.collect()
    }

    /// Has a shard of a node hold these files and no others.
    fn replace_files(&self, node: SimNode, shard: u32, files: &[(String, Vec<u8>)]) {
        let disk = self.sim.disk(node);
        for (name, _) in self.files_of(node, shard) {
            disk.remove(dir(shard) + &name);
        }
        for (name, bytes) in files {
            disk.write(dir(shard) + name, bytes);
        }
    }

    /// The shards of a node that are down, and what is said of them.
    fn down(&self, node: SimNode) -> Vec<(u32, String)> {
        self.sim.block_on(self.client, async move {
            let (mut client, _) = Client::connect(node.address(PORT)).await;
            let Answer::Status(status) = client.ask(0, request::encode_status).await else {
                panic!("no status");
            };
            assert_eq!(status.shards.len(), SHARDS as usize);
            let shards = status.shards.into_iter();
            let down = shards.filter(|shard| shard.role == ShardRole::Down);
            let down: Vec<u32> = down.map(|shard| shard.shard).collect();
            let Answer::Storage(storage) = client.ask(0, request::encode_storage).await else {
                panic!("no storage");
            };
            let shards = storage.shards.into_iter();
            let damages = shards.flat_map(|shard| {
                let damages = shard.damages.into_iter();
                damages.map(move |damage| (shard.shard, damage.file + ": " + &damage.what))
            });
            let damages: Vec<(u32, String)> = damages.collect();
            let named: Vec<u32> = damages.iter().map(|(shard, _)| *shard).collect();
            assert_eq!(named, down);
            damages
        })
    }

    /// Puts a value into every shard, through whoever leads it.
    fn fill(&self) {
        let nodes = self.nodes.clone();
        self.sim.block_on(self.client, async move {
            for shard in 0..SHARDS {
                let leader = super::leader_of(nodes[0].address(PORT), shard).await;
                let (mut client, _) =
                    Client::connect(nodes[leader as usize - 1].address(PORT)).await;
                let session = client.open_session(shard).await;
                let written = client
                    .put(shard, (session, 1), &key_of(shard, 0), b"kept")
                    .await;
                assert!(matches!(written, Answer::Written { .. }), "{written:?}");
            }
        });
    }

    /// Waits until one of `nodes` answers with the value of each shard; returns who did.
    fn find(&self, nodes: &[SimNode]) -> Vec<u32> {
        let nodes = nodes.to_vec();
        self.sim.block_on(self.client, async move {
            let mut answered = Vec::new();
            for shard in 0..SHARDS {
                let mut found = None;
                for _ in 0..200 {
                    for node in &nodes {
                        let (mut client, _) = Client::connect(node.address(PORT)).await;
                        if let Answer::Value { value, .. } =
                            client.get(shard, &key_of(shard, 0)).await
                        {
                            assert_eq!(value.as_ref(), b"kept");
                            found = Some(node.number());
                        }
                    }
                    if found.is_some() {
                        break;
                    }
                    corelith_io::sleep(Duration::from_millis(100)).await;
                }
                answered.push(found.expect("a node that leads the shard"));
            }
            answered
        })
    }
}

/// A shard whose manifest is damaged, one that is gone and two that were swapped: each is down and named,
/// the node and its other shards run, and clients are sent elsewhere. Nothing is made in their place.
#[test]
fn damaged_shards_are_down_alone() {
    let mut cluster = Cluster::start(21, 3);
    cluster.fill();
    let node = cluster.nodes[0];
    cluster.sim.kill(node);
    cluster.sim.disk(node).flip_bit(dir(1) + "MANIFEST", 40);
    cluster.replace_files(node, 2, &[]);
    let (third, fourth) = (cluster.files_of(node, 3), cluster.files_of(node, 4));
    cluster.replace_files(node, 3, &fourth);
    cluster.replace_files(node, 4, &third);

    for _ in 0..2 {
        cluster.restart(node, 3);
        let down = cluster.down(node);
        let shards: Vec<u32> = down.iter().map(|(shard, _)| *shard).collect();
        assert_eq!(shards, [1, 2, 3, 4]);
        let expected = [
            "/data/shards/00001/MANIFEST: the manifest's checksum does not match",
            "/data/shards/00002: the shard is missing",
        ];
        for ((_, what), expected) in down.iter().zip(expected) {
            assert_eq!(what, expected);
        }
        assert!(down[2].1.contains("belongs to shard 4"), "{}", down[2].1);
        assert!(down[3].1.contains("belongs to shard 3"), "{}", down[3].1);
        assert!(cluster.files_of(node, 2).is_empty(), "nothing is made");

        cluster.sim.block_on(cluster.client, async move {
            for core in 0..CORES {
                let (mut client, _) = Client::connect(node.address(PORT + core)).await;
                for shard in 1..=4 {
                    match client.get(shard, &key_of(shard, 0)).await {
                        Answer::Failure { failure, .. } => assert_eq!(failure, DOWN),
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
        let answered = cluster.find(&cluster.nodes);
        assert!(
            answered[1..=4].iter().all(|node| *node != 1),
            "{answered:?}"
        );
        cluster.sim.kill(node);
    }
}

/// A block of the log of one shard: its other shards answer meanwhile, and the shard is whole again with what the
/// other nodes have.
#[test]
fn a_damaged_block_of_a_log_is_the_matter_of_its_shard_alone() {
    let mut cluster = Cluster::start(24, 3);
    // What follows the block shows that it is no end of the log.
    cluster.fill();
    cluster.fill();
    let node = cluster.nodes[0];
    cluster.sim.kill(node);
    let log = cluster
        .files_of(node, 1)
        .into_iter()
        .find_map(|(name, bytes)| {
            let at = bytes.windows(4).position(|bytes| bytes == b"kept")?;
            name.ends_with(".log").then_some((name, at as u64))
        });
    let (name, at) = log.expect("the value is in the log");
    cluster.sim.disk(node).flip_bit(dir(1) + &name, at);
    cluster.restart(node, 3);
    let down = cluster.down(node);
    let [(1, what)] = &down[..] else {
        panic!("{down:?}");
    };
    assert_eq!(
        *what,
        format!(
            "{}{name}: an acknowledged block is damaged or missing",
            dir(1)
        )
    );
    let answered = cluster.find(&cluster.nodes);
    assert_ne!(answered[1], 1, "{answered:?}");
    // The cluster has the node take a copy.
    for _ in 0..120 {
        if cluster.down(node).is_empty() {
            break;
        }
        cluster.sim.run_for(Duration::from_secs(1));
    }
    assert_eq!(cluster.down(node), []);
    cluster.find(&cluster.nodes);
}

/// Every shard of a directory whose identity lists none, as older versions wrote it, is listed at the next
/// start; from then on a missing one is damage.
#[test]
fn a_directory_that_lists_no_shards_has_them_listed() {
    let mut cluster = Cluster::start(22, 1);
    cluster.fill();
    let node = cluster.nodes[0];
    cluster.sim.kill(node);
    let disk = cluster.sim.disk(node);
    let file = format!("/data/{}", identity::FILE_NAME);
    let mut bytes = disk.read(&file).unwrap();
    let listed = identity::decode(&file, &bytes).unwrap().held;
    // And the meta shard.
    assert_eq!(listed.len(), SHARDS as usize + 1);
    let mut unlisted = identity::decode(&file, &bytes).unwrap();
    unlisted.held.clear();
    unlisted.is_founded = false;
    bytes = identity::encode(&unlisted);
    assert!(identity::decode(&file, &bytes).unwrap().held.is_empty());
    disk.write(&file, &bytes);

    cluster.restart(node, 1);
    assert_eq!(cluster.down(node), []);
    cluster.find(&[node]);
    cluster.sim.kill(node);
    let bytes = cluster.sim.disk(node).read(&file).unwrap();
    assert_eq!(identity::decode(&file, &bytes).unwrap().held, listed);
    cluster.replace_files(node, 5, &[]);
    cluster.restart(node, 1);
    assert_eq!(cluster.down(node).len(), 1);
}

/// Power cuts while a node starts for the first time, or again, leave no shard that the next start takes
/// for lost.
#[test]
fn a_cut_off_creation_is_no_damage() {
    for step in 0..40 {
        let mut cluster = Cluster::idle(30 + step, 1);
        let node = cluster.nodes[0];
        for cuts in 1..=2 {
            let (sender, events) = corelith_io::channel(1000);
            cluster.events = events;
            cluster.start_node(node, config(1, 1), &sender);
            cluster
                .sim
                .run_for(Duration::from_micros(step * step * 90 / cuts));
            while let Some(event) = cluster.events.try_recv() {
                assert!(matches!(event.what, CoreEventKind::Ready), "{event:?}");
            }
            cluster.sim.crash(node);
        }
        cluster.restart(node, 1);
        assert_eq!(cluster.down(node), [], "step {step}");
    }
}

/// Reads at a leader whose disk does not give a value back, or gives another one: they are answered with what another
/// replica holds, gets, gets without the value and scans alike.
#[test]
fn reads_that_meet_damage_are_answered_with_what_another_replica_holds() {
    let cluster = Cluster::start(23, 3);
    let nodes = cluster.nodes.clone();
    let world = cluster.sim.clone();
    cluster.sim.block_on(cluster.client, async move {
        let leader = super::leader_of(nodes[0].address(PORT), 0).await;
        let leader = nodes[leader as usize - 1];
        let (mut client, _) = Client::connect(leader.address(PORT)).await;
        let session = client.open_session(0).await;
        let mut keys: Vec<Vec<u8>> = (0..3).map(|salt| key_of(0, salt)).collect();
        keys.sort();
        let value = |number: u8| vec![number + 1; 6000];
        for (number, key) in (0..).zip(&keys) {
            let written = client
                .put(0, (session, u64::from(number) + 1), key, &value(number))
                .await;
            assert!(matches!(written, Answer::Written { .. }), "{written:?}");
        }
        let disk = world.disk(leader);
        let damage = |number: u8| {
            let part = [number + 1; 64];
            let files = disk.files().into_iter().map(|(path, _)| path);
            for path in files.filter(|path| path.ends_with(".vlog")) {
                let bytes = disk.read(&path).unwrap();
                let at = bytes.windows(64).position(|bytes| bytes == part);
                at.into_iter()
                    .for_each(|at| disk.flip_bit(&path, at as u64 + 3000));
            }
        };
        damage(0);
        for _ in 0..2 {
            match client.get(0, &keys[0]).await {
                Answer::Value { value: found, .. } => assert!(found == value(0)),
                other => panic!("{other:?}"),
            }
        }
        // As much as goes into one answer.
        disk.fail(corelith_io::sim::IoKind::Read, ".vlog", 0);
        match client.get(0, &keys[1]).await {
            Answer::Value { value: found, .. } => assert!(found == value(1)),
            other => panic!("{other:?}"),
        }
        damage(2);
        let request = request::ScanRequest {
            start: b"",
            end: b"",
            limit_items: 10,
            max_bytes: 100_000,
            at_version: 0,
        };
        let answer = client.ask(0, |out, head| request::encode_scan(out, head, &request));
        let Answer::ScanPage(page) = answer.await else {
            panic!("no page");
        };
        let found = page
            .items
            .iter()
            .map(|item| item.value.bytes().unwrap().to_vec());
        assert!(found.eq((0..3).map(value)), "{} items", page.items.len());
        assert!(!page.more);
    });
}
