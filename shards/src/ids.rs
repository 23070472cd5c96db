//! The ids of the storage layer, as newtypes so that the compiler refuses a mix-up.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(/// A shard of the cluster, counted from 0.
    ShardId(u32), "s");
id!(/// A node of the cluster, as its configuration names it; from 1.
    NodeId(u64), "n");
id!(/// A Raft term.
    Term(u64), "t");
id!(/// An index in a shard's log, from 0. It is also the sequence number of the write it holds and
    /// the version of the key it writes.
    LogIndex(u64), "");
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

/// Names one entry of one leader's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term in which the entry was proposed.
    pub term: Term,
    /// The leader that proposed it.
    pub node: NodeId,
    /// Its place in the log.
    pub index: LogIndex,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.term, self.node, self.index)
    }
}

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
