//! Latencies and their percentiles.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Longest latency that is distinguished; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Significant decimal digits kept of each latency.
const DIGITS: u8 = 3;

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub struct Latencies {
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
pub struct Percentiles {
    /// Mean.
    pub mean_us: f64,
    /// Half of the operations were at least as fast.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// 99.99 %.
    pub p9999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Latencies {
    /// Counts one operation.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos);
    }

    /// Adds the latencies of another lane.
    pub fn add(&mut self, other: &Self) {
        // All histograms have the same bounds, so nothing is out of range.
        let _ = self.histogram.add(&other.histogram);
    }

    /// Number of operations.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The figures of the report.
    pub fn percentiles(&self) -> Percentiles {
        if self.histogram.is_empty() {
            return Percentiles::default();
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "below LATENCY_MAX, which 53 bits hold"
        )]
        let at = |quantile: f64| self.histogram.value_at_quantile(quantile) as f64 / 1e3;
        assert!(at(0.5) <= at(0.99), "percentiles rise");
        Percentiles {
            mean_us: self.histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extreme_latency_is_kept_at_the_limit() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.count(), 2);
        assert!(latencies.percentiles().max_us >= 599e6);
    }
}
