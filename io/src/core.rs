//! Starting and joining the executor of a core (Uring world), and the blocking pool.

use crate::error::Result;
#[cfg(feature = "sim")]
use crate::sim;
use crate::uring;
use crate::world::{self, World};
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

/// What runs a core of the Uring world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// glommio: three rings a core.
    Glommio,
    /// A ring of our own, entered once a turn. Needs Linux 6.1.
    Ring,
}

impl Backend {
    /// The one that the environment variable `CORELITH_IO_BACKEND` names, `glommio` or `ring`; otherwise `Ring`
    /// where the kernel takes it, `Glommio` elsewhere.
    pub fn best() -> Self {
        static BEST: OnceLock<Backend> = OnceLock::new();
        *BEST.get_or_init(|| match std::env::var("CORELITH_IO_BACKEND").as_deref() {
            Ok("ring") => Self::Ring,
            Ok("glommio") => Self::Glommio,
            _ if uring::ring::is_possible() => Self::Ring,
            _ => Self::Glommio,
        })
    }
}

/// How to run a core in the Uring world.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Thread name, at most 15 bytes are shown by the kernel.
    pub name: String,
    /// What runs it.
    pub backend: Backend,
    /// The CPU to pin to; unpinned if `None` (development).
    pub cpu: Option<usize>,
    /// Locked memory for the rings and registered buffers, in bytes. `RLIMIT_MEMLOCK` must allow this much
    /// for every core of the process.
    pub locked_memory_bytes: usize,
    /// How long a busy task runs before other queues and I/O get their turn.
    pub preempt: Duration,
    /// How long to poll for work before sleeping; an unpinned core does not.
    pub spin: Duration,
    /// After this long without progress the watchdog reports the core; after ten times, aborts.
    pub watchdog: Duration,
}

impl CoreConfig {
    /// The defaults for a core named `name`: unpinned, 512 KiB locked, 200 µs preempt timer.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            backend: Backend::best(),
            cpu: None,
            locked_memory_bytes: 512 << 10,
            preempt: Duration::from_micros(200),
            spin: Duration::from_micros(0),
            watchdog: Duration::from_secs(5),
        }
    }

    /// Starts a thread with an executor that runs `main` and ends when it returns (tasks that are
    /// still running are dropped). A panic in any task aborts the process.
    ///
    /// # Errors
    /// When the executor cannot start: too little locked memory, no such CPU, no io_uring.
    pub fn start<F, Fut>(self, main: F) -> Result<CoreHandle>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        Ok(CoreHandle {
            inner: uring::core::start(self, main)?,
        })
    }
}

/// A running core.
pub struct CoreHandle {
    inner: uring::core::CoreHandle,
}

impl CoreHandle {
    /// Waits, blocking the thread, until the core's main task has returned.
    pub fn join(self) -> Result<()> {
        self.inner.join()
    }
}

/// Runs `main` on a core of its own, unpinned, and returns what it returned: for tests and tools.
///
/// # Panics
/// When the core cannot start.
pub fn run<F, Fut, T>(main: F) -> T
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    run_on(CoreConfig::new("main"), main)
}

/// As [`run`], on the core that `config` says.
///
/// # Panics
/// When the core cannot start.
pub fn run_on<F, Fut, T>(config: CoreConfig, main: F) -> T
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let started = config.start(move || async move {
        // The receiver waits below until the core has ended.
        let _ = sender.send(main().await);
    });
    match started.and_then(CoreHandle::join).map(|()| receiver.recv()) {
        Ok(Ok(output)) => output,
        Ok(Err(_)) => panic!("the core ended without a result"),
        Err(error) => panic!("{error}"),
    }
}

/// Makes a core of the current thread until `main` has returned; unlike with [`run`], `main` may
/// borrow. For tests.
///
/// # Panics
/// When the core cannot start, or on a thread that is a core already.
pub fn run_here<T>(main: impl Future<Output = T>) -> T {
    match uring::core::run_here(&CoreConfig::new("here"), main) {
        Ok(output) => output,
        Err(error) => panic!("{error}"),
    }
}

/// Runs `work` on the blocking pool and returns its result.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match world::current() {
        World::Uring(_) => uring::task::blocking(work).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::task::blocking(core, work).await,
    }
}
