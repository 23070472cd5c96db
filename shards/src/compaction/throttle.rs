//! Debt into a delay of writers and a share of the core.
//!
//! Background work is given more of the core first; only when that does not suffice are writers slowed,
//! and they are stopped only where memory or disk would run out. Nothing jumps: the delay of a byte
//! grows from nothing in proportion to the pressure.

use super::picker::Debt;

/// Beside the debt, what weighs on a shard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Bytes of all memtables, frozen ones included.
    pub(crate) memtable_bytes: u64,
    /// Bytes per second that flushes and compactions were measured to write; 0 if not known yet.
    pub(crate) background_bytes_per_second: u64,
}

/// Where slowing down begins, and where writers stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThrottleLimits {
    pub(crate) debt_bytes_soft: u64,
    pub(crate) debt_bytes_hard: u64,
    pub(crate) runs_soft: usize,
    pub(crate) runs_hard: usize,
    pub(crate) memtable_bytes_soft: u64,
    pub(crate) memtable_bytes_hard: u64,
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

/// What writers may do under `debt` and `load`.
pub(crate) fn throttle(_debt: &Debt, _load: &Load, _limits: &ThrottleLimits) -> Throttle {
    Throttle::Free
}

/// Shares of the core for background work, of which the foreground has 1000.
pub(crate) fn background_share(_debt: &Debt, _limits: &ThrottleLimits) -> u32 {
    100
}
