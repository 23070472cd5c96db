//! Power cuts at every single I/O of a scripted run, and again during the recoveries after them.
//!
//! The manifest is played by the ledger: what is put there lasts from that moment on.

use super::{DIR, Manifest, is_whole, key, user, value};
use crate::ids::{LogIndex, Ticket};
use crate::log::tests::crash::{cut_recoveries, seeds_or};
use crate::planted::{Bug, plant};
use crate::removal::Removals;
use crate::vlog::{RecordRef, ValueLog, ValuePointer};
use corelith_io::sim::{Sim, SimNode};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const SEGMENT_BYTES: u64 = 64 << 10;
const STEPS: u64 = 60;
const LIMIT: Duration = Duration::from_secs(300);

struct Staged {
    pointer: ValuePointer,
    ticket: Ticket,
    /// It was reported durable, or found by a recovery.
    is_durable: bool,
}

/// Everything asked of the value log.
struct Ledger {
    manifest: Manifest,
    /// Live values by log index.
    values: BTreeMap<u64, Staged>,
    next: u64,
    random: u64,
    rolled: u64,
    collected: u64,
    is_done: bool,
}

type SharedLedger = Rc<RefCell<Ledger>>;

impl Ledger {
    fn new(seed: u64) -> SharedLedger {
        Rc::new(RefCell::new(Self {
            manifest: Manifest::default(),
            values: BTreeMap::new(),
            next: 1,
            random: seed | 1,
            rolled: 0,
            collected: 0,
            is_done: false,
        }))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn is_live(&self, record: &RecordRef<'_>) -> bool {
        let held = self.values.get(&record.at.0);
        let is_live = held.is_some_and(|held| held.pointer == record.pointer);
        assert!(!is_live || record.key.key == key(record.at.0));
        is_live
    }
}

/// Every value that was reported durable is there; any other is there as it was staged, or is not.
async fn check(log: &ValueLog, ledger: &SharedLedger) {
    let staged: Vec<_> = {
        let ledger = ledger.borrow();
        let values = ledger.values.iter();
        values
            .map(|(at, held)| (*at, held.pointer, held.is_durable))
            .collect()
    };
    let segments = log.segments();
    for (at, pointer, is_durable) in staged {
        if is_whole(log, at, pointer).await {
            let read = log
                .read(&segments, pointer, Some(user(&key(at))))
                .await
                .unwrap();
            assert!(
                read == value(at, pointer.len as usize),
                "value {at} is another one"
            );
            ledger.borrow_mut().values.get_mut(&at).unwrap().is_durable = true;
        } else {
            assert!(!is_durable, "value {at} of {pointer:?} is lost");
            ledger.borrow_mut().values.remove(&at);
        }
    }
}

/// After a start the directory holds what is in use and nothing else.
async fn check_files(log: &ValueLog) {
    let names = corelith_io::list_dir(Path::new(DIR)).await.unwrap();
    let names: Vec<String> = names.into_iter().map(|entry| entry.name).collect();
    let segments = log.segments();
    let expected = segments
        .values()
        .map(|segment| format!("{:012}.{:03}.vlog", segment.id().0, segment.generation()));
    assert!(names.iter().cloned().eq(expected), "{names:?}");
}

/// Opens the value log, checks it against the ledger and goes on for `steps`.
async fn script(ledger: SharedLedger, steps: u64) {
    let manifest = ledger.borrow().manifest.clone();
    let log = manifest.open(Path::new(DIR), SEGMENT_BYTES).await.unwrap();
    check_files(&log).await;
    check(&log, &ledger).await;
    let told = Rc::clone(&ledger);
    log.on_durable(move |durable| {
        let durable = durable.unwrap();
        for held in told.borrow_mut().values.values_mut() {
            held.is_durable |= held.ticket <= durable && held.ticket > Ticket(0);
        }
    });
    for held in ledger.borrow_mut().values.values_mut() {
        held.ticket = Ticket(0);
    }
    for _ in 0..steps {
        step(&log, &ledger).await;
    }
    log.close().await.unwrap();
    let all_durable = ledger.borrow().values.values().all(|held| held.is_durable);
    assert!(all_durable, "closing makes everything durable");
    ledger.borrow_mut().is_done = true;
}

async fn step(log: &ValueLog, ledger: &SharedLedger) {
    let choice = ledger.borrow_mut().below(12);
    match choice {
        0..=4 => {
            let mut inner = ledger.borrow_mut();
            for _ in 0..=inner.below(4) {
                let len = match inner.below(6) {
                    0 => inner.below(40_000),
                    1 | 2 => inner.below(9_000),
                    _ => inner.below(300),
                };
                let at = inner.next;
                inner.next += 1;
                let staged = log.stage(LogIndex(at), user(&key(at)), &value(at, len as usize));
                let (pointer, ticket) = staged.unwrap();
                let is_durable = false;
                inner.values.insert(
                    at,
                    Staged {
                        pointer,
                        ticket,
                        is_durable,
                    },
                );
            }
        }
        5 | 6 => log.wait_durable(log.staged()).await.unwrap(),
        7 => {
            let mut inner = ledger.borrow_mut();
            let oldest: Vec<u64> = inner.values.keys().copied().take(8).collect();
            for at in oldest {
                if inner.below(2) == 0 && inner.values[&at].is_durable {
                    inner.values.remove(&at);
                }
            }
        }
        8 | 9 => {
            let mut inner = ledger.borrow_mut();
            inner.manifest = Manifest::of(log);
            inner.rolled = inner.rolled.max(inner.manifest.next.0);
        }
        10 => collect(log, ledger).await,
        _ => corelith_io::sleep(Duration::from_millis(20)).await,
    }
}

/// Collects or drops a segment that the manifest names.
async fn collect(log: &ValueLog, ledger: &SharedLedger) {
    let id = {
        let mut inner = ledger.borrow_mut();
        let count = inner.manifest.known.len() as u64;
        if count == 0 {
            return;
        }
        let chosen = inner.below(count) as usize;
        inner.manifest.known[chosen].id
    };
    let is_used = {
        let inner = ledger.borrow();
        inner.values.values().any(|held| held.pointer.segment == id)
    };
    if is_used {
        let segment = Rc::clone(&log.segments()[&id]);
        let is_live = async |record: &RecordRef<'_>| Ok(ledger.borrow().is_live(record));
        let rewritten = log.rewrite(&segment, is_live).await.unwrap();
        drop(segment);
        {
            let mut inner = ledger.borrow_mut();
            let known = &mut inner.manifest.known;
            *known.iter_mut().find(|meta| meta.id == id).unwrap() = rewritten.meta();
            inner.collected += 1;
        }
        corelith_io::yield_now().await;
        log.install_rewritten(rewritten);
    } else {
        ledger
            .borrow_mut()
            .manifest
            .known
            .retain(|meta| meta.id != id);
        log.drop_segment(id);
    }
    log.remove_obsolete(&Removals::new(4 << 10)).await;
}

fn start(sim: &Sim, node: SimNode, ledger: &SharedLedger, steps: u64) {
    let ledger = Rc::clone(ledger);
    sim.start(node, 0, move || script(ledger, steps));
}

/// Runs the script once without a crash and returns how many I/Os it took.
fn count_ios(seed: u64) -> u64 {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let ledger = Ledger::new(seed);
    start(&sim, node, &ledger, STEPS);
    assert!(sim.run_until(|| ledger.borrow().is_done, LIMIT));
    sim.io_count(node)
}

/// Cuts the power at I/O `at` of the script, `depth` times more during recoveries, and then lets the
/// value log recover, go on and end. Returns how often it rolled and collected.
fn crash_at(seed: u64, at: u64, depth: u64) -> (u64, u64) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let ledger = Ledger::new(seed);
    sim.crash_at_io(node, at);
    start(&sim, node, &ledger, STEPS);
    let is_done = || ledger.borrow().is_done;
    let cuts = (0..depth).map(|again| 1 + (at * 7 + again * 13) % 30);
    cut_recoveries(&sim, node, cuts, is_done, || {
        start(&sim, node, &ledger, STEPS / 4);
    });
    ledger.borrow_mut().is_done = false;
    for _ in 0..2 {
        start(&sim, node, &ledger, STEPS / 2);
        assert!(sim.run_until(|| ledger.borrow().is_done, LIMIT));
        ledger.borrow_mut().is_done = false;
    }
    let ledger = ledger.borrow();
    (ledger.rolled, ledger.collected)
}

/// Cuts the power at every I/O for each seed; enough of everything must happen in all of them.
fn sweep(seeds: std::ops::Range<u64>, depth: u64) {
    let (mut ios, mut rolled, mut collected) = (0, 0, 0);
    for seed in seeds {
        let count = count_ios(seed);
        ios += count;
        for at in 1..=count {
            let (more_rolled, more_collected) = crash_at(seed, at, depth);
            rolled += more_rolled;
            collected += more_collected;
        }
    }
    let enough = ios > 100 && rolled > 2 * ios && collected > ios;
    assert!(
        enough,
        "{ios} I/Os, {rolled} segments, {collected} collections"
    );
}

fn seed_count() -> u64 {
    seeds_or(3)
}

#[test]
fn a_power_cut_at_every_io() {
    sweep(1..1 + seed_count(), 0);
}

#[test]
fn power_cuts_during_recoveries_five_deep() {
    sweep(1001..1001 + seed_count(), 5);
}

#[test]
fn killed_processes_lose_nothing() {
    for seed in 0..10 * seed_count() {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let ledger = Ledger::new(seed);
        for round in 0..6 {
            start(&sim, node, &ledger, STEPS);
            let after = Duration::from_micros(sim.random_below(60_000));
            sim.run_until(|| ledger.borrow().is_done, after);
            ledger.borrow_mut().is_done = false;
            // What a killed process leaves in the kernel must last once it was read.
            match round % 2 {
                0 => sim.kill(node),
                _ => sim.crash(node),
            }
        }
        start(&sim, node, &ledger, 3);
        assert!(sim.run_until(|| ledger.borrow().is_done, LIMIT));
    }
}

#[test]
fn a_skipped_directory_sync_is_found() {
    plant(Some(Bug::SkipDirectorySync));
    let found = catch_unwind(AssertUnwindSafe(|| {
        sweep(1..4, 0);
    }));
    plant(None);
    assert!(found.is_err());
}
