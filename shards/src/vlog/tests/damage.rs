//! Damage, misdirected I/O, failing and full devices.

use super::{
    DIR, Manifest, assert_read_back, collect, is_whole, key, open_new, put, reads_back, stage,
    user, value, wait_sealed,
};
use crate::error::Error;
use crate::filename::FileName;
use crate::ids::{LogIndex, Owner, Ticket, ValueSegmentId};
use crate::removal::Removals;
use crate::vlog::{ValueLog, ValuePointer, Verified, Verifier};
use corelith_io::sim::{IoKind, Sim, SimNode};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const SEGMENT_BYTES: u64 = 512 << 10;
const LENS: [usize; 6] = [5000, 200_000, 70_000, 1, 65_536, 30_000];

fn file(generation: u32) -> String {
    let name = FileName::ValueSegment(ValueSegmentId(0), generation);
    format!("{DIR}/{name}")
}

/// A closed value log with [`LENS`] in segment 0, sealed and of that generation.
fn filled(sim: &Sim, node: SimNode, generation: u32) -> (Manifest, Vec<ValuePointer>) {
    sim.block_on(node, async move {
        let log = Manifest::default()
            .open(Path::new(DIR), SEGMENT_BYTES)
            .await
            .unwrap();
        let pointers = put(&log, 0, &LENS).await;
        put(&log, 100, &[500_000, 1]).await;
        wait_sealed(&log).await;
        for _ in 0..generation {
            log.install_rewritten(collect(&log, 0, |_| true).await.unwrap());
            log.remove_obsolete(&Removals::new(4 << 10)).await;
        }
        log.close().await.unwrap();
        (Manifest::of(&log), pointers)
    })
}

/// Damage done to a segment: where, and which values it is to be found in by a read.
struct Case {
    what: &'static str,
    generation: u32,
    offset: u64,
    values: &'static [u64],
    /// A range of value 1 that is still served.
    good: Option<std::ops::Range<u64>>,
}

fn cases(pointers: &[ValuePointer], index_at: u64, len: u64) -> Vec<Case> {
    let case = |what, generation, offset, values, good| Case {
        what,
        generation,
        offset,
        values,
        good,
    };
    // The key of value 1 is `key/1`; it has four pages.
    let pages = pointers[1].offset + 48 + 5 + 4 * 4;
    vec![
        case("its checksum", 0, pointers[1].offset, &[1], None),
        case("its magic", 0, pointers[1].offset + 5, &[1], None),
        case("its slot", 0, pointers[1].offset + 16, &[1], None),
        case("its key", 0, pointers[1].offset + 50, &[1], None),
        case("a checksum of a page", 0, pages - 1, &[1], None),
        case("the first page", 0, pages, &[1], Some(65_536..200_000)),
        case("the third page", 0, pages + 140_000, &[1], Some(0..131_072)),
        case("the last byte", 0, pages + 199_999, &[1], Some(0..196_608)),
        case("a short value", 0, pointers[3].offset + 57, &[3], None),
        case(
            "a page, collected",
            1,
            pages + 140_000,
            &[1],
            Some(0..131_072),
        ),
        case(
            "the slot index",
            1,
            index_at + 20,
            &[0, 1, 2, 3, 4, 5],
            None,
        ),
        case(
            "the fence",
            1,
            index_at + 4096 + 4,
            &[0, 1, 2, 3, 4, 5],
            None,
        ),
        case("the footer", 1, len - 4096 + 9, &[0, 1, 2, 3, 4, 5], None),
    ]
}

async fn is_corrupt<T>(read: impl Future<Output = Result<T, Error>>) -> bool {
    matches!(read.await, Err(error) if error.is_corrupt())
}

async fn check_case(log: &ValueLog, case: &Case, pointers: &[ValuePointer]) {
    let what = case.what;
    let segments = log.segments();
    for (index, pointer) in (0..).zip(pointers) {
        let is_hit = case.values.contains(&index);
        assert_eq!(
            reads_back(log, index, *pointer).await,
            !is_hit,
            "{what}: {index}"
        );
        let verified = is_whole(log, index, *pointer).await;
        assert_eq!(verified, !is_hit, "{what}: {index}");
        let len = u64::from(pointer.len);
        let all = log.read_range(&segments, *pointer, 0..len).await;
        assert_eq!(all.is_err(), is_hit, "{what}: {index}");
    }
    if let Some(good) = case.good.clone() {
        let read = log.read_range(&segments, pointers[1], good.clone()).await;
        let expected = value(1, 200_000)[good.start as usize..good.end as usize].to_vec();
        assert_eq!(read.unwrap(), expected, "{what}");
    }
    let segment = &segments[&ValueSegmentId(0)];
    // A collection never carries damage on, nor loses what is damaged. A page of the index it does
    // not need.
    let collected = collect(log, 0, |_| true).await.map(drop);
    assert_eq!(collected.is_ok(), what == "the slot index", "{what}");
    log.remove_obsolete(&Removals::new(4 << 10)).await;
    let mut damaged = Vec::new();
    match Verifier::new(segment).await {
        Ok(mut verifier) => loop {
            match verifier.step().await {
                Ok(Some(Verified::Intact)) => {}
                Ok(Some(Verified::Damaged { error, record })) => {
                    assert!(error.is_corrupt());
                    damaged.push(record.map(|(key, ..)| key));
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(error.is_corrupt(), "{what}: {error}");
                    damaged.push(None);
                    break;
                }
            }
        },
        Err(error) => {
            assert!(error.is_corrupt(), "{what}: {error}");
            damaged.push(None);
        }
    }
    assert_eq!(damaged.len(), 1, "{what}: {damaged:?}");
    if case.good.is_some() {
        assert_eq!(
            damaged[0].as_deref(),
            Some(&user(&key(1)).stored()[..]),
            "{what}"
        );
    }
}

#[test]
fn damage_is_found_wherever_it_is() {
    for generation in 0..2 {
        let sim = Sim::new(1);
        let node = sim.add_node();
        let (manifest, pointers) = filled(&sim, node, generation);
        let image = sim.disk(node).image();
        let len = sim.disk(node).read(file(generation)).unwrap().len() as u64;
        // One index page, one block of fence, the footer.
        for case in cases(&pointers, len.saturating_sub(3 * 4096), len) {
            if case.generation != generation {
                continue;
            }
            sim.crash(node);
            sim.disk(node).restore(&image);
            sim.disk(node).flip_bit(file(generation), case.offset);
            let (manifest, pointers) = (manifest.clone(), pointers.clone());
            sim.block_on(node, async move {
                let log = manifest.open(Path::new(DIR), SEGMENT_BYTES).await.unwrap();
                check_case(&log, &case, &pointers).await;
                log.close().await.unwrap();
            });
        }
    }
}

fn reopen(sim: &Sim, node: SimNode, manifest: &Manifest) -> Result<(), Error> {
    let manifest = manifest.clone();
    let opened = async move { manifest.open(Path::new(DIR), SEGMENT_BYTES).await.map(drop) };
    sim.block_on(node, opened)
}

#[test]
fn a_missing_cut_or_foreign_segment_is_refused() {
    let sim = Sim::new(2);
    let node = sim.add_node();
    let (manifest, _) = filled(&sim, node, 0);
    sim.crash(node);
    let image = sim.disk(node).image();
    let bytes = sim.disk(node).read(file(0)).unwrap();
    let restore = |change: &dyn Fn()| {
        sim.crash(node);
        sim.disk(node).restore(&image);
        change();
        reopen(&sim, node, &manifest)
    };
    assert!(restore(&|| ()).is_ok());
    let missing = restore(&|| sim.disk(node).remove(file(0)));
    assert!(matches!(missing, Err(Error::Corrupt { .. })), "{missing:?}");
    let cut = restore(&|| sim.disk(node).write(file(0), &bytes[..bytes.len() - 4096]));
    assert!(matches!(cut, Err(Error::Corrupt { .. })), "{cut:?}");
    let header = restore(&|| sim.disk(node).flip_bit(file(0), 20));
    assert!(matches!(header, Err(Error::Corrupt { .. })), "{header:?}");
    let swapped = restore(&|| {
        let other = FileName::ValueSegment(ValueSegmentId(1), 0);
        let other = sim.disk(node).read(format!("{DIR}/{other}")).unwrap();
        sim.disk(node).write(file(0), &other);
    });
    assert!(matches!(swapped, Err(Error::Corrupt { .. })), "{swapped:?}");
    let newer = restore(&|| {
        let mut bytes = bytes.clone();
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        sim.disk(node).write(file(0), &bytes);
    });
    let is_newer = matches!(
        newer,
        Err(Error::NewerFormat {
            found: 9,
            known: 3,
            ..
        })
    );
    assert!(is_newer, "{newer:?}");
    let other = Owner {
        store_id: 1,
        ..super::OWNER
    };
    restore(&|| ()).unwrap();
    // Named by a manifest that means another file, or by none that says what a shard begins.
    let (mut named, next) = (manifest.known.clone(), manifest.next);
    named[0].file.0 += 1;
    for (known, next) in [(named, next), (Vec::new(), ValueSegmentId(0))] {
        let is_named = !known.is_empty();
        let opened = sim.block_on(node, async move {
            let mut options = super::options(SEGMENT_BYTES);
            options.series.0 += 1;
            ValueLog::open(Path::new(DIR), other, options, known, next)
                .await
                .map(drop)
        });
        let is_refused = match is_named {
            true => matches!(opened, Err(Error::Corrupt { .. })),
            false => matches!(opened, Err(Error::OtherStore { .. })),
        };
        assert!(is_refused, "{opened:?}");
    }
}

#[test]
fn misdirected_reads_and_writes_are_found() {
    for pass in 0..12 {
        let sim = Sim::new(50 + pass);
        let node = sim.add_node();
        let disk = sim.disk(node);
        sim.block_on(node, async move {
            let log = Manifest::default()
                .open(Path::new(DIR), SEGMENT_BYTES)
                .await
                .unwrap();
            let first = put(&log, 0, &[6000; 10]).await;
            disk.misdirect(IoKind::Read, ".vlog", 0);
            let segments = log.segments();
            assert!(is_corrupt(log.read(&segments, first[pass as usize % 10], None)).await);
            assert!(reads_back(&log, pass % 10, first[pass as usize % 10]).await);

            disk.misdirect(IoKind::Write, "000.vlog", 0);
            let second = put(&log, 10, &[6000]).await;
            let mut lost = 0;
            for (index, pointer) in (0..).zip(first.iter().chain(&second)) {
                // Never something else.
                let read = log.read(&segments, *pointer, None).await;
                match read {
                    Ok(read) => assert_eq!(read, value(index, 6000)),
                    Err(error) => {
                        assert!(error.is_corrupt(), "{error}");
                        lost += 1;
                    }
                }
            }
            assert!(lost >= 1, "the misdirected write left everything intact");
            log.close().await.unwrap();
        });
    }
}

#[test]
fn what_a_crash_left_out_of_order_is_kept() {
    let sim = Sim::new(5);
    let node = sim.add_node();
    let pointers = sim.block_on(node, async {
        let log = Manifest::default()
            .open(Path::new(DIR), SEGMENT_BYTES)
            .await
            .unwrap();
        let mut pointers = Vec::new();
        for index in 0..6 {
            pointers.extend(put(&log, index, &[6000]).await);
        }
        log.close().await.unwrap();
        pointers
    });
    // As if the writes of two values had not reached the device before those after them.
    let mut bytes = sim.disk(node).read(file(0)).unwrap();
    for lost in [2, 3] {
        let start = pointers[lost].offset as usize;
        bytes[start..start + 8192].fill(0);
    }
    sim.disk(node).write(file(0), &bytes);
    sim.block_on(node, async move {
        let log = Manifest::default()
            .open(Path::new(DIR), SEGMENT_BYTES)
            .await
            .unwrap();
        let segment = Rc::clone(&log.segments()[&ValueSegmentId(0)]);
        assert_eq!(segment.meta().records, 4);
        let mut verifier = Verifier::new(&segment).await.unwrap();
        let mut intact = 0;
        while let Some(verified) = verifier.step().await.unwrap() {
            assert!(
                matches!(verified, Verified::Intact),
                "the hole is no damage"
            );
            intact += 1;
        }
        assert_eq!(intact, 4);
        for generation in 0..2 {
            for (index, pointer) in (0..).zip(&pointers) {
                let is_there = ![2, 3].contains(&index);
                assert_eq!(reads_back(&log, index, *pointer).await, is_there);
                assert_eq!(is_whole(&log, index, *pointer).await, is_there);
            }
            if generation == 0 {
                log.install_rewritten(collect(&log, 0, |_| true).await.unwrap());
            }
        }
        log.close().await.unwrap();
    });
}

/// The operation of `kind` fails after `pass` others: what was reported durable is there after a
/// restart, and after the failure nothing is. Returns whether it was reached.
fn fails_at(kind: IoKind, pass: u64) -> bool {
    let sim = Sim::new(100 + pass);
    let node = sim.add_node();
    let told = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&told);
    let disk = sim.disk(node);
    let (pointers, fenced) = sim.block_on(node, async move {
        let log = open_new().await;
        log.on_durable(move |news| sink.borrow_mut().push(news));
        let part = if kind == IoKind::SyncDir { DIR } else { "vlog" };
        disk.fail(kind, part, pass);
        let mut pointers = Vec::new();
        let mut fenced = false;
        for index in 0..30 {
            match log.stage(LogIndex(index), user(&key(index)), &value(index, 7000)) {
                Ok((pointer, _)) => pointers.push(pointer),
                Err(error) => {
                    assert!(matches!(error, Error::Fenced(_)), "{error:?}");
                    fenced = true;
                    break;
                }
            }
            if index % 3 == 0 {
                fenced |= log.wait_durable(log.staged()).await.is_err();
            }
        }
        if fenced {
            let last = *pointers.last().unwrap();
            let segments = log.segments();
            assert!(
                log.read(&segments, last, None).await.is_err(),
                "it is nowhere"
            );
            assert!(log.wait_for_room().await.is_err());
        }
        fenced |= log.close().await.is_err();
        (pointers, fenced)
    });
    let durable = told
        .borrow()
        .iter()
        .filter_map(|news| news.as_ref().ok().copied())
        .max();
    let count = durable.map_or(0, |Ticket(count)| count) as usize;
    let first_error = told.borrow().iter().position(Result::is_err);
    assert_eq!(first_error.is_some(), fenced);
    let after = first_error.unwrap_or(usize::MAX);
    assert!(
        told.borrow().iter().skip(after).all(Result::is_err),
        "fenced for good"
    );
    sim.crash(node);
    sim.disk(node).heal();
    sim.block_on(node, async move {
        let log = open_new().await;
        for (index, pointer) in (0..).zip(&pointers[..count]) {
            assert!(
                reads_back(&log, index, *pointer).await,
                "{kind:?} {pass}: {index}"
            );
        }
        log.close().await.unwrap();
    });
    fenced
}

#[test]
fn a_failed_write_or_sync_fences_the_value_log() {
    for pass in 0..12 {
        assert!(fails_at(IoKind::Write, pass), "write {pass}");
    }
    for pass in 0..3 {
        assert!(fails_at(IoKind::Sync, pass), "sync {pass}");
        assert!(fails_at(IoKind::SyncDir, pass), "directory {pass}");
        assert!(fails_at(IoKind::SetLen, pass), "length {pass}");
        assert!(fails_at(IoKind::Rename, pass), "rename {pass}");
        assert!(fails_at(IoKind::Name, pass), "name {pass}");
    }
}

/// Whatever step of preparing or sealing a segment finds the device full, the value log goes on.
#[test]
fn a_device_that_is_full_at_one_step_of_a_segment_is_waited_out() {
    for kind in [
        IoKind::Write,
        IoKind::SetLen,
        IoKind::Sync,
        IoKind::SyncDir,
        IoKind::Rename,
    ] {
        for pass in 0..40 {
            let sim = Sim::new(pass);
            let node = sim.add_node();
            let part = if kind == IoKind::Write { ".tmp" } else { DIR };
            sim.disk(node).fail_for_space(kind, part, pass);
            sim.block_on(node, async move {
                let log = open_new().await;
                let mut pointers = Vec::new();
                for index in 1..60 {
                    pointers.extend(put(&log, index, &[9000]).await);
                }
                for (index, pointer) in (1..).zip(&pointers) {
                    assert!(reads_back(&log, index, *pointer).await, "{kind:?} {pass}");
                }
                // Time for what waits for room.
                corelith_io::sleep(Duration::from_secs(5)).await;
                assert!(!log.is_disk_full());
                let segments = log.segments();
                let unsealed = segments.values().filter(|segment| !segment.is_sealed());
                assert!(unsealed.count() <= 1, "{kind:?} {pass}");
                log.close().await.unwrap();
            });
            let files = sim.disk(node).files();
            let left = files.iter().filter(|(path, _)| path.ends_with(".tmp"));
            assert_eq!(left.count(), 0, "{kind:?} {pass}: {files:?}");
            if sim.disk(node).pending_faults() > 0 {
                assert!(pass > 2, "{kind:?} {pass}");
                break;
            }
        }
    }
}

#[test]
fn a_full_device_holds_values_back_until_there_is_room() {
    let sim = Sim::new(7);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let log = open_new().await;
        put(&log, 0, &[1000]).await;
        disk.set_capacity(disk.used_bytes() + (32 << 10));
        let mut pointers = Vec::new();
        for index in 1..40 {
            pointers.push(stage(&log, index, 3000).0);
            corelith_io::sleep(Duration::from_millis(1)).await;
        }
        corelith_io::sleep(Duration::from_secs(3)).await;
        assert!(log.is_disk_full());
        let held = log.durable();
        assert!(held > Ticket(5) && held < Ticket(30), "{held:?}");
        let first = log.first_unsealed();
        assert!(first > ValueSegmentId(0) && pointers.iter().any(|p| p.segment > first));
        disk.set_capacity(1 << 30);
        log.wait_durable(log.staged()).await.unwrap();
        assert!(!log.is_disk_full());
        assert_read_back(&log, 1, &pointers).await;
        log.close().await.unwrap();
    });
}

#[test]
fn values_get_a_short_segment_where_a_whole_one_does_not_fit() {
    let sim = Sim::new(9);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let log = open_new().await;
        put(&log, 0, &[1000]).await;
        disk.set_capacity(disk.used_bytes() + (24 << 10));
        // The first segment takes 19 of them.
        let mut pointers: Vec<_> = (1..24).map(|index| stage(&log, index, 3000).0).collect();
        log.wait_durable(log.staged()).await.unwrap();
        assert!(log.is_disk_full() && !log.is_stuck());
        let last = log.segments().values().last().unwrap().meta();
        assert!(last.file_bytes <= 24 << 10, "{last:?}");
        pointers.push(stage(&log, 24, 3000).0);
        corelith_io::sleep(Duration::from_secs(3)).await;
        assert!(log.is_stuck());
        disk.set_capacity(1 << 30);
        log.wait_durable(log.staged()).await.unwrap();
        assert!(!log.is_disk_full() && !log.is_stuck());
        assert_read_back(&log, 1, &pointers).await;
        log.close().await.unwrap();
    });
}

#[test]
fn a_thrifty_value_log_prepares_nothing_ahead() {
    let sim = Sim::new(10);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let log = open_new().await;
        put(&log, 0, &[1000]).await;
        log.set_thrifty(true);
        let used = disk.used_bytes();
        let pointer = stage(&log, 1, 40_000).0;
        log.wait_durable(log.staged()).await.unwrap();
        corelith_io::sleep(Duration::from_secs(3)).await;
        assert_eq!(disk.used_bytes(), used);
        log.set_thrifty(false);
        corelith_io::sleep(Duration::from_secs(3)).await;
        assert_eq!(disk.used_bytes(), used + (64 << 10));
        assert!(reads_back(&log, 1, pointer).await);
        log.close().await.unwrap();
    });
}

#[test]
fn a_value_log_closes_on_a_full_device() {
    let sim = Sim::new(8);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let log = open_new().await;
        disk.set_capacity(disk.used_bytes() + 4096);
        let (_, ticket) = stage(&log, 1, 3000);
        corelith_io::sleep(Duration::from_secs(2)).await;
        let waits = corelith_io::spawn({
            let log = log.clone();
            async move { log.wait_durable(ticket).await }
        });
        corelith_io::yield_now().await;
        let closed = log.close().await;
        assert!(matches!(closed, Err(Error::Closed)), "{closed:?}");
        assert!(waits.await.unwrap().is_err());
    });
    let names = sim.disk(node).files();
    assert!(
        names.iter().all(|(name, _)| !name.contains("vlog")),
        "{names:?}"
    );
}
