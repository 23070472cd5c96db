//! Going on without a majority that is gone for good: the replicas that are left become the voters by themselves.
//!
//! That breaks what Raft promises, and is done only on an operator's word, while no node of those that are left runs. What
//! a majority had and none of those that are left is lost; what one of them had and nobody was answered may come to be. Of
//! the replicas that are left the one with the longest log gets memberships as its last entries, of which the last is that
//! of those that are left. It alone can then be elected first, and the others follow it.
//!
//! Invariants:
//! * The entries are of a term above every other in the logs and votes of those that are left, so that none that another
//!   made replaces them.
//! * A group of which those that are left can elect a leader is not touched: two groups would come of one. Whether they
//!   can is counted by the membership that each of them has, as they count themselves: the longest log may end with a
//!   change of voters of which the others have not heard.

#[cfg(test)]
mod tests;

use crate::command::kind;
use crate::state_machine::stored_membership;
use crate::types::Membership;
use crate::{membership, steps};
use corelith_io::sync::oneshot;
use corelith_shards::{Entry, LogId, LogIndex, NodeId, ReplicaId, Shard, Term, Vote};
use corelith_wire::StoreId;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of entries that are read at once to find the last membership.
const READ_BYTES: u64 = 4 << 20;

/// Where a replica stands that is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftReplica {
    /// The replica.
    pub replica: ReplicaId,
    /// Its last entry.
    pub last: Option<LogId>,
    /// The term of its last vote.
    pub vote: Term,
    /// The voters of the membership that it goes by; two sets while joint.
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// Whether that membership names it: then it votes for others, also before it knows that it has a vote.
    pub is_named: bool,
}

/// What is to be done with a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// Nothing: this replica can be elected.
    Elects(ReplicaId),
    /// Nothing can be done: none that is left has a vote.
    Nobody,
    /// It goes on with those that are left.
    GoOn(GoingOn),
}

/// How a group goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoingOn {
    /// The replica with the longest log.
    pub by: ReplicaId,
    /// Its last entry: what comes after it is lost.
    pub last: Option<LogId>,
    /// The voters from then on.
    pub left: BTreeSet<ReplicaId>,
    /// The voters that are gone, or have not heard yet that they belong to the group.
    pub gone: BTreeSet<ReplicaId>,
    /// The highest term that one of those that are left knows.
    pub above: Term,
}

/// These nodes are neither lost nor have they been heard, and may have a replica with a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard(pub BTreeSet<NodeId>);

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The storage of the shard failed.
    #[error(transparent)]
    Storage(#[from] corelith_shards::Error),
    /// The shard knows no membership, or not that one.
    #[error("{0}")]
    State(&'static str),
}

impl LeftReplica {
    /// Looks at a replica, in an open shard of which no group runs.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub async fn look(shard: &Shard, replica: ReplicaId) -> Result<Self, RecoverError> {
        let membership = last_membership(shard).await?;
        let configs = membership.get_joint_config().iter();
        let voters = configs.map(|config| config.iter().copied().map(ReplicaId).collect());
        Ok(Self {
            replica,
            last: shard.log.range().last,
            vote: shard.log.vote().map_or(Term(0), |vote| vote.term),
            voters: voters.collect(),
            is_named: membership.get_node(&replica.0).is_some(),
        })
    }

    /// Whether it has a vote, as it knows itself: then it stands.
    fn is_voter(&self) -> bool {
        self.voters
            .iter()
            .any(|config| config.contains(&self.replica))
    }

    /// Whether these would elect it.
    fn is_elected_by(&self, replicas: &[Self]) -> bool {
        let grants = |other: &&Self| other.is_named && other.last <= self.last;
        let granting = replicas.iter().filter(grants);
        let granting: BTreeSet<ReplicaId> = granting.map(|other| other.replica).collect();
        self.is_voter()
            && self.voters.iter().all(|config| {
                let granted = config.intersection(&granting).count();
                granted > config.len() / 2
            })
    }
}

/// What is to be done with a group, of which the nodes `heard` have these replicas, and no others. Pure: whoever has the
/// same reports comes to the same.
///
/// # Errors
/// Nodes must be heard first, or named as lost.
pub fn course(
    replicas: &[LeftReplica],
    heard: &BTreeSet<NodeId>,
    lost: &BTreeSet<NodeId>,
) -> Result<Course, Unheard> {
    let named = replicas
        .iter()
        .flat_map(|left| left.voters.iter().flatten());
    let nodes = named.map(|voter| voter.node());
    let unheard: BTreeSet<NodeId> = nodes
        .filter(|node| !heard.contains(node) && !lost.contains(node))
        .collect();
    if !unheard.is_empty() {
        return Err(Unheard(unheard));
    }
    let replicas = replicas.iter();
    let replicas = replicas.filter(|left| !lost.contains(&left.replica.node()));
    let replicas: Vec<LeftReplica> = replicas.cloned().collect();
    if let Some(elected) = replicas.iter().find(|left| left.is_elected_by(&replicas)) {
        return Ok(Course::Elects(elected.replica));
    }
    let voters = replicas.iter().filter(|left| left.is_voter());
    let longest = voters.max_by_key(|left| (left.last, std::cmp::Reverse(left.replica)));
    let Some(longest) = longest else {
        return Ok(Course::Nobody);
    };
    let all: BTreeSet<ReplicaId> = longest.voters.iter().flatten().copied().collect();
    // Who goes by a membership without it would not vote for the first leader.
    let is_there = |voter: &ReplicaId| {
        let mut voting = replicas.iter().filter(|left| left.is_named);
        voting.any(|left| left.replica == *voter)
    };
    let (left, gone): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().partition(is_there);
    assert!(
        left.contains(&longest.replica),
        "{} is left and has a vote",
        longest.replica
    );
    let terms = replicas
        .iter()
        .map(|left| left.vote.max(left.last.map_or(Term(0), |last| last.term)));
    Ok(Course::GoOn(GoingOn {
        by: longest.replica,
        last: longest.last,
        left,
        gone,
        above: terms.max().unwrap_or_default(),
    }))
}

impl GoingOn {
    /// Makes those that are left the voters, by entries that only the replica with the longest log has: this one.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub async fn take(&self, shard: &Shard) -> Result<LogId, RecoverError> {
        let mut last = shard.log.range().last;
        if last != self.last {
            return Err(RecoverError::State("the log has changed since"));
        }
        let before = last_membership(shard).await?;
        let left = self.left.iter().map(|replica| replica.0).collect();
        let steps = steps_to(&before, &left);
        let steps = steps.ok_or(RecoverError::State(
            "no legal change leads to those that are left",
        ))?;
        let vote = shard.log.vote().map_or(Term(0), |vote| vote.term);
        let known = vote.max(last.map_or(Term(0), |last| last.term));
        let term = Term(known.max(self.above).0 + 1);
        // Whoever is elected from now on is in a later term.
        let vote = Vote {
            term,
            node: self.by,
            committed: false,
        };
        shard.log.save_vote(vote).await?;
        let mut entries = Vec::new();
        for membership in steps {
            let id = LogId {
                term,
                node: self.by,
                index: LogIndex(last.map_or(0, |last| last.index.0 + 1)),
            };
            assert!(last < Some(id), "{id} is the last entry");
            last = Some(id);
            let body = membership::encode(&membership);
            entries.push(Entry::new(id, kind::MEMBERSHIP, body));
        }
        let (done, durable) = oneshot::channel();
        shard.log.append(entries, |result| {
            // Whoever waits is here.
            let _ = done.send(result);
        });
        let stopped = RecoverError::State("the log has stopped");
        durable.await.map_err(|_| stopped)??;
        last.ok_or(RecoverError::State("nothing was written"))
    }
}

/// The memberships that lead from one to that with these voters and nobody else, each a step that a leader could take.
fn steps_to(from: &Membership, left: &BTreeSet<u64>) -> Option<Vec<Membership>> {
    let mut nodes: BTreeMap<u64, StoreId> = from.nodes().map(|(id, store)| (*id, *store)).collect();
    let configs = from.get_joint_config();
    let settled = configs.last()?.clone();
    let mut steps = Vec::new();
    let mut go = |configs: Vec<BTreeSet<u64>>, nodes: &BTreeMap<u64, StoreId>| {
        steps.push(Membership::new(configs, nodes.clone()).ok()?);
        Some(())
    };
    let voted = |config: &BTreeSet<u64>, id: &u64| config.contains(id) && !left.contains(id);
    if configs.len() > 1 {
        nodes.retain(|id, _| {
            settled.contains(id) || !configs.iter().any(|config| voted(config, id))
        });
        go(vec![settled.clone()], &nodes)?;
    }
    if settled != *left {
        go(vec![settled.clone(), left.clone()], &nodes)?;
        nodes.retain(|id, _| !voted(&settled, id));
        go(vec![left.clone()], &nodes)?;
    }
    if nodes.len() > left.len() {
        // Learners: whoever leads takes in others.
        nodes.retain(|id, _| left.contains(id));
        go(vec![left.clone()], &nodes)?;
    }
    let mut before = from;
    for step in &steps {
        if !steps::follows(before, step) {
            return None;
        }
        before = step;
    }
    Some(steps)
}

/// The last membership in the log, or in what is checkpointed.
async fn last_membership(shard: &Shard) -> Result<Membership, RecoverError> {
    let malformed = RecoverError::State("the shard's membership makes no sense");
    let range = shard.log.range();
    let (_, applied) = shard.engine.applied();
    let mut found = match stored_membership(applied) {
        Ok(stored) => stored.log_id().map(|_| stored.membership().clone()),
        Err(_) => return Err(malformed),
    };
    let mut from = range.purged.map_or(0, |purged| purged.index.0 + 1);
    let end = range.last.map_or(0, |last| last.index.0 + 1);
    while from < end {
        let read = shard
            .log
            .read_heads(LogIndex(from), LogIndex(end), READ_BYTES)
            .await?;
        let Some(last) = read.last() else { break };
        from = last.id.index.0 + 1;
        for entry in read {
            if entry.kind == kind::MEMBERSHIP {
                let decoded = membership::decode(&entry.body);
                found = Some(decoded.ok_or(RecoverError::State(
                    "an entry with a membership makes no sense",
                ))?);
            }
        }
    }
    found.ok_or(RecoverError::State("the shard knows no membership"))
}
