//! A value that many can watch; only the newest counts.

use super::wait_list::{Ticket, WaitList};
use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

/// All receivers are gone; the value comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all receivers are gone")]
pub struct SendError<T>(pub T);

/// All senders are gone and the newest value has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all senders are gone")]
pub struct Closed;

/// Invariants: a receiver has at most one entry in `waiting`, however often it is polled; none has seen a
/// version that is yet to come.
#[derive(Debug)]
struct WatchState<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    senders: Cell<usize>,
    receivers: Cell<usize>,
    waiting: RefCell<WaitList>,
}

impl<T> WatchState<T> {
    fn wake_all(&self) {
        let waiting = self.waiting.borrow_mut().take_all();
        for waker in waiting {
            waker.wake();
        }
    }
}

/// The sending side; clones send to the same receivers.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Rc<WatchState<T>>,
}

/// The receiving side; a clone has seen what its original had seen.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Rc<WatchState<T>>,
    seen: u64,
    ticket: Option<Ticket>,
}

/// Makes a watched value.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(WatchState {
        value: RefCell::new(value),
        version: Cell::new(0),
        senders: Cell::new(1),
        receivers: Cell::new(1),
        waiting: RefCell::default(),
    });
    let sender = Sender {
        shared: Rc::clone(&shared),
    };
    (
        sender,
        Receiver {
            shared,
            seen: 0,
            ticket: None,
        },
    )
}

impl<T> Sender<T> {
    /// Replaces the value and wakes the receivers.
    ///
    /// # Errors
    /// Gives the new value back, changing nothing, if all receivers are gone.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.receivers.get() == 0 {
            return Err(SendError(value));
        }
        self.send_replace(value);
        Ok(())
    }

    /// Replaces the value, even without receivers, and returns the old one.
    pub fn send_replace(&self, value: T) -> T {
        let old = self.shared.value.replace(value);
        self.shared.version.set(self.shared.version.get() + 1);
        self.shared.wake_all();
        old
    }

    /// Lets `modify` change the value in place; wakes the receivers if it returns true.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = modify(&mut self.shared.value.borrow_mut());
        if modified {
            self.shared.version.set(self.shared.version.get() + 1);
            self.shared.wake_all();
        }
        modified
    }

    /// The current value. Do not hold it across an await.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    /// Makes a receiver that has seen the current value.
    pub fn subscribe(&self) -> Receiver<T> {
        self.shared.receivers.set(self.shared.receivers.get() + 1);
        Receiver {
            shared: Rc::clone(&self.shared),
            seen: self.shared.version.get(),
            ticket: None,
        }
    }

    /// Whether all receivers are gone.
    pub fn is_closed(&self) -> bool {
        self.shared.receivers.get() == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.set(self.shared.senders.get() + 1);
        Self {
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        assert!(self.shared.senders.get() > 0, "a sender is dropped once");
        self.shared.senders.set(self.shared.senders.get() - 1);
        if self.shared.senders.get() == 0 {
            self.shared.wake_all();
        }
    }
}

impl<T> Receiver<T> {
    /// The newest value, without marking it as seen. Do not hold it across an await.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    /// The newest value, marked as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }

    /// Whether there is a value that has not been seen.
    pub fn has_changed(&self) -> bool {
        debug_assert!(self.seen <= self.shared.version.get());
        self.seen != self.shared.version.get()
    }

    /// Waits for a value that has not been seen and marks it as seen.
    ///
    /// # Errors
    /// When there is none and all senders are gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        std::future::poll_fn(|cx| self.poll_changed(cx)).await
    }

    /// Waits until `condition` holds for the value, and returns that value, marked as seen.
    ///
    /// # Errors
    /// When all senders are gone and it does not hold.
    pub async fn wait_for(
        &mut self,
        mut condition: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, Closed> {
        loop {
            self.seen = self.shared.version.get();
            let holds = condition(&self.shared.value.borrow());
            if holds {
                return Ok(self.shared.value.borrow());
            }
            self.changed().await?;
        }
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        if self.has_changed() {
            self.seen = self.shared.version.get();
            return Poll::Ready(Ok(()));
        }
        if self.shared.senders.get() == 0 {
            return Poll::Ready(Err(Closed));
        }
        let mut waiting = self.shared.waiting.borrow_mut();
        let renewed = self
            .ticket
            .is_some_and(|ticket| waiting.renew(ticket, cx.waker()));
        if !renewed {
            self.ticket = Some(waiting.push(cx.waker()));
        }
        Poll::Pending
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.set(self.shared.receivers.get() + 1);
        Self {
            shared: Rc::clone(&self.shared),
            seen: self.seen,
            ticket: None,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        assert!(
            self.shared.receivers.get() > 0,
            "a receiver is dropped once"
        );
        self.shared.receivers.set(self.shared.receivers.get() - 1);
        if let Some(ticket) = self.ticket.take() {
            self.shared.waiting.borrow_mut().remove(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{WakeCount, block_on, poll_once};
    use std::pin::pin;

    #[test]
    fn only_the_newest_value_counts() {
        let (sender, mut receiver) = channel(0);
        assert!(!receiver.has_changed());
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        assert_eq!(block_on(receiver.changed()), Ok(()));
        assert_eq!(*receiver.borrow(), 2);
        assert!(poll_once(pin!(receiver.changed())).is_none());
        assert!(!sender.send_if_modified(|value| {
            *value = 7;
            false
        }));
        assert!(!receiver.has_changed());
        assert_eq!(*receiver.borrow_and_update(), 7);
    }

    #[test]
    fn the_last_value_is_seen_before_the_end() {
        let (sender, mut receiver) = channel(0);
        let other = sender.clone();
        drop(sender);
        other.send(1).unwrap();
        drop(other);
        assert_eq!(block_on(receiver.changed()), Ok(()));
        assert_eq!(block_on(receiver.changed()), Err(Closed));
    }

    #[test]
    fn a_receiver_waits_once_however_often_it_is_polled() {
        let (sender, mut receiver) = channel(0);
        let (count, waker) = WakeCount::new();
        for _ in 0..100 {
            let mut changed = pin!(receiver.changed());
            let poll = changed.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(poll.is_pending());
        }
        sender.send(1).unwrap();
        assert_eq!(count.get(), 1);
    }

    #[test]
    fn sending_to_nobody_fails_and_changes_nothing() {
        let (sender, receiver) = channel(0);
        drop(receiver);
        assert_eq!(sender.send(1), Err(SendError(1)));
        assert_eq!(*sender.borrow(), 0);
        let mut receiver = sender.subscribe();
        sender.send(2).unwrap();
        assert_eq!(
            *block_on(receiver.wait_for(|value| *value >= 2)).unwrap(),
            2
        );
    }
}
