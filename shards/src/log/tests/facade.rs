//! What only both logs together show.

use super::{check_heads, entry, id, open, with_value, without_place};
use crate::error::{Error, Result};
use crate::ids::{LogId, LogIndex};
use crate::limits;
use crate::log::Log;
use crate::wal::Entry;
use bytes::Bytes;
use corelith_io::sim::{IoKind, Sim, SimNode};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/data/shard";
/// Far longer than a write takes, and too short for the log to become idle.
const MOMENT: Duration = Duration::from_millis(50);

/// A long value, which is separated.
fn long(term: u64, index: u64) -> Entry {
    with_value(entry(term, index, 5000))
}

/// What the callbacks of appends were told.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<Result<()>>>>);

impl Told {
    fn append(&self, log: &Log, entries: Vec<Entry>) {
        let told = Rc::clone(&self.0);
        log.append(entries, move |result| told.borrow_mut().push(result));
    }

    fn count(&self) -> usize {
        let told = self.0.borrow();
        assert!(told.iter().all(Result::is_ok));
        told.len()
    }
}

async fn read_all(log: &Log) -> Result<Vec<Entry>> {
    let all = log.read(LogIndex(0), LogIndex(u64::MAX), u64::MAX).await?;
    Ok(all.into_iter().map(without_place).collect())
}

/// Opens the log after a crash and checks that its last entries are these and `cut` tells whether
/// blocks were dropped; then goes on with it, and opens it once more.
fn reopen(sim: &Sim, node: SimNode, last: LogId, is_cut: bool) {
    let next = last.index.0 + 1;
    let check = move |all: &[Entry], last: LogId| {
        assert_eq!(all.last().unwrap().id, last);
        for found in all {
            let (term, index) = (found.id.term.0, found.id.index.0);
            assert_eq!(*found, entry(term, index, found.body.len()));
        }
    };
    sim.block_on(node, async move {
        let (log, _, found) = open(Path::new(DIR)).await.unwrap();
        assert_eq!(found.blocks_cut > 0, is_cut, "{found:?}");
        let all = read_all(&log).await.unwrap();
        check(&all, last);
        check_heads(&log, &all).await;
        log.append(vec![long(9, next)], |result| result.unwrap());
        log.flush().await.unwrap();
    });
    sim.kill(node);
    sim.block_on(node, async move {
        let (log, _, found) = open(Path::new(DIR)).await.unwrap();
        assert_eq!(found.blocks_cut, 0);
        check(&read_all(&log).await.unwrap(), id(9, next));
        log.close().await.unwrap();
    });
}

#[test]
fn an_entry_is_acknowledged_with_its_value() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let (log, values, _) = open(Path::new(DIR)).await.unwrap();
        let told = Told::default();
        values.hold_writes(true);
        told.append(&log, vec![entry(1, 0, 100)]);
        corelith_io::sleep(MOMENT).await;
        assert_eq!(told.count(), 1);
        told.append(&log, vec![long(1, 1)]);
        // What comes after it waits with it.
        told.append(&log, vec![entry(1, 2, 100)]);
        corelith_io::sleep(MOMENT).await;
        assert_eq!(told.count(), 1);
        assert_eq!(log.purged_durable(), None);
        assert_eq!(read_all(&log).await.unwrap().len(), 3);
        values.hold_writes(false);
        log.flush().await.unwrap();
        assert_eq!(told.count(), 3);
        log.close().await.unwrap();
    });
}

/// Values are held back from the first one after entry 4 on, and the process ends.
fn end_with_values_missing(sim: &Sim, node: SimNode, power_cut: bool) {
    sim.block_on(node, async {
        let (log, values, _) = open(Path::new(DIR)).await.unwrap();
        let told = Told::default();
        for index in 0..5 {
            told.append(&log, vec![long(1, index)]);
        }
        log.flush().await.unwrap();
        values.hold_writes(true);
        for entry in [long(1, 5), entry(1, 6, 100), long(1, 7)] {
            told.append(&log, vec![entry]);
            corelith_io::sleep(MOMENT).await;
        }
        assert_eq!(told.count(), 5);
    });
    match power_cut {
        true => sim.crash(node),
        false => sim.kill(node),
    }
}

#[test]
fn a_log_ends_before_the_first_value_that_is_missing() {
    for power_cut in [false, true] {
        let sim = Sim::new(2);
        let node = sim.add_node();
        end_with_values_missing(&sim, node, power_cut);
        reopen(&sim, node, id(1, 4), true);
    }
}

#[test]
fn a_crash_at_every_io_of_such_a_recovery_changes_nothing() {
    let recover = |at: Option<u64>| {
        let sim = Sim::new(3);
        let node = sim.add_node();
        end_with_values_missing(&sim, node, true);
        let before = sim.io_count(node);
        if let Some(at) = at {
            sim.crash_at_io(node, at);
        }
        sim.start(node, 0, || async {
            drop(open(Path::new(DIR)).await.unwrap());
        });
        sim.run_for(Duration::from_millis(500));
        let ios = sim.io_count(node) - before;
        sim.crash(node);
        sim.block_on(node, async {
            let (log, ..) = open(Path::new(DIR)).await.unwrap();
            assert_eq!(log.range().last, Some(id(1, 4)));
            assert_eq!(read_all(&log).await.unwrap().len(), 5);
        });
        ios
    };
    let ios = recover(None);
    assert!(ios > 10, "{ios}");
    for at in 1..=ios {
        recover(Some(at));
    }
}

/// What stands before the end that a missing value makes may have been undone after it.
#[test]
fn the_values_of_entries_that_a_cut_brings_back_are_looked_at() {
    for (first_are_whole, last) in [(true, id(1, 6)), (false, id(1, 4))] {
        let sim = Sim::new(4);
        let node = sim.add_node();
        sim.block_on(node, async move {
            let (log, values, _) = open(Path::new(DIR)).await.unwrap();
            for index in 0..5 {
                log.append(vec![long(1, index)], |result| result.unwrap());
            }
            log.flush().await.unwrap();
            values.hold_writes(!first_are_whole);
            log.append(vec![long(1, 5), long(1, 6)], |_| ());
            corelith_io::sleep(MOMENT).await;
            values.hold_writes(true);
            log.truncate_after(Some(id(1, 4))).await.unwrap();
            log.append(vec![long(2, 5)], |_| panic!("acknowledged"));
            corelith_io::sleep(MOMENT).await;
        });
        sim.kill(node);
        reopen(&sim, node, last, true);
    }
}

/// The blocks that a cut drops are intact and continue the chain. They are not taken for those written
/// in their place, if the segment that holds these is damaged.
#[test]
fn what_a_cut_drops_does_not_come_back() {
    for blocks in 1..16 {
        let sim = Sim::new(12);
        let node = sim.add_node();
        sim.block_on(node, async move {
            let (log, values, _) = open(Path::new(DIR)).await.unwrap();
            for index in 0..blocks {
                log.append(vec![entry(1, index, 100)], |result| result.unwrap());
                log.flush().await.unwrap();
            }
            values.hold_writes(true);
            log.append(vec![long(1, blocks)], |_| panic!("acknowledged"));
            for index in blocks + 1..blocks + 8 {
                log.append(vec![entry(1, index, 100)], |_| panic!("acknowledged"));
                corelith_io::sleep(MOMENT / 50).await;
            }
        });
        sim.kill(node);
        sim.block_on(node, async move {
            let (log, _, found) = open(Path::new(DIR)).await.unwrap();
            assert!(found.blocks_cut > 0, "{found:?}");
            assert_eq!(log.range().last, Some(id(1, blocks - 1)));
            log.append(vec![entry(2, blocks, 100)], |result| result.unwrap());
            log.flush().await.unwrap();
        });
        sim.crash(node);
        let mut segments = sim.disk(node).files();
        segments.retain(|(path, _)| {
            let bytes = sim.disk(node).read(path).unwrap();
            path.ends_with(".log") && bytes[0] != 0
        });
        let (path, _) = segments.iter().max().unwrap();
        sim.disk(node).flip_bit(path, 8);
        let outcome = sim.block_on(node, async { open(Path::new(DIR)).await.map(drop) });
        assert!(
            matches!(outcome, Err(Error::Corrupt { .. })),
            "{blocks} blocks: {outcome:?}"
        );
    }
}

/// A truncated entry's value does not matter.
#[test]
fn the_value_of_a_truncated_entry_may_be_missing() {
    let sim = Sim::new(5);
    let node = sim.add_node();
    sim.block_on(node, async {
        let (log, values, _) = open(Path::new(DIR)).await.unwrap();
        log.append(vec![entry(1, 0, 10)], |result| result.unwrap());
        log.flush().await.unwrap();
        values.hold_writes(true);
        log.append(vec![long(1, 1)], |_| panic!("acknowledged"));
        log.truncate_after(Some(id(1, 0))).await.unwrap();
        log.append(vec![entry(2, 1, 10)], |_| panic!("acknowledged"));
        corelith_io::sleep(MOMENT).await;
    });
    sim.kill(node);
    reopen(&sim, node, id(2, 1), false);
}

/// Values of purged entries are given up as soon as the purge is durable, whether a block says that
/// the entries' blocks are flushed or not.
#[test]
fn the_values_of_purged_entries_may_be_gone() {
    let sim = Sim::new(6);
    let node = sim.add_node();
    sim.block_on(node, async {
        let (log, values, _) = open(Path::new(DIR)).await.unwrap();
        let told = Told::default();
        told.append(&log, (0..10).map(|index| long(1, index)).collect());
        // The purge's block goes out before the entries' block is durable.
        corelith_io::yield_now().await;
        log.purge(id(1, 7)).await.unwrap();
        values.collect(log.purged_durable()).await;
        log.flush().await.unwrap();
        assert_eq!(told.count(), 1);
        assert_eq!(log.purged_durable(), Some(LogIndex(7)));
        values.collect(log.purged_durable()).await;
    });
    assert!(sim.disk(node).read("/data/shard/values/1").is_none());
    sim.kill(node);
    reopen(&sim, node, id(1, 9), false);
}

#[test]
fn a_read_that_a_purge_overtakes_ends_there() {
    let sim = Sim::new(7);
    let node = sim.add_node();
    sim.block_on(node, async {
        let (log, values, _) = open(Path::new(DIR)).await.unwrap();
        log.append((0..20).map(|index| long(1, index)).collect(), |result| {
            result.unwrap();
        });
        log.flush().await.unwrap();
        values.hold_reads(true);
        let reader = log.clone();
        let reading =
            corelith_io::spawn(
                async move { reader.read(LogIndex(0), LogIndex(20), u64::MAX).await },
            );
        corelith_io::sleep(MOMENT).await;
        log.purge(id(1, 7)).await.unwrap();
        log.flush().await.unwrap();
        values.collect(log.purged_durable()).await;
        values.hold_reads(false);
        assert_eq!(reading.await.unwrap().unwrap(), []);
        assert_eq!(read_all(&log).await.unwrap().len(), 12);
        log.close().await.unwrap();
    });
}

#[test]
fn a_value_that_cannot_be_written_fences_the_log() {
    let sim = Sim::new(8);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let (log, ..) = open(Path::new(DIR)).await.unwrap();
        log.append(vec![long(1, 0)], |result| result.unwrap());
        log.flush().await.unwrap();
        disk.fail(IoKind::Write, "/data/shard/values", 0);
        let told = Told::default();
        told.append(&log, vec![long(1, 1)]);
        told.append(&log, vec![entry(1, 2, 10)]);
        assert!(matches!(log.flush().await, Err(Error::Fenced(_))));
        told.append(&log, vec![entry(1, 3, 10)]);
        let told = told.0.take();
        let fenced = |result: &Result<()>| matches!(result, Err(Error::Fenced(_)));
        assert!(told.len() == 3 && told.iter().all(fenced), "{told:?}");
        assert!(log.wait_for_room().await.is_err());
        assert!(log.close().await.is_err());
    });
    sim.crash(node);
    sim.disk(node).heal();
    sim.block_on(node, async {
        let (log, ..) = open(Path::new(DIR)).await.unwrap();
        // What a failed write has left on the device is not known.
        let all = read_all(&log).await.unwrap();
        assert_eq!(all[0], entry(1, 0, 5000));
        log.close().await.unwrap();
    });
}

/// Damage to an acknowledged value is no end of the log.
#[test]
fn a_damaged_value_is_not_served_and_cuts_nothing() {
    let sim = Sim::new(9);
    let node = sim.add_node();
    sim.block_on(node, async {
        let (log, ..) = open(Path::new(DIR)).await.unwrap();
        for index in 0..4 {
            log.append(vec![long(1, index)], |result| result.unwrap());
        }
        log.close().await.unwrap();
    });
    sim.disk(node).flip_bit("/data/shard/values/1", 8192 + 900);
    sim.block_on(node, async {
        let (log, _, found) = open(Path::new(DIR)).await.unwrap();
        assert_eq!(found.blocks_cut, 0);
        assert_eq!(log.range().last, Some(id(1, 3)));
        let (all, end) = (LogIndex(0), LogIndex(9));
        let damaged = log.read(all, end, u64::MAX).await;
        assert!(matches!(damaged, Err(Error::Corrupt { .. })), "{damaged:?}");
        assert_eq!(log.read_heads(all, end, u64::MAX).await.unwrap().len(), 4);
        let rest = log.read(LogIndex(2), end, u64::MAX).await.unwrap();
        assert_eq!(rest.len(), 2);
        log.close().await.unwrap();
    });
}

#[test]
fn what_is_separated_and_what_counts() {
    let sim = Sim::new(10);
    let node = sim.add_node();
    sim.block_on(node, async {
        let (log, values, _) = open(Path::new(DIR)).await.unwrap();
        let too_long = with_value(entry(1, 0, limits::LOG_ENTRY_BYTES_MAX + 1));
        log.append(vec![long(1, 0), too_long], |result| {
            assert!(matches!(result, Err(Error::TooLarge { .. })));
        });
        assert_eq!((values.staged(), log.range().last), (0, None));
        // (entry, whether it is separated): below and at the threshold, and without a value.
        let cases = [
            (with_value(entry(1, 0, 319)), false),
            (with_value(entry(1, 1, 320)), true),
            (entry(1, 2, 5000), false),
            (long(1, 3), true),
        ];
        for (entry, is_separated) in cases {
            let index = entry.id.index;
            let value = entry.value;
            log.append(vec![entry], |result| result.unwrap());
            let next = LogIndex(index.0 + 1);
            let appended = log.read(index, next, 0).await.unwrap().remove(0);
            let expected = value.filter(|_| is_separated);
            assert_eq!(appended.value, expected);
            assert_eq!(appended.place.is_some(), is_separated);
        }
        log.flush().await.unwrap();
        log.close().await.unwrap();
    });
    // From memory and from disk: bytes of values count for those who want them.
    sim.block_on(node, async {
        let (log, ..) = open(Path::new(DIR)).await.unwrap();
        for round in 0..2 {
            let from = 3 + round * 4;
            let entries: Vec<_> = (4..8).map(|index| long(1, index)).collect();
            if round == 1 {
                log.append(entries, |result| result.unwrap());
            }
            let (from, end) = (LogIndex(from.min(4)), LogIndex(9));
            let whole = log.read(from, end, 4999).await.unwrap();
            assert_eq!(whole.len(), 1);
            assert!(whole[0].is_whole());
            let heads = log.read_heads(from, end, 4999).await.unwrap();
            assert_eq!(heads.len(), if round == 0 { 1 } else { 4 });
            assert!(heads.iter().all(|head| head.body.len() == 20));
        }
        log.close().await.unwrap();
    });
}

#[test]
#[should_panic(expected = "in a body of 50 bytes")]
fn a_value_part_that_does_not_fit_is_a_bug() {
    let sim = Sim::new(11);
    let node = sim.add_node();
    sim.block_on(node, async {
        let (log, ..) = open(Path::new(DIR)).await.unwrap();
        let mut wrong = long(1, 0);
        wrong.body = Bytes::from(vec![0; 50]);
        log.append(vec![wrong], |_| ());
    });
}
