//! What scripts rely on: exit codes, bounded time, one shape of JSON.

use crate::cluster::{Cluster, corelith, free_ports, signal};
use serde_json::Value;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Far below what a command took that did not bound connecting (4.5 s and more), far above what it takes.
const SOON: Duration = Duration::from_secs(3);

/// Runs a command of a client of nothing, which must say so in one line and in time.
fn gives_up(command: &mut Command) -> Output {
    let start = Instant::now();
    let output = command.output().unwrap();
    let took = start.elapsed();
    assert!(took < SOON, "{took:?}: {output:?}");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint.trim().lines().count(), 1, "{complaint}");
    assert!(
        complaint.contains("no cluster at 127.0.0.1:"),
        "{complaint}"
    );
    output
}

#[test]
fn a_cluster_that_is_not_there_is_told_soon() {
    let seed = format!("127.0.0.1:{}", free_ports(1)[0]);
    gives_up(corelith().args(["get", "key", "--connect", &seed]));
    gives_up(corelith().args(["--timeout", "0.3", "--connect", &seed, "status"]));
}

#[test]
fn the_timeout_bounds_connecting_to_what_never_answers() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let seed = silent.local_addr().unwrap().to_string();
    for arguments in [&["get", "key"][..], &["status"], &["put", "key", "value"]] {
        gives_up(
            corelith()
                .args(arguments)
                .args(["--timeout", "0.3", "--connect", &seed]),
        );
    }
}

#[test]
fn exit_codes_are_as_the_help_lists_them() {
    let cluster = Cluster::start();
    cluster.run_ok(&["put", "key", "value"]);
    let file = cluster.path("large");
    // One byte too many, in a file that takes no space.
    let sparse = std::fs::File::create(&file).unwrap();
    sparse.set_len((1 << 31) + 1).unwrap();
    let large = file.to_str().unwrap();
    let long = "k".repeat(5000);
    let tree = cluster.path("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("b"), b"value").unwrap();
    let tree = tree.to_str().unwrap();
    // (arguments, exit code, what is said)
    let table: &[(&[&str], i32, &str)] = &[
        (&["get", "key"], 0, ""),
        (&["delete", "absent"], 0, ""),
        (&["get", "absent"], 1, "key absent does not exist"),
        (&["get", "absent", "--meta"], 1, "key absent does not exist"),
        (&["cas", "key", "v", "--absent"], 1, "key key has version"),
        (
            &["delete", "key", "--if-version", "999999"],
            1,
            "key key has version",
        ),
        (&["put", "key"], 2, "<KEY> <VALUE|-|--file <FILE>>"),
        (&["put", "", "value"], 2, "key"),
        (
            &["put", "key", "--file", large],
            2,
            "the value is too large: it has 2147483649 bytes, at most 2147483648 are allowed",
        ),
        (
            &["put", &long, "value"],
            2,
            "the key is too large: it has 5000 bytes",
        ),
        (
            &["get", &long],
            2,
            "the key is too large: it has 5000 bytes",
        ),
        (&["scan", "--token", "wrong"], 2, "--token"),
        (&["get", r"k\x1", "--escaped"], 2, "--escaped"),
        (&["scan", "--start", "b", "--end", "a"], 2, "--end"),
        (&["put", "key", "--file", "/nowhere"], 2, "/nowhere"),
        (
            &["get", "key", "--output", "/dev/null/file"],
            5,
            "/dev/null/file",
        ),
        (&["import", "/nowhere"], 2, "/nowhere"),
        (
            &["import", tree, "--prefix", "p/", "--after", "a"],
            2,
            "--after names a stored key, prefix included",
        ),
        (&["get", "key", "--range", "3..1"], 2, "--range"),
        (&["get", "key", "--range", ".."], 2, "--range"),
        (&["put", "key", "v", "--attribute", "x"], 2, "NAME=VALUE"),
        (
            &["put", "key", "v", "--concurrency", "0"],
            2,
            "--concurrency",
        ),
        (
            &["put", "key", "v", "--if-absent"],
            1,
            "key key has version",
        ),
        (
            &["put", "key", "v", "--if-version", "999999"],
            1,
            "key key has version",
        ),
        (
            &["put", "key", "v", "--if-absent", "--sha256"],
            1,
            "key key has version",
        ),
        (&["upload", "resume", "/nowhere"], 2, "/nowhere"),
        (
            &["upload", "resume", large],
            2,
            "no upload of it was interrupted",
        ),
        (
            &["upload", "resume", "beef", "--file", large],
            2,
            "the token that `put` printed",
        ),
        (&["upload", "abort", "key", "7"], 2, "`upload list` prints"),
        (
            &["upload", "abort", "key", &"7".repeat(32)],
            1,
            "key key has no open upload 7777",
        ),
        (
            &["--log", "corelith=loud", "get", "key"],
            2,
            "--log is not a valid filter",
        ),
    ];
    for (arguments, code, said) in table {
        let output = cluster.run(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(*code),
            "{arguments:?}: {complaint}"
        );
        assert!(complaint.contains(said), "{arguments:?}: {complaint}");
        assert_eq!(
            complaint.is_empty(),
            *code == 0,
            "{arguments:?}: {complaint}"
        );
    }
    assert_eq!(cluster.run_ok(&["get", "key"]), "value");
    cluster.run_ok(&["put", r"k\x01\xff\\", "found", "--escaped"]);
    let printed = cluster.run_ok(&["scan", "k\u{1}", "--keys-only"]);
    let get = ["get", printed.trim_end(), "--escaped"];
    assert_eq!(cluster.run_ok(&get), "found", "{printed}");
    let unknown = corelith()
        .args(["node", "--connect", "a:1"])
        .output()
        .unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

/// Every line as JSON; each must be an object with a kind.
fn lines(text: &str) -> Vec<Value> {
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.iter().all(|line| line["kind"].is_string()), "{text}");
    lines
}

fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

#[test]
fn json_is_lines_of_objects_with_a_kind() {
    let cluster = Cluster::start();
    let json = |arguments: &[&str]| {
        let arguments = [arguments, &["--json"]].concat();
        lines(&cluster.run_ok(&arguments))
    };
    let written = json(&["put", "key", "value"]);
    assert_eq!(written[0]["kind"], "written");
    let version = written[0]["version"].as_u64().unwrap().to_string();
    json(&["cas", "key", "wider", "--version", &version]);

    let meta = &json(&["get", "key", "--meta"])[0];
    assert_eq!((&meta["key"], &meta["length"]), (&"key".into(), &5.into()));
    assert!(
        meta["version"].is_u64() && meta["value"].is_null(),
        "{meta}"
    );
    let entry = &json(&["get", "key"])[0];
    assert_eq!(entry["value"], "wider");
    assert_eq!(entry["version"], meta["version"]);
    assert!(
        cluster
            .run_ok(&["get", "key", "--meta"])
            .contains("length 5\n")
    );
    json(&["delete", "key"]);

    let status = json(&["status"]);
    assert_eq!(of_kind(&status, "cluster").len(), 1);
    assert_eq!(of_kind(&status, "node").len(), 3);
    assert_eq!(of_kind(&status, "replica").len(), 12);
    let storage = json(&["status", "--storage"]);
    assert_eq!(of_kind(&storage, "storage").len(), 12);
}

#[test]
fn a_silent_node_is_listed_and_holds_nothing_up() {
    let cluster = Cluster::start();
    signal("STOP", cluster.id(1));
    for arguments in [&["status"][..], &["status", "--storage"]] {
        let start = Instant::now();
        let arguments = [arguments, &["--timeout", "2", "--json"]].concat();
        let output = cluster.run(&arguments);
        // The leads of the silent node may not have passed on yet.
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 3)), "{output:?}");
        let lines = lines(&String::from_utf8_lossy(&output.stdout));
        let took = start.elapsed();
        assert!(took < SOON, "{took:?}");
        let nodes = of_kind(&lines, "node");
        let silent: Vec<_> = nodes
            .iter()
            .filter(|node| node["error"].is_string())
            .collect();
        assert_eq!((nodes.len(), silent.len()), (3, 1), "{lines:?}");
        assert_eq!(silent[0]["node"], 1);
    }
}

#[test]
fn a_scan_goes_on_where_its_token_says() {
    let cluster = Cluster::start();
    for number in 0..10 {
        cluster.run_ok(&["put", &format!("key/{number}"), &format!("{number}")]);
    }
    let mut found = Vec::new();
    let mut arguments = vec!["scan".to_owned(), "key/".to_owned()];
    loop {
        arguments.extend(["--limit", "4", "--json", "--keys-only"].map(str::to_owned));
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let lines = lines(&cluster.run_ok(&words));
        let entries = of_kind(&lines, "entry");
        assert!(entries.len() <= 4);
        found.extend(
            entries
                .iter()
                .map(|entry| entry["key"].as_str().unwrap().to_owned()),
        );
        let end = lines.last().unwrap();
        assert_eq!(
            (&end["kind"], &end["entries"]),
            (&"end".into(), &entries.len().into())
        );
        match end["token"].as_str() {
            Some(token) => arguments = vec!["scan".into(), "--token".into(), token.into()],
            None => break,
        }
    }
    let expected: Vec<String> = (0..10).map(|number| format!("key/{number}")).collect();
    assert_eq!(found, expected);

    let listed = cluster.run_ok(&["scan", "--start", "key/3", "--end", "key/5"]);
    assert_eq!(listed, "key/3\t3\nkey/4\t4\n");
    let first = cluster.run(&["scan", "key/", "--limit", "1", "--keys-only"]);
    assert_eq!(first.stdout, b"key/0\n");
    let said = String::from_utf8(first.stderr).unwrap();
    let (_, token) = said.trim().split_once("--token ").unwrap();
    let rest = cluster.run_ok(&["scan", "--token", token, "--keys-only"]);
    assert_eq!(rest.lines().count(), 9, "{rest}");
}
