//! Partitions of every kind.

use super::watch::Terms;
use super::{answers_reads, check, led_by, moment, others, some_lead, steady, wait_successor};
use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::trial::{Report, Trial};
use corelith_io::sim::SimNode;
use std::rc::Rc;
use std::time::Duration;

const ROUNDS: u64 = 3;
const FLAP_PERIOD: Duration = Duration::from_millis(500);

/// A leader with clients on its side is cut off from the other nodes; other clients reach both sides.
pub(crate) fn cut_off(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    trial.safety(|cluster| {
        for _ in 0..ROUNDS {
            let lead = some_lead(cluster, shards);
            cluster
                .sim
                .net()
                .partition(&[lead.node], &others(cluster, lead.node));
            // It has lost the other nodes' consent to anything that was not on its way.
            cluster.sim.run_for(lease);
            for shard in led_by(cluster, lead.at) {
                assert!(
                    !answers_reads(cluster, lead.at, shard),
                    "the minority answers reads of {shard} after its lease"
                );
            }
            wait_successor(cluster, lead, Duration::from_secs(10));
            assert!(!answers_reads(cluster, lead.at, lead.shard));
            cluster.sim.run_for(moment(cluster, lease));
            cluster.sim.net().heal_all();
            cluster.sim.run_for(moment(cluster, 2 * lease));
        }
    });
    trial.end(|_| ())
}

#[test]
fn a_minority_answers_no_read_after_its_lease() {
    check(2, cut_off);
}

/// A leader is cut off together with clients, who go on asking it; everybody else is on the other side.
pub(crate) fn island(seed: u64) -> Report {
    let mut trial = steady(seed);
    let (lease, shards) = (trial.plan.lease(), trial.plan.shards);
    let castaways = trial.cluster.sim.add_node();
    trial.workload.join(castaways);
    trial.safety(|cluster| {
        for _ in 0..ROUNDS {
            let lead = some_lead(cluster, shards);
            cluster.sim.run_for(moment(cluster, lease));
            let mut mainland = others(cluster, lead.node);
            mainland.push(cluster.outside);
            let net = cluster.sim.net();
            net.partition(&[lead.node, castaways], &mainland);
            wait_successor(cluster, lead, Duration::from_secs(10));
            cluster.sim.run_for(moment(cluster, lease));
            net.heal_all();
            cluster.sim.run_for(moment(cluster, lease));
        }
    });
    trial.end(|_| ())
}

#[test]
fn a_leader_cut_off_with_its_clients_serves_nothing_stale() {
    check(2, island);
}

/// Nodes, leaders first, hear nothing or say nothing.
pub(crate) fn one_way(seed: u64) -> Report {
    let mut trial = steady(seed);
    let shards = trial.plan.shards;
    trial.safety(|cluster| {
        let mut terms = Terms::default();
        let shapes: [fn(&Cluster, SimNode); 3] = [
            |cluster, node| cluster.sim.net().deafen(node),
            |cluster, node| cluster.sim.net().mute(node),
            |cluster, node| {
                let peers = others(cluster, node);
                let one = peers[cluster.sim.random_below(peers.len() as u64) as usize];
                cluster.sim.net().cut_one_way(node, one);
            },
        ];
        for shape in shapes {
            let lead = some_lead(cluster, shards);
            shape(cluster, lead.node);
            terms.watch(cluster, Duration::from_secs(3));
            cluster.sim.net().heal_all();
            terms.watch(cluster, Duration::from_secs(1));
            let at = cluster.sim.random_below(cluster.len() as u64) as usize;
            shape(cluster, cluster.node(at));
            terms.watch(cluster, Duration::from_secs(2));
            cluster.sim.net().heal_all();
        }
    });
    trial.end(|_| ())
}

#[test]
fn deaf_and_mute_nodes_leave_one_leader_a_term() {
    check(2, one_way);
}

/// Five nodes: in a ring each reaches two others, and a bridge is all that joins two pairs. A majority is always
/// reached by somebody.
pub(crate) fn ring_and_bridge(seed: u64) -> Report {
    let plan = Plan::steady(seed);
    let plan = Plan {
        cores: vec![1; 5],
        clocks: (0..5).map(|at| plan.clocks[at % 3]).collect(),
        replicas: 5,
        shards: 2,
        ..plan
    };
    let mut trial = Trial::start(&plan);
    let notes = Rc::clone(&trial.workload);
    trial.safety(|cluster| {
        let mut terms = Terms::default();
        let nodes = cluster.nodes();
        for round in 0..ROUNDS {
            let at = |turn: u64| nodes[((round + turn) % 5) as usize];
            let net = cluster.sim.net();
            for turn in 0..5 {
                net.cut(at(turn), at(turn + 2));
            }
            terms.watch(cluster, Duration::from_secs(3));
            net.heal_all();
            terms.watch(cluster, Duration::from_secs(1));
            net.partition(&[at(0), at(1)], &[at(2), at(3)]);
            let before = notes.notes.history.borrow().len();
            terms.watch(cluster, Duration::from_secs(10));
            let after = notes.notes.history.borrow().len();
            assert!(after > before, "nothing is answered over a bridge");
            net.heal_all();
            terms.watch(cluster, Duration::from_secs(1));
        }
    });
    trial.end(|_| ())
}

#[test]
fn rings_and_bridges_leave_one_leader_a_term() {
    check(1, ring_and_bridge);
}

/// Links of a leader come and go every half second.
pub(crate) fn flapping(seed: u64) -> Report {
    let mut trial = steady(seed);
    let shards = trial.plan.shards;
    trial.safety(|cluster| {
        let mut terms = Terms::default();
        for round in 0..ROUNDS {
            let lead = some_lead(cluster, shards);
            let peers = others(cluster, lead.node);
            let net = cluster.sim.net();
            for peer in peers.iter().take(1 + round as usize % 2) {
                net.flap(lead.node, *peer, FLAP_PERIOD, 4);
                // Not all of them at once.
                cluster.sim.run_for(moment(cluster, FLAP_PERIOD));
            }
            if round == 2 {
                net.flap(peers[0], peers[1], FLAP_PERIOD, 4);
            }
            terms.watch(cluster, 9 * FLAP_PERIOD);
        }
    });
    trial.end(|_| ())
}

#[test]
fn links_that_flap_every_half_second_leave_one_leader_a_term() {
    check(2, flapping);
}
