//! A node's report of its state.

use crate::body::{access, deserialize};
use crate::error::DecodeError;
use rkyv::with::Skip;
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
    /// Nodes that it refuses. They travel behind the rest, where older clients do not look.
    #[rkyv(with = Skip)]
    pub strangers: Vec<NodeStranger>,
}

/// A node that another one refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStranger {
    /// The node that it says it is.
    pub node: u64,
    /// Why, in one sentence.
    pub why: String,
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
    pub(crate) fn parse(body: &[u8], behind: &[u8]) -> Result<Self, DecodeError> {
        let mut reply: Self =
            deserialize(access::<ArchivedStatusReply>(body, "status")?, "status")?;
        let malformed = DecodeError::Malformed { what: "status" };
        for line in behind
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line = std::str::from_utf8(line).ok();
            let (node, why) = line
                .and_then(|line| line.split_once(' '))
                .ok_or(malformed)?;
            reply.strangers.push(NodeStranger {
                node: node.parse().map_err(|_| malformed)?,
                why: why.to_owned(),
            });
        }
        Ok(reply)
    }

    /// What goes behind the rest: a line for each stranger, its node and the reason.
    pub(crate) fn behind(&self) -> String {
        let lines = self.strangers.iter().map(|stranger| {
            let why = stranger.why.replace('\n', " ");
            format!("{} {why}\n", stranger.node)
        });
        lines.collect()
    }
}
