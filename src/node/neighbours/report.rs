//! What a node says of itself: to the map, where it is; to the leader of the meta shard, how its replicas are.

use super::Neighbours;
use crate::node::cluster::map::Map;
use crate::node::config::NodeConfig;
use crate::node::limits;
use crate::node::local::LocalGroups;
use corelith_consensus::Group;
use corelith_io::Instant;
use corelith_shards::{LogIndex, NodeId, ShardId};
use corelith_wire::StoreId;
use corelith_wire::peer::{
    HoldReport, LeadReport, NodeAsk, NodeReply, NodeReport, Registration, ReplicaMatch,
};
use std::rc::Rc;

impl Neighbours {
    /// Says how this node is, from time to time; never returns.
    pub(crate) async fn keep_reporting(self: Rc<Self>) {
        let mut told: Option<ReportTold> = None;
        loop {
            let (pause, leader) = match &told {
                Some(told) => (limits::REPORT_EVERY, told.leader),
                None => (limits::REPORT_AGAIN_AFTER, self.meta_leader()),
            };
            // Another leader is told at once.
            let _ = corelith_io::timeout(pause, self.other_meta_leader(leader)).await;
            Box::pin(self.register()).await;
            let of_core = |_: u16, groups: &LocalGroups| CoreSeen::of(groups);
            let state = self.mesh.ask_all(&self.local, of_core).await;
            let leader = self.meta_leader();
            let is_as_told = told.as_ref().is_some_and(|told| {
                told.state == state
                    // Another leader knows nothing yet.
                    && told.leader == leader
                    && told.at.elapsed() < limits::REPORT_AT_REST_EVERY
            });
            if is_as_told && !self.has_change() {
                continue;
            }
            // What a core that does not answer has would pass for lost.
            let Some(report) = self.report().await else {
                continue;
            };
            // Whoever leads the meta shard then is told the next time.
            let reply = Box::pin(self.ask_meta(&NodeAsk::Report(report))).await;
            let is_told = matches!(reply, Some(NodeReply::Done { .. }));
            told = is_told.then(|| ReportTold {
                at: corelith_io::now(),
                leader,
                state,
            });
        }
    }

    /// Whether a shard of the map changes.
    fn has_change(&self) -> bool {
        let map = self.map.now();
        map.map()
            .is_none_or(|map| map.all_shards().any(|(_, shard)| shard.change.is_some()))
    }

    /// Has the map say where this node is, if it says something else.
    async fn register(&self) {
        let map = self.map.now();
        let Some(map) = map.map() else { return };
        let Some(registration) = registration(&self.config, self.me, self.store, map) else {
            return;
        };
        if let Some(NodeReply::Map { bytes }) =
            self.ask_meta(&NodeAsk::Register(registration)).await
            && let Ok(map) = Map::decode(&bytes)
        {
            self.news.take(map).await;
        }
    }

    /// How this node and its replicas are; `None` if a core does not answer in time, or has not opened its shards yet.
    pub(crate) async fn report(&self) -> Option<NodeReport> {
        let of_core = |_: u16, groups: &LocalGroups| (holds(groups), leads(groups));
        let cores = self.mesh.ask_all(&self.local, of_core).await;
        if cores.len() < usize::from(self.config.cores) {
            return None;
        }
        let (holds, leads): (Vec<_>, Vec<_>) = cores.into_iter().unzip();
        let mut holds: Vec<HoldReport> = holds.into_iter().flatten().collect();
        let mut leads: Vec<LeadReport> = leads.into_iter().flatten().collect();
        holds.sort_by_key(|hold| hold.shard);
        leads.sort_by_key(|lead| lead.shard);
        assert!(
            holds.is_sorted_by(|a, b| a.shard < b.shard)
                && leads.is_sorted_by(|a, b| a.shard < b.shard),
            "a shard is on one core"
        );
        let free = corelith_io::free_bytes(&self.config.data_dir).await;
        Some(NodeReport {
            store: self.store.0,
            free_bytes: free.unwrap_or_default(),
            used_bytes: holds.iter().map(|hold| hold.bytes).sum(),
            leads,
            holds,
        })
    }
}

/// What was told last.
struct ReportTold {
    at: Instant,
    /// Who led the meta shard then, as far as this node knew.
    leader: Option<NodeId>,
    state: Vec<CoreSeen>,
}

/// What shows whether the replicas of a core are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CoreSeen {
    /// What its groups have done.
    activity: u64,
    running: usize,
    down: usize,
}

impl CoreSeen {
    fn of(groups: &LocalGroups) -> Self {
        Self {
            activity: groups.activity(),
            running: groups.count(),
            down: groups.down().len(),
        }
    }
}

/// What a node that is configured like that asks the map to say; `None` if it says so.
fn registration(
    config: &NodeConfig,
    node: NodeId,
    store: StoreId,
    map: &Map,
) -> Option<Registration> {
    let known = map.node(node)?;
    let place = &config.place;
    let is_same = (known.host.as_str(), known.port, known.cores)
        == (place.host.as_str(), place.port, config.cores)
        && (known.zone.as_str(), known.region.as_str())
            == (place.zone.as_str(), place.region.as_str());
    let is_claimed = known.store == store || known.store == StoreId::ANY;
    (!is_same || !is_claimed).then(|| Registration {
        node: node.0,
        store: store.0,
        host: place.host.clone(),
        port: place.port,
        cores: config.cores,
        zone: place.zone.clone(),
        region: place.region.clone(),
    })
}

fn holds(groups: &LocalGroups) -> Vec<HoldReport> {
    let hold = |shard: ShardId, bytes, is_down| HoldReport {
        shard: shard.0,
        generation: groups.generation(shard),
        bytes,
        is_down,
    };
    let running = groups.all();
    let running = running
        .iter()
        .map(|group| hold(group.shard(), bytes(group), false));
    let down = groups.down();
    let down = down.iter().map(|down| hold(down.shard, 0, true));
    running.chain(down).collect()
}

/// Bytes of the files of a replica, its log aside.
fn bytes(group: &Group) -> u64 {
    let report = group.engine().report();
    let tables: u64 = report.levels.iter().map(|level| level.bytes).sum();
    tables + report.garbage.bytes
}

fn leads(groups: &LocalGroups) -> Vec<LeadReport> {
    let groups = groups.all();
    groups.iter().filter_map(lead).collect()
}

fn lead(group: &Group) -> Option<LeadReport> {
    let progress = group.progress()?;
    let members = group.members();
    let index = |index: Option<LogIndex>| index.map_or(0, |index| index.0);
    let voters = members
        .voters
        .iter()
        .map(|voters| voters.iter().map(|replica| replica.0).collect());
    let sending = group.sending();
    let matching = progress.others.iter().map(|other| {
        let node = other.replica.node();
        let copy = sending.iter().find(|(to, ..)| *to == node);
        let (copied_bytes, copy_bytes) = copy.map_or((0, 0), |(_, sent, all)| (*sent, *all));
        ReplicaMatch {
            replica: other.replica.0,
            index: index(other.matching),
            copied_bytes,
            copy_bytes,
        }
    });
    Some(LeadReport {
        shard: group.shard().0,
        term: group.status().term.0,
        voters: voters.collect(),
        learners: members.learners.iter().map(|replica| replica.0).collect(),
        at: members.at.map_or(0, |at| at.index.0),
        is_committed: members.is_committed,
        last: index(progress.last),
        matching: matching.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_wire::FullClusterId;
    use corelith_wire::peer::Charter;

    #[test]
    fn a_node_registers_what_the_map_does_not_say() {
        let text = |more: &str| {
            format!(
                "node = {{ id = 1, data_dir = \"/d\"{more} }}\n\
                 cluster = {{ name = \"c\", shards = 1, nodes = [{{ id = 1, host = \"h\", port = 7, cores = 2 }}] }}"
            )
        };
        let config = |more: &str| NodeConfig::parse("t", &text(more)).unwrap();
        let charter = |store| Charter {
            cluster: FullClusterId(7),
            stores: vec![(NodeId(1), StoreId(store))],
        };
        let table = [
            ("", 5, 5, None),
            (", zone = \"a\"", 5, 5, Some(("a", 2))),
            (", cores = 3", 5, 5, Some(("", 3))),
            // Whoever comes first claims the slot.
            ("", 0, 5, Some(("", 2))),
            ("", u128::MAX, 5, None),
        ];
        for (more, chartered, store, expected) in table {
            let map = Map::first(&config("").cluster, &charter(chartered)).unwrap();
            let found = registration(&config(more), NodeId(1), StoreId(store), &map);
            let found = found.map(|r| (r.zone, r.cores));
            let expected = expected.map(|(zone, cores)| (zone.to_owned(), cores));
            assert_eq!(found, expected, "{more} {chartered}");
        }
        let map = Map::first(&config("").cluster, &charter(5)).unwrap();
        let other = registration(&config(""), NodeId(2), StoreId(5), &map);
        assert_eq!(
            other, None,
            "a node that the map does not have asks to join"
        );
    }
}
