//! Virtual time: the true time of the world and the drifting clocks of its nodes.

use super::events::{EventKey, SimEvent};
use super::world::{Core, World};
use crate::time::Instant;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

const MILLION: i64 = 1_000_000;
const CLOCK_READ_NANOS: u64 = 15;
const MICROS_PER_SECOND: u64 = 1_000_000;
/// 2024-01-01, in microseconds since 1970.
const WALL_CLOCK_START_MICROS: u64 = 1_704_067_200 * MICROS_PER_SECOND;
/// Seconds of the years in which simulations start.
const WALL_CLOCK_STARTS: u64 = 4 * 365 * 86_400;

/// A node's monotonic clock: `local` at the true time `truth`, running `ppm` too fast since, or standing still.
///
/// Invariant: whatever is set, the clock never shows less than it has shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeClock {
    local: u64,
    truth: u64,
    ppm: i32,
    stopped: bool,
}

impl NodeClock {
    pub(super) fn new(local: u64, truth: u64, ppm: i32) -> Self {
        assert!(i64::from(ppm) > -MILLION, "a clock goes forward");
        Self {
            local,
            truth,
            ppm,
            stopped: false,
        }
    }

    pub(super) fn ppm(&self) -> i32 {
        self.ppm
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What the clock shows at the true time `truth`.
    pub(super) fn at(&self, truth: u64) -> u64 {
        if self.stopped {
            return self.local;
        }
        let passed = truth.saturating_sub(self.truth);
        let rate = MILLION + i64::from(self.ppm);
        // Read at every turn: 128 bits only where 64 do not do, after hours.
        let shown = match passed.checked_mul(rate.unsigned_abs()) {
            Some(product) => product / MILLION.unsigned_abs(),
            None => {
                let wide = u128::from(passed) * u128::from(rate.unsigned_abs());
                u64::try_from(wide / u128::from(MILLION.unsigned_abs())).unwrap_or(u64::MAX)
            }
        };
        self.local.saturating_add(shown)
    }

    /// The first true time at which the clock shows `local` or more.
    fn truth_of(&self, local: u64) -> u64 {
        let shown = i128::from(local.saturating_sub(self.local));
        let rate = i128::from(MILLION) + i128::from(self.ppm);
        let passed = (shown * i128::from(MILLION) + rate - 1) / rate + 1;
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let truth = self.truth.saturating_add(passed);
        debug_assert!(truth == u64::MAX || self.at(truth) >= local);
        truth
    }

    /// The same reading at `truth`, running at another rate from then on.
    pub(super) fn with_rate(&self, truth: u64, ppm: i32) -> Self {
        Self {
            stopped: self.stopped,
            ..Self::new(self.at(truth), truth, ppm)
        }
    }

    /// The same reading at `truth`, standing still or running from then on.
    pub(super) fn with_stop(&self, truth: u64, stopped: bool) -> Self {
        Self {
            stopped,
            ..Self::new(self.at(truth), truth, self.ppm)
        }
    }
}

/// Completes when an amount of true time has passed.
pub(super) struct Delay {
    world: Rc<World>,
    until: u64,
    key: Option<EventKey>,
    /// The node whose clock it waits for.
    clock_of: Option<u32>,
}

impl Delay {
    pub(super) fn new(world: &Rc<World>, nanos: u64) -> Self {
        let until = world.now().saturating_add(nanos);
        Self {
            world: Rc::clone(world),
            until,
            key: None,
            clock_of: None,
        }
    }
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.until {
            return Poll::Ready(());
        }
        let this = &mut *self;
        if !this
            .key
            .is_some_and(|key| this.world.executor.renew(key, cx.waker()))
        {
            let waker = cx.waker().clone();
            let wake = match this.clock_of {
                Some(node) => SimEvent::Timer(node, waker),
                None => SimEvent::Wake(waker),
            };
            this.key = Some(this.world.executor.schedule(this.until, wake));
        }
        Poll::Pending
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.world.executor.cancel(key);
        }
    }
}

pub(crate) struct Sleep {
    core: Core,
    deadline: u64,
    delay: Option<Delay>,
    /// When the clock was set that the delay goes by.
    clock_set: u64,
}

/// The deadline on the timer grid: 5 ms above 20 ms from now, 1 ms below, as in the Uring world.
fn on_grid(now: u64, deadline: u64) -> u64 {
    let grid = if deadline.saturating_sub(now) > 20_000_000 {
        5_000_000
    } else {
        1_000_000
    };
    deadline.checked_next_multiple_of(grid).unwrap_or(u64::MAX)
}

impl Sleep {
    pub(crate) fn until(core: &Core, deadline: Instant) -> Self {
        Self {
            core: core.clone(),
            deadline: deadline.0,
            delay: None,
            clock_set: 0,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let now = now(&this.core).0;
            if now >= this.deadline {
                return Poll::Ready(());
            }
            let world = &this.core.world;
            let clock = this.core.node.clock.get();
            if this.clock_set != clock.truth {
                // Its rate has changed: the deadline is nearer or farther.
                this.delay = None;
                this.clock_set = clock.truth;
            }
            let delay = this.delay.get_or_insert_with(|| {
                let truth = clock.truth_of(on_grid(now, this.deadline));
                let wait = truth.saturating_sub(world.now());
                let late = world.draw(&world.config.timer_lateness);
                let mut delay = Delay::new(world, wait.saturating_add(late));
                delay.clock_of = Some(this.core.node.id);
                delay
            });
            if Pin::new(delay).poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The clock stood still while this waited: wait for the rest.
            this.delay = None;
        }
    }
}

/// Reading the clock takes a moment, so that a loop that waits for it to move ends.
pub(crate) fn now(core: &Core) -> Instant {
    core.world.now.set(core.world.now() + CLOCK_READ_NANOS);
    Instant(core.node.clock.get().at(core.world.now()))
}

/// The node's time of day: some moment of the years 2024 to 2028 that follows from the seed, and the node's clock since.
pub(crate) fn wall_clock(core: &Core) -> u64 {
    let start = WALL_CLOCK_START_MICROS + core.world.seed % WALL_CLOCK_STARTS * MICROS_PER_SECOND;
    start.saturating_add(now(core).0 / 1000)
}
