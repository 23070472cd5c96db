//! Where a node stands that starts, once the cluster is formed: what the others say of it, as a pure
//! function, and the sentences for whoever runs it.

use super::formation::majority;
use super::judge::KnownNode;
use corelith_wire::peer::{Charter, FormationAnswer, FormationReply, Introduction, Verdict};
use corelith_wire::{Mark, NodeId, Start, StoreId};
use std::collections::{BTreeMap, BTreeSet};

/// What peers have said against a store. It takes part in no group any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// The cluster knows the node with this other store.
    OtherStore(StoreId),
    /// This later start of the store was met, or another one with its incarnation.
    RolledBack(Start),
    /// This higher mark of the store was met.
    Behind(Mark),
    /// It lacks entries that it had acknowledged.
    LostEntries,
    /// Its node was removed from the cluster.
    Removed,
}

impl Exclusion {
    /// What follows for the store of which that is said, if it is for good.
    pub fn of(verdict: Verdict) -> Option<Self> {
        match verdict {
            Verdict::OtherStore(store) => Some(Self::OtherStore(store)),
            Verdict::RolledBack(start) => Some(Self::RolledBack(start)),
            Verdict::Behind(mark) => Some(Self::Behind(mark)),
            Verdict::LostEntries => Some(Self::LostEntries),
            Verdict::Removed => Some(Self::Removed),
            Verdict::Known
            | Verdict::OtherCluster
            | Verdict::NoSuchNode
            | Verdict::OtherSettings => None,
        }
    }
}

/// What a node may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Take part.
    Member,
    /// Nothing, for good.
    Excluded(Exclusion),
    /// Nothing until another one knows it: why.
    Waits(String),
}

/// What follows when node `me`, that knows of no charter, is told `charter`. A slot of any store is that of a
/// directory from before stores had ids: it has a charter of its own, and a directory that has none is new.
pub fn claim(me: NodeId, charter: &Charter) -> Option<Exclusion> {
    let named = charter.store_of(me)?;
    (named == StoreId::ANY).then_some(Exclusion::OtherStore(named))
}

/// What `me` makes of what is `known` of it, by the `charter` and the newest map, and of what others have answered. Who
/// does not answer says nothing: a majority is needed for anything that counts, and each of it judges again.
/// `mapped`: the nodes of that map, if it names this node's store. Then others that know another store may lack the
/// map, or have a newer one, which they do not give to this node: see [`replaced`].
pub fn standing(
    me: &Introduction,
    (charter, known, mapped): (&Charter, KnownNode, Option<&[NodeId]>),
    replies: &BTreeMap<NodeId, FormationReply>,
) -> Standing {
    match known {
        KnownNode::Store(StoreId::UNCLAIMED | StoreId::ANY) => {}
        KnownNode::Store(named) if named == me.store => {}
        KnownNode::Store(named) => return Standing::Excluded(Exclusion::OtherStore(named)),
        KnownNode::None => return Standing::Excluded(Exclusion::OtherStore(StoreId::UNCLAIMED)),
        KnownNode::Removed => return Standing::Excluded(Exclusion::Removed),
    }
    let mut is_known = false;
    let mut refused = None;
    let mut others = Vec::new();
    for (node, reply) in replies {
        let verdict = match &reply.answer {
            FormationAnswer::Formed {
                charter: theirs,
                verdict,
            } => match theirs.cluster == charter.cluster {
                true => *verdict,
                false => Verdict::OtherCluster,
            },
            FormationAnswer::Refused(verdict) => *verdict,
            FormationAnswer::Unformed { .. }
            | FormationAnswer::Named(_)
            | FormationAnswer::Joined { .. }
            | FormationAnswer::Declined(_) => continue,
        };
        if mapped.is_some() && matches!(verdict, Verdict::OtherStore(_)) {
            others.push((*node, verdict));
            continue;
        }
        if let Some(excluded) = Exclusion::of(verdict) {
            return Standing::Excluded(excluded);
        }
        if verdict == Verdict::Known {
            is_known = true;
        } else {
            refused.get_or_insert_with(|| difference(me, *node, &reply.by, verdict));
        }
    }
    // Whoever knows this store speaks for a map that the others lack.
    if let Some(nodes) = mapped
        && !is_known
        && let Some(excluded) = replaced(me.node, nodes, others)
    {
        return Standing::Excluded(excluded);
    }
    match refused {
        Some(why) if !is_known => Standing::Waits(why),
        _ => Standing::Member,
    }
}

/// Whether another store has taken the place of that of `me`, though the map that it knows names its own: a majority of
/// the `nodes` of that map say so, or all others of them. Fewer may lack the map.
pub fn replaced(
    me: NodeId,
    nodes: &[NodeId],
    said: impl IntoIterator<Item = (NodeId, Verdict)>,
) -> Option<Exclusion> {
    let mut by = BTreeSet::new();
    let mut store = None;
    for (node, verdict) in said {
        if let Verdict::OtherStore(known) = verdict
            && node != me
            && nodes.contains(&node)
        {
            by.insert(node);
            store = Some(known);
        }
    }
    let others = nodes.iter().filter(|node| **node != me).count();
    let is_believed = by.len() >= majority(nodes.len()).min(others);
    store.filter(|_| is_believed).map(Exclusion::OtherStore)
}

/// Why `me` and `node` do not belong together, for whoever runs `me`.
pub fn difference(
    me: &Introduction,
    node: NodeId,
    them: &Introduction,
    verdict: Verdict,
) -> String {
    let (own, other) = (me.node.0, node.0);
    let are_formed = me.cluster.0 != 0 && them.cluster.0 != 0;
    match verdict {
        Verdict::OtherSettings => match me.settings.difference(&them.settings) {
            Some(difference) => format!(
                "node {other} has other settings than this node {own}: {difference}; give all nodes of the \
                 cluster the same"
            ),
            None => format!(
                "node {other} finds that the settings of this node {own} differ from its own"
            ),
        },
        Verdict::OtherCluster if are_formed && me.cluster != them.cluster => format!(
            "this node {own} is of the cluster {} and node {other} is of the cluster {}, though both are \
             configured as one: start each with its own data directory, and change nothing in either",
            me.cluster, them.cluster
        ),
        Verdict::Removed => format!(
            "node {other} says that node {own} was removed from the cluster for good: start this machine with a new \
             data directory, with `node.join` and without `node.id`, to have it as another node"
        ),
        Verdict::OtherCluster => format!(
            "node {other} is of another cluster than this node {own}: check `cluster.name` and the addresses"
        ),
        _ => format!("node {other} knows no other node {own}: check the ids and addresses"),
    }
}

/// What node `me` says whose directory is new although the cluster was formed before.
pub fn waits_for_existing(dir: &str, me: NodeId, nodes: &[NodeId]) -> String {
    let others = nodes.iter().filter(|node| **node != me);
    let others: Vec<String> = others.map(|node| node.0.to_string()).collect();
    let waits = match others.as_slice() {
        [] => "there is no other node that knows it".to_owned(),
        [one] => format!("this node waits for node {one}"),
        _ => format!(
            "this node waits for one of the nodes {} that knows it",
            others.join(", ")
        ),
    };
    let node = me.0;
    format!(
        "the data directory {dir} of node {node} is new, and by `cluster.existing` the cluster was formed before, so \
         none is formed: {waits}; if the node has data elsewhere (a file system that is not mounted), stop it and \
         start it with that"
    )
}

/// What a node says of itself that takes part in nothing.
pub fn exclusion(dir: &str, me: &Introduction, excluded: Exclusion) -> String {
    let node = me.node.0;
    let why = match excluded {
        Exclusion::OtherStore(StoreId::ANY) => format!(
            "the data directory {dir} is new, and the cluster knows node {node} from before data directories had \
             ids, so it was emptied or is not that node's"
        ),
        Exclusion::OtherStore(known) => format!(
            "the data directory {dir} is not the one that the cluster knows as node {node}: its store is {}, \
             that of the cluster's node {node} is {known}, so it is new, was emptied, or is another node's",
            me.store
        ),
        Exclusion::RolledBack(met) if met.incarnation > me.start.incarnation => format!(
            "the data directory {dir} is an old state of node {node}: this is its start number {}, and other \
             nodes have met number {}, so it was restored from an image or a copy",
            me.start, met
        ),
        Exclusion::RolledBack(met) => format!(
            "the data directory {dir} is a copy, or an old state of node {node}: other nodes have met another \
             start of the same store, number {met}",
        ),
        Exclusion::Behind(met) => format!(
            "the data directory {dir} is an old state of node {node}: the mark of its store is {}, and other nodes \
             have met mark {met}, so it was restored from an image that was taken while the node ran",
            me.mark
        ),
        Exclusion::LostEntries => format!(
            "the data directory {dir} is an old state of node {node}: it lacks writes that it had acknowledged, so it \
             was restored from an image, or its disk has lost what it had written"
        ),
        Exclusion::Removed => {
            format!(
                "node {node} was removed from the cluster for good, and {dir} is its data directory"
            )
        }
    };
    let advice = match excluded {
        Exclusion::OtherStore(_) => {
            "if it is new, the node asks the cluster to take it in again with it, which the cluster does by itself \
             unless its setting `rejoin` is manual; otherwise move it away and start the node with a new one"
        }
        Exclusion::RolledBack(_) | Exclusion::Behind(_) | Exclusion::LostEntries => {
            "to have the node taken in again, stop it, move the directory away and start it with a new one"
        }
        Exclusion::Removed => {
            "do not start it again; to have this machine in the cluster again, start it with a new directory, with \
             `node.join` and without `node.id`, and it becomes another node"
        }
    };
    format!(
        "{why}; it has no vote and takes part in nothing, the data of the cluster is on its other nodes: {advice}"
    )
}

/// What a node says of another one that it refuses.
pub fn refusal(me: &Introduction, them: &Introduction, verdict: Verdict) -> String {
    let node = them.node.0;
    match verdict {
        Verdict::OtherStore(known) => format!(
            "node {node} has come with the store {}, and its store is {known}: it has no vote",
            them.store
        ),
        Verdict::RolledBack(met) => format!(
            "node {node} has come with an old state or a copy of its store, start number {}, and number {met} \
             was met: it has no vote",
            them.start
        ),
        Verdict::Behind(met) => format!(
            "node {node} has come with an old state of its store, mark {}, and mark {met} was met: it has no vote",
            them.mark
        ),
        Verdict::LostEntries => format!(
            "node {node} has come with an old state of its store, which lacks writes that it had acknowledged: it has \
             no vote"
        ),
        Verdict::Removed => format!(
            "node {node} has come with the store {}, and node {node} was removed from the cluster for good: it takes part \
             in nothing; stop it where it runs; to have that machine in the cluster again, start it with a new data \
             directory, with `node.join` and without `node.id`, and it becomes another node",
            them.store
        ),
        verdict => difference(me, them.node, them, verdict),
    }
}

#[cfg(test)]
mod tests;
