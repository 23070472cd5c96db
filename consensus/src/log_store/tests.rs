use super::LogStore;
use crate::activity::GroupActivity;
use crate::ahead::ParsedAhead;
use crate::applied::Applied;
use crate::relief::Relief;
use crate::state_machine::StateMachine;
use crate::types::Types;
use corelith_io::sim::Sim;
use corelith_shards::{Shard, ShardId, ShardOptions};
use futures_util::FutureExt;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::future::ready;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Opens a new shard for every test of the suite.
struct Shards {
    dir: PathBuf,
    next: AtomicU32,
}

impl StoreBuilder<Types, LogStore, StateMachine> for Shards {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<Types>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut options = ShardOptions::new(1, ShardId(0));
        options.segment_bytes = 1 << 20;
        let dir = self.dir.join(number.to_string());
        let Shard { log, engine } = Shard::open(&dir, options).await.unwrap();
        let applied = Rc::new(Applied::new(engine.applied().0));
        let ahead = Rc::<ParsedAhead>::default();
        let nobody = Rc::new(|_, _| ready(None).boxed_local());
        let relief = Relief::new(engine.clone(), nobody, Rc::default());
        let (known, uploads) = (Rc::clone(&ahead), Rc::default());
        let machine = StateMachine::new(engine.clone(), applied, known, relief, uploads);
        let store = LogStore::new(log, engine, ahead, Rc::default(), GroupActivity::default());
        Ok(((), store, machine))
    }
}

fn shards(dir: PathBuf) -> Shards {
    Shards {
        dir,
        next: AtomicU32::new(0),
    }
}

#[test]
fn passes_openrafts_suite_in_the_sim_world() {
    for seed in 0..5 {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        sim.block_on(node, Suite::test_all(shards("/data".into())))
            .unwrap();
    }
}

#[test]
fn passes_openrafts_suite_in_the_uring_world() {
    let dir = tempfile::tempdir().unwrap();
    let shards = shards(dir.path().to_path_buf());
    corelith_io::core::run_here(Suite::test_all(shards)).unwrap();
}
