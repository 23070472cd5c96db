//! Segments of every format version, as releases wrote them, still open and say the same.

#![expect(
    clippy::disallowed_methods,
    reason = "golden files are copied by ordinary means"
)]

use super::{all_values, entry, id, options, vote};
use crate::ids::{LogIndex, Ticket, ValueSegmentId};
use crate::inspect::inspect;
use crate::vlog::ValuePointer;
use crate::wal::format::VERSION;
use crate::wal::{Entry, LogRange, ValuePart, Wal};
use std::path::{Path, PathBuf};

fn golden(version: u16) -> PathBuf {
    let path = format!("tests/golden/v{version}/log");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A separated entry, and a place for its value that no value log has seen.
fn separated(term: u64, index: u64, len: usize) -> Entry {
    let mut entry = entry(term, index, len);
    let start = entry.body.len() as u32 - 1000;
    entry.value = Some(ValuePart {
        space: crate::Space::User,
        start,
        len: 1000,
        key_start: 4,
        key_len: 8,
    });
    entry.place = Some(ValuePointer {
        segment: ValueSegmentId(7),
        slot: index as u32,
        offset: 4096 * index,
        len: 1000,
        crc: 0x1234_5678,
    });
    entry
}

/// Puts everything that the format has into a log.
async fn fill(dir: &Path) {
    let (log, _) = Wal::open(dir, options(), None, all_values).await.unwrap();
    let append = |entries| log.append(entries, Ticket(0), |result| result.unwrap());
    for index in 0..4 {
        append(vec![entry(1, index, 100)]);
    }
    log.purge(id(1, 1)).await.unwrap();
    log.truncate_after(Some(id(1, 2))).await.unwrap();
    log.save_vote(vote(4)).await.unwrap();
    // In two segments.
    append(vec![entry(2, 3, 70_000), entry(2, 4, 0)]);
    // The head of the last one in two segments too.
    append(vec![separated(2, 5, 1100), separated(2, 6, 71_000)]);
    log.note_committed(id(2, 3));
    log.close().await.unwrap();
    drop(log);
    let (log, _) = Wal::open(dir, options(), None, all_values).await.unwrap();
    log.close().await.unwrap();
}

/// What is left of the entries put in, as it is read from disk.
fn expected(version: u16) -> Vec<Entry> {
    let mut entries = vec![entry(1, 2, 100), entry(2, 3, 70_000), entry(2, 4, 0)];
    if version >= 2 {
        let separated = [separated(2, 5, 1100), separated(2, 6, 71_000)];
        entries.extend(separated.map(Entry::without_separated_value));
    }
    entries
}

fn names(version: u16) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(golden(version))
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
    let to = golden(VERSION);
    std::fs::create_dir_all(&to).unwrap();
    corelith_io::core::run(move || async move {
        fill(&path).await;
        for entry in corelith_io::list_dir(&path).await.unwrap() {
            let text = inspect(&path.join(&entry.name)).await.unwrap().unwrap();
            std::fs::write(to.join(format!("{}.txt", entry.name)), text).unwrap();
            std::fs::copy(path.join(&entry.name), to.join(&entry.name)).unwrap();
        }
    });
}

#[test]
fn a_log_of_any_version_opens_and_goes_on() {
    for version in 1..=VERSION {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        for name in names(version) {
            std::fs::copy(golden(version).join(&name), path.join(&name)).unwrap();
        }
        corelith_io::core::run(move || async move {
            let mut expected = expected(version);
            let (log, found) = Wal::open(&path, options(), None, all_values).await.unwrap();
            assert!(!found.created);
            assert_eq!(found.blocks_cut, 0);
            let range = LogRange {
                purged: Some(id(1, 1)),
                last: expected.last().map(|entry| entry.id),
            };
            assert_eq!(log.range(), range);
            assert_eq!(log.vote(), Some(vote(4)));
            assert_eq!(log.committed(), Some(id(2, 3)));
            assert_eq!(read_all(&log).await, expected);
            let next = separated(5, range.last.unwrap().index.0 + 1, 2000);
            log.append(vec![next.clone()], Ticket(0), |result| result.unwrap());
            log.close().await.unwrap();
            drop(log);
            let (log, _) = Wal::open(&path, options(), None, all_values).await.unwrap();
            expected.push(next.without_separated_value());
            assert_eq!(read_all(&log).await, expected);
            log.close().await.unwrap();
        });
    }
}

async fn read_all(log: &Wal) -> Vec<Entry> {
    let (all, end) = (LogIndex(0), LogIndex(u64::MAX));
    log.read(all, end, u64::MAX).await.unwrap()
}

#[test]
fn segments_of_any_version_are_printed() {
    corelith_io::core::run(|| async {
        for version in 1..=VERSION {
            for name in names(version) {
                let path = golden(version).join(&name);
                let expected = std::fs::read_to_string(path.with_extension("log.txt")).unwrap();
                assert_eq!(inspect(&path).await.unwrap().unwrap(), expected, "{name}");
            }
        }
    });
}
