//! Scenarios that the system must survive, on whole nodes with clients that work all the time. docs/exam.md says
//! which test is which scenario.
//!
//! Each is drawn from a seed, has the ends that every run has (`trial.rs`), and is run for more seeds with
//! `CORELITH_SIM_SEEDS`.

mod crash;
mod disk;
mod lead;
mod load;
mod members;
mod network;
mod planted;
mod time;
mod uploads;
mod watch;

use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::seeds::{on_all_processors, seeds};
use crate::trial::{Report, Trial};
use corelith_consensus::{Group, Role};
use corelith_io::sim::SimNode;
use corelith_shards::{NodeId, ShardId};
use std::sync::Mutex;
use std::time::Duration;

/// Runs a scenario for some seeds and says what was checked.
fn check(few: u64, scenario: impl Fn(u64) -> Report + Sync) {
    let seeds = seeds(few);
    let runs = seeds.end - seeds.start;
    let total = Mutex::new(Report::default());
    on_all_processors(seeds, |seed| {
        let report = scenario(seed);
        total.lock().unwrap().add(&report);
    });
    println!("{}", total.into_inner().unwrap().summary(runs));
}

/// A leader of a cluster: its node, and one shard that it leads.
#[derive(Clone, Copy)]
struct Lead {
    at: usize,
    node: SimNode,
    shard: ShardId,
}

/// The leader of some shard, once there is one.
fn some_lead(cluster: &Cluster, shards: u32) -> Lead {
    let sim = cluster.sim.clone();
    let shard = ShardId(sim.random_below(shards.into()) as u32);
    let is_led = || cluster.leader(shard).is_some();
    assert!(sim.run_until(is_led, Duration::from_secs(10)), "no leader");
    let at = cluster.place_of(cluster.leader(shard).unwrap().node());
    Lead {
        at,
        node: cluster.node(at),
        shard,
    }
}

/// All nodes but one.
fn others(cluster: &Cluster, node: SimNode) -> Vec<SimNode> {
    let mut nodes = cluster.nodes();
    nodes.retain(|other| *other != node);
    nodes
}

/// The shards that a node leads, as far as it knows.
fn led_by(cluster: &Cluster, at: usize) -> Vec<ShardId> {
    let groups = cluster.groups().into_iter();
    let here = groups.filter(|group| cluster.place_of(group.node()) == at);
    let led = here.filter(|group| group.status().role == Role::Leader);
    led.map(|group| group.shard()).collect()
}

/// The replica of a shard on a node.
fn replica(cluster: &Cluster, at: usize, shard: ShardId) -> Option<Group> {
    let mut groups = cluster.groups().into_iter();
    groups.find(|group| group.shard() == shard && cluster.place_of(group.node()) == at)
}

/// Whether a node would answer a read of the shard by itself.
fn answers_reads(cluster: &Cluster, at: usize, shard: ShardId) -> bool {
    let Some(group) = replica(cluster, at, shard) else {
        return false;
    };
    let node = cluster.node(at);
    cluster.sim.enter(node, || group.try_read_point().is_some())
}

/// Waits until another node answers reads of the shard.
fn wait_successor(cluster: &Cluster, old: Lead, limit: Duration) -> usize {
    let nodes = 0..cluster.len();
    let others = || nodes.clone().filter(|at| *at != old.at);
    let next = || others().find(|at| answers_reads(cluster, *at, old.shard));
    let sim = &cluster.sim;
    assert!(
        sim.run_until(|| next().is_some(), limit),
        "{} has no other leader after {limit:?}",
        old.shard
    );
    next().unwrap()
}

/// A time up to `longest`, to the microsecond.
fn moment(cluster: &Cluster, longest: Duration) -> Duration {
    Duration::from_micros(cluster.sim.random_below(longest.as_micros() as u64))
}

fn id(cluster: &Cluster, at: usize) -> NodeId {
    cluster.id(at)
}

/// A cluster under steady load.
fn steady(seed: u64) -> Trial {
    Trial::start(&Plan::steady(seed))
}

/// Starts every node that is down.
fn restart_all(cluster: &mut Cluster) {
    cluster.check_events();
    for at in 0..cluster.len() {
        if !cluster.is_running(at) {
            cluster.restart(at);
        }
    }
}
