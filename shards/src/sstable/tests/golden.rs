//! A table with everything that version 2 has besides what the shard's golden files show.

#![expect(
    clippy::disallowed_methods,
    reason = "golden files are copied by ordinary means"
)]

use super::*;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Compressed and plain blocks, fuse filters, long, separated and deleted values, two partitions.
fn entries() -> Vec<Entry> {
    let mut entries = vec![
        entry(b"", 5, Kept::Bytes(Vec::new())),
        entry(b"compressed", 9, Kept::Bytes(vec![b'c'; 9000])),
        entry(b"compressed", 4, Kept::Deleted),
        entry(b"long", 7, Kept::Bytes(vec![0xcc; 20_000])),
        entry(b"noise", 3, Kept::Bytes(noise(1, 5000))),
    ];
    for number in 0..9000 {
        let key = format!("pointer/{number:05}");
        entries.push(entry(
            key.as_bytes(),
            10 + number,
            Kept::Separated(pointer(number)),
        ));
    }
    let session = Space::Session.stored_key(&[0; 8]);
    entries.push((session, LogIndex(2), Kept::Bytes(b"session".to_vec())));
    entries
}

/// `cargo test -p corelith-shards write_golden_table -- --ignored`
#[test]
#[ignore = "writes into the source tree"]
fn write_golden_table() {
    on_core(|dir| async move {
        let meta = write_as(&dir, ALL_OPTIONS[3], &entries()).await;
        let path = crate::filename::FileName::Table(meta.id).path(&dir);
        std::fs::copy(path, golden("v2/lz4-fuse.sst")).unwrap();
    });
}

#[test]
fn a_table_of_version_2_opens() {
    on_core(|_| async move {
        let entries = entries();
        let cache = BlockCache::new(1 << 20);
        let table = Table::open_path(golden("v2/lz4-fuse.sst"), &cache).await;
        let table = Rc::new(table.unwrap());
        assert_eq!(table.format_version(), 2);
        assert!(read_on(&table, &[]).await.unwrap() == entries);
        for (key, at, _) in entries.iter().step_by(11) {
            assert!(check_get(&table, &entries, key, *at).await);
        }
        verify(&table).await.unwrap();
    });
}

#[test]
fn tables_of_version_1_are_read_and_verified() {
    on_core(|_| async move {
        for (name, entries) in [("v1/000000000000.sst", 101), ("v1/000000000001.sst", 3)] {
            let cache = BlockCache::new(1 << 20);
            let table = Table::open_path(golden(name), &cache).await.unwrap();
            let table = Rc::new(table);
            assert_eq!(table.format_version(), 1);
            let read = read_on(&table, &[]).await.unwrap();
            assert_eq!(read.len(), entries);
            for (key, at, _) in &read {
                assert!(check_get(&table, &read, key, *at).await);
                assert!(!table.ask(key, hash_of(key), *at).excludes());
            }
            verify(&table).await.unwrap();
        }
    });
}
