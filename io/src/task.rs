//! Tasks of the current core.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A spawned task. Dropping it detaches the task; awaiting it returns the output, or `None` when
/// the task was aborted.
pub struct JoinHandle<T> {
    _todo: std::marker::PhantomData<T>,
}

impl<T> JoinHandle<T> {
    /// Drops the task's future at its next suspension point.
    pub fn abort(&self) {
        todo!()
    }

    /// Whether the task has returned or was aborted.
    pub fn is_finished(&self) -> bool {
        todo!()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let _ = cx;
        todo!()
    }
}

/// Starts a task in the foreground queue (latency matters) of the current core.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let _ = future;
    todo!()
}

/// Starts a task in the background queue (flush, compaction, scrubbing) of the current core, which
/// gives way to the foreground.
pub fn spawn_background<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let _ = future;
    todo!()
}

/// Lets other tasks run.
pub async fn yield_now() {
    todo!()
}

/// Lets other tasks run if this one has used up its turn; cheap enough for inner loops.
pub async fn yield_if_needed() {
    todo!()
}
