//! Heartbeats of many shards in one frame.

use super::append::{AppendResult, RESULT_BYTES, put_result, result};
use super::liveness::PromiseEpoch;
use super::{Fields, LOG_ID_BYTES, PeerVote, VOTE_BYTES, kinds, put_log_id, put_vote};
use crate::error::DecodeError;
use crate::frame::{Frame, FrameBuilder, Head};
use crate::ids::{LogId, ShardId};
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
    pub shard: ShardId,
    /// The leader's vote.
    pub vote: PeerVote,
    /// An entry that the follower must have.
    pub before: Option<LogId>,
    /// Everything up to it is committed.
    pub committed: Option<LogId>,
}

/// The answer to one shard's heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// Pairs it with the heartbeat.
    pub beat: u64,
    /// The shard.
    pub shard: ShardId,
    /// What became of it.
    pub result: AppendResult,
    /// Of the replica's node towards the leader's, from before the heartbeat was taken.
    pub epoch: PromiseEpoch,
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
        body.put_u32_le(beat.shard.0);
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
            shard: ShardId(fields.u32()?),
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
        body.put_u32_le(reply.shard.0);
        put_result(&mut body, &reply.result, reply.epoch);
    }
    FrameBuilder::begin(out.buffer(), head).seal_with(&body);
}

/// Parses a frame with answers to heartbeats.
///
/// # Errors
/// It is malformed.
pub fn parse_heartbeats_reply(frame: &Frame) -> Result<Vec<HeartbeatReply>, DecodeError> {
    records(frame, BEAT_REPLY_BYTES, "heartbeats reply", |fields| {
        let beat = fields.u64()?;
        let shard = ShardId(fields.u32()?);
        let (result, epoch) = result(fields)?;
        Ok(HeartbeatReply {
            beat,
            shard,
            result,
            epoch,
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
