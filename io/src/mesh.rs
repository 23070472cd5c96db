//! Bounded channels between cores, and between cores and ordinary threads.

/// The other side of the channel is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side of the channel is gone")]
pub struct Closed;

/// Why [`Sender::try_send`] gave the message back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The channel is at its bound.
    Full(T),
    /// All receivers are gone.
    Closed(T),
}

/// The sending side.
pub struct Sender<T> {
    inner: flume::Sender<T>,
}

/// The receiving side.
pub struct Receiver<T> {
    inner: flume::Receiver<T>,
}

/// Makes a channel that holds at most `capacity` messages.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = flume::bounded(capacity);
    (Sender { inner: sender }, Receiver { inner: receiver })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<T> Sender<T> {
    /// Sends, waiting for room.
    pub async fn send(&self, message: T) -> Result<(), Closed> {
        self.inner.send_async(message).await.map_err(|_| Closed)
    }

    /// Sends if there is room.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.inner.try_send(message).map_err(|error| match error {
            flume::TrySendError::Full(message) => TrySendError::Full(message),
            flume::TrySendError::Disconnected(message) => TrySendError::Closed(message),
        })
    }

    /// Sends from an ordinary thread, blocking it while there is no room.
    pub fn send_blocking(&self, message: T) -> Result<(), Closed> {
        self.inner.send(message).map_err(|_| Closed)
    }
}

impl<T> Receiver<T> {
    /// Receives, waiting for a message.
    pub async fn recv(&self) -> Result<T, Closed> {
        self.inner.recv_async().await.map_err(|_| Closed)
    }

    /// Receives if there is a message.
    pub fn try_recv(&self) -> Option<T> {
        self.inner.try_recv().ok()
    }

    /// Receives on an ordinary thread, blocking it while there is no message.
    pub fn recv_blocking(&self) -> Result<T, Closed> {
        self.inner.recv().map_err(|_| Closed)
    }
}
