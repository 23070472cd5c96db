//! The clock and its timers.

use crate::Place;
use corelith_io::{now, sleep, sleep_until, spawn, timeout, yield_now};
use futures_util::future::join_all;
use futures_util::poll;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) async fn sleeps_are_not_early(_place: Place) {
    for duration in [0, 100, 1000, 1500, 7000, 19_999, 20_001, 33_000] {
        let duration = Duration::from_micros(duration);
        let start = now();
        sleep(duration).await;
        assert!(start.elapsed() >= duration, "{duration:?}");
    }
}

pub(crate) async fn sleeps_end_in_order(_place: Place) {
    let ended = Rc::new(RefCell::new(Vec::new()));
    let start = now();
    let sleepers = [120, 60, 30, 90].map(|duration| {
        let ended = Rc::clone(&ended);
        spawn(async move {
            sleep_until(start + ms(duration)).await;
            ended.borrow_mut().push(duration);
        })
    });
    for sleeper in sleepers {
        sleeper.await.unwrap();
    }
    assert_eq!(*ended.borrow(), [30, 60, 90, 120]);
}

pub(crate) async fn a_timeout_ends_what_takes_too_long(_place: Place) {
    let start = now();
    let ended = timeout(ms(30), std::future::pending::<()>()).await;
    assert!(ended.is_err());
    assert!(start.elapsed() >= ms(30));
}

pub(crate) async fn a_timeout_leaves_what_is_fast_alone(_place: Place) {
    assert_eq!(timeout(ms(10_000), async { 5 }).await, Ok(5));
    let slow = async {
        sleep(ms(2)).await;
        6
    };
    assert_eq!(timeout(ms(10_000), slow).await, Ok(6));
    assert_eq!(timeout(ms(0), async { 7 }).await, Ok(7));
}

pub(crate) async fn many_sleepers_wake(_place: Place) {
    let sleepers = (0..10_000).map(|number| sleep(ms(1 + number % 50)));
    join_all(sleepers).await;
}

pub(crate) async fn a_polled_and_dropped_sleep_is_forgotten(_place: Place) {
    let kept = spawn(sleep(ms(20)));
    for _ in 0..10_000 {
        let mut dropped = sleep(ms(20));
        assert!(poll!(&mut dropped).is_pending());
    }
    kept.await.unwrap();
}

pub(crate) async fn a_deadline_in_the_past_is_over(_place: Place) {
    let start = now();
    yield_now().await;
    assert!(poll!(sleep_until(start)).is_ready());
}

pub(crate) async fn the_clock_does_not_go_back(_place: Place) {
    let mut last = now();
    for _ in 0..1000 {
        let next = now();
        assert!(next >= last);
        last = next;
    }
}
