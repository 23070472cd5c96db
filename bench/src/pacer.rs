//! Hands the operations of an open loop to the loops when they are due.

use corelith_bench::arrivals::Arrivals;
use corelith_bench::random::Random;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Shortest sleep of the pacer's thread. It bounds the thread's CPU use and its lateness; the lateness is
/// part of every latency and is reported as the start lag.
const SLEEP_MIN: Duration = Duration::from_micros(50);

/// Arrival times, handed to the loops as they become due. Shared between the pacer's thread and one lane.
pub(crate) struct Pacer {
    rate: f64,
    /// Operations due and not yet taken; at most the rate times the length of the run.
    due: Mutex<VecDeque<Instant>>,
    ready: Semaphore,
}

impl Pacer {
    /// A pacer of `rate` operations a second.
    pub(crate) fn new(rate: f64) -> Self {
        Self {
            rate,
            due: Mutex::default(),
            ready: Semaphore::new(0),
        }
    }

    /// Releases operations until `done`. Runs on its own thread.
    pub(crate) fn run(&self, random: Random, done: impl Fn() -> bool) {
        let mut arrivals = Arrivals::new(self.rate, Instant::now(), random);
        while !done() {
            let now = Instant::now();
            let mut released = 0;
            while let Some(due) = arrivals.take_due(now) {
                self.lock().push_back(due);
                released += 1;
            }
            self.ready.add_permits(released);
            let wait = arrivals
                .next_due()
                .saturating_duration_since(Instant::now());
            // Wakes often enough to see that the run is over.
            std::thread::sleep(wait.clamp(SLEEP_MIN, Duration::from_millis(100)));
        }
        self.ready.close();
    }

    /// Waits for an operation that is due and returns its intended start, or `None` when the run is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        self.ready.acquire().await.ok()?.forget();
        let due = self.lock().pop_front();
        assert!(due.is_some(), "a permit is an operation that is due");
        due
    }

    /// Operations that were due at or after `start` and never taken.
    pub(crate) fn not_started(&self, start: Instant) -> u64 {
        self.lock().iter().filter(|due| **due >= start).count() as u64
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn operations_that_nobody_took_are_counted() {
        let pacer = Pacer::new(1e6);
        let start = Instant::now();
        let rounds = std::cell::Cell::new(0);
        pacer.run(Random::new(1), || {
            rounds.set(rounds.get() + 1);
            rounds.get() > 3
        });
        assert!(pacer.not_started(start) > 0);
        assert_eq!(pacer.next().await, None, "the run is over");
    }
}
