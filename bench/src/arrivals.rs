//! When the operations of an open loop are due.

use crate::random::Random;
use std::time::{Duration, Instant};

/// Arrival times with exponentially distributed gaps (a Poisson process).
#[derive(Clone, Debug)]
pub struct Arrivals {
    gap_mean: Duration,
    next: Instant,
    random: Random,
}

impl Arrivals {
    /// `rate` arrivals per second on average, the first one at `start`.
    pub fn new(rate: f64, start: Instant, random: Random) -> Self {
        Self {
            gap_mean: Duration::from_secs_f64(1.0 / rate.max(0.001)),
            next: start,
            random,
        }
    }

    /// When the next arrival is due.
    pub fn next_due(&self) -> Instant {
        self.next
    }

    /// Takes the next arrival if it is due at `now`, and returns its due time.
    pub fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next;
        if due > now {
            return None;
        }
        self.next += self.gap_mean.mul_f64(exponential(self.random.fraction()));
        assert!(self.next >= due, "arrivals come in order");
        Some(due)
    }
}

/// Turns a uniform number in [0, 1) into an exponentially distributed one with mean 1.
fn exponential(uniform: f64) -> f64 {
    -(1.0 - uniform).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_asked_for() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(1000.0, start, Random::new(9));
        let until = start + Duration::from_secs(100);
        let mut count = 0_u32;
        while arrivals.take_due(until).is_some() {
            count += 1;
        }
        assert!(arrivals.next_due() > until);
        assert!((f64::from(count) / 100_000.0 - 1.0).abs() < 0.02, "{count}");
    }
}
