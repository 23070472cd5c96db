//! Map and reports, indexed for one plan. Nodes are known by their place among the nodes that are not removed, shards
//! by their slot: 0 is that of the map, the others follow by number.

use super::PlanLimits;
use crate::node::cluster::map::{Map, MapShard, NodeState};
use crate::node::cluster::reports::{HoldReport, LeadReport, NodeReport, Reports};
use crate::node::cluster::spread::{Spot, Spots, weight};
use corelith_wire::{NodeId, ReplicaId, ShardId, StoreId};

/// Capacity of a device as long as none is known.
const CAPACITY_UNKNOWN: u64 = 1 << 40;

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplicaHealth {
    /// Its node is up and has it.
    Live,
    /// Its node is not heard, or does not name it, and not yet for long.
    Silent,
    /// Its node was not heard for so long that it counts as lost.
    Lost,
    /// Its node is up and does not have it, or cannot open it.
    Broken,
}

/// Map and reports.
pub(super) struct PlanView<'a> {
    pub(super) map: &'a Map,
    pub(super) reports: &'a Reports,
    pub(super) limits: &'a PlanLimits,
    /// The nodes, as far as placement goes. Loads are those after all changes.
    pub(super) spread: Spots,
    /// What each node says, if it is up.
    heard: Vec<Option<&'a NodeReport>>,
    /// The same, if the node's store is the one of the map.
    trusted: Vec<Option<&'a NodeReport>>,
    /// Whether each node is active.
    pub(super) is_active: Vec<bool>,
    /// Who leads each shard.
    leads: Vec<Option<(NodeId, &'a LeadReport)>>,
    /// Bytes of each shard: those of its largest replica.
    pub(super) bytes: Vec<u64>,
    /// Where the replicas of each shard are after its change.
    pub(super) placed: Vec<Vec<usize>>,
    /// Shards of which a node has a replica that the map does not name.
    pub(super) strays: Vec<ShardId>,
    /// The live voters of each shard without a change whose group is as the map shows it, if they are a majority.
    pub(super) settled: Vec<Option<usize>>,
    /// Changes under way.
    pub(super) moves: u32,
}

pub(super) fn slot(shard: ShardId) -> usize {
    match shard {
        ShardId::META => 0,
        ShardId(shard) => shard as usize + 1,
    }
}

pub(super) fn shard_of(slot: usize) -> ShardId {
    match slot.checked_sub(1).map(u32::try_from) {
        Some(Ok(shard)) => ShardId(shard),
        _ => ShardId::META,
    }
}

impl<'a> PlanView<'a> {
    pub(super) fn new(map: &'a Map, reports: &'a Reports, limits: &'a PlanLimits) -> Self {
        let slots = map.shards.len() + 1;
        let mut view = Self {
            map,
            reports,
            limits,
            spread: spread(map, reports, limits),
            heard: Vec::new(),
            trusted: Vec::new(),
            is_active: Vec::new(),
            settled: Vec::new(),
            leads: vec![None; slots],
            bytes: vec![0; slots],
            placed: vec![Vec::new(); slots],
            strays: Vec::new(),
            moves: 0,
        };
        view.hear();
        view.place();
        let settled = map.all_shards().map(|(id, shard)| view.settled(id, shard));
        view.settled = settled.collect();
        assert_eq!(view.settled.len(), slots, "each shard has its slot");
        assert_eq!(
            view.trusted.len(),
            view.spread.spots.len(),
            "each node has its place"
        );
        assert!(view.moves as usize <= slots, "a shard has one change");
        view
    }

    fn hear(&mut self) {
        for (node, of_map) in self.map.live_nodes() {
            let report = self.reports.nodes.get(&node);
            let is_up = self.reports.silence_ms(node) < self.limits.up_ms;
            let report = report.filter(|_| is_up);
            let is_its =
                |report: &&NodeReport| of_map.store == StoreId::ANY || of_map.store == report.store;
            self.heard.push(report);
            self.trusted.push(report.filter(is_its));
            self.is_active.push(of_map.state == NodeState::Active);
            let Some(report) = report else {
                continue;
            };
            for (shard, lead) in &report.leads {
                if let Some(known) = self.leads.get_mut(slot(*shard)) {
                    let is_later = known.is_none_or(|(_, other)| other.term < lead.term);
                    if is_later {
                        *known = Some((node, lead));
                    }
                }
            }
            for (shard, hold) in &report.holds {
                if let Some(bytes) = self.bytes.get_mut(slot(*shard)) {
                    *bytes = hold.bytes.max(*bytes);
                }
                let replica = ReplicaId::new(node, hold.generation);
                let names = |of: &MapShard| {
                    of.replicas.contains(&replica)
                        || of.change.and_then(|change| change.add) == Some(replica)
                };
                if self.map.shard(*shard).is_some_and(|of| !names(of)) {
                    self.strays.push(*shard);
                }
            }
        }
        self.strays.sort_unstable();
        self.strays.dedup();
    }

    fn place(&mut self) {
        for (id, shard) in self.map.all_shards() {
            let wanted = shard.wanted();
            let places = wanted.iter().filter_map(|r| self.spread.at(r.node()));
            let places: Vec<usize> = places.collect();
            // The shard of the map is small, and leads nothing that counts.
            if id != ShardId::META {
                let bytes = self.bytes.get(slot(id)).copied().unwrap_or_default();
                for at in &places {
                    self.spread.with(*at, |spot| spot.load += weight(bytes));
                }
                if let Some(first) = places.first() {
                    self.spread.with(*first, |spot| spot.prefers += 1);
                }
            }
            if let Some(change) = shard.change {
                self.moves += 1;
                let added = change.add.map(ReplicaId::node);
                let gone = change.remove.map(ReplicaId::node);
                let gone = gone.filter(|node| Some(*node) != added);
                for node in added.into_iter().chain(gone) {
                    if let Some(at) = self.spread.at(node) {
                        self.spread.with(at, |spot| spot.busy += 1);
                    }
                }
            }
            if let Some(placed) = self.placed.get_mut(slot(id)) {
                *placed = places;
            }
        }
    }

    /// What a node says, if it is up.
    pub(super) fn heard(&self, node: NodeId) -> Option<&'a NodeReport> {
        let at = self.spread.at(node)?;
        self.heard.get(at).copied().flatten()
    }

    /// What a node says, if it is up and its store is the one of the map.
    pub(super) fn trusted(&self, node: NodeId) -> Option<&'a NodeReport> {
        let at = self.spread.at(node)?;
        self.trusted.get(at).copied().flatten()
    }

    fn settled(&self, id: ShardId, shard: &MapShard) -> Option<usize> {
        if shard.change.is_some() {
            return None;
        }
        let (_, lead) = self.lead(id)?;
        let [voters] = lead.voters.as_slice() else {
            return None;
        };
        let is_shown = voters.len() == shard.replicas.len()
            && shard
                .replicas
                .iter()
                .all(|replica| voters.contains(replica));
        let is_quiet = lead.is_committed && lead.learners.is_empty();
        if !is_shown || !is_quiet || lead.at < shard.membership {
            return None;
        }
        let live = shard.replicas.iter().filter(|r| self.is_live(id, **r));
        let live = live.count();
        (2 * live > shard.replicas.len()).then_some(live)
    }

    pub(super) fn lead(&self, shard: ShardId) -> Option<(NodeId, &'a LeadReport)> {
        self.leads.get(slot(shard)).copied().flatten()
    }

    /// What its node says of a replica.
    pub(super) fn hold(&self, shard: ShardId, replica: ReplicaId) -> Option<&'a HoldReport> {
        let hold = self.trusted(replica.node())?.holds.get(&shard)?;
        (hold.generation == replica.generation()).then_some(hold)
    }

    pub(super) fn condition(&self, shard: ShardId, replica: ReplicaId) -> ReplicaHealth {
        if self.trusted(replica.node()).is_some() {
            let missing_ms = self.reports.missing_ms(shard, replica);
            let is_new = missing_ms.is_some_and(|missing| missing < self.limits.missing_ms);
            return match self.hold(shard, replica) {
                Some(hold) if !hold.is_down => ReplicaHealth::Live,
                // One report may be wrong.
                None if is_new => ReplicaHealth::Silent,
                _ => ReplicaHealth::Broken,
            };
        }
        match self.is_lost(replica.node()) {
            true => ReplicaHealth::Lost,
            false => ReplicaHealth::Silent,
        }
    }

    fn is_lost(&self, node: NodeId) -> bool {
        let after_ms = u64::from(self.map.settings.rebuild_after_s) * 1000;
        self.reports.silence_ms(node) >= after_ms
    }

    pub(super) fn is_live(&self, shard: ShardId, replica: ReplicaId) -> bool {
        self.condition(shard, replica) == ReplicaHealth::Live
    }

    /// Whether a change adds a replica on a node.
    pub(super) fn is_target(&self, node: NodeId) -> bool {
        self.map.all_shards().any(|(_, shard)| {
            let added = shard.change.and_then(|change| change.add);
            added.is_some_and(|add| add.node() == node)
        })
    }

    /// Whether a node is up, active and may be given replicas.
    pub(super) fn is_usable(&self, node: NodeId) -> bool {
        let at = self.spread.at(node);
        at.and_then(|at| self.spread.spots.get(at))
            .is_some_and(|spot| spot.is_usable)
    }
}

/// The nodes without their loads.
fn spread(map: &Map, reports: &Reports, limits: &PlanLimits) -> Spots {
    let mut zones: Vec<(&str, &str)> = map.live_nodes().map(|(_, node)| node.domain()).collect();
    zones.sort_unstable();
    zones.dedup();
    let device = |node: &NodeId| {
        let report = reports.nodes.get(node)?;
        let capacity = report.free_bytes.checked_add(report.used_bytes)?;
        (capacity > 0).then_some((capacity, report.free_bytes))
    };
    let known: Vec<u64> = map
        .live_nodes()
        .filter_map(|(id, _)| Some(device(&id)?.0))
        .collect();
    let sum: u128 = known.iter().map(|capacity| u128::from(*capacity)).sum();
    let mean = sum.checked_div(known.len() as u128);
    let mean = mean.map_or(CAPACITY_UNKNOWN, |mean| {
        u64::try_from(mean).unwrap_or(CAPACITY_UNKNOWN)
    });
    let spots = map.live_nodes().map(|(id, node)| {
        let (capacity, free) = device(&id).unwrap_or((mean, mean));
        let report = reports.nodes.get(&id);
        let is_its = report.is_some_and(|of| node.store == StoreId::ANY || node.store == of.store);
        Spot {
            node: id,
            zone: zones.binary_search(&node.domain()).unwrap_or_default(),
            is_usable: is_its
                && node.state == NodeState::Active
                && reports.silence_ms(id) < limits.up_ms
                && !reports.is_avoided(id),
            busy: 0,
            load: 0,
            capacity,
            free,
            prefers: 0,
        }
    });
    Spots::new(spots.collect(), map.settings.moves_per_node_max)
}
