//! How long writes wait when a leader is gone: faults in a started cluster under load, round after round.
//!
//! A round hurts the node that leads most shards, while writers put random keys as fast as they are answered, and
//! mends it again. Its figure is the longest time between two answered writes of a shard that this node led.

mod disk;
mod gaps;
mod network;
mod undo;
mod watch;

use self::disk::Disks;
use self::gaps::Gaps;
use self::network::{Dropped, Network};
use self::undo::{Undo, quoted};
use self::watch::{Lead, Watch};
use crate::cluster::{Cluster, ClusterError, ClusterOptions, NODES, Place};
use crate::workload::{Workload, WorkloadOperation};
use corelith_bench::random::Random;
use corelith_client::Client;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Puts in flight.
const WRITERS: usize = 16;
/// Deadline of a put: longer than any fault.
const PUT_DEADLINE: Duration = Duration::from_secs(60);
/// Time for the cluster to be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// Time for the leads to spread over the nodes again, once it is whole. After that the next round begins anyway.
const SPREAD_WITHIN: Duration = Duration::from_secs(20);
/// Pause between two looks at the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Load before a fault; up to half as much again is added at random.
const CALM: Duration = Duration::from_secs(1);
/// What a fault may cost: half of the rounds, and each of them.
const MEDIAN_MS_MAX: f64 = 400.0;
const WORST_MS_MAX: f64 = 1000.0;
/// What the restart of a node in order may cost.
const RESTART_MS_MAX: f64 = 50.0;

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fault {
    /// Its process is killed, and started again later.
    Kill,
    /// Its process is stopped (SIGSTOP), and continued later.
    Stop,
    /// No packet from it or to it arrives.
    Cut,
    /// As `cut`, but clients reach it: only the other nodes do not.
    Partition,
    /// No packet to it arrives, but its own do.
    Deaf,
    /// Its disk answers nothing.
    Stall,
    /// Each node in turn is stopped in order (SIGTERM) and started again.
    Restart,
    /// Nothing is done, for --seconds: no lead may change.
    Steady,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Cut => "cut",
            Self::Partition => "partition",
            Self::Deaf => "deaf",
            Self::Stall => "stall",
            Self::Restart => "restart",
            Self::Steady => "steady",
        }
    }

    fn needs_network(self) -> bool {
        matches!(self, Self::Cut | Self::Partition | Self::Deaf)
    }
}

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    /// Faults, in this order.
    pub(crate) faults: Vec<Fault>,
    /// Rounds of each fault.
    pub(crate) rounds: u32,
    /// How long a fault lasts.
    pub(crate) hold: Duration,
    /// How long `steady` lasts.
    pub(crate) steady: Duration,
    /// Seed of the writers and of the times of faults.
    pub(crate) seed: u64,
}

/// Why the rounds could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FailoverError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "the faults cut, partition and deaf need network namespaces, which only root may make: leave them out with --fault, or run as root"
    )]
    NotRoot,
    #[error("cannot {what}: {source}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("cannot connect to the cluster: {0}")]
    Connect(#[source] corelith_client::Error),
    #[error("the cluster was not whole within {} s {when}", WHOLE_WITHIN.as_secs())]
    NotWhole { when: &'static str },
}

fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> FailoverError {
    move |source| FailoverError::Io { what, source }
}

/// The figures of one round. Times count from the fault.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Round {
    fault: Fault,
    round: u32,
    /// The node that was hurt, counted from 1.
    node: usize,
    /// Shards that it led.
    shards: Vec<u32>,
    /// Longest gap of one of them from the fault until the cluster was whole again.
    gap_ms: f64,
    /// When this gap began and ended.
    gap_from_ms: f64,
    gap_to_ms: f64,
    /// Longest gap of one of them after the node was mended.
    gap_after_ms: f64,
    /// Longest gap of all shards together.
    all_gap_ms: f64,
    /// Longest put.
    put_ms: f64,
    /// When each of the shards was seen to have another leader.
    elected_ms: Vec<f64>,
    /// Elections of all shards in the round.
    terms: u64,
    /// From the mending until the cluster was whole, and the leads spread; `None` if they did not.
    whole_ms: f64,
    spread_ms: Option<f64>,
    puts: u64,
    errors: u64,
}

impl Round {
    fn text(&self) -> String {
        let list = |values: &[f64]| {
            let each: Vec<String> = values.iter().map(|ms| format!("{ms:.0}")).collect();
            each.join(" ")
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<10}{:>5}{:>6}{:>8.0}{:>8.0}{:>8.0}{:>8.0}{:>7}{:>8.0}{:>8}{:>8}{:>7}  {}",
            self.fault.name(),
            self.round,
            self.node,
            self.gap_ms,
            self.gap_after_ms,
            self.all_gap_ms,
            self.put_ms,
            self.terms,
            self.whole_ms,
            self.spread_ms
                .map_or("-".to_owned(), |ms| format!("{ms:.0}")),
            self.puts,
            self.errors,
            if self.elected_ms.is_empty() {
                String::new()
            } else {
                format!(
                    "elected at {}, answered at {:.0}",
                    list(&self.elected_ms),
                    self.gap_to_ms
                )
            },
        );
        text
    }
}

/// The figures of all rounds of a fault.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Summary {
    fault: Fault,
    median_ms: f64,
    worst_ms: f64,
    /// Gaps of all rounds, in order.
    gaps_ms: Vec<f64>,
    /// Elections that no fault explains; `steady` only.
    changes: Option<u64>,
    errors: u64,
    is_good: bool,
    rounds: Vec<Round>,
}

impl Summary {
    fn new(fault: Fault, rounds: Vec<Round>) -> Self {
        let gaps_ms: Vec<f64> = rounds.iter().map(|round| round.gap_ms).collect();
        let (median_ms, worst_ms) = (
            median(&gaps_ms),
            gaps_ms.iter().copied().fold(0.0, f64::max),
        );
        let errors = rounds.iter().map(|round| round.errors).sum();
        let changes: u64 = rounds.iter().map(|round| round.terms).sum();
        let is_good = errors == 0
            && match fault {
                Fault::Steady => changes == 0,
                Fault::Restart => worst_ms <= RESTART_MS_MAX,
                _ => median_ms <= MEDIAN_MS_MAX && worst_ms <= WORST_MS_MAX,
            };
        Self {
            fault,
            median_ms,
            worst_ms,
            gaps_ms,
            changes: (fault == Fault::Steady).then_some(changes),
            errors,
            is_good,
            rounds,
        }
    }

    fn text(&self) -> String {
        let values: Vec<String> = self.gaps_ms.iter().map(|ms| format!("{ms:.0}")).collect();
        let allowed = match self.fault {
            Fault::Steady => "no change of a lead".to_owned(),
            Fault::Restart => format!("worst {RESTART_MS_MAX:.0}"),
            _ => format!("median {MEDIAN_MS_MAX:.0}, worst {WORST_MS_MAX:.0}"),
        };
        let changes = self.changes.map_or_else(String::new, |changes| {
            format!(", {changes} changes of a lead")
        });
        format!(
            "{}: longest gap without an answered write, ms: median {:.0}, worst {:.0}{changes}; {} \
             puts failed; allowed: {allowed}: {}\n    all: {}\n\n",
            self.fault.name(),
            self.median_ms,
            self.worst_ms,
            self.errors,
            if self.is_good { "good" } else { "NOT REACHED" },
            values.join(" "),
        )
    }

    /// Whether the figures are within what is allowed.
    pub(crate) fn is_good(&self) -> bool {
        self.is_good
    }
}

/// The middle value; the mean of both for an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    } else {
        at(middle)
    }
}

fn header() -> String {
    format!(
        "{:<10}{:>5}{:>6}{:>8}{:>8}{:>8}{:>8}{:>7}{:>8}{:>8}{:>8}{:>7}\n{:<10}{:>5}{:>6}{:>8}{:>8}{:>8}{:>8}{:>7}{:>8}{:>8}\n",
        "fault",
        "round",
        "node",
        "gap",
        "gap",
        "gap of",
        "longest",
        "terms",
        "whole",
        "spread",
        "puts",
        "errors",
        "",
        "",
        "",
        "ms",
        "after",
        "all",
        "put",
        "",
        "ms",
        "ms",
    )
}

/// Enters namespaces of its own if a fault needs them; does not return then.
///
/// # Errors
/// This user may not make any.
pub(crate) fn prepare(faults: &[Fault]) -> Result<(), FailoverError> {
    if network::is_inside() || !faults.iter().any(|fault| fault.needs_network()) {
        return Ok(());
    }
    if !network::is_allowed() {
        return Err(FailoverError::NotRoot);
    }
    Err(failed("enter a network namespace")(network::enter()))
}

/// Starts a cluster, runs all rounds and prints each.
///
/// # Errors
/// The cluster could not be started, or was not whole again after a fault.
pub(crate) fn run(
    mut options: ClusterOptions,
    workload: &Workload,
    rounds: &Rounds,
) -> Result<Vec<Summary>, FailoverError> {
    let mut undo = Undo::start().map_err(failed("start sh"))?;
    if !options.keep {
        let dir = quoted(&options.dir.display().to_string());
        undo.later(&format!("rm -rf {dir}"))
            .map_err(failed("talk to sh"))?;
    }
    let network = match network::is_inside() {
        true => Some(Network::make().map_err(failed("make network namespaces"))?),
        false => None,
    };
    options.place = match &network {
        Some(network) => Place::Namespaces(network.namespaces()),
        None => Place::Guarded,
    };
    let shards = options.shards;
    let cluster = Cluster::start(options)?;
    let disks = match rounds.faults.contains(&Fault::Stall) {
        true => Some(Disks::make(cluster.dir(), &mut undo).map_err(failed("limit a node's disk"))?),
        false => None,
    };
    let watch = Watch::start(cluster.seeds(), shards);
    let writers = Writers::start(cluster.seeds(), workload, shards, rounds.seed)?;
    let mut bench = Failover {
        cluster,
        network,
        disks,
        watch,
        writers,
        shards,
        hold: rounds.hold,
        steady: rounds.steady,
        random: Random::new(rounds.seed),
        _undo: undo,
    };
    bench.place_all()?;
    bench.wait_whole("after its start")?;
    bench.wait_spread();
    let mut summaries = Vec::new();
    print!("{}", header());
    for fault in &rounds.faults {
        let mut done = Vec::new();
        let count = if *fault == Fault::Steady {
            1
        } else {
            rounds.rounds
        };
        for round in 1..=count {
            for round in bench.round(*fault, round)? {
                print!("{}", round.text());
                done.push(round);
            }
        }
        let summary = Summary::new(*fault, done);
        print!("{}", summary.text());
        summaries.push(summary);
    }
    Ok(summaries)
}

/// A run. Fields are dropped in order: writers and watch before the nodes, the rest at the end.
struct Failover {
    writers: Writers,
    watch: Watch,
    cluster: Cluster,
    network: Option<Network>,
    disks: Option<Disks>,
    shards: u32,
    hold: Duration,
    steady: Duration,
    random: Random,
    _undo: Undo,
}

impl Failover {
    /// One round of a fault; of a restart, one for each node.
    fn round(&mut self, fault: Fault, round: u32) -> Result<Vec<Round>, FailoverError> {
        if fault != Fault::Restart {
            return Ok(vec![self.strike(fault, round, None)?]);
        }
        (0..NODES)
            .map(|node| self.strike(fault, round, Some(node)))
            .collect()
    }

    fn strike(
        &mut self,
        fault: Fault,
        round: u32,
        node: Option<usize>,
    ) -> Result<Round, FailoverError> {
        self.wait_calm();
        let leads = self.watch.leads();
        let leads = leads.ok_or(FailoverError::NotWhole {
            when: "before a fault",
        })?;
        let node = node.unwrap_or_else(|| busiest(&leads));
        let shards = match fault {
            Fault::Steady => (0..self.shards).collect(),
            _ => led_by(&leads, node),
        };
        self.writers.gaps().begin();
        let start = Instant::now();
        self.hurt(fault, node)?;
        self.hold(fault, start)?;
        self.mend(fault, node)?;
        let mended = Instant::now();
        let during = self.writers.gaps().longest_of(&shards, mended);
        self.wait_whole("after a fault")?;
        let whole = Instant::now();
        let spread = self.wait_spread();
        let now = Instant::now();
        let since = |at: Instant| {
            let before = start.saturating_duration_since(at).as_secs_f64();
            (at.saturating_duration_since(start).as_secs_f64() - before) * 1e3
        };
        let elected = shards.iter().filter_map(|shard| {
            let before = leads.get(*shard as usize)?.term;
            let (at, _) = self.watch.elected_after(*shard, before)?;
            Some(since(at))
        });
        let elected_ms = elected.collect();
        let gaps = self.writers.gaps();
        let gap = gaps.longest_of(&shards, now);
        let after = match gap.to > mended && gap.from >= mended || during.ms() < gap.ms() {
            true => gap.ms(),
            false => 0.0,
        };
        let before: u64 = leads.iter().map(|lead| lead.term).sum();
        let terms = self
            .watch
            .terms()
            .map_or(before, |terms| terms.iter().sum());
        Ok(Round {
            fault,
            round,
            node: node + 1,
            shards,
            gap_ms: gap.ms(),
            gap_from_ms: since(gap.from),
            gap_to_ms: since(gap.to),
            gap_after_ms: after,
            all_gap_ms: gaps.longest_of_all(now).ms(),
            put_ms: gaps.longest_put_ms(),
            elected_ms,
            terms: terms.saturating_sub(before),
            whole_ms: whole.saturating_duration_since(mended).as_secs_f64() * 1e3,
            spread_ms: spread.map(|at| at.saturating_duration_since(mended).as_secs_f64() * 1e3),
            puts: gaps.answers(),
            errors: gaps.errors(),
        })
    }

    fn hurt(&mut self, fault: Fault, node: usize) -> Result<(), FailoverError> {
        match fault {
            Fault::Kill => self.cluster.kill(node)?,
            Fault::Stop => self.cluster.signal(node, "STOP")?,
            Fault::Restart => {
                self.cluster.signal(node, "TERM")?;
                self.cluster.wait_until_ended(node)?;
            }
            Fault::Cut => self.cut(node, Dropped::Both)?,
            Fault::Partition => self.cut(node, Dropped::Nodes)?,
            Fault::Deaf => self.cut(node, Dropped::ToIt)?,
            Fault::Stall => self.stall(node, true)?,
            Fault::Steady => {}
        }
        Ok(())
    }

    fn mend(&mut self, fault: Fault, node: usize) -> Result<(), FailoverError> {
        match fault {
            Fault::Kill | Fault::Restart => {
                self.cluster.restart(node)?;
                self.place(node)?;
            }
            Fault::Stop => self.cluster.signal(node, "CONT")?,
            Fault::Cut | Fault::Partition | Fault::Deaf => {
                if let Some(network) = &mut self.network {
                    network.heal().map_err(failed("mend the network"))?;
                }
            }
            Fault::Stall => self.stall(node, false)?,
            Fault::Steady => {}
        }
        Ok(())
    }

    fn hold(&mut self, fault: Fault, start: Instant) -> Result<(), FailoverError> {
        let hold = match fault {
            Fault::Restart => return Ok(()),
            Fault::Steady => self.steady,
            _ => self.hold,
        };
        while start.elapsed() < hold {
            std::thread::sleep(LOOK_EVERY.min(hold.saturating_sub(start.elapsed())));
            if fault == Fault::Steady {
                self.cluster.check()?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, node: usize, dropped: Dropped) -> Result<(), FailoverError> {
        match &mut self.network {
            Some(network) => network
                .cut(node, dropped)
                .map_err(failed("cut the network")),
            None => Err(FailoverError::NotRoot),
        }
    }

    fn stall(&self, node: usize, stalls: bool) -> Result<(), FailoverError> {
        match &self.disks {
            Some(disks) => disks
                .stall(node, stalls)
                .map_err(failed("limit a node's disk")),
            None => Ok(()),
        }
    }

    fn place_all(&self) -> Result<(), FailoverError> {
        (0..NODES).try_for_each(|node| self.place(node))
    }

    /// Puts a node that has just been started into its control group.
    fn place(&self, node: usize) -> Result<(), FailoverError> {
        match (&self.disks, self.cluster.pids().get(node)) {
            (Some(disks), Some(pid)) => {
                let placed = disks.place(node, *pid);
                placed.map_err(failed("put a node into a control group"))
            }
            _ => Ok(()),
        }
    }

    /// Lets the load run for a while of random length, so that faults hit every moment of the beats.
    fn wait_calm(&mut self) {
        let more = CALM.mul_f64(self.random.fraction() / 2.0);
        std::thread::sleep(CALM + more);
    }

    fn wait_whole(&mut self, when: &'static str) -> Result<(), FailoverError> {
        let deadline = Instant::now() + WHOLE_WITHIN;
        while !self.watch.is_healthy() {
            self.cluster.check()?;
            if Instant::now() > deadline {
                return Err(FailoverError::NotWhole { when });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits until the leads are spread evenly. Returns when they were.
    fn wait_spread(&self) -> Option<Instant> {
        let deadline = Instant::now() + SPREAD_WITHIN;
        while Instant::now() < deadline {
            if self.watch.leads().is_some_and(|leads| is_spread(&leads)) {
                return Some(Instant::now());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        None
    }
}

fn led_by(leads: &[Lead], node: usize) -> Vec<u32> {
    let each = (0..).zip(leads);
    each.filter(|(_, lead)| lead.node == node)
        .map(|(shard, _)| shard)
        .collect()
}

/// The node that leads most shards; of several the one that leads the first shard.
fn busiest(leads: &[Lead]) -> usize {
    let mut nodes: Vec<usize> = leads.iter().map(|lead| lead.node).collect();
    let all = nodes.clone();
    let count = |node: usize| all.iter().filter(|other| **other == node).count();
    // Stable: the first of equals stays first.
    nodes.sort_by_key(|node| std::cmp::Reverse(count(*node)));
    nodes.first().copied().unwrap_or(0)
}

/// Whether no node leads two shards more than another.
fn is_spread(leads: &[Lead]) -> bool {
    let count = |node| leads.iter().filter(|lead| lead.node == node).count();
    let counts: Vec<usize> = (0..NODES).map(count).collect();
    let (most, least) = (counts.iter().max(), counts.iter().min());
    most.zip(least)
        .is_some_and(|(most, least)| most - least <= 1)
}

/// The writers. Dropping them stops them.
struct Writers {
    gaps: Arc<Mutex<Gaps>>,
    stop: Arc<AtomicBool>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Writers {
    fn start(
        seeds: &[String],
        workload: &Workload,
        shards: u32,
        seed: u64,
    ) -> Result<Self, FailoverError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(failed("start a thread"))?;
        let connecting = Client::builder()
            .seeds(seeds.iter().cloned())
            .deadline(PUT_DEADLINE)
            .connect_deadline(WHOLE_WITHIN);
        let client = runtime
            .block_on(connecting.connect())
            .map_err(FailoverError::Connect)?;
        let gaps = Arc::new(Mutex::new(Gaps::new(shards, Instant::now())));
        let stop = Arc::new(AtomicBool::new(false));
        let workload = Arc::new(workload.of_kind(crate::workload::WorkloadKind::Put, 0));
        for index in 0..WRITERS {
            let random = Random::new(seed.wrapping_add(index as u64));
            let (gaps, stop) = (Arc::clone(&gaps), Arc::clone(&stop));
            let (client, workload) = (client.clone(), Arc::clone(&workload));
            runtime.spawn(write(client, workload, random, gaps, stop));
        }
        Ok(Self {
            gaps,
            stop,
            runtime: Some(runtime),
        })
    }

    fn gaps(&self) -> MutexGuard<'_, Gaps> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// One writer.
async fn write(
    client: Client,
    workload: Arc<Workload>,
    mut random: Random,
    gaps: Arc<Mutex<Gaps>>,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let WorkloadOperation::Put { key, value } = workload.next(&mut random) else {
            return;
        };
        let from = Instant::now();
        let result = client.put(key, value).await;
        let now = Instant::now();
        let noted = |note: &dyn Fn(&mut Gaps)| {
            note(&mut gaps.lock().unwrap_or_else(PoisonError::into_inner));
        };
        match result {
            Ok(written) => noted(&|gaps| gaps.answered(written.shard, from, now)),
            Err(error) => {
                noted(&|gaps| gaps.failed(from, now));
                eprintln!("a put failed: {error}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(nodes: &[usize]) -> Vec<Lead> {
        nodes
            .iter()
            .map(|node| Lead {
                node: *node,
                term: 1,
            })
            .collect()
    }

    #[test]
    fn the_busiest_node_is_hurt_and_leads_are_spread_if_they_differ_by_one() {
        for (nodes, node, shards, spread) in [
            (&[0, 1, 2][..], 0, vec![0], true),
            (&[2, 1, 1], 1, vec![1, 2], false),
            (&[2, 2, 2], 2, vec![0, 1, 2], false),
            (&[1, 0, 2, 0], 0, vec![1, 3], true),
        ] {
            let leads = leads(nodes);
            assert_eq!(busiest(&leads), node, "{nodes:?}");
            assert_eq!(led_by(&leads, node), shards, "{nodes:?}");
            assert_eq!(is_spread(&leads), spread, "{nodes:?}");
        }
    }

    #[test]
    fn a_fault_is_good_if_median_and_worst_are() {
        let round = |fault, gap_ms, terms| Round {
            fault,
            round: 1,
            node: 1,
            shards: vec![0],
            gap_ms,
            gap_from_ms: 0.0,
            gap_to_ms: gap_ms,
            gap_after_ms: 0.0,
            all_gap_ms: gap_ms,
            put_ms: gap_ms,
            elected_ms: Vec::new(),
            terms,
            whole_ms: 0.0,
            spread_ms: None,
            puts: 1,
            errors: 0,
        };
        for (fault, gaps, terms, good) in [
            (Fault::Kill, &[390.0, 350.0, 990.0][..], 1, true),
            (Fault::Kill, &[390.0, 350.0, 1001.0], 1, false),
            (Fault::Stop, &[410.0, 401.0, 200.0], 1, false),
            (Fault::Restart, &[10.0, 51.0], 1, false),
            (Fault::Restart, &[10.0, 49.0], 1, true),
            (Fault::Steady, &[700.0], 0, true),
            (Fault::Steady, &[7.0], 1, false),
        ] {
            let rounds = gaps.iter().map(|gap| round(fault, *gap, terms));
            let summary = Summary::new(fault, rounds.collect());
            assert_eq!(summary.is_good(), good, "{}", summary.text());
        }
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
    }
}
