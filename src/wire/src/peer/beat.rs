//! Heartbeats of many shards in one frame.

use super::append::{AppendResult, RESULT_BYTES, put_result, result};
use super::{Fields, LOG_ID_BYTES, PeerLogId, PeerVote, VOTE_BYTES, kinds, put_log_id, put_vote};
use crate::error::DecodeError;
use crate::frame::{Frame, FrameBuilder, Head};
use crate::outbox::Outbox;
use bytes::{BufMut, BytesMut};

/// Bytes of a heartbeat.
const BEAT_BYTES: usize = 8 + 4 + VOTE_BYTES + 2 * LOG_ID_BYTES + 8;
/// Bytes of a heartbeat's answer.
const BEAT_REPLY_BYTES: usize = 8 + 4 + RESULT_BYTES;

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
            result: result(fields)?,
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
