//! Executors: one thread per core.

use crate::core::CoreConfig;
use crate::error::Result;
use std::future::Future;

/// A core of the Uring world: the task queues of the executor of this thread.
#[derive(Clone)]
pub(crate) struct Core {}

pub(crate) struct CoreHandle {}

pub(crate) fn start<F, Fut>(_config: CoreConfig, _main: F) -> Result<CoreHandle>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    todo!()
}

impl CoreHandle {
    pub(crate) fn join(self) -> Result<()> {
        todo!()
    }
}
