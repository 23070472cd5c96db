//! Runs a workload against a cluster: as a closed loop (each loop starts an operation when its last one
//! has ended) or as an open loop (operations are due at times that do not depend on the cluster).
//!
//! A lane is a thread with its own runtime, its own SDK clients and its share of the loops. The driver
//! spawns nothing per operation, and lanes share only the phase, so that it leaves most of the processor
//! to the servers.
//!
//! Invariants:
//! * A latency in the open loop counts from the intended start, so a stall of the cluster shows in every
//!   operation that it delayed (no coordinated omission).
//! * The throughput counts completions between the two instants at which CPU use is sampled.

use crate::pacer::Pacer;
use crate::recorder::Recorder;
use crate::workload::{ReadSource, Workload, WorkloadOperation};
use corelith_bench::random::Random;
use corelith_bench::usage::Usage;
use corelith_client::{Client, Error};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Pause of a loop after an error, so that it does not ask a refusing cluster in a tight loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// The phases of a run; a clock starts in phase 0, the warm-up.
const MEASURE: u8 = 1;
const DONE: u8 = 2;

/// The cluster, and the threads and clients that issue operations.
#[derive(Clone, Debug)]
pub(crate) struct RunTarget {
    /// Addresses of the cluster.
    pub(crate) seeds: Vec<String>,
    /// Process ids of the servers on this machine.
    pub(crate) server_pids: Vec<u32>,
    /// Threads of the driver.
    pub(crate) lanes: usize,
    /// SDK clients of each lane.
    pub(crate) clients_per_lane: usize,
    /// Deadline of each operation.
    pub(crate) deadline: Duration,
    /// Replicas that gets ask.
    pub(crate) read_from: ReadSource,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct RunStep {
    /// Operations in flight at once: the number of loops.
    pub(crate) in_flight: usize,
    /// Open loop: operations per second over all lanes. `None`: closed loop.
    pub(crate) rate: Option<f64>,
    /// Time before the measurement.
    pub(crate) warm_up: Duration,
    /// Time of the measurement.
    pub(crate) duration: Duration,
    /// Seed of the operations.
    pub(crate) seed: u64,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct RunOutcome {
    /// Latencies and errors.
    pub(crate) recorder: Recorder,
    /// The measured time.
    pub(crate) window: Duration,
    /// Resources that this process used in that time.
    pub(crate) client: Usage,
    /// Resources that the servers used in that time.
    pub(crate) servers: Usage,
    /// CPU seconds that each server used in that time.
    pub(crate) servers_cpu_seconds: Vec<f64>,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    /// No runtime or thread.
    #[error("cannot start a thread of the driver: {0}")]
    Start(#[source] std::io::Error),
    /// No connection to the cluster.
    #[error("cannot connect to the cluster: {0}")]
    Connect(#[source] Error),
    /// A key could not be written before the reads.
    #[error("cannot load the keys to read: {0}")]
    Load(#[source] Error),
    /// A thread of the driver panicked.
    #[error("a thread of the driver panicked")]
    Panicked,
}

/// The state that lanes share: the phase, and the start of the measurement.
#[derive(Debug, Default)]
struct RunClock {
    phase: AtomicU8,
    measured_from: OnceLock<Instant>,
}

impl RunClock {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }
}

/// Makes one run.
///
/// # Errors
/// No connection is possible. Errors of operations are counted in the result instead.
pub(crate) fn run(
    target: &RunTarget,
    step: &RunStep,
    workload: &Arc<Workload>,
) -> Result<RunOutcome, DriverError> {
    let (warm_up, duration) = (step.warm_up, step.duration);
    let (sleep, sleep_on) = (
        || std::thread::sleep(warm_up),
        |()| std::thread::sleep(duration),
    );
    run_while(target, step, workload, sleep, sleep_on).map(|(outcome, ())| outcome)
}

/// As [`run`], but the warm-up lasts as long as `warm_up`, and the measurement as long as `measured`, which gets what
/// `warm_up` returned. Returns what `measured` did.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_while<W, M>(
    target: &RunTarget,
    step: &RunStep,
    workload: &Arc<Workload>,
    warm_up: impl FnOnce() -> W,
    measured: impl FnOnce(W) -> M,
) -> Result<(RunOutcome, M), DriverError> {
    let lanes = target.lanes.clamp(1, step.in_flight.max(1));
    let clock = Arc::new(RunClock::default());
    let ready = Barrier::new(lanes + 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes)
            .map(|index| {
                let lane = DriverLane {
                    target,
                    loops: share(step.in_flight, lanes, index),
                    rate: step.rate.map(|rate| rate / lanes as f64),
                    seed: step.seed.wrapping_add((index as u64) << 32),
                };
                let (clock, ready) = (&clock, &ready);
                scope.spawn(move || lane.run(clock, workload, ready))
            })
            .collect();
        ready.wait();
        let warm = warm_up();
        let each = || target.server_pids.iter().map(|pid| Usage::of_all(&[*pid]));
        let each_before: Vec<Usage> = each().collect();
        let before = (Usage::of_self(), Usage::of_all(&target.server_pids));
        let start = *clock.measured_from.get_or_init(Instant::now);
        clock.phase.store(MEASURE, Ordering::Relaxed);
        let result = measured(warm);
        clock.phase.store(DONE, Ordering::Relaxed);
        let window = start.elapsed();
        let after = (Usage::of_self(), Usage::of_all(&target.server_pids));
        let each = each().zip(each_before);
        let servers_cpu_seconds = each.map(|(now, then)| now.since(&then).cpu_seconds);
        let servers_cpu_seconds = servers_cpu_seconds.collect();
        let mut recorder = Recorder::default();
        for thread in threads {
            recorder.merge(&thread.join().map_err(|_| DriverError::Panicked)??);
        }
        let outcome = RunOutcome {
            recorder,
            window,
            client: after.0.since(&before.0),
            servers: after.1.since(&before.1),
            servers_cpu_seconds,
        };
        Ok((outcome, result))
    })
}

/// Number of loops, of `total`, that lane number `lane` runs.
fn share(total: usize, lanes: usize, lane: usize) -> usize {
    total / lanes + usize::from(lane < total % lanes)
}

/// The work of one thread.
struct DriverLane<'a> {
    target: &'a RunTarget,
    loops: usize,
    rate: Option<f64>,
    seed: u64,
}

/// The state that the loops of a lane share.
struct LaneState {
    clock: Arc<RunClock>,
    workload: Arc<Workload>,
    recorder: Mutex<Recorder>,
    pacer: Option<Pacer>,
}

impl DriverLane<'_> {
    fn run(
        &self,
        clock: &Arc<RunClock>,
        workload: &Arc<Workload>,
        ready: &Barrier,
    ) -> Result<Recorder, DriverError> {
        let connected = runtime().and_then(|runtime| {
            let clients = runtime.block_on(connect(self.target))?;
            Ok((runtime, clients))
        });
        // Every lane arrives here, even one that failed, or the others would wait forever.
        ready.wait();
        let (runtime, clients) = connected?;
        let shared = Arc::new(LaneState {
            clock: Arc::clone(clock),
            workload: Arc::clone(workload),
            recorder: Mutex::default(),
            pacer: self.rate.map(Pacer::new),
        });
        std::thread::scope(|scope| {
            if let Some(pacer) = &shared.pacer {
                let random = Random::new(self.seed ^ u64::MAX);
                scope.spawn(move || pacer.run(random, || clock.phase() == DONE));
            }
            runtime.block_on(self.issue_all(&shared, &clients))
        })?;
        let mut recorder = shared.lock().clone();
        if let (Some(pacer), Some(start)) = (&shared.pacer, clock.measured_from.get()) {
            recorder.not_started = pacer.not_started(*start);
        }
        Ok(recorder)
    }

    async fn issue_all(
        &self,
        shared: &Arc<LaneState>,
        clients: &[Client],
    ) -> Result<(), DriverError> {
        let loops: Vec<_> = clients
            .iter()
            .cycle()
            .take(self.loops)
            .enumerate()
            .map(|(index, client)| {
                let random = Random::new(self.seed.wrapping_add(index as u64));
                tokio::spawn(issue(Arc::clone(shared), client.clone(), random))
            })
            .collect();
        for handle in loops {
            handle.await.map_err(|_| DriverError::Panicked)?;
        }
        Ok(())
    }
}

impl LaneState {
    fn lock(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One loop: one operation in flight until the run is over.
async fn issue(shared: Arc<LaneState>, client: Client, mut random: Random) {
    while shared.clock.phase() != DONE {
        let operation = shared.workload.next(&mut random);
        let intended = match &shared.pacer {
            None => None,
            Some(pacer) => match pacer.next().await {
                Some(due) => Some(due),
                None => return,
            },
        };
        let started = Instant::now();
        let started_in = shared.clock.phase();
        let is_put = matches!(operation, WorkloadOperation::Put { .. });
        let result = perform(&client, operation).await;
        let ended_in = shared.clock.phase();
        if started_in != MEASURE && ended_in != MEASURE {
            continue;
        }
        let failed = result.is_err();
        {
            let latency = intended.unwrap_or(started).elapsed();
            let in_window = u64::from(ended_in == MEASURE);
            let mut recorder = shared.lock();
            match result {
                Ok(()) if is_put => {
                    recorder.puts.record(latency);
                    recorder.puts_in_window += in_window;
                }
                Ok(()) => {
                    recorder.gets.record(latency);
                    recorder.gets_in_window += in_window;
                }
                Err(error) => *recorder.errors.entry(error_kind(&error)).or_default() += 1,
            }
            if let Some(due) = intended {
                recorder
                    .start_lag
                    .record(started.saturating_duration_since(due));
            }
        }
        if failed {
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
        }
    }
}

async fn perform(client: &Client, operation: WorkloadOperation) -> Result<(), Error> {
    match operation {
        WorkloadOperation::Put { key, value } => client.put(key, value).await.map(drop),
        WorkloadOperation::Get { key } => client.get(key).await.map(drop),
    }
}

/// Writes the first `keys` keys of the workload once, with `loops` writes in flight.
///
/// # Errors
/// The first operation that failed although the SDK retried it until its deadline.
pub(crate) fn load(
    target: &RunTarget,
    workload: &Workload,
    keys: u64,
    loops: u64,
) -> Result<(), DriverError> {
    runtime()?.block_on(async {
        let clients = connect(target).await?;
        let next = AtomicU64::new(0);
        let writers = (0..loops)
            .zip(clients.iter().cycle())
            .map(|(index, client)| {
                let next = &next;
                async move {
                    let mut random = Random::new(index);
                    loop {
                        let id = next.fetch_add(1, Ordering::Relaxed);
                        if id >= keys {
                            return Ok(());
                        }
                        perform(client, workload.put(id, &mut random)).await?;
                    }
                }
            });
        futures_util::future::try_join_all(writers)
            .await
            .map(drop)
            .map_err(DriverError::Load)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, DriverError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DriverError::Start)
}

async fn connect(target: &RunTarget) -> Result<Vec<Client>, DriverError> {
    let mut clients = Vec::with_capacity(target.clients_per_lane);
    for _ in 0..target.clients_per_lane.max(1) {
        let client = Client::builder()
            .seeds(target.seeds.iter().cloned())
            .deadline(target.deadline)
            .read_from(target.read_from.into())
            .connect()
            .await
            .map_err(DriverError::Connect)?;
        clients.push(client);
    }
    Ok(clients)
}

/// The name of an error in the report.
fn error_kind(error: &Error) -> &'static str {
    match error {
        Error::NotFound => "not found",
        Error::Conflict { .. } => "conflict",
        Error::Throttled { .. } => "throttled",
        Error::DiskFull => "disk full",
        Error::ShardFull => "shard full",
        Error::TooLarge { .. } => "too large",
        Error::Corrupt => "corrupt",
        Error::Unavailable { .. } => "unavailable",
        Error::Indeterminate { .. } => "indeterminate",
        Error::Protocol { .. } => "protocol",
        _ => "other",
    }
}
