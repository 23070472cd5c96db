//! The end of a core's blocking pool.

use crate::limits::BLOCKING_THREADS;
use std::sync::{Arc, Barrier};

/// Waits until the pool has done all work that it was given, and told so: glommio's threads panic when they come with
/// an answer after the end of their core. The pool takes work in order, and a thread takes more only after it has told
/// of the work before; so once every thread waits at the barrier, nothing else is left.
pub(super) async fn finish() {
    let barrier = Arc::new(Barrier::new(BLOCKING_THREADS));
    let waits = (0..BLOCKING_THREADS).map(|_| {
        let barrier = Arc::clone(&barrier);
        let wait = move || {
            barrier.wait();
        };
        super::once::once(glommio::executor().spawn_blocking(wait))
    });
    futures_util::future::join_all(waits).await;
}
