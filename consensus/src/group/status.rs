//! Where a replica stands, as it is shown.

use super::Group;
use crate::{proposal, types};
use corelith_shards::{LogId, NodeId, ReplicaId, ShardId, Term};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Leads.
    Leader,
    /// Follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Receives without voting.
    Learner,
    /// Takes no part (storage failure or shutdown).
    Stopped,
}

/// Where a replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The shard.
    pub shard: ShardId,
    /// What the replica does.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: Term,
    /// The replica it voted for in that term.
    pub voted_for: ReplicaId,
    /// Whether that vote was for an elected leader.
    pub vote_committed: bool,
    /// Its last log entry.
    pub last_log: Option<LogId>,
    /// The last entry it knows to be committed.
    pub committed: Option<LogId>,
    /// The last entry it applied.
    pub applied: Option<LogId>,
    /// What its last durable checkpoint covers.
    pub checkpointed: Option<LogId>,
    /// Up to where its log is purged.
    pub purged: Option<LogId>,
}

impl Group {
    /// Where the replica stands.
    pub fn status(&self) -> GroupStatus {
        let server = self.inner.server.borrow_watched();
        let data = self.inner.data.borrow_watched();
        let role = match server.state {
            _ if self.inner.is_stopped() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        GroupStatus {
            shard: self.inner.shard_id,
            role,
            leader: server.current_leader.map(proposal::node_of),
            term: Term(server.vote.leader_id.term),
            voted_for: ReplicaId(server.vote.leader_id.node_id),
            vote_committed: server.vote.committed,
            last_log: data.last_log.map(types::shard_log_id),
            committed: data.local_committed.map(types::shard_log_id),
            applied: self.inner.applied.last(),
            checkpointed: self.inner.engine.checkpointed(),
            purged: self.inner.log.range().purged,
        }
    }
}
