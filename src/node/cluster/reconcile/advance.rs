//! The next step of each change that is under way, and of each shard whose group shows other members than the map.

use super::view::{PlanView, slot};
use super::{AskStep, Step, edits};
use crate::node::cluster::map::{Change, MapEdit, MapShard, NodeState};
use crate::node::cluster::planted::{PlanBug, has};
use crate::node::cluster::reports::LeadReport;
use corelith_wire::{NodeId, ReplicaId, ShardId};
use std::collections::BTreeSet;

pub(super) fn all(view: &PlanView<'_>, steps: &mut Vec<Step>) {
    for (id, shard) in view.map.all_shards() {
        let Some((leader, lead)) = view.lead(id) else {
            continue;
        };
        // The report is older than the map.
        if lead.at < shard.membership {
            continue;
        }
        if edits(steps) >= view.limits.edits_max {
            return;
        }
        match shard.change {
            Some(change) => steps.extend(step(view, id, shard, change, leader, lead)),
            None => steps.extend(settle(view, id, shard, leader, lead)),
        }
    }
}

/// A step for a shard without a change: what a change that was undone has left is removed, and members that the group
/// has against the map are shown by it.
fn settle(
    view: &PlanView<'_>,
    id: ShardId,
    shard: &MapShard,
    leader: NodeId,
    lead: &LeadReport,
) -> Option<Step> {
    let [voters] = lead.voters.as_slice() else {
        // A change was forgotten halfway: it ends as it was meant to.
        let voters = lead.voters.last()?.clone();
        return Some(ask(leader, id, AskStep::SetVoters { voters }));
    };
    if let Some(replica) = lead.learners.first() {
        let replica = *replica;
        return Some(ask(leader, id, AskStep::RemoveLearner { replica }));
    }
    // Nodes were removed together with their replicas, as those that are gone for good are.
    let is_removed = |voter: &ReplicaId| {
        let node = view.map.nodes.get(&voter.node());
        node.is_some_and(|node| node.state == NodeState::Removed)
    };
    let stay = voters.iter().copied().filter(|voter| !is_removed(voter));
    let stay: BTreeSet<ReplicaId> = stay.collect();
    if stay.len() < voters.len() {
        let is_change = lead.is_committed && !stay.is_empty();
        return is_change.then(|| ask(leader, id, AskStep::SetVoters { voters: stay }));
    }
    if !lead.is_committed || lead.at <= shard.membership {
        return None;
    }
    // A replica that is in no membership any more is dropped once the map says so.
    let is_stray = view.strays.binary_search(&id).is_ok();
    let is_shown = is_set(&shard.replicas, voters);
    match is_stray || !is_shown {
        true => show(view, id, shard, voters, lead),
        false => None,
    }
}

/// The map shows the voters, in an order that keeps the preferred leader; unless they are none that it can show.
fn show(
    view: &PlanView<'_>,
    id: ShardId,
    shard: &MapShard,
    voters: &BTreeSet<ReplicaId>,
    lead: &LeadReport,
) -> Option<Step> {
    let mut replicas = shard.wanted();
    replicas.retain(|replica| voters.contains(replica));
    let known = replicas.len();
    let others = voters.iter().filter(|voter| !replicas.contains(voter));
    let others: Vec<ReplicaId> = others.copied().collect();
    replicas.extend(others);
    assert!(
        replicas.len() == voters.len() && known <= voters.len(),
        "each voter is shown once"
    );
    let shown = MapShard {
        replicas: replicas.clone(),
        change: None,
        ..shard.clone()
    };
    view.map.check_shard(&shown).ok()?;
    Some(Step::Edit(MapEdit::End {
        shard: id,
        replicas,
        membership: lead.at,
    }))
}

fn is_set(replicas: &[ReplicaId], voters: &BTreeSet<ReplicaId>) -> bool {
    replicas.len() == voters.len() && replicas.iter().all(|replica| voters.contains(replica))
}

fn ask(at: NodeId, shard: ShardId, step: AskStep) -> Step {
    Step::Ask { at, shard, step }
}

fn step(
    view: &PlanView<'_>,
    id: ShardId,
    shard: &MapShard,
    change: Change,
    leader: NodeId,
    lead: &LeadReport,
) -> Option<Step> {
    let wanted = shard.wanted();
    let [voters] = lead.voters.as_slice() else {
        // It has begun, so it is finished, whatever has become of its target.
        let voters = lead.voters.last()?.clone();
        return Some(ask(leader, id, AskStep::SetVoters { voters }));
    };
    if is_set(&wanted, voters) || !is_set(&shard.replicas, voters) {
        return match lead.is_committed {
            true => show(view, id, shard, voters, lead),
            false => None,
        };
    }
    let stray = lead
        .learners
        .iter()
        .find(|learner| Some(**learner) != change.add);
    if let Some(replica) = stray {
        let replica = *replica;
        return Some(ask(leader, id, AskStep::RemoveLearner { replica }));
    }
    if let Some(add) = change.add {
        if has_failed(view, id, add) && !has(PlanBug::NeverUndone) {
            return undo(id, add, leader, lead);
        }
        if let Some(waits) = bring(view, id, add, leader, lead) {
            return waits;
        }
    }
    promote(view, id, shard, change, leader, lead)
}

/// Whether the replica that comes will not come.
fn has_failed(view: &PlanView<'_>, id: ShardId, add: ReplicaId) -> bool {
    let node = add.node();
    let state = view.map.node(node).map(|node| node.state);
    let is_stalled = view.reports.watch(id).is_some_and(|watch| {
        let still = view.reports.now.saturating_sub(watch.risen_ms);
        still >= view.limits.stall_ms
    });
    let is_other_store = view.heard(node).is_some() && view.trusted(node).is_none();
    let is_down = view.hold(id, add).is_some_and(|hold| hold.is_down);
    state != Some(NodeState::Active)
        || view.reports.silence_ms(node) >= view.limits.target_dead_ms
        || is_stalled
        || is_other_store
        || is_down
}

fn undo(id: ShardId, add: ReplicaId, leader: NodeId, lead: &LeadReport) -> Option<Step> {
    assert!(
        lead.voters.len() == 1,
        "a change of {id} whose voters change is finished"
    );
    if lead.learners.contains(&add) {
        let step = AskStep::RemoveLearner { replica: add };
        return Some(ask(leader, id, step));
    }
    lead.is_committed.then_some(Step::Edit(MapEdit::Undo {
        shard: id,
        membership: lead.at,
    }))
}

/// Opens the replica that comes and lets it catch up; `None` once it has.
fn bring(
    view: &PlanView<'_>,
    id: ShardId,
    add: ReplicaId,
    leader: NodeId,
    lead: &LeadReport,
) -> Option<Option<Step>> {
    let node = add.node();
    if view.hold(id, add).is_none() {
        let is_up = view.trusted(node).is_some();
        let step = AskStep::Open { replica: add };
        return Some(is_up.then(|| ask(node, id, step)));
    }
    if !lead.learners.contains(&add) {
        let store = view.trusted(node).map(|report| report.store);
        let step = |store| AskStep::AddLearner {
            replica: add,
            store,
        };
        return Some(store.map(|store| ask(leader, id, step(store))));
    }
    match has_caught_up(view, add, lead) {
        true => None,
        false => Some(None),
    }
}

fn has_caught_up(view: &PlanView<'_>, add: ReplicaId, lead: &LeadReport) -> bool {
    let matching = lead.matching.get(&add).copied().unwrap_or_default();
    matching.0 > 0 && matching.0.saturating_add(view.limits.lag_entries_max) >= lead.last.0
}

/// Hands the lead on if the leader goes, and makes the wanted ones the voters.
fn promote(
    view: &PlanView<'_>,
    id: ShardId,
    shard: &MapShard,
    change: Change,
    leader: NodeId,
    lead: &LeadReport,
) -> Option<Step> {
    let wanted = shard.wanted();
    let live = |replicas: &[ReplicaId]| {
        let live = replicas.iter().filter(|r| view.is_live(id, **r));
        live.count()
    };
    let (before, after) = (live(&shard.replicas), live(&wanted));
    let is_safe = 2 * after > wanted.len() && (after >= before || change.add.is_none());
    if !is_safe || !lead.is_committed {
        return None;
    }
    let leads = change.remove.is_some_and(|remove| remove.node() == leader);
    let others = shard
        .replicas
        .iter()
        .filter(|replica| Some(**replica) != change.remove && view.is_live(id, **replica));
    let prefers = |replica: &ReplicaId| {
        let at = view.spread.at(replica.node());
        let spot = at.and_then(|at| view.spread.spots.get(at));
        spot.map_or(u32::MAX, |spot| spot.prefers)
    };
    // Where none is left to lead, the leader steps down once the voters have changed.
    if let Some(next) = others.min_by_key(|r| prefers(r)).filter(|_| leads) {
        let to = next.node();
        return Some(ask(leader, id, AskStep::Lead { to }));
    }
    let voters = wanted.into_iter().collect();
    Some(ask(leader, id, AskStep::SetVoters { voters }))
}

/// What a change waits for.
pub(super) fn phase(view: &PlanView<'_>, id: ShardId) -> &'static str {
    let shard = view.map.shard(id);
    let Some((shard, change)) = shard.and_then(|shard| Some((shard, shard.change?))) else {
        return "done";
    };
    debug_assert!(slot(id) < view.placed.len(), "the map has it");
    let Some((_, lead)) = view
        .lead(id)
        .filter(|(_, lead)| lead.at >= shard.membership)
    else {
        return "waits for a leader";
    };
    match change.add {
        _ if lead.voters.len() > 1 => "changing voters",
        Some(add) if has_failed(view, id, add) => "giving up",
        Some(add) if view.hold(id, add).is_none() => "opening",
        Some(add) if !lead.learners.contains(&add) => "joining",
        Some(add) if !has_caught_up(view, add, lead) => "copying",
        _ => "changing voters",
    }
}
