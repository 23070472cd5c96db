//! How fast writes are taken: smoothly slower as flushes or compaction fall behind, and not at all
//! while all memtables are full.

use super::Engine;
use crate::compaction::{Debt, Throttle, throttle};
use crate::error::Result;
use crate::limits::THROTTLE_PAUSE_MAX;
use corelith_io::{Instant, now};
use std::cell::Cell;
use std::time::Duration;

/// When the next write is due while writes are slowed. Belongs to one core.
#[derive(Default)]
pub(super) struct Pace {
    /// Bytes applied since the last pause.
    bytes: Cell<u64>,
    due: Cell<Option<Instant>>,
    debt: Cell<Debt>,
}

impl Pace {
    /// Notes bytes applied.
    pub(super) fn note(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// How long to wait at `now` so that no more than `rate` bytes are applied per second.
    fn pause(&self, now: Instant, rate: u64) -> Duration {
        let due = self.due.get().map_or(now, |due| due.max(now));
        let nanos = self.bytes.replace(0).saturating_mul(1_000_000_000) / rate.max(1);
        let due = due + Duration::from_nanos(nanos);
        // Nobody waits for long at once: what was applied before may be forgiven.
        let due = due.min(now + THROTTLE_PAUSE_MAX);
        self.due.set(Some(due));
        due.saturating_duration_since(now)
    }

    fn reset(&self) {
        self.bytes.set(0);
        self.due.set(None);
    }
}

impl Engine {
    /// Waits while flushes lag so far behind that no more may be applied (memory budget), and a
    /// little while they or compaction lag.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_for_room(&self) -> Result<()> {
        while !self.has_room() {
            let changed = self.inner.changed.notified();
            self.check_usable()?;
            match self.throttle() {
                Throttle::Free => {}
                Throttle::Slow { bytes_per_second } => {
                    self.ask_for_share();
                    let pause = self.inner.pace.pause(now(), bytes_per_second);
                    if !pause.is_zero() {
                        corelith_io::sleep(pause).await;
                    }
                    return self.check_usable();
                }
                Throttle::Stop => {
                    self.ask_for_share();
                    changed.await;
                }
            }
        }
        Ok(())
    }

    /// Whether [`Engine::wait_for_room`] would return at once.
    pub fn has_room(&self) -> bool {
        self.check_usable().is_ok() && self.throttle() == Throttle::Free
    }

    pub(super) fn throttle(&self) -> Throttle {
        let throttle = throttle(
            &self.debt(),
            self.full_memtables(),
            || self.inner.counters.background_rate(),
            &self.inner.options.throttle,
        );
        if throttle == Throttle::Free {
            // What was taken while writers were free is not held against them when they are slowed.
            self.inner.pace.reset();
        }
        throttle
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

    /// What compaction has yet to do, as of the last edit.
    pub(super) fn debt(&self) -> Debt {
        self.inner.pace.debt.get()
    }

    pub(super) fn set_debt(&self, debt: Debt) {
        self.inner.pace.debt.set(debt);
    }
}
