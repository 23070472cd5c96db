//! Random runs of whole shards against a model, with closed and crashed lives, on tiny limits: files
//! are flushed, compacted and collected all the time.
//!
//! A case is repeated from its seed, which is printed when it fails:
//! `CORELITH_SIM_SEED=N cargo test -p corelith-shards whole_shards_agree_with_the_model`.

use super::replica::{Config, Done, Ledger, Replica, SharedLedger, State, Write};
use crate::Pin;
use crate::compaction::Policy;
use crate::engine::tests::settle;
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::sstable::Compression;
use corelith_io::sim::Sim;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(3000);

/// A random number generator of a test's own.
#[derive(Clone)]
pub(super) struct Random(pub(super) Rc<Cell<u64>>);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        )))
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        let mut random = self.0.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.0.set(random);
        (random >> 11) % bound
    }

    /// Few keys, some of them much more often than others.
    pub(super) fn key(&self) -> Vec<u8> {
        match self.below(12) {
            0 => vec![b'a'; self.below(3) as usize],
            1 => vec![b'z'; 300],
            2..=6 => format!("key/{}", self.below(6)).into_bytes(),
            _ => format!("key/{}", self.below(60)).into_bytes(),
        }
    }

    pub(super) fn write(&self) -> Write {
        let len = match self.below(16) {
            0 | 1 => None,
            2..=6 => Some(self.below(200)),
            7 => Some(self.below(24_000)),
            8 => Some(0),
            _ => Some(256 + self.below(4000)),
        };
        Write {
            key: self.key(),
            len: len.map(|len| len as usize),
        }
    }

    pub(super) fn writes(&self, max: u64) -> Vec<Write> {
        (0..=self.below(max)).map(|_| self.write()).collect()
    }

    pub(super) fn config(&self) -> Config {
        Config {
            memtable_bytes: (4 << self.below(3)) << 10,
            threshold: [0, 256, 512, 1024][self.below(4) as usize],
            policy: [Policy::Leveled, Policy::Tiered][self.below(2) as usize],
            compression: [Compression::None, Compression::Lz4][self.below(2) as usize],
            reserve_bytes: [0, 64 << 10][self.below(2) as usize],
            ..Config::default()
        }
    }
}

/// What outlives the lives of a case.
struct Case {
    random: Random,
    dir: RefCell<PathBuf>,
    ledger: RefCell<SharedLedger>,
    copies: Cell<u32>,
    done: Cell<bool>,
    total: RefCell<Done>,
}

/// How a life ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Closed,
    Killed,
    Cut,
}

struct Life {
    case: Rc<Case>,
    replica: Replica,
    config: Config,
    pins: Vec<(Pin, State)>,
}

impl Life {
    async fn open(case: &Rc<Case>) -> Result<Self> {
        let config = case.random.config();
        let (dir, ledger) = (case.dir.borrow().clone(), Rc::clone(&case.ledger.borrow()));
        let replica = Replica::open(&dir, &config, &ledger).await?;
        replica.check().await?;
        Ok(Self {
            case: Rc::clone(case),
            replica,
            config,
            pins: Vec::new(),
        })
    }

    fn state(&self) -> State {
        let ledger = self.replica.ledger.borrow();
        ledger.state(ledger.applied)
    }

    async fn step(&mut self) -> Result<()> {
        let random = self.case.random.clone();
        let replica = &self.replica;
        let choice = random.below(40);
        match choice {
            0..=15 => replica.write(random.writes(8)).await?,
            16..=19 => {
                let (key, state) = (random.key(), self.state());
                replica.check_key(&key, state.get(&key)).await?;
            }
            20..=22 => {
                let (key, state) = (random.key(), self.state());
                let start = random.below(5000);
                let range = start..start + random.below(3000);
                replica.check_range(&key, range, state.get(&key)).await?;
            }
            23 | 24 => {
                let found = replica.scan(None, 1 + random.below(20) as usize).await?;
                assert!(found == self.state());
            }
            25 | 26 => {
                if let Some((pin, state)) = self.pins.get(random.below(3) as usize) {
                    let at = Some(pin.at().0);
                    let found = replica.scan(at, 1 + random.below(20) as usize).await?;
                    assert!(found == *state, "at {}", pin.at());
                }
            }
            27 => self.scan_the_past().await?,
            28 | 29 => self.pins.push((replica.shard.engine.pin(), self.state())),
            30 if !self.pins.is_empty() => {
                let at = random.below(self.pins.len() as u64);
                self.pins.swap_remove(at as usize);
            }
            31 | 32 => replica.checkpoint().await?,
            33 | 34 => {
                replica.checkpoint().await?;
                replica.purge(random.below(12)).await?;
            }
            35 => settle(&replica.shard.engine).await,
            36 => {
                let policies = [Policy::Leveled, Policy::Tiered];
                let policy = policies[random.below(2) as usize];
                replica.shard.engine.set_policy(policy);
            }
            37 => {
                replica
                    .cut_off(random.writes(5), random.below(2) == 0)
                    .await?
            }
            38 => corelith_io::sleep(Duration::from_millis(random.below(100))).await,
            39 if random.below(4) == 0 => self.copy().await?,
            _ => {}
        }
        self.replica.note();
        Ok(())
    }

    /// A read of the past sees all of it or is refused.
    async fn scan_the_past(&self) -> Result<()> {
        let applied = self.replica.ledger.borrow().applied;
        let at = applied.saturating_sub(self.case.random.below(20));
        let expected = self.replica.ledger.borrow().state(at);
        let engine = &self.replica.shard.engine;
        let all = crate::ScanRange::default();
        match engine.scan(&all, Some(LogIndex(at)), 1000, 1 << 30).await {
            Ok(page) => {
                let found = page.items.into_iter().map(|item| {
                    let value = item.value.into_bytes().unwrap();
                    (item.key.to_vec(), (item.version.0, value))
                });
                assert!(found.eq(expected), "at {at}");
                Ok(())
            }
            Err(Error::SequenceGone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Copies the state through a snapshot into another directory, and goes on there or here.
    async fn copy(&mut self) -> Result<()> {
        if self.replica.ledger.borrow().applied == 0 {
            return Ok(());
        }
        let case = Rc::clone(&self.case);
        case.copies.set(case.copies.get() + 1);
        let dir = PathBuf::from(format!("/data/copy-{}", case.copies.get()));
        let ledger = Ledger::new();
        let copy = Replica::open(&dir, &self.config, &ledger).await?;
        let pieces = self.replica.snapshot().await?;
        copy.install_copy(&pieces, &self.replica.ledger).await?;
        copy.check().await?;
        if case.random.below(2) == 0 {
            return copy.close().await;
        }
        // Whatever the ledger knew of the old shard ends with it.
        self.pins.clear();
        case.total
            .borrow_mut()
            .add(self.replica.ledger.borrow().done());
        *case.dir.borrow_mut() = dir;
        *case.ledger.borrow_mut() = ledger;
        let old = std::mem::replace(&mut self.replica, copy);
        old.close().await
    }

    async fn end(mut self, end: End) -> Result<()> {
        if end != End::Closed {
            return Ok(());
        }
        self.replica.check().await?;
        self.pins.clear();
        self.replica.check_files().await?;
        self.replica.close().await
    }
}

async fn live(case: Rc<Case>, steps: u64, end: End) {
    let mut life = Life::open(&case).await.unwrap();
    for _ in 0..steps {
        life.step().await.unwrap();
    }
    if end == End::Closed {
        life.end(end).await.unwrap();
        case.done.set(true);
        return;
    }
    case.done.set(true);
    // Held until the process is gone.
    std::future::pending::<()>().await;
}

/// Runs one case and returns what its shards did.
pub(super) fn run_case(seed: u64) -> Done {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let random = Random::new(seed);
    let case = Rc::new(Case {
        random: random.clone(),
        dir: RefCell::new(PathBuf::from("/data/shard")),
        ledger: RefCell::new(Ledger::new()),
        copies: Cell::new(0),
        done: Cell::new(false),
        total: RefCell::default(),
    });
    let lives = 2 + random.below(3);
    for life in 0..=lives {
        let end = match random.below(3) {
            _ if life == lives => End::Closed,
            0 => End::Closed,
            1 => End::Killed,
            _ => End::Cut,
        };
        case.done.set(false);
        if end == End::Cut {
            sim.crash_at_io(node, 1 + random.below(600));
        }
        let steps = random.below(60);
        let living = Rc::clone(&case);
        sim.start(node, 0, move || live(living, steps, end));
        let ended = || !sim.is_up(node) || case.done.get();
        assert!(
            sim.run_until(ended, LIMIT),
            "seed {seed}: life {life} does not end"
        );
        match end {
            End::Killed => sim.kill(node),
            End::Cut if sim.is_up(node) => sim.crash(node),
            // The next process starts when this one is gone.
            End::Closed => sim.kill(node),
            End::Cut => {}
        }
    }
    let mut total = *case.total.borrow();
    total.add(case.ledger.borrow().borrow().done());
    total
}

/// `CORELITH_SIM_SEEDS` times as many cases as by default; `CORELITH_SIM_SEED` runs that one alone.
#[test]
fn whole_shards_agree_with_the_model() {
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if let Some(seed) = variable("CORELITH_SIM_SEED") {
        run_case(seed);
        return;
    }
    let mut total = Done::default();
    let cases = 120 * variable("CORELITH_SIM_SEEDS").unwrap_or(1);
    for seed in 0..cases {
        total.add(run_case(seed));
    }
    total.assert_at_least(cases / 4);
}
