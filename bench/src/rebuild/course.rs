//! How a node without data becomes whole, as the looks at the cluster's state show it. Pure.

use corelith_client::{ClusterView, ViewChange};
use std::collections::BTreeMap;
use std::time::Duration;

/// The state must stay so for this long: a change may follow another one a moment later.
const STILL_FOR: Duration = Duration::from_secs(3);

/// What the looks add up to. Times count from the start of the round.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    node: u64,
    /// The store that the node had before.
    store: u128,
    /// When its first new replica was seen open.
    opened: Option<Duration>,
    /// Since when it is whole.
    whole: Option<Duration>,
    /// Of each shard: the most bytes that were to be copied, and the last that were.
    copies: BTreeMap<u32, (u64, u64)>,
    /// How often the bytes copied rose.
    steps: u64,
}

impl Course {
    /// The course of `node`, whose data was in `store`.
    pub(crate) fn new(node: u64, store: u128) -> Self {
        Self {
            node,
            store,
            opened: None,
            whole: None,
            copies: BTreeMap::new(),
            steps: 0,
        }
    }

    /// Takes a look.
    pub(crate) fn take(&mut self, at: Duration, view: &ClusterView) {
        for change in view.changes.iter().filter(|it| it.to == self.node) {
            if is_open(change) {
                self.opened.get_or_insert(at);
            }
            let (all, done) = self.copies.entry(change.shard).or_default();
            *all = change.bytes_all.max(*all);
            if change.bytes_done > *done {
                self.steps += 1;
            }
            *done = change.bytes_done;
        }
        let is_whole = self.opened.is_some() && self.has_all(view);
        self.whole = is_whole.then(|| self.whole.unwrap_or(at));
    }

    fn has_all(&self, view: &ClusterView) -> bool {
        let node = view.nodes.iter().find(|node| node.node == self.node);
        let is_new = node.is_some_and(|node| node.store != self.store && node.waiting == 0);
        let mut shards = view.shards.iter();
        let has_each = shards.all(|shard| shard.replicas.contains(&self.node));
        is_new && has_each && view.map_nodes.contains(&self.node) && view.changes.is_empty()
    }

    /// When the first new replica was seen open.
    pub(crate) fn opened(&self) -> Option<Duration> {
        self.opened
    }

    /// When the node was whole, once it has been for a while at `now`.
    pub(crate) fn whole(&self, now: Duration) -> Option<Duration> {
        self.whole.filter(|at| *at + STILL_FOR <= now)
    }

    /// Bytes that the state said were to be copied.
    pub(crate) fn bytes_shown(&self) -> u64 {
        self.copies.values().map(|(all, _)| all).sum()
    }

    /// How often the state showed more bytes copied than before.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }
}

fn is_open(change: &ViewChange) -> bool {
    change.bytes_all > 0 || ["joining", "copying", "changing voters"].contains(&&*change.phase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_client::{ViewNode, ViewShard};

    fn view(store: u128, replicas: &[u64], change: Option<(&str, u64, u64)>) -> ClusterView {
        let change = change.map(|(phase, bytes_done, bytes_all)| ViewChange {
            shard: 1,
            to: 3,
            phase: phase.to_owned(),
            bytes_done,
            bytes_all,
            ..ViewChange::default()
        });
        ClusterView {
            map_nodes: vec![1, 2, 3],
            nodes: vec![ViewNode {
                node: 3,
                store,
                ..ViewNode::default()
            }],
            shards: vec![ViewShard {
                replicas: replicas.to_vec(),
                leader: 1,
            }],
            changes: change.into_iter().collect(),
            ..ClusterView::default()
        }
    }

    #[test]
    fn a_node_is_whole_when_its_new_store_has_all_replicas_and_nothing_moves_for_a_while() {
        let all = [1, 2, 3];
        // Look, opened at, whole since.
        let table = [
            (view(7, &all, None), None, None),
            (view(8, &all, None), None, None),
            (view(8, &all, Some(("opening", 0, 0))), None, None),
            (view(8, &all, Some(("joining", 0, 0))), Some(3), None),
            (view(8, &all, Some(("copying", 5, 9))), Some(3), None),
            (view(8, &all, None), Some(3), Some(5)),
            (view(8, &all, Some(("copying", 5, 9))), Some(3), None),
            (view(8, &all, Some(("copying", 9, 9))), Some(3), None),
            (view(8, &[1, 2], None), Some(3), None),
            (view(8, &all, None), Some(3), Some(9)),
            (view(8, &all, None), Some(3), Some(9)),
        ];
        let (mut course, second) = (Course::new(3, 7), Duration::from_secs(1));
        for (at, (view, opened, whole)) in (0_u32..).zip(table) {
            course.take(second * at, &view);
            assert_eq!(course.opened(), opened.map(|at| second * at), "{at}");
            assert_eq!(course.whole, whole.map(|at| second * at), "{at}");
        }
        assert_eq!(course.whole(second * 11), None);
        assert_eq!(course.whole(second * 12), Some(second * 9));
        assert_eq!((course.bytes_shown(), course.steps()), (9, 2));
    }
}
