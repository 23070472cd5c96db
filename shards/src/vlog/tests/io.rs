//! Writing, rolling, reading back, collecting and reopening, in both worlds.

use super::{
    DIR, Manifest, OWNER, assert_read_back, collect, is_whole, key, options, put, reads_back,
    stage, user, value, wait_sealed,
};
use crate::error::Error;
use crate::filename::FileName;
use crate::ids::{LogIndex, Ticket, ValueSegmentId};
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::removal::Removals;
use crate::vlog::{ValueLog, ValuePointer};
use corelith_io::sim::Sim;
use proptest::prelude::*;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Runs a case in both worlds.
fn in_both_worlds<Fut: Future<Output = ()> + 'static>(
    case: impl Fn(PathBuf) -> Fut + Clone + Send + 'static,
) {
    for seed in 0..3 {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        sim.block_on(node, case(PathBuf::from(DIR)));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard");
    corelith_io::core::run(move || case(path));
}

async fn names(dir: &Path) -> Vec<String> {
    let entries = corelith_io::list_dir(dir).await.unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

#[test]
fn what_is_staged_reads_back_at_once_and_after_a_restart() {
    in_both_worlds(|dir| async move {
        let mut manifest = Manifest::default();
        let lens = [1, 0, 4096, 65_536, 65_537, 5, 200_000, 3 << 20, 7];
        let log = manifest.open(&dir, 4 << 20).await.unwrap();
        assert!(names(&dir).await.is_empty(), "no value, no segment");
        let told = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&told);
        log.on_durable(move |durable| sink.borrow_mut().push(durable.unwrap()));
        let mut pointers = Vec::new();
        for (index, len) in (0..).zip(lens) {
            pointers.push(stage(&log, index, len).0);
            assert!(
                reads_back(&log, index, pointers[index as usize]).await,
                "{len}"
            );
        }
        log.wait_durable(log.staged()).await.unwrap();
        assert_eq!(told.borrow().last(), Some(&Ticket(lens.len() as u64)));
        assert!(told.borrow().is_sorted());
        for round in 0..3 {
            for (index, pointer) in (0..).zip(&pointers) {
                assert!(
                    reads_back(&log, index, *pointer).await,
                    "{round} {pointer:?}"
                );
                assert!(is_whole(&log, index, *pointer).await);
            }
        }
        log.close().await.unwrap();
        assert!(matches!(
            log.stage(LogIndex(9), user(b"k"), b"v"),
            Err(Error::Closed)
        ));
        drop(log);

        // First not named by the manifest, then named.
        for _ in 0..2 {
            let log = manifest.open(&dir, 4 << 20).await.unwrap();
            assert!(log.segments().values().all(|segment| segment.is_sealed()));
            let records: u64 = log.segments().values().map(|s| s.meta().records).sum();
            assert_eq!(records, lens.len() as u64);
            for (index, pointer) in (0..).zip(&pointers) {
                assert!(reads_back(&log, index, *pointer).await, "{pointer:?}");
            }
            let next = put(&log, 100, &[10]).await;
            assert!(
                next[0].segment > pointers[8].segment,
                "never appended again"
            );
            log.close().await.unwrap();
            let all = Manifest::of(&log);
            // As if the segment of the last round had not been there.
            manifest.known = all.known;
            manifest.next = all.next;
            drop(log);
            for name in names(&dir).await {
                let Some(FileName::ValueSegment(id, _)) = FileName::parse(&name) else {
                    panic!("{name}");
                };
                if id >= manifest.next {
                    corelith_io::remove_file(&dir.join(name)).await.unwrap();
                }
            }
        }
    });
}

#[test]
fn records_never_span_segments_and_unused_space_is_given_back() {
    in_both_worlds(|dir| async move {
        let log = Manifest::default().open(&dir, 128 << 10).await.unwrap();
        let mut pointers = Vec::new();
        for index in 0..60 {
            pointers.extend(put(&log, index, &[10_000]).await);
        }
        wait_sealed(&log).await;
        let segments = log.segments();
        assert!(segments.len() >= 5, "{}", segments.len());
        for segment in segments.values().filter(|segment| segment.is_sealed()) {
            let meta = segment.meta();
            let path = FileName::ValueSegment(meta.id, 0).path(&dir);
            let file = corelith_io::File::open(&path).await.unwrap();
            assert_eq!(file.len().await.unwrap(), meta.file_bytes);
            let of_it: Vec<_> = pointers.iter().filter(|p| p.segment == meta.id).collect();
            assert_eq!(meta.records, of_it.len() as u64);
            assert!(of_it.iter().map(|p| p.slot).eq(0..of_it.len() as u32));
            assert!(meta.file_bytes <= 128 << 10);
        }
        assert_read_back(&log, 0, &pointers).await;
        let first = log.first_unsealed();
        assert!(
            segments
                .range(..first)
                .all(|(_, segment)| segment.is_sealed())
        );
        log.close().await.unwrap();
    });
}

#[test]
fn what_exceeds_the_limits_is_refused_and_changes_nothing() {
    in_both_worlds(|dir| async move {
        let log = Manifest::default().open(&dir, 64 << 10).await.unwrap();
        let long_key = vec![b'k'; KEY_BYTES_MAX + 1];
        let long_value = vec![0; VALUE_BYTES_MAX + 1];
        for (key, value) in [
            (&long_key[..], &b"v"[..]),
            (b"k", &long_value),
            (b"k", &long_value[..64 << 10]),
        ] {
            let refused = log.stage(LogIndex(1), user(key), value);
            assert!(matches!(refused, Err(Error::TooLarge { .. })));
        }
        assert_eq!(log.staged(), Ticket(0));
        log.close().await.unwrap();
        drop(log);
        let log = Manifest::default().open(&dir, 16 << 20).await.unwrap();
        let key = vec![b'k'; KEY_BYTES_MAX];
        let value = vec![7; VALUE_BYTES_MAX];
        let (pointer, ticket) = log.stage(LogIndex(1), user(&key), &value).unwrap();
        log.wait_for_room().await.unwrap();
        log.wait_durable(ticket).await.unwrap();
        let segments = log.segments();
        let read = log
            .read(&segments, pointer, Some(user(&key)))
            .await
            .unwrap();
        assert!(read == value);
        assert!(log.read(&segments, pointer, None).await.unwrap() == value);
        let other = log.read(&segments, pointer, Some(user(b"k"))).await;
        assert!(matches!(other, Err(Error::Corrupt { .. })));
        log.close().await.unwrap();
    });
}

#[test]
fn a_collected_segment_keeps_its_pointers() {
    in_both_worlds(|dir| async move {
        let log = Manifest::default().open(&dir, 256 << 10).await.unwrap();
        let lens: Vec<usize> = (0..600).map(|index| 300 + index % 7 * 100).collect();
        let pointers = put(&log, 0, &lens).await;
        put(&log, 1000, &[200_000]).await;
        wait_sealed(&log).await;
        let old = log.segments();
        let in_first = |index: u64| pointers[index as usize].segment == ValueSegmentId(0);
        let first: Vec<u64> = (0..600).filter(|index| in_first(*index)).collect();
        assert!(first.len() > 345, "more than an index page");

        // Twice, dropping more each time.
        let mut live = first.clone();
        for (generation, divisor) in [(1, 10), (2, 7)] {
            live.retain(|index| index % divisor != 3);
            let kept = live.clone();
            let rewritten = collect(&log, 0, move |index| kept.contains(&index)).await;
            let rewritten = rewritten.unwrap();
            let meta = rewritten.meta();
            assert_eq!(
                (meta.generation, meta.records),
                (generation, live.len() as u64)
            );
            assert_eq!(meta.highest, LogIndex(*live.last().unwrap()));
            let before = log.segments();
            log.install_rewritten(rewritten);
            log.remove_obsolete(&Removals::new(4 << 10)).await;
            let previous = FileName::ValueSegment(ValueSegmentId(0), generation - 1);
            assert!(
                names(&dir).await.contains(&previous.to_string()),
                "it is read"
            );
            drop(before);
        }
        for index in &first {
            let pointer = pointers[*index as usize];
            assert_eq!(
                reads_back(&log, *index, pointer).await,
                live.contains(index)
            );
            let of_old = log
                .read(&old, pointer, Some(user(&key(*index))))
                .await
                .unwrap();
            assert_eq!(of_old, value(*index, pointer.len as usize));
        }
        drop(old);
        log.remove_obsolete(&Removals::new(4 << 10)).await;
        let manifest = Manifest::of(&log);
        log.close().await.unwrap();
        drop(log);
        let log = manifest.open(&dir, 256 << 10).await.unwrap();
        for index in &first {
            let pointer = pointers[*index as usize];
            assert_eq!(
                reads_back(&log, *index, pointer).await,
                live.contains(index)
            );
        }
        let held = names(&dir).await;
        assert!(
            held.contains(&"000000000000.002.vlog".to_owned()),
            "{held:?}"
        );
        assert!(
            !held.contains(&"000000000000.001.vlog".to_owned()),
            "{held:?}"
        );
        assert!(
            !held.contains(&"000000000000.000.vlog".to_owned()),
            "{held:?}"
        );
        log.close().await.unwrap();
    });
}

#[test]
fn broken_off_collections_and_dropped_segments_leave_nothing() {
    in_both_worlds(|dir| async move {
        let log = Manifest::default().open(&dir, 64 << 10).await.unwrap();
        put(&log, 0, &[20_000; 8]).await;
        wait_sealed(&log).await;
        drop(collect(&log, 0, |_| true).await.unwrap());
        let segment = Rc::clone(&log.segments()[&ValueSegmentId(0)]);
        let fails = async |record: &crate::vlog::RecordRef<'_>| match record.at {
            LogIndex(1) => Err(Error::Closed),
            _ => Ok(true),
        };
        assert!(log.rewrite(&segment, fails).await.is_err());
        drop(segment);
        assert!(
            names(&dir)
                .await
                .contains(&"000000000000.001.vlog".to_owned())
        );
        log.remove_obsolete(&Removals::new(4 << 10)).await;
        assert!(
            !names(&dir)
                .await
                .contains(&"000000000000.001.vlog".to_owned())
        );
        log.install_rewritten(collect(&log, 0, |_| false).await.unwrap());
        log.drop_segment(ValueSegmentId(1));
        log.remove_obsolete(&Removals::new(4 << 10)).await;
        let manifest = Manifest::of(&log);
        assert_eq!(manifest.known[0].records, 0);
        let held = names(&dir).await;
        assert!(
            !held.contains(&"000000000001.000.vlog".to_owned()),
            "{held:?}"
        );
        log.close().await.unwrap();
    });
}

#[test]
fn orphans_are_removed_and_named() {
    in_both_worlds(|dir| async move {
        let log = Manifest::default().open(&dir, 64 << 10).await.unwrap();
        put(&log, 0, &[20_000; 10]).await;
        wait_sealed(&log).await;
        let mut manifest = Manifest::of(&log);
        log.close().await.unwrap();
        drop(log);
        manifest.known.remove(0);
        for name in [
            "000000000001.005.vlog",
            "000000000999.001.vlog",
            "000000000009.vlog.tmp",
        ] {
            let options = corelith_io::OpenOptions::new().write().create_new();
            options.open(&dir.join(name)).await.unwrap();
        }
        let (known, next) = (manifest.known.clone(), manifest.next);
        let opened = ValueLog::open(&dir, OWNER, options(64 << 10), known, next).await;
        let (log, removed) = opened.unwrap();
        let removed: Vec<String> = removed.iter().map(ToString::to_string).collect();
        for name in [
            "000000000000.000.vlog",
            "000000000001.005.vlog",
            "000000000009.vlog.tmp",
            "000000000999.001.vlog",
        ] {
            assert!(removed.contains(&name.to_owned()), "{name} of {removed:?}");
        }
        let fresh = put(&log, 50, &[1]).await;
        assert_eq!(
            fresh[0].segment,
            ValueSegmentId(1000),
            "ids are not used again"
        );
        log.close().await.unwrap();
    });
}

#[test]
fn values_gather_while_writes_are_in_flight() {
    let sim = Sim::new(4);
    let node = sim.add_node();
    let log = sim.block_on(node, async {
        let log = Manifest::default()
            .open(Path::new(DIR), 16 << 20)
            .await
            .unwrap();
        put(&log, 0, &[10]).await;
        log
    });
    let before = sim.io_count(node);
    sim.block_on(node, async move {
        put(&log, 1, &[4000; 1000]).await;
        log.close().await.unwrap();
    });
    let writes = sim.io_count(node) - before;
    assert!(writes <= 6, "{writes} writes for 4 MB");
}

async fn check_range(log: &ValueLog, pointer: ValuePointer, index: u64, start: u64, end: u64) {
    let whole = value(index, pointer.len as usize);
    let (from, to) = (
        whole.len().min(start as usize),
        whole.len().min(end as usize),
    );
    let read = log.read_range(&log.segments(), pointer, start..end).await;
    let expected = whole.get(from..to).unwrap_or_default();
    assert!(
        read.unwrap() == expected,
        "{start}..{end} of {}",
        whole.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn values_and_ranges_round_trip(
        lens in proptest::collection::vec(
            prop_oneof![1..200_usize, 4000..140_000_usize, 1_000_000..3_200_000_usize],
            1..6,
        ),
        ranges in proptest::collection::vec((0..3_300_000_u64, 0..1_500_000_u64), 1..12),
    ) {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async move {
            let log = Manifest::default().open(Path::new(DIR), 4 << 20).await.unwrap();
            let pointers = put(&log, 0, &lens).await;
            put(&log, 100, &[4_000_000]).await;
            wait_sealed(&log).await;
            for generation in 0..2 {
                for (index, pointer) in (0..).zip(&pointers) {
                    assert!(reads_back(&log, index, *pointer).await);
                    let len = u64::from(pointer.len);
                    for (start, count) in &ranges {
                        check_range(&log, *pointer, index, start % (len + 1), start % (len + 1) + count).await;
                    }
                    check_range(&log, *pointer, index, 0, len).await;
                    check_range(&log, *pointer, index, len - 1, u64::MAX).await;
                }
                let ids: Vec<_> = log.segments().keys().copied().collect();
                for id in ids {
                    if generation == 0 && log.segments()[&id].is_sealed() {
                        log.install_rewritten(collect(&log, id.0, |_| true).await.unwrap());
                    }
                }
            }
            log.close().await.unwrap();
        });
    }
}
