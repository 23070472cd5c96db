//! Power cuts at every single I/O of a scripted run, and again during the recoveries after them.

use super::{check_heads, entry, id, open, vote, with_value, without_place};
use crate::ids::{LogId, LogIndex};
use crate::log::Log;
use crate::planted::{Bug, plant};
use crate::wal::{Entry, Vote};
use corelith_io::sim::{Sim, SimNode};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/data/shard";
const STEPS: u64 = 60;
const LIMIT: Duration = Duration::from_secs(300);

/// What a log may amount to at some point.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    purged: Option<LogId>,
    entries: Vec<Entry>,
    vote: Option<Vote>,
}

impl State {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index.0 + 1)
    }
}

/// Everything asked of the log, as the states it passed through, one per record.
struct Ledger {
    states: Vec<State>,
    /// The log has promised that it will not fall behind this state.
    acknowledged: usize,
    /// Blocks were acknowledged at some time, so that the log must exist.
    must_exist: bool,
    committed: Option<LogIndex>,
    term: u64,
    random: u64,
    is_done: bool,
}

type SharedLedger = Rc<RefCell<Ledger>>;

impl Ledger {
    fn new(seed: u64) -> SharedLedger {
        Rc::new(RefCell::new(Self {
            states: vec![State::default()],
            acknowledged: 0,
            must_exist: false,
            committed: None,
            term: 1,
            random: seed | 1,
            is_done: false,
        }))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn state(&self) -> &State {
        self.states.last().unwrap()
    }

    fn push(&mut self, change: impl FnOnce(&mut State)) -> usize {
        let mut state = self.state().clone();
        change(&mut state);
        self.states.push(state);
        self.states.len() - 1
    }

    fn acknowledge(&mut self, upto: usize) {
        self.acknowledged = self.acknowledged.max(upto);
        self.must_exist = true;
    }

    /// Finds what was recovered among the states that it may be.
    fn recover(&mut self, found: State, created: bool) {
        assert!(!(created && self.must_exist), "the log opened empty");
        let allowed = &self.states[self.acknowledged..];
        assert!(
            allowed.contains(&found),
            "recovered {:?}..{:?} with vote {:?}, acknowledged {:?} with vote {:?}",
            found.purged,
            found.last(),
            found.vote,
            allowed[0].last(),
            allowed[0].vote,
        );
        self.states = vec![found];
        self.acknowledged = 0;
        self.term += 1;
    }
}

async fn recovered(log: &Log) -> State {
    let range = log.range();
    let entries = log
        .read(LogIndex(0), LogIndex(u64::MAX), u64::MAX)
        .await
        .unwrap();
    let entries: Vec<_> = entries.into_iter().map(without_place).collect();
    check_heads(log, &entries).await;
    let state = State {
        purged: range.purged,
        entries,
        vote: log.vote(),
    };
    assert_eq!(state.last(), range.last);
    state
}

/// Opens the log, checks it against the ledger and goes on for `steps`.
async fn script(ledger: SharedLedger, steps: u64) {
    let (log, values, found) = open(Path::new(DIR)).await.unwrap();
    let state = recovered(&log).await;
    let committed = log.committed().map(|id| id.index);
    assert!(committed <= state.last().map(|id| id.index));
    {
        let mut ledger = ledger.borrow_mut();
        assert!(committed <= ledger.committed.max(state.purged.map(|id| id.index)));
        ledger.recover(state, found.created);
        ledger.must_exist = true;
    }
    for _ in 0..steps {
        step(&log, &ledger).await;
        values.collect(log.purged_durable()).await;
    }
    log.close().await.unwrap();
    let mut ledger = ledger.borrow_mut();
    let all = ledger.states.len() - 1;
    ledger.acknowledge(all);
    ledger.is_done = true;
}

async fn step(log: &Log, ledger: &SharedLedger) {
    let choice = ledger.borrow_mut().below(16);
    match choice {
        0..=7 => {
            let mut inner = ledger.borrow_mut();
            let count = 1 + inner.below(6);
            let mut entries = Vec::new();
            let mut version = 0;
            for _ in 0..count {
                let len = match inner.below(8) {
                    0 => inner.below(100_000),
                    1 => inner.below(5_000),
                    _ => inner.below(300),
                };
                let new = entry(inner.term, inner.state().next(), len as usize);
                entries.push(with_value(new.clone()));
                version = inner.push(|state| state.entries.push(new));
            }
            drop(inner);
            let acknowledged = Rc::clone(ledger);
            log.append(entries, move |result| {
                if result.is_ok() {
                    acknowledged.borrow_mut().acknowledge(version);
                }
            });
        }
        8 | 9 => {
            let version = ledger.borrow().states.len() - 1;
            log.flush().await.unwrap();
            ledger.borrow_mut().acknowledge(version);
        }
        10 => {
            let (term, version) = {
                let mut inner = ledger.borrow_mut();
                inner.term += 1;
                let term = inner.term;
                (term, inner.push(|state| state.vote = Some(vote(term))))
            };
            log.save_vote(vote(term)).await.unwrap();
            ledger.borrow_mut().acknowledge(version);
        }
        11 => {
            let last = {
                let mut inner = ledger.borrow_mut();
                let committed = inner.committed;
                let held = inner.state().entries.len() as u64;
                let cut = inner.below(held + 1).min(4) as usize;
                let mut keep = inner.state().entries.len() - cut;
                while inner
                    .state()
                    .entries
                    .get(keep)
                    .is_some_and(|entry| Some(entry.id.index) <= committed)
                {
                    keep += 1;
                }
                if keep < inner.state().entries.len() {
                    inner.push(|state| state.entries.truncate(keep));
                    inner.term += 1;
                }
                inner.state().last()
            };
            log.truncate_after(last).await.unwrap();
        }
        12 | 13 => {
            let upto = {
                let mut inner = ledger.borrow_mut();
                let held = inner.state().entries.len() as u64;
                let beyond = inner.below(20) == 0;
                let count = inner.below(held + 1) as usize;
                let upto = match (beyond, count.checked_sub(1)) {
                    (true, _) => Some(id(inner.term, inner.state().next() + 5)),
                    (false, Some(last)) => Some(inner.state().entries[last].id),
                    (false, None) => None,
                };
                if let Some(upto) = upto {
                    inner.push(|state| {
                        state.entries.retain(|entry| entry.id.index > upto.index);
                        state.purged = Some(upto);
                    });
                }
                upto
            };
            if let Some(upto) = upto {
                log.purge(upto).await.unwrap();
            }
        }
        14 => {
            let last = ledger.borrow().state().last();
            if let Some(last) = last {
                let mut inner = ledger.borrow_mut();
                inner.committed = inner.committed.max(Some(last.index));
                log.note_committed(last);
            }
        }
        _ => corelith_io::sleep(Duration::from_millis(1500)).await,
    }
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

/// Lets a script end or be cut off, and starts it again for each of `cuts`, an I/O of the recovery at which the
/// power is cut; unless it is done. At last the power is off.
pub(crate) fn cut_recoveries(
    sim: &Sim,
    node: SimNode,
    cuts: impl Iterator<Item = u64>,
    is_done: impl Fn() -> bool,
    start: impl Fn(),
) {
    for at in cuts {
        assert!(sim.run_until(|| !sim.is_up(node) || is_done(), LIMIT));
        if is_done() {
            break;
        }
        sim.crash_at_io(node, at);
        start();
    }
    sim.run_until(|| !sim.is_up(node) || is_done(), LIMIT);
    sim.crash(node);
}

/// Cuts the power at I/O `at` of the script, `depth` times more during recoveries, and then lets the
/// log recover, go on and end.
pub(crate) fn crash_at(seed: u64, at: u64, depth: u64) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let ledger = Ledger::new(seed);
    sim.crash_at_io(node, at);
    start(&sim, node, &ledger, STEPS);
    let is_done = || ledger.borrow().is_done;
    let cuts = (0..depth).map(|again| 1 + (at * 7 + again * 13) % 40);
    cut_recoveries(&sim, node, cuts, is_done, || {
        start(&sim, node, &ledger, STEPS / 4);
    });
    ledger.borrow_mut().is_done = false;
    start(&sim, node, &ledger, STEPS / 4);
    assert!(sim.run_until(|| ledger.borrow().is_done, LIMIT));
    nothing_is_left_over(&sim, node, &ledger);
}

/// After a purge of everything, only the active segment and its spares are left.
fn nothing_is_left_over(sim: &Sim, node: SimNode, ledger: &SharedLedger) {
    let upto = ledger.borrow().state().last();
    sim.block_on(node, async move {
        let (log, ..) = open(Path::new(DIR)).await.unwrap();
        if let Some(upto) = upto {
            log.purge(upto).await.unwrap();
        }
        let next = upto.map_or(0, |id| id.index.0 + 1);
        log.append(vec![entry(1_000_000, next, 10)], |_| ());
        // Long enough for the idle block, which proves the purge.
        corelith_io::sleep(Duration::from_secs(5)).await;
        log.close().await.unwrap();
    });
    let mut files = sim.disk(node).files();
    files.retain(|(name, _)| !name.contains("/values/"));
    assert!(files.len() <= 4, "left over: {files:?}");
    assert!(files.iter().all(|(name, _)| !name.ends_with(".tmp")));
}

fn sweep(seed: u64, depth: u64) {
    let ios = count_ios(seed);
    assert!(ios > 50, "a script of {ios} I/Os tests little");
    for at in 1..=ios {
        crash_at(seed, at, depth);
    }
}

/// How many seeds to run: `CORELITH_SIM_SEEDS`, or `few`.
pub(crate) fn seeds_or(few: u64) -> u64 {
    let count = std::env::var("CORELITH_SIM_SEEDS").ok();
    count.and_then(|count| count.parse().ok()).unwrap_or(few)
}

pub(super) fn seed_count() -> u64 {
    seeds_or(2)
}

#[test]
fn a_power_cut_at_every_io() {
    for seed in 0..seed_count() {
        sweep(1 + seed, 0);
    }
}

#[test]
fn power_cuts_during_recoveries_five_deep() {
    for seed in 0..seed_count() {
        sweep(1001 + seed, 5);
    }
}

#[test]
fn killed_processes_lose_nothing() {
    for seed in 0..20 * seed_count() {
        kill_often(seed, false);
    }
}

#[test]
fn power_cuts_after_kills_lose_nothing() {
    for seed in 0..20 * seed_count() {
        kill_often(seed, true);
    }
}

/// Kills the process of the script at some time, again and again; with `cuts_power` every second life
/// ends soon, by a power cut.
pub(crate) fn kill_often(seed: u64, cuts_power: bool) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let ledger = Ledger::new(seed);
    for life in 0..6 {
        start(&sim, node, &ledger, STEPS);
        let is_cut = cuts_power && life % 2 == 1;
        let longest = if is_cut { 5_000 } else { 100_000 };
        let after = Duration::from_micros(sim.random_below(longest));
        sim.run_until(|| ledger.borrow().is_done, after);
        ledger.borrow_mut().is_done = false;
        match is_cut {
            true => sim.crash(node),
            false => sim.kill(node),
        }
    }
    start(&sim, node, &ledger, 3);
    assert!(sim.run_until(|| ledger.borrow().is_done, LIMIT));
    nothing_is_left_over(&sim, node, &ledger);
}

/// What a recovery has found stays, though the process before it was killed while it wrote.
#[test]
fn a_power_cut_right_after_a_recovery_loses_nothing_that_it_found() {
    for seed in 0..50 * seed_count() {
        cut_after_recovery(seed);
    }
}

/// Kills the process of the script at some I/O, and cuts the power when the next one has recovered.
pub(crate) fn cut_after_recovery(seed: u64) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let ledger = Ledger::new(seed);
    let at = 1 + seed * 37 % 150;
    start(&sim, node, &ledger, STEPS);
    sim.run_until(
        || sim.io_count(node) >= at || ledger.borrow().is_done,
        LIMIT,
    );
    sim.kill(node);
    ledger.borrow_mut().is_done = false;
    let term = ledger.borrow().term;
    start(&sim, node, &ledger, STEPS);
    // A recovery begins a term.
    assert!(sim.run_until(|| ledger.borrow().term > term, LIMIT));
    sim.crash(node);
    start(&sim, node, &ledger, 3);
    assert!(sim.run_until(|| ledger.borrow().is_done, LIMIT));
    nothing_is_left_over(&sim, node, &ledger);
}

/// Whether some crash of the sweep shows the planted bug.
fn finds(bug: Bug) -> bool {
    plant(Some(bug));
    let found = catch_unwind(AssertUnwindSafe(|| {
        for seed in 1..5 {
            sweep(seed, 0);
        }
    }));
    plant(None);
    found.is_err()
}

#[test]
fn an_early_acknowledgement_is_found() {
    assert!(finds(Bug::AcknowledgeBeforeDurable));
}

#[test]
fn an_acknowledgement_before_the_values_is_found() {
    assert!(finds(Bug::AcknowledgeBeforeValues));
}

#[test]
fn a_skipped_directory_sync_is_found() {
    assert!(finds(Bug::SkipDirectorySync));
}
