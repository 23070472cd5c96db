//! Memtables out of use, in the Sim world.

use super::snapshot::{pieces, receive, source};
use super::{log_id, open};
use crate::engine::Engine;
use crate::ids::LogIndex;
use crate::key::Space;
use crate::limits::{FREE_PAUSE, FREED_AT_ONCE, RETIRED_MEMTABLES_MAX};
use bytes::Bytes;
use corelith_io::sim::Sim;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const ENTRIES: u64 = 10 * FREED_AT_ONCE as u64;

/// Fills a memtable and has it flushed, as the `nth`.
async fn flush_one(engine: &Engine, nth: u64) {
    for index in nth * ENTRIES + 1..=(nth + 1) * ENTRIES {
        engine.put(
            LogIndex(index),
            &index.to_be_bytes(),
            Bytes::from_static(b"v"),
        );
        engine.set_applied(log_id(index), None);
    }
    engine.checkpoint().await.unwrap();
}

#[test]
fn a_memtable_is_freed_after_its_last_reader_and_in_steps() {
    let sim = Sim::new(4);
    let node = sim.add_node();
    sim.block_on(node, async {
        let engine = open(Path::new("/data/shard"), 1 << 20).await.unwrap();
        let reader = engine.view();
        flush_one(&engine, 0).await;
        let memtable = reader.memtables.first().unwrap();
        corelith_io::sleep(Duration::from_secs(1)).await;
        let key = 1_u64.to_be_bytes();
        let read = memtable.get(Space::User, &key, LogIndex(u64::MAX));
        assert!(read.is_some(), "it is there for its reader");
        assert_eq!(Rc::strong_count(memtable), 2);
        let memtable = Rc::downgrade(memtable);
        drop(reader);
        assert_eq!(memtable.strong_count(), 1, "its reader frees nothing");
        let start = corelith_io::now();
        while engine.inner.reclaim.is_running.get() {
            corelith_io::sleep(FREE_PAUSE).await;
        }
        assert_eq!(memtable.strong_count(), 0);
        assert!(start.elapsed() >= FREE_PAUSE * 10);
        engine.close().await.unwrap();
    });
}

#[test]
fn no_more_than_a_few_memtables_wait_to_be_freed() {
    let sim = Sim::new(5);
    let node = sim.add_node();
    sim.block_on(node, async {
        let engine = open(Path::new("/data/shard"), 1 << 20).await.unwrap();
        let mut waited = 0;
        for nth in 0..20 {
            flush_one(&engine, nth).await;
            let waiting = engine.inner.reclaim.retired.borrow().len();
            // The newest comes in before the others are looked at.
            assert!(waiting <= RETIRED_MEMTABLES_MAX + 1, "{waiting} wait");
            waited = waited.max(waiting);
        }
        assert!(waited > 0, "each was freed before the next came");
        engine.close().await.unwrap();
    });
}

#[test]
fn a_memtable_is_freed_when_a_snapshot_comes_while_it_is_flushed() {
    let sim = Sim::new(6);
    let node = sim.add_node();
    sim.block_on(node, async {
        let source = source(Path::new("/data/source")).await;
        let pieces = pieces(&source).await;
        let engine = open(Path::new("/data/shard"), 1 << 20).await.unwrap();
        let received = receive(&engine, &pieces).await;
        engine.put(LogIndex(1), b"old", Bytes::from_static(b"v"));
        engine.set_applied(log_id(1), None);
        engine.freeze();
        let memtable = {
            let state = engine.inner.state.borrow();
            Rc::downgrade(&state.frozen.front().unwrap().memtable)
        };
        engine.install(received).await.unwrap();
        assert!(engine.inner.state.borrow().frozen.is_empty());
        corelith_io::sleep(Duration::from_secs(1)).await;
        assert_eq!(memtable.strong_count(), 0);
        assert!(!engine.inner.reclaim.is_running.get());
        source.close().await.unwrap();
        engine.close().await.unwrap();
    });
}
