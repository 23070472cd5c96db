//! Paces the engine; see [`crate::pace`].

use super::Engine;
use crate::compaction::Debt;
use crate::error::{Error, Result};
use crate::pace::{DeviceSpace, Lane, Pressure, Verdict, Writers, judge, judge_writers};
use corelith_io::now;
use std::cell::Cell;

/// What is to be done, as of the last edit. Belongs to one core.
#[derive(Default)]
pub(super) struct Backlog {
    pub(super) debt: Cell<Debt>,
    /// Records of the value log that nothing refers to, and all of them, in bytes.
    pub(super) garbage_bytes: Cell<u64>,
    pub(super) value_bytes: Cell<u64>,
}

impl Engine {
    /// What presses writers.
    fn load(&self) -> Pressure {
        let backlog = &self.inner.backlog;
        Pressure {
            debt: backlog.debt.get(),
            memtables: self.full_memtables(),
            garbage_bytes: backlog.garbage_bytes.get(),
            value_bytes: backlog.value_bytes.get(),
            ..Pressure::default()
        }
    }

    fn pressure(&self) -> Pressure {
        let inner = &self.inner;
        Pressure {
            space: DeviceSpace {
                free_fraction: inner.free_fraction.get(),
                is_full: self.is_disk_full(),
            },
            incoming: inner.pace.meter.incoming(),
            is_busy: inner.pace.meter.is_busy() && !inner.state.borrow().closed,
            ..self.load()
        }
    }

    /// Whether clients have read from it or written to it just now.
    pub fn serves_clients(&self) -> bool {
        let meter = &self.inner.pace.meter;
        meter.measure(now());
        meter.is_busy()
    }

    /// What everybody may do now.
    pub(super) fn verdict(&self) -> Verdict {
        judge(&self.pressure(), &self.inner.options.limits)
    }

    /// What writers may do now, asked for each of them.
    fn writers(&self) -> Writers {
        judge_writers(&self.load(), &self.inner.options.limits)
    }

    /// Counts bytes that background work has read and written, and waits until they are due.
    pub(super) async fn pace(&self, lane: Lane, bytes: u64) {
        let pace = &self.inner.pace;
        let now = now();
        pace.meter.measure(now);
        let verdict = self.verdict();
        self.demand(&verdict);
        let wait = pace.wait(lane, now, bytes, &verdict);
        if !wait.is_zero() {
            corelith_io::sleep(wait).await;
        }
    }

    /// Waits while flushes lag so far that nothing more may be applied (memory budget), and for a short time
    /// while flushes, compaction or collection lag.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_for_room(&self) -> Result<()> {
        loop {
            let changed = self.inner.changed.notified();
            self.check_usable()?;
            match self.writers() {
                Writers::Free => {
                    self.inner.pace.free_writers();
                    return Ok(());
                }
                Writers::Slow(part) => {
                    self.ask_for_share();
                    let rate = Writers::rate(part, self.inner.counters.background_rate());
                    let wait = self.inner.pace.wait_to_write(now(), rate);
                    if !wait.is_zero() {
                        corelith_io::sleep(wait).await;
                    }
                    return self.check_usable();
                }
                Writers::Stop if self.is_stopping() => return Err(Error::Closed),
                Writers::Stop => {
                    self.ask_for_share();
                    changed.await;
                }
            }
        }
    }

    /// Waits while all memtables are full. Unlike [`Engine::wait_for_room`] it slows nobody: that is for those who
    /// have yet to write what will be applied.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_for_memory(&self) -> Result<()> {
        loop {
            let changed = self.inner.changed.notified();
            self.check_usable()?;
            if self.writers() != Writers::Stop {
                return Ok(());
            }
            if self.is_stopping() {
                return Err(Error::Closed);
            }
            self.ask_for_share();
            changed.await;
        }
    }

    /// Bytes at which a memtable is full.
    pub fn memtable_bytes_max(&self) -> usize {
        self.inner.options.memtable_bytes
    }

    /// Whether [`Engine::wait_for_room`] would return at once.
    pub fn has_room(&self) -> bool {
        let is_free = self.writers() == Writers::Free;
        if is_free {
            self.inner.pace.free_writers();
        }
        is_free && self.check_usable().is_ok()
    }

    /// Sets how much of the core background work gets from what there is to do.
    pub(super) fn ask_for_share(&self) {
        self.demand(&self.verdict());
    }

    fn demand(&self, verdict: &Verdict) {
        self.inner.background.demand(verdict.share);
    }

    /// How many memtables are full, those that are flushed included; one that is half full counts half.
    pub(super) fn full_memtables(&self) -> f64 {
        let state = self.inner.state.borrow();
        let part = |is: u64, of: u64| is as f64 / of.max(1) as f64;
        let memory = part(
            state.active.bytes() as u64,
            self.inner.options.memtable_bytes as u64,
        );
        let values = part(state.active.separated_bytes(), state.separated_bytes_max);
        state.frozen.len() as f64 + memory.max(values).min(1.0)
    }
}
