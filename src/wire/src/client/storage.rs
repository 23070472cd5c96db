//! A node's report of its storage.

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
    /// The compaction policy: "leveled" or "tiered".
    pub policy: String,
    /// Levels that hold tables.
    pub levels: Vec<LevelStorage>,
    /// Number of segments of the value log.
    pub value_segments: u64,
    /// Bytes of the records in those segments.
    pub value_bytes: u64,
    /// Bytes of those records that are known garbage: nothing refers to them.
    pub garbage_bytes: u64,
    /// Estimated bytes of further records that are garbage but not known as such yet.
    pub hidden_garbage_bytes: u64,
    /// Bytes that will be freed on the device.
    pub returning_bytes: u64,
    /// What most of those bytes wait for, in a word; empty if there are none.
    pub returning_waits_for: String,
    /// Bytes that compaction has yet to rewrite.
    pub debt_bytes: u64,
    /// Bytes of memory that memtables hold.
    pub memtable_bytes: u64,
    /// Whether puts are refused because the device is full.
    pub is_disk_full: bool,
    /// Progress of the scrubber.
    pub scrub: ScrubState,
    /// Number of damaged places in files in use.
    pub damaged: u64,
    /// Some of those places, at most 1024 per node.
    pub damages: Vec<DamagedPlace>,
}

/// The tables of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LevelStorage {
    /// The level; 0 is what memtables are flushed to.
    pub level: u32,
    /// Number of sorted runs.
    pub runs: u64,
    /// Number of tables.
    pub tables: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Number of entries: versions of keys, deletions included.
    pub entries: u64,
    /// Number of entries that are deletions.
    pub deletions: u64,
}

/// Progress of a scrubber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ScrubState {
    /// Number of the current or last cycle since the node started; 0 before the first.
    pub cycle: u64,
    /// Bytes checked in this cycle.
    pub bytes_done: u64,
    /// Bytes to check in this cycle.
    pub bytes_total: u64,
    /// Damaged places found in this cycle.
    pub damaged: u64,
    /// Whether the cycle is running.
    pub is_running: bool,
}

/// A damaged place, as text for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct DamagedPlace {
    /// The file.
    pub file: String,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
    /// The keys that are affected.
    pub keys: String,
}

impl StorageReply {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        deserialize(access::<ArchivedStorageReply>(body, "storage")?, "storage")
    }
}
