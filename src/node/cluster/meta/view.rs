//! What an operator sees of the cluster: the map, and what the nodes report.

use crate::node::cluster::map::{Map, MapNode, MapShard, NodeState, Why};
use crate::node::cluster::orders;
use crate::node::cluster::reconcile::{self, PlanLimits};
use crate::node::cluster::reports::Reports;
use corelith_wire::cluster::{ClusterView, ViewChange, ViewNode, ViewSetting, ViewShard};
use corelith_wire::{NodeId, ReplicaId, ShardId, StoreId};
use std::collections::BTreeMap;

/// The view of `me`, which keeps the map. `waiting` are stores that come as nodes which are known with others.
pub(super) fn of(
    map: &Map,
    reports: &Reports,
    me: NodeId,
    waiting: &BTreeMap<NodeId, StoreId>,
) -> ClusterView {
    let counts = Counts::of(map, reports);
    let nodes = map.nodes.iter().map(|(id, node)| ViewNode {
        waiting: waiting.get(id).map_or(0, |store| store.0),
        ..counts.node(reports, *id, node)
    });
    let nodes: Vec<ViewNode> = nodes.collect();
    let shards = (0..).map(ShardId).zip(&map.shards).map(|(id, shard)| ViewShard {
        replicas: shard.replicas.iter().map(|replica| replica.node().0).collect(),
        leader: leader(reports, id).map_or(0, |leader| leader.0),
    });
    let settings = orders::settings_shown(&map.settings).into_iter();
    ClusterView {
        cluster: map.cluster.0,
        epoch: map.epoch.0,
        version: map.version,
        leader: me.0,
        map_nodes: map.meta.replicas.iter().map(|replica| replica.node().0).collect(),
        settings: settings
            .map(|(key, value)| ViewSetting {
                key: key.to_owned(),
                value,
            })
            .collect(),
        troubles: troubles(map, reports, &nodes),
        shards: shards.collect(),
        changes: map
            .all_shards()
            .filter_map(|(id, shard)| change(map, reports, id, shard))
            .collect(),
        nodes,
    }
}

fn leader(reports: &Reports, shard: ShardId) -> Option<NodeId> {
    let up = PlanLimits::default().up_ms;
    reports.lead(shard, up).map(|(leader, _)| leader)
}

/// How many shards each node has.
#[derive(Default)]
struct Counts {
    replicas: BTreeMap<NodeId, u32>,
    prefers: BTreeMap<NodeId, u32>,
    leads: BTreeMap<NodeId, u32>,
}

impl Counts {
    fn of(map: &Map, reports: &Reports) -> Self {
        let mut counts = Self::default();
        for (id, shard) in (0..).map(ShardId).zip(&map.shards) {
            for replica in &shard.replicas {
                *counts.replicas.entry(replica.node()).or_default() += 1;
            }
            if let Some(first) = shard.replicas.first() {
                *counts.prefers.entry(first.node()).or_default() += 1;
            }
            if let Some(leader) = leader(reports, id) {
                *counts.leads.entry(leader).or_default() += 1;
            }
        }
        counts
    }

    fn node(&self, reports: &Reports, id: NodeId, node: &MapNode) -> ViewNode {
        let report = reports.nodes.get(&id);
        let of = |counts: &BTreeMap<NodeId, u32>| counts.get(&id).copied().unwrap_or(0);
        ViewNode {
            node: id.0,
            store: node.store.0,
            waiting: 0,
            host: node.host.clone(),
            port: node.port,
            cores: node.cores,
            zone: node.zone.clone(),
            region: node.region.clone(),
            state: state(node.state).to_owned(),
            heard_ms: report.map(|_| reports.silence_ms(id)),
            replicas: of(&self.replicas),
            prefers: of(&self.prefers),
            leads: of(&self.leads),
            used_bytes: report.map_or(0, |report| report.used_bytes),
            free_bytes: report.map_or(0, |report| report.free_bytes),
        }
    }
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
    }
}

fn why(why: Why) -> &'static str {
    match why {
        Why::Move => "move",
        Why::Rebuild => "rebuild",
        Why::Drain => "drain",
        Why::Operator => "operator",
    }
}

fn change(map: &Map, reports: &Reports, id: ShardId, shard: &MapShard) -> Option<ViewChange> {
    let change = shard.change?;
    let node = |replica: Option<ReplicaId>| replica.map_or(0, |replica| replica.node().0);
    let lead = reports.lead(id, u64::MAX).map(|(_, lead)| lead);
    let copy = change.add.and_then(|add| lead?.copying.get(&add).copied());
    let copy = copy.unwrap_or_default();
    let begun = reports.watch(id).map_or(reports.now, |watch| watch.begun_ms);
    Some(ViewChange {
        shard: id.0,
        to: node(change.add),
        from: node(change.remove),
        why: why(change.why).to_owned(),
        phase: reconcile::phase(map, reports, &PlanLimits::default(), id).to_owned(),
        bytes_done: copy.bytes_done,
        bytes_all: copy.bytes_all,
        running_ms: reports.now.saturating_sub(begun),
    })
}

/// What is not as it should be.
fn troubles(map: &Map, reports: &Reports, nodes: &[ViewNode]) -> Vec<String> {
    let up = PlanLimits::default().up_ms;
    let mut troubles = Vec::new();
    for node in nodes.iter().filter(|node| node.state != "removed") {
        let id = node.node;
        if reports.silence_ms(NodeId(id)) >= up {
            let silence = reports.silence_ms(NodeId(id)) / 1000;
            let rebuilt = u64::from(map.settings.rebuild_after_s).saturating_sub(silence);
            troubles.push(format!(
                "node {id} was not heard for {silence} s; in {rebuilt} s its replicas are rebuilt on other nodes, \
                 if there are any without one"
            ));
        }
        if node.waiting != 0 {
            troubles.push(format!(
                "a node with another store comes as node {id}: `corelith cluster rejoin {id}` takes it in its place"
            ));
        }
    }
    for (id, shard) in map.all_shards() {
        let name = match id {
            ShardId::META => "the shard of the map".to_owned(),
            ShardId(number) => format!("shard {number}"),
        };
        if leader(reports, id).is_none() && reports.now >= up {
            troubles.push(format!("{name} has no leader"));
        }
        let downs = shard.replicas.iter().filter(|replica| {
            let node = reports.nodes.get(&replica.node());
            let hold = node.and_then(|node| node.holds.get(&id));
            hold.is_some_and(|hold| hold.generation == replica.generation() && hold.is_down)
        });
        for replica in downs {
            troubles.push(format!(
                "the replica of {name} on node {} cannot be opened: it is made anew from the others",
                replica.node().0
            ));
        }
    }
    troubles.truncate(crate::node::limits::META_TROUBLES_MAX);
    troubles
}
