//! What holds of every map.

use super::{Map, MapNode, MapSettings, MapShard, NodeState};
use crate::node::config::is_place_name;
use crate::node::limits;
use corelith_wire::{ReplicaId, StoreId};
use std::collections::BTreeSet;

/// What of a map is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub &'static str);

fn holds(holds: bool, or_else: &'static str) -> Result<(), Wrong> {
    match holds {
        true => Ok(()),
        false => Err(Wrong(or_else)),
    }
}

impl Map {
    /// Checks everything that holds of a map.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self) -> Result<(), Wrong> {
        holds(self.epoch.0 > 0, "epochs count from 1")?;
        self.settings.check()?;
        let (nodes, live) = (self.nodes.len(), self.live_nodes().count());
        holds(nodes <= limits::MAP_NODES_MAX, "too many nodes")?;
        holds(
            (1..=limits::MAP_LIVE_NODES_MAX).contains(&live),
            "too many nodes, or none",
        )?;
        holds(
            self.next_node <= ReplicaId::NODES_END,
            "the next node's id is too large",
        )?;
        let mut stores = BTreeSet::new();
        for (id, node) in &self.nodes {
            holds(
                id.0 > 0 && id.0 < self.next_node,
                "a node's id was not given",
            )?;
            node.check()?;
            let is_one = ![StoreId::UNCLAIMED, StoreId::ANY].contains(&node.store);
            let is_live = node.state != NodeState::Removed;
            holds(
                !is_live || !is_one || stores.insert(node.store),
                "two nodes have one store",
            )?;
        }
        let shards = self.shards.len();
        holds(
            (1..=limits::SHARDS_MAX as usize).contains(&shards),
            "too many shards, or none",
        )?;
        self.all_shards()
            .try_for_each(|(_, shard)| self.check_shard(shard))
    }

    /// Checks what holds of a shard.
    pub(in crate::node::cluster) fn check_shard(&self, shard: &MapShard) -> Result<(), Wrong> {
        let replicas = &shard.replicas;
        holds(
            (1..=limits::REPLICAS_MAX as usize).contains(&replicas.len()),
            "too many replicas, or none",
        )?;
        holds(
            shard.epoch.0 > 0 && shard.epoch <= self.epoch,
            "a shard has changed after the map",
        )?;
        let is_known = |replica: &ReplicaId| {
            self.node(replica.node()).is_some() && replica.generation() < shard.next_generation
        };
        for (place, replica) in replicas.iter().enumerate() {
            holds(
                is_known(replica),
                "a replica is on no node, or was not admitted",
            )?;
            let others = replicas.get(..place).unwrap_or_default();
            let is_alone = others.iter().all(|other| other.node() != replica.node());
            holds(is_alone, "two replicas are on one node")?;
            let is_fresh = others
                .iter()
                .all(|other| other.generation() != replica.generation());
            holds(
                is_fresh || replica.generation() == 0,
                "two replicas have one generation",
            )?;
        }
        let Some(change) = shard.change else {
            return Ok(());
        };
        holds(
            change.add.is_some() || change.remove.is_some(),
            "a change changes nothing",
        )?;
        if let Some(remove) = change.remove {
            holds(replicas.contains(&remove), "a change removes no replica")?;
            holds(
                change.add.is_some() || replicas.len() > 1,
                "a change leaves no replica",
            )?;
        }
        if let Some(add) = change.add {
            holds(is_known(&add), "a change adds a replica on no node")?;
            let is_fresh = replicas
                .iter()
                .all(|replica| replica.generation() != add.generation());
            holds(is_fresh, "a change adds an old replica")?;
            let is_alone = replicas
                .iter()
                .all(|other| other.node() != add.node() || Some(*other) == change.remove);
            holds(is_alone, "a change adds a second replica on a node")?;
            holds(
                change.remove.is_some() || replicas.len() < limits::REPLICAS_MAX as usize,
                "a change adds too many replicas",
            )?;
        }
        Ok(())
    }
}

impl MapNode {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let is_host = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
        holds(
            !self.host.is_empty()
                && self.host.len() <= limits::HOST_LEN_MAX
                && self.host.chars().all(is_host),
            "a node's host is none",
        )?;
        holds(
            (1..=limits::CORES_MAX).contains(&self.cores),
            "a node has too many cores, or none",
        )?;
        let last = self.port.checked_add(self.cores - 1);
        holds(
            self.port > 0 && last.is_some(),
            "a node's cores have no ports",
        )?;
        holds(
            is_place_name(&self.zone) && is_place_name(&self.region),
            "the name of a zone or region is none",
        )
    }
}

impl MapSettings {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        holds(
            (1..=limits::REPLICAS_MAX).contains(&self.replicas),
            "replicas is out of bounds",
        )?;
        holds(self.reads <= 1, "reads is no known way")?;
        holds(
            (limits::REBUILD_AFTER_S_MIN..=limits::REBUILD_AFTER_S_MAX)
                .contains(&self.rebuild_after_s),
            "rebuild_after_s is out of bounds",
        )?;
        holds(
            (1..=limits::MOVES_MAX).contains(&self.moves_max),
            "moves_max is out of bounds",
        )?;
        holds(
            (1..=limits::MOVES_PER_NODE_MAX).contains(&self.moves_per_node_max),
            "moves_per_node_max is out of bounds",
        )?;
        let bytes = self.copy_bytes_per_second;
        holds(
            bytes == 0
                || (limits::COPY_BYTES_PER_SECOND_MIN..=limits::COPY_BYTES_PER_SECOND_MAX)
                    .contains(&bytes),
            "copy_bytes_per_second is out of bounds",
        )
    }
}
