//! The monotonic clock and timers. What a node does depends on no wall clock: [`wall_clock`] is for what people are
//! told, and for terms that they set in hours and days.
//!
//! The clock counts the time in which the machine was suspended or the process was stopped (`CLOCK_BOOTTIME`).
//! Nothing runs then: timers that came due fire within 0.1 s after it, and a `timeout` finds the time gone.
//! Whoever acts on something that runs out asks [`now`] once more, after what it waited for.

#[cfg(feature = "sim")]
use crate::sim;
use crate::uring;
use crate::world::{self, World};
use std::future::{Future, poll_fn};
use std::ops::{Add, Sub};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

/// A point on the node's monotonic clock, in nanoseconds since an arbitrary start. Instants of two nodes, or of a
/// machine before and after it was switched off, have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub(crate) u64);

impl Instant {
    /// The point that many nanoseconds after the clock's arbitrary start, as [`Instant::as_nanos`] gave them.
    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's arbitrary start.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`, zero if `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time from `self` to now.
    pub fn elapsed(self) -> Duration {
        now().saturating_duration_since(self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// The current time of the current core's node, the time in which it was suspended included.
pub fn now() -> Instant {
    world::with(|world| match world {
        World::Uring(_) => uring::now(),
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::time::now(core),
    })
}

/// The time of day, in microseconds since the start of 1970 (UTC), as the machine has it: it may be wrong, stand still,
/// and go back. Nothing may depend on it but what people are told, and when something expires.
///
/// In the Sim world it starts at a moment that follows from the seed, and goes as the node's clock does.
pub fn wall_clock() -> u64 {
    world::with(|world| match world {
        World::Uring(_) => uring::wall_clock(),
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::time::wall_clock(core),
    })
}

/// A timer; it fires at its deadline rounded up to the core's timer grid (5 ms above 20 ms, 1 ms
/// below), since each isolated wake-up costs 18 µs of CPU.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    inner: SleepInner,
}

enum SleepInner {
    Uring(uring::time::Sleep),
    #[cfg(feature = "sim")]
    Sim(sim::time::Sleep),
}

impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.get_mut().inner {
            SleepInner::Uring(inner) => Pin::new(inner).poll(cx),
            #[cfg(feature = "sim")]
            SleepInner::Sim(inner) => Pin::new(inner).poll(cx),
        }
    }
}

/// Completes after `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Completes at `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    let inner = world::with(|world| match world {
        World::Uring(core) => SleepInner::Uring(uring::time::Sleep::until(core, deadline)),
        #[cfg(feature = "sim")]
        World::Sim(core) => SleepInner::Sim(sim::time::Sleep::until(core, deadline)),
    });
    Sleep { inner }
}

/// The time given to [`timeout`] ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time ran out")]
pub struct Elapsed;

/// Runs `future` for at most `duration`.
///
/// # Errors
/// [`Elapsed`] if it had not completed by then; it is dropped.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut timer = sleep(duration);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut timer).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
