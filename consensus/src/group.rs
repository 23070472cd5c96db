//! One Raft group, as the node sees it.

use crate::command::WriteReply;
use crate::error::GroupError;
use bytes::Bytes;
use corelith_shards::{Engine, LogId, LogIndex, NodeId, ShardId, Term};

/// A point of the shard's history that is safe to read from the local engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPoint {
    /// The leader's term.
    pub term: Term,
    /// Everything up to this log index is applied here, every answered write included.
    pub index: LogIndex,
}

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
    /// Node it voted for in that term.
    pub voted_for: NodeId,
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

/// The group of one shard. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Group {}

impl Group {
    /// The shard.
    pub fn shard(&self) -> ShardId {
        todo!()
    }

    /// The shard's state, to read from after a read point.
    pub fn engine(&self) -> &Engine {
        todo!()
    }

    /// Proposes a write (the payload of the client's write frame) and calls `reply` once it is
    /// applied, or is known not to be, or its fate is lost with the leadership. `reply` is called
    /// exactly once, maybe before this returns; it must not wait, and should only note the answer.
    ///
    /// Submissions of one turn of the executor are proposed together.
    pub fn submit(
        &self,
        command: Bytes,
        reply: impl FnOnce(Result<WriteReply, GroupError>) + 'static,
    ) {
        let _ = (command, reply);
        todo!()
    }

    /// As [`Group::submit`], for an entry that opens a session; `body` is the payload of the
    /// client's frame. The outcome is `SessionOpened`.
    pub fn submit_open_session(
        &self,
        body: Bytes,
        reply: impl FnOnce(Result<WriteReply, GroupError>) + 'static,
    ) {
        let _ = (body, reply);
        todo!()
    }

    /// [`Group::submit`] as a future.
    pub async fn write(&self, command: Bytes) -> Result<WriteReply, GroupError> {
        let _ = command;
        todo!()
    }

    /// [`Group::submit_open_session`] as a future.
    pub async fn open_session(&self, body: Bytes) -> Result<WriteReply, GroupError> {
        let _ = body;
        todo!()
    }

    /// A read point right now, if this replica leads under a valid lease and has applied an entry
    /// of its own term: what the local engine holds then is linearizable. No waiting, no
    /// allocation. `None`: ask [`Group::read_barrier`].
    pub fn try_read_point(&self) -> Option<ReadPoint> {
        todo!()
    }

    /// A read point: at once under the lease, else after a majority has confirmed the leadership.
    /// Readers that arrive while a confirmation is on its way share the next one.
    pub async fn read_barrier(&self) -> Result<ReadPoint, GroupError> {
        todo!()
    }

    /// [`Group::read_barrier`] with a callback; it is called exactly once, maybe before this
    /// returns.
    pub fn on_read_point(&self, reply: impl FnOnce(Result<ReadPoint, GroupError>) + 'static) {
        let _ = reply;
        todo!()
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        todo!()
    }

    /// Where the replica stands.
    pub fn status(&self) -> GroupStatus {
        todo!()
    }
}
