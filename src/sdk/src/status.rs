//! The state of the cluster.

use crate::client::Client;
use crate::error::{Cause, Error, Result};
use crate::limits::CONNECT_TIMEOUT;
use crate::operation::Event;
use crate::route::Target;
use corelith_wire::map::{ClusterMap, MapNode};
use corelith_wire::request::{encode_status, encode_storage};
use corelith_wire::response::Answer;
use corelith_wire::{DecodeError, Epoch, Head, Kind, NodeId, Outbox, ShardId};
use futures_util::future::join_all;
use std::sync::Arc;

pub use corelith_wire::status::{NodePeer, NodeStranger, ShardRole, ShardStatus, StatusReply};
pub use corelith_wire::storage::{
    DamagedPlace, LevelStorage, ScrubState, ShardStorage, StorageReply,
};

/// The state of the cluster, as its nodes reported it. The reports are not from one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The cluster map.
    pub map: Arc<ClusterMap>,
    /// Every node of the map.
    pub nodes: Vec<NodeStatus>,
}

/// The state of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// The node, as the map says.
    pub node: MapNode,
    /// Its report, or why there is none.
    pub reply: std::result::Result<StatusReply, Cause>,
}

/// The state of one node's storage.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStorage {
    /// The node, as the map says.
    pub node: MapNode,
    /// Its report, or why there is none.
    pub reply: std::result::Result<StorageReply, Cause>,
}

impl Client {
    /// Asks every node for its state, and returns one report per node of the newest map that they know. A node that
    /// does not answer within 2 s or the client's deadline, whichever is shorter, is listed with the cause. Cancel
    /// safe.
    ///
    /// # Errors
    /// `Unavailable` if no node answers.
    pub async fn status(&self) -> Result<ClusterStatus> {
        let status = self.status_by_map().await;
        let replies = status.nodes.iter().map(|node| node.reply.as_ref());
        let newest = replies.flatten().map(|reply| reply.epoch).max();
        // The client may have done nothing since nodes came and went.
        let is_newest = newest.is_some_and(|epoch| epoch <= status.map.epoch);
        let status = match is_newest {
            true => status,
            false => {
                self.renew_map().await;
                self.status_by_map().await
            }
        };
        any_answer(status.nodes.iter().map(|node| &node.reply))?;
        Ok(status)
    }

    async fn status_by_map(&self) -> ClusterStatus {
        let map = self.cluster_map();
        let asking = map.nodes.iter().map(|node| self.status_of(node, map.epoch));
        let nodes = join_all(asking).await;
        ClusterStatus { map, nodes }
    }

    /// Asks every node for the state of its storage, and returns one report per node of the map. A node
    /// that does not answer within 2 s or the client's deadline, whichever is shorter, is listed with the
    /// cause, as is a node of a release without such reports. Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` if no node answers.
    pub async fn storage(&self) -> Result<Vec<NodeStorage>> {
        self.renew_map().await;
        let map = self.cluster_map();
        let asking = map
            .nodes
            .iter()
            .map(|node| self.storage_of(node, map.epoch));
        let nodes = join_all(asking).await;
        any_answer(nodes.iter().map(|node| &node.reply))?;
        Ok(nodes)
    }

    async fn status_of(&self, node: &MapNode, epoch: u32) -> NodeStatus {
        let reply = match self.ask(node, epoch, encode_status).await {
            Ok(Answer::Status(reply)) => Ok(reply),
            answer => Err(cause_of(answer)),
        };
        NodeStatus {
            node: node.clone(),
            reply,
        }
    }

    async fn storage_of(&self, node: &MapNode, epoch: u32) -> NodeStorage {
        let reply = match self.ask(node, epoch, encode_storage).await {
            Ok(Answer::Storage(reply)) => Ok(reply),
            answer => Err(cause_of(answer)),
        };
        NodeStorage {
            node: node.clone(),
            reply,
        }
    }

    /// Sends a node a request that concerns the whole node; `encode` sets its kind.
    async fn ask(
        &self,
        node: &MapNode,
        epoch: u32,
        encode: impl Fn(&mut Outbox, Head),
    ) -> std::result::Result<Answer, Cause> {
        let target = Target {
            node: NodeId(node.id),
            core: 0,
        };
        let address = || Some((node.host.clone(), node.base_port));
        let until = self.clock().now() + CONNECT_TIMEOUT.min(self.deadline());
        let event = match self.transport().connection(target, address) {
            Some(connection) => {
                let encode = |out: &mut Outbox, request_id| {
                    let (kind, shard, epoch) = (Kind::STATUS, ShardId(0), Epoch(epoch));
                    let head = Head {
                        kind,
                        request_id,
                        shard,
                        epoch,
                    };
                    encode(out, head);
                };
                connection.call(encode, None, until).await
            }
            None => Event::NotSent(Cause::WrongNode),
        };
        match event {
            Event::Answer(answer) => Ok(answer),
            Event::NotSent(cause) | Event::Lost(cause) => Err(cause),
            Event::Moved => Err(Cause::LeadershipLost),
        }
    }
}

/// Why an answer is not of the wanted kind.
fn cause_of(answer: std::result::Result<Answer, Cause>) -> Cause {
    match answer {
        Ok(Answer::Failure { .. }) => Cause::Starting,
        Ok(_) => Cause::Answer(DecodeError::Malformed {
            what: "kind of answer",
        }),
        Err(cause) => cause,
    }
}

/// An error with the last cause if no node answered.
fn any_answer<'a, T: 'a>(
    replies: impl Iterator<Item = &'a std::result::Result<T, Cause>>,
) -> Result<()> {
    let mut last = Cause::NotTried;
    for reply in replies {
        match reply {
            Ok(_) => return Ok(()),
            Err(cause) => last = cause.clone(),
        }
    }
    Err(Error::Unavailable { cause: last })
}
