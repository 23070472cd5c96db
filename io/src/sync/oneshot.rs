//! A channel for one value.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The sender was dropped without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sender was dropped without sending")]
pub struct Closed;

#[derive(Debug)]
struct OneshotState<T> {
    value: Option<T>,
    receiver: Option<Waker>,
    sender: Option<Waker>,
    sender_alive: bool,
    receiver_alive: bool,
}

/// The sending side.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Rc<RefCell<OneshotState<T>>>,
}

/// The receiving side: a future of the value.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Rc<RefCell<OneshotState<T>>>,
}

/// Makes a channel for one value.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(RefCell::new(OneshotState {
        value: None,
        receiver: None,
        sender: None,
        sender_alive: true,
        receiver_alive: true,
    }));
    let sender = Sender {
        shared: Rc::clone(&shared),
    };
    (sender, Receiver { shared })
}

impl<T> Sender<T> {
    /// Sends the value.
    ///
    /// # Errors
    /// Gives the value back if the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut shared = self.shared.borrow_mut();
        if !shared.receiver_alive {
            return Err(value);
        }
        assert!(shared.value.is_none(), "one value is sent");
        shared.value = Some(value);
        Ok(())
        // Dropping `self` wakes the receiver.
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        !self.shared.borrow().receiver_alive
    }

    /// Completes when the receiver is gone.
    pub async fn closed(&mut self) {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.borrow_mut();
            if !shared.receiver_alive {
                return Poll::Ready(());
            }
            shared.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut shared = self.shared.borrow_mut();
            shared.sender_alive = false;
            shared.sender = None;
            shared.receiver.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Returns the value if it is there; `None` while the sender may still send.
    pub fn try_recv(&mut self) -> Option<Result<T, Closed>> {
        let mut shared = self.shared.borrow_mut();
        match shared.value.take() {
            Some(value) => Some(Ok(value)),
            None if shared.sender_alive => None,
            None => Some(Err(Closed)),
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.try_recv() {
            return Poll::Ready(result);
        }
        let mut shared = self.shared.borrow_mut();
        match &mut shared.receiver {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (waker, _value) = {
            let mut shared = self.shared.borrow_mut();
            shared.receiver_alive = false;
            shared.receiver = None;
            (shared.sender.take(), shared.value.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{block_on, poll_once};

    #[test]
    fn a_value_arrives() {
        let (sender, mut receiver) = channel();
        assert!(poll_once(&mut receiver).is_none());
        sender.send(5).unwrap();
        assert_eq!(block_on(receiver), Ok(5));
    }

    #[test]
    fn a_dropped_side_is_noticed() {
        let (sender, receiver) = channel::<u8>();
        drop(sender);
        assert_eq!(block_on(receiver), Err(Closed));

        let (mut sender, receiver) = channel::<u8>();
        assert!(!sender.is_closed());
        drop(receiver);
        block_on(sender.closed());
        assert_eq!(sender.send(1), Err(1));
    }
}
