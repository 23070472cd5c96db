//! Files of every format version, as releases wrote them, still open and say the same.

#![expect(
    clippy::disallowed_methods,
    reason = "golden files are copied by ordinary means"
)]

use super::{log_id, on_core, open, put, range};
use crate::engine::Engine;
use crate::ids::LogIndex;
use crate::inspect::inspect;
use bytes::Bytes;
use std::path::{Path, PathBuf};

/// Files that make up a shard; the segment only stands for its log.
const FILES: [&str; 3] = ["000000000000.sst", "000000000001.sst", "MANIFEST"];

/// The version that is written now; golden files of it and of all before must stay readable.
const VERSION: u32 = 2;

fn golden(version: u32) -> PathBuf {
    let version = format!("tests/golden/v{version}");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(version)
}

/// Puts everything that a format has into a shard.
async fn fill(engine: &Engine) {
    for number in 0..100_u64 {
        let key = format!("key/{number:03}");
        put(engine, number + 1, key.as_bytes(), &[number as u8; 90]);
    }
    engine.sessions().open(LogIndex(101));
    engine.set_applied(log_id(101), Some(Bytes::from_static(b"members")));
    engine.checkpoint().await.unwrap();
    engine.delete(LogIndex(102), b"key/007");
    engine.sessions().admit(LogIndex(102), 101, 2, 1);
    engine.sessions().record(101, 2, b"result");
    engine.set_applied(log_id(102), None);
    put(engine, 103, b"long", &[0xcc; 20_000]);
    engine.checkpoint().await.unwrap();
}

async fn check(engine: &Engine) {
    let members = Some((log_id(101), Bytes::from_static(b"members")));
    assert_eq!(engine.applied(), (Some(log_id(103)), members));
    let page = engine
        .scan(&range(b"", b""), None, 1000, 1 << 20)
        .await
        .unwrap();
    assert_eq!(page.items.len(), 100);
    for item in &page.items[..99] {
        let number = item.found.version.0 - 1;
        assert_eq!(item.key, format!("key/{number:03}"));
        assert_eq!(item.found.value, [number as u8; 90][..]);
    }
    assert_eq!(page.items[99].found.value, vec![0xcc; 20_000]);
    let repeated = engine.sessions().admit(LogIndex(104), 101, 2, 1);
    assert!(matches!(repeated, crate::Admission::Repeated(result) if result[..] == *b"result"));
}

/// `cargo test -p corelith-shards write_golden_files -- --ignored`, for a new format version.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden_files() {
    on_core(|dir| async move {
        let engine = open(&dir, 1 << 20).await.unwrap();
        fill(&engine).await;
        for name in FILES {
            std::fs::copy(dir.join(name), golden(VERSION).join(name)).unwrap();
        }
        let mut snapshot = engine.snapshot();
        let mut pieces = Vec::new();
        while let Some(piece) = snapshot.next_piece().await.unwrap() {
            pieces.extend_from_slice(&u32::try_from(piece.len()).unwrap().to_le_bytes());
            pieces.extend_from_slice(&piece);
        }
        std::fs::write(golden(VERSION).join("snapshot"), pieces).unwrap();
        for name in FILES {
            let text = inspect(&golden(VERSION).join(name)).await.unwrap();
            std::fs::write(golden(VERSION).join(format!("{name}.txt")), text).unwrap();
        }
        engine.close().await.unwrap();
    });
}

#[test]
fn shards_of_all_versions_open() {
    on_core(|dir| async move {
        for version in 1..=VERSION {
            let dir = dir.with_extension(format!("v{version}"));
            std::fs::create_dir(&dir).unwrap();
            for name in FILES {
                std::fs::copy(golden(version).join(name), dir.join(name)).unwrap();
            }
            std::fs::write(dir.join("000000000001.log"), b"").unwrap();
            let engine = open(&dir, 1 << 20).await.unwrap();
            check(&engine).await;
            engine.close().await.unwrap();
        }
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
            check(&engine).await;
            engine.close().await.unwrap();
        }
    });
}

#[test]
fn files_of_all_versions_are_printed() {
    on_core(|dir| async move {
        for version in 1..=VERSION {
            let golden = golden(version);
            for name in FILES {
                let expected = golden.join(format!("{name}.txt"));
                let expected = std::fs::read_to_string(expected).unwrap();
                let found = inspect(&golden.join(name)).await.unwrap();
                assert_eq!(found, expected, "{name} of version {version}");
            }
        }
        std::fs::create_dir(&dir).unwrap();
        let other = dir.join("other");
        std::fs::write(&other, b"something else, but long enough").unwrap();
        assert!(inspect(&other).await.unwrap_err().is_corrupt());
        std::fs::write(&other, b"").unwrap();
        assert!(inspect(&other).await.unwrap_err().is_corrupt());
    });
}

#[test]
fn a_newer_format_is_refused_with_its_version() {
    on_core(|dir| async move {
        std::fs::create_dir(&dir).unwrap();
        for name in ["MANIFEST", "000000000000.sst"] {
            let mut file = std::fs::read(golden(VERSION).join(name)).unwrap();
            file[8] = 3;
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
                    found: 3,
                    known: 2,
                    ..
                }
            );
            assert!(newer, "{error}");
        }
    });
}
