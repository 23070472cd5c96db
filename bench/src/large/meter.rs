//! What nodes and client use while something is measured.

use corelith_bench::usage::{Usage, forget_peak, wait_until_settled};
use std::time::{Duration, Instant};

/// See the module.
pub(super) struct UsageMeter {
    pids: Vec<u32>,
    /// Resident before anything large was moved.
    idle: Vec<u64>,
    client_idle: u64,
}

/// The begin of a measurement.
pub(super) struct Metering {
    at: Instant,
    nodes: Vec<Usage>,
    client: Usage,
}

/// What was used.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    pub(super) nodes: Vec<Used>,
    pub(super) client: Used,
}

/// What one process used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) cpu_seconds: f64,
    pub(super) written_bytes: u64,
    pub(super) read_bytes: u64,
    /// The peak of its resident memory, less what it had when nothing large had been moved.
    pub(super) peak_over_idle_bytes: u64,
}

impl Used {
    fn new(now: &Usage, before: &Usage, idle: u64) -> Self {
        let used = now.since(before);
        Self {
            cpu_seconds: used.cpu_seconds,
            written_bytes: used.written_bytes,
            read_bytes: used.read_bytes,
            peak_over_idle_bytes: used.peak_resident_bytes.saturating_sub(idle),
        }
    }
}

impl UsageMeter {
    /// Of nodes with these processes, which are idle now.
    pub(super) fn new(pids: &[u32]) -> Self {
        let usage = each(pids);
        Self {
            pids: pids.to_vec(),
            idle: usage.iter().map(|usage| usage.resident_bytes).collect(),
            client_idle: Usage::of_self().resident_bytes,
        }
    }

    pub(super) fn begin(&self) -> Metering {
        for pid in &self.pids {
            // Where it may not be forgotten, the peak is that since the process began.
            forget_peak(&pid.to_string());
        }
        forget_peak("self");
        Metering {
            nodes: each(&self.pids),
            client: Usage::of_self(),
            at: Instant::now(),
        }
    }

    pub(super) fn end(&self, begun: Metering) -> Measured {
        let elapsed = begun.at.elapsed();
        self.end_after(begun, elapsed)
    }

    /// The same of something that took so long.
    pub(super) fn end_after(&self, begun: Metering, elapsed: Duration) -> Measured {
        let client = Used::new(&Usage::of_self(), &begun.client, self.client_idle);
        let now = each(&self.pids);
        let nodes = now.iter().zip(&begun.nodes).zip(&self.idle);
        let nodes = nodes.map(|((now, before), idle)| Used::new(now, before, *idle));
        Measured {
            elapsed,
            nodes: nodes.collect(),
            client,
        }
    }

    /// The same, with all that the nodes write because of it, also later.
    pub(super) fn end_settled(&self, begun: Metering) -> Measured {
        let before: Vec<u64> = begun
            .nodes
            .iter()
            .map(|usage| usage.written_bytes)
            .collect();
        let mut measured = self.end(begun);
        wait_until_settled(&self.pids);
        let now = each(&self.pids);
        for ((used, now), before) in measured.nodes.iter_mut().zip(now).zip(before) {
            used.written_bytes = now.written_bytes.saturating_sub(before);
        }
        measured
    }
}

fn each(pids: &[u32]) -> Vec<Usage> {
    pids.iter().map(|pid| Usage::of_all(&[*pid])).collect()
}
