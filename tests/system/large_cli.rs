//! Long values at the command line: files and pipes, interruptions, exports.
//!
//! `CORELITH_VALUE_MIB=2048 cargo test --release --test system large_cli` takes longer values than the default.

use crate::cluster::{Cluster, signal};
use crate::waiting;
use corelith_client::{Client, OpenUpload};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Time for one command on a value; those on demand may be very long.
const VALUE_DEADLINE: Duration = Duration::from_secs(600);

fn value_bytes() -> u64 {
    let mib = std::env::var("CORELITH_VALUE_MIB").map_or(64, |mib| mib.parse().unwrap());
    // The last chunk is not a whole one. The longest value is allowed.
    (mib * MIB + 4321).min(1 << 31)
}

/// Writes a file whose bytes repeat nowhere.
fn generate(path: &Path, len: u64, seed: u64) {
    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
    let mut state = seed;
    let mut left = len;
    while left > 0 {
        let mut block = [0; 4096];
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005);
            state = state.wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes());
        }
        let count = left.min(4096);
        file.write_all(&block[..count as usize]).unwrap();
        left -= count;
    }
    file.flush().unwrap();
}

/// What another program says the SHA-256 is.
fn sha256(path: &Path) -> String {
    let mut command = Command::new("sha256sum");
    let output = command.stdin(fs::File::open(path).unwrap()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(output: &str) -> Value {
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}

/// A put of a file, that goes on for a while: its chunks go one by one.
fn begin_put(cluster: &Cluster, key: &str, file: &Path) -> Child {
    let arguments = ["put", key, "--file", text(file), "--concurrency", "1"];
    let mut command = cluster.command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits until an upload to `key` has some bytes that are durable.
async fn under_way(client: &Client, key: &str, child: &mut Child) {
    waiting::until_async("an upload to be under way", || async {
        let uploads = client.uploads().await.unwrap();
        match upload_to(&uploads, key) {
            Some(upload) if upload.bytes > 2 * MIB => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
    let ended = child.try_wait().unwrap();
    assert_eq!(ended, None, "it ended before: make the value longer");
}

fn upload_to<'a>(uploads: &'a [OpenUpload], key: &str) -> Option<&'a OpenUpload> {
    uploads.iter().find(|upload| upload.key == key.as_bytes())
}

fn wait(mut child: Child) -> Output {
    waiting::until_within(VALUE_DEADLINE, "a command to end", || {
        child.try_wait().unwrap().ok_or("still runs")
    });
    child.wait_with_output().unwrap()
}

/// The command that an interrupted one printed.
fn printed_command(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let (_, command) = said.split_once("to finish: corelith ").expect(&said);
    let line = command.lines().next().unwrap();
    assert!(
        !line.contains('\''),
        "the test splits words at blanks: {line}"
    );
    line.split(' ').map(str::to_owned).collect()
}

fn token_file(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.corelith-upload", file.display()))
}

/// Most memory that a process has had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() << 10
}

#[test]
fn files_and_pipes_of_all_lengths_go_there_and_back() {
    let cluster = Cluster::start();
    let (len, file) = (value_bytes(), cluster.path("film"));
    generate(&file, len, 1);
    let sum = sha256(&file);

    let put = [
        "put",
        "film",
        "--file",
        text(&file),
        "--sha256",
        "--content-type",
        "video/mp4",
        "--attribute",
        "title=a film",
        "--json",
    ];
    let written = cluster.run(&put);
    assert!(written.status.success(), "{written:?}");
    assert!(
        written.stderr.is_empty(),
        "no terminal, no bar: {written:?}"
    );
    let written = json(&String::from_utf8(written.stdout).unwrap());
    assert_eq!(written["length"], len);
    assert_eq!(written["sent"], len);
    assert_eq!(written["sha256"], sum);
    assert!(!token_file(&file).exists());

    let meta = json(&cluster.run_ok(&["get", "film", "--meta", "--json"]));
    assert_eq!(
        (&meta["length"], &meta["version"]),
        (&len.into(), &written["version"])
    );
    assert_eq!(
        (&meta["sha256"], &meta["large"]),
        (&sum.clone().into(), &true.into())
    );
    assert_eq!(meta["attributes"][0]["name"], "content-type");
    assert_eq!(meta["attributes"][1]["value"], "a film");
    assert!(
        meta["crc32c"].is_string() && meta["committed_at"].is_string(),
        "{meta}"
    );
    let lines = cluster.run_ok(&["get", "film", "--meta"]);
    assert!(lines.contains(&format!("\nsha256 {sum}\n")), "{lines}");
    assert!(
        lines.contains("\nattribute content-type=video/mp4\n"),
        "{lines}"
    );
    let scanned = cluster.run_ok(&["scan"]);
    assert_eq!(scanned, format!("film\t(large value of {len} bytes)\n"));
    let refused = cluster.run(&["get", "film", "--json"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");

    let back = cluster.path("back");
    cluster.run_ok(&["get", "film", "--output", text(&back)]);
    assert_eq!(sha256(&back), sum);
    fs::remove_file(&back).unwrap();

    // A pipe from one command to the other.
    let mut get = cluster.command(&["get", "film"]);
    let mut get = get.stdout(Stdio::piped()).spawn().unwrap();
    let mut copy = cluster.command(&["put", "copy", "-", "--json"]);
    copy.stdin(get.stdout.take().unwrap())
        .stdout(Stdio::piped());
    let copy = copy.spawn().unwrap();
    let mut most = 0;
    let id = copy.id();
    let mut get_ended = false;
    waiting::until_within(VALUE_DEADLINE, "the pipe to be copied", || {
        let meant = fs::metadata(format!("/proc/{id}/exe")).is_ok() && !get_ended;
        if meant {
            most = most.max(peak(id));
        }
        get_ended = get.try_wait().unwrap().is_some();
        get_ended.then_some(()).ok_or("still runs")
    });
    let copied = wait(copy);
    assert!(copied.status.success(), "{copied:?}");
    println!("the client took {} MiB", most / MIB);
    assert!(most < 64 * MIB, "{} MiB", most / MIB);
    let mut command = cluster.command(&["get", "copy", "--output", "/dev/stdout"]);
    let found = command.stdout(fs::File::create(&back).unwrap()).status();
    assert!(found.unwrap().success());
    assert_eq!(sha256(&back), sum);

    ranges(&cluster, &file, len);
}

fn ranges(cluster: &Cluster, file: &Path, len: u64) {
    let content = fs::read(file).unwrap();
    let part = |start: u64, end: u64| &content[start as usize..end as usize];
    let (a, b) = (MIB - 5, 2 * MIB + 7);
    let over = (len - 3, len + 9);
    for (range, expected) in [
        (format!("{a}..{b}"), part(a, b)),
        (format!("..{b}"), part(0, b)),
        (format!("{}..", len - b), part(len - b, len)),
        ("-4322".to_owned(), part(len - 4322, len)),
        (format!("{}..{}", over.0, over.1), part(over.0, len)),
        (format!("{}..", len + 5), &[][..]),
        ("7..7".to_owned(), &[][..]),
    ] {
        let found = cluster.run(&["get", "film", "--range", &range]);
        assert!(found.status.success(), "{range}: {found:?}");
        assert!(found.stdout == expected, "{range}: {}", found.stdout.len());
    }
    // Of a short value as well.
    cluster.run_ok(&["put", "short", "0123456789"]);
    assert_eq!(cluster.run_ok(&["get", "short", "--range", "3..5"]), "34");
    assert_eq!(cluster.run_ok(&["get", "short", "--range", "-2"]), "89");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_a_kill_is_not_sent_again() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let (len, file) = (value_bytes(), cluster.path("film"));
    generate(&file, len, 2);
    let mut child = begin_put(&cluster, "film", &file);
    under_way(&client, "film", &mut child).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(token_file(&file).exists());
    let hidden = cluster.run(&["get", "film"]);
    assert_eq!(hidden.status.code(), Some(1), "{hidden:?}");

    // A chunk that was on its way may become durable still.
    let listed = json(&cluster.run_ok(&["upload", "list", "--json"]));
    let before = listed["bytes"].as_u64().unwrap();
    let resumed = json(&cluster.run_ok(&["upload", "resume", text(&file), "--json"]));
    let skipped = resumed["skipped"].as_u64().unwrap();
    let sent = resumed["sent"].as_u64().unwrap();
    assert!(
        (before..=before + MIB).contains(&skipped),
        "{before} {resumed}"
    );
    assert_eq!(skipped + sent, len);
    assert_eq!(resumed["length"], len);
    assert!(!token_file(&file).exists());
    assert_eq!(cluster.run_ok(&["upload", "list"]), "");
    let back = cluster.path("back");
    cluster.run_ok(&["get", "film", "--output", text(&back)]);
    assert_eq!(sha256(&back), sha256(&file));

    // One that was given up is not resumed, and the same put begins anew.
    let mut child = begin_put(&cluster, "other", &file);
    under_way(&client, "other", &mut child).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let listed = json(&cluster.run_ok(&["upload", "list", "--json"]));
    let id = listed["upload"].as_str().unwrap();
    cluster.run_ok(&["upload", "abort", "other", id]);
    let refused = cluster.run(&["upload", "resume", text(&file)]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("the upload has ended"), "{said}");
    let put = ["put", "other", "--file", text(&file), "--json"];
    let again = json(&cluster.run_ok(&put));
    assert_eq!(
        (&again["sent"], &again["skipped"]),
        (&len.into(), &0.into())
    );
    assert!(!token_file(&file).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_put_says_how_to_finish_it() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let (len, file) = (value_bytes(), cluster.path("film"));
    generate(&file, len, 3);
    let mut commands = Vec::new();
    // The second one finds the token of the first beside the file.
    for (key, name) in [("one", "INT"), ("two", "TERM")] {
        let mut child = begin_put(&cluster, key, &file);
        under_way(&client, key, &mut child).await;
        signal(name, child.id());
        let output = wait(child);
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains("WARN"),
            "{output:?}"
        );
        commands.push(printed_command(&output));
    }
    assert_eq!(commands[0][..3], ["upload", "resume", text(&file)]);
    assert_eq!(commands[1][3], "--file");
    for (mut command, key) in commands.into_iter().zip(["one", "two"]) {
        command.push("--json".to_owned());
        let mut run = crate::cluster::corelith();
        let output = run.args(&command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        let resumed = json(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(resumed["key"], key);
        assert!(resumed["skipped"].as_u64().unwrap() > 2 * MIB, "{resumed}");
        assert_eq!(client.head(key).await.unwrap().value_len, len);
        // It is known to be finished.
        if command[3] == "--file" {
            let again = run.output().unwrap();
            assert!(again.status.success(), "{again:?}");
        }
    }
    assert!(!token_file(&file).exists());

    // A file that has changed is not taken for the same.
    let mut child = begin_put(&cluster, "three", &file);
    under_way(&client, "three", &mut child).await;
    signal("INT", child.id());
    wait(child);
    let mut child = begin_put(&cluster, "four", &file);
    under_way(&client, "four", &mut child).await;
    signal("INT", child.id());
    let with_token = printed_command(&wait(child));
    assert_eq!(with_token[3], "--file");
    let mut changed = fs::File::options().write(true).open(&file).unwrap();
    changed.write_all(b"other bytes").unwrap();
    let refused = cluster.run(&["upload", "resume", text(&file)]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    // The start of the one and the end of the other would make a value that no file ever was.
    let refused = crate::cluster::corelith()
        .args(&with_token)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(client.head("four").await.is_err());
    let uploads = client.uploads().await.unwrap();
    let four = upload_to(&uploads, "four").unwrap().upload;
    client.abort_upload("four", four).await.unwrap();

    let listed = json(&cluster.run_ok(&["upload", "list", "--json"]));
    let id = listed["upload"].as_str().unwrap();
    let wrong = cluster.run(&["upload", "abort", "other", id]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let table = cluster.run_ok(&["upload", "list"]);
    assert!(table.starts_with("ID ") && table.contains(id), "{table}");
    assert_eq!(cluster.run_ok(&["upload", "abort", "three", id]), "");
    let again = cluster.run(&["upload", "abort", "three", id]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!(cluster.run_ok(&["upload", "list", "--json"]), "");
}

/// What is given again must be what the put began with; and who gives the upload up has nothing left beside the file.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_put_is_not_finished_as_another_one() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let (len, file) = (value_bytes(), cluster.path("film"));
    generate(&file, len, 7);
    let mut id = String::new();
    for round in 0..3 {
        let mut child = begin_put(&cluster, "film", &file);
        under_way(&client, "film", &mut child).await;
        signal("INT", child.id());
        wait(child);
        let put = ["put", "film", "--file", text(&file)];
        for (option, name) in [
            ("--if-absent", "condition"),
            ("--sha256", "digest"),
            ("--content-type=video/mp4", "attributes"),
        ] {
            let other = cluster.run(&[&put[..], &[option]].concat());
            assert_eq!(other.status.code(), Some(2), "{other:?}");
            let said = String::from_utf8_lossy(&other.stderr);
            for words in [
                format!("began with another {name}"),
                format!("corelith upload resume {}", text(&file)),
                format!("corelith upload abort --file {}", text(&file)),
            ] {
                assert!(said.contains(&words), "{words}: {said}");
            }
        }
        assert!(token_file(&file).exists());
        let listed = json(&cluster.run_ok(&["upload", "list", "--json"]));
        id = listed["upload"].as_str().unwrap().to_owned();
        let mut abort = cluster.command(&["upload", "abort"]);
        match round {
            // The file is in the current directory, is named, or names the upload.
            0 => abort.args(["film", &id]).current_dir(cluster.path(".")),
            1 => abort.args(["film", &id, "--file", text(&token_file(&file))]),
            _ => abort.args(["--file", text(&file)]),
        };
        let aborted = abort.output().unwrap();
        assert!(aborted.status.success(), "{round}: {aborted:?}");
        assert!(!token_file(&file).exists(), "{round}");
    }
    let again = cluster.run(&["upload", "abort", "--file", text(&file)]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    let again = cluster.run(&["upload", "abort", "film", &id]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    cluster.run_ok(&["put", "film", "--file", text(&file), "--if-absent"]);
    assert_eq!(client.head("film").await.unwrap().value_len, len);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_pipe_leaves_nothing() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let mut command = cluster.command(&["put", "piped", "-", "--concurrency", "1"]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&vec![7; 12 << 20]).unwrap();
    under_way(&client, "piped", &mut child).await;
    signal("INT", child.id());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nothing was written"), "{said}");
    assert_eq!(client.uploads().await.unwrap(), []);
    let absent = cluster.run(&["get", "piped"]);
    assert_eq!(absent.status.code(), Some(1), "{absent:?}");
    drop(pipe);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_get_leaves_the_file_as_it_was() {
    let cluster = Cluster::start();
    let (len, file) = (value_bytes(), cluster.path("film"));
    generate(&file, len, 4);
    cluster.run_ok(&["put", "film", "--file", text(&file)]);
    let dir = cluster.path("out");
    fs::create_dir(&dir).unwrap();
    let back = dir.join("back");
    fs::write(&back, b"before").unwrap();
    let arguments = ["get", "film", "--output", text(&back), "--concurrency", "1"];
    let mut command = cluster.command(&arguments);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    waiting::until("the get to be under way", || {
        let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
        let mut lengths = names.map(|entry| entry.metadata().map_or(0, |data| data.len()));
        let begun = lengths.any(|len| len > MIB);
        begun.then_some(()).ok_or("it has not begun")
    });
    signal("INT", child.id());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("back was not written"), "{said}");
    assert_eq!(fs::read(&back).unwrap(), b"before");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_long_values_and_what_was_told_of_them() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let (len, file) = (value_bytes(), cluster.path("film"));
    generate(&file, len, 5);
    let put = [
        "put",
        "film",
        "--file",
        text(&file),
        "--sha256",
        "--content-type",
        "video/mp4",
    ];
    cluster.run_ok(&put);
    cluster.run_ok(&["put", "note", "short", "--attribute", "by=me"]);
    cluster.run_ok(&["put", "plain", "plain"]);
    let before = json(&cluster.run_ok(&["get", "film", "--meta", "--json"]));

    let dir = cluster.path("out");
    let exported = json(&cluster.run_ok(&["export", text(&dir), "--json"]));
    assert_eq!(
        (&exported["keys"], &exported["bytes"]),
        (&3.into(), &(len + 10).into())
    );
    for key in ["film", "note", "plain"] {
        client.delete(key).await.unwrap();
    }
    // A wrong byte in the middle.
    let stored = dir.join("film");
    let at = len / 2;
    flip(&stored, at);
    let import = ["import", text(&dir), "--json"];
    let failed = cluster.run(&import);
    assert_eq!(failed.status.code(), Some(6), "{failed:?}");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(
        said.contains("its checksum differs from the manifest"),
        "{said}"
    );
    assert_eq!(json(&String::from_utf8_lossy(&failed.stdout))["keys"], 2);
    assert_eq!(cluster.run(&["get", "film"]).status.code(), Some(1));
    assert_eq!(client.uploads().await.unwrap(), [], "it is given up");

    flip(&stored, at);
    cluster.run_ok(&import);
    let after = json(&cluster.run_ok(&["get", "film", "--meta", "--json"]));
    for field in ["length", "crc32c", "sha256", "attributes"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    let note = client.head("note").await.unwrap();
    assert_eq!(note.description().unwrap().attribute("by"), Some("me"));
    assert_eq!(client.get("note").await.unwrap().value, "short");
    assert!(client.head("plain").await.unwrap().description().is_none());
    let back = cluster.path("back");
    cluster.run_ok(&["get", "film", "--output", text(&back)]);
    assert_eq!(sha256(&back), sha256(&file));

    // An import that is interrupted gives its uploads up.
    client.delete("film").await.unwrap();
    let mut command = cluster.command(&import);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    under_way(&client, "film", &mut child).await;
    signal("INT", child.id());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(client.uploads().await.unwrap(), []);
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn check_and_inspect_know_large_values() {
    let mut cluster = Cluster::start();
    let file = cluster.path("film");
    generate(&file, 9 * MIB, 6);
    cluster.run_ok(&["put", "film", "--file", text(&file)]);
    for status in cluster.stop_all() {
        assert!(status.success(), "{status}");
    }
    let (mut found, mut inspected) = (0, String::new());
    for node in 1..=crate::cluster::NODES {
        let mut command = crate::cluster::corelith();
        let output = command
            .arg("check")
            .arg(cluster.data_dir(node))
            .arg("--json");
        let output = output.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        found += lines
            .filter_map(|line| line["large_values"].as_u64())
            .sum::<u64>();
    }
    assert!(found > 0, "no node has flushed the large value");
    for table in tables(&cluster.data_dir(1)) {
        let mut command = crate::cluster::corelith();
        let output = command.arg("inspect").arg(table).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        inspected += &String::from_utf8(output.stdout).unwrap();
    }
    for expected in [
        "entry: upload ",
        "entry: chunk ",
        "large, 9437184 bytes of upload ",
    ] {
        assert!(inspected.contains(expected), "{expected}: {inspected}");
    }
}

/// All tables below a directory.
fn tables(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => found.extend(tables(&path)),
            Some(of) if of == "sst" => found.push(path),
            _ => {}
        }
    }
    found
}
