//! Leads that move because they must, or because they are asked to.

use super::watch::longest_write;
use super::{check, led_by, moment, some_lead, steady, wait_successor};
use crate::cluster::Cluster;
use crate::trial::Report;
use corelith_io::sim::{IoKind, SimNode};
use std::rc::Rc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);
/// An election, with the messages before it.
const ELECTION: Duration = Duration::from_millis(300);
/// The simulated disk takes a write in 0.1 ms. 100 times what real ones need is 30 ms and more.
const SLOWNESS: u32 = 400;
/// What a write waits for at most when a node stops in order.
const STOP_WAIT: Duration = Duration::from_millis(50);

/// Breaks the node that leads and takes the time until another one leads each of its shards: it must be noticed within
/// `notice`, a part of a promise, the last promises must run out, and somebody must be elected.
fn replaced(
    seed: u64,
    notice: f64,
    harm: impl Fn(&Cluster, SimNode),
    mend: impl Fn(&Cluster, SimNode),
) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    trial.safety(|cluster| {
        for _ in 0..3 {
            let lead = some_lead(cluster, shards);
            cluster.sim.run_for(lease + moment(cluster, lease));
            let led = led_by(cluster, lead.at);
            let began = cluster.sim.now();
            harm(cluster, lead.node);
            for shard in led {
                wait_successor(cluster, super::Lead { shard, ..lead }, LONG);
            }
            let took = cluster.sim.now() - began;
            let limit = lease + lease.mul_f64(notice) + ELECTION;
            assert!(took <= limit, "replaced after {took:?}, not {limit:?}");
            mend(cluster, lead.node);
            cluster.sim.run_for(LONG);
        }
    });
    trial.end(|_| ())
}

pub(crate) fn deaf(seed: u64) -> Report {
    let deafen = |cluster: &Cluster, node| cluster.sim.net().deafen(node);
    // Each beat shows whether the replies to those before it were heard.
    replaced(seed, 1.0 / 3.0, deafen, |cluster, _| {
        cluster.sim.net().heal_all()
    })
}

#[test]
fn a_leader_that_nobody_reaches_is_replaced_soon() {
    check(1, deaf);
}

/// Its disk takes writes and does not finish them, or nothing at all; its network is well.
pub(crate) fn stalled(seed: u64) -> Report {
    let stall = |cluster: &Cluster, node| {
        let kinds: &[IoKind] = match cluster.sim.random_below(2) {
            0 => &IoKind::ALL,
            _ => &IoKind::WRITES_AND_SYNCS,
        };
        cluster.sim.disk(node).hold(kinds);
    };
    replaced(seed, 1.0, stall, |cluster, node| {
        cluster.sim.disk(node).release()
    })
}

#[test]
fn a_leader_whose_disk_stalls_is_replaced_soon() {
    check(1, stalled);
}

/// The disk of the node that leads becomes slow: the leads go elsewhere, and come back.
pub(crate) fn slow(seed: u64) -> Report {
    let mut trial = steady(seed);
    let shards = trial.plan.shards;
    trial.safety(|cluster| {
        let sim = cluster.sim.clone();
        let lead = some_lead(cluster, shards);
        sim.run_for(Duration::from_secs(3));
        sim.disk(lead.node).set_slowness(SLOWNESS);
        let is_rid = || led_by(cluster, lead.at).is_empty();
        let moved = sim.run_until(is_rid, LONG);
        let led = led_by(cluster, lead.at);
        assert!(
            moved,
            "a node with a slow disk still leads {led:?} after {LONG:?}"
        );
        // None comes back while it is so.
        sim.run_for(LONG);
        let led = led_by(cluster, lead.at);
        assert!(
            led.is_empty(),
            "a node with a slow disk leads {led:?} again"
        );
        sim.disk(lead.node).heal();
    });
    trial.end(|_| ())
}

#[test]
fn a_leader_whose_disk_is_slow_loses_its_leads() {
    check(1, slow);
}

/// Each node in turn stops in order and comes back.
pub(crate) fn planned_stops(seed: u64) -> Report {
    let mut trial = steady(seed);
    let workload = Rc::clone(&trial.workload);
    let (from, until) = trial.safety(|cluster| {
        cluster.sim.run_for(Duration::from_secs(3));
        let from = cluster.sim.now();
        for at in 0..cluster.len() {
            cluster.stop(at);
            cluster.sim.run_for(Duration::from_secs(1));
            cluster.restart(at);
            cluster.wait_ready(LONG);
            cluster.sim.run_for(Duration::from_secs(4));
        }
        (from, cluster.sim.now())
    });
    let report = trial.end(|_| ());
    let history = workload.notes.history.borrow();
    let longest = longest_write(&history, from, until);
    assert!(
        longest.0 <= STOP_WAIT,
        "seed {seed}: a write waited {:?}: {:?}",
        longest.0,
        longest.1
    );
    report
}

#[test]
fn writes_wait_no_longer_than_50_ms_for_planned_stops() {
    check(1, planned_stops);
}
