//! The state machine's storage: memtables and sstables under one manifest.
//!
//! Writes come from applied log entries only, in log order, and touch memory only; the log makes
//! them durable. A full memtable is frozen and flushed in the background; the manifest edit of the
//! flush carries the log id that it covers (a checkpoint).

use crate::error::Result;
use crate::ids::{LogId, LogIndex};
use crate::session::SessionTable;
use bytes::Bytes;
use std::cell::RefMut;

/// A value as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Log index of the write that put it there.
    pub version: LogIndex,
    /// The bytes.
    pub value: Bytes,
}

/// One key of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// User key.
    pub key: Bytes,
    /// Its value and version.
    pub found: Found,
}

/// What to scan: user keys `start <= key < end` (`end` empty: to the last key).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// First key.
    pub start: Bytes,
    /// First key beyond, or empty.
    pub end: Bytes,
}

/// A part of a scan's result.
#[derive(Clone, Debug, Default)]
pub struct ScanPage {
    /// In key order.
    pub items: Vec<Item>,
    /// Whether keys follow; go on after the last item's key.
    pub more: bool,
}

/// The engine of one shard. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// The last applied log id, and the last membership record (see [`Engine::set_applied`]).
    /// After a restart: those of the last checkpoint.
    pub fn applied(&self) -> (Option<LogId>, Option<(LogId, Bytes)>) {
        todo!()
    }

    /// Puts a value under `key` at sequence number `at`. Memory only.
    pub fn put(&self, at: LogIndex, key: &[u8], value: Bytes) {
        let _ = (at, key, value);
        todo!()
    }

    /// Deletes `key` at sequence number `at`. Memory only.
    pub fn delete(&self, at: LogIndex, key: &[u8]) {
        let _ = (at, key);
        todo!()
    }

    /// The client sessions. Do not hold the borrow across an await.
    pub fn sessions(&self) -> RefMut<'_, SessionTable> {
        todo!()
    }

    /// Ends the application of the entry `id`; `membership` is its body if it is a membership
    /// entry. Freezes the memtable if it is full.
    pub fn set_applied(&self, id: LogId, membership: Option<Bytes>) {
        let _ = (id, membership);
        todo!()
    }

    /// Waits while flushes lag so far behind that no more may be applied (memory budget).
    pub async fn wait_for_room(&self) -> Result<()> {
        todo!()
    }

    /// The version of `key`'s current value, `None` if it has none. Memory only where possible.
    pub async fn version_of(&self, key: &[u8]) -> Result<Option<LogIndex>> {
        let _ = key;
        todo!()
    }

    /// The current value of `key` if it is in memory: `Some(None)` is a certain miss, `None` means
    /// that disk must be asked ([`Engine::get`]).
    pub fn get_in_memory(&self, key: &[u8]) -> Option<Option<Found>> {
        let _ = key;
        todo!()
    }

    /// The current value of `key`.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Found>> {
        let _ = key;
        todo!()
    }

    /// The first items of `range` as of sequence number `at` (`None`: now), until `max_items` or
    /// `max_bytes` of keys and values are reached; at least one item if there is one.
    pub async fn scan(
        &self,
        range: &ScanRange,
        at: Option<LogIndex>,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<ScanPage> {
        let _ = (range, at, max_items, max_bytes);
        todo!()
    }

    /// Flushes everything applied so far and returns the log id of the checkpoint that covers it.
    pub async fn checkpoint(&self) -> Result<Option<LogId>> {
        todo!()
    }

    /// The log id of the last durable checkpoint: a log purge must not go beyond it.
    pub fn checkpointed(&self) -> Option<LogId> {
        todo!()
    }

    /// Completes when the last durable checkpoint is beyond `known`.
    pub async fn wait_checkpoint(&self, known: Option<LogId>) -> Option<LogId> {
        let _ = known;
        todo!()
    }

    /// A consistent, complete image of the state as of the last applied entry; it pins what it
    /// needs until dropped.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }

    /// Starts receiving a snapshot into files of their own; nothing changes until
    /// [`Engine::install`]. Dropped unfinished, its files are removed (at the latest at the next
    /// start).
    pub async fn receive_snapshot(&self) -> Result<SnapshotWriter> {
        todo!()
    }

    /// Replaces the whole state by a received snapshot, atomically and durably. `received` must be
    /// newer than the applied log id.
    pub async fn install(&self, received: SnapshotWriter) -> Result<()> {
        let _ = received;
        todo!()
    }
}

/// See [`Engine::snapshot`]. Sent as a sequence of opaque pieces, each at most
/// `limits::SNAPSHOT_PIECE_BYTES_MAX` long and with a checksum of its own.
pub struct Snapshot {}

impl Snapshot {
    /// The log id and membership record it holds.
    pub fn applied(&self) -> (Option<LogId>, Option<(LogId, Bytes)>) {
        todo!()
    }

    /// The next piece, `None` at the end.
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        todo!()
    }
}

/// See [`Engine::receive_snapshot`].
pub struct SnapshotWriter {}

impl SnapshotWriter {
    /// Takes the next piece, in order.
    ///
    /// # Errors
    /// `Corrupt` if its checksum or its order is wrong: ask for it again or start over.
    pub async fn piece(&mut self, piece: Bytes) -> Result<()> {
        let _ = piece;
        todo!()
    }

    /// Ends the reception: all files are durable, and the log id and membership are known.
    ///
    /// # Errors
    /// `Corrupt` if the end is missing.
    pub async fn finish(&mut self) -> Result<(Option<LogId>, Option<(LogId, Bytes)>)> {
        todo!()
    }
}
