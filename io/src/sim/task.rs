//! Tasks of a simulated core.

use super::executor::TaskId;
use super::time::Delay;
use super::world::{Core, World};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

pub(crate) struct JoinHandle<T> {
    state: Rc<JoinState<T>>,
}

struct JoinState<T> {
    output: RefCell<Option<T>>,
    finished: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
    task: Cell<Option<TaskId>>,
    world: Weak<World>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn abort(&self) {
        if let (Some(world), Some(task)) = (self.state.world.upgrade(), self.state.task.get()) {
            world.executor.abort(task);
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state.finished.get()
    }

    pub(super) fn take_output(&self) -> Option<T> {
        self.state.output.borrow_mut().take()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if self.state.finished.get() {
            return Poll::Ready(self.take_output());
        }
        *self.state.waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Marks the task finished when its future is done with, whichever way.
struct Finish<T>(Rc<JoinState<T>>);

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        let was_finished = self.0.finished.replace(true);
        assert!(!was_finished, "a task ends once");
        let waiter = self.0.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

pub(crate) fn spawn<T: 'static>(
    core: &Core,
    background: bool,
    future: impl Future<Output = T> + 'static,
) -> JoinHandle<T> {
    let state = Rc::new(JoinState {
        output: RefCell::new(None),
        finished: Cell::new(false),
        waiter: RefCell::new(None),
        task: Cell::new(None),
        world: Rc::downgrade(&core.world),
    });
    // A process that has ended starts nothing any more: its last poll is only being finished.
    if core.is_alive() {
        let finish = Finish(Rc::clone(&state));
        core.world.executor.spawn(core.clone(), background, |id| {
            state.task.set(Some(id));
            async move {
                let output = future.await;
                *finish.0.output.borrow_mut() = Some(output);
            }
        });
    }
    JoinHandle { state }
}

pub(crate) async fn yield_now(_core: Core) {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A turn ends at random.
pub(crate) async fn yield_if_needed(core: Core) {
    if core.world.rng.below(32) == 0 {
        yield_now(core).await;
    }
}

/// The pool is simulated by a delay: the work itself runs on the simulation's thread.
pub(crate) async fn blocking<T: Send + 'static>(
    core: Core,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let delay = core.world.draw(&core.world.config.blocking_delay);
    Delay::new(&core.world, delay).await;
    work()
}
