//! The write-ahead log of a shard, which is its Raft log.

use crate::error::Result;
use crate::ids::{LogId, LogIndex, NodeId, ShardId, Term};
use bytes::Bytes;
use std::path::Path;

/// One log entry. `kind` and `body` are opaque here; `body` is a slice of a larger buffer more
/// often than not (of a received frame), and is written as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term, leader and index.
    pub id: LogId,
    /// What the body is; a tag of the layer above.
    pub kind: u8,
    /// The bytes.
    pub body: Bytes,
}

/// The vote of this replica: the highest leadership claim it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vote {
    /// Term voted in.
    pub term: Term,
    /// Node voted for.
    pub node: NodeId,
    /// Whether a majority granted it.
    pub committed: bool,
}

/// What the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRange {
    /// Last purged entry; all entries up to it are gone.
    pub purged: Option<LogId>,
    /// Last entry (may not be durable yet); equal to `purged` when nothing follows it.
    pub last: Option<LogId>,
}

/// How to open a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The id of the store; every block carries it.
    pub store_id: u64,
    /// Whose log it is; every block carries it.
    pub shard: ShardId,
    /// Length of a segment, rounded up to whole blocks and into the bounds of
    /// [`limits`](crate::limits).
    pub segment_bytes: u64,
    /// Recent entries kept in memory, in bytes.
    pub cache_bytes: usize,
}

/// What was found when a log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecovered {
    /// There was no log: it was created. A shard that has a checkpoint must take this for damage.
    pub created: bool,
    /// Blocks cut off at the end because they were never acknowledged (a torn tail).
    pub blocks_cut: u64,
}

/// The log of one shard. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Log {}

impl Log {
    /// Opens the log in the directory `dir`, creating it if there is none.
    ///
    /// # Errors
    /// `Corrupt` when acknowledged blocks are damaged or missing, `NewerFormat`, `OtherStore`, and
    /// `Io` (`NoSpace` when there is no room for a segment).
    pub async fn open(dir: &Path, options: LogOptions) -> Result<(Self, LogRecovered)> {
        let _ = (dir, options);
        todo!()
    }

    /// Waits for everything appended, makes the commit index durable and stops the background work.
    /// Whatever comes after that is answered with `Closed`.
    pub async fn close(&self) -> Result<()> {
        todo!()
    }

    /// Waits while too much is appended that is not durable yet. Callers of [`Log::append`] wait
    /// here first: that is what bounds the log's memory.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_for_room(&self) -> Result<()> {
        todo!()
    }

    /// Whether there is no room on the device for the next segment. The active one still takes
    /// what makes room (deletes, membership changes, votes); new values should be refused.
    pub fn is_disk_full(&self) -> bool {
        todo!()
    }

    /// What the log holds, entries not yet durable included.
    pub fn range(&self) -> LogRange {
        todo!()
    }

    /// Appends consecutive entries. They are readable on return; `durable` is called once all of
    /// them (and everything appended before) are durable, or with the error after which this log
    /// never accepts anything again. Calls come in order of appends.
    ///
    /// The first index must be `last + 1` (or anything after a purge of everything before it).
    pub fn append(&self, entries: Vec<Entry>, durable: impl FnOnce(Result<()>) + 'static) {
        let _ = (entries, durable);
        todo!()
    }

    /// Makes `vote` durable, after everything appended before.
    pub async fn save_vote(&self, vote: Vote) -> Result<()> {
        let _ = vote;
        todo!()
    }

    /// The last saved vote.
    pub fn vote(&self) -> Option<Vote> {
        todo!()
    }

    /// Notes the commit index: it rides on the next block that is written (and on one of its own
    /// when the log is idle for a while); it is not durable on return.
    pub fn note_committed(&self, committed: LogId) {
        let _ = committed;
        todo!()
    }

    /// The last noted commit index, after a restart the last one that became durable.
    pub fn committed(&self) -> Option<LogId> {
        todo!()
    }

    /// Removes all entries after `last` (all entries if `None`), by appending a record that says
    /// so. Returns when it is appended; it is durable before anything appended later is.
    pub async fn truncate_after(&self, last: Option<LogId>) -> Result<()> {
        let _ = last;
        todo!()
    }

    /// Removes all entries up to and including `upto` (which may lie beyond the last entry, after
    /// a snapshot was installed) and frees the segments that hold nothing else.
    pub async fn purge(&self, upto: LogId) -> Result<()> {
        let _ = upto;
        todo!()
    }

    /// The id of the entry at `index`, if the log holds it. Needs no I/O.
    pub fn id_at(&self, index: LogIndex) -> Option<LogId> {
        let _ = index;
        todo!()
    }

    /// Returns the entries from `from` up to but not including `to`, stopping early once their
    /// bodies exceed `max_bytes` (but always at least one if `from` is held).
    pub async fn read(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> Result<Vec<Entry>> {
        let _ = (from, to, max_bytes);
        todo!()
    }

    /// Waits until everything appended so far is durable.
    pub async fn flush(&self) -> Result<()> {
        todo!()
    }
}
