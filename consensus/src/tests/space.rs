//! Space: given back by groups that nobody writes to, and missing when one stops.

use super::cluster::{Cluster, command, put};
use super::scenarios::applied;
use crate::{GroupError, Options};
use bytes::Bytes;
use corelith_io::sim::SimConfig;
use corelith_shards::{Capacity, ShardId, Statistics};
use corelith_wire::request::{Condition, Operation, WriteRequest};
use std::time::Duration;

const KEYS: u64 = 60;
const VALUE_BYTES: usize = 100_000;

/// Space is to be back within this time.
const MINUTES: Duration = Duration::from_secs(300);

fn key(number: u64) -> String {
    format!("key-{number}")
}

/// Writes values and deletes them all.
fn put_and_delete(cluster: &Cluster) {
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let value = "v".repeat(VALUE_BYTES);
    for number in 1..=KEYS {
        let command = put(session, number, Condition::Any, &key(number), &value);
        applied(cluster.write(leader, command).unwrap().outcome);
    }
    for number in 1..=KEYS {
        let key = key(number);
        let request = WriteRequest {
            session,
            number: KEYS + number,
            answered_below: KEYS + number,
            condition: Condition::Any,
            operation: Operation::Delete,
            key: key.as_bytes(),
        };
        let deleted = command(&request, &Bytes::new());
        applied(cluster.write(leader, deleted).unwrap().outcome);
    }
}

fn statistics(cluster: &Cluster, at: usize) -> Option<Statistics> {
    let group = cluster.groups(at)?.group(ShardId(0))?;
    let tell = || group.engine().statistics();
    Some(cluster.sim.enter(cluster.nodes[at], tell))
}

fn wait_for_space(cluster: &Cluster) {
    let is_back = |at| statistics(cluster, at).is_some_and(|is| is.value_bytes == 0);
    let all_back = cluster.sim.run_until(|| (0..3).all(is_back), MINUTES);
    let are: Vec<_> = (0..3).map(|at| statistics(cluster, at)).collect();
    assert!(all_back, "{are:?}");
}

/// Far fewer bytes than the log keeps for replicas that are behind.
#[test]
fn deletes_give_their_space_back_without_more_writes() {
    let cluster = Cluster::started(31);
    put_and_delete(&cluster);
    wait_for_space(&cluster);
    cluster.check_replicas_equal();
}

#[test]
fn deletes_before_a_restart_give_their_space_back_after_it() {
    let cluster = Cluster::started(32);
    put_and_delete(&cluster);
    for at in 0..3 {
        cluster.crash(at);
    }
    cluster.start_all();
    wait_for_space(&cluster);
    cluster.check_replicas_equal();
}

/// The log goes on holding what a replica that is down has not got.
#[test]
fn the_log_is_not_purged_of_what_a_replica_lacks() {
    let cluster = Cluster::started(33);
    let leader = cluster.wait_leader();
    let behind = (leader + 1) % 3;
    cluster.crash(behind);
    put_and_delete(&cluster);
    let leader = cluster.wait_leader();
    cluster.sim.run_for(MINUTES);
    let purged = |at: usize| {
        let group = cluster.groups(at).unwrap().group(ShardId(0)).unwrap();
        group.status().purged.map_or(0, |id| id.index.0)
    };
    assert!(purged(leader) < KEYS, "{}", purged(leader));
    cluster.start(behind);
    wait_for_space(&cluster);
    cluster.check_replicas_equal();
}

/// A node whose device is full stops, although its log has accepted what it cannot write.
#[test]
fn groups_on_a_full_device_stop() {
    let cluster = Cluster::started(34);
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    for node in &cluster.nodes {
        cluster.sim.disk(*node).set_capacity(0);
    }
    let value = "v".repeat(VALUE_BYTES);
    let group = cluster.groups(leader).unwrap().group(ShardId(0)).unwrap();
    for number in 1..=2 * KEYS {
        let command = put(session, number, Condition::Any, &key(number), &value);
        let group = group.clone();
        cluster.sim.enter(cluster.nodes[leader], || {
            drop(corelith_io::spawn(async move {
                // Whatever comes of it.
                let _ = group.write(command).await;
            }));
        });
    }
    cluster.sim.run_for(Duration::from_secs(3));
    for at in 0..3 {
        let groups = cluster.groups(at).unwrap();
        let stopped = cluster.sim.block_on(cluster.nodes[at], async move {
            corelith_io::timeout(Duration::from_secs(30), groups.shutdown()).await
        });
        assert!(stopped.is_ok(), "node {at} does not stop");
    }
}

/// Deletes key `of` with request `number`.
fn delete(session: u64, number: u64, of: u64) -> Bytes {
    let key = key(of);
    let request = WriteRequest {
        session,
        number,
        answered_below: number,
        condition: Condition::Any,
        operation: Operation::Delete,
        key: key.as_bytes(),
    };
    command(&request, &Bytes::new())
}

#[test]
fn a_full_shard_takes_deletes_and_values_again_once_it_has_room() {
    let mut cluster = Cluster::new(34, SimConfig::default(), Options::default(), 1);
    // Full from three quarters of it on.
    cluster.tune = |options| {
        options.value_segment_bytes = 256 << 10;
        options.capacity = Capacity {
            value_segments: 24,
            ..Capacity::default()
        };
    };
    cluster.start_all();
    let leader = cluster.wait_leader();
    let session = cluster.open_session(leader);
    let value = "v".repeat(VALUE_BYTES);
    let mut number = 0;
    let refused = loop {
        number += 1;
        assert!(number < 100, "the shard does not get full");
        let command = put(session, number, Condition::Any, &key(number), &value);
        match cluster.write(leader, command) {
            Ok(written) => drop(applied(written.outcome)),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, GroupError::ShardFull);
    assert!(number > 24, "put {number} was refused");
    let full_after = number - 1;
    for of in 1..=full_after {
        number += 1;
        let deleted = cluster.write(leader, delete(session, number, of));
        applied(deleted.unwrap().outcome);
    }
    let mut last = None;
    let mut has_room = || {
        let group = cluster.groups(leader)?.group(ShardId(0))?;
        let look = || group.engine().check_capacity();
        last = Some(cluster.sim.enter(cluster.nodes[leader], look));
        last.as_ref()?.is_ok().then_some(())
    };
    let taken = cluster.sim.run_until(|| has_room().is_some(), MINUTES);
    let are = statistics(&cluster, leader);
    assert!(taken, "{last:?} {are:?}");
    let again = put(session, number + 1, Condition::Any, &key(1), &value);
    applied(cluster.write(leader, again).unwrap().outcome);
}
