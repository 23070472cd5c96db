//! Wakers in order of arrival.

use std::collections::VecDeque;
use std::task::Waker;

/// Names one waiter of one [`WaitList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// A queue of wakers, owned by one primitive.
///
/// Invariants: tickets rise from front to back; `live` counts the entries that still have a waker;
/// entries without one are never more than the live ones plus [`SLACK`], so that waiters which come
/// and go behind a patient one do not pile up.
#[derive(Debug, Default)]
pub(super) struct WaitList {
    entries: VecDeque<(Ticket, Option<Waker>)>,
    live: usize,
    next: u64,
}

const SLACK: usize = 16;

impl WaitList {
    /// Appends a waiter.
    pub(super) fn push(&mut self, waker: &Waker) -> Ticket {
        let ticket = Ticket(self.next);
        debug_assert!(self.entries.back().is_none_or(|last| last.0 < ticket));
        self.next += 1;
        self.live += 1;
        self.entries.push_back((ticket, Some(waker.clone())));
        ticket
    }

    /// Renews the waker of a waiter; false if that waiter was popped (that is, woken) before.
    pub(super) fn renew(&mut self, ticket: Ticket, waker: &Waker) -> bool {
        match self.slot(ticket) {
            Some(slot @ Some(_)) => {
                if let Some(old) = slot {
                    old.clone_from(waker);
                }
                true
            }
            _ => false,
        }
    }

    /// Takes a waiter out; false if it was popped before.
    pub(super) fn remove(&mut self, ticket: Ticket) -> bool {
        let removed = self.slot(ticket).is_some_and(|slot| slot.take().is_some());
        if removed {
            self.live -= 1;
            self.trim();
        }
        removed
    }

    /// Takes out the waiter that has waited longest.
    pub(super) fn pop(&mut self) -> Option<Waker> {
        while let Some((_, waker)) = self.entries.pop_front() {
            if waker.is_some() {
                self.live -= 1;
                return waker;
            }
        }
        debug_assert_eq!(self.live, 0, "an empty list has no waiters");
        None
    }

    /// Takes out all waiters.
    pub(super) fn take_all(&mut self) -> Vec<Waker> {
        let live = std::mem::take(&mut self.live);
        let wakers: Vec<Waker> = self
            .entries
            .drain(..)
            .filter_map(|(_, waker)| waker)
            .collect();
        debug_assert_eq!(wakers.len(), live, "all waiters are taken");
        wakers
    }

    fn slot(&mut self, ticket: Ticket) -> Option<&mut Option<Waker>> {
        let at = self
            .entries
            .binary_search_by_key(&ticket, |entry| entry.0)
            .ok()?;
        self.entries.get_mut(at).map(|entry| &mut entry.1)
    }

    fn trim(&mut self) {
        if self.entries.len() > 2 * self.live + SLACK {
            self.entries.retain(|entry| entry.1.is_some());
        }
        debug_assert!(self.entries.len() <= 2 * self.live + SLACK);
    }
}
