//! Nodes that do nothing but beat, in the simulator.

mod cluster;

use crate::planted::{Bug, plant};
use cluster::Nodes;
use corelith_io::sim::SimConfig;
use std::cell::RefCell;
use std::time::Duration;

const PROMISE: Duration = Duration::from_millis(300);

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn promises_run_while_beats_flow_and_only_for_cores_with_a_pulse() {
    for count in [2, 3] {
        let nodes = Nodes::started(count as u64, count);
        nodes.wait("all count all", || nodes.all_count());
        nodes.run(Duration::from_secs(5), || assert!(nodes.all_count()));
        nodes.has_pulse.borrow_mut()[0] = false;
        nodes.run(2 * PROMISE, || {});
        for other in 1..count {
            assert!(!nodes.promises(other, 0), "its core stands still");
            assert!(!nodes.counts(0, other));
            assert!(nodes.promises(0, other) && nodes.counts(other, 0));
        }
        nodes.has_pulse.borrow_mut()[0] = true;
        nodes.wait("all count all again", || nodes.all_count());
    }
}

#[test]
fn a_new_connection_gives_a_promise_at_once() {
    let nodes = Nodes::new(1, 2, SimConfig::default());
    nodes.start(0);
    nodes.run(Duration::from_secs(2), || {});
    nodes.start(1);
    // The one that was there first does not wait for the end of its pause.
    nodes.wait_for("all count", millis(100), || nodes.all_count());
}

#[test]
fn who_does_not_hear_gets_no_promise() {
    for seed in 0..10 {
        let nodes = Nodes::started(seed, 2);
        nodes.wait("all count all", || nodes.all_count());
        // Node 0 is heard, and hears nothing.
        nodes.cut_one_way(1, 0);
        nodes.run(2 * PROMISE, || {});
        nodes.run(Duration::from_secs(3), || {
            assert!(!nodes.promises(1, 0), "it hears nothing");
            assert!(!nodes.promises(0, 1), "nothing comes from there");
            assert!(!nodes.counts(0, 1) && !nodes.counts(1, 0));
        });
        nodes.sim.net().heal_all();
        nodes.wait("all count all again", || nodes.all_count());
    }
}

#[test]
fn what_was_promised_before_a_restart_does_not_count_after_it() {
    for seed in 0..10 {
        let nodes = Nodes::started(seed, 2);
        nodes.wait("all count all", || nodes.all_count());
        let before = nodes.epoch_counted(0, 1).unwrap();
        nodes.crash(1);
        nodes.start(1);
        nodes.wait("the new start is counted", || {
            nodes.check();
            nodes.counts(0, 1) && nodes.epoch_counted(0, 1) != Some(before)
        });
        assert_eq!(nodes.counts_in(0, 1, before), false);
        nodes.crash(0);
        nodes.start(0);
        assert!(
            !nodes.is_up(0) || !nodes.counts(0, 1),
            "it has asked for nothing"
        );
        nodes.wait("all count all again", || nodes.all_count());
    }
}

#[test]
fn a_receiver_that_is_paused_promises_nothing_meanwhile() {
    for seed in 0..10 {
        let nodes = Nodes::started(seed, 2);
        nodes.wait("all count all", || nodes.all_count());
        nodes.sim.pause(nodes.nodes[1]);
        nodes.run(PROMISE, || nodes.check());
        nodes.run(Duration::from_secs(2), || assert!(!nodes.counts(0, 1)));
        nodes.sim.resume(nodes.nodes[1]);
        nodes.wait("all count all again", || {
            nodes.check();
            nodes.all_count()
        });
    }
}

#[test]
fn who_turns_has_another_epoch_and_counts_anew() {
    let nodes = Nodes::started(5, 2);
    nodes.wait("all count all", || nodes.all_count());
    let before = nodes.epoch_counted(0, 1).unwrap();
    assert!(!nodes.turn(1, 0), "a promise runs");
    nodes.cut_one_way(0, 1);
    nodes.run(2 * PROMISE, || nodes.check());
    assert!(nodes.turn(1, 0), "it has run out");
    nodes.sim.net().heal_all();
    nodes.wait("it counts again", || {
        assert!(!nodes.counts_in(0, 1, before));
        nodes.counts(0, 1)
    });
    assert_eq!(nodes.epoch_counted(0, 1), before.next());
}

#[test]
fn a_clock_that_runs_at_another_rate_does_not_count_until_it_is_right() {
    let config = SimConfig {
        clock_drift_ppm_max: 0,
        ..SimConfig::default()
    };
    let nodes = Nodes::new(1, 2, config);
    nodes.start(0);
    nodes.start(1);
    nodes.wait("all count all", || nodes.all_count());
    nodes.sim.set_clock_drift(nodes.nodes[1], 6_000);
    nodes.run(Duration::from_secs(22), || {});
    assert!(!nodes.counts(0, 1) && !nodes.counts(1, 0));
    nodes.sim.set_clock_drift(nodes.nodes[1], 4_000);
    nodes.run(Duration::from_secs(22), || {});
    assert!(nodes.all_count());
}

/// One run with faults at random; nobody ever counts on more than is promised.
fn chaos(seed: u64) -> Option<String> {
    let count = 2 + (seed % 2) as usize;
    let config = SimConfig {
        clock_drift_ppm_max: 0,
        ..SimConfig::rough()
    };
    let nodes = Nodes::new(seed, count, config);
    for at in 0..count {
        let ppm = [-5_000, 0, 5_000][nodes.sim.random_below(3) as usize];
        nodes.sim.set_clock_drift(nodes.nodes[at], ppm);
        nodes.start(at);
    }
    let wrong = RefCell::new(None);
    let look = || {
        let mut wrong = wrong.borrow_mut();
        *wrong = wrong.take().or_else(|| nodes.wrong());
        wrong.is_some()
    };
    for _ in 0..60 {
        strike(&nodes, count);
        let pause = millis(nodes.sim.random_below(250));
        if nodes.sim.run_until(look, pause) {
            return wrong.take();
        }
    }
    nodes.sim.net().heal_all();
    for at in 0..count {
        nodes.has_pulse.borrow_mut()[at] = true;
        nodes.sim.set_clock_drift(nodes.nodes[at], 0);
        nodes.sim.resume(nodes.nodes[at]);
        nodes.start(at);
    }
    nodes.wait_for("all count all at last", Duration::from_secs(40), || {
        look() || nodes.all_count()
    });
    wrong.take()
}

fn strike(nodes: &Nodes, count: usize) {
    let at = nodes.sim.random_below(count as u64) as usize;
    let other = (at + 1 + nodes.sim.random_below(count as u64 - 1) as usize) % count;
    let (a, b) = (nodes.nodes[at], nodes.nodes[other]);
    match nodes.sim.random_below(16) {
        0 => nodes.cut_one_way(at, other),
        1 => nodes.sim.net().cut(a, b),
        2 | 3 => nodes.sim.net().heal_all(),
        4 => nodes.sim.pause(a),
        5 | 6 => nodes.sim.resume(a),
        7 => nodes.crash(at),
        8 => nodes.kill(at),
        9 => {
            let delay = millis(nodes.sim.random_below(400));
            nodes.sim.net().clog(a, b, delay);
        }
        10 => nodes.sim.net().reset(a, b),
        11 => {
            let pulses = &mut nodes.has_pulse.borrow_mut()[at];
            *pulses = !*pulses;
        }
        12 | 13 => nodes.acknowledge(at, other),
        _ => drop(nodes.turn(at, other)),
    }
    if nodes.sim.random_below(3) == 0 {
        (0..count).for_each(|at| nodes.start(at));
    }
}

#[test]
fn nobody_counts_on_more_than_is_promised() {
    let seeds = std::env::var("CORELITH_SIM_SEEDS").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        assert_eq!(chaos(seed), None, "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::VoteAfterRestart,
        Bug::ShortEmbargo,
        Bug::VoteWhilePromised,
        Bug::IgnoreEpoch,
        Bug::KeepEpoch,
        Bug::CountFromReceipt,
        Bug::IgnoreDrift,
        Bug::ShortenPromise,
    ] {
        plant(Some(bug));
        let found = (0..1_000).find(|seed| chaos(*seed).is_some());
        plant(None);
        println!("{bug:?}: seed {found:?}");
        assert!(found.is_some(), "{bug:?} is not found");
    }
}

#[test]
fn a_node_sends_one_beat_to_each_other_node_and_no_more() {
    const NODES: usize = 100;
    let nodes = Nodes::new(3, NODES, SimConfig::default());
    nodes.options.borrow_mut().beat = millis(500);
    nodes.options.borrow_mut().promise = millis(1500);
    (0..NODES).for_each(|at| nodes.start(at));
    // To look at all pairs at each step would take minutes.
    let all_count = (0..20).any(|_| {
        nodes.sim.run_for(millis(500));
        nodes.all_count()
    });
    assert!(all_count);
    let before = nodes.beats_taken();
    nodes.sim.run_for(Duration::from_secs(2));
    let beats = nodes.beats_taken() - before;
    let expected = (NODES * (NODES - 1) * 4) as u64;
    assert!(
        (expected * 9 / 10..=expected * 11 / 10).contains(&beats),
        "{beats} beats, {expected} expected"
    );
}
