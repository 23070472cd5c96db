//! Snapshots as files between replicas: the receiver, the sender or the network fails while they are on their way.

use super::cluster::{Cluster, open_body, put};
use super::scenarios::applied;
use crate::limits::COPY_BYTES_BESIDE_CLIENTS;
use corelith_io::sim::SimConfig;
use corelith_shards::ShardId;
use corelith_shards::limits::{FILE_PIECE_BYTES, INCOMING_RECORD_EVERY_BYTES};
use corelith_wire::request::Condition;
use std::cell::Cell;
use std::time::Duration;

const SHARD: ShardId = ShardId(0);
/// What a receiver may be sent in a second.
const SLOW: u64 = 8 << 20;
/// The same where a single piece takes seconds.
const VERY_SLOW: u64 = FILE_PIECE_BYTES as u64 / 4;

/// A cluster with a follower that is down and lacks more than the log still has; leader and follower.
fn with_one_behind(seed: u64) -> (Cluster, usize, usize) {
    let options = crate::Options {
        catch_up_bytes: 1 << 20,
        catch_up_entries: 500,
        lead_back_after: None,
        ..crate::Options::default()
    };
    let cluster = Cluster::new(seed, SimConfig::default(), options, 1);
    cluster.start_all();
    let leader = cluster.wait_leader();
    let behind = (leader + 1) % 3;
    let session = cluster.open_session(leader);
    cluster.crash(behind);
    let value = "v".repeat(40_000);
    for number in 1..1200 {
        let key = format!("key-{}", number % 700);
        let command = put(session, number, Condition::Any, &key, &value);
        applied(cluster.write(leader, command).unwrap().outcome);
    }
    cluster.wait("the leader purges its log", || {
        let group = cluster.groups(leader).and_then(|it| it.group(SHARD));
        group.is_some_and(|group| group.status().purged.is_some())
    });
    // Merges and collections end: what they make anew would be sent anew.
    cluster.sim.run_for(Duration::from_secs(120));
    (cluster, leader, behind)
}

/// Starts a node that may receive slowly.
fn start_slowly(cluster: &Cluster, at: usize) {
    start_at(cluster, at, SLOW);
}

/// Starts a node that may receive at `rate`.
fn start_at(cluster: &Cluster, at: usize, rate: u64) {
    cluster.start(at);
    cluster.wait("its groups are open", || {
        let groups = cluster.groups(at);
        groups.is_some_and(|groups| {
            groups.limit_copies(rate);
            true
        })
    });
}

/// Bytes that a node has received, and those it has to.
fn received(cluster: &Cluster, at: usize) -> (u64, u64) {
    let groups = cluster.groups(at);
    let progress = groups.and_then(|groups| groups.receiving(SHARD));
    progress.map_or((0, 0), |progress| (progress.done, progress.all))
}

fn wait_half(cluster: &Cluster, at: usize) {
    cluster.wait("half of it is there", || {
        let (done, all) = received(cluster, at);
        all > 0 && done > all / 2
    });
}

/// Bytes that a node has sent in the offer that stands, and those of its files.
fn sent(cluster: &Cluster, at: usize) -> Option<(u64, u64)> {
    let group = cluster.groups(at)?.group(SHARD)?;
    let sending = group.sending();
    assert!(sending.len() <= 1, "one follower is behind");
    sending.first().map(|(_, sent, all)| (*sent, *all))
}

#[test]
fn a_receiver_that_is_killed_is_not_sent_again_what_it_has() {
    for seed in 1..=2 {
        let (cluster, leader, behind) = with_one_behind(seed);
        start_slowly(&cluster, behind);
        wait_half(&cluster, behind);
        let (before, all) = sent(&cluster, leader).unwrap();
        assert!(all > 2 * INCOMING_RECORD_EVERY_BYTES, "{all}");
        cluster.kill(behind);
        start_slowly(&cluster, behind);
        let after = Cell::new(0);
        cluster.wait("it is received", || {
            if let Some((bytes, _)) = sent(&cluster, leader) {
                after.set(bytes.max(after.get()));
            }
            let group = cluster.groups(behind).and_then(|it| it.group(SHARD));
            group.is_some_and(|group| group.status().purged.is_some())
        });
        let pieces = crate::limits::FILE_PIECES_IN_FLIGHT as u64 * FILE_PIECE_BYTES as u64;
        let (sent, most) = (
            before + after.get(),
            all + INCOMING_RECORD_EVERY_BYTES + pieces,
        );
        assert!(sent >= all && sent <= most, "{sent} of {all}");
        cluster.check_replicas_equal();
    }
}

#[test]
fn a_sender_that_dies_is_replaced_by_another() {
    let (cluster, leader, behind) = with_one_behind(3);
    start_slowly(&cluster, behind);
    wait_half(&cluster, behind);
    cluster.crash(leader);
    let other = 3 - leader - behind;
    cluster.wait("the other node leads", || cluster.leader() == Some(other));
    cluster.wait("it is received", || {
        let group = cluster.groups(behind).and_then(|it| it.group(SHARD));
        group.is_some_and(|group| group.status().purged.is_some())
    });
    cluster.start(leader);
    cluster.check_replicas_equal();
}

#[test]
fn a_receiver_that_falls_silent_loses_its_pin() {
    let (cluster, leader, behind) = with_one_behind(4);
    start_slowly(&cluster, behind);
    wait_half(&cluster, behind);
    cluster.sim.net().isolate(cluster.nodes[behind]);
    let gone = || sent(&cluster, leader).is_none();
    assert!(
        cluster
            .sim
            .run_until(gone, crate::limits::FILES_SILENCE_MAX * 2)
    );
    cluster.sim.run_for(Duration::from_secs(5));
    cluster.sim.net().heal_all();
    cluster.check_replicas_equal();
}

/// Writes to a shard until the log of its leader lacks what a node that is down does not have.
fn purge_beyond(cluster: &Cluster, shard: ShardId, behind: usize) {
    cluster.wait("it has a leader", || {
        cluster.leader_of(shard).is_some_and(|at| at != behind)
    });
    let leader = cluster.leader_of(shard).unwrap();
    let group = cluster.groups(leader).unwrap().group(shard).unwrap();
    let (node, opening) = (cluster.nodes[leader], group.clone());
    let opened = cluster
        .sim
        .block_on(node, async move { opening.open_session(open_body()).await });
    let crate::Outcome::SessionOpened { session } = opened.unwrap().outcome else {
        panic!("no session");
    };
    let value = "v".repeat(40_000);
    for number in 1..400 {
        let key = format!("key-{number}");
        let command = put(session, number, Condition::Any, &key, &value);
        let group = group.clone();
        let written = cluster
            .sim
            .block_on(node, async move { group.write(command).await });
        applied(written.unwrap().outcome);
    }
    cluster.wait("the leader purges its log", || {
        let group = cluster.groups(leader).and_then(|it| it.group(shard));
        group.is_some_and(|group| group.status().purged.is_some())
    });
}

#[test]
fn slow_copies_of_one_core_share_its_rate() {
    let shards: Vec<ShardId> = (0..3).map(ShardId).collect();
    let options = crate::Options {
        catch_up_bytes: 1 << 20,
        catch_up_entries: 100,
        lead_back_after: None,
        ..crate::Options::default()
    };
    let cluster = Cluster::new(7, SimConfig::default(), options, shards.len() as u32);
    cluster.start_all();
    cluster.wait_leader();
    let behind = 2;
    cluster.crash(behind);
    for shard in &shards {
        purge_beyond(&cluster, *shard, behind);
    }
    start_at(&cluster, behind, VERY_SLOW);
    let began = cluster.sim.now();
    let all: Vec<Cell<u64>> = shards.iter().map(|_| Cell::new(0)).collect();
    let all_receive = || {
        for (shard, all) in shards.iter().zip(&all) {
            let groups = cluster.groups(behind);
            let progress = groups.and_then(|groups| groups.receiving(*shard));
            let some = progress.filter(|progress| progress.done > 0);
            all.set(some.map_or(all.get(), |progress| progress.all));
        }
        all.iter().all(|all| all.get() > 0)
    };
    // One after the other gets a piece: none waits for all of another.
    let limit = Duration::from_secs(60);
    assert!(cluster.sim.run_until(all_receive, limit), "{all:?}");
    let bytes: u64 = all.iter().map(Cell::get).sum();
    let at_rate = Duration::from_secs(bytes / VERY_SLOW);
    assert!(bytes > 24 * FILE_PIECE_BYTES as u64, "{bytes}");
    let are_there = || {
        shards.iter().all(|shard| {
            let group = cluster.groups(behind).and_then(|it| it.group(*shard));
            group.is_some_and(|group| group.status().purged.is_some())
        })
    };
    assert!(cluster.sim.run_until(are_there, at_rate * 3 / 2));
    let took = cluster.sim.now() - began;
    assert!(took > at_rate * 3 / 4, "{took:?} for {bytes} bytes");
    cluster.check_replicas_equal();
}

#[test]
fn a_copy_leaves_room_for_clients() {
    let (cluster, leader, behind) = with_one_behind(8);
    start_at(&cluster, behind, 0);
    let progress = || cluster.groups(behind).and_then(|it| it.receiving(SHARD));
    // A client reads all the time where the files are.
    let step = || {
        let group = cluster.groups(leader).and_then(|it| it.group(SHARD));
        drop(group.map(|group| group.engine().get_in_memory(b"key-1")));
        cluster.sim.run_for(Duration::from_millis(10));
    };
    let (mut began, mut all) = (None, 0);
    let is_there = || {
        let group = cluster.groups(behind).and_then(|it| it.group(SHARD));
        group.is_some_and(|group| group.status().purged.is_some())
    };
    let limit = cluster.sim.now() + Duration::from_secs(60);
    while !is_there() {
        assert!(cluster.sim.now() < limit, "{all} bytes were not copied");
        if let Some(progress) = progress() {
            began.get_or_insert(cluster.sim.now());
            all = progress.all;
        }
        step();
    }
    let took = began.map_or(Duration::ZERO, |began| cluster.sim.now() - began);
    let least = all as f64 / COPY_BYTES_BESIDE_CLIENTS as f64;
    assert!(all > 16 << 20, "{all}");
    assert!(took.as_secs_f64() > least * 0.8, "{all} bytes in {took:?}");
    cluster.check_replicas_equal();
}
