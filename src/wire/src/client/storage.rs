//! The state of a node's storage, as it tells clients.

pub(crate) mod version_1;

use crate::body::{access, deserialize};
use crate::error::DecodeError;
use rkyv::{Archive, Deserialize, Serialize};

/// The storage of a node, shard by shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StorageReply {
    /// The node.
    pub node: u64,
    /// Its shard replicas.
    pub shards: Vec<ShardStorage>,
}

/// The storage of one replica. Lengths are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ShardStorage {
    /// The shard.
    pub shard: u32,
    /// The core that owns the replica.
    pub core: u16,
    /// How tables are compacted: "leveled" or "tiered".
    pub policy: String,
    /// Levels with tables in them.
    pub levels: Vec<LevelStorage>,
    /// Segments of the value log.
    pub value_segments: u64,
    /// Records in them.
    pub value_bytes: u64,
    /// How much of that nothing refers to, as far as is known.
    pub garbage_bytes: u64,
    /// How much more of it seems to be garbage that is not known as such yet; an estimate.
    pub hidden_garbage_bytes: u64,
    /// What will come back to the device.
    pub returning_bytes: u64,
    /// What most of that waits for, in a word; empty if nothing is to come.
    pub returning_waits_for: String,
    /// What compaction has yet to rewrite.
    pub debt_bytes: u64,
    /// Memory that memtables hold.
    pub memtable_bytes: u64,
    /// Whether new values are refused because the device is full.
    pub is_disk_full: bool,
    /// How far the scrubber has come.
    pub scrub: ScrubState,
    /// Damaged places in files in use.
    pub damaged: u64,
    /// Some of them.
    pub damages: Vec<DamagedPlace>,
}

/// The tables of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LevelStorage {
    /// The level; 0 is what memtables are flushed to.
    pub level: u32,
    /// Sorted runs.
    pub runs: u64,
    /// Tables.
    pub tables: u64,
    /// Length of their files.
    pub bytes: u64,
    /// Versions in them.
    pub entries: u64,
    /// How many of those are deletions.
    pub deletions: u64,
}

/// How far a scrubber has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ScrubState {
    /// The current cycle or the last one; 0: none since the start.
    pub cycle: u64,
    /// Bytes checked in it.
    pub bytes_done: u64,
    /// Of how many.
    pub bytes_total: u64,
    /// Damaged places found in it.
    pub damaged: u64,
    /// Whether it is under way.
    pub is_running: bool,
}

/// A damaged place, in words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct DamagedPlace {
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
    /// Which keys are concerned.
    pub keys: String,
}

impl StorageReply {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        deserialize(access::<ArchivedStorageReply>(body, "storage")?, "storage")
    }
}
