//! Clocks at the bound of their rates, processes that are stopped, machines that sleep.

use super::{check, moment, others, some_lead, steady, wait_successor};
use crate::cluster::Cluster;
use crate::plan::DRIFT_PPM_MAX;
use crate::trial::Report;
use corelith_io::sim::{Sim, SimNode};
use std::time::Duration;

const ROUNDS: u64 = 4;
const LONG: Duration = Duration::from_secs(10);

/// A leader's clock is as slow as it may be, the other nodes' clocks as fast, and the leader loses them.
pub(crate) fn rates(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    let castaways = trial.cluster.sim.add_node();
    trial.workload.join(castaways);
    trial.safety(|cluster| {
        for round in 0..ROUNDS {
            let sim = cluster.sim.clone();
            let lead = some_lead(cluster, shards);
            let sign = if round % 2 == 0 { 1 } else { -1 };
            sim.set_clock_drift(lead.node, -sign * DRIFT_PPM_MAX);
            for node in others(cluster, lead.node) {
                sim.set_clock_drift(node, sign * DRIFT_PPM_MAX);
            }
            sim.run_for(2 * lease + moment(cluster, lease));
            let mut mainland = others(cluster, lead.node);
            mainland.push(cluster.outside);
            // One follower after the other, so that some have waited longer than others.
            for node in mainland {
                sim.net().partition(&[lead.node, castaways], &[node]);
                sim.run_for(moment(cluster, lease));
            }
            wait_successor(cluster, lead, LONG);
            sim.run_for(moment(cluster, lease));
            sim.net().heal_all();
        }
    });
    trial.end(|_| ())
}

#[test]
fn clocks_at_the_bound_of_their_rates_make_nothing_stale() {
    check(2, rates);
}

/// How a node is halted.
type Halt = fn(&Sim, SimNode);

/// A leader stands still for a random time in the middle of its work, until another one has taken writes, and goes
/// on where it was.
fn halted_leaders(cluster: &Cluster, shards: u32, lease: Duration, halt: Halt) {
    let sim = cluster.sim.clone();
    for _ in 0..ROUNDS {
        let lead = some_lead(cluster, shards);
        // Anywhere in what it does: with requests read and not answered, checked and not sent.
        sim.run_for(Duration::from_millis(50) + moment(cluster, Duration::from_millis(20)));
        halt(&sim, lead.node);
        wait_successor(cluster, lead, LONG);
        sim.run_for(moment(cluster, lease));
        sim.resume(lead.node);
        sim.run_for(moment(cluster, lease));
    }
}

pub(crate) fn pauses(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    trial.safety(|cluster| halted_leaders(cluster, shards, lease, Sim::pause));
    trial.end(|_| ())
}

#[test]
fn a_leader_that_pauses_between_the_check_and_the_answer_serves_nothing_stale() {
    check(2, pauses);
}

pub(crate) fn suspends(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    trial.safety(|cluster| halted_leaders(cluster, shards, lease, Sim::suspend));
    trial.end(|_| ())
}

#[test]
fn a_machine_that_sleeps_serves_nothing_stale_when_it_wakes() {
    check(2, suspends);
}

/// Leaders and followers are stopped (SIGSTOP) for twice the lease.
pub(crate) fn stops(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    trial.safety(|cluster| {
        let sim = cluster.sim.clone();
        for round in 0..ROUNDS {
            let lead = some_lead(cluster, shards);
            let node = match round % 2 {
                0 => lead.node,
                _ => others(cluster, lead.node)[sim.random_below(2) as usize],
            };
            sim.run_for(moment(cluster, Duration::from_millis(20)));
            sim.pause(node);
            sim.run_for(2 * lease);
            sim.resume(node);
            sim.run_for(moment(cluster, 2 * lease));
        }
    });
    trial.end(|_| ())
}

#[test]
fn a_stop_of_twice_the_lease_makes_nothing_stale() {
    check(2, stops);
}
