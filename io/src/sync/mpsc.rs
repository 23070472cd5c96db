//! A queue with many senders and one receiver.

use super::wait_list::{Ticket, WaitList};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// The receiver is gone; the message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is gone")]
pub struct SendError<T>(pub T);

/// Why [`Sender::try_send`] gave the message back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The queue is at its bound.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// Why [`Receiver::try_recv`] returned nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// There is no message now.
    #[error("the queue is empty")]
    Empty,
    /// There is no message and all senders are gone.
    #[error("all senders are gone")]
    Closed,
}

/// Invariant: a sender waits in `waiting` only while the queue is full, or has been woken for a slot
/// that is free. A slot freed while senders wait wakes exactly one of them; one that goes away
/// without using its wake-up hands it on.
#[derive(Debug)]
struct QueueState<T> {
    queue: VecDeque<T>,
    capacity: usize,
    waiting: WaitList,
    receiver: Option<Waker>,
    receiver_alive: bool,
    senders: usize,
}

/// The sending side. Clones send into the same queue.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Rc<RefCell<QueueState<T>>>,
}

/// A sender that does not keep the queue open.
#[derive(Debug)]
pub struct WeakSender<T> {
    shared: Weak<RefCell<QueueState<T>>>,
}

/// The receiving side.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Rc<RefCell<QueueState<T>>>,
}

/// Makes a queue that holds at most `capacity` messages (at least one).
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(RefCell::new(QueueState {
        queue: VecDeque::new(),
        capacity: capacity.max(1),
        waiting: WaitList::default(),
        receiver: None,
        receiver_alive: true,
        senders: 1,
    }));
    let sender = Sender {
        shared: Rc::clone(&shared),
    };
    (sender, Receiver { shared })
}

/// Makes a queue without a bound; what is sent must be bounded by something else.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    channel(usize::MAX)
}

impl<T> QueueState<T> {
    fn try_push(&mut self, message: T) -> Result<Option<Waker>, TrySendError<T>> {
        if !self.receiver_alive {
            return Err(TrySendError::Closed(message));
        }
        if self.queue.len() >= self.capacity {
            return Err(TrySendError::Full(message));
        }
        self.queue.push_back(message);
        debug_assert!(self.queue.len() <= self.capacity);
        Ok(self.receiver.take())
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<T> Sender<T> {
    /// Sends if there is room.
    ///
    /// # Errors
    /// Gives the message back when the queue is full or the receiver is gone.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let waker = self.shared.borrow_mut().try_push(message)?;
        wake(waker);
        Ok(())
    }

    /// Sends, waiting for room.
    ///
    /// # Errors
    /// Gives the message back if the receiver is gone.
    pub async fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut slot = SlotWait {
            shared: &self.shared,
            ticket: None,
        };
        let mut message = Some(message);
        std::future::poll_fn(|cx| {
            let Some(given) = message.take() else {
                return Poll::Ready(Ok(()));
            };
            match slot.poll_push(given, cx) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(TrySendError::Closed(back)) => Poll::Ready(Err(SendError(back))),
                Err(TrySendError::Full(back)) => {
                    message = Some(back);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Makes a sender that does not keep the queue open.
    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender {
            shared: Rc::downgrade(&self.shared),
        }
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        !self.shared.borrow().receiver_alive
    }

    /// Number of messages in the queue.
    pub fn len(&self) -> usize {
        self.shared.borrow().queue.len()
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A `send` that may be waiting for a slot.
struct SlotWait<'a, T> {
    shared: &'a RefCell<QueueState<T>>,
    ticket: Option<Ticket>,
}

impl<T> SlotWait<'_, T> {
    fn poll_push(&mut self, message: T, cx: &mut Context<'_>) -> Result<(), TrySendError<T>> {
        let receiver = {
            let mut shared = self.shared.borrow_mut();
            match shared.try_push(message) {
                Ok(receiver) => {
                    if let Some(ticket) = self.ticket.take() {
                        shared.waiting.remove(ticket);
                    }
                    receiver
                }
                Err(error) => {
                    let waiting = self
                        .ticket
                        .is_some_and(|ticket| shared.waiting.renew(ticket, cx.waker()));
                    if !waiting {
                        self.ticket = Some(shared.waiting.push(cx.waker()));
                    }
                    return Err(error);
                }
            }
        };
        wake(receiver);
        Ok(())
    }
}

impl<T> Drop for SlotWait<'_, T> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let next = {
            let mut shared = self.shared.borrow_mut();
            let was_woken = !shared.waiting.remove(ticket);
            if was_woken && shared.queue.len() < shared.capacity {
                shared.waiting.pop()
            } else {
                None
            }
        };
        wake(next);
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.borrow_mut().senders += 1;
        Self {
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut shared = self.shared.borrow_mut();
            assert!(shared.senders > 0, "a sender is dropped once");
            shared.senders -= 1;
            if shared.senders == 0 {
                shared.receiver.take()
            } else {
                None
            }
        };
        wake(receiver);
    }
}

impl<T> WeakSender<T> {
    /// Returns a sender if the queue is still open: another sender and the receiver are alive.
    pub fn upgrade(&self) -> Option<Sender<T>> {
        let shared = self.shared.upgrade()?;
        {
            let mut inner = shared.borrow_mut();
            if inner.senders == 0 || !inner.receiver_alive {
                return None;
            }
            inner.senders += 1;
        }
        Some(Sender { shared })
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Weak::clone(&self.shared),
        }
    }
}

impl<T> Receiver<T> {
    /// Receives the next message; `None` when there is none and all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The `poll` of [`Receiver::recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.try_recv() {
            Ok(message) => Poll::Ready(Some(message)),
            Err(TryRecvError::Closed) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                self.shared.borrow_mut().receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Receives if there is a message.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let (message, sender) = {
            let mut shared = self.shared.borrow_mut();
            let Some(message) = shared.queue.pop_front() else {
                return Err(if shared.senders == 0 {
                    TryRecvError::Closed
                } else {
                    TryRecvError::Empty
                });
            };
            (message, shared.waiting.pop())
        };
        wake(sender);
        Ok(message)
    }

    /// Number of messages in the queue.
    pub fn len(&self) -> usize {
        self.shared.borrow().queue.len()
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (waiting, _messages) = {
            let mut shared = self.shared.borrow_mut();
            shared.receiver_alive = false;
            shared.receiver = None;
            (shared.waiting.take_all(), std::mem::take(&mut shared.queue))
        };
        for waker in waiting {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{block_on, poll_once};
    use std::pin::pin;

    #[test]
    fn messages_keep_their_order() {
        let (sender, mut receiver) = channel(8);
        for i in 0..5 {
            sender.try_send(i).unwrap();
        }
        drop(sender);
        let all: Vec<i32> = std::iter::from_fn(|| block_on(receiver.recv())).collect();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_full_queue_makes_senders_wait_in_turn() {
        let (sender, mut receiver) = channel(1);
        sender.try_send(0).unwrap();
        assert_eq!(sender.try_send(9), Err(TrySendError::Full(9)));
        let mut first = pin!(sender.send(1));
        let mut second = pin!(sender.send(2));
        assert!(poll_once(first.as_mut()).is_none());
        assert!(poll_once(second.as_mut()).is_none());
        assert_eq!(receiver.try_recv(), Ok(0));
        assert_eq!(poll_once(first.as_mut()), Some(Ok(())));
        assert!(poll_once(second.as_mut()).is_none());
        assert_eq!(receiver.try_recv(), Ok(1));
        assert_eq!(poll_once(second.as_mut()), Some(Ok(())));
        assert_eq!(receiver.try_recv(), Ok(2));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    }

    #[test]
    fn a_dropped_send_hands_its_wake_up_on() {
        let (sender, mut receiver) = channel(1);
        sender.try_send(0).unwrap();
        let mut first = Box::pin(sender.send(1));
        let mut second = Box::pin(sender.send(2));
        let (first_woken, second_woken) = (poll_counting(&mut first), poll_counting(&mut second));
        assert_eq!(receiver.try_recv(), Ok(0));
        assert_eq!((first_woken.get(), second_woken.get()), (1, 0));
        drop(first);
        assert_eq!(second_woken.get(), 1);
        drop(second);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    }

    fn poll_counting<F: Future>(
        future: &mut std::pin::Pin<Box<F>>,
    ) -> crate::sync::testing::WakeCount {
        let (count, waker) = crate::sync::testing::WakeCount::new();
        let _ = future.as_mut().poll(&mut Context::from_waker(&waker));
        count
    }

    #[test]
    fn weak_senders_do_not_keep_it_open() {
        let (sender, mut receiver) = unbounded::<u8>();
        let weak = sender.downgrade();
        weak.upgrade().unwrap().try_send(1).unwrap();
        assert_eq!(block_on(receiver.recv()), Some(1));
        assert!(poll_once(pin!(receiver.recv())).is_none());
        drop(sender);
        assert_eq!(block_on(receiver.recv()), None);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_dropped_receiver_gives_messages_back() {
        let (sender, receiver) = channel(1);
        sender.try_send(1).unwrap();
        let mut waiting = pin!(sender.send(2));
        assert!(poll_once(waiting.as_mut()).is_none());
        drop(receiver);
        assert_eq!(poll_once(waiting.as_mut()), Some(Err(SendError(2))));
        assert_eq!(sender.try_send(3), Err(TrySendError::Closed(3)));
        assert!(sender.is_closed());
    }
}
