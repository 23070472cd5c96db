//! Receptions of files that break off: by a crash, by a piece that is given up, or for good.

use super::{MEMTABLE_BYTES, contents, copy, dir, pieces, source, whole, write};
use crate::engine::tests::{open, settle};
use crate::engine::{Engine, FileList};
use crate::error::Result;
use crate::ids::FileId;
use crate::limits::{FILE_PIECE_BYTES, INCOMING_KEPT};
use bytes::Bytes;
use corelith_io::sim::Sim;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// How often a reception records what it has.
const RECORD_EVERY_BYTES: u64 = 64 << 10;

/// Receives what is there and installs it, as far as it gets; notes what it asks for.
async fn receive(
    list: FileList,
    pieces: Rc<BTreeMap<(FileId, u64), Bytes>>,
    asked: Rc<RefCell<Vec<(FileId, u64)>>>,
) -> Result<Engine> {
    let engine = open(&dir(), MEMTABLE_BYTES).await?;
    if engine.applied().0 == list.applied().0 {
        return Ok(engine);
    }
    let incoming = engine.receive_files(list).await?;
    incoming.record_every(RECORD_EVERY_BYTES);
    while let Some(piece) = incoming.next_missing() {
        asked.borrow_mut().push((piece.file, piece.offset));
        let bytes = &pieces[&(piece.file, piece.offset)];
        incoming
            .write_piece(piece, bytes, crc32c::crc32c(bytes))
            .await?;
    }
    incoming.finish().await?;
    engine.install_files(&incoming).await?;
    Ok(engine)
}

/// Crashes the receiver at its `n`-th I/O, then lets it come to its end. Returns whether there was a crash, and how
/// many bytes were asked for twice.
fn crash_at(n: u64) -> (bool, u64) {
    let sim = Sim::new(n);
    let (from, node) = (sim.add_node(), sim.add_node());
    let source = source(&sim, from, 120);
    let pieces = Rc::new(pieces(&sim, from, &source));
    let list = source.pinned.list().clone();
    let all = source.pinned.list().bytes();
    assert!(all > 4 * RECORD_EVERY_BYTES, "{all}");
    let lens: BTreeMap<_, _> = pieces
        .iter()
        .map(|(at, piece)| (*at, piece.len()))
        .collect();
    let asked = Rc::new(RefCell::new(Vec::new()));
    let (done, failed) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
    sim.crash_at_io(node, n);
    {
        let (list, pieces, asked) = (list.clone(), Rc::clone(&pieces), Rc::clone(&asked));
        let (done, failed) = (Rc::clone(&done), Rc::clone(&failed));
        sim.start(node, 0, move || async move {
            match receive(list, pieces, asked).await {
                Ok(engine) => {
                    let _ = engine.close().await;
                    done.set(true);
                }
                Err(error) => *failed.borrow_mut() = Some(error),
            }
        });
    }
    let ended = || !sim.is_up(node) || done.get() || failed.borrow().is_some();
    assert!(sim.run_until(ended, Duration::from_secs(1000)), "I/O {n}");
    assert!(failed.borrow().is_none(), "{:?}", failed.borrow());
    if done.get() {
        return (false, 0);
    }
    let expected = source.contents;
    let asked_again = Rc::clone(&asked);
    sim.block_on(node, async move {
        let engine = receive(list, pieces, asked_again).await.unwrap();
        assert_eq!(contents(&engine).await.unwrap(), expected, "I/O {n}");
        settle(&engine).await;
        assert_eq!(contents(&engine).await.unwrap(), expected, "I/O {n}");
        engine.close().await.unwrap();
    });
    let sent: usize = asked.borrow().iter().map(|piece| lens[piece]).sum();
    (true, sent as u64 - all)
}

#[test]
fn a_crash_of_the_receiver_anywhere_leaves_what_is_not_asked_for_again() {
    let (mut crashes, mut most) = (0, 0);
    for n in (1..).step_by(2) {
        let (crashed, again) = crash_at(n);
        // And a piece that was on its way.
        let bound = RECORD_EVERY_BYTES + FILE_PIECE_BYTES as u64;
        assert!(again <= bound, "I/O {n}: {again} asked for again");
        most = most.max(again);
        if !crashed {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 50 && most > 0, "{crashes}, {most}");
}

/// Polls something so often; `None` if it has not ended then.
async fn polled<T>(work: impl Future<Output = T>, times: u32) -> Option<T> {
    let mut work = pin!(work);
    let mut left = times;
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Receives all files, but gives each piece up once after it was polled so often, and with `anew` the reception with it.
/// Returns how many pieces it gave up.
async fn receive_giving_up(source: &Engine, target: &Engine, times: u32, anew: bool) -> usize {
    let pinned = source.pin_files().unwrap();
    let begin = || target.receive_files(pinned.list().clone());
    let mut incoming = begin().await.unwrap();
    incoming.record_every(RECORD_EVERY_BYTES);
    let (mut asked, mut given_up) = (BTreeSet::new(), 0);
    while let Some(piece) = incoming.next_missing() {
        let bytes = pinned.read(piece.file, piece.offset).await.unwrap();
        let bytes = bytes.unwrap();
        let crc = crc32c::crc32c(&bytes);
        if !asked.insert((piece.file, piece.offset)) {
            incoming.write_piece(piece, &bytes, crc).await.unwrap();
            continue;
        }
        let taken = polled(incoming.write_piece(piece, &bytes, crc), times).await;
        if let Some(taken) = taken {
            taken.unwrap();
            continue;
        }
        given_up += 1;
        incoming.give_back(piece);
        if anew {
            drop(incoming);
            incoming = begin().await.unwrap();
            incoming.record_every(RECORD_EVERY_BYTES);
        }
    }
    incoming.finish().await.unwrap();
    target.install_files(&incoming).await.unwrap();
    given_up
}

/// Wherever the taking of a piece is given up, its last one with the check of the whole file too, and the reception with it
/// or not: the piece can be asked for again, and what was asked of the device before does no harm.
#[test]
fn the_taking_of_a_piece_can_be_given_up_anywhere() {
    for anew in [false, true] {
        let mut all_given_up = 0;
        for times in 0.. {
            let mut given_up = 0;
            for seed in 0..2 {
                let sim = Sim::new(seed);
                let node = sim.add_node();
                given_up += sim.block_on(node, async move {
                    let source = open(&dir(), MEMTABLE_BYTES).await.unwrap();
                    write(&source, 1..=120).await;
                    settle(&source).await;
                    let target = open(Path::new("/data/shard-2"), MEMTABLE_BYTES).await;
                    let target = target.unwrap();
                    let given_up = receive_giving_up(&source, &target, times, anew).await;
                    let expected = contents(&source).await.unwrap();
                    assert_eq!(contents(&target).await.unwrap(), expected);
                    given_up
                });
            }
            all_given_up += given_up;
            if given_up == 0 {
                break;
            }
        }
        assert!(all_given_up > 20, "{all_given_up}");
    }
}

/// What a reception has left gives its space back if nobody goes on with it.
#[test]
fn what_a_reception_has_left_goes_after_a_while() {
    let sim = Sim::new(4);
    let node = sim.add_node();
    let disk = sim.disk(node);
    let ended = Rc::new(Cell::new(false));
    let told = Rc::clone(&ended);
    sim.start(node, 0, move || async move {
        let source = open(&dir(), MEMTABLE_BYTES).await.unwrap();
        write(&source, 1..=200).await;
        let other = PathBuf::from("/data/shard-2");
        let left = || {
            let files = disk.files().into_iter();
            files
                .filter(|(path, _)| path.starts_with("/data/shard-2/incoming"))
                .count()
        };
        let begin = async |target: &Engine| {
            let pinned = source.pin_files().unwrap();
            let incoming = target.receive_files(pinned.list().clone()).await.unwrap();
            while let Some(piece) = incoming.next_missing()
                && left() < 4
            {
                let bytes = pinned.read(piece.file, piece.offset).await.unwrap();
                let (bytes, crc) = whole(piece.file, piece.offset, bytes.unwrap());
                incoming.write_piece(piece, &bytes, crc).await.unwrap();
            }
            assert!(left() >= 4);
            incoming
        };
        let target = open(&other, MEMTABLE_BYTES).await.unwrap();
        let incoming = begin(&target).await;
        corelith_io::sleep(2 * INCOMING_KEPT).await;
        assert!(left() >= 4, "it is under way");
        drop(incoming);
        corelith_io::sleep(INCOMING_KEPT / 2).await;
        // A restart does not make it older, and goes on where it was.
        target.close().await.unwrap();
        drop(target);
        let target = open(&other, MEMTABLE_BYTES).await.unwrap();
        corelith_io::sleep(INCOMING_KEPT / 2).await;
        assert!(left() >= 4);
        drop(begin(&target).await);
        corelith_io::sleep(INCOMING_KEPT * 2).await;
        assert_eq!(left(), 0);
        copy(&source, &target).await.unwrap();
        let expected = contents(&source).await.unwrap();
        assert_eq!(contents(&target).await.unwrap(), expected);
        target.close().await.unwrap();
        source.close().await.unwrap();
        told.set(true);
    });
    assert!(sim.run_until(|| ended.get(), 10 * INCOMING_KEPT));
}
