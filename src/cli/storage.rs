//! `status --storage`: prints the state of every shard's storage as tables, or as JSON.

use super::failure::Failure;
use super::output;
use super::status::address;
use super::table::TextTable;
use corelith_client::{Client, DamagedPlace, LevelStorage, NodeStorage, ScrubState, ShardStorage};
use serde::Serialize;

/// Prints the state.
pub(super) async fn run(client: &Client, as_json: bool) -> Result<(), Failure> {
    let nodes = client.storage().await?;
    let text = match as_json {
        true => json_lines(&nodes)?,
        false => tables(&nodes),
    };
    output::text(&text)
}

fn tables(nodes: &[NodeStorage]) -> String {
    let mut shards = TextTable::new(&[
        "SHARD", "NODE", "CORE", "POLICY", "TABLES", "BYTES", "SEGMENTS", "VALUES", "GARBAGE",
        "HIDDEN", "DEBT", "SCRUB", "DAMAGED", "RETURNS", "DISK",
    ]);
    let mut levels = TextTable::new(&[
        "SHARD",
        "NODE",
        "LEVEL",
        "RUNS",
        "TABLES",
        "BYTES",
        "ENTRIES",
        "DELETIONS",
    ]);
    let mut rest = String::new();
    let mut rows: Vec<(&ShardStorage, u64)> = Vec::new();
    for node in nodes {
        match &node.reply {
            Ok(reply) => rows.extend(reply.shards.iter().map(|shard| (shard, reply.node))),
            Err(cause) => {
                let address = address(&node.node);
                rest += &format!(
                    "node {} at {address} does not answer: {cause}\n",
                    node.node.id
                );
            }
        }
    }
    rows.sort_by_key(|(shard, node)| (shard.shard, *node));
    for (shard, node) in rows {
        shards.row(shard_row(shard, node));
        for level in &shard.levels {
            levels.row([
                shard.shard.to_string(),
                node.to_string(),
                level.level.to_string(),
                level.runs.to_string(),
                level.tables.to_string(),
                level.bytes.to_string(),
                level.entries.to_string(),
                level.deletions.to_string(),
            ]);
        }
        for place in &shard.damages {
            let DamagedPlace {
                file,
                offset,
                what,
                keys,
            } = place;
            rest += &format!("damage on node {node}: {file}, offset {offset}: {what} ({keys})\n");
        }
        if (shard.damages.len() as u64) < shard.damaged {
            let more = shard.damaged - shard.damages.len() as u64;
            rest += &format!(
                "damage on node {node}: {more} more places in shard {}\n",
                shard.shard
            );
        }
    }
    let parts = [shards.text(), levels.text_of_rows(), rest];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("\n")
}

fn shard_row(shard: &ShardStorage, node: u64) -> [String; 15] {
    let tables: u64 = shard.levels.iter().map(|level| level.tables).sum();
    let bytes: u64 = shard.levels.iter().map(|level| level.bytes).sum();
    [
        shard.shard.to_string(),
        node.to_string(),
        shard.core.to_string(),
        shard.policy.clone(),
        tables.to_string(),
        bytes.to_string(),
        shard.value_segments.to_string(),
        shard.value_bytes.to_string(),
        shard.garbage_bytes.to_string(),
        shard.hidden_garbage_bytes.to_string(),
        shard.debt_bytes.to_string(),
        progress(&shard.scrub),
        shard.damaged.to_string(),
        returns(shard),
        match shard.is_disk_full {
            true => "full".to_owned(),
            false => "ok".to_owned(),
        },
    ]
}

/// "4096: merges" if 4096 bytes will be freed, most of them by merges.
fn returns(shard: &ShardStorage) -> String {
    match shard.returning_bytes {
        0 => "-".to_owned(),
        bytes => format!("{bytes}: {}", shard.returning_waits_for),
    }
}

/// "3: 40%" in the third cycle, "3: done" after it.
fn progress(scrub: &ScrubState) -> String {
    let percent = u128::from(scrub.bytes_done) * 100 / u128::from(scrub.bytes_total.max(1));
    match (scrub.cycle, scrub.is_running) {
        (0, _) => "-".to_owned(),
        (cycle, true) => format!("{cycle}: {percent}%"),
        (cycle, false) => format!("{cycle}: done"),
    }
}

#[derive(Serialize)]
struct StorageNodeLine {
    kind: &'static str,
    node: u64,
    address: String,
    up: bool,
    error: Option<String>,
}

#[derive(Serialize)]
struct StorageLine<'a> {
    kind: &'static str,
    node: u64,
    #[serde(flatten)]
    shard: ShardFields<'a>,
}

fn json_lines(nodes: &[NodeStorage]) -> Result<String, Failure> {
    let mut text = String::new();
    let mut rows: Vec<(&ShardStorage, u64)> = Vec::new();
    for node in nodes {
        text += &output::json_line(&StorageNodeLine {
            kind: "node",
            node: node.node.id,
            address: address(&node.node),
            up: node.reply.is_ok(),
            error: node.reply.as_ref().err().map(ToString::to_string),
        })?;
        if let Ok(reply) = &node.reply {
            rows.extend(reply.shards.iter().map(|shard| (shard, node.node.id)));
        }
    }
    rows.sort_by_key(|(shard, node)| (shard.shard, *node));
    for (shard, node) in rows {
        text += &output::json_line(&StorageLine {
            kind: "storage",
            node,
            shard: shard.into(),
        })?;
    }
    Ok(text)
}

#[derive(Serialize)]
struct ShardFields<'a> {
    shard: u32,
    core: u16,
    policy: &'a str,
    levels: Vec<Level>,
    value_segments: u64,
    value_bytes: u64,
    garbage_bytes: u64,
    hidden_garbage_bytes: u64,
    returning_bytes: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    returning_waits_for: &'a str,
    debt_bytes: u64,
    memtable_bytes: u64,
    disk_full: bool,
    scrub: Scrub,
    damaged: u64,
    damages: Vec<DamageFields<'a>>,
}

#[derive(Serialize)]
struct Level {
    level: u32,
    runs: u64,
    tables: u64,
    bytes: u64,
    entries: u64,
    deletions: u64,
}

#[derive(Serialize)]
struct Scrub {
    cycle: u64,
    running: bool,
    bytes_done: u64,
    bytes_total: u64,
    damaged: u64,
}

#[derive(Serialize)]
struct DamageFields<'a> {
    file: &'a str,
    offset: u64,
    what: &'a str,
    keys: &'a str,
}

impl<'a> From<&'a ShardStorage> for ShardFields<'a> {
    fn from(shard: &'a ShardStorage) -> Self {
        let level = |level: &LevelStorage| Level {
            level: level.level,
            runs: level.runs,
            tables: level.tables,
            bytes: level.bytes,
            entries: level.entries,
            deletions: level.deletions,
        };
        let damage = |place: &'a DamagedPlace| DamageFields {
            file: &place.file,
            offset: place.offset,
            what: &place.what,
            keys: &place.keys,
        };
        Self {
            shard: shard.shard,
            core: shard.core,
            policy: &shard.policy,
            levels: shard.levels.iter().map(level).collect(),
            value_segments: shard.value_segments,
            value_bytes: shard.value_bytes,
            garbage_bytes: shard.garbage_bytes,
            hidden_garbage_bytes: shard.hidden_garbage_bytes,
            returning_bytes: shard.returning_bytes,
            returning_waits_for: &shard.returning_waits_for,
            debt_bytes: shard.debt_bytes,
            memtable_bytes: shard.memtable_bytes,
            disk_full: shard.is_disk_full,
            scrub: Scrub {
                cycle: shard.scrub.cycle,
                running: shard.scrub.is_running,
                bytes_done: shard.scrub.bytes_done,
                bytes_total: shard.scrub.bytes_total,
                damaged: shard.scrub.damaged,
            },
            damaged: shard.damaged,
            damages: shard.damages.iter().map(damage).collect(),
        }
    }
}
