//! What nodes report of themselves to whoever leads the shard of the cluster map, and how long changes have made no
//! progress. Belongs to that leader; a new one begins with none and is told again.

use crate::node::cluster::map::Map;
use corelith_wire::{LogIndex, NodeId, ReplicaId, ShardId, StoreId, Term};
use std::collections::{BTreeMap, BTreeSet};

/// How long a node is given no replicas after a change that added one there was given up.
pub const AVOIDED_MS: u64 = 300_000;

/// All reports. Times are milliseconds of one clock.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// Now.
    pub now: u64,
    /// When this leader began to listen: before, no node can have been heard.
    pub since_ms: u64,
    /// The last report of each node.
    pub nodes: BTreeMap<NodeId, NodeReport>,
    watches: BTreeMap<ShardId, ChangeWatch>,
    /// Nodes that are given no replicas, and until when.
    avoided: BTreeMap<NodeId, u64>,
    /// Replicas of the map that their nodes, which are heard, do not name, and since when.
    missing: BTreeMap<(ShardId, ReplicaId), u64>,
}

/// What a node says of itself. It says so only once it knows what it holds: a replica of the map that it does not
/// name is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// When it came.
    pub heard_ms: u64,
    /// The node's store.
    pub store: StoreId,
    /// Bytes of its device that are free.
    pub free_bytes: u64,
    /// Bytes of its device in use.
    pub used_bytes: u64,
    /// The shards that it leads.
    pub leads: BTreeMap<ShardId, LeadReport>,
    /// The shards that it has a replica of.
    pub holds: BTreeMap<ShardId, HoldReport>,
}

/// What a leader says of its shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeadReport {
    /// Its term: of two that say they lead the later one does.
    pub term: Term,
    /// Those that vote; two sets while the membership is joint.
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// Those that only get the log.
    pub learners: BTreeSet<ReplicaId>,
    /// Index of the membership.
    pub at: LogIndex,
    /// Whether the membership is committed.
    pub is_committed: bool,
    /// The last index of its log.
    pub last: LogIndex,
    /// Up to where the logs of the others are as its own.
    pub matching: BTreeMap<ReplicaId, LogIndex>,
    /// Bytes of files that are copied to a replica that comes, done and all.
    pub copying: BTreeMap<ReplicaId, CopyReport>,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Bytes that have arrived.
    pub bytes_done: u64,
    /// Bytes of the whole.
    pub bytes_all: u64,
}

/// What a node says of a replica on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldReport {
    /// Its generation.
    pub generation: u16,
    /// Bytes of its files.
    pub bytes: u64,
    /// Whether it cannot be opened again.
    pub is_down: bool,
}

/// How a change goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeWatch {
    /// The replica that it adds.
    pub add: Option<ReplicaId>,
    /// When this leader of the map saw it first.
    pub begun_ms: u64,
    /// When it last got on.
    pub risen_ms: u64,
    /// How far it is: whether the replica is open, what is copied, and where its log ends.
    progress: (bool, u64, LogIndex),
}

impl Reports {
    /// None yet.
    pub fn new(now: u64) -> Self {
        Self {
            now,
            since_ms: now,
            ..Self::default()
        }
    }

    /// Takes a node's report.
    pub fn take(&mut self, node: NodeId, mut report: NodeReport) {
        report.heard_ms = self.now;
        self.nodes.insert(node, report);
    }

    /// For how long a node was not heard.
    pub fn silence_ms(&self, node: NodeId) -> u64 {
        let heard = self.nodes.get(&node).map(|report| report.heard_ms);
        let last = heard.unwrap_or(self.since_ms);
        self.now.saturating_sub(last)
    }

    /// How a shard's change goes on.
    pub fn watch(&self, shard: ShardId) -> Option<&ChangeWatch> {
        self.watches.get(&shard)
    }

    /// Whether a node is given no replicas for a while.
    pub fn is_avoided(&self, node: NodeId) -> bool {
        let until = self.avoided.get(&node);
        until.is_some_and(|until| *until > self.now)
    }

    /// The leader of a shard among nodes that were heard within that time, and what it says.
    pub fn lead(&self, shard: ShardId, within_ms: u64) -> Option<(NodeId, &LeadReport)> {
        let silence_ms = |report: &NodeReport| self.now.saturating_sub(report.heard_ms);
        let all = self.nodes.iter();
        let heard = all.filter(|(_, report)| silence_ms(report) < within_ms);
        let leads = heard.filter_map(|(node, report)| Some((*node, report.leads.get(&shard)?)));
        leads.max_by_key(|(_, lead)| lead.term)
    }

    /// Goes on to another time: notes which changes got on, and which were given up.
    pub fn tick(&mut self, map: &Map, now: u64) {
        self.now = self.now.max(now);
        let mut before = std::mem::take(&mut self.watches);
        for (id, shard) in map.all_shards() {
            let Some(change) = shard.change else {
                let given_up = before.remove(&id).and_then(|watch| watch.add);
                if let Some(add) = given_up.filter(|add| !shard.replicas.contains(add)) {
                    let until = self.now.saturating_add(AVOIDED_MS);
                    self.avoided.insert(add.node(), until);
                }
                continue;
            };
            let progress = self.progress(id, change.add);
            let fresh = ChangeWatch {
                add: change.add,
                begun_ms: self.now,
                risen_ms: self.now,
                progress,
            };
            let watch = match before.remove(&id) {
                Some(known) if known.add == change.add && known.progress == progress => known,
                Some(known) if known.add == change.add => ChangeWatch {
                    begun_ms: known.begun_ms,
                    ..fresh
                },
                _ => fresh,
            };
            self.watches.insert(id, watch);
        }
        assert!(
            self.watches.len() <= map.shards.len() + 1,
            "a shard has one change"
        );
        assert!(
            self.watches
                .values()
                .all(|watch| watch.begun_ms <= watch.risen_ms),
            "a change begins before it gets on"
        );
        self.avoided.retain(|_, until| *until > self.now);
        self.note_missing(map);
        self.nodes.retain(|node, _| map.node(*node).is_some());
    }

    fn note_missing(&mut self, map: &Map) {
        let mut before = std::mem::take(&mut self.missing);
        for (id, shard) in map.all_shards() {
            for replica in &shard.replicas {
                let node = self.nodes.get(&replica.node());
                let is_named = node.is_none_or(|node| {
                    let hold = node.holds.get(&id);
                    hold.is_some_and(|hold| hold.generation == replica.generation())
                });
                if !is_named {
                    let since = before.remove(&(id, *replica)).unwrap_or(self.now);
                    self.missing.insert((id, *replica), since);
                }
            }
        }
    }

    /// For how long a replica was not among those that its node names; `None` if that was not looked at.
    pub fn missing_ms(&self, shard: ShardId, replica: ReplicaId) -> Option<u64> {
        let since = self.missing.get(&(shard, replica))?;
        Some(self.now.saturating_sub(*since))
    }

    fn progress(&self, shard: ShardId, add: Option<ReplicaId>) -> (bool, u64, LogIndex) {
        let Some(add) = add else {
            return (false, 0, LogIndex(0));
        };
        let hold = self
            .nodes
            .get(&add.node())
            .and_then(|n| n.holds.get(&shard));
        let is_open = hold.is_some_and(|hold| hold.generation == add.generation());
        let lead = self.lead(shard, u64::MAX).map(|(_, lead)| lead);
        let copied = lead.and_then(|lead| lead.copying.get(&add));
        let matching = lead.and_then(|lead| lead.matching.get(&add));
        (
            is_open,
            copied.map_or(0, |copy| copy.bytes_done),
            matching.copied().unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::NodeConfig;
    use corelith_wire::FullClusterId;
    use corelith_wire::peer::Charter;

    #[test]
    fn a_replica_is_missing_since_the_first_report_without_it() {
        let text = "node = { id = 1, data_dir = \"/d\" }\n\
             cluster = { name = \"c\", shards = 1, nodes = [{id=1,host=\"h\",port=1}] }";
        let config = NodeConfig::parse("t", text).unwrap();
        let charter = Charter {
            cluster: FullClusterId(9),
            stores: vec![(NodeId(1), StoreId(11))],
        };
        let map = Map::first(&config.cluster, &charter).unwrap();
        let (shard, replica) = (ShardId(0), ReplicaId::first(NodeId(1)));
        let holding = NodeReport {
            holds: [(shard, HoldReport::default())].into(),
            ..NodeReport::default()
        };
        let mut reports = Reports::new(0);
        // (when, the report that came, for how long the replica is missing then)
        let table = [
            (0, None, None),
            (1_000, Some(NodeReport::default()), Some(0)),
            (4_000, Some(NodeReport::default()), Some(3_000)),
            (5_000, Some(holding), None),
            (6_000, Some(NodeReport::default()), Some(0)),
        ];
        for (now, report, expected) in table {
            reports.now = now;
            if let Some(report) = report {
                reports.take(NodeId(1), report);
            }
            reports.tick(&map, now);
            assert_eq!(reports.missing_ms(shard, replica), expected, "at {now}");
        }
    }
}
