//! Whole, crashed and damaged shards, in the Sim world.

use super::*;
use crate::engine::tests::log_id;
use crate::shard::{Shard, ShardOptions};
use crate::wal::{Entry, ValuePart};
use corelith_io::sim::{Sim, SimDisk, SimNode};
use std::cell::RefCell;

const DIR: &str = "/data/shard-1";

fn options() -> ShardOptions {
    ShardOptions {
        memtable_bytes: 16 << 10,
        segment_bytes: 64 << 10,
        value_threshold: 1000,
        value_segment_bytes: 64 << 10,
        reserve_bytes: 64 << 10,
        ..ShardOptions::new(7, ShardId(1))
    }
}

fn key(index: u64) -> Vec<u8> {
    format!("key/{:03}", index * 7 % 101).into_bytes()
}

fn value(index: u64) -> Vec<u8> {
    let len = match index % 6 {
        0 => 5000,
        1 => 1500,
        _ => 60,
    };
    (0..len).map(|byte| (byte * 31 + index) as u8).collect()
}

/// Appends and applies the entries `from..to`; every 40th is a checkpoint, and purges the log a bit.
async fn write(shard: &Shard, from: u64, to: u64) -> Result<()> {
    let Shard { log, engine } = shard;
    for index in from..to {
        let (key, value) = (key(index), value(index));
        let body = [b"h", &key[..], &value].concat();
        let mut entry = Entry::new(log_id(index), 2, body.into());
        entry.value = Some(ValuePart {
            space: crate::Space::User,
            start: key.len() as u32 + 1,
            len: value.len() as u32,
            key_start: 1,
            key_len: key.len() as u32,
        });
        log.wait_for_room().await?;
        log.append(vec![entry], |_| {});
        engine.wait_for_room().await?;
        match log
            .head_in_memory(LogIndex(index))
            .and_then(|entry| entry.place)
        {
            Some(place) => engine.put_separated(LogIndex(index), &key, place),
            None => engine.put(LogIndex(index), &key, value.into()),
        }
        engine.set_applied(log_id(index), None);
        if index.is_multiple_of(40) {
            engine.checkpoint().await?;
            log.purge(log_id(index - 20)).await?;
        }
        if index.is_multiple_of(9) {
            log.flush().await?;
        }
    }
    Ok(())
}

async fn check() -> (Summary, Vec<Problem>) {
    let mut problems = Vec::new();
    let summary = check_shard(DIR.as_ref(), None, |problem| problems.push(problem))
        .await
        .unwrap();
    assert_eq!(summary.problems, problems.len() as u64);
    (summary, problems)
}

/// Every file and its bytes.
fn content(disk: &SimDisk) -> Vec<(String, Option<Vec<u8>>)> {
    let files = disk.files().into_iter();
    files
        .map(|(path, _)| (path.clone(), disk.read(&path)))
        .collect()
}

/// Whether a file is a segment of the value log that is only prepared.
fn is_empty(disk: &SimDisk, path: &str) -> bool {
    let bytes = disk.read(path).unwrap();
    path.ends_with(".vlog") && bytes.iter().skip(4096).all(|byte| *byte == 0)
}

/// A shard that was closed in order.
fn closed(seed: u64) -> (Sim, SimNode) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    sim.block_on(node, async {
        let shard = Shard::open(DIR.as_ref(), options()).await.unwrap();
        write(&shard, 1, 430).await.unwrap();
        shard.close().await.unwrap();
    });
    (sim, node)
}

#[test]
fn a_whole_shard_has_no_problem_and_stays_as_it_is() {
    let (sim, node) = closed(1);
    let before = content(&sim.disk(node));
    let (summary, problems) = sim.block_on(node, check());
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(summary.shard, Some(ShardId(1)));
    assert!(
        summary.tables > 0 && summary.entries > 0 && summary.pointers > 20,
        "{summary:?}"
    );
    assert!(summary.value_segments > 1 && summary.value_records >= summary.pointers);
    assert!(
        summary.log_segments > 0 && summary.log_entries == 429 - 380,
        "{summary:?}"
    );
    assert_eq!((summary.torn_records, &summary.orphans[..]), (0, &[][..]));
    assert!(content(&sim.disk(node)) == before);
}

#[test]
fn what_a_crash_leaves_is_no_problem_and_stays_as_it_is() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        sim.crash_at_io(node, 40 + seed * 17);
        sim.start(node, 0, || async {
            if let Ok(shard) = Shard::open(DIR.as_ref(), options()).await {
                let _ = write(&shard, 1, 430).await;
            }
        });
        sim.run_until(|| !sim.is_up(node), std::time::Duration::from_secs(60));
        sim.crash(node);
        if sim.disk(node).files().is_empty() {
            continue;
        }
        let before = content(&sim.disk(node));
        let (_, problems) = sim.block_on(node, check());
        assert!(problems.is_empty(), "seed {seed}: {problems:?}");
        assert!(content(&sim.disk(node)) == before, "seed {seed}");
        sim.block_on(node, async {
            let shard = Shard::open(DIR.as_ref(), options()).await.unwrap();
            shard.close().await.unwrap();
        });
        let (_, problems) = sim.block_on(node, check());
        assert!(problems.is_empty(), "seed {seed}, opened: {problems:?}");
    }
}

#[test]
fn a_flipped_bit_is_named_with_its_file_place_and_keys() {
    let (sim, node) = closed(2);
    let disk = sim.disk(node);
    let mut checked = 0;
    for (path, len) in disk.files() {
        if is_empty(&disk, &path) {
            continue;
        }
        // Of the log and the value log what is in use is what matters.
        let places: Vec<u64> = match path.rsplit_once('.') {
            Some((_, "sst")) => (0..len / 4096).map(|page| page * 4096 + 20).collect(),
            Some((_, "vlog")) => vec![10, 4096 + 20, 4096 + 60, 4096 + 1000],
            _ if path.ends_with("MANIFEST") => vec![3, 30, 100],
            _ => continue,
        };
        for at in places {
            disk.flip_bit(&path, at);
            let (summary, problems) = sim.block_on(node, check());
            disk.flip_bit(&path, at);
            // A record that has been replaced is garbage.
            if problems.is_empty() && path.ends_with(".vlog") {
                assert_eq!(summary.torn_records, 1, "{path} at {at}");
                continue;
            }
            let named = problems.iter().find(|problem| problem.file == path);
            let named = named.unwrap_or_else(|| panic!("{path} at {at}: {problems:?}"));
            assert!(named.offset <= at, "{named}");
            assert!(!named.to_string().is_empty());
            let is_keyed = !named.last_key.is_empty();
            assert!(is_keyed || !path.ends_with(".sst"), "{named}");
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
    let (_, problems) = sim.block_on(node, check());
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn an_acknowledged_block_of_the_log_that_is_damaged_is_named() {
    let (sim, node) = closed(3);
    let disk = sim.disk(node);
    let mut named = 0;
    for (path, _) in disk.files() {
        if path.ends_with(".log") {
            disk.flip_bit(&path, 4096 + 40);
            let (_, problems) = sim.block_on(node, check());
            disk.flip_bit(&path, 4096 + 40);
            named += problems
                .iter()
                .filter(|problem| problem.file == path)
                .count();
        }
    }
    assert!(named > 0);
}

#[test]
fn missing_and_foreign_files_are_told() {
    let (sim, node) = closed(4);
    let disk = sim.disk(node);
    for (path, _) in disk.files() {
        let is_wanted = [".sst", ".000.vlog", "MANIFEST"]
            .iter()
            .any(|end| path.ends_with(end) && !is_empty(&disk, &path));
        let bytes = disk.read(&path).filter(|_| is_wanted);
        let Some(bytes) = bytes else { continue };
        disk.remove(&path);
        let (_, problems) = sim.block_on(node, check());
        let missing = problems
            .iter()
            .any(|problem| problem.file == path && problem.what.contains("missing"));
        // A segment that was begun since the last manifest is known from the pointers alone.
        let referred = problems
            .iter()
            .any(|problem| problem.what.contains("value segment"));
        assert!(
            missing || (path.ends_with(".vlog") && referred),
            "{path}: {problems:?}"
        );
        disk.write(&path, &bytes);
    }
    disk.write(format!("{DIR}/000000000999.sst"), &[0; 4096]);
    disk.write(format!("{DIR}/notes.txt"), &[0; 4096]);
    let (summary, problems) = sim.block_on(node, check());
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(summary.orphans, ["000000000999.sst", "notes.txt"]);
}

#[test]
fn a_shard_in_use_is_left_alone() {
    let (sim, node) = closed(5);
    sim.block_on(node, async {
        let shard = Shard::open(DIR.as_ref(), options()).await.unwrap();
        let refused = RefCell::new(0);
        let checked = check_shard(DIR.as_ref(), None, |_| *refused.borrow_mut() += 1).await;
        let Err(Error::Io(error)) = checked else {
            panic!("{checked:?}");
        };
        assert_eq!(error.kind(), ErrorKind::Locked);
        shard.close().await.unwrap();
    });
}

#[test]
fn the_plan_of_collection_is_told_from_the_manifest() {
    let (sim, node) = closed(6);
    let plan = sim.block_on(node, crate::gc_plan::plan_shard(DIR.as_ref()));
    let plan = plan.unwrap();
    assert_eq!(plan.shard, ShardId(1));
    assert_eq!(plan.checkpointed, Some(LogIndex(429)));
    assert!(plan.report.bytes > 0 && plan.report.segments.len() > 1);
}
