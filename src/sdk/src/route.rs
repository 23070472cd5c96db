//! Which node to ask: the cluster map, the known leaders, and the nodes that did not answer.

use corelith_wire::map::ClusterMap;
use corelith_wire::placement::core_of;
use corelith_wire::{NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A core of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The node.
    pub node: NodeId,
    /// Its core.
    pub core: u16,
}

/// The client's knowledge of where to send requests.
#[derive(Debug)]
pub(crate) struct Routes {
    map: Arc<ClusterMap>,
    /// Per shard: the node that last answered as its leader, or was named as such.
    leaders: Vec<Option<NodeId>>,
    /// Nodes that did not answer, each with the time until which other nodes are preferred.
    suspects: BTreeMap<NodeId, Duration>,
}

impl Routes {
    pub(crate) fn new(map: Arc<ClusterMap>) -> Self {
        let leaders = vec![None; map.shards.len()];
        Self {
            map,
            leaders,
            suspects: BTreeMap::new(),
        }
    }

    pub(crate) fn map(&self) -> &Arc<ClusterMap> {
        &self.map
    }

    /// Adopts a map if it is newer, and returns whether it is. A cluster never changes its number of
    /// shards.
    pub(crate) fn adopt(&mut self, map: ClusterMap) -> bool {
        let newer = map.epoch > self.map.epoch
            && map.cluster == self.map.cluster
            && map.shards.len() == self.map.shards.len();
        if newer {
            self.map = Arc::new(map);
            self.leaders.fill(None);
        }
        newer
    }

    /// Notes that `node` leads `shard`.
    pub(crate) fn leads(&mut self, shard: ShardId, node: NodeId) {
        if let Some(leader) = self.leaders.get_mut(shard.0 as usize)
            && *leader != Some(node)
        {
            *leader = Some(node);
        }
    }

    /// The leader of `shard`, if known.
    pub(crate) fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leaders.get(shard.0 as usize).copied().flatten()
    }

    /// Notes that `node` does not lead `shard`.
    pub(crate) fn does_not_lead(&mut self, shard: ShardId, node: NodeId) {
        if let Some(leader) = self.leaders.get_mut(shard.0 as usize)
            && *leader == Some(node)
        {
            *leader = None;
        }
    }

    /// Notes that `node` did not answer: other nodes are preferred until `until`.
    pub(crate) fn suspect(&mut self, node: NodeId, until: Duration) {
        self.suspects.insert(node, until);
    }

    /// Notes that `node` answered.
    pub(crate) fn trust(&mut self, node: NodeId) {
        if !self.suspects.is_empty() {
            self.suspects.remove(&node);
        }
    }

    pub(crate) fn suspected(&self, node: NodeId, now: Duration) -> bool {
        !self.suspects.is_empty() && self.suspects.get(&node).is_some_and(|until| now < *until)
    }

    /// The node to ask about `shard`: the leader if known, else the preferred leader, or the replica after
    /// `after` if that node was just asked in vain. Suspected nodes come last.
    pub(crate) fn target(
        &self,
        shard: ShardId,
        after: Option<NodeId>,
        now: Duration,
    ) -> Option<Target> {
        let trusted = |node: &NodeId| !self.suspected(*node, now);
        let node = match self.leader(shard).filter(trusted) {
            Some(leader) => leader,
            None => {
                let replicas: Vec<NodeId> = self.map.replicas(shard).collect();
                let last = after.and_then(|node| replicas.iter().position(|found| *found == node));
                let first = last.map_or(0, |at| at + 1);
                let order = || {
                    replicas
                        .iter()
                        .cycle()
                        .skip(first)
                        .take(replicas.len())
                        .copied()
                };
                order().find(trusted).or_else(|| order().next())?
            }
        };
        let cores = self.map.node(node)?.cores;
        Some(Target {
            node,
            core: core_of(shard, cores),
        })
    }

    /// Host and port of `target`.
    pub(crate) fn address(&self, target: Target) -> Option<(String, u16)> {
        let node = self.map.node(target.node)?;
        Some((node.host.clone(), node.base_port.checked_add(target.core)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_wire::map::MapNode;
    use corelith_wire::{ClusterId, Epoch};

    fn map(epoch: u32) -> ClusterMap {
        let node = |id| MapNode {
            id,
            host: "h".into(),
            base_port: 100 * id as u16,
            cores: 2,
        };
        ClusterMap::place(
            Epoch(epoch),
            ClusterId(7),
            vec![node(1), node(2), node(3), node(4)],
            4,
            3,
        )
    }

    const S: ShardId = ShardId(1);
    const NOW: Duration = Duration::from_secs(5);
    const LATER: Duration = Duration::from_secs(6);

    fn asked(routes: &Routes, after: Option<u64>) -> u64 {
        routes.target(S, after.map(NodeId), NOW).unwrap().node.0
    }

    #[test]
    fn replicas_are_asked_in_turn_until_a_leader_is_known() {
        let mut routes = Routes::new(Arc::new(map(1)));
        assert_eq!(asked(&routes, None), 2, "the preferred leader");
        assert_eq!((asked(&routes, Some(2)), asked(&routes, Some(3))), (3, 4));
        assert_eq!(asked(&routes, Some(4)), 2, "around");
        assert_eq!(asked(&routes, Some(1)), 2, "a node without replica");
        routes.leads(S, NodeId(4));
        assert_eq!(asked(&routes, Some(2)), 4);
        routes.does_not_lead(S, NodeId(3));
        assert_eq!(asked(&routes, None), 4);
        routes.does_not_lead(S, NodeId(4));
        assert_eq!(asked(&routes, Some(4)), 2);
        let target = routes.target(S, None, NOW).unwrap();
        assert_eq!(routes.address(target), Some(("h".into(), 201)));
    }

    #[test]
    fn suspects_come_last_and_only_for_a_while() {
        let mut routes = Routes::new(Arc::new(map(1)));
        routes.leads(S, NodeId(2));
        routes.suspect(NodeId(2), LATER);
        assert_eq!(asked(&routes, None), 3);
        routes.suspect(NodeId(3), LATER);
        routes.suspect(NodeId(4), LATER);
        assert_eq!(asked(&routes, Some(2)), 3, "all are suspects: go around");
        assert_eq!(routes.target(S, None, LATER).unwrap().node, NodeId(2));
        routes.trust(NodeId(2));
        assert_eq!(asked(&routes, None), 2);
    }

    #[test]
    fn only_a_newer_map_of_the_same_cluster_is_taken() {
        let mut routes = Routes::new(Arc::new(map(2)));
        routes.leads(S, NodeId(4));
        assert!(!routes.adopt(map(2)));
        assert!(!routes.adopt(ClusterMap {
            cluster: 8,
            ..map(3)
        }));
        assert!(!routes.adopt(ClusterMap {
            shards: vec![],
            ..map(3)
        }));
        assert_eq!(asked(&routes, None), 4);
        assert!(routes.adopt(map(3)));
        assert_eq!(asked(&routes, None), 2);
    }
}
