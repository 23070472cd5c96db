//! The state of the cluster as tables, or as JSON.

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::table::TextTable;
use corelith_client::{ClusterView, ViewChange, ViewNode};
use indicatif::{HumanBytes, HumanDuration};
use serde::Serialize;
use std::time::Duration;

/// How the shard of the map is named; its number is the largest.
fn shard_name(shard: u32) -> String {
    match shard {
        u32::MAX => "map".to_owned(),
        shard => shard.to_string(),
    }
}

fn node_name(node: u64) -> String {
    match node {
        0 => "-".to_owned(),
        node => node.to_string(),
    }
}

/// Milliseconds that the copy of a change takes, if it goes on as so far.
fn left_ms(change: &ViewChange) -> Option<u64> {
    let left = change.bytes_all.checked_sub(change.bytes_done)?;
    let all = u128::from(change.running_ms) * u128::from(left);
    u64::try_from(all.checked_div(change.bytes_done.into())?).ok()
}

pub(super) fn tables(view: &ClusterView) -> String {
    let names: Vec<String> = view.map_nodes.iter().map(u64::to_string).collect();
    let mut text = format!(
        "cluster {:032x}, version {}; map {} on nodes {}, led by node {}\n\n",
        view.cluster,
        view.version,
        view.epoch,
        names.join(", "),
        node_name(view.leader)
    );
    text += &nodes(&view.nodes);
    let moves = moves(&view.changes);
    if !moves.is_empty() {
        text += &format!("\n{moves}");
    }
    let settings = view.settings.iter();
    let settings: Vec<String> = settings
        .map(|of| format!("{}={}", of.key, of.value))
        .collect();
    text += &format!("\nsettings: {}\n", settings.join(" "));
    for trouble in &view.troubles {
        text += &format!("{trouble}\n");
    }
    text
}

fn nodes(nodes: &[ViewNode]) -> String {
    let mut table = TextTable::new(&[
        "NODE", "ADDRESS", "REGION", "ZONE", "CORES", "STATE", "REPLICAS", "LEADS", "USED", "FREE",
        "HEARD",
    ]);
    let or_none = |text: &str| match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    };
    for node in nodes {
        // What was not reported yet is not known.
        let bytes = |count| match node.heard_ms {
            Some(_) => HumanBytes(count).to_string(),
            None => "-".to_owned(),
        };
        let heard = node.heard_ms.map(|ms| {
            let ago = Duration::from_millis(ms);
            format!("{} ago", HumanDuration(ago))
        });
        table.row([
            node.node.to_string(),
            format!("{}:{}", node.host, node.port),
            or_none(&node.region),
            or_none(&node.zone),
            node.cores.to_string(),
            node.state.clone(),
            node.replicas.to_string(),
            node.leads.to_string(),
            bytes(node.used_bytes),
            bytes(node.free_bytes),
            heard.unwrap_or_else(|| not_heard(node)),
        ]);
    }
    table.text()
}

/// Of a node that has not reported to who leads the map now.
fn not_heard(node: &ViewNode) -> String {
    match node.state.as_str() {
        "removed" => "-".to_owned(),
        _ => "not yet".to_owned(),
    }
}

fn moves(changes: &[ViewChange]) -> String {
    let mut table = TextTable::new(&["SHARD", "FROM", "TO", "WHY", "PHASE", "COPIED", "LEFT"]);
    for change in changes {
        let copied = match change.bytes_all {
            0 => "-".to_owned(),
            all => format!("{} of {}", HumanBytes(change.bytes_done), HumanBytes(all)),
        };
        let left = left_ms(change).map(|ms| HumanDuration(Duration::from_millis(ms)).to_string());
        table.row([
            shard_name(change.shard),
            node_name(change.from),
            node_name(change.to),
            change.why.clone(),
            change.phase.clone(),
            copied,
            left.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.text_of_rows()
}

#[derive(Serialize)]
struct ViewLine {
    kind: &'static str,
    cluster: String,
    epoch: u32,
    version: u32,
    /// Null while none is known.
    map_leader: Option<u64>,
    map_nodes: Vec<u64>,
    shards: usize,
}

#[derive(Serialize)]
struct SettingLine<'a> {
    kind: &'static str,
    key: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct MemberLine<'a> {
    kind: &'static str,
    node: u64,
    store: String,
    /// Another store that comes as this node; null if there is none.
    waiting: Option<String>,
    address: String,
    cores: u16,
    region: &'a str,
    zone: &'a str,
    state: &'a str,
    /// Null if it has not reported to the node that leads the map now.
    heard_ms: Option<u64>,
    replicas: u32,
    prefers: u32,
    leads: u32,
    used_bytes: u64,
    free_bytes: u64,
}

#[derive(Serialize)]
struct MoveLine<'a> {
    kind: &'static str,
    shard: String,
    from: Option<u64>,
    to: Option<u64>,
    why: &'a str,
    phase: &'a str,
    bytes_done: u64,
    bytes_all: u64,
    running_ms: u64,
    left_ms: Option<u64>,
}

#[derive(Serialize)]
struct PlacedLine<'a> {
    kind: &'static str,
    shard: usize,
    replicas: &'a [u64],
    leader: Option<u64>,
}

#[derive(Serialize)]
struct TroubleLine<'a> {
    kind: &'static str,
    text: &'a str,
}

fn some(node: u64) -> Option<u64> {
    (node != 0).then_some(node)
}

pub(super) fn json_lines(view: &ClusterView) -> Result<String, Failure> {
    let mut text = output::json_line(&ViewLine {
        kind: "cluster",
        cluster: format!("{:032x}", view.cluster),
        epoch: view.epoch,
        version: view.version,
        map_leader: some(view.leader),
        map_nodes: view.map_nodes.clone(),
        shards: view.shards.len(),
    })?;
    for setting in &view.settings {
        text += &output::json_line(&SettingLine {
            kind: "setting",
            key: &setting.key,
            value: &setting.value,
        })?;
    }
    for node in &view.nodes {
        text += &output::json_line(&member(node))?;
    }
    for (shard, placed) in view.shards.iter().enumerate() {
        text += &output::json_line(&PlacedLine {
            kind: "placement",
            shard,
            replicas: &placed.replicas,
            leader: some(placed.leader),
        })?;
    }
    for change in &view.changes {
        text += &output::json_line(&MoveLine {
            kind: "move",
            shard: shard_name(change.shard),
            from: some(change.from),
            to: some(change.to),
            why: &change.why,
            phase: &change.phase,
            bytes_done: change.bytes_done,
            bytes_all: change.bytes_all,
            running_ms: change.running_ms,
            left_ms: left_ms(change),
        })?;
    }
    for trouble in &view.troubles {
        let text_of = TroubleLine {
            kind: "trouble",
            text: trouble,
        };
        text += &output::json_line(&text_of)?;
    }
    Ok(text)
}

fn member(node: &ViewNode) -> MemberLine<'_> {
    MemberLine {
        kind: "member",
        node: node.node,
        store: format!("{:032x}", node.store),
        waiting: (node.waiting != 0).then(|| format!("{:032x}", node.waiting)),
        address: format!("{}:{}", node.host, node.port),
        cores: node.cores,
        region: &node.region,
        zone: &node.zone,
        state: &node.state,
        heard_ms: node.heard_ms,
        replicas: node.replicas,
        prefers: node.prefers,
        leads: node.leads,
        used_bytes: node.used_bytes,
        free_bytes: node.free_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_client::{ViewSetting, ViewShard};

    fn view() -> ClusterView {
        ClusterView {
            cluster: 0xab,
            epoch: 7,
            version: 4,
            leader: 1,
            map_nodes: vec![1, 2, 3],
            settings: vec![ViewSetting {
                key: "replicas".to_owned(),
                value: "3".to_owned(),
            }],
            nodes: vec![ViewNode {
                node: 2,
                store: 5,
                host: "10.0.0.2".to_owned(),
                port: 7411,
                cores: 4,
                zone: "b".to_owned(),
                state: "draining".to_owned(),
                replicas: 12,
                leads: 3,
                heard_ms: Some(2_000),
                used_bytes: 1 << 30,
                free_bytes: 2 << 30,
                ..ViewNode::default()
            }],
            shards: vec![ViewShard {
                replicas: vec![2],
                leader: 0,
            }],
            changes: vec![ViewChange {
                shard: u32::MAX,
                to: 4,
                from: 2,
                why: "drain".to_owned(),
                phase: "copying".to_owned(),
                bytes_done: 1 << 20,
                bytes_all: 4 << 20,
                running_ms: 2_000,
            }],
            troubles: vec!["shard 0 has no leader that reports".to_owned()],
        }
    }

    #[test]
    fn the_state_is_shown_as_tables() {
        let text = tables(&view());
        let expected = "\
cluster 000000000000000000000000000000ab, version 4; map 7 on nodes 1, 2, 3, led by node 1

NODE  ADDRESS        REGION  ZONE  CORES  STATE     REPLICAS  LEADS  USED      FREE      HEARD
2     10.0.0.2:7411  -       b     4      draining  12        3      1.00 GiB  2.00 GiB  2 seconds ago

SHARD  FROM  TO  WHY    PHASE    COPIED                LEFT
map    2     4   drain  copying  1.00 MiB of 4.00 MiB  6 seconds

settings: replicas=3
shard 0 has no leader that reports
";
        assert_eq!(text, expected);
    }

    #[test]
    fn each_line_of_json_says_its_kind() {
        let text = json_lines(&view()).unwrap();
        let kinds: Vec<String> = text
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["kind"].as_str().unwrap().to_owned()
            })
            .collect();
        let expected = [
            "cluster",
            "setting",
            "member",
            "placement",
            "move",
            "trouble",
        ];
        assert_eq!(kinds, expected);
        assert!(text.contains("\"left_ms\":6000"), "{text}");
    }
}
