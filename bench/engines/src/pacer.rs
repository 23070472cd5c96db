//! Releases operations when they are due, from a thread of its own: requests of an open loop come from
//! outside of the engine's threads and cores, as they would from a network.

use corelith_bench::arrivals::Arrivals;
use corelith_io::Sender;
use std::time::{Duration, Instant};

/// A sleep is at least this long, which bounds what the pacer costs and how late it is; lateness is part of
/// every latency, for every engine alike.
const SLEEP_MIN: Duration = Duration::from_micros(50);

/// Sends the due time of each operation until `end`, or until nobody listens.
pub(crate) fn run(mut arrivals: Arrivals, end: Instant, due: &Sender<Instant>) {
    loop {
        let now = Instant::now();
        while let Some(at) = arrivals.take_due(now.min(end)) {
            if due.send_blocking(at).is_err() {
                return;
            }
        }
        if now >= end {
            return;
        }
        let wait = arrivals.next_due().min(end);
        std::thread::sleep(wait.saturating_duration_since(now).max(SLEEP_MIN));
    }
}
