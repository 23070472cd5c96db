//! The ids that nodes, shards and clients share, as newtypes so that the compiler refuses a mix-up.

use std::fmt;
use std::str::FromStr;

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

/// A shard of the cluster, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

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

/// A replica of a shard: a node, and which of the replicas it is that the node has had of the shard. Each admission to the
/// shard's group has a generation of its own, so that a replica that was dropped never comes back under its number. Those
/// with which a group is formed have generation 0: their number is that of their node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// Where the generation begins, in bits.
    const GENERATION_SHIFT: u32 = 48;
    /// Nodes have lower numbers.
    pub const NODES_END: u64 = 1 << Self::GENERATION_SHIFT;

    /// The replica of that generation on a node. The node's number is below [`ReplicaId::NODES_END`].
    #[must_use]
    pub fn new(node: NodeId, generation: u16) -> Self {
        assert!(node.0 < Self::NODES_END, "{node} is no number of a node");
        Self(node.0 | u64::from(generation) << Self::GENERATION_SHIFT)
    }

    /// The first replica of a node.
    #[must_use]
    pub fn first(node: NodeId) -> Self {
        Self::new(node, 0)
    }

    /// Its node.
    #[must_use]
    pub fn node(self) -> NodeId {
        NodeId(self.0 & (Self::NODES_END - 1))
    }

    /// Which of the node's replicas of the shard it is.
    #[must_use]
    pub fn generation(self) -> u16 {
        // What is left has 16 bits.
        (self.0 >> Self::GENERATION_SHIFT) as u16
    }
}

impl fmt::Display for ReplicaId {
    /// As its node, and with the generation behind it if that is not the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation() {
            0 => write!(f, "{}", self.node()),
            generation => write!(f, "{}.{generation}", self.node()),
        }
    }
}

impl ShardId {
    /// The shard that holds the cluster's map, and no user's keys.
    pub const META: Self = Self(u32::MAX);
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::META => f.write_str("meta"),
            Self(shard) => write!(f, "s{shard}"),
        }
    }
}

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
    /// The replica that proposed it as the leader.
    pub node: ReplicaId,
    /// Its place in the log.
    pub index: LogIndex,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.term, self.node, self.index)
    }
}

/// Names an upload of a large value for ever: drawn at random by the client that begins it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub u128);

impl UploadId {
    /// Bytes of its key.
    pub const KEY_BYTES: usize = 16;

    /// It as a key: keys are ordered as ids are.
    #[must_use]
    pub fn key(self) -> [u8; Self::KEY_BYTES] {
        self.0.to_be_bytes()
    }

    /// The id that has this key, if one can.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(key.try_into().ok()?)))
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What was given is no id of an upload: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoUploadId;

impl fmt::Display for NoUploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an upload's id has 32 hexadecimal digits")
    }
}

impl std::error::Error for NoUploadId {}

impl FromStr for UploadId {
    type Err = NoUploadId;

    fn from_str(text: &str) -> Result<Self, NoUploadId> {
        let is_plain = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok();
        number.filter(|_| is_plain).map(Self).ok_or(NoUploadId)
    }
}

/// Names a chunk of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// The upload.
    pub upload: UploadId,
    /// The part of it, as the client numbers them; 0 of a plain stream.
    pub part: u32,
    /// Counts within the part, from 0.
    pub chunk: u32,
}

impl ChunkId {
    /// Bytes of its key.
    pub const KEY_BYTES: usize = UploadId::KEY_BYTES + 8;

    /// It as a key: keys are ordered as ids are, and begin with the upload's.
    #[must_use]
    pub fn key(self) -> [u8; Self::KEY_BYTES] {
        let number = u64::from(self.part) << 32 | u64::from(self.chunk);
        let mut key = [0; Self::KEY_BYTES];
        let (upload, rest) = key.split_at_mut(UploadId::KEY_BYTES);
        upload.copy_from_slice(&self.upload.key());
        rest.copy_from_slice(&number.to_be_bytes());
        key
    }

    /// The id that has this key, if one can.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Option<Self> {
        let (upload, rest) = key.split_first_chunk::<{ UploadId::KEY_BYTES }>()?;
        let (part, chunk) = rest.split_first_chunk()?;
        Some(Self {
            upload: UploadId(u128::from_be_bytes(*upload)),
            part: u32::from_be_bytes(*part),
            chunk: u32::from_be_bytes(chunk.try_into().ok()?),
        })
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.upload, self.part, self.chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_id_is_read_as_it_is_shown() {
        for id in [0, 1, 0xab << 100, u128::MAX] {
            let id = UploadId(id);
            let text = id.to_string();
            assert_eq!((text.len(), text.parse()), (32, Ok(id)));
            assert_eq!(UploadId::of_key(&id.key()), Some(id));
        }
        let (short, sign) = ("1".repeat(31), format!("+{}", "1".repeat(31)));
        let (long, other) = ("1".repeat(33), "g".repeat(32));
        for text in ["", &short, &sign, &long, &other] {
            assert_eq!(text.parse::<UploadId>(), Err(NoUploadId), "{text}");
        }
    }

    #[test]
    fn chunks_have_keys_in_their_order() {
        let chunk = |upload, part, chunk| ChunkId {
            upload: UploadId(upload),
            part,
            chunk,
        };
        let ordered = [
            chunk(0, 0, 0),
            chunk(1, 0, 1),
            chunk(1, 0, 256),
            chunk(1, 1, 0),
            chunk(1, u32::MAX, u32::MAX),
            chunk(u128::MAX, 3, 0),
        ];
        assert!(ordered.is_sorted_by_key(|id| id.key()));
        for id in ordered {
            let key = id.key();
            assert_eq!(ChunkId::of_key(&key), Some(id));
            assert!(key.starts_with(&id.upload.key()));
            assert_eq!(ChunkId::of_key(&key[1..]), None);
            assert_eq!(ChunkId::of_key(&[&key[..], &[0]].concat()), None);
        }
        assert_eq!(
            chunk(0xab, 2, 7).to_string(),
            "000000000000000000000000000000ab/2/7"
        );
    }

    #[test]
    fn a_replica_is_its_node_and_a_generation() {
        // (node, generation, number, in words)
        let table = [
            (3, 0, 3, "n3"),
            (3, 2, 2 << 48 | 3, "n3.2"),
            (
                ReplicaId::NODES_END - 1,
                u16::MAX,
                u64::MAX,
                "n281474976710655.65535",
            ),
        ];
        for (node, generation, number, words) in table {
            let replica = ReplicaId::new(NodeId(node), generation);
            assert_eq!(replica, ReplicaId(number));
            assert_eq!(
                (replica.node(), replica.generation()),
                (NodeId(node), generation)
            );
            assert_eq!(replica.to_string(), words);
        }
    }
}
