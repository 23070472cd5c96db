//! Files of every format version, as releases wrote them, still open and say the same.

#![expect(
    clippy::disallowed_methods,
    reason = "golden files are copied by ordinary means"
)]

use super::{log_id, on_core, open, open_with, put, range, settle};
use crate::compaction::Policy;
use crate::engine::{Engine, EngineParts, Item, ItemValue};
use crate::ids::LogIndex;
use crate::inspect::inspect;
use crate::key::Space;
use crate::large::LargeRef;
use bytes::Bytes;
use corelith_wire::ids::{ChunkId, UploadId};
use std::path::{Path, PathBuf};

/// The version that is written now; golden files of it and of all before must stay readable.
pub(super) const VERSION: u32 = 4;

/// Files that make up a shard; the segment of the log only stands for it.
fn files(version: u32) -> &'static [&'static str] {
    match version {
        1 => &["000000000000.sst", "000000000001.sst", "MANIFEST"],
        2 => &[
            "000000000000.sst",
            "000000000001.sst",
            "000000000002.sst",
            "000000000000.000.vlog",
            "MANIFEST",
        ],
        3 => &[
            "000000000000.sst",
            "000000000001.sst",
            "000000000002.sst",
            "000000000003.sst",
            "000000000000.000.vlog",
            "MANIFEST",
        ],
        _ => &[
            "000000000000.sst",
            "000000000001.sst",
            "000000000002.sst",
            "000000000003.sst",
            "000000000004.sst",
            "000000000005.sst",
            "000000000006.sst",
            "000000000000.000.vlog",
            "MANIFEST",
        ],
    }
}

fn golden(version: u32) -> PathBuf {
    let version = format!("tests/golden/v{version}");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(version)
}

pub(super) fn copy_golden(version: u32, dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    for name in files(version) {
        std::fs::copy(golden(version).join(name), dir.join(name)).unwrap();
    }
    std::fs::write(dir.join("000000000001.log"), b"").unwrap();
}

/// The last entry of what a shard of that version holds.
fn last(version: u32) -> u64 {
    match version {
        1 => 103,
        2 | 3 => 105,
        _ => 106,
    }
}

/// Puts everything that a format has into a shard: a table of the last level (by way of an installed
/// snapshot), tables of the first one, deletions, long values, a sealed value segment and pointers; a large value and rows.
async fn fill(dir: &Path) -> Engine {
    let source = open(&dir.with_extension("source"), 1 << 20).await.unwrap();
    for number in 0..100_u64 {
        let key = format!("key/{number:03}");
        put(&source, number + 1, key.as_bytes(), &[number as u8; 90]);
    }
    source.sessions().open(LogIndex(101));
    source.set_applied(log_id(101), Some(Bytes::from_static(b"members")));
    let engine = open(dir, 1 << 20).await.unwrap();
    copy(&source, &engine).await;
    source.close().await.unwrap();

    engine.delete(LogIndex(102), b"key/007");
    engine.sessions().admit(LogIndex(102), 101, 2, 1);
    engine.sessions().record(101, 2, b"result");
    engine.set_applied(log_id(102), None);
    put(&engine, 103, b"long", &[0xcc; 20_000]);
    let values = &engine.inner.values;
    for (index, key, value) in MEDIUM {
        let staged = values.stage(
            LogIndex(index),
            Space::User.key(key),
            &vec![value; MEDIUM_BYTES],
        );
        let (pointer, ticket) = staged.unwrap();
        values.wait_durable(ticket).await.unwrap();
        engine.put_separated(LogIndex(index), key, pointer);
        engine.set_applied(log_id(index), None);
    }
    put_large(&engine).await;
    engine.checkpoint().await.unwrap();
    engine.close().await.unwrap();
    engine.inner.values.close().await.unwrap();
    drop(engine);
    // A start seals what was written to, so the next manifest names it.
    let engine = open(dir, 1 << 20).await.unwrap();
    engine.set_policy(Policy::Tiered);
    engine.sessions().open(LogIndex(106));
    engine.set_applied(log_id(106), None);
    engine.checkpoint().await.unwrap();
    engine
}

const LARGE: LargeRef = LargeRef {
    upload: UploadId(0x1234_5678 << 96 | 9),
    len: 9001,
    committed_us: 1_700_000_000_000_000,
};
const LARGE_INDEX: LogIndex = LogIndex(105);

fn chunk(chunk: u32) -> [u8; ChunkId::KEY_BYTES] {
    let (upload, part) = (LARGE.upload, 0);
    let id = ChunkId {
        upload,
        part,
        chunk,
    };
    id.key()
}

/// A large value of two chunks, one of them in the value log, and a chunk that is staged.
async fn put_large(engine: &Engine) {
    let values = &engine.inner.values;
    let key = chunk(0);
    let staged = values.stage(LARGE_INDEX, Space::Chunk.key(&key), &[0xee; 9000]);
    let (pointer, ticket) = staged.unwrap();
    values.wait_durable(ticket).await.unwrap();
    engine.put_row_separated(LARGE_INDEX, Space::Chunk, &key, pointer);
    engine.put_row(LARGE_INDEX, Space::Chunk, &chunk(1), "e".into());
    engine.put_row(LARGE_INDEX, Space::Staged, &chunk(2), "12345678".into());
    let upload = LARGE.upload.key();
    engine.put_row(LARGE_INDEX, Space::Upload, &upload, "manifest".into());
    engine.put_large(LARGE_INDEX, b"vast", LARGE);
    engine.set_applied(log_id(LARGE_INDEX.0), None);
}

async fn check_large(engine: &Engine, item: &Item) {
    assert_eq!((&item.key[..], item.version), (&b"vast"[..], LARGE_INDEX));
    assert_eq!(item.value, ItemValue::Large(LARGE));
    let whole = engine.get(b"vast").await;
    assert!(matches!(whole, Err(crate::Error::IsLarge { len: 9001 })));
    let head = engine.head(b"vast").await.unwrap().unwrap();
    assert_eq!((head.version, head.len), (LARGE_INDEX, 9001));
    let upload = LARGE.upload.key();
    let rows: [(Space, &[u8], &[u8]); 4] = [
        (Space::Upload, &upload, b"manifest"),
        (Space::Staged, &chunk(2), b"12345678"),
        (Space::Chunk, &chunk(0), &[0xee; 9000]),
        (Space::Chunk, &chunk(1), b"e"),
    ];
    for (space, key, value) in rows {
        let row = engine.row(space, key).await.unwrap().unwrap();
        assert_eq!((row.version, &row.value[..]), (LARGE_INDEX, value));
    }
}

/// Index, key and byte of each value in the value log.
const MEDIUM: [(u64, &[u8], u8); 1] = [(104, b"medium", 0xdd)];
const MEDIUM_BYTES: usize = 9000;

async fn copy(source: &Engine, target: &Engine) {
    let mut received = target.receive_snapshot().await.unwrap();
    let mut snapshot = source.snapshot();
    while let Some(piece) = snapshot.next_piece().await.unwrap() {
        received.piece(piece).await.unwrap();
    }
    received.finish().await.unwrap();
    target.install(received).await.unwrap();
}

pub(super) async fn check(engine: &Engine, version: u32) {
    let members = Some((log_id(101), Bytes::from_static(b"members")));
    assert_eq!(engine.applied(), (Some(log_id(last(version))), members));
    let page = engine
        .scan(&range(b"", b""), None, 1000, 1 << 20)
        .await
        .unwrap();
    for item in &page.items[..99] {
        let number = item.version.0 - 1;
        assert_eq!(item.key, format!("key/{number:03}"));
        assert_eq!(*item.value.bytes().unwrap(), [number as u8; 90][..]);
    }
    assert_eq!(*page.items[99].value.bytes().unwrap(), vec![0xcc; 20_000]);
    let medium: &[(u64, &[u8], u8)] = if version == 1 { &[] } else { &MEDIUM };
    let has_large = version >= 4;
    assert_eq!(
        page.items.len(),
        100 + medium.len() + usize::from(has_large)
    );
    if has_large {
        check_large(engine, &page.items[101]).await;
    }
    for (item, (index, key, value)) in page.items[100..].iter().zip(medium) {
        assert_eq!(item.version.0, *index);
        assert_eq!(item.key, key);
        assert_eq!(*item.value.bytes().unwrap(), vec![*value; MEDIUM_BYTES]);
    }
    let next = LogIndex(last(version) + 1);
    let repeated = engine.sessions().admit(next, 101, 2, 1);
    assert!(matches!(repeated, crate::Admission::Repeated(result) if result[..] == *b"result"));
}

/// `cargo test -p corelith-shards write_golden_files -- --ignored engine`, for a new format version.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden_files() {
    on_core(|dir| async move {
        let engine = fill(&dir).await;
        check(&engine, VERSION).await;
        for name in files(VERSION) {
            std::fs::copy(dir.join(name), golden(VERSION).join(name)).unwrap();
        }
        let mut snapshot = engine.snapshot();
        let mut pieces = Vec::new();
        while let Some(piece) = snapshot.next_piece().await.unwrap() {
            pieces.extend_from_slice(&u32::try_from(piece.len()).unwrap().to_le_bytes());
            pieces.extend_from_slice(&piece);
        }
        std::fs::write(golden(VERSION).join("snapshot"), pieces).unwrap();
        engine.close().await.unwrap();
    });
}

/// How a file is printed may change with any release; `cargo test -p corelith-shards
/// write_golden_texts -- --ignored` follows.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden_texts() {
    on_core(|_| async move {
        for version in 1..=VERSION {
            for name in files(version) {
                let text = inspect(&golden(version).join(name)).await.unwrap().unwrap();
                std::fs::write(golden(version).join(format!("{name}.txt")), text).unwrap();
            }
        }
    });
}

#[test]
fn shards_of_all_versions_open() {
    on_core(|dir| async move {
        for version in 1..=VERSION {
            let dir = dir.with_extension(format!("v{version}"));
            copy_golden(version, &dir);
            let engine = open(&dir, 1 << 20).await.unwrap();
            check(&engine, version).await;
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn a_shard_of_version_1_becomes_one_of_the_version_of_now() {
    on_core(|dir| async move {
        copy_golden(1, &dir);
        let tiny = |parts: &mut EngineParts| {
            let options = &mut parts.options;
            options.compaction.leveled_runs_max = 1;
            options.compaction.base_bytes = 4 << 10;
            options.compaction.table_bytes = 16 << 10;
        };
        let engine = open_with(&dir, 1 << 20, tiny).await.unwrap();
        settle(&engine).await;
        // A flush of something new, and of versions that replace old ones.
        for number in 0..100_u64 {
            let key = format!("key/{:03}", if number == 7 { 8 } else { number });
            put(&engine, 104 + number, key.as_bytes(), b"new");
        }
        engine.checkpoint().await.unwrap();
        settle(&engine).await;
        let versions = |engine: &Engine| -> Vec<u32> {
            let state = engine.inner.state.borrow();
            let tables = state.version.tables();
            tables.map(|table| table.format_version()).collect()
        };
        assert!(engine.statistics().compaction.jobs > 0);
        assert!(versions(&engine).iter().all(|version| *version == VERSION));
        engine.close().await.unwrap();
        drop(engine);
        let manifest = std::fs::read(dir.join("MANIFEST")).unwrap();
        assert_eq!(manifest[8..12], VERSION.to_le_bytes());
        let engine = open_with(&dir, 1 << 20, tiny).await.unwrap();
        let page = engine.scan(&range(b"", b""), None, 1000, 1 << 20).await;
        let page = page.unwrap();
        assert_eq!(page.items.len(), 100);
        assert!(
            page.items[..99]
                .iter()
                .all(|item| *item.value.bytes().unwrap() == "new")
        );
        assert_eq!(*page.items[99].value.bytes().unwrap(), vec![0xcc; 20_000]);
        let repeated = engine.sessions().admit(LogIndex(300), 101, 2, 1);
        assert!(matches!(repeated, crate::Admission::Repeated(_)));
        engine.close().await.unwrap();
    });
}

#[test]
fn snapshots_of_all_versions_are_received() {
    on_core(|dir| async move {
        for version in 1..=VERSION {
            let dir = dir.with_extension(format!("v{version}"));
            let engine = open(&dir, 1 << 20).await.unwrap();
            let mut received = engine.receive_snapshot().await.unwrap();
            let pieces = std::fs::read(golden(version).join("snapshot")).unwrap();
            let mut pieces = Bytes::from(pieces);
            while !pieces.is_empty() {
                let len = bytes::Buf::get_u32_le(&mut pieces);
                received.piece(pieces.split_to(len as usize)).await.unwrap();
            }
            received.finish().await.unwrap();
            engine.install(received).await.unwrap();
            check(&engine, version).await;
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn files_of_all_versions_are_printed() {
    on_core(|dir| async move {
        for version in 1..=VERSION {
            let golden = golden(version);
            for name in files(version) {
                let expected = golden.join(format!("{name}.txt"));
                let expected = std::fs::read_to_string(expected).unwrap();
                let found = inspect(&golden.join(name)).await.unwrap().unwrap();
                assert_eq!(found, expected, "{name} of version {version}");
            }
        }
        std::fs::create_dir(&dir).unwrap();
        let other = dir.join("other");
        std::fs::write(&other, b"something else, but long enough").unwrap();
        assert!(inspect(&other).await.unwrap().is_none());
        std::fs::write(&other, b"").unwrap();
        assert!(inspect(&other).await.unwrap().is_none());
        let named = dir.join("MANIFEST");
        std::fs::write(&named, b"something else").unwrap();
        assert!(inspect(&named).await.unwrap_err().is_corrupt());
    });
}

#[test]
fn a_newer_format_is_refused_with_its_version() {
    on_core(|dir| async move {
        std::fs::create_dir(&dir).unwrap();
        for name in ["MANIFEST", "000000000000.sst"] {
            let mut file = std::fs::read(golden(VERSION).join(name)).unwrap();
            file[8] = 5;
            if name != "MANIFEST" {
                let crc = crc32c::crc32c(&file[..32]).to_le_bytes();
                file[32..36].copy_from_slice(&crc);
            }
            let path = dir.join(name);
            std::fs::write(&path, file).unwrap();
            let error = inspect(&path).await.unwrap_err();
            let newer = matches!(
                error,
                crate::Error::NewerFormat {
                    found: 5,
                    known: 4,
                    ..
                }
            );
            assert!(newer, "{error}");
        }
    });
}
