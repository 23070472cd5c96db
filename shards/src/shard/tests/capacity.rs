//! Bounds on what grows with the data, so small that a test reaches them: a full shard refuses values with
//! `Full`, still takes what makes room, and opens again.

use super::model::Random;
use super::replica::{Config, Ledger, Replica, SharedLedger, Write};
use crate::capacity::Capacity;
use crate::engine::tests::{manifest_bytes, settle};
use crate::error::Error;
use corelith_io::sim::{Sim, SimNode};
use std::path::Path;
use std::rc::Rc;

const DIR: &str = "/data/shard";

fn put(number: u64, len: usize) -> Write {
    Write {
        key: format!("key {number:04}").into_bytes(),
        len: Some(len),
    }
}

/// Opens the shard, does something and closes it.
fn live(
    sim: &Sim,
    node: SimNode,
    ledger: &SharedLedger,
    capacity: Capacity,
    life: impl AsyncFn(&Replica) + 'static,
) {
    let ledger = Rc::clone(ledger);
    sim.block_on(node, async move {
        let config = Config {
            capacity,
            ..Config::default()
        };
        let replica = Replica::open(Path::new(DIR), &config, &ledger)
            .await
            .unwrap();
        life(&replica).await;
        replica.check().await.unwrap();
        replica.shard.close().await.unwrap();
    });
}

fn is_full(replica: &Replica, of: &str) -> bool {
    match replica.shard.engine.check_capacity() {
        Ok(()) => false,
        Err(Error::Full { what, .. }) => {
            assert_eq!(what, of);
            true
        }
        Err(error) => panic!("{error}"),
    }
}

/// Puts values until the shard is full, deletes most of them and waits until it no longer is.
async fn fill_and_make_room(replica: &Replica, of: &str) {
    let mut count = 0;
    while !is_full(replica, of) {
        replica.write(vec![put(count, 3000)]).await.unwrap();
        count += 1;
        assert!(count < 2000, "it is never full");
    }
    replica.checkpoint().await.unwrap();
    replica.check().await.unwrap();
    for number in 0..count {
        let Write { key, .. } = put(number, 0);
        replica.write(vec![Write { key, len: None }]).await.unwrap();
    }
    let mut rounds = 0;
    while is_full(replica, of) {
        // Something has to be after what is to be purged.
        replica.write(vec![put(0, 10)]).await.unwrap();
        replica.checkpoint().await.unwrap();
        replica.purge(0).await.unwrap();
        replica.shard.log.flush().await.unwrap();
        settle(&replica.shard.engine).await;
        rounds += 1;
        assert!(rounds < 100, "it stays full");
    }
    replica.write(vec![put(1, 3000)]).await.unwrap();
}

#[test]
fn a_full_shard_takes_what_makes_room() {
    let no_bound = Capacity::default();
    let cases = [
        (
            "segments of the value log",
            Capacity {
                value_segments: 8,
                ..no_bound
            },
        ),
        (
            "segments of the log",
            Capacity {
                log_segments: 8,
                ..no_bound
            },
        ),
        (
            "tables",
            Capacity {
                tables: 16,
                ..no_bound
            },
        ),
    ];
    for (seed, (of, capacity)) in cases.into_iter().enumerate() {
        let sim = Sim::new(seed as u64);
        let node = sim.add_node();
        let ledger = Ledger::new();
        live(&sim, node, &ledger, capacity, async move |replica| {
            fill_and_make_room(replica, of).await;
        });
        live(&sim, node, &ledger, capacity, async move |replica| {
            assert!(!is_full(replica, of));
            fill_and_make_room(replica, of).await;
        });
    }
}

/// A manifest that would be too long is never written: the shard goes on with the one it has, loses
/// nothing, and flushes what it has accepted when it may.
#[test]
fn a_manifest_that_would_be_too_long_is_not_written() {
    const MANIFEST: &str = "/data/shard/MANIFEST";
    let sim = Sim::new(3);
    let node = sim.add_node();
    let ledger = Ledger::new();
    live(&sim, node, &ledger, Capacity::default(), async |replica| {
        let random = Random::new(3);
        while manifest_bytes(&replica.shard.engine) <= 8 << 10 {
            replica.write(random.writes(20)).await.unwrap();
        }
        replica.checkpoint().await.unwrap();
        settle(&replica.shard.engine).await;
    });
    let len = sim.disk(node).read(MANIFEST).unwrap().len();
    let capacity = Capacity {
        manifest_bytes: len as u64 - 1,
        ..Capacity::default()
    };
    let ended = Rc::new(std::cell::Cell::new(false));
    let (told, living) = (Rc::clone(&ended), Rc::clone(&ledger));
    sim.start(node, 0, move || async move {
        let config = Config {
            capacity,
            ..Config::default()
        };
        let replica = Replica::open(Path::new(DIR), &config, &living)
            .await
            .unwrap();
        assert!(is_full(&replica, "bytes of the manifest"));
        let before = replica.shard.engine.checkpointed();
        for number in 0..4 {
            replica.write(vec![put(number, 500)]).await.unwrap();
        }
        let flushed = corelith_io::timeout(
            std::time::Duration::from_secs(60),
            replica.shard.engine.checkpoint(),
        );
        assert!(flushed.await.is_err(), "there was no room for it");
        assert_eq!(replica.shard.engine.checkpointed(), before);
        replica.check().await.unwrap();
        told.set(true);
    });
    assert!(sim.run_until(|| ended.get(), std::time::Duration::from_secs(300)));
    sim.kill(node);
    live(&sim, node, &ledger, Capacity::default(), async |replica| {
        assert_eq!(
            replica.ledger.borrow().applied,
            replica.ledger.borrow().last()
        );
        replica.checkpoint().await.unwrap();
    });
}
