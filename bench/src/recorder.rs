//! What a run measured: latencies per kind of operation, and errors by kind.
//!
//! Each lane owns one behind a lock that only its own thread takes while the run lasts, so recording costs
//! some ten nanoseconds and no cache line travels.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies from one microsecond up to here are told apart; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Three decimal digits of each latency are kept.
const DIGITS: u8 = 3;

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// In nanoseconds.
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        let max = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
        #[expect(
            clippy::expect_used,
            reason = "constant bounds: low >= 1, high >= 2 * low, digits <= 5"
        )]
        let histogram = Histogram::new_with_bounds(1_000, max, DIGITS).expect("constant bounds");
        Self { histogram }
    }
}

/// Figures of one kind of operation, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Percentiles {
    /// Mean.
    pub(crate) mean_us: f64,
    /// Half of the operations were at least as fast.
    pub(crate) p50_us: f64,
    /// 90 %.
    pub(crate) p90_us: f64,
    /// 99 %.
    pub(crate) p99_us: f64,
    /// 99.9 %.
    pub(crate) p999_us: f64,
    /// The slowest.
    pub(crate) max_us: f64,
}

impl Latencies {
    /// Counts one operation.
    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos);
    }

    fn add(&mut self, other: &Self) {
        // The bounds are the same everywhere, so nothing is out of range.
        let _ = self.histogram.add(&other.histogram);
    }

    /// Number of operations.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The figures of the report.
    pub(crate) fn percentiles(&self) -> Percentiles {
        if self.histogram.is_empty() {
            return Percentiles::default();
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "below LATENCY_MAX, which 53 bits hold"
        )]
        let at = |quantile: f64| self.histogram.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles {
            mean_us: self.histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: at(1.0),
        }
    }
}

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

    #[test]
    fn an_extreme_latency_is_kept_at_the_limit() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.count(), 2);
        assert!(latencies.percentiles().max_us >= 599e6);
    }
}
