//! How a shard is opened, as the configuration says: by a node that runs, and by what looks at one that does not.

use crate::node::config::StorageConfig;
use corelith_io::ErrorKind;
use corelith_shards::{self as shards, BlockCache, Rounds, ScrubOptions, ShardId, ShardOptions};

/// The cache of blocks that the shards of a core share.
pub(crate) fn block_cache(storage: &StorageConfig) -> BlockCache {
    BlockCache::new(length(storage.block_cache_bytes))
}

/// How a shard of a store is opened. `is_known`: it was made before.
pub(crate) fn shard_options(
    storage: &StorageConfig,
    (store, id, is_known): (u64, ShardId, bool),
    cache: BlockCache,
    rounds: Option<Rounds>,
) -> ShardOptions {
    ShardOptions {
        memtable_bytes: length(storage.memtable_bytes),
        segment_bytes: storage.segment_bytes,
        log_cache_bytes: length(storage.log_cache_bytes),
        cache,
        rounds,
        policy: storage.compaction,
        compression: storage.compression,
        value_threshold: length(storage.value_threshold_bytes),
        value_segment_bytes: storage.value_segment_bytes,
        reserve_bytes: storage.reserve(),
        scrub: ScrubOptions {
            bytes_per_second: storage.scrub_bytes_per_second,
            cycle_min: std::time::Duration::from_secs(storage.scrub_cycle_seconds),
        },
        is_known,
        ..ShardOptions::new(store, id)
    }
}

/// Whether an error may go away by itself, or would befall any shard.
pub(crate) fn is_of_the_machine(error: &shards::Error) -> bool {
    match error {
        shards::Error::Io(io) => matches!(
            io.kind(),
            ErrorKind::NoSpace | ErrorKind::Permission | ErrorKind::Locked
        ),
        shards::Error::Fenced(error) => is_of_the_machine(error),
        _ => false,
    }
}

/// A configured length in memory, whose bounds were checked.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
