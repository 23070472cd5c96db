//! Clusters whose members change while things go wrong: nodes that join, go, and come back empty, and replicas that
//! have lost their files.

use super::{check, id, moment, replica};
use crate::cluster::Cluster;
use crate::nemesis::Nemesis;
use crate::operator::{order, view};
use crate::plan::Plan;
use crate::trial::{Report, Trial};
use corelith_client::{ClusterAnswer, ClusterOrder, ClusterView};
use corelith_shards::{NodeId, ShardId};
use std::time::Duration;

/// Machines that join in one run at most.
const JOINS_MAX: usize = 3;
/// A cluster comes to rest within this.
const SETTLED_WITHIN: Duration = Duration::from_secs(900);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A cluster without faults and changes stays as it is.
const LOOKS: u32 = 3;

/// Three nodes of any sort, with clients that leave the time for longer runs.
fn three(seed: u64) -> Plan {
    let plan = Plan::of(seed);
    Plan {
        cores: plan.cores[..3].to_vec(),
        clocks: plan.clocks[..3].to_vec(),
        replicas: 3,
        shards: 1 + (seed % 3) as u32,
        clients: 2,
        lanes: 2,
        pause_ms: 80,
        ..plan
    }
}

fn nemesis(plan: &Plan) -> Nemesis {
    let drift = plan.clocks.iter().map(|ppm| ppm.abs()).max().unwrap_or(0);
    Nemesis::new(plan.shards, plan.lease(), drift)
}

/// One change by an operator, who is refused now and then.
fn change(cluster: &mut Cluster) {
    let sim = cluster.sim.clone();
    let at = sim.random_below(cluster.len() as u64) as usize;
    let node = id(cluster, at).0;
    match sim.random_below(6) {
        0 | 1 if cluster.len() < 3 + JOINS_MAX => {
            cluster.join(1 + sim.random_below(2) as u16);
        }
        0..4 => drop(order(cluster, ClusterOrder::Drain { node })),
        4 => drop(order(cluster, ClusterOrder::Undrain { node })),
        _ => remove(cluster, at),
    }
}

/// Has a node removed, if it has no replicas.
fn remove(cluster: &mut Cluster, at: usize) {
    let node = id(cluster, at).0;
    cluster.leaves(at, true);
    if let Some(ClusterAnswer::Refused { .. }) = order(cluster, ClusterOrder::Remove { node }) {
        // What was removed before is refused as well.
        let now = view(cluster).map(|view| has_state(&view, node, "removed"));
        cluster.leaves(at, now != Some(false));
    }
}

fn has_state(view: &ClusterView, node: u64, state: &str) -> bool {
    let mut nodes = view.nodes.iter();
    nodes.any(|known| known.node == node && known.state == state)
}

/// Why a cluster is not at rest.
fn unrest(view: &ClusterView, replicas: usize) -> Option<String> {
    let drained = view.nodes.iter().find(|node| node.state == "draining");
    if let Some(node) = drained {
        return Some(format!("node {} is draining", node.node));
    }
    if let Some(change) = view.changes.first() {
        return Some(format!("{change:?}"));
    }
    let short = view
        .shards
        .iter()
        .find(|shard| shard.replicas.len() != replicas);
    if let Some(short) = short {
        return Some(format!("{short:?}"));
    }
    view.troubles.first().cloned()
}

/// Waits until everything that was begun is done, and those that were removed have gone.
fn settle(cluster: &mut Cluster, replicas: u32) {
    let sim = cluster.sim.clone();
    let until = sim.now() + SETTLED_WITHIN;
    let (mut why, mut calm) = (String::new(), 0);
    while calm < LOOKS {
        assert!(
            sim.now() < until,
            "not at rest after {SETTLED_WITHIN:?}: {why}"
        );
        sim.run_for(LOOK_EVERY);
        cluster.meet();
        cluster.check_events();
        let Some(view) = view(cluster) else {
            why = "nobody tells the state".to_owned();
            continue;
        };
        for at in 0..cluster.len() {
            let node = id(cluster, at).0;
            let is_gone = has_state(&view, node, "removed");
            cluster.leaves(at, is_gone);
            if is_gone && cluster.is_running(at) {
                cluster.kill(at);
            }
            if !is_gone && !cluster.is_running(at) {
                cluster.restart(at);
            }
        }
        for node in view
            .nodes
            .iter()
            .filter(|node| node.state == "draining" && node.replicas == 0)
        {
            let at = cluster.place_of(NodeId(node.node));
            remove(cluster, at);
        }
        match unrest(&view, replicas as usize) {
            None => calm += 1,
            Some(unrest) => (why, calm) = (unrest, 0),
        }
    }
}

/// Nodes join, are drained and removed, while the nemesis strikes.
pub(crate) fn changes(seed: u64) -> Report {
    let plan = three(seed);
    let mut trial = Trial::start(&plan);
    let mut nemesis = nemesis(&plan);
    trial.safety(|cluster| {
        for _ in 0..plan.strikes {
            let pause = moment(cluster, Duration::from_secs(3));
            cluster.sim.run_for(pause);
            cluster.meet();
            change(cluster);
            cluster.meet();
            nemesis.strike(cluster);
        }
    });
    let report = trial.end_settled(
        |cluster| nemesis.heal(cluster),
        |cluster| settle(cluster, plan.replicas),
    );
    Report {
        strikes: nemesis.strikes,
        ..report
    }
}

#[test]
fn nodes_come_and_go_while_everything_goes_wrong() {
    check(2, changes);
}

/// A node loses its disk while others are cut off now and then: it is taken in again as it is, and made whole.
pub(crate) fn emptied(seed: u64) -> Report {
    let plan = three(seed);
    let mut trial = Trial::start(&plan);
    let mut which = 0;
    trial.safety(|cluster| {
        let sim = cluster.sim.clone();
        which = sim.random_below(3) as usize;
        sim.run_for(moment(cluster, Duration::from_secs(3)));
        cluster.crash(which);
        cluster.empty(which);
        sim.run_for(moment(cluster, Duration::from_secs(3)));
        cluster.restart(which);
        for _ in 0..6 {
            let nodes = cluster.nodes();
            let other = nodes[sim.random_below(3) as usize];
            let rest: Vec<_> = nodes.into_iter().filter(|node| *node != other).collect();
            sim.net().partition(&[other], &rest);
            sim.run_for(moment(cluster, Duration::from_secs(3)));
            sim.net().heal_all();
            sim.run_for(moment(cluster, Duration::from_secs(6)));
        }
    });
    trial.end_settled(
        |_| (),
        |cluster| {
            settle(cluster, plan.replicas);
            for shard in (0..plan.shards).map(ShardId) {
                is_anew(cluster, which, shard);
            }
        },
    )
}

/// The replica of a shard on that node is none of the first, and runs.
fn is_anew(cluster: &Cluster, at: usize, shard: ShardId) {
    let is_anew = || replica(cluster, at, shard).is_some_and(|of| of.replica().generation() > 0);
    assert!(
        cluster.sim.run_until(is_anew, SETTLED_WITHIN),
        "{shard} is not made anew on node {}",
        id(cluster, at)
    );
}

#[test]
fn an_emptied_node_is_taken_in_again_under_load() {
    check(1, emptied);
}

/// The files of one shard of a node are gone, or one of them is damaged: its replica is made anew by itself, and the
/// others of the node are as they were.
pub(crate) fn lost_files(seed: u64) -> Report {
    let plan = three(seed);
    let mut trial = Trial::start(&plan);
    let mut lost = (0, ShardId(0));
    trial.safety(|cluster| {
        let sim = cluster.sim.clone();
        lost = (
            sim.random_below(3) as usize,
            ShardId(sim.random_below(plan.shards.into()) as u32),
        );
        sim.run_for(Duration::from_secs(2) + moment(cluster, Duration::from_secs(3)));
        let (at, shard) = lost;
        cluster.crash(at);
        let disk = sim.disk(cluster.node(at));
        let dir = format!("/data/shards/{:05}/", shard.0);
        let files = disk.files().into_iter().map(|(file, _)| file);
        let files: Vec<String> = files.filter(|file| file.starts_with(&dir)).collect();
        assert!(!files.is_empty(), "{shard} has files");
        match seed % 2 {
            0 => files.iter().for_each(|file| disk.remove(file)),
            _ => {
                let manifest = format!("{dir}MANIFEST");
                disk.corrupt(manifest, 9, |byte| !byte);
            }
        }
        cluster.restart(at);
        sim.run_for(Duration::from_secs(5));
    });
    trial.end_settled(
        |_| (),
        |cluster| {
            let (at, shard) = lost;
            is_anew(cluster, at, shard);
            settle(cluster, plan.replicas);
            for other in (0..plan.shards)
                .map(ShardId)
                .filter(|other| *other != shard)
            {
                let replica = replica(cluster, at, other).unwrap().replica();
                assert_eq!(replica.generation(), 0, "seed {seed}: {other} was well");
            }
        },
    )
}

#[test]
fn a_replica_without_its_files_is_made_anew() {
    check(2, lost_files);
}
