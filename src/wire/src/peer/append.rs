//! Entries of a log on their way to a follower, and what became of them.

use super::liveness::PromiseEpoch;
use super::{Fields, LOG_ID_BYTES, PeerVote, VOTE_BYTES, kinds, put_log_id, put_vote, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::ids::LogId;
use crate::limits::DETACH_BYTES_MIN;
use crate::outbox::Outbox;
use crate::width::u32_len;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of an append result.
pub(super) const RESULT_BYTES: usize = 53;
/// Bytes of an entry before its body.
pub const ENTRY_HEAD_BYTES: usize = 29;
/// Bytes of the body of an `APPEND`.
const APPEND_HEAD_BYTES: usize = VOTE_BYTES + 2 * LOG_ID_BYTES + 4;

const _: () = assert!(DETACH_BYTES_MIN > ENTRY_HEAD_BYTES);

/// What an `APPEND` says beside its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendHead {
    /// The leader's vote.
    pub vote: PeerVote,
    /// The entry before the first.
    pub before: Option<LogId>,
    /// Everything up to it is committed.
    pub committed: Option<LogId>,
    /// How many entries follow.
    pub count: u32,
}

/// An entry in an `APPEND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// Its log id.
    pub id: LogId,
    /// What its body is.
    pub kind: u8,
    /// The body; on the receiving side a slice of the receive buffer.
    pub body: Bytes,
}

/// Appends an `APPEND` frame. Bodies of [`DETACH_BYTES_MIN`] and more are sent from where they are.
pub fn encode_append(
    out: &mut Outbox,
    head: Head,
    append: &AppendHead,
    entries: impl Iterator<Item = PeerEntry>,
) {
    let head = Head {
        kind: kinds::APPEND,
        ..head
    };
    let frame = out.begin_mixed(head);
    let buffer = out.buffer();
    put_vote(buffer, &append.vote);
    put_log_id(buffer, append.before.as_ref());
    put_log_id(buffer, append.committed.as_ref());
    buffer.put_u32_le(append.count);
    for entry in entries {
        let buffer = out.buffer();
        put_log_id(buffer, Some(&entry.id));
        buffer.put_u8(entry.kind);
        buffer.put_u32_le(u32_len(entry.body.len()));
        out.value(entry.body);
    }
    out.seal_mixed(frame, APPEND_HEAD_BYTES);
}

/// Parses an `APPEND` frame; the entries share its memory.
///
/// # Errors
/// It is malformed.
pub fn parse_append(frame: &Frame) -> Result<(AppendHead, Vec<PeerEntry>), DecodeError> {
    let what = "append";
    let mut fields = Fields::of(frame.body(), what);
    let append = AppendHead {
        vote: fields.vote()?,
        before: fields.log_id()?,
        committed: fields.log_id()?,
        count: fields.u32()?,
    };
    fields.end()?;
    let mut rest = frame.value();
    // Every entry takes at least its head, so a lying count costs no memory.
    if append.count as usize > rest.len() / ENTRY_HEAD_BYTES {
        return Err(DecodeError::Malformed { what });
    }
    let mut entries = Vec::with_capacity(append.count as usize);
    for _ in 0..append.count {
        let mut fields = Fields::of(&rest, what);
        let id = fields.log_id()?.ok_or(DecodeError::Malformed { what })?;
        let kind = fields.u8()?;
        let len = fields.u32()? as usize;
        rest.advance(ENTRY_HEAD_BYTES);
        if len > rest.len() {
            return Err(DecodeError::Malformed { what });
        }
        let body = rest.split_to(len);
        entries.push(PeerEntry { id, kind, body });
    }
    if !rest.is_empty() {
        return Err(DecodeError::Malformed { what });
    }
    Ok((append, entries))
}

/// What became of an append or a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResult {
    /// Everything up to `matching` is durable at the follower and equal to the leader's.
    Taken {
        /// The last such entry.
        matching: Option<LogId>,
    },
    /// The follower does not have the entry `at` that should come before.
    Conflict {
        /// That entry.
        at: LogId,
    },
    /// The follower knows of a higher vote.
    HigherVote {
        /// That vote.
        vote: PeerVote,
    },
    /// The follower cannot take part now.
    Unable,
    /// What the follower holds for good differs from the leader's log.
    Contradiction {
        /// Where it was seen to.
        at: LogId,
    },
}

/// Writes an append result and the epoch of the follower's promise.
pub(super) fn put_result(out: &mut BytesMut, result: &AppendResult, epoch: PromiseEpoch) {
    let (tag, log_id, vote) = match result {
        AppendResult::Taken { matching } => (0, matching.as_ref(), PeerVote::default()),
        AppendResult::Conflict { at } => (1, Some(at), PeerVote::default()),
        AppendResult::HigherVote { vote } => (2, None, *vote),
        AppendResult::Unable => (3, None, PeerVote::default()),
        AppendResult::Contradiction { at } => (4, Some(at), PeerVote::default()),
    };
    out.put_u8(tag);
    put_log_id(out, log_id);
    put_vote(out, &vote);
    out.put_u8(tag);
    out.put_u16_le(0);
    out.put_u64_le(epoch.0);
}

/// Appends the answer to an `APPEND`; `epoch` is that of the follower's node towards the leader's, from before
/// the append was taken.
pub fn encode_append_reply(
    out: &mut Outbox,
    head: Head,
    result: &AppendResult,
    epoch: PromiseEpoch,
) {
    let mut body = BytesMut::with_capacity(RESULT_BYTES);
    put_result(&mut body, result, epoch);
    sealed(out, head, kinds::APPEND_REPLY, &body);
}

/// Parses the answer to an `APPEND`.
///
/// # Errors
/// It is malformed.
pub fn parse_append_reply(frame: &Frame) -> Result<(AppendResult, PromiseEpoch), DecodeError> {
    let mut fields = Fields::of(frame.body(), "append reply");
    let answer = result(&mut fields)?;
    fields.end()?;
    Ok(answer)
}

/// Reads an append result and an epoch. The tag is there twice, since one that is wrong makes a
/// refusal an acknowledgement.
pub(super) fn result(fields: &mut Fields<'_>) -> Result<(AppendResult, PromiseEpoch), DecodeError> {
    let tag = fields.u8()?;
    let log_id = fields.log_id()?;
    let vote = fields.vote()?;
    let again = fields.u8()?;
    fields.u16()?;
    let epoch = PromiseEpoch(fields.u64()?);
    if again != tag {
        return Err(fields.malformed());
    }
    let result = match (tag, log_id) {
        (0, matching) => AppendResult::Taken { matching },
        (1, Some(at)) => AppendResult::Conflict { at },
        (2, _) => AppendResult::HigherVote { vote },
        (3, _) => AppendResult::Unable,
        (4, Some(at)) => AppendResult::Contradiction { at },
        _ => return Err(fields.malformed()),
    };
    Ok((result, epoch))
}
