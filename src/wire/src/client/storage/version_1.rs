//! A node's report of its storage in version 1 of the protocol, which lacks hidden garbage and returning bytes.

use super::{DamagedPlace, LevelStorage, ScrubState, ShardStorage, StorageReply};
use crate::body::{access, deserialize};
use crate::error::DecodeError;
use rkyv::{Archive, Deserialize, Serialize};

/// See [`StorageReply`].
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(crate) struct StorageReply1 {
    node: u64,
    shards: Vec<ShardStorage1>,
}

/// See [`ShardStorage`].
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
struct ShardStorage1 {
    shard: u32,
    core: u16,
    policy: String,
    levels: Vec<LevelStorage>,
    value_segments: u64,
    value_bytes: u64,
    garbage_bytes: u64,
    debt_bytes: u64,
    memtable_bytes: u64,
    is_disk_full: bool,
    scrub: ScrubState,
    damaged: u64,
    damages: Vec<DamagedPlace>,
}

impl StorageReply1 {
    /// The part of `reply` that version 1 has.
    pub(crate) fn of(reply: &StorageReply) -> Self {
        let shard = |shard: &ShardStorage| ShardStorage1 {
            shard: shard.shard,
            core: shard.core,
            policy: shard.policy.clone(),
            levels: shard.levels.clone(),
            value_segments: shard.value_segments,
            value_bytes: shard.value_bytes,
            garbage_bytes: shard.garbage_bytes,
            debt_bytes: shard.debt_bytes,
            memtable_bytes: shard.memtable_bytes,
            is_disk_full: shard.is_disk_full,
            scrub: shard.scrub,
            damaged: shard.damaged,
            damages: shard.damages.clone(),
        };
        Self {
            node: reply.node,
            shards: reply.shards.iter().map(shard).collect(),
        }
    }

    pub(crate) fn parse(body: &[u8]) -> Result<StorageReply, DecodeError> {
        let found: Self =
            deserialize(access::<ArchivedStorageReply1>(body, "storage")?, "storage")?;
        let shard = |shard: ShardStorage1| ShardStorage {
            shard: shard.shard,
            core: shard.core,
            policy: shard.policy,
            levels: shard.levels,
            value_segments: shard.value_segments,
            value_bytes: shard.value_bytes,
            garbage_bytes: shard.garbage_bytes,
            debt_bytes: shard.debt_bytes,
            memtable_bytes: shard.memtable_bytes,
            is_disk_full: shard.is_disk_full,
            scrub: shard.scrub,
            damaged: shard.damaged,
            damages: shard.damages,
            ..ShardStorage::default()
        };
        Ok(StorageReply {
            node: found.node,
            shards: found.shards.into_iter().map(shard).collect(),
        })
    }
}
