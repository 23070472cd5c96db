//! Which task is next: queues with shares of the core's time.
//!
//! As in glommio, and in the kernel's scheduler before, a queue has a virtual time that grows with what its tasks
//! take, the slower the more shares it has; the queue that has had the least is next.

use crate::limits::{BACKGROUND_SHARES_MAX, BACKGROUND_SHARES_MIN};
use crate::task::Queue;
use async_task::Runnable;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

const QUEUES: usize = 3;
/// Shares of a queue whose virtual time is its time.
const NOMINAL_SHARES: u64 = 1000;

/// The tasks of one core that are ready.
pub(super) struct Schedule {
    queues: [RefCell<VecDeque<Runnable>>; QUEUES],
    /// Time that the queues have had, in nanoseconds for a queue of nominal shares.
    had: [Cell<u64>; QUEUES],
    shares: [Cell<u64>; QUEUES],
    /// What the queue that ran last had had then.
    level: Cell<u64>,
}

pub(super) fn place(queue: Queue) -> usize {
    match queue {
        Queue::Urgent => 0,
        Queue::Foreground => 1,
        Queue::Background => 2,
    }
}

impl Schedule {
    pub(super) fn new(urgent: usize, foreground: usize) -> Self {
        let shares = [urgent, foreground, BACKGROUND_SHARES_MIN];
        Self {
            queues: Default::default(),
            had: Default::default(),
            shares: shares.map(|shares| Cell::new(shares as u64)),
            level: Cell::new(0),
        }
    }

    /// Sets the shares of the background queue.
    pub(super) fn set_background(&self, shares: usize) {
        let shares = shares.clamp(BACKGROUND_SHARES_MIN, BACKGROUND_SHARES_MAX);
        if let Some(of) = self.shares.get(place(Queue::Background)) {
            of.set(shares as u64);
        }
    }

    /// Adds a task to the queue at that place.
    pub(super) fn push(&self, at: usize, task: Runnable) {
        let (Some(queue), Some(had)) = (self.queues.get(at), self.had.get(at)) else {
            panic!("there is no queue {at}");
        };
        let mut queue = queue.borrow_mut();
        if queue.is_empty() {
            // A queue that had nothing to do has saved nothing up.
            had.set(had.get().max(self.level.get()));
        }
        queue.push_back(task);
    }

    /// Takes the next task and the place of its queue.
    pub(super) fn pop(&self) -> Option<(usize, Runnable)> {
        let ready = |at: &usize| {
            let queue = self.queues.get(*at);
            queue.is_some_and(|queue| !queue.borrow().is_empty())
        };
        let had = |at: usize| self.had.get(at).map_or(0, Cell::get);
        let at = (0..QUEUES).filter(ready).min_by_key(|at| had(*at))?;
        self.level.set(had(at));
        let task = self.queues.get(at)?.borrow_mut().pop_front()?;
        Some((at, task))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.borrow().is_empty())
    }

    /// Counts what a task of that queue took.
    pub(super) fn charge(&self, at: usize, nanos: u64) {
        let (Some(had), Some(shares)) = (self.had.get(at), self.shares.get(at)) else {
            return;
        };
        assert!(shares.get() > 0, "queue {at} has no share");
        had.set(had.get() + nanos * NOMINAL_SHARES / shares.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs tasks that are always ready, each for a microsecond; returns how often each queue had its turn.
    fn turns(schedule: &Schedule, queues: &[usize], rounds: u32) -> [u32; QUEUES] {
        let task = || {
            let (task, handle) = async_task::spawn_local(async {}, |_| {});
            handle.detach();
            task
        };
        for at in queues {
            schedule.push(*at, task());
        }
        let mut turns = [0; QUEUES];
        for _ in 0..rounds {
            let (at, next) = schedule.pop().unwrap();
            turns[at] += 1;
            schedule.charge(at, 1000);
            schedule.push(at, next);
        }
        turns
    }

    #[test]
    fn queues_get_what_their_shares_are() {
        let schedule = Schedule::new(2000, 1000);
        schedule.set_background(500);
        let turns = turns(&schedule, &[0, 1, 2], 7000);
        for (at, expected) in [4000, 2000, 1000].into_iter().enumerate() {
            assert!(turns[at].abs_diff(expected) < 20, "{turns:?}");
        }
    }

    #[test]
    fn a_queue_that_rested_does_not_keep_the_others_out() {
        let schedule = Schedule::new(2000, 1000);
        turns(&schedule, &[1], 1000);
        let (_, last) = schedule.pop().unwrap();
        drop(last);
        let turns = turns(&schedule, &[1, 2], 110);
        assert!(turns[1] >= 90 && turns[2] >= 5, "{turns:?}");
    }
}
