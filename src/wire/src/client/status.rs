//! A node's report of its state.

use crate::body::{access, deserialize};
use crate::error::DecodeError;
use rkyv::{Archive, Deserialize, Serialize};

/// The state of a node and of all its shard replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct StatusReply {
    /// The node.
    pub node: u64,
    /// Its cluster.
    pub cluster: u64,
    /// Generation of its cluster map.
    pub epoch: u32,
    /// Version of its software.
    pub version: String,
    /// Time since it started, in milliseconds.
    pub uptime_ms: u64,
    /// Number of its cores.
    pub cores: u16,
    /// Its shard replicas.
    pub shards: Vec<ShardStatus>,
}

/// The role of a replica in its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum ShardRole {
    /// Leads.
    Leader = 0,
    /// Follows a leader.
    #[default]
    Follower = 1,
    /// Stands for election.
    Candidate = 2,
    /// Receives the log but has no vote.
    Learner = 3,
    /// Fenced off by a storage failure, or not running.
    Down = 4,
}

/// The state of one replica. Log positions are 0 where there is none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u32,
    /// The core that owns the replica.
    pub core: u16,
    /// Its role.
    pub role: ShardRole,
    /// The leader as far as it knows, 0 if it knows none.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// Index of the last entry in its log.
    pub last: u64,
    /// The commit index it knows.
    pub committed: u64,
    /// The last index it applied.
    pub applied: u64,
    /// The last index that a checkpoint covers.
    pub checkpointed: u64,
    /// The last index that was purged from its log.
    pub purged: u64,
}

impl StatusReply {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        deserialize(access::<ArchivedStatusReply>(body, "status")?, "status")
    }
}
