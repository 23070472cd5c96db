//! The report: the printed table, and the JSON file.

use crate::abuse;
use crate::driver::RunOutcome;
use crate::failover;
use crate::idle;
use crate::large;
use crate::rebuild;
use crate::way;
use crate::workload::{Distribution, ReadSource, WorkloadKind};
use corelith_bench::latencies::{Latencies, Percentiles};
use corelith_bench::usage::Machine;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The whole report of one invocation.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    /// The machine that it ran on.
    pub(crate) machine: Machine,
    /// Version of the harness.
    pub(crate) version: &'static str,
    /// The parameters.
    pub(crate) load: Load,
    /// One for each workload and number in flight.
    pub(crate) runs: Vec<RunFigures>,
    /// One for each abuse.
    pub(crate) abuses: Vec<abuse::Row>,
    /// One for each fault.
    pub(crate) failovers: Vec<failover::FaultSummary>,
    /// Of a cluster of few shards and one of many.
    pub(crate) idle: Vec<idle::IdleFigures>,
    /// Of a node that lost its data.
    pub(crate) rebuild: Option<rebuild::RebuildFigures>,
    /// Of large values.
    pub(crate) large: Option<large::LargeFigures>,
    /// Of lone operations.
    pub(crate) ways: Vec<way::WayFigures>,
}

impl Report {
    /// One without figures.
    pub(crate) fn new(machine: Machine, load: Load) -> Self {
        Self {
            machine,
            version: env!("CARGO_PKG_VERSION"),
            load,
            runs: Vec::new(),
            abuses: Vec::new(),
            failovers: Vec::new(),
            idle: Vec::new(),
            rebuild: None,
            large: None,
            ways: Vec::new(),
        }
    }
}

/// The parameters that all runs share.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Load {
    /// Number of keys.
    pub(crate) keys: u64,
    /// Bytes of a key.
    pub(crate) key_size: u64,
    /// Bytes of a value.
    pub(crate) value_size: usize,
    /// How keys are chosen.
    pub(crate) distribution: Distribution,
    /// Percentage of reads in mixed runs.
    pub(crate) read_percent: u8,
    /// Replicas that gets ask.
    pub(crate) read_from: ReadSource,
    /// Operations per second of an open loop.
    pub(crate) rate: Option<f64>,
    /// Threads of the driver.
    pub(crate) threads: u64,
    /// SDK clients of each thread.
    pub(crate) clients: u64,
    /// Shape of the cluster, if this run started it.
    pub(crate) cluster: Option<StartedCluster>,
}

/// Shape of the cluster that was started.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct StartedCluster {
    /// Number of shards.
    pub(crate) shards: u32,
    /// Cores of each node.
    pub(crate) cores: u16,
}

/// The figures of one run.
#[derive(Debug, serde::Serialize)]
pub(crate) struct RunFigures {
    workload: WorkloadKind,
    in_flight: u64,
    seconds: f64,
    operations: u64,
    operations_per_second: f64,
    put: Option<Percentiles>,
    get: Option<Percentiles>,
    /// Open loop: actual minus intended start.
    start_lag: Option<Percentiles>,
    not_started: u64,
    client_cpu_us_per_operation: Option<f64>,
    server_cpu_us_per_operation: Option<f64>,
    /// Of each server: its CPU time over all operations, whoever answered them.
    each_server_cpu_us_per_operation: Vec<f64>,
    server_written_bytes_per_operation: Option<f64>,
    server_resident_mib: Option<f64>,
    errors: BTreeMap<&'static str, u64>,
}

impl RunFigures {
    /// The figures of `outcome`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of a run are far below 2^53"
    )]
    pub(crate) fn new(
        workload: WorkloadKind,
        in_flight: u64,
        servers_known: bool,
        outcome: RunOutcome,
    ) -> Self {
        let recorder = outcome.recorder;
        let operations = recorder.puts_in_window + recorder.gets_in_window;
        let seconds = outcome.window.as_secs_f64();
        let each = |sum: f64| (operations > 0).then(|| sum / operations as f64);
        let of_servers = |sum: f64| each(sum).filter(|_| servers_known);
        let figures =
            |latencies: &Latencies| (latencies.count() > 0).then(|| latencies.percentiles());
        Self {
            workload,
            in_flight,
            seconds,
            operations,
            operations_per_second: operations as f64 / seconds,
            put: figures(&recorder.puts),
            get: figures(&recorder.gets),
            start_lag: figures(&recorder.start_lag),
            not_started: recorder.not_started,
            client_cpu_us_per_operation: each(outcome.client.cpu_seconds * 1e6),
            server_cpu_us_per_operation: of_servers(outcome.servers.cpu_seconds * 1e6),
            each_server_cpu_us_per_operation: outcome
                .servers_cpu_seconds
                .iter()
                .filter_map(|seconds| of_servers(seconds * 1e6))
                .collect(),
            server_written_bytes_per_operation: of_servers(outcome.servers.written_bytes as f64),
            server_resident_mib: servers_known
                .then(|| outcome.servers.resident_bytes as f64 / f64::from(1 << 20)),
            errors: recorder.errors,
        }
    }

    /// Whether any operation failed.
    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The rows of the table: one, or in a mixed run one for each kind of operation.
    pub(crate) fn rows(&self) -> String {
        let mut text = String::new();
        let kinds = [("put", &self.put), ("get", &self.get)];
        let mut first = true;
        for (kind, figures) in kinds {
            let Some(figures) = figures else { continue };
            let name = match self.workload {
                WorkloadKind::Mixed => format!("mixed {kind}"),
                _ => kind.to_owned(),
            };
            let rate = if first {
                format!("{:.0}", self.operations_per_second)
            } else {
                "\"".to_owned()
            };
            let _ = write!(text, "{name:<10}{:>9}{rate:>10}", self.in_flight);
            for micros in [
                figures.p50_us,
                figures.p90_us,
                figures.p99_us,
                figures.p999_us,
                figures.max_us,
            ] {
                let _ = write!(text, "{:>9.3}", micros / 1e3);
            }
            for micros in [
                self.client_cpu_us_per_operation,
                self.server_cpu_us_per_operation,
            ] {
                let shown = micros.filter(|_| first);
                let _ = write!(
                    text,
                    "{:>9}",
                    shown.map_or("-".to_owned(), |v| format!("{v:.1}"))
                );
            }
            let errors: u64 = self.errors.values().sum();
            let _ = writeln!(text, "{errors:>8}");
            first = false;
        }
        if first {
            let _ = writeln!(
                text,
                "{:?} {}: no operation succeeded",
                self.workload, self.in_flight
            );
        }
        self.remarks(&mut text);
        text
    }

    fn remarks(&self, text: &mut String) {
        for (kind, count) in &self.errors {
            let _ = writeln!(text, "    {count} operations failed: {kind}");
        }
        if self.get.is_some() && !self.each_server_cpu_us_per_operation.is_empty() {
            let each = self.each_server_cpu_us_per_operation.iter();
            let each: Vec<String> = each.map(|micros| format!("{micros:.2}")).collect();
            let _ = writeln!(text, "    us CPU of each node: {}", each.join(", "));
        }
        if let Some(lag) = &self.start_lag {
            let _ = writeln!(
                text,
                "    started late by p50 {:.3} ms, p99 {:.3} ms (part of the latencies); {} due but never started",
                lag.p50_us / 1e3,
                lag.p99_us / 1e3,
                self.not_started
            );
        }
    }
}

/// The head of the table.
pub(crate) fn header() -> String {
    format!(
        "{:<10}{:>9}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}\n{:<10}{:>9}{:>10}{:>45}{:>9}{:>9}\n",
        "workload",
        "in flight",
        "ops/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "client",
        "servers",
        "errors",
        "",
        "",
        "",
        "ms",
        "us CPU",
        "us CPU"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Recorder;
    use corelith_bench::usage::Usage;
    use std::time::Duration;

    fn outcome() -> RunOutcome {
        let mut recorder = Recorder::default();
        for _ in 0..100 {
            recorder.puts.record(Duration::from_micros(1500));
            recorder.puts_in_window += 1;
        }
        recorder.errors.insert("throttled", 3);
        let usage = |cpu_seconds| Usage {
            cpu_seconds,
            ..Usage::default()
        };
        RunOutcome {
            recorder,
            window: Duration::from_secs(2),
            client: usage(0.001),
            servers: usage(0.0015),
            servers_cpu_seconds: vec![0.0005; 3],
        }
    }

    #[test]
    fn a_row_lines_up_with_the_head_and_says_what_failed() {
        let run = RunFigures::new(WorkloadKind::Put, 64, true, outcome());
        let rows = run.rows();
        let row = rows.lines().next().unwrap();
        assert_eq!(row.len(), header().lines().next().unwrap().len());
        for part in ["put", "64", "50", "1.5", "10.0", "15.0"] {
            assert!(row.contains(part), "{part} is missing in {row}");
        }
        assert!(rows.contains("3 operations failed: throttled"), "{rows}");
    }

    #[test]
    fn cpu_of_servers_that_are_not_known_is_left_out() {
        let run = RunFigures::new(WorkloadKind::Put, 64, false, outcome());
        assert_eq!(run.server_cpu_us_per_operation, None);
        assert!(run.client_cpu_us_per_operation.is_some());
    }
}
