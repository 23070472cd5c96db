//! The errors of this crate.

use crate::uploads::LoadError;
use corelith_shards::{NodeId, ReplicaId};

/// Why a group did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// This node does not lead the shard. Nothing was proposed: ask the leader, if one is known.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Leadership was lost while the write was on its way: it may or may not be applied. Repeating
    /// it under the same session and number is safe and tells.
    #[error("leadership changed while the write was on its way")]
    LeadershipLost {
        /// Who leads now, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// No majority of the replicas answers. Nothing was proposed; try again later.
    #[error("no majority of the shard's replicas answers")]
    Unavailable,
    /// Too much is in flight already. Nothing was proposed; try again a little later.
    #[error("too many writes are in flight")]
    Throttled,
    /// This node leads, and has no room for more values. Nothing was proposed; deletes make room.
    #[error("the device has no room for more values")]
    DiskFull,
    /// This node leads, and the shard's metadata holds as much as it can. Nothing was proposed; deletes make
    /// room.
    #[error("the shard holds as much as it can")]
    ShardFull,
    /// This node leads, what it holds of the key is damaged, and no other replica can say which version the key has, which
    /// the condition asks. Nothing was proposed; a write without a condition puts the key right.
    #[error("the key is damaged here, and its version cannot be learnt elsewhere")]
    Corrupt,
    /// The command is not one that this crate could apply. Nothing was proposed.
    #[error("malformed command")]
    Malformed,
    /// The shard's storage failed on this node. It takes no part in the group any more until the
    /// node restarts; other nodes take over.
    #[error("the shard's storage failed on this node")]
    Storage,
    /// The group was shut down. A write on its way may or may not be applied.
    #[error("the group is shut down")]
    Shutdown,
}

/// Why a group's members were not changed, or its lead not handed over. What was asked may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This node does not lead the shard, or leads it no more: ask the leader. What was begun may be in its log.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Another change is under way, or the leader has only just begun to lead. Ask again a little later.
    #[error("another change is under way")]
    Busy,
    /// The replica is not near enough to the end of the log, or does not answer.
    #[error("{replica} lags by {entries} entries")]
    Lags {
        /// The replica.
        replica: ReplicaId,
        /// How many entries it lacks, as far as is known.
        entries: u64,
    },
    /// It cannot be done.
    #[error("{0}")]
    Refused(&'static str),
    /// The group is shut down, or its storage has failed on this node.
    #[error("the group is shut down")]
    Shutdown,
}

/// Why a group could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The shard's storage failed.
    #[error(transparent)]
    Storage(#[from] corelith_shards::Error),
    /// The members are not usable: this node is not one of them, or there are none.
    #[error("the members of the shard do not include this node")]
    NotAMember,
    /// The timers do not fit together.
    #[error("invalid consensus options: {0}")]
    Options(&'static str),
    /// The consensus state on disk was refused.
    #[error("the shard's consensus state cannot be used: {0}")]
    State(String),
}

impl From<LoadError> for OpenError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Storage(error) => Self::Storage(error),
            LoadError::Row(error) => Self::State(error.to_string()),
        }
    }
}
