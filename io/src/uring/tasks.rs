//! Which tasks of a core have not ended.

use glommio::task::JoinHandle as Scheduled;
use std::cell::{Cell, RefCell};

/// The tasks of one core that have not ended, so that they can be aborted, one by one or all when
/// the core ends: a task that glommio forgets would keep its sockets open.
#[derive(Default)]
pub(crate) struct Tasks {
    slots: RefCell<Vec<Option<Scheduled<()>>>>,
    free: RefCell<Vec<usize>>,
    running: Cell<usize>,
}

impl Tasks {
    pub(super) fn reserve(&self) -> usize {
        self.running.set(self.running.get() + 1);
        self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut slots = self.slots.borrow_mut();
            slots.push(None);
            slots.len() - 1
        })
    }

    pub(super) fn fill(&self, slot: usize, task: Scheduled<()>) {
        if let Some(place) = self.slots.borrow_mut().get_mut(slot) {
            *place = Some(task);
        }
    }

    pub(super) fn release(&self, slot: usize) {
        self.running.set(self.running.get() - 1);
        let task = self.slots.borrow_mut().get_mut(slot).and_then(Option::take);
        self.free.borrow_mut().push(slot);
        drop(task);
    }

    pub(super) fn abort(&self, slot: usize) {
        if let Some(Some(task)) = self.slots.borrow().get(slot) {
            task.cancel();
        }
    }

    /// Aborts all tasks; they end when they are next scheduled.
    pub(crate) fn abort_all(&self) {
        for task in self.slots.borrow().iter().flatten() {
            task.cancel();
        }
    }

    /// How many tasks have not ended.
    pub(crate) fn running(&self) -> usize {
        self.running.get()
    }
}
