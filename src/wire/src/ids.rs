//! The ids of the protocol, as newtypes so that the compiler refuses a mix-up.

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
id!(/// A node of the cluster, as its configuration names it; from 1. 0 stands for "none".
    NodeId(u64), "n");
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
