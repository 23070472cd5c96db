//! Turns the pressure on a shard into a verdict: how fast writers may write, what share of the core
//! background work gets, and how many bytes a second each kind of it may move.
//!
//! Background work is given more of the core first; only when that does not suffice are writers slowed,
//! and they are stopped only where memory or disk would run out. Nothing jumps: the delay of a byte
//! grows from nothing in proportion to the pressure.
//!
//! Background work goes as fast as the incoming writes require, and faster the further it lags. It goes as
//! fast as it can while the shard has no clients or while space runs out.
//!
//! Invariants:
//! * Writers are slowed only when background work has its full share of the core.
//! * More pressure never gives writers more. Slowed writers get at least [`RATE_AT_LIMIT`].

use super::meter::{FAST_WRITES, Incoming};
use crate::compaction::Debt;
use crate::limits::{FREE_PAUSE, FREED_AT_ONCE, MEMTABLES_MAX, REMOVAL_PAUSE, REMOVAL_PAUSE_QUIET};
use std::time::Duration;

/// At the hard limit, writers are admitted at this fraction of the rate at which background work gets
/// done; at a fraction `p` of the way there, at 1 / `p` times as much.
const RATE_AT_LIMIT: f64 = 0.5;

/// A measured background rate below this is not used: the work was idle, or starved.
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
/// fraction `g` of garbage it takes 2 (1 - g) / g to free as many bytes as come in: 6 where a quarter is
/// garbage, and less when it lags.
const MOVED_PER_SEPARATED_BYTE: f64 = 8.0;

/// Bytes a second that a flush writes when nothing comes in.
const FLUSH_RATE_MIN: f64 = (16 << 20) as f64;

/// With less than this part of the device free, space is more urgent than latency.
const FREE_FRACTION_MIN: f64 = 0.1;

/// Garbage presses writers at most this far towards a stop: what cannot be collected because it is
/// damaged must not stop them.
const GARBAGE_PRESSURE_MAX: f64 = 0.9;

/// Where slowing down begins, and where writers stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PaceLimits {
    pub(crate) debt_bytes_soft: u64,
    pub(crate) debt_bytes_hard: u64,
    pub(crate) runs_soft: usize,
    pub(crate) runs_hard: usize,
    pub(crate) memtables_soft: f64,
    pub(crate) memtables_hard: f64,
    /// Less garbage than this in the value log presses nobody.
    pub(crate) garbage_bytes_min: u64,
    /// Parts of the value log that are garbage.
    pub(crate) garbage_eager: f64,
    pub(crate) garbage_soft: f64,
    pub(crate) garbage_hard: f64,
}

impl Default for PaceLimits {
    /// The soft ones are beyond what a shard has that keeps up: the longest ordinary merge and what it
    /// passes on, the runs that either policy leaves alone, one memtable that fills while the one
    /// before it is flushed, and twice the garbage at which segments are collected.
    fn default() -> Self {
        Self {
            debt_bytes_soft: 64 << 30,
            debt_bytes_hard: 256 << 30,
            runs_soft: 24,
            runs_hard: 36,
            memtables_soft: 2.0,
            memtables_hard: MEMTABLES_MAX as f64,
            garbage_bytes_min: 1 << 30,
            garbage_eager: 0.35,
            garbage_soft: 0.6,
            garbage_hard: 0.9,
        }
    }
}

/// Room on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DeviceSpace {
    /// The part of the device that is free.
    pub(crate) free_fraction: f64,
    /// Whether new values are refused.
    pub(crate) is_full: bool,
}

impl Default for DeviceSpace {
    fn default() -> Self {
        Self {
            free_fraction: 1.0,
            is_full: false,
        }
    }
}

/// What a verdict is made from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pressure {
    /// What compaction is behind by.
    pub(crate) debt: Debt,
    /// Full memtables, of which one that is half full counts half.
    pub(crate) memtables: f64,
    pub(crate) space: DeviceSpace,
    /// Records of the value log that nothing refers to, as far as is known, and all of them, in bytes.
    pub(crate) garbage_bytes: u64,
    pub(crate) value_bytes: u64,
    /// What comes in, and whether the shard has clients.
    pub(crate) incoming: Incoming,
    pub(crate) is_busy: bool,
    /// Space that removed files hold back, as a part of what they may, from 0 to 1.
    pub(crate) removals: f64,
}

/// What writers may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Writers {
    /// Write as fast as they can.
    Free,
    /// Write, all together, this many bytes for each byte that flushes and compactions write.
    Slow(f64),
    /// Wait.
    Stop,
}

impl Writers {
    /// Bytes per second of slowed writers. `background` is the measured rate of background writes, 0 if it is
    /// not known yet.
    pub(crate) fn rate(part: f64, background: u64) -> u64 {
        (background.max(BACKGROUND_BYTES_PER_SECOND_MIN) as f64 * part) as u64
    }
}

/// What everybody may do. Rates are in bytes per second, read and written ones together; `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) writers: Writers,
    /// Shares of the core for background work, of which the foreground has 1000.
    pub(crate) share: u32,
    /// Beyond what keeps up with what comes in.
    pub(crate) flush: Option<u64>,
    pub(crate) compaction: Option<u64>,
    pub(crate) collection: Option<u64>,
    /// Steps in which files out of use give their space back, per second.
    pub(crate) removal: Option<u64>,
    /// Entries of memtables out of use, per second.
    pub(crate) reclaim: Option<u64>,
}

/// The verdict under `pressure`.
pub(crate) fn judge(pressure: &Pressure, limits: &PaceLimits) -> Verdict {
    let Pressure {
        debt,
        memtables,
        space,
        incoming,
        ..
    } = pressure;
    let garbage = garbage_part(pressure, limits);
    let compaction_lag = compaction_lag(debt, limits);
    let flush_lag = flush_lag(*memtables, limits);
    let garbage_lag = progress(garbage, limits.garbage_eager, limits.garbage_soft);
    let lag = compaction_lag.max(flush_lag).max(garbage_lag);
    let more = f64::from(BACKGROUND_SHARE_MAX - BACKGROUND_SHARE_MIN) * lag;
    let verdict = Verdict {
        writers: judge_writers(pressure, limits),
        share: BACKGROUND_SHARE_MIN + more as u32,
        flush: urged(FLUSH_RATE_MIN, flush_lag),
        compaction: compaction_rate(*incoming, compaction_lag, flush_lag),
        collection: urged(
            (incoming.separated * MOVED_PER_SEPARATED_BYTE).max(REWRITE_RATE_MIN),
            garbage_lag,
        ),
        removal: Some(removal_rate(pressure)),
        reclaim: (incoming.inline <= FAST_WRITES)
            .then(|| per_second(FREED_AT_ONCE as u64, FREE_PAUSE)),
    };
    assert!((BACKGROUND_SHARE_MIN..=BACKGROUND_SHARE_MAX).contains(&verdict.share));
    assert!(
        verdict.writers == Writers::Free || verdict.share == BACKGROUND_SHARE_MAX,
        "writers are slowed before background work has its share: {verdict:?}"
    );
    let needs_space = space.is_full || space.free_fraction < FREE_FRACTION_MIN;
    match pressure.is_busy && !needs_space {
        true => verdict,
        false => Verdict {
            flush: None,
            compaction: None,
            collection: None,
            ..verdict
        },
    }
}

/// How far `value` is from `soft` (0) to `hard` (1).
fn progress(value: f64, soft: f64, hard: f64) -> f64 {
    let part = ((value - soft) / (hard - soft)).clamp(0.0, 1.0);
    debug_assert!(!part.is_nan(), "from {soft} to {hard}");
    part
}

/// What writers may do under `pressure`: of its parts debt, memtables and garbage count.
pub(crate) fn judge_writers(pressure: &Pressure, limits: &PaceLimits) -> Writers {
    let Pressure {
        debt, memtables, ..
    } = pressure;
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
    let memtables = progress(*memtables, limits.memtables_soft, limits.memtables_hard);
    let garbage = garbage_part(pressure, limits);
    let garbage = progress(garbage, limits.garbage_soft, limits.garbage_hard);
    let pressure = bytes
        .max(runs)
        .max(memtables)
        .max(garbage.min(GARBAGE_PRESSURE_MAX));
    if pressure >= 1.0 {
        return Writers::Stop;
    }
    if pressure <= 0.0 {
        return Writers::Free;
    }
    let part = RATE_AT_LIMIT / pressure;
    assert!(
        part >= RATE_AT_LIMIT,
        "slowed writers get less than stopped ones"
    );
    Writers::Slow(part)
}

/// The part of the value log that is garbage, 0 if that is little.
fn garbage_part(pressure: &Pressure, limits: &PaceLimits) -> f64 {
    match pressure.garbage_bytes < limits.garbage_bytes_min {
        true => 0.0,
        false => pressure.garbage_bytes as f64 / pressure.value_bytes.max(1) as f64,
    }
}

/// Compaction keeps up with the incoming writes. Until it lags, any more speed would only make the foreground
/// wait.
fn compaction_rate(incoming: Incoming, compaction_lag: f64, flush_lag: f64) -> Option<u64> {
    if flush_lag > compaction_lag.max(FLUSH_LAG_MIN) {
        return Some(RATE_BEHIND_FLUSH);
    }
    let needed = incoming.inline * MOVED_PER_INLINE_BYTE;
    urged(needed.max(REWRITE_RATE_MIN), compaction_lag)
}

/// Faster the more is held back. Others may share the device, so that there is a limit while the shard
/// is quiet too.
fn removal_rate(pressure: &Pressure) -> u64 {
    if !pressure.is_busy {
        return per_second(1, REMOVAL_PAUSE_QUIET);
    }
    let busy = per_second(1, REMOVAL_PAUSE);
    urged(busy as f64, pressure.removals).unwrap_or(u64::MAX)
}

fn per_second(count: u64, pause: Duration) -> u64 {
    (count as f64 / pause.as_secs_f64()) as u64
}

/// A rate that grows beyond all bounds as `lag` goes from 0 to 1.
fn urged(rate: f64, lag: f64) -> Option<u64> {
    assert!(rate >= 0.0 && (0.0..=1.0).contains(&lag));
    let rate = rate / (1.0 - lag);
    rate.is_finite().then_some(rate as u64)
}

/// How far a flush lags, from 0 to where writers begin to be slowed (1).
fn flush_lag(memtables: f64, limits: &PaceLimits) -> f64 {
    progress(
        memtables,
        limits.memtables_soft / 2.0,
        limits.memtables_soft,
    )
}

/// How far compaction lags, from 0 to where writers begin to be slowed (1).
fn compaction_lag(debt: &Debt, limits: &PaceLimits) -> f64 {
    let bytes = progress(debt.bytes as f64, 0.0, limits.debt_bytes_soft as f64);
    let soft = limits.runs_soft as f64;
    bytes.max(progress(debt.runs as f64, soft / 2.0, soft))
}

#[cfg(test)]
mod tests;
