mod capacity;
mod crash;
mod damage;
mod faults;
mod large;
mod model;
mod planted;
mod quiet;
mod race;
mod replica;

use super::*;
use crate::engine::tests::crash::{apply, check, seeds};
use crate::engine::tests::{log_id, settle};
use crate::ids::{LogIndex, ReplicaId, Term};
use crate::wal::{Entry, Vote};
use bytes::Bytes;
use corelith_io::sim::Sim;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

#[test]
fn a_log_that_does_not_fit_its_checkpoint_is_noticed() {
    let id = |term, index| {
        Some(LogId {
            term: Term(term),
            node: ReplicaId(1),
            index: LogIndex(index),
        })
    };
    let five = id(1, 5).unwrap();
    let beyond = Fit::Damaged("the log was purged beyond the checkpoint");
    let short = Fit::Damaged("the log ends before the checkpoint");
    let other = Fit::Damaged("the log holds another entry at the checkpoint");
    // (checkpoint, installed, purged, last, entry at the checkpoint, decision)
    let cases = [
        (None, None, None, None, None, Fit::Whole),
        (None, None, None, id(1, 9), None, Fit::Whole),
        (None, None, id(1, 2), id(1, 9), None, beyond),
        (id(1, 5), None, None, id(1, 9), id(1, 5), Fit::Whole),
        (id(1, 5), None, id(1, 5), id(1, 5), None, Fit::Whole),
        (id(1, 5), None, id(1, 5), id(1, 9), None, Fit::Whole),
        (id(1, 5), None, id(1, 6), id(1, 9), None, beyond),
        (id(1, 5), None, None, id(1, 4), None, short),
        (id(1, 5), id(1, 3), None, id(1, 4), None, short),
        (id(1, 5), id(1, 5), None, id(1, 4), None, Fit::PurgeTo(five)),
        (id(1, 5), id(1, 5), None, None, None, Fit::PurgeTo(five)),
        (id(1, 5), None, None, id(2, 9), id(2, 5), other),
        (
            id(1, 5),
            id(1, 5),
            None,
            id(2, 9),
            id(2, 5),
            Fit::Discard(five),
        ),
        (id(1, 5), id(1, 5), None, id(1, 9), id(1, 5), Fit::Whole),
    ];
    for (checkpoint, installed, purged, last, at, decision) in cases {
        assert_eq!(fit(checkpoint, installed, purged, last, at), decision);
    }
}

/// Entries of the scripted run.
const LAST: u64 = 60;

fn options() -> ShardOptions {
    ShardOptions {
        memtable_bytes: 4 << 10,
        segment_bytes: 64 << 10,
        ..ShardOptions::new(7, ShardId(1))
    }
}

fn shard_dir() -> PathBuf {
    PathBuf::from("/data/shard-1")
}

fn entry(index: u64) -> Entry {
    let len = usize::try_from(index * 37 % 3000).unwrap();
    Entry::new(log_id(index), 2, Bytes::from(vec![index as u8; len]))
}

/// What the surroundings of a replica have been told.
#[derive(Default)]
struct Told {
    /// Entries acknowledged as durable.
    durable: Cell<u64>,
    checkpointed: Cell<u64>,
    voted: Cell<u64>,
    done: Cell<bool>,
}

/// Applies what the log holds beyond the checkpoint; returns the last index.
async fn replay(shard: &Shard) -> Result<u64, String> {
    let text = |error: Error| error.to_string();
    let applied = shard.engine.applied().0.map_or(0, |id| id.index.0);
    let last = shard.log.range().last.map_or(0, |id| id.index.0);
    let (from, to) = (LogIndex(applied + 1), LogIndex(last + 1));
    let entries = shard.log.read(from, to, u64::MAX).await.map_err(text)?;
    if entries.len() as u64 != last.saturating_sub(applied) {
        return Err(format!("entries {from} to {last}: {} read", entries.len()));
    }
    for (index, found) in (applied + 1..).zip(entries) {
        if found != entry(index) {
            return Err(format!("entry {index} is another"));
        }
        shard.engine.wait_for_room().await.map_err(text)?;
        apply(&shard.engine, index);
    }
    Ok(last.max(applied))
}

/// A replica's life: entries appended several at a time, applied, checkpointed, purged.
async fn run(told: &Rc<Told>, from: u64, to: u64, shard: &Shard) -> Result<(), Error> {
    let Shard { log, engine } = shard;
    for index in from..=to {
        log.wait_for_room().await?;
        let acknowledged = Rc::clone(told);
        log.append(vec![entry(index)], move |result| {
            if result.is_ok() {
                acknowledged.durable.set(index);
            }
        });
        if index.is_multiple_of(13) {
            let (term, node) = (Term(index), ReplicaId(1));
            let committed = false;
            log.save_vote(Vote {
                term,
                node,
                committed,
            })
            .await?;
            told.voted.set(index);
        }
        // Followers apply what is committed, durable here or not.
        engine.wait_for_room().await?;
        apply(engine, index);
        log.note_committed(log_id(index));
        if index.is_multiple_of(5) {
            log.flush().await?;
        }
        if index.is_multiple_of(16) {
            engine.checkpoint().await?;
            let checkpoint = engine.checkpointed().unwrap();
            told.checkpointed.set(checkpoint.index.0);
            log.purge(log_id(checkpoint.index.0 - 3)).await?;
        }
    }
    Ok(())
}

async fn whole_life(told: Rc<Told>) -> Result<(), Error> {
    let shard = Shard::open(&shard_dir(), options()).await?;
    run(&told, 1, LAST / 2, &shard).await?;
    shard.close().await?;
    let shard = Shard::open(&shard_dir(), options()).await?;
    let next = replay(&shard).await.unwrap() + 1;
    run(&told, next, LAST, &shard).await?;
    shard.close().await?;
    told.done.set(true);
    Ok(())
}

/// Opens what a crash has left and holds it against what was told; then lives to the end.
async fn recover(told: Rc<Told>) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let shard = Shard::open(&shard_dir(), options()).await.map_err(text)?;
    let applied = check(&shard.engine).await?;
    if applied < told.checkpointed.get() {
        return Err(format!("the checkpoint fell back to {applied}"));
    }
    let voted = shard.log.vote().map_or(0, |vote| vote.term.0);
    if voted < told.voted.get() {
        return Err(format!("the vote fell back to {voted}"));
    }
    let last = replay(&shard).await?;
    if last < told.durable.get() {
        return Err(format!("only {last} entries of {}", told.durable.get()));
    }
    check(&shard.engine).await?;
    run(&told, last + 1, LAST, &shard).await.map_err(text)?;
    shard.close().await.map_err(text)?;
    let shard = Shard::open(&shard_dir(), options()).await.map_err(text)?;
    match check(&shard.engine).await? {
        LAST => Ok(()),
        at => Err(format!("closed at {LAST}, opened at {at}")),
    }
}

/// Crashes at the `n`-th I/O; returns whether there was a crash, and what was found wrong.
fn crash_run(seed: u64, n: u64) -> (bool, Result<(), String>) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let told = Rc::new(Told::default());
    let failure = Rc::new(RefCell::new(None));
    sim.crash_at_io(node, n);
    {
        let (told, failure) = (Rc::clone(&told), Rc::clone(&failure));
        sim.start(node, 0, move || async move {
            *failure.borrow_mut() = whole_life(told).await.err();
        });
    }
    let ended = || !sim.is_up(node) || told.done.get() || failure.borrow().is_some();
    assert!(
        sim.run_until(ended, Duration::from_secs(100)),
        "seed {seed}, I/O {n}"
    );
    if let Some(error) = failure.take() {
        return (false, Err(format!("the run failed: {error}")));
    }
    if told.done.get() {
        return (false, Ok(()));
    }
    (true, sim.block_on(node, recover(told)))
}

#[test]
fn a_crash_at_any_io_loses_nothing_acknowledged() {
    for seed in seeds() {
        let mut wrong = Vec::new();
        for n in 1.. {
            let (crashed, result) = crash_run(seed * 10_000 + n, n);
            if let Err(error) = result {
                wrong.push(format!("seed {seed}, I/O {n}: {error}"));
            }
            if !crashed {
                assert!(n > 100, "{n}");
                break;
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
    }
}

#[test]
fn a_lost_log_is_never_taken_for_an_empty_one() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let shard = Shard::open(&shard_dir(), options()).await.unwrap();
        run(&Rc::default(), 1, 40, &shard).await.unwrap();
        shard.close().await.unwrap();
    });
    let files = sim.disk(node).files();
    for (path, _) in files.iter().filter(|(path, _)| path.ends_with(".log")) {
        sim.disk(node).remove(path);
    }
    sim.block_on(node, async {
        for _ in 0..2 {
            let opened = Shard::open(&shard_dir(), options()).await;
            assert!(opened.err().unwrap().is_corrupt());
        }
    });
}

/// Nothing but the purge makes a value garbage that the log may ask for, and no flush follows it.
#[test]
fn a_purge_alone_lets_garbage_go() {
    use replica::{Config, Ledger, Replica, Write};
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let ledger = Ledger::new();
        let opened = Replica::open(&shard_dir(), &Config::default(), &ledger).await;
        let replica = opened.unwrap();
        for number in 0..60 {
            let key = format!("{}", number % 4).into_bytes();
            let len = Some(5000);
            replica.write(vec![Write { key, len }]).await.unwrap();
        }
        replica.checkpoint().await.unwrap();
        settle(&replica.shard.engine).await;
        assert_eq!(replica.shard.engine.statistics().dropped_segments, 0);
        replica.purge(0).await.unwrap();
        replica.shard.log.flush().await.unwrap();
        settle(&replica.shard.engine).await;
        assert!(replica.shard.engine.statistics().dropped_segments > 2);
        replica.check().await.unwrap();
        replica.close().await.unwrap();
    });
}
