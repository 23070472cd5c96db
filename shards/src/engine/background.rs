//! The tasks that compact and collect, and when they run.
//!
//! They hold the engine only while they work, so that an engine that is dropped without being closed
//! ends.

use super::{Engine, EngineInner};
use crate::ids::{LogIndex, ValueSegmentId};
use crate::limits::COMPACTIONS_MAX;
use corelith_io::sync::notify::Notify;
use corelith_io::{BackgroundDemand, spawn_background};
use std::cell::Cell;
use std::future::Future;
use std::rc::{Rc, Weak};

/// See the module. Belongs to the core of its engine.
pub(super) struct Background {
    wake: Rc<Notify>,
    /// Wakes the task that keeps space; told when the engine goes, too.
    keep: Rc<Notify>,
    working: Cell<u32>,
    /// Whether the last compaction that had an output found no room for it.
    pub(super) compaction_is_stuck: Cell<bool>,
    /// The same of collection.
    pub(super) collection_is_stuck: Cell<bool>,
    /// The last result of [`Engine::circumstances`].
    circumstances: Cell<Circumstances>,
    demand: BackgroundDemand,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            wake: Rc::new(Notify::new()),
            keep: Rc::new(Notify::new()),
            working: Cell::new(0),
            compaction_is_stuck: Cell::default(),
            collection_is_stuck: Cell::default(),
            circumstances: Cell::default(),
            demand: BackgroundDemand::new(),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.wake.notify_waiters();
        self.keep.notify_one();
    }
}

impl Background {
    /// What wakes the task that keeps space.
    pub(super) fn keep(&self) -> &Rc<Notify> {
        &self.keep
    }

    /// Has the tasks look for work.
    pub(super) fn wake(&self) {
        self.wake.notify_waiters();
    }

    /// What wakes the tasks, and is told when the engine goes.
    pub(super) fn waker(&self) -> Rc<Notify> {
        Rc::clone(&self.wake)
    }

    /// Sets the shares of the core that background work gets.
    pub(super) fn demand(&self, shares: u32) {
        self.demand.set(shares as usize);
    }

    /// Whether no task works.
    pub(super) fn is_idle(&self) -> bool {
        self.working.get() == 0
    }
}

/// What decides about work and changes without an edit of the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Circumstances {
    /// The log has forgotten everything up to here.
    purged: Option<LogIndex>,
    oldest_pin: LogIndex,
    /// Segments below it are sealed.
    first_unsealed: ValueSegmentId,
    is_eager: bool,
    /// Hundredths of the device that are free.
    free_percent: u32,
}

/// See [`Engine::working`].
pub(super) struct Working(Engine);

impl Drop for Working {
    fn drop(&mut self) {
        let inner = &self.0.inner;
        let working = &inner.background.working;
        assert!(working.get() > 0, "a task ends its work once");
        working.set(working.get() - 1);
        inner.changed.notify_waiters();
    }
}

/// Whether there may be more work at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Look again.
    Again,
    /// Wait until something has changed.
    Wait,
}

impl Engine {
    pub(super) fn start_background(&self) {
        self.measure_debt();
        self.start_keeping_space();
        for _ in 0..COMPACTIONS_MAX {
            self.start(|engine| async move { engine.compact_once().await });
        }
        self.start(|engine| async move { engine.collect_once().await });
        self.start_scrubbing();
    }

    /// Runs `work` whenever there may be some.
    fn start<Fut>(&self, work: impl Fn(Engine) -> Fut + 'static)
    where
        Fut: Future<Output = Turn> + 'static,
    {
        let weak: Weak<EngineInner> = Rc::downgrade(&self.inner);
        let wake = Rc::clone(&self.inner.background.wake);
        drop(spawn_background(async move {
            loop {
                let woken = wake.notified();
                let Some(inner) = weak.upgrade() else { return };
                let engine = Engine { inner };
                let turn = if engine.check_usable().is_ok() {
                    let _working = engine.working();
                    work(engine.clone()).await
                } else {
                    Turn::Wait
                };
                drop(engine);
                match turn {
                    Turn::Again => corelith_io::yield_now().await,
                    Turn::Wait => woken.await,
                }
            }
        }));
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances {
            purged: (self.inner.log.purged)(),
            oldest_pin: self.inner.pins.oldest(),
            first_unsealed: self.inner.values.first_unsealed(),
            is_eager: self.is_eager(),
            free_percent: (self.inner.free_fraction.get() * 100.0) as u32,
        }
    }

    /// Has the tasks look for work if there may be some that no edit has brought; whether it did.
    pub(super) fn wake_for_circumstances(&self) -> bool {
        let background = &self.inner.background;
        let now = self.circumstances();
        let is_new = background.circumstances.replace(now) != now;
        if is_new {
            background.wake();
        }
        is_new
    }

    /// Counts a task among those that work, until the guard is dropped.
    pub(super) fn working(&self) -> Working {
        let working = &self.inner.background.working;
        working.set(working.get() + 1);
        Working(self.clone())
    }

    /// Whether nothing is to be compacted or collected, and nothing is under way.
    pub fn is_settled(&self) -> bool {
        let is_flushed = {
            let state = self.inner.state.borrow();
            state.frozen.is_empty() && !state.flushing
        };
        is_flushed
            && self.inner.background.is_idle()
            && self.inner.removals.is_idle()
            && self.is_compaction_settled()
            && !self.is_collection_due()
    }
}
