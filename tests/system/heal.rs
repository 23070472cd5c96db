//! Damage of files heals by itself while the nodes run, and nobody notices.

use crate::cluster::{Cluster, NODES};
use crate::waiting;
use corelith_client::Client;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A scrubber that looks at everything again and again.
fn quick(configuration: String) -> String {
    configuration.replace(
        "[storage]\n",
        "[liveness]\nbeat_ms = 75\npromise_ms = 1500\n\n\
         [storage]\nscrub_bytes_per_second = 8388608\nscrub_cycle_seconds = 1\n",
    )
}

fn start() -> Cluster {
    let mut cluster = Cluster::idle();
    for node in 1..=NODES {
        cluster.spawn_with(node, quick);
    }
    for node in 1..=NODES {
        cluster.wait_for_line(&format!("node-{node}"), &["ready"]);
    }
    cluster
}

/// Enough for tables, and some values that go to the value log.
fn values() -> Content {
    let value = |number: usize| {
        let len = if number.is_multiple_of(20) { 2000 } else { 400 };
        format!("<{number:05}>").repeat(len).into_bytes()
    };
    let pairs = (0..8000).map(|number| (format!("key/{number:05}").into_bytes(), value(number)));
    pairs.collect()
}

async fn write(client: &Client, content: &Content) {
    stream::iter(content)
        .map(|(key, value)| async move {
            client.put(key.clone(), value.clone()).await.unwrap();
        })
        .buffer_unordered(64)
        .collect::<()>()
        .await;
}

async fn check(client: &Client, content: &Content) {
    stream::iter(content)
        .map(|(key, value)| async move {
            let found = client.get(key.clone()).await.unwrap();
            assert!(found.value == *value, "{}", key.escape_ascii());
        })
        .buffer_unordered(64)
        .collect::<()>()
        .await;
}

/// The files of a node's shards of that kind.
fn files(cluster: &Cluster, node: usize, kind: &str) -> Vec<PathBuf> {
    let mut todo = vec![cluster.data_dir(node).join("shards")];
    let mut found = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_str().unwrap().ends_with(kind) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Flips a bit in the first page from `at` on that holds something; says where.
fn flip(path: &Path, at: u64) -> Option<String> {
    let file = fs::File::options().read(true).write(true).open(path).ok()?;
    let mut page = [0; 4096];
    let mut place = at / 4096 * 4096;
    loop {
        file.read_exact_at(&mut page, place).ok()?;
        if page[40..].iter().any(|byte| *byte != 0) {
            break;
        }
        place += 4096;
    }
    file.write_all_at(&[page[44] ^ 0x10], place + 44).unwrap();
    Some(format!("{} at {place}", path.display()))
}

/// What the nodes say of the storage of each shard.
fn storage(cluster: &Cluster) -> Result<Vec<Value>, String> {
    let output = cluster.run(&["status", "--storage", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let shards: Vec<Value> = lines.filter(|line| line["kind"] == "storage").collect();
    match output.status.success() && !shards.is_empty() {
        true => Ok(shards),
        false => Err(format!("{output:?}")),
    }
}

/// What the nodes list as damaged.
fn damages(cluster: &Cluster) -> Vec<String> {
    match storage(cluster) {
        Ok(shards) => {
            let damages = shards
                .iter()
                .filter_map(|shard| shard["damages"].as_array());
            damages.flatten().map(Value::to_string).collect()
        }
        Err(why) => vec![why],
    }
}

/// How many cycles each shard's scrubber has begun at least.
fn cycles(cluster: &Cluster) -> u64 {
    let shards = storage(cluster).unwrap_or_default();
    let cycles = shards
        .iter()
        .filter_map(|shard| shard["scrub"]["cycle"].as_u64());
    cycles.min().unwrap_or(0)
}

fn wait_well(cluster: &Cluster) {
    let cycle = cycles(cluster) + 2;
    waiting::until("everything to be checked, and well", || {
        let damages = damages(cluster);
        match damages.is_empty() && cycles(cluster) >= cycle {
            true => Ok(()),
            false => Err(damages),
        }
    });
}

/// Has all nodes read everything from their disks.
fn export(cluster: &Cluster, name: &str, keys: usize) {
    let dir = cluster.path(name);
    let exported = cluster.run(&["export", dir.to_str().unwrap(), "--json"]);
    assert!(exported.status.success(), "{exported:?}");
    let text = String::from_utf8_lossy(&exported.stdout).into_owned();
    let told: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(told["keys"].as_u64(), Some(keys as u64), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_in_every_kind_of_file_heal_while_the_nodes_run() {
    let cluster = start();
    let client = cluster.client().await;
    let content = values();
    write(&client, &content).await;
    // One node, each kind of file; then all nodes, each in other places.
    for kind in [".sst", ".vlog", ".log", "MANIFEST"] {
        let files = files(&cluster, 2, kind);
        let flipped: Vec<_> = files.iter().filter_map(|path| flip(path, 20_000)).collect();
        eprintln!("{kind}: {flipped:?}");
        let keys = content.keys().len();
        export(&cluster, &format!("after{}", kind.trim_matches('.')), keys);
        wait_well(&cluster);
    }
    for (nth, kind) in [
        (1, ".sst"),
        (2, ".vlog"),
        (3, ".log"),
        (3, ".sst"),
        (1, "MANIFEST"),
    ] {
        for path in files(&cluster, nth, kind) {
            flip(&path, nth as u64 * 300_000 + 12_288);
        }
    }
    check(&client, &content).await;
    export(&cluster, "after-all", content.len());
    let found: Vec<_> = client.scan("").try_collect().await.unwrap();
    assert_eq!(found.len(), content.len());
    wait_well(&cluster);
    let identity = cluster.data_dir(1).join("node");
    flip(&identity, 0);
    cluster.wait_for_line("node-1", &["identity of the data directory was damaged"]);
    check(&client, &content).await;
    let status = cluster.run(&["status"]);
    assert!(status.status.success(), "{status:?}");
    let checked = cluster.run(&["status", "--storage"]);
    assert!(checked.status.success(), "{checked:?}");
}
