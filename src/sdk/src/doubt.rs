//! What a client does about a node that leaves requests without an answer: a process that is stopped, or a node that
//! is cut off, closes no connection. No I/O: a simulator drives the same code.
//!
//! When requests wait and nothing arrives, the client asks the other replicas of their shards, one after another, who
//! leads. The requests keep waiting meanwhile. Once another node leads a shard in the term known or a later one, its
//! requests move there under their session and number, so that a write applies once whichever node got it.
//!
//! Invariants: at most one search per node, with one question at a time; its pauses are a share of the time that it
//! has lasted, so that the number of questions grows with the logarithm of this time. Without a doubt nothing is
//! asked, and nothing is sent twice.

use crate::limits::{QUESTION_TIMEOUT, SEEK_PAUSE_MAX, SEEK_PAUSE_MIN, SEEK_SHARE, SILENCE_DOUBT};
use crate::operation::Event;
use crate::route::{Routes, Target};
use corelith_wire::response::Answer;
use corelith_wire::status::{ShardRole, StatusReply};
use corelith_wire::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The next step of the search for the leaders of shards whose requests wait at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Ask this core for its node's status, and report the outcome to
    /// [`Session::learned`](crate::session::Session::learned).
    Ask {
        /// Whom to ask.
        target: Target,
        /// When to stop waiting for the answer.
        until: Duration,
    },
    /// Wait, then ask again.
    Pause {
        /// When the pause ends.
        until: Duration,
    },
    /// The search is over: nothing waits any more.
    End,
}

/// The searches under way. Part of the client's session.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    searches: BTreeMap<NodeId, LeaderSearch>,
}

#[derive(Debug)]
struct LeaderSearch {
    since: Duration,
    /// When the next question is due.
    next: Duration,
    /// The node asked last.
    turn: NodeId,
}

/// How long to wait before a leader is asked for again, after it has been missing for `missing`: a share of that time,
/// so that the search adds little to it, with jitter over the upper half.
pub(crate) fn pause_after(missing: Duration, random: u64) -> Duration {
    let longest = (missing / SEEK_SHARE).clamp(SEEK_PAUSE_MIN, SEEK_PAUSE_MAX);
    // At most 250 ms.
    let spread = (longest / 2).as_nanos() as u64;
    longest / 2 + Duration::from_nanos(random % spread.max(1))
}

impl Doubts {
    /// Begins a search. Returns false if there is one for this node already.
    pub(crate) fn begin(&mut self, node: NodeId, now: Duration) -> bool {
        if self.searches.contains_key(&node) {
            return false;
        }
        let search = LeaderSearch {
            since: now.saturating_sub(SILENCE_DOUBT),
            next: now,
            turn: node,
        };
        self.searches.insert(node, search);
        true
    }

    /// The next step of the search about `node`, at which requests of the shards `waiting` are overdue.
    pub(crate) fn next(
        &mut self,
        node: NodeId,
        waiting: &BTreeSet<ShardId>,
        routes: &Routes,
        random: u64,
        now: Duration,
    ) -> Question {
        let Some(search) = self.searches.get_mut(&node) else {
            return Question::End;
        };
        if waiting.is_empty() {
            self.searches.remove(&node);
            return Question::End;
        }
        if now < search.next {
            return Question::Pause { until: search.next };
        }
        search.next = now + pause_after(now.saturating_sub(search.since), random);
        let Some(target) = whom(node, search.turn, waiting, routes, now) else {
            return Question::Pause { until: search.next };
        };
        search.turn = target.node;
        let until = now + QUESTION_TIMEOUT;
        Question::Ask { target, until }
    }
}

/// The next node after `turn` that holds one of the shards, a suspected one only if there is no other.
fn whom(
    node: NodeId,
    turn: NodeId,
    waiting: &BTreeSet<ShardId>,
    routes: &Routes,
    now: Duration,
) -> Option<Target> {
    let mut holders = BTreeMap::new();
    for shard in waiting {
        for replica in routes.map().replicas(*shard) {
            holders.entry(replica).or_insert(*shard);
        }
    }
    holders.remove(&node);
    let after = holders.range(turn..).filter(|(holder, _)| **holder != turn);
    let order = || after.clone().chain(holders.range(..=turn));
    let trusted = order().find(|(holder, _)| !routes.suspected(**holder, now));
    let (holder, shard) = trusted.or_else(|| order().next())?;
    routes.core(*holder, *shard)
}

/// Takes the answer to a question about `node`. Returns the shards that another node leads now.
pub(crate) fn learn(routes: &mut Routes, node: NodeId, event: &Event) -> Vec<ShardId> {
    let Event::Answer(Answer::Status(report)) = event else {
        return Vec::new();
    };
    let mut moved = Vec::new();
    for (shard, leader, term) in leads(report) {
        if leader != node && routes.leads(shard, leader, term) != crate::route::Learned::Old {
            moved.push(shard);
        }
    }
    moved
}

/// Shards of a report with their leader and its term.
fn leads(report: &StatusReply) -> impl Iterator<Item = (ShardId, NodeId, u64)> {
    report.shards.iter().filter_map(|shard| {
        let leader = match shard.role {
            ShardRole::Leader => report.node,
            _ => shard.leader,
        };
        (leader != 0).then_some((ShardId(shard.shard), NodeId(leader), shard.term))
    })
}

#[cfg(test)]
mod tests;
