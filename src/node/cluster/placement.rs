//! Which node and core holds which shard: a pure function of the configuration.
//!
//! Invariants:
//! * Shard `s` has its replicas on the nodes `(s + 0..R) mod N` of the list sorted by id, and
//!   prefers the first of them as its leader, so that replicas and leaders are spread evenly.
//! * On a node with `C` cores shard `s` belongs to core `s mod C`.
//! * All nodes of a cluster compute the same placement; [`crate::node::data_dir::identity`] holds a node to the
//!   one its data directory was created with.

use crate::node::config::NodeConfig;
use corelith_shards::{NodeId, ShardId};
use corelith_wire::ClusterId;
use corelith_wire::map::{ClusterMap, MapNode};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Host as configured.
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
    /// This node.
    pub me: NodeId,
    /// The cluster; 0 before it is formed.
    pub cluster: ClusterId,
    /// Generation of the placement; raised by every change.
    pub epoch: u32,
    /// Number of shards.
    pub shards: u32,
    /// Number of replicas of each shard.
    pub replicas: u32,
    /// All nodes, sorted by id.
    members: Vec<Member>,
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
    /// Computes the placement of the configured cluster.
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
        assert!(
            config.cluster.replica_count() as usize <= members.len(),
            "each replica is on a node of its own"
        );
        Self {
            me: config.id,
            cluster: ClusterId(0),
            epoch: 1,
            shards: config.cluster.shards,
            replicas: config.cluster.replica_count(),
            members,
        }
    }

    /// The same in the cluster that was formed.
    #[must_use]
    pub fn formed(&self, cluster: ClusterId) -> Self {
        Self {
            cluster,
            ..self.clone()
        }
    }

    /// All nodes, sorted by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One node.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let place = self.members.binary_search_by_key(&node, |m| m.id).ok()?;
        self.members.get(place)
    }

    /// The nodes that hold `shard`, the preferred leader first.
    pub fn replicas_of(&self, shard: ShardId) -> Vec<NodeId> {
        let nodes: Vec<_> = self.members.iter().map(|m| m.id).collect();
        let replicas = corelith_wire::placement::replicas_of(shard, &nodes, self.replicas as usize);
        assert_eq!(
            replicas.len(),
            self.replicas as usize,
            "{shard} has all its replicas"
        );
        replicas
    }

    /// The core that `shard` belongs to on `node`.
    pub fn core_of(&self, node: NodeId, shard: ShardId) -> u16 {
        let cores = self.member(node).map_or(1, |member| member.cores);
        let core = corelith_wire::placement::core_of(shard, cores);
        assert!(core < cores.max(1), "core {core} of {cores}");
        core
    }

    /// The map that clients get.
    pub fn cluster_map(&self) -> ClusterMap {
        let nodes = self.members.iter().map(|member| MapNode {
            id: member.id.0,
            host: member.host.clone(),
            base_port: member.port,
            cores: member.cores,
        });
        ClusterMap::place(
            corelith_wire::Epoch(self.epoch),
            self.cluster,
            nodes.collect(),
            self.shards,
            self.replicas as usize,
        )
    }

    /// The shards that belong to `core` of this node, ascending.
    pub fn shards_of_core(&self, core: u16) -> Vec<ShardId> {
        (0..self.shards)
            .map(ShardId)
            .filter(|&shard| self.home(core, shard) == Home::Here)
            .collect()
    }

    /// Where `shard` is, seen from `core` of this node.
    pub fn home(&self, core: u16, shard: ShardId) -> Home {
        if shard.0 >= self.shards {
            return Home::Nowhere;
        }
        let nodes = self.members.len().max(1);
        let first = shard.0 as usize % nodes;
        let mine = self.members.binary_search_by_key(&self.me, |m| m.id);
        let here = mine.is_ok_and(|mine| (mine + nodes - first) % nodes < self.replicas as usize);
        if !here {
            return self
                .members
                .get(first)
                .map_or(Home::Nowhere, |member| Home::OtherNode(member.id));
        }
        match self.core_of(self.me, shard) {
            own if own == core => Home::Here,
            other => Home::OtherCore(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Home, Placement};
    use crate::node::config::NodeConfig;
    use corelith_shards::{NodeId, ShardId};

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
            for shard in (0..13).map(ShardId) {
                let held = placement.replicas_of(shard).contains(&NodeId(me));
                let home = placement.home(0, shard);
                assert_eq!(held, !matches!(home, Home::OtherNode(_)), "{me} {shard}");
            }
            let cores = placement.member(NodeId(me)).unwrap().cores;
            let mut owned: Vec<_> = (0..cores)
                .flat_map(|c| placement.shards_of_core(c))
                .collect();
            owned.sort();
            let held: Vec<_> = (0..13)
                .map(ShardId)
                .filter(|&s| placement.replicas_of(s).contains(&NodeId(me)))
                .collect();
            assert_eq!(owned, held);
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
}
