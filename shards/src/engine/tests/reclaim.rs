//! Memtables out of use, in the Sim world.

use super::snapshot::{pieces, receive, source};
use super::{log_id, open};
use crate::engine::Engine;
use crate::ids::LogIndex;
use crate::key::Space;
use crate::limits::{FREE_PAUSE, FREED_AT_ONCE, RETIRED_MEMTABLES_MAX};
use bytes::Bytes;
use corelith_io::sim::{Sim, SimNode};
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const ENTRIES: u64 = 10 * FREED_AT_ONCE as u64;

/// Far more than any of this takes.
const LIMIT: Duration = Duration::from_secs(60);

/// An engine on a simulated node.
struct World {
    sim: Sim,
    node: SimNode,
    engine: Engine,
}

impl World {
    fn new(seed: u64) -> Self {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let opened = sim.block_on(node, open(Path::new("/data/shard"), 1 << 20));
        Self {
            sim,
            node,
            engine: opened.unwrap(),
        }
    }

    fn run<F: Future + 'static>(&self, work: impl FnOnce(Engine) -> F) -> F::Output
    where
        F::Output: 'static,
    {
        self.sim.block_on(self.node, work(self.engine.clone()))
    }

    /// Waits until all memtables out of use are freed.
    fn wait_freed(&self) {
        let reclaim = &self.engine.inner.reclaim;
        let is_freed = self.sim.run_until(|| !reclaim.is_running.get(), LIMIT);
        assert!(is_freed, "not in {LIMIT:?}");
    }

    fn close(self) {
        let engine = self.engine;
        self.sim
            .block_on(self.node, async move { engine.close().await.unwrap() });
    }
}

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
    let world = World::new(4);
    let reader = world.run(|engine| async move {
        let reader = engine.view();
        flush_one(&engine, 0).await;
        reader
    });
    let memtable = reader.memtables.first().unwrap();
    let reclaim = &world.engine.inner.reclaim;
    assert!(reclaim.take_unused(0).is_none(), "it has a reader");
    let key = 1_u64.to_be_bytes();
    let read = memtable.get(Space::User, &key, LogIndex(u64::MAX));
    assert!(read.is_some(), "it is there for its reader");
    let memtable = Rc::downgrade(memtable);
    drop(reader);
    assert_eq!(memtable.strong_count(), 1, "its reader frees nothing");
    let start = world.sim.now();
    world.wait_freed();
    assert_eq!(memtable.strong_count(), 0);
    assert!(world.sim.now() - start >= FREE_PAUSE * 10);
    world.close();
}

#[test]
fn no_more_than_a_few_memtables_wait_to_be_freed() {
    let world = World::new(5);
    let mut waited = 0;
    for nth in 0..20 {
        world.run(|engine| async move { flush_one(&engine, nth).await });
        let waiting = world.engine.inner.reclaim.retired.borrow().len();
        // The newest comes in before the others are looked at.
        assert!(waiting <= RETIRED_MEMTABLES_MAX + 1, "{waiting} wait");
        waited = waited.max(waiting);
    }
    assert!(waited > 0, "each was freed before the next came");
    world.close();
}

#[test]
fn a_memtable_is_freed_when_a_snapshot_comes_while_it_is_flushed() {
    let world = World::new(6);
    let memtable = world.run(|engine| async move {
        let source = source(Path::new("/data/source")).await;
        let received = receive(&engine, &pieces(&source).await).await;
        source.close().await.unwrap();
        engine.put(LogIndex(1), b"old", Bytes::from_static(b"v"));
        engine.set_applied(log_id(1), None);
        engine.freeze();
        let memtable = {
            let state = engine.inner.state.borrow();
            Rc::downgrade(&state.frozen.front().unwrap().memtable)
        };
        engine.install(received).await.unwrap();
        assert!(engine.inner.state.borrow().frozen.is_empty());
        memtable
    });
    world.wait_freed();
    assert_eq!(memtable.strong_count(), 0);
    world.close();
}
