//! The groups of one core.

use corelith_consensus::Group;
use corelith_shards::ShardId;
use std::fmt;

/// A shard of this core that cannot be opened, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DownShard {
    pub(crate) shard: ShardId,
    pub(crate) core: u16,
    /// The damaged file, or the shard's directory.
    pub(crate) file: String,
    /// Where in the file, in bytes; 0 if it is about all of it.
    pub(crate) offset: u64,
    pub(crate) what: String,
}

impl fmt::Display for DownShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, offset {}: {}", self.file, self.offset, self.what)
    }
}

/// The groups that this core owns, by shard. Belongs to that core.
pub(crate) struct LocalGroups {
    /// `None` for shards of other cores and nodes.
    by_shard: Vec<Option<Group>>,
    /// Shards of this core that have no group.
    down: Vec<DownShard>,
}

impl LocalGroups {
    /// `groups` among the `shard_count` shards of the cluster.
    pub(crate) fn new(shard_count: u32, groups: Vec<Group>, down: Vec<DownShard>) -> Self {
        let mut by_shard: Vec<Option<Group>> = (0..shard_count).map(|_| None).collect();
        for group in groups {
            if let Some(place) = by_shard.get_mut(group.shard().0 as usize) {
                *place = Some(group);
            }
        }
        Self { by_shard, down }
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<&Group> {
        self.by_shard.get(shard.0 as usize)?.as_ref()
    }

    /// The shards of this core that cannot be opened.
    pub(crate) fn down(&self) -> &[DownShard] {
        &self.down
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.by_shard.iter().flatten()
    }
}
