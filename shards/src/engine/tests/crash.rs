//! Crashes at every I/O of a scripted run, and failures of the device, in the Sim world.
//!
//! The log is not part of these runs: entry `index` is always [`apply`], so the state at an index is
//! known, and a recovered engine must hold exactly the state at the index it says.

use super::{log_id, open, range, settle};
use crate::engine::Engine;
use crate::error::Error;
use crate::ids::LogIndex;
use crate::planted::{Bug, plant};
use crate::session::tests::contents;
use crate::session::{Admission, SessionTable};
use bytes::Bytes;
use corelith_io::sim::{IoKind, Sim, SimNode};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const MEMTABLE_BYTES: usize = 4 << 10;
const LAST: u64 = 60;
/// The run installs a snapshot of this state when it has reached the index before.
const INSTALL_AT: u64 = 20;
const INSTALLED: u64 = 40;

/// What entry `index` does: the key and its value.
fn write(index: u64) -> (Vec<u8>, Option<Bytes>) {
    let key = format!("key/{}", index * 7 % 11).into_bytes();
    let len = match index % 9 {
        0 => 20_000,
        _ => 400,
    };
    let value = (!index.is_multiple_of(5)).then(|| Bytes::from(vec![index as u8; len]));
    (key, value)
}

pub(crate) fn membership(index: u64) -> Option<Bytes> {
    let record = || Bytes::copy_from_slice(&index.to_le_bytes());
    (index % 15 == 1).then(record)
}

/// Sessions: every sixth entry opens one, the others use the last one or the one before.
pub(crate) fn use_sessions(table: &mut SessionTable, index: u64) {
    if index % 6 == 1 {
        table.open(LogIndex(index));
        return;
    }
    let back = if index.is_multiple_of(4) { 6 } else { 0 };
    let session = (index - index % 6 + 1).saturating_sub(back);
    if table.admit(LogIndex(index), session, index, index.saturating_sub(5)) == Admission::Fresh {
        table.record(session, index, &index.to_le_bytes());
    }
}

pub(crate) fn apply(engine: &Engine, index: u64) {
    use_sessions(&mut engine.sessions(), index);
    match write(index) {
        (key, Some(value)) => engine.put(LogIndex(index), &key, value),
        (key, None) => engine.delete(LogIndex(index), &key),
    }
    engine.set_applied(log_id(index), membership(index));
}

/// Compares everything that the engine holds with the state at the index it says.
pub(crate) async fn check(engine: &Engine) -> Result<u64, String> {
    let (applied, members) = engine.applied();
    let at = applied.map_or(0, |id| id.index.0);
    let mut state = BTreeMap::new();
    let mut sessions = SessionTable::default();
    for index in 1..=at {
        use_sessions(&mut sessions, index);
        match write(index) {
            (key, Some(value)) => state.insert(key, (index, value)),
            (key, None) => state.remove(&key),
        };
    }
    let expected = (1..=at)
        .rev()
        .find_map(|index| Some((log_id(index), membership(index)?)));
    if members != expected {
        return Err(format!("at {at}: another membership"));
    }
    if contents(&engine.sessions()) != contents(&sessions) {
        return Err(format!("at {at}: other sessions"));
    }
    let page = engine.scan(&range(b"", b""), None, 1000, 1 << 30).await;
    let page = page.map_err(|error| error.to_string())?;
    let found = page.items.into_iter().map(|item| {
        let value = item.value.into_bytes().unwrap_or_default();
        (item.key.to_vec(), (item.version.0, value))
    });
    match found.eq(state) {
        true => Ok(at),
        false => Err(format!("at {at}: other keys or values")),
    }
}

/// How far a run has come, as its surroundings know.
#[derive(Default)]
struct Progress {
    applied: Cell<u64>,
    checkpointed: Cell<u64>,
    done: Cell<bool>,
}

impl Progress {
    fn note(&self, engine: &Engine) {
        let index = |id: Option<crate::LogId>| id.map_or(0, |id| id.index.0);
        self.applied.set(index(engine.applied().0));
        self.checkpointed.set(index(engine.checkpointed()));
    }
}

fn shard_dir() -> PathBuf {
    PathBuf::from("/data/shard-1")
}

async fn install(engine: &Engine, pieces: &[Bytes]) -> Result<(), Error> {
    let mut received = engine.receive_snapshot().await?;
    for piece in pieces {
        received.piece(piece.clone()).await?;
    }
    received.finish().await?;
    engine.install(received).await
}

/// Creates a shard and takes it through flushes, an installed snapshot and a restart.
async fn script(progress: Rc<Progress>, pieces: Rc<Vec<Bytes>>) -> Result<(), Error> {
    let mut engine = open(&shard_dir(), MEMTABLE_BYTES).await?;
    while progress.applied.get() < LAST {
        let next = progress.applied.get() + 1;
        engine.wait_for_room().await?;
        apply(&engine, next);
        progress.note(&engine);
        if next == INSTALL_AT {
            install(&engine, &pieces).await?;
            progress.note(&engine);
        }
        if next.is_multiple_of(16) {
            engine.checkpoint().await?;
            progress.note(&engine);
        }
        if next == INSTALLED + 10 {
            engine.close().await?;
            progress.note(&engine);
            drop(engine);
            engine = open(&shard_dir(), MEMTABLE_BYTES).await?;
        }
    }
    engine.close().await?;
    progress.note(&engine);
    progress.done.set(true);
    Ok(())
}

/// Opens what a crash has left, checks it, and goes on to the end.
async fn recover(checkpointed: u64, applied: u64) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let engine = open(&shard_dir(), MEMTABLE_BYTES).await.map_err(text)?;
    let at = check(&engine).await?;
    // A snapshot may be durable before its installation returns.
    let newest = if applied == INSTALL_AT {
        INSTALLED
    } else {
        applied
    };
    if at < checkpointed || at > newest {
        return Err(format!("recovered {at} of {checkpointed} to {newest}"));
    }
    check_no_orphans(&engine, &shard_dir()).await?;
    for index in at + 1..=LAST {
        engine.wait_for_room().await.map_err(text)?;
        apply(&engine, index);
    }
    check(&engine).await?;
    engine.close().await.map_err(text)?;
    drop(engine);
    let engine = open(&shard_dir(), MEMTABLE_BYTES).await.map_err(text)?;
    match check(&engine).await? {
        LAST => Ok(()),
        at => Err(format!("closed at {LAST}, opened at {at}")),
    }
}

async fn check_no_orphans(engine: &Engine, dir: &Path) -> Result<(), String> {
    settle(engine).await;
    let names = corelith_io::list_dir(dir)
        .await
        .map_err(|error| error.to_string())?;
    let names: Vec<String> = names.into_iter().map(|entry| entry.name).collect();
    // The lock, the manifest, the file that stands for the log, and the tables.
    match names.len() == 3 + engine.tables().0 {
        true => Ok(()),
        false => Err(format!("{} tables, but {names:?}", engine.tables().0)),
    }
}

/// The pieces of a snapshot at [`INSTALLED`].
fn snapshot_pieces(sim: &Sim, node: SimNode) -> Rc<Vec<Bytes>> {
    let pieces = sim.block_on(node, async {
        let engine = open(&shard_dir(), MEMTABLE_BYTES).await.unwrap();
        for index in 1..=INSTALLED {
            apply(&engine, index);
        }
        let mut snapshot = engine.snapshot();
        let mut pieces = Vec::new();
        while let Some(piece) = snapshot.next_piece().await.unwrap() {
            pieces.push(piece);
        }
        pieces
    });
    Rc::new(pieces)
}

/// Runs the script with a crash at its `n`-th I/O and up to `depth` more while recovering. Returns
/// whether there was a crash, and what was found wrong.
fn crash_run(seed: u64, n: u64, depth: u32) -> (bool, Result<(), String>) {
    let sim = Sim::new(seed);
    let (source, node) = (sim.add_node(), sim.add_node());
    let pieces = snapshot_pieces(&sim, source);
    let progress = Rc::new(Progress::default());
    let failure = Rc::new(RefCell::new(None));
    sim.crash_at_io(node, n);
    {
        let (progress, failure) = (Rc::clone(&progress), Rc::clone(&failure));
        sim.start(node, 0, move || async move {
            *failure.borrow_mut() = script(progress, pieces).await.err();
        });
    }
    let ended = || !sim.is_up(node) || progress.done.get() || failure.borrow().is_some();
    assert!(
        sim.run_until(ended, Duration::from_secs(100)),
        "seed {seed}, I/O {n}"
    );
    if let Some(error) = failure.take() {
        return (false, Err(format!("the run failed: {error}")));
    }
    if progress.done.get() {
        return (false, Ok(()));
    }
    let (checkpointed, applied) = (progress.checkpointed.get(), progress.applied.get());
    for _ in 0..depth {
        let slot = Rc::new(RefCell::new(None));
        sim.crash_at_io(node, sim.random_below(40) + 1);
        let result = Rc::clone(&slot);
        sim.start(node, 0, move || async move {
            let recovered = open(&shard_dir(), MEMTABLE_BYTES).await;
            let checked = match recovered {
                Ok(engine) => check(&engine).await.map(|_| ()),
                Err(error) => Err(error.to_string()),
            };
            *result.borrow_mut() = Some(checked);
        });
        let ended = || !sim.is_up(node) || slot.borrow().is_some();
        assert!(sim.run_until(ended, Duration::from_secs(100)));
        if let Some(Err(error)) = slot.take() {
            return (true, Err(format!("recovery under crashes: {error}")));
        }
        if sim.is_up(node) {
            sim.crash(node);
        }
    }
    (true, sim.block_on(node, recover(checkpointed, applied)))
}

/// Crashes at every I/O of the script; returns how many there were and what was found wrong.
fn crash_everywhere(seed: u64, depth: u32) -> (u64, Vec<String>) {
    let mut wrong = Vec::new();
    for n in 1.. {
        let (crashed, result) = crash_run(seed.wrapping_mul(10_000) + n, n, depth);
        if let Err(error) = result {
            wrong.push(format!("seed {seed}, I/O {n}: {error}"));
        }
        if !crashed {
            return (n - 1, wrong);
        }
    }
    (0, wrong)
}

/// How many seeds to run: `CORELITH_SIM_SEEDS`, or few.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("CORELITH_SIM_SEEDS").ok();
    0..count.and_then(|count| count.parse().ok()).unwrap_or(2)
}

#[test]
fn a_crash_at_any_io_leaves_the_state_of_a_checkpoint() {
    for seed in seeds() {
        let (crashes, wrong) = crash_everywhere(seed, 0);
        assert!(crashes > 100, "{crashes}");
        assert_eq!(wrong, Vec::<String>::new());
    }
}

#[test]
fn crashes_during_recovery_change_nothing() {
    for seed in seeds() {
        let (_, wrong) = crash_everywhere(1000 + seed, 5);
        assert_eq!(wrong, Vec::<String>::new());
    }
}

#[test]
fn a_directory_that_is_not_synced_is_found() {
    plant(Some(Bug::SkipDirectorySync));
    let (_, wrong) = crash_everywhere(7, 0);
    plant(None);
    assert!(!wrong.is_empty());
}

#[test]
fn a_failed_sync_fences_the_shard() {
    for (kind, part) in [
        (IoKind::Write, ".sst"),
        (IoKind::Sync, ".sst"),
        (IoKind::Sync, "MANIFEST"),
        (IoKind::Rename, "MANIFEST"),
        (IoKind::SyncDir, ""),
    ] {
        let sim = Sim::new(3);
        let node = sim.add_node();
        let engine = sim.block_on(node, async {
            let engine = open(&shard_dir(), 1 << 20).await.unwrap();
            (1..=9).for_each(|index| apply(&engine, index));
            engine.checkpoint().await.unwrap();
            (10..=15).for_each(|index| apply(&engine, index));
            engine
        });
        sim.disk(node).fail(kind, part, 0);
        sim.block_on(node, async move {
            let failed = engine.checkpoint().await.unwrap_err();
            assert!(matches!(failed, Error::Fenced(_)), "{failed}");
            assert!(engine.wait_for_room().await.is_err());
            assert!(engine.receive_snapshot().await.is_err());
            assert_eq!(check(&engine).await, Ok(15), "reads go on");
            assert!(engine.close().await.is_err());
        });
        sim.crash(node);
        sim.block_on(node, async {
            let engine = open(&shard_dir(), 1 << 20).await.unwrap();
            let at = check(&engine).await.unwrap();
            assert!(at == 9 || at == 15);
        });
    }
}

#[test]
fn a_full_disk_is_waited_out() {
    let sim = Sim::new(4);
    let node = sim.add_node();
    let engine = sim.block_on(node, async {
        let engine = open(&shard_dir(), 1 << 20).await.unwrap();
        (1..=30).for_each(|index| apply(&engine, index));
        engine
    });
    let disk = sim.disk(node);
    disk.set_capacity(disk.used_bytes() + 8192);
    let flushing = engine.clone();
    sim.start(node, 0, move || async move {
        flushing.checkpoint().await.unwrap();
    });
    assert!(sim.run_until(|| engine.is_disk_full(), Duration::from_secs(9)));
    sim.run_for(Duration::from_secs(5));
    assert_eq!(engine.checkpointed(), None);
    disk.set_capacity(1 << 30);
    let there = || engine.checkpointed() == Some(log_id(30));
    assert!(sim.run_until(there, Duration::from_secs(9)));
    sim.block_on(node, async move {
        assert!(!engine.is_disk_full());
        assert_eq!(check(&engine).await, Ok(30));
        check_no_orphans(&engine, &shard_dir()).await.unwrap();
        engine.close().await.unwrap();
    });
}
