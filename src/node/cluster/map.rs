//! The cluster map: who the nodes are, which replicas each shard has, and what an operator has set. A value; whoever
//! leads the shard of the map writes it, by [`Map::apply`].
//!
//! Invariants ([`Map::check`] has them all, and every edit asserts them):
//! * The epoch rises with every write, and no shard's epoch is above it.
//! * The replicas of a shard are on different nodes, none of which is removed.
//! * A generation is used once in a shard: every replica's is below `next_generation`.
//! * A change adds a replica that is none yet, and removes one that is. The one that it adds is on a node without a
//!   replica of the shard, or in the place of the one that it removes.
//! * A node's id is given once: all are below `next_node`. A store is one node's.

mod check;
mod edit;
pub mod format;
#[cfg(test)]
pub(crate) mod tests;

pub use check::Wrong;
pub use edit::{EditError, MapEdit, NodePlace};
pub use format::MapError;

use crate::node::config::ClusterConfig;
use crate::node::limits;
use corelith_wire::map::{ClusterMap, MapLimits};
use corelith_wire::peer::Charter;
use corelith_wire::{Epoch, FullClusterId, LogIndex, NodeId, ReplicaId, ShardId, StoreId};
use std::collections::BTreeMap;

/// The map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Rises with every write.
    pub epoch: Epoch,
    /// The cluster.
    pub cluster: FullClusterId,
    /// The version that all nodes speak.
    pub version: u32,
    /// What an operator may set.
    pub settings: MapSettings,
    /// All nodes.
    pub nodes: BTreeMap<NodeId, MapNode>,
    /// All shards, by number.
    pub shards: Vec<MapShard>,
    /// The shard that holds the map.
    pub meta: MapShard,
    /// The id of the next node that joins.
    pub next_node: u64,
}

/// What an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSettings {
    /// Replicas of each shard.
    pub replicas: u32,
    /// What leaders rely on when they answer reads, as nodes tell each other: 0 a lease, 1 a majority.
    pub reads: u32,
    /// A node that is not heard for so long is replaced.
    pub rebuild_after_s: u32,
    /// Changes of members at once in the cluster.
    pub moves_max: u32,
    /// Changes at once that one node takes part in.
    pub moves_per_node_max: u32,
    /// How fast a replica is copied; 0: as fast as it goes.
    pub copy_bytes_per_second: u64,
    /// Whether a node that comes with an empty store is taken in again by itself.
    pub rejoin: Rejoin,
    /// Whether replicas and leads are moved so that nodes have alike many.
    pub balance: bool,
}

/// Whether a node that comes with an empty store is taken in again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejoin {
    /// It is.
    Auto,
    /// An operator says so.
    Manual,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapNode {
    /// Its store. [`StoreId::UNCLAIMED`]: the one that comes first; [`StoreId::ANY`]: any.
    pub store: StoreId,
    /// Host name or IP address.
    pub host: String,
    /// Port of its core 0.
    pub port: u16,
    /// Number of its cores.
    pub cores: u16,
    /// Its zone: what fails together. Those of different regions differ.
    pub zone: String,
    /// Its region.
    pub region: String,
    /// What is to become of it.
    pub state: NodeState,
}

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// It holds replicas.
    Active,
    /// Its replicas are moved away.
    Draining,
    /// It holds none, and is refused.
    Removed,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapShard {
    /// Those that vote, the preferred leader first.
    pub replicas: Vec<ReplicaId>,
    /// The map's epoch at the last change of the shard.
    pub epoch: Epoch,
    /// Index of the membership entry that `replicas` shows; 0 for the first.
    pub membership: LogIndex,
    /// The generation of the next replica.
    pub next_generation: u16,
    /// The change of members that is under way.
    pub change: Option<Change>,
}

/// A change of a shard's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The replica that comes.
    pub add: Option<ReplicaId>,
    /// The replica that goes.
    pub remove: Option<ReplicaId>,
    /// What it is for.
    pub why: Why,
}

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Zones and loads.
    Move,
    /// A replica is lost.
    Rebuild,
    /// A node is drained.
    Drain,
    /// An operator said so.
    Operator,
}

impl Map {
    /// The map of a cluster whose configuration alone decided the placement: shard `s` has its replicas on the nodes
    /// `(s + 0..R) mod N`, sorted by id, and the shard of the map on the first ones.
    ///
    /// # Errors
    /// Says what of the configuration or of the charter no map can hold.
    pub fn first(config: &ClusterConfig, charter: &Charter) -> Result<Self, Wrong> {
        let node = |entry: &crate::node::config::NodeEntry| {
            let id = NodeId(entry.id);
            let node = MapNode {
                store: charter.store_of(id).unwrap_or(StoreId::UNCLAIMED),
                host: entry.host.clone(),
                port: entry.port,
                cores: entry.cores,
                zone: String::new(),
                region: String::new(),
                state: NodeState::Active,
            };
            (id, node)
        };
        let nodes: BTreeMap<NodeId, MapNode> = config.nodes.iter().map(node).collect();
        let ids: Vec<NodeId> = nodes.keys().copied().collect();
        if ids.iter().any(|id| id.0 >= ReplicaId::NODES_END) {
            return Err(Wrong("a node's id is too large"));
        }
        let replicas = config.replica_count() as usize;
        let of_shard = |shard: u32| {
            MapShard::first(corelith_wire::placement::replicas_of(
                ShardId(shard),
                &ids,
                replicas,
            ))
        };
        let meta = ids.iter().copied().take(meta_replicas(ids.len()));
        let map = Self {
            epoch: Epoch(1),
            cluster: charter.cluster,
            version: corelith_wire::version::NEWEST.into(),
            settings: MapSettings::first(config.replica_count(), config.reads_tag()),
            shards: (0..config.shards).map(of_shard).collect(),
            meta: MapShard::first(meta.collect()),
            next_node: ids.last().map_or(1, |last| last.0 + 1),
            nodes,
        };
        map.check()?;
        Ok(map)
    }

    /// A shard, that of the map included.
    pub fn shard(&self, shard: ShardId) -> Option<&MapShard> {
        match shard {
            ShardId::META => Some(&self.meta),
            ShardId(shard) => self.shards.get(shard as usize),
        }
    }

    fn shard_mut(&mut self, shard: ShardId) -> Option<&mut MapShard> {
        match shard {
            ShardId::META => Some(&mut self.meta),
            ShardId(shard) => self.shards.get_mut(shard as usize),
        }
    }

    /// All shards, that of the map first.
    pub fn all_shards(&self) -> impl Iterator<Item = (ShardId, &MapShard)> {
        let numbered = (0_u32..).map(ShardId).zip(&self.shards);
        std::iter::once((ShardId::META, &self.meta)).chain(numbered)
    }

    /// A node that is not removed.
    pub fn node(&self, node: NodeId) -> Option<&MapNode> {
        let found = self.nodes.get(&node);
        found.filter(|node| node.state != NodeState::Removed)
    }

    /// The nodes that are not removed.
    pub fn live_nodes(&self) -> impl Iterator<Item = (NodeId, &MapNode)> {
        let all = self.nodes.iter().map(|(id, node)| (*id, node));
        all.filter(|(_, node)| node.state != NodeState::Removed)
    }

    /// The shards that have a replica on `node`, or get one.
    pub fn shards_on(&self, node: NodeId) -> impl Iterator<Item = (ShardId, &MapShard)> {
        self.all_shards().filter(move |(_, shard)| {
            let added = shard.change.and_then(|change| change.add);
            let mut named = shard.replicas.iter().chain(&added);
            named.any(|replica| replica.node() == node)
        })
    }

    /// The map that clients get.
    pub fn for_clients(&self) -> ClusterMap {
        let nodes = self
            .live_nodes()
            .map(|(id, node)| corelith_wire::map::MapNode {
                id: id.0,
                host: node.host.clone(),
                base_port: node.port,
                cores: node.cores,
            });
        let shards = self.shards.iter().map(|shard| {
            let nodes = shard.replicas.iter().map(|replica| replica.node().0);
            corelith_wire::map::MapShard {
                replicas: nodes.collect(),
            }
        });
        let map = ClusterMap {
            epoch: self.epoch.0,
            cluster: self.cluster.short().0,
            nodes: nodes.collect(),
            shards: shards.collect(),
            limits: MapLimits::of_this_version(),
        };
        debug_assert!(map.check().is_ok(), "clients can read it");
        map
    }
}

/// Replicas of the shard that holds the map, among so many nodes.
pub fn meta_replicas(nodes: usize) -> usize {
    let most = nodes.clamp(1, limits::META_REPLICAS_MAX);
    let odd = most - (most + 1) % 2;
    assert!(
        odd % 2 == 1 && odd <= most,
        "{odd} of {most} are an odd number"
    );
    odd
}

impl MapSettings {
    /// What holds before an operator sets anything.
    pub fn first(replicas: u32, reads: u32) -> Self {
        Self {
            replicas,
            reads,
            rebuild_after_s: limits::REBUILD_AFTER_S_DEFAULT,
            moves_max: limits::MOVES_DEFAULT,
            moves_per_node_max: limits::MOVES_PER_NODE_DEFAULT,
            copy_bytes_per_second: 0,
            rejoin: Rejoin::Auto,
            balance: true,
        }
    }
}

impl MapNode {
    /// What fails together with it. Zones of different regions differ.
    pub fn domain(&self) -> (&str, &str) {
        (&self.region, &self.zone)
    }
}

impl MapShard {
    fn first(nodes: Vec<NodeId>) -> Self {
        let replicas = nodes.into_iter().map(|node| ReplicaId::new(node, 0));
        Self {
            replicas: replicas.collect(),
            epoch: Epoch(1),
            membership: LogIndex(0),
            next_generation: 1,
            change: None,
        }
    }

    /// Its replica on `node`.
    pub fn on(&self, node: NodeId) -> Option<ReplicaId> {
        let mut replicas = self.replicas.iter().copied();
        replicas.find(|replica| replica.node() == node)
    }

    /// The voters that its change leads to; those that it has without one.
    pub fn wanted(&self) -> Vec<ReplicaId> {
        let Some(change) = self.change else {
            return self.replicas.clone();
        };
        let mut wanted = self.replicas.clone();
        let place = wanted
            .iter()
            .position(|voter| Some(*voter) == change.remove);
        match (place.and_then(|place| wanted.get_mut(place)), change.add) {
            (Some(place), Some(add)) => *place = add,
            (Some(_), None) => wanted.retain(|voter| Some(*voter) != change.remove),
            (None, add) => wanted.extend(add),
        }
        assert!(
            change.add.is_none_or(|add| wanted.contains(&add)),
            "what comes is wanted"
        );
        wanted
    }
}
