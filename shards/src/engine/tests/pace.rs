//! How fast background work goes, in the Sim world, where time passes for I/O and sleep only.

use super::{log_id, open, settle};
use crate::compaction::WriteMix;
use crate::engine::Engine;
use crate::ids::LogIndex;
use crate::pace::Lane;
use bytes::Bytes;
use corelith_io::sim::Sim;
use std::path::Path;
use std::time::Duration;

const DIR: &str = "/data/shard";

/// Bytes of one of the runs that are merged.
const RUN_BYTES: usize = 1 << 20;
const RUNS: u64 = 5;

/// Bytes per second of compaction beside a client when nothing comes in.
const RATE_MIN: u64 = 32 << 20;
/// And of a flush.
const FLUSH_RATE_MIN: u64 = 16 << 20;

/// A client reads this often.
const CLIENT_PERIOD: Duration = Duration::from_millis(5);

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// Keys of a run.
const KEYS: u64 = RUN_BYTES as u64 / 1024;

/// An engine with a few runs of keys of their own, one beside the other, and told that this is so.
async fn engine_of_runs() -> Engine {
    let engine = open(Path::new(DIR), 64 << 20).await.unwrap();
    let mut mix = WriteMix::default();
    mix.merged(&[1000, 1000], 0);
    engine.inner.mix.set(mix);
    let mut index = 0;
    for run in 0..RUNS {
        for number in 0..KEYS {
            index += 1;
            let value = Bytes::from(vec![index as u8; 1016]);
            engine.put(LogIndex(index), &key(number * RUNS + run), value);
            engine.set_applied(log_id(index), None);
        }
        engine.checkpoint().await.unwrap();
    }
    engine
}

fn runs(engine: &Engine) -> usize {
    engine.view().version.runs().count()
}

fn rate_of(engine: &Engine, lane: Lane) -> Option<u64> {
    let verdict = engine.verdict();
    match lane {
        Lane::Flush => verdict.flush,
        Lane::Compaction => verdict.compaction,
        Lane::Collection => verdict.collection,
    }
}

/// Waits until work of a lane may go at `rate`: what was written before is forgotten, and whether there are
/// clients is known. `busy` does something meanwhile.
async fn wait_rate(engine: &Engine, lane: Lane, rate: Option<u64>, busy: &impl AsyncFn()) {
    let mut seconds = 0;
    while seconds == 0 || rate_of(engine, lane) != rate {
        corelith_io::sleep(Duration::from_secs(1)).await;
        busy().await;
        engine.pace(lane, 0).await;
        seconds += 1;
        assert!(seconds < 100, "it has another rate");
    }
}

/// Has level 0 merged as reads would, once background work may go at `rate`, and returns how long it
/// took; `busy` does something meanwhile.
async fn merge_for_reads(engine: &Engine, rate: Option<u64>, busy: impl AsyncFn()) -> Duration {
    wait_rate(engine, Lane::Compaction, rate, &busy).await;
    assert_eq!(runs(engine) as u64, RUNS);
    let start = corelith_io::now();
    while !engine.inner.searches.add() {}
    engine.inner.background.wake();
    while runs(engine) > 1 {
        let changed = engine.inner.changed.notified();
        let _ = corelith_io::timeout(CLIENT_PERIOD, changed).await;
        busy().await;
    }
    start.elapsed()
}

#[test]
fn a_merge_takes_its_time_beside_reads_and_none_alone() {
    let mut times = Vec::new();
    for is_busy in [true, false] {
        let sim = Sim::new(8);
        let node = sim.add_node();
        times.push(sim.block_on(node, async move {
            let engine = engine_of_runs().await;
            let took = merge_for_reads(&engine, is_busy.then_some(RATE_MIN), async || {
                if is_busy {
                    assert!(engine.get(&key(0)).await.unwrap().is_some());
                }
            })
            .await;
            engine.close().await.unwrap();
            took
        }));
    }
    // What is read and what is written, but for what may be ahead.
    let moved = 2 * RUNS * RUN_BYTES as u64;
    let least = Duration::from_secs_f64(moved as f64 / RATE_MIN as f64 * 0.6);
    assert!(times[0] > least, "{times:?}");
    assert!(times[1] < least / 2, "{times:?}");
}

#[test]
fn reads_that_ask_several_runs_have_them_merged() {
    let sim = Sim::new(9);
    let node = sim.add_node();
    sim.block_on(node, async {
        let engine = engine_of_runs().await;
        settle(&engine).await;
        assert_eq!(runs(&engine) as u64, RUNS);
        let mut reads = 0_u64;
        while runs(&engine) > 1 {
            // In the oldest run.
            let number = reads % KEYS * RUNS;
            assert!(engine.get(&key(number)).await.unwrap().is_some());
            reads += 1;
            assert!(reads < 100_000, "they have paid for it");
        }
        for number in 0..KEYS * RUNS {
            assert!(engine.get(&key(number)).await.unwrap().is_some());
        }
        engine.close().await.unwrap();
    });
}

#[test]
fn a_flush_takes_its_time_beside_reads_and_none_alone() {
    const VALUES: u64 = 2048;
    let mut times = Vec::new();
    for is_busy in [true, false] {
        let sim = Sim::new(10);
        let node = sim.add_node();
        times.push(sim.block_on(node, async move {
            let engine = open(Path::new(DIR), 64 << 20).await.unwrap();
            for index in 1..=VALUES {
                engine.put(LogIndex(index), &key(index), Bytes::from(vec![1; 1016]));
                engine.set_applied(log_id(index), None);
            }
            let busy = async || {
                if is_busy {
                    assert!(engine.get(&key(1)).await.unwrap().is_some());
                }
            };
            let rate = is_busy.then_some(FLUSH_RATE_MIN);
            wait_rate(&engine, Lane::Flush, rate, &busy).await;
            let start = corelith_io::now();
            engine.freeze();
            let flushed = async || {
                let flushed = engine.wait_checkpoint(None);
                corelith_io::timeout(CLIENT_PERIOD, flushed).await.is_ok()
            };
            while !flushed().await {
                busy().await;
            }
            let took = start.elapsed();
            engine.close().await.unwrap();
            took
        }));
    }
    let least = Duration::from_secs_f64(VALUES as f64 * 1024.0 / FLUSH_RATE_MIN as f64 * 0.6);
    assert!(times[0] > least, "{times:?}");
    assert!(times[1] < least / 2, "{times:?}");
}

#[test]
fn writers_that_were_free_are_not_held_up_for_it_when_they_are_slowed() {
    let sim = Sim::new(11);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let engine = open(Path::new(DIR), 1 << 20).await.unwrap();
        let mut index = 0;
        let mut put = |len| {
            index += 1;
            engine.put(LogIndex(index), &key(index), Bytes::from(vec![1; len]));
            engine.set_applied(log_id(index), None);
        };
        for _ in 0..200 {
            assert!(engine.has_room());
            put(1 << 20);
            engine.checkpoint().await.unwrap();
        }
        disk.stall(Duration::from_secs(1));
        while engine.has_room() {
            put(64 << 10);
        }
        let start = corelith_io::now();
        engine.wait_for_room().await.unwrap();
        assert!(
            start.elapsed() < Duration::from_millis(10),
            "{:?}",
            start.elapsed()
        );
        engine.close().await.unwrap();
    });
}
