//! What nodes ask each other beside what their groups do: the cluster map, opening and changing replicas, and what
//! the leader of the meta shard is told.
//!
//! A `NODE` frame carries a [`NodeAsk`], a `NODE_REPLY` a [`NodeReply`], as rkyv bodies. They travel between the first
//! cores of two nodes. Maps and memberships are bytes here; who takes them checks them.

use super::kinds;
use crate::body::{access, deserialize};
use crate::error::DecodeError;
use crate::frame::{Frame, FrameBuilder, Head};
use crate::ids::{LogId, LogIndex, ReplicaId, Term};
use crate::limits::{
    CLUSTER_MAP_BYTES_MAX, HOST_BYTES_MAX, MEMBERSHIP_BYTES_MAX, PEER_BYTES_MAX, PLACE_BYTES_MAX,
    REPORTED_SHARDS_MAX, WHY_BYTES_MAX,
};
use crate::outbox::Outbox;
use rkyv::{Archive, Deserialize, Serialize};

/// What one node asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum NodeAsk {
    /// The map, if the answering node knows a later one than that of this epoch.
    MapSince {
        /// The epoch.
        epoch: u32,
    },
    /// Have that replica of a shard, which is taken in by a change of members.
    Open {
        /// The shard.
        shard: u32,
        /// The replica's id.
        replica: u64,
        /// The membership that names it, if there is one yet.
        told: Option<ToldMembership>,
    },
    /// Change the members of a shard that the answering node leads.
    Change {
        /// The shard.
        shard: u32,
        /// What.
        step: MemberStep,
    },
    /// How the asking node is. To the leader of the meta shard.
    Report(NodeReport),
    /// The asking node, or one that it speaks for, is to be in the map like this. To the leader of the meta shard.
    Register(Registration),
    /// What an operator asks, as it came. To the leader of the meta shard.
    Admin {
        /// The question, as clients encode it.
        ask: Vec<u8>,
    },
}

/// A membership of a group, as its leader has it.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ToldMembership {
    /// Term of its entry.
    pub term: u64,
    /// Replica that proposed the entry.
    pub replica: u64,
    /// Index of the entry.
    pub index: u64,
    /// The entry's body.
    pub body: Vec<u8>,
}

impl ToldMembership {
    /// The log id of its entry.
    pub fn at(&self) -> LogId {
        LogId {
            term: Term(self.term),
            node: ReplicaId(self.replica),
            index: LogIndex(self.index),
        }
    }
}

/// One step of a change of members.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum MemberStep {
    /// Send the log to this replica.
    AddLearner {
        /// Its id.
        replica: u64,
        /// Its store.
        store: u128,
    },
    /// These replicas vote, and no others.
    SetVoters {
        /// Their ids.
        replicas: Vec<u64>,
    },
    /// Stop sending the log to this replica.
    RemoveLearner {
        /// Its id.
        replica: u64,
    },
    /// That node is to lead.
    Lead {
        /// The node.
        to: u64,
    },
}

/// How a node is in the map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Registration {
    /// Its id; 0: it has none yet.
    pub node: u64,
    /// Its store.
    pub store: u128,
    /// Host name or address.
    pub host: String,
    /// Port of its first core.
    pub port: u16,
    /// Number of its cores.
    pub cores: u16,
    /// Its zone.
    pub zone: String,
    /// Its region.
    pub region: String,
}

/// How a node and its replicas are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its store.
    pub store: u128,
    /// Bytes free on its device.
    pub free_bytes: u64,
    /// Bytes that its shards take.
    pub used_bytes: u64,
    /// The shards that it leads.
    pub leads: Vec<LeadReport>,
    /// The shards that it has.
    pub holds: Vec<HoldReport>,
}

/// A group as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LeadReport {
    /// The shard.
    pub shard: u32,
    /// The leader's term.
    pub term: u64,
    /// The voters; two lists while the membership is joint.
    pub voters: Vec<Vec<u64>>,
    /// The learners.
    pub learners: Vec<u64>,
    /// Index of the entry with that membership.
    pub at: u64,
    /// Whether that entry is committed.
    pub is_committed: bool,
    /// Last index of the leader's log.
    pub last: u64,
    /// How far each other replica's log is known to be like the leader's.
    pub matching: Vec<ReplicaMatch>,
}

/// See [`LeadReport::matching`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReplicaMatch {
    /// The replica.
    pub replica: u64,
    /// The last index.
    pub index: u64,
    /// Bytes that were copied to it as files.
    pub copied_bytes: u64,
    /// Bytes of all files that are copied to it; 0 if none are.
    pub copy_bytes: u64,
}

/// A replica, as its node has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct HoldReport {
    /// The shard.
    pub shard: u32,
    /// The generation of the replica.
    pub generation: u16,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Whether it cannot be opened.
    pub is_down: bool,
}

/// What the other node answers.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum NodeReply {
    /// The map, or the newest one in which what was asked for is done.
    Map {
        /// As it is stored.
        bytes: Vec<u8>,
    },
    /// It knows no later map.
    NoNews,
    /// Done.
    Done {
        /// Index of the last entry that it took, or 0.
        at: u64,
    },
    /// It does not lead the shard that is asked about.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<u64>,
    },
    /// That replica's log is too far behind.
    Lags {
        /// The replica.
        replica: u64,
        /// Entries that it lacks.
        entries: u64,
    },
    /// Not now: another change is under way.
    Busy,
    /// It cannot be done.
    Failed {
        /// Why, in a sentence.
        why: String,
    },
    /// What the operator is to be answered.
    Admin {
        /// The answer, as clients decode it.
        answer: Vec<u8>,
    },
}

impl NodeReply {
    /// A failure; a long sentence is cut.
    pub fn failed(why: impl Into<String>) -> Self {
        let mut why = why.into();
        let end = why.floor_char_boundary(WHY_BYTES_MAX);
        why.truncate(end);
        Self::Failed { why }
    }
}

impl Registration {
    /// Whether its texts are of a length that the map has room for, and its numbers mean something.
    pub fn is_sound(&self) -> bool {
        let last_port = self.port.checked_add(self.cores.saturating_sub(1));
        (1..=HOST_BYTES_MAX).contains(&self.host.len())
            && self.zone.len() <= PLACE_BYTES_MAX
            && self.region.len() <= PLACE_BYTES_MAX
            && self.cores > 0
            && self.port > 0
            && last_port.is_some()
    }
}

impl NodeReport {
    fn is_sound(&self) -> bool {
        let lists = self.leads.iter().all(|lead| {
            lead.voters.len() <= 2
                && lead.voters.iter().map(Vec::len).sum::<usize>() <= LEAD_MEMBERS_MAX
                && lead.learners.len() <= LEAD_MEMBERS_MAX
                && lead.matching.len() <= 2 * LEAD_MEMBERS_MAX
        });
        self.leads.len() <= REPORTED_SHARDS_MAX && self.holds.len() <= REPORTED_SHARDS_MAX && lists
    }
}

/// Replicas of one kind in a report about a group, at most.
const LEAD_MEMBERS_MAX: usize = 4 * crate::limits::REPLICAS_MAX;

impl NodeAsk {
    fn is_sound(&self) -> bool {
        match self {
            Self::MapSince { .. } => true,
            Self::Open { told, .. } => told
                .as_ref()
                .is_none_or(|told| told.body.len() <= MEMBERSHIP_BYTES_MAX),
            Self::Change { step, .. } => match step {
                MemberStep::SetVoters { replicas } => replicas.len() <= LEAD_MEMBERS_MAX,
                _ => true,
            },
            Self::Report(report) => report.is_sound(),
            Self::Register(registration) => registration.is_sound(),
            Self::Admin { ask } => ask.len() <= PEER_BYTES_MAX / 2,
        }
    }
}

impl NodeReply {
    fn is_sound(&self) -> bool {
        match self {
            Self::Map { bytes } => bytes.len() <= CLUSTER_MAP_BYTES_MAX,
            Self::Failed { why } => why.len() <= WHY_BYTES_MAX,
            Self::Admin { answer } => answer.len() <= PEER_BYTES_MAX / 2,
            Self::NoNews
            | Self::Done { .. }
            | Self::NotLeader { .. }
            | Self::Lags { .. }
            | Self::Busy => true,
        }
    }
}

/// Appends a `NODE`.
pub fn encode_node(out: &mut Outbox, head: Head, ask: &NodeAsk) {
    let head = head.of_kind(kinds::NODE);
    assert!(ask.is_sound(), "no node takes this question: {ask:?}");
    FrameBuilder::begin(out.buffer(), head).nested(ask).seal();
}

/// Parses a `NODE`.
///
/// # Errors
/// It is malformed.
pub fn parse_node(frame: &Frame) -> Result<NodeAsk, DecodeError> {
    let what = "question of a node";
    let ask: NodeAsk = deserialize(access::<ArchivedNodeAsk>(frame.body(), what)?, what)?;
    match ask.is_sound() {
        true => Ok(ask),
        false => Err(DecodeError::Malformed { what }),
    }
}

/// Appends a `NODE_REPLY`.
pub fn encode_node_reply(out: &mut Outbox, head: Head, reply: &NodeReply) {
    let head = head.of_kind(kinds::NODE_REPLY);
    assert!(reply.is_sound(), "no node takes this answer");
    FrameBuilder::begin(out.buffer(), head).nested(reply).seal();
}

/// Parses a `NODE_REPLY`.
///
/// # Errors
/// It is malformed.
pub fn parse_node_reply(frame: &Frame) -> Result<NodeReply, DecodeError> {
    let what = "answer of a node";
    let reply: NodeReply = deserialize(access::<ArchivedNodeReply>(frame.body(), what)?, what)?;
    match reply.is_sound() {
        true => Ok(reply),
        false => Err(DecodeError::Malformed { what }),
    }
}

#[cfg(test)]
mod tests;
