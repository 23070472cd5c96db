//! The figures of a rebuilt node, and what they may be.

use crate::driver::RunOutcome;
use corelith_bench::latencies::Percentiles;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Least part of what disk and loopback allow.
const SHARE_MIN: f64 = 0.8;
/// The p99 of others may grow by this factor.
const P99_FACTOR: f64 = 2.0;
/// A p99 of fewer operations says nothing.
const OPERATIONS_MIN: u64 = 1000;
/// What may come twice after a crash of the receiver: for each of two copies at once, what its record did not say
/// yet and the pieces on their way.
const RESENT_BYTES: u64 = (2 * (8 + 8)) << 20;
/// Framing, and log entries of the nodes themselves, for each byte: one of so many.
const RESENT_PART: u64 = 100;

/// The load beside.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct OthersLoad {
    pub(crate) put: Percentiles,
    pub(crate) get: Percentiles,
    pub(crate) operations: u64,
    pub(crate) not_started: u64,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

impl OthersLoad {
    pub(crate) fn new(outcome: RunOutcome) -> Self {
        let recorder = outcome.recorder;
        Self {
            put: recorder.puts.percentiles(),
            get: recorder.gets.percentiles(),
            operations: recorder.puts_in_window + recorder.gets_in_window,
            not_started: recorder.not_started,
            errors: recorder.errors,
        }
    }

    /// Whether `during` is no worse than it may be beside this.
    fn allows(&self, during: &Self) -> bool {
        let grows_little =
            |alone: &Percentiles, beside: &Percentiles| beside.p99_us <= P99_FACTOR * alone.p99_us;
        grows_little(&self.put, &during.put)
            && grows_little(&self.get, &during.get)
            && during.errors.is_empty()
    }
}

/// A crash of the receiver in the middle.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Interruption {
    /// What had come until then.
    pub(crate) before_bytes: u64,
    /// What came after it.
    pub(crate) after_bytes: u64,
    /// What the node takes if nothing comes twice.
    pub(crate) whole_bytes: u64,
}

impl Interruption {
    /// What came twice.
    fn resent_bytes(&self) -> u64 {
        (self.before_bytes + self.after_bytes).saturating_sub(self.whole_bytes)
    }

    fn allowed_bytes(&self) -> u64 {
        RESENT_BYTES + self.whole_bytes / RESENT_PART
    }

    fn is_good(&self) -> bool {
        self.before_bytes > 0 && self.resent_bytes() <= self.allowed_bytes()
    }
}

/// The figures of one time that the node became whole.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct RebuildRound {
    /// From the start of the process until its first new replica was open: the cluster waits for silence of the
    /// store of before.
    pub(crate) opened_s: f64,
    /// From then until all replicas vote and nothing moves.
    pub(crate) seconds: f64,
    /// What the node received, or wrote where that is not known.
    pub(crate) received_bytes: u64,
    /// Most that came in a second, in bytes.
    pub(crate) best_second_bytes: u64,
    /// What its directory takes at the end.
    pub(crate) directory_bytes: u64,
    /// What `cluster status` said was to be copied, and how often it showed progress.
    pub(crate) shown_bytes: u64,
    pub(crate) shown_steps: u64,
    pub(crate) interruption: Option<Interruption>,
}

/// The figures of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct RebuildFigures {
    /// Values of the data.
    pub(crate) bytes: u64,
    /// Whether received bytes are counted at the node's interface; else it is what the node wrote.
    pub(crate) counts_received: bool,
    /// Operations per second of the load beside.
    pub(crate) rate: f64,
    pub(crate) alone: OthersLoad,
    pub(crate) during: OthersLoad,
    pub(crate) plain: RebuildRound,
    pub(crate) interrupted: RebuildRound,
    /// What one sequential writer gets, in bytes per second.
    pub(crate) disk_bytes_per_second: f64,
    /// What one connection gets.
    pub(crate) loopback_bytes_per_second: f64,
}

impl RebuildFigures {
    /// Part of the lower of disk and loopback that the copy reached. It counts the values only: what comes beside
    /// them is no gain.
    fn share(&self) -> f64 {
        let allowed = self
            .disk_bytes_per_second
            .min(self.loopback_bytes_per_second);
        self.bytes as f64 / self.plain.seconds / allowed
    }

    fn verdicts(&self) -> [(bool, &'static str); 5] {
        let mut rounds = [&self.plain, &self.interrupted].into_iter();
        let interruption = self.interrupted.interruption;
        let operations = self.alone.operations.min(self.during.operations);
        [
            (operations >= OPERATIONS_MIN, "too few operations for a p99"),
            (self.share() >= SHARE_MIN, "slower than 80 %"),
            (
                self.alone.allows(&self.during),
                "others suffer: p99 more than doubled, or errors",
            ),
            (
                interruption.is_some_and(|it| it.is_good()),
                "bytes came twice",
            ),
            (
                rounds.all(|round| round.shown_steps > 0),
                "status showed no progress",
            ),
        ]
    }

    /// Whether all is as it may be.
    pub(crate) fn is_good(&self) -> bool {
        self.verdicts().iter().all(|(is_good, _)| *is_good)
    }

    pub(crate) fn text(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let rate = |bytes: f64| bytes / 1e6;
        let mut text = format!(
            "{:<13}{:>8}{:>9}{:>10}{:>8}{:>8}{:>10}{:>8}{:>7}\n",
            "node 3",
            "opened",
            "whole",
            "received",
            "MB/s",
            "best s",
            "directory",
            "shown",
            "steps"
        );
        for (name, round) in [("wiped", &self.plain), ("and killed", &self.interrupted)] {
            let _ = writeln!(
                text,
                "{name:<13}{:>8.1}{:>9.1}{:>10}{:>8.1}{:>8.1}{:>10}{:>8}{:>7}",
                round.opened_s,
                round.seconds,
                mib(round.received_bytes),
                rate(round.received_bytes as f64 / round.seconds),
                rate(round.best_second_bytes as f64),
                mib(round.directory_bytes),
                mib(round.shown_bytes),
                round.shown_steps,
            );
        }
        if let Some(it) = self.interrupted.interruption {
            let _ = writeln!(
                text,
                "killed at {} MiB of {}, then {} came: {} MiB twice (allowed: {})",
                mib(it.before_bytes),
                mib(it.whole_bytes),
                mib(it.after_bytes),
                mib(it.resent_bytes()),
                mib(it.allowed_bytes()),
            );
        }
        for (name, load) in [("alone", &self.alone), ("beside", &self.during)] {
            let _ = writeln!(
                text,
                "load {name:<7} {:.0} operations/s: p99 put {:.1} ms, get {:.1} ms; {} done, {} not started, {} failed",
                self.rate,
                load.put.p99_us / 1e3,
                load.get.p99_us / 1e3,
                load.operations,
                load.not_started,
                load.errors.values().sum::<u64>(),
            );
        }
        let _ = writeln!(
            text,
            "one writer {:.0} MB/s, one connection {:.0} MB/s: the copy of the values reached {:.0} % of the lower \
             (nodes, load and copy share the cores)",
            rate(self.disk_bytes_per_second),
            rate(self.loopback_bytes_per_second),
            self.share() * 100.0,
        );
        let wrong: Vec<&str> = self
            .verdicts()
            .into_iter()
            .filter(|(is_good, _)| !is_good)
            .map(|(_, what)| what)
            .collect();
        let _ = match wrong.as_slice() {
            [] => writeln!(text, "good"),
            wrong => writeln!(text, "not good: {}", wrong.join("; ")),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(p99_us: f64) -> OthersLoad {
        let percentiles = Percentiles {
            p99_us,
            ..Percentiles::default()
        };
        OthersLoad {
            put: percentiles,
            get: percentiles,
            operations: OPERATIONS_MIN,
            not_started: 0,
            errors: BTreeMap::new(),
        }
    }

    fn figures() -> RebuildFigures {
        let round = RebuildRound {
            opened_s: 12.0,
            seconds: 10.0,
            received_bytes: 1 << 30,
            best_second_bytes: 1 << 28,
            directory_bytes: 1 << 30,
            shown_bytes: 1 << 30,
            shown_steps: 4,
            interruption: None,
        };
        RebuildFigures {
            bytes: 1_000_000_000,
            counts_received: true,
            rate: 1000.0,
            alone: load(1000.0),
            during: load(2000.0),
            interrupted: RebuildRound {
                interruption: Some(Interruption {
                    before_bytes: 1 << 29,
                    after_bytes: 1 << 29,
                    whole_bytes: 1 << 30,
                }),
                ..round.clone()
            },
            plain: round,
            disk_bytes_per_second: 125e6,
            loopback_bytes_per_second: 900e6,
        }
    }

    #[test]
    fn a_run_is_good_if_fast_unnoticed_and_without_repetition() {
        assert!(figures().is_good(), "{}", figures().text());
        type Harm = fn(&mut RebuildFigures);
        let harms: [(Harm, &str); 7] = [
            (|it| it.during.operations = 999, "too few"),
            (|it| it.plain.seconds = 10.1, "slower"),
            (|it| it.during.get.p99_us = 2001.0, "others suffer"),
            (
                |it| {
                    it.during.errors.insert("unavailable", 1);
                },
                "others suffer",
            ),
            (|it| it.interrupted.shown_steps = 0, "no progress"),
            (|it| it.interrupted.interruption = None, "twice"),
            (
                |it| {
                    if let Some(it) = &mut it.interrupted.interruption {
                        it.after_bytes += 64 << 20;
                    }
                },
                "twice",
            ),
        ];
        for (harm, what) in harms {
            let mut figures = figures();
            harm(&mut figures);
            assert!(!figures.is_good(), "{what}");
            let text = figures.text();
            assert!(
                text.contains(&format!("not good: {what}")) || text.contains(what),
                "{text}"
            );
        }
    }
}
