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

/// What a client knows about the lead of a shard.
#[derive(Clone, Copy, Debug, Default)]
struct Lead {
    /// The node that last answered as the leader, or was named as such.
    node: Option<NodeId>,
    /// Whether it was named with its term, or has answered itself.
    is_sure: bool,
    /// The highest term in which a leader is known to have led.
    term: u64,
}

/// The effect of a word about a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// It is about an earlier term than what is known, or about no replica of the shard.
    Old,
    /// It was known for sure.
    Known,
    /// The leader was not known, or not for sure.
    New,
}

/// The client's knowledge of where to send requests.
#[derive(Debug)]
pub(crate) struct Routes {
    map: Arc<ClusterMap>,
    leaders: Vec<Lead>,
    /// Nodes that did not answer, each with the time until which other nodes are preferred.
    suspects: BTreeMap<NodeId, Duration>,
}

impl Routes {
    pub(crate) fn new(map: Arc<ClusterMap>) -> Self {
        let leaders = vec![Lead::default(); map.shards.len()];
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
            for (shard, lead) in (0..).map(ShardId).zip(&mut self.leaders) {
                let has_replica = |node| self.map.replicas(shard).any(|replica| replica == node);
                lead.node = lead.node.filter(|node| has_replica(*node));
            }
        }
        newer
    }

    /// Notes that `node` leads `shard` in `term`.
    pub(crate) fn leads(&mut self, shard: ShardId, node: NodeId, term: u64) -> Learned {
        let known = self.map.replicas(shard).any(|replica| replica == node);
        match self.leaders.get_mut(shard.0 as usize) {
            Some(lead) if known && term >= lead.term => {
                lead.term = term;
                let was_sure = std::mem::replace(&mut lead.is_sure, true);
                match lead.node.replace(node) {
                    Some(before) if before == node && was_sure => Learned::Known,
                    _ => Learned::New,
                }
            }
            _ => Learned::Old,
        }
    }

    /// Notes that another node named `node` as the leader of `shard`, in a term that it did not tell.
    pub(crate) fn named(&mut self, shard: ShardId, node: NodeId) {
        if let Some(lead) = self.leaders.get_mut(shard.0 as usize) {
            lead.is_sure &= lead.node == Some(node);
            lead.node = Some(node);
        }
    }

    /// The leader of `shard`, if known.
    pub(crate) fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leaders.get(shard.0 as usize)?.node
    }

    /// Notes that `node` does not lead `shard`.
    pub(crate) fn does_not_lead(&mut self, shard: ShardId, node: NodeId) {
        if let Some(lead) = self.leaders.get_mut(shard.0 as usize)
            && lead.node == Some(node)
        {
            lead.node = None;
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
        let leader = self.leader(shard).filter(|node| self.has(*node));
        let node = match leader.filter(trusted) {
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
        self.core(node, shard)
    }

    /// Whether the map has that node.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.map.node(node).is_some()
    }

    /// The core of `node` that has the replica of `shard`.
    pub(crate) fn core(&self, node: NodeId, shard: ShardId) -> Option<Target> {
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
        routes.leads(S, NodeId(4), 1);
        assert_eq!(asked(&routes, Some(2)), 4);
        routes.does_not_lead(S, NodeId(3));
        assert_eq!(asked(&routes, None), 4);
        routes.does_not_lead(S, NodeId(4));
        assert_eq!(asked(&routes, Some(4)), 2);
        let target = routes.target(S, None, NOW).unwrap();
        assert_eq!(routes.address(target), Some(("h".into(), 201)));
    }

    #[test]
    fn a_word_about_an_earlier_term_changes_nothing() {
        let mut routes = Routes::new(Arc::new(map(1)));
        // (node, term if it was told, effect, leader then)
        for (node, term, expected, leader) in [
            (2, Some(5), Learned::New, 2),
            (2, Some(5), Learned::Known, 2),
            (3, Some(4), Learned::Old, 2),
            (1, Some(6), Learned::Old, 2),
            (3, Some(6), Learned::New, 3),
            (2, Some(5), Learned::Old, 3),
            (4, None, Learned::Known, 4),
            (2, Some(5), Learned::Old, 4),
            (3, Some(6), Learned::New, 3),
            (3, None, Learned::Known, 3),
            (3, Some(6), Learned::Known, 3),
            (4, None, Learned::Known, 4),
            (4, Some(6), Learned::New, 4),
        ] {
            let found = match term {
                Some(term) => routes.leads(S, NodeId(node), term),
                None => {
                    routes.named(S, NodeId(node));
                    Learned::Known
                }
            };
            let case = format!("{node} in {term:?}");
            assert_eq!(found, expected, "{case}");
            assert_eq!(routes.leader(S), Some(NodeId(leader)), "{case}");
        }
    }

    #[test]
    fn suspects_come_last_and_only_for_a_while() {
        let mut routes = Routes::new(Arc::new(map(1)));
        routes.leads(S, NodeId(2), 1);
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
        routes.leads(S, NodeId(4), 1);
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
        assert_eq!(asked(&routes, None), 4, "it has a replica still");
        let mut moved = map(4);
        moved.shards[1].replicas = vec![2, 3, 1];
        assert!(routes.adopt(moved));
        assert_eq!(asked(&routes, None), 2);
    }
}
