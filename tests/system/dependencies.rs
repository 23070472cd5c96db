//! What an application that uses the SDK has to compile.

use std::process::Command;

#[test]
fn the_sdk_brings_neither_the_executor_nor_the_consensus() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            "corelith-client",
            "--edges",
            "normal,build",
        ])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"corelith-wire"), "{tree}");
    for barred in [
        "glommio",
        "openraft",
        "corelith-io",
        "corelith-shards",
        "corelith-consensus",
    ] {
        assert!(!names.contains(&barred), "{barred} in\n{tree}");
    }
}
