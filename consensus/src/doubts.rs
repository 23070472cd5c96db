//! Whether a peer has lost what it had acknowledged to this leader.
//!
//! A follower that lacks entries which it has acknowledged is an old state of itself: its votes, and what it
//! acknowledges, would let writes vanish that others count on it for. Its store is then excluded for good, so it must
//! be certain. The leader's own memory of an acknowledgement is: what the follower took in this term only a later term
//! makes it drop, and then it answers with that. Messages may be changed on their way, so no single one suffices:
//!
//! * Only entries count as acknowledged that an append had with it. The answer to one without any names the entry
//!   before it, whether that is there or not: one bit makes a yes of a no.
//! * As many connections in turn as [`LOST_CONNECTIONS`] must say that entries are lost, and nothing else in between.

use crate::limits::LOST_CONNECTIONS;
use corelith_wire::peer::PeerVote;
use corelith_wire::{LogId, ReplicaId, StoreId};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What follows from an answer that says that entries are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Nothing: it is not known to have had them.
    None,
    /// Ask again over another connection.
    Again,
    /// It is certain.
    Proven,
}

/// A store that follows the leader by a vote of this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Follower {
    pub(crate) replica: ReplicaId,
    pub(crate) store: StoreId,
    pub(crate) vote: PeerVote,
}

#[derive(Clone, Debug)]
struct Taken {
    by: Follower,
    /// The last entry that it took.
    upto: LogId,
    /// The connections over which it has said since that it lacks some of that.
    doubts: Vec<u64>,
}

/// What one group knows of each peer.
#[derive(Debug, Default)]
pub(crate) struct StoreDoubts(RefCell<BTreeMap<ReplicaId, Taken>>);

impl StoreDoubts {
    /// The follower has taken entries up to that one.
    pub(crate) fn took(&self, by: Follower, upto: LogId) {
        let mut taken = self.0.borrow_mut();
        let before = taken.get(&by.replica).filter(|taken| taken.by == by);
        let upto = before.map_or(upto, |before| before.upto.max(upto));
        let doubts = Vec::new();
        taken.insert(by.replica, Taken { by, upto, doubts });
    }

    /// The peer has what it was asked about.
    pub(crate) fn dispel(&self, peer: ReplicaId) {
        if let Some(taken) = self.0.borrow_mut().get_mut(&peer) {
            taken.doubts.clear();
        }
    }

    /// The follower has said over its so manieth `connection` that it lacks the entry `at`.
    pub(crate) fn lost(&self, by: Follower, at: LogId, connection: u64) -> Doubt {
        let mut taken = self.0.borrow_mut();
        let known = taken.get_mut(&by.replica).filter(|taken| taken.by == by);
        let Some(taken) = known.filter(|taken| at.index <= taken.upto.index) else {
            return Doubt::None;
        };
        if !taken.doubts.contains(&connection) {
            taken.doubts.push(connection);
        }
        match taken.doubts.len() < LOST_CONNECTIONS {
            true => Doubt::Again,
            false => {
                // Said once; it is for others to act.
                taken.doubts.clear();
                Doubt::Proven
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Doubt, Follower, StoreDoubts};
    use corelith_wire::peer::PeerVote;
    use corelith_wire::{LogId, LogIndex, ReplicaId, StoreId, Term};

    fn by(store: u128, term: u64) -> Follower {
        let vote = PeerVote {
            term: Term(term),
            node: ReplicaId(1),
            committed: true,
        };
        Follower {
            replica: ReplicaId(2),
            store: StoreId(store),
            vote,
        }
    }

    fn at(index: u64) -> LogId {
        LogId {
            term: Term(3),
            node: ReplicaId(1),
            index: LogIndex(index),
        }
    }

    #[derive(Clone, Copy)]
    enum Said {
        /// It took entries up to that one.
        Took(u64),
        /// It has what comes before a heartbeat.
        Has,
        /// The entry, the connection, the store and the term of one who lacks it.
        Lacks(u64, u64, u128, u64),
    }

    #[test]
    fn only_several_connections_in_turn_are_certain() {
        use Said::{Has, Lacks, Took};
        let lost = |connection| Lacks(5, connection, 7, 3);
        let table: [(&str, &[Said], bool); 9] = [
            ("once", &[Took(5), lost(1)], false),
            (
                "often, over one",
                &[Took(5), lost(1), lost(1), lost(1)],
                false,
            ),
            (
                "over two",
                &[Took(5), lost(1), lost(2), lost(2), lost(1)],
                false,
            ),
            (
                "over three",
                &[Took(9), lost(1), lost(2), lost(2), lost(3)],
                true,
            ),
            (
                "with another answer in between",
                &[Took(5), lost(1), lost(2), Has, lost(3), lost(4)],
                false,
            ),
            (
                "with entries taken in between",
                &[Took(5), lost(1), lost(2), Took(6), lost(3), lost(4)],
                false,
            ),
            ("never taken", &[lost(1), lost(2), lost(3)], false),
            (
                "said to be there, never taken",
                &[Took(4), Has, lost(1), lost(2), lost(3)],
                false,
            ),
            (
                "another store, another term",
                &[
                    Took(5),
                    lost(1),
                    Lacks(5, 2, 8, 3),
                    lost(2),
                    Lacks(5, 3, 7, 4),
                ],
                false,
            ),
        ];
        for (what, answers, expected) in table {
            let doubts = StoreDoubts::default();
            let mut is_proven = false;
            for said in answers {
                match *said {
                    Took(upto) => doubts.took(by(7, 3), at(upto)),
                    Has => doubts.dispel(ReplicaId(2)),
                    Lacks(index, connection, store, term) => {
                        let doubt = doubts.lost(by(store, term), at(index), connection);
                        is_proven |= doubt == Doubt::Proven;
                    }
                }
            }
            assert_eq!(is_proven, expected, "{what}");
        }
    }
}
