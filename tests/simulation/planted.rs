//! Bugs are planted in the nodes, one at a time, and found. docs/simulation.md has the table.

use crate::chaos;
use crate::plan::Plan;
use crate::seeds::{be_quiet, number, words};
use corelith_consensus::planted::{self as group, Bug as GroupBug};
use corelith_shards::planted::{self as shard, Bug as ShardBug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bug, and where it is planted.
#[derive(Clone, Copy, Debug)]
enum Plant {
    Group(GroupBug),
    Shard(ShardBug),
}

impl Plant {
    fn put(self) {
        match self {
            Self::Group(bug) => group::plant(Some(bug)),
            Self::Shard(bug) => shard::plant(Some(bug)),
        }
    }

    fn take_out() {
        group::plant(None);
        shard::plant(None);
    }
}

/// The first seed that shows the bug, and what it shows.
fn first_seed(plant: Plant, seeds: u64) -> Option<(u64, String)> {
    be_quiet(true);
    let found = (1..=seeds).find_map(|seed| {
        plant.put();
        let run = catch_unwind(AssertUnwindSafe(|| shows(plant, seed)));
        Plant::take_out();
        Some((seed, words(&*run.err()?)))
    });
    be_quiet(false);
    found
}

/// Panics if a run of the seed shows that something is wrong.
fn shows(plant: Plant, seed: u64) {
    let plan = Plan::of(seed);
    let report = chaos::run(&plan);
    // This one is in what differs between two runs.
    if matches!(plant, Plant::Group(GroupBug::DelayByAddress)) {
        assert_eq!(report, chaos::run(&plan), "the seed does not repeat");
    }
}

/// Each bug, and how many seeds it took when they were last counted.
const BUGS: [(Plant, u64); 36] = [
    (Plant::Group(GroupBug::VoteAfterRestart), 1000),
    (Plant::Group(GroupBug::SkipConditions), 1),
    (Plant::Group(GroupBug::DecideFromMemory), 1),
    (Plant::Group(GroupBug::IgnoreDrift), 1000),
    (Plant::Group(GroupBug::LeaseOfDoubleLength), 1000),
    (Plant::Group(GroupBug::ReadWithoutLease), 1),
    (Plant::Group(GroupBug::KeepLeaseAtHandOver), 1),
    (Plant::Group(GroupBug::ReadBeforeOwnTerm), 1),
    (Plant::Group(GroupBug::ConfirmByOldAnswers), 1),
    (Plant::Group(GroupBug::DelayByAddress), 1),
    (Plant::Group(GroupBug::UnboundedProposals), 1000),
    (Plant::Shard(ShardBug::AcknowledgeBeforeDurable), 1),
    (Plant::Shard(ShardBug::AcknowledgeBeforeValues), 1),
    (Plant::Shard(ShardBug::IgnoreGaps), 1),
    (Plant::Shard(ShardBug::ForgetTruncation), 1),
    (Plant::Shard(ShardBug::VoteBeforeDurable), 1000),
    (Plant::Shard(ShardBug::VoteWithoutProof), 1000),
    (Plant::Shard(ShardBug::ReleaseEarly), 1),
    (Plant::Shard(ShardBug::SkipSettling), 1000),
    (Plant::Shard(ShardBug::IgnoreFailedWrites), 1),
    (Plant::Shard(ShardBug::SkipBarrier), 1),
    (Plant::Shard(ShardBug::CheckpointAhead), 1),
    (Plant::Shard(ShardBug::SkipFileSync), 1),
    (Plant::Shard(ShardBug::SkipDirectorySync), 1),
    (Plant::Shard(ShardBug::RemoveBeforeManifest), 1),
    (Plant::Shard(ShardBug::RunBehind), 1),
    (Plant::Shard(ShardBug::ForgetPins), 1),
    (Plant::Shard(ShardBug::IgnorePinsOfSegments), 1000),
    (Plant::Shard(ShardBug::IgnoreReferences), 1),
    (Plant::Shard(ShardBug::CollectUnpurged), 1),
    (Plant::Shard(ShardBug::SpendReserve), 1000),
    (Plant::Shard(ShardBug::ForgetSessions), 1),
    (Plant::Shard(ShardBug::SnapshotWithoutSessions), 1),
    (Plant::Shard(ShardBug::ForgetResults), 1),
    (Plant::Shard(ShardBug::ForgetFloor), 1000),
    (Plant::Shard(ShardBug::TakeDamageForTorn), 1000),
];

/// `CORELITH_PLANTED_SEEDS=1000` looks for each bug that long, and prints the table; otherwise those are
/// left out that take long.
#[test]
fn planted_bugs_are_found() {
    let asked = number("CORELITH_PLANTED_SEEDS");
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let work = || {
        while let Some((plant, usual)) = BUGS.get(next.fetch_add(1, Ordering::Relaxed)) {
            if asked.is_none() && *usual > 30 {
                continue;
            }
            let found = first_seed(*plant, asked.unwrap_or(4 * usual + 20));
            println!("{plant:?}: {found:.300?}");
            rows.lock().unwrap().push((*plant, found.is_some()));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let rows = rows.into_inner().unwrap();
    let missed: Vec<_> = rows.iter().filter(|(_, found)| !found).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
