//! Executors: one thread per core.

use super::clock::CoreClock;
use super::guard;
use super::ring::Ring;
use super::sys;
use super::tasks::Tasks;
use super::watchdog;
use crate::core::{Backend, CoreConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    BACKGROUND_SHARES_MAX, BACKGROUND_SHARES_MIN, BLOCKING_THREADS, RING_DEPTH, SHUTDOWN_PAUSE,
    SHUTDOWN_ROUNDS_MAX, START_ATTEMPTS, START_PAUSE,
};
use crate::probe::{self, ProbeError};
use crate::task::Queue;
use crate::world::{self, World};
use glommio::{
    Latency, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement, Shares, SharesManager,
    TaskQueueHandle,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Shares of the urgent queue. Its tasks use little time, so that it is nearly always the one that has
/// had the least, and is next.
const URGENT_SHARES: usize = 2000;
/// Shares of the foreground queue; those of the background queue are set by what it has to do.
const FOREGROUND_SHARES: usize = 1000;
/// How often a change of the background queue's shares takes effect.
const SHARES_PERIOD: Duration = Duration::from_millis(50);
/// How long the executor's own queue runs, which holds the core's first task only. The guard is not there
/// yet: a thread that lost its processor for a short slice would never start its core.
const FIRST_TIME_SLICE: Duration = Duration::from_millis(100);
/// The registered buffers are accounted once for each of the three rings; the rest is slack.
const REGISTERED_FRACTION: usize = 4;

/// A core of the Uring world: the task queues, the tasks and the clock of this thread's executor.
#[derive(Clone)]
pub(crate) struct Core(Rc<CoreInner>);

struct CoreInner {
    executor: CoreExecutor,
    background_shares: Rc<BackgroundShares>,
    tasks: Tasks,
    clock: CoreClock,
    /// Devices on which the executor knows whether polled I/O works.
    probed_devices: RefCell<BTreeSet<u64>>,
}

/// What runs the tasks of a core.
pub(crate) enum CoreExecutor {
    Glommio(Queues),
    Ring(Ring),
}

/// The queues of a core on glommio.
pub(crate) struct Queues {
    urgent: TaskQueueHandle,
    foreground: TaskQueueHandle,
    background: TaskQueueHandle,
}

impl Queues {
    pub(super) fn of(&self, queue: Queue) -> TaskQueueHandle {
        match queue {
            Queue::Urgent => self.urgent,
            Queue::Foreground => self.foreground,
            Queue::Background => self.background,
        }
    }
}

/// What each owner of background work asks for; glommio asks here for the shares of the queue.
#[derive(Default)]
struct BackgroundShares(RefCell<Vec<Option<usize>>>);

impl BackgroundShares {
    fn wanted(&self) -> usize {
        let wanted = self.0.borrow().iter().flatten().copied().max();
        wanted
            .unwrap_or(0)
            .clamp(BACKGROUND_SHARES_MIN, BACKGROUND_SHARES_MAX)
    }
}

impl SharesManager for BackgroundShares {
    fn shares(&self) -> usize {
        self.wanted()
    }

    fn adjustment_period(&self) -> Duration {
        SHARES_PERIOD
    }
}

impl Core {
    fn new(executor: CoreExecutor, background_shares: Rc<BackgroundShares>) -> Self {
        Self(Rc::new(CoreInner {
            executor,
            background_shares,
            tasks: Tasks::default(),
            clock: CoreClock::default(),
            probed_devices: RefCell::default(),
        }))
    }

    /// On the glommio executor of this thread.
    fn on_glommio(config: &CoreConfig) -> Self {
        let executor = glommio::executor();
        let shares = Rc::new(BackgroundShares::default());
        let background_shares = Rc::clone(&shares);
        let queues = Queues {
            urgent: executor.create_task_queue(
                Shares::Static(URGENT_SHARES),
                Latency::Matters(config.preempt),
                "urgent",
            ),
            foreground: executor.create_task_queue(
                Shares::Static(FOREGROUND_SHARES),
                Latency::Matters(config.preempt),
                "foreground",
            ),
            background: executor.create_task_queue(
                Shares::Dynamic(shares),
                Latency::Matters(config.preempt),
                "background",
            ),
        };
        Self::new(CoreExecutor::Glommio(queues), background_shares)
    }

    pub(crate) fn executor(&self) -> &CoreExecutor {
        &self.0.executor
    }

    /// Registers an owner of background work, which asks for shares of the queue; returns its place.
    pub(crate) fn add_demand(&self) -> usize {
        let mut demands = self.0.background_shares.0.borrow_mut();
        match demands.iter().position(Option::is_none) {
            Some(free) => {
                if let Some(demand) = demands.get_mut(free) {
                    *demand = Some(0);
                }
                free
            }
            None => {
                demands.push(Some(0));
                demands.len() - 1
            }
        }
    }

    /// Sets what the owner at `place` asks for, or gives the place up.
    pub(crate) fn set_demand(&self, place: usize, shares: Option<usize>) {
        if let Some(demand) = self.0.background_shares.0.borrow_mut().get_mut(place) {
            assert!(demand.is_some(), "a place that was given up is not used");
            *demand = shares;
        }
        if let CoreExecutor::Ring(ring) = &self.0.executor {
            ring.set_background(self.0.background_shares.wanted());
        }
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub(crate) fn clock(&self) -> &CoreClock {
        &self.0.clock
    }

    pub(crate) fn probed_devices(&self) -> &RefCell<BTreeSet<u64>> {
        &self.0.probed_devices
    }

    /// Ends all tasks, so that their sockets and files are closed when the core has ended.
    async fn end_tasks(&self) {
        for _ in 0..SHUTDOWN_ROUNDS_MAX {
            if self.0.tasks.running() == 0 {
                return;
            }
            self.0.tasks.abort_all();
            match &self.0.executor {
                // Merely yielding would not do: a queue that has had more than its share gets no turn as
                // long as this one wants it.
                CoreExecutor::Glommio(_) => glommio::timer::sleep(SHUTDOWN_PAUSE).await,
                CoreExecutor::Ring(_) => super::ring::yield_now().await,
            }
        }
        let left = self.0.tasks.running();
        tracing::warn!(left, "a core ends before its tasks");
    }
}

pub(crate) struct CoreHandle {
    name: String,
    thread: JoinHandle<()>,
}

thread_local! {
    static IS_CORE: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn start<F, Fut>(config: CoreConfig, main: F) -> Result<CoreHandle>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let name = config.name.clone();
    let failed = |error| Error::new("start core", name.clone(), error);
    // glommio panics where io_uring is blocked.
    probe::io_uring().map_err(|error| {
        Error::with_kind(
            ErrorKind::Permission,
            "start core",
            name.clone(),
            std::io::Error::other(error),
        )
    })?;
    abort_on_panic();
    sys::ignore_signals_of_failed_writes();
    let (started, has_started) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(config.name.clone())
        .spawn(move || {
            let executor = match executor_of(&config) {
                Ok(executor) => executor,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            IS_CORE.set(true);
            let main = async { crate::task::spawn(main()).await };
            let run = AssertUnwindSafe(|| executor.run(&config, main));
            if catch_unwind(run).is_err() {
                // The panic hook has aborted already unless it was replaced.
                std::process::abort();
            }
            IS_CORE.set(false);
        })
        .map_err(failed)?;
    match has_started.recv() {
        Ok(Ok(())) => Ok(CoreHandle { name, thread }),
        Ok(Err(error)) => Err(failed(advised(error))),
        Err(_) => Err(failed(std::io::Error::other("its thread ended at once"))),
    }
}

/// Says what to look at when the kernel gives no memory for rings.
fn advised(error: std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => std::io::Error::new(
            std::io::ErrorKind::OutOfMemory,
            ProbeError::IoUringFailed(error),
        ),
        _ => error,
    }
}

/// Makes the executor, with patience: the kernel accounts locked memory per user and gives back that
/// of a process that has just ended a little later.
#[expect(clippy::disallowed_methods, reason = "the thread is not a core yet")]
fn executor_of(config: &CoreConfig) -> std::io::Result<CoreRuntime> {
    for _ in 1..START_ATTEMPTS {
        match try_executor_of(config) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                std::thread::sleep(START_PAUSE);
            }
            result => return result,
        }
    }
    try_executor_of(config)
}

fn try_executor_of(config: &CoreConfig) -> std::io::Result<CoreRuntime> {
    if config.backend == Backend::Ring {
        if let Some(cpu) = config.cpu {
            sys::pin(cpu)?;
        }
        return Ring::new(config, URGENT_SHARES, FOREGROUND_SHARES).map(CoreRuntime::Ring);
    }
    let placement = config.cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&config.name)
        .io_memory(config.locked_memory_bytes / REGISTERED_FRACTION)
        .ring_depth(RING_DEPTH)
        .preempt_timer(FIRST_TIME_SLICE)
        .spin_before_park(config.spin)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
        .make()
        .map(CoreRuntime::Glommio)
        .map_err(super::io_error)
}

/// An executor that does not run yet.
enum CoreRuntime {
    Glommio(LocalExecutor),
    Ring(Ring),
}

impl CoreRuntime {
    /// Runs a core until `main` has returned, and its tasks have ended.
    fn run<T>(self, config: &CoreConfig, main: impl Future<Output = T>) -> T {
        match self {
            Self::Glommio(executor) => executor.run(async {
                let core = Core::on_glommio(config);
                let CoreExecutor::Glommio(queues) = core.executor() else {
                    unreachable!("the core is on glommio");
                };
                // The guard is to outlive all tasks.
                let _guard = guard::start(queues.of(Queue::Foreground));
                let clock = core.clone();
                world::set(Some(World::Uring(core.clone())));
                crate::task::spawn(async move { clock.clock().drive().await });
                let output = life(config, &core, main).await;
                // Tasks that were aborted leave their work there.
                super::pool::finish().await;
                world::set(None);
                output
            }),
            Self::Ring(ring) => {
                let core = Core::new(CoreExecutor::Ring(ring.clone()), Rc::default());
                world::set(Some(World::Uring(core.clone())));
                let output = ring.run(core.clock(), life(config, &core, main));
                world::set(None);
                output
            }
        }
    }
}

/// Everything that runs on a core, from its first task to the end of its last.
async fn life<T>(config: &CoreConfig, core: &Core, main: impl Future<Output = T>) -> T {
    let pulse = watchdog::watch(&config.name, config.watchdog);
    crate::task::spawn(async move { pulse.beat().await });
    let output = main.await;
    core.end_tasks().await;
    output
}

/// Makes a core of this thread until `main`, which may borrow, has returned.
pub(crate) fn run_here<T>(config: &CoreConfig, main: impl Future<Output = T>) -> Result<T> {
    let executor = executor_of(config)
        .map_err(|error| Error::new("start core", config.name.clone(), advised(error)))?;
    Ok(executor.run(config, main))
}

impl CoreHandle {
    pub(crate) fn join(self) -> Result<()> {
        self.thread.join().map_err(|_| {
            let panicked = std::io::Error::other("its thread panicked");
            Error::new("join core", self.name, panicked)
        })
    }
}

/// Makes a panic on a core's thread end the process: its executor would die and the others would
/// live on without it.
fn abort_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            report(panic);
            if IS_CORE.try_with(Cell::get).unwrap_or(false) {
                std::process::abort();
            }
        }));
    });
}
