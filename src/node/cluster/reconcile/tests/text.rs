//! Maps, reports and steps as text, so that plans read as tables.
//!
//! ```text
//! # what the plan shows
//! plan replicas=3 moves=8 per_node=2 balance manual
//! nodes: 1 2/drain 3/dead 4/z=b
//! s0: 1 2 3 +4.1 -1 lead=2 learners=4.1
//! ----
//! begin s1 +4 -1 drain
//! ```
//! A node is `drain`ed, or `removed`; `silent` for a moment, `gone` for a minute, or `dead` for an hour; has come with a `new`
//! store; has a `full` disk; or is in a zone `z` and region `r`. A replica is its node, and its generation if that is
//! not 0. Each is held and all vote, unless: `lost` and `down` name nodes, `holds` other replicas that are held,
//! `voters` sets and `learners` what the leader says. `none` leads, or `lead`.

use crate::node::cluster::map::{
    Change, Map, MapEdit, MapNode, MapSettings, MapShard, NodeState, Rejoin, Why,
};
use crate::node::cluster::reconcile::{AskStep, PlanLimits, Step, next};
use crate::node::cluster::reports::{HoldReport, LeadReport, NodeReport, Reports};
use corelith_wire::{Epoch, FullClusterId, LogIndex, NodeId, ReplicaId, ShardId, StoreId, Term};
use std::collections::{BTreeMap, BTreeSet};

const NOW: u64 = 10_000_000;

/// Checks each case.
pub(super) fn check(cases: &str) {
    for case in cases.split("\n\n") {
        let lines: Vec<&str> = case
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        let Some(end) = lines.iter().position(|line| *line == "----") else {
            assert!(lines.is_empty(), "a case has an answer: {case}");
            continue;
        };
        let expected: Vec<&str> = lines[end + 1..].to_vec();
        let (map, reports) = world(&lines[..end]);
        assert_eq!(map.check(), Ok(()), "{case}");
        // What a node does not name is missing for long enough.
        let limits = PlanLimits {
            missing_ms: 0,
            ..PlanLimits::default()
        };
        let steps = next(&map, &reports, &limits);
        let found: Vec<String> = steps.iter().map(text).collect();
        assert_eq!(found, expected, "{case}");
    }
}

fn replica(text: &str) -> ReplicaId {
    let (node, generation) = text.split_once('.').unwrap_or((text, "0"));
    ReplicaId::new(
        NodeId(node.parse().expect("a node")),
        generation.parse().expect("a generation"),
    )
}

fn replicas(text: &str) -> impl Iterator<Item = ReplicaId> + '_ {
    text.split(',').map(replica)
}

fn world(lines: &[&str]) -> (Map, Reports) {
    let mut settings = MapSettings::first(3, 0);
    settings.balance = false;
    for word in lines[0].split(' ').skip(1) {
        match word.split_once('=') {
            Some(("replicas", n)) => settings.replicas = n.parse().expect("a number"),
            Some(("moves", n)) => settings.moves_max = n.parse().expect("a number"),
            Some(("per_node", n)) => settings.moves_per_node_max = n.parse().expect("a number"),
            None if word == "balance" => settings.balance = true,
            None if word == "manual" => settings.rejoin = Rejoin::Manual,
            _ => panic!("a plan has no {word}"),
        }
    }
    let mut reports = Reports::new(0);
    reports.now = NOW;
    let nodes = lines[1].strip_prefix("nodes: ").expect("nodes");
    let nodes: BTreeMap<NodeId, MapNode> = nodes
        .split(' ')
        .map(|word| node(word, &mut reports))
        .collect();
    let mut meta = None;
    let mut shards = Vec::new();
    for line in &lines[2..] {
        let (name, words) = line.split_once(": ").expect("a shard");
        let id = match name {
            "meta" => ShardId::META,
            _ => ShardId(shards.len() as u32),
        };
        let shard = shard(id, words, &mut reports);
        match name {
            "meta" => meta = Some(shard),
            _ => shards.push(shard),
        }
    }
    let quiet = MapShard {
        replicas: vec![ReplicaId::first(*nodes.keys().next().expect("a node"))],
        epoch: Epoch(1),
        membership: LogIndex(0),
        next_generation: 1,
        change: None,
    };
    if shards.is_empty() {
        shards.push(quiet.clone());
    }
    let map = Map {
        epoch: Epoch(1),
        cluster: FullClusterId(1),
        version: 4,
        settings,
        next_node: nodes.keys().last().expect("a node").0 + 1,
        nodes,
        shards,
        meta: meta.unwrap_or(quiet),
    };
    // It has watched since a while.
    reports.now = NOW - 600_000;
    let is_stalled = lines.iter().any(|line| line.contains("stalled"));
    reports.tick(&map, if is_stalled { 0 } else { NOW });
    reports.tick(&map, NOW);
    (map, reports)
}

fn node(word: &str, reports: &mut Reports) -> (NodeId, MapNode) {
    let mut words = word.split('/');
    let id: u64 = words.next().unwrap().parse().expect("a node");
    let mut node = MapNode {
        store: StoreId(id.into()),
        host: "h".to_owned(),
        port: 7000,
        cores: 1,
        zone: String::new(),
        region: String::new(),
        state: NodeState::Active,
    };
    let mut report = NodeReport {
        heard_ms: NOW - 500,
        store: node.store,
        free_bytes: 900 << 30,
        used_bytes: 100 << 30,
        ..NodeReport::default()
    };
    for word in words {
        match word.split_once('=') {
            Some(("z", zone)) => zone.clone_into(&mut node.zone),
            Some(("r", region)) => region.clone_into(&mut node.region),
            None if word == "drain" => node.state = NodeState::Draining,
            None if word == "removed" => node.state = NodeState::Removed,
            None if word == "silent" => report.heard_ms = NOW - 20_000,
            None if word == "gone" => report.heard_ms = NOW - 60_000,
            None if word == "dead" => report.heard_ms = NOW - 3_600_000,
            None if word == "new" => report.store = StoreId(u128::from(id) + 1000),
            None if word == "full" => report.free_bytes = 1 << 30,
            _ => panic!("a node has no {word}"),
        }
    }
    reports.nodes.insert(NodeId(id), report);
    (NodeId(id), node)
}

fn shard(id: ShardId, words: &str, reports: &mut Reports) -> MapShard {
    let mut shard = MapShard {
        replicas: Vec::new(),
        epoch: Epoch(1),
        membership: LogIndex(0),
        next_generation: 1,
        change: None,
    };
    let mut change = Change {
        add: None,
        remove: None,
        why: Why::Drain,
    };
    let mut lead = LeadReport {
        term: Term(1),
        at: LogIndex(5),
        is_committed: true,
        last: LogIndex(100),
        ..LeadReport::default()
    };
    let (mut leader, mut lost, mut down, mut held) = (None, vec![], vec![], vec![]);
    let mut bytes = 0;
    for word in words.split(' ') {
        match word.split_once('=') {
            Some(("lead", node)) => leader = Some(replica(node).node()),
            Some(("learners", list)) => lead.learners = replicas(list).collect(),
            Some(("voters", sets)) => {
                lead.voters = sets.split('|').map(|set| replicas(set).collect()).collect();
            }
            Some(("match", pair)) => {
                let (who, index) = pair.split_once(':').expect("an index");
                let index = LogIndex(index.parse().expect("an index"));
                lead.matching.insert(replica(who), index);
            }
            Some(("last", index)) => lead.last = LogIndex(index.parse().expect("an index")),
            Some(("at", index)) => lead.at = LogIndex(index.parse().expect("an index")),
            Some(("membership", index)) => {
                shard.membership = LogIndex(index.parse().expect("an index"));
            }
            Some(("gen", next)) => shard.next_generation = next.parse().expect("a generation"),
            Some(("lost", list)) => lost = replicas(list).collect(),
            Some(("down", list)) => down = replicas(list).collect(),
            Some(("holds", list)) => held = replicas(list).collect(),
            Some(("MiB", n)) => bytes = n.parse::<u64>().expect("a number") << 20,
            None if word == "none" || word == "stalled" => {}
            None if word == "uncommitted" => lead.is_committed = false,
            None => match word.split_at_checked(1) {
                Some(("+", add)) => change.add = Some(replica(add)),
                Some(("-", remove)) => change.remove = Some(replica(remove)),
                _ => shard.replicas.push(replica(word)),
            },
            _ => panic!("a shard has no {word}"),
        }
    }
    if let Some(add) = change.add {
        shard.next_generation = add.generation() + 1;
    }
    if change.add.is_some() || change.remove.is_some() {
        shard.change = Some(change);
    }
    if lead.voters.is_empty() {
        lead.voters = vec![shard.replicas.iter().copied().collect()];
    }
    for replica in shard.replicas.iter().chain(&held) {
        if lost.contains(replica) {
            continue;
        }
        let hold = HoldReport {
            generation: replica.generation(),
            bytes,
            is_down: down.contains(replica),
        };
        let report = reports.nodes.get_mut(&replica.node()).expect("a node");
        if report.store.0 < 1000 {
            report.holds.insert(id, hold);
        }
    }
    if let Some(leader) = leader {
        let report = reports.nodes.get_mut(&leader).expect("a node");
        report.leads.insert(id, lead);
    }
    shard
}

fn shard_name(shard: ShardId) -> String {
    match shard {
        ShardId::META => "meta".to_owned(),
        shard => shard.to_string(),
    }
}

fn name(replica: &ReplicaId) -> String {
    replica.to_string().replacen('n', "", 1)
}

fn names<'a>(replicas: impl IntoIterator<Item = &'a ReplicaId>) -> String {
    let names: Vec<String> = replicas.into_iter().map(name).collect();
    names.join(" ")
}

fn text(step: &Step) -> String {
    match step {
        Step::Edit(MapEdit::Begin {
            shard,
            add,
            remove,
            why,
        }) => {
            let add = add.map_or(String::new(), |node| format!(" +{}", node.0));
            let remove = remove.map_or(String::new(), |r| format!(" -{}", name(&r)));
            let why = format!("{why:?}").to_lowercase();
            format!("begin {}{add}{remove} {why}", shard_name(*shard))
        }
        Step::Edit(MapEdit::End {
            shard,
            replicas,
            membership,
        }) => format!(
            "end {}: {} at {membership}",
            shard_name(*shard),
            names(replicas)
        ),
        Step::Edit(MapEdit::Undo { shard, membership }) => {
            format!("undo {} at {membership}", shard_name(*shard))
        }
        Step::Edit(MapEdit::Prefer { shard, leader }) => {
            format!("prefer {} {}", shard_name(*shard), leader.0)
        }
        Step::Edit(MapEdit::Store { node, store }) => format!("store {} = {}", node.0, store.0),
        Step::Edit(edit) => panic!("no plan has {edit:?}"),
        Step::Ask { at, shard, step } => {
            let shard = shard_name(*shard);
            let what = match step {
                AskStep::Open { replica } => format!("open {shard} {}", name(replica)),
                AskStep::AddLearner { replica, .. } => format!("learner {shard} {}", name(replica)),
                AskStep::SetVoters { voters } => {
                    let set: BTreeSet<ReplicaId> = voters.clone();
                    format!("voters {shard} {}", names(&set))
                }
                AskStep::RemoveLearner { replica } => format!("unlearn {shard} {}", name(replica)),
                AskStep::Lead { to } => format!("lead {shard} {}", to.0),
            };
            format!("ask {}: {what}", at.0)
        }
    }
}
