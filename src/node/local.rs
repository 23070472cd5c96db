//! The groups of one core.

use corelith_consensus::Group;
use corelith_shards::ShardId;
use std::cell::RefCell;
use std::collections::BTreeMap;
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

/// The groups that this core owns, by shard. Belongs to that core. They come and go while it runs.
#[derive(Default)]
pub(crate) struct LocalGroups {
    running: RefCell<BTreeMap<ShardId, Group>>,
    /// The generation of each replica.
    generations: RefCell<BTreeMap<ShardId, u16>>,
    /// Shards of this core that have no group.
    down: RefCell<BTreeMap<ShardId, DownShard>>,
}

impl LocalGroups {
    /// Adds a group, or a shard that has none, with the generation of the replica.
    pub(crate) fn add(&self, generation: u16, opened: Result<Group, DownShard>) {
        let shard = match &opened {
            Ok(group) => group.shard(),
            Err(down) => down.shard,
        };
        assert!(!self.has(shard), "{shard} has two groups on this core");
        self.generations.borrow_mut().insert(shard, generation);
        match opened {
            Ok(group) => drop(self.running.borrow_mut().insert(shard, group)),
            Err(down) => drop(self.down.borrow_mut().insert(shard, down)),
        }
    }

    /// Takes a shard away.
    pub(crate) fn remove(&self, shard: ShardId) {
        let group = self.running.borrow_mut().remove(&shard);
        drop(group);
        self.generations.borrow_mut().remove(&shard);
        self.down.borrow_mut().remove(&shard);
        assert!(!self.has(shard), "{shard} is gone");
    }

    /// How many groups run here.
    pub(crate) fn count(&self) -> usize {
        self.running.borrow().len()
    }

    /// What the groups of this core have done together; zero without any.
    pub(crate) fn activity(&self) -> u64 {
        let running = self.running.borrow();
        let any = running.values().next();
        any.map_or(0, Group::activity_of_core)
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<Group> {
        self.running.borrow().get(&shard).cloned()
    }

    /// The generation of the replica of a shard that is here.
    pub(crate) fn generation(&self, shard: ShardId) -> u16 {
        let generations = self.generations.borrow();
        generations.get(&shard).copied().unwrap_or_default()
    }

    /// Whether a shard is here, running or not.
    pub(crate) fn has(&self, shard: ShardId) -> bool {
        self.running.borrow().contains_key(&shard) || self.is_down(shard)
    }

    /// Whether a shard of this core cannot be opened.
    pub(crate) fn is_down(&self, shard: ShardId) -> bool {
        self.down.borrow().contains_key(&shard)
    }

    /// The shards of this core that cannot be opened.
    pub(crate) fn down(&self) -> Vec<DownShard> {
        self.down.borrow().values().cloned().collect()
    }

    /// The groups, by shard.
    pub(crate) fn all(&self) -> Vec<Group> {
        self.running.borrow().values().cloned().collect()
    }
}
