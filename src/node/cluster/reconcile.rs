//! The next steps from the cluster as it is to the cluster as the map and its settings want it. Pure: the same map and
//! reports give the same steps, and whoever leads the shard of the map takes them, again and again, until there are
//! none.
//!
//! A change of a shard's members goes through these steps, each taken when reports show that the one before is done:
//!
//! ```text
//! Begin      the map names the replica that comes, under a fresh generation
//! Open       its node opens it
//! AddLearner the leader sends it log and files
//! Lead       the leader hands on if it is the one that goes
//! SetVoters  joint consensus to the voters that are wanted
//! End        the map shows them
//! ```
//! A change is undone, by RemoveLearner and Undo, if the replica that comes fails or gets on no more before SetVoters
//! has begun. From then on it is only finished.
//!
//! Invariants:
//! * A shard has one change at a time, and there are at most `moves_max` in the cluster; a node takes part in at most
//!   `moves_per_node_max`, the loss of its own replicas after it is lost aside.
//! * Steps may be taken twice, late, or not at all: reports that show less than the map are waited out.
//! * Voters change only to a set whose live ones are a majority of it, and no fewer than before unless the shard is
//!   to have fewer replicas.

mod advance;
mod begin;
#[cfg(test)]
mod tests;
mod view;

use crate::node::cluster::map::{Map, MapEdit, NodeState, Rejoin};
use crate::node::cluster::reports::Reports;
use corelith_wire::{NodeId, ReplicaId, ShardId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use view::PlanView;

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the map. All edits of one plan fit in one write.
    Edit(MapEdit),
    /// Ask a node for something about a shard.
    Ask {
        /// The node: the target of an `Open`, else the shard's leader.
        at: NodeId,
        /// The shard.
        shard: ShardId,
        /// What.
        step: AskStep,
    },
}

/// What a node is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskStep {
    /// Open this replica, empty, in the place of any older one.
    Open {
        /// The replica.
        replica: ReplicaId,
    },
    /// Send a replica log and files.
    AddLearner {
        /// The replica.
        replica: ReplicaId,
        /// Its store.
        store: StoreId,
    },
    /// Make these the voters, and finish a joint membership.
    SetVoters {
        /// All of them.
        voters: BTreeSet<ReplicaId>,
    },
    /// Send a replica nothing more.
    RemoveLearner {
        /// The replica.
        replica: ReplicaId,
    },
    /// Hand the lead on.
    Lead {
        /// The node that is to lead.
        to: NodeId,
    },
}

/// Times and numbers of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// A node that was heard within this time is up.
    pub up_ms: u64,
    /// A replica that its node, which is heard, does not name for this time is gone.
    pub missing_ms: u64,
    /// A change whose target was not heard for this time is undone.
    pub target_dead_ms: u64,
    /// A change that got on no further for this time is undone.
    pub stall_ms: u64,
    /// A replica that lacks at most so many entries may vote.
    pub lag_entries_max: u64,
    /// Leads that are on their way to the node that is preferred.
    pub leads_max: usize,
    /// Edits of one plan.
    pub edits_max: usize,
}

impl Default for PlanLimits {
    fn default() -> Self {
        Self {
            up_ms: 10_000,
            missing_ms: 10_000,
            target_dead_ms: 60_000,
            stall_ms: 600_000,
            lag_entries_max: 1_000,
            leads_max: 16,
            edits_max: 256,
        }
    }
}

/// The next steps.
pub fn next(map: &Map, reports: &Reports, limits: &PlanLimits) -> Vec<Step> {
    let mut view = PlanView::new(map, reports, limits);
    let mut steps = Vec::new();
    take_stores(&view, &mut steps);
    advance::all(&view, &mut steps);
    begin::all(&mut view, &mut steps);
    begin::leads(&mut view, &mut steps);
    steps
}

/// What each change waits for, in a few words.
pub fn phases(
    map: &Map,
    reports: &Reports,
    limits: &PlanLimits,
) -> BTreeMap<ShardId, &'static str> {
    let view = PlanView::new(map, reports, limits);
    let changing = map.all_shards().filter(|(_, shard)| shard.change.is_some());
    changing
        .map(|(id, _)| (id, advance::phase(&view, id)))
        .collect()
}

/// The stores that come as nodes of the map: the first of a node that had none, and an empty one in the place of
/// another.
fn take_stores(view: &PlanView<'_>, steps: &mut Vec<Step>) {
    for (node, of_map) in view.map.live_nodes() {
        let Some(report) = view.heard(node) else {
            continue;
        };
        let is_known = |store| view.map.live_nodes().any(|(_, other)| other.store == store);
        let is_rejoin = view.map.settings.rejoin == Rejoin::Auto
            && of_map.state == NodeState::Active
            && report.holds.is_empty()
            && !view.is_target(node);
        let is_taken = match of_map.store {
            StoreId::ANY => false,
            StoreId::UNCLAIMED => true,
            store => store != report.store && is_rejoin,
        };
        if is_taken && report.store != StoreId::UNCLAIMED && !is_known(report.store) {
            let store = report.store;
            steps.push(Step::Edit(MapEdit::Store { node, store }));
        }
    }
}

fn edits(steps: &[Step]) -> usize {
    let edits = steps.iter().filter(|step| matches!(step, Step::Edit(_)));
    edits.count()
}
