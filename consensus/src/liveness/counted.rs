//! What another node has promised this one, as this one may count it.
//!
//! One thread writes (that of the beats), the cores read without a lock: the epoch, until when, the epoch
//! again. The writer takes `until` back before it changes the epoch.
//!
//! Invariants:
//! * A promise counts from when the beat was *sent*, less the allowance for clocks that run at different
//!   rates.
//! * It counts only for the start of the store that gave it, and while the epoch is the one that is asked for.

use crate::planted::{Bug, is_planted};
use corelith_io::Instant;
use corelith_wire::peer::{CoreSet, PromiseEpoch};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// By how much less a promise counts than it is long, in percent: what two clocks may drift apart.
const DRIFT_PERCENT: u32 = 1;

/// See the module.
#[derive(Debug)]
pub(crate) struct CountedPromise {
    epoch: AtomicU64,
    /// For the leaders on each of this node's cores, in nanoseconds of this node's clock.
    until: Box<[AtomicU64]>,
    /// Whether the other node's clock runs as fast as this node's.
    is_rate_right: AtomicBool,
}

/// With these a promise counts for longer than it runs.
const LONGER: [Bug; 3] = [
    Bug::IgnoreDrift,
    Bug::LeaseOfDoubleLength,
    Bug::CountFromReceipt,
];

fn is_any_planted(bugs: &[Bug]) -> bool {
    bugs.iter().any(|bug| is_planted(*bug))
}

/// How long a promise of that length counts from when it was asked for.
fn counted_length(promise: Duration) -> Duration {
    match is_planted(Bug::IgnoreDrift) {
        true => promise,
        false if is_planted(Bug::LeaseOfDoubleLength) => promise * 2,
        false => promise / 100 * 100_u32.saturating_sub(DRIFT_PERCENT),
    }
}

impl CountedPromise {
    pub(super) fn new(cores: u16) -> Self {
        Self {
            epoch: AtomicU64::new(0),
            until: (0..cores).map(|_| AtomicU64::new(0)).collect(),
            is_rate_right: AtomicBool::new(true),
        }
    }

    /// The epoch of the last promise; `None` before the first.
    pub(crate) fn epoch(&self) -> Option<PromiseEpoch> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        (epoch != 0).then_some(PromiseEpoch(epoch))
    }

    /// Until when the promise for leaders on `core` counts, in that epoch.
    pub(crate) fn until(&self, core: u16, epoch: PromiseEpoch) -> Option<Instant> {
        let before = self.epoch.load(Ordering::SeqCst);
        let until = self.until.get(usize::from(core))?.load(Ordering::SeqCst);
        let after = self.epoch.load(Ordering::SeqCst);
        let is_right = self.is_rate_right.load(Ordering::SeqCst);
        let is_epoch = (before == epoch.0 && after == epoch.0) || is_planted(Bug::IgnoreEpoch);
        (is_epoch && is_right && until != 0).then(|| Instant::from_nanos(until))
    }

    /// Whether the promise for leaders on `core` counts at `now`, in that epoch.
    pub(crate) fn holds(&self, core: u16, epoch: PromiseEpoch, now: Instant) -> bool {
        self.until(core, epoch).is_some_and(|until| now < until)
    }

    /// Whether a promise counts at `now`, for leaders on any core.
    pub(super) fn is_running(&self, now: Instant) -> bool {
        let epoch = self.epoch();
        let mut cores = (0..).zip(&self.until);
        epoch.is_some_and(|epoch| cores.any(|(core, _)| self.holds(core, epoch, now)))
    }

    /// Whether the other node's clock runs as fast as this node's.
    pub(super) fn is_rate_right(&self) -> bool {
        self.is_rate_right.load(Ordering::SeqCst)
    }

    /// Notes what was promised in the reply to a beat that was sent at `sent` and came at `now`; whether the
    /// epoch is another one.
    pub(super) fn promised(
        &self,
        sent: Instant,
        now: Instant,
        promise: Duration,
        epoch: PromiseEpoch,
        to: &CoreSet,
    ) -> bool {
        let last = PromiseEpoch(self.epoch.load(Ordering::SeqCst));
        if epoch.is_before(last) {
            return false;
        }
        let is_new = last != epoch;
        if is_new {
            self.forget();
            self.epoch.store(epoch.0, Ordering::SeqCst);
        }
        let from = match is_planted(Bug::CountFromReceipt) {
            true => now,
            false => sent,
        };
        let until = (from + counted_length(promise)).as_nanos();
        // By the clock of whoever gave it the promise runs from when the beat came.
        assert!(
            until < (sent + promise).as_nanos() || promise.is_zero() || is_any_planted(&LONGER),
            "a promise of {promise:?} asked for at {sent:?} counts until {until}"
        );
        for (core, slot) in (0..).zip(&self.until) {
            if to.contains(core) && promise > Duration::ZERO {
                slot.fetch_max(until, Ordering::SeqCst);
            }
        }
        is_new
    }

    /// Nothing counts any more: the other node has started anew, or is another store.
    pub(super) fn forget(&self) {
        for slot in &self.until {
            slot.store(0, Ordering::SeqCst);
        }
        self.epoch.store(0, Ordering::SeqCst);
    }

    /// Notes whether the other node's clock runs as fast as this node's.
    pub(super) fn set_rate_right(&self, is_right: bool) {
        self.is_rate_right.store(is_right, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: Duration = Duration::from_millis(300);
    const EPOCH: PromiseEpoch = PromiseEpoch(0x11_0000_0001);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_promise_counts_from_when_it_was_asked_for_less_the_drift() {
        let counted = CountedPromise::new(2);
        counted.promised(at(0), at(200), L, EPOCH, &CoreSet::from_iter([1]));
        // (core, epoch, when, whether it counts)
        let other = PromiseEpoch(EPOCH.0 + 1);
        let table = [
            (1, EPOCH, 0, true),
            (1, EPOCH, 296, true),
            (1, EPOCH, 297, false),
            (1, EPOCH, 300, false),
            (0, EPOCH, 0, false),
            (2, EPOCH, 0, false),
            (1, other, 0, false),
        ];
        for (core, epoch, when, expected) in table {
            let holds = counted.holds(core, epoch, at(when));
            assert_eq!(holds, expected, "core {core}, {epoch}, {when} ms");
        }
    }

    #[test]
    fn another_epoch_or_start_takes_what_was_promised_before_back() {
        let counted = CountedPromise::new(1);
        let cores = CoreSet::from_iter([0]);
        assert!(counted.promised(at(0), at(1), L, EPOCH, &cores));
        assert!(!counted.promised(at(5), at(6), L, EPOCH, &cores));
        let next = EPOCH.next().unwrap();
        assert!(counted.promised(at(10), at(11), Duration::ZERO, next, &cores));
        assert!(!counted.holds(0, EPOCH, at(20)) && !counted.holds(0, next, at(20)));
        counted.promised(at(20), at(21), L, next, &cores);
        assert!(counted.holds(0, next, at(30)));
        counted.set_rate_right(false);
        assert!(!counted.holds(0, next, at(30)));
        counted.set_rate_right(true);
        counted.forget();
        assert!(!counted.holds(0, next, at(30)));
        assert_eq!(counted.epoch(), None);
    }

    #[test]
    fn an_older_reply_takes_nothing_back() {
        let counted = CountedPromise::new(1);
        let cores = CoreSet::from_iter([0]);
        counted.promised(at(50), at(60), L, EPOCH, &cores);
        counted.promised(at(0), at(70), L, EPOCH, &cores);
        assert!(counted.holds(0, EPOCH, at(340)));
        let next = EPOCH.next().unwrap();
        counted.promised(at(60), at(80), L, next, &cores);
        assert!(!counted.promised(at(50), at(90), L, EPOCH, &cores));
        assert!(counted.holds(0, next, at(340)) && !counted.holds(0, EPOCH, at(90)));
    }
}
