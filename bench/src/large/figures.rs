//! The figures of large values, and what they may be.

use super::meter::{Measured, Used};
use crate::probe::DiskRates;
use corelith_bench::latencies::Percentiles;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a node, and the client for each stream, may take in memory at most, over what they take idle.
const NODE_BYTES_MAX: u64 = 256 << 20;
const STREAM_BYTES_MAX: u64 = 64 << 20;
/// The p99 of small puts may grow by this factor beside uploads.
const P99_FACTOR: f64 = 3.0;
/// A p99 of fewer puts says nothing.
const OPERATIONS_MIN: u64 = 100;
/// Bytes that a node may write for each byte of a value, ...
const WRITTEN_MAX: f64 = 1.02;
/// ... of values of this length and more: what nodes write besides is the same for short ones.
const WRITTEN_BYTES_MIN: u64 = 256 << 20;
const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

/// What one process used.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct LargeUsage {
    pub(crate) cpu_seconds_per_gib: f64,
    pub(crate) written_per_byte: f64,
    pub(crate) read_per_byte: f64,
    pub(crate) peak_over_idle_bytes: u64,
}

impl LargeUsage {
    fn new(used: &Used, bytes: u64) -> Self {
        let bytes = bytes.max(1) as f64;
        Self {
            cpu_seconds_per_gib: used.cpu_seconds / bytes * GIB,
            written_per_byte: used.written_bytes as f64 / bytes,
            read_per_byte: used.read_bytes as f64 / bytes,
            peak_over_idle_bytes: used.peak_over_idle_bytes,
        }
    }
}

/// The figures of one kind of transfer.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct LargePhase {
    pub(crate) name: &'static str,
    /// Bytes of values that were moved.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) mib_per_second: f64,
    pub(crate) client: LargeUsage,
    /// In the order of the process ids.
    pub(crate) nodes: Vec<LargeUsage>,
    /// Of each range.
    pub(crate) latency: Option<Percentiles>,
}

impl LargePhase {
    pub(super) fn new(name: &'static str, bytes: u64, measured: Measured) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        let nodes = measured.nodes.iter();
        Self {
            name,
            bytes,
            seconds,
            mib_per_second: bytes as f64 / MIB / seconds,
            client: LargeUsage::new(&measured.client, bytes),
            nodes: nodes.map(|used| LargeUsage::new(used, bytes)).collect(),
            latency: None,
        }
    }

    /// The row of the table.
    pub(super) fn row(&self) -> String {
        let each = |of: &dyn Fn(&LargeUsage) -> String| {
            let each: Vec<String> = self.nodes.iter().map(of).collect();
            match each.is_empty() {
                true => "-".to_owned(),
                false => each.join("/"),
            }
        };
        let mut row = format!(
            "{:<13}{:>9.1}{:>9.1}{:>8.2}{:>17}{:>9}{:>14}{:>20}{:>20}",
            self.name,
            self.seconds,
            self.mib_per_second,
            self.client.cpu_seconds_per_gib,
            each(&|node| format!("{:.2}", node.cpu_seconds_per_gib)),
            self.client.peak_over_idle_bytes >> 20,
            each(&|node| format!("{}", node.peak_over_idle_bytes >> 20)),
            each(&|node| format!("{:.3}", node.written_per_byte)),
            each(&|node| format!("{:.3}", node.read_per_byte)),
        );
        if let Some(latency) = &self.latency {
            let (p50, p99) = (latency.p50_us / 1e3, latency.p99_us / 1e3);
            let _ = write!(row, "  p50 {p50:.2} ms, p99 {p99:.2} ms");
        }
        row.push('\n');
        row
    }
}

/// The head of the table.
pub(super) fn header() -> String {
    format!(
        "{:<13}{:>9}{:>9}{:>8}{:>17}{:>9}{:>14}{:>20}{:>20}\n{:<13}{:>9}{:>9}{:>25}{:>23}{:>40}\n",
        "",
        "seconds",
        "MiB/s",
        "client",
        "nodes",
        "client",
        "nodes",
        "written",
        "read",
        "",
        "",
        "",
        "CPU s/GiB",
        "peak MiB over idle",
        "by nodes, per byte"
    )
}

/// Small puts.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct SmallPuts {
    pub(crate) latency: Percentiles,
    pub(crate) operations: u64,
    pub(crate) not_started: u64,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

/// Small puts alone and beside uploads.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct BesideFigures {
    /// Puts per second that were due.
    pub(crate) rate: f64,
    /// The uploads.
    pub(crate) uploads: LargePhase,
    pub(crate) alone: SmallPuts,
    pub(crate) during: SmallPuts,
    /// Whether no shard had another leader.
    pub(crate) leads_stayed: bool,
}

impl BesideFigures {
    fn p99_factor(&self) -> f64 {
        self.during.latency.p99_us / self.alone.latency.p99_us.max(1.0)
    }
}

/// The figures of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct LargeFigures {
    /// Bytes of each value.
    pub(crate) bytes: u64,
    /// Values that were moved at once.
    pub(crate) streams: usize,
    /// What the disk of the nodes gives one who has it alone.
    pub(crate) disk: Option<DiskRates>,
    /// Shards that each node leads, in the order of `nodes`.
    pub(crate) leads: Vec<usize>,
    pub(crate) phases: Vec<LargePhase>,
    pub(crate) beside: BesideFigures,
}

impl LargeFigures {
    fn verdicts(&self) -> [(bool, &'static str); 6] {
        let beside = &self.beside;
        let mut nodes = self.phases.iter().flat_map(|phase| &phase.nodes);
        let mut all_nodes = nodes.clone().chain(&beside.uploads.nodes);
        let stream_bytes = STREAM_BYTES_MAX * self.streams as u64;
        let operations = beside.alone.operations.min(beside.during.operations);
        let errors = [&beside.alone.errors, &beside.during.errors];
        [
            (
                all_nodes.all(|node| node.peak_over_idle_bytes <= NODE_BYTES_MAX),
                "a node took more than 256 MiB over its idle",
            ),
            (
                self.phases
                    .iter()
                    .all(|phase| phase.client.peak_over_idle_bytes <= stream_bytes),
                "the client took more than 64 MiB for each stream",
            ),
            (
                self.bytes < WRITTEN_BYTES_MIN
                    || nodes.all(|node| node.written_per_byte <= WRITTEN_MAX),
                "a node wrote more than 1.02 bytes for each byte",
            ),
            (operations >= OPERATIONS_MIN, "too few small puts for a p99"),
            (
                beside.p99_factor() <= P99_FACTOR && errors.iter().all(|errors| errors.is_empty()),
                "small puts suffer: p99 more than three times that alone, or errors",
            ),
            (beside.leads_stayed, "a shard had another leader"),
        ]
    }

    /// Whether all is as it may be.
    pub(crate) fn is_good(&self) -> bool {
        self.verdicts().iter().all(|(is_good, _)| *is_good)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Some(disk) = &self.disk {
            let (write, read) = (disk.write / MIB, disk.read / MIB);
            let _ = write!(
                text,
                "one sequential writer {write:.0} MiB/s, one reader {read:.0} MiB/s"
            );
            let upload = self.phases.first().filter(|phase| !phase.nodes.is_empty());
            if let Some(upload) = upload {
                let written: f64 = upload.nodes.iter().map(|node| node.written_per_byte).sum();
                let _ = write!(
                    text,
                    "; the upload wrote {written:.3} bytes for each byte in all, {:.0} % of the writer's rate",
                    100.0 * upload.mib_per_second * written / write
                );
            }
            text.push('\n');
        }
        if !self.leads.is_empty() {
            let leads: Vec<String> = self.leads.iter().map(usize::to_string).collect();
            let _ = writeln!(text, "shards that each node leads: {}", leads.join("/"));
        }
        let beside = &self.beside;
        for (name, puts) in [("alone", &beside.alone), ("beside", &beside.during)] {
            let _ = writeln!(
                text,
                "small puts {name:<7} {:.0}/s: p50 {:.2} ms, p99 {:.2} ms, longest {:.1} ms; {} done, {} not started, {} failed",
                beside.rate,
                puts.latency.p50_us / 1e3,
                puts.latency.p99_us / 1e3,
                puts.latency.max_us / 1e3,
                puts.operations,
                puts.not_started,
                puts.errors.values().sum::<u64>(),
            );
        }
        let _ = writeln!(text, "p99 beside over alone: {:.2}", beside.p99_factor());
        for (is_good, what) in self.verdicts() {
            if !is_good {
                let _ = writeln!(text, "NOT GOOD: {what}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
