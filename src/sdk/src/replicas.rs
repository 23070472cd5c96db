//! Which replica of its shard a read goes to. Pure: the session asks, the driver measures.
//!
//! How far a node is away is measured by probes: requests that a node answers at once, whatever it does for the shard. A
//! follower's answer to a read takes longer than its distance, since it asks the leader first; so a follower is
//! read from only if it is nearer by more than noise.

use crate::limits::{NEARER_BY_MIN, PASSED_OVER_FOR, PROBE_EVERY};
use crate::route::{Routes, Target};
use corelith_wire::placement::core_of;
use corelith_wire::request::{self, GetRequest};
use corelith_wire::{Epoch, Head, Kind, NodeId, Outbox, RequestId, ShardId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Which replica of its shard a read asks. Reads are linearizable in any case. What a follower cannot answer goes on to the
/// leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The leader.
    #[default]
    Leader,
    /// The nearest replica, as measured: the leader, unless another one is nearer by a fourth.
    Nearest,
    /// All replicas in turn.
    Any,
}

/// Where a read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// To a replica that the client chooses.
    From(ReadFrom),
    /// To the replica that keeps what a scan sees.
    At(NodeId),
}

/// A request that measures how far a node is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The core to send to.
    pub target: Target,
    shard: ShardId,
    epoch: Epoch,
}

impl Probe {
    /// Appends its frame: a read of the empty key, which nobody looks up.
    pub fn encode(&self, out: &mut Outbox, request_id: RequestId) {
        let head = Head {
            kind: Kind::GET,
            request_id,
            shard: self.shard,
            epoch: self.epoch,
        };
        request::encode_get(out, head, &GetRequest { key: &[] });
    }
}

/// How far a node is away.
#[derive(Clone, Copy, Debug)]
struct Distance {
    /// Smoothed; `None` before the first answer and after a probe without one.
    round_trip: Option<Duration>,
    /// When the last probe was due.
    probed: Duration,
}

/// What a client knows of the replicas it reads from.
#[derive(Debug)]
pub(crate) struct Replicas {
    distances: BTreeMap<NodeId, Distance>,
    /// Replicas that did not answer a read, each with the time until which they are left out. At most the
    /// replicas of all shards.
    passed_over: BTreeMap<(ShardId, NodeId), Duration>,
    /// Per shard: whose turn it is.
    turns: Vec<usize>,
    /// Probes to send. At most one for each node.
    probes: VecDeque<Probe>,
}

impl Replicas {
    /// For a cluster of that many shards; `random` says where the turns begin.
    pub(crate) fn new(shards: usize, random: u64) -> Self {
        Self {
            distances: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            turns: vec![(random % 1024) as usize; shards],
            probes: VecDeque::new(),
        }
    }

    /// The replica to ask for a read, none of `without`; `None`: the leader, as for everything else.
    pub(crate) fn choose(
        &mut self,
        routes: &Routes,
        shard: ShardId,
        source: Source,
        without: &[NodeId],
        now: Duration,
    ) -> Option<Target> {
        if source == Source::From(ReadFrom::Leader) {
            return None;
        }
        // Of a read that went to another one in vain, the leader has the last word.
        let last = match without.is_empty() {
            true => None,
            false => routes.leader(shard),
        };
        let able = |node: &NodeId| {
            if without.contains(node) || last == Some(*node) {
                return false;
            }
            let until = self.passed_over.get(&(shard, *node));
            until.is_none_or(|until| now >= *until) && !routes.suspected(*node, now)
        };
        let replicas = || routes.map().replicas(shard);
        let node = match source {
            Source::From(ReadFrom::Leader) => None,
            Source::At(kept) => replicas().find(|node| *node == kept).filter(able),
            Source::From(ReadFrom::Any) => {
                let count = replicas().filter(able).count();
                let turn = self.turns.get_mut(shard.0 as usize)?;
                *turn = turn.wrapping_add(1);
                let skipped = turn.checked_rem(count)?;
                replicas().filter(able).nth(skipped)
            }
            Source::From(ReadFrom::Nearest) => {
                let leader = routes.leader(shard).or_else(|| replicas().next());
                let distance = |node: NodeId| self.distances.get(&node)?.round_trip;
                let known = replicas().filter(able).map(|node| (node, distance(node)));
                let node = nearest(known, leader);
                self.ask_for_probes(routes, shard, now);
                node
            }
        }?;
        target(routes, shard, node)
    }

    /// Has the nodes probed whose distance was not measured for a while.
    fn ask_for_probes(&mut self, routes: &Routes, shard: ShardId, now: Duration) {
        for node in routes.map().replicas(shard) {
            let known = self.distances.get_mut(&node);
            let is_due = known
                .as_ref()
                .is_none_or(|known| now >= known.probed + PROBE_EVERY);
            let Some(target) = target(routes, shard, node).filter(|_| is_due) else {
                continue;
            };
            match known {
                Some(known) => known.probed = now,
                None => {
                    let unknown = Distance {
                        round_trip: None,
                        probed: now,
                    };
                    self.distances.insert(node, unknown);
                }
            }
            self.probes.retain(|probe| probe.target.node != node);
            self.probes.push_back(Probe {
                target,
                shard,
                epoch: Epoch(routes.map().epoch),
            });
        }
        assert!(
            self.probes.len() <= routes.map().nodes.len(),
            "{} probes wait",
            self.probes.len()
        );
    }

    /// The next probe to send.
    pub(crate) fn take_probe(&mut self) -> Option<Probe> {
        self.probes.pop_front()
    }

    /// Notes how long a probe took; `None` if it was not answered.
    pub(crate) fn probed(&mut self, node: NodeId, took: Option<Duration>) {
        if let Some(distance) = self.distances.get_mut(&node) {
            distance.round_trip = match (distance.round_trip, took) {
                // As TCP smooths round trips (RFC 6298).
                (Some(known), Some(took)) => Some((known * 7 + took) / 8),
                (_, took) => took,
            };
        }
    }

    /// Notes that a replica did not answer a read.
    pub(crate) fn pass_over(&mut self, shard: ShardId, node: NodeId, now: Duration) {
        self.passed_over
            .insert((shard, node), now + PASSED_OVER_FOR);
    }

    /// Notes that a replica answered a read.
    pub(crate) fn answers(&mut self, shard: ShardId, node: NodeId) {
        if !self.passed_over.is_empty() {
            self.passed_over.remove(&(shard, node));
        }
    }
}

fn target(routes: &Routes, shard: ShardId, node: NodeId) -> Option<Target> {
    let cores = routes.map().node(node)?.cores;
    Some(Target {
        node,
        core: core_of(shard, cores),
    })
}

/// The nearest of some replicas with their distances, as far as these are known: the leader, unless another is nearer
/// by enough to make up for the question that it asks the leader.
fn nearest(
    replicas: impl Iterator<Item = (NodeId, Option<Duration>)>,
    leader: Option<NodeId>,
) -> Option<NodeId> {
    let mut to_leader = None;
    let mut best: Option<(Duration, NodeId)> = None;
    for (node, distance) in replicas {
        let Some(distance) = distance else { continue };
        if Some(node) == leader {
            to_leader = Some(distance);
        }
        best = best.min(Some((distance, node))).or(Some((distance, node)));
    }
    let (shortest, node) = best?;
    match to_leader {
        Some(to_leader) if shortest + (to_leader / 4).max(NEARER_BY_MIN) > to_leader => leader,
        _ => Some(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_wire::ClusterId;
    use corelith_wire::map::{ClusterMap, MapNode};
    use std::sync::Arc;

    const S: ShardId = ShardId(0);
    const NOW: Duration = Duration::from_secs(5);

    fn routes() -> Routes {
        let node = |id| MapNode {
            id,
            host: "h".into(),
            base_port: 100 * id as u16,
            cores: 2,
        };
        let nodes = vec![node(1), node(2), node(3)];
        Routes::new(Arc::new(ClusterMap::place(
            Epoch(1),
            ClusterId(7),
            nodes,
            2,
            3,
        )))
    }

    fn chosen(replicas: &mut Replicas, routes: &Routes, source: Source, now: Duration) -> u64 {
        let target = replicas.choose(routes, S, source, &[], now);
        target.map_or(0, |target| target.node.0)
    }

    #[test]
    fn the_leader_is_nearest_unless_another_is_nearer_by_enough() {
        // Distances of nodes 1 to 3 in µs, 0 if unknown; who leads; who is nearest.
        for (distances, leader, expected) in [
            ([0, 0, 0], 1, 0),
            ([500, 0, 0], 1, 1),
            ([0, 500, 400], 1, 3),
            ([100, 60, 50], 1, 1),
            ([1_000, 60, 50], 1, 3),
            ([1_000, 60, 50], 3, 3),
            ([1_000, 60, 50], 2, 2),
            ([10_000, 9_000, 8_000], 1, 1),
            ([10_000, 9_000, 7_000], 1, 3),
            ([10_000, 9_000, 7_000], 0, 3),
        ] {
            let replicas = (1..).zip(distances).map(|(node, distance)| {
                let distance = (distance > 0).then(|| Duration::from_micros(distance));
                (NodeId(node), distance)
            });
            let leader = (leader > 0).then_some(NodeId(leader));
            let found = nearest(replicas, leader).map_or(0, |node| node.0);
            assert_eq!(found, expected, "{distances:?}, {leader:?} leads");
        }
    }

    #[test]
    fn any_takes_all_in_turn_and_leaves_out_who_does_not_answer() {
        let (mut routes, any) = (routes(), Source::From(ReadFrom::Any));
        let mut replicas = Replicas::new(2, 4);
        let mut counts = [0; 4];
        for _ in 0..30 {
            counts[chosen(&mut replicas, &routes, any, NOW) as usize] += 1;
        }
        assert_eq!(counts, [0, 10, 10, 10]);
        replicas.pass_over(S, NodeId(2), NOW);
        routes.suspect(NodeId(3), NOW + PASSED_OVER_FOR);
        for _ in 0..5 {
            assert_eq!(chosen(&mut replicas, &routes, any, NOW), 1);
        }
        replicas.pass_over(S, NodeId(1), NOW);
        assert_eq!(chosen(&mut replicas, &routes, any, NOW), 0, "the leader");
        replicas.answers(S, NodeId(1));
        assert_eq!(chosen(&mut replicas, &routes, any, NOW), 1);
        let later = NOW + PASSED_OVER_FOR;
        let all: std::collections::BTreeSet<u64> = (0..3)
            .map(|_| chosen(&mut replicas, &routes, any, later))
            .collect();
        assert_eq!(all.len(), 3, "all take part again");
    }

    #[test]
    fn who_has_it_not_is_not_asked_again_and_the_leader_last() {
        let (mut routes, mut replicas) = (routes(), Replicas::new(2, 4));
        routes.named(S, NodeId(2));
        let any = Source::From(ReadFrom::Any);
        let mut chosen = |without: &[u64]| {
            let without: Vec<NodeId> = without.iter().copied().map(NodeId).collect();
            let target = replicas.choose(&routes, S, any, &without, NOW);
            target.map_or(0, |target| target.node.0)
        };
        for _ in 0..5 {
            assert_eq!((chosen(&[1]), chosen(&[3])), (3, 1));
            assert_eq!(chosen(&[1, 3]), 0, "the leader");
        }
    }

    #[test]
    fn a_scan_stays_where_its_view_lies() {
        let (routes, mut replicas) = (routes(), Replicas::new(2, 0));
        let at = |node| Source::At(NodeId(node));
        assert_eq!(chosen(&mut replicas, &routes, at(3), NOW), 3);
        assert_eq!(chosen(&mut replicas, &routes, at(9), NOW), 0);
        replicas.pass_over(S, NodeId(3), NOW);
        assert_eq!(chosen(&mut replicas, &routes, at(3), NOW), 0);
        let leader = Source::From(ReadFrom::Leader);
        assert_eq!(chosen(&mut replicas, &routes, leader, NOW), 0);
    }

    #[test]
    fn nodes_are_probed_now_and_then_while_somebody_reads_nearby() {
        let (mut routes, mut replicas) = (routes(), Replicas::new(2, 0));
        routes.named(S, NodeId(1));
        let near = Source::From(ReadFrom::Nearest);
        let probed = |replicas: &mut Replicas| {
            let nodes = std::iter::from_fn(|| replicas.take_probe());
            nodes.map(|probe| probe.target.node.0).collect::<Vec<_>>()
        };
        assert!(probed(&mut replicas).is_empty());
        assert_eq!(chosen(&mut replicas, &routes, near, NOW), 0, "not known");
        assert_eq!(probed(&mut replicas), [1, 2, 3]);
        assert_eq!(chosen(&mut replicas, &routes, near, NOW), 0);
        assert!(probed(&mut replicas).is_empty(), "they are on their way");
        for (node, millis) in [(1, 40), (2, 8), (3, 30)] {
            replicas.probed(NodeId(node), Some(Duration::from_millis(millis)));
        }
        assert_eq!(chosen(&mut replicas, &routes, near, NOW), 2);
        // One slow answer is no reason to go elsewhere; many are.
        replicas.probed(NodeId(2), Some(Duration::from_millis(100)));
        assert_eq!(chosen(&mut replicas, &routes, near, NOW), 2);
        for _ in 0..20 {
            replicas.probed(NodeId(2), Some(Duration::from_millis(100)));
        }
        assert_eq!(chosen(&mut replicas, &routes, near, NOW), 3);
        replicas.probed(NodeId(3), None);
        assert_eq!(chosen(&mut replicas, &routes, near, NOW), 1);
        let later = NOW + PROBE_EVERY;
        chosen(&mut replicas, &routes, near, later);
        assert_eq!(probed(&mut replicas), [1, 2, 3]);
    }
}
