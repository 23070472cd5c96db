//! What a peer may answer.

use super::{Known, Refusal, leader_of, leader_of_vote, within};
use corelith_shards::{LogId, Term};
use corelith_wire::peer::{AppendResult, GivenPoint, PeerVote, VoteAnswer};

/// The answer to a request for a vote.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn vote_answer(
    known: &Known<'_>,
    pre: bool,
    asked: &PeerVote,
    answer: &VoteAnswer,
) -> Result<(), Refusal> {
    if answer.granted && !pre && answer.vote != *asked {
        return Err(Refusal::Answer);
    }
    // Term 0 says that it never voted.
    if answer.vote.term != Term(0) {
        // Of the answer to a question only the term is used. The vote may name a replica that is gone for good, and that
        // the membership of the one that asks has left out.
        match pre {
            true => known.term(answer.vote.term)?,
            false => known.heard(&answer.vote)?,
        }
    }
    within(answer.last, leader_of_vote(&answer.vote))
}

/// What was sent to a peer: `before` its entries, and the last of them (`before` if it had none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) vote: PeerVote,
    pub(crate) before: Option<LogId>,
    pub(crate) last: Option<LogId>,
}

/// The answer to an append or a heartbeat. `matched` is the last entry that the peer has
/// acknowledged to this leader.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn append_answer(
    known: &Known<'_>,
    sent: &Sent,
    matched: Option<LogId>,
    result: &AppendResult,
) -> Result<(), Refusal> {
    match *result {
        AppendResult::Taken { matching } if matching == sent.last => Ok(()),
        AppendResult::Taken { .. } => Err(Refusal::Answer),
        AppendResult::Conflict { at } if Some(at) != sent.before => Err(Refusal::Answer),
        AppendResult::Conflict { at }
            if matched.is_some_and(|matched| at.index <= matched.index) =>
        {
            Err(Refusal::Lost(at))
        }
        AppendResult::Conflict { .. }
        | AppendResult::Contradiction { .. }
        | AppendResult::Unable => Ok(()),
        AppendResult::HigherVote { vote } => higher(known, &sent.vote, &vote),
    }
}

/// A vote that a peer prefers to that of this leader.
fn higher(known: &Known<'_>, ours: &PeerVote, vote: &PeerVote) -> Result<(), Refusal> {
    known.heard(vote)?;
    match leader_of_vote(vote) > leader_of_vote(ours) {
        true => Ok(()),
        false => Err(Refusal::Answer),
    }
}

/// The answer to a snapshot.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn snapshot_answer(
    known: &Known<'_>,
    sent: &PeerVote,
    vote: &PeerVote,
) -> Result<(), Refusal> {
    match vote == sent {
        true => Ok(()),
        false => higher(known, sent, vote),
    }
}

/// The read point that a leader names: an entry of its own.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn read_point(known: &Known<'_>, given: &GivenPoint) -> Result<(), Refusal> {
    known.claim(&given.vote, true)?;
    within(Some(given.upto), leader_of_vote(&given.vote))?;
    match leader_of(given.upto) == leader_of_vote(&given.vote) {
        true => Ok(()),
        false => Err(Refusal::Order(given.upto)),
    }
}
