//! Directories that are not what they seem: no vote, no lost write, one clear sentence.

use crate::cluster::{Cluster, Running, connect, corelith, free_ports, signal};
use crate::waiting;
use corelith_client::Client;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a node that takes part in nothing is told, whatever it is.
const STRANGER: [&str; 3] = [
    "it has no vote and takes part in nothing",
    "the data of the cluster is on its other nodes",
    "start",
];

/// Writes that were acknowledged.
#[derive(Default)]
struct Written(u32);

impl Written {
    /// Writes some keys more.
    async fn more(&mut self, client: &Client) {
        for _ in 0..20 {
            let key = format!("key-{}", self.0);
            client.put(&key, key.clone()).await.unwrap();
            self.0 += 1;
        }
    }

    /// All of them are there.
    async fn are_there(&self, client: &Client) {
        for number in 0..self.0 {
            let key = format!("key-{number}");
            let found = client.get(&key).await.unwrap();
            assert_eq!(found.value.as_ref(), key.as_bytes());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// Waits for the sentence of a stranger and prints it.
fn told(cluster: &Cluster, log: &str, words: &[&str]) -> String {
    let line = cluster.wait_for_line(log, &[words, &STRANGER].concat());
    println!("{line}");
    line
}

/// The configuration of a node 3 in another directory, at another port.
fn twin_of_3(cluster: &Cluster, dir: &Path, port: u16) -> String {
    let own = cluster.data_dir(3).display().to_string();
    cluster.configuration(3).replace(
        &format!("data_dir = \"{own}\""),
        &format!(
            "listen = \"127.0.0.1:{port}\"\ndata_dir = \"{}\"",
            dir.display()
        ),
    )
}

/// The same for a node that does not find the others.
fn unheard(cluster: &Cluster, configuration: &str) -> String {
    let mut alone = configuration.to_owned();
    for (peer, port) in (1..).zip(free_ports(2)) {
        let known = format!("port = {}\n", cluster.port(peer));
        alone = alone.replace(&known, &format!("port = {port}\n"));
    }
    alone
}

/// With one member of three alone nothing is acknowledged, whoever else is there.
fn nothing_is_acknowledged(cluster: &Cluster) {
    for key in ["a", "b", "c", "d", "e", "f"] {
        let output = cluster.run(&["put", "--timeout", "1", key, "must not be acknowledged"]);
        assert!(!output.status.success(), "{output:?}");
    }
}

fn status_says(cluster: &Cluster, words: &[&str]) {
    let said = waiting::until(&format!("{words:?} in the status"), || {
        // A node that takes part in nothing counts as down.
        let status = cluster.run(&["status"]).stdout;
        let status = String::from_utf8(status).unwrap();
        let found = words.iter().all(|word| status.contains(word));
        found.then(|| status.clone()).ok_or(status)
    });
    let lines = said.lines().filter(|line| line.starts_with("refused"));
    lines.for_each(|line| println!("{line}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_directory() {
    let mut cluster = Cluster::start();
    cluster.run_ok(&["cluster", "set", "rejoin", "manual"]);
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    cluster.start_node(3);
    told(
        &cluster,
        "node-3",
        &["not the one that the cluster knows as node 3"],
    );
    cluster.wait_for_line("node-1", &["node 3 has come with the store", "no vote"]);
    status_says(
        &cluster,
        &["refused by node 1: node 3 has come with the store"],
    );
    written.more(&client).await;

    // The stranger is no second of a majority, not after another start either.
    cluster.kill(2);
    nothing_is_acknowledged(&cluster);
    cluster.kill(3);
    cluster.start_node(3);
    nothing_is_acknowledged(&cluster);
    cluster.start_node(2);
    let client = cluster.client().await;
    written.more(&client).await;

    // It is taken in again when an operator lets it, and counts: with one of the others it goes on.
    cluster.run_ok(&["cluster", "set", "rejoin", "auto"]);
    waiting::until("node 3 to be whole again", || caught_up(&cluster));
    cluster.kill(2);
    written.more(&client).await;
    written.are_there(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_restored_from_an_image() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    let image = cluster.path("image");
    copy(&cluster.data_dir(3), &image);
    for _ in 0..2 {
        cluster.start_node(3);
        cluster.wait_for_line("node-3", &["ready"]);
        written.more(&client).await;
        cluster.kill(3);
    }
    fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    copy(&image, &cluster.data_dir(3));
    // It has been started more often since than before, and nobody has heard of it.
    let alone = unheard(&cluster, &cluster.configuration(3));
    for _ in 0..5 {
        let mut unheard = cluster.spawn_beside("unheard", &alone);
        unheard.wait_until_listening(cluster.port(3));
        unheard.kill();
    }
    // However often it is started, and although its incarnation rises each time.
    for _ in 0..4 {
        cluster.start_node(3);
        told(&cluster, "node-3", &["old state of node 3"]);
        cluster.kill(3);
        fs::remove_file(cluster.path("node-3.log")).unwrap();
    }
    cluster.start_node(3);
    status_says(&cluster, &["node 3 has come with an old state"]);
    cluster.kill(2);
    nothing_is_acknowledged(&cluster);
    cluster.start_node(2);
    let client = cluster.client().await;
    written.more(&client).await;
    written.are_there(&client).await;
}

/// The mark of a node's store, as its own directory or that of another node, which has met it, has it.
fn mark(dir: &Path, of: Option<usize>) -> u64 {
    let file = dir.join("node").display().to_string();
    let output = corelith().args(["inspect", &file]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let start = of.map_or("mark: ".to_owned(), |node| format!("met: n{node} "));
    let line = text.lines().find(|line| line.starts_with(&start));
    let last = line.and_then(|line| line.split(' ').next_back());
    last.and_then(|mark| mark.parse().ok()).unwrap_or(0)
}

/// An image that was taken while the node ran, put back after it has acknowledged writes that only one other node
/// has: before its next start alone, and while all others were started again too.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_restored_from_an_image_of_the_running_node() {
    for are_all_stopped in [false, true] {
        let mut cluster = Cluster::start();
        let mut written = Written::default();
        let client = cluster.client().await;
        written.more(&client).await;
        let image = cluster.path("image");
        signal("STOP", cluster.id(3));
        copy(&cluster.data_dir(3), &image);
        signal("CONT", cluster.id(3));
        cluster.kill(2);
        let client = cluster.client().await;
        written.more(&client).await;
        let then = mark(&image, None);
        waiting::until("node 1 to meet a later mark of node 3", || {
            let met = mark(&cluster.data_dir(1), Some(3));
            if met > then { Ok(()) } else { Err(met) }
        });
        written.more(&client).await;
        cluster.kill(3);
        if are_all_stopped {
            cluster.kill(1);
        }
        fs::remove_dir_all(cluster.data_dir(3)).unwrap();
        copy(&image, &cluster.data_dir(3));
        fs::remove_file(cluster.path("node-3.log")).unwrap();
        cluster.start_node(3);
        if are_all_stopped {
            cluster.start_node(1);
        }
        let words = [
            "old state of node 3",
            "the mark of its store is",
            "restored from an image that was taken while the node ran",
        ];
        told(&cluster, "node-3", &words);
        status_says(
            &cluster,
            &["refused by node 1: node 3 has come with an old state of its store, mark"],
        );
        // Node 2 lacks the last writes, and so does the image.
        cluster.kill(1);
        cluster.start_node(2);
        nothing_is_acknowledged(&cluster);
        cluster.start_node(1);
        let client = cluster.client().await;
        written.are_there(&client).await;
        written.more(&client).await;
    }
}

/// Two of three directories are emptied while the third is down: the two nodes form no other cluster, and say so.
#[tokio::test(flavor = "multi_thread")]
async fn emptied_directories_of_an_existing_cluster() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    let existing = |c: String| c.replace("shards = 4", "shards = 4\nexisting = true");
    for node in 1..=3 {
        cluster.kill(node);
    }
    for node in [1, 2] {
        fs::rename(
            cluster.data_dir(node),
            cluster.path(&format!("unmounted-{node}")),
        )
        .unwrap();
        cluster.spawn_with(node, existing);
    }
    let words = ["is new, and by `cluster.existing`", "none is formed"];
    println!("{}", cluster.wait_for_line("node-1", &words));
    cluster.wait_for_line("node-2", &words);
    nothing_is_acknowledged(&cluster);
    for node in [1, 2] {
        cluster.kill(node);
        fs::remove_dir_all(cluster.data_dir(node)).unwrap();
        fs::rename(
            cluster.path(&format!("unmounted-{node}")),
            cluster.data_dir(node),
        )
        .unwrap();
        cluster.spawn_with(node, existing);
    }
    let client = cluster.client().await;
    written.are_there(&client).await;
    cluster.spawn_with(3, existing);
    written.more(&client).await;
}

/// A copy beside its original: whoever is there first stays, the other is told what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_copied_directory() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    let copied = cluster.path("copy");
    copy(&cluster.data_dir(3), &copied);
    cluster.start_node(3);
    cluster.wait_for_line("node-3", &["ready"]);
    written.more(&client).await;

    let elsewhere = free_ports(1)[0];
    let configuration = twin_of_3(&cluster, &copied, elsewhere);
    // Started as often as the original, and once more than that.
    for _ in 0..2 {
        let mut twin = cluster.spawn_beside("twin", &configuration);
        twin.wait_until_listening(elsewhere);
        told(&cluster, "twin", &["old state of node 3"]);
        twin.kill();
        fs::remove_file(cluster.path("twin.log")).unwrap();
    }
    let mut twin = cluster.spawn_beside("twin", &configuration);
    twin.wait_until_listening(elsewhere);
    told(&cluster, "twin", &["old state of node 3"]);
    // The original has its vote, and the copy none.
    cluster.kill(2);
    written.more(&client).await;
    cluster.kill(3);
    nothing_is_acknowledged(&cluster);
    cluster.start_node(2);
    let client = cluster.client().await;
    written.are_there(&client).await;
}

/// A copy that was started more often than its original, which runs: the original answers, so the copy is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_started_more_often() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    let copied = cluster.path("copy");
    copy(&cluster.data_dir(3), &copied);
    let elsewhere = free_ports(1)[0];
    let configuration = twin_of_3(&cluster, &copied, elsewhere);
    // Where nobody hears of it.
    let alone = unheard(&cluster, &configuration);
    for _ in 0..3 {
        let mut twin = cluster.spawn_beside("twin", &alone);
        twin.wait_until_listening(elsewhere);
        twin.kill();
    }
    cluster.start_node(3);
    cluster.wait_for_line("node-3", &["ready"]);
    let mut twin = cluster.spawn_beside("twin", &configuration);
    twin.wait_until_listening(elsewhere);
    told(&cluster, "twin", &["old state of node 3"]);
    cluster.kill(2);
    written.more(&client).await;
    written.are_there(&client).await;
}

/// A directory and its copy, started at once: at most one of them is node 3, and the other is told.
#[tokio::test(flavor = "multi_thread")]
async fn two_copies_at_once() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    let copied = cluster.path("copy");
    copy(&cluster.data_dir(3), &copied);
    fs::remove_file(cluster.path("node-3.log")).unwrap();
    let configuration = twin_of_3(&cluster, &copied, free_ports(1)[0]);
    let mut twin = cluster.spawn_beside("twin", &configuration);
    cluster.spawn_with(3, |configuration| configuration);
    let settled = |log: &str| {
        let text = fs::read_to_string(cluster.path(&format!("{log}.log"))).unwrap_or_default();
        let is_told = STRANGER.iter().all(|words| text.contains(words));
        match (text.contains("ready"), is_told) {
            (_, true) => Ok(false),
            (true, false) => Ok(true),
            (false, false) => Err(text),
        }
    };
    let is_twin_ready = waiting::until("one of them to be told", || {
        let twin = waiting::until("the twin to know", || settled("twin"));
        let own = waiting::until("node 3 to know", || settled("node-3"));
        if twin && own {
            Err("both are ready")
        } else {
            Ok(twin)
        }
    });
    if is_twin_ready {
        // It leads shards where clients do not look for node 3.
        twin.kill();
    }
    written.more(&client).await;
    written.are_there(&client).await;
}

/// The others are configured with the old address of node 3, and find it where it comes from.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_at_another_address() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    let (known, new) = (cluster.port(3), free_ports(1)[0]);
    fs::remove_file(cluster.path("node-3.log")).unwrap();
    cluster.spawn_with(3, |configuration| {
        configuration.replace(&format!("port = {known}\n"), &format!("port = {new}\n"))
    });
    cluster.wait_for_line("node-3", &["ready"]);
    cluster.kill(2);
    // Clients go by the map of the node that they ask.
    let client = connect(format!("127.0.0.1:{new}")).await;
    written.more(&client).await;
    written.are_there(&client).await;
}

/// Another machine was given the id of node 3.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_with_one_id() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    let elsewhere = free_ports(1)[0];
    let configuration = twin_of_3(&cluster, &cluster.path("another"), elsewhere);
    let mut another = cluster.spawn_beside("another", &configuration);
    another.wait_until_listening(elsewhere);
    told(
        &cluster,
        "another",
        &["not the one that the cluster knows as node 3"],
    );
    cluster.kill(3);
    cluster.kill(2);
    nothing_is_acknowledged(&cluster);
    cluster.start_node(2);
    cluster.start_node(3);
    let client = cluster.client().await;
    written.more(&client).await;
    written.are_there(&client).await;
}

/// A directory of a cluster that was formed apart, with the same name, ids and addresses.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_with_the_same_name() {
    let mut cluster = Cluster::idle();
    let elsewhere = |configuration: String| configuration.replace("/node-", "/other-");
    for node in 1..=3 {
        cluster.spawn_with(node, elsewhere);
    }
    for node in 1..=3 {
        cluster.wait_for_line(&format!("node-{node}"), &["ready"]);
    }
    for node in 1..=3 {
        cluster.kill(node);
    }
    cluster.start_all();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    cluster.spawn_with(3, elsewhere);
    let line = cluster.wait_for_line(
        "node-3",
        &[
            "is of the cluster",
            "start each with its own data directory",
        ],
    );
    println!("{line}");
    status_says(
        &cluster,
        &["refused by node 1: this node 1 is of the cluster"],
    );
    written.more(&client).await;
    cluster.kill(2);
    nothing_is_acknowledged(&cluster);
    cluster.kill(3);
    cluster.start_node(2);
    cluster.start_node(3);
    let client = cluster.client().await;
    written.are_there(&client).await;
}

/// What a directory or a cluster is called: it may be moved, and not be used for another node or cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_directory_node_or_cluster() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    let (own, moved) = (cluster.data_dir(3), cluster.path("moved"));
    fs::rename(&own, &moved).unwrap();
    let (own, moved) = (own.display().to_string(), moved.display().to_string());
    let to_moved = |configuration: String| configuration.replace(&own, &moved);

    let refused = |name: &str, configuration: String, words: &[&str]| {
        let mut running: Running = cluster.spawn_beside(name, &configuration);
        running.wait("the node to give up", waiting::DEADLINE);
        println!("{}", cluster.wait_for_line(name, words));
    };
    let another_node =
        to_moved(cluster.configuration(3)).replace("[node]\nid = 3", "[node]\nid = 2");
    let listen = format!("[node]\nlisten = \"127.0.0.1:{}\"", free_ports(1)[0]);
    refused(
        "as-2",
        another_node.replace("[node]", &listen),
        &["was created with node id 3, but the configuration says 2"],
    );
    let renamed = to_moved(cluster.configuration(3)).replace("system-test", "renamed");
    refused("renamed", renamed, &["was created with cluster.name"]);

    cluster.spawn_with(3, to_moved);
    cluster.wait_for_line("node-3", &["ready"]);
    cluster.kill(2);
    written.more(&client).await;
    // A new node of a cluster with another name is told so, and told of.
    let fresh = cluster
        .configuration(2)
        .replace("system-test", "renamed")
        .replace("/node-2", "/fresh");
    let _fresh = cluster.spawn_beside("fresh", &fresh);
    println!(
        "{}",
        cluster.wait_for_line("fresh", &["node 1 is of another cluster", "cluster.name"])
    );
    written.more(&client).await;
    written.are_there(&client).await;
}

/// Other settings are named on both sides; with the right ones the node is one of the cluster again.
#[tokio::test(flavor = "multi_thread")]
async fn other_settings() {
    let mut cluster = Cluster::start();
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.kill(3);
    let reads = |c: String| c.replace("shards = 4", "shards = 4\nreads = \"quorum\"");
    let cores =
        |c: String| c.replacen("host = \"127.0.0.1\"", "cores = 2\nhost = \"127.0.0.1\"", 1);
    type Edit<'a> = &'a dyn Fn(String) -> String;
    let table: [(Edit<'_>, &[&str]); 1] = [(
        &reads,
        &[
            "other settings",
            "cluster.reads (0 is lease, 1 quorum) is 1 here and 0 there",
        ],
    )];
    for (edit, words) in table {
        cluster.spawn_with(3, edit);
        println!("{}", cluster.wait_for_line("node-3", words));
        status_says(&cluster, &["refused by node 1: node 3 has other settings"]);
        written.more(&client).await;
        cluster.kill(3);
    }
    // What the file says of another node's cores, the map knows better.
    cluster.spawn_with(3, cores);
    waiting::until("node 3 to have caught up", || caught_up(&cluster));
    written.more(&client).await;
    cluster.kill(3);
    // The lengths of beats and promises are each node's own affair.
    let slower = |c: String| format!("{c}\n[liveness]\nbeat_ms = 100\npromise_ms = 1000\n");
    cluster.spawn_with(3, slower);
    println!("{}", cluster.wait_for_line("node-3", &["ready"]));
    written.more(&client).await;
    cluster.kill(3);
    let shards = |c: String| c.replace("shards = 4", "shards = 8");
    cluster.spawn_with(3, shards);
    println!(
        "{}",
        cluster.wait_for_line("node-3", &["was created with the number of shards 4"])
    );
    cluster.kill(3);
    // A new directory with other shards.
    cluster.spawn_with(3, |c| shards(c).replace("/node-3", "/fresh"));
    println!(
        "{}",
        cluster.wait_for_line("node-3", &["the number of shards is 8 here and 4 there"])
    );
    cluster.kill(2);
    nothing_is_acknowledged(&cluster);
    cluster.kill(3);
    cluster.start_node(2);
    cluster.start_node(3);
    let client = cluster.client().await;
    written.more(&client).await;
    written.are_there(&client).await;
}

/// Two of three form the cluster; the third is one of it when it comes, and counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_node_that_comes_late() {
    let mut cluster = Cluster::idle();
    cluster.start_node(1);
    println!(
        "{}",
        cluster.wait_for_line("node-1", &["waiting for nodes 2, 3"])
    );
    cluster.start_node(2);
    cluster.wait_for_line("node-2", &["ready"]);
    let mut written = Written::default();
    let client = cluster.client().await;
    written.more(&client).await;
    cluster.start_node(3);
    cluster.wait_for_line("node-3", &["ready"]);
    // It has all of it and a vote: with one of the others it goes on.
    waiting::until("node 3 to have caught up", || caught_up(&cluster));
    cluster.kill(1);
    written.more(&client).await;
    written.are_there(&client).await;

    // From now on it is that store.
    cluster.start_node(1);
    cluster.run_ok(&["cluster", "set", "rejoin", "manual"]);
    cluster.kill(1);
    cluster.kill(3);
    fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    cluster.start_node(3);
    cluster.start_node(1);
    told(
        &cluster,
        "node-3",
        &["not the one that the cluster knows as node 3"],
    );
    cluster.kill(1);
    nothing_is_acknowledged(&cluster);
    cluster.start_node(1);
    let client = cluster.client().await;
    written.are_there(&client).await;
}

/// Every replica has applied what the furthest one of its shard has.
fn caught_up(cluster: &Cluster) -> Result<(), String> {
    let status = cluster.run(&["status", "--json"]);
    if !status.status.success() {
        // A lead may be on its way.
        return Err(String::from_utf8_lossy(&status.stderr).into_owned());
    }
    let status = String::from_utf8(status.stdout).unwrap();
    let lines = status
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let replicas: Vec<_> = lines.filter(|line| line["kind"] == "replica").collect();
    for shard in 0..4 {
        let applied = replicas
            .iter()
            .filter(|r| r["shard"] == shard && r["role"] != "learner")
            .map(|r| r["applied"].as_u64());
        let applied: Vec<_> = applied.collect();
        if applied.len() < 3
            || applied
                .iter()
                .any(|index| *index != applied[0] || *index == Some(0))
        {
            return Err(format!("shard {shard}: {applied:?}"));
        }
    }
    Ok(())
}

/// A name without an address is a node that is down.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_name_has_no_address() {
    let mut cluster = Cluster::idle();
    let last = format!("host = \"127.0.0.1\"\nport = {}", cluster.port(3));
    let unknown = format!("host = \"node-3.invalid\"\nport = {}", cluster.port(3));
    for node in [1, 2] {
        cluster.spawn_with(node, |c| c.replace(&last, &unknown));
    }
    cluster.wait_for_line("node-1", &["ready"]);
    println!(
        "{}",
        cluster.wait_for_line("node-1", &["node 3 counts as down", "node-3.invalid"])
    );
    let mut written = Written::default();
    let seeds = format!(
        "127.0.0.1:{},127.0.0.1:{}",
        cluster.port(1),
        cluster.port(2)
    );
    let client = connect(seeds).await;
    written.more(&client).await;
    // The node itself knows where the others are, and is found when it connects. Clients look names up too: they
    // are told by the node.
    cluster.start_node(3);
    cluster.wait_for_line("node-3", &["ready"]);
    cluster.kill(2);
    let client = connect(format!("127.0.0.1:{}", cluster.port(3))).await;
    written.more(&client).await;
    written.are_there(&client).await;
}
