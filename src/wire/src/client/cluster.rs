//! What an operator asks of a cluster, and the answers. Any node passes them to the one that leads the shard of the
//! cluster map.

use crate::body::{access, deserialize};
use crate::error::DecodeError;
use crate::frame::{FrameBuilder, Head, Kind};
use crate::limits;
use crate::outbox::Outbox;
use rkyv::{Archive, Deserialize, Serialize};

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ClusterAsk {
    /// What is to be done.
    pub order: ClusterOrder,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum ClusterOrder {
    /// Tell what the cluster is, and what goes on.
    Status = 0,
    /// Move all replicas and leads off a node.
    Drain {
        /// The node.
        node: u64,
    } = 1,
    /// Give a node that is drained replicas again.
    Undrain {
        /// The node.
        node: u64,
    } = 2,
    /// Take a node without replicas out of the cluster for ever.
    Remove {
        /// The node.
        node: u64,
    } = 3,
    /// Drain a node for which another has joined.
    Replace {
        /// The node that goes.
        old: u64,
        /// The node that has joined.
        new: u64,
    } = 4,
    /// Set a setting of the cluster.
    Set {
        /// Its name.
        key: String,
        /// Its value.
        value: String,
    } = 5,
    /// Move a replica.
    MoveShard {
        /// The shard.
        shard: u32,
        /// The node that has it.
        from: u64,
        /// The node that gets it.
        to: u64,
    } = 6,
    /// Prefer a node as the leader.
    LeadShard {
        /// The shard.
        shard: u32,
        /// A node that has a replica.
        to: u64,
    } = 7,
    /// Take the store that now comes as a node in its place.
    Rejoin {
        /// The node.
        node: u64,
        /// Its store from now on.
        store: u128,
    } = 8,
    /// Go on without the nodes that are gone for good, where they were a majority. Writes may be lost.
    Recover {
        /// The nodes that are gone.
        lost: Vec<u64>,
    } = 9,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum ClusterAnswer {
    /// What the cluster is.
    Status {
        /// As the node that leads the shard of the map sees it.
        view: ClusterView,
    } = 0,
    /// What would be done.
    Planned {
        /// In lines for people.
        lines: Vec<String>,
    } = 1,
    /// It is written down and will be done.
    Done {
        /// In lines for people.
        lines: Vec<String>,
    } = 2,
    /// It is not done.
    Refused {
        /// Why, and what to do instead, in one sentence.
        why: String,
    } = 3,
}

/// What the cluster is, and what goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: u128,
    /// Generation of the map.
    pub epoch: u32,
    /// The version that all nodes speak.
    pub version: u32,
    /// The node that leads the shard of the map.
    pub leader: u64,
    /// The nodes that hold the map.
    pub map_nodes: Vec<u64>,
    /// The settings.
    pub settings: Vec<ViewSetting>,
    /// The nodes, ascending; those that were removed too.
    pub nodes: Vec<ViewNode>,
    /// The shards, by number.
    pub shards: Vec<ViewShard>,
    /// Changes of members that are under way.
    pub changes: Vec<ViewChange>,
    /// What is not as it should be, one sentence each.
    pub troubles: Vec<String>,
}

/// A setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ViewSetting {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ViewNode {
    /// Its id.
    pub node: u64,
    /// Its store.
    pub store: u128,
    /// Another store that comes as this node and waits to be taken in; 0 if there is none.
    pub waiting: u128,
    /// Host name or IP address.
    pub host: String,
    /// Port of its core 0.
    pub port: u16,
    /// Number of its cores.
    pub cores: u16,
    /// Its zone.
    pub zone: String,
    /// Its region.
    pub region: String,
    /// "active", "draining" or "removed".
    pub state: String,
    /// Time since it reported, in milliseconds; `None` if it did not yet, to the node that leads the map now.
    pub heard_ms: Option<u64>,
    /// Shards with a replica on it.
    pub replicas: u32,
    /// Shards that prefer it as their leader.
    pub prefers: u32,
    /// Shards that it leads.
    pub leads: u32,
    /// Bytes of its device in use.
    pub used_bytes: u64,
    /// Bytes of its device that are free.
    pub free_bytes: u64,
}

/// A shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ViewShard {
    /// The nodes that vote, the preferred leader first.
    pub replicas: Vec<u64>,
    /// Its leader; 0 if none reports itself.
    pub leader: u64,
}

/// A change of a shard's members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ViewChange {
    /// The shard; the largest number is that of the map.
    pub shard: u32,
    /// The node that gets a replica; 0 if none does.
    pub to: u64,
    /// The node that loses one; 0 if none does.
    pub from: u64,
    /// "move", "rebuild", "drain" or "operator".
    pub why: String,
    /// What it waits for, in a few words.
    pub phase: String,
    /// Bytes that are copied.
    pub bytes_done: u64,
    /// Bytes that are to be copied; 0 if that is not known.
    pub bytes_all: u64,
    /// Time since it began, in milliseconds, as far as this leader of the map knows.
    pub running_ms: u64,
}

impl ClusterAsk {
    /// Reads the body of a [`Kind::CLUSTER`].
    ///
    /// # Errors
    /// The bytes are none, or a list or text is too long.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let ask: Self = deserialize(
            access::<ArchivedClusterAsk>(body, "order to the cluster")?,
            "order to the cluster",
        )?;
        let (what, len, limit) = match &ask.order {
            ClusterOrder::Set { key, value } => (
                "setting",
                key.len().max(value.len()),
                limits::SETTING_BYTES_MAX,
            ),
            ClusterOrder::Recover { lost } => {
                ("list of lost nodes", lost.len(), limits::LOST_NODES_MAX)
            }
            _ => return Ok(ask),
        };
        match len <= limit {
            true => Ok(ask),
            false => Err(DecodeError::TooLarge { what, len, limit }),
        }
    }
}

impl ClusterAnswer {
    /// Reads the body of a [`Kind::CLUSTER_ANSWER`].
    ///
    /// # Errors
    /// The bytes are none.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        deserialize(
            access::<ArchivedClusterAnswer>(body, "answer of the cluster")?,
            "answer of the cluster",
        )
    }
}

/// Appends what an operator asks.
pub fn encode_cluster_ask(out: &mut Outbox, head: Head, ask: &ClusterAsk) {
    FrameBuilder::begin(out.buffer(), head.of_kind(Kind::CLUSTER))
        .nested(ask)
        .seal();
}

/// Appends the answer.
pub fn encode_cluster_answer(out: &mut Outbox, head: Head, answer: &ClusterAnswer) {
    FrameBuilder::begin(out.buffer(), head.of_kind(Kind::CLUSTER_ANSWER))
        .nested(answer)
        .seal();
}

#[cfg(test)]
mod tests;
