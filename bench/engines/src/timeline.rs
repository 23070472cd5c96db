//! Latency over time, when the engine worked in the background, and when the device stood still.

use crate::device::Reading;
use crate::recorder::{Op, Sample};
use crate::stall::{Stall, stalls};
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

    /// Whether it makes a window busy; a flush alone does not.
    fn is_busy(self) -> bool {
        match self {
            Self::Flush => false,
            Self::Compaction | Self::Collection => true,
        }
    }

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

/// What went on in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    /// No background work.
    Idle,
    /// A flush and nothing else.
    Flush,
    /// Compaction or collection.
    Busy,
    /// The device stood still, or what piled up meanwhile was worked off: no figure of the engine.
    Stalled,
}

impl Pace {
    fn of(at_ms: u64, marks: &[Mark], stalls: &[Stall]) -> Self {
        let end_ms = at_ms + WINDOW_MS;
        if stalls.iter().any(|stall| stall.touches(at_ms, end_ms)) {
            return Self::Stalled;
        }
        let during = |mark: &&Mark| mark.from_ms < end_ms && mark.to_ms > at_ms;
        let busy = marks.iter().filter(during).map(|mark| mark.work.is_busy());
        match busy.max() {
            None => Self::Idle,
            Some(false) => Self::Flush,
            Some(true) => Self::Busy,
        }
    }
}

/// One window: what was due in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) at_ms: u64,
    pub(crate) pace: Pace,
    pub(crate) gets: Option<Spread>,
    pub(crate) puts: Option<Spread>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timeline {
    pub(crate) window_ms: u64,
    pub(crate) points: Vec<Point>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) stalls: Vec<Stall>,
    /// Over all reads of the probe, those that met a stall included.
    pub(crate) probe: Option<Spread>,
    /// Over all operations that were due in windows of [`Pace::Idle`].
    pub(crate) get_idle_p99_us: Option<f64>,
    pub(crate) put_idle_p99_us: Option<f64>,
    /// And in those of [`Pace::Busy`].
    pub(crate) get_busy_p99_us: Option<f64>,
    pub(crate) put_busy_p99_us: Option<f64>,
}

/// An answer of the engine, and when it came, from the start of the measured time.
pub(crate) type Poll = (Duration, Statistics);

/// Latencies of some windows.
#[derive(Clone, Default)]
struct Pool {
    gets: Vec<Duration>,
    puts: Vec<Duration>,
}

impl Pool {
    fn add(&mut self, other: &Self) {
        self.gets.extend_from_slice(&other.gets);
        self.puts.extend_from_slice(&other.puts);
    }
}

impl Timeline {
    /// Sorts samples into windows; those due after the measured time are left out.
    pub(crate) fn new(
        samples: &[Sample],
        polls: &[Poll],
        readings: &[Reading],
        measured: Duration,
    ) -> Self {
        let (marks, stalls) = (marks(polls), stalls(readings));
        let windows = usize::try_from(millis(measured).div_ceil(WINDOW_MS)).unwrap_or(0);
        let mut sorted = vec![Pool::default(); windows];
        for sample in samples {
            let nth = usize::try_from(millis(sample.at) / WINDOW_MS).unwrap_or(usize::MAX);
            if let Some(window) = sorted.get_mut(nth) {
                match sample.op {
                    Op::Get => window.gets.push(sample.latency),
                    Op::Put => window.puts.push(sample.latency),
                }
            }
        }
        let (mut idle, mut busy) = (Pool::default(), Pool::default());
        let mut points = Vec::with_capacity(windows);
        for (at_ms, window) in (0..).step_by(WINDOW_MS as usize).zip(sorted) {
            let pace = Pace::of(at_ms, &marks, &stalls);
            match pace {
                Pace::Idle => idle.add(&window),
                Pace::Busy => busy.add(&window),
                Pace::Flush | Pace::Stalled => {}
            }
            points.push(Point {
                at_ms,
                pace,
                gets: spread(window.gets),
                puts: spread(window.puts),
            });
        }
        let p99 = |latencies| spread(latencies).map(|spread| spread.p99_us);
        Self {
            window_ms: WINDOW_MS,
            points,
            marks,
            stalls,
            probe: spread(readings.iter().map(|reading| reading.took).collect()),
            get_idle_p99_us: p99(idle.gets),
            put_idle_p99_us: p99(idle.puts),
            get_busy_p99_us: p99(busy.gets),
            put_busy_p99_us: p99(busy.puts),
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
        let timeline = Timeline::new(&samples, &polls, &[], Duration::from_millis(250));
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
        assert_eq!(timeline.get_busy_p99_us, Some(100.0));
        assert_eq!(timeline.put_busy_p99_us, None);
        assert_eq!((timeline.stalls.len(), timeline.probe), (0, None));
        let gets = timeline.points[0].gets.unwrap();
        assert_eq!((gets.p50_us, gets.p99_us, gets.max_us), (50.0, 99.0, 100.0));
    }

    fn mark(work: Work, from_ms: u64, to_ms: u64) -> Mark {
        Mark {
            work,
            from_ms,
            to_ms,
        }
    }

    #[test]
    fn windows_have_a_pace() {
        let marks = [
            mark(Work::Flush, 150, 300),
            mark(Work::Compaction, 250, 400),
            mark(Work::Collection, 790, 810),
        ];
        let stall = Stall {
            from_ms: 350,
            to_ms: 420,
        };
        for (at_ms, without, with) in [
            (0, Pace::Idle, Pace::Idle),
            (100, Pace::Flush, Pace::Flush),
            (200, Pace::Busy, Pace::Busy),
            (300, Pace::Busy, Pace::Stalled),
            (400, Pace::Idle, Pace::Stalled),
            (500, Pace::Idle, Pace::Stalled),
            (600, Pace::Idle, Pace::Idle),
            (700, Pace::Busy, Pace::Busy),
            (800, Pace::Busy, Pace::Busy),
        ] {
            assert_eq!(Pace::of(at_ms, &marks, &[]), without, "{at_ms}");
            assert_eq!(Pace::of(at_ms, &marks, &[stall]), with, "{at_ms}");
        }
    }

    #[test]
    fn what_waited_for_the_device_is_neither_idle_nor_busy() {
        let samples: Vec<_> = [
            // (due, latency): idle, then two that met the stall, then busy
            (50, 20),
            (150, 90_000),
            (250, 40_000),
            (450, 30),
        ]
        .into_iter()
        .flat_map(|(at_ms, us)| [sample(Op::Get, at_ms, us), sample(Op::Put, at_ms, us + 1)])
        .collect();
        let polls = [poll(0, 0, 0), poll(400, 0, 0), poll(500, 0, 1)];
        let readings = [(10, 1), (160, 80), (245, 1)].map(|(at_ms, took_ms)| Reading {
            at: Duration::from_millis(at_ms),
            took: Duration::from_millis(took_ms),
        });
        let timeline = Timeline::new(&samples, &polls, &readings, Duration::from_millis(500));
        let stall = Stall {
            from_ms: 160,
            to_ms: 240,
        };
        assert_eq!(timeline.stalls, [stall]);
        assert_eq!(timeline.probe.map(|probe| probe.max_us), Some(80_000.0));
        let idle = (timeline.get_idle_p99_us, timeline.put_idle_p99_us);
        assert_eq!(idle, (Some(20.0), Some(21.0)));
        let busy = (timeline.get_busy_p99_us, timeline.put_busy_p99_us);
        assert_eq!(busy, (Some(30.0), Some(31.0)));
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
        let expected = [
            mark(Work::Flush, 50, 100),
            mark(Work::Flush, 150, 200),
            mark(Work::Compaction, 0, 100),
        ];
        assert_eq!(marks(&polls), expected);
    }
}
