//! Notices that the device is full, or no longer full, and runs what else is periodic.
//!
//! Once a second all shards of a core are looked at in one round ([`crate::rounds`]), but for those at rest; a task of the shard does what that has
//! found, if anything.

use super::Engine;
use crate::capacity::Capacity;
use crate::error::Result;
use crate::limits::{REMOVAL_HELD_BYTES_MAX, REMOVAL_HELD_FRACTION, REST_PERIOD, SPACE_PERIOD};
use crate::manifest::SEGMENT_BYTES;
use crate::planted::{Bug, is_planted};
use corelith_io::{Instant, Space, spawn_background};
use futures_util::future::select;
use std::pin::pin;
use std::rc::Rc;

/// When a shard was looked at that had nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// What the foreground had done until then.
    operations: u64,
    at: Instant,
}

impl Rest {
    /// Whether a shard of which the foreground has asked that many operations so far need not be looked at again.
    fn lasts(self, operations: u64, now: Instant) -> bool {
        debug_assert!(operations >= self.operations, "what is done stays done");
        operations == self.operations && now.saturating_duration_since(self.at) < REST_PERIOD
    }
}

impl Engine {
    /// Whether the device was found full. What makes room goes on; new values should be refused.
    pub fn is_disk_full(&self) -> bool {
        let is_spent = !self.inner.reserve.is_held() && !is_planted(Bug::SpendReserve);
        is_spent || (self.inner.log.is_disk_full)() || self.is_stuck()
    }

    /// Whether the shard takes new values: whether what its metadata can hold leaves room for more. What
    /// makes room (deletions, compaction, collection) goes on in any case.
    ///
    /// # Errors
    /// `Full`, which says what there is too much of.
    pub fn check_capacity(&self) -> Result<()> {
        self.inner.options.capacity.takes_values(&self.used())
    }

    fn used(&self) -> Capacity {
        let state = self.inner.state.borrow();
        let named = state.manifest.segments.len() as u64;
        let value_segments = self.inner.values.segments().len() as u64;
        // The next edit will name those begun since the last one.
        let begun = value_segments.saturating_sub(named);
        Capacity {
            manifest_bytes: self.inner.manifest_bytes.get() + begun * SEGMENT_BYTES,
            tables: state.manifest.tables.len() as u64,
            value_segments,
            log_segments: (self.inner.log.segments)() as u64,
        }
    }

    fn tell_of_capacity(&self) {
        let shard = self.inner.owner;
        let capacity = self.check_capacity();
        match (self.inner.was_full.replace(capacity.is_err()), capacity) {
            (false, Err(error)) => tracing::warn!(%shard, %error, "new values are refused"),
            (true, Ok(())) => tracing::info!(%shard, "the shard takes new values again"),
            _ => {}
        }
    }

    /// Whether work that makes room, or an accepted write, waits for space.
    fn is_stuck(&self) -> bool {
        let inner = &self.inner;
        let background = &inner.background;
        inner.state.borrow().disk_full
            || background.compaction_is_stuck.get()
            || background.collection_is_stuck.get()
            || (inner.log.is_stuck)()
    }

    /// Gives the reserve up while something is stuck, and takes it again when nothing is.
    pub(super) fn start_keeping_space(&self) {
        let weak = Rc::downgrade(&self.inner);
        let visited = weak.clone();
        let dir = self.inner.dir.to_path_buf();
        self.inner.rounds.join(dir, move |space| {
            let Some(inner) = visited.upgrade() else {
                return false;
            };
            let engine = Self { inner };
            let is_open = !engine.inner.state.borrow().closed;
            if is_open {
                engine.visit(space);
            }
            is_open
        });
        drop(spawn_background(async move {
            loop {
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self { inner };
                if engine.inner.state.borrow().closed {
                    return;
                }
                {
                    let _working = engine.working();
                    engine.inner.pace.meter.measure(corelith_io::now());
                    engine.keep_space().await;
                    engine.look_out();
                    if engine.has_unused() {
                        engine.remove_unused().await;
                    }
                    engine.remove_forgotten().await;
                    engine.wake_for_circumstances();
                }
                let changed = Rc::clone(&engine.inner.changed);
                let keep = Rc::clone(engine.inner.background.keep());
                let is_full = engine.is_disk_full();
                drop(engine);
                if is_full {
                    corelith_io::sleep(SPACE_PERIOD).await;
                } else {
                    let woken = (pin!(changed.notified()), pin!(keep.notified()));
                    select(woken.0, woken.1).await;
                }
            }
        }));
    }

    /// Takes account of the time that has passed, and of the space of the device. Has the shard's task work if there is
    /// something to do.
    fn visit(&self, space: Option<Space>) {
        let inner = &self.inner;
        let now = corelith_io::now();
        let operations = inner.pace.meter.operations();
        if inner
            .rest
            .get()
            .is_some_and(|rest| rest.lasts(operations, now))
        {
            return;
        }
        let had_operations = inner.visited_at.replace(operations) != operations;
        inner.pace.meter.measure(now);
        if let Some(space) = space {
            self.note_space(space);
        }
        self.tell_of_capacity();
        self.look_out();
        let is_reserve_right = match self.is_stuck() {
            true => inner.reserve.is_given_up(),
            false => inner.reserve.is_held(),
        };
        let is_left = self.has_unused() || inner.incoming.is_forgotten();
        let has_work = !is_reserve_right || self.is_disk_full() || is_left;
        if has_work {
            inner.background.keep().notify_one();
        }
        let is_woken = self.wake_for_circumstances();
        let has_work = has_work || is_woken || had_operations || self.awaits_space();
        let rests = !has_work && self.is_settled();
        inner.rest.set(rests.then_some(Rest {
            operations,
            at: now,
        }));
    }

    fn note_space(&self, space: Space) {
        if space.total == 0 {
            return;
        }
        let fraction = space.free as f64 / space.total as f64;
        self.inner.free_fraction.set(fraction);
        self.inner.removals.set_held_max(match self.is_disk_full() {
            true => 0,
            false => REMOVAL_HELD_BYTES_MAX.min(space.free / REMOVAL_HELD_FRACTION),
        });
    }

    async fn keep_space(&self) {
        let reserve = &self.inner.reserve;
        if let Ok(space) = corelith_io::space(&self.inner.dir).await {
            self.note_space(space);
        }
        let was_held = reserve.is_held();
        let result = if self.is_stuck() {
            // What is there now is for what cannot wait.
            self.inner.values.set_thrifty(true);
            reserve.give_up().await
        } else {
            reserve.take().await
        };
        self.inner.values.set_thrifty(!reserve.is_held());
        if let Err(error) = result {
            tracing::warn!(shard = %self.inner.owner, %error, "the reserve of space");
        }
        if was_held && !reserve.is_held() {
            tracing::warn!(shard = %self.inner.owner, "the device is full: new values are refused");
        } else if !was_held && reserve.is_held() {
            tracing::info!(shard = %self.inner.owner, "there is room on the device again");
        }
        self.tell_of_capacity();
        if self.is_disk_full() {
            self.flush_for_space();
        }
    }

    /// Flushes what is in memory: what it deletes, and replaces, is garbage only then.
    fn flush_for_space(&self) {
        let is_due = {
            let state = self.inner.state.borrow();
            state.frozen.is_empty() && !state.active.is_empty()
        };
        if is_due {
            self.freeze();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_rests_until_something_is_asked_of_it() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let rest = Rest {
            operations: 7,
            at: at(1000),
        };
        let period = REST_PERIOD.as_millis() as u64;
        assert!(rest.lasts(7, at(1001)));
        assert!(rest.lasts(7, at(999 + period)));
        assert!(!rest.lasts(7, at(1000 + period)));
        assert!(!rest.lasts(8, at(1001)));
    }
}
