//! The state machine's storage: memtables and sstables under one manifest.
//!
//! Writes come from applied log entries only, in log order, and touch memory only; the log makes
//! them durable. A full memtable is frozen and flushed in the background; the manifest edit of the
//! flush carries the log id that it covers (a checkpoint).
//!
//! Invariants:
//! * Of two versions of a key, the newer one is in the active memtable, or in a later frozen one, or
//!   in an earlier run of the version: the first version of a key that a search finds is the newest.
//! * A frozen memtable leaves memory in the same step in which its tables enter the version.
//! * checkpointed <= frozen, oldest first <= applied, and the log is durable up to the checkpoint (but for
//!   an installed snapshot, which replaces the log).
//! * Table numbers rise: none in use is as high as the next one.
//! * Changed sessions are put into a memtable when it is frozen, so a checkpoint is complete.

mod background;
mod collect;
mod compact;
mod damage;
mod edit;
mod fetch;
mod files;
mod flush;
mod get;
mod heal;
mod incoming;
mod inputs;
mod install;
mod merge;
mod outlook;
mod pace;
mod piece;
mod reclaim;
mod report;
mod rows;
mod run_writer;
mod scan;
mod scrub;
mod snapshot;
mod space;
mod statistics;
#[cfg(test)]
pub(crate) mod tests;
mod versions;
mod whole;

pub(crate) use damage::describe_keys;
pub use damage::{Damage, DamageHook, Remedy};
pub use fetch::{Fetched, FetchedEnd, FetchedKey};
pub use files::{FileEntry, FileKind, FileList, PinnedFiles};
pub use get::{FoundHead, FoundLarge, FoundRange, Lookup, Search, Sought, Stored};
pub use heal::Heal;
pub(crate) use incoming::put_back;
pub use incoming::{Incoming, IncomingProgress, MissingPiece};
pub use install::SnapshotWriter;
pub use outlook::{Returning, Wait};
pub use report::{LevelReport, StorageReport};
pub use rows::{Row, RowPage};
pub use scan::{Item, ItemHead, ScanPage, ScanRange};
pub use scrub::{ScrubOptions, ScrubProgress};
pub use snapshot::Snapshot;
pub use statistics::{Statistics, WorkStatistics};
pub(crate) use whole::check_large;

use crate::cache::BlockCache;
use crate::capacity::Capacity;
use crate::checkpoint::Checkpoint;
use crate::compaction::{self, Policy, WriteMix};
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::ids::{LogId, LogIndex, Owner, SegmentId, TableId, ValueSegmentId};
use crate::key::{Space, SpacedKey};
pub use crate::large::ItemValue;
use crate::large::LargeRef;
use crate::limits::{
    KEY_BYTES_MAX, MEMBERSHIP_BYTES_MAX, SEPARATED_FRACTION, SEPARATED_PER_MEMTABLE_BYTE,
    VALUE_BYTES_MAX,
};
use crate::manifest::Manifest;
use crate::memtable::{Memtable, Value};
use crate::pace::{Pace, PaceLimits, Pressure, judge};
use crate::pins::{Pin, Pins};
use crate::removal::Removals;
use crate::reserve::Reserve;
use crate::rounds::Rounds;
use crate::session::SessionTable;
use crate::sstable::{Compression, Table};
use crate::version::Version;
use crate::vlog::{Segments, ValueLog, ValuePointer};
use background::Background;
use bytes::Bytes;
use corelith_io::collections::HashMap;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{DirLock, Instant};
use damage::Damages;
use get::Searches;
use incoming::IncomingPlace;
use outlook::Outlook;
use pace::Backlog;
use reclaim::Reclaim;
use scrub::Scrubbing;
use statistics::Counters;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin as Pinned;
use std::rc::Rc;

/// A value as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Log index of the write that put it there.
    pub version: LogIndex,
    /// The bytes.
    pub value: Bytes,
}

/// See [`LogHooks::barrier`].
pub(crate) type Barrier = Pinned<Box<dyn Future<Output = Result<()>>>>;

/// See [`LogHooks::check`].
pub(crate) type Check = Pinned<Box<dyn Future<Output = Result<Option<u64>>>>>;

/// What the engine asks of the log.
pub(crate) struct LogHooks {
    /// Completes when the log, values included, is durable up to everything that was appended before
    /// the call.
    pub(crate) barrier: Box<dyn Fn() -> Barrier>,
    /// The last purged entry: the log refers to no value of an entry up to it.
    pub(crate) purged: Box<dyn Fn() -> Option<LogIndex>>,
    /// Whether there is no room on the device for the next segment of the log or of the value log.
    pub(crate) is_disk_full: Box<dyn Fn() -> bool>,
    /// Whether something appended waits for room on the device.
    pub(crate) is_stuck: Box<dyn Fn() -> bool>,
    /// Segments in use.
    pub(crate) segments: Box<dyn Fn() -> usize>,
    /// Whether a segment is in use.
    pub(crate) has_segment: Box<dyn Fn(SegmentId) -> bool>,
    /// The segments in use, and how much of each is durable.
    pub(crate) at_rest: Box<dyn Fn() -> Vec<(SegmentId, u64)>>,
    /// Checks some of a segment from an offset on; gives where to go on.
    pub(crate) check: Box<dyn Fn(SegmentId, u64) -> Check>,
}

/// How an engine works; see [`crate::ShardOptions`].
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    pub(crate) memtable_bytes: usize,
    pub(crate) policy: Policy,
    pub(crate) compaction: compaction::PickerOptions,
    pub(crate) limits: PaceLimits,
    pub(crate) compression: Compression,
    /// Values of received snapshots at least this long go to the value log; 0: none.
    pub(crate) value_threshold: usize,
    pub(crate) scrub: ScrubOptions,
    pub(crate) removal_step_bytes: u64,
    /// How much there may be.
    pub(crate) capacity: Capacity,
}

/// What an engine is opened with.
pub(crate) struct EngineParts {
    pub(crate) dir: Directory,
    pub(crate) owner: Owner,
    pub(crate) options: EngineOptions,
    pub(crate) cache: BlockCache,
    pub(crate) rounds: Rounds,
    pub(crate) values: ValueLog,
    pub(crate) manifest: Manifest,
    pub(crate) lock: Option<DirLock>,
    pub(crate) reserve: Reserve,
    pub(crate) log: LogHooks,
    /// Told of damage.
    pub(crate) on_damage: Option<DamageHook>,
}

/// The engine of one shard. Belongs to one core; clones share it.
///
/// Nothing is awaited between an entry's changes (to keys, or a session's opening or result) and
/// [`Engine::set_applied`]: a checkpoint that another task takes meanwhile would hold a part of the
/// entry. [`SessionTable::admit`] may come before; applied twice it changes nothing.
#[derive(Clone)]
pub struct Engine {
    inner: Rc<EngineInner>,
}

struct EngineInner {
    dir: Directory,
    owner: Owner,
    options: EngineOptions,
    log: LogHooks,
    cache: BlockCache,
    rounds: Rounds,
    values: ValueLog,
    pins: Rc<Pins>,
    sessions: RefCell<SessionTable>,
    state: RefCell<EngineState>,
    /// Held while a manifest edit is made.
    manifest_edit: Semaphore,
    /// Called when an edit, an install or a failure has changed the state.
    changed: Rc<Notify>,
    reserve: Reserve,
    removals: Removals,
    incoming: IncomingPlace,
    background: Background,
    damages: Damages,
    scrubbing: Scrubbing,
    pace: Pace,
    backlog: Backlog,
    outlook: Outlook,
    reclaim: Rc<Reclaim>,
    searches: Searches,
    /// Compactions that run.
    compacting: RefCell<Vec<Rc<compaction::CompactionTask>>>,
    /// Who keeps compactions from beginning.
    holds: heal::Holds,
    /// How much of what is written replaces something, as far as merges have told.
    mix: Cell<WriteMix>,
    counters: Counters,
    /// Length of the manifest in effect.
    manifest_bytes: Cell<u64>,
    /// Whether new values were refused for want of capacity at the last look.
    was_full: Cell<bool>,
    /// Since when there has been nothing to do, as far as the rounds have seen.
    rest: Cell<Option<space::Rest>>,
    /// What the foreground had done when the rounds looked last.
    visited_at: Cell<u64>,
    /// Free part of the device at the last look.
    free_fraction: Cell<f64>,
    /// Given up when the shard is closed: whoever still holds the engine keeps nobody from the directory.
    lock: RefCell<Option<DirLock>>,
}

/// A memtable that takes no more writes, and how far the state had come with it.
struct Frozen {
    memtable: Rc<Memtable>,
    checkpoint: Checkpoint,
}

struct EngineState {
    active: Rc<Memtable>,
    /// Oldest first.
    frozen: VecDeque<Rc<Frozen>>,
    version: Rc<Version>,
    applied: Checkpoint,
    /// When the first entry after the last freeze was applied.
    unfrozen_since: Option<Instant>,
    /// The manifest as it is on disk; its checkpoint is the last durable one.
    manifest: Manifest,
    next_table: TableId,
    policy: Policy,
    /// See [`separated_bytes_max`].
    separated_bytes_max: u64,
    /// Whether the flush task runs.
    flushing: bool,
    /// Why nothing will ever be flushed again.
    failure: Option<Error>,
    /// The last flush found the device full, and will be tried again.
    disk_full: bool,
    /// It is about to be closed: nothing waits for room on the device any more.
    stopping: bool,
    /// Why memtables were not flushed before it was closed.
    unflushed: Option<Error>,
    closed: bool,
    /// Tables that the manifest no longer names; their files go when no read holds them.
    obsolete: Vec<Rc<Table>>,
    /// Files that no manifest has named, of work that came to nothing.
    garbage: Vec<TableId>,
    /// The first segments that snapshots being received may have written to: nothing refers to
    /// their values yet.
    receiving: Vec<ValueSegmentId>,
    /// Segments that a reception of files needs, as often as it does: nothing may refer to their values yet.
    held: Vec<ValueSegmentId>,
}

impl EngineState {
    /// The state of an engine whose memtables are empty.
    fn opened(version: Rc<Version>, manifest: Manifest, options: &EngineOptions) -> Self {
        let state = Self {
            separated_bytes_max: separated_bytes_max(&version, options.memtable_bytes),
            active: Rc::default(),
            frozen: VecDeque::new(),
            version,
            applied: manifest.checkpoint.clone(),
            unfrozen_since: None,
            next_table: manifest.next_table,
            manifest,
            policy: options.policy,
            flushing: false,
            failure: None,
            disk_full: false,
            stopping: false,
            unflushed: None,
            closed: false,
            obsolete: Vec::new(),
            garbage: Vec::new(),
            receiving: Vec::new(),
            held: Vec::new(),
        };
        state.check();
        state
    }

    /// Asserts that checkpoints stand in order, and that the version is what the manifest says.
    fn check(&self) {
        let covered = self.frozen.iter().map(|frozen| frozen.checkpoint.index());
        let before = std::iter::once(self.manifest.checkpoint.index()).chain(covered.clone());
        assert!(
            before.zip(covered).all(|(before, after)| before < after),
            "checkpoints advance"
        );
        let newest = self.frozen.back().map(|frozen| &frozen.checkpoint);
        let newest = newest.unwrap_or(&self.manifest.checkpoint);
        assert!(
            newest.index() <= self.applied.index(),
            "a checkpoint is of applied entries"
        );
        assert!(
            self.manifest.next_table <= self.next_table,
            "table numbers rise"
        );
        debug_assert_eq!(
            self.version.tables().count(),
            self.manifest.tables.len(),
            "the version has the tables of the manifest"
        );
    }

    /// The active one and those that are flushed.
    fn memtables(&self) -> impl Iterator<Item = &Rc<Memtable>> {
        let frozen = self.frozen.iter().map(|frozen| &frozen.memtable);
        std::iter::once(&self.active).chain(frozen)
    }
}

/// Bytes of separated values at which a memtable is frozen although it is not full: which of them
/// are garbage shows only when their pointers are in tables, and until then the log holds them.
fn separated_bytes_max(version: &Version, memtable_bytes: usize) -> u64 {
    let live = version.tables().map(|table| table.meta().reference_bytes());
    let least = memtable_bytes as u64;
    (live.sum::<u64>() / SEPARATED_FRACTION).clamp(least, least * SEPARATED_PER_MEMTABLE_BYTE)
}

/// Everything a read looks at; it does not change under the reader, except that the active memtable
/// gets newer versions.
#[derive(Clone)]
struct ReadView {
    /// Newest first.
    memtables: Vec<Rc<Memtable>>,
    version: Rc<Version>,
    segments: Rc<Segments>,
    values: ValueLog,
}

impl Engine {
    /// Opens the engine on the tables that the manifest names.
    pub(crate) async fn open(parts: EngineParts) -> Result<Self> {
        let placed = &parts.manifest.tables;
        let mut tables = HashMap::default();
        for place in placed {
            let meta = place.meta.clone();
            let table = Table::open(&parts.dir, meta, &parts.cache).await?;
            tables.insert(place.meta.id, Rc::new(table));
        }
        let version = Rc::new(edit::version_of(placed, &tables));
        let view = ReadView {
            memtables: Vec::new(),
            version: Rc::clone(&version),
            segments: parts.values.segments(),
            values: parts.values.clone(),
        };
        let sessions = install::load_sessions(&view).await?;
        let pins = Rc::new(Pins::default());
        let state = EngineState::opened(version, parts.manifest, &parts.options);
        // What older versions there may have been is unknown.
        pins.dropped(state.applied.index().unwrap_or_default());
        let manifest_bytes = state.manifest.encode(parts.owner).len() as u64;
        let pace = Pace::default();
        let (limits, meter) = (parts.options.limits, Rc::clone(&pace.meter));
        let removal_rate = move |removals| {
            meter.measure(corelith_io::now());
            let pressure = Pressure {
                is_busy: meter.is_busy(),
                removals,
                ..Pressure::default()
            };
            judge(&pressure, &limits).removal
        };
        let inner = EngineInner {
            incoming: IncomingPlace::new(&parts.dir),
            dir: parts.dir,
            owner: parts.owner,
            removals: Removals::with_rate(parts.options.removal_step_bytes, removal_rate),
            options: parts.options,
            log: parts.log,
            cache: parts.cache,
            rounds: parts.rounds,
            values: parts.values,
            pins,
            sessions: RefCell::new(sessions),
            state: RefCell::new(state),
            manifest_edit: Semaphore::new(1),
            changed: Rc::default(),
            reserve: parts.reserve,
            background: Background::default(),
            damages: Damages::new(parts.on_damage),
            scrubbing: Scrubbing::default(),
            reclaim: Rc::new(Reclaim::new(limits, Rc::clone(&pace.meter))),
            pace,
            backlog: Backlog::default(),
            outlook: Outlook::default(),
            searches: Searches::default(),
            compacting: RefCell::default(),
            holds: heal::Holds::default(),
            mix: Cell::default(),
            counters: Counters::default(),
            manifest_bytes: Cell::new(manifest_bytes),
            was_full: Cell::new(false),
            rest: Cell::new(None),
            visited_at: Cell::new(0),
            free_fraction: Cell::new(1.0),
            lock: RefCell::new(parts.lock),
        };
        let engine = Self {
            inner: Rc::new(inner),
        };
        engine.start_background();
        Ok(engine)
    }

    /// The last applied log id, and the last membership record (see [`Engine::set_applied`]).
    /// After a restart: those of the last checkpoint.
    pub fn applied(&self) -> (Option<LogId>, Option<(LogId, Bytes)>) {
        let state = self.inner.state.borrow();
        (state.applied.applied, state.applied.membership.clone())
    }

    /// Puts a value under `key` at sequence number `at`. Memory only.
    ///
    /// # Panics
    /// If the key or value is longer than [`limits`](crate::limits) allows, or `at` is not beyond
    /// what is applied: the caller refuses such commands before and when they are applied.
    pub fn put(&self, at: LogIndex, key: &[u8], value: Bytes) {
        assert!(value.len() <= VALUE_BYTES_MAX, "a value is bounded");
        self.insert(at, key, Value::Inline(value));
    }

    /// Puts a value that the log has put into the value log under `key`. Memory only.
    ///
    /// # Panics
    /// As [`Engine::put`].
    pub fn put_separated(&self, at: LogIndex, key: &[u8], pointer: ValuePointer) {
        self.insert(at, key, Value::Separated(pointer));
    }

    /// Deletes `key` at sequence number `at`. Memory only.
    ///
    /// # Panics
    /// As [`Engine::put`].
    pub fn delete(&self, at: LogIndex, key: &[u8]) {
        self.insert(at, key, Value::Deleted);
    }

    /// Puts a large value under `key`, in the place of its bytes. Memory only.
    ///
    /// # Panics
    /// As [`Engine::put`].
    pub fn put_large(&self, at: LogIndex, key: &[u8], large: LargeRef) {
        self.insert(at, key, Value::Large(large.into()));
    }

    /// Puts a row of the shard's own. Memory only.
    ///
    /// # Panics
    /// As [`Engine::put`], and of a space that is not for rows.
    pub fn put_row(&self, at: LogIndex, space: Space, key: &[u8], value: Bytes) {
        assert!(value.len() <= VALUE_BYTES_MAX, "a value is bounded");
        self.insert_row(at, space.key(key), Value::Inline(value));
    }

    /// Puts a row whose value the log has put into the value log. Memory only.
    ///
    /// # Panics
    /// As [`Engine::put_row`], and of a space whose values are not separated.
    pub fn put_row_separated(&self, at: LogIndex, space: Space, key: &[u8], pointer: ValuePointer) {
        assert!(space.is_separable(), "values of {space:?} lie in tables");
        self.insert_row(at, space.key(key), Value::Separated(pointer));
    }

    /// Deletes a row. Memory only.
    ///
    /// # Panics
    /// As [`Engine::put_row`].
    pub fn delete_row(&self, at: LogIndex, space: Space, key: &[u8]) {
        self.insert_row(at, space.key(key), Value::Deleted);
    }

    fn insert_row(&self, at: LogIndex, key: SpacedKey<'_>, value: Value) {
        assert!(key.space.is_of_rows(), "{:?} has no rows", key.space);
        self.insert_spaced(at, key, value);
    }

    /// Gives the directory up, after everything of the shard is closed.
    pub(crate) fn unlock(&self) {
        self.inner.lock.take();
    }

    fn insert(&self, at: LogIndex, key: &[u8], value: Value) {
        self.insert_spaced(at, Space::User.key(key), value);
    }

    fn insert_spaced(&self, at: LogIndex, spaced: SpacedKey<'_>, value: Value) {
        let SpacedKey { space, key } = spaced;
        assert!(key.len() <= KEY_BYTES_MAX, "a key is bounded");
        let state = self.inner.state.borrow();
        assert!(
            state.applied.index() < Some(at),
            "writes are applied in log order"
        );
        let pace = &self.inner.pace;
        match &value {
            Value::Separated(_) => pace.note_write(key.len(), value.len()),
            _ => pace.note_write(key.len() + value.len(), 0),
        }
        let pins = &self.inner.pins;
        if state.active.insert(space, at, key, value, pins) {
            pins.dropped(at);
        }
    }

    /// The client sessions. Do not hold the borrow across an await.
    pub fn sessions(&self) -> RefMut<'_, SessionTable> {
        self.inner.sessions.borrow_mut()
    }

    /// Ends the application of the entry `id`; `membership` is its body if it is a membership
    /// entry. Freezes the memtable if it is full.
    ///
    /// # Panics
    /// If `id` is not beyond what is applied, or the record is too long.
    pub fn set_applied(&self, id: LogId, membership: Option<Bytes>) {
        let full = {
            let state = &mut *self.inner.state.borrow_mut();
            assert!(
                state.applied.index() < Some(id.index),
                "entries are applied in log order"
            );
            state.applied.applied = Some(id);
            state.unfrozen_since.get_or_insert_with(corelith_io::now);
            if let Some(record) = membership {
                assert!(
                    record.len() <= MEMBERSHIP_BYTES_MAX,
                    "a membership record is bounded"
                );
                state.applied.membership = Some((id, Bytes::copy_from_slice(&record)));
            }
            state.active.bytes() >= self.inner.options.memtable_bytes
                || state.active.separated_bytes() >= state.separated_bytes_max
        };
        if full {
            self.freeze();
        }
    }

    /// Keeps what a read at the last applied sequence number sees, for scans of several pages.
    pub fn pin(&self) -> Pin {
        let applied = self.inner.state.borrow().applied.index();
        Pin::new(&self.inner.pins, applied.unwrap_or_default())
    }

    /// Pins an earlier moment, if what was there can still be read.
    pub fn pin_at(&self, at: LogIndex) -> Option<Pin> {
        let now = self.pin();
        self.inner.pins.pin_at(at.min(now.at()))
    }

    /// Memory that memtables hold, in bytes.
    pub fn memtable_bytes(&self) -> usize {
        let state = self.inner.state.borrow();
        state.memtables().map(|memtable| memtable.bytes()).sum()
    }

    /// Number of tables, and their length in bytes.
    pub fn tables(&self) -> (usize, u64) {
        let state = self.inner.state.borrow();
        let bytes = state.version.tables().map(|table| table.meta().file_bytes);
        (state.version.tables().count(), bytes.sum())
    }

    /// Changes how the shard is compacted, from now on; what is there is rearranged in the
    /// background.
    pub fn set_policy(&self, policy: Policy) {
        self.inner.state.borrow_mut().policy = policy;
        self.inner.background.wake();
    }

    fn view(&self) -> ReadView {
        let state = self.inner.state.borrow();
        let frozen = state.frozen.iter().rev();
        let frozen = frozen.map(|frozen| Rc::clone(&frozen.memtable));
        ReadView {
            memtables: std::iter::once(Rc::clone(&state.active))
                .chain(frozen)
                .collect(),
            version: Rc::clone(&state.version),
            segments: self.inner.values.segments(),
            values: self.inner.values.clone(),
        }
    }

    fn new_table_id(&self) -> TableId {
        let state = &mut *self.inner.state.borrow_mut();
        let id = state.next_table;
        state.next_table = TableId(id.0 + 1);
        id
    }

    /// The error that everything which needs the disk gets from now on, if there was one.
    fn check_usable(&self) -> Result<()> {
        let state = self.inner.state.borrow();
        match &state.failure {
            Some(error) => Err(Error::Fenced(Box::new(error.clone()))),
            None if state.closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// As [`Engine::check_usable`], but a shard that is being closed may still flush.
    fn check_unfenced(&self) -> Result<()> {
        let state = self.inner.state.borrow();
        match &state.failure {
            Some(error) => Err(Error::Fenced(Box::new(error.clone()))),
            None => Ok(()),
        }
    }

    fn is_unfenced(&self) -> bool {
        self.inner.state.borrow().failure.is_none()
    }

    /// Takes nothing more after a failure whose outcome on disk is unknown.
    fn fence(&self, error: Error) {
        tracing::error!(shard = %self.inner.owner, %error, "the shard is fenced");
        self.inner.state.borrow_mut().failure.get_or_insert(error);
        self.inner.changed.notify_waiters();
        self.inner.background.wake();
    }
}
