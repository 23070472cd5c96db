//! Which tasks of a core have not ended.

use std::cell::{Cell, RefCell};

/// A task as its executor knows it.
pub(crate) enum Scheduled {
    Glommio(glommio::task::JoinHandle<()>),
    /// It ends when this is dropped.
    Ring {
        _task: async_task::Task<()>,
    },
}

/// The tasks of one core that have not ended, so that they can be aborted, one by one or all when
/// the core ends: a task that glommio forgets would keep its sockets open.
///
/// Invariant: a slot is free or belongs to a running task.
#[derive(Default)]
pub(crate) struct Tasks {
    slots: RefCell<Vec<Option<Scheduled>>>,
    free: RefCell<Vec<usize>>,
    running: Cell<usize>,
}

impl Tasks {
    pub(super) fn reserve(&self) -> usize {
        self.running.set(self.running.get() + 1);
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut slots = self.slots.borrow_mut();
            slots.push(None);
            slots.len() - 1
        });
        self.check_counts();
        slot
    }

    fn check_counts(&self) {
        assert_eq!(
            self.running.get() + self.free.borrow().len(),
            self.slots.borrow().len(),
            "a slot is free or in use"
        );
    }

    pub(super) fn fill(&self, slot: usize, task: Scheduled) {
        if let Some(place) = self.slots.borrow_mut().get_mut(slot) {
            assert!(place.is_none(), "a slot holds one task");
            *place = Some(task);
        }
    }

    pub(super) fn release(&self, slot: usize) {
        assert!(self.running.get() > 0, "a task ends once");
        self.running.set(self.running.get() - 1);
        let task = self.slots.borrow_mut().get_mut(slot).and_then(Option::take);
        self.free.borrow_mut().push(slot);
        self.check_counts();
        drop(task);
    }

    pub(super) fn abort(&self, slot: usize) {
        let mut slots = self.slots.borrow_mut();
        let Some(place) = slots.get_mut(slot) else {
            return;
        };
        let ended = cancel(place);
        drop(slots);
        drop(ended);
    }

    /// Aborts all tasks; they end when they are next scheduled.
    pub(crate) fn abort_all(&self) {
        let ended: Vec<_> = self.slots.borrow_mut().iter_mut().map(cancel).collect();
        drop(ended);
    }

    /// How many tasks have not ended.
    pub(crate) fn running(&self) -> usize {
        self.running.get()
    }
}

/// Has the task in `place` end; what is returned is to be dropped when nothing is borrowed.
fn cancel(place: &mut Option<Scheduled>) -> Option<Scheduled> {
    match place {
        Some(Scheduled::Glommio(task)) => {
            task.cancel();
            None
        }
        Some(Scheduled::Ring { .. }) | None => place.take(),
    }
}
