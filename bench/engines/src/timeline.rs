//! Latency over time, and when the engine worked in the background.

use crate::recorder::{Op, Sample};
use crate::subject::Statistics;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Length of a window.
pub(crate) const WINDOW_MS: u64 = 100;

/// Work in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    Flush,
    Compaction,
    Collection,
}

impl Work {
    pub(crate) const ALL: [Self; 3] = [Self::Flush, Self::Compaction, Self::Collection];

    /// How much of it runs, and how much has ended.
    fn of(self, statistics: &Statistics) -> (u64, u64) {
        match self {
            Self::Flush => (statistics.flushes_running, statistics.flushes),
            Self::Compaction => (statistics.compactions_running, statistics.compactions),
            Self::Collection => (statistics.collections_running, statistics.collections),
        }
    }
}

/// A time in which some work was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) work: Work,
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
}

/// Latencies of a window, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

/// One window: what was due in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) at_ms: u64,
    pub(crate) gets: Option<Spread>,
    pub(crate) puts: Option<Spread>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timeline {
    pub(crate) window_ms: u64,
    pub(crate) points: Vec<Point>,
    pub(crate) marks: Vec<Mark>,
    /// Over all operations that were due in windows without background work.
    pub(crate) get_idle_p99_us: Option<f64>,
    pub(crate) put_idle_p99_us: Option<f64>,
}

/// An answer of the engine, and when it came, from the start of the measured time.
pub(crate) type Poll = (Duration, Statistics);

impl Timeline {
    /// Sorts samples into windows; those due after the measured time are left out.
    pub(crate) fn new(samples: &[Sample], polls: &[Poll], measured: Duration) -> Self {
        let marks = marks(polls);
        let windows = usize::try_from(millis(measured).div_ceil(WINDOW_MS)).unwrap_or(0);
        let mut sorted = vec![(Vec::new(), Vec::new()); windows];
        for sample in samples {
            let nth = usize::try_from(millis(sample.at) / WINDOW_MS).unwrap_or(usize::MAX);
            if let Some((gets, puts)) = sorted.get_mut(nth) {
                match sample.op {
                    Op::Get => gets.push(sample.latency),
                    Op::Put => puts.push(sample.latency),
                }
            }
        }
        let (mut calm_gets, mut calm_puts) = (Vec::new(), Vec::new());
        let mut points = Vec::with_capacity(windows);
        for (at_ms, (gets, puts)) in (0..).step_by(WINDOW_MS as usize).zip(sorted) {
            let during = |mark: &Mark| mark.from_ms < at_ms + WINDOW_MS && mark.to_ms > at_ms;
            if !marks.iter().any(during) {
                calm_gets.extend_from_slice(&gets);
                calm_puts.extend_from_slice(&puts);
            }
            points.push(Point {
                at_ms,
                gets: spread(gets),
                puts: spread(puts),
            });
        }
        Self {
            window_ms: WINDOW_MS,
            points,
            marks,
            get_idle_p99_us: spread(calm_gets).map(|calm| calm.p99_us),
            put_idle_p99_us: spread(calm_puts).map(|calm| calm.p99_us),
        }
    }
}

/// When work was seen: at a poll, or because some ended since the poll before.
fn marks(polls: &[Poll]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for work in Work::ALL {
        let mut open: Option<Mark> = None;
        for (before, after) in polls.iter().zip(polls.iter().skip(1)) {
            let (running, ended) = work.of(&after.1);
            let seen = running > 0 || ended > work.of(&before.1).1;
            let (from_ms, to_ms) = (millis(before.0), millis(after.0));
            match &mut open {
                Some(mark) if seen => mark.to_ms = to_ms,
                None if seen => {
                    open = Some(Mark {
                        work,
                        from_ms,
                        to_ms,
                    });
                }
                _ => marks.extend(open.take()),
            }
        }
        marks.extend(open);
    }
    marks
}

fn spread(mut latencies: Vec<Duration>) -> Option<Spread> {
    latencies.sort_unstable();
    // The smallest value that at least this share is not above (nearest rank).
    let at = |percent: usize| {
        let rank = (latencies.len() * percent).div_ceil(100).max(1);
        latencies
            .get(rank - 1)
            .map(|latency| latency.as_secs_f64() * 1e6)
    };
    Some(Spread {
        count: latencies.len() as u64,
        p50_us: at(50)?,
        p99_us: at(99)?,
        max_us: at(100)?,
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(op: Op, at_ms: u64, latency_us: u64) -> Sample {
        Sample {
            op,
            at: Duration::from_millis(at_ms),
            latency: Duration::from_micros(latency_us),
        }
    }

    fn poll(at_ms: u64, flushes: u64, compactions_running: u64) -> Poll {
        let statistics = Statistics {
            flushes,
            compactions_running,
            ..Statistics::default()
        };
        (Duration::from_millis(at_ms), statistics)
    }

    #[test]
    fn samples_fall_into_their_windows_and_quiet_ones_give_the_idle_latency() {
        let mut samples: Vec<_> = (1..=100).map(|us| sample(Op::Get, 50, us)).collect();
        samples.push(sample(Op::Get, 199, 5000));
        samples.push(sample(Op::Put, 200, 7));
        samples.push(sample(Op::Put, 300, 9));
        let polls = [poll(90, 0, 0), poll(150, 0, 1), poll(190, 0, 0)];
        let timeline = Timeline::new(&samples, &polls, Duration::from_millis(250));
        let counts: Vec<_> = timeline
            .points
            .iter()
            .map(|point| {
                let count = |spread: Option<Spread>| spread.map_or(0, |spread| spread.count);
                (point.at_ms, count(point.gets), count(point.puts))
            })
            .collect();
        assert_eq!(counts, [(0, 100, 0), (100, 1, 0), (200, 0, 1)]);
        assert_eq!(timeline.get_idle_p99_us, None, "work overlaps both windows");
        assert_eq!(timeline.put_idle_p99_us, Some(7.0));
        let gets = timeline.points[0].gets.unwrap();
        assert_eq!((gets.p50_us, gets.p99_us, gets.max_us), (50.0, 99.0, 100.0));
    }

    #[test]
    fn work_is_seen_while_it_runs_and_when_it_ended_between_polls() {
        let polls = [
            poll(0, 0, 0),
            poll(50, 0, 1),
            poll(100, 1, 1),
            poll(150, 1, 0),
            poll(200, 2, 0),
        ];
        let mark = |work, from_ms, to_ms| Mark {
            work,
            from_ms,
            to_ms,
        };
        let expected = [
            mark(Work::Flush, 50, 100),
            mark(Work::Flush, 150, 200),
            mark(Work::Compaction, 0, 100),
        ];
        assert_eq!(marks(&polls), expected);
    }
}
