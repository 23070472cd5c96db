use super::super::clock::tick_of;
use super::{TimerSlot, Timers};
use crate::time::Instant;
use std::task::Waker;

fn ms(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

#[test]
fn a_tick_is_never_before_the_deadline_and_coarse_when_far() {
    let cases = [
        // (now, deadline, tick)
        (ms(0), ms(3), 3),
        (ms(0), Instant(3_000_001), 4),
        (ms(7), Instant(7_000_001), 8),
        (ms(0), ms(19), 19),
        (ms(0), ms(20), 20),
        (ms(0), ms(21), 25),
        (ms(3), ms(1003), 1005),
    ];
    for (now, deadline, tick) in cases {
        assert_eq!(tick_of(now, deadline), tick, "{now:?} {deadline:?}");
    }
}

fn insert(timers: &mut Timers, tick: u64) -> (TimerSlot, bool) {
    timers.insert(tick, Waker::noop().clone())
}

fn fired(timers: &mut Timers, now: u64) -> usize {
    let mut woken = Vec::new();
    timers.fire(now, &mut woken);
    woken.len()
}

#[test]
fn timers_fire_by_tick() {
    let mut timers = Timers::default();
    let (first, was_first) = insert(&mut timers, 10);
    assert!(was_first);
    let (second, was_first) = insert(&mut timers, 10);
    assert!(!was_first, "the tick was there already");
    assert!(insert(&mut timers, 5).1);
    assert!(!insert(&mut timers, 20).1);
    assert_eq!(timers.first(), Some(5));
    assert_eq!(fired(&mut timers, 4), 0);
    assert_eq!(fired(&mut timers, 10), 3);
    assert!(!timers.waits(first) && !timers.waits(second));
    assert_eq!(timers.first(), Some(20));
}

#[test]
fn a_removed_timer_leaves_its_list_whole_wherever_it_was() {
    for removed in 0..3 {
        let mut timers = Timers::default();
        let slots = [0; 3].map(|_| insert(&mut timers, 7).0);
        timers.remove(slots[removed]);
        assert_eq!(fired(&mut timers, 7), 2, "removed {removed}");
        assert_eq!(timers.first(), None);
    }
}

#[test]
fn the_last_timer_of_a_tick_takes_the_tick_along() {
    let mut timers = Timers::default();
    let (slot, _) = insert(&mut timers, 7);
    timers.remove(slot);
    assert_eq!(timers.first(), None);
    assert_eq!(
        insert(&mut timers, 9),
        (slot, true),
        "the slot is used again"
    );
}

#[test]
fn a_fired_timer_is_removed_once() {
    let mut timers = Timers::default();
    let (slot, _) = insert(&mut timers, 1);
    assert_eq!(fired(&mut timers, 1), 1);
    timers.remove(slot);
    assert_eq!(insert(&mut timers, 2).0, slot);
    assert_ne!(insert(&mut timers, 2).0, slot);
}
