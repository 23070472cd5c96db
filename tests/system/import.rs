//! An import of a tree of files goes on while a leader is killed and comes back.

use crate::cluster::{Cluster, NODES, Running, SHARDS};
use crate::positions::{Positions, wait_until_equal};
use crate::waiting;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Time for the whole import; a tree of one's own may be large.
const IMPORT_DEADLINE: Duration = Duration::from_secs(1200);
/// Files of the generated tree.
const FILES: usize = 600;

#[tokio::test(flavor = "multi_thread")]
async fn an_import_survives_the_death_of_a_leader() {
    let mut cluster = Cluster::start();
    let client = cluster.client().await;
    let tree = std::env::var_os("CORELITH_IMPORT_DIR")
        .map_or_else(|| generate(&cluster.path("tree")), PathBuf::from);
    let expected = contents(&tree);
    let files = u64::try_from(expected.len()).unwrap();
    println!("importing {files} files from {}", tree.display());

    let before = Positions::of(&client).await.entries();
    let mut import = Running::start(
        cluster
            .command(&["import", "--timeout", "60", tree.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(fs::File::create(cluster.path("import.log")).unwrap()),
    );
    let leader = waiting::until_async("a third of the import", || async {
        let positions = Positions::of(&client).await;
        match positions.any_leader() {
            Some(leader) if positions.entries() > before + files / 3 => Ok(leader),
            _ => Err(positions),
        }
    })
    .await;
    let still_running = import.is_running();
    cluster.kill(leader);
    assert!(
        still_running,
        "the import ended before the kill: make the tree larger"
    );
    cluster.start_node(leader);
    let status = import.wait("the import to end", IMPORT_DEADLINE);
    let said = fs::read_to_string(cluster.path("import.log")).unwrap();
    assert!(status.success(), "{status}: {said}");

    let out = cluster.path("out");
    cluster.run_ok(&["export", out.to_str().unwrap()]);
    let mut found = contents(&out);
    assert!(found.remove(".corelith-export").is_some(), "a manifest");
    assert_eq!(found.len(), expected.len());
    for (name, bytes) in &expected {
        assert!(found.get(name) == Some(bytes), "{name} differs");
    }
    wait_until_equal(&client, NODES, SHARDS).await;
}

/// Every file below `dir` by its path relative to it.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                let name = entry
                    .path()
                    .strip_prefix(dir)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

/// Makes a tree of files of many sizes: empty ones, most of some kilobytes, a few above a megabyte, with
/// blanks and letters beyond ASCII in names.
fn generate(dir: &Path) -> PathBuf {
    for number in 0..FILES {
        let folder = dir.join(format!("folder {}/ü{}", number % 7, number % 3));
        fs::create_dir_all(&folder).unwrap();
        let len = match number {
            0 => 0,
            number if number % 150 == 1 => 1 << 20,
            number => (number * 7919) % 20_000,
        };
        let bytes: Vec<u8> = (0..len)
            .map(|at| ((at * 31) ^ (at >> 8) ^ number) as u8)
            .collect();
        fs::write(folder.join(format!("file {number}.bin")), bytes).unwrap();
    }
    dir.to_owned()
}
