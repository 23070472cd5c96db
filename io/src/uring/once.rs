//! Polling a glommio operation only when glommio has woken it.

use futures_util::task::AtomicWaker;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

struct Signal {
    task: AtomicWaker,
    woken: AtomicBool,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Runs `operation`, polling it again only after it was woken.
///
/// glommio stores one more clone of the task's waker at each poll of a file or accept operation,
/// and more than 32,767 clones of one waker panic. A task that waits for several things polls all
/// of them whenever it wakes; this stores one waker per operation however often it is polled.
pub(crate) async fn once<F: Future>(operation: F) -> F::Output {
    let mut operation = pin!(operation);
    let signal = Arc::new(Signal {
        task: AtomicWaker::new(),
        woken: AtomicBool::new(true),
    });
    let waker = Waker::from(Arc::clone(&signal));
    poll_fn(move |cx| {
        signal.task.register(cx.waker());
        if !signal.woken.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        operation.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}
