//! What an operator orders, against the map: the edits that it takes, or why it is refused. Pure.

mod settings;
#[cfg(test)]
mod tests;

pub use settings::{setting_names, settings_shown};

use crate::node::cluster::map::{Map, MapEdit, MapNode, MapShard, NodeState, Why};
use crate::node::cluster::reports::Reports;
use crate::node::limits;
use corelith_wire::cluster::{ClusterAnswer, ClusterAsk, ClusterOrder};
use corelith_wire::{NodeId, ReplicaId, ShardId, StoreId};
use std::collections::BTreeSet;

/// Shards that a sentence names.
const NAMED_MAX: usize = 8;

/// What an order takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The edits, in one write; none if everything is as ordered.
    pub edits: Vec<MapEdit>,
    /// What will be done, in lines for people.
    pub lines: Vec<String>,
}

/// Why an order is refused, and what to do instead: a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OrderRefusal(pub String);

fn refuse<T>(why: impl Into<String>) -> Result<T, OrderRefusal> {
    Err(OrderRefusal(why.into()))
}

/// The edits that an order takes, and the answer once they are written. A dry run takes none. `None` for a question
/// about the state, which the map alone does not answer.
pub fn answer(map: &Map, ask: &ClusterAsk) -> Option<(Vec<MapEdit>, ClusterAnswer)> {
    if ask.order == ClusterOrder::Status {
        return None;
    }
    let answer = match decide(map, &ask.order) {
        Ok(Decision { lines, .. }) if ask.dry_run => (Vec::new(), ClusterAnswer::Planned { lines }),
        Ok(Decision { edits, lines }) => (edits, ClusterAnswer::Done { lines }),
        Err(OrderRefusal(why)) => (Vec::new(), ClusterAnswer::Refused { why }),
    };
    Some(answer)
}

/// The edits that an order takes.
///
/// # Errors
/// Why it is refused.
pub fn decide(map: &Map, order: &ClusterOrder) -> Result<Decision, OrderRefusal> {
    let decision = match order {
        ClusterOrder::Status => Decision::default(),
        ClusterOrder::Drain { node } => drain(map, NodeId(*node))?,
        ClusterOrder::Undrain { node } => undrain(map, NodeId(*node))?,
        ClusterOrder::Remove { node } => remove(map, NodeId(*node))?,
        ClusterOrder::Replace { old, new } => replace(map, NodeId(*old), NodeId(*new))?,
        ClusterOrder::Set { key, value } => settings::set(map, key, value)?,
        ClusterOrder::MoveShard { shard, from, to } => {
            move_shard(map, ShardId(*shard), NodeId(*from), NodeId(*to))?
        }
        ClusterOrder::LeadShard { shard, to } => lead(map, ShardId(*shard), NodeId(*to))?,
        ClusterOrder::Rejoin { node, store } => rejoin(map, NodeId(*node), StoreId(*store))?,
        ClusterOrder::Recover { lost } => recover(map, lost)?,
    };
    assert!(
        !decision.lines.is_empty() || decision.edits.is_empty(),
        "an operator is told of every edit"
    );
    // What fits by itself may not fit together: what the map refuses, the order is refused for.
    match map.apply_all(&decision.edits) {
        Ok(_) => Ok(decision),
        Err(error) => refuse(format!("that is not possible: {error}")),
    }
}

fn one(edit: MapEdit, line: String) -> Decision {
    Decision {
        edits: vec![edit],
        lines: vec![line],
    }
}

fn nothing(line: String) -> Decision {
    Decision {
        edits: Vec::new(),
        lines: vec![line],
    }
}

fn known(map: &Map, node: NodeId) -> Result<&MapNode, OrderRefusal> {
    if let Some(found) = map.node(node) {
        return Ok(found);
    }
    if map.nodes.contains_key(&node) {
        return refuse(format!(
            "node {} was removed and does not come back under its id: empty its data directory and let it join anew",
            node.0
        ));
    }
    let ids: Vec<String> = map.live_nodes().map(|(id, _)| id.0.to_string()).collect();
    refuse(format!(
        "there is no node {}; the cluster has {}",
        node.0,
        ids.join(", ")
    ))
}

fn shard_named(shard: ShardId) -> String {
    match shard {
        ShardId::META => "the shard of the map".to_owned(),
        ShardId(shard) => format!("shard {shard}"),
    }
}

fn known_shard(map: &Map, id: ShardId) -> Result<&MapShard, OrderRefusal> {
    match map.shard(id) {
        Some(shard) => Ok(shard),
        None => refuse(format!(
            "there is no shard {}; the cluster has 0 to {}",
            id.0,
            map.shards.len().saturating_sub(1)
        )),
    }
}

/// Refuses to do without a node if too few would be left for all replicas.
fn can_spare(map: &Map, node: NodeId, what: &str) -> Result<(), OrderRefusal> {
    let active = map
        .live_nodes()
        .filter(|(id, other)| *id != node && other.state == NodeState::Active);
    let (left, replicas) = (active.count(), map.settings.replicas as usize);
    if left >= replicas {
        return Ok(());
    }
    let fewer = match left {
        0 => String::new(),
        left => format!(", or have fewer replicas first (corelith cluster set replicas {left})"),
    };
    refuse(format!(
        "node {} cannot be {what}: {left} {} would be left for {replicas} replicas of each shard; add a node \
         first{fewer}",
        node.0,
        if left == 1 { "node" } else { "nodes" },
    ))
}

fn drain(map: &Map, node: NodeId) -> Result<Decision, OrderRefusal> {
    if known(map, node)?.state == NodeState::Draining {
        return Ok(nothing(format!("node {} is drained already", node.0)));
    }
    can_spare(map, node, "drained")?;
    let state = NodeState::Draining;
    Ok(one(MapEdit::State { node, state }, goes(map, node)))
}

fn goes(map: &Map, node: NodeId) -> String {
    let shards = map.shards_on(node).count();
    let leads = map.shards.iter().filter(|shard| {
        let first = shard.replicas.first();
        first.is_some_and(|first| first.node() == node)
    });
    format!(
        "node {} is drained: its replicas of {shards} shards go to other nodes, and {} leads",
        node.0,
        leads.count()
    )
}

fn undrain(map: &Map, node: NodeId) -> Result<Decision, OrderRefusal> {
    if known(map, node)?.state == NodeState::Active {
        return Ok(nothing(format!("node {} is not drained", node.0)));
    }
    let state = NodeState::Active;
    Ok(one(
        MapEdit::State { node, state },
        format!("node {} gets replicas again", node.0),
    ))
}

fn is_removed(map: &Map, node: NodeId) -> bool {
    map.nodes.contains_key(&node) && map.node(node).is_none()
}

fn remove(map: &Map, node: NodeId) -> Result<Decision, OrderRefusal> {
    if is_removed(map, node) {
        return Ok(nothing(format!("node {} is removed already", node.0)));
    }
    let state = known(map, node)?.state;
    let held = map.shards_on(node).count();
    if held > 0 {
        return refuse(format!(
            "node {0} still has replicas of {held} shards: drain it first (corelith cluster drain {0} --wait)",
            node.0
        ));
    }
    if state == NodeState::Active {
        can_spare(map, node, "removed")?;
    }
    let state = NodeState::Removed;
    Ok(one(
        MapEdit::State { node, state },
        format!(
            "node {} is removed: it can be stopped, and its id is not given again",
            node.0
        ),
    ))
}

fn replace(map: &Map, old: NodeId, new: NodeId) -> Result<Decision, OrderRefusal> {
    if old == new {
        return refuse(format!(
            "node {} cannot replace itself: start it on its new disk, and it is made whole again by itself",
            old.0
        ));
    }
    if is_removed(map, old) {
        known(map, new)?;
        return Ok(nothing(format!("node {} is removed already", old.0)));
    }
    let (goes_out, comes) = (known(map, old)?, known(map, new)?);
    if comes.state != NodeState::Active {
        return refuse(format!("node {} is drained itself", new.0));
    }
    let mut decision = drain(map, old)?;
    let line = match goes_out.domain() == comes.domain() {
        true => format!(
            "node {} is in its zone, and gets most of them if it is empty",
            new.0
        ),
        false => format!(
            "node {} is in another zone: zones come first where replicas go",
            new.0
        ),
    };
    decision.lines.push(line);
    Ok(decision)
}

fn move_shard(map: &Map, id: ShardId, from: NodeId, to: NodeId) -> Result<Decision, OrderRefusal> {
    let shard = known_shard(map, id)?;
    let name = shard_named(id);
    known(map, from)?;
    let target = known(map, to)?;
    let Some(remove) = shard.on(from) else {
        return refuse(format!(
            "node {} has no replica of {name}; {} have",
            from.0,
            nodes_of(&shard.replicas)
        ));
    };
    if shard.on(to).is_some() {
        return refuse(format!("node {} has a replica of {name} already", to.0));
    }
    if target.state != NodeState::Active {
        return refuse(format!("node {} is drained and gets no replicas", to.0));
    }
    if shard.change.is_some() {
        return refuse(format!("{name} is being moved: wait until that is done"));
    }
    let under_way = map.all_shards().filter(|(_, of)| of.change.is_some());
    if under_way.count() >= map.settings.moves_max as usize {
        return refuse(format!(
            "{} moves are under way, as many as moves_max allows: wait, or raise it",
            map.settings.moves_max
        ));
    }
    let mut decision = one(
        MapEdit::Begin {
            shard: id,
            add: Some(to),
            remove: Some(remove),
            why: Why::Operator,
        },
        format!("{name} moves from node {} to node {}", from.0, to.0),
    );
    if map.settings.balance {
        let line = "balance is on: what makes nodes uneven is moved back (corelith cluster set balance off)";
        decision.lines.push(line.to_owned());
    }
    Ok(decision)
}

fn nodes_of(replicas: &[ReplicaId]) -> String {
    let nodes: Vec<String> = replicas.iter().map(|r| r.node().0.to_string()).collect();
    nodes.join(", ")
}

fn lead(map: &Map, id: ShardId, to: NodeId) -> Result<Decision, OrderRefusal> {
    let shard = known_shard(map, id)?;
    let name = shard_named(id);
    known(map, to)?;
    if shard.on(to).is_none() {
        return refuse(format!(
            "node {} has no replica of {name}; {} have",
            to.0,
            nodes_of(&shard.replicas)
        ));
    }
    let first = shard.replicas.first().map(|replica| replica.node());
    if first == Some(to) {
        return Ok(nothing(format!("{name} prefers node {} already", to.0)));
    }
    Ok(one(
        MapEdit::Prefer {
            shard: id,
            leader: to,
        },
        format!("{name} is to be led by node {}", to.0),
    ))
}

fn rejoin(map: &Map, node: NodeId, store: StoreId) -> Result<Decision, OrderRefusal> {
    let found = known(map, node)?;
    if found.store == store {
        return Ok(nothing(format!("node {} has that store already", node.0)));
    }
    if [StoreId::UNCLAIMED, StoreId::ANY].contains(&store) {
        return refuse(format!("no other store comes as node {}", node.0));
    }
    let adds = map
        .shards_on(node)
        .filter_map(|(_, shard)| shard.change?.add);
    if adds.into_iter().any(|add| add.node() == node) {
        return refuse(format!(
            "a replica is on its way to node {}'s old store: wait until that is given up",
            node.0
        ));
    }
    let replicas = map.shards_on(node).count();
    Ok(one(
        MapEdit::Store { node, store },
        format!(
            "store {store} is node {} from now on, and its replicas of {replicas} shards are made anew",
            node.0
        ),
    ))
}

/// Whether a map may do without nodes that are gone for good. Where a majority of a shard goes with them, one of the
/// replicas that are left has to lead the shard by then, without them: the map alone does not make it.
///
/// # Errors
/// Which shards nobody leads like that who was heard within `up_ms`, and what to do.
pub fn may_recover(
    map: &Map,
    lost: &[u64],
    reports: &Reports,
    up_ms: u64,
) -> Result<(), OrderRefusal> {
    let is_lost = |replica: &ReplicaId| {
        let node = replica.node();
        map.node(node).is_some() && lost.contains(&node.0)
    };
    let is_led = |id: ShardId| {
        let lead = reports.lead(id, up_ms);
        lead.is_some_and(|(leader, lead)| {
            let mut sets = lead.voters.iter();
            !lost.contains(&leader.0)
                && sets
                    .all(|voters| 2 * voters.iter().filter(|of| is_lost(of)).count() < voters.len())
        })
    };
    let shards = map.all_shards().filter(|(id, shard)| {
        let gone = shard.replicas.iter().filter(|of| is_lost(of)).count();
        gone > 0 && 2 * gone >= shard.replicas.len() && !is_led(*id)
    });
    let waiting: Vec<ShardId> = shards.map(|(id, _)| id).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    let lost: Vec<String> = lost.iter().map(u64::to_string).collect();
    refuse(format!(
        "{} would have no majority and no leader without the nodes: stop the nodes that are left, run \
         `corelith recover --config FILE --lost {} --unsafe` on each, start them, and give this order when `corelith \
         status` shows a leader of each shard (if that is done, try again in some seconds)",
        listed(&waiting),
        lost.join(",")
    ))
}

/// The nodes that are gone for good are removed, and each shard has the replicas that are left. Its group may have gone on
/// with them before ([`crate::node::data_dir::left`]); or it leaves out the others by itself, where a majority is left.
fn recover(map: &Map, lost: &[u64]) -> Result<Decision, OrderRefusal> {
    if lost.is_empty() || lost.len() > limits::MAP_LIVE_NODES_MAX {
        return refuse("name the nodes that are gone for good");
    }
    let lost: BTreeSet<NodeId> = lost.iter().copied().map(NodeId).collect();
    let (before, now): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        lost.into_iter().partition(|node| is_removed(map, *node));
    for node in &now {
        known(map, *node)?;
    }
    if now.len() == map.live_nodes().count() {
        return refuse("no node would be left");
    }
    let mut decision = Decision::default();
    for node in before {
        let line = format!("node {} is removed already", node.0);
        decision.lines.push(line);
    }
    let (mut gone, mut fewer) = (Vec::new(), Vec::new());
    for (id, shard) in map.all_shards() {
        let is_lost = |replica: &ReplicaId| now.contains(&replica.node());
        let added = shard.change.and_then(|change| change.add);
        if !shard.replicas.iter().chain(&added).any(is_lost) {
            continue;
        }
        let left = shard.replicas.iter().copied();
        let mut survivors: Vec<ReplicaId> = left.filter(|r| !is_lost(r)).collect();
        if survivors.is_empty() {
            survivors.extend(added.filter(|add| !is_lost(add)));
        }
        match 2 * survivors.len() > shard.replicas.len() {
            _ if survivors.is_empty() => gone.push(id),
            true => fewer.push(id),
            false => decision.lines.push(format!(
                "{} goes on with node {}: writes that only the nodes lost had are lost",
                shard_named(id),
                nodes_of(&survivors)
            )),
        }
        let shard = id;
        decision.edits.push(MapEdit::Recover { shard, survivors });
    }
    if !gone.is_empty() {
        return refuse(format!(
            "no replica is left of {}: bring back one of the nodes that had it",
            listed(&gone)
        ));
    }
    if !fewer.is_empty() {
        decision.lines.push(format!(
            "a majority is left of {}: nothing of them is lost",
            listed(&fewer)
        ));
    }
    for node in now {
        let state = NodeState::Removed;
        decision.edits.push(MapEdit::State { node, state });
        decision.lines.push(format!(
            "node {} is removed: it is refused if it comes back, and its id is not given again",
            node.0
        ));
    }
    Ok(decision)
}

/// Some of the shards by name, and the number of the others.
fn listed(shards: &[ShardId]) -> String {
    let named = shards.iter().take(NAMED_MAX).map(|id| shard_named(*id));
    let mut text = named.collect::<Vec<String>>().join(", ");
    if shards.len() > NAMED_MAX {
        text += &format!(" and {} others", shards.len() - NAMED_MAX);
    }
    text
}
