//! The ids of files and places in them. Those that a node says to others are `corelith_wire::ids`.

use crate::limits::VALUE_SEGMENTS_RECEIVED;
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

impl ValueSegmentId {
    /// Whether the segment came from another replica, as a file.
    pub(crate) fn is_received(self) -> bool {
        self.0 >= VALUE_SEGMENTS_RECEIVED
    }
}

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

/// What names the content of a table or of a generation of a value segment, wherever a copy of it lies: drawn at
/// random when the file is begun. Files of formats that had none get one from what they say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u128);

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FileId {
    /// A new one.
    pub(crate) fn draw() -> Self {
        let halves = [corelith_io::random_u64(), corelith_io::random_u64()];
        let [high, low] = halves.map(u128::from);
        Self(high << 64 | low)
    }

    /// That of a table whose format names store, shard and number.
    pub(crate) fn of_table(owner: Owner, table: TableId) -> Self {
        Self::of(b"table", owner, [table.0, 0])
    }

    /// That of a value segment whose format names store, shard and number.
    pub(crate) fn of_segment(owner: Owner, segment: ValueSegmentId, generation: u32) -> Self {
        Self::of(b"value segment", owner, [segment.0, generation.into()])
    }

    fn of(kind: &[u8], owner: Owner, numbers: [u64; 2]) -> Self {
        let mut named = kind.to_vec();
        named.extend_from_slice(&owner.store_id.to_le_bytes());
        named.extend_from_slice(&owner.shard.0.to_le_bytes());
        for number in numbers {
            named.extend_from_slice(&number.to_le_bytes());
        }
        Self(xxhash_rust::xxh3::xxh3_128(&named))
    }

    /// What each block of a table carries of it.
    pub(crate) fn tag(self) -> u64 {
        (self.0 & u128::from(u64::MAX)) as u64
    }
}

/// What the ids of the value segments that a shard begins come from: which one a number has is known before
/// the file is there, and a file that is named by no manifest yet shows by it whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSeries(pub u128);

impl FileSeries {
    /// That of a shard being created.
    pub(crate) fn draw() -> Self {
        Self(FileId::draw().0)
    }

    /// That of a shard whose manifest is of a format that had none.
    pub(crate) fn of(owner: Owner) -> Self {
        Self(FileId::of(b"series", owner, [0, 0]).0)
    }

    /// The id of the first generation of a segment begun by the shard.
    pub(crate) fn segment(self, segment: ValueSegmentId) -> FileId {
        let mut named = self.0.to_le_bytes().to_vec();
        named.extend_from_slice(&segment.0.to_le_bytes());
        FileId(xxhash_rust::xxh3::xxh3_128(&named))
    }
}
