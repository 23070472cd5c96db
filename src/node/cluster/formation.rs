//! How the first nodes agree on the cluster's [`Charter`]: one decision by Paxos, as a state machine
//! without I/O. [`Acceptor`] is what a node keeps on disk of it, [`Proposer`] what it knows while it
//! proposes.
//!
//! Invariants:
//! * A store accepts only a charter that names it. So a directory that was wiped after it had promised
//!   something, and forgot it, counts for nothing until it is asked again.
//! * Who proposes takes part in the decision with its own promise, and last: once a node has promised a later
//!   proposal, it decides none of its own earlier ones.
//! * A majority that has answered proposes what one of it has accepted last, or waits. All first nodes
//!   together are free: none of them has decided, and by the promises none will decide anything earlier.
//! * A charter is proposed only if a majority of the first nodes is there with the stores that it names.
//! * A charter names a majority of the replicas of each shard. The groups bind the others, which takes a leader.
//!
//! Two charters can be decided only if a store that had accepted the first is wiped, and all that are left
//! of its majority are down, while the others form a cluster: they cannot know. Who comes back is then of
//! another cluster, and is told so.

use corelith_wire::peer::{Ballot, Charter, FormationStep};
use corelith_wire::placement::replicas_of;
use corelith_wire::{FullClusterId, NodeId, ShardId, StoreId};
use std::collections::BTreeMap;

/// What a node remembers of the formation. Durable before anything follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceptor {
    /// It takes part in no proposal before this one.
    pub promised: Ballot,
    /// What it has accepted last, and in which proposal, while nothing is decided as far as it knows.
    pub accepted: Option<(Ballot, Charter)>,
    /// What was decided, as far as it knows.
    pub charter: Option<Charter>,
}

impl Acceptor {
    /// What becomes of it when `node`, whose store is `store`, is asked this.
    #[must_use]
    pub fn after(&self, step: &FormationStep, node: NodeId, store: StoreId) -> Self {
        let mut next = self.clone();
        match step {
            _ if self.charter.is_some() => {}
            FormationStep::Who
            | FormationStep::Name
            | FormationStep::Stranger
            | FormationStep::Join(_) => {}
            FormationStep::Prepare(ballot) => next.promised = self.promised.max(*ballot),
            FormationStep::Accept(ballot, charter) => {
                if *ballot >= self.promised && charter.store_of(node) == Some(store) {
                    next.promised = *ballot;
                    next.accepted = Some((*ballot, charter.clone()));
                }
            }
        }
        assert!(next.promised >= self.promised, "a promise is kept");
        next
    }

    /// What becomes of it when it has decided that charter by its proposal `ballot`; `None` if it has
    /// promised a later one meanwhile.
    #[must_use]
    pub fn decided(&self, ballot: Ballot, charter: &Charter) -> Option<Self> {
        (self.promised == ballot && self.charter.is_none()).then(|| Self {
            promised: ballot,
            accepted: None,
            charter: Some(charter.clone()),
        })
    }

    /// What becomes of it when another node says that the cluster is formed.
    #[must_use]
    pub fn told(&self, charter: &Charter) -> Self {
        let charter = self.charter.as_ref().unwrap_or(charter);
        Self {
            promised: self.promised,
            accepted: None,
            charter: Some(charter.clone()),
        }
    }
}

/// How the shards are spread over the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Number of shards.
    pub shards: u32,
    /// Replicas of each.
    pub replicas: u32,
}

impl Spread {
    /// Whether each shard has a majority of its replicas on nodes of which `is_there` holds.
    pub fn is_served(&self, first: &[NodeId], is_there: impl Fn(NodeId) -> bool) -> bool {
        // The next ones are spread as these are.
        let shards = (0..self.shards).take(first.len()).map(ShardId);
        let replicas = self.replicas as usize;
        shards
            .map(|shard| replicas_of(shard, first, replicas))
            .all(|nodes| {
                let there = nodes.iter().filter(|node| is_there(**node)).count();
                there >= majority(nodes.len())
            })
    }
}

/// What a node answered to [`FormationStep::Prepare`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Promise {
    store: StoreId,
    accepted: Option<(Ballot, Charter)>,
}

/// A proposal under way.
#[derive(Clone, Debug)]
pub struct Proposer {
    first: Vec<NodeId>,
    spread: Spread,
    ballot: Ballot,
    promises: BTreeMap<NodeId, Promise>,
    charter: Option<Charter>,
    accepts: BTreeMap<NodeId, StoreId>,
}

impl Proposer {
    /// The node whose store is `store` proposes to the `first` nodes, in a round after `seen`.
    pub fn new(first: Vec<NodeId>, spread: Spread, store: StoreId, seen: u64) -> Self {
        let ballot = Ballot {
            round: seen.saturating_add(1),
            store,
        };
        Self {
            first,
            spread,
            ballot,
            promises: BTreeMap::new(),
            charter: None,
            accepts: BTreeMap::new(),
        }
    }

    /// Its name.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// A node with this store has promised `promised`, having accepted that.
    pub fn promise(
        &mut self,
        node: NodeId,
        store: StoreId,
        promised: Ballot,
        accepted: Option<(Ballot, Charter)>,
    ) {
        if promised == self.ballot && self.charter.is_none() && self.first.contains(&node) {
            self.promises.insert(node, Promise { store, accepted });
        }
    }

    /// Settles what is to be accepted; `None` if there are too few promises for anything. `fresh` names the
    /// cluster if nothing binds this proposal.
    pub fn settle(&mut self, fresh: FullClusterId) -> Option<&Charter> {
        if self.charter.is_none() {
            self.charter = choose(&self.first, self.spread, &self.promises, fresh);
        }
        self.charter.as_ref()
    }

    /// The node with this store has accepted, as it answers, `accepted`.
    pub fn accept(&mut self, node: NodeId, store: StoreId, accepted: Option<Ballot>) {
        let named = self.charter.as_ref().and_then(|c| c.store_of(node));
        if accepted == Some(self.ballot) && named == Some(store) && store != StoreId::UNCLAIMED {
            self.accepts.insert(node, store);
        }
    }

    /// The charter, if a majority has accepted it. `me` accepts it by deciding, if it is named there.
    pub fn decision(&self, me: NodeId, store: StoreId) -> Option<&Charter> {
        let charter = self.charter.as_ref()?;
        let is_named = charter.store_of(me) == Some(store);
        let mine = usize::from(is_named && !self.accepts.contains_key(&me));
        (self.accepts.len() + mine >= majority(self.first.len())).then_some(charter)
    }
}

/// How many of so many nodes are a majority.
pub fn majority(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// What may be proposed after these promises.
fn choose(
    first: &[NodeId],
    spread: Spread,
    promises: &BTreeMap<NodeId, Promise>,
    fresh: FullClusterId,
) -> Option<Charter> {
    if promises.len() < majority(first.len()) {
        return None;
    }
    let is_there = |charter: &Charter| {
        let same =
            |(node, promise): &(&NodeId, &Promise)| charter.store_of(**node) == Some(promise.store);
        promises.iter().filter(same).count() >= majority(first.len())
    };
    let accepted = promises.values().filter_map(|p| p.accepted.as_ref());
    let last = accepted.max_by_key(|(ballot, _)| *ballot);
    match last {
        Some((_, charter)) if is_there(charter) => return Some(charter.clone()),
        Some(_) if promises.len() < first.len() => return None,
        _ => {}
    }
    if !spread.is_served(first, |node| promises.contains_key(&node)) {
        return None;
    }
    let store_of = |node: &NodeId| promises.get(node).map_or(StoreId::UNCLAIMED, |p| p.store);
    let charter = Charter {
        cluster: fresh,
        stores: first.iter().map(|node| (*node, store_of(node))).collect(),
    };
    assert!(is_there(&charter), "whoever has promised is there");
    Some(charter)
}

#[cfg(test)]
mod tests;
