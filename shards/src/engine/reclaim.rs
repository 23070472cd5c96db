//! Frees memtables that are out of use in small steps: dropping all entries at once would hold up the core
//! for many milliseconds, and so would a read that drops the last reference to one.
//!
//! There is a pause after each step, unless writes come fast: then the next memtable needs the memory. Two
//! shards that were written to at full speed held 464 MiB with pauses and 251 MiB without.
//!
//! Invariant: a memtable is freed when nothing reads from it.

use super::Engine;
use crate::limits::{FREED_AT_ONCE, HELD_MEMTABLE_PAUSE, RETIRED_MEMTABLES_MAX};
use crate::memtable::{Leftovers, Memtable};
use crate::pace::{Bucket, Meter, PaceLimits, Pressure, STEPS, judge};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Memtables out of use. Belongs to one engine.
pub(super) struct Reclaim {
    limits: PaceLimits,
    meter: Rc<Meter>,
    bucket: Bucket,
    /// Oldest first. Some may still be read from.
    pub(super) retired: RefCell<Vec<Rc<Memtable>>>,
    pub(super) is_running: Cell<bool>,
}

impl Reclaim {
    pub(super) fn new(limits: PaceLimits, meter: Rc<Meter>) -> Self {
        Self {
            limits,
            meter,
            bucket: Bucket::new(STEPS),
            retired: RefCell::default(),
            is_running: Cell::new(false),
        }
    }

    /// How long the core does other things after some entries were freed.
    fn wait(&self) -> Duration {
        let pressure = Pressure {
            incoming: self.meter.incoming(),
            ..Pressure::default()
        };
        let rate = judge(&pressure, &self.limits).reclaim;
        self.bucket
            .take(corelith_io::now(), FREED_AT_ONCE as u64, rate)
    }

    /// Takes the oldest memtable that nothing reads from, if there are more than `spared` such.
    pub(super) fn take_unused(&self, spared: usize) -> Option<Leftovers> {
        let retired = &mut *self.retired.borrow_mut();
        let is_unused = |memtable: &Rc<Memtable>| Rc::strong_count(memtable) == 1;
        let mut unused = (0..retired.len()).filter(|at| retired.get(*at).is_some_and(is_unused));
        let first = unused.next()?;
        if unused.count() < spared {
            return None;
        }
        let unused = Rc::try_unwrap(retired.remove(first)).ok();
        assert!(
            unused.is_some(),
            "a memtable is read from while it is freed"
        );
        unused.map(Memtable::into_leftovers)
    }
}

impl Engine {
    /// Has a memtable freed that the state no longer has, once nothing reads from it.
    pub(super) fn retire_memtable(&self, memtable: Rc<Memtable>) {
        let reclaim = &self.inner.reclaim;
        reclaim.retired.borrow_mut().push(memtable);
        if !reclaim.is_running.replace(true) {
            drop(corelith_io::spawn_background(run(Rc::downgrade(reclaim))));
        }
    }

    /// Frees memtables at once until only a few wait for it.
    pub(super) async fn keep_up_freeing(&self) {
        while let Some(mut leftovers) = self.inner.reclaim.take_unused(RETIRED_MEMTABLES_MAX) {
            while leftovers.free(FREED_AT_ONCE) {
                corelith_io::yield_if_needed().await;
            }
        }
    }
}

async fn run(weak: Weak<Reclaim>) {
    let mut leftovers: Option<Leftovers> = None;
    while let Some(reclaim) = weak.upgrade() {
        let pause = match &mut leftovers {
            Some(some) => {
                if !some.free(FREED_AT_ONCE) {
                    leftovers = None;
                }
                reclaim.wait()
            }
            None => {
                leftovers = reclaim.take_unused(0);
                if reclaim.retired.borrow().is_empty() && leftovers.is_none() {
                    reclaim.is_running.set(false);
                    return;
                }
                HELD_MEMTABLE_PAUSE
            }
        };
        drop(reclaim);
        match pause.is_zero() {
            true => corelith_io::yield_if_needed().await,
            false => corelith_io::sleep(pause).await,
        }
    }
}
