//! The measurements of a run: latencies per kind of operation, and errors by kind.
//!
//! Each lane owns a recorder behind a lock that only its own thread takes during the run, so recording
//! costs about ten nanoseconds and no cache line moves between processors.

use corelith_bench::latencies::Latencies;
use std::collections::BTreeMap;

/// The measurements of one lane or of a whole run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    /// Writes that succeeded.
    pub(crate) puts: Latencies,
    /// Reads that succeeded.
    pub(crate) gets: Latencies,
    /// Open loop: actual minus intended start of an operation.
    pub(crate) start_lag: Latencies,
    /// Writes that completed inside the measured window, for the throughput. The histograms also hold
    /// operations that were in flight at its end.
    pub(crate) puts_in_window: u64,
    /// Reads that completed inside the measured window.
    pub(crate) gets_in_window: u64,
    /// Failed operations by kind of error.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Open loop: operations due inside the window that never started, because all loops were busy.
    pub(crate) not_started: u64,
}

impl Recorder {
    /// Adds the measurements of another lane.
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
