//! How a replica finds back to terms that are out of its reach.
//!
//! A changed message says something else each time, a leader or candidate says the same over and over. So a
//! claim that a peer repeats lets the own term rise by one step, which brings the claim nearer: a replica
//! that was left k steps behind is back after k + 1 rounds of claims, and whoever wants to move a term up
//! to [`TERM_MAX`] needs several times 65,536 messages.
//!
//! Invariants:
//! * A term rises by no more than a step, and stays below the claim for whose sake it rises.
//! * Any other message of the same peer begins the count anew.

use crate::limits::{TERM_CLAIMS, TERM_MAX, TERM_STEP_MAX};
use corelith_shards::{ReplicaId, Term};
use corelith_wire::peer::PeerVote;

/// The claim out of reach that was heard last, and how often without anything else of its peer.
#[derive(Debug, Default)]
pub(crate) struct Reach(Option<(PeerVote, u32)>);

impl Reach {
    /// Takes note that a message of `peer` was within reach.
    pub(crate) fn heard(&mut self, peer: ReplicaId) {
        self.0.take_if(|(vote, _)| vote.node == peer);
    }

    /// Takes note that the claim `vote` of a peer is out of reach of `ours`. Returns the term to rise to if
    /// it was repeated often enough.
    pub(crate) fn refused(&mut self, vote: PeerVote, ours: Term) -> Option<Term> {
        let near = Term(ours.0.saturating_add(TERM_STEP_MAX));
        if vote.term <= near || vote.term.0 > TERM_MAX {
            // It is none, or no group gets there.
            self.heard(vote.node);
            return None;
        }
        let before = match self.0 {
            Some((claimed, count)) if claimed == vote => count,
            _ => 0,
        };
        let count = before + 1;
        assert!(count <= TERM_CLAIMS, "{count} claims let no term rise");
        self.0 = (count < TERM_CLAIMS).then_some((vote, count));
        (count == TERM_CLAIMS).then_some(near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Term = Term(7);

    fn claim(steps: u64, node: u64) -> PeerVote {
        PeerVote {
            term: Term(OURS.0 + steps * TERM_STEP_MAX + 1),
            node: ReplicaId(node),
            committed: true,
        }
    }

    #[test]
    fn a_repeated_claim_lets_the_term_rise_a_step() {
        let mut reach = Reach::default();
        for _ in 0..2 {
            for _ in 1..TERM_CLAIMS {
                assert_eq!(reach.refused(claim(3, 2), OURS), None);
            }
            let risen = reach.refused(claim(3, 2), OURS);
            assert_eq!(risen, Some(Term(OURS.0 + TERM_STEP_MAX)));
        }
    }

    #[test]
    fn other_messages_begin_the_count_anew() {
        type Meanwhile = fn(&mut Reach) -> Option<Term>;
        let anew: [(&str, Meanwhile); 4] = [
            ("a message within reach", |reach| {
                reach.heard(ReplicaId(2));
                None
            }),
            ("another claim", |reach| reach.refused(claim(4, 2), OURS)),
            ("of another peer", |reach| reach.refused(claim(3, 3), OURS)),
            ("beyond all terms", |reach| {
                let beyond = PeerVote {
                    term: Term(TERM_MAX + 1),
                    ..claim(3, 2)
                };
                reach.refused(beyond, OURS)
            }),
        ];
        for (what, meanwhile) in anew {
            let mut reach = Reach::default();
            for _ in 0..10 {
                for _ in 1..TERM_CLAIMS {
                    assert_eq!(reach.refused(claim(3, 2), OURS), None, "{what}");
                }
                assert_eq!(meanwhile(&mut reach), None, "{what}");
            }
        }
        let mut reach = Reach::default();
        for _ in 1..TERM_CLAIMS {
            assert_eq!(reach.refused(claim(3, 2), OURS), None);
        }
        reach.heard(ReplicaId(3));
        assert!(reach.refused(claim(3, 2), OURS).is_some());
    }
}
