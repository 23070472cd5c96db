//! The groups of one core.

use corelith_consensus::Group;
use corelith_shards::ShardId;

/// The groups that this core owns, by shard. Belongs to that core.
pub(crate) struct LocalGroups {
    /// `None` for shards of other cores and nodes.
    by_shard: Vec<Option<Group>>,
}

impl LocalGroups {
    /// `groups` among the `shard_count` shards of the cluster.
    pub(crate) fn new(shard_count: u32, groups: Vec<Group>) -> Self {
        let mut by_shard: Vec<Option<Group>> = (0..shard_count).map(|_| None).collect();
        for group in groups {
            if let Some(place) = by_shard.get_mut(group.shard().0 as usize) {
                *place = Some(group);
            }
        }
        Self { by_shard }
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<&Group> {
        self.by_shard.get(shard.0 as usize)?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.by_shard.iter().flatten()
    }
}
