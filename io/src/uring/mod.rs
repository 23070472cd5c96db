//! The Uring world: glommio executors.

/// A core of the Uring world: the task queues of the executor of this thread.
#[derive(Clone)]
pub(crate) struct Core {}
