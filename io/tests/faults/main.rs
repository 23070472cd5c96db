//! The faults of the simulator, each seen through the crate's interface.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod determinism;
mod disk;
mod life;
mod net;

use corelith_io::sim::{Sim, SimNode};
use corelith_io::{BLOCK_SIZE, Buf, File, OpenOptions};
use std::path::Path;
use std::time::Duration;

const BLOCK: u64 = BLOCK_SIZE as u64;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn block_of(byte: u8) -> Buf {
    let mut buf = Buf::alloc(BLOCK_SIZE);
    buf.fill(byte);
    buf
}

async fn create(path: &str) -> File {
    OpenOptions::new()
        .write()
        .create_new()
        .open(Path::new(path))
        .await
        .unwrap()
}

/// Makes a durable file of `blocks` blocks of zeros.
async fn create_durable(path: &str, blocks: u64) -> File {
    let file = create(path).await;
    for at in 0..blocks {
        file.write_at(at * BLOCK, block_of(0)).await.unwrap();
    }
    file.sync().await.unwrap();
    corelith_io::sync_dir(Path::new("/")).await.unwrap();
    file
}

/// Calls `test` in a world of its own for each of `count` seeds.
fn for_seeds(count: u64, mut test: impl FnMut(&Sim, SimNode)) {
    for seed in 0..count {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        test(&sim, node);
    }
}
