//! The programs in the SDK's `examples`, each as a process of its own, against a real cluster.

use crate::cluster::Cluster;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Builds the examples and says where they are.
fn build() -> BTreeMap<String, PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--package", "corelith-client"])
        .args(["--examples", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let artifact = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = message["target"]["name"].as_str()?.to_owned();
        let is_example = message["target"]["kind"][0] == "example";
        let path = message["executable"].as_str().filter(|_| is_example)?;
        Some((name, PathBuf::from(path)))
    };
    said.lines().filter_map(artifact).collect()
}

#[test]
fn every_example_does_what_it_shows() {
    let mut examples = build();
    let cluster = Cluster::start();
    for (name, expected) in [
        (
            "put_get_cas",
            &[
                "it says b\"hello\"",
                "not changed: it is at",
                "Some(12) bytes",
                "deleted",
            ][..],
        ),
        ("counter", &["8 tasks have counted to 200"]),
        (
            "scan",
            &[
                "3 entries from Some(b\"example/days/10\") on",
                "the longest value has 23 bytes",
                "page 1 has 12 entries",
                "page 3 has 6 entries",
            ],
        ),
        (
            "batch",
            &[
                "1000 puts are durable",
                "042 says b\"42\"",
                "007 and 009 are changed: true",
                "008 was there already",
                "none is not there",
            ],
        ),
        (
            "file",
            &[
                "all 20971520 bytes are durable",
                "it has 20971520 bytes of application/octet-stream",
                "downloaded 20971520 bytes",
                "the last 16 bytes agree: true",
                "a stream of 8890 bytes was uploaded",
            ],
        ),
        (
            "lock",
            &[
                "bob gets it: false\nann writes: true\nbob has taken the lock over: true",
                "bob writes: true\nann writes: false\nann releases: false\nbob releases: true",
                " by bob\"",
            ],
        ),
    ] {
        let path = examples.remove(name).unwrap();
        // What the first run left behind must not be in the way of the second.
        for _ in 0..2 {
            let mut command = Command::new(&path);
            command.env("CORELITH_SEEDS", cluster.seeds());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
            let said = String::from_utf8(output.stdout).unwrap();
            for text in expected {
                assert!(said.contains(text), "{name}: {text:?} is not in\n{said}");
            }
        }
    }
    assert!(examples.is_empty(), "not tried: {examples:?}");
}
