//! Which changes begin: what is lost first, then what is missing, what is to go, and at last what is out of balance.

use super::view::{PlanView, ReplicaHealth, shard_of, slot};
use super::{Step, edits};
use crate::node::cluster::map::{MapEdit, MapShard, NodeState, Why, meta_replicas};
use crate::node::cluster::planted::{PlanBug, has};
use crate::node::cluster::spread::weight;
use corelith_wire::{ReplicaId, ShardId};
use std::collections::BTreeSet;

/// Needs of one sort that are looked at in vain before a plan leaves the others of that sort.
const TRIES_MAX: usize = 64;
/// Moves for balance that one plan begins.
const SHIFTS_MAX: u32 = 8;

/// What a shard needs. The first is the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// A replica is lost.
    Lost(ReplicaId),
    /// A replica is to be made anew where it is.
    Broken(ReplicaId),
    /// It has too few.
    Fewer,
    /// It has too many.
    More,
    /// A replica's node is drained.
    Drained(ReplicaId),
    /// Two are in one zone, and another zone has none.
    Crowded(ReplicaId),
}

/// A shard in need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct NeedyShard {
    rank: u8,
    /// Live voters beyond a majority.
    spare: usize,
    slot: usize,
    need: Need,
}

pub(super) fn all(view: &mut PlanView<'_>, steps: &mut Vec<Step>) {
    let slots = view.placed.len();
    let mut is_movable = vec![false; slots];
    let mut candidates = Vec::new();
    let active = view.map.live_nodes();
    let active = active.filter(|(_, node)| node.state == NodeState::Active);
    let active = active.count();
    for (id, shard) in view.map.all_shards() {
        let Some(live) = view.settled.get(slot(id)).copied().flatten() else {
            continue;
        };
        let needs = needs(view, id, shard, live, active);
        if let (true, Some(movable)) = (needs.is_empty(), is_movable.get_mut(slot(id))) {
            *movable = live == shard.replicas.len();
        }
        candidates.extend(needs.into_iter().map(|need| NeedyShard {
            rank: rank(need),
            spare: live - (shard.replicas.len() / 2 + 1),
            slot: slot(id),
            need,
        }));
    }
    candidates.sort_unstable();
    let before = steps.len();
    let mut tries = [0; SORTS];
    let mut begun = BTreeSet::new();
    for candidate in candidates {
        if is_full(view, steps) {
            break;
        }
        let Some(tries) = tries.get_mut(sort(candidate.need)) else {
            continue;
        };
        // A shard with several needs gets what can be done for it.
        if *tries >= TRIES_MAX || begun.contains(&candidate.slot) {
            continue;
        }
        match edit_for(view, &candidate) {
            Some(edit) => {
                begun.insert(candidate.slot);
                steps.push(begin(view, candidate.slot, edit));
            }
            None => *tries += 1,
        }
    }
    if steps.len() == before && view.map.settings.balance {
        shifts(view, &mut is_movable, steps);
    }
}

/// Sorts of needs.
const SORTS: usize = 6;

fn sort(need: Need) -> usize {
    match need {
        Need::Lost(_) => 0,
        Need::Broken(_) => 1,
        Need::Fewer => 2,
        Need::More => 3,
        Need::Drained(_) => 4,
        Need::Crowded(_) => 5,
    }
}

fn rank(need: Need) -> u8 {
    match need {
        Need::Lost(_) | Need::Broken(_) => 0,
        Need::Fewer => 1,
        Need::More | Need::Drained(_) => 2,
        Need::Crowded(_) => 3,
    }
}

fn is_full(view: &PlanView<'_>, steps: &[Step]) -> bool {
    let is_bounded = !has(PlanBug::MovesUnbounded);
    (is_bounded && view.moves >= view.map.settings.moves_max)
        || edits(steps) >= view.limits.edits_max
}

fn needs(
    view: &PlanView<'_>,
    id: ShardId,
    shard: &MapShard,
    live: usize,
    active: usize,
) -> Vec<Need> {
    let wanted = match id {
        ShardId::META => meta_replicas(active),
        _ => (view.map.settings.replicas as usize).min(active),
    };
    if shard.replicas.len() > wanted.max(1) {
        return vec![Need::More];
    }
    let placed = view.placed.get(slot(id)).map_or(&[][..], Vec::as_slice);
    let is_active = |at: usize| view.is_active.get(at) == Some(&true);
    let mut needs = Vec::new();
    if live < shard.replicas.len() || !placed.iter().all(|at| is_active(*at)) {
        needs.extend(shard.replicas.iter().filter_map(|replica| {
            let is_active = view.spread.at(replica.node()).is_some_and(is_active);
            match view.condition(id, *replica) {
                ReplicaHealth::Lost => Some(Need::Lost(*replica)),
                ReplicaHealth::Broken if is_active => Some(Need::Broken(*replica)),
                _ if !is_active => Some(Need::Drained(*replica)),
                _ => None,
            }
        }));
    }
    if shard.replicas.len() < wanted {
        needs.push(Need::Fewer);
    }
    if needs.is_empty() && live == shard.replicas.len() {
        let crowded = view.spread.crowded(placed);
        let spot = crowded.and_then(|at| view.spread.spots.get(at));
        let replica = spot.and_then(|spot| shard.on(spot.node));
        needs.extend(replica.map(Need::Crowded));
    }
    needs
}

/// A change of a shard that begins.
#[derive(Clone, Copy)]
struct Beginning {
    add: Option<usize>,
    remove: Option<usize>,
    replica: Option<ReplicaId>,
    why: Why,
}

fn edit_for(view: &PlanView<'_>, candidate: &NeedyShard) -> Option<Beginning> {
    let placed = view.placed.get(candidate.slot)?;
    let bytes = view.bytes.get(candidate.slot).copied().unwrap_or_default();
    let spread = &view.spread;
    let elsewhere = |replica: ReplicaId, why| {
        let from = spread.at(replica.node())?;
        let others: Vec<usize> = placed.iter().filter(|at| **at != from).copied().collect();
        let add = spread.target(&others, Some(from), bytes)?;
        Some(Beginning {
            add: Some(add),
            remove: Some(from),
            replica: Some(replica),
            why,
        })
    };
    match candidate.need {
        Need::Lost(replica) => elsewhere(replica, Why::Rebuild),
        Need::Broken(replica) => {
            let at = spread.at(replica.node())?;
            let is_usable = view.is_usable(replica.node()) && spread.is_idle(at);
            is_usable.then_some(Beginning {
                add: Some(at),
                remove: Some(at),
                replica: Some(replica),
                why: Why::Rebuild,
            })
        }
        Need::Fewer => Some(Beginning {
            add: Some(spread.target(placed, None, bytes)?),
            remove: None,
            replica: None,
            why: Why::Operator,
        }),
        Need::More => {
            let at = spread.surplus(placed).filter(|at| spread.is_idle(*at))?;
            let node = spread.spots.get(at)?.node;
            let shard = view.map.shard(shard_of(candidate.slot))?;
            Some(Beginning {
                add: None,
                remove: Some(at),
                replica: Some(shard.on(node)?),
                why: Why::Operator,
            })
        }
        Need::Drained(replica) => {
            let at = spread.at(replica.node())?;
            elsewhere(replica, Why::Drain).filter(|_| spread.is_idle(at))
        }
        Need::Crowded(replica) => {
            let at = spread.at(replica.node())?;
            let found = elsewhere(replica, Why::Move).filter(|_| spread.is_idle(at))?;
            // Its own zone may have the only node with room now.
            let others = placed.iter().filter(|other| **other != at);
            let zone = |at: usize| spread.spots.get(at).map(|spot| spot.zone);
            let to = found.add.and_then(zone);
            let count = |of| others.clone().filter(|other| zone(**other) == of).count();
            (count(to) < count(zone(at))).then_some(found)
        }
    }
}

/// Begins a change, and counts with it from now on.
fn begin(view: &mut PlanView<'_>, slot: usize, beginning: Beginning) -> Step {
    let Beginning {
        add,
        remove,
        replica,
        why,
    } = beginning;
    let shard = shard_of(slot);
    assert!(
        add.is_some() || remove.is_some(),
        "a change of {shard} changes something"
    );
    let bytes = view.bytes.get(slot).copied().unwrap_or_default();
    let load = match shard {
        ShardId::META => 0,
        _ => weight(bytes),
    };
    let placed = view.placed.get_mut(slot);
    assert!(
        add == remove || add.is_none_or(|add| placed.as_ref().is_none_or(|of| !of.contains(&add))),
        "a replica of {shard} goes to a node that has none"
    );
    let is_first = placed.as_ref().and_then(|placed| placed.first()).copied() == remove;
    let leads = u32::from(is_first && shard != ShardId::META && remove.is_some());
    if let Some(placed) = placed {
        match (placed.iter_mut().find(|at| Some(**at) == remove), add) {
            (Some(place), Some(add)) => *place = add,
            (Some(_), None) => placed.retain(|at| Some(*at) != remove),
            (None, add) => placed.extend(add),
        }
    }
    if let Some(from) = remove {
        view.spread.with(from, |spot| {
            spot.busy += u32::from(add != remove);
            spot.load = spot.load.saturating_sub(load);
            spot.prefers = spot.prefers.saturating_sub(leads);
        });
    }
    if let Some(to) = add {
        assert!(view.spread.is_idle(to), "a node with room for a change");
        view.spread.with(to, |spot| {
            spot.busy += 1;
            spot.load += load;
            spot.prefers += leads;
        });
    }
    view.moves += 1;
    assert!(
        view.moves <= view.map.settings.moves_max || has(PlanBug::MovesUnbounded),
        "{} changes at once",
        view.moves
    );
    let node = add.and_then(|at| view.spread.spots.get(at));
    Step::Edit(MapEdit::Begin {
        shard,
        add: node.map(|spot| spot.node),
        remove: replica,
        why,
    })
}

/// Moves that even loads out.
fn shifts(view: &mut PlanView<'_>, is_movable: &mut [bool], steps: &mut Vec<Step>) {
    let mut of_node: Vec<Vec<usize>> = vec![Vec::new(); view.spread.spots.len()];
    // The shard of the map weighs nothing.
    for (slot, placed) in view.placed.iter().enumerate().skip(1) {
        for at in placed {
            if let Some(slots) = of_node.get_mut(*at) {
                slots.push(slot);
            }
        }
    }
    for _ in 0..SHIFTS_MAX {
        if is_full(view, steps) {
            return;
        }
        let movable = |at: usize| {
            let slots = of_node.get(at).into_iter().flatten();
            let slots = slots.filter(|slot| is_movable.get(**slot) == Some(&true));
            let shards = slots.filter_map(|slot| {
                let bytes = view.bytes.get(*slot)?;
                Some((*slot, *bytes, view.placed.get(*slot)?.as_slice()))
            });
            shards.collect()
        };
        let Some(shift) = view.spread.shift(movable) else {
            return;
        };
        let node = view.spread.spots.get(shift.from).map(|spot| spot.node);
        let shard = view.map.shard(shard_of(shift.shard));
        let replica = shard.and_then(|shard| shard.on(node?));
        if let Some(movable) = is_movable.get_mut(shift.shard) {
            *movable = false;
        }
        let beginning = Beginning {
            add: Some(shift.to),
            remove: Some(shift.from),
            replica,
            why: Why::Move,
        };
        if replica.is_some() {
            steps.push(begin(view, shift.shard, beginning));
        }
    }
}

/// Leads go to nodes that stay, and evenly. Only the map's preference changes: groups follow it.
pub(super) fn leads(view: &mut PlanView<'_>, steps: &mut Vec<Step>) {
    let mut room = view.limits.leads_max;
    let mut fixed: Vec<bool> = Vec::with_capacity(view.placed.len());
    for (id, shard) in view.map.all_shards() {
        let is_settled = view.settled.get(slot(id)).copied().flatten().is_some();
        let is_quiet = id != ShardId::META && is_settled;
        // A change may have begun above.
        let is_as_shown = view.placed.get(slot(id)).is_some_and(|placed| {
            let nodes = shard.replicas.iter().map(|r| view.spread.at(r.node()));
            nodes.eq(placed.iter().copied().map(Some))
        });
        fixed.push(!is_quiet || !is_as_shown);
        let preferred = shard.replicas.first().map(|replica| replica.node());
        let leader = view.lead(id).map(|(node, _)| node);
        let is_on_its_way = preferred.is_some_and(|node| view.is_usable(node))
            && leader.is_some()
            && leader != preferred;
        room = room.saturating_sub(usize::from(is_quiet && is_on_its_way));
    }
    for at in 0..view.placed.len() {
        if room == 0 {
            return;
        }
        if fixed.get(at) == Some(&false) && hand_off(view, at, steps) {
            room -= 1;
        }
    }
    while room > 0 && view.map.settings.balance && edits(steps) < view.limits.edits_max {
        let shards = view.placed.iter().zip(&fixed);
        let shards: Vec<&[usize]> = shards
            .map(|(placed, fixed)| if *fixed { &[] } else { placed.as_slice() })
            .collect();
        let chain = view.spread.lead_chain(&shards);
        if chain.is_empty() {
            return;
        }
        for (slot, to) in chain {
            steps.extend(prefer(view, slot, to));
            room = room.saturating_sub(1);
            if let Some(fixed) = fixed.get_mut(slot) {
                *fixed = true;
            }
        }
    }
}

/// Prefers another leader than one on a node that is to go.
fn hand_off(view: &mut PlanView<'_>, slot: usize, steps: &mut Vec<Step>) -> bool {
    let placed = view.placed.get(slot).map_or(&[][..], Vec::as_slice);
    let spot = |at: &usize| view.spread.spots.get(*at);
    let first = placed.first().and_then(spot);
    let goes = first.is_some_and(|first| {
        let node = view.map.node(first.node);
        node.is_some_and(|node| node.state == NodeState::Draining)
    });
    if !goes {
        return false;
    }
    let others = placed.iter().skip(1);
    let others = others.filter(|at| spot(at).is_some_and(|spot| spot.is_usable));
    let best = others.min_by_key(|at| spot(at).map(|spot| (spot.prefers, spot.node)));
    let Some(to) = best.copied() else {
        return false;
    };
    steps.extend(prefer(view, slot, to));
    true
}

fn prefer(view: &mut PlanView<'_>, slot: usize, to: usize) -> Option<Step> {
    let placed = view.placed.get_mut(slot)?;
    let place = placed.iter().position(|at| *at == to)?;
    let from = *placed.first()?;
    placed.get_mut(..=place)?.rotate_right(1);
    view.spread
        .with(from, |spot| spot.prefers = spot.prefers.saturating_sub(1));
    view.spread.with(to, |spot| spot.prefers += 1);
    let leader = view.spread.spots.get(to)?.node;
    let shard = shard_of(slot);
    assert!(shard != ShardId::META, "nobody is preferred for the map");
    Some(Step::Edit(MapEdit::Prefer { shard, leader }))
}
