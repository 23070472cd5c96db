//! A wake-up without a value.

use super::wait_list::{Ticket, WaitList};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Invariant: nothing is stored while a task waits.
#[derive(Debug, Default)]
struct NotifyState {
    /// A `notify_one` that came while no task was waiting.
    stored: bool,
    /// Rises with each `notify_waiters`.
    generation: u64,
    waiting: WaitList,
}

/// Wakes tasks that wait for it.
#[derive(Debug, Default)]
pub struct Notify {
    state: RefCell<NotifyState>,
}

impl Notify {
    /// Makes one without a notification.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the task that has waited longest; if there is none, the next one to wait does not
    /// have to. Several such calls store one wake-up.
    pub fn notify_one(&self) {
        let waker = {
            let mut state = self.state.borrow_mut();
            let waker = state.waiting.pop();
            debug_assert!(waker.is_none() || !state.stored);
            if waker.is_none() {
                state.stored = true;
            }
            waker
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes every task whose [`Notify::notified`] was called before; stores nothing.
    pub fn notify_waiters(&self) {
        let waiting = {
            let mut state = self.state.borrow_mut();
            state.generation += 1;
            state.waiting.take_all()
        };
        for waker in waiting {
            waker.wake();
        }
    }

    /// Waits for a notification.
    pub fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            generation: self.state.borrow().generation,
            ticket: None,
        }
    }
}

/// A wait for a notification.
#[derive(Debug)]
pub struct Notified<'a> {
    notify: &'a Notify,
    generation: u64,
    ticket: Option<Ticket>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let notify = self.notify;
        let mut state = notify.state.borrow_mut();
        if let Some(ticket) = self.ticket {
            if state.waiting.renew(ticket, cx.waker()) {
                return Poll::Pending;
            }
            self.ticket = None;
            return Poll::Ready(());
        }
        if state.generation != self.generation {
            return Poll::Ready(());
        }
        if state.stored {
            state.stored = false;
            return Poll::Ready(());
        }
        self.ticket = Some(state.waiting.push(cx.waker()));
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let hand_on = {
            let mut state = self.notify.state.borrow_mut();
            !state.waiting.remove(ticket) && state.generation == self.generation
        };
        if hand_on {
            self.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{block_on, poll_once};
    use std::pin::pin;

    #[test]
    fn one_wake_up_is_stored() {
        let notify = Notify::new();
        notify.notify_one();
        notify.notify_one();
        block_on(notify.notified());
        assert!(poll_once(pin!(notify.notified())).is_none());
    }

    #[test]
    fn all_waiters_wake_even_if_not_polled_yet() {
        let notify = Notify::new();
        let mut polled = pin!(notify.notified());
        assert!(poll_once(polled.as_mut()).is_none());
        let fresh = notify.notified();
        notify.notify_waiters();
        block_on(polled);
        block_on(fresh);
        assert!(poll_once(pin!(notify.notified())).is_none());
    }

    #[test]
    fn a_dropped_waiter_hands_its_wake_up_on() {
        let notify = Notify::new();
        let mut first = Box::pin(notify.notified());
        let mut second = Box::pin(notify.notified());
        assert!(poll_once(first.as_mut()).is_none());
        assert!(poll_once(second.as_mut()).is_none());
        notify.notify_one();
        drop(first);
        block_on(second);
    }
}
