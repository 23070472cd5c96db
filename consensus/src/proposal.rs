//! A proposal on its way: its answer, and its share of the budget.

use crate::command::WriteReply;
use crate::error::GroupError;
use crate::options::Options;
use crate::planted::{Bug, is_planted};
use crate::types::Types;
use corelith_io::sync::notify::Notify;
use corelith_shards::{NodeId, ReplicaId};
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use std::cell::Cell;
use std::rc::Rc;

/// What openraft calls when a proposal is decided. If openraft drops it undecided, as it does when
/// it stops, it is called with `None`.
pub(crate) struct Responder<T: 'static> {
    complete: Option<Box<dyn FnOnce(Option<T>)>>,
}

impl<T> Responder<T> {
    /// Makes one that calls `complete` exactly once.
    pub(crate) fn new(complete: impl FnOnce(Option<T>) + 'static) -> Self {
        Self {
            complete: Some(Box::new(complete)),
        }
    }
}

impl<T: 'static> openraft::raft::responder::Responder<Types, T> for Responder<T> {
    fn on_complete(mut self, result: T) {
        let complete = self.complete.take();
        assert!(complete.is_some(), "a proposal is decided twice");
        if let Some(complete) = complete {
            complete(Some(result));
        }
    }
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        if let Some(complete) = self.complete.take() {
            complete(None);
        }
    }
}

/// The answer to a decided proposal.
pub(crate) fn answer(result: ClientWriteResult<Types>) -> Result<WriteReply, GroupError> {
    match result {
        Ok(response) => Ok(response.data),
        Err(ClientWriteError::ForwardToLeader(forward)) => Err(refusal(&forward)),
        Err(ClientWriteError::LogEntryDiscarded(forward)) => Err(GroupError::LeadershipLost {
            leader: forward.leader_id.map(node_of),
        }),
        Err(
            ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_),
        ) => Err(GroupError::Unavailable),
    }
}

/// The node of a replica, as openraft has it.
pub(crate) fn node_of(replica: u64) -> NodeId {
    ReplicaId(replica).node()
}

/// Why a leader's work was refused before anything was proposed.
pub(crate) fn refusal(forward: &ForwardToLeader<Types>) -> GroupError {
    match forward.reason {
        ForwardReason::LeaseExpired => GroupError::Unavailable,
        _ => GroupError::NotLeader {
            leader: forward.leader_id.map(node_of),
        },
    }
}

/// Invariant: `count` and `bytes` are what the [`Share`]s that are alive add up to.
#[derive(Debug)]
struct ProposalsInFlight {
    count: Cell<usize>,
    bytes: Cell<usize>,
    count_max: usize,
    bytes_max: usize,
    /// Told of each share that is given back.
    given_back: Notify,
}

/// How much may be proposed before it is answered.
#[derive(Clone, Debug)]
pub(crate) struct ProposalBudget(Rc<ProposalsInFlight>);

/// A proposal's share of the [`ProposalBudget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Rc<ProposalsInFlight>,
    bytes: usize,
}

impl ProposalBudget {
    /// As a group's options say.
    pub(crate) fn of(options: &Options) -> Self {
        Self::new(
            options.proposals_in_flight,
            options.proposal_bytes_in_flight,
        )
    }

    /// A budget of that many proposals and bytes.
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Self {
        Self(Rc::new(ProposalsInFlight {
            count: Cell::new(0),
            bytes: Cell::new(0),
            count_max,
            bytes_max,
            given_back: Notify::new(),
        }))
    }

    /// A share for a proposal of `bytes`; `None` if the budget is used up. A proposal larger than
    /// the whole budget passes when it is alone.
    pub(crate) fn take(&self, bytes: usize) -> Option<Share> {
        let ProposalsInFlight {
            count,
            bytes: used,
            count_max,
            bytes_max,
            ..
        } = &*self.0;
        let fits = used.get().saturating_add(bytes) <= *bytes_max || used.get() == 0;
        let is_full = count.get() >= *count_max || !fits;
        if is_full && !is_planted(Bug::UnboundedProposals) {
            return None;
        }
        count.set(count.get() + 1);
        used.set(used.get() + bytes);
        assert!(
            count.get() <= *count_max || is_planted(Bug::UnboundedProposals),
            "{} proposals of {count_max}",
            count.get()
        );
        Some(Share {
            budget: Rc::clone(&self.0),
            bytes,
        })
    }
}

impl ProposalBudget {
    /// Bytes that are proposed and not answered.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes.get()
    }

    /// Waits until a share is given back.
    pub(crate) async fn given_back(&self) {
        self.0.given_back.notified().await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let ProposalsInFlight { count, bytes, .. } = &*self.budget;
        assert!(
            count.get() > 0 && bytes.get() >= self.bytes,
            "{self:?} is given back twice"
        );
        count.set(count.get() - 1);
        bytes.set(bytes.get() - self.bytes);
        self.budget.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_bounds_count_and_bytes() {
        let budget = ProposalBudget::new(2, 100);
        let first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none(), "more bytes than are left");
        let second = budget.take(40).unwrap();
        assert!(budget.take(0).is_none(), "more proposals than allowed");
        drop(first);
        drop(second);
        let large = budget.take(1000).unwrap();
        assert!(budget.take(1).is_none());
        drop(large);
        assert!(budget.take(1).is_some());
    }

    #[test]
    fn a_responder_answers_exactly_once() {
        use openraft::raft::responder::Responder as _;
        let answers = Rc::new(Cell::new(Vec::new()));
        let note = |answers: &Rc<Cell<Vec<Option<u8>>>>| {
            let answers = Rc::clone(answers);
            move |answer| {
                let mut all = answers.take();
                all.push(answer);
                answers.set(all);
            }
        };
        Responder::new(note(&answers)).on_complete(1);
        drop(Responder::new(note(&answers)));
        assert_eq!(answers.take(), [Some(1), None]);
    }
}
