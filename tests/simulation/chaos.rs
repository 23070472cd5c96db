//! Random operations of several clients under random faults.

use crate::cluster::Cluster;
use crate::history::{self, What};
use crate::nemesis::Nemesis;
use crate::plan::Plan;
use crate::replicas;
use crate::workload::Workload;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What a run did, so that a test can see that it did something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub trace_hash: u64,
    pub done: usize,
    pub unknown: usize,
    pub strikes: usize,
    /// Replicas that a snapshot was sent to, or that purged their log.
    pub purged: usize,
    pub refusals: BTreeMap<&'static str, usize>,
    /// Milliseconds of simulated time.
    pub millis: u128,
}

impl Report {
    /// Adds up; the hashes are left out.
    pub(crate) fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.unknown += other.unknown;
        self.strikes += other.strikes;
        self.purged += other.purged;
        self.millis += other.millis;
        for (how, count) in &other.refusals {
            *self.refusals.entry(how).or_insert(0) += count;
        }
    }
}

/// Runs the cluster that `plan` describes under random faults, checks what its clients saw, and
/// compares its replicas. Panics at what is wrong.
pub(crate) fn run(plan: &Plan) -> Report {
    let seed = plan.seed;
    let mut cluster = Cluster::start(plan);
    cluster.wait_ready(Duration::from_secs(30));
    let workload = Workload::new(&cluster.sim, plan, cluster.map());
    for core in 0..plan.clients {
        let workload = Rc::clone(&workload);
        cluster
            .sim
            .start(cluster.outside, core, move || workload.run_client());
    }
    let promise = Duration::from_millis(plan.promise_ms);
    let drift = plan.clocks.iter().map(|ppm| ppm.abs()).max().unwrap_or(0);
    let mut nemesis = Nemesis::new(plan.shards, promise, drift);
    for _ in 0..plan.strikes {
        let pause = 20 + cluster.sim.random_below(700);
        cluster.sim.run_for(Duration::from_millis(pause));
        nemesis.strike(&mut cluster);
    }
    nemesis.heal(&mut cluster);
    cluster.wait_ready(Duration::from_secs(60));
    let sim = cluster.sim.clone();
    let has_room = || cluster.groups().iter().all(|group| !group.is_disk_full());
    assert!(
        sim.run_until(has_room, Duration::from_secs(60)),
        "seed {seed}: space does not come back"
    );
    workload.stop.set(true);
    let ended = Rc::clone(&workload);
    let live = sim.run_until(|| ended.running.get() == 0, Duration::from_secs(60));
    assert!(live, "seed {seed}: the clients do not come to an end");
    sim.block_on(cluster.outside, Rc::clone(&workload).read_everything());
    cluster.check_events();
    // A write whose caller has gone may still be on its way.
    sim.run_for(Duration::from_secs(3));
    replicas::check_equal(&cluster, plan.shards, plan.replicas);
    let history = workload.history.borrow();
    if let Err(why) = history::check(&history) {
        panic!("seed {seed}: the history has no explanation: {why}");
    }
    let is_unknown = |event: &&history::Event| matches!(event.what, What::Unknown { .. });
    let groups = cluster.groups();
    let purged = groups
        .iter()
        .filter(|group| group.status().purged.is_some());
    Report {
        trace_hash: sim.trace_hash(),
        done: history.len(),
        unknown: history.iter().filter(is_unknown).count(),
        strikes: nemesis.strikes,
        purged: purged.count(),
        refusals: workload.refusals.borrow().clone(),
        millis: sim.now().as_millis(),
    }
}
