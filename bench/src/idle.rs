//! What shards cost while nothing happens: CPU time, wakes and memory of each node of a cluster of many shards, beside
//! a cluster of few.

use crate::cluster::{Cluster, ClusterError, ClusterOptions, NODES};
use crate::failover::LeadWatch;
use corelith_bench::usage::{Usage, switches, wait_until_settled};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Shards of the cluster to compare with.
const FEW_SHARDS: u32 = 3;
/// Time for all shards to have a leader.
const READY_WITHIN: Duration = Duration::from_secs(900);
/// Interval at which the cluster is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Time between readiness and the measurement: leads spread and logs prove their ends meanwhile.
const CALM: Duration = Duration::from_secs(10);
/// A node may take this much of a core, in percent.
const CPU_PERCENT_MAX: f64 = 2.0;

/// Why the nodes could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdleError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("not all shards had leaders within {} s", READY_WITHIN.as_secs())]
    NotReady,
}

/// What one idle node costs.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct NodeFigures {
    /// Its number.
    pub(crate) node: usize,
    /// User and system time, in percent of a core.
    pub(crate) cpu_percent: f64,
    /// How often its threads woke, per second.
    pub(crate) wakes_per_second: f64,
    /// Bytes sent to the block layer per second.
    pub(crate) written_per_second: f64,
    /// Resident memory at the end.
    pub(crate) resident_bytes: u64,
}

/// What a cluster costs while it is idle.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct IdleFigures {
    /// Its shards.
    pub(crate) shards: u32,
    /// From the start of empty nodes until all shards have leaders that all nodes know, in seconds.
    pub(crate) formed_s: f64,
    /// From SIGTERM to all nodes until the last one has ended, in seconds.
    pub(crate) stopped_s: f64,
    /// As `formed_s`, with the data of before.
    pub(crate) started_s: f64,
    /// Its nodes.
    pub(crate) nodes: Vec<NodeFigures>,
    /// Resident memory of a shard's replica: what a node has beyond one with few shards, by the shards it has
    /// more.
    pub(crate) resident_per_shard: Option<u64>,
}

impl IdleFigures {
    /// Whether no node takes more than it may.
    pub(crate) fn is_good(&self) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.all(|node| node.cpu_percent < CPU_PERCENT_MAX)
    }

    fn resident_mean(&self) -> u64 {
        let sum: u64 = self.nodes.iter().map(|node| node.resident_bytes).sum();
        sum / NODES as u64
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let per_shard = self.resident_per_shard.map(|bytes| bytes >> 10);
            let _ = writeln!(
                text,
                "{:>7}{:>6}{:>8.2}{:>10.0}{:>10.0}{:>10.1}{:>11}{:>10.1}{:>9.1}{:>10.1}",
                self.shards,
                node.node,
                node.cpu_percent,
                node.wakes_per_second,
                node.written_per_second,
                node.resident_bytes as f64 / f64::from(1 << 20),
                per_shard.map_or_else(|| "-".to_owned(), |kib| kib.to_string()),
                self.formed_s,
                self.stopped_s,
                self.started_s,
            );
        }
        text
    }
}

/// The head of the table.
pub(crate) fn header() -> String {
    let row = |words: [&str; 10]| {
        let [a, b, c, d, e, f, g, h, i, j] = words;
        format!("{a:>7}{b:>6}{c:>8}{d:>10}{e:>10}{f:>10}{g:>11}{h:>10}{i:>9}{j:>10}\n")
    };
    row([
        "shards",
        "node",
        "CPU",
        "wakes",
        "written",
        "RSS",
        "RSS/shard",
        "formed",
        "stopped",
        "started",
    ]) + &row(["", "", "% core", "1/s", "B/s", "MiB", "KiB", "s", "s", "s"])
}

/// Measures a cluster of few shards and then one of the shards in `options`, each for `duration`; prints each.
///
/// # Errors
/// A cluster could not be started, or did not become ready.
pub(crate) fn run(
    options: &ClusterOptions,
    duration: Duration,
) -> Result<Vec<IdleFigures>, IdleError> {
    print!("{}", header());
    let few = measure(options, FEW_SHARDS, duration)?;
    print!("{}", few.text());
    let mut many = measure(options, options.shards, duration)?;
    let more = u64::from(many.shards.saturating_sub(few.shards));
    let bytes = many.resident_mean().saturating_sub(few.resident_mean());
    many.resident_per_shard = bytes.checked_div(more);
    print!("{}", many.text());
    Ok(vec![few, many])
}

fn measure(
    options: &ClusterOptions,
    shards: u32,
    duration: Duration,
) -> Result<IdleFigures, IdleError> {
    let options = ClusterOptions {
        shards,
        dir: options.dir.join(format!("of-{shards}")),
        ..options.clone()
    };
    let begun = Instant::now();
    let mut cluster = Cluster::start(options)?;
    let watch = wait_until_ready(&mut cluster, shards, begun)?;
    let formed_s = begun.elapsed().as_secs_f64();
    drop(watch);
    wait_until_settled(&cluster.pids());
    std::thread::sleep(CALM);
    let nodes = watch_idle(&cluster.pids(), duration);
    let begun = Instant::now();
    for index in 0..NODES {
        cluster.signal(index, "TERM")?;
    }
    for index in 0..NODES {
        cluster.wait_until_ended(index)?;
    }
    let stopped_s = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for index in 0..NODES {
        cluster.restart(index)?;
    }
    let watch = wait_until_ready(&mut cluster, shards, begun)?;
    let started_s = begun.elapsed().as_secs_f64();
    drop(watch);
    Ok(IdleFigures {
        shards,
        formed_s,
        stopped_s,
        started_s,
        nodes,
        resident_per_shard: None,
    })
}

/// Waits until all nodes agree on the leaders of all shards, counted from `begun`. Returns who watches them.
pub(crate) fn wait_until_ready(
    cluster: &mut Cluster,
    shards: u32,
    begun: Instant,
) -> Result<LeadWatch, IdleError> {
    let watch = LeadWatch::start(cluster.seeds(), shards);
    while !watch.is_healthy() {
        cluster.check()?;
        if begun.elapsed() > READY_WITHIN {
            return Err(IdleError::NotReady);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(watch)
}

fn watch_idle(pids: &[u32], duration: Duration) -> Vec<NodeFigures> {
    let look = || -> Vec<(Usage, u64)> {
        let pids = pids.iter();
        pids.map(|pid| (Usage::of_all(&[*pid]), switches(*pid)))
            .collect()
    };
    let (begun, before) = (Instant::now(), look());
    std::thread::sleep(duration);
    let (seconds, after) = (begun.elapsed().as_secs_f64(), look());
    let both = (1..).zip(before.into_iter().zip(after));
    let figures = both.map(|(node, ((before, woken_before), (after, woken)))| {
        let used = after.since(&before);
        NodeFigures {
            node,
            cpu_percent: used.cpu_seconds / seconds * 100.0,
            wakes_per_second: woken.saturating_sub(woken_before) as f64 / seconds,
            written_per_second: used.written_bytes as f64 / seconds,
            resident_bytes: used.resident_bytes,
        }
    });
    figures.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_good_if_no_node_takes_too_much() {
        let node = |cpu_percent| NodeFigures {
            node: 1,
            cpu_percent,
            wakes_per_second: 100.0,
            written_per_second: 0.0,
            resident_bytes: 1 << 20,
        };
        let of = |nodes| IdleFigures {
            shards: 10,
            formed_s: 1.0,
            stopped_s: 1.0,
            started_s: 1.0,
            nodes,
            resident_per_shard: Some(1 << 10),
        };
        assert!(of(vec![node(1.9), node(0.1)]).is_good());
        assert!(!of(vec![node(0.1), node(2.0)]).is_good());
        let width = |text: &str| text.lines().next().map(str::len);
        assert_eq!(width(&of(vec![node(1.0)]).text()), width(&header()));
    }
}
