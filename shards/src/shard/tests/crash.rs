//! The exam scenarios "crash at every single I/O, five deep" and "crash at each step of flush,
//! compaction, manifest change, value-log collection, checkpoint": power cuts at every I/O of a scripted
//! life of a whole shard, and again during the recoveries after them.

use super::replica::{Config, Done, Ledger, Replica, SharedLedger, Write};
use crate::compaction::Policy;
use crate::engine::tests::crash::seeds;
use crate::engine::tests::settle;
use crate::error::Result;
use crate::planted::{Bug, plant};
use bytes::Bytes;
use corelith_io::sim::{Sim, SimNode};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

pub(super) const DIR: &str = "/data/shard";
const LIMIT: Duration = Duration::from_secs(900);
/// The script installs a snapshot at this index, of this one.
const INSTALL_AT: u64 = 24;
const INSTALLED: u64 = 32;
/// How many entries the script reaches.
pub(super) const LAST: u64 = 60;

fn config() -> Config {
    Config {
        memtable_bytes: 8 << 10,
        ..Config::default()
    }
}

/// Entries of the script: keys are replaced soon, so that there is garbage; some come in order, so that
/// tables can be moved.
fn write(index: u64) -> Write {
    let key = match index % 3 {
        0 => format!("in order/{index:05}"),
        _ => format!("key/{}", index * 7 % 5),
    };
    let len = match index % 8 {
        0 | 3 => 300,
        5 => 9000,
        _ => 2500,
    };
    Write {
        key: key.into_bytes(),
        len: (!index.is_multiple_of(11)).then_some(len),
    }
}

/// What the script knows from outside of its shard.
pub(super) struct Source {
    ledger: SharedLedger,
    pieces: Vec<Bytes>,
}

/// Another replica, up to [`INSTALLED`]; its entries after [`INSTALL_AT`] are of a later term.
pub(super) fn source() -> Rc<Source> {
    let sim = Sim::new(1);
    let node = sim.add_node();
    let ledger = Ledger::new();
    let pieces = {
        let ledger = Rc::clone(&ledger);
        sim.block_on(node, async move {
            let replica = Replica::open(Path::new(DIR), &config(), &ledger)
                .await
                .unwrap();
            ledger.borrow_mut().term = 1;
            for index in 1..=INSTALLED {
                if index > INSTALL_AT {
                    ledger.borrow_mut().term = 1000;
                }
                replica.write(vec![write(index)]).await.unwrap();
            }
            replica.snapshot().await.unwrap()
        })
    };
    Rc::new(Source { ledger, pieces })
}

/// Takes a shard, new or part of the way, through everything it can do.
pub(super) async fn life(ledger: SharedLedger, source: Rc<Source>) -> Result<()> {
    let mut replica = Replica::open(Path::new(DIR), &config(), &ledger).await?;
    replica.check().await?;
    loop {
        let next = ledger.borrow().last() + 1;
        if next > LAST {
            break;
        }
        if next == INSTALL_AT + 1 {
            // A leader that lost its lead has left something.
            replica.cut_off(vec![write(3), write(7)], true).await?;
            replica.install(&source.pieces, &source.ledger).await?;
            replica.check().await?;
            continue;
        }
        if next <= INSTALL_AT {
            ledger.borrow_mut().term = 1;
        }
        replica.write(vec![write(next)]).await?;
        match next {
            12 | 23 | 44 => {
                replica.checkpoint().await?;
                replica.purge(3).await?;
                settle(&replica.shard.engine).await;
                replica.note();
            }
            40 => replica.shard.engine.set_policy(Policy::Tiered),
            48 => {
                replica.close().await?;
                replica = Replica::open(Path::new(DIR), &config(), &ledger).await?;
            }
            54 => replica.shard.engine.set_policy(Policy::Leveled),
            _ if next.is_multiple_of(7) => replica.shard.log.flush().await?,
            _ => {}
        }
    }
    replica.check().await?;
    replica.checkpoint().await?;
    replica.purge(0).await?;
    replica.shard.log.flush().await?;
    replica.check_files().await?;
    replica.check().await?;
    replica.close().await
}

struct Run {
    sim: Sim,
    node: SimNode,
    ledger: SharedLedger,
    source: Rc<Source>,
    ended: Rc<Cell<bool>>,
}

impl Run {
    fn new(seed: u64, source: &Rc<Source>) -> Self {
        let sim = Sim::new(seed);
        Self {
            node: sim.add_node(),
            sim,
            ledger: Ledger::new(),
            source: Rc::clone(source),
            ended: Rc::default(),
        }
    }

    /// Starts a life; the shard must do all of it unless the power is cut.
    fn start(&self) {
        self.ended.set(false);
        let (ledger, source) = (Rc::clone(&self.ledger), Rc::clone(&self.source));
        let ended = Rc::clone(&self.ended);
        self.sim.start(self.node, 0, move || async move {
            life(ledger, source).await.unwrap();
            ended.set(true);
        });
    }

    /// Waits for its end or the power cut; returns whether it ended.
    fn wait(&self) -> bool {
        let over = || !self.sim.is_up(self.node) || self.ended.get();
        assert!(self.sim.run_until(over, LIMIT), "neither ended nor crashed");
        self.sim.is_up(self.node)
    }
}

/// Cuts the power at I/O `at` of the script and `depth` more times during what follows, and lets the
/// shard come to the end of its life. Returns whether there was a first cut.
pub(super) fn crash_at(source: &Rc<Source>, seed: u64, at: u64, depth: u64) -> bool {
    let run = Run::new(seed, source);
    run.sim.crash_at_io(run.node, at);
    run.start();
    if run.wait() {
        return false;
    }
    for again in 0..depth {
        run.sim
            .crash_at_io(run.node, 1 + (at * 7 + again * 13) % 60);
        run.start();
        if run.wait() {
            return true;
        }
    }
    run.start();
    assert!(run.wait());
    // What has ended was closed well: it opens with all of it.
    run.sim.crash(run.node);
    run.start();
    assert!(run.wait());
    true
}

/// Cuts the power at every `step`-th I/O, a different part of them for each seed; panics at what is
/// wrong.
fn sweep(seed: u64, step: u64, depth: u64) -> u64 {
    let source = source();
    let mut at = 1 + seed % step;
    while crash_at(&source, seed.wrapping_mul(1 << 20) + at, at, depth) {
        at += step;
    }
    at
}

#[test]
fn the_script_does_everything() {
    let mut total = Done::default();
    for seed in 0..4 {
        let run = Run::new(seed, &source());
        run.start();
        assert!(run.wait());
        total.add(run.ledger.borrow().done());
    }
    total.assert_at_least(3);
}

#[test]
fn a_power_cut_at_every_io_of_a_whole_shard() {
    // Two seeds meet every one of them.
    for seed in seeds() {
        let ios = sweep(seed, 2, 0);
        assert!(ios > 500, "a script of {ios} I/Os tests little");
    }
}

#[test]
fn power_cuts_during_recoveries_five_deep_of_a_whole_shard() {
    for seed in seeds() {
        sweep(1000 + seed, 8, 5);
    }
}

/// Whether some crash shows the planted bug.
fn finds(bug: Bug) -> bool {
    (0..8).any(|seed| {
        plant(Some(bug));
        let found = catch_unwind(AssertUnwindSafe(|| sweep(seed, 5, 0)));
        plant(None);
        found.is_err()
    })
}

/// Of tables by flush and compaction, of value segments by collection.
#[test]
fn files_removed_before_the_manifest_is_durable_are_found() {
    let source = source();
    let missing: Vec<String> = (1..900)
        .step_by(3)
        .filter_map(|at| {
            plant(Some(Bug::RemoveBeforeManifest));
            let found = catch_unwind(AssertUnwindSafe(|| crash_at(&source, at, at, 0)));
            plant(None);
            found.err()?.downcast_ref::<String>().cloned()
        })
        .collect();
    for end in [".sst", ".vlog"] {
        assert!(missing.iter().any(|what| what.contains(end)), "{missing:?}");
    }
}

#[test]
fn a_directory_that_is_not_synced_is_found_in_a_whole_shard() {
    assert!(finds(Bug::SkipDirectorySync));
}

#[test]
fn early_acknowledgements_are_found_in_a_whole_shard() {
    assert!(finds(Bug::AcknowledgeBeforeDurable));
    assert!(finds(Bug::AcknowledgeBeforeValues));
}
