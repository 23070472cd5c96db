//! What an order leads to, and how far the cluster is on the way. Pure.

use corelith_client::{ClusterView, ViewNode, ViewShard};
use std::collections::BTreeSet;

/// What an order leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Goal {
    /// The order is all.
    None,
    /// A node has no replicas and leads nothing.
    Emptied(u64),
    /// There is a node that was none of these, and it reports.
    Joined(BTreeSet<u64>),
    /// Each shard has so many replicas, and none is on its way.
    Replicas(u32),
    /// Nothing is on its way.
    Still,
    /// A shard has a replica on a node, and none on the other.
    Moved {
        /// The shard.
        shard: u32,
        /// The node that had it.
        from: u64,
        /// The node that gets it.
        to: u64,
    },
    /// A node leads a shard.
    Led {
        /// The shard.
        shard: u32,
        /// The node.
        to: u64,
    },
}

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GoalWay {
    /// Parts that are done, those that are on their way in part.
    pub(super) done: f64,
    /// All parts.
    pub(super) all: f64,
    /// Whether it is there.
    pub(super) is_there: bool,
    /// Whether it will not get there.
    pub(super) is_given_up: bool,
    /// In words.
    pub(super) text: String,
}

impl GoalWay {
    /// Milliseconds that are left, if it goes on as in those that it took so far.
    pub(super) fn left_ms(&self, elapsed_ms: u64) -> Option<u64> {
        let is_known = self.done > 0.0 && self.all > self.done && !self.is_there;
        // A whole number of milliseconds is exact enough.
        is_known.then(|| (elapsed_ms as f64 * (self.all - self.done) / self.done) as u64)
    }
}

/// How much of the moves that `is_its` picks is copied, in moves.
fn moving(
    view: &ClusterView,
    is_its: impl Fn(&corelith_client::ViewChange) -> bool,
) -> (usize, f64) {
    let moves = view.changes.iter().filter(|change| is_its(change));
    moves.fold((0, 0.0), |(count, done), change| {
        let part = match change.bytes_all {
            0 => 0.0,
            all => change.bytes_done.min(all) as f64 / all as f64,
        };
        (count + 1, done + part)
    })
}

fn node(view: &ClusterView, id: u64) -> Option<&ViewNode> {
    view.nodes.iter().find(|node| node.node == id)
}

fn shard(view: &ClusterView, shard: u32) -> Option<&ViewShard> {
    view.shards.get(usize::try_from(shard).ok()?)
}

impl Goal {
    /// How far the cluster is, that was as in `first` when the order was given.
    pub(super) fn way(&self, first: &ClusterView, now: &ClusterView) -> GoalWay {
        let way = match self {
            Self::None => GoalWay {
                done: 1.0,
                all: 1.0,
                is_there: true,
                is_given_up: false,
                text: String::new(),
            },
            Self::Emptied(id) => emptied(*id, first, now),
            Self::Joined(known) => joined(known, now),
            Self::Replicas(wanted) => replicas(*wanted, now),
            Self::Still => still(now),
            Self::Moved { shard, from, to } => moved(*shard, *from, *to, now),
            Self::Led { shard, to } => led(*shard, *to, now),
        };
        assert!(
            !way.is_there || !way.is_given_up,
            "it is there or given up: {}",
            way.text
        );
        way
    }
}

fn emptied(id: u64, first: &ClusterView, now: &ClusterView) -> GoalWay {
    let held = |view| node(view, id).map_or((0, 0), |node| (node.replicas, node.leads));
    let (before, _) = held(first);
    let (left, leads) = held(now);
    let (count, part) = moving(now, |change| change.from == id);
    let done = before.saturating_sub(left);
    GoalWay {
        done: f64::from(done) + part,
        all: f64::from(before.max(1)),
        is_there: left == 0 && leads == 0 && count == 0,
        is_given_up: false,
        text: format!(
            "node {id}: {done} of {before} replicas moved, {count} moving, {leads} leads left"
        ),
    }
}

fn joined(known: &BTreeSet<u64>, now: &ClusterView) -> GoalWay {
    let is_new = |node: &&ViewNode| {
        !known.contains(&node.node) && node.state == "active" && node.heard_ms.is_some()
    };
    let found = now.nodes.iter().find(is_new);
    GoalWay {
        done: 0.0,
        all: 1.0,
        is_there: found.is_some(),
        is_given_up: false,
        text: match found {
            Some(node) => format!(
                "node {} has joined at {}:{}",
                node.node, node.host, node.port
            ),
            None => "no new node has joined yet".to_owned(),
        },
    }
}

fn replicas(wanted: u32, now: &ClusterView) -> GoalWay {
    let has_all = |shard: &&ViewShard| u32::try_from(shard.replicas.len()) == Ok(wanted);
    let done = now.shards.iter().filter(has_all).count();
    let (count, part) = moving(now, |_| true);
    let all = now.shards.len();
    GoalWay {
        done: done as f64 + part,
        all: all as f64,
        is_there: done == all && count == 0,
        is_given_up: false,
        text: format!("{done} of {all} shards have {wanted} replicas, {count} moving"),
    }
}

fn still(now: &ClusterView) -> GoalWay {
    let (count, part) = moving(now, |_| true);
    GoalWay {
        done: part,
        all: count as f64,
        is_there: count == 0,
        is_given_up: false,
        text: format!("{count} moving"),
    }
}

fn moved(id: u32, from: u64, to: u64, now: &ClusterView) -> GoalWay {
    let change = now.changes.iter().find(|change| change.shard == id);
    let (count, part) = moving(now, |change| change.shard == id);
    let replicas = shard(now, id).map_or(&[][..], |shard| shard.replicas.as_slice());
    let is_there = replicas.contains(&to) && !replicas.contains(&from) && count == 0;
    GoalWay {
        done: part,
        all: 1.0,
        is_there,
        is_given_up: change.is_none() && !is_there,
        text: match change {
            Some(change) => format!("shard {id}: {}", change.phase),
            None if is_there => format!("shard {id} is on node {to}"),
            None => format!("shard {id} is not moving: the move was given up"),
        },
    }
}

fn led(id: u32, to: u64, now: &ClusterView) -> GoalWay {
    let leader = shard(now, id).map_or(0, |shard| shard.leader);
    GoalWay {
        done: 0.0,
        all: 1.0,
        is_there: leader == to,
        is_given_up: false,
        text: match leader {
            0 => format!("shard {id} has no leader"),
            leader => format!("shard {id} is led by node {leader}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_client::ViewChange;

    fn view(replicas: u32, leads: u32, changes: &[(u64, u64, u64)]) -> ClusterView {
        ClusterView {
            nodes: vec![ViewNode {
                node: 2,
                replicas,
                leads,
                state: "draining".to_owned(),
                heard_ms: Some(1),
                ..ViewNode::default()
            }],
            shards: vec![ViewShard {
                replicas: vec![1, 2, 3],
                leader: 1,
            }],
            changes: changes
                .iter()
                .map(|(from, bytes_done, bytes_all)| ViewChange {
                    from: *from,
                    bytes_done: *bytes_done,
                    bytes_all: *bytes_all,
                    phase: "copying".to_owned(),
                    ..ViewChange::default()
                })
                .collect(),
            ..ClusterView::default()
        }
    }

    #[test]
    fn goals_are_reached_step_by_step() {
        let first = view(8, 3, &[]);
        let table = [
            (
                Goal::Emptied(2),
                view(6, 1, &[(2, 50, 100), (1, 9, 9)]),
                false,
                "node 2: 2 of 8 replicas moved, 1 moving, 1 leads left",
            ),
            (
                Goal::Emptied(2),
                view(0, 0, &[]),
                true,
                "node 2: 8 of 8 replicas moved, 0 moving, 0 leads left",
            ),
            (Goal::Still, view(0, 0, &[(1, 0, 0)]), false, "1 moving"),
            (Goal::Still, view(0, 0, &[]), true, "0 moving"),
            (
                Goal::Replicas(5),
                view(0, 0, &[]),
                false,
                "0 of 1 shards have 5 replicas, 0 moving",
            ),
            (
                Goal::Joined(BTreeSet::from([2])),
                view(0, 0, &[]),
                false,
                "no new node has joined yet",
            ),
            (
                Goal::Moved {
                    shard: 0,
                    from: 1,
                    to: 4,
                },
                view(0, 0, &[(1, 1, 2)]),
                false,
                "shard 0: copying",
            ),
            (
                Goal::Moved {
                    shard: 0,
                    from: 4,
                    to: 3,
                },
                view(0, 0, &[]),
                true,
                "shard 0 is on node 3",
            ),
            (
                Goal::Led { shard: 0, to: 2 },
                view(0, 0, &[]),
                false,
                "shard 0 is led by node 1",
            ),
        ];
        for (goal, now, is_there, text) in table {
            let way = goal.way(&first, &now);
            assert_eq!(
                (way.is_there, way.text.as_str()),
                (is_there, text),
                "{goal:?}"
            );
        }
        // Two and a half of eight took five seconds: eleven are left.
        let way = Goal::Emptied(2).way(&first, &view(6, 1, &[(2, 50, 100)]));
        assert_eq!(way.left_ms(5_000), Some(11_000));
        assert_eq!(
            Goal::Still.way(&first, &view(0, 0, &[])).left_ms(5_000),
            None
        );
    }
}
