//! Random operations of several clients under random faults.

use crate::nemesis::Nemesis;
use crate::plan::Plan;
use crate::trial::{Report, Trial};
use std::time::Duration;

/// Runs the cluster that `plan` describes under random faults, checks what its clients saw, and
/// compares its replicas. Panics at what is wrong.
pub(crate) fn run(plan: &Plan) -> Report {
    let mut trial = Trial::start(plan);
    let promise = Duration::from_millis(plan.promise_ms);
    let drift = plan.clocks.iter().map(|ppm| ppm.abs()).max().unwrap_or(0);
    let mut nemesis = Nemesis::new(plan.shards, promise, drift);
    trial.safety(|cluster| {
        for _ in 0..plan.strikes {
            let pause = 20 + cluster.sim.random_below(700);
            cluster.sim.run_for(Duration::from_millis(pause));
            nemesis.strike(cluster);
        }
    });
    let report = trial.end(|cluster| nemesis.heal(cluster));
    Report {
        strikes: nemesis.strikes,
        ..report
    }
}
