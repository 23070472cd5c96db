//! How fast a shard works. Incoming work is metered, the pressure is judged, and background work, and slowed
//! writers, draw from buckets that the verdict fills.
//!
//! * `meter`: the rate of incoming work.
//! * `verdict`: turns debt, memtables, space and garbage into rates; pure.
//! * `bucket`: spreads work over time.
//! * `credit`: bytes that a flush may write regardless of its rate.
//!
//! Flush, compaction and collection have a bucket each: a flush does not wait for what a long compaction
//! has used up.

mod bucket;
mod credit;
mod meter;
mod verdict;

pub(crate) use bucket::{Bucket, Terms};
pub(crate) use credit::Credit;
pub(crate) use meter::Meter;
pub(crate) use verdict::{
    DeviceSpace, PaceLimits, Pressure, Verdict, Writers, judge, judge_writers,
};

use crate::limits::THROTTLE_PAUSE_MAX;
use corelith_io::Instant;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Background work whose bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Flush,
    Compaction,
    Collection,
}

/// Bytes between two looks at the clock.
pub(crate) const PACE_STEP_BYTES: u64 = 64 << 10;

/// Work on bytes: short waits gather, and a wait is capped so that the rate is looked up again. The time by
/// which timers are late is made up for.
const LANE: Terms = Terms {
    ahead: Duration::from_millis(10),
    wait_min: Duration::from_millis(3),
    wait_max: Duration::from_millis(50),
    forgives: false,
};

/// No writer waits for long at a time: what others wrote before may be forgiven.
const WRITERS: Terms = Terms {
    ahead: Duration::ZERO,
    wait_min: Duration::ZERO,
    wait_max: THROTTLE_PAUSE_MAX,
    forgives: true,
};

/// Steps that come one after the other, each after its whole wait.
pub(crate) const STEPS: Terms = Terms {
    ahead: Duration::ZERO,
    wait_min: Duration::ZERO,
    wait_max: Duration::MAX,
    forgives: true,
};

/// The pace of a shard. Belongs to one core.
pub(crate) struct Pace {
    pub(crate) meter: Rc<Meter>,
    flush: Bucket,
    compaction: Bucket,
    collection: Bucket,
    credit: Credit,
    writers: Bucket,
    /// Bytes applied since writers waited last.
    applied: Cell<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            meter: Rc::default(),
            flush: Bucket::new(LANE),
            compaction: Bucket::new(LANE),
            collection: Bucket::new(LANE),
            credit: Credit::default(),
            writers: Bucket::new(WRITERS),
            applied: Cell::default(),
        }
    }
}

impl Pace {
    /// Notes a write that is applied.
    pub(crate) fn note_write(&self, inline_bytes: usize, separated_bytes: usize) {
        self.meter.note_write(inline_bytes, separated_bytes);
        let bytes = (inline_bytes + separated_bytes) as u64;
        self.applied.set(self.applied.get() + bytes);
    }

    /// Notes that a flush begins: what came in before counts for nothing.
    pub(crate) fn begin_flush(&self) {
        self.credit.begin(self.meter.inline_bytes());
    }

    /// How long work of `lane` waits at `now`, after it moved `bytes`.
    pub(crate) fn wait(&self, lane: Lane, now: Instant, bytes: u64, verdict: &Verdict) -> Duration {
        match lane {
            Lane::Flush => {
                let bytes = self.credit.beyond(self.meter.inline_bytes(), bytes);
                self.flush.take(now, bytes, verdict.flush)
            }
            Lane::Compaction => self.compaction.take(now, bytes, verdict.compaction),
            Lane::Collection => self.collection.take(now, bytes, verdict.collection),
        }
    }

    /// How long a writer waits at `now` while all together are slowed to `rate` bytes per second.
    pub(crate) fn wait_to_write(&self, now: Instant, rate: u64) -> Duration {
        self.writers.take(now, self.applied.take(), Some(rate))
    }

    /// Notes that writers are free: what they take then is not held against them when they are slowed.
    pub(crate) fn free_writers(&self) {
        self.applied.set(0);
        self.writers.reset();
    }
}

/// Some instant, for tests that go on from it.
#[cfg(test)]
fn instant() -> Instant {
    let sim = corelith_io::sim::Sim::new(0);
    let node = sim.add_node();
    sim.block_on(node, async { corelith_io::now() })
}
