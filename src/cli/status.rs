//! `status`: prints the state of the cluster as tables, or as JSON.

use super::failure::Failure;
use super::output;
use super::table::TextTable;
use super::unserved::unserved;
use corelith_client::{
    Client, ClusterAnswer, ClusterAsk, ClusterOrder, ClusterStatus, DamagedPlace, MapNode,
    NodeStorage, ShardRole, ShardStatus, ShardStorage,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Prints the state.
///
/// # Errors
/// `Unserved`, after the state is printed, if some shards cannot serve requests.
pub(super) async fn run(client: &Client, as_json: bool) -> Result<(), Failure> {
    let status = client.status().await?;
    let reasons = match is_anything_down(&status) {
        true => reasons(&client.storage().await?),
        false => Reasons::new(),
    };
    let draining = draining(client).await;
    let text = if as_json {
        json_lines(&status, &reasons, &draining)?
    } else {
        tables(&status, &reasons, &draining)
    };
    output::text(&text)?;
    let replies = status
        .nodes
        .iter()
        .filter_map(|node| node.reply.as_ref().ok());
    let replicas = replies.flat_map(|reply| &reply.shards);
    let unserved = unserved(&status.map, replicas);
    match unserved.is_empty() {
        true => Ok(()),
        false => Err(Failure::Unserved { shards: unserved }),
    }
}

/// A node that another one has not heard for so long is named.
const HEARD_MS_MAX: u64 = 1_000;

/// How long the keeper of the map is asked which nodes are drained: without one the rest is shown all the same.
const DRAINING_WITHIN: Duration = Duration::from_secs(1);

/// The nodes that are drained, as far as the keeper of the map says.
async fn draining(client: &Client) -> BTreeSet<u64> {
    let ask = ClusterAsk {
        order: ClusterOrder::Status,
        dry_run: false,
    };
    let asked = tokio::time::timeout(DRAINING_WITHIN, client.cluster(&ask)).await;
    let Ok(Ok(ClusterAnswer::Status { view })) = asked else {
        return BTreeSet::new();
    };
    let drained = view.nodes.iter().filter(|node| node.state == "draining");
    drained.map(|node| node.node).collect()
}

/// The state of a node that answers.
fn state_of(node: u64, draining: &BTreeSet<u64>) -> &'static str {
    match draining.contains(&node) {
        true => "draining",
        false => "up",
    }
}

/// Why replicas are down, by shard and node.
type Reasons = BTreeMap<(u32, u64), String>;

fn is_anything_down(status: &ClusterStatus) -> bool {
    let replies = status
        .nodes
        .iter()
        .filter_map(|node| node.reply.as_ref().ok());
    let mut shards = replies.flat_map(|reply| &reply.shards);
    shards.any(|shard| shard.role == ShardRole::Down)
}

/// The first damaged place of each replica.
fn reasons(storage: &[NodeStorage]) -> Reasons {
    let replies = storage.iter().filter_map(|node| node.reply.as_ref().ok());
    let shards = replies.flat_map(|reply| reply.shards.iter().map(|shard| (shard, reply.node)));
    let reason = |(shard, node): (&ShardStorage, u64)| {
        let DamagedPlace {
            file, offset, what, ..
        } = shard.damages.first()?;
        let text = format!("{file}, offset {offset}: {what}");
        Some(((shard.shard, node), text))
    };
    shards.filter_map(reason).collect()
}

/// Why a replica is down. A node reports no cause other than damage.
fn reason<'a>(reasons: &'a Reasons, shard: &ShardStatus, node: u64) -> Option<&'a str> {
    let known = reasons.get(&(shard.shard, node)).map(String::as_str);
    let reason = known.unwrap_or("its storage failed, see the log of the node");
    (shard.role == ShardRole::Down).then_some(reason)
}

fn role(role: ShardRole) -> &'static str {
    match role {
        ShardRole::Leader => "leader",
        ShardRole::Follower => "follower",
        ShardRole::Candidate => "candidate",
        ShardRole::Learner => "learner",
        ShardRole::Down => "down",
    }
}

pub(super) fn address(node: &MapNode) -> String {
    format!("{}:{}", node.host, node.base_port)
}

fn tables(status: &ClusterStatus, reasons: &Reasons, draining: &BTreeSet<u64>) -> String {
    let mut nodes = TextTable::new(&[
        "NODE", "ADDRESS", "CORES", "VERSION", "UP", "LEADS", "STATE",
    ]);
    let mut shards = TextTable::new(&[
        "SHARD",
        "NODE",
        "CORE",
        "ROLE",
        "LEADER",
        "TERM",
        "LAST",
        "COMMITTED",
        "APPLIED",
        "CHECKPOINT",
        "PURGED",
        "UPLOADS",
        "STAGED",
        "DEAD",
    ]);
    let mut rows = Vec::new();
    for node in &status.nodes {
        let (id, cores) = (node.node.id.to_string(), node.node.cores.to_string());
        match &node.reply {
            Ok(reply) => {
                let leads = |shard: &&ShardStatus| shard.role == ShardRole::Leader;
                let uptime = Duration::from_millis(reply.uptime_ms);
                nodes.row([
                    id,
                    address(&node.node),
                    cores,
                    reply.version.clone(),
                    indicatif::HumanDuration(uptime).to_string(),
                    reply.shards.iter().filter(leads).count().to_string(),
                    state_of(node.node.id, draining).to_owned(),
                ]);
                rows.extend(reply.shards.iter().map(|shard| (shard, reply.node)));
            }
            Err(cause) => {
                let unknown = || "-".to_owned();
                let state = format!("down: {cause}");
                nodes.row([
                    id,
                    address(&node.node),
                    cores,
                    unknown(),
                    unknown(),
                    unknown(),
                    state,
                ]);
            }
        }
    }
    rows.sort_by_key(|(shard, node)| (shard.shard, *node));
    let mut down = String::new();
    for (shard, node) in rows {
        if let Some(reason) = reason(reasons, shard, node) {
            down += &format!("shard {} is down on node {node}: {reason}\n", shard.shard);
        }
        let leader = if shard.leader == 0 {
            "-".to_owned()
        } else {
            shard.leader.to_string()
        };
        shards.row([
            shard.shard.to_string(),
            node.to_string(),
            shard.core.to_string(),
            role(shard.role).to_owned(),
            leader,
            shard.term.to_string(),
            shard.last.to_string(),
            shard.committed.to_string(),
            shard.applied.to_string(),
            shard.checkpointed.to_string(),
            shard.purged.to_string(),
            shard.uploads.open.to_string(),
            indicatif::BinaryBytes(shard.uploads.staged_bytes).to_string(),
            indicatif::BinaryBytes(shard.uploads.dead_bytes).to_string(),
        ]);
    }
    down += &meta_shard(status);
    down += &what_nodes_say(status);
    let text = format!("{}\n{}", nodes.text(), shards.text());
    match down.is_empty() {
        true => text,
        false => format!("{text}\n{down}"),
    }
}

/// Who leads the meta shard, as far as it is not well.
fn meta_shard(status: &ClusterStatus) -> String {
    let replicas: Vec<&ShardStatus> = metas(status).map(|(meta, _)| meta).collect();
    let is_led = replicas.iter().any(|meta| meta.role == ShardRole::Leader);
    match replicas.is_empty() || is_led {
        true => String::new(),
        false => "the meta shard has no leader: nodes cannot join, and replicas are not moved or repaired\n".to_owned(),
    }
}

/// The replicas of the meta shard, and their nodes.
fn metas(status: &ClusterStatus) -> impl Iterator<Item = (&ShardStatus, u64)> {
    let replies = status
        .nodes
        .iter()
        .filter_map(|node| node.reply.as_ref().ok());
    replies.filter_map(|reply| Some((reply.meta.as_ref()?, reply.node)))
}

/// What nodes say of each other, as far as it is no good news.
fn what_nodes_say(status: &ClusterStatus) -> String {
    let mut lines = String::new();
    for stranger in strangers(status) {
        lines += &format!("refused by node {}: {}\n", stranger.by, stranger.why);
    }
    for peer in peers(status) {
        let troubles = peer.troubles();
        if !troubles.is_empty() {
            lines += &format!(
                "node {} says of node {}: {}\n",
                peer.by,
                peer.node,
                troubles.join(", ")
            );
        }
    }
    lines
}

/// A node that another one refuses.
#[derive(Serialize)]
struct StrangerLine {
    kind: &'static str,
    /// The node that it says it is.
    node: u64,
    /// Which node refuses it.
    by: u64,
    why: String,
}

/// Whom the nodes refuse.
fn strangers(status: &ClusterStatus) -> Vec<StrangerLine> {
    let replies = status
        .nodes
        .iter()
        .filter_map(|node| node.reply.as_ref().ok());
    let strangers = replies.flat_map(|reply| {
        reply.strangers.iter().map(|stranger| StrangerLine {
            kind: "stranger",
            node: stranger.node,
            by: reply.node,
            why: stranger.why.clone(),
        })
    });
    strangers.collect()
}

/// A node as another one sees it.
#[derive(Serialize)]
struct PeerLine<'a> {
    kind: &'static str,
    node: u64,
    /// Which node sees it so.
    by: u64,
    /// Null if it was never heard.
    heard_ms: Option<u64>,
    /// Whether `by` counts on its promise.
    counts: bool,
    /// Whether the promise that `by` gave it runs.
    promised: bool,
    clock_right: bool,
    health: &'a [String],
}

impl PeerLine<'_> {
    /// What is not as it should be. Of a node that is down that alone: the rest follows from it.
    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        match self.heard_ms {
            None => return vec!["it was never heard".to_owned()],
            Some(ms) if ms >= HEARD_MS_MAX => return vec![format!("it was heard {ms} ms ago")],
            Some(_) => {}
        }
        if !self.counts {
            troubles.push("its promise does not count".to_owned());
        }
        if !self.clock_right {
            troubles.push("its clock runs at another rate".to_owned());
        }
        troubles.extend(self.health.iter().map(|word| match word.as_str() {
            "full" => "its disk is full".to_owned(),
            "damaged" => "it has damaged files".to_owned(),
            "draining" => "its leads are to leave it".to_owned(),
            "slow" => "its disk is slow".to_owned(),
            other => other.to_owned(),
        }));
        troubles
    }
}

/// What the nodes say of each other.
fn peers(status: &ClusterStatus) -> Vec<PeerLine<'_>> {
    let replies = status
        .nodes
        .iter()
        .filter_map(|node| node.reply.as_ref().ok());
    let peers = replies.flat_map(|reply| {
        reply.peers.iter().map(|peer| PeerLine {
            kind: "peer",
            node: peer.node,
            by: reply.node,
            heard_ms: peer.heard_ms,
            counts: peer.counts,
            promised: peer.promised,
            clock_right: peer.is_clock_right,
            health: &peer.health,
        })
    });
    peers.collect()
}

#[derive(Serialize)]
struct ClusterLine {
    kind: &'static str,
    cluster: String,
    epoch: u32,
    shards: usize,
}

#[derive(Serialize)]
struct NodeLine<'a> {
    kind: &'static str,
    node: u64,
    address: String,
    cores: u16,
    up: bool,
    draining: bool,
    /// Null while it is up.
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_ms: Option<u64>,
}

/// Log positions are 0 where there is none yet; `leader` is null while it is not known.
#[derive(Serialize)]
struct ReplicaLine {
    kind: &'static str,
    shard: u32,
    node: u64,
    core: u16,
    role: &'static str,
    leader: Option<u64>,
    term: u64,
    last: u64,
    committed: u64,
    applied: u64,
    checkpoint: u64,
    purged: u64,
    /// Open uploads, the bytes of their chunks, and the bytes of replaced values that are not dropped yet.
    uploads: u64,
    staged_bytes: u64,
    dead_bytes: u64,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl ReplicaLine {
    fn new(shard: &ShardStatus, node: u64, reasons: &Reasons) -> Self {
        Self {
            kind: "replica",
            shard: shard.shard,
            node,
            core: shard.core,
            role: role(shard.role),
            leader: (shard.leader != 0).then_some(shard.leader),
            term: shard.term,
            last: shard.last,
            committed: shard.committed,
            applied: shard.applied,
            checkpoint: shard.checkpointed,
            purged: shard.purged,
            uploads: shard.uploads.open,
            staged_bytes: shard.uploads.staged_bytes,
            dead_bytes: shard.uploads.dead_bytes,
            reason: reason(reasons, shard, node).map(str::to_owned),
        }
    }
}

fn json_lines(
    status: &ClusterStatus,
    reasons: &Reasons,
    draining: &BTreeSet<u64>,
) -> Result<String, Failure> {
    let mut text = output::json_line(&ClusterLine {
        kind: "cluster",
        cluster: format!("{:016x}", status.map.cluster),
        epoch: status.map.epoch,
        shards: status.map.shards.len(),
    })?;
    let mut replicas = Vec::new();
    for node in &status.nodes {
        let reply = node.reply.as_ref();
        text += &output::json_line(&NodeLine {
            kind: "node",
            node: node.node.id,
            address: address(&node.node),
            cores: node.node.cores,
            up: reply.is_ok(),
            draining: draining.contains(&node.node.id),
            error: reply.err().map(ToString::to_string),
            version: reply.ok().map(|reply| reply.version.as_str()),
            uptime_ms: reply.ok().map(|reply| reply.uptime_ms),
        })?;
        let shards = reply.map_or(&[][..], |reply| reply.shards.as_slice());
        replicas.extend(
            shards
                .iter()
                .map(|shard| ReplicaLine::new(shard, node.node.id, reasons)),
        );
    }
    replicas.sort_by_key(|replica| (replica.shard, replica.node));
    for replica in replicas {
        text += &output::json_line(&replica)?;
    }
    for (meta, node) in metas(status) {
        let mut line = ReplicaLine::new(meta, node, reasons);
        line.kind = "meta";
        text += &output::json_line(&line)?;
    }
    for stranger in strangers(status) {
        text += &output::json_line(&stranger)?;
    }
    for peer in peers(status) {
        text += &output::json_line(&peer)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_drained_is_shown_so() {
        let draining = BTreeSet::from([2]);
        assert_eq!(
            [1, 2].map(|node| state_of(node, &draining)),
            ["up", "draining"]
        );
    }
}
