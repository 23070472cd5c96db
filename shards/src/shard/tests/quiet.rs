//! A shard without writes still gives the space of deleted values back.

use super::replica::{Config, Ledger, Replica, SharedLedger, Write};
use crate::engine::tests::settle;
use crate::engine::{Engine, Wait};
use corelith_io::sim::Sim;
use std::path::Path;
use std::time::Duration;

const DIR: &str = "/data/shard";

const VALUES: u64 = 800;
const VALUE_BYTES: usize = 20_000;

/// Space is to be back within this time.
const MINUTES: Duration = Duration::from_secs(300);

/// A memtable that is never full.
fn config() -> Config {
    Config {
        memtable_bytes: 64 << 20,
        ..Config::default()
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("key/{number:04}").into_bytes()
}

async fn open(ledger: &SharedLedger) -> Replica {
    Replica::open(Path::new(DIR), &config(), ledger)
        .await
        .unwrap()
}

async fn put_all(replica: &Replica) {
    for number in 0..VALUES {
        let (key, len) = (key(number), Some(VALUE_BYTES));
        replica.write(vec![Write { key, len }]).await.unwrap();
    }
    replica.checkpoint().await.unwrap();
}

async fn delete(replica: &Replica, numbers: impl Iterator<Item = u64>) {
    for number in numbers {
        let (key, len) = (key(number), None);
        replica.write(vec![Write { key, len }]).await.unwrap();
    }
}

/// Lets time pass, with the log purged as a group does it, until no more than `left` bytes of records
/// are in the value log.
async fn wait_for_space(replica: &Replica, left: u64) {
    let start = corelith_io::now();
    let engine = &replica.shard.engine;
    while engine.statistics().value_bytes > left {
        let elapsed = start.elapsed();
        assert!(elapsed < MINUTES, "{:?}", engine.statistics());
        corelith_io::sleep(Duration::from_secs(1)).await;
        replica.note();
        replica.purge(0).await.unwrap();
    }
}

#[test]
fn deletes_give_their_space_back_without_more_writes() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let replica = open(&Ledger::new()).await;
        put_all(&replica).await;
        delete(&replica, 0..VALUES).await;
        wait_for_space(&replica, 0).await;
        replica.check().await.unwrap();
        replica.check_files().await.unwrap();
        replica.close().await.unwrap();
    });
}

#[test]
fn deletes_before_a_restart_give_their_space_back_after_it() {
    let sim = Sim::new(2);
    let node = sim.add_node();
    let ledger = Ledger::new();
    let first = std::rc::Rc::clone(&ledger);
    sim.block_on(node, async move {
        let replica = open(&first).await;
        put_all(&replica).await;
        delete(&replica, 0..VALUES).await;
        replica.shard.log.flush().await.unwrap();
    });
    sim.crash(node);
    sim.block_on(node, async move {
        let replica = open(&ledger).await;
        wait_for_space(&replica, 0).await;
        replica.check().await.unwrap();
        replica.close().await.unwrap();
    });
}

/// Less than what makes a rewrite worth while on a shard that is written to.
#[test]
fn a_few_deletes_give_their_space_back_too() {
    let sim = Sim::new(3);
    let node = sim.add_node();
    sim.block_on(node, async {
        let replica = open(&Ledger::new()).await;
        put_all(&replica).await;
        let before = replica.shard.engine.statistics().value_bytes;
        // Adjacent ones: together they fill segments.
        delete(&replica, 0..VALUES / 10).await;
        wait_for_space(&replica, before - before / 12).await;
        replica.check().await.unwrap();
        replica.close().await.unwrap();
    });
}

/// Files in the directory with that end.
async fn count(replica: &Replica, end: &str) -> usize {
    let names = corelith_io::list_dir(&replica.dir).await.unwrap();
    names
        .iter()
        .filter(|entry| entry.name.ends_with(end))
        .count()
}

#[test]
fn files_out_of_use_go_after_the_last_read_of_them() {
    let sim = Sim::new(4);
    let node = sim.add_node();
    sim.block_on(node, async {
        let replica = open(&Ledger::new()).await;
        put_all(&replica).await;
        let engine = &replica.shard.engine;
        let read = engine.checkpoint_snapshot();
        delete(&replica, 0..VALUES).await;
        wait_for_space(&replica, 0).await;
        settle(engine).await;
        let held = engine.report().returning;
        assert!(held.read_bytes > VALUES * VALUE_BYTES as u64, "{held:?}");
        assert_eq!(held.waits_for(), Some(Wait::Readers));
        assert!(count(&replica, ".sst").await > engine.tables().0);
        drop(read);
        let start = corelith_io::now();
        while count(&replica, ".sst").await > engine.tables().0
            || count(&replica, ".vlog").await > 2
        {
            assert!(start.elapsed() < Duration::from_secs(10));
            corelith_io::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(engine.report().returning.read_bytes, 0);
        replica.close().await.unwrap();
    });
}

/// Garbage that is not known as such shows at once.
#[test]
fn what_deletes_hide_is_told_as_an_estimate() {
    let sim = Sim::new(5);
    let node = sim.add_node();
    sim.block_on(node, async {
        let replica = open(&Ledger::new()).await;
        put_all(&replica).await;
        let engine = &replica.shard.engine;
        let hidden = |engine: &Engine| engine.statistics().hidden_garbage_bytes;
        assert_eq!(hidden(engine), 0);
        delete(&replica, 0..VALUES / 2).await;
        let deleted = VALUES / 2 * VALUE_BYTES as u64;
        let report = engine.report();
        assert_eq!(report.garbage.garbage, 0);
        // Tables hold other entries, too.
        let is_near = |bytes: u64| bytes > deleted * 3 / 4 && bytes < deleted * 5 / 4;
        assert!(is_near(hidden(engine)), "{} of {deleted}", hidden(engine));
        assert!(is_near(report.returning.bytes()));
        assert_eq!(report.returning.waits_for(), Some(Wait::Merges));
        wait_for_space(&replica, deleted + deleted / 20).await;
        assert!(hidden(engine) < deleted / 20, "{}", hidden(engine));
        replica.close().await.unwrap();
    });
}
