//! Processes that stop, machines that sleep, clocks that drift, and simulations that fail.

use crate::{for_seeds, ms};
use corelith_io::sim::{Sim, SimConfig, SimNode};
use corelith_io::{Instant, TcpListener, TcpStream, now, sleep, spawn, timeout};
use std::cell::{Cell, RefCell};
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

/// A node that notes each second what its clock shows, and a peer that sends to it.
fn ticking(sim: &Sim, node: SimNode) -> Rc<RefCell<Vec<Duration>>> {
    let shown = Rc::new(RefCell::new(Vec::new()));
    let notes = Rc::clone(&shown);
    sim.start(node, 0, move || async move {
        let start = now();
        loop {
            sleep(Duration::from_secs(1)).await;
            notes.borrow_mut().push(start.elapsed());
        }
    });
    sim.run_for(ms(10_500));
    assert_eq!(shown.borrow().len(), 10);
    shown
}

#[test]
fn the_clock_goes_on_in_suspension_unless_it_is_to_stop() {
    for stops in [false, true] {
        for_seeds(5, |sim, node| {
            sim.set_clocks_stop_in_suspension(stops);
            let shown = ticking(sim, node);
            sim.suspend(node);
            sim.run_for(Duration::from_secs(60));
            assert_eq!(shown.borrow().len(), 10, "nothing runs");
            sim.resume(node);
            sim.run_for(ms(100));
            let first = shown.borrow().get(10).copied();
            match stops {
                // The timer was due long ago.
                false => assert!(first.unwrap().as_secs() == 70, "{first:?}"),
                true => assert_eq!(first, None, "half a second is left"),
            }
            sim.run_for(ms(900));
            let first = shown.borrow()[10];
            assert_eq!(first.as_secs(), if stops { 11 } else { 70 });
        });
    }
}

#[test]
fn a_machine_asleep_hears_nothing_and_its_disk_stands_still() {
    let heard_at_once = Cell::new(0);
    for_seeds(10, |sim, node| {
        let peer = sim.add_node();
        let written = Rc::new(Cell::new(0));
        let counter = Rc::clone(&written);
        sim.start(node, 0, move || async move {
            let listener = TcpListener::bind(node.address(7411)).unwrap();
            let file = crate::create("/f").await;
            loop {
                let (mut read, _write) = listener.accept().await.unwrap().into_split();
                while let Ok(1..) = read.read(&mut [0; 1]).await {
                    file.write_at(0, crate::block_of(1)).await.unwrap();
                    counter.set(counter.get() + 1);
                }
            }
        });
        let write = sim.block_on(peer, async move {
            let stream = TcpStream::connect(node.address(7411)).await.unwrap();
            let (_read, mut write) = stream.into_split();
            write.write_all(&[1]).await.unwrap();
            (_read, write)
        });
        sim.run_for(Duration::from_micros(sim.random_below(600)));
        sim.suspend(node);
        let seen = || (written.get(), sim.io_count(node), sim.disk(node).read("/f"));
        let before = seen();
        let halves = sim.block_on(peer, async move {
            let (read, mut write) = write;
            write.write_all(&[1; 2]).await.unwrap();
            // A process that is stopped is connected to all the same.
            let connected = timeout(ms(500), TcpStream::connect(node.address(7411))).await;
            assert!(connected.is_err());
            sleep(Duration::from_secs(5)).await;
            (read, write)
        });
        assert!(seen() == before);
        sim.resume(node);
        sim.run_for(ms(2));
        heard_at_once.set(heard_at_once.get() + u32::from(written.get() == 3));
        assert!(sim.run_until(|| written.get() == 3, ms(1000)));
        // It may be killed or lose its power in its sleep.
        sim.suspend(node);
        match sim.random_below(2) {
            0 => sim.kill(node),
            _ => sim.crash(node),
        }
        let start = sim.block_on(node, async { now() });
        sim.run_for(ms(1000));
        let passed = sim.block_on(node, async move { start.elapsed() });
        assert!(passed > ms(900), "its clock goes: {passed:?}");
        drop(halves);
    });
    assert!(
        heard_at_once.get() < 5,
        "what was sent meanwhile is sent again, a little later"
    );
}

#[test]
fn a_clock_whose_rate_changes_never_goes_back_and_its_timers_follow() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let slept = Rc::new(Cell::new(None));
        let set = Rc::clone(&slept);
        sim.start(node, 0, move || async move {
            let start = now();
            sleep(Duration::from_secs(100)).await;
            set.set(Some(start.elapsed()));
        });
        let mut last = sim.enter(node, now);
        let mut passed = Duration::ZERO;
        let mut shown = Duration::ZERO;
        while passed < Duration::from_secs(70) {
            let ppm = sim.random_below(1_000_000) as i32 - 500_000;
            sim.set_clock_drift(node, ppm);
            let time = Duration::from_millis(1 + sim.random_below(1500));
            let start = sim.now();
            sim.run_for(time);
            passed += sim.now() - start;
            let next = sim.enter(node, now);
            let expected = (sim.now() - start).as_secs_f64() * (1.0 + f64::from(ppm) / 1e6);
            let found = (next - last).as_secs_f64();
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            shown += next - last;
            last = next;
            // Up to 5 ms late by its grid, and a little more for waking up.
            let is_due = shown > Duration::from_secs(100) + ms(6);
            assert!(!is_due || slept.get().is_some(), "{shown:?}");
        }
        sim.set_clock_drift(node, 500_000);
        sim.run_for(Duration::from_secs(60));
        let slept = slept.get().unwrap();
        let is_exact = slept >= Duration::from_secs(100) && slept < ms(100_006);
        assert!(is_exact, "{slept:?}");
    }
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
