//! What a run measured: latencies per kind of operation, and errors by kind.
//!
//! Each lane owns one behind a lock that only its own thread takes while the run lasts, so recording costs
//! some ten nanoseconds and no cache line travels.

use corelith_bench::latencies::Latencies;
use std::collections::BTreeMap;

/// What one lane, or a whole run, has measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    /// Writes that succeeded.
    pub(crate) puts: Latencies,
    /// Reads that succeeded.
    pub(crate) gets: Latencies,
    /// Open loop: how long after its intended start an operation was really started.
    pub(crate) start_lag: Latencies,
    /// Operations that completed inside the measured window, for the throughput; the histograms also hold
    /// those that were in flight at its end.
    pub(crate) puts_in_window: u64,
    /// As above, reads.
    pub(crate) gets_in_window: u64,
    /// Failed operations by kind of error.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Open loop: operations that were due inside the window and never started, because all loops were busy.
    pub(crate) not_started: u64,
}

impl Recorder {
    /// Adds what another lane has measured.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.puts.add(&other.puts);
        self.gets.add(&other.gets);
        self.start_lag.add(&other.start_lag);
        self.puts_in_window += other.puts_in_window;
        self.gets_in_window += other.gets_in_window;
        self.not_started += other.not_started;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn percentiles_of_merged_lanes_are_those_of_all_operations() {
        let (mut even, mut odd) = (Recorder::default(), Recorder::default());
        for micros in 1..=1000_u64 {
            let lane = if micros % 2 == 0 { &mut even } else { &mut odd };
            lane.puts.record(Duration::from_micros(micros));
        }
        even.errors.insert("throttled", 2);
        odd.errors.insert("throttled", 3);
        even.merge(&odd);
        let figures = even.puts.percentiles();
        assert_eq!(even.puts.count(), 1000);
        assert!((figures.p50_us - 500.0).abs() < 1.0, "{figures:?}");
        assert!((figures.p99_us - 990.0).abs() < 1.0, "{figures:?}");
        assert!((figures.max_us - 1000.0).abs() < 1.0, "{figures:?}");
        assert_eq!(even.errors.get("throttled"), Some(&5));
    }
}
