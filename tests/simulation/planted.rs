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

/// Each bug, and how many seeds it took when they were last counted, if they were.
const BUGS: [(Plant, Option<u64>); 57] = [
    (Plant::Group(GroupBug::VoteAfterRestart), None),
    (Plant::Group(GroupBug::SkipConditions), Some(1)),
    (Plant::Group(GroupBug::DecideFromMemory), Some(1)),
    (Plant::Group(GroupBug::IgnoreDrift), None),
    (Plant::Group(GroupBug::LeaseOfDoubleLength), None),
    (Plant::Group(GroupBug::ReadWithoutLease), None),
    (Plant::Group(GroupBug::KeepLeaseAtHandOver), None),
    (Plant::Group(GroupBug::ReadBeforeOwnTerm), None),
    (Plant::Group(GroupBug::ConfirmByOldAnswers), None),
    (Plant::Group(GroupBug::CreditLaterSends), None),
    (Plant::Group(GroupBug::VoteWhilePromised), None),
    (Plant::Group(GroupBug::StandWhilePromised), None),
    (Plant::Group(GroupBug::RefusedVoteMovesTerm), None),
    (Plant::Group(GroupBug::CountUnacknowledged), None),
    (Plant::Group(GroupBug::IgnoreEpoch), None),
    (Plant::Group(GroupBug::KeepEpoch), None),
    (Plant::Group(GroupBug::CountFromReceipt), None),
    (Plant::Group(GroupBug::ShortenPromise), None),
    (Plant::Group(GroupBug::ShortEmbargo), None),
    (Plant::Group(GroupBug::ResumeLease), None),
    (Plant::Group(GroupBug::HandOverOfAnyTerm), None),
    (Plant::Group(GroupBug::RestoreLead), None),
    (Plant::Group(GroupBug::KeepQuietWhenDeposed), None),
    (Plant::Group(GroupBug::CachedClock), None),
    (Plant::Group(GroupBug::DelayByAddress), Some(1)),
    (Plant::Group(GroupBug::AnswerBehindFollowers), Some(79)),
    (Plant::Group(GroupBug::PointBehindFollowers), None),
    (Plant::Group(GroupBug::FollowerAsksNobody), Some(1)),
    (Plant::Group(GroupBug::ShareQuestionOnItsWay), None),
    (Plant::Group(GroupBug::CommitWithoutCondition), Some(1)),
    (Plant::Shard(ShardBug::AcknowledgeBeforeDurable), Some(16)),
    (Plant::Shard(ShardBug::AcknowledgeBeforeValues), Some(119)),
    (Plant::Shard(ShardBug::IgnoreGaps), None),
    (Plant::Shard(ShardBug::ForgetTruncation), Some(32)),
    (Plant::Shard(ShardBug::VoteBeforeDurable), None),
    (Plant::Shard(ShardBug::VoteWithoutProof), None),
    (Plant::Shard(ShardBug::ReleaseEarly), None),
    (Plant::Shard(ShardBug::SkipSettling), None),
    (Plant::Shard(ShardBug::IgnoreFailedWrites), Some(39)),
    (Plant::Shard(ShardBug::SkipBarrier), Some(138)),
    (Plant::Shard(ShardBug::CheckpointAhead), Some(4)),
    (Plant::Shard(ShardBug::SkipFileSync), Some(1)),
    (Plant::Shard(ShardBug::SkipDirectorySync), Some(2)),
    (Plant::Shard(ShardBug::RemoveBeforeManifest), None),
    (Plant::Shard(ShardBug::RunBehind), Some(1)),
    (Plant::Shard(ShardBug::ForgetPins), Some(1)),
    (Plant::Shard(ShardBug::IgnorePinsOfSegments), None),
    (Plant::Shard(ShardBug::IgnoreReferences), Some(10)),
    (Plant::Shard(ShardBug::CollectUnpurged), Some(6)),
    (Plant::Shard(ShardBug::SpendReserve), None),
    (Plant::Shard(ShardBug::ForgetSessions), Some(1)),
    (Plant::Shard(ShardBug::SnapshotWithoutSessions), Some(13)),
    (Plant::Shard(ShardBug::RemoveWhileHeld), None),
    (Plant::Shard(ShardBug::TakeUncheckedPieces), None),
    (Plant::Shard(ShardBug::ForgetResults), Some(82)),
    (Plant::Shard(ShardBug::ForgetFloor), Some(59)),
    (Plant::Shard(ShardBug::TakeDamageForTorn), None),
];

/// Bugs that took more seeds are looked for only if asked: a run takes a second.
const FEW: u64 = 1;

/// `CORELITH_PLANTED_SEEDS=1000` looks for each bug that long, and prints the table; otherwise those are
/// left out that take long, or were not counted.
#[test]
fn planted_bugs_are_found() {
    let asked = number("CORELITH_PLANTED_SEEDS");
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let work = || {
        while let Some((plant, usual)) = BUGS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let usual = usual.filter(|seeds| *seeds <= FEW);
            let Some(seeds) = asked.or(usual.map(|seeds| 4 * seeds + 20)) else {
                continue;
            };
            let found = first_seed(*plant, seeds);
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
