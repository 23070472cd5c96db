//! How long writes wait when a leader is gone: faults in a started cluster under load, round after round.
//!
//! A round hurts the node that leads most shards, while writers put random keys as fast as they are answered, and
//! mends it again. Its figure is the longest time between two answered writes of a shard that this node led.

mod disk;
mod fault;
mod figures;
mod gaps;
mod lateness;
mod network;
mod undo;
mod watch;
mod writers;

use self::disk::Disks;
pub(crate) use self::fault::Fault;
pub(crate) use self::figures::FaultSummary;
use self::figures::{Round, header};
use self::lateness::Lateness;
use self::network::Dropped;
pub(crate) use self::network::Network;
pub(crate) use self::undo::{Undo, quoted};
use self::watch::Lead;
pub(crate) use self::watch::LeadWatch;
use self::writers::FailoverWriters;
use crate::cluster::{Cluster, ClusterError, ClusterOptions, NODES, Place};
use crate::workload::Workload;
use corelith_bench::random::Random;
use std::time::{Duration, Instant};

/// Time for the cluster to be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// Time for the leads to spread over the nodes again, once it is whole. After that the next round begins anyway.
const SPREAD_WITHIN: Duration = Duration::from_secs(20);
/// Pause between two looks at the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Load before a fault; up to half as much again is added at random.
const CALM: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct FaultRounds {
    /// Faults, in this order.
    pub(crate) faults: Vec<Fault>,
    /// FaultRounds of each fault.
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

/// Enters namespaces of its own if a fault needs them; does not return then.
///
/// # Errors
/// This user may not make any.
pub(crate) fn prepare(faults: &[Fault]) -> Result<(), FailoverError> {
    if network::is_inside() || !faults.iter().any(|fault| fault.needs_network()) {
        return Ok(());
    }
    match enter_if_allowed() {
        Ok(()) => Err(FailoverError::NotRoot),
        Err(error) => Err(error),
    }
}

/// Enters namespaces of its own if this user may, and is not in some; does not return then.
///
/// # Errors
/// They could not be entered.
pub(crate) fn enter_if_allowed() -> Result<(), FailoverError> {
    match network::is_inside() || !network::is_allowed() {
        true => Ok(()),
        false => Err(failed("enter a network namespace")(network::enter())),
    }
}

/// Starts a cluster, runs all rounds and prints each.
///
/// # Errors
/// The cluster could not be started, or was not whole again after a fault.
pub(crate) fn run(
    mut options: ClusterOptions,
    workload: &Workload,
    rounds: &FaultRounds,
) -> Result<Vec<FaultSummary>, FailoverError> {
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
    let shards = options.shards;
    let cluster = Cluster::start(options)?;
    let disks = match rounds.faults.contains(&Fault::Stall) {
        true => Some(Disks::make(cluster.dir(), &mut undo).map_err(failed("limit a node's disk"))?),
        false => None,
    };
    let watch = LeadWatch::start(cluster.seeds(), shards);
    let writers = FailoverWriters::start(cluster.seeds(), workload, shards, rounds.seed)?;
    let mut bench = Failover {
        cluster,
        network,
        disks,
        watch,
        writers,
        lateness: Lateness::watch(),
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
        let summary = FaultSummary::new(*fault, done);
        print!("{}", summary.text());
        summaries.push(summary);
    }
    Ok(summaries)
}

/// A run. Fields are dropped in order: writers and watch before the nodes, the rest at the end.
struct Failover {
    writers: FailoverWriters,
    watch: LeadWatch,
    cluster: Cluster,
    network: Option<Network>,
    disks: Option<Disks>,
    lateness: Lateness,
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
        self.lateness.take_ms();
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
            late_ms: self.lateness.take_ms(),
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
}
