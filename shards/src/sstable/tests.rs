use super::*;
use crate::cache::BlockCache;
use crate::engine::tests::{OWNER, on_core};
use crate::error::Error;
use crate::filename::FileName;
use crate::ids::{LogIndex, TableId};
use crate::key::{Space, compare};
use crate::limits::KEY_BYTES_MAX;
use std::cmp::Ordering;
use std::path::Path;

type Entry = (Vec<u8>, LogIndex, Option<Vec<u8>>);

async fn write(dir: &Path, entries: &[Entry]) -> TableMeta {
    corelith_io::create_dir_all(dir).await.unwrap();
    let mut writer = TableWriter::create(dir, OWNER, TableId(3), TableOptions::default())
        .await
        .unwrap();
    for (key, at, value) in entries {
        let content = value.as_deref().map_or(Content::Deleted, Content::Inline);
        writer.add(key, *at, content).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn open(dir: &Path, meta: TableMeta) -> Result<Table, Error> {
    let cache = BlockCache::new(64 << 10);
    Table::open(dir, OWNER, meta, &cache).await
}

fn entry(key: &[u8], at: u64, value: Option<&[u8]>) -> Entry {
    (
        Space::User.stored_key(key),
        LogIndex(at),
        value.map(<[u8]>::to_vec),
    )
}

/// Keys with many versions, long keys, and values of all sizes.
fn mixed() -> Vec<Entry> {
    let mut entries = Vec::new();
    for number in 0..300_u64 {
        let key = format!("{number:04}");
        entries.push(entry(key.as_bytes(), number + 1, Some(&[7; 100])));
    }
    for at in (1..40).rev() {
        let value = vec![at as u8; (at as usize * 700) % 20_000];
        let value = (at % 5 != 0).then_some(value);
        entries.push(entry(b"many", at, value.as_deref()));
    }
    for number in 0..20 {
        let mut key = vec![b'x'; KEY_BYTES_MAX - 1];
        key.push(number);
        entries.push(entry(&key, 5, Some(b"long key")));
    }
    entries
}

/// What a read of (`key`, `at`) is to find.
fn expected<'a>(entries: &'a [Entry], key: &[u8], at: LogIndex) -> Option<&'a Entry> {
    let found = entries
        .iter()
        .find(|entry| compare((&entry.0, entry.1), (key, at)) != Ordering::Less);
    found.filter(|entry| entry.0 == key)
}

async fn value_of(table: &Table, value: &Value) -> Option<bytes::Bytes> {
    match value {
        Value::Stored(handle) => Some(table.stored(*handle).await.unwrap()),
        Value::Inline(bytes) => Some(bytes.clone()),
        _ => None,
    }
}

async fn check_get(table: &Table, entries: &[Entry], key: &[u8], at: LogIndex) {
    let found = table.get(key, hash_of(key), at).await.unwrap();
    let expected = expected(entries, key, at);
    assert_eq!(
        found.as_ref().map(|found| found.0),
        expected.map(|entry| entry.1)
    );
    if let (Some((_, value)), Some((_, _, expected))) = (found, expected) {
        let value = value_of(table, &value).await;
        assert_eq!(value.as_deref(), expected.as_deref());
    }
}

#[test]
fn every_version_is_found_and_nothing_else() {
    on_core(|dir| async move {
        let entries = mixed();
        let meta = write(&dir, &entries).await;
        assert_eq!(meta.entries as usize, entries.len());
        assert_eq!((meta.lowest, meta.highest), (LogIndex(1), LogIndex(300)));
        let table = open(&dir, meta).await.unwrap();
        for (key, at, _) in &entries {
            for at in [at.0 - 1, at.0, at.0 + 1, u64::MAX] {
                check_get(&table, &entries, key, LogIndex(at)).await;
            }
            assert!(table.may_contain(hash_of(key)));
            let mut absent = key.clone();
            absent.push(0);
            check_get(&table, &entries, &absent, LogIndex(u64::MAX)).await;
            absent.truncate(absent.len() - 2);
            check_get(&table, &entries, &absent, LogIndex(u64::MAX)).await;
        }
    });
}

#[test]
fn a_cursor_goes_over_all_entries_from_anywhere() {
    on_core(|dir| async move {
        let entries = mixed();
        let meta = write(&dir, &entries).await;
        let table = open(&dir, meta).await.unwrap();
        for start in (0..entries.len()).step_by(7) {
            let (key, at, _) = &entries[start];
            let mut cursor = TableCursor::seek(&table, key, *at).await.unwrap().unwrap();
            for (index, (key, at, value)) in entries.iter().enumerate().skip(start) {
                let (found_key, found_at, found) = cursor.current();
                assert_eq!((found_key, found_at), (key.as_slice(), *at));
                let found = value_of(&table, found).await;
                assert_eq!(found.as_deref(), value.as_deref());
                let more = cursor.advance(&table).await.unwrap();
                assert_eq!(more, index + 1 < entries.len());
            }
        }
        let beyond = TableCursor::seek(&table, &[9], LogIndex(0)).await.unwrap();
        assert!(beyond.is_none());
    });
}

/// Reads everything; an error, or the entries.
async fn read_all(dir: &Path, meta: TableMeta) -> Result<Vec<Entry>, Error> {
    let table = open(dir, meta).await?;
    let mut entries = Vec::new();
    let mut cursor = TableCursor::seek(&table, &[], LogIndex(u64::MAX)).await?;
    while let Some(at) = &mut cursor {
        let (key, version, value) = at.current();
        let key = key.to_vec();
        let value = match value {
            Value::Stored(handle) => Some(table.stored(*handle).await?),
            Value::Inline(bytes) => Some(bytes.clone()),
            _ => None,
        };
        entries.push((key, version, value.map(|value| value.to_vec())));
        if !at.advance(&table).await? {
            break;
        }
    }
    Ok(entries)
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test damages the file behind the table's back"
)]
fn a_damaged_byte_gives_an_error_or_changes_nothing() {
    on_core(|dir| async move {
        let entries = vec![
            entry(b"apple", 3, Some(b"red")),
            entry(b"apple", 2, None),
            entry(b"banana", 7, Some(&[5; 17_000])),
        ];
        let meta = write(&dir, &entries).await;
        let path = FileName::Table(meta.id).path(&dir);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len() as u64, meta.file_bytes);
        let used = (0..whole.len()).filter(|place| {
            // Every byte of the headers and payloads, and some of the zeros and the long value.
            place % 4096 < 200 || place % 97 == 0
        });
        let mut errors = 0;
        for place in used {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x20;
            std::fs::write(&path, &damaged).unwrap();
            match read_all(&dir, meta.clone()).await {
                Ok(found) => assert!(found == entries, "byte {place}"),
                Err(Error::Corrupt { .. } | Error::NewerFormat { .. }) => errors += 1,
                Err(error) => panic!("byte {place}: {error}"),
            }
        }
        assert!(errors > 400, "{errors}");
        for len in (0..whole.len()).step_by(509) {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(read_all(&dir, meta.clone()).await.is_err(), "cut at {len}");
        }
        // The same table under another number, as after a misdirected rename.
        std::fs::write(FileName::Table(TableId(4)).path(&dir), &whole).unwrap();
        let other = TableMeta {
            id: TableId(4),
            ..meta
        };
        assert!(read_all(&dir, other).await.unwrap_err().is_corrupt());
    });
}
