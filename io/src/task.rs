//! Tasks of the current core.

#[cfg(feature = "sim")]
use crate::sim;
use crate::uring;
use crate::world::{self, World};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A spawned task. Dropping it detaches the task; awaiting it returns the output, or `None` when
/// the task was aborted.
pub struct JoinHandle<T> {
    inner: JoinInner<T>,
}

enum JoinInner<T> {
    Uring(uring::task::JoinHandle<T>),
    #[cfg(feature = "sim")]
    Sim(sim::task::JoinHandle<T>),
}

impl<T> JoinHandle<T> {
    /// Drops the task's future at its next suspension point.
    pub fn abort(&self) {
        match &self.inner {
            JoinInner::Uring(inner) => inner.abort(),
            #[cfg(feature = "sim")]
            JoinInner::Sim(inner) => inner.abort(),
        }
    }

    /// Whether the task has returned or was aborted.
    pub fn is_finished(&self) -> bool {
        match &self.inner {
            JoinInner::Uring(inner) => inner.is_finished(),
            #[cfg(feature = "sim")]
            JoinInner::Sim(inner) => inner.is_finished(),
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match &mut self.get_mut().inner {
            JoinInner::Uring(inner) => Pin::new(inner).poll(cx),
            #[cfg(feature = "sim")]
            JoinInner::Sim(inner) => Pin::new(inner).poll(cx),
        }
    }
}

/// The queues of a core, each with its share of the core's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Urgent,
    Foreground,
    Background,
}

/// Starts a task in the urgent queue of the current core: for short work that a client waits for, such
/// as a read from the disk. On a core that is busy with writes it does not wait until all of them have
/// had their turn.
pub fn spawn_urgent<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    spawn_in(future, Queue::Urgent)
}

/// Starts a task in the foreground queue (latency matters) of the current core.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    spawn_in(future, Queue::Foreground)
}

/// Starts a task in the background queue (flush, compaction, scrubbing) of the current core, which
/// gives way to the foreground.
pub fn spawn_background<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    spawn_in(future, Queue::Background)
}

fn spawn_in<T: 'static>(future: impl Future<Output = T> + 'static, queue: Queue) -> JoinHandle<T> {
    let inner = world::with(|world| match world {
        World::Uring(core) => JoinInner::Uring(uring::task::spawn(core, queue, future)),
        #[cfg(feature = "sim")]
        World::Sim(core) => {
            let background = queue == Queue::Background;
            JoinInner::Sim(sim::task::spawn(core, background, future))
        }
    });
    JoinHandle { inner }
}

/// Asks for a share of the current core's time for background tasks while foreground tasks, which
/// have 1000 shares, want it too. The highest of all demands counts, within
/// [`BACKGROUND_SHARES_MIN`](crate::BACKGROUND_SHARES_MIN) and
/// [`BACKGROUND_SHARES_MAX`](crate::BACKGROUND_SHARES_MAX). Belongs to one core; it ends when it is
/// dropped. In the Sim world, where tasks take no time, it changes nothing.
pub struct BackgroundDemand {
    core: Option<(uring::Core, usize)>,
}

impl BackgroundDemand {
    /// A demand of nothing.
    pub fn new() -> Self {
        let core = match world::current() {
            World::Uring(core) => {
                let place = core.add_demand();
                Some((core, place))
            }
            #[cfg(feature = "sim")]
            World::Sim(_) => None,
        };
        Self { core }
    }

    /// Asks for this many shares from now on.
    pub fn set(&self, shares: usize) {
        if let Some((core, place)) = &self.core {
            core.set_demand(*place, Some(shares));
        }
    }
}

impl Default for BackgroundDemand {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for BackgroundDemand {
    fn drop(&mut self) {
        if let Some((core, place)) = &self.core {
            core.set_demand(*place, None);
        }
    }
}

/// Lets other tasks run.
pub async fn yield_now() {
    match world::current() {
        World::Uring(core) => uring::task::yield_now(&core).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::task::yield_now(core).await,
    }
}

/// Lets other tasks run if this one has used up its turn; cheap enough for inner loops.
pub async fn yield_if_needed() {
    match world::current() {
        World::Uring(core) => uring::task::yield_if_needed(&core).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::task::yield_if_needed(core).await,
    }
}
