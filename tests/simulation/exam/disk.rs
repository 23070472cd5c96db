//! Disks that are slow, or hang.

use super::watch::p99;
use super::{check, led_by, others, restart_all, some_lead, steady};
use crate::trial::Report;
use corelith_history::{Observation, What};
use corelith_io::sim::IoKind;
use corelith_shards::ShardId;
use std::rc::Rc;
use std::time::Duration;

const WARM_UP: Duration = Duration::from_secs(5);

fn writes(history: &[Observation]) -> Vec<Observation> {
    let is_write = |one: &&Observation| !matches!(one.what, What::Read { .. });
    history.iter().filter(is_write).cloned().collect()
}

/// A node's disk answers nothing for a minute: shards that it does not lead do not feel it.
pub(crate) fn hanging(seed: u64) -> Report {
    let mut trial = steady(seed);
    let shards = trial.plan.shards;
    let workload = Rc::clone(&trial.workload);
    trial.safety(|cluster| {
        let sim = cluster.sim.clone();
        let began = sim.now();
        sim.run_for(WARM_UP);
        let lead = some_lead(cluster, shards);
        let led = led_by(cluster, lead.at);
        let all = (0..shards).map(ShardId);
        let spared: Vec<ShardId> = all.filter(|shard| !led.contains(shard)).collect();
        let from = sim.now();
        sim.disk(lead.node).hold(&IoKind::ALL);
        sim.run_for(Duration::from_secs(60));
        let until = sim.now();
        sim.disk(lead.node).release();
        // Reads that any replica may answer meet the one that hangs now and then.
        let history = writes(&workload.notes.history.borrow());
        let usual = p99(&history, &spared, began, from);
        let meanwhile = p99(&history, &spared, from, until);
        assert!(
            meanwhile <= 2 * usual,
            "p99 of writes to shards that are led elsewhere: {meanwhile:?} instead of {usual:?}"
        );
    });
    trial.end(|_| ())
}

#[test]
fn a_disk_that_hangs_a_minute_does_not_slow_other_shards() {
    check(1, hanging);
}

/// A follower's disk is 100 times slower: a majority waits for it no more than if it was not there. (With two replicas instead
/// of three, each write waits for the only other one, and not for the quicker of two: that alone takes the p99 to 1.2 to 1.8
/// times what it was, whether the third is slow or gone.)
pub(crate) fn slow_follower(seed: u64) -> Report {
    let mut trial = steady(seed);
    let shards = trial.plan.shards;
    let workload = Rc::clone(&trial.workload);
    trial.safety(|cluster| {
        let sim = cluster.sim.clone();
        sim.run_for(WARM_UP);
        let lead = some_lead(cluster, shards);
        let follower = others(cluster, lead.node)[sim.random_below(2) as usize];
        let at = cluster.nodes().iter().position(|node| *node == follower);
        let led = led_by(cluster, at.unwrap());
        let all = (0..shards).map(ShardId);
        let meant: Vec<ShardId> = all.filter(|shard| !led.contains(shard)).collect();
        let began = sim.now();
        sim.run_for(3 * WARM_UP);
        let from = sim.now();
        sim.disk(follower).set_slowness(100);
        sim.run_for(3 * WARM_UP);
        let until = sim.now();
        cluster.kill(at.unwrap());
        sim.run_for(3 * WARM_UP);
        let end = sim.now();
        sim.disk(follower).heal();
        restart_all(cluster);
        let history = writes(&workload.notes.history.borrow());
        let (usual, meanwhile, without) = (
            p99(&history, &meant, began, from),
            p99(&history, &meant, from, until),
            p99(&history, &meant, until, end),
        );
        println!("p99 {usual:?}, with a slow follower {meanwhile:?}, without it {without:?}");
        assert!(
            2 * meanwhile <= 3 * without,
            "p99 with a slow follower: {meanwhile:?} instead of {without:?}"
        );
    });
    trial.end(|_| ())
}

#[test]
fn a_slow_follower_does_not_slow_a_quorum() {
    check(1, slow_follower);
}
