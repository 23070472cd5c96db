//! What comes in: reads, and writes of keys and values, as a rate that is smoothed over some seconds.
//!
//! Invariant: what the foreground has done never shrinks, so that no rate is negative.

use corelith_io::Instant;
use std::cell::Cell;
use std::time::Duration;

/// What comes in is measured over at least this long.
const WINDOW: Duration = Duration::from_millis(50);

/// Traffic of this many seconds ago weighs a factor of e less than that of now.
const MEMORY_SECONDS: f64 = 2.0;

/// From this many bytes a second on, writes count as fast.
pub(super) const FAST_WRITES: f64 = (4 << 20) as f64;

/// Up to this many bytes a second, a shard counts as not written to.
const SLOW_WRITES: f64 = (64 << 10) as f64;

/// What is written to a shard, in bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Incoming {
    /// Keys, and the values kept with them.
    pub(crate) inline: f64,
    /// Values in the value log.
    pub(crate) separated: f64,
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
pub(crate) struct Meter {
    foreground: Cell<Foreground>,
    /// When the measurement under way began, and what was done until then.
    since: Cell<Option<Instant>>,
    before: Cell<Foreground>,
    incoming: Cell<Option<Incoming>>,
    /// Whether the foreground did something during the last measurement.
    is_busy: Cell<bool>,
    /// Since when no more than [`SLOW_WRITES`] come in.
    slow_since: Cell<Option<Instant>>,
}

impl Meter {
    /// Notes a read.
    pub(crate) fn note_read(&self) {
        let mut foreground = self.foreground.get();
        foreground.operations += 1;
        self.foreground.set(foreground);
    }

    /// Notes a write of `inline_bytes`, and of a value of `separated_bytes` in the value log.
    pub(crate) fn note_write(&self, inline_bytes: usize, separated_bytes: usize) {
        let mut foreground = self.foreground.get();
        foreground.operations += 1;
        foreground.inline_bytes += inline_bytes as u64;
        foreground.separated_bytes += separated_bytes as u64;
        self.foreground.set(foreground);
    }

    /// Reads and writes so far.
    pub(crate) fn operations(&self) -> u64 {
        self.foreground.get().operations
    }

    /// Bytes of keys and inline values so far.
    pub(crate) fn inline_bytes(&self) -> u64 {
        self.foreground.get().inline_bytes
    }

    /// What comes in, as far as was measured.
    pub(crate) fn incoming(&self) -> Incoming {
        self.incoming.get().unwrap_or_default()
    }

    /// Whether the foreground did something during the last measurement.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.get()
    }

    /// Since when next to nothing is written, as far as was measured.
    pub(crate) fn slow_since(&self) -> Option<Instant> {
        self.slow_since.get()
    }

    /// Takes account of what the foreground did.
    pub(crate) fn measure(&self, now: Instant) {
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
            self.slow_since.set(Some(now));
            return;
        };
        let rate = |now: u64, before: u64| {
            assert!(now >= before, "what is done stays done");
            (now - before) as f64 / seconds
        };
        let came = Incoming {
            inline: rate(done.inline_bytes, before.inline_bytes),
            separated: rate(done.separated_bytes, before.separated_bytes),
        };
        let weight = 1.0 - (-seconds / MEMORY_SECONDS).exp();
        let mix = |before: f64, now: f64| before + (now - before) * weight;
        let incoming = match self.incoming.get() {
            Some(before) => Incoming {
                inline: mix(before.inline, came.inline),
                separated: mix(before.separated, came.separated),
            },
            None => came,
        };
        assert!(
            incoming.inline >= 0.0 && incoming.separated >= 0.0,
            "no rate is negative: {incoming:?}"
        );
        self.incoming.set(Some(incoming));
        let slow_since = match incoming.inline + incoming.separated > SLOW_WRITES {
            true => None,
            false => self.slow_since.get().or(Some(now)),
        };
        self.slow_since.set(slow_since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::instant;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_comes_in_is_a_smoothed_rate() {
        let meter = Meter::default();
        let start = instant();
        meter.measure(start);
        assert_eq!(meter.incoming(), Incoming::default());
        for second in 1..=20 {
            meter.note_write(1000, 5000);
            meter.measure(start + SECOND * second);
        }
        let Incoming { inline, separated } = meter.incoming();
        assert!((inline - 1000.0).abs() < 1.0 && (separated - 5000.0).abs() < 1.0);
        assert!(meter.is_busy());
        meter.measure(start + SECOND * 21);
        assert!(!meter.is_busy());
        assert!(meter.incoming().inline < 1000.0 && meter.incoming().inline > 500.0);
    }

    #[test]
    fn a_trickle_of_writes_counts_as_none() {
        let meter = Meter::default();
        let start = instant();
        meter.measure(start);
        meter.note_write(8 << 20, 0);
        meter.measure(start + SECOND);
        assert!(meter.incoming().inline > FAST_WRITES);
        assert_eq!(meter.slow_since(), None);
        for second in 2..40 {
            meter.note_write(100, 0);
            meter.measure(start + SECOND * second);
        }
        let since = meter.slow_since().unwrap();
        assert!(since > start + SECOND * 2 && since < start + SECOND * 20);
    }
}
