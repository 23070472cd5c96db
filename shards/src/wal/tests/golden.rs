//! Segments of every format version, as releases wrote them, still open and say the same.

#![expect(
    clippy::disallowed_methods,
    reason = "golden files are copied by ordinary means"
)]

use super::{entry, id, no_values, options, vote};
use crate::ids::{LogIndex, Ticket};
use crate::inspect::inspect;
use crate::wal::{LogRange, Wal};
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/log")
}

/// Puts everything that the format has into a log.
async fn fill(dir: &Path) {
    let (log, _) = Wal::open(dir, options(), no_values).await.unwrap();
    for index in 0..4 {
        log.append(vec![entry(1, index, 100)], Ticket(0), |result| {
            result.unwrap()
        });
    }
    log.purge(id(1, 1)).await.unwrap();
    log.truncate_after(Some(id(1, 2))).await.unwrap();
    log.save_vote(vote(4)).await.unwrap();
    // In two segments.
    log.append(
        vec![entry(2, 3, 70_000), entry(2, 4, 0)],
        Ticket(0),
        |result| {
            result.unwrap();
        },
    );
    log.note_committed(id(2, 3));
    log.close().await.unwrap();
    drop(log);
    let (log, _) = Wal::open(dir, options(), no_values).await.unwrap();
    log.close().await.unwrap();
}

fn names() -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".log"))
        .collect();
    names.sort();
    assert!(names.len() >= 3);
    names
}

/// `cargo test -p corelith-shards write_golden_files -- --ignored`, for a new format version.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    corelith_io::core::run(move || async move {
        fill(&path).await;
        for entry in corelith_io::list_dir(&path).await.unwrap() {
            let text = inspect(&path.join(&entry.name)).await.unwrap();
            std::fs::write(golden().join(format!("{}.txt", entry.name)), text).unwrap();
            std::fs::copy(path.join(&entry.name), golden().join(&entry.name)).unwrap();
        }
    });
}

#[test]
fn a_log_of_version_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    for name in names() {
        std::fs::copy(golden().join(&name), path.join(&name)).unwrap();
    }
    corelith_io::core::run(move || async move {
        let (log, found) = Wal::open(&path, options(), no_values).await.unwrap();
        assert!(!found.created);
        assert_eq!(found.blocks_cut, 0);
        let range = LogRange {
            purged: Some(id(1, 1)),
            last: Some(id(2, 4)),
        };
        assert_eq!(log.range(), range);
        assert_eq!(log.vote(), Some(vote(4)));
        assert_eq!(log.committed(), Some(id(2, 3)));
        let entries = log.read(LogIndex(0), LogIndex(9), u64::MAX).await.unwrap();
        let expected = [entry(1, 2, 100), entry(2, 3, 70_000), entry(2, 4, 0)];
        assert_eq!(entries, expected);
        log.close().await.unwrap();
    });
}

#[test]
fn segments_of_version_1_are_printed() {
    corelith_io::core::run(|| async {
        for name in names() {
            let expected = std::fs::read_to_string(golden().join(format!("{name}.txt"))).unwrap();
            let text = inspect(&golden().join(&name)).await.unwrap();
            assert_eq!(text, expected, "{name}");
        }
    });
}
