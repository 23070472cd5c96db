//! Debt into a delay of writers, and into a share of the core and a rate for background work.
//!
//! Background work is given more of the core first; only when that does not suffice are writers slowed,
//! and they are stopped only where memory or disk would run out. Nothing jumps: the delay of a byte
//! grows from nothing in proportion to the pressure.

use super::picker::Debt;
use crate::limits::MEMTABLES_MAX;

/// At the hard limit, writers are admitted at this fraction of the rate at which background work gets
/// done; at a fraction `p` of the way there, at 1 / `p` times as much.
const RATE_AT_LIMIT: f64 = 0.5;

/// A background slower than this is not believed: it was idle, or starved.
const BACKGROUND_BYTES_PER_SECOND_MIN: u64 = 16 << 20;

/// Shares of the core for background work without debt, and with the debt at which writers begin to
/// be slowed. The foreground has 1000.
const BACKGROUND_SHARE_MIN: u32 = 100;
/// See [`BACKGROUND_SHARE_MIN`].
const BACKGROUND_SHARE_MAX: u32 = 800;

/// Compaction and collection each move at least this many bytes a second, read and written ones together.
const REWRITE_RATE_MIN: f64 = (32 << 20) as f64;

/// Compaction moves at most this many bytes a second while a flush lags more than it does, and by this
/// much: both share what background work has of the core, and writers wait for the flush first.
const RATE_BEHIND_FLUSH: u64 = 8 << 20;
/// See [`RATE_BEHIND_FLUSH`].
const FLUSH_LAG_MIN: f64 = 0.02;

/// Bytes that compaction may move for each byte that comes in and is kept in tables: twice what leveled
/// compaction of a large store takes, which rewrites it about four times.
const MOVED_PER_INLINE_BYTE: f64 = 16.0;

/// Bytes that collection may move for each byte that comes in and is kept in the value log. With a
/// fraction `g` of garbage it takes 2 (1 - g) / g to be rid of as many bytes as come in: 6 where a quarter
/// is garbage, and less when it lags, so that garbage never goes beyond all bounds.
const MOVED_PER_SEPARATED_BYTE: f64 = 8.0;

/// How many times faster than a memtable fills, the one before it is flushed.
const FLUSHED_PER_INLINE_BYTE: u64 = 4;

/// Bytes a second that a flush writes when nothing comes in.
const FLUSH_RATE_MIN: f64 = (16 << 20) as f64;

/// Where slowing down begins, and where writers stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThrottleLimits {
    pub(crate) debt_bytes_soft: u64,
    pub(crate) debt_bytes_hard: u64,
    pub(crate) runs_soft: usize,
    pub(crate) runs_hard: usize,
    pub(crate) memtables_soft: f64,
    pub(crate) memtables_hard: f64,
}

impl Default for ThrottleLimits {
    /// The soft ones are beyond what a shard has that keeps up: the longest ordinary merge and what it
    /// passes on, the runs that either policy leaves alone, and one memtable that fills while the one
    /// before it is flushed.
    fn default() -> Self {
        Self {
            debt_bytes_soft: 64 << 30,
            debt_bytes_hard: 256 << 30,
            runs_soft: 24,
            runs_hard: 36,
            memtables_soft: 2.0,
            memtables_hard: MEMTABLES_MAX as f64,
        }
    }
}

/// What writers may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Throttle {
    /// Write as fast as they can.
    Free,
    /// Write at this rate, all together.
    Slow { bytes_per_second: u64 },
    /// Wait.
    Stop,
}

/// How far `value` is from `soft` (0) to `hard` (1).
fn progress(value: f64, soft: f64, hard: f64) -> f64 {
    ((value - soft) / (hard - soft).max(1.0)).clamp(0.0, 1.0)
}

/// What writers may do under `debt` and with so many full `memtables`, of which one that is half full
/// counts half. `background` says how many bytes per second flushes and compactions were measured to
/// write, 0 if that is not known yet; it is asked only where writers are slowed.
pub(crate) fn throttle(
    debt: &Debt,
    memtables: f64,
    background: impl FnOnce() -> u64,
    limits: &ThrottleLimits,
) -> Throttle {
    let bytes = progress(
        debt.bytes as f64,
        limits.debt_bytes_soft as f64,
        limits.debt_bytes_hard as f64,
    );
    let runs = progress(
        debt.runs as f64,
        limits.runs_soft as f64,
        limits.runs_hard as f64,
    );
    let memtables = progress(memtables, limits.memtables_soft, limits.memtables_hard);
    let pressure = bytes.max(runs).max(memtables);
    if pressure >= 1.0 {
        return Throttle::Stop;
    }
    if pressure <= 0.0 {
        return Throttle::Free;
    }
    let background = background().max(BACKGROUND_BYTES_PER_SECOND_MIN);
    Throttle::Slow {
        bytes_per_second: (background as f64 * RATE_AT_LIMIT / pressure) as u64,
    }
}

/// Shares of the core for background work, of which the foreground has 1000.
pub(crate) fn background_share(debt: &Debt, memtables: f64, limits: &ThrottleLimits) -> u32 {
    let urgency = urgency(debt, limits).max(flush_lag(memtables, limits));
    let more = f64::from(BACKGROUND_SHARE_MAX - BACKGROUND_SHARE_MIN) * urgency;
    BACKGROUND_SHARE_MIN + more as u32
}

/// What is written to a shard, in bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Incoming {
    /// Keys, and the values kept with them.
    pub(crate) inline: f64,
    /// Values in the value log.
    pub(crate) separated: f64,
}

/// Bytes per second that compaction may read and write together; `None` for no limit.
///
/// It needs as much as what comes in brings it to do. Any faster it would only make the foreground
/// wait, until it lags.
pub(crate) fn compaction_rate(
    incoming: Incoming,
    debt: &Debt,
    memtables: f64,
    limits: &ThrottleLimits,
) -> Option<u64> {
    let urgency = urgency(debt, limits);
    if flush_lag(memtables, limits) > urgency.max(FLUSH_LAG_MIN) {
        return Some(RATE_BEHIND_FLUSH);
    }
    let needed = incoming.inline * MOVED_PER_INLINE_BYTE;
    urged(needed.max(REWRITE_RATE_MIN), urgency)
}

/// The same of collection, which has less to do for each byte the further it lags.
pub(crate) fn collection_rate(incoming: Incoming) -> u64 {
    (incoming.separated * MOVED_PER_SEPARATED_BYTE).max(REWRITE_RATE_MIN) as u64
}

/// Bytes per second that a flush may write beyond what it must keep up with; `None` for no limit.
pub(crate) fn flush_rate(memtables: f64, limits: &ThrottleLimits) -> Option<u64> {
    urged(FLUSH_RATE_MIN, flush_lag(memtables, limits))
}

/// Bytes that a flush may write at once when `inline` bytes have come in: it must end before the next
/// memtable is full, however fast that fills.
pub(crate) fn flush_allowance(inline: u64) -> u64 {
    inline.saturating_mul(FLUSHED_PER_INLINE_BYTE)
}

/// A rate that grows beyond all bounds as `lag` goes from 0 to 1.
fn urged(rate: f64, lag: f64) -> Option<u64> {
    let rate = rate / (1.0 - lag);
    rate.is_finite().then_some(rate as u64)
}

/// How far a flush lags, from 0 to where writers begin to be slowed (1).
fn flush_lag(memtables: f64, limits: &ThrottleLimits) -> f64 {
    progress(
        memtables,
        limits.memtables_soft / 2.0,
        limits.memtables_soft,
    )
}

/// How far compaction lags, from 0 to where writers begin to be slowed (1).
fn urgency(debt: &Debt, limits: &ThrottleLimits) -> f64 {
    let bytes = progress(debt.bytes as f64, 0.0, limits.debt_bytes_soft as f64);
    let soft = limits.runs_soft as f64;
    bytes.max(progress(debt.runs as f64, soft / 2.0, soft))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKGROUND: u64 = 100 << 20;

    /// Seconds that a byte is delayed.
    fn delay(debt: Debt, memtables: f64) -> Option<f64> {
        match throttle(&debt, memtables, || BACKGROUND, &ThrottleLimits::default()) {
            Throttle::Free => Some(0.0),
            Throttle::Slow { bytes_per_second } => Some(1.0 / bytes_per_second as f64),
            Throttle::Stop => None,
        }
    }

    fn of(bytes: u64, runs: usize) -> Debt {
        Debt {
            bytes,
            runs,
            score: 0.0,
        }
    }

    #[test]
    fn soft_and_hard_limits() {
        let cases = [
            ("nothing", of(0, 0), 0.0, Some(0.0)),
            ("as much as is usual", of(64 << 30, 20), 2.0, Some(0.0)),
            ("debt half-way", of(160 << 30, 0), 0.0, Some(1.0)),
            ("runs half-way", of(0, 30), 0.0, Some(1.0)),
            ("memtables half-way", of(0, 0), 2.5, Some(1.0)),
            ("the worst counts", of(65 << 30, 30), 2.4, Some(1.0)),
            ("too much debt", of(256 << 30, 0), 0.0, None),
            ("too many runs", of(0, 36), 0.0, None),
            ("memory full", of(0, 0), 3.0, None),
            ("far beyond", of(u64::MAX, usize::MAX), 99.0, None),
        ];
        for (what, debt, memtables, background_rates) in cases {
            let expected = background_rates.map(|rates| rates / BACKGROUND as f64);
            match (delay(debt, memtables), expected) {
                (Some(is), Some(expected)) => assert!(
                    (is - expected).abs() < 0.01 / BACKGROUND as f64,
                    "{what}: {is} instead of {expected}"
                ),
                (is, expected) => assert_eq!(is, expected, "{what}"),
            }
        }
    }

    /// Steps through `values`, and expects the result never to fall nor to jump.
    fn check_smooth(what: &str, jump_max: f64, values: impl Iterator<Item = Option<f64>>) {
        let mut before = 0.0;
        let mut stopped = false;
        for value in values {
            let Some(value) = value else {
                stopped = true;
                continue;
            };
            assert!(!stopped, "{what}: writers go on beyond a stop");
            assert!(value >= before, "{what} falls from {before} to {value}");
            assert!(
                value - before <= jump_max,
                "{what} jumps from {before} to {value}"
            );
            before = value;
        }
    }

    #[test]
    fn the_delay_grows_without_jumps() {
        let jump = 2.0 / BACKGROUND as f64 / 90.0;
        let gib = 1 << 30;
        check_smooth(
            "debt",
            jump,
            (0..280).map(|gibs| delay(of(gibs * gib, 0), 0.0)),
        );
        check_smooth(
            "memtables",
            jump,
            (0..400).map(|n| delay(of(0, 0), f64::from(n) / 100.0)),
        );
        // Runs are few, so that their steps are larger: an eighth of the background's rate.
        let jump = 2.0 / BACKGROUND as f64 / 8.0;
        check_smooth("runs", jump, (0..40).map(|runs| delay(of(0, runs), 0.0)));
    }

    #[test]
    fn background_gets_more_before_writers_are_slowed() {
        let limits = ThrottleLimits::default();
        let with = |debt, memtables| f64::from(background_share(&debt, memtables, &limits));
        let share = |debt| with(debt, 1.0);
        let more = |debt| Some(share(debt) - share(of(0, 0)));
        assert_eq!(share(of(0, 0)), 100.0);
        assert_eq!(share(of(64 << 30, 0)), 800.0);
        assert_eq!(share(of(0, 24)), 800.0);
        assert_eq!(share(of(u64::MAX, usize::MAX)), 800.0);
        assert_eq!(with(of(0, 0), 1.5), 450.0);
        assert_eq!(with(of(0, 0), 2.0), 800.0);
        assert_eq!(with(of(0, 0), 99.0), 800.0);
        let gib = 1 << 30;
        check_smooth("share by debt", 12.0, (0..80).map(|n| more(of(n * gib, 0))));
        check_smooth("share by runs", 120.0, (0..40).map(|n| more(of(0, n))));
    }

    #[test]
    fn background_moves_what_comes_in_and_more_when_it_lags() {
        let limits = ThrottleLimits::default();
        let incoming = |inline: u64, separated: u64| Incoming {
            inline: inline as f64,
            separated: separated as f64,
        };
        let mib = 1 << 20;
        let with = |incoming, debt, memtables| compaction_rate(incoming, &debt, memtables, &limits);
        let rate = |incoming, debt| with(incoming, debt, 1.0);
        assert_eq!(rate(incoming(0, 0), of(0, 0)), Some(32 * mib));
        assert_eq!(rate(incoming(10 * mib, 0), of(0, 12)), Some(160 * mib));
        assert_eq!(rate(incoming(4 * mib, 10 * mib), of(0, 0)), Some(64 * mib));
        assert_eq!(rate(incoming(10 * mib, 0), of(0, 18)), Some(320 * mib));
        assert_eq!(
            rate(incoming(10 * mib, 0), of(32 << 30, 0)),
            Some(320 * mib)
        );
        assert_eq!(rate(incoming(0, 0), of(0, 24)), None);
        assert_eq!(rate(incoming(0, 0), of(u64::MAX, usize::MAX)), None);
        assert_eq!(with(incoming(10 * mib, 0), of(0, 0), 1.3), Some(8 * mib));
        assert_eq!(with(incoming(10 * mib, 0), of(0, 18), 1.6), Some(8 * mib));
        assert_eq!(with(incoming(10 * mib, 0), of(0, 18), 1.4), Some(320 * mib));
        assert_eq!(with(incoming(10 * mib, 0), of(0, 24), 2.5), None);

        let rate = |incoming| collection_rate(incoming);
        assert_eq!(rate(incoming(10 * mib, 0)), 32 * mib);
        assert_eq!(rate(incoming(10 * mib, 10 * mib)), 80 * mib);
    }

    #[test]
    fn a_flush_keeps_ahead_of_the_next_memtable() {
        let limits = ThrottleLimits::default();
        let mib = 1 << 20;
        let rate = |memtables| flush_rate(memtables, &limits);
        assert_eq!(rate(0.0), Some(16 * mib));
        assert_eq!(rate(1.0), Some(16 * mib));
        assert_eq!(rate(1.5), Some(32 * mib));
        assert_eq!(rate(2.0), None);
        assert_eq!(rate(99.0), None);

        assert_eq!(flush_allowance(25), 100);
        assert_eq!(flush_allowance(u64::MAX), u64::MAX);
    }
}
