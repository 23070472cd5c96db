//! Runs commands that read files the way a node does, on a core of their own.

use super::failure::Failure;
use corelith_io::{CoreConfig, CoreHandle};

/// Runs `work` on a core of its own.
pub(super) fn on_core<T, F, Fut>(name: &str, work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let core_failed = |source| Failure::Core { source };
    let (done, result) = corelith_io::channel(1);
    CoreConfig::new(name)
        .start(move || async move {
            // The receiver waits below.
            let _ = done.send(work().await).await;
        })
        .and_then(CoreHandle::join)
        .map_err(core_failed)?;
    result.recv_blocking().map_err(Failure::node)
}
