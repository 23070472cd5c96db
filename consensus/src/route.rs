//! Where the cores of other nodes are, and who the members of a group are.

use bytes::Bytes;
use corelith_shards::{LogId, NodeId, ReplicaId, ShardId};
use corelith_wire::peer::{NodeAsk, NodeReply};
use corelith_wire::{Epoch, Head, StoreId};
use futures_util::future::LocalBoxFuture;
use std::net::SocketAddr;
use std::rc::Rc;

/// The address of a node's core; `None` if there is none now.
pub type Resolve = Rc<dyn Fn(NodeId, u16) -> LocalBoxFuture<'static, Option<SocketAddr>>>;

/// Answers a question of that node, which has that store.
pub type AnswerNode = Rc<dyn Fn(NodeId, StoreId, NodeAsk) -> LocalBoxFuture<'static, NodeReply>>;

/// How the cores of other nodes are found.
#[derive(Clone)]
pub struct Route {
    /// The core of a node that owns a shard.
    pub core_of: Rc<dyn Fn(NodeId, ShardId) -> u16>,
    /// The address of a node's core, asked for before each attempt to connect; `None` if its name has
    /// none now, which is as if the node were down.
    pub resolve: Resolve,
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupMember {
    /// The replica.
    pub replica: ReplicaId,
    /// The store that counts as it. 0: none yet, until the group has bound one.
    pub store: StoreId,
}

/// A node with a store of its own, whatever replicas it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeStore {
    /// The node.
    pub node: NodeId,
    /// The store.
    pub store: StoreId,
}

impl NodeStore {
    /// As a member of a group: a replica of that node, with this store.
    pub(crate) fn as_member(self, replica: ReplicaId) -> GroupMember {
        assert!(
            replica.node() == self.node,
            "{replica} is not of {}",
            self.node
        );
        GroupMember {
            replica,
            store: self.store,
        }
    }
}

/// How a replica came to be in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is one of those that form the group: the same list on all of them, each of generation 0.
    Founding(Vec<GroupMember>),
    /// It was taken in by a change of members.
    Admitted {
        /// The replica.
        replica: ReplicaId,
        /// The entry that named it, or a later one, and the membership in it, as its leader said; `None` if nobody
        /// has: then its log has one, or it waits until it is told ([`Group::told`](crate::Group::told)).
        told: Option<(LogId, Bytes)>,
    },
}

/// The replica of a shard that a message to a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) shard: ShardId,
    pub(crate) generation: u16,
}

impl Target {
    /// The replica of that shard.
    pub(crate) fn of(shard: ShardId, replica: ReplicaId) -> Self {
        Self {
            shard,
            generation: replica.generation(),
        }
    }

    /// As the header of a frame says it, in the place of an epoch.
    pub(crate) fn epoch(self) -> Epoch {
        Epoch(u32::from(self.generation) + 1)
    }

    /// The one that a header names; `None` if it names none.
    pub(crate) fn named(head: &Head) -> Option<Self> {
        let generation = head.epoch.0.checked_sub(1)?;
        Some(Self {
            shard: head.shard,
            generation: u16::try_from(generation).ok()?,
        })
    }
}

/// Who says something over a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) at: NodeStore,
    /// The start of its store.
    pub(crate) start: corelith_wire::Start,
}
