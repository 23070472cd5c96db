//! The monotonic clock, and the task that wakes the sleepers of a core.

use super::sys;
use super::timers::{TimerSlot, Timers};
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
    Instant(sys::monotonic_nanos())
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

    /// Wakes sleepers for ever.
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
                    timer = first.map(|tick| {
                        let nanos = tick.saturating_mul(TICK_NANOS).saturating_sub(now.0);
                        Timer::new(Duration::from_nanos(nanos))
                    });
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
