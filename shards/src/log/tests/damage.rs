//! Damage to the newest entries, over the value log of a shard: what was damaged soon after its write is told
//! from what was never written.

use super::crash::seed_count;
use super::{HEAD, entry, id, options, with_value};
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::ids::FileSeries;
use crate::ids::{LogId, LogIndex, Owner, ShardId, ValueSegmentId};
use crate::log::{Log, Values};
use crate::vlog::{ValueLog, ValueLogOptions};
use crate::wal::Entry;
use corelith_io::sim::{Sim, SimNode};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/data/shard";
const VALUES: &str = "/data/shard/000000000001.000.vlog";
/// Long enough to span pages, sectors and blocks.
const LEN: usize = HEAD + 70_000;

fn owner() -> Owner {
    Owner {
        store_id: options().store_id,
        shard: ShardId(3),
    }
}

async fn open_both() -> Result<(Log, ValueLog)> {
    corelith_io::create_dir_all(Path::new(DIR)).await?;
    let dir = Directory::from(Path::new(DIR));
    let value_options = ValueLogOptions {
        segment_bytes: 1 << 20,
        series: FileSeries::of(owner()),
    };
    let first = ValueSegmentId(1);
    let (values, _) = ValueLog::open(&dir, owner(), value_options, Vec::new(), first).await?;
    let held = Values::On(values.clone());
    let (log, _) = Log::open(&dir, options(), None, held).await?;
    Ok((log, values))
}

/// An entry with a separated value in which no sector is zero.
fn long(index: u64) -> Entry {
    with_value(entry(1, index, LEN))
}

/// Appends entries with values, each when the one before is acknowledged, waits for `idle` and kills the
/// process.
fn acknowledge(sim: &Sim, node: SimNode, indexes: &[u64], idle: Duration) {
    let entries: Vec<_> = indexes.iter().map(|index| long(*index)).collect();
    sim.block_on(node, async move {
        let (log, _values) = open_both().await.unwrap();
        for entry in entries {
            log.append(vec![entry], |durable| durable.unwrap());
            log.flush().await.unwrap();
        }
        corelith_io::sleep(idle).await;
    });
    sim.kill(node);
}

/// Opens the log, and reads all of it.
fn reopen(sim: &Sim, node: SimNode) -> (Option<LogId>, Result<()>) {
    let outcome = sim.block_on(node, async {
        let (log, _values) = match open_both().await {
            Ok(opened) => opened,
            Err(error) => return (None, Err(error)),
        };
        let read = log.read(LogIndex(0), LogIndex(u64::MAX), u64::MAX).await;
        (log.range().last, read.map(|_| ()))
    });
    sim.kill(node);
    outcome
}

/// Where the last record begins, and its length.
fn record(sim: &Sim, node: SimNode) -> (u64, u64) {
    let file = sim.disk(node).read(VALUES).unwrap();
    let mut heads = file.windows(4).enumerate();
    let at = heads.rfind(|(_, bytes)| *bytes == b"CLVR").unwrap().0 as u64 - 4;
    let record_len = 48 + 8 + 2 * 4 + (LEN - HEAD) as u64;
    (at, record_len)
}

fn assert_names_values(outcome: &(Option<LogId>, Result<()>), what: &str) {
    match outcome {
        (_, Err(Error::Corrupt { file, .. })) => assert!(file.ends_with(".vlog"), "{what}: {file}"),
        other => panic!("{what}: {other:?}"),
    }
}

fn assert_refused(outcome: &(Option<LogId>, Result<()>), what: &str) {
    assert_names_values(outcome, what);
    assert_eq!(outcome.0, None, "{what}: the log opened");
}

/// The newest entry has no block behind it that says that it was acknowledged; its value says so.
#[test]
fn a_value_damaged_right_after_its_write_is_no_torn_tail() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    acknowledge(&sim, node, &[0, 1], Duration::ZERO);
    assert_eq!(reopen(&sim, node).0, Some(id(1, 1)));
    let sim = Sim::new(2);
    let node = sim.add_node();
    acknowledge(&sim, node, &[0, 1], Duration::ZERO);
    let (start, len) = record(&sim, node);
    let image = sim.disk(node).image();
    for at in [
        0,
        5,
        20,
        40,
        50,
        57,
        63,
        64,
        70,
        600,
        4096,
        65_000,
        66_000,
        len - 1,
    ] {
        sim.disk(node).flip_bit(VALUES, start + at);
        assert_refused(&reopen(&sim, node), &format!("at {at}"));
        // It is told at every start, not at the first one alone.
        assert_refused(&reopen(&sim, node), &format!("at {at}, again"));
        sim.disk(node).restore(&image);
    }
}

/// Sectors of the newest value that are zero were perhaps never written.
#[test]
fn a_value_of_which_sectors_are_missing_is_torn() {
    let sim = Sim::new(3);
    let node = sim.add_node();
    acknowledge(&sim, node, &[0, 1], Duration::ZERO);
    let (start, len) = record(&sim, node);
    let image = sim.disk(node).image();
    let first = start.next_multiple_of(512);
    for sector in [
        first,
        first + 512,
        first + 66 * 1024,
        start + len - (start + len) % 512,
    ] {
        for at in sector..sector + 512 {
            sim.disk(node).corrupt(VALUES, at, |_| 0);
        }
        let (last, read) = reopen(&sim, node);
        assert_eq!(last, Some(id(1, 0)), "{sector}: {read:?}");
        read.unwrap();
        sim.disk(node).restore(&image);
    }
}

/// Where entries that were flushed have values in a segment, the segment was there.
#[test]
fn a_missing_value_segment_is_no_torn_tail() {
    let sim = Sim::new(4);
    let node = sim.add_node();
    acknowledge(&sim, node, &[0, 1, 2], Duration::ZERO);
    sim.disk(node).remove(VALUES);
    assert_refused(&reopen(&sim, node), "right after the write");
}

/// A moment after the last write a block of the log says that everything before it was acknowledged.
#[test]
fn damage_a_moment_after_the_last_write_is_no_torn_tail() {
    let moment = Duration::from_millis(100);
    let sim = Sim::new(5);
    let node = sim.add_node();
    acknowledge(&sim, node, &[0], moment);
    let image = sim.disk(node).image();
    let (start, _) = record(&sim, node);
    for at in start + 1024..start + 2048 {
        sim.disk(node).corrupt(VALUES, at, |_| 0);
    }
    let damaged = reopen(&sim, node);
    assert_eq!(damaged.0, Some(id(1, 0)));
    assert_names_values(&damaged, "zeros");
    sim.disk(node).restore(&image);
    sim.disk(node).remove(VALUES);
    assert_refused(&reopen(&sim, node), "missing");
    sim.disk(node).restore(&image);

    // The same of the block of the entry.
    let logs = sim.disk(node).files().into_iter().map(|(path, _)| path);
    let path = logs.filter(|path| path.ends_with(".log")).min().unwrap();
    let file = sim.disk(node).read(&path).unwrap();
    let head = entry(1, 0, LEN).body.slice(..HEAD);
    let at = file.windows(HEAD).position(|part| part == head).unwrap();
    sim.disk(node).flip_bit(&path, at as u64);
    match reopen(&sim, node) {
        (None, Err(Error::Corrupt { file, .. })) => assert_eq!(file, path),
        other => panic!("{other:?}"),
    }
}

/// What a power cut tore is never taken for damage, nor is anything acknowledged lost, however often recoveries are
/// cut off too.
#[test]
fn what_a_power_cut_tears_is_no_damage() {
    let mut torn = 0;
    for seed in 0..50 * seed_count() {
        torn += tear(seed);
    }
    assert!(torn > 10, "{torn} values torn test little");
}

/// Appends entries with values of many lengths in bursts, cuts the power among them, and opens the log again. Returns
/// how many entries were dropped.
fn tear(seed: u64) -> u64 {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let (acknowledged, appended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (told, done) = (Rc::clone(&acknowledged), Rc::clone(&appended));
    sim.crash_at_io(node, 8 + sim.random_below(60));
    sim.start(node, 0, move || async move {
        let (log, _values) = open_both().await.unwrap();
        for index in 0..200 {
            let len = match corelith_io::random_u64() % 4 {
                0 => corelith_io::random_u64() % 200_000,
                _ => corelith_io::random_u64() % 9000,
            };
            let count = Rc::clone(&told);
            let entry = with_value(entry(1, index, len as usize));
            log.append(vec![entry], move |durable| {
                durable.unwrap();
                count.set(index + 1);
            });
            done.set(index + 1);
            if corelith_io::random_u64().is_multiple_of(4) {
                log.flush().await.unwrap();
            }
        }
    });
    assert!(sim.run_until(|| !sim.is_up(node), Duration::from_secs(60)));
    for _ in 0..sim.random_below(3) {
        sim.crash_at_io(node, 1 + sim.random_below(12));
        sim.start(node, 0, || async {
            let _opened = open_both().await.unwrap();
            std::future::pending::<()>().await;
        });
        sim.run_until(|| !sim.is_up(node), Duration::from_secs(5));
        sim.crash(node);
    }
    let (last, read) = reopen(&sim, node);
    read.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let held = last.map_or(0, |id| id.index.0 + 1);
    assert!(held >= acknowledged.get(), "seed {seed}: {held} are left");
    appended.get() - held
}
