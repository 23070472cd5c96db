//! The state of the cluster.

use crate::client::Client;
use crate::error::{Cause, Error, Result};
use crate::limits::CONNECT_TIMEOUT;
use crate::operation::Event;
use crate::route::Target;
use corelith_wire::map::{ClusterMap, MapNode};
use corelith_wire::request::encode_status;
use corelith_wire::response::Answer;
use corelith_wire::{DecodeError, Epoch, Head, Kind, NodeId, ShardId};
use futures_util::future::join_all;
use std::sync::Arc;

pub use corelith_wire::status::{ShardRole, ShardStatus, StatusReply};

/// The state of the cluster, as its nodes told within moments of each other.
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
    /// What it told, or why it told nothing.
    pub reply: std::result::Result<StatusReply, Cause>,
}

impl Client {
    /// Asks every node for its state. A node that does not answer is listed with the cause.
    ///
    /// # Errors
    /// `Unavailable` if no node answers.
    pub async fn status(&self) -> Result<ClusterStatus> {
        let map = self.cluster_map();
        let asking = map.nodes.iter().map(|node| self.status_of(node, map.epoch));
        let nodes = join_all(asking).await;
        let mut last = Cause::NotTried;
        for node in &nodes {
            match &node.reply {
                Ok(_) => return Ok(ClusterStatus { map, nodes }),
                Err(cause) => last = *cause,
            }
        }
        Err(Error::Unavailable { cause: last })
    }

    async fn status_of(&self, node: &MapNode, epoch: u32) -> NodeStatus {
        let target = Target {
            node: NodeId(node.id),
            core: 0,
        };
        let address = || Some((node.host.clone(), node.base_port));
        let until = self.clock().now() + CONNECT_TIMEOUT;
        let event = match self.transport().connection(target, address) {
            Some(connection) => {
                let encode = |out: &mut _, request_id| {
                    let (kind, shard, epoch) = (Kind::STATUS, ShardId(0), Epoch(epoch));
                    encode_status(
                        out,
                        Head {
                            kind,
                            request_id,
                            shard,
                            epoch,
                        },
                    );
                };
                connection.call(encode, until).await
            }
            None => Event::NotSent(Cause::WrongNode),
        };
        let reply = match event {
            Event::Answer(Answer::Status(reply)) => Ok(reply),
            Event::Answer(Answer::Failure { .. }) => Err(Cause::Starting),
            Event::Answer(_) => Err(Cause::Answer(DecodeError::Malformed {
                what: "kind of answer",
            })),
            Event::NotSent(cause) | Event::Lost(cause) => Err(cause),
        };
        NodeStatus {
            node: node.clone(),
            reply,
        }
    }
}
