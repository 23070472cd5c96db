//! openraft's channels and mutex: those of `corelith_io::sync`, none of which crosses cores.

use corelith_io::sync::{mpsc, oneshot, semaphore, watch};
use openraft::type_config::async_runtime as rt;
use std::cell::{Ref, RefCell, RefMut};
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The queue.
pub(crate) struct Mpsc;

pub(crate) struct MpscSender<T>(mpsc::Sender<T>);
pub(crate) struct MpscReceiver<T>(mpsc::Receiver<T>);
pub(crate) struct MpscWeakSender<T>(mpsc::WeakSender<T>);

impl<T> Clone for MpscSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for MpscWeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl rt::Mpsc for Mpsc {
    type Sender<T> = MpscSender<T>;
    type Receiver<T> = MpscReceiver<T>;
    type WeakSender<T> = MpscWeakSender<T>;

    fn channel<T>(buffer: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(buffer);
        (MpscSender(sender), MpscReceiver(receiver))
    }
}

impl<T> rt::MpscSender<Mpsc, T> for MpscSender<T> {
    async fn send(&self, message: T) -> Result<(), rt::SendError<T>> {
        self.0
            .send(message)
            .await
            .map_err(|error| rt::SendError(error.0))
    }

    fn downgrade(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.downgrade())
    }
}

impl<T> rt::MpscReceiver<T> for MpscReceiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    fn try_recv(&mut self) -> Result<T, rt::TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            mpsc::TryRecvError::Empty => rt::TryRecvError::Empty,
            mpsc::TryRecvError::Closed => rt::TryRecvError::Disconnected,
        })
    }
}

impl<T> rt::MpscWeakSender<Mpsc, T> for MpscWeakSender<T> {
    fn upgrade(&self) -> Option<MpscSender<T>> {
        self.0.upgrade().map(MpscSender)
    }
}

/// The watched value.
pub(crate) struct Watch;

pub(crate) struct WatchSender<T>(watch::Sender<T>);
pub(crate) struct WatchReceiver<T>(watch::Receiver<T>);

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl rt::watch::Watch for Watch {
    type Sender<T> = WatchSender<T>;
    type Receiver<T> = WatchReceiver<T>;
    type Ref<'a, T: 'a> = Ref<'a, T>;

    fn channel<T>(init: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        (WatchSender(sender), WatchReceiver(receiver))
    }
}

impl<T> rt::watch::WatchSender<Watch, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), rt::watch::SendError<T>> {
        self.0
            .send(value)
            .map_err(|error| rt::watch::SendError(error.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        WatchReceiver(self.0.subscribe())
    }
}

impl<T> rt::watch::WatchReceiver<Watch, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), rt::watch::RecvError> {
        self.0.changed().await.map_err(|_| rt::watch::RecvError(()))
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

/// The channel for one value.
pub(crate) struct Oneshot;

pub(crate) struct OneshotSender<T>(oneshot::Sender<T>);
pub(crate) struct OneshotReceiver<T>(oneshot::Receiver<T>);

/// The sender was dropped without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sender was dropped without sending")]
pub(crate) struct OneshotClosed;

impl rt::Oneshot for Oneshot {
    type Sender<T> = OneshotSender<T>;
    type Receiver<T> = OneshotReceiver<T>;
    type ReceiverError = OneshotClosed;

    fn channel<T>() -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OneshotSender(sender), OneshotReceiver(receiver))
    }
}

impl<T> rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, OneshotClosed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map_err(|oneshot::Closed| OneshotClosed)
    }
}

/// A mutex that may be held across awaits.
///
/// Invariant: `value` is borrowed only by a guard, and a guard holds the one permit of `turn`.
pub(crate) struct Mutex<T> {
    turn: semaphore::Semaphore,
    value: RefCell<T>,
}

pub(crate) struct MutexGuard<'a, T> {
    value: RefMut<'a, T>,
    // Dropped after the borrow, so that the next holder finds the value free.
    _turn: semaphore::Permit,
}

impl<T: 'static> rt::Mutex<T> for Mutex<T> {
    type Guard<'a> = MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self {
            turn: semaphore::Semaphore::new(1),
            value: RefCell::new(value),
        }
    }

    async fn lock(&self) -> MutexGuard<'_, T> {
        let turn = self.turn.acquire(1).await;
        MutexGuard {
            value: self.value.borrow_mut(),
            _turn: turn,
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
