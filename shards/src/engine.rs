//! The state machine's storage: memtables and sstables under one manifest.
//!
//! Writes come from applied log entries only, in log order, and touch memory only; the log makes
//! them durable. A full memtable is frozen and flushed in the background; the manifest edit of the
//! flush carries the log id that it covers (a checkpoint).
//!
//! Invariants:
//! * Of two versions of a key, the newer one is in the active memtable, or in a later frozen one, or
//!   in a table nearer to the front: whoever finds a key first has found its newest version.
//! * A frozen memtable leaves memory in the same step in which its table enters the view.
//! * checkpointed <= applied, and the log is durable up to the checkpoint (but for an installed
//!   snapshot, which replaces the log).
//! * Changed sessions are put into a memtable when it is frozen, so a checkpoint is complete.

mod flush;
mod get;
mod install;
mod merge;
mod piece;
mod scan;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;

pub use install::SnapshotWriter;
pub use scan::{Item, ScanPage, ScanRange};
pub use snapshot::Snapshot;

use crate::cache::BlockCache;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::ids::{LogId, LogIndex, Owner, TableId};
use crate::key::Space;
use crate::limits::{KEY_BYTES_MAX, MEMBERSHIP_BYTES_MAX, VALUE_BYTES_MAX};
use crate::manifest::Manifest;
use crate::memtable::Memtable;
use crate::pins::{Pin, Pins};
use crate::session::SessionTable;
use crate::sstable::Table;
use bytes::Bytes;
use corelith_io::DirLock;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::semaphore::Semaphore;
use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
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

/// Completes when the log is durable up to everything that was appended before the call.
pub(crate) type LogBarrier = Box<dyn Fn() -> Pinned<Box<dyn Future<Output = Result<()>>>>>;

/// What an engine is opened with.
pub(crate) struct EngineParts {
    pub(crate) dir: PathBuf,
    pub(crate) owner: Owner,
    pub(crate) memtable_bytes: usize,
    pub(crate) block_cache_bytes: usize,
    pub(crate) manifest: Manifest,
    pub(crate) lock: Option<DirLock>,
    pub(crate) log_barrier: LogBarrier,
}

/// The engine of one shard. Belongs to one core; clones share it.
///
/// Nothing is awaited between an entry's changes (to keys, or a session's opening or result) and
/// [`Engine::set_applied`]: a checkpoint that another task takes meanwhile would hold a part of the
/// entry. [`SessionTable::admit`] may come before; applied twice it changes nothing.
#[derive(Clone)]
pub struct Engine {
    inner: Rc<Inner>,
}

struct Inner {
    dir: PathBuf,
    owner: Owner,
    memtable_bytes: usize,
    log_barrier: LogBarrier,
    cache: BlockCache,
    pins: Rc<Pins>,
    sessions: RefCell<SessionTable>,
    state: RefCell<State>,
    /// Held while a manifest edit is made.
    manifest_edit: Semaphore,
    /// Called when a flush, an install or a failure has changed the state.
    changed: Notify,
    _lock: Option<DirLock>,
}

/// A memtable that takes no more writes, and how far the state had come with it.
struct Frozen {
    memtable: Rc<Memtable>,
    checkpoint: Checkpoint,
}

/// Open tables, newest first.
type Tables = Vec<Rc<Table>>;

struct State {
    active: Rc<Memtable>,
    /// Oldest first.
    frozen: VecDeque<Rc<Frozen>>,
    tables: Rc<Tables>,
    applied: Checkpoint,
    /// The manifest as it is on disk; its checkpoint is the last durable one.
    manifest: Manifest,
    next_table: TableId,
    /// Whether the flush task runs.
    flushing: bool,
    /// Why nothing will ever be flushed again.
    failure: Option<Error>,
    /// The last flush found the device full, and will be tried again.
    disk_full: bool,
    closed: bool,
    /// Tables that the manifest no longer names; their files go when no read holds them.
    obsolete: Vec<Rc<Table>>,
    /// Files that no manifest has named, of flushes and receptions that came to nothing.
    garbage: Vec<TableId>,
}

/// Everything a read looks at, newest first; it does not change under the reader, except that the
/// active memtable gets newer versions.
#[derive(Clone)]
struct View {
    memtables: Vec<Rc<Memtable>>,
    tables: Rc<Tables>,
}

impl Engine {
    /// Opens the engine on the tables that the manifest names.
    pub(crate) async fn open(parts: EngineParts) -> Result<Self> {
        let cache = BlockCache::new(parts.block_cache_bytes);
        let mut tables = Vec::new();
        for meta in &parts.manifest.tables {
            let table = Table::open(&parts.dir, parts.owner, meta.clone(), &cache).await?;
            tables.push(Rc::new(table));
        }
        let tables = Rc::new(tables);
        let sessions = install::load_sessions(&tables).await?;
        let pins = Rc::new(Pins::default());
        let applied = parts.manifest.checkpoint.clone();
        // What older versions there may have been is unknown.
        pins.dropped(applied.index().unwrap_or_default());
        let state = State {
            active: Rc::default(),
            frozen: VecDeque::new(),
            tables,
            applied,
            next_table: parts.manifest.next_table,
            manifest: parts.manifest,
            flushing: false,
            failure: None,
            disk_full: false,
            closed: false,
            obsolete: Vec::new(),
            garbage: Vec::new(),
        };
        let inner = Inner {
            dir: parts.dir,
            owner: parts.owner,
            memtable_bytes: parts.memtable_bytes,
            log_barrier: parts.log_barrier,
            cache,
            pins,
            sessions: RefCell::new(sessions),
            state: RefCell::new(state),
            manifest_edit: Semaphore::new(1),
            changed: Notify::new(),
            _lock: parts.lock,
        };
        Ok(Self {
            inner: Rc::new(inner),
        })
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
        self.insert(at, key, Some(value));
    }

    /// Deletes `key` at sequence number `at`. Memory only.
    ///
    /// # Panics
    /// As [`Engine::put`].
    pub fn delete(&self, at: LogIndex, key: &[u8]) {
        self.insert(at, key, None);
    }

    fn insert(&self, at: LogIndex, key: &[u8], value: Option<Bytes>) {
        assert!(key.len() <= KEY_BYTES_MAX, "a key is bounded");
        let state = self.inner.state.borrow();
        assert!(
            state.applied.index() < Some(at),
            "writes are applied in log order"
        );
        let pins = &self.inner.pins;
        if state.active.insert(Space::User, at, key, value, pins) {
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
            if let Some(record) = membership {
                assert!(
                    record.len() <= MEMBERSHIP_BYTES_MAX,
                    "a membership record is bounded"
                );
                state.applied.membership = Some((id, Bytes::copy_from_slice(&record)));
            }
            state.active.bytes() >= self.inner.memtable_bytes
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

    /// Memory that memtables hold, in bytes.
    pub fn memtable_bytes(&self) -> usize {
        let state = self.inner.state.borrow();
        let frozen = state.frozen.iter().map(|frozen| frozen.memtable.bytes());
        state.active.bytes() + frozen.sum::<usize>()
    }

    /// Whether the last flush found the device full. It is tried again until there is room; new
    /// values should be refused until then.
    pub fn is_disk_full(&self) -> bool {
        self.inner.state.borrow().disk_full
    }

    /// Number of tables, and their length in bytes.
    pub fn tables(&self) -> (usize, u64) {
        let state = self.inner.state.borrow();
        let bytes = state.tables.iter().map(|table| table.meta().file_bytes);
        (state.tables.len(), bytes.sum())
    }

    fn view(&self) -> View {
        let state = self.inner.state.borrow();
        let frozen = state.frozen.iter().rev();
        let frozen = frozen.map(|frozen| Rc::clone(&frozen.memtable));
        View {
            memtables: std::iter::once(Rc::clone(&state.active))
                .chain(frozen)
                .collect(),
            tables: Rc::clone(&state.tables),
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

    fn is_unfenced(&self) -> bool {
        self.inner.state.borrow().failure.is_none()
    }

    /// Takes nothing more after a failure whose outcome on disk is unknown.
    fn fence(&self, error: Error) {
        tracing::error!(shard = %self.inner.owner, %error, "the shard is fenced");
        self.inner.state.borrow_mut().failure.get_or_insert(error);
        self.inner.changed.notify_waiters();
    }
}
