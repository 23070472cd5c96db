//! Whether the clock of another node runs as fast as this node's.
//!
//! A promise counts less than it is long by what two clocks may drift apart. Beats measure whether they do:
//! each reply says what the other clock showed at some time between the sending and the receipt.
//!
//! Invariant: a clock is found wrong, or right, only if no doubt is left by how long the replies took.

use corelith_io::Instant;
use std::time::Duration;

/// Least time over which a rate is measured.
pub(super) const WINDOW_MIN: Duration = Duration::from_secs(10);
/// After so long without a result measuring begins anew.
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// So long a quicker reply may take the place of the first.
const BASE_WITHIN: Duration = Duration::from_secs(1);
/// By how much the rate of a clock may differ, in millionths.
const OFF_PPM_MAX: i128 = 5_000;

/// What the other clock showed, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// The middle of the time in which it showed that, by this node's clock.
    ours: u64,
    theirs: u64,
    /// By how much `ours` may be wrong.
    doubt: u64,
}

impl Sample {
    /// Of a reply at `replied_at` to a beat sent at `sent`, which came at `received`.
    pub(super) fn of(sent: Instant, received: Instant, replied_at: u64) -> Self {
        let (sent, received) = (sent.as_nanos(), received.as_nanos());
        let doubt = received.saturating_sub(sent).div_ceil(2);
        Self {
            ours: sent.saturating_add(doubt),
            theirs: replied_at,
            doubt,
        }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Whether it is near enough to this node's.
    pub(super) is_right: bool,
    /// By how many millionths the other clock is faster.
    pub(super) off_ppm: i64,
}

/// Measures one start of another node.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    base: Option<Sample>,
}

impl ClockWatch {
    /// Takes what a reply showed; says what is found, about once in [`WINDOW_MIN`].
    pub(super) fn take(&mut self, sample: Sample) -> Option<Rate> {
        let base = *self.base.get_or_insert(sample);
        let passed = Duration::from_nanos(sample.ours.saturating_sub(base.ours));
        if passed <= BASE_WITHIN && sample.doubt < base.doubt {
            self.base = Some(sample);
        }
        if passed < WINDOW_MIN {
            return None;
        }
        let rate = compare(&base, &sample);
        if rate.is_some() || passed >= WINDOW_MAX {
            self.base = Some(sample);
        }
        rate
    }
}

/// The rate of the other clock between two replies, if it is beyond doubt.
fn compare(from: &Sample, to: &Sample) -> Option<Rate> {
    let ours = i128::from(to.ours) - i128::from(from.ours);
    let ahead = i128::from(to.theirs) - i128::from(from.theirs) - ours;
    let doubt = i128::from(from.doubt) + i128::from(to.doubt);
    let allowed = ours * OFF_PPM_MAX / 1_000_000;
    assert!(ours > 0, "a rate is measured over a time");
    let off_ppm = i64::try_from(ahead * 1_000_000 / ours).unwrap_or(i64::MAX);
    let is_wrong = ahead.abs() > allowed + doubt;
    let is_right = ahead.abs() + doubt <= allowed;
    assert!(!(is_wrong && is_right), "doubt is left by neither or one");
    (is_wrong || is_right).then_some(Rate { is_right, off_ppm })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply that took `took_us` and showed `theirs_us` in the middle of that.
    fn sample(ours_us: u64, theirs_us: u64, took_us: u64) -> Sample {
        let middle = 1_000_000 + ours_us;
        let at = |us: u64| Instant::from_nanos(us * 1_000);
        let (sent, received) = (at(middle - took_us / 2), at(middle + took_us / 2));
        Sample::of(sent, received, theirs_us * 1_000)
    }

    #[test]
    fn a_rate_is_judged_only_beyond_doubt() {
        let right = |off_ppm| Some((true, off_ppm));
        let wrong = |off_ppm| Some((false, off_ppm));
        const SECOND: u64 = 1_000_000;
        // (after, what the other clock has gone on by, how long replies took, what is found)
        let table = [
            (10 * SECOND, 10 * SECOND, 200, right(0)),
            (10 * SECOND - 1, 10 * SECOND, 200, None),
            (10 * SECOND, 10 * SECOND + 49_000, 200, right(4_900)),
            (10 * SECOND, 10 * SECOND + 50_000, 200, None),
            (10 * SECOND, 10 * SECOND + 50_201, 200, wrong(5_020)),
            (10 * SECOND, 10 * SECOND - 50_201, 200, wrong(-5_020)),
            (10 * SECOND, 10 * SECOND - 49_000, 200, right(-4_900)),
            (10 * SECOND, 10 * SECOND + 50_201, 2_000, None),
            (10 * SECOND, 10 * SECOND, 40_000, right(0)),
            (10 * SECOND, 10 * SECOND, 60_000, None),
            (20 * SECOND, 20 * SECOND, 60_000, right(0)),
            // It stood still.
            (12 * SECOND, 10, 200, wrong(-999_999)),
        ];
        for (after, gone, took, expected) in table {
            let mut watch = ClockWatch::default();
            let start = 77 * SECOND;
            assert_eq!(watch.take(sample(0, start, took)), None);
            let found = watch.take(sample(after, start + gone, took));
            let found = found.map(|rate| (rate.is_right, rate.off_ppm));
            assert_eq!(found, expected, "{after} {gone} {took}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_or_jumps_is_wrong() {
        for theirs in [0, 76_000_000, 200_000_000, u64::MAX / 1_000] {
            let mut watch = ClockWatch::default();
            watch.take(sample(0, 77_000_000, 100));
            let found = watch.take(sample(10_000_000, theirs, 100)).unwrap();
            assert!(!found.is_right, "{theirs}");
        }
    }

    #[test]
    fn each_window_begins_where_the_last_one_was_judged() {
        let mut watch = ClockWatch::default();
        let mut found = Vec::new();
        for beat in 0..700_u64 {
            // 1 % too fast for the first 20 s, right after that.
            let ours = beat * 50_000;
            let theirs = ours + ours.min(20_000_000) / 100;
            found.extend(watch.take(sample(ours, theirs, 300)));
        }
        let found: Vec<bool> = found.iter().map(|rate| rate.is_right).collect();
        assert_eq!(found, [false, false, true]);
    }

    #[test]
    fn a_slow_first_reply_is_replaced_and_slow_replies_are_waited_out() {
        let mut watch = ClockWatch::default();
        watch.take(sample(0, 0, 400_000));
        watch.take(sample(500_000, 500_000, 200));
        assert!(watch.take(sample(10_500_000, 10_500_000, 200)).is_some());
        let mut watch = ClockWatch::default();
        for at in 0..6 {
            let at = at * 11_000_000;
            assert_eq!(watch.take(sample(at, at, 2_000_000)), None);
        }
        watch.take(sample(61_000_000, 61_000_000, 200));
        assert!(watch.take(sample(72_000_000, 72_000_000, 200)).is_some());
    }
}
