//! Heartbeats of many shards in one frame.

use super::append::{AppendResult, RESULT_BYTES, put_result, result};
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

/// What a replica says of itself when it answers a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Its device has no room for more values.
    pub is_disk_full: bool,
    /// Its shard is damaged.
    pub is_damaged: bool,
}

const HEALTH_TOLD: u8 = 1;
const HEALTH_DISK_FULL: u8 = 2;
const HEALTH_DAMAGED: u8 = 4;

impl Health {
    /// Whether nothing speaks against its leading.
    pub fn is_well(self) -> bool {
        self == Self::default()
    }

    fn byte(health: Option<Self>) -> u8 {
        health.map_or(0, |health| {
            let bit = |set: bool, bit: u8| if set { bit } else { 0 };
            HEALTH_TOLD
                | bit(health.is_disk_full, HEALTH_DISK_FULL)
                | bit(health.is_damaged, HEALTH_DAMAGED)
        })
    }

    fn of_byte(byte: u8) -> Option<Self> {
        (byte & HEALTH_TOLD != 0).then_some(Self {
            is_disk_full: byte & HEALTH_DISK_FULL != 0,
            is_damaged: byte & HEALTH_DAMAGED != 0,
        })
    }
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
    /// How the replica is, if it tells.
    pub health: Option<Health>,
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
        put_result(&mut body, &reply.result, Health::byte(reply.health));
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
        let (result, health) = result(fields)?;
        Ok(HeartbeatReply {
            beat,
            shard,
            result,
            health: Health::of_byte(health),
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
