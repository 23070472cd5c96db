//! Votes, and the hand-over of a lead.

use super::{Fields, PeerVote, kinds, put_log_id, put_vote, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::ids::{LogId, ReplicaId, Term};
use crate::outbox::Outbox;
use bytes::{BufMut, BytesMut};

/// A request for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteAsk {
    /// The candidate's vote.
    pub vote: PeerVote,
    /// Its last entry.
    pub last: Option<LogId>,
    /// The leader that handed its lead over to the candidate, if one did: term and replica.
    pub handed_over_by: Option<(Term, ReplicaId)>,
}

/// Appends a `VOTE`, or a `PRE_VOTE` if `pre`.
pub fn encode_vote(out: &mut Outbox, head: Head, pre: bool, ask: &VoteAsk) {
    let mut body = BytesMut::with_capacity(64);
    put_vote(&mut body, &ask.vote);
    put_log_id(&mut body, ask.last.as_ref());
    let (term, node) = ask.handed_over_by.unwrap_or_default();
    body.put_u8(u8::from(ask.handed_over_by.is_some()));
    body.put_u64_le(term.0);
    body.put_u64_le(node.0);
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
        handed_over_by: {
            let is_handed_over = fields.flag()?;
            let by = (Term(fields.u64()?), ReplicaId(fields.u64()?));
            is_handed_over.then_some(by)
        },
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
    /// How long the promise that keeps it from that still runs, in milliseconds.
    pub promised_ms: u32,
}

/// Appends a `VOTE_REPLY`.
pub fn encode_vote_reply(out: &mut Outbox, head: Head, answer: &VoteAnswer) {
    let mut body = BytesMut::with_capacity(64);
    put_vote(&mut body, &answer.vote);
    put_log_id(&mut body, answer.last.as_ref());
    body.put_u8(u8::from(answer.granted));
    body.put_u32_le(answer.promised_ms);
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
        promised_ms: fields.u32()?,
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
    pub to: ReplicaId,
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
        to: ReplicaId(fields.u64()?),
        last: fields.log_id()?,
    };
    fields.end()?;
    Ok(transfer)
}

/// Appends a `LEAD`: does the node still lead `shard` with this vote?
pub fn encode_lead(out: &mut Outbox, head: Head, vote: &PeerVote) {
    let mut body = BytesMut::with_capacity(32);
    put_vote(&mut body, vote);
    sealed(out, head, kinds::LEAD, &body);
}

/// Parses a `LEAD`.
///
/// # Errors
/// It is malformed.
pub fn parse_lead(frame: &Frame) -> Result<PeerVote, DecodeError> {
    let mut fields = Fields::of(frame.body(), "lead");
    let vote = fields.vote()?;
    fields.end()?;
    Ok(vote)
}

/// Appends a `LEAD_REPLY`: whether the node leads with the vote that was asked about, and has not resigned.
pub fn encode_lead_reply(out: &mut Outbox, head: Head, leads: bool) {
    sealed(out, head, kinds::LEAD_REPLY, &[u8::from(leads)]);
}

/// Parses a `LEAD_REPLY`.
///
/// # Errors
/// It is malformed.
pub fn parse_lead_reply(frame: &Frame) -> Result<bool, DecodeError> {
    let mut fields = Fields::of(frame.body(), "lead reply");
    let leads = fields.flag()?;
    fields.end()?;
    Ok(leads)
}
