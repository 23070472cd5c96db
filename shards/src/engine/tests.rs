//! Tests of the engine in the Uring world, on real files.

mod capacity;
pub(crate) mod crash;
mod files;
mod golden;
mod heal;
mod model;
mod pace;
mod reclaim;
mod scrub;
mod snapshot;

use super::{
    Engine, EngineOptions, EngineParts, Item, ItemValue, LogHooks, Lookup, ScanPage, ScanRange,
    ScrubOptions, Sought,
};
use crate::cache::BlockCache;
use crate::capacity::Capacity;
use crate::compaction::{self, Policy};
use crate::directory::Directory;
use crate::error::Result;
use crate::filename::FileName;
use crate::ids::{LogId, LogIndex, Owner, ReplicaId, SegmentId, ShardId, Term};
use crate::pace::PaceLimits;
use crate::recovery;
use crate::reserve::Reserve;
use crate::rounds::Rounds;
use crate::sstable::Compression;
use crate::vlog::{ValueLog, ValueLogOptions};
use bytes::Bytes;
use corelith_io::OpenOptions;
use std::path::Path;
use std::time::Duration;

pub(crate) const OWNER: Owner = Owner {
    store_id: 0x5eed,
    shard: ShardId(1),
};

/// Short, so that a run begins many.
pub(crate) const VALUE_SEGMENT_BYTES: u64 = 64 << 10;

pub(crate) fn log_id(index: u64) -> LogId {
    LogId {
        term: Term(1),
        node: ReplicaId(1),
        index: LogIndex(index),
    }
}

/// Opens an engine without a log; a file stands in for it.
pub(crate) async fn open(dir: &Path, memtable_bytes: usize) -> Result<Engine> {
    open_with(dir, memtable_bytes, |_| {}).await
}

/// As [`open`], with something changed.
async fn open_with(
    dir: &Path,
    memtable_bytes: usize,
    change: impl FnOnce(&mut EngineParts),
) -> Result<Engine> {
    let dir = &Directory::from(dir);
    let recovered = recovery::recover(dir, OWNER, false).await?;
    if recovered.creating {
        let segment = FileName::Segment(SegmentId(1)).path(dir);
        OpenOptions::new()
            .write()
            .create_new()
            .open(&segment)
            .await?;
        // A log is durable, name included, before the creation ends.
        dir.sync().await?;
        recovery::finish_creation(dir, OWNER, &recovered.manifest).await?;
    }
    let manifest = &recovered.manifest;
    let (values, _) = ValueLog::open(
        dir,
        OWNER,
        ValueLogOptions {
            segment_bytes: VALUE_SEGMENT_BYTES,
            series: manifest.series,
        },
        manifest.segments.clone(),
        manifest.next_segment,
    )
    .await?;
    let mut parts = EngineParts {
        rounds: Rounds::default(),
        dir: dir.into(),
        owner: OWNER,
        options: EngineOptions {
            memtable_bytes,
            policy: Policy::default(),
            compaction: compaction::PickerOptions::default(),
            limits: PaceLimits::default(),
            compression: Compression::None,
            value_threshold: 0,
            scrub: ScrubOptions::default(),
            removal_step_bytes: 4 << 10,
            capacity: Capacity::default(),
        },
        cache: BlockCache::new(1 << 20),
        values,
        manifest: recovered.manifest,
        lock: Some(recovered.lock),
        log: LogHooks {
            barrier: Box::new(|| Box::pin(async { Ok(()) })),
            purged: Box::new(|| None),
            is_disk_full: Box::new(|| false),
            is_stuck: Box::new(|| false),
            segments: Box::new(|| 1),
            has_segment: Box::new(|_| false),
            at_rest: Box::new(Vec::new),
            check: Box::new(|_, _| Box::pin(async { Ok(None) })),
        },
        reserve: Reserve::new(dir, 0),
        on_damage: None,
    };
    change(&mut parts);
    Engine::open(parts).await
}

/// Length of the manifest in effect.
pub(crate) fn manifest_bytes(engine: &Engine) -> u64 {
    engine.inner.manifest_bytes.get()
}

/// Waits until nothing is left to flush, compact or collect, or nothing will ever be done any more, and
/// unused files are gone.
pub(crate) async fn settle(engine: &Engine) {
    while !engine.is_settled() && engine.check_usable().is_ok() {
        let changed = engine.inner.changed.notified();
        let _ = corelith_io::timeout(Duration::from_millis(5), changed).await;
    }
    engine.remove_unused().await;
}

/// Ends an engine as a crash would, but for work that is under way: its files would be in use.
pub(crate) async fn abandon(engine: Engine) {
    engine.inner.state.borrow_mut().closed = true;
    engine.inner.background.wake();
    loop {
        let changed = engine.inner.changed.notified();
        let is_flushing = engine.inner.state.borrow().flushing;
        if !is_flushing && engine.inner.background.is_idle() {
            return;
        }
        changed.await;
    }
}

/// Runs a test on a core, in a directory of its own.
pub(crate) fn on_core<F, Fut>(test: F)
where
    F: FnOnce(std::path::PathBuf) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard");
    corelith_io::core::run(move || test(path));
}

fn put(engine: &Engine, index: u64, key: &[u8], value: &[u8]) {
    engine.put(LogIndex(index), key, Bytes::copy_from_slice(value));
    engine.set_applied(log_id(index), None);
}

fn range(start: &[u8], end: &[u8]) -> ScanRange {
    ScanRange {
        start: Bytes::copy_from_slice(start),
        end: Bytes::copy_from_slice(end),
    }
}

fn keys(page: &ScanPage) -> Vec<&[u8]> {
    page.items.iter().map(|item| item.key.as_ref()).collect()
}

#[test]
fn what_is_checkpointed_is_there_after_a_restart() {
    on_core(|dir| async move {
        let engine = open(&dir, 1 << 20).await.unwrap();
        assert_eq!(engine.applied(), (None, None));
        assert_eq!(engine.get_in_memory(b"a"), Some(None));
        put(&engine, 1, b"a", b"one");
        put(&engine, 2, b"b", &[7; 100_000]);
        engine.sessions().open(LogIndex(3));
        engine.set_applied(log_id(3), Some(Bytes::from_static(b"members")));
        assert_eq!(engine.checkpoint().await.unwrap(), Some(log_id(3)));
        put(&engine, 4, b"a", b"lost");
        abandon(engine).await;

        let engine = open(&dir, 1 << 20).await.unwrap();
        let members = Some((log_id(3), Bytes::from_static(b"members")));
        assert_eq!(engine.applied(), (Some(log_id(3)), members));
        assert_eq!(engine.sessions().len(), 1);
        assert_eq!(engine.get_in_memory(b"a"), None);
        assert_eq!(engine.get(b"zz").await.unwrap(), None);
        assert_eq!(
            engine.get_in_memory(b"zz"),
            Some(None),
            "its filter is known"
        );
        let found = engine.get(b"a").await.unwrap().unwrap();
        assert_eq!((found.version, found.value), (LogIndex(1), "one".into()));
        let found = engine.get(b"b").await.unwrap().unwrap();
        assert_eq!(found.value, vec![7; 100_000]);
        assert_eq!(engine.version_of(b"b").await.unwrap(), Some(LogIndex(2)));
        assert_eq!(engine.version_of(b"c").await.unwrap(), None);
        engine.delete(LogIndex(4), b"a");
        engine.set_applied(log_id(4), None);
        assert_eq!(engine.get(b"a").await.unwrap(), None);
        engine.close().await.unwrap();
        assert!(
            engine.checkpoint().await.is_ok(),
            "nothing is left to flush"
        );
    });
}

#[test]
fn how_long_a_value_is_is_known_before_it_is_read() {
    on_core(|dir| async move {
        let engine = open(&dir, 1 << 20).await.unwrap();
        put(&engine, 1, b"a", &[7; 100_000]);
        put(&engine, 2, b"b", b"short");
        engine.checkpoint().await.unwrap();
        abandon(engine).await;

        let engine = open(&dir, 1 << 20).await.unwrap();
        let Lookup::Unknown(search) = engine.look_up(b"a") else {
            panic!("no table is in the cache");
        };
        // The search continues from the moment of the lookup, even if the state changes.
        put(&engine, 3, b"a", b"later");
        engine.checkpoint().await.unwrap();
        let Sought::Stored(stored) = engine.search(b"a", search).await.unwrap() else {
            panic!("a long value has a place of its own");
        };
        assert_eq!(stored.value_len(), 100_000);
        let found = engine.read(b"a", stored).await.unwrap();
        assert_eq!(found.version, LogIndex(1));
        assert_eq!(found.value, vec![7; 100_000]);
        let found = engine.get(b"a").await.unwrap().unwrap();
        assert_eq!((found.version, found.value), (LogIndex(3), "later".into()));
        put(&engine, 4, b"a", &[8; 5000]);
        match engine.look_up(b"a") {
            Lookup::Found(Some(found)) => assert_eq!(found.value, vec![8; 5000]),
            _ => panic!("it is in a memtable"),
        }

        let page = async |first_max| {
            let all = range(b"", b"");
            let page = engine.scan_within(&all, None, 10, 1000, first_max).await;
            page.unwrap()
        };
        let refused = page(5000).await;
        assert_eq!((refused.items.len(), refused.more), (0, true));
        assert_eq!(refused.too_long, Some(5001));
        let allowed = page(5001).await;
        assert_eq!((keys(&allowed), allowed.more), (vec![&b"a"[..]], true));
        engine.close().await.unwrap();
    });
}

#[test]
fn a_checkpoint_without_writes_needs_no_table() {
    on_core(|dir| async move {
        let engine = open(&dir, 1 << 20).await.unwrap();
        assert_eq!(engine.checkpoint().await.unwrap(), None);
        engine.set_applied(log_id(9), None);
        let waited = corelith_io::spawn({
            let engine = engine.clone();
            async move { engine.wait_checkpoint(None).await }
        });
        assert_eq!(engine.checkpoint().await.unwrap(), Some(log_id(9)));
        assert_eq!(waited.await.unwrap(), Some(log_id(9)));
        assert_eq!(engine.tables(), (0, 0));
        engine.close().await.unwrap();
        drop(engine);
        let engine = open(&dir, 1 << 20).await.unwrap();
        assert_eq!(engine.applied().0, Some(log_id(9)));
    });
}

#[test]
fn a_scan_in_pages_sees_one_state() {
    on_core(|dir| async move {
        let engine = open(&dir, 1 << 20).await.unwrap();
        for index in 1..=20 {
            put(&engine, index, &[index as u8], b"old");
        }
        engine.checkpoint().await.unwrap();
        let pin = engine.pin();
        let mut seen = Vec::new();
        let mut from = range(b"", b"");
        loop {
            let page = engine
                .scan(&from, Some(pin.at()), 3, 1 << 20)
                .await
                .unwrap();
            for item in &page.items {
                assert_eq!(&item.value.bytes().unwrap()[..], b"old");
                seen.push(item.key[0]);
            }
            let Some(last) = seen.last().copied() else {
                break;
            };
            // Changes under the scan: overwritten in memory, flushed, deleted.
            let index = 21 + u64::from(last);
            put(&engine, index, &[last + 1], b"new");
            if last % 2 == 0 {
                engine.checkpoint().await.unwrap();
            }
            if !page.more {
                break;
            }
            from = range(&[last, 0], b"");
        }
        assert_eq!(seen, (1..=20).collect::<Vec<u8>>());
        drop(pin);
        // Nothing has been dropped yet; an overwritten version that is not pinned is.
        let old = engine
            .scan(&range(b"", b""), Some(LogIndex(20)), 9, 9)
            .await;
        assert_eq!(&old.unwrap().items[0].value.bytes().unwrap()[..], b"old");
        put(&engine, 50, &[1], b"new");
        put(&engine, 51, &[1], b"newer");
        let gone = engine
            .scan(&range(b"", b""), Some(LogIndex(20)), 1, 1)
            .await;
        assert!(matches!(gone, Err(crate::Error::SequenceGone { at: 20 })));
        engine.close().await.unwrap();
    });
}

#[test]
fn a_scan_ends_at_its_limits() {
    on_core(|dir| async move {
        let engine = open(&dir, 1 << 20).await.unwrap();
        for (index, key) in (1..).zip(["a", "b", "c", "d"]) {
            put(&engine, index, key.as_bytes(), &[0; 99]);
        }
        engine.delete(LogIndex(5), b"b");
        engine.set_applied(log_id(5), None);
        // (start, end, items, bytes, keys, whether more may follow)
        type Case<'a> = (&'a str, &'a str, usize, usize, &'a [&'a str], bool);
        let cases: [Case<'_>; 8] = [
            ("", "", 9, 9999, &["a", "c", "d"], false),
            ("", "", 1, 9999, &["a"], true),
            ("", "", 3, 9999, &["a", "c", "d"], false),
            ("", "", 9, 200, &["a", "c"], true),
            ("", "", 9, 1, &["a"], true),
            ("a", "c", 9, 9999, &["a"], false),
            ("b", "b", 9, 9999, &[], false),
            ("c", "a", 9, 9999, &[], false),
        ];
        for flushed in [false, true] {
            for (start, end, items, bytes, expected, more) in cases {
                let range = range(start.as_bytes(), end.as_bytes());
                let page = engine.scan(&range, None, items, bytes).await.unwrap();
                let expected: Vec<&[u8]> = expected.iter().map(|key| key.as_bytes()).collect();
                assert_eq!(
                    keys(&page),
                    expected,
                    "{flushed} {start} {end} {items} {bytes}"
                );
                assert_eq!(page.more, more, "{flushed} {start} {end} {items} {bytes}");
            }
            engine.checkpoint().await.unwrap();
        }
        engine.close().await.unwrap();
    });
}

#[test]
fn the_longest_keys_and_values_are_kept() {
    use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
    on_core(|dir| async move {
        let engine = open(&dir, 64 << 20).await.unwrap();
        let key = vec![0xff; KEY_BYTES_MAX];
        let value = Bytes::from(vec![0xab; VALUE_BYTES_MAX]);
        engine.put(LogIndex(1), &key, value.clone());
        engine.put(LogIndex(1), b"", Bytes::new());
        for index in 0..200_u8 {
            let mut key = vec![b'k'; KEY_BYTES_MAX - 1];
            key.push(index);
            engine.put(LogIndex(1), &key, Bytes::copy_from_slice(&[index]));
        }
        engine.set_applied(log_id(1), None);
        engine.checkpoint().await.unwrap();
        assert_eq!(engine.get_in_memory(&key), None);
        assert_eq!(engine.get(&key).await.unwrap().unwrap().value, value);
        let head = engine.head(&key).await.unwrap().unwrap();
        assert_eq!(
            (head.version, head.len),
            (LogIndex(1), VALUE_BYTES_MAX as u64)
        );
        assert_eq!(
            engine.look_up(&key).into_head().ok(),
            Some(Some(head)),
            "the index is read"
        );
        let empty = engine.get(b"").await.unwrap().unwrap();
        assert_eq!(empty.value, Bytes::new());
        let page = engine
            .scan(&range(b"", b""), None, 500, 1 << 30)
            .await
            .unwrap();
        assert_eq!(page.items.len(), 202);
        let last: &Item = page.items.last().unwrap();
        assert_eq!(last.version, LogIndex(1));
        assert_eq!(last.value, ItemValue::Bytes(value));
        engine.close().await.unwrap();
    });
}

#[test]
fn writers_wait_while_flushes_lag() {
    on_core(|dir| async move {
        let engine = open(&dir, 1 << 10).await.unwrap();
        for index in 1..200 {
            engine.wait_for_room().await.unwrap();
            put(&engine, index, &index.to_be_bytes(), &[1; 600]);
            // Each of three is full with its second entry.
            assert!(engine.memtable_bytes() <= 3 * (3 << 9));
        }
        engine.close().await.unwrap();
        assert!(engine.statistics().flush.jobs > 50);
    });
}

#[test]
fn missing_files_are_never_taken_for_an_empty_shard() {
    on_core(|dir| async move {
        let engine = open(&dir, 1 << 20).await.unwrap();
        put(&engine, 1, b"a", b"one");
        engine.close().await.unwrap();
        drop(engine);
        let names = corelith_io::list_dir(&dir).await.unwrap();
        let names: Vec<_> = names.into_iter().map(|entry| entry.name).collect();
        assert_eq!(
            names,
            ["000000000000.sst", "000000000001.log", "LOCK", "MANIFEST"]
        );
        for name in ["MANIFEST", "000000000001.log", "000000000000.sst"] {
            let hidden = dir.with_extension("hidden");
            corelith_io::rename(&dir.join(name), &hidden).await.unwrap();
            assert!(open(&dir, 1 << 20).await.is_err(), "without {name}");
            corelith_io::rename(&hidden, &dir.join(name)).await.unwrap();
        }
        let other = Owner {
            store_id: 1,
            ..OWNER
        };
        let refused = recovery::recover(&Directory::from(&dir), other, false).await;
        assert!(matches!(refused, Err(crate::Error::OtherStore { .. })));
        let engine = open(&dir, 1 << 20).await.unwrap();
        assert!(engine.get(b"a").await.unwrap().is_some());
    });
}

async fn create_empty(dir: &Path, names: [&str; 3]) {
    for name in names {
        let options = OpenOptions::new().write().create_new();
        options.open(&dir.join(name)).await.unwrap();
    }
}

#[test]
fn orphans_and_halves_of_a_creation_are_removed() {
    on_core(|dir| async move {
        // A crash during creation: the marker is there, and other files may be.
        corelith_io::create_dir_all(&dir).await.unwrap();
        create_empty(&dir, ["CREATING", "MANIFEST.tmp", "000000000007.sst"]).await;
        let engine = open(&dir, 1 << 20).await.unwrap();
        put(&engine, 1, b"a", b"one");
        engine.close().await.unwrap();
        drop(engine);
        create_empty(&dir, ["000000000009.sst", "MANIFEST.tmp", "unknown"]).await;
        drop(open(&dir, 1 << 20).await.unwrap());
        let names = corelith_io::list_dir(&dir).await.unwrap();
        let names: Vec<_> = names.into_iter().map(|entry| entry.name).collect();
        let expected = [
            "000000000000.sst",
            "000000000001.log",
            "LOCK",
            "MANIFEST",
            "unknown",
        ];
        assert_eq!(names, expected);
    });
}
