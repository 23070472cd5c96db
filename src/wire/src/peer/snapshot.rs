//! Snapshots: the files that a leader offers to a follower, which asks for pieces of them.

use super::{Fields, PeerVote, VOTE_BYTES, kinds, put_vote, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::outbox::Outbox;
use bytes::{BufMut, Bytes, BytesMut};

/// Appends a `SNAPSHOT_OFFER`, with the number of the transfer and the leader's vote.
pub fn encode_snapshot_offer(out: &mut Outbox, head: Head, transfer: u64, vote: &PeerVote) {
    let mut body = BytesMut::with_capacity(32);
    body.put_u64_le(transfer);
    put_vote(&mut body, vote);
    sealed(out, head, kinds::SNAPSHOT_OFFER, &body);
}

/// Parses a `SNAPSHOT_OFFER`.
///
/// # Errors
/// It is malformed.
pub fn parse_snapshot_offer(frame: &Frame) -> Result<(u64, PeerVote), DecodeError> {
    let mut fields = Fields::of(frame.body(), "snapshot offer");
    let parsed = (fields.u64()?, fields.vote()?);
    fields.end()?;
    Ok(parsed)
}

/// What is asked for of what a transfer offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileAsk {
    /// The transfer.
    pub transfer: u64,
    /// The file; none for the list of files.
    pub file: Option<u128>,
    /// From here on.
    pub offset: u64,
}

/// Appends a `FILE_PIECE`.
pub fn encode_file_ask(out: &mut Outbox, head: Head, ask: &FileAsk) {
    let mut body = BytesMut::with_capacity(33);
    body.put_u64_le(ask.transfer);
    body.put_u8(ask.file.is_some().into());
    body.put_u128_le(ask.file.unwrap_or(0));
    body.put_u64_le(ask.offset);
    sealed(out, head, kinds::FILE_PIECE, &body);
}

/// Parses a `FILE_PIECE`.
///
/// # Errors
/// It is malformed.
pub fn parse_file_ask(frame: &Frame) -> Result<FileAsk, DecodeError> {
    let mut fields = Fields::of(frame.body(), "file piece");
    let transfer = fields.u64()?;
    let (is_file, file) = (fields.flag()?, fields.u128()?);
    let offset = fields.u64()?;
    fields.end()?;
    Ok(FileAsk {
        transfer,
        file: is_file.then_some(file),
        offset,
    })
}

/// Bytes of a file or of the list of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBytes {
    /// Length of all of it.
    pub whole: u64,
    /// The checksum of these.
    pub crc: u32,
    /// These.
    pub bytes: Bytes,
}

/// Appends a `FILE_BYTES`, sent from where it is.
pub fn encode_file_bytes(out: &mut Outbox, head: Head, piece: FileBytes) {
    let head = Head {
        kind: kinds::FILE_BYTES,
        ..head
    };
    let frame = out.begin_mixed(head);
    out.buffer().put_u64_le(piece.whole);
    out.buffer().put_u32_le(piece.crc);
    out.value(piece.bytes);
    out.seal_mixed(frame, 12);
}

/// Parses a `FILE_BYTES`; the bytes share the frame's memory.
///
/// # Errors
/// It is malformed.
pub fn parse_file_bytes(frame: &Frame) -> Result<FileBytes, DecodeError> {
    let mut fields = Fields::of(frame.body(), "file bytes");
    let (whole, crc) = (fields.u64()?, fields.u32()?);
    fields.end()?;
    Ok(FileBytes {
        whole,
        crc,
        bytes: frame.value(),
    })
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
