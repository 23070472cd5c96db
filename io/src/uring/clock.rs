//! The monotonic clock, and the task that wakes the sleepers of a core.
//!
//! Two clocks meet here. All instants and ticks are of `CLOCK_BOOTTIME`, which goes on while the machine is
//! suspended. glommio's timers run on `CLOCK_MONOTONIC`, which stands still then: they are only told how long to
//! wait, and never longer than `TIMER_WAIT_MAX`, so that timers that came due in a suspension fire soon after it.

use super::sys;
use super::timers::{TimerSlot, Timers};
use crate::limits::TIMER_WAIT_MAX;
use crate::time::Instant;
use glommio::timer::Timer;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Timers fire at multiples of this.
const TICK_NANOS: u64 = 1_000_000;
/// Timers at least this far away ...
const COARSE_FROM_NANOS: u64 = 20_000_000;
/// ... fire at multiples of this many ticks.
const COARSE_TICKS: u64 = 5;

pub(crate) fn now() -> Instant {
    Instant(sys::boottime_nanos())
}

/// The time of day in microseconds since 1970; 0 before that.
pub(crate) fn wall_clock() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the wall clock"
    )]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// The tick at which a timer fires: never before its deadline.
pub(crate) fn tick_of(now: Instant, deadline: Instant) -> u64 {
    let exact = deadline.0.div_ceil(TICK_NANOS);
    let tick = match deadline.0.saturating_sub(now.0) < COARSE_FROM_NANOS {
        true => exact,
        false => exact.next_multiple_of(COARSE_TICKS),
    };
    debug_assert!(tick.saturating_mul(TICK_NANOS) >= deadline.0);
    tick
}

/// How long the driver waits for the first tick at most before it looks at the clock again.
fn wait_for(tick: u64, now: Instant) -> Duration {
    let nanos = tick.saturating_mul(TICK_NANOS).saturating_sub(now.0);
    Duration::from_nanos(nanos).min(TIMER_WAIT_MAX)
}

/// The sleepers of one core, and the task that wakes them.
#[derive(Default)]
pub(crate) struct CoreClock {
    pub(super) timers: RefCell<Timers>,
    /// The task that runs [`CoreClock::drive`].
    driver: RefCell<Option<Waker>>,
    /// The tick that it waits for.
    armed: Cell<Option<u64>>,
}

impl CoreClock {
    /// Has `waker` woken at `tick`.
    pub(super) fn insert(&self, tick: u64, waker: &Waker) -> TimerSlot {
        let (slot, is_first) = self.timers.borrow_mut().insert(tick, waker.clone());
        // The driver looks at the timers itself after it has fired some, so that it needs to be
        // woken only for a tick before the one it waits for.
        if is_first
            && self.armed.get().is_none_or(|armed| tick < armed)
            && let Some(driver) = self.driver.borrow().as_ref()
        {
            driver.wake_by_ref();
        }
        slot
    }

    /// Wakes the sleepers whose time has come.
    pub(super) fn fire(&self, woken: &mut Vec<Waker>) {
        let now = now();
        self.timers.borrow_mut().fire(now.0 / TICK_NANOS, woken);
        woken.drain(..).for_each(Waker::wake);
    }

    /// How long the first sleeper sleeps on.
    pub(super) fn wait(&self) -> Option<Duration> {
        let first = self.timers.borrow().first();
        first.map(|tick| wait_for(tick, now()))
    }

    /// Wakes sleepers for ever, on glommio.
    pub(crate) async fn drive(&self) {
        let mut woken = Vec::new();
        let mut timer: Option<Timer> = None;
        poll_fn(move |cx| {
            *self.driver.borrow_mut() = Some(cx.waker().clone());
            loop {
                let now = now();
                self.timers
                    .borrow_mut()
                    .fire(now.0 / TICK_NANOS, &mut woken);
                woken.drain(..).for_each(Waker::wake);
                let first = self.timers.borrow().first();
                if first != self.armed.get() || timer.is_none() {
                    self.armed.set(first);
                    timer = first.map(|tick| Timer::new(wait_for(tick, now)));
                }
                let Some(waiting) = timer.as_mut() else {
                    return Poll::Pending;
                };
                if Pin::new(waiting).poll(cx).is_pending() {
                    return Poll::Pending;
                }
                timer = None;
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn the_driver_looks_at_the_clock_again_before_a_far_tick() {
        let most = u64::try_from(TIMER_WAIT_MAX.as_millis()).unwrap_or(0);
        let cases = [
            // (tick, now in ms, wait in ms)
            (7, 3, 4),
            (most, 0, most),
            (most + 1, 0, most),
            (3_600_000, 0, most),
            // The machine was suspended over the tick.
            (3_600_000, 3_700_000, 0),
            (u64::MAX, 5, most),
        ];
        for (tick, now, wait) in cases {
            let found = wait_for(tick, at(now));
            assert_eq!(found, Duration::from_millis(wait), "{tick} {now}");
        }
    }
}
