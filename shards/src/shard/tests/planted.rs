//! Every planted bug is found, by a simulation of so many runs at the most. docs/simulation.md has the
//! table.

use super::{crash, faults, model, race};
use crate::ids::LogIndex;
use crate::log::tests::crash as log_crash;
use crate::planted::{Bug, plant};
use crate::session::{Admission, SessionTable};
use crate::wal;
use corelith_io::sim::IoKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What finds bugs: one run of it for each seed.
#[derive(Clone, Copy, Debug)]
enum Finder {
    /// A power cut at some I/O of a scripted log.
    LogCuts,
    /// Kills of a scripted log, and power cuts soon after.
    LogKills,
    /// A bit flipped in each block of a log.
    LogDamage,
    /// A power cut at some I/O of a scripted shard.
    ShardCuts,
    /// One failed write of a scripted shard.
    ShardFailures,
    /// A random life of a shard, against a model.
    ShardModel,
    /// Reads, scans, collection and crashes of a shard at once.
    ShardRace,
    /// A full shard that deletes empty.
    FullShard,
    /// Numbers of a session, one after the other.
    Sessions,
}

impl Finder {
    /// Panics if something is wrong.
    fn run(self, seed: u64) {
        // Neighbouring seeds cut at I/Os far apart.
        let at = 1 + seed * 37 % 500;
        match self {
            Self::LogCuts => log_crash::crash_at(seed, 1 + at % 150, 0),
            Self::LogKills => log_crash::kill_often(seed, true),
            Self::LogDamage => {
                wal::tests::damage::a_flipped_bit_in_any_block_but_the_last_is_found()
            }
            Self::ShardCuts => drop(crash::crash_at(&crash::source(), seed, at, 0)),
            Self::ShardFailures => {
                let result = faults::fail_at(&crash::source(), seed, IoKind::Write, at % 200);
                drop(result);
            }
            Self::ShardModel => drop(model::run_case(seed)),
            Self::ShardRace => drop(race::run_case(seed)),
            Self::FullShard => faults::empty_by_deletes(seed),
            Self::Sessions => admit_once(),
        }
    }
}

/// A write whose answer was taken is not applied again.
fn admit_once() {
    let mut table = SessionTable::default();
    table.open(LogIndex(1));
    let mut admit =
        |at, number, answered_below| table.admit(LogIndex(at), 1, number, answered_below);
    assert_eq!(admit(2, 1, 1), Admission::Fresh);
    assert_eq!(admit(3, 2, 2), Admission::Fresh);
    assert_eq!(admit(4, 1, 1), Admission::Stale);
}

/// The first seed of which a run shows the bug.
fn first_seed(bug: Bug, finder: Finder, seeds: u64) -> Option<u64> {
    (1..=seeds).find(|seed| {
        plant(Some(bug));
        let found = catch_unwind(AssertUnwindSafe(|| finder.run(*seed)));
        plant(None);
        found.is_err()
    })
}

/// Each bug, what is to find it, and how many seeds that took when it was last counted, if it was.
const BUGS: [(Bug, Finder, Option<u64>); 25] = [
    (Bug::AcknowledgeBeforeDurable, Finder::LogCuts, None),
    (Bug::AcknowledgeBeforeValues, Finder::LogCuts, None),
    (Bug::IgnoreGaps, Finder::LogCuts, None),
    (Bug::ForgetTruncation, Finder::LogCuts, None),
    (Bug::TakeDamageForTorn, Finder::LogDamage, None),
    (Bug::VoteBeforeDurable, Finder::LogCuts, None),
    (Bug::VoteWithoutProof, Finder::LogDamage, None),
    (Bug::ReleaseEarly, Finder::LogCuts, None),
    (Bug::SkipSettling, Finder::LogKills, None),
    (Bug::SkipDirectorySync, Finder::LogCuts, None),
    (Bug::IgnoreFailedWrites, Finder::ShardFailures, None),
    (Bug::SkipBarrier, Finder::ShardModel, None),
    (Bug::CheckpointAhead, Finder::ShardCuts, None),
    (Bug::SkipFileSync, Finder::ShardCuts, None),
    (Bug::RemoveBeforeManifest, Finder::ShardCuts, None),
    (Bug::RunBehind, Finder::ShardModel, None),
    (Bug::ForgetPins, Finder::ShardModel, None),
    (Bug::IgnorePinsOfSegments, Finder::ShardRace, None),
    (Bug::IgnoreReferences, Finder::ShardRace, None),
    (Bug::CollectUnpurged, Finder::ShardRace, None),
    (Bug::SpendReserve, Finder::FullShard, None),
    (Bug::ForgetSessions, Finder::ShardModel, None),
    (Bug::SnapshotWithoutSessions, Finder::ShardModel, None),
    (Bug::ForgetResults, Finder::ShardModel, None),
    (Bug::ForgetFloor, Finder::Sessions, None),
];

/// `CORELITH_PLANTED_SEEDS=1000` looks for each bug that long, and prints the table; otherwise those are
/// left out that take long, or were not counted.
#[test]
fn every_planted_bug_is_found() {
    let asked = std::env::var("CORELITH_PLANTED_SEEDS").ok();
    let asked: Option<u64> = asked.and_then(|count| count.parse().ok());
    let mut missed = Vec::new();
    for (bug, finder, usual) in BUGS {
        let usual = usual
            .filter(|seeds| *seeds <= 30)
            .map(|seeds| 4 * seeds + 20);
        let Some(seeds) = asked.or(usual) else {
            continue;
        };
        let found = first_seed(bug, finder, seeds);
        println!("| {bug:?} | {finder:?} | {found:?} |");
        if found.is_none() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
