//! The types that openraft works with.
//!
//! An entry is its log id, a kind tag and a reference-counted slice: what arrives in a frame is what
//! the log stores and what the next frame carries, without being copied or encoded in between.

use crate::command::{Parsed, WriteReply, kind};
use crate::membership;
use crate::uploads::{ChunkContent, entry};
use bytes::Bytes;
use corelith_shards::{self as shards, ValuePart, ValuePointer};
use corelith_wire::StoreId;
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::impls::leader_id_adv;
use openraft::type_config::alias;
use std::fmt;

/// The choice of types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

/// Term and node. A node's claim to lead a term beats a lower node's, so that a split vote of one
/// term can still elect somebody.
pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
/// openraft's vote.
pub(crate) type Vote = openraft::Vote<LeaderId>;
/// openraft's log id.
pub(crate) type LogId = openraft::LogId<LeaderId>;
/// The members of a group and the stores that count as them; where they are is not consensus's business.
pub(crate) type Membership = openraft::Membership<u64, StoreId>;
/// A membership and the entry that set it.
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
/// What a snapshot covers.
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
/// openraft's append request.
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<Types>;
/// openraft's vote request.
pub(crate) type VoteRequest = openraft::raft::VoteRequest<Types>;
/// openraft's vote response.
pub(crate) type VoteResponse = openraft::raft::VoteResponse<Types>;
/// A group's openraft handle.
pub(crate) type Raft = openraft::Raft<Types, crate::state_machine::StateMachine>;

impl openraft::RaftTypeConfig for Types {
    type D = Payload;
    type R = WriteReply;
    type NodeId = u64;
    type Node = StoreId;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = crate::runtime::Runtime;
    type Responder<T>
        = crate::proposal::Responder<T>
    where
        T: 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: 'static;
    type ErrorSource = anyerror::AnyError;
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// See [`kind`].
    pub(crate) kind: u8,
    /// Its bytes; of a separated entry that was read to be applied, only its head.
    pub(crate) body: Bytes,
    /// The value at the end of the body, if there is one that the log may separate.
    pub(crate) value: Option<ValuePart>,
    /// Where this replica keeps the value, if its log has separated it.
    pub(crate) place: Option<ValuePointer>,
    /// Of a write that was proposed or received, and not read from the log: its body, parsed.
    pub(crate) parsed: Option<Parsed>,
}

impl Payload {
    /// Makes what an entry says that is no write, when it is proposed or received.
    pub(crate) fn plain(kind: u8, body: Bytes) -> Self {
        debug_assert!(kind != kind::WRITE && kind != kind::UPLOAD_CHUNK);
        Self {
            kind,
            body,
            value: None,
            place: None,
            parsed: None,
        }
    }

    /// Makes what an entry with a chunk says when it is proposed or received.
    pub(crate) fn chunk(body: Bytes, content: ChunkContent) -> Self {
        Self {
            kind: kind::UPLOAD_CHUNK,
            value: entry::value_part(content),
            place: None,
            body,
            parsed: None,
        }
    }

    /// Makes what a write says when it is proposed or received.
    pub(crate) fn write(body: Bytes, parsed: Parsed) -> Self {
        Self {
            kind: kind::WRITE,
            value: parsed.value_part(&body),
            place: None,
            body,
            parsed: Some(parsed),
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kind {} with {} bytes", self.kind, self.body.len())
    }
}

impl RaftPayload for Payload {
    type D = Self;
    type NodeId = u64;
    type Node = StoreId;

    fn blank() -> Self {
        Self::plain(kind::BLANK, Bytes::new())
    }

    fn with_normal(self, data: Self) -> Self {
        data
    }

    fn with_membership(self, membership: Membership) -> Self {
        Self::plain(kind::MEMBERSHIP, membership::encode(&membership))
    }

    fn get_membership(&self) -> Option<Membership> {
        membership_of(self.kind, &self.body)
    }
}

/// The membership that an entry sets. A body that does not decode was refused before it reached
/// the log (by the peer server, or by the log's own checksums).
fn membership_of(kind: u8, body: &Bytes) -> Option<Membership> {
    if kind != kind::MEMBERSHIP {
        return None;
    }
    membership::decode(body)
}

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogEntry {
    leader: LeaderId,
    index: u64,
    /// What it says.
    pub(crate) payload: Payload,
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}: {}", self.leader, self.index, self.payload)
    }
}

impl RaftEntry for LogEntry {
    type CommittedLeaderId = LeaderId;
    type Payload = Payload;

    fn new(log_id: LogId, payload: Payload) -> Self {
        Self {
            leader: log_id.leader_id,
            index: log_id.index,
            payload,
        }
    }

    fn log_id_parts(&self) -> (&LeaderId, u64) {
        (&self.leader, self.index)
    }

    fn set_log_id(&mut self, new: LogId) {
        self.leader = new.leader_id;
        self.index = new.index;
    }

    fn get_membership(&self) -> Option<Membership> {
        membership_of(self.payload.kind, &self.payload.body)
    }
}

impl From<LogEntry> for shards::Entry {
    fn from(entry: LogEntry) -> Self {
        Self {
            id: shards::LogId {
                term: shards::Term(entry.leader.term),
                node: shards::ReplicaId(entry.leader.node_id),
                index: shards::LogIndex(entry.index),
            },
            kind: entry.payload.kind,
            body: entry.payload.body,
            value: entry.payload.value,
            place: entry.payload.place,
        }
    }
}

impl From<shards::Entry> for LogEntry {
    fn from(entry: shards::Entry) -> Self {
        Self {
            leader: LeaderId {
                term: entry.id.term.0,
                node_id: entry.id.node.0,
            },
            index: entry.id.index.0,
            payload: Payload {
                kind: entry.kind,
                body: entry.body,
                value: entry.value,
                place: entry.place,
                parsed: None,
            },
        }
    }
}

/// openraft's log id of one of ours.
pub(crate) fn log_id(id: shards::LogId) -> LogId {
    LogId {
        leader_id: LeaderId {
            term: id.term.0,
            node_id: id.node.0,
        },
        index: id.index.0,
    }
}

/// Our log id of one of openraft's.
pub(crate) fn shard_log_id(id: LogId) -> shards::LogId {
    shards::LogId {
        term: shards::Term(id.leader_id.term),
        node: shards::ReplicaId(id.leader_id.node_id),
        index: shards::LogIndex(id.index),
    }
}

/// openraft's vote of one of ours.
pub(crate) fn vote(vote: shards::Vote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term.0,
            node_id: vote.node.0,
        },
        committed: vote.committed,
    }
}

/// Our vote of one of openraft's.
pub(crate) fn shard_vote(vote: &Vote) -> shards::Vote {
    shards::Vote {
        term: shards::Term(vote.leader_id.term),
        node: shards::ReplicaId(vote.leader_id.node_id),
        committed: vote.committed,
    }
}
