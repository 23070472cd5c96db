//! The ids of files and places in them. Those that a node says to others are `corelith_wire::ids`.

use corelith_wire::id;
pub use corelith_wire::ids::{LogId, LogIndex, NodeId, ReplicaId, ShardId, Term};
use std::fmt;

id!(/// A log segment, numbered in order of use.
    SegmentId(u64), "");
id!(/// A value-log segment, numbered in order of creation; collection rewrites it under the same id.
    ValueSegmentId(u64), "");
id!(/// A sorted run of sstables: each holds keys above those of the one before.
    RunId(u64), "");
id!(/// An sstable, numbered in order of creation.
    TableId(u64), "");

/// A place in the order in which values were staged in the value log, from 1; 0 is before all of
/// them. It says what must be durable, and means nothing after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Whose a file is; every file says so, so that mixed-up directories are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The store, a number drawn at its creation.
    pub store_id: u64,
    /// The shard.
    pub shard: ShardId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} of store {:016x}", self.shard.0, self.store_id)
    }
}
