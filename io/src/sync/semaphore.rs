//! A budget of permits (bytes, slots), handed out first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Invariants: `available` plus the counts of all [`Permit`]s is `capacity`; while a task waits,
/// none that comes later gets permits, however few.
#[derive(Debug)]
struct BudgetState {
    capacity: usize,
    available: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<PermitWaiter>>>,
}

#[derive(Debug)]
struct PermitWaiter {
    count: usize,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A budget; clones share it.
#[derive(Clone, Debug)]
pub struct Semaphore {
    shared: Rc<BudgetState>,
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Rc<BudgetState>,
    count: usize,
}

impl Semaphore {
    /// Makes a budget of `capacity` permits.
    pub fn new(capacity: usize) -> Self {
        Self {
            shared: Rc::new(BudgetState {
                capacity,
                available: Cell::new(capacity),
                waiting: RefCell::default(),
            }),
        }
    }

    /// The whole budget.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// What is left of it.
    pub fn available(&self) -> usize {
        self.shared.available.get()
    }

    /// Whether a task waits for permits.
    pub fn is_contended(&self) -> bool {
        !self.shared.waiting.borrow().is_empty()
    }

    /// Takes `count` permits if they are there and no task waits. More than the capacity counts as
    /// the capacity, so that one thing larger than the budget passes alone instead of never.
    pub fn try_acquire(&self, count: usize) -> Option<Permit> {
        let count = count.min(self.shared.capacity);
        if !self.shared.waiting.borrow().is_empty() || self.shared.available.get() < count {
            return None;
        }
        self.shared
            .available
            .set(self.shared.available.get() - count);
        Some(Permit {
            shared: Rc::clone(&self.shared),
            count,
        })
    }

    /// Takes `count` permits (at most the capacity), waiting for its turn.
    pub async fn acquire(&self, count: usize) -> Permit {
        match self.try_acquire(count) {
            Some(permit) => permit,
            None => {
                let waiter = Rc::new(PermitWaiter {
                    count: count.min(self.shared.capacity),
                    granted: Cell::new(false),
                    waker: RefCell::new(None),
                });
                self.shared
                    .waiting
                    .borrow_mut()
                    .push_back(Rc::clone(&waiter));
                Acquire {
                    shared: Rc::clone(&self.shared),
                    waiter: Some(waiter),
                }
                .await
            }
        }
    }
}

impl BudgetState {
    fn release(&self, count: usize) {
        self.available.set(self.available.get() + count);
        assert!(
            self.available.get() <= self.capacity,
            "more permits came back than there are"
        );
        self.grant();
    }

    fn grant(&self) {
        loop {
            let waiter = {
                let mut waiting = self.waiting.borrow_mut();
                match waiting.front() {
                    Some(first) if first.count <= self.available.get() => {
                        self.available.set(self.available.get() - first.count);
                        waiting.pop_front()
                    }
                    _ => None,
                }
            };
            let Some(waiter) = waiter else { return };
            let was_granted = waiter.granted.replace(true);
            debug_assert!(!was_granted, "a waiter is granted once");
            let waker = waiter.waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

struct Acquire {
    shared: Rc<BudgetState>,
    waiter: Option<Rc<PermitWaiter>>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        match self.waiter.take() {
            Some(waiter) if waiter.granted.get() => Poll::Ready(Permit {
                shared: Rc::clone(&self.shared),
                count: waiter.count,
            }),
            Some(waiter) => {
                *waiter.waker.borrow_mut() = Some(cx.waker().clone());
                self.waiter = Some(waiter);
                Poll::Pending
            }
            None => panic!("polled after completion"),
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        if waiter.granted.get() {
            self.shared.release(waiter.count);
        } else {
            let waiting = &self.shared.waiting;
            let before = waiting.borrow().len();
            waiting
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(other, &waiter));
            debug_assert_eq!(waiting.borrow().len() + 1, before, "it was waiting");
            // The one behind may fit into what is available now.
            self.shared.grant();
        }
    }
}

impl Permit {
    /// Number of permits held.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes `count` of the permits (at most all) into a permit of their own.
    #[must_use]
    pub fn split(&mut self, count: usize) -> Permit {
        let count = count.min(self.count);
        self.count -= count;
        Permit {
            shared: Rc::clone(&self.shared),
            count,
        }
    }

    /// Whether `other` comes from the same budget.
    pub fn is_of_same(&self, other: &Permit) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// Adds the permits of `other`, which must come from the same budget.
    pub fn merge(&mut self, mut other: Permit) {
        assert!(
            Rc::ptr_eq(&self.shared, &other.shared),
            "permits of two budgets were merged"
        );
        self.count += std::mem::take(&mut other.count);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.shared.release(self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{block_on, poll_once};

    #[test]
    fn permits_come_back() {
        let budget = Semaphore::new(10);
        let mut permit = budget.try_acquire(7).unwrap();
        assert!(budget.try_acquire(4).is_none());
        let part = permit.split(2);
        assert_eq!(
            (permit.count(), part.count(), budget.available()),
            (5, 2, 3)
        );
        drop(part);
        assert_eq!(budget.available(), 5);
        permit.merge(budget.try_acquire(1).unwrap());
        drop(permit);
        assert_eq!(budget.available(), 10);
        assert_eq!(block_on(budget.acquire(1000)).count(), 10);
    }

    #[test]
    fn nobody_overtakes() {
        let budget = Semaphore::new(10);
        let held = budget.try_acquire(8).unwrap();
        let mut large = Box::pin(budget.acquire(9));
        assert!(poll_once(large.as_mut()).is_none());
        assert!(budget.try_acquire(1).is_none());
        let mut small = Box::pin(budget.acquire(1));
        assert!(poll_once(small.as_mut()).is_none());
        drop(held);
        let large = poll_once(large.as_mut()).unwrap();
        let small = poll_once(small.as_mut()).unwrap();
        assert_eq!(
            (large.count(), small.count(), budget.available()),
            (9, 1, 0)
        );
    }

    #[test]
    fn a_dropped_waiter_leaves_no_hole() {
        let budget = Semaphore::new(10);
        let held = budget.try_acquire(8).unwrap();
        let mut large = Box::pin(budget.acquire(9));
        assert!(poll_once(large.as_mut()).is_none());
        let mut small = Box::pin(budget.acquire(2));
        assert!(poll_once(small.as_mut()).is_none());
        drop(large);
        assert_eq!(poll_once(small.as_mut()).unwrap().count(), 2);
        let mut granted = Box::pin(budget.acquire(9));
        assert!(poll_once(granted.as_mut()).is_none());
        drop(small);
        drop(held);
        drop(granted);
        assert_eq!(budget.available(), 10);
    }
}
