//! Damage, failing devices and full ones.

use super::{entry, id, no_values, options, vote};
use crate::error::{Error, Result};
use crate::ids::{LogIndex, ShardId, Ticket};
use crate::wal::format::BlockHeader;
use crate::wal::{Wal, WalOptions};
use corelith_io::sim::{IoKind, Sim, SimNode};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/data/shard";

async fn open(options: WalOptions) -> Result<Wal> {
    Wal::open(Path::new(DIR), options, None, no_values)
        .await
        .map(|(log, _)| log)
}

/// Appends `count` entries of a few KiB, each after the one before is durable.
async fn append_one_by_one(log: &Wal, from: u64, count: u64) {
    for index in from..from + count {
        log.append(vec![entry(1, index, 3000)], Ticket(0), |result| {
            result.unwrap()
        });
        log.flush().await.unwrap();
    }
}

/// The outcome of opening the log and reading all of it.
fn reopen(sim: &Sim, node: SimNode) -> Result<u64> {
    sim.block_on(node, async {
        let log = open(options()).await?;
        let read = log.read(LogIndex(0), LogIndex(u64::MAX), u64::MAX).await?;
        for found in &read {
            let index = found.id.index.0;
            assert_eq!(*found, entry(1, index, found.body.len()));
        }
        log.close().await?;
        Ok(read.len() as u64)
    })
}

/// Every block in the files, as (path, offset, header), in order of numbers.
fn blocks(sim: &Sim, node: SimNode) -> Vec<(String, u64, BlockHeader)> {
    let disk = sim.disk(node);
    let mut blocks = Vec::new();
    for (path, _) in disk.files() {
        let bytes = disk.read(&path).unwrap();
        for (at, unit) in bytes.chunks(4096).enumerate() {
            if let Ok((header, _)) = BlockHeader::decode(unit) {
                blocks.push((path.clone(), at as u64 * 4096, header));
            }
        }
    }
    blocks.sort_by_key(|(_, _, header)| header.number);
    blocks
}

#[test]
pub(crate) fn a_flipped_bit_in_any_block_but_the_last_is_found() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let log = open(options()).await.unwrap();
        append_one_by_one(&log, 0, 20).await;
        // One that takes several blocks and segments.
        log.append(vec![entry(1, 20, 150_000)], Ticket(0), |result| {
            result.unwrap()
        });
        log.save_vote(vote(5)).await.unwrap();
        append_one_by_one(&log, 21, 5).await;
        log.close().await.unwrap();
    });
    sim.crash(node);
    let image = sim.disk(node).image();
    let blocks = blocks(&sim, node);
    let (last, before) = blocks.split_last().unwrap();
    assert!(before.len() > 30, "{}", before.len());
    for (path, offset, header) in before {
        // In the header, and in the payload if there is one.
        let last_byte = 63 + u64::from(header.payload_len);
        for byte in [8, 33, last_byte] {
            sim.disk(node).restore(&image);
            sim.disk(node).flip_bit(path, offset + byte);
            match reopen(&sim, node) {
                Err(Error::Corrupt {
                    file, offset: at, ..
                }) => {
                    assert_eq!((&file, at), (path, *offset), "block {}", header.number);
                }
                other => panic!("block {} damaged: {other:?}", header.number),
            }
            sim.crash(node);
        }
    }
    // The last one says only that those before it are durable.
    assert_eq!(last.2.payload_len, 0);
    sim.disk(node).restore(&image);
    sim.disk(node).flip_bit(&last.0, last.1 + 8);
    assert_eq!(reopen(&sim, node).unwrap(), 26);
}

/// A vote is proven when it is answered: damage to it is told from a torn tail even if the power fails at
/// once.
#[test]
fn damage_to_an_answered_vote_is_found() {
    for seed in 0..10 {
        damage_a_vote(seed);
    }
}

pub(crate) fn damage_a_vote(seed: u64) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    sim.block_on(node, async move {
        let log = open(options()).await.unwrap();
        append_one_by_one(&log, 0, seed % 30).await;
        log.save_vote(vote(5)).await.unwrap();
    });
    sim.crash(node);
    let blocks = blocks(&sim, node);
    // Empty ones after it prove those before them.
    let (path, offset, header) = blocks
        .iter()
        .rfind(|(_, _, header)| header.payload_len > 0)
        .unwrap();
    sim.disk(node)
        .flip_bit(path, offset + 63 + u64::from(header.payload_len));
    let outcome = reopen(&sim, node);
    assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{outcome:?}");
}

/// A write that was meant for another file may cover all blocks of the newest segment, so that none is
/// left which says that there were others.
#[test]
fn a_segment_that_holds_something_else_is_found() {
    for count in [1, 3, 20] {
        let sim = Sim::new(count);
        let node = sim.add_node();
        sim.block_on(node, async move {
            let log = open(options()).await.unwrap();
            append_one_by_one(&log, 0, count).await;
        });
        sim.crash(node);
        let (path, ..) = blocks(&sim, node).last().unwrap().clone();
        let len = sim.disk(node).read(&path).unwrap().len();
        sim.disk(node).write(&path, &b"CLTABLE\0".repeat(len / 8));
        match reopen(&sim, node) {
            Err(Error::Corrupt { file, offset, .. }) => assert_eq!((file, offset), (path, 0)),
            other => panic!("{count}: {other:?}"),
        }
    }
}

#[test]
fn a_missing_segment_is_found() {
    let sim = Sim::new(2);
    let node = sim.add_node();
    sim.block_on(node, async {
        let log = open(options()).await.unwrap();
        append_one_by_one(&log, 0, 70).await;
        log.close().await.unwrap();
    });
    sim.crash(node);
    let image = sim.disk(node).image();
    let segments = sim.disk(node).files();
    let used = blocks(&sim, node).last().unwrap().0.clone();
    for (path, _) in segments.iter().filter(|(path, _)| *path < used) {
        sim.disk(node).restore(&image);
        sim.disk(node).remove(path);
        let outcome = reopen(&sim, node);
        assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{outcome:?}");
        sim.crash(node);
    }
}

#[test]
fn other_stores_and_newer_formats_are_refused() {
    let sim = Sim::new(3);
    let node = sim.add_node();
    sim.block_on(node, async {
        let log = open(options()).await.unwrap();
        append_one_by_one(&log, 0, 3).await;
        log.close().await.unwrap();
        let other_store = WalOptions {
            store_id: 78,
            ..options()
        };
        let other_shard = WalOptions {
            shard: ShardId(4),
            ..options()
        };
        for wrong in [other_store, other_shard] {
            let outcome = open(wrong).await.map(drop);
            assert!(
                matches!(outcome, Err(Error::OtherStore { .. })),
                "{outcome:?}"
            );
        }
    });
    sim.crash(node);
    let (path, ..) = blocks(&sim, node).remove(0);
    let mut bytes = sim.disk(node).read(&path).unwrap();
    bytes[4] = 9;
    // The header crc covers bytes 12 to 64 and then 4 to 8.
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[12..64]), &bytes[4..8]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    sim.disk(node).write(&path, &bytes);
    let outcome = reopen(&sim, node);
    let newer = matches!(
        outcome,
        Err(Error::NewerFormat {
            found: 9,
            known: 2,
            ..
        })
    );
    assert!(newer, "{outcome:?}");
}

#[test]
fn a_damaged_block_is_not_served() {
    let sim = Sim::new(4);
    let node = sim.add_node();
    let opened = Rc::new(RefCell::new(None));
    let kept = Rc::clone(&opened);
    sim.block_on(node, async move {
        let log = open(options()).await.unwrap();
        append_one_by_one(&log, 0, 10).await;
        *kept.borrow_mut() = Some(log);
    });
    let log = opened.borrow_mut().take().unwrap();
    let (path, offset, _) = blocks(&sim, node)[2].clone();
    sim.disk(node).flip_bit(path, offset + 200);
    sim.block_on(node, async move {
        let outcome = log.read(LogIndex(0), LogIndex(10), u64::MAX).await;
        assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{outcome:?}");
        // The rest is still there.
        let rest = log.read(LogIndex(5), LogIndex(10), u64::MAX).await;
        assert_eq!(rest.unwrap().len(), 5);
        log.close().await.unwrap();
    });
}

/// Every operation of `kind` on the log fails in turn: what was acknowledged is there after a
/// restart, and after the failure nothing is acknowledged.
pub(crate) fn fails_at(kind: IoKind, pass: u64) -> bool {
    let sim = Sim::new(100 + pass);
    let node = sim.add_node();
    let acknowledged = Rc::new(RefCell::new(Vec::new()));
    let results = Rc::clone(&acknowledged);
    let disk = sim.disk(node);
    let fenced = sim.block_on(node, async move {
        let log = open(options()).await.unwrap();
        disk.fail(kind, "/data", pass);
        for index in 0..60 {
            let results = Rc::clone(&results);
            log.append(vec![entry(1, index, 3000)], Ticket(0), move |result| {
                results.borrow_mut().push((index, result));
            });
            if index % 3 == 0 && log.flush().await.is_err() {
                break;
            }
        }
        let flushed = log.flush().await;
        if let Err(error) = &flushed {
            assert!(matches!(error, Error::Fenced(_)), "{error:?}");
            let results = Rc::new(RefCell::new(None));
            let result = Rc::clone(&results);
            let next = log.range().last.unwrap().index.0 + 1;
            log.append(vec![entry(1, next, 1)], Ticket(0), move |outcome| {
                *result.borrow_mut() = Some(outcome);
            });
            let outcome = results.borrow_mut().take().unwrap();
            assert!(matches!(outcome, Err(Error::Fenced(_))));
            assert!(log.save_vote(vote(1)).await.is_err());
            assert!(log.truncate_after(None).await.is_err());
            assert!(log.wait_for_room().await.is_err());
        }
        // The last block may be the one that fails.
        log.close().await.is_err()
    });
    let results = acknowledged.borrow();
    let count = results
        .iter()
        .take_while(|(_, result)| result.is_ok())
        .count();
    assert!(
        results
            .iter()
            .skip(count)
            .all(|(_, result)| result.is_err())
    );
    assert!(
        results
            .iter()
            .map(|(index, _)| *index)
            .eq(0..results.len() as u64)
    );
    sim.crash(node);
    sim.disk(node).heal();
    assert!(reopen(&sim, node).unwrap() >= count as u64);
    fenced
}

#[test]
fn a_failed_write_or_sync_fences_the_log() {
    for pass in 0..25 {
        assert!(fails_at(IoKind::Write, pass), "write {pass}");
    }
    assert!(fails_at(IoKind::Sync, 0));
    assert!(fails_at(IoKind::SyncDir, 0));
    assert!(fails_at(IoKind::Rename, 0));
    assert!(fails_at(IoKind::Name, 0));
}

/// Whatever step of preparing or freeing a segment finds the device full, the log goes on, and what was
/// begun leaves nothing behind.
#[test]
fn a_device_that_is_full_at_one_step_of_a_segment_is_waited_out() {
    for kind in [IoKind::Write, IoKind::Sync, IoKind::SyncDir, IoKind::Rename] {
        for pass in 0..40 {
            let sim = Sim::new(pass);
            let node = sim.add_node();
            let log = sim.block_on(node, async { open(options()).await.unwrap() });
            // Blocks of the log go to space that is there already.
            let part = if kind == IoKind::Write { ".tmp" } else { DIR };
            sim.disk(node).fail_for_space(kind, part, pass);
            let writing = log.clone();
            sim.block_on(node, async move {
                for index in 0..120 {
                    writing.append(vec![entry(1, index, 3000)], Ticket(0), |result| {
                        result.unwrap();
                    });
                    writing.flush().await.unwrap();
                    if index % 20 == 19 {
                        writing.purge(id(1, index - 10)).await.unwrap();
                    }
                }
                // Time for what waits for room.
                corelith_io::sleep(Duration::from_secs(5)).await;
                writing.flush().await.unwrap();
                assert!(!writing.is_disk_full());
            });
            let is_met = sim.disk(node).pending_faults() == 0;
            sim.disk(node).heal();
            let files = sim.disk(node).files();
            let left = files.iter().filter(|(path, _)| path.ends_with(".tmp"));
            assert_eq!(left.count(), 0, "{kind:?} {pass}: {files:?}");
            let segments = files.iter().filter(|(path, _)| path.ends_with(".log"));
            assert!(segments.count() <= 5, "{kind:?} {pass}: {files:?}");
            sim.block_on(node, async move { log.close().await.unwrap() });
            sim.crash(node);
            assert_eq!(reopen(&sim, node).unwrap(), 10);
            if !is_met {
                assert!(pass > 2, "{kind:?} {pass}");
                break;
            }
        }
    }
}

#[test]
fn a_full_device_holds_appends_back_until_there_is_room() {
    let sim = Sim::new(7);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let log = open(options()).await.unwrap();
        disk.set_capacity(disk.used_bytes() + 4096);
        let done = Rc::new(RefCell::new(0));
        for index in 0..40 {
            let done = Rc::clone(&done);
            log.append(vec![entry(1, index, 3000)], Ticket(0), move |result| {
                result.unwrap();
                *done.borrow_mut() += 1;
            });
            corelith_io::sleep(Duration::from_millis(1)).await;
        }
        corelith_io::sleep(Duration::from_secs(3)).await;
        assert!(log.is_disk_full());
        let held = *done.borrow();
        assert!((1..40).contains(&held), "{held}");
        disk.set_capacity(1 << 30);
        log.flush().await.unwrap();
        assert_eq!(*done.borrow(), 40);
        assert!(!log.is_disk_full());
        log.close().await.unwrap();
    });
    assert_eq!(reopen(&sim, node).unwrap(), 40);
}

#[test]
fn a_log_goes_on_in_a_short_segment_where_a_whole_one_does_not_fit() {
    let sim = Sim::new(9);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let options = WalOptions {
            segment_bytes: 2 << 20,
            ..options()
        };
        let log = open(options).await.unwrap();
        disk.set_capacity(disk.used_bytes() + (600 << 10));
        // Two blocks more than the first segment takes.
        for index in 0..22 {
            log.append(vec![entry(1, index, 100_000)], Ticket(0), |result| {
                result.unwrap()
            });
        }
        log.flush().await.unwrap();
        assert!(log.is_disk_full() && !log.is_stuck());
        disk.set_capacity(1 << 30);
        corelith_io::sleep(Duration::from_secs(5)).await;
        assert!(!log.is_disk_full(), "that there is room again is noticed");
        log.close().await.unwrap();
    });
    assert_eq!(reopen(&sim, node).unwrap(), 22);
}

#[test]
fn a_log_opens_on_a_full_device() {
    let sim = Sim::new(8);
    let node = sim.add_node();
    sim.block_on(node, async {
        let mut options = options();
        options.segment_bytes = 1 << 20;
        let log = open(options).await.unwrap();
        append_one_by_one(&log, 0, 5).await;
        log.close().await.unwrap();
    });
    // What the last segment gives back is enough for a short one.
    sim.disk(node).set_capacity(sim.disk(node).used_bytes());
    sim.block_on(node, async {
        let mut options = options();
        options.segment_bytes = 1 << 20;
        let log = open(options).await.unwrap();
        log.purge(id(1, 4)).await.unwrap();
        log.save_vote(vote(3)).await.unwrap();
        log.close().await.unwrap();
    });
    assert_eq!(reopen(&sim, node).unwrap(), 0);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        sim.block_on(node, async {
            let log = open(options()).await.unwrap();
            append_one_by_one(&log, 0, 30).await;
            log.close().await.unwrap();
        });
        sim.trace_hash()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
