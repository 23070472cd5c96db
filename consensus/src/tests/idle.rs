//! What groups cost while nothing happens.

use super::cluster::Cluster;
use crate::Options;
use corelith_io::sim::SimConfig;
use corelith_shards::ShardId;
use std::time::Duration;

/// Time until leaders have said all that there is to say.
const CALM: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(10);
/// A beat that is sent at an end of the time may count or not.
const AT_THE_ENDS: u64 = 12;

/// What three nodes send each other in some seconds in which nobody asks them for anything.
fn sent_while_idle(shards: u32) -> u64 {
    let cluster = Cluster::new(1, SimConfig::default(), Options::default(), shards);
    cluster.start_all();
    cluster.wait("a leader of each shard", || {
        (0..shards).all(|shard| cluster.leader_of(ShardId(shard)).is_some())
    });
    cluster.sim.run_for(CALM);
    let before = cluster.sim.net().sent();
    cluster.sim.run_for(WATCHED);
    cluster.sim.net().sent() - before
}

#[test]
fn idle_nodes_send_the_same_whatever_the_number_of_shards() {
    let (one, many) = (sent_while_idle(1), sent_while_idle(50));
    println!("{one} with 1 shard, {many} with 50");
    // Each of three nodes beats to the other two 20 times a second, and is answered.
    let beats = 3 * 2 * 20 * 2 * WATCHED.as_secs();
    assert!(one.abs_diff(beats) <= AT_THE_ENDS, "{one}, not {beats}");
    assert!(many.abs_diff(one) <= AT_THE_ENDS, "{many}, not {one}");
}

#[test]
fn groups_at_rest_are_looked_at_in_rounds_alone() {
    let cluster = Cluster::new(2, SimConfig::default(), Options::default(), 3);
    cluster.start_all();
    cluster.wait("a leader of each shard", || {
        (0..3).all(|shard| cluster.leader_of(ShardId(shard)).is_some())
    });
    let glances = || cluster.groups(0).unwrap().glances();
    cluster.sim.run_for(CALM);
    let before = glances();
    cluster.sim.run_for(WATCHED);
    let (idle, rounds) = (glances() - before, WATCHED.as_secs() / 2);
    assert!(
        idle.abs_diff(rounds) <= 2,
        "{idle} glances, {rounds} rounds"
    );
    // Who is left looks again at every beat, of which there are 20 a second.
    cluster.crash(1);
    cluster.sim.run_for(CALM);
    let before = glances();
    cluster.sim.run_for(WATCHED);
    let alone = glances() - before;
    assert!(alone >= 15 * WATCHED.as_secs(), "{alone} glances");
}
