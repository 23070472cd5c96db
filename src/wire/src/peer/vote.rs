//! Votes, and the hand-over of a lead.

use super::{Fields, PeerVote, kinds, put_log_id, put_vote, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::ids::{LogId, NodeId};
use crate::outbox::Outbox;
use bytes::{BufMut, BytesMut};

/// A request for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteAsk {
    /// The candidate's vote.
    pub vote: PeerVote,
    /// Its last entry.
    pub last: Option<LogId>,
    /// Whether the leader handed the lead over to it.
    pub transfer: bool,
}

/// Appends a `VOTE`, or a `PRE_VOTE` if `pre`.
pub fn encode_vote(out: &mut Outbox, head: Head, pre: bool, ask: &VoteAsk) {
    let mut body = BytesMut::with_capacity(64);
    put_vote(&mut body, &ask.vote);
    put_log_id(&mut body, ask.last.as_ref());
    body.put_u8(u8::from(ask.transfer));
    let kind = if pre { kinds::PRE_VOTE } else { kinds::VOTE };
    sealed(out, head, kind, &body);
}

/// Parses a `VOTE` or `PRE_VOTE`.
///
/// # Errors
/// It is malformed.
pub fn parse_vote(frame: &Frame) -> Result<VoteAsk, DecodeError> {
    let mut fields = Fields::of(frame.body(), "vote");
    let ask = VoteAsk {
        vote: fields.vote()?,
        last: fields.log_id()?,
        transfer: fields.flag()?,
    };
    fields.end()?;
    Ok(ask)
}

/// The answer to a request for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteAnswer {
    /// The vote of the one that was asked.
    pub vote: PeerVote,
    /// Its last entry.
    pub last: Option<LogId>,
    /// Whether it grants the vote.
    pub granted: bool,
}

/// Appends a `VOTE_REPLY`.
pub fn encode_vote_reply(out: &mut Outbox, head: Head, answer: &VoteAnswer) {
    let mut body = BytesMut::with_capacity(64);
    put_vote(&mut body, &answer.vote);
    put_log_id(&mut body, answer.last.as_ref());
    body.put_u8(u8::from(answer.granted));
    sealed(out, head, kinds::VOTE_REPLY, &body);
}

/// Parses a `VOTE_REPLY`.
///
/// # Errors
/// It is malformed.
pub fn parse_vote_reply(frame: &Frame) -> Result<VoteAnswer, DecodeError> {
    let mut fields = Fields::of(frame.body(), "vote reply");
    let answer = VoteAnswer {
        vote: fields.vote()?,
        last: fields.log_id()?,
        granted: fields.flag()?,
    };
    fields.end()?;
    Ok(answer)
}

/// A leader hands over the lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The leader's vote.
    pub from: PeerVote,
    /// Who shall lead.
    pub to: NodeId,
    /// The leader's last entry.
    pub last: Option<LogId>,
}

/// Appends a `TRANSFER`.
pub fn encode_transfer(out: &mut Outbox, head: Head, transfer: &Transfer) {
    let mut body = BytesMut::with_capacity(64);
    put_vote(&mut body, &transfer.from);
    body.put_u64_le(transfer.to.0);
    put_log_id(&mut body, transfer.last.as_ref());
    sealed(out, head, kinds::TRANSFER, &body);
}

/// Parses a `TRANSFER`.
///
/// # Errors
/// It is malformed.
pub fn parse_transfer(frame: &Frame) -> Result<Transfer, DecodeError> {
    let mut fields = Fields::of(frame.body(), "transfer");
    let transfer = Transfer {
        from: fields.vote()?,
        to: NodeId(fields.u64()?),
        last: fields.log_id()?,
    };
    fields.end()?;
    Ok(transfer)
}
