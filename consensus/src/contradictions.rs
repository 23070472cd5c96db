//! Which followers refuse a leader's log, since what they hold for good differs from it.
//!
//! Leaders hold all that is committed, so it takes an entry that was changed on its way to one of them. Such a
//! leader finds no majority for anything; another replica that holds what the followers hold does.
//!
//! Invariant: a follower is counted only once it has refused twice with nothing taken in between, under one
//! vote. It may refuse an append because of one that was changed before, which it forgets with that.

use corelith_wire::ReplicaId;
use corelith_wire::peer::PeerVote;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What the leader of a group remembers of its core's followers.
#[derive(Debug, Default)]
pub(crate) struct Contradictions(RefCell<BTreeMap<ReplicaId, (PeerVote, u32)>>);

/// So many refusals in a row make certain that it is the log, and not one message.
const CERTAIN: u32 = 2;

impl Contradictions {
    /// Notes that `by` refused an append or heartbeat of the leader with `vote`.
    pub(crate) fn refused(&self, by: ReplicaId, vote: PeerVote) {
        let mut all = self.0.borrow_mut();
        let (under, times) = all.entry(by).or_insert((vote, 0));
        if *under != vote {
            (*under, *times) = (vote, 0);
        }
        *times = times.saturating_add(1);
    }

    /// Notes that `by` took one.
    pub(crate) fn took(&self, by: ReplicaId) {
        self.0.borrow_mut().remove(&by);
    }

    /// Those that certainly hold something else than the leader with `vote`.
    pub(crate) fn of(&self, vote: PeerVote) -> BTreeSet<ReplicaId> {
        let all = self.0.borrow();
        let certain = |(under, times): &(PeerVote, u32)| *under == vote && *times >= CERTAIN;
        let certain = all.iter().filter(|(_, refused)| certain(refused));
        let certain: BTreeSet<_> = certain.map(|(by, _)| *by).collect();
        assert!(
            certain.len() <= all.len(),
            "{certain:?} are counted without a refusal"
        );
        certain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_wire::Term;

    fn vote(term: u64) -> PeerVote {
        PeerVote {
            term: Term(term),
            node: ReplicaId(1),
            committed: true,
        }
    }

    #[test]
    fn two_refusals_in_a_row_under_one_vote_are_certain() {
        let (two, three) = (ReplicaId(2), ReplicaId(3));
        let all = Contradictions::default();
        all.refused(two, vote(4));
        assert!(all.of(vote(4)).is_empty(), "one message may be changed");
        all.refused(two, vote(4));
        assert_eq!(all.of(vote(4)), BTreeSet::from([two]));
        assert!(all.of(vote(5)).is_empty(), "another lead, another log");
        all.refused(two, vote(5));
        assert!(all.of(vote(5)).is_empty(), "it begins anew");
        all.refused(three, vote(5));
        all.took(three);
        all.refused(three, vote(5));
        assert!(all.of(vote(5)).is_empty(), "what was taken fits");
    }
}
