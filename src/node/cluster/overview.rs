//! The state of the cluster for operators, from map and reports. Pure.

use crate::node::cluster::map::{Map, MapNode, MapShard, NodeState, Why};
use crate::node::cluster::orders::settings_shown;
use crate::node::cluster::reconcile::{PlanLimits, phases};
use crate::node::cluster::reports::Reports;
use corelith_wire::cluster::{ClusterView, ViewChange, ViewNode, ViewShard};
use corelith_wire::{NodeId, ReplicaId, ShardId, StoreId};
use std::collections::BTreeMap;

/// Troubles that are listed; beyond, their number is.
const TROUBLES_MAX: usize = 64;

/// What the cluster is, as `leader` sees it, which leads the shard of the map.
pub fn overview(map: &Map, reports: &Reports, limits: &PlanLimits, leader: NodeId) -> ClusterView {
    let leads = leads(reports, limits);
    let counts = Counts::of(map, &leads);
    assert!(
        counts.prefers.values().sum::<u32>() as usize <= map.shards.len(),
        "a shard prefers one node"
    );
    let nodes = map.nodes.iter();
    let shards = map.shards.iter().zip((0..).map(ShardId));
    let changes = phases(map, reports, limits).into_iter();
    ClusterView {
        cluster: map.cluster.0,
        epoch: map.epoch.0,
        version: map.version,
        leader: leader.0,
        map_nodes: map.meta.replicas.iter().map(|r| r.node().0).collect(),
        settings: settings_shown(&map.settings),
        nodes: nodes
            .map(|(id, node)| shown_node(*id, node, reports, &counts))
            .collect(),
        shards: shards
            .map(|(shard, id)| ViewShard {
                replicas: shard.replicas.iter().map(|r| r.node().0).collect(),
                leader: leads.get(&id).map_or(0, |leader| leader.0),
            })
            .collect(),
        changes: changes
            .filter_map(|(id, phase)| Some((id, map.shard(id)?, phase)))
            .map(|(id, shard, phase)| shown_change(reports, limits, id, shard, phase))
            .collect(),
        troubles: troubles(map, reports, limits, &leads, leader),
    }
}

/// Who leads each shard, of the nodes that are up.
fn leads(reports: &Reports, limits: &PlanLimits) -> BTreeMap<ShardId, NodeId> {
    let mut leads: BTreeMap<ShardId, (u64, NodeId)> = BTreeMap::new();
    for (node, report) in &reports.nodes {
        if reports.silence_ms(*node) >= limits.up_ms {
            continue;
        }
        for (shard, lead) in &report.leads {
            let known = leads.entry(*shard).or_insert((lead.term.0, *node));
            if known.0 < lead.term.0 {
                *known = (lead.term.0, *node);
            }
        }
    }
    let leads = leads.into_iter();
    leads.map(|(shard, (_, node))| (shard, node)).collect()
}

/// Replicas, preferences and leads of each node.
#[derive(Default)]
struct Counts {
    replicas: BTreeMap<NodeId, u32>,
    prefers: BTreeMap<NodeId, u32>,
    leads: BTreeMap<NodeId, u32>,
}

impl Counts {
    fn of(map: &Map, leads: &BTreeMap<ShardId, NodeId>) -> Self {
        let mut counts = Self::default();
        for (_, shard) in map.all_shards() {
            for replica in &shard.replicas {
                *counts.replicas.entry(replica.node()).or_default() += 1;
            }
        }
        for shard in &map.shards {
            if let Some(first) = shard.replicas.first() {
                *counts.prefers.entry(first.node()).or_default() += 1;
            }
        }
        for leader in leads.values() {
            *counts.leads.entry(*leader).or_default() += 1;
        }
        counts
    }
}

fn shown_node(id: NodeId, node: &MapNode, reports: &Reports, counts: &Counts) -> ViewNode {
    let report = reports.nodes.get(&id);
    let count = |of: &BTreeMap<NodeId, u32>| of.get(&id).copied().unwrap_or_default();
    let waiting = report.map(|report| report.store);
    let is_other = |store: &StoreId| node.store != StoreId::ANY && *store != node.store;
    ViewNode {
        node: id.0,
        store: node.store.0,
        waiting: waiting.filter(is_other).unwrap_or_default().0,
        host: node.host.clone(),
        port: node.port,
        cores: node.cores,
        zone: node.zone.clone(),
        region: node.region.clone(),
        state: state_name(node.state).to_owned(),
        heard_ms: report.map(|_| reports.silence_ms(id)),
        replicas: count(&counts.replicas),
        prefers: count(&counts.prefers),
        leads: count(&counts.leads),
        used_bytes: report.map_or(0, |report| report.used_bytes),
        free_bytes: report.map_or(0, |report| report.free_bytes),
    }
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
    }
}

fn why_name(why: Why) -> &'static str {
    match why {
        Why::Move => "move",
        Why::Rebuild => "rebuild",
        Why::Drain => "drain",
        Why::Operator => "operator",
    }
}

fn shown_change(
    reports: &Reports,
    limits: &PlanLimits,
    id: ShardId,
    shard: &MapShard,
    phase: &str,
) -> ViewChange {
    let change = shard.change;
    let add = change.and_then(|change| change.add);
    let node = |replica: Option<ReplicaId>| replica.map_or(0, |replica| replica.node().0);
    let lead = reports.lead(id, limits.up_ms).map(|(_, lead)| lead);
    let copy = lead.and_then(|lead| lead.copying.get(&add?)).copied();
    let copy = copy.unwrap_or_default();
    let begun = reports.watch(id).map(|watch| watch.begun_ms);
    ViewChange {
        shard: id.0,
        to: node(add),
        from: node(change.and_then(|change| change.remove)),
        why: change.map_or("", |change| why_name(change.why)).to_owned(),
        phase: phase.to_owned(),
        bytes_done: copy.bytes_done,
        bytes_all: copy.bytes_all,
        running_ms: begun.map_or(0, |begun| reports.now.saturating_sub(begun)),
    }
}

/// The nodes that have not reported to this leader of the map, as long as that says nothing of them.
pub(crate) fn awaited(map: &Map, reports: &Reports, limits: &PlanLimits) -> Vec<NodeId> {
    let listens_ms = reports.now.saturating_sub(reports.since_ms);
    let silent = map.live_nodes().map(|(id, _)| id);
    let silent = silent.filter(|id| !reports.nodes.contains_key(id));
    silent.filter(|_| listens_ms < limits.up_ms).collect()
}

fn troubles(
    map: &Map,
    reports: &Reports,
    limits: &PlanLimits,
    leads: &BTreeMap<ShardId, NodeId>,
    leader: NodeId,
) -> Vec<String> {
    let mut troubles = Vec::new();
    for (id, node) in map.live_nodes() {
        let silence_ms = reports.silence_ms(id);
        let rebuild_ms = u64::from(map.settings.rebuild_after_s) * 1000;
        if silence_ms >= rebuild_ms {
            troubles.push(format!(
                "node {} was not heard for {} s: its replicas are made anew elsewhere",
                id.0,
                silence_ms / 1000
            ));
        } else if silence_ms >= limits.up_ms {
            troubles.push(format!(
                "node {} was not heard for {} s; after {} s its replicas are made anew elsewhere",
                id.0,
                silence_ms / 1000,
                map.settings.rebuild_after_s
            ));
        }
        let report = reports.nodes.get(&id);
        let other = report.filter(|of| node.store != StoreId::ANY && of.store != node.store);
        if let Some(report) = other {
            troubles.push(format!(
                "store {} comes as node {}, whose store is {} (corelith cluster rejoin {})",
                report.store, id.0, node.store, id.0
            ));
        }
    }
    let waits_for = awaited(map, reports, limits);
    if !waits_for.is_empty() {
        let listens_ms = reports.now.saturating_sub(reports.since_ms);
        let ids: Vec<String> = waits_for.iter().map(|id| id.0.to_string()).collect();
        let (nodes, have) = match ids.len() {
            1 => ("node", "has"),
            _ => ("nodes", "have"),
        };
        troubles.push(format!(
            "node {} has led the map for {}.{} s, and {nodes} {} {have} not reported to it yet",
            leader.0,
            listens_ms / 1000,
            listens_ms % 1000 / 100,
            ids.join(", ")
        ));
    }
    let wanted = map.settings.replicas as usize;
    for (id, shard) in map.all_shards() {
        let name = match id {
            ShardId::META => "the shard of the map".to_owned(),
            ShardId(shard) => format!("shard {shard}"),
        };
        // Whoever leads it may not have reported yet.
        if !leads.contains_key(&id) && waits_for.is_empty() {
            troubles.push(format!("{name} has no leader that reports"));
        }
        if id != ShardId::META && shard.replicas.len() < wanted {
            let have = shard.replicas.len();
            troubles.push(format!("{name} has {have} of {wanted} replicas"));
        }
    }
    if troubles.len() > TROUBLES_MAX {
        let more = troubles.len() - TROUBLES_MAX;
        troubles.truncate(TROUBLES_MAX);
        troubles.push(format!("and {more} more"));
    }
    assert!(troubles.len() <= TROUBLES_MAX + 1, "a list to read");
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::cluster::map::MapEdit;
    use crate::node::cluster::map::tests::first;
    use crate::node::cluster::reports::{CopyReport, LeadReport, NodeReport};

    /// Before a node can have reported nothing is known of it, nor of the shards that it may lead.
    #[test]
    fn who_leads_the_map_since_a_moment_ago_says_so() {
        let map = first(4, 2, 3);
        let mut reports = Reports::new(1_000);
        let troubles =
            |reports: &Reports| overview(&map, reports, &PlanLimits::default(), NodeId(3)).troubles;
        reports.tick(&map, 2_400);
        assert_eq!(
            troubles(&reports),
            ["node 3 has led the map for 1.4 s, and nodes 1, 2, 3, 4 have not reported to it yet"]
        );
        for node in [1, 3, 4] {
            let store = map.nodes[&NodeId(node)].store;
            let report = NodeReport {
                store,
                ..NodeReport::default()
            };
            reports.take(NodeId(node), report);
        }
        assert_eq!(
            troubles(&reports),
            ["node 3 has led the map for 1.4 s, and node 2 has not reported to it yet"]
        );
        reports.tick(&map, 11_000);
        let said = troubles(&reports);
        assert!(
            said[0].starts_with("node 2 was not heard for 10 s"),
            "{said:?}"
        );
        let leaderless = said
            .iter()
            .filter(|said| said.ends_with("has no leader that reports"));
        assert_eq!(leaderless.count(), 3, "{said:?}");
    }

    #[test]
    fn what_goes_on_and_what_is_wrong_is_shown() {
        let begin = MapEdit::Begin {
            shard: ShardId(0),
            add: Some(NodeId(4)),
            remove: Some(ReplicaId(1)),
            why: Why::Operator,
        };
        let map = first(4, 2, 3).apply(&begin).unwrap();
        let mut reports = Reports::new(1_000);
        let add = ReplicaId::new(NodeId(4), 1);
        let copy = CopyReport {
            bytes_done: 7,
            bytes_all: 9,
        };
        let lead = LeadReport {
            copying: BTreeMap::from([(add, copy)]),
            ..LeadReport::default()
        };
        for node in [1, 3, 4] {
            let mut report = NodeReport {
                store: StoreId(u128::from(node)),
                ..NodeReport::default()
            };
            if node == 3 {
                report.store = StoreId(33);
                report.leads = [ShardId(0), ShardId::META]
                    .map(|shard| (shard, lead.clone()))
                    .into();
            }
            reports.take(NodeId(node), report);
        }
        reports.tick(&map, 1_000);
        reports.tick(&map, 6_000);
        for node in [1, 3, 4] {
            let report = reports.nodes[&NodeId(node)].clone();
            reports.take(NodeId(node), report);
        }
        reports.tick(&map, 12_000);
        let view = overview(&map, &reports, &PlanLimits::default(), NodeId(1));
        assert_eq!(
            view.troubles,
            [
                "node 2 was not heard for 11 s; after 900 s its replicas are made anew elsewhere",
                "store 00000000000000000000000000000021 comes as node 3, whose store is \
                 00000000000000000000000000000003 (corelith cluster rejoin 3)",
                "shard 1 has no leader that reports",
            ]
        );
        let change = &view.changes[0];
        assert_eq!((change.from, change.to), (1, 4));
        assert_eq!((change.bytes_done, change.bytes_all), (7, 9));
        assert_eq!(
            (change.why.as_str(), change.phase.as_str()),
            ("operator", "opening")
        );
        assert_eq!(change.running_ms, 11_000);
        let nodes = view.nodes.iter().map(|node| (node.replicas, node.leads));
        // Shard 0 on 1, 2, 3, shard 1 on 2, 3, 4, and the map on 1, 2, 3.
        assert_eq!(nodes.collect::<Vec<_>>(), [(2, 0), (3, 0), (3, 2), (1, 0)]);
        assert_eq!(view.nodes[1].heard_ms, None);
        assert_eq!(view.nodes[2].waiting, 33);
        assert_eq!(view.shards[0].leader, 3);
    }
}
