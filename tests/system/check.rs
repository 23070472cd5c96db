//! Data at rest: what a stopped node holds is checked, damage is named, and a running node is left alone.

use crate::cluster::{Cluster, NODES, corelith};
use crate::waiting;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Every file with that extension under `dir`.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn run(arguments: &[&str]) -> Output {
    corelith().args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every line as JSON.
fn lines(text: &str) -> Vec<serde_json::Value> {
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// Does something while a bit of a file is flipped.
fn with_flipped_bit(path: &Path, at: usize, work: impl FnOnce()) {
    let whole = fs::read(path).unwrap();
    let mut damaged = whole.clone();
    damaged[at] ^= 0x10;
    fs::write(path, damaged).unwrap();
    work();
    fs::write(path, whole).unwrap();
}

/// Checks a directory where nothing can be written, if this machine lets us mount it so.
fn check_on_a_read_only_mount(dir: &str) {
    const NOT_MOUNTED: i32 = 99;
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" || exit 99; \
                  exec \"$2\" check \"$1\"";
    let checked = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh", dir])
        .arg(env!("CARGO_BIN_EXE_corelith"))
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&checked.stderr);
    let is_refused = complaint.starts_with("unshare: ");
    if is_refused || checked.status.code() == Some(NOT_MOUNTED) {
        eprintln!("no read-only mount here: {complaint}");
        return;
    }
    assert!(checked.status.success(), "{checked:?}");
    assert!(text(&checked).contains("0 problems"), "{checked:?}");
}

/// A long value that can be found again in a file.
fn value(number: usize) -> Vec<u8> {
    format!("<{number:04}>").repeat(2000).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_a_stopped_node_is_named() {
    let mut cluster = Cluster::start();
    let client = cluster.client().await;
    for number in 0..200 {
        let key = format!("key/{number:04}");
        match number % 2 {
            0 => client.put(key, value(number)).await.unwrap(),
            _ => client.put(key, format!("{number}")).await.unwrap(),
        };
    }
    let storage = cluster.run_ok(&["status", "--storage"]);
    assert!(
        storage.contains("leveled") && storage.contains("DAMAGED"),
        "{storage}"
    );
    let json = lines(&cluster.run_ok(&["status", "--storage", "--json"]));
    let nodes = json.iter().filter(|line| line["kind"] == "node").count();
    assert_eq!(nodes, NODES, "{json:?}");
    let shard = json.iter().find(|line| line["kind"] == "storage").unwrap();
    assert_eq!(shard["disk_full"], false, "{shard}");

    let dir = cluster.path("node-1");
    let dir = dir.to_str().unwrap();
    let refused = run(&["check", dir]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("in use"), "{complaint}");
    let planned = run(&["gc", "plan", dir]);
    assert!(
        planned.status.success(),
        "beside a running node: {planned:?}"
    );

    let stopped = cluster.stop_all();
    assert!(stopped.iter().all(std::process::ExitStatus::success));
    let clean = run(&["check", dir]);
    assert!(clean.status.success(), "{clean:?}");
    assert!(text(&clean).contains("0 problems"), "{clean:?}");
    let plan = run(&["gc", "plan", dir, "--json"]);
    let plan = lines(&text(&plan));
    assert!(plan.iter().any(|line| line["kind"] == "shard"), "{plan:?}");

    check_on_a_read_only_mount(dir);

    let needle = value(42);
    let holds = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        let at = bytes.windows(needle.len()).position(|part| part == needle);
        at.map(|at| (path.clone(), at))
    };
    let segments = files(Path::new(dir), "vlog");
    let (segment, at) = segments.iter().find_map(holds).unwrap();
    let inspected = run(&["inspect", segment.to_str().unwrap()]);
    assert!(
        text(&inspected).contains("value log segment"),
        "{inspected:?}"
    );
    with_flipped_bit(&segment, at + 5000, || {
        let checked = run(&["check", dir]);
        assert_eq!(checked.status.code(), Some(6), "{checked:?}");
        let told = text(&checked);
        let lines: Vec<&str> = told.lines().filter(|line| line.contains(": ")).collect();
        let named = lines
            .iter()
            .find(|line| line.contains(segment.to_str().unwrap()));
        assert!(
            named.is_some_and(|line| line.contains("key/0042")),
            "{told}"
        );
    });
    let table = files(Path::new(dir), "sst").remove(0);
    with_flipped_bit(&table, 4096 + 20, || {
        let checked = run(&["check", dir, "--json"]);
        assert_eq!(checked.status.code(), Some(6), "{checked:?}");
        let lines = lines(&text(&checked));
        let named = lines.iter().find(|line| line["kind"] == "problem").unwrap();
        assert_eq!(named["file"], table.to_str().unwrap());
        assert!(named["keys"].is_string(), "{named}");
    });
    assert!(run(&["check", dir]).status.success());

    let of = |shard: &str| Path::new(dir).join("shards").join(shard);
    let aside = cluster.path("aside");
    fs::rename(of("00002"), &aside).unwrap();
    fs::rename(of("00001"), of("00002")).unwrap();
    let checked = run(&["check", dir]);
    assert_eq!(checked.status.code(), Some(6), "{checked:?}");
    let told = text(&checked);
    let missing = format!("{}, offset 0: the shard is missing", of("00001").display());
    assert!(told.contains(&missing), "{told}");
    assert!(told.contains("it belongs to shard 1"), "{told}");
    assert!(!of("00001").exists(), "nothing is made");

    cluster.start_all();
    let client = cluster.client().await;
    for number in (0..200).step_by(2) {
        let found = client.get(format!("key/{number:04}")).await.unwrap();
        assert_eq!(found.value, value(number), "another node answers");
    }
    let status = cluster.run_ok(&["status"]);
    let down = format!("shard 1 is down on node 1: {missing}");
    assert!(status.contains(&down), "{status}");
    assert!(status.contains("shard 2 is down on node 1: "), "{status}");
    let json = lines(&cluster.run_ok(&["status", "--json"]));
    let is_down = |line: &&serde_json::Value| line["reason"].is_string();
    assert_eq!(json.iter().filter(is_down).count(), 2, "{json:?}");
    assert!(
        cluster
            .stop_all()
            .iter()
            .all(std::process::ExitStatus::success)
    );
    assert!(!of("00001").exists(), "nothing is made");

    for (name, kind) in [("LOCK", "lock"), ("RESERVE", "space held back")] {
        let path = of("00003").join(name);
        let path = path.to_str().unwrap();
        let inspected = run(&["inspect", path]);
        assert!(text(&inspected).contains(kind), "{inspected:?}");
        let inspected = lines(&text(&run(&["inspect", path, "--json"])));
        assert_eq!(inspected[0]["kind"], "file", "{inspected:?}");
        assert_eq!(inspected[0]["file"], path, "{inspected:?}");
        let kind_line = &inspected[1];
        assert_eq!(kind_line["name"], "kind", "{inspected:?}");
        assert!(kind_line["value"].as_str().unwrap().contains(kind));
    }

    // All shards away: the identity knows them.
    fs::rename(Path::new(dir).join("shards"), cluster.path("shards-aside")).unwrap();
    let dev = cluster.path("").to_str().unwrap().to_owned();
    for dir in [dir, &dev] {
        let checked = run(&["check", dir]);
        assert_eq!(checked.status.code(), Some(6), "{checked:?}");
        let missing = format!("{}, offset 0: the shard is missing", of("00003").display());
        assert!(text(&checked).contains(&missing), "{checked:?}");
    }
    assert!(!Path::new(dir).join("shards").exists(), "nothing is made");
}

#[test]
fn a_path_that_is_not_there_is_a_wrong_argument() {
    let dir = crate::cluster::directory();
    let missing = dir.path().join("missing");
    let missing = missing.to_str().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"content").unwrap();
    let file = file.to_str().unwrap();
    let below = format!("{file}/data");
    let table: &[(&[&str], &str)] = &[
        (&["check", missing], "missing: there is no such directory"),
        (
            &["gc", "plan", missing],
            "missing: there is no such directory",
        ),
        (&["inspect", missing], "missing: there is no such file"),
        (&["import", missing], "missing: there is no such directory"),
        (&["node", "--config", missing], "missing"),
        (
            &["put", "key", "--file", missing],
            "missing: there is no such file",
        ),
        (&["check", file], "file: it is not a directory"),
        (&["gc", "plan", file], "file: it is not a directory"),
        (&["import", file], "file: it is not a directory"),
        (&["export", file], "file: it is not a directory"),
        (&["dev", "--data", file], "it is not a directory"),
        (&["dev", "--data", &below], "is not a directory"),
        (
            &["inspect", dir.path().to_str().unwrap()],
            ": it is not a file",
        ),
        (
            &["put", "key", "--file", dir.path().to_str().unwrap()],
            ": it is not a file",
        ),
    ];
    for (arguments, words) in table {
        // No cluster is asked: the paths are looked at first.
        let output = run(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {complaint}");
        assert!(complaint.contains(words), "{arguments:?}: {complaint}");
    }
}

#[test]
fn what_is_no_file_of_corelith_is_not_called_damaged() {
    let dir = crate::cluster::directory();
    // (name, exit code, what is said)
    let table = [
        ("dev.json", 2, "is not a file of Corelith"),
        (".corelith-export", 2, "is not a file of Corelith"),
        ("empty", 2, "is not a file of Corelith"),
        ("node", 6, "is damaged"),
        ("MANIFEST", 6, "is damaged"),
    ];
    for (name, code, said) in table {
        let path = dir.path().join(name);
        let content: &[u8] = if name == "empty" {
            b""
        } else {
            b"{\"nodes\": 3}"
        };
        fs::write(&path, content).unwrap();
        let output = run(&["inspect", path.to_str().unwrap()]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {complaint}");
        assert!(complaint.contains(said), "{name}: {complaint}");
    }
}

#[test]
fn a_directory_without_data_is_refused() {
    let dir = crate::cluster::directory();
    let refused = run(&["check", dir.path().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is made"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_cluster_that_serves_nobody_is_no_success() {
    let mut cluster = Cluster::start();
    cluster.client().await.put("key", "value").await.unwrap();
    waiting::until("all shards to have leaders", || {
        let status = cluster.run(&["status"]);
        status.status.success().then_some(()).ok_or(status)
    });
    cluster.kill(2);
    cluster.kill(3);
    let status = cluster.run(&["status", "--timeout", "3"]);
    assert_eq!(status.status.code(), Some(3), "{status:?}");
    let complaint = String::from_utf8_lossy(&status.stderr);
    assert!(complaint.contains("shard 0 has no majority"), "{complaint}");
    assert!(text(&status).contains("down: "), "{status:?}");
}
