//! When the device, or the machine as a whole, stood still: a virtual one may do nothing at all for up to a
//! second, whoever asks.

use crate::device::Reading;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A read of the probe that ended this late found the device or the machine standing still. Beside the durable puts of an
/// engine reads were measured to take 0.1 ms at the median and less than 1 ms in 99 of 100, behind a flush or
/// at the start of a compaction of RocksDB 15 to 30 ms; a device that stood still took 50 to 1,000 ms.
const STALL_MIN: Duration = Duration::from_millis(50);

/// For this long after a stall what piled up in it is still being worked off.
const DRAIN_MS: u64 = 100;

/// A time in which the device stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stall {
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
}

impl Stall {
    /// Whether what was due in a window may have waited for it: the window overlaps the stall or the time to
    /// drain.
    pub(crate) fn touches(&self, from_ms: u64, to_ms: u64) -> bool {
        self.from_ms < to_ms && from_ms <= self.to_ms + DRAIN_MS
    }
}

/// The stalls that readings, in order of time, have met: whole milliseconds, none overlaps the next.
pub(crate) fn stalls(readings: &[Reading]) -> Vec<Stall> {
    let mut stalls: Vec<Stall> = Vec::new();
    for Reading { at, took } in readings {
        if *took < STALL_MIN {
            continue;
        }
        let (from_ms, to_ms) = (floor_ms(*at), ceil_ms(*at + *took));
        match stalls.last_mut() {
            Some(last) if from_ms <= last.to_ms => last.to_ms = last.to_ms.max(to_ms),
            _ => stalls.push(Stall { from_ms, to_ms }),
        }
    }
    stalls
}

fn floor_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn ceil_ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads by begin and length in microseconds, stalls by begin and end in milliseconds.
    type Case<'a> = (&'a [(u64, u64)], &'a [(u64, u64)]);

    #[test]
    fn slow_reads_are_stalls_and_those_that_meet_are_one() {
        let cases: [Case<'_>; 6] = [
            (&[], &[]),
            (&[(5_000, 49_999)], &[]),
            (&[(5_000, 50_000)], &[(5, 55)]),
            (&[(5_900, 50_200)], &[(5, 57)]),
            (
                &[(5_000, 60_000), (65_000, 400), (70_000, 60_000)],
                &[(5, 65), (70, 130)],
            ),
            (
                &[(5_000, 60_100), (65_200, 50_000), (117_000, 900_000)],
                &[(5, 116), (117, 1017)],
            ),
        ];
        for (reads, expected) in cases {
            let readings: Vec<_> = reads
                .iter()
                .map(|(at, took)| Reading {
                    at: Duration::from_micros(*at),
                    took: Duration::from_micros(*took),
                })
                .collect();
            let found: Vec<_> = stalls(&readings)
                .iter()
                .map(|stall| (stall.from_ms, stall.to_ms))
                .collect();
            assert_eq!(found, expected, "{reads:?}");
        }
    }

    #[test]
    fn windows_are_touched_during_a_stall_and_while_it_drains() {
        let stall = Stall {
            from_ms: 250,
            to_ms: 400,
        };
        for (from_ms, touched) in [
            (100, false),
            (150, false),
            (151, true),
            (200, true),
            (300, true),
            (400, true),
            (500, true),
            (501, false),
            (600, false),
        ] {
            assert_eq!(stall.touches(from_ms, from_ms + 100), touched, "{from_ms}");
        }
    }
}
