//! Going on without a majority that is gone for good: the replicas that are left become the voters by themselves.
//!
//! That breaks what Raft promises, and is done only on an operator's word, while the node does not run. What a majority
//! had and none of those that are left is lost; what one of them had and nobody was answered may come to be. Of the
//! replicas that are left the one with the longest log gets memberships as its last entries, of which the last is that of
//! those that are left. It alone can then be elected, and the others follow it.
//!
//! Invariants:
//! * The entries are of a term above every other in the log and in the vote, so that none that another made replaces them.
//! * A group of which a majority is left is not touched.

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

/// Where a replica stands that may have to go on without others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftReplica {
    /// The replica.
    pub replica: ReplicaId,
    /// Its last entry.
    pub last: Option<LogId>,
    /// The voters that are left, it included.
    pub left: BTreeSet<ReplicaId>,
    /// The voters that are gone.
    pub gone: BTreeSet<ReplicaId>,
    /// Whether those that are left are a majority: then nothing needs to be done.
    pub is_majority: bool,
}

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The storage of the shard failed.
    #[error(transparent)]
    Storage(#[from] corelith_shards::Error),
    /// The shard knows no membership, or this store has no vote in it.
    #[error("{0}")]
    State(&'static str),
}

impl LeftReplica {
    /// Looks at the replica of `node` in an open shard of which no group runs, with the nodes of `lost` gone.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub async fn look(
        shard: &Shard,
        node: NodeId,
        lost: &BTreeSet<NodeId>,
    ) -> Result<Self, RecoverError> {
        let membership = last_membership(shard).await?;
        let configs = membership.get_joint_config();
        let voters: BTreeSet<ReplicaId> = membership.voter_ids().map(ReplicaId).collect();
        let is_gone = |replica: &ReplicaId| lost.contains(&replica.node());
        let (gone, left): (BTreeSet<_>, BTreeSet<_>) = voters.iter().copied().partition(is_gone);
        let mine = left.iter().copied().find(|replica| replica.node() == node);
        let replica = mine.ok_or(RecoverError::State("this node has no vote in the shard"))?;
        let is_majority = configs.iter().all(|config| {
            let there = config.iter().filter(|id| !is_gone(&ReplicaId(**id)));
            there.count() > config.len() / 2
        });
        Ok(Self {
            replica,
            last: shard.log.range().last,
            left,
            gone,
            is_majority,
        })
    }

    /// Makes those that are left the voters, by an entry that only this replica has.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub async fn go_on(&self, shard: &Shard) -> Result<LogId, RecoverError> {
        if self.is_majority {
            return Err(RecoverError::State("a majority of the shard is left"));
        }
        let before = last_membership(shard).await?;
        let left = self.left.iter().map(|replica| replica.0).collect();
        let steps =
            steps_to(&before, &left).ok_or(RecoverError::State("nobody would be left to vote"))?;
        let term = shard.log.vote().map_or(Term(0), |vote| vote.term);
        let term = Term(term.max(self.last.map_or(Term(0), |last| last.term)).0 + 1);
        // Whoever is elected from now on is in a later term.
        let vote = Vote {
            term,
            node: self.replica,
            committed: false,
        };
        shard.log.save_vote(vote).await?;
        let mut last = self.last;
        let mut entries = Vec::new();
        for membership in steps {
            let id = LogId {
                term,
                node: self.replica,
                index: LogIndex(last.map_or(0, |last| last.index.0 + 1)),
            };
            assert!(last < Some(id), "{id} is the last entry");
            last = Some(id);
            entries.push(Entry::new(
                id,
                kind::MEMBERSHIP,
                membership::encode(&membership),
            ));
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

/// The memberships that lead from one to that with these voters alone, each a step that a leader could take.
fn steps_to(from: &Membership, left: &BTreeSet<u64>) -> Option<Vec<Membership>> {
    let nodes: BTreeMap<u64, StoreId> = from.nodes().map(|(id, store)| (*id, *store)).collect();
    let make = |configs: Vec<BTreeSet<u64>>, nodes: &BTreeMap<u64, StoreId>| {
        Membership::new(configs, nodes.clone()).ok()
    };
    let settled = from.get_joint_config().last()?.clone();
    let mut steps = Vec::new();
    if from.get_joint_config().len() > 1 {
        steps.push(make(vec![settled.clone()], &nodes)?);
    }
    steps.push(make(vec![settled, left.clone()], &nodes)?);
    let kept = nodes.iter().filter(|(id, _)| left.contains(*id));
    let kept = kept.map(|(id, store)| (*id, *store)).collect();
    steps.push(make(vec![left.clone()], &kept)?);
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
