//! The exam scenario "collection racing reads, scans, snapshots, flush and crash: no value missing".

use super::model::Random;
use super::replica::{Config, Done, Ledger, Replica, SharedLedger, State};
use crate::engine::tests::crash::seeds;
use crate::ids::LogIndex;
use crate::planted::{Bug, plant};
use corelith_io::sim::Sim;
use futures_util::future::join4;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/data/shard";
const LIMIT: Duration = Duration::from_secs(900);

/// What the tasks of a life share.
struct Race {
    replica: Replica,
    random: Random,
    is_over: Cell<bool>,
    /// What readers saw is counted, so that a test that reads nothing shows.
    reads: Rc<Cell<u64>>,
}

impl Race {
    fn state(&self) -> State {
        let ledger = self.replica.ledger.borrow();
        ledger.state(ledger.applied)
    }

    async fn pause(&self) {
        let micros = self.random.below(2000);
        corelith_io::sleep(Duration::from_micros(micros)).await;
    }

    async fn write(&self, steps: u64) {
        for step in 0..steps {
            self.replica.write(self.random.writes(6)).await.unwrap();
            if step % 9 == 8 {
                self.replica.checkpoint().await.unwrap();
                self.replica.purge(self.random.below(6)).await.unwrap();
            }
            self.pause().await;
        }
        self.is_over.set(true);
    }

    /// Single keys: what is found was the newest at some time during the read.
    async fn get(&self) {
        while !self.is_over.get() {
            let key = self.random.key();
            let (before, engine) = (
                self.replica.ledger.borrow().applied,
                &self.replica.shard.engine,
            );
            let found = engine.get(&key).await.unwrap();
            let found = found.map(|found| (found.version.0, found.value));
            self.check_newest(&key, before, found.as_ref());
            let start = self.random.below(3000);
            let part = engine.get_range(&key, start..start + 2000).await.unwrap();
            if let Some(part) = part {
                let ledger = self.replica.ledger.borrow();
                assert_eq!(ledger.version(&key, part.version.0), Some(part.version.0));
                let value = ledger.value_of(part.version.0);
                assert!(part.len == value.len() as u64);
                let (from, to) = (start.min(part.len), (start + 2000).min(part.len));
                assert!(part.bytes == value[from as usize..to as usize]);
            }
            self.reads.set(self.reads.get() + 1);
            self.pause().await;
        }
    }

    fn check_newest(&self, key: &[u8], before: u64, found: Option<&(u64, bytes::Bytes)>) {
        let ledger = self.replica.ledger.borrow();
        let version = found.map(|(version, _)| *version);
        let was_newest = (before..=ledger.applied).any(|at| ledger.version(key, at) == version);
        assert!(was_newest, "{}", key.escape_ascii());
        if let Some((version, value)) = found {
            assert!(*value == ledger.value_of(*version));
        }
    }

    /// Scans at a pin that is held for a while: each sees the same, however often.
    async fn scan(&self) {
        while !self.is_over.get() {
            let (pin, state) = (self.replica.shard.engine.pin(), self.state());
            for _ in 0..=self.random.below(4) {
                let items = 1 + self.random.below(9) as usize;
                let found = self.replica.scan(Some(pin.at().0), items).await.unwrap();
                assert!(found == state, "at {}", pin.at());
                self.reads.set(self.reads.get() + 1);
                for _ in 0..self.random.below(6) {
                    self.pause().await;
                }
            }
        }
    }

    /// Snapshots that take long.
    async fn copy(&self) {
        while !self.is_over.get() {
            let applied = self.replica.ledger.borrow().applied;
            let mut snapshot = self.replica.shard.engine.snapshot();
            let at = snapshot.applied().0.map_or(0, |id| id.index.0);
            assert!(at >= applied);
            let mut pieces = Vec::new();
            while let Some(piece) = snapshot.next_piece().await.unwrap() {
                pieces.push(piece);
                for _ in 0..self.random.below(10) {
                    self.pause().await;
                }
            }
            drop(snapshot);
            if at > 0 {
                self.check_copy(&pieces, at).await;
            }
            self.reads.set(self.reads.get() + 1);
            for _ in 0..20 {
                self.pause().await;
            }
        }
    }

    /// Installs the pieces elsewhere and compares.
    async fn check_copy(&self, pieces: &[bytes::Bytes], at: u64) {
        let number = self.reads.get();
        let dir = format!("/data/copy-{}-{number}", self.random.below(1 << 40));
        let fresh = Ledger::new();
        let opened = Replica::open(Path::new(&dir), &Config::default(), &fresh).await;
        let copy = opened.unwrap();
        let mut received = copy.shard.engine.receive_snapshot().await.unwrap();
        for piece in pieces {
            received.piece(piece.clone()).await.unwrap();
        }
        received.finish().await.unwrap();
        copy.shard.engine.install(received).await.unwrap();
        let found = copy.scan(None, 20).await.unwrap();
        assert!(
            found == self.replica.ledger.borrow().state(at),
            "a copy at {at}"
        );
        copy.shard.close().await.unwrap();
        corelith_io::remove_dir_all(Path::new(&dir)).await.unwrap();
    }

    /// Reads of the past, which are whole or refused.
    async fn look_back(&self) {
        while !self.is_over.get() {
            let at = self
                .replica
                .ledger
                .borrow()
                .applied
                .saturating_sub(self.random.below(9));
            let all = crate::ScanRange::default();
            let engine = &self.replica.shard.engine;
            if let Ok(page) = engine.scan(&all, Some(LogIndex(at)), 1000, 1 << 30).await {
                let found = page.items.into_iter().map(|item| {
                    let value = item.value.into_bytes().unwrap();
                    (item.key.to_vec(), (item.version.0, value))
                });
                assert!(found.eq(self.replica.ledger.borrow().state(at)), "at {at}");
            }
            self.pause().await;
        }
    }
}

async fn life(random: Random, ledger: SharedLedger, reads: Rc<Cell<u64>>, over: Rc<Cell<bool>>) {
    let config = Config {
        threshold: 300,
        ..random.config()
    };
    let replica = Replica::open(Path::new(DIR), &config, &ledger)
        .await
        .unwrap();
    replica.check().await.unwrap();
    let race = Race {
        replica,
        random,
        is_over: Cell::new(false),
        reads,
    };
    let steps = 20 + race.random.below(60);
    let readers = join4(race.get(), race.get(), race.scan(), race.scan());
    join4(race.write(steps), readers, race.copy(), race.look_back()).await;
    let replica = race.replica;
    replica.checkpoint().await.unwrap();
    replica.purge(0).await.unwrap();
    replica.shard.log.flush().await.unwrap();
    replica.check_files().await.unwrap();
    replica.check().await.unwrap();
    replica.close().await.unwrap();
    over.set(true);
}

/// Three lives of which power cuts or kills end some; returns what the shard did, and how often it was
/// read.
pub(super) fn run_case(seed: u64) -> (Done, u64) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let random = Random::new(seed);
    let (ledger, reads) = (Ledger::new(), Rc::new(Cell::new(0)));
    for life_number in 0..3 {
        let over = Rc::new(Cell::new(false));
        if life_number < 2 && random.below(3) > 0 {
            sim.crash_at_io(node, 200 + random.below(3000));
        }
        let (told, ledger, reads) = (Rc::clone(&over), Rc::clone(&ledger), Rc::clone(&reads));
        let living = random.clone();
        sim.start(node, 0, move || life(living, ledger, reads, told));
        let ended = || !sim.is_up(node) || over.get();
        assert!(
            sim.run_until(ended, LIMIT),
            "seed {seed}: life {life_number} does not end"
        );
        if sim.is_up(node) {
            sim.kill(node);
        }
    }
    let done = ledger.borrow().done();
    (done, reads.get())
}

#[test]
fn collection_racing_everything_loses_no_value() {
    let (mut total, mut reads) = (Done::default(), 0);
    let cases = 20 * seeds().end;
    for seed in 0..cases {
        let (done, more) = run_case(seed);
        total.add(done);
        reads += more;
    }
    assert!(reads > 50 * cases, "{reads}");
    assert!(total.rewrites > cases && total.drops > cases, "{total:?}");
}

#[test]
fn a_collection_that_ignores_pins_is_found() {
    let found = (0..40).any(|seed| {
        plant(Some(Bug::IgnorePinsOfSegments));
        let found = catch_unwind(AssertUnwindSafe(|| run_case(seed)));
        plant(None);
        found.is_err()
    });
    assert!(found);
}
