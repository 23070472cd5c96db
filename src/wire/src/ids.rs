//! The ids that nodes, shards and clients share, as newtypes so that the compiler refuses a mix-up.

use std::fmt;

/// Defines an id: a public newtype that is compared, hashed and shown with a prefix.
#[macro_export]
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(/// A shard of the cluster, counted from 0.
    ShardId(u32), "s");
id!(/// A node of the cluster, as its configuration names it; from 1. 0 stands for "none".
    NodeId(u64), "n");
id!(/// A Raft term.
    Term(u64), "t");
id!(/// An index in a shard's log, from 0. It is also the sequence number of the write it holds and
    /// the version of the key it writes.
    LogIndex(u64), "");
id!(/// A generation of the cluster map, from 1. 0 stands for "not known".
    Epoch(u32), "e");
id!(/// Pairs an answer with its request on one connection; chosen by the asking side.
    RequestId(u64), "r");

/// Names a cluster, from its creation on. 0 stands for "any" in a client's hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Names a cluster for ever: drawn at random when it is formed. 0 stands for "not formed yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FullClusterId(pub u128);

impl FullClusterId {
    /// What tells clusters apart in a hello and in the map of clients: the lower half, never 0 for a
    /// formed cluster.
    pub fn short(self) -> ClusterId {
        ClusterId(self.0 as u64)
    }
}

impl fmt::Display for FullClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names the contents of one data directory: drawn at random when it is created, never copied. 0 stands
/// for "nobody's yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u128);

impl StoreId {
    /// Nobody's yet.
    pub const UNCLAIMED: Self = Self(0);
    /// Any store: as it was before groups told stores apart.
    pub const ANY: Self = Self(u128::MAX);
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One start of a store. The incarnation rises durably at each start; the nonce is drawn at random, so
/// that two directories with one history, started alike, differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Start {
    /// From 1.
    pub incarnation: u64,
    /// Drawn at random at the start.
    pub nonce: u64,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.incarnation)
    }
}

/// How far a store has come, as its owner writes down from time to time before it tells other nodes. It rises
/// as long as the store lives: a store that comes with a lower one than was met has gone back in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

impl Mark {
    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

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
