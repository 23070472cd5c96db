//! Opening a shard: the façade over its log and its engine.

use crate::engine::Engine;
use crate::error::Result;
use crate::ids::ShardId;
use crate::wal::Log;
use std::path::Path;

/// How to open a shard.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// The id of the store (drawn at its creation); every file carries it.
    pub store_id: u64,
    /// Which shard this is.
    pub shard: ShardId,
    /// A memtable of this many bytes is frozen and flushed.
    pub memtable_bytes: usize,
    /// Length of a log segment.
    pub segment_bytes: u64,
    /// Recent log entries kept in memory for slow followers, in bytes.
    pub log_cache_bytes: usize,
    /// Blocks of sstables kept in memory, in bytes.
    pub block_cache_bytes: usize,
}

impl ShardOptions {
    /// The defaults for a shard.
    pub fn new(store_id: u64, shard: ShardId) -> Self {
        Self {
            store_id,
            shard,
            memtable_bytes: 64 << 20,
            segment_bytes: 64 << 20,
            log_cache_bytes: 16 << 20,
            block_cache_bytes: 32 << 20,
        }
    }
}

/// An open shard. Belongs to one core.
pub struct Shard {
    /// Its log.
    pub log: Log,
    /// Its state.
    pub engine: Engine,
}

impl Shard {
    /// Opens the shard in `dir`, creating it if `dir` is missing or empty: reads the manifest,
    /// removes orphan files, scans the log. Entries after the checkpoint are not applied here: the
    /// consensus layer replays them.
    ///
    /// # Errors
    /// `Corrupt` with file and offset when acknowledged data is damaged; it never opens empty.
    pub async fn open(dir: &Path, options: ShardOptions) -> Result<Self> {
        let _ = (dir, options);
        todo!()
    }

    /// Flushes what can be flushed, waits for writes in flight and stops background work.
    pub async fn close(self) -> Result<()> {
        todo!()
    }
}
