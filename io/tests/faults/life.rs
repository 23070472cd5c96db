//! Processes that stop, clocks that drift, and simulations that fail.

use crate::{for_seeds, ms};
use corelith_io::sim::{Sim, SimConfig};
use corelith_io::{Instant, now, sleep, spawn};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

#[test]
fn a_stopped_process_does_nothing_until_it_goes_on() {
    for_seeds(5, |sim, node| {
        let ticks = Rc::new(Cell::new(0));
        let counter = Rc::clone(&ticks);
        sim.start(node, 0, move || async move {
            loop {
                sleep(ms(10)).await;
                counter.set(counter.get() + 1);
            }
        });
        sim.run_for(ms(500));
        let before = ticks.get();
        assert!(before > 30, "{before}");
        sim.pause(node);
        sim.run_for(ms(5000));
        assert_eq!(ticks.get(), before);
        sim.resume(node);
        sim.run_for(ms(500));
        assert!(ticks.get() > before + 30);
        sim.pause(node);
        sim.run_for(ms(100));
        sim.crash(node);
        let dead = ticks.get();
        sim.run_for(ms(500));
        assert_eq!(ticks.get(), dead);
    });
}

#[test]
fn clocks_drift_and_begin_again_with_the_machine() {
    let config = SimConfig {
        clock_drift_ppm_max: 0,
        ..SimConfig::default()
    };
    let sim = Sim::with_config(1, config);
    let (fast, slow) = (sim.add_node(), sim.add_node());
    sim.set_clock_drift(fast, 50_000);
    sim.set_clock_drift(slow, -50_000);
    let read = |node| sim.block_on(node, async { now() });
    let (fast_start, slow_start) = (read(fast), read(slow));
    sim.run_for(Duration::from_secs(100));
    let near = |passed: Duration, seconds: f64| (passed.as_secs_f64() - seconds).abs() < 0.01;
    assert!(near(read(fast) - fast_start, 105.0));
    assert!(near(read(slow) - slow_start, 95.0));
    let slept = |node| {
        let start = sim.now();
        sim.block_on(node, async { sleep(Duration::from_secs(10)).await });
        sim.now() - start
    };
    assert!(near(slept(fast), 10.0 / 1.05));
    assert!(near(slept(slow), 10.0 / 0.95));
    let before: Instant = read(slow);
    sim.kill(slow);
    assert!(read(slow) >= before);
    sim.crash(slow);
    assert_ne!(
        read(slow).as_nanos() / 1_000_000_000,
        before.as_nanos() / 1_000_000_000
    );
}

#[test]
fn a_dead_process_does_nothing_more() {
    for_seeds(5, |sim, node| {
        let ran = Rc::new(Cell::new(0));
        let (counter, killer) = (Rc::clone(&ran), sim.clone());
        sim.start(node, 0, move || async move {
            killer.kill(node);
            // The rest of this poll still runs, but what it asks for has no effect.
            let after = Rc::clone(&counter);
            spawn(async move { after.set(100) });
            counter.set(1);
            sleep(ms(1)).await;
            counter.set(200);
        });
        sim.run_for(ms(100));
        assert_eq!(ran.get(), 1);
    });
}

#[test]
#[should_panic(expected = "a bug in a task")]
fn a_panic_passes_through() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.start(node, 0, || async { panic!("a bug in a task") });
    sim.run_for(ms(10));
}

#[test]
#[should_panic(expected = "nothing can happen any more")]
fn waiting_for_ever_is_noticed() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, std::future::pending::<()>());
}

#[test]
#[should_panic(expected = "the virtual time limit has passed")]
fn taking_too_long_is_noticed() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        loop {
            sleep(Duration::from_secs(1)).await;
        }
    });
}

#[test]
fn a_world_leaves_nothing_behind() {
    let held = Rc::new(());
    let in_task = Rc::clone(&held);
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.start(node, 0, move || async move {
        let _in_task = in_task;
        std::future::pending::<()>().await;
    });
    sim.run_for(ms(1));
    assert_eq!(Rc::strong_count(&held), 2);
    drop(sim);
    assert_eq!(Rc::strong_count(&held), 1);
}
