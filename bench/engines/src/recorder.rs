//! What lanes measured.

use corelith_bench::latencies::Latencies;
use std::time::{Duration, Instant};

/// The two operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Put,
    Get,
}

/// The measured time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
}

/// One operation, kept for a picture of latency over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) op: Op,
    /// When it was due, from the start of the window.
    pub(crate) at: Duration,
    pub(crate) latency: Duration,
}

/// Figures of one kind of operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kind {
    /// Of all that ended after the start of the window, those in flight at its end included.
    pub(crate) latencies: Latencies,
    /// Ended inside the window.
    pub(crate) count: u64,
    /// Bytes of keys and values of those.
    pub(crate) bytes: u64,
    /// Bytes of keys and values of all, outside of the window too.
    pub(crate) bytes_ever: u64,
}

/// What one lane, or all of them, have measured.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    window: Window,
    pub(crate) puts: Kind,
    pub(crate) gets: Kind,
    /// Gets with another outcome than they must have.
    pub(crate) wrong: u64,
    /// Operations that were due and never started, because the engine did not keep up.
    pub(crate) not_started: u64,
    /// Every operation, if asked for.
    pub(crate) samples: Option<Vec<Sample>>,
}

impl Recorder {
    pub(crate) fn new(window: Window, keep_samples: bool) -> Self {
        Self {
            window,
            puts: Kind::default(),
            gets: Kind::default(),
            wrong: 0,
            not_started: 0,
            samples: keep_samples.then(Vec::new),
        }
    }

    /// Counts an operation that was due at `due` and has ended now.
    pub(crate) fn record(&mut self, op: Op, due: Instant, bytes: usize) {
        self.record_latency(op, due);
        self.record_end(op, bytes);
    }

    /// Notes the time from `due` until now.
    pub(crate) fn record_latency(&mut self, op: Op, due: Instant) {
        let now = Instant::now();
        let start = self.window.start;
        if now < start {
            return;
        }
        let latency = now.saturating_duration_since(due);
        self.kind(op).latencies.record(latency);
        if let Some(samples) = &mut self.samples
            && due >= start
        {
            let at = due.saturating_duration_since(start);
            samples.push(Sample { op, at, latency });
        }
    }

    /// Counts an operation that has ended now.
    pub(crate) fn record_end(&mut self, op: Op, bytes: usize) {
        let now = Instant::now();
        let in_window = (self.window.start..self.window.end).contains(&now);
        let kind = self.kind(op);
        kind.bytes_ever += bytes as u64;
        if in_window {
            kind.count += 1;
            kind.bytes += bytes as u64;
        }
    }

    fn kind(&mut self, op: Op) -> &mut Kind {
        match op {
            Op::Put => &mut self.puts,
            Op::Get => &mut self.gets,
        }
    }

    /// Adds what another lane has measured.
    pub(crate) fn merge(&mut self, other: Self) {
        for (mine, others) in [(&mut self.puts, &other.puts), (&mut self.gets, &other.gets)] {
            mine.latencies.add(&others.latencies);
            mine.count += others.count;
            mine.bytes += others.bytes;
            mine.bytes_ever += others.bytes_ever;
        }
        self.wrong += other.wrong;
        self.not_started += other.not_started;
        if let (Some(mine), Some(others)) = (&mut self.samples, other.samples) {
            mine.extend(others);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_outside_of_the_window_is_not_throughput() {
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let cases = [
            // (start, end, counted, in the histogram)
            (now + hour, now + 2 * hour, 0, 0),
            (now - hour, now + hour, 1, 1),
            (now - hour, now, 0, 1),
        ];
        for (start, end, counted, kept) in cases {
            let mut recorder = Recorder::new(Window { start, end }, true);
            recorder.record(Op::Get, now, 10);
            let mut all = Recorder::new(Window { start, end }, true);
            all.merge(recorder);
            assert_eq!(all.gets.count, counted);
            assert_eq!(all.gets.latencies.count(), kept);
            assert_eq!(all.samples.map(|samples| samples.len() as u64), Some(kept));
            assert_eq!(all.gets.bytes_ever, 10);
            assert_eq!(all.puts.latencies.count(), 0);
        }
    }
}
