//! Snapshots as files: in the Sim world with crashes, damage and planted bugs.

mod broken_off;

use super::{OWNER, log_id, on_core, open, range, settle};
use crate::engine::{Engine, FileKind, FileList, Incoming, PinnedFiles};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{FileId, LogIndex, ValueSegmentId};
use crate::limits::{
    FILE_PIECE_BYTES, LISTED_BYTES_MAX, TABLE_FILE_BYTES_MAX, VALUE_SEGMENT_FILE_BYTES_MAX,
    VALUE_SEGMENTS_RECEIVED, VLOG_SEGMENT_BYTES_MAX,
};
use crate::planted::{Bug, plant};
use crate::vlog::SegmentMeta;
use bytes::Bytes;
use corelith_io::sim::{Sim, SimNode};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

const MEMTABLE_BYTES: usize = 64 << 10;
const IN_FLIGHT: usize = 4;

fn dir() -> PathBuf {
    PathBuf::from("/data/shard-1")
}

/// What is at `key`, by the number of its last write.
fn value(index: u64) -> Vec<u8> {
    let len = match index % 4 {
        0 => 9000,
        1 => 20_000,
        _ => 300,
    };
    (0..len).map(|at| (at as u64 * 31 + index) as u8).collect()
}

/// Writes that fill tables and value segments, with keys that are written again and some that are deleted.
async fn write(engine: &Engine, indexes: std::ops::RangeInclusive<u64>) {
    for index in indexes {
        engine.wait_for_room().await.unwrap();
        let key = format!("key/{:04}", index * 7 % 400).into_bytes();
        let at = LogIndex(index);
        let bytes = value(index);
        match index % 11 {
            0 => engine.delete(at, &key),
            _ if index.is_multiple_of(4) => {
                let values = &engine.inner.values;
                values.wait_for_room().await.unwrap();
                let (pointer, ticket) = values
                    .stage(at, crate::Space::User.key(&key), &bytes)
                    .unwrap();
                values.wait_durable(ticket).await.unwrap();
                engine.put_separated(at, &key, pointer);
            }
            _ => engine.put(at, &key, bytes.into()),
        }
        if index == 5 {
            engine.sessions().open(at);
        }
        let members = (index % 50 == 1).then(|| Bytes::from(index.to_le_bytes().to_vec()));
        engine.set_applied(log_id(index), members);
    }
    engine.checkpoint().await.unwrap();
}

/// Everything that can be read of an engine.
#[derive(Debug, PartialEq)]
struct Contents {
    applied: (Option<crate::LogId>, Option<(crate::LogId, Bytes)>),
    items: Vec<(Bytes, LogIndex, Bytes)>,
    sessions: Vec<u8>,
}

async fn contents(engine: &Engine) -> Result<Contents> {
    let page = engine.scan(&range(b"", b""), None, 10_000, 1 << 30).await?;
    let items = page.items.into_iter();
    let sessions = crate::session::tests::contents(&engine.sessions());
    Ok(Contents {
        applied: engine.applied(),
        items: items
            .map(|item| (item.key, item.version, item.value.into_bytes().unwrap()))
            .collect(),
        sessions: format!("{sessions:?}").into_bytes(),
    })
}

/// What a way between sender and receiver does to a piece.
type Way<'a> = &'a dyn Fn(FileId, u64, Bytes) -> (Bytes, u32);

fn whole(_: FileId, _: u64, bytes: Bytes) -> (Bytes, u32) {
    let crc = crc32c::crc32c(&bytes);
    (bytes, crc)
}

/// Brings all pieces over; returns how many bytes that took.
async fn transfer(pinned: &PinnedFiles, incoming: &Incoming, way: Way<'_>) -> Result<u64> {
    let sent = Cell::new(0);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < IN_FLIGHT
            && let Some(piece) = incoming.next_missing()
        {
            let sent = &sent;
            running.push(async move {
                let bytes = pinned.read(piece.file, piece.offset).await?;
                let (bytes, crc) = way(piece.file, piece.offset, bytes.expect("it is pinned"));
                sent.set(sent.get() + bytes.len() as u64);
                incoming.write_piece(piece, &bytes, crc).await
            });
        }
        match running.next().await {
            None => return Ok(sent.get()),
            Some(Err(Error::BadPiece { .. })) => {}
            Some(result) => result?,
        }
    }
}

/// Copies the checkpoint of one engine to another; returns how many bytes that took.
async fn copy(source: &Engine, target: &Engine) -> Result<u64> {
    let pinned = source.pin_files()?;
    let list = FileList::decode(OWNER.shard, &pinned.encoded())?;
    assert_eq!(&list, pinned.list());
    let incoming = target.receive_files(list).await?;
    let sent = transfer(&pinned, &incoming, &whole).await?;
    assert_eq!(incoming.finish().await?, pinned.list().applied());
    target.install_files(&incoming).await?;
    Ok(sent)
}

#[test]
fn an_engine_is_copied_file_by_file_and_goes_on_from_there() {
    let sim = Sim::new(1);
    let (one, two) = (sim.add_node(), sim.add_node());
    let _ = two;
    sim.block_on(one, async {
        let source = open(&dir(), MEMTABLE_BYTES).await.unwrap();
        write(&source, 1..=600).await;
        settle(&source).await;
        let other = PathBuf::from("/data/shard-2");
        let target = open(&other, MEMTABLE_BYTES).await.unwrap();
        // Its own numbers of tables and segments are other ones.
        write(&target, 1..=90).await;
        let sent = copy(&source, &target).await.unwrap();
        let list = source.pin_files().unwrap();
        assert_eq!(sent, list.list().bytes());
        let kinds: Vec<FileKind> = list.list().files().map(|file| file.kind).collect();
        assert!(kinds.contains(&FileKind::Table) && kinds.contains(&FileKind::ValueSegment));
        let expected = contents(&source).await.unwrap();
        assert!(expected.items.len() > 300);
        assert_eq!(contents(&target).await.unwrap(), expected);
        // What is here is not sent again.
        write(&source, 601..=620).await;
        let all = source.pin_files().unwrap().list().bytes();
        let sent = copy(&source, &target).await.unwrap();
        assert!(sent < all / 2, "{sent} of {all}");
        // It writes, compacts and collects like any other.
        write(&source, 621..=1500).await;
        write(&target, 621..=1500).await;
        settle(&target).await;
        let expected = contents(&source).await.unwrap();
        assert_eq!(contents(&target).await.unwrap(), expected);
        target.close().await.unwrap();
        drop(target);
        let target = open(&other, MEMTABLE_BYTES).await.unwrap();
        assert_eq!(contents(&target).await.unwrap(), expected);
        let names = corelith_io::list_dir(&other).await.unwrap();
        assert!(names.iter().all(|entry| !entry.is_dir), "{names:?}");
        // And is a source itself, with what it has from elsewhere.
        let third = open(Path::new("/data/shard-3"), MEMTABLE_BYTES).await;
        let third = third.unwrap();
        copy(&target, &third).await.unwrap();
        assert_eq!(contents(&third).await.unwrap(), expected);
        third.close().await.unwrap();
        target.close().await.unwrap();
        source.close().await.unwrap();
    });
}

/// A segment that has grown since the last copy is there once, in its new length, for tables that were there before too.
#[test]
fn a_segment_that_has_grown_is_there_once() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let source = open(&dir(), MEMTABLE_BYTES).await.unwrap();
        let open_other = |name: &'static str| open(Path::new(name), MEMTABLE_BYTES);
        let target = open_other("/data/shard-2").await.unwrap();
        for from in [1, 41, 81] {
            write(&source, from..=from + 39).await;
            copy(&source, &target).await.unwrap();
            let pinned = target.pin_files().unwrap();
            let ids: Vec<FileId> = pinned.list().files().map(|file| file.id).collect();
            let distinct: BTreeSet<FileId> = ids.iter().copied().collect();
            assert_eq!(ids.len(), distinct.len(), "after {from}");
        }
        let third = open_other("/data/shard-3").await.unwrap();
        copy(&target, &third).await.unwrap();
        let expected = contents(&source).await.unwrap();
        assert_eq!(contents(&third).await.unwrap(), expected);
        for engine in [source, target, third] {
            engine.close().await.unwrap();
        }
    });
}

/// A segment that is written to here, and comes back from another replica, is there once.
#[test]
fn a_segment_that_comes_back_while_it_is_written_to_is_there_once() {
    let sim = Sim::new(2);
    let node = sim.add_node();
    sim.block_on(node, async {
        let one = open(&dir(), MEMTABLE_BYTES).await.unwrap();
        let other = open(Path::new("/data/shard-2"), MEMTABLE_BYTES).await;
        let other = other.unwrap();
        write(&one, 1..=48).await;
        copy(&one, &other).await.unwrap();
        let active = one.inner.values.first_unsealed();
        assert!(
            one.inner.values.segments().contains_key(&active),
            "it is written to"
        );
        write(&other, 49..=60).await;
        copy(&other, &one).await.unwrap();
        write(&one, 61..=72).await;
        let pinned = one.pin_files().unwrap();
        let ids: Vec<FileId> = pinned.list().files().map(|file| file.id).collect();
        let distinct: BTreeSet<FileId> = ids.iter().copied().collect();
        assert_eq!(ids.len(), distinct.len());
        let third = open(Path::new("/data/shard-3"), MEMTABLE_BYTES).await;
        let third = third.unwrap();
        copy(&one, &third).await.unwrap();
        let expected = contents(&one).await.unwrap();
        assert_eq!(contents(&third).await.unwrap(), expected);
        for engine in [one, other, third] {
            engine.close().await.unwrap();
        }
    });
}

/// A received segment has another number here than its tables say, and can be given up all the same.
#[test]
fn a_received_segment_is_evacuated() {
    let sim = Sim::new(2);
    let node = sim.add_node();
    sim.block_on(node, async {
        let source = open(&dir(), MEMTABLE_BYTES).await.unwrap();
        write(&source, 1..=120).await;
        let target = open(Path::new("/data/shard-2"), MEMTABLE_BYTES).await;
        let target = target.unwrap();
        copy(&source, &target).await.unwrap();
        let referred = |engine: &Engine| -> BTreeSet<ValueSegmentId> {
            let state = engine.inner.state.borrow();
            let tables = state.version.tables();
            tables.flat_map(|table| table.meta().segments()).collect()
        };
        let received = referred(&target);
        assert!(received.len() > 1 && received.iter().all(|id| id.is_received()));
        for id in received {
            assert!(target.evacuate_segment(id).await.unwrap());
            assert!(!referred(&target).contains(&id), "{id:?} is needed no more");
        }
        let expected = contents(&source).await.unwrap();
        assert_eq!(contents(&target).await.unwrap(), expected);
        target.close().await.unwrap();
        source.close().await.unwrap();
    });
}

#[test]
fn an_old_list_is_refused() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let source = open(&dir(), MEMTABLE_BYTES).await.unwrap();
        write(&source, 1..=20).await;
        let list = source.pin_files().unwrap().list().clone();
        let refused = source.receive_files(list).await.err().unwrap();
        assert!(matches!(refused, Error::OldSnapshot));
        source.close().await.unwrap();
    });
}

#[test]
fn a_list_with_lengths_that_cannot_be_is_refused() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let source = open(&dir(), MEMTABLE_BYTES).await.unwrap();
        write(&source, 1..=200).await;
        settle(&source).await;
        let list = source.pin_files().unwrap().list().clone();
        let unit = corelith_io::BLOCK_SIZE as u64;
        let decoded = |list: &FileList| FileList::decode(OWNER.shard, &list.manifest.encode(OWNER));
        let refuses = |list: &FileList| matches!(decoded(list), Err(Error::Corrupt { .. }));
        let with_table = |bytes| {
            let mut list = list.clone();
            list.manifest.tables[0].meta.file_bytes = bytes;
            list
        };
        let with_segment = |bytes| {
            let mut list = list.clone();
            list.manifest.segments[0].file_bytes = bytes;
            list
        };
        for bytes in [unit, TABLE_FILE_BYTES_MAX] {
            assert_eq!(decoded(&with_table(bytes)).unwrap(), with_table(bytes));
        }
        for bytes in [unit, VALUE_SEGMENT_FILE_BYTES_MAX] {
            assert_eq!(decoded(&with_segment(bytes)).unwrap(), with_segment(bytes));
        }
        for bytes in [0, unit + 1, 1 << 60, u64::MAX - unit + 1] {
            assert!(refuses(&with_table(bytes)), "{bytes}");
            assert!(refuses(&with_segment(bytes)), "{bytes}");
        }
        assert!(refuses(&with_table(TABLE_FILE_BYTES_MAX + unit)));
        assert!(refuses(&with_segment(VALUE_SEGMENT_FILE_BYTES_MAX + unit)));
        // Each of them could be, all together could not.
        let with_segments = |count: u64| {
            let mut list = list.clone();
            let segments = &mut list.manifest.segments;
            let more = (0..count).map(|at| SegmentMeta {
                id: ValueSegmentId(VALUE_SEGMENTS_RECEIVED + at),
                file: FileId(u128::from(at) + 1),
                file_bytes: VLOG_SEGMENT_BYTES_MAX,
                ..segments[0]
            });
            let more: Vec<_> = more.collect();
            segments.extend(more);
            list
        };
        let most = LISTED_BYTES_MAX / VLOG_SEGMENT_BYTES_MAX;
        assert!(decoded(&with_segments(most - 1)).is_ok());
        assert!(refuses(&with_segments(most)));
        source.close().await.unwrap();
    });
}

/// A source on a node of its own; what it reads is handed to the receiver as if by a network.
struct Source {
    pinned: Rc<PinnedFiles>,
    contents: Contents,
    _engine: Engine,
}

fn source(sim: &Sim, node: SimNode, writes: u64) -> Source {
    sim.block_on(node, async move {
        let engine = open(Path::new("/data/source"), MEMTABLE_BYTES)
            .await
            .unwrap();
        write(&engine, 1..=writes).await;
        settle(&engine).await;
        Source {
            pinned: Rc::new(engine.pin_files().unwrap()),
            contents: contents(&engine).await.unwrap(),
            _engine: engine,
        }
    })
}

/// All pieces of what is pinned.
fn pieces(sim: &Sim, node: SimNode, source: &Source) -> BTreeMap<(FileId, u64), Bytes> {
    let pinned = Rc::clone(&source.pinned);
    sim.block_on(node, async move {
        let mut pieces = BTreeMap::new();
        for file in pinned.list().files() {
            for offset in (0..file.bytes).step_by(FILE_PIECE_BYTES) {
                let bytes = pinned.read(file.id, offset).await.unwrap().unwrap();
                pieces.insert((file.id, offset), bytes);
            }
        }
        pieces
    })
}

/// Copies over a way that damages pieces; the engine's contents if it came to an end.
fn damaged(
    way: impl Fn(FileId, u64, Bytes) -> (Bytes, u32) + 'static,
) -> std::result::Result<bool, Error> {
    let sim = Sim::new(5);
    let (from, node) = (sim.add_node(), sim.add_node());
    let source = source(&sim, from, 500);
    let pieces = pieces(&sim, from, &source);
    let list = source.pinned.list().clone();
    sim.block_on(node, async move {
        let engine = open(&dir(), MEMTABLE_BYTES).await?;
        let incoming = engine.receive_files(list).await?;
        let mut refused = 0;
        loop {
            let Some(piece) = incoming.next_missing() else {
                match incoming.finish().await {
                    // A value whose record is in use.
                    Err(Error::Corrupt { .. }) => continue,
                    finished => finished?,
                };
                engine.install_files(&incoming).await?;
                break;
            };
            let bytes = pieces[&(piece.file, piece.offset)].clone();
            let (bytes, crc) = way(piece.file, piece.offset, bytes);
            match incoming.write_piece(piece, &bytes, crc).await {
                Err(Error::BadPiece { .. } | Error::Corrupt { .. }) => refused += 1,
                result => result?,
            }
            assert!(refused < 100, "it is asked for again and again");
        }
        let same = contents(&engine).await? == source.contents;
        engine.close().await?;
        Ok(same)
    })
}

/// A copy for which there is no room takes none.
#[test]
fn a_copy_that_does_not_fit_takes_no_space() {
    let sim = Sim::new(4);
    let (from, node) = (sim.add_node(), sim.add_node());
    let source = source(&sim, from, 500);
    let pieces = pieces(&sim, from, &source);
    let list = source.pinned.list().clone();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let engine = open(&dir(), MEMTABLE_BYTES).await.unwrap();
        let all = list.bytes();
        let before = disk.used_bytes();
        disk.set_capacity(before + all / 2);
        let refused = engine.receive_files(list.clone()).await.err().unwrap();
        assert!(refused.wants_room(), "{refused}");
        assert!(disk.used_bytes() <= before + (64 << 10));
        // There is less and less room for one that has begun.
        disk.set_capacity(before + 2 * all);
        let incoming = engine.receive_files(list.clone()).await.unwrap();
        let (mut taken, mut bytes_taken) = (0, 0);
        while let Some(piece) = incoming.next_missing()
            && bytes_taken < all / 2
        {
            let bytes = &pieces[&(piece.file, piece.offset)];
            let crc = crc32c::crc32c(bytes);
            incoming.write_piece(piece, bytes, crc).await.unwrap();
            (taken, bytes_taken) = (taken + 1, bytes_taken + bytes.len() as u64);
        }
        assert!(taken > 2);
        drop(incoming);
        disk.set_capacity(disk.used_bytes() + (16 << 10));
        let refused = engine.receive_files(list.clone()).await.err().unwrap();
        assert!(refused.wants_room(), "{refused}");
        settle(&engine).await;
        let used = disk.used_bytes() - before;
        assert!(
            used <= 64 << 10,
            "{used} of {bytes_taken} are there: {:?}",
            disk.files()
        );
        disk.set_capacity(1 << 30);
        let incoming = engine.receive_files(list).await.unwrap();
        assert_eq!(incoming.progress().done, 0);
        engine.close().await.unwrap();
    });
}

#[test]
fn a_piece_that_is_damaged_or_torn_is_not_taken() {
    // On its way: the checksum tells.
    let tried = RefCell::new(BTreeSet::new());
    let flipped = move |file: FileId, offset, bytes: Bytes| {
        let crc = crc32c::crc32c(&bytes);
        let mut bytes = bytes.to_vec();
        match tried.borrow_mut().insert((file, offset)) {
            true if bytes.len() > 20_000 => bytes[5000] ^= 4,
            true => bytes.truncate(4096),
            false => {}
        }
        (bytes.into(), crc)
    };
    assert!(damaged(flipped).unwrap());
    // On the sender's disk: the file's own checksums tell.
    let rotten = || {
        let tried = RefCell::new(BTreeSet::new());
        move |file: FileId, offset, bytes: Bytes| {
            let mut bytes = bytes.to_vec();
            if tried.borrow_mut().insert((file, offset)) {
                bytes[5000] ^= 4;
            }
            whole(file, offset, bytes.into())
        }
    };
    assert!(damaged(rotten()).unwrap());
    plant(Some(Bug::TakeUncheckedPieces));
    let taken = damaged(rotten());
    plant(None);
    assert!(!matches!(taken, Ok(true)), "the bug is found");
}

/// Compacts and collects at the sender while its files are pinned, and copies only then.
fn copied_late() -> Result<bool> {
    let sim = Sim::new(3);
    let node = sim.add_node();
    sim.block_on(node, async {
        let source = open(&dir(), MEMTABLE_BYTES).await?;
        write(&source, 1..=500).await;
        settle(&source).await;
        let expected = contents(&source).await?;
        let pinned = source.pin_files()?;
        write(&source, 501..=2000).await;
        settle(&source).await;
        let now = source.pin_files()?;
        let now: BTreeSet<FileId> = now.list().files().map(|file| file.id).collect();
        let gone = pinned.list().files().filter(|file| !now.contains(&file.id));
        assert!(gone.count() > 2, "something pinned is out of use");
        let target = open(Path::new("/data/shard-2"), MEMTABLE_BYTES).await?;
        let incoming = target.receive_files(pinned.list().clone()).await?;
        while let Some(piece) = incoming.next_missing() {
            let Some(bytes) = pinned.read(piece.file, piece.offset).await? else {
                return Ok(false);
            };
            let (bytes, crc) = whole(piece.file, piece.offset, bytes);
            incoming.write_piece(piece, &bytes, crc).await?;
        }
        incoming.finish().await?;
        target.install_files(&incoming).await?;
        let same = contents(&target).await? == expected;
        drop(pinned);
        // What nobody pins goes.
        settle(&source).await;
        for entry in corelith_io::list_dir(&dir()).await? {
            if let Some(FileName::Table(id)) = FileName::parse(&entry.name) {
                assert!(source.inner.state.borrow().manifest.names(id));
            }
        }
        Ok(same)
    })
}

#[test]
fn what_is_pinned_stays_until_it_is_let_go() {
    assert!(copied_late().unwrap());
    plant(Some(Bug::RemoveWhileHeld));
    let copied = copied_late();
    plant(None);
    assert!(!matches!(copied, Ok(true)), "the bug is found");
}

#[test]
fn shards_of_all_versions_are_copied_as_they_are() {
    on_core(|path| async move {
        for version in 1..=super::golden::VERSION {
            let old = path.with_extension(format!("v{version}"));
            super::golden::copy_golden(version, &old);
            let source = open(&old, 1 << 20).await.unwrap();
            let target = path.with_extension(format!("copy-{version}"));
            let target = open(&target, 1 << 20).await.unwrap();
            copy(&source, &target).await.unwrap();
            super::golden::check(&target, version).await;
            target.close().await.unwrap();
            source.close().await.unwrap();
        }
    });
}
