//! Polling futures without an executor.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Polls a future that must be ready or become ready by being polled.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..1000 {
        if let Some(output) = poll_once(future.as_mut()) {
            return output;
        }
    }
    panic!("the future does not complete");
}

/// Polls once; takes a pinned future or a reference to an `Unpin` one.
pub(crate) fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Counts how often its waker was called.
pub(crate) struct WakeCount(Arc<Count>);

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl WakeCount {
    pub(crate) fn new() -> (Self, Waker) {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        (Self(count), waker)
    }

    pub(crate) fn get(&self) -> usize {
        self.0.0.load(Ordering::Relaxed)
    }
}
