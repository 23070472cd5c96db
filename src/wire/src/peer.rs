//! What the cores of two nodes say to each other about the Raft groups of the shards they share.
//!
//! A node asks over connections that it opened itself; answers come back on the same connection,
//! in any order. Lists of small records are raw little-endian bytes in the value part of a frame,
//! since their lengths are plain:
//!
//! ```text
//! entries of an APPEND, count in its head        records of HEARTBEATS (85 bytes each)
//!   8  term                                        8  beat     pairs the answer
//!   8  node                                        4  shard
//!   8  index                                      17  vote
//!   1  kind                                       24  log id before (optional)
//!   4  length of the body                         24  commit log id (optional)
//!   n  body                                        8  zero
//! records of HEARTBEATS_REPLY (57 bytes each)
//!   8  beat
//!   4  shard
//!  45  append result
//! vote:           8 term, 8 node, 1 committed
//! log id:         8 term, 8 node, 8 index; index 2^64-1 stands for "none"
//! append result:  1 tag, 24 log id, 17 vote, 3 zero
//! ```

use crate::error::DecodeError;
use crate::frame::{Frame, FrameBuilder, Head, Kind};
use crate::limits::{DETACH_BYTES_MIN, HEADER_BYTES};
use crate::outbox::Outbox;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The kinds of frames between nodes.
pub mod kinds {
    use crate::frame::Kind;

    /// Take these entries; also says up to where entries are committed.
    pub const APPEND: Kind = Kind(0x100);
    /// Heartbeats of any number of shards.
    pub const HEARTBEATS: Kind = Kind(0x101);
    /// A request for a vote.
    pub const VOTE: Kind = Kind(0x102);
    /// Would a vote be granted?
    pub const PRE_VOTE: Kind = Kind(0x103);
    /// Take over the lead, or stop relying on the lease of the leader who hands it over.
    pub const TRANSFER: Kind = Kind(0x104);
    /// A snapshot begins.
    pub const SNAPSHOT_BEGIN: Kind = Kind(0x105);
    /// A piece of it, opaque here.
    pub const SNAPSHOT_PIECE: Kind = Kind(0x106);
    /// All pieces were sent: install it.
    pub const SNAPSHOT_END: Kind = Kind(0x107);

    /// Answer to an `APPEND`.
    pub const APPEND_REPLY: Kind = Kind(0x180);
    /// Answers to some of the heartbeats of one or several frames.
    pub const HEARTBEATS_REPLY: Kind = Kind(0x181);
    /// Answer to a `VOTE` or `PRE_VOTE`.
    pub const VOTE_REPLY: Kind = Kind(0x182);
    /// Answer: done.
    pub const DONE: Kind = Kind(0x183);
    /// Answer to a `SNAPSHOT_END`, with the vote of the follower.
    pub const SNAPSHOT_REPLY: Kind = Kind(0x184);
    /// Answer: not done, ask again later.
    pub const REFUSED: Kind = Kind(0x185);
}

/// Who claims to lead, or did when an entry was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerVote {
    /// Term.
    pub term: u64,
    /// Node.
    pub node: u64,
    /// Whether a majority granted it.
    pub committed: bool,
}

/// Names a log entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerLogId {
    /// Term.
    pub term: u64,
    /// Node.
    pub node: u64,
    /// Index.
    pub index: u64,
}

/// The index that stands for "no log id". No log reaches it.
const NO_INDEX: u64 = u64::MAX;

/// Bytes of a vote.
const VOTE_BYTES: usize = 17;
/// Bytes of a log id.
const LOG_ID_BYTES: usize = 24;
/// Bytes of an append result.
const RESULT_BYTES: usize = 45;
/// Bytes of an entry before its body.
pub const ENTRY_HEAD_BYTES: usize = 29;
/// Bytes of the body of an `APPEND`.
const APPEND_HEAD_BYTES: usize = VOTE_BYTES + 2 * LOG_ID_BYTES + 4;
/// Bytes of a heartbeat.
const BEAT_BYTES: usize = 8 + 4 + VOTE_BYTES + 2 * LOG_ID_BYTES + 8;
/// Bytes of a heartbeat's answer.
const BEAT_REPLY_BYTES: usize = 8 + 4 + RESULT_BYTES;

fn put_vote(out: &mut BytesMut, vote: &PeerVote) {
    out.put_u64_le(vote.term);
    out.put_u64_le(vote.node);
    out.put_u8(u8::from(vote.committed));
}

fn put_log_id(out: &mut BytesMut, id: Option<&PeerLogId>) {
    let none = PeerLogId {
        term: 0,
        node: 0,
        index: NO_INDEX,
    };
    let id = id.unwrap_or(&none);
    out.put_u64_le(id.term);
    out.put_u64_le(id.node);
    out.put_u64_le(id.index);
}

/// Reads the fields of a record, remembering whether there was too little.
struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    fn of(rest: &'a [u8], what: &'static str) -> Self {
        Self { rest, what }
    }

    fn malformed(&self) -> DecodeError {
        DecodeError::Malformed { what: self.what }
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| self.malformed())
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.rest.try_get_u32_le().map_err(|_| self.malformed())
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.rest.try_get_u64_le().map_err(|_| self.malformed())
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed()),
        }
    }

    fn vote(&mut self) -> Result<PeerVote, DecodeError> {
        Ok(PeerVote {
            term: self.u64()?,
            node: self.u64()?,
            committed: self.flag()?,
        })
    }

    fn log_id(&mut self) -> Result<Option<PeerLogId>, DecodeError> {
        let id = PeerLogId {
            term: self.u64()?,
            node: self.u64()?,
            index: self.u64()?,
        };
        Ok((id.index != NO_INDEX).then_some(id))
    }

    fn result(&mut self) -> Result<AppendResult, DecodeError> {
        let tag = self.u8()?;
        let log_id = self.log_id()?;
        let vote = self.vote()?;
        self.rest.advance(3.min(self.rest.len()));
        match (tag, log_id) {
            (0, matching) => Ok(AppendResult::Taken { matching }),
            (1, Some(at)) => Ok(AppendResult::Conflict { at }),
            (2, _) => Ok(AppendResult::HigherVote { vote }),
            (3, _) => Ok(AppendResult::Unable),
            _ => Err(self.malformed()),
        }
    }

    fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }
}

/// What an `APPEND` says beside its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendHead {
    /// The leader's vote.
    pub vote: PeerVote,
    /// The entry before the first.
    pub before: Option<PeerLogId>,
    /// Everything up to it is committed.
    pub committed: Option<PeerLogId>,
    /// How many entries follow.
    pub count: u32,
}

/// An entry in an `APPEND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// Its log id.
    pub id: PeerLogId,
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
        buffer.put_u32_le(u32::try_from(entry.body.len()).unwrap_or(u32::MAX));
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
        matching: Option<PeerLogId>,
    },
    /// The follower does not have the entry `at` that should come before.
    Conflict {
        /// That entry.
        at: PeerLogId,
    },
    /// The follower knows of a higher vote.
    HigherVote {
        /// That vote.
        vote: PeerVote,
    },
    /// The follower cannot take part now.
    Unable,
}

fn put_result(out: &mut BytesMut, result: &AppendResult) {
    let (tag, log_id, vote) = match result {
        AppendResult::Taken { matching } => (0, matching.as_ref(), PeerVote::default()),
        AppendResult::Conflict { at } => (1, Some(at), PeerVote::default()),
        AppendResult::HigherVote { vote } => (2, None, *vote),
        AppendResult::Unable => (3, None, PeerVote::default()),
    };
    out.put_u8(tag);
    put_log_id(out, log_id);
    put_vote(out, &vote);
    out.put_bytes(0, 3);
}

/// Appends the answer to an `APPEND`.
pub fn encode_append_reply(out: &mut Outbox, head: Head, result: &AppendResult) {
    let mut body = BytesMut::with_capacity(RESULT_BYTES);
    put_result(&mut body, result);
    sealed(out, head, kinds::APPEND_REPLY, &body);
}

/// Parses the answer to an `APPEND`.
///
/// # Errors
/// It is malformed.
pub fn parse_append_reply(frame: &Frame) -> Result<AppendResult, DecodeError> {
    let mut fields = Fields::of(frame.body(), "append reply");
    let result = fields.result()?;
    fields.end()?;
    Ok(result)
}

/// One shard's heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Pairs the answer.
    pub beat: u64,
    /// The shard.
    pub shard: u32,
    /// The leader's vote.
    pub vote: PeerVote,
    /// An entry that the follower must have.
    pub before: Option<PeerLogId>,
    /// Everything up to it is committed.
    pub committed: Option<PeerLogId>,
}

/// The answer to one shard's heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// Pairs it with the heartbeat.
    pub beat: u64,
    /// The shard.
    pub shard: u32,
    /// What became of it.
    pub result: AppendResult,
}

/// Appends a frame with heartbeats.
pub fn encode_heartbeats(out: &mut Outbox, head: Head, beats: &[Heartbeat]) {
    let head = Head {
        kind: kinds::HEARTBEATS,
        ..head
    };
    let mut body = BytesMut::with_capacity(beats.len() * BEAT_BYTES);
    for beat in beats {
        body.put_u64_le(beat.beat);
        body.put_u32_le(beat.shard);
        put_vote(&mut body, &beat.vote);
        put_log_id(&mut body, beat.before.as_ref());
        put_log_id(&mut body, beat.committed.as_ref());
        body.put_u64_le(0);
    }
    FrameBuilder::begin(out.buffer(), head).seal_with(&body);
}

/// Parses a frame with heartbeats.
///
/// # Errors
/// It is malformed.
pub fn parse_heartbeats(frame: &Frame) -> Result<Vec<Heartbeat>, DecodeError> {
    records(frame, BEAT_BYTES, "heartbeats", |fields| {
        let beat = Heartbeat {
            beat: fields.u64()?,
            shard: fields.u32()?,
            vote: fields.vote()?,
            before: fields.log_id()?,
            committed: fields.log_id()?,
        };
        fields.u64()?;
        Ok(beat)
    })
}

/// Appends a frame with answers to heartbeats.
pub fn encode_heartbeats_reply(out: &mut Outbox, head: Head, replies: &[HeartbeatReply]) {
    let head = Head {
        kind: kinds::HEARTBEATS_REPLY,
        ..head
    };
    let mut body = BytesMut::with_capacity(replies.len() * BEAT_REPLY_BYTES);
    for reply in replies {
        body.put_u64_le(reply.beat);
        body.put_u32_le(reply.shard);
        put_result(&mut body, &reply.result);
    }
    FrameBuilder::begin(out.buffer(), head).seal_with(&body);
}

/// Parses a frame with answers to heartbeats.
///
/// # Errors
/// It is malformed.
pub fn parse_heartbeats_reply(frame: &Frame) -> Result<Vec<HeartbeatReply>, DecodeError> {
    records(frame, BEAT_REPLY_BYTES, "heartbeats reply", |fields| {
        Ok(HeartbeatReply {
            beat: fields.u64()?,
            shard: fields.u32()?,
            result: fields.result()?,
        })
    })
}

fn records<T>(
    frame: &Frame,
    bytes: usize,
    what: &'static str,
    parse: impl Fn(&mut Fields<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let value = frame.value();
    let records = value.chunks_exact(bytes);
    if !records.remainder().is_empty() || !frame.body().is_empty() {
        return Err(DecodeError::Malformed { what });
    }
    records
        .map(|record| parse(&mut Fields::of(record, what)))
        .collect()
}

/// A request for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteAsk {
    /// The candidate's vote.
    pub vote: PeerVote,
    /// Its last entry.
    pub last: Option<PeerLogId>,
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
    pub last: Option<PeerLogId>,
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
    pub to: u64,
    /// The leader's last entry.
    pub last: Option<PeerLogId>,
}

/// Appends a `TRANSFER`.
pub fn encode_transfer(out: &mut Outbox, head: Head, transfer: &Transfer) {
    let mut body = BytesMut::with_capacity(64);
    put_vote(&mut body, &transfer.from);
    body.put_u64_le(transfer.to);
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
        to: fields.u64()?,
        last: fields.log_id()?,
    };
    fields.end()?;
    Ok(transfer)
}

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

/// Appends an answer without content: `DONE` or `REFUSED`.
pub fn encode_plain(out: &mut Outbox, head: Head, kind: Kind) {
    sealed(out, head, kind, &[]);
}

fn sealed(out: &mut Outbox, head: Head, kind: Kind, body: &[u8]) {
    FrameBuilder::begin(out.buffer(), Head { kind, ..head })
        .raw(body)
        .seal();
}

const _: () = {
    assert!(DETACH_BYTES_MIN > ENTRY_HEAD_BYTES);
    assert!(HEADER_BYTES > 0);
};

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
