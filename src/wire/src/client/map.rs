//! The cluster map: the cluster's nodes, and the nodes that hold each shard.

use crate::body::{access, deserialize};
use crate::error::DecodeError;
use crate::ids::{ClusterId, Epoch, NodeId, ShardId};
use crate::limits;
use crate::placement;
use rkyv::{Archive, Deserialize, Serialize};

/// The cluster map. Every change raises its epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Generation, from 1.
    pub epoch: u32,
    /// The cluster.
    pub cluster: u64,
    /// Its nodes, by id.
    pub nodes: Vec<MapNode>,
    /// Its shards, by number; the list's length is the cluster's number of shards.
    pub shards: Vec<MapShard>,
    /// Limits of the whole cluster.
    pub limits: MapLimits,
}

/// A node in the map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct MapNode {
    /// Its id.
    pub id: u64,
    /// Host name or IP address for clients.
    pub host: String,
    /// Port of its core 0; core c listens at `base_port + c`.
    pub base_port: u16,
    /// Number of cores.
    pub cores: u16,
}

/// A shard in the map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct MapShard {
    /// The nodes that hold it, the preferred leader first.
    pub replicas: Vec<u64>,
}

/// Limits of the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct MapLimits {
    /// Longest key, in bytes.
    pub key_bytes_max: u32,
    /// Longest value, in bytes.
    pub value_bytes_max: u64,
}

impl MapLimits {
    /// The limits of this protocol version.
    pub fn of_this_version() -> Self {
        Self {
            key_bytes_max: limits::KEY_BYTES_MAX as u32,
            value_bytes_max: limits::VALUE_BYTES_MAX as u64,
        }
    }
}

impl ClusterMap {
    /// The map of a cluster whose configuration alone decides the placement, see [`placement`].
    pub fn place(
        epoch: Epoch,
        cluster: ClusterId,
        mut nodes: Vec<MapNode>,
        shard_count: u32,
        replicas_wanted: usize,
    ) -> Self {
        nodes.sort_by_key(|node| node.id);
        let ids: Vec<NodeId> = nodes.iter().map(|node| NodeId(node.id)).collect();
        let replica_count = placement::replica_count(ids.len(), replicas_wanted);
        let shards = (0..shard_count)
            .map(|shard| MapShard {
                replicas: placement::replicas_of(ShardId(shard), &ids, replica_count)
                    .into_iter()
                    .map(|node| node.0)
                    .collect(),
            })
            .collect();
        let limits = MapLimits::of_this_version();
        Self {
            epoch: epoch.0,
            cluster: cluster.0,
            nodes,
            shards,
            limits,
        }
    }

    /// Number of shards.
    pub fn shard_count(&self) -> u32 {
        // `check` holds the list to SHARDS_MAX.
        self.shards.len() as u32
    }

    /// The shard of `key`.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        placement::shard_of(key, self.shard_count())
    }

    /// The nodes that hold `shard`, the preferred leader first.
    pub fn replicas(&self, shard: ShardId) -> impl Iterator<Item = NodeId> + '_ {
        let shard = self.shards.get(shard.0 as usize);
        shard
            .into_iter()
            .flat_map(|shard| shard.replicas.iter().copied().map(NodeId))
    }

    /// The node `id`; `None` if the map does not list it.
    pub fn node(&self, id: NodeId) -> Option<&MapNode> {
        let at = self
            .nodes
            .binary_search_by_key(&id.0, |node| node.id)
            .ok()?;
        self.nodes.get(at)
    }

    /// Host and port of the core that owns `shard` on node `id`; `None` if the map does not list the node.
    pub fn address(&self, id: NodeId, shard: ShardId) -> Option<(&str, u16)> {
        let node = self.node(id)?;
        Some((
            &node.host,
            node.base_port
                .checked_add(placement::core_of(shard, node.cores))?,
        ))
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let archived = access::<ArchivedClusterMap>(body, "cluster map")?;
        let map: Self = deserialize(archived, "cluster map")?;
        map.check()?;
        Ok(map)
    }

    /// Checks that the map is valid: within limits, nodes sorted by id, every replica on a listed node.
    ///
    /// # Errors
    /// `Malformed`, with the part that is wrong.
    pub fn check(&self) -> Result<(), DecodeError> {
        let wrong = |what| Err(DecodeError::Malformed { what });
        if self.nodes.is_empty() || self.nodes.len() > limits::NODES_MAX {
            return wrong("cluster map: number of nodes");
        }
        if self.shards.is_empty() || self.shards.len() > limits::SHARDS_MAX as usize {
            return wrong("cluster map: number of shards");
        }
        if self
            .nodes
            .iter()
            .zip(self.nodes.iter().skip(1))
            .any(|(a, b)| a.id >= b.id)
        {
            return wrong("cluster map: nodes out of order");
        }
        for node in &self.nodes {
            let last_port = node.base_port.checked_add(node.cores.saturating_sub(1));
            if node.id == 0 || node.cores == 0 || node.base_port == 0 || last_port.is_none() {
                return wrong("cluster map: node");
            }
            if node.host.is_empty() || node.host.len() > limits::HOST_BYTES_MAX {
                return wrong("cluster map: host name");
            }
        }
        for shard in &self.shards {
            if shard.replicas.is_empty() || shard.replicas.len() > limits::REPLICAS_MAX {
                return wrong("cluster map: number of replicas");
            }
            if shard
                .replicas
                .iter()
                .any(|id| self.node(NodeId(*id)).is_none())
            {
                return wrong("cluster map: replica at an unknown node");
            }
        }
        Ok(())
    }
}
