//! Reading entries while others are being written behind them.

use super::{entry, no_values, options};
use crate::ids::LogIndex;
use crate::wal::{Wal, WalOptions};
use corelith_io::sim::Sim;
use std::path::Path;

const DIR: &str = "/data/shard";

/// Reads all entries again and again while more are appended, of which memory keeps next to none: what
/// a reader finds damaged would stop the group.
async fn read_behind_a_writer(last: u64) -> u64 {
    let options = WalOptions {
        cache_bytes: 200,
        ..options()
    };
    let (log, _) = Wal::open(Path::new(DIR), options, None, no_values)
        .await
        .unwrap();
    let written = log.clone();
    let writer = corelith_io::spawn(async move {
        for index in 0..=last {
            let len = 50 + usize::try_from(index * 37 % 900).unwrap();
            written.append(vec![entry(1, index, len)], crate::ids::Ticket(0), |_| {});
            if index % 3 == 0 {
                corelith_io::sleep(std::time::Duration::from_micros(40)).await;
            }
            written.wait_for_room().await.unwrap();
        }
        written.flush().await.unwrap();
    });
    let mut reads = 0;
    loop {
        let entries = log
            .read(LogIndex(0), LogIndex(u64::MAX), u64::MAX)
            .await
            .unwrap();
        for (index, found) in (0..).zip(&entries) {
            assert_eq!(*found, entry(1, index, found.body.len()));
        }
        reads += 1;
        if entries.len() as u64 == last + 1 {
            break;
        }
        corelith_io::yield_now().await;
    }
    writer.await.unwrap();
    log.close().await.unwrap();
    reads
}

#[test]
fn blocks_that_become_durable_during_a_read_are_not_damage() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let reads = sim.block_on(node, read_behind_a_writer(300));
        assert!(reads > 3, "{reads}");
    }
}
