mod damage;
mod golden;
mod model;
mod space;

use super::*;
use crate::cache::BlockCache;
use crate::engine::tests::on_core;
use crate::error::{Error, Result};
use crate::ids::{LogIndex, TableId, ValueSegmentId};
use crate::key::{Space, compare};
use crate::large::LargeRef;
use crate::limits::KEY_BYTES_MAX;
use corelith_io::BLOCK_SIZE;
use futures_util::stream::{self, StreamExt};
use std::cmp::Ordering;
use std::path::Path;
use std::rc::Rc;

/// A version of a key and what is to be found.
type Entry = (Vec<u8>, LogIndex, Kept);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept {
    Deleted,
    Bytes(Vec<u8>),
    Separated(ValuePointer),
    Large(LargeRef),
}

const NEWEST: LogIndex = LogIndex(u64::MAX);

const ALL_OPTIONS: [TableOptions; 4] = {
    let (none, lz4) = (Compression::None, Compression::Lz4);
    [
        options(none, FilterKind::Bloom),
        options(none, FilterKind::Fuse),
        options(lz4, FilterKind::Bloom),
        options(lz4, FilterKind::Fuse),
    ]
};

const fn options(compression: Compression, filter: FilterKind) -> TableOptions {
    TableOptions {
        compression,
        filter,
    }
}

async fn write_as(dir: &Path, options: TableOptions, entries: &[Entry]) -> TableMeta {
    corelith_io::create_dir_all(dir).await.unwrap();
    let mut writer = TableWriter::create(dir, TableId(3), options).await.unwrap();
    for (key, at, kept) in entries {
        let content = match kept {
            Kept::Deleted => Content::Deleted,
            Kept::Bytes(bytes) => Content::Inline(bytes),
            Kept::Separated(pointer) => Content::Separated(*pointer),
            Kept::Large(large) => Content::Large((*large).into()),
        };
        writer.add(key, *at, content).await.unwrap();
    }
    let meta = writer.finish().await.unwrap();
    assert_eq!(meta.entries as usize, entries.len());
    meta
}

async fn open(dir: &Path, meta: TableMeta) -> Result<Table> {
    // Room for every block, so that what was read once is there.
    Table::open(dir, meta, &BlockCache::new(64 << 20)).await
}

async fn table_of(dir: &Path, options: TableOptions, entries: &[Entry]) -> Rc<Table> {
    let meta = write_as(dir, options, entries).await;
    Rc::new(open(dir, meta).await.unwrap())
}

fn entry(key: &[u8], at: u64, kept: Kept) -> Entry {
    (Space::User.stored_key(key), LogIndex(at), kept)
}

fn pointer(number: u64) -> ValuePointer {
    ValuePointer {
        segment: ValueSegmentId(number / 1000),
        slot: (number % 1000) as u32,
        offset: (number % 1000) * 8192,
        len: 5000 + (number % 3000) as u32,
        crc: (number * 77) as u32,
    }
}

fn large(number: u64) -> LargeRef {
    LargeRef {
        upload: corelith_wire::ids::UploadId(u128::from(number) << 60),
        len: number << 20,
        committed_us: number * 1000,
    }
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// Keys with many versions, long keys, values of all sizes and in the value log; some partitions.
fn mixed() -> Vec<Entry> {
    let mut entries = Vec::new();
    for number in 0..3000_u64 {
        let key = format!("{number:06}");
        let value = match number % 10 {
            0 => Kept::Separated(pointer(number)),
            1 => Kept::Large(large(number)),
            _ => Kept::Bytes(noise(number, 300)),
        };
        entries.push(entry(key.as_bytes(), number + 1, value));
    }
    for at in (1..40).rev() {
        let value = match at % 5 {
            0 => Kept::Deleted,
            _ => Kept::Bytes(vec![at as u8; (at as usize * 700) % 20_000]),
        };
        entries.push(entry(b"many", at, value));
    }
    for at in (1..4000).rev() {
        entries.push(entry(b"more", at, Kept::Bytes(noise(at, 250))));
    }
    for number in 0..20 {
        let mut key = vec![b'x'; KEY_BYTES_MAX - 1];
        key.push(number);
        entries.push(entry(&key, 5, Kept::Bytes(b"long key".to_vec())));
    }
    entries
}

async fn kept(table: &Table, value: Value) -> Kept {
    match value {
        Value::Deleted => Kept::Deleted,
        Value::Inline(bytes) => Kept::Bytes(bytes.to_vec()),
        Value::Stored(handle) => Kept::Bytes(table.stored(handle).await.unwrap().to_vec()),
        Value::Separated(pointer) => Kept::Separated(pointer),
        Value::Large(large) => Kept::Large(large.get()),
    }
}

/// What a read of (`key`, `at`) is to find.
fn expected<'a>(entries: &'a [Entry], key: &[u8], at: LogIndex) -> Option<&'a Entry> {
    let place =
        entries.partition_point(|entry| compare((&entry.0, entry.1), (key, at)) == Ordering::Less);
    entries.get(place).filter(|entry| entry.0 == key)
}

/// Reads (`key`, `at`) in every way; returns whether there is something.
async fn check_get(table: &Table, entries: &[Entry], key: &[u8], at: LogIndex) -> bool {
    let expected = expected(entries, key, at);
    let hash = hash_of(key);
    let found = table.get(key, hash, at).await.unwrap();
    let asked = table.ask(key, hash, at);
    let cached = table
        .get_cached(key, hash, at, &asked)
        .expect("it was just read");
    assert_eq!(cached.unwrap(), found);
    assert!(!asked.excludes() || expected.is_none());
    let found_at = found.as_ref().map(|found| found.0);
    assert_eq!(found_at, expected.map(|entry| entry.1));
    if let (Some((_, value)), Some((_, _, expected))) = (found, expected) {
        assert!(kept(table, value).await == *expected);
    }
    expected.is_some()
}

async fn verify(table: &Rc<Table>) -> Result<u64> {
    let mut verifier = Verifier::new(Rc::clone(table));
    let mut bytes = 0;
    while let Some(step) = verifier.step().await? {
        assert!(step > 0);
        bytes += step;
    }
    Ok(bytes)
}

/// Everything that a sequential cursor gives from `from` on.
async fn read_on(table: &Rc<Table>, from: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut cursor = SequentialCursor::start(Rc::clone(table), from).await?;
    while let Some(at) = &mut cursor {
        let EntryRef {
            key,
            at: version,
            value,
        } = at.current();
        let key = key.to_vec();
        let value = match value {
            ValueRef::Deleted => Kept::Deleted,
            ValueRef::Inline(bytes) => Kept::Bytes(bytes.to_vec()),
            ValueRef::Separated(pointer) => Kept::Separated(pointer),
            ValueRef::Large(large) => Kept::Large(large.get()),
            ValueRef::Stored(handle) => Kept::Bytes(at.table().stored(handle).await?.to_vec()),
        };
        entries.push((key, version, value));
        if !at.advance().await? {
            break;
        }
    }
    Ok(entries)
}

/// A block as it is in the file.
#[derive(Clone, Copy, Debug)]
struct Found {
    handle: BlockHandle,
    kind: u32,
    whole: u32,
}

/// All blocks of a file.
fn blocks(file: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut offset = BLOCK_SIZE;
    while offset < file.len() {
        let number =
            |at: usize| u32::from_le_bytes(file[offset + at..offset + at + 4].try_into().unwrap());
        let handle = BlockHandle {
            offset: offset as u64,
            len: number(4),
        };
        found.push(Found {
            handle,
            kind: number(8),
            whole: number(12),
        });
        offset += handle.span();
    }
    found
}

#[test]
fn every_version_is_found_and_nothing_else() {
    on_core(|dir| async move {
        let entries = mixed();
        for options in ALL_OPTIONS {
            let table = table_of(&dir, options, &entries).await;
            for (key, at, _) in entries.iter().step_by(5) {
                for at in [at.0 - 1, at.0, at.0 + 1, u64::MAX] {
                    check_get(&table, &entries, key, LogIndex(at)).await;
                }
                let mut absent = key.clone();
                absent.push(0);
                assert!(!check_get(&table, &entries, &absent, NEWEST).await);
                absent.truncate(absent.len() - 2);
                check_get(&table, &entries, &absent, NEWEST).await;
            }
            // Everything was read, and nothing more than that.
            let read = verify(&table).await.unwrap();
            assert!(read >= table.meta().file_bytes, "{read}");
            remove(&dir, table).await;
        }
    });
}

async fn remove(dir: &Path, table: Rc<Table>) {
    let path = crate::filename::FileName::Table(table.meta().id).path(dir);
    corelith_io::remove_file(&path).await.unwrap();
}

#[test]
fn versions_go_on_over_blocks_and_partitions() {
    on_core(|dir| async move {
        let mut entries = vec![entry(b"a", 9, Kept::Deleted)];
        // About two partitions of one key alone, by the length of a leaf.
        let versions = 6000;
        for at in (1..=versions).rev() {
            entries.push(entry(b"key", at * 10, Kept::Bytes(noise(at, 290))));
        }
        entries.push(entry(b"z", 9, Kept::Bytes(b"last".to_vec())));
        let table = table_of(&dir, TableOptions::default(), &entries).await;
        let key = Space::User.stored_key(b"key");
        for at in (1..versions * 10 + 20).step_by(7) {
            check_get(&table, &entries, &key, LogIndex(at)).await;
        }
        verify(&table).await.unwrap();
        let counters = table.cache().counters();
        assert_eq!(counters.filter_negatives, 0);

        // The same while blocks are evicted between the steps of a search.
        let cache = BlockCache::new(48 << 10);
        let meta = table.meta().clone();
        let table = Table::open(&dir, meta, &cache).await.unwrap();
        let searches = (10..versions * 10).step_by(5).map(async |at| {
            let found = table.get(&key, hash_of(&key), LogIndex(at)).await.unwrap();
            assert_eq!(found.expect("it is there").0, LogIndex(at - at % 10));
        });
        let count = stream::iter(searches).buffer_unordered(32).count().await;
        assert!(cache.counters().misses as usize > count / 2);
    });
}

#[test]
fn cursors_go_over_all_entries_from_anywhere() {
    on_core(|dir| async move {
        let entries = mixed();
        for options in [ALL_OPTIONS[0], ALL_OPTIONS[3]] {
            let table = table_of(&dir, options, &entries).await;
            for start in (0..entries.len()).step_by(997) {
                let (key, at, _) = &entries[start];
                let cursor = TableCursor::seek(&table, key, *at).await.unwrap();
                let mut cursor = cursor.unwrap();
                for (index, (key, at, value)) in entries.iter().enumerate().skip(start) {
                    let (found_key, found_at, found) = cursor.current();
                    assert_eq!((found_key, found_at), (key.as_slice(), *at));
                    assert!(kept(&table, found.clone()).await == *value);
                    let more = cursor.advance(&table).await.unwrap();
                    assert_eq!(more, index + 1 < entries.len());
                }
                let first = entries.iter().position(|entry| entry.0 >= *key).unwrap();
                assert!(read_on(&table, key).await.unwrap() == entries[first..]);
            }
            assert!(read_on(&table, &[]).await.unwrap() == entries);
            assert!(read_on(&table, &[9]).await.unwrap().is_empty());
            let beyond = TableCursor::seek(&table, &[9], LogIndex(0)).await.unwrap();
            assert!(beyond.is_none());
            remove(&dir, table).await;
        }
    });
}

#[test]
fn a_table_knows_which_values_it_holds() {
    on_core(|dir| async move {
        let entries: Vec<Entry> = (0..5000_u64)
            .map(|number| {
                let key = format!("{number:06}");
                entry(key.as_bytes(), number + 1, Kept::Separated(pointer(number)))
            })
            .collect();
        let table = table_of(&dir, TableOptions::default(), &entries).await;
        let references = &table.meta().references;
        let segments: Vec<_> = references.iter().map(|found| found.segment.0).collect();
        assert_eq!(segments, [0, 1, 2, 3, 4]);
        assert!(references.iter().all(|reference| reference.values == 1000));
        let bytes: u64 = (0..1000).map(|number| 48 + 6 + 4 + 5000 + number).sum();
        assert_eq!(references[0].bytes, bytes);

        for (number, (key, at, _)) in entries.iter().enumerate().step_by(37) {
            let right = pointer(number as u64);
            for use_cache in [false, true] {
                let holds = async |key: &[u8], at, pointer| {
                    table.holds(key, at, pointer, use_cache).await.unwrap()
                };
                assert!(holds(key, *at, right).await);
                // Where the record was first does not matter.
                assert!(holds(key, *at, ValuePointer { offset: 1, ..right }).await);
                assert!(!holds(key, LogIndex(at.0 + 1), right).await);
                assert!(!holds(key, LogIndex(at.0 - 1), right).await);
                let slot = right.slot + 1;
                assert!(!holds(key, *at, ValuePointer { slot, ..right }).await);
                let segment = ValueSegmentId(right.segment.0 + 1);
                assert!(!holds(key, *at, ValuePointer { segment, ..right }).await);
                assert!(!holds(&key[..key.len() - 1], *at, right).await);
            }
        }
    });
}

#[test]
fn filters_spare_most_searches_and_are_counted() {
    on_core(|dir| async move {
        let entries: Vec<Entry> = (0..20_000_u64)
            .map(|number| {
                let key = format!("{:06}", number * 2);
                entry(key.as_bytes(), number + 1, Kept::Separated(pointer(number)))
            })
            .collect();
        for options in [ALL_OPTIONS[0], ALL_OPTIONS[1]] {
            let table = table_of(&dir, options, &entries).await;
            let absent = |number: u64| Space::User.stored_key(format!("{number:06}").as_bytes());
            let first = absent(1);
            assert!(
                !table.ask(&first, hash_of(&first), NEWEST).excludes(),
                "not read yet"
            );
            let mut excluded = 0_u64;
            for number in (1..39_998).step_by(2) {
                let key = absent(number);
                let hash = hash_of(&key);
                assert!(table.get(&key, hash, NEWEST).await.unwrap().is_none());
                let asked = table.ask(&key, hash, NEWEST);
                let cached = table.get_cached(&key, hash, NEWEST, &asked);
                assert!(cached.unwrap().unwrap().is_none());
                excluded += u64::from(asked.excludes());
            }
            let counters = table.cache().counters();
            let searches = counters.filter_negatives + counters.filter_positives;
            assert!(counters.filter_positives == counters.false_positives);
            assert_eq!(searches, 2 * 19_999, "{counters:?}");
            assert_eq!(2 * (19_999 - excluded), counters.filter_positives);
            // Twice 0.4 % of 19,999.
            assert!(counters.false_positives < 320, "{counters:?}");
            assert!(counters.misses < 200, "{counters:?}");
            remove(&dir, table).await;
        }
    });
}

#[test]
fn searches_that_evict_each_others_blocks_find_everything() {
    on_core(|dir| async move {
        let entries = mixed();
        for (budget, options) in [(48 << 10, ALL_OPTIONS[0]), (200 << 10, ALL_OPTIONS[3])] {
            let meta = write_as(&dir, options, &entries).await;
            let cache = BlockCache::new(budget);
            let table = Rc::new(Table::open(&dir, meta, &cache).await.unwrap());
            let wanted = entries.iter().step_by(3);
            let searches = wanted.map(async |(key, at, value)| {
                let found = table.get(key, hash_of(key), *at).await.unwrap();
                let (found_at, found) = found.expect("it is there");
                assert_eq!(found_at, *at);
                assert!(kept(&table, found).await == *value);
            });
            let count = stream::iter(searches).buffer_unordered(32).count().await;
            // Each filter, leaf and data block was read several times.
            assert!(cache.counters().misses as usize > count / 2);
            remove(&dir, table).await;
        }
    });
}

#[test]
fn without_a_cache_everything_is_read_anew() {
    on_core(|dir| async move {
        let entries = mixed();
        let meta = write_as(&dir, ALL_OPTIONS[3], &entries).await;
        let cache = BlockCache::new(0);
        let table = Table::open(&dir, meta, &cache).await.unwrap();
        for (key, at, _) in entries.iter().step_by(101) {
            let found = table.get(key, hash_of(key), *at).await.unwrap();
            assert_eq!(found.unwrap().0, *at);
            let asked = table.ask(key, hash_of(key), *at);
            assert!(!asked.excludes());
            let cached = table.get_cached(key, hash_of(key), *at, &asked);
            assert!(cached.is_none());
        }
        assert_eq!(cache.counters().bytes, 0);
        assert_eq!(cache.counters().hits, 0);
    });
}
