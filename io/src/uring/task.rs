//! Tasks of an executor, and its blocking pool.

use super::core::CoreExecutor;
use super::tasks::Scheduled;
use super::{Core, ring};
use crate::task::Queue;
use crate::world::{self, World};
use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// What a task and its handle share.
struct TaskShared<T> {
    output: Cell<Option<T>>,
    is_finished: Cell<bool>,
    joiner: Cell<Option<Waker>>,
}

/// Lives as long as the task's future.
struct RunningTask<T> {
    core: Core,
    slot: usize,
    shared: Rc<TaskShared<T>>,
}

impl<T> Drop for RunningTask<T> {
    fn drop(&mut self) {
        self.core.tasks().release(self.slot);
        self.shared.is_finished.set(true);
        if let Some(joiner) = self.shared.joiner.take() {
            joiner.wake();
        }
    }
}

pub(crate) struct JoinHandle<T> {
    core: Core,
    slot: usize,
    shared: Rc<TaskShared<T>>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn abort(&self) {
        if !self.shared.is_finished.get() {
            self.core.tasks().abort(self.slot);
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.shared.is_finished.get()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if self.shared.is_finished.get() {
            return Poll::Ready(self.shared.output.take());
        }
        self.shared.joiner.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

pub(crate) fn spawn<T: 'static>(
    core: &Core,
    queue: Queue,
    future: impl Future<Output = T> + 'static,
) -> JoinHandle<T> {
    let shared = Rc::new(TaskShared {
        output: Cell::new(None),
        is_finished: Cell::new(false),
        joiner: Cell::new(None),
    });
    let slot = core.tasks().reserve();
    let running = RunningTask {
        core: core.clone(),
        slot,
        shared: Rc::clone(&shared),
    };
    let task = async move {
        let output = future.await;
        running.shared.output.set(Some(output));
        drop(running);
    };
    let scheduled = match core.executor() {
        CoreExecutor::Ring(ring) => Scheduled::Ring {
            _task: ring.spawn(queue, task),
        },
        CoreExecutor::Glommio(queues) => match glommio::spawn_local_into(task, queues.of(queue)) {
            Ok(task) => Scheduled::Glommio(task.detach()),
            Err(error) => panic!("the queues of a core live as long as the core: {error}"),
        },
    };
    core.tasks().fill(slot, scheduled);
    JoinHandle {
        core: core.clone(),
        slot,
        shared,
    }
}

pub(crate) async fn yield_now(core: &Core) {
    match core.executor() {
        CoreExecutor::Glommio(_) => glommio::executor().yield_now().await,
        CoreExecutor::Ring(_) => ring::yield_now().await,
    }
}

pub(crate) async fn yield_if_needed(core: &Core) {
    match core.executor() {
        CoreExecutor::Glommio(_) => glommio::yield_if_needed().await,
        CoreExecutor::Ring(ring) => ring.yield_if_needed().await,
    }
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    type Outcome<T> = Result<T, Box<dyn Any + Send>>;
    let outcome: Arc<Mutex<Option<Outcome<T>>>> = Arc::default();
    let there = Arc::clone(&outcome);
    // A panic would end the pool's thread and leave this task waiting for ever.
    let work = move || {
        let done = catch_unwind(AssertUnwindSafe(work));
        *there.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
    };
    match world::current() {
        World::Uring(core) => match core.executor() {
            CoreExecutor::Glommio(_) => {
                super::once::once(glommio::executor().spawn_blocking(work)).await;
            }
            CoreExecutor::Ring(ring) => ring.blocking(work).await,
        },
        #[cfg(feature = "sim")]
        World::Sim(_) => unreachable!("the real blocking pool is asked in simulation"),
    }
    let done = outcome
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match done {
        Some(Ok(value)) => value,
        Some(Err(_)) => panic!("work on the blocking pool panicked"),
        None => panic!("the blocking pool returned without having run the work"),
    }
}
