//! Snapshots on their way to a follower.

use super::{Fields, PeerVote, VOTE_BYTES, kinds, put_vote, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head, Kind};
use crate::outbox::Outbox;
use bytes::{BufMut, Bytes, BytesMut};

/// Appends a `SNAPSHOT_BEGIN` or `SNAPSHOT_END`, with the number of the transfer and the leader's
/// vote.
pub fn encode_snapshot(out: &mut Outbox, head: Head, kind: Kind, transfer: u64, vote: &PeerVote) {
    let mut body = BytesMut::with_capacity(32);
    body.put_u64_le(transfer);
    put_vote(&mut body, vote);
    sealed(out, head, kind, &body);
}

/// Parses a `SNAPSHOT_BEGIN` or `SNAPSHOT_END`.
///
/// # Errors
/// It is malformed.
pub fn parse_snapshot(frame: &Frame) -> Result<(u64, PeerVote), DecodeError> {
    let mut fields = Fields::of(frame.body(), "snapshot");
    let parsed = (fields.u64()?, fields.vote()?);
    fields.end()?;
    Ok(parsed)
}

/// Appends a `SNAPSHOT_PIECE`, sent from where it is.
pub fn encode_snapshot_piece(out: &mut Outbox, head: Head, transfer: u64, piece: Bytes) {
    let head = Head {
        kind: kinds::SNAPSHOT_PIECE,
        ..head
    };
    let frame = out.begin_mixed(head);
    out.buffer().put_u64_le(transfer);
    out.value(piece);
    out.seal_mixed(frame, 8);
}

/// Parses a `SNAPSHOT_PIECE`; the piece shares the frame's memory.
///
/// # Errors
/// It is malformed.
pub fn parse_snapshot_piece(frame: &Frame) -> Result<(u64, Bytes), DecodeError> {
    let mut fields = Fields::of(frame.body(), "snapshot piece");
    let transfer = fields.u64()?;
    fields.end()?;
    Ok((transfer, frame.value()))
}

/// Appends a `SNAPSHOT_REPLY`.
pub fn encode_snapshot_reply(out: &mut Outbox, head: Head, vote: &PeerVote) {
    let mut body = BytesMut::with_capacity(VOTE_BYTES);
    put_vote(&mut body, vote);
    sealed(out, head, kinds::SNAPSHOT_REPLY, &body);
}

/// Parses a `SNAPSHOT_REPLY`.
///
/// # Errors
/// It is malformed.
pub fn parse_snapshot_reply(frame: &Frame) -> Result<PeerVote, DecodeError> {
    let mut fields = Fields::of(frame.body(), "snapshot reply");
    let vote = fields.vote()?;
    fields.end()?;
    Ok(vote)
}
