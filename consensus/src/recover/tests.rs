use super::{Course, GoingOn, LeftReplica, Unheard, course, steps_to};
use crate::steps;
use crate::types::Membership;
use corelith_shards::{LogId, LogIndex, NodeId, ReplicaId, Term};
use corelith_wire::StoreId;
use std::collections::BTreeSet;

fn set(ids: &[u64]) -> BTreeSet<ReplicaId> {
    ids.iter().copied().map(ReplicaId).collect()
}

fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// A replica with a last entry of that term and index, and these voters.
fn left(replica: u64, (term, index): (u64, u64), voters: &[&[u64]]) -> LeftReplica {
    LeftReplica {
        replica: ReplicaId(replica),
        last: Some(LogId {
            term: Term(term),
            node: ReplicaId(1),
            index: LogIndex(index),
        }),
        vote: Term(term + 1),
        voters: voters.iter().map(|config| set(config)).collect(),
        is_named: voters.iter().any(|config| config.contains(&replica)),
    }
}

/// Who goes on, with whom, without whom.
fn goes(by: u64, last: (u64, u64), with: &[u64], gone: &[u64], above: u64) -> Course {
    Course::GoOn(GoingOn {
        by: ReplicaId(by),
        last: left(by, last, &[]).last,
        left: set(with),
        gone: set(gone),
        above: Term(above),
    })
}

#[test]
fn the_longest_log_goes_on_unless_somebody_can_be_elected() {
    let three: &[&[u64]] = &[&[1, 2, 3]];
    let five: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
    let joint: &[&[u64]] = &[&[1, 4, 5], &[1, 2, 3]];
    let before: &[&[u64]] = &[&[1, 4, 5]];
    let table = [
        (
            "one of three",
            vec![left(1, (2, 9), three)],
            goes(1, (2, 9), &[1], &[2, 3], 3),
        ),
        (
            "a later term before more entries",
            vec![left(4, (3, 7), five), left(5, (2, 9), five)],
            goes(4, (3, 7), &[4, 5], &[1, 2, 3], 4),
        ),
        (
            "more entries of one term",
            vec![left(4, (3, 7), five), left(5, (3, 9), five)],
            goes(5, (3, 9), &[4, 5], &[1, 2, 3], 4),
        ),
        (
            "the lowest of equal ones, and the highest term of all votes",
            vec![
                left(5, (3, 9), five),
                LeftReplica {
                    vote: Term(40),
                    ..left(4, (3, 9), five)
                },
            ],
            goes(4, (3, 9), &[4, 5], &[1, 2, 3], 40),
        ),
        (
            "a majority is left",
            vec![
                left(1, (3, 9), five),
                left(4, (3, 7), five),
                left(5, (3, 8), five),
            ],
            Course::Elects(ReplicaId(1)),
        ),
        (
            "one of three that has gone on before",
            vec![left(1, (3, 11), &[&[1]])],
            Course::Elects(ReplicaId(1)),
        ),
        (
            "joint: a majority of one configuration is not enough",
            vec![left(1, (3, 9), joint), left(4, (3, 9), joint)],
            goes(1, (3, 9), &[1, 4], &[2, 3, 5], 4),
        ),
        (
            "joint and not heard of by a majority, which elects by what was before",
            vec![
                left(1, (3, 9), joint),
                left(4, (3, 8), before),
                left(5, (3, 8), before),
            ],
            Course::Elects(ReplicaId(4)),
        ),
        (
            "joint and heard of by so many that the others elect nobody",
            vec![
                left(1, (3, 9), joint),
                left(4, (3, 9), joint),
                left(5, (3, 8), before),
            ],
            goes(1, (3, 9), &[1, 4, 5], &[2, 3], 4),
        ),
        (
            "a learner that does not know yet that it has a vote votes for others",
            vec![
                left(1, (3, 9), &[&[1, 2, 3], &[1, 4, 5]]),
                LeftReplica {
                    is_named: true,
                    ..left(4, (3, 7), three)
                },
            ],
            goes(1, (3, 9), &[1, 4], &[2, 3, 5], 4),
        ),
        (
            "who has not heard yet that it belongs to the group is done without",
            vec![
                left(1, (3, 9), &[&[1, 2, 3], &[1, 4, 5]]),
                left(4, (3, 7), three),
            ],
            goes(1, (3, 9), &[1], &[2, 3, 4, 5], 4),
        ),
        (
            "who has no vote does not go on, however long its log is",
            vec![left(1, (3, 5), three), left(4, (3, 9), three)],
            goes(1, (3, 5), &[1], &[2, 3], 4),
        ),
        (
            "nobody has a vote",
            vec![left(4, (3, 9), three)],
            Course::Nobody,
        ),
    ];
    for (what, replicas, expected) in table {
        let heard = replicas.iter().map(|left| left.replica.node()).collect();
        let named = replicas
            .iter()
            .flat_map(|left| left.voters.iter().flatten());
        let named: BTreeSet<NodeId> = named.map(|voter| voter.node()).collect();
        let lost = named.difference(&heard).copied().collect();
        assert_eq!(course(&replicas, &heard, &lost), Ok(expected), "{what}");
    }
}

#[test]
fn nothing_is_decided_before_all_that_are_left_are_heard() {
    let five: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
    let replicas = [left(4, (3, 9), five)];
    let heard = nodes(&[4]);
    let missing = course(&replicas, &heard, &nodes(&[1, 2, 3]));
    assert_eq!(missing, Err(Unheard(nodes(&[5]))));
    // Its node has said that it has no such replica.
    let without = course(&replicas, &nodes(&[4, 5]), &nodes(&[1, 2, 3]));
    assert_eq!(without, Ok(goes(4, (3, 9), &[4], &[1, 2, 3, 5], 4)));
}

#[test]
fn every_step_to_those_that_are_left_is_legal() {
    let make = |configs: &[&[u64]], members: &[u64]| {
        let configs = configs.iter().map(|one| one.iter().copied().collect());
        let stores = members.iter().map(|id| (*id, StoreId(u128::from(*id))));
        let stores: std::collections::BTreeMap<u64, StoreId> = stores.collect();
        Membership::new(configs.collect(), stores).unwrap()
    };
    // (configurations, members, who is left, steps)
    type Case = (
        &'static [&'static [u64]],
        &'static [u64],
        &'static [u64],
        usize,
    );
    let table: [Case; 7] = [
        (&[&[1, 2, 3]], &[1, 2, 3], &[1], 2),
        (&[&[1, 2, 3, 4, 5]], &[1, 2, 3, 4, 5], &[2, 4], 2),
        (&[&[1, 2, 3]], &[1, 2, 3, 4], &[1], 3),
        (&[&[1, 4, 5], &[1, 2, 3]], &[1, 2, 3, 4, 5], &[1, 4], 3),
        (&[&[1, 4, 5], &[1, 2, 3]], &[1, 2, 3, 4, 5, 6], &[4], 4),
        (&[&[1, 2, 3], &[1]], &[1, 2, 3], &[1], 1),
        (&[&[1, 2, 3], &[1]], &[1, 2, 3, 4], &[1], 2),
    ];
    for (configs, members, left, count) in table {
        let from = make(configs, members);
        let wanted: BTreeSet<u64> = left.iter().copied().collect();
        let found = steps_to(&from, &wanted).unwrap_or_else(|| panic!("{configs:?} {left:?}"));
        assert_eq!(found.len(), count, "{configs:?} {left:?}: {found:?}");
        let mut before = &from;
        for step in &found {
            assert!(steps::follows(before, step), "{before:?} {step:?}");
            before = step;
        }
        assert_eq!(*before, make(&[left], left), "{configs:?} {left:?}");
    }
}
