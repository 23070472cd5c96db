//! How long a node takes that has lost its data: a started cluster under load, one node of which is killed, wiped
//! and started again; then once more, killed again when half of its data is there.

mod course;
mod figures;

use self::course::RebuildCourse;
pub(crate) use self::figures::RebuildFigures;
use self::figures::{Interruption, OthersLoad, RebuildRound};
use crate::cluster::{Cluster, ClusterError, ClusterOptions, NODES, Place};
use crate::driver::{self, DriverError, RunStep, RunTarget};
use crate::failover::{FailoverError, Network, Undo, quoted};
use crate::probe;
use crate::workload::{Workload, WorkloadKind};
use corelith_bench::usage::{Usage, wait_until_settled};
use corelith_client::{Client, ClusterAnswer, ClusterAsk, ClusterOrder, ClusterView};
use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The node that loses its data, counted from 0, and its number.
const NODE: usize = NODES - 1;
const NODE_ID: u64 = NODES as u64;
/// Operations of the load in flight.
const IN_FLIGHT: usize = 16;
/// How long the load runs to find out what the cluster takes.
const TRY_FOR: Duration = Duration::from_secs(5);
/// Part of that at which it then runs.
const RATE_PART: f64 = 0.5;
/// Time for a node to become whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(3600);
/// Time for the cluster to answer what its state is.
const STATE_WITHIN: Duration = Duration::from_secs(60);
/// Time for an answer of the cluster.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How long the load beside runs alone.
const ALONE_FOR: Duration = Duration::from_secs(10);
/// Reads of it.
const READ_PERCENT: u8 = 50;
const SECOND: Duration = Duration::from_secs(1);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Writes in flight while the data is loaded.
const LOAD_IN_FLIGHT: u64 = 64;

/// The data and the load beside.
pub(crate) struct RebuildLoad {
    /// Values of the data, in all.
    pub(crate) bytes: u64,
    /// The data.
    pub(crate) data: Workload,
    /// Keys of the data.
    pub(crate) keys: u64,
    /// The load beside: other keys, half of its operations reads.
    pub(crate) beside: Workload,
    /// Keys of that.
    pub(crate) beside_keys: u64,
}

/// Why the node could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Failover(#[from] FailoverError),
    #[error("cannot {what}: {source}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("cannot connect to the cluster: {0}")]
    Connect(#[source] corelith_client::Error),
    #[error("the cluster did not tell its state within {} s", STATE_WITHIN.as_secs())]
    NoState,
    #[error("the node was not whole within {} s", WHOLE_WITHIN.as_secs())]
    NotWhole,
}

fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> RebuildError {
    move |source| RebuildError::Io { what, source }
}

/// Starts a cluster, loads it and rebuilds a node twice.
///
/// # Errors
/// The cluster could not be started, or the node did not become whole.
pub(crate) fn run(
    mut options: ClusterOptions,
    target: impl FnOnce(&Cluster) -> RunTarget,
    step: &RunStep,
    load: &RebuildLoad,
) -> Result<RebuildFigures, RebuildError> {
    let mut undo = Undo::start().map_err(failed("start sh"))?;
    if !options.keep {
        let dir = quoted(&options.dir.display().to_string());
        undo.later(&format!("rm -rf {dir}"))
            .map_err(failed("talk to sh"))?;
    }
    let network = Network::make_if_inside().map_err(failed("make network namespaces"))?;
    options.place = match &network {
        Some(network) => Place::Namespaces(network.namespaces()),
        None => Place::Guarded,
    };
    let cluster = Cluster::start(options)?;
    let target = target(&cluster);
    println!("loading {} MiB", load.bytes >> 20);
    driver::load(&target, &load.data, load.keys, LOAD_IN_FLIGHT)?;
    driver::load(&target, &load.beside, load.beside_keys, LOAD_IN_FLIGHT)?;
    wait_until_settled(&cluster.pids());
    let mut bench = Rebuild {
        looker: Looker::new(cluster.seeds())?,
        cluster,
        counts_received: network.is_some(),
    };
    bench.measure(&target, step, load)
}

/// A run. Fields are dropped in order.
struct Rebuild {
    looker: Looker,
    cluster: Cluster,
    counts_received: bool,
}

/// A node on its way to be whole.
struct RebuildWay<'a> {
    bench: &'a mut Rebuild,
    begun: Instant,
    course: RebuildCourse,
    /// What was counted when this process of the node began.
    from: u64,
    /// What it has received or written since.
    received: u64,
    /// `received` at the looks of the last second.
    second: VecDeque<(Instant, u64)>,
    best_second: u64,
}

impl Rebuild {
    /// Has the node begin anew twice.
    fn measure(
        &mut self,
        target: &RunTarget,
        step: &RunStep,
        load: &RebuildLoad,
    ) -> Result<RebuildFigures, RebuildError> {
        let beside = Arc::new(load.beside.of_kind(WorkloadKind::Mixed, READ_PERCENT));
        let step = |rate, duration| RunStep {
            in_flight: IN_FLIGHT,
            rate,
            duration,
            ..step.clone()
        };
        let tried = driver::run(target, &step(None, TRY_FOR), &beside)?;
        let done = tried.recorder.puts_in_window + tried.recorder.gets_in_window;
        let rate = (done as f64 / tried.window.as_secs_f64() * RATE_PART).max(1.0);
        println!("a load of {rate:.0} operations per second, alone");
        let (received, begun) = (self.counted(), Instant::now());
        let alone = driver::run(target, &step(Some(rate), ALONE_FOR), &beside)?;
        let beside_per_second =
            self.counted().saturating_sub(received) as f64 / begun.elapsed().as_secs_f64();
        println!("node {NODE_ID} is wiped");
        let (during, plain) = driver::run_while(
            target,
            &step(Some(rate), Duration::ZERO),
            &beside,
            || self.wipe(),
            |way| way.and_then(RebuildWay::until_whole),
        )?;
        let (seconds, plain) = plain?;
        let plain = plain.figures(seconds);
        wait_until_settled(&self.cluster.pids());
        let (dir, bytes) = (self.cluster.dir().to_path_buf(), load.bytes);
        let disk = probe::disk(&dir, bytes).map_err(failed("write a file"))?;
        let loopback_bytes_per_second =
            probe::loopback(bytes).map_err(failed("copy on loopback"))?;
        println!("node {NODE_ID} is wiped, and killed when half of its data is there");
        let loaded = beside_per_second * plain.seconds;
        let whole_bytes = plain.received_bytes.saturating_sub(loaded as u64);
        let interrupted = self.interrupt(whole_bytes)?;
        Ok(RebuildFigures {
            bytes,
            counts_received: self.counts_received,
            rate,
            alone: OthersLoad::new(alone),
            during: OthersLoad::new(during),
            plain,
            interrupted,
            disk_bytes_per_second: disk.write,
            loopback_bytes_per_second,
        })
    }

    /// What the node has received so far, or what its process has written.
    fn counted(&self) -> u64 {
        let Some(pid) = self.cluster.pids().get(NODE).copied() else {
            return 0;
        };
        match self.counts_received {
            true => {
                let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev"));
                received(&table.unwrap_or_default())
            }
            false => Usage::of_all(&[pid]).written_bytes,
        }
    }

    /// Kills the node and starts it again, without its data if `wipes`. Returns what is counted as the process begins.
    fn start_again(&mut self, wipes: bool) -> Result<u64, RebuildError> {
        let from = match self.counts_received {
            true => self.counted(),
            false => 0,
        };
        self.cluster.kill(NODE)?;
        if wipes {
            std::fs::remove_dir_all(self.cluster.data_dir(NODE))
                .map_err(failed("remove the node's data"))?;
        }
        self.cluster.restart(NODE)?;
        Ok(from)
    }

    /// Has the node begin anew. Returns when its first new replica is open.
    fn wipe(&mut self) -> Result<RebuildWay<'_>, RebuildError> {
        let view = self.looker.state()?;
        let known = view.nodes.iter().find(|node| node.node == NODE_ID);
        let store = known.map_or(0, |node| node.store);
        let from = self.start_again(true)?;
        let mut way = RebuildWay {
            bench: self,
            begun: Instant::now(),
            course: RebuildCourse::new(NODE_ID, store),
            from,
            received: 0,
            second: VecDeque::new(),
            best_second: 0,
        };
        while way.course.opened().is_none() {
            way.look()?;
        }
        Ok(way)
    }

    /// Has the node begin anew, and kills it when half of `whole_bytes` are there.
    fn interrupt(&mut self, whole_bytes: u64) -> Result<RebuildRound, RebuildError> {
        let mut way = self.wipe()?;
        while way.received < whole_bytes / 2 && way.whole().is_none() {
            way.look()?;
            way.received = way.bench.counted().saturating_sub(way.from);
        }
        let before_bytes = way.received;
        way.from = way.bench.start_again(false)?;
        way.received = 0;
        way.second.clear();
        let (seconds, mut way) = way.until_whole()?;
        let after_bytes = way.received;
        way.received += before_bytes;
        Ok(RebuildRound {
            interruption: Some(Interruption {
                before_bytes,
                after_bytes,
                whole_bytes,
            }),
            ..way.figures(seconds)
        })
    }
}

impl RebuildWay<'_> {
    /// Looks once.
    fn look(&mut self) -> Result<(), RebuildError> {
        self.bench.cluster.check()?;
        if self.begun.elapsed() > WHOLE_WITHIN {
            return Err(RebuildError::NotWhole);
        }
        if let Some(view) = self.bench.looker.look() {
            self.course.take(self.begun.elapsed(), &view);
        }
        self.received = self.bench.counted().saturating_sub(self.from);
        let now = Instant::now();
        self.second.push_back((now, self.received));
        while let Some((at, before)) = self.second.front().copied()
            && now.duration_since(at) >= SECOND
        {
            let second = now.duration_since(at).as_secs_f64();
            let came = self.received.saturating_sub(before) as f64 / second;
            self.best_second = self.best_second.max(came as u64);
            self.second.pop_front();
        }
        std::thread::sleep(LOOK_EVERY);
        Ok(())
    }

    fn whole(&self) -> Option<Duration> {
        self.course.whole(self.begun.elapsed())
    }

    /// Returns when the node is whole, with the time from the opening of its first replica until then.
    fn until_whole(mut self) -> Result<(Duration, Self), RebuildError> {
        loop {
            self.look()?;
            if let Some((whole, opened)) = self.whole().zip(self.course.opened()) {
                return Ok((whole.saturating_sub(opened), self));
            }
        }
    }

    fn figures(self, seconds: Duration) -> RebuildRound {
        let opened = self.course.opened().unwrap_or_default();
        RebuildRound {
            opened_s: opened.as_secs_f64(),
            seconds: seconds.as_secs_f64(),
            received_bytes: self.received,
            best_second_bytes: self.best_second,
            directory_bytes: size_of(&self.bench.cluster.data_dir(NODE)),
            shown_bytes: self.course.bytes_shown(),
            shown_steps: self.course.steps(),
            interruption: None,
        }
    }
}

/// Asks the cluster for its state.
struct Looker {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Looker {
    fn new(seeds: &[String]) -> Result<Self, RebuildError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(failed("start a thread"))?;
        let connecting = Client::builder()
            .seeds(seeds.iter().cloned())
            .deadline(LOOK_WITHIN)
            .connect_deadline(STATE_WITHIN)
            .connect();
        let client = runtime.block_on(connecting);
        Ok(Self {
            client: client.map_err(RebuildError::Connect)?,
            runtime,
        })
    }

    /// The state, if the cluster tells it now.
    fn look(&self) -> Option<ClusterView> {
        let ask = ClusterAsk {
            order: ClusterOrder::Status,
            dry_run: false,
        };
        match self.runtime.block_on(self.client.cluster(&ask)) {
            Ok(ClusterAnswer::Status { view }) => Some(view),
            _ => None,
        }
    }

    /// The state.
    fn state(&self) -> Result<ClusterView, RebuildError> {
        let begun = Instant::now();
        while begun.elapsed() < STATE_WITHIN {
            if let Some(view) = self.look() {
                return Ok(view);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(RebuildError::NoState)
    }
}

/// Bytes that came through the interfaces of a `/proc/PID/net/dev`, without the loopback interface.
fn received(table: &str) -> u64 {
    let mut sum = 0;
    for line in table.lines() {
        if let Some((name, counts)) = line.split_once(':')
            && name.trim() != "lo"
        {
            let first = counts.split_whitespace().next();
            sum += first.and_then(|word| word.parse().ok()).unwrap_or(0_u64);
        }
    }
    sum
}

/// Bytes on disk of all files in a directory; one that goes meanwhile counts nothing.
fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_are_those_of_all_interfaces_but_the_loopback() {
        let table = "Inter-|   Receive                |  Transmit\n \
                     face |bytes    packets errs drop|bytes    packets\n    \
                     lo:  900 9 0 0 900 9\n  eth0: 1234567  10 0 0 99 1\n  eth1:3 1 0 0 9 1\n";
        assert_eq!(received(table), 1_234_570);
        assert_eq!(received(""), 0);
    }
}
