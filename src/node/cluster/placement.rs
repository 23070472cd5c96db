//! Which node and core holds which shard: a view of the cluster map, as one node sees it. Before a map is known the
//! configuration alone decides, by a rule that all nodes compute alike.
//!
//! Invariants:
//! * By the configuration, shard `s` has its replicas on the nodes `(s + 0..R) mod N` of the list sorted by id, and
//!   prefers the first of them as its leader, so that replicas and leaders are spread evenly.
//! * On a node with `C` cores shard `s` belongs to core `s mod C`; the meta shard to the first one.
//! * A placement does not change: whoever follows the map gets another one ([`super::map_watch`]).

use super::map::{Map, NodeState, meta_replicas};
use crate::node::config::NodeConfig;
use corelith_shards::{NodeId, ShardId};
use corelith_wire::map::{ClusterMap, MapNode};
use corelith_wire::{ClusterId, Epoch};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Host name or address.
    pub host: String,
    /// Port of its core 0.
    pub port: u16,
    /// Number of cores.
    pub cores: u16,
}

impl Member {
    /// The port of one of its cores.
    pub fn core_port(&self, core: u16) -> u16 {
        self.port.saturating_add(core)
    }
}

/// The placement of a cluster. Shared read-only by all cores of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// This node; 0 before the cluster has given it an id.
    pub me: NodeId,
    /// The cluster; 0 before it is formed.
    pub cluster: ClusterId,
    /// Generation of the map; raised by every change.
    pub epoch: u32,
    /// Number of shards.
    pub shards: u32,
    /// Cores of this node, in this start. The map may not know it yet.
    cores: u16,
    /// All nodes, sorted by id.
    members: Vec<Member>,
    /// The nodes with a replica of each shard.
    places: Vec<ShardPlace>,
    meta: ShardPlace,
    /// The nodes that were removed.
    removed: BTreeSet<NodeId>,
    /// The map, if one is known.
    map: Option<Arc<Map>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ShardPlace {
    /// Those that vote, the preferred leader first.
    replicas: Vec<NodeId>,
    /// The node that gets a replica.
    coming: Option<NodeId>,
}

/// Where a shard is, seen from one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// On the core itself.
    Here,
    /// On another core of the same node.
    OtherCore(u16),
    /// Not on this node: ask the node that is preferred as its leader.
    OtherNode(NodeId),
    /// The cluster has no such shard.
    Nowhere,
}

impl Placement {
    /// Computes the placement of the configured cluster; one without nodes if the node joins a cluster.
    pub fn new(config: &NodeConfig) -> Self {
        let nodes = config.cluster.nodes.iter().map(|node| Member {
            id: NodeId(node.id),
            host: node.host.clone(),
            port: node.port,
            cores: node.cores,
        });
        let mut members: Vec<Member> = nodes.collect();
        members.sort_by_key(|member| member.id);
        let is_sorted = members.is_sorted_by(|a, b| a.id < b.id);
        assert!(is_sorted, "the configuration names each node once");
        let ids: Vec<NodeId> = members.iter().map(|member| member.id).collect();
        let replicas = config.cluster.replica_count() as usize;
        assert!(
            replicas <= members.len(),
            "each replica is on a node of its own"
        );
        let place = |shard| ShardPlace {
            replicas: corelith_wire::placement::replicas_of(ShardId(shard), &ids, replicas),
            coming: None,
        };
        Self {
            me: config.id,
            cluster: ClusterId(0),
            epoch: 1,
            shards: config.cluster.shards,
            cores: config.cores,
            places: (0..config.cluster.shards).map(place).collect(),
            meta: ShardPlace {
                replicas: founders_of_meta(&ids),
                coming: None,
            },
            members,
            removed: BTreeSet::new(),
            map: None,
        }
    }

    /// What the map says, to node `me` with that many cores.
    pub fn of_map(me: NodeId, cores: u16, map: Arc<Map>) -> Self {
        let members = map.live_nodes().map(|(id, node)| Member {
            id,
            host: node.host.clone(),
            port: node.port,
            cores: node.cores,
        });
        let place = |shard: &super::map::MapShard| ShardPlace {
            replicas: shard
                .replicas
                .iter()
                .map(|replica| replica.node())
                .collect(),
            coming: shard
                .change
                .and_then(|change| change.add)
                .map(|replica| replica.node()),
        };
        let members: Vec<Member> = members.collect();
        assert!(
            members.is_sorted_by(|a, b| a.id < b.id),
            "members are found by search"
        );
        let removed = map.nodes.iter();
        let removed = removed.filter(|(_, node)| node.state == NodeState::Removed);
        Self {
            me,
            cluster: map.cluster.short(),
            epoch: map.epoch.0,
            // The map holds to SHARDS_MAX.
            shards: map.shards.len() as u32,
            cores,
            members,
            places: map.shards.iter().map(place).collect(),
            meta: place(&map.meta),
            removed: removed.map(|(id, _)| *id).collect(),
            map: Some(map),
        }
    }

    /// The map that it shows, if one is known.
    pub fn map(&self) -> Option<&Arc<Map>> {
        self.map.as_ref()
    }

    /// All nodes, sorted by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Cores of this node.
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// Whether that node was one of the cluster.
    pub fn was_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// One node.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let place = self.members.binary_search_by_key(&node, |m| m.id).ok()?;
        self.members.get(place)
    }

    fn place(&self, shard: ShardId) -> Option<&ShardPlace> {
        match shard {
            ShardId::META => Some(&self.meta),
            ShardId(number) => self.places.get(number as usize),
        }
    }

    /// The nodes that hold `shard`, the preferred leader first.
    pub fn replicas_of(&self, shard: ShardId) -> &[NodeId] {
        self.place(shard)
            .map_or(&[], |place| place.replicas.as_slice())
    }

    /// The core that `shard` belongs to on `node`, as far as the map knows.
    pub fn core_of(&self, node: NodeId, shard: ShardId) -> u16 {
        let cores = match node == self.me {
            true => self.cores,
            false => self.member(node).map_or(1, |member| member.cores),
        };
        let core = corelith_wire::placement::core_of(shard, cores);
        assert!(core < cores.max(1), "core {core} of {cores}");
        core
    }

    /// The map that clients get.
    pub fn cluster_map(&self) -> ClusterMap {
        if let Some(map) = &self.map {
            return map.for_clients();
        }
        let nodes = self.members.iter().map(|member| MapNode {
            id: member.id.0,
            host: member.host.clone(),
            base_port: member.port,
            cores: member.cores,
        });
        let replicas = self.places.first().map_or(0, |place| place.replicas.len());
        ClusterMap::place(
            Epoch(self.epoch),
            self.cluster,
            nodes.collect(),
            self.shards,
            replicas,
        )
    }

    /// Where `shard` is, seen from `core` of this node. A replica that comes counts as here.
    pub fn home(&self, core: u16, shard: ShardId) -> Home {
        let Some(place) = self.place(shard) else {
            return Home::Nowhere;
        };
        let is_here = place.replicas.contains(&self.me) || place.coming == Some(self.me);
        if !is_here {
            let first = place.replicas.first();
            return first.map_or(Home::Nowhere, |node| Home::OtherNode(*node));
        }
        match self.core_of(self.me, shard) {
            own if own == core => Home::Here,
            other => Home::OtherCore(other),
        }
    }
}

/// The first replicas of the meta shard, in a cluster of these first nodes.
pub fn founders_of_meta(nodes: &[NodeId]) -> Vec<NodeId> {
    let count = meta_replicas(nodes.len());
    nodes.iter().copied().take(count).collect()
}

/// The shards of which a first node has a replica of the founding.
pub fn founded_on(me: NodeId, nodes: &[NodeId], shards: u32, replicas: u32) -> Vec<ShardId> {
    let is_here = |shard: &ShardId| founders(*shard, nodes, replicas).contains(&me);
    let all = (0..shards).map(ShardId).chain([ShardId::META]);
    all.filter(is_here).collect()
}

/// The nodes that have the first replicas of a shard, in a cluster of these first nodes; the preferred leader first.
pub fn founders(shard: ShardId, nodes: &[NodeId], replicas: u32) -> Vec<NodeId> {
    match shard {
        ShardId::META => founders_of_meta(nodes),
        shard => corelith_wire::placement::replicas_of(shard, nodes, replicas as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::{Home, Placement, founded_on};
    use crate::node::cluster::map::{Map, MapEdit, NodePlace, Why};
    use crate::node::config::NodeConfig;
    use corelith_shards::{NodeId, ShardId};
    use corelith_wire::peer::Charter;
    use corelith_wire::{FullClusterId, LogIndex, ReplicaId, StoreId};
    use std::sync::Arc;

    fn placement(me: u64, nodes: &[(u64, u16)], shards: u32, replicas: u32) -> Placement {
        let entries: Vec<String> = nodes
            .iter()
            .map(|(id, cores)| {
                format!("{{ id = {id}, host = \"10.0.0.{id}\", port = 7000, cores = {cores} }}")
            })
            .collect();
        let text = format!(
            "node = {{ id = {me}, data_dir = \"/d\" }}\n\
             [cluster]\nname = \"c\"\nshards = {shards}\nreplicas = {replicas}\nnodes = [{}]",
            entries.join(",")
        );
        let config = NodeConfig::parse("t", &text).unwrap();
        Placement::new(&config)
    }

    #[test]
    fn homes() {
        // Four nodes of two cores, three replicas: shard s is on all nodes but (s + 3) mod 4.
        let nodes = [(4, 2), (2, 2), (1, 2), (3, 2)];
        let table = [
            // (me, core, shard, home)
            (1, 0, 0, Home::Here),
            (1, 1, 0, Home::OtherCore(0)),
            (1, 0, 1, Home::OtherNode(NodeId(2))),
            (1, 0, 2, Home::Here),
            (1, 0, 3, Home::OtherCore(1)),
            (4, 0, 0, Home::OtherNode(NodeId(1))),
            (4, 1, 1, Home::Here),
            (4, 1, 8, Home::Nowhere),
        ];
        for (me, core, shard, home) in table {
            let placement = placement(me, &nodes, 8, 3);
            assert_eq!(
                placement.home(core, ShardId(shard)),
                home,
                "{me} {core} {shard}"
            );
        }
    }

    #[test]
    fn replicas_and_leaders_are_spread() {
        let placement = placement(1, &[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)], 10, 3);
        assert_eq!(
            placement.replicas_of(ShardId(4)),
            [NodeId(5), NodeId(1), NodeId(2)]
        );
        for member in placement.members() {
            let leads = |s: &u32| placement.replicas_of(ShardId(*s)).first() == Some(&member.id);
            let holds = |s: &u32| placement.replicas_of(ShardId(*s)).contains(&member.id);
            assert_eq!((0..10).filter(leads).count(), 2);
            assert_eq!((0..10).filter(holds).count(), 6);
        }
    }

    #[test]
    fn home_and_replicas_agree() {
        for me in 1..=4 {
            let placement = placement(me, &[(1, 3), (2, 2), (3, 1), (4, 2)], 13, 2);
            let mut held = Vec::new();
            for shard in (0..13).map(ShardId).chain([ShardId::META]) {
                let is_held = placement.replicas_of(shard).contains(&NodeId(me));
                let home = placement.home(0, shard);
                assert_eq!(is_held, !matches!(home, Home::OtherNode(_)), "{me} {shard}");
                held.extend(is_held.then_some(shard));
            }
            let nodes = [1, 2, 3, 4].map(NodeId);
            assert_eq!(founded_on(NodeId(me), &nodes, 13, 2), held);
        }
    }

    #[test]
    fn each_core_has_its_port() {
        let placement = placement(1, &[(1, 3), (2, 2), (3, 1)], 12, 3);
        let port = |node, shard| {
            let (node, shard) = (NodeId(node), ShardId(shard));
            let core = placement.core_of(node, shard);
            placement.member(node).unwrap().core_port(core)
        };
        assert_eq!(port(1, 5), 7002);
        assert_eq!(port(2, 5), 7001);
    }

    /// The first map shows what the configuration says; later ones another place.
    #[test]
    fn a_placement_shows_the_map() {
        let text = "node = { id = 1, data_dir = \"/d\" }\n\
             cluster = { name = \"c\", shards = 4, replicas = 2, nodes = [\
             {id=1,host=\"h\",port=1,cores=2},{id=2,host=\"i\",port=1},{id=3,host=\"j\",port=1}] }";
        let config = NodeConfig::parse("t", text).unwrap();
        let stores = [(1, 11), (2, 12), (3, 13)];
        let charter = Charter {
            cluster: FullClusterId(9),
            stores: stores.map(|(n, s)| (NodeId(n), StoreId(s))).into(),
        };
        let map = Map::first(&config.cluster, &charter).unwrap();
        let first = Placement::of_map(NodeId(1), 2, Arc::new(map.clone()));
        let configured = Placement::new(&config);
        assert_eq!(first.cluster_map().nodes, configured.cluster_map().nodes);
        assert_eq!(first.cluster_map().shards, configured.cluster_map().shards);
        for shard in [0, 1, 2, 3, u32::MAX].map(ShardId) {
            assert_eq!(first.home(0, shard), configured.home(0, shard), "{shard}");
            assert_eq!(first.replicas_of(shard), configured.replicas_of(shard));
        }
        let join = MapEdit::Join {
            store: StoreId(14),
            place: NodePlace {
                host: "k".to_owned(),
                port: 1,
                cores: 3,
                zone: String::new(),
                region: String::new(),
            },
        };
        let shard = ShardId(1);
        let begin = MapEdit::Begin {
            shard,
            add: Some(NodeId(4)),
            remove: Some(ReplicaId::new(NodeId(2), 0)),
            why: Why::Move,
        };
        let moving = map.apply(&join).unwrap().apply(&begin).unwrap();
        let of = |me, map: &Map| Placement::of_map(NodeId(me), 3, Arc::new(map.clone()));
        assert_eq!(of(4, &moving).home(1, shard), Home::Here, "it comes");
        assert_eq!(of(4, &moving).home(0, shard), Home::OtherCore(1));
        assert_eq!(
            of(4, &moving).home(0, ShardId(0)),
            Home::OtherNode(NodeId(1))
        );
        assert!(moving.epoch > map.epoch && of(4, &moving).epoch == moving.epoch.0);
        let add = moving.shard(shard).unwrap().change.unwrap().add.unwrap();
        let end = MapEdit::End {
            shard,
            replicas: vec![add, ReplicaId::new(NodeId(3), 0)],
            membership: LogIndex(7),
        };
        let moved = moving.apply(&end).unwrap();
        assert_eq!(of(2, &moved).home(0, shard), Home::OtherNode(NodeId(4)));
        assert_eq!(of(1, &moved).core_of(NodeId(4), shard), 1);
        assert_eq!(of(1, &moved).core_of(NodeId(4), ShardId::META), 0);
    }
}
