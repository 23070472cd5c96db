//! How fast background work moves bytes: as fast as what comes in makes necessary, in small steps, so
//! that a read of the foreground seldom finds the device or the core taken. It goes faster the further
//! it lags, and as fast as it can while nobody is there to be disturbed.

use super::Engine;
use crate::compaction::{Incoming, collection_rate, compaction_rate, flush_allowance, flush_rate};
use corelith_io::{Instant, now};
use std::cell::Cell;
use std::time::Duration;

/// What comes in is measured over at least this long.
const WINDOW: Duration = Duration::from_millis(50);

/// What came in so many seconds ago weighs a factor of e less than what comes in now.
const MEMORY_SECONDS: f64 = 2.0;

/// Bytes between two looks at the clock.
pub(super) const PACE_STEP_BYTES: u64 = 64 << 10;

/// Shorter pauses cost more than they are worth; they are made up for later.
const PAUSE_MIN: Duration = Duration::from_millis(3);

/// After a longer pause the rate is looked at again.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Work that was held up, or was not there, makes up for this much time: as late as timers come. More
/// would let each job begin with a burst.
const MADE_UP_MAX: Duration = Duration::from_millis(10);

/// From so many bytes a second on, writes are said to come fast.
const FAST_WRITES: f64 = (4 << 20) as f64;

/// With less than this part of the device free, space is more urgent than latency.
const FREE_FRACTION_MIN: f64 = 0.1;

/// Work that is paced on its own: a flush does not wait for what a long compaction has used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Flush,
    Compaction,
    Collection,
}

/// What the foreground has done.
#[derive(Clone, Copy, Debug, Default)]
struct Foreground {
    operations: u64,
    inline_bytes: u64,
    separated_bytes: u64,
}

/// See the module. Belongs to one core.
#[derive(Default)]
pub(super) struct Pacer {
    foreground: Cell<Foreground>,
    /// When the measurement under way began, and what was done until then.
    since: Cell<Option<Instant>>,
    before: Cell<Foreground>,
    /// What had come in when the flush was looked at last, and what it may write for it yet.
    flush_inline_bytes: Cell<u64>,
    flush_allowance: Cell<u64>,
    incoming: Cell<Option<Incoming>>,
    /// Whether the foreground did something during the last measurement.
    is_busy: Cell<bool>,
    flush_due: Cell<Option<Instant>>,
    compaction_due: Cell<Option<Instant>>,
    collection_due: Cell<Option<Instant>>,
}

impl Pacer {
    /// Notes a read.
    pub(super) fn note_read(&self) {
        let mut foreground = self.foreground.get();
        foreground.operations += 1;
        self.foreground.set(foreground);
    }

    /// Notes a write of so many bytes, and of a value of so many in the value log.
    pub(super) fn note_write(&self, inline_bytes: usize, separated_bytes: usize) {
        let mut foreground = self.foreground.get();
        foreground.operations += 1;
        foreground.inline_bytes += inline_bytes as u64;
        foreground.separated_bytes += separated_bytes as u64;
        self.foreground.set(foreground);
    }

    /// Whether keys and inline values come in fast, as far as was measured.
    pub(super) fn is_written_fast(&self) -> bool {
        let incoming = self.incoming.get();
        incoming.is_some_and(|incoming| incoming.inline > FAST_WRITES)
    }

    /// Whether the foreground does nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.measure(now());
        !self.is_busy.get()
    }

    /// Takes account of what the foreground did.
    fn measure(&self, now: Instant) {
        let elapsed = self
            .since
            .get()
            .map(|since| now.saturating_duration_since(since));
        if elapsed.is_some_and(|elapsed| elapsed < WINDOW) {
            return;
        }
        self.since.set(Some(now));
        let done = self.foreground.get();
        let before = self.before.replace(done);
        self.is_busy.set(done.operations > before.operations);
        let Some(seconds) = elapsed.map(|elapsed| elapsed.as_secs_f64()) else {
            return;
        };
        let rate = |now: u64, before: u64| (now - before) as f64 / seconds;
        let now = Incoming {
            inline: rate(done.inline_bytes, before.inline_bytes),
            separated: rate(done.separated_bytes, before.separated_bytes),
        };
        let weight = 1.0 - (-seconds / MEMORY_SECONDS).exp();
        let mix = |before: f64, now: f64| before + (now - before) * weight;
        self.incoming.set(Some(match self.incoming.get() {
            Some(before) => Incoming {
                inline: mix(before.inline, now.inline),
                separated: mix(before.separated, now.separated),
            },
            None => now,
        }));
    }

    /// Notes that a flush begins: what came in before counts for nothing.
    pub(super) fn begin_flush(&self) {
        self.flush_inline_bytes
            .set(self.foreground.get().inline_bytes);
        self.flush_allowance.set(0);
    }

    /// Of so many bytes that the flush has written, those that go beyond what comes in.
    fn ahead_of_incoming(&self, written: u64) -> u64 {
        let now = self.foreground.get().inline_bytes;
        let came = now - self.flush_inline_bytes.replace(now);
        let allowance = self.flush_allowance.get();
        let allowance = allowance.saturating_add(flush_allowance(came));
        self.flush_allowance.set(allowance.saturating_sub(written));
        written.saturating_sub(allowance)
    }

    /// How long to wait at `now`, after so many bytes were moved.
    fn pause(&self, lane: Lane, now: Instant, bytes: u64, rate: Option<u64>) -> Duration {
        let due = match lane {
            Lane::Flush => &self.flush_due,
            Lane::Compaction => &self.compaction_due,
            Lane::Collection => &self.collection_due,
        };
        let Some(rate) = rate else {
            due.set(None);
            return Duration::ZERO;
        };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let taken = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let next = due.get().map_or(now, |due| due.max(now - MADE_UP_MAX)) + taken;
        due.set(Some(next));
        let pause = next.saturating_duration_since(now).min(PAUSE_MAX);
        if pause < PAUSE_MIN {
            return Duration::ZERO;
        }
        pause
    }
}

impl Engine {
    /// Counts bytes that background work has read and written, and waits until they are due.
    pub(super) async fn pace(&self, lane: Lane, bytes: u64) {
        let pacer = &self.inner.pacer;
        let now = now();
        pacer.measure(now);
        self.ask_for_share();
        let bytes = match lane {
            Lane::Flush => pacer.ahead_of_incoming(bytes),
            Lane::Compaction | Lane::Collection => bytes,
        };
        let pause = pacer.pause(lane, now, bytes, self.pace_rate(lane));
        if !pause.is_zero() {
            corelith_io::sleep(pause).await;
        }
    }

    pub(super) fn pace_rate(&self, lane: Lane) -> Option<u64> {
        let pacer = &self.inner.pacer;
        let needs_space = self.is_disk_full() || self.inner.free_fraction.get() < FREE_FRACTION_MIN;
        if !pacer.is_busy.get() || needs_space || self.inner.state.borrow().closed {
            return None;
        }
        let limits = &self.inner.options.throttle;
        let incoming = pacer.incoming.get().unwrap_or_default();
        match lane {
            Lane::Flush => flush_rate(self.full_memtables(), limits),
            Lane::Compaction => {
                compaction_rate(incoming, &self.debt(), self.full_memtables(), limits)
            }
            Lane::Collection => Some(collection_rate(incoming)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_may_write_for_all_that_came_in_since_it_began() {
        let pacer = Pacer::default();
        pacer.note_write(1000, 0);
        pacer.begin_flush();
        assert_eq!(pacer.ahead_of_incoming(10), 10);
        // The core writes in turns: most looks see nothing come in.
        pacer.note_write(100, 5000);
        assert_eq!(pacer.ahead_of_incoming(0), 0);
        assert_eq!(pacer.ahead_of_incoming(150), 0);
        assert_eq!(pacer.ahead_of_incoming(150), 0);
        assert_eq!(pacer.ahead_of_incoming(150), 50);
        pacer.note_write(100, 0);
        pacer.begin_flush();
        assert_eq!(pacer.ahead_of_incoming(7), 7);
    }
}
