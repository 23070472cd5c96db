//! Where the cores of other nodes are, and who the members of a group are.

use corelith_shards::{NodeId, ShardId};
use corelith_wire::StoreId;
use futures_util::future::LocalBoxFuture;
use std::net::SocketAddr;
use std::rc::Rc;

/// The address of a node's core; `None` if there is none now.
pub type Resolve = Rc<dyn Fn(NodeId, u16) -> LocalBoxFuture<'static, Option<SocketAddr>>>;

/// How the cores of other nodes are found.
#[derive(Clone)]
pub struct Route {
    /// The core of a node that owns a shard.
    pub core_of: Rc<dyn Fn(NodeId, ShardId) -> u16>,
    /// The address of a node's core, asked for before each attempt to connect; `None` if its name has
    /// none now, which is as if the node were down.
    pub resolve: Resolve,
}

/// A member of a group that is formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupMember {
    /// Its node.
    pub node: NodeId,
    /// The store that counts as it. 0: none yet, until the group has bound one.
    pub store: StoreId,
}

/// Who says something over a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) member: GroupMember,
    /// The start of its store.
    pub(crate) start: corelith_wire::Start,
}
