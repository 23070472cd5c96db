//! The beats of two nodes: who lives, what is promised to whom, and how nodes are.
//!
//! ```text
//! BEAT                                     BEAT_REPLY
//!   8  number                                8  number of the beat
//!   8  sent at, by the sender's clock        8  replied at, by the replier's clock
//!   8  heard: `replied at` of the last       8  how long is promised, in nanoseconds
//!      reply that came, or 0                 8  epoch of the promise
//!  32  cores that are vouched for           32  the cores to whose leads it applies
//!   n  health                                n  health
//!   8  mark of the sender's store
//! health:  1 flags, 4 microseconds that a write takes to become durable, 2 number of damaged shards
//!          that follow, 4 each, 4 epoch of the cluster map that the node knows, 0 if it knows none
//! flags:   bit 1 no room for values, bit 2 files of any shard are damaged, bit 3 leads are to leave, bit 4 its
//!          disk is slow; bit 7 more shards are damaged than are named
//! ```

use super::{Fields, kinds, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::ids::{Epoch, Mark, ShardId, Start};
use crate::outbox::Outbox;
use bytes::{BufMut, BytesMut};
use std::fmt;
use std::time::Duration;

/// Damaged shards that a node names; beyond that all of its shards pass for damaged.
pub const DAMAGED_NAMED_MAX: usize = 256;
/// Cores of a node, at most.
pub const CORES_MAX: u16 = 256;
/// Longest promise.
pub const PROMISE_MAX: Duration = Duration::from_secs(10);

/// A set of a node's cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreSet([u64; 4]);

impl CoreSet {
    /// Adds a core below [`CORES_MAX`].
    pub fn insert(&mut self, core: u16) {
        assert!(core < CORES_MAX, "core {core} of a node");
        if let Some(word) = self.0.get_mut(usize::from(core / 64)) {
            *word |= 1 << (core % 64);
        }
    }

    /// Whether the core is in the set.
    pub fn contains(&self, core: u16) -> bool {
        let word = self.0.get(usize::from(core / 64));
        word.is_some_and(|word| word & (1 << (core % 64)) != 0)
    }

    /// Whether no core is.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl FromIterator<u16> for CoreSet {
    fn from_iter<T: IntoIterator<Item = u16>>(cores: T) -> Self {
        let mut set = Self::default();
        for core in cores {
            set.insert(core);
        }
        set
    }
}

/// What changes when a replica of a node may have turned from a leader that it followed: who counts on the
/// node for that leader must have been acknowledged by it since. 40 random bits of the node's start, and a
/// counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PromiseEpoch(pub u64);

/// Bits of the counter.
const COUNTER_BITS: u32 = 24;

impl PromiseEpoch {
    /// The first epoch of a start. Never 0.
    pub fn first(start: Start) -> Self {
        Self((start.nonce << COUNTER_BITS) | 1)
    }

    /// The next one of the same start; `None` if it has used up all.
    pub fn next(self) -> Option<Self> {
        let next = self.0.wrapping_add(1);
        (next & ((1 << COUNTER_BITS) - 1) != 0).then_some(Self(next))
    }

    /// Whether it is an earlier one of the same start.
    pub fn is_before(self, other: Self) -> bool {
        self.0 >> COUNTER_BITS == other.0 >> COUNTER_BITS && self.0 < other.0
    }
}

impl fmt::Display for PromiseEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = self.0 & ((1 << COUNTER_BITS) - 1);
        write!(f, "{:x}.{counter}", self.0 >> COUNTER_BITS)
    }
}

/// What speaks against a replica's leading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Its device has no room for more values.
    pub is_disk_full: bool,
    /// Files of its shard are damaged.
    pub is_damaged: bool,
    /// Its node is to lead nothing, as one that stops.
    pub is_draining: bool,
    /// Its disk takes much longer than it should.
    pub is_slow: bool,
}

const DISK_FULL: u8 = 1 << 1;
const DAMAGED: u8 = 1 << 2;
const DRAINING: u8 = 1 << 3;
const SLOW: u8 = 1 << 4;

impl Health {
    /// Whether nothing speaks against its leading.
    pub fn is_well(self) -> bool {
        self == Self::default()
    }

    fn flags(self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(self.is_disk_full, DISK_FULL)
            | bit(self.is_damaged, DAMAGED)
            | bit(self.is_draining, DRAINING)
            | bit(self.is_slow, SLOW)
    }

    fn of_flags(flags: u8) -> Self {
        Self {
            is_disk_full: flags & DISK_FULL != 0,
            is_damaged: flags & DAMAGED != 0,
            is_draining: flags & DRAINING != 0,
            is_slow: flags & SLOW != 0,
        }
    }
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeHealth {
    /// Of all of it.
    pub node: Health,
    /// The shards of which files are damaged, at most [`DAMAGED_NAMED_MAX`].
    pub damaged: Vec<ShardId>,
    /// Whether there are more.
    pub has_more: bool,
    /// How long writes to its logs take to become durable, smoothed, in microseconds.
    pub write_us: u32,
    /// The newest cluster map that it knows; 0 if it knows none.
    pub map: Epoch,
}

impl NodeHealth {
    /// How its replica of `shard` is.
    pub fn of(&self, shard: ShardId) -> Health {
        Health {
            is_damaged: self.node.is_damaged || self.has_more || self.damaged.contains(&shard),
            ..self.node
        }
    }

    fn put(&self, out: &mut BytesMut) {
        let named = self.damaged.len().min(DAMAGED_NAMED_MAX);
        let has_more = self.has_more || named < self.damaged.len();
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(self.node.flags() | bit(has_more, HAS_MORE));
        out.put_u32_le(self.write_us);
        out.put_u16_le(named as u16);
        for shard in self.damaged.iter().take(named) {
            out.put_u32_le(shard.0);
        }
        out.put_u32_le(self.map.0);
    }

    fn parse(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let flags = fields.u8()?;
        let write_us = fields.u32()?;
        let count = usize::from(fields.u16()?);
        if count > DAMAGED_NAMED_MAX {
            return Err(fields.malformed());
        }
        let damaged = (0..count).map(|_| fields.u32().map(ShardId));
        Ok(Self {
            node: Health::of_flags(flags),
            damaged: damaged.collect::<Result<_, _>>()?,
            has_more: flags & HAS_MORE != 0,
            write_us,
            map: Epoch(fields.u32()?),
        })
    }
}

const HAS_MORE: u8 = 1 << 7;

/// A node says that it lives, and asks for a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Pairs the reply; rises.
    pub number: u64,
    /// When it was sent, by the sender's clock.
    pub sent_at: u64,
    /// When the last reply that came was sent, by the replier's clock; 0 if none came.
    pub heard: u64,
    /// The cores whose loops have run and whose disks have answered since the last beat.
    pub vouched: CoreSet,
    /// How the sender is.
    pub health: NodeHealth,
    /// The mark of its store.
    pub mark: Mark,
}

/// The reply to a [`Beat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeatReply {
    /// The number of the beat.
    pub number: u64,
    /// When it was sent, by the replier's clock; never 0.
    pub replied_at: u64,
    /// For how long from the receipt of the beat the replier's replicas vote for nobody against leaders on
    /// the cores `to` of the beat's sender; at most [`PROMISE_MAX`], zero promises nothing.
    pub promise: Duration,
    /// See [`PromiseEpoch`].
    pub epoch: PromiseEpoch,
    /// To the leaders on which cores that is promised.
    pub to: CoreSet,
    /// How the replier is.
    pub health: NodeHealth,
}

fn put_cores(out: &mut BytesMut, cores: &CoreSet) {
    for word in cores.0 {
        out.put_u64_le(word);
    }
}

fn cores(fields: &mut Fields<'_>) -> Result<CoreSet, DecodeError> {
    let mut set = CoreSet::default();
    for word in &mut set.0 {
        *word = fields.u64()?;
    }
    Ok(set)
}

/// A promise that never ends would count for ever.
fn promise(fields: &mut Fields<'_>) -> Result<Duration, DecodeError> {
    let promise = Duration::from_nanos(fields.u64()?);
    match promise <= PROMISE_MAX {
        true => Ok(promise),
        false => Err(fields.malformed()),
    }
}

/// Appends a `BEAT`.
pub fn encode_beat(out: &mut Outbox, head: Head, beat: &Beat) {
    let mut body = BytesMut::with_capacity(64);
    body.put_u64_le(beat.number);
    body.put_u64_le(beat.sent_at);
    body.put_u64_le(beat.heard);
    put_cores(&mut body, &beat.vouched);
    beat.health.put(&mut body);
    body.put_u64_le(beat.mark.0);
    sealed(out, head, kinds::BEAT, &body);
}

/// Parses a `BEAT`.
///
/// # Errors
/// It is malformed.
pub fn parse_beat(frame: &Frame) -> Result<Beat, DecodeError> {
    let mut fields = Fields::of(frame.body(), "beat");
    let beat = Beat {
        number: fields.u64()?,
        sent_at: fields.u64()?,
        heard: fields.u64()?,
        vouched: cores(&mut fields)?,
        health: NodeHealth::parse(&mut fields)?,
        mark: Mark(fields.u64()?),
    };
    fields.end()?;
    Ok(beat)
}

/// Appends a `BEAT_REPLY`.
pub fn encode_beat_reply(out: &mut Outbox, head: Head, reply: &BeatReply) {
    assert!(
        reply.promise <= PROMISE_MAX,
        "{:?} is promised",
        reply.promise
    );
    let mut body = BytesMut::with_capacity(72);
    body.put_u64_le(reply.number);
    body.put_u64_le(reply.replied_at);
    body.put_u64_le(reply.promise.as_nanos() as u64);
    body.put_u64_le(reply.epoch.0);
    put_cores(&mut body, &reply.to);
    reply.health.put(&mut body);
    sealed(out, head, kinds::BEAT_REPLY, &body);
}

/// Parses a `BEAT_REPLY`.
///
/// # Errors
/// It is malformed.
pub fn parse_beat_reply(frame: &Frame) -> Result<BeatReply, DecodeError> {
    let mut fields = Fields::of(frame.body(), "beat reply");
    let reply = BeatReply {
        number: fields.u64()?,
        replied_at: fields.u64()?,
        promise: promise(&mut fields)?,
        epoch: PromiseEpoch(fields.u64()?),
        to: cores(&mut fields)?,
        health: NodeHealth::parse(&mut fields)?,
    };
    fields.end()?;
    Ok(reply)
}

#[cfg(test)]
pub(super) mod tests;
