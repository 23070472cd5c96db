//! Situations in which a leader could answer reads with what is old, or two nodes could lead: one for each part of
//! the rules 1 to 7 that `docs/architecture.md` has under "Leases" (8: `stores.rs`). Each is drawn from a seed and
//! finds the bugs that it is made for; without a bug no seed finds anything.
//!
//! `CORELITH_PLANTED_SEEDS=1000 cargo test --release -p corelith-consensus leads -- --nocapture` looks for each
//! bug that long and says which seed found it. `CORELITH_SIM_SEEDS=20000` tries so many seeds of each situation
//! without a bug.

mod scripts;
mod stage;

use crate::planted::{Bug, plant};
use corelith_shards::{ReplicaId, Term};
use stage::{PROMISE, Stage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

type Script = fn(u64) -> Option<String>;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What the seed shows with that bug; an assertion that fails shows it too.
fn shows(bug: Bug, script: Script, seed: u64) -> Option<String> {
    plant(Some(bug));
    let run = catch_unwind(AssertUnwindSafe(|| script(seed)));
    plant(None);
    run.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        Some(words.unwrap_or_else(|| "an assertion".to_owned()))
    })
}

/// Looks for each bug, with the number of seeds that it took at the last count, and for none.
fn check(script: Script, bugs: &[(Bug, u64)]) {
    let asked = number("CORELITH_PLANTED_SEEDS");
    for (bug, usual) in bugs {
        let seeds = asked.unwrap_or(100 + 4 * usual);
        let found = (1..=seeds).find_map(|seed| Some((seed, shows(*bug, script, seed)?)));
        println!("{bug:?}: {found:?}");
        assert!(found.is_some(), "{bug:?} was not found");
    }
    if asked.is_none() {
        check_without(script);
    }
}

/// No seed shows anything without a bug.
#[expect(
    clippy::disallowed_methods,
    reason = "each thread runs worlds of its own"
)]
fn check_without(script: Script) {
    let seeds = number("CORELITH_SIM_SEEDS").unwrap_or(20);
    let next = AtomicU64::new(1);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                break;
            }
            assert_eq!(script(seed), None, "seed {seed}");
        }
    };
    if let Some(seed) = number("CORELITH_SIM_SEED") {
        return assert_eq!(script(seed), None, "seed {seed}");
    }
    let threads = match seeds > 100 {
        true => std::thread::available_parallelism().map_or(1, usize::from),
        false => 1,
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
}

#[test]
fn rule_1_a_promise_that_runs_keeps_a_replica_from_voting_and_standing() {
    check(
        scripts::a_rival_loses_the_leader,
        &[
            (Bug::VoteWhilePromised, 1),
            (Bug::StandWhilePromised, 1),
            (Bug::RefusedVoteMovesTerm, 1),
        ],
    );
}

#[test]
fn rule_2_a_follower_counts_only_after_it_has_acknowledged_the_leader() {
    check(
        scripts::a_node_hears_beats_but_no_leader,
        &[(Bug::CountUnacknowledged, 1)],
    );
}

#[test]
fn rule_2_a_follower_that_has_turned_counts_no_more() {
    check(
        scripts::a_voter_is_promising_again,
        &[(Bug::IgnoreEpoch, 1), (Bug::KeepEpoch, 1)],
    );
}

#[test]
fn rule_3_a_promise_counts_less_than_it_is_long() {
    check(
        scripts::a_rival_waits_for_a_fast_clock,
        &[(Bug::IgnoreDrift, 1), (Bug::LeaseOfDoubleLength, 1)],
    );
}

#[test]
fn rule_3_a_promise_counts_from_when_it_was_asked_for() {
    check(scripts::promises_come_late, &[(Bug::CountFromReceipt, 1)]);
}

#[test]
fn rule_3_a_promise_outlives_connections() {
    check(scripts::connections_break, &[(Bug::ShortenPromise, 1)]);
}

#[test]
fn rule_3_clocks_count_the_time_in_which_machines_sleep() {
    let seeds = number("CORELITH_PLANTED_SEEDS").unwrap_or(100);
    let found = (1..=seeds).find_map(|seed| Some((seed, scripts::a_clock_stands_still(seed)?)));
    println!("clocks that stand still: {found:?}");
    assert!(found.is_some(), "a clock that stands still was not found");
}

#[test]
fn rule_4_the_lease_is_checked_after_the_read_came() {
    check(
        scripts::a_leader_goes_on_after_a_stop,
        &[(Bug::CachedClock, 1)],
    );
}

#[test]
fn rule_4_a_leader_answers_only_under_its_lease() {
    check(
        scripts::nobody_hears_the_leader,
        &[(Bug::ReadWithoutLease, 1)],
    );
}

#[test]
fn rule_4_a_new_leader_answers_nothing_before_its_first_entry() {
    check(
        scripts::a_new_leader_does_not_know_what_is_committed,
        &[(Bug::ReadBeforeOwnTerm, 1)],
    );
}

#[test]
fn rule_4_a_majority_confirms_what_was_asked_after_the_read_came() {
    check(
        scripts::nobody_hears_the_leader_of_quorums,
        &[(Bug::ConfirmByOldAnswers, 1)],
    );
    check(
        scripts::answers_come_later_and_later,
        &[(Bug::CreditLaterSends, 1)],
    );
}

#[test]
fn rule_5_a_restart_keeps_the_promises_of_before() {
    check(
        scripts::a_rival_waits_for_a_restart,
        &[(Bug::VoteAfterRestart, 1), (Bug::ShortEmbargo, 1)],
    );
}

#[test]
fn rule_6_a_leader_that_hands_over_answers_nothing_more() {
    check(
        scripts::the_old_leader_hears_late_of_the_new_one,
        &[(Bug::KeepLeaseAtHandOver, 1)],
    );
}

#[test]
fn rule_6_a_lease_that_was_given_up_stays_so_for_the_term() {
    check(scripts::a_hand_over_comes_late, &[(Bug::ResumeLease, 1)]);
}

#[test]
fn rule_6_a_hand_over_is_of_its_own_term() {
    check(
        scripts::a_hand_over_comes_when_another_one_leads,
        &[(Bug::HandOverOfAnyTerm, 1)],
    );
}

#[test]
fn rule_6_a_leader_that_restarts_leads_no_more() {
    check(
        scripts::a_leader_restarts_during_a_hand_over,
        &[(Bug::RestoreLead, 5)],
    );
    check(
        scripts::a_leader_loses_what_it_has_sent,
        &[(Bug::RestoreLead, 1)],
    );
}

#[test]
fn rule_7_followers_learn_that_the_leader_leads_no_more() {
    check(
        scripts::a_leader_restarts_with_less_than_its_followers,
        &[(Bug::KeepQuietWhenDeposed, 1)],
    );
}

#[test]
fn no_chance_breaks_the_rules() {
    check_without(scripts::a_storm);
}

/// A leader counts itself: what openraft says of its lead comes later than its vote.
#[test]
fn rule_4_a_leader_that_votes_against_itself_has_given_up_its_lease() {
    for seed in 0..10 {
        let stage = Stage::set(seed);
        stage.run(2 * PROMISE);
        let [candidate, other] = stage.followers();
        for at in [candidate, other] {
            let net = stage.sim().net();
            net.cut_one_way(stage.node(stage.old), stage.node(at));
        }
        let vote = stage.vote(stage.old);
        // The lease ends before the promises do, and before anybody else is elected.
        assert!(stage.until(2 * PROMISE, || !stage.holds_lease(stage.old)));
        let answer = stage.ask_vote(stage.old, candidate, None);
        assert!(answer.granted, "{answer:?}");
        assert!(stage.group(stage.old).unwrap().has_given_up(&vote));
    }
}

#[test]
fn rule_6_a_hand_over_by_another_leader_excuses_no_vote_of_one_that_leads() {
    let stage = Stage::set(1);
    stage.run(2 * PROMISE);
    let [candidate, other] = stage.followers();
    let by = (
        Term(stage.term(stage.old)),
        ReplicaId::first(stage.id(other)),
    );
    let answer = stage.ask_vote(stage.old, candidate, Some(by));
    assert!(!answer.granted, "{answer:?}");
    assert_eq!(stage.end(), None);
}
