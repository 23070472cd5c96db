//! All groups of a core.

use crate::error::OpenError;
use crate::group::Group;
use crate::options::Options;
use bytes::BytesMut;
use corelith_io::{ReadHalf, WriteHalf};
use corelith_shards::{NodeId, Shard, ShardId};
use std::net::SocketAddr;
use std::rc::Rc;

/// Tells at which address the core of a node listens that owns the shard.
pub type Route = Rc<dyn Fn(NodeId, ShardId) -> SocketAddr>;

/// The groups of one core and its connections to the cores of other nodes. Clones share them.
#[derive(Clone)]
pub struct Groups {}

impl Groups {
    /// Makes an empty set of groups. Connections to peers are made when a group needs them.
    ///
    /// # Errors
    /// `Options` if the options do not fit together.
    pub fn new(
        me: NodeId,
        cluster_id: u64,
        epoch: u32,
        route: Route,
        options: Options,
    ) -> Result<Self, OpenError> {
        let _ = (me, cluster_id, epoch, route, options);
        todo!()
    }

    /// Starts this node's replica of a shard. `members` are the nodes that have one, the same list
    /// on all of them; `preferred` is the one that should lead, and forms the group when it is new.
    ///
    /// # Errors
    /// The shard's storage failed, or this node is not a member.
    pub async fn open(
        &self,
        shard: Shard,
        shard_id: ShardId,
        members: Vec<NodeId>,
        preferred: NodeId,
    ) -> Result<Group, OpenError> {
        let _ = (shard, shard_id, members, preferred);
        todo!()
    }

    /// The group of a shard, if it is open here.
    pub fn group(&self, shard: ShardId) -> Option<Group> {
        let _ = shard;
        todo!()
    }

    /// All open groups, by shard.
    pub fn all(&self) -> Vec<Group> {
        todo!()
    }

    /// Serves a connection on which `peer` has introduced itself and was welcomed; returns when it
    /// ends. `leftover` is what was read beyond the handshake.
    pub async fn serve_peer(
        &self,
        read: ReadHalf,
        write: WriteHalf,
        leftover: BytesMut,
        peer: NodeId,
    ) {
        let _ = (read, write, leftover, peer);
        todo!()
    }

    /// Stops all groups and closes their shards (which flushes them).
    pub async fn shutdown(&self) {
        todo!()
    }
}
