//! Edits of the map. One that does not fit the map is refused; one that fits keeps its invariants and raises its
//! epoch.

use super::{Change, Map, MapNode, MapSettings, MapShard, NodeState, Why, Wrong};
use crate::node::cluster::planted::{PlanBug, has};
use crate::node::limits;
use corelith_wire::{Epoch, LogIndex, NodeId, ReplicaId, ShardId, StoreId};
use std::collections::BTreeSet;

/// Where a node is, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlace {
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
}

/// An edit of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapEdit {
    /// Begins a change of a shard's members. What comes gets a fresh generation.
    Begin {
        /// The shard, which has no change under way.
        shard: ShardId,
        /// The node that gets a replica.
        add: Option<NodeId>,
        /// The replica that goes.
        remove: Option<ReplicaId>,
        /// What it is for.
        why: Why,
    },
    /// Shows the voters that a shard's group has committed, whatever led to them; ends its change.
    End {
        /// The shard.
        shard: ShardId,
        /// Its voters, the preferred leader first.
        replicas: Vec<ReplicaId>,
        /// Index of their membership entry.
        membership: LogIndex,
    },
    /// Gives a change up: what it adds is in no membership from this entry on.
    Undo {
        /// The shard.
        shard: ShardId,
        /// Index of the last membership entry.
        membership: LogIndex,
    },
    /// Prefers another replica as the leader.
    Prefer {
        /// The shard.
        shard: ShardId,
        /// A node that has a voter of it.
        leader: NodeId,
    },
    /// Takes a new node in; it gets the next id.
    Join {
        /// Its store.
        store: StoreId,
        /// Where it is.
        place: NodePlace,
    },
    /// Says where a node is.
    Place {
        /// The node.
        node: NodeId,
        /// Where it is.
        place: NodePlace,
    },
    /// Takes another store as a node's.
    Store {
        /// The node.
        node: NodeId,
        /// Its store from now on.
        store: StoreId,
    },
    /// Says what is to become of a node. One that is removed stays so.
    State {
        /// The node.
        node: NodeId,
        /// What it is to be.
        state: NodeState,
    },
    /// Sets the settings.
    Settings(MapSettings),
    /// Says what version all nodes speak. It never falls.
    Version(u32),
    /// Goes on with fewer voters after nodes are gone for good, and forgets the change that was under way. If they were
    /// a majority, what only they had is lost.
    Recover {
        /// The shard.
        shard: ShardId,
        /// Its voters that are left; if there are none, the replica that was to come.
        survivors: Vec<ReplicaId>,
    },
}

/// Why an edit does not fit the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No such shard.
    #[error("there is no {0}")]
    NoShard(ShardId),
    /// No such node, or it was removed.
    #[error("there is no node {}", .0.0)]
    NoNode(NodeId),
    /// A change is under way.
    #[error("a change of {0} is under way")]
    Changing(ShardId),
    /// None is under way.
    #[error("no change of {0} is under way")]
    NotChanging(ShardId),
    /// The membership is older than that of the map.
    #[error("the map shows later members of {0}")]
    Old(ShardId),
    /// The node still has replicas.
    #[error("node {} still has replicas", .0.0)]
    Holds(NodeId),
    /// There is no room for another node or replica.
    #[error("{0}")]
    Full(&'static str),
    /// What the map would be is none.
    #[error("{0}")]
    Wrong(#[from] Wrong),
}

impl Map {
    /// The map after an edit.
    ///
    /// # Errors
    /// The edit does not fit.
    pub fn apply(&self, edit: &MapEdit) -> Result<Self, EditError> {
        self.apply_all(std::slice::from_ref(edit))
    }

    /// The map after all of these, in one write.
    ///
    /// # Errors
    /// One of them does not fit.
    pub fn apply_all(&self, edits: &[MapEdit]) -> Result<Self, EditError> {
        let mut map = self.clone();
        let next = self.epoch.0.checked_add(1);
        let next = Epoch(next.ok_or(EditError::Full("the map has had its last epoch"))?);
        if !has(PlanBug::EpochNotRaised) {
            map.epoch = next;
        }
        let mut shards = BTreeSet::new();
        for edit in edits {
            match edit {
                MapEdit::Begin { shard, .. }
                | MapEdit::End { shard, .. }
                | MapEdit::Undo { shard, .. }
                | MapEdit::Prefer { shard, .. }
                | MapEdit::Recover { shard, .. } => {
                    shards.insert(*shard);
                    map.edit_shard(*shard, edit)?;
                }
                _ => map.edit_nodes(edit)?,
            }
        }
        for id in &shards {
            let epoch = map.epoch;
            map.shard_mut(*id).ok_or(EditError::NoShard(*id))?.epoch = epoch;
        }
        // Each edit has refused what it saw; this refuses what only the whole shows.
        map.check()?;
        assert!(
            map.epoch > self.epoch || has(PlanBug::EpochNotRaised),
            "the epoch rises with every write"
        );
        assert!(
            map.next_node >= self.next_node && map.shards.len() == self.shards.len(),
            "ids are given once, and the number of shards is for ever"
        );
        Ok(map)
    }

    fn edit_shard(&mut self, id: ShardId, edit: &MapEdit) -> Result<(), EditError> {
        let shard = self.shard_mut(id).ok_or(EditError::NoShard(id))?;
        let (generation, membership) = (shard.next_generation, shard.membership);
        match edit {
            MapEdit::Begin {
                add, remove, why, ..
            } => shard.begin(id, *add, *remove, *why)?,
            MapEdit::End {
                replicas,
                membership,
                ..
            } => {
                if *membership < shard.membership {
                    return Err(EditError::Old(id));
                }
                shard.replicas.clone_from(replicas);
                shard.membership = *membership;
                shard.change = None;
            }
            MapEdit::Undo { membership, .. } => {
                shard.change.ok_or(EditError::NotChanging(id))?;
                shard.membership = shard.membership.max(*membership);
                shard.change = None;
            }
            MapEdit::Prefer { leader, .. } => {
                let place = shard.replicas.iter().position(|r| r.node() == *leader);
                let place = place.ok_or(EditError::NoNode(*leader))?;
                if let Some(before) = shard.replicas.get_mut(..=place) {
                    before.rotate_right(1);
                }
            }
            MapEdit::Recover { survivors, .. } => {
                let added = shard.change.and_then(|change| change.add);
                let is_known =
                    |left: &ReplicaId| shard.replicas.contains(left) || added == Some(*left);
                if !survivors.iter().all(is_known) {
                    return Err(Wrong("who is left was none of the replicas").into());
                }
                shard.replicas.clone_from(survivors);
                shard.change = None;
                // The survivors may lack the membership that the map has shown.
                shard.membership = LogIndex(0);
            }
            _ => {}
        }
        assert!(
            shard.next_generation >= generation,
            "a generation of {id} is never used again"
        );
        assert!(
            shard.membership >= membership || matches!(edit, MapEdit::Recover { .. }),
            "the map shows no older members of {id}"
        );
        Ok(())
    }

    fn edit_nodes(&mut self, edit: &MapEdit) -> Result<(), EditError> {
        match edit {
            MapEdit::Join { store, place } => {
                self.make_room()?;
                let id = NodeId(self.next_node);
                if id.0 + 1 >= ReplicaId::NODES_END {
                    return Err(EditError::Full("no id is left for another node"));
                }
                self.next_node += 1;
                let earlier = self.nodes.insert(id, MapNode::new(*store, place.clone()));
                assert!(earlier.is_none(), "{id} is given once");
            }
            MapEdit::Place { node, place } => {
                let found = self.live_mut(*node)?;
                let placed = MapNode::new(found.store, place.clone());
                *found = MapNode {
                    state: found.state,
                    ..placed
                };
            }
            MapEdit::Store { node, store } => self.live_mut(*node)?.store = *store,
            MapEdit::State { node, state } => {
                if *state == NodeState::Removed && self.shards_on(*node).next().is_some() {
                    return Err(EditError::Holds(*node));
                }
                self.live_mut(*node)?.state = *state;
            }
            MapEdit::Settings(settings) => self.settings = *settings,
            MapEdit::Version(version) => {
                if *version < self.version {
                    return Err(Wrong("the version never falls").into());
                }
                self.version = *version;
            }
            _ => {}
        }
        Ok(())
    }

    fn live_mut(&mut self, node: NodeId) -> Result<&mut MapNode, EditError> {
        let found = self.nodes.get_mut(&node);
        let live = found.filter(|node| node.state != NodeState::Removed);
        live.ok_or(EditError::NoNode(node))
    }

    /// Forgets the node that was removed first if the list is full. Its id is not given again.
    fn make_room(&mut self) -> Result<(), EditError> {
        if self.live_nodes().count() >= limits::MAP_LIVE_NODES_MAX {
            return Err(EditError::Full("the cluster has as many nodes as it can"));
        }
        if self.nodes.len() >= limits::MAP_NODES_MAX {
            let mut nodes = self.nodes.iter();
            let oldest = nodes.find(|(_, node)| node.state == NodeState::Removed);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.nodes.remove(&oldest);
            }
        }
        assert!(
            self.nodes.len() < limits::MAP_NODES_MAX,
            "a full list of nodes has removed ones"
        );
        Ok(())
    }
}

impl MapNode {
    fn new(store: StoreId, place: NodePlace) -> Self {
        Self {
            store,
            host: place.host,
            port: place.port,
            cores: place.cores,
            zone: place.zone,
            region: place.region,
            state: NodeState::Active,
        }
    }

    /// Where it is.
    pub fn place(&self) -> NodePlace {
        NodePlace {
            host: self.host.clone(),
            port: self.port,
            cores: self.cores,
            zone: self.zone.clone(),
            region: self.region.clone(),
        }
    }
}

impl MapShard {
    fn begin(
        &mut self,
        id: ShardId,
        add: Option<NodeId>,
        remove: Option<ReplicaId>,
        why: Why,
    ) -> Result<(), EditError> {
        if self.change.is_some() {
            return Err(EditError::Changing(id));
        }
        if let Some(node) = add.filter(|node| node.0 >= ReplicaId::NODES_END) {
            return Err(EditError::NoNode(node));
        }
        let add = add.map(|node| ReplicaId::new(node, self.next_generation));
        if add.is_some() {
            let next = self.next_generation.checked_add(1);
            self.next_generation =
                next.ok_or(EditError::Full("the shard has had its last replica"))?;
        }
        assert!(
            add.is_none_or(|add| add.generation() < self.next_generation),
            "a generation of {id} is used once"
        );
        self.change = Some(Change { add, remove, why });
        Ok(())
    }
}
