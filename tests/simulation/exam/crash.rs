//! Nodes that die, come back too early, with an old disk, or not at all.

use super::watch::longest_gap;
use super::{
    answers_reads, check, id, led_by, moment, others, restart_all, some_lead, steady,
    wait_successor,
};
use crate::client::Client;
use crate::trial::Report;
use bytes::Bytes;
use corelith_shards::ShardId;
use corelith_wire::request::Condition;
use std::rc::Rc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);
/// Writes go on within a lease and this.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(2);

/// The node that leads dies.
pub(crate) fn death(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    let mut deaths = Vec::new();
    let seen = &mut deaths;
    trial.safety(|cluster| {
        for _ in 0..3 {
            let lead = some_lead(cluster, shards);
            cluster.sim.run_for(Duration::from_secs(2));
            let led = led_by(cluster, lead.at);
            let at = cluster.sim.now();
            cluster.crash(lead.at);
            cluster.sim.run_for(lease + BEYOND_THE_LEASE);
            seen.push((led, at, cluster.sim.now()));
            cluster.restart(lead.at);
            cluster.sim.run_for(LONG);
        }
    });
    let workload = Rc::clone(&trial.workload);
    let report = trial.end(|_| ());
    let history = workload.notes.history.borrow();
    for (led, from, until) in deaths {
        for shard in led {
            let gap = longest_gap(&history, shard, from, until + Duration::from_nanos(1));
            assert!(
                gap < lease + BEYOND_THE_LEASE,
                "seed {seed}: no write to {shard} was answered for {gap:?}"
            );
        }
    }
    report
}

#[test]
fn writes_go_on_soon_after_a_lease_holder_dies() {
    check(1, death);
}

/// A leader is cut off with clients of its own while a follower restarts within its lease and the other one wants
/// to lead.
pub(crate) fn early_return(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    let castaways = trial.cluster.sim.add_node();
    trial.workload.join(castaways);
    trial.safety(|cluster| {
        let sim = cluster.sim.clone();
        for _ in 0..4 {
            let lead = some_lead(cluster, shards);
            let peers = others(cluster, lead.node);
            let first = sim.random_below(2) as usize;
            let (voter, rival) = (peers[first], peers[1 - first]);
            // The rival has waited long when the voter's promise is lost with its process.
            sim.net().partition(&[lead.node, castaways], &[rival]);
            sim.run_for(2 * lease + moment(cluster, lease));
            let at = cluster.nodes().iter().position(|node| *node == voter);
            let at = at.unwrap();
            match sim.random_below(2) {
                0 => cluster.crash(at),
                _ => cluster.kill(at),
            }
            let mainland = [voter, rival, cluster.outside];
            sim.net().partition(&[lead.node, castaways], &mainland);
            cluster.restart(at);
            let lead = super::Lead {
                shard: led_by(cluster, lead.at)
                    .first()
                    .copied()
                    .unwrap_or(lead.shard),
                ..lead
            };
            wait_successor(cluster, lead, LONG);
            sim.run_for(moment(cluster, lease));
            sim.net().heal_all();
            sim.run_for(moment(cluster, lease));
        }
    });
    trial.end(|_| ())
}

#[test]
fn a_restart_within_a_lease_lets_no_two_readers_disagree() {
    check(2, early_return);
}

/// Two of three nodes are gone: what is left acknowledges nothing, and reads nothing once its lease is over.
pub(crate) fn lost_quorum(seed: u64) -> Report {
    let mut trial = steady(seed);
    let lease = trial.plan.lease();
    trial.safety(|cluster| {
        let left = cluster.sim.random_below(3) as usize;
        for at in (0..3).filter(|at| *at != left) {
            cluster.crash(at);
        }
        cluster.sim.run_for(2 * lease);
        let map = cluster.map();
        let asking = async move {
            let client = Client::new(map);
            for n in 0..6 {
                let key = Bytes::from(format!("k{n}"));
                let within = Duration::from_secs(1);
                let get = client.get(key.clone(), within).await;
                assert!(get.is_err(), "{get:?}");
                let value = Bytes::from_static(b"v");
                let put = client.put(key, value, Condition::Any, within).await;
                assert!(put.is_err(), "{put:?}");
            }
        };
        cluster.sim.block_on(cluster.outside, asking);
        for shard in (0..3).map(ShardId) {
            assert!(!answers_reads(cluster, left, shard));
        }
    });
    trial.end(restart_all)
}

#[test]
fn without_a_quorum_nothing_is_acknowledged() {
    check(2, lost_quorum);
}

/// The disk of a node is as it was some time ago: nobody counts it, and nothing is lost. In the end the right disk is
/// back.
pub(crate) fn old_image(seed: u64) -> Report {
    let mut trial = steady(seed);
    trial.safety(|cluster| {
        let sim = cluster.sim.clone();
        let at = sim.random_below(3) as usize;
        let disk = sim.disk(cluster.node(at));
        cluster.stop(at);
        let old = disk.image();
        cluster.restart(at);
        sim.run_for(Duration::from_secs(4));
        cluster.kill(at);
        let now = disk.image();
        disk.restore(&old);
        // It may end by itself when it is told what it is.
        cluster.excuse(at, true);
        cluster.restart(at);
        sim.run_for(Duration::from_secs(4));
        // The other ones need each other: nobody takes this one for a majority.
        let other = (at + 1) % 3;
        cluster.check_events();
        cluster.crash(other);
        sim.run_for(Duration::from_secs(4));
        for shard in (0..3).map(ShardId) {
            for node in (0..3).filter(|node| *node != other) {
                assert!(
                    !answers_reads(cluster, node, shard),
                    "{} leads {shard} with the vote of a rolled-back disk",
                    id(cluster, node)
                );
            }
        }
        cluster.check_events();
        if cluster.is_running(at) {
            cluster.kill(at);
        }
        disk.restore(&now);
        cluster.excuse(at, false);
    });
    trial.end(restart_all)
}

#[test]
fn an_old_disk_image_has_no_vote() {
    check(2, old_image);
}
