//! Which scenario shows which bug of leases, elections and memberships. `CORELITH_PLANTED_SEEDS=100 cargo test --release --test
//! simulation bugs_of_leases -- --nocapture` looks for each with that many seeds of each scenario.

use super::{crash, members, network, time};
use crate::seeds::{be_quiet, number, words};
use crate::trial::Report;
use corelith_consensus::planted::{Bug, plant};
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

type Scenario = fn(u64) -> Report;

const SCENARIOS: [(&str, Scenario); 11] = [
    ("cut_off", network::cut_off),
    ("island", network::island),
    ("one_way", network::one_way),
    ("flapping", network::flapping),
    ("rates", time::rates),
    ("pauses", time::pauses),
    ("suspends", time::suspends),
    ("stops", time::stops),
    ("early_return", crash::early_return),
    ("changes", members::changes),
    ("emptied", members::emptied),
];

/// Each with the seeds that it took when they were last counted, if they were.
const BUGS: [(Bug, Option<u64>); 23] = [
    (Bug::ReadWithoutLease, Some(1)),
    (Bug::VoteAfterRestart, None),
    (Bug::IgnoreDrift, None),
    (Bug::LeaseOfDoubleLength, None),
    (Bug::ReadBeforeOwnTerm, None),
    (Bug::ConfirmByOldAnswers, None),
    (Bug::CreditLaterSends, None),
    (Bug::VoteWhilePromised, None),
    (Bug::StandWhilePromised, None),
    (Bug::RefusedVoteMovesTerm, None),
    (Bug::CountUnacknowledged, None),
    (Bug::IgnoreEpoch, None),
    (Bug::KeepEpoch, None),
    (Bug::CountFromReceipt, None),
    (Bug::ShortenPromise, None),
    (Bug::ShortEmbargo, None),
    (Bug::RestoreLead, None),
    (Bug::CachedClock, None),
    (Bug::TrustAnyStore, None),
    (Bug::OneConfigurationCounts, None),
    (Bug::LearnersCount, None),
    (Bug::AnswerForEarlierReplicas, None),
    (Bug::VoteBeforeMembership, None),
];

/// The first seed of a scenario that shows the bug, and what it shows.
fn found(bug: Bug, seeds: u64) -> Option<String> {
    let shows = |seed: u64, (name, scenario): &(&str, Scenario)| {
        plant(Some(bug));
        let run = catch_unwind(|| scenario(seed));
        plant(None);
        Some(format!("seed {seed} of {name}: {}", words(&*run.err()?)))
    };
    be_quiet(true);
    let found = (1..=seeds).find_map(|seed| SCENARIOS.iter().find_map(|one| shows(seed, one)));
    be_quiet(false);
    found
}

#[test]
fn bugs_of_leases_are_found_by_scenarios() {
    let asked = number("CORELITH_PLANTED_SEEDS");
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let work = || {
        while let Some((bug, usual)) = BUGS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(seeds) = asked.or(usual.map(|seeds| 4 * seeds + 4)) else {
                continue;
            };
            let found = found(*bug, seeds);
            println!("{bug:?}: {found:.300?}");
            if found.is_none() {
                missed.lock().unwrap().push(*bug);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
