//! Clients and faults at random, from a seed; the history must be linearizable, the replicas equal,
//! and the same seed must give the same run.
//!
//! `CORELITH_SIM_SEEDS=2000 cargo test --release -p corelith-consensus chaos` runs more seeds;
//! `CORELITH_SIM_SEED=17` runs one.

use super::client::Client;
use super::cluster::Cluster;
use super::history::History;
use crate::Options;
use crate::planted::{Bug, plant};
use corelith_io::sim::SimConfig;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const CLIENTS: u32 = 4;
const KEYS: u32 = 3;
const FAULTS: u32 = 12;
/// The first seeds, which are run twice.
const REPEATED: u64 = 20;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The seeds of one of the four tests below, which run side by side.
fn seeds(quarter: u64) -> std::ops::Range<u64> {
    if let Some(seed) = number("CORELITH_SIM_SEED") {
        return if quarter == 0 { seed..seed + 1 } else { 0..0 };
    }
    let each = number("CORELITH_SIM_SEEDS").unwrap_or(REPEATED).div_ceil(4);
    quarter * each..(quarter + 1) * each
}

/// How a run went.
struct Run {
    hash: u64,
    operations: usize,
    verdict: Result<(), String>,
}

/// Does something bad to the cluster, or ends something bad.
fn fault(cluster: &Cluster) {
    let sim = &cluster.sim;
    let at = sim.random_below(3) as usize;
    let other = (at + 1 + sim.random_below(2) as usize) % 3;
    let (node, peer) = (cluster.nodes[at], cluster.nodes[other]);
    match sim.random_below(12) {
        0 | 1 if cluster.is_up(at) => cluster.crash(at),
        2 if cluster.is_up(at) => cluster.kill(at),
        3 => {
            if let Some(leader) = cluster.leader() {
                cluster.crash(leader);
            }
        }
        4 => sim.net().isolate(node),
        5 => sim.net().cut_one_way(node, peer),
        6 => sim.net().deafen(node),
        7 if cluster.is_up(at) => {
            sim.pause(node);
            sim.run_for(Duration::from_millis(500 + sim.random_below(2500)));
            sim.resume(node);
        }
        8 => sim.net().reset(node, peer),
        9 => sim.net().set_packet_loss(0.1),
        _ => sim.net().heal_all(),
    }
}

fn start_those_down(cluster: &Cluster) {
    for at in 0..3 {
        if !cluster.is_up(at) {
            cluster.start(at);
        }
    }
}

fn run(seed: u64, options: Options) -> Run {
    let cluster = Cluster::new(seed, SimConfig::rough(), options, 1);
    cluster.start_all();
    cluster.wait_leader();
    let history = Rc::new(RefCell::new(History::default()));
    let stop = Rc::new(Cell::new(false));
    let working = Rc::new(Cell::new(CLIENTS));
    for name in 0..CLIENTS {
        let client = Client::new(
            name,
            Rc::clone(&cluster.doors),
            Rc::clone(&history),
            Rc::clone(&stop),
            KEYS,
        );
        let working = Rc::clone(&working);
        cluster.sim.start(cluster.outside, 0, move || async move {
            client.run().await;
            working.set(working.get() - 1);
        });
    }
    for _ in 0..FAULTS {
        let pause = 100 + cluster.sim.random_below(1500);
        cluster.sim.run_for(Duration::from_millis(pause));
        fault(&cluster);
        if cluster.sim.random_below(2) == 0 {
            start_those_down(&cluster);
        }
    }
    cluster.sim.net().heal_all();
    start_those_down(&cluster);
    cluster.wait_leader();
    let before = history.borrow().operations.len();
    cluster.wait("operations succeed again", || {
        history.borrow().operations.len() > before + 10
    });
    stop.set(true);
    cluster.wait("the clients stop", || working.get() == 0);
    cluster.check_replicas_equal();
    let history = history.borrow();
    Run {
        hash: cluster.sim.trace_hash(),
        operations: history.operations.len(),
        verdict: history.check(&format!("groups-{seed}")),
    }
}

fn check(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        println!("seed {seed}");
        let first = run(seed, Options::default());
        assert_eq!(first.verdict, Ok(()), "seed {seed}");
        assert!(first.operations > 20, "seed {seed}: {}", first.operations);
        if seed < REPEATED {
            let second = run(seed, Options::default());
            assert_eq!(first.hash, second.hash, "seed {seed} does not repeat");
        }
    }
}

#[test]
fn histories_are_linearizable_and_runs_repeat_1() {
    check(seeds(0));
}

#[test]
fn histories_are_linearizable_and_runs_repeat_2() {
    check(seeds(1));
}

#[test]
fn histories_are_linearizable_and_runs_repeat_3() {
    check(seeds(2));
}

#[test]
fn histories_are_linearizable_and_runs_repeat_4() {
    check(seeds(3));
}

/// Runs seeds with a planted bug until one finds it.
fn is_found(bug: Bug) -> bool {
    (0..200).any(|seed| {
        plant(Some(bug));
        let found = run(seed, Options::default()).verdict;
        plant(None);
        if let Err(why) = &found {
            println!("seed {seed} found it: {why}");
        }
        found.is_err()
    })
}

#[test]
fn a_dropped_condition_check_is_found() {
    assert!(is_found(Bug::SkipConditions));
}

#[test]
fn a_follower_that_asks_nobody_is_found() {
    assert!(is_found(Bug::FollowerAsksNobody));
}
