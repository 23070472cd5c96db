//! How one membership follows another in a log: by one step at a time.
//!
//! Invariants:
//! * A replica keeps its store for ever: slots are bound once, and a number that was used for one store is never another's.
//! * Voters change through a joint membership: the two configurations, then the second one. (Back to the first one is a step
//!   too: the change is taken back.)

use crate::stores::is_bound;
use crate::types::Membership;
use corelith_wire::StoreId;
use std::collections::BTreeSet;

/// Whether no slot is bound to different stores in the two.
pub(crate) fn agree(one: &Membership, other: &Membership) -> bool {
    one.nodes().all(|(replica, store)| {
        let other = other.get_node(replica);
        other.is_none_or(|other| store == other || !is_bound(*store) || !is_bound(*other))
    })
}

/// Whether replicas that are in both have kept their stores from the older one on, however many steps lie between.
pub(crate) fn keeps_stores(older: &Membership, newer: &Membership) -> bool {
    older
        .nodes()
        .all(|(id, was)| newer.get_node(id).is_none_or(|now| is_kept(*was, *now)))
}

/// Whether a slot may become that one by the step of a binding, or stays.
fn is_kept(was: StoreId, now: StoreId) -> bool {
    now == was || (!is_bound(was) && is_bound(now))
}

fn ids(membership: &Membership) -> BTreeSet<u64> {
    membership.nodes().map(|(id, _)| *id).collect()
}

fn voters(membership: &Membership) -> BTreeSet<u64> {
    membership.voter_ids().collect()
}

/// Whether slots that both have stay as they are.
fn keeps_slots(older: &Membership, newer: &Membership) -> bool {
    older
        .nodes()
        .all(|(id, was)| newer.get_node(id).is_none_or(|now| now == was))
}

/// Whether `newer` may follow `older` in a log, as one entry.
pub(crate) fn follows(older: &Membership, newer: &Membership) -> bool {
    let is_step = is_step(older, newer);
    assert!(
        !is_step || (keeps_stores(older, newer) && agree(older, newer)),
        "a replica keeps its store: {older:?}, {newer:?}"
    );
    is_step
}

fn is_step(older: &Membership, newer: &Membership) -> bool {
    let (before, after) = (older.get_joint_config(), newer.get_joint_config());
    let (had, has) = (ids(older), ids(newer));
    let is_binding = had == has
        && older
            .nodes()
            .all(|(id, was)| newer.get_node(id).is_some_and(|now| is_kept(*was, *now)));
    if before == after {
        // Slots are bound, or learners come, or go.
        let new_are_bound = has
            .difference(&had)
            .all(|id| newer.get_node(id).is_some_and(|store| is_bound(*store)));
        let is_grown = had.is_subset(&has) && new_are_bound && keeps_slots(older, newer);
        let is_shrunk = has.is_subset(&had) && keeps_slots(older, newer);
        return is_binding || is_grown || is_shrunk;
    }
    if !keeps_slots(older, newer) {
        return false;
    }
    match (before.as_slice(), after.as_slice()) {
        ([old], [first, _]) => old == first && had == has,
        ([one, other], [left]) => {
            // Who was a voter and is none any more may go with it.
            let gone: BTreeSet<u64> = had.difference(&has).copied().collect();
            let ex_voters: BTreeSet<u64> = voters(older).difference(left).copied().collect();
            (left == other || left == one) && has.is_subset(&had) && gone.is_subset(&ex_voters)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const ANY: u128 = u128::MAX;

    fn membership(configs: &[&[u64]], nodes: &[(u64, u128)]) -> Membership {
        let nodes: BTreeMap<u64, StoreId> = nodes
            .iter()
            .map(|(id, store)| (*id, StoreId(*store)))
            .collect();
        let configs = configs
            .iter()
            .map(|voters| voters.iter().copied().collect());
        Membership::new(configs.collect(), nodes).unwrap()
    }

    /// Voters 1 to n with these stores.
    fn plain(stores: &[u128]) -> Membership {
        let nodes: Vec<(u64, u128)> = (1..).zip(stores.iter().copied()).collect();
        let voters: Vec<u64> = nodes.iter().map(|(id, _)| *id).collect();
        membership(&[&voters], &nodes)
    }

    #[test]
    fn slots_are_bound_once_and_change_in_no_other_way() {
        // (before, after, whether it may follow, whether they agree)
        let table: [(&[u128], &[u128], bool, bool); 11] = [
            (&[1, 2, 0], &[1, 2, 0], true, true),
            (&[1, 2, 0], &[1, 2, 3], true, true),
            (&[ANY, ANY, ANY], &[1, ANY, ANY], true, true),
            (&[1, 2, 3], &[1, 2, 0], false, true),
            (&[1, 2, 3], &[1, 2, ANY], false, true),
            (&[1, 2, 3], &[1, 2, 4], false, false),
            (&[1, 2, 0], &[1, 2, ANY], false, true),
            (&[1, 2, ANY], &[1, 2, 0], false, true),
            (&[1, 2, 0], &[3, 2, 1], false, false),
            (&[1, 2, 0], &[1, 2], false, true),
            (&[1, 2], &[1, 2, 0], false, true),
        ];
        for (before, after, may_follow, may_agree) in table {
            let (older, newer) = (plain(before), plain(after));
            assert_eq!(follows(&older, &newer), may_follow, "{before:?} {after:?}");
            assert_eq!(agree(&older, &newer), may_agree, "{before:?} {after:?}");
            assert_eq!(agree(&newer, &older), may_agree, "{before:?} {after:?}");
            let is_of_same = before.len() == after.len();
            assert!(!is_of_same || keeps_stores(&older, &newer) == may_follow);
        }
    }

    #[test]
    fn members_change_by_one_step_at_a_time() {
        let three: &[(u64, u128)] = &[(1, 11), (2, 12), (3, 13)];
        let four: &[(u64, u128)] = &[(1, 11), (2, 12), (3, 13), (4, 14)];
        let uniform = membership(&[&[1, 2, 3]], three);
        let with_learner = membership(&[&[1, 2, 3]], four);
        let joint = membership(&[&[1, 2, 3], &[1, 2, 4]], four);
        let left = membership(&[&[1, 2, 4]], &[(1, 11), (2, 12), (4, 14)]);
        let left_behind = membership(&[&[1, 2, 4]], four);
        let steps = [
            ("a learner comes", &uniform, &with_learner, true),
            ("a learner goes", &with_learner, &uniform, true),
            ("joint", &with_learner, &joint, true),
            ("a voter comes from nowhere", &uniform, &joint, false),
            ("the joint one is left", &joint, &left, true),
            (
                "who was a voter stays as a learner",
                &joint,
                &left_behind,
                true,
            ),
            ("it is taken back", &joint, &with_learner, true),
            ("the new voter goes with it", &joint, &uniform, true),
            (
                "not through a joint one",
                &with_learner,
                &left_behind,
                false,
            ),
            ("two steps", &uniform, &left, false),
            ("nothing leads back", &left, &joint, false),
        ];
        for (what, older, newer, expected) in steps {
            assert_eq!(follows(older, newer), expected, "{what}");
        }
        let other_store = membership(&[&[1, 2, 3]], &[(1, 11), (2, 12), (3, 99), (4, 14)]);
        let unbound = membership(&[&[1, 2, 3]], &[(1, 11), (2, 12), (3, 13), (4, 0)]);
        assert!(!follows(&uniform, &other_store) && !follows(&uniform, &unbound));
    }
}
