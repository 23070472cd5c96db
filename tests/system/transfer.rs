//! Exports and imports give back every key and value, say what they leave out, and go on where they
//! stopped.

use crate::cluster::{Cluster, signal};
use crate::seccomp;
use crate::waiting::{self, DEADLINE};
use corelith_client::{Client, ShardRole};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

async fn content(client: &Client) -> Content {
    let entries: Vec<_> = client.scan("").try_collect().await.unwrap();
    let pairs = entries
        .iter()
        .map(|entry| (entry.key.to_vec(), entry.value.bytes().unwrap().to_vec()));
    pairs.collect()
}

async fn write(client: &Client, content: &Content) {
    for (key, value) in content {
        client.put(key.clone(), value.clone()).await.unwrap();
    }
}

async fn clear(client: &Client, content: &Content) {
    for key in content.keys() {
        client.delete(key.clone()).await.unwrap();
    }
}

/// The last line of an output as JSON.
fn totals(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_durable_is_not_in_the_manifest() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let content = Content::from([
        (b"a".to_vec(), b"1".to_vec()),
        (b"b/c".to_vec(), b"2".to_vec()),
    ]);
    write(&client, &content).await;
    let dir = cluster.path("not-durable");
    let export = ["export", dir.to_str().unwrap(), "--json"];
    let mut command = cluster.command(&export);
    seccomp::fail_to_sync(&mut command);
    let failed = command.output().unwrap();
    assert_eq!(failed.status.code(), Some(5), "{failed:?}");
    let manifest = fs::read_to_string(dir.join(".corelith-export")).unwrap_or_default();
    assert!(!manifest.contains("\"kind\":\"key\""), "{manifest}");
    let done = cluster.run(&export);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(totals(&done)["keys"], 2, "{done:?}");
}

/// Keys that are no names of files, or whose names stand in each other's way.
fn awkward() -> Content {
    let keys: &[&[u8]] = &[
        b"a",
        b"a/b",
        b"a/b/c",
        b"a/",
        b"/a",
        b"a//b",
        b"/",
        b".",
        b"..",
        b"../up",
        b"x/../y",
        b"x/./y",
        b"100%",
        b"%41",
        b"A",
        b"%key-0",
        b".corelith-export",
        b".corelith-export/x",
        b"tab\tnew\nline",
        b"zero\0",
        b"\xff\xfe",
        b"gr\xc3\xbcn",
        b"blank key ",
        b"-dash",
        b"\\back\\slash",
        b"\"quoted\"",
    ];
    let mut content: Content = keys
        .iter()
        .map(|key| (key.to_vec(), [b"value of ", *key].concat()))
        .collect();
    content.insert(b"empty".to_vec(), Vec::new());
    content.insert(b"bytes".to_vec(), (0..=255).collect());
    content.insert(vec![b'k'; 4096], b"longest key".to_vec());
    content.insert([b'/'; 300].to_vec(), b"only slashes".to_vec());
    content.insert(vec![0xff; 4096], b"longest name".to_vec());
    content.insert(b"large".to_vec(), vec![7; 3 << 20]);
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn any_key_and_value_comes_back() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let before = awkward();
    write(&client, &before).await;
    let dir = cluster.path("out");
    let exported = cluster.run(&["export", dir.to_str().unwrap(), "--json"]);
    assert!(exported.status.success(), "{exported:?}");
    assert_eq!(totals(&exported)["keys"], before.len());
    let above: Vec<_> = fs::read_dir(cluster.path("")).unwrap().collect();
    assert!(
        above
            .iter()
            .all(|entry| entry.as_ref().unwrap().file_name() != "up"),
        "no key leads out of the directory"
    );

    clear(&client, &before).await;
    assert_eq!(content(&client).await, Content::new());
    let imported = cluster.run(&["import", dir.to_str().unwrap(), "--json"]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(totals(&imported)["keys"], before.len());
    assert_eq!(totals(&imported)["skipped"], 0);
    assert_eq!(content(&client).await, before);

    // A part under another prefix. Of keys whose names stand in each other's way any may have its own.
    let part = cluster.path("part");
    cluster.run_ok(&["export", part.to_str().unwrap(), "--prefix", "a/"]);
    cluster.run_ok(&["import", part.to_str().unwrap(), "--prefix", "copy/"]);
    assert_eq!(cluster.run_ok(&["get", "copy/a/b"]), "value of a/b");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_told_and_counted() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let tree = cluster.path("tree");
    fs::create_dir_all(tree.join("folder")).unwrap();
    fs::write(tree.join("good"), "good").unwrap();
    fs::write(tree.join("folder/empty"), "").unwrap();
    fs::write(tree.join("large"), vec![0; 9 << 20]).unwrap();
    std::os::unix::fs::symlink("good", tree.join("link")).unwrap();
    let dir = tree.to_str().unwrap();
    let imported = cluster.run(&["import", dir, "--json"]);
    assert_eq!(imported.status.code(), Some(2), "{imported:?}");
    let complaint = said(&imported);
    assert!(
        complaint.contains("large: the value is too large: it has 9437184 bytes"),
        "{complaint}"
    );
    assert!(complaint.contains("link: skipped"), "{complaint}");
    assert!(complaint.contains("1 of 3 failed"), "{complaint}");
    let told = totals(&imported);
    let counts = ["keys", "bytes", "failed", "skipped"].map(|name| told[name].as_u64().unwrap());
    assert_eq!(counts, [2, 4, 1, 1], "{told}");
    let expected = [("folder/empty", ""), ("good", "good")];
    let expected = expected.map(|(key, value)| (key.into(), value.into()));
    assert_eq!(content(&client).await, Content::from(expected));

    // What an export does not list is no part of it; what was changed since is not imported.
    let out = cluster.path("out");
    let dir = out.to_str().unwrap();
    cluster.run_ok(&["export", dir]);
    fs::write(out.join("stray"), "stray").unwrap();
    fs::write(out.join("good"), "bad!").unwrap();
    let imported = cluster.run(&["import", dir, "--json"]);
    assert_eq!(imported.status.code(), Some(6), "{imported:?}");
    assert!(said(&imported).contains("good is damaged"), "{imported:?}");
    let told = totals(&imported);
    let counts = ["keys", "failed", "skipped"].map(|name| told[name].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1], "{told}");
    assert_eq!(cluster.run_ok(&["get", "good"]), "good");
}

/// Every value log segment of the cluster that holds `needle`, and where.
fn segments_with(cluster: &Cluster, needle: &[u8]) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    let mut todo = vec![cluster.path("")];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.as_os_str().as_bytes().ends_with(b".vlog") {
                let bytes = fs::read(&path).unwrap();
                let at = bytes.windows(needle.len()).position(|part| part == needle);
                found.extend(at.map(|at| (path, at)));
            }
        }
    }
    found
}

fn flip(path: &Path, at: usize) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at as u64).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_goes_on_past_a_value_that_cannot_be_read() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let value = |number: usize| format!("<{number:04}>").repeat(2000).into_bytes();
    let before: Content = (0..20)
        .map(|number| (format!("key/{number:02}").into_bytes(), value(number)))
        .collect();
    write(&client, &before).await;
    let places = waiting::until("every replica to have the value", || {
        let places = segments_with(&cluster, &value(7));
        match places.len() {
            3 => Ok(places),
            _ => Err(places),
        }
    });
    places.iter().for_each(|(path, at)| flip(path, at + 5000));

    let dir = cluster.path("out");
    let dir = dir.to_str().unwrap();
    let read = cluster.run(&["get", "key/07"]);
    assert_eq!(
        read.status.code(),
        Some(6),
        "damage has a code of its own: {read:?}"
    );
    let exported = cluster.run(&["export", dir, "--json"]);
    assert_eq!(exported.status.code(), Some(6), "{exported:?}");
    assert!(said(&exported).contains("key/07: "), "{exported:?}");
    assert!(said(&exported).contains("1 of 20 failed"), "{exported:?}");
    let told = totals(&exported);
    let counts = ["keys", "bytes", "failed"].map(|name| told[name].as_u64().unwrap());
    assert_eq!(counts, [19, 19 * 12_000, 1], "{told}");
    let refused = cluster.run(&["import", dir]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(said(&refused).contains("lacks one key"), "{refused:?}");

    // The same command tries what failed again.
    client.put("key/07", value(7)).await.unwrap();
    let exported = cluster.run(&["export", dir, "--json"]);
    assert!(exported.status.success(), "{exported:?}");
    assert_eq!(totals(&exported)["keys"], 1);
    clear(&client, &before).await;
    cluster.run_ok(&["import", dir]);
    assert_eq!(content(&client).await, before);
}

/// The leader with the damage hands its lead on, and the reads wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_damaged_at_the_leader_is_read_from_its_successor() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let value = "<0007>".repeat(2000).into_bytes();
    client.put("key", value.clone()).await.unwrap();
    let places = waiting::until("every replica to have the value", || {
        let places = segments_with(&cluster, &value);
        match places.len() {
            3 => Ok(places),
            _ => Err(places),
        }
    });
    let shard = client.get("key").lookup().await.unwrap().shard;
    let status = client.status().await.unwrap();
    let replies = status
        .nodes
        .iter()
        .flat_map(|node| node.reply.as_ref().ok());
    let leader = replies
        .flat_map(|reply| reply.shards.iter().map(|replica| (replica, reply.node)))
        .find(|(replica, _)| replica.shard == shard && replica.role == ShardRole::Leader)
        .map(|(_, node)| cluster.data_dir(node as usize))
        .unwrap();
    let of_leader = |place: &&(PathBuf, usize)| place.0.starts_with(&leader);
    let (path, at) = places.iter().find(of_leader).unwrap();
    flip(path, at + 5000);
    assert_eq!(client.get("key").await.unwrap().value, value);
    let found: Vec<_> = client.scan("").try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_broken_off_goes_on() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let before: Content = (0..50)
        .map(|number| (format!("key/{number:02}").into_bytes(), vec![number; 100]))
        .collect();
    write(&client, &before).await;
    let out = cluster.path("out");
    let dir = out.to_str().unwrap();
    cluster.run_ok(&["export", dir]);
    // As a kill leaves it: in the middle of the line of the 31st key.
    let manifest = out.join(".corelith-export");
    let text = fs::read_to_string(&manifest).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let whole: usize = lines[..31].iter().map(|line| line.len()).sum();
    fs::write(&manifest, &text[..whole + 20]).unwrap();
    for number in 31..50 {
        fs::remove_file(out.join(format!("key/{number}"))).unwrap();
    }
    fs::write(out.join("key/30"), "half").unwrap();

    let refused = cluster.run(&["import", dir]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(said(&refused).contains("not complete"), "{refused:?}");
    let other = cluster.run(&["export", dir, "--prefix", "key"]);
    assert_eq!(other.status.code(), Some(2), "{other:?}");
    let exported = cluster.run(&["export", dir, "--json"]);
    assert!(exported.status.success(), "{exported:?}");
    assert_eq!(totals(&exported)["keys"], 20);
    let again = cluster.run(&["export", dir]);
    assert!(
        said(&again).contains("already holds a complete export"),
        "{again:?}"
    );

    clear(&client, &before).await;
    cluster.run_ok(&["import", dir]);
    assert_eq!(content(&client).await, before);
}

/// Ctrl-C, which has an exit code of its own.
async fn interrupt(process: Child) -> Output {
    signal("INT", process.id());
    let output = tokio::time::timeout(
        DEADLINE,
        tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()),
    );
    let output = output.await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_interrupted_goes_on() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let keys = (0..2000).map(|number| format!("key/{number:04}"));
    stream::iter(keys)
        .for_each_concurrent(64, |key| async {
            client.put(key, "value").await.unwrap();
        })
        .await;
    let out = cluster.path("out");
    let dir = out.to_str().unwrap();
    let mut command = cluster.command(&["export", dir, "--in-flight", "1", "--json"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let export = command.spawn().unwrap();
    waiting::until("some keys to be exported", || {
        let manifest = fs::read_to_string(out.join(".corelith-export")).unwrap_or_default();
        match manifest.lines().count() {
            count if count > 100 => Ok(()),
            count => Err(count),
        }
    });
    let output = interrupt(export).await;
    let told = totals(&output);
    let exported = told["keys"].as_u64().unwrap();
    assert!((100..2000).contains(&exported), "{told}");
    assert!(
        said(&output).contains("repeat the same command to continue"),
        "{output:?}"
    );
    let rest = cluster.run(&["export", dir, "--json"]);
    assert!(rest.status.success(), "{rest:?}");
    assert_eq!(totals(&rest)["keys"], 2000 - exported);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_interrupted_says_how_to_go_on() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let tree = cluster.path("tree");
    fs::create_dir(&tree).unwrap();
    let before: Content = (0..3000)
        .map(|number| (format!("file {number:04}").into_bytes(), vec![b'x'; 100]))
        .collect();
    for (name, value) in &before {
        fs::write(tree.join(std::str::from_utf8(name).unwrap()), value).unwrap();
    }
    let dir = tree.to_str().unwrap();
    let mut command = cluster.command(&["import", dir, "--in-flight", "1", "--json"]);
    let import = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    waiting::until_async("some files to be imported", || async {
        match client.get("file 0100").await {
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await;
    let output = interrupt(import).await;
    let told = totals(&output);
    let imported = told["keys"].as_u64().unwrap();
    assert!((100..3000).contains(&imported), "{told}");
    assert_eq!(told["complete"], false);

    let said = said(&output);
    let (_, after) = said.split_once("--after ").unwrap();
    let after = after.lines().next().unwrap();
    assert_eq!(after, format!("file%20{:04}", imported - 1));
    let rest = cluster.run(&["import", dir, "--after", after, "--json"]);
    assert!(rest.status.success(), "{rest:?}");
    assert_eq!(totals(&rest)["keys"], 3000 - imported);
    assert_eq!(content(&client).await, before);
}
