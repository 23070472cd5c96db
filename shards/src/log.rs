//! The log of a shard: the façade over its write-ahead log and its value log.
//!
//! The value of an entry that is long enough is separated: written once, to the value log, while the
//! write-ahead log keeps the entry's head and a pointer. Both writes go out together, and the entry is
//! durable when both are.
//!
//! Invariants:
//! * Whether an entry is separated changes neither its body nor what applying it does.
//! * A value is staged before the record that points to it, and the record's blocks are durable only
//!   with the value (`wal/pipeline.rs`).

mod values;

use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::ids::{LogId, LogIndex, SegmentId, ShardId, Ticket};
use crate::limits;
use crate::patience;
use crate::wal::{Entry, LogPulse, LogRange, LogRecovered, Vote, Wal, WalOptions};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use std::future::Future;
pub(crate) use values::Values;

/// How to open a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The id of the store; every block carries it.
    pub store_id: u64,
    /// Whose log it is; every block carries it.
    pub shard: ShardId,
    /// Length of a segment, rounded up to whole blocks and into the bounds of
    /// [`limits`](crate::limits).
    pub segment_bytes: u64,
    /// Recent entries kept in memory, in bytes.
    pub cache_bytes: usize,
    /// Values of at least this length are separated, but none shorter than
    /// [`limits::SEPARATED_VALUE_BYTES_MIN`]; `None` separates nothing.
    pub separated_value_bytes: Option<usize>,
}

/// The log of one shard. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Log {
    wal: Wal,
    values: Values,
    /// A value of at least this length is separated.
    separated_from: Option<u32>,
}

impl Log {
    /// Opens the log in the directory `dir`, creating it if there is none, over an open value log. A
    /// checkpoint says that it was durable up to the entry `covered`.
    ///
    /// # Errors
    /// `Corrupt` when acknowledged blocks are damaged or missing, `NewerFormat`, `OtherStore`, and
    /// `Io` (`NoSpace` when there is no room even for a short segment).
    pub(crate) async fn open(
        dir: impl Into<Directory>,
        options: LogOptions,
        covered: Option<LogIndex>,
        values: Values,
    ) -> Result<(Self, LogRecovered)> {
        let wal_options = WalOptions {
            store_id: options.store_id,
            shard: options.shard,
            segment_bytes: options.segment_bytes,
            cache_bytes: options.cache_bytes,
        };
        let value_of = async |value| values.state_of(value).await;
        let (wal, recovered) = Wal::open(dir, wal_options, covered, value_of).await?;
        values.on_durable(wal.value_listener());
        let separated_from = options
            .separated_value_bytes
            .map(|bytes| bytes.max(limits::SEPARATED_VALUE_BYTES_MIN))
            .and_then(|bytes| u32::try_from(bytes).ok());
        let log = Self {
            wal,
            values,
            separated_from,
        };
        Ok((log, recovered))
    }

    /// Ends the waits for room: the log will be closed.
    pub(crate) fn begin_stop(&self) {
        self.wal.begin_stop();
        self.values.begin_stop();
    }

    /// Waits for everything appended, unless there is no room for it, makes the commit index durable and
    /// stops the background work.
    /// Whatever comes after that is answered with `Closed`.
    ///
    /// # Errors
    /// `Fenced`; the background work is stopped all the same.
    pub async fn close(&self) -> Result<()> {
        let closed = self.wal.close_unless(|| self.is_stuck()).await;
        self.values.close().await?;
        closed
    }

    /// Waits while too much is appended that is not durable yet. Callers of [`Log::append`] wait
    /// here first: that is what bounds the log's memory.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_for_room(&self) -> Result<()> {
        self.wal.wait_for_room().await?;
        self.values.wait_for_room().await
    }

    /// Whether there is no room on the device for what comes next. What makes room (deletes,
    /// membership changes, votes) is still taken; new values should be refused.
    pub fn is_disk_full(&self) -> bool {
        self.wal.is_disk_full() || self.values.is_disk_full()
    }

    /// Segments of the write-ahead log that are in use.
    pub(crate) fn segments(&self) -> usize {
        self.wal.segments()
    }

    /// Whether a segment of the write-ahead log is in use.
    pub(crate) fn has_segment(&self, id: SegmentId) -> bool {
        self.wal.has_segment(id)
    }

    /// Whether what is appended, or the values of it, waits for room on the device.
    pub(crate) fn is_stuck(&self) -> bool {
        self.wal.is_stuck() || self.values.is_stuck()
    }

    /// How the device that holds it answers.
    pub fn pulse(&self) -> LogPulse {
        self.wal.pulse()
    }

    /// What the log holds, entries not yet durable included.
    pub fn range(&self) -> LogRange {
        self.wal.range()
    }

    /// Appends consecutive entries. They are readable on return; `durable` is called once all of
    /// them (and everything appended before) are durable, or with the error after which this log
    /// never accepts anything again. Calls come in order of appends, from another task unless the
    /// answer is known at once. With `TooLarge` nothing was appended and the log goes on.
    ///
    /// The value that an entry says it has ([`Entry::value`]) is separated if it is long enough;
    /// where another log put it ([`Entry::place`]) does not matter.
    ///
    /// The first index must be `last + 1` (anything in a log that never held an entry).
    ///
    /// # Panics
    /// If the indexes do not follow, or an entry's value is not the end of its body: a bug in the
    /// caller.
    pub fn append(&self, mut entries: Vec<Entry>, durable: impl FnOnce(Result<()>) + 'static) {
        // Nothing is staged in the value log that this log would not refer to.
        if let Err(error) = self.wal.takes(&entries) {
            durable(Err(error));
            return;
        }
        let mut values = Ticket::default();
        for entry in &mut entries {
            match self.separate(entry) {
                Ok(ticket) => values = values.max(ticket),
                Err(error) => return durable(Err(error)),
            }
        }
        self.wal.append(entries, values, durable);
    }

    /// Stages the entry's value in the value log if it belongs there, and returns its ticket.
    fn separate(&self, entry: &mut Entry) -> Result<Ticket> {
        entry.place = None;
        let Some(value) = entry.value.take() else {
            return Ok(Ticket::default());
        };
        assert!(
            value.fits(entry.body.len()),
            "entry {} has {value:?} in a body of {} bytes",
            entry.id,
            entry.body.len()
        );
        let is_long = self.separated_from.is_some_and(|from| value.len >= from);
        if !is_long || value.len as usize > limits::VALUE_BYTES_MAX {
            return Ok(Ticket::default());
        }
        let bytes = entry.body.slice(value.start as usize..);
        let key = value
            .space
            .key(key_of(&entry.body, value.key_start, value.key_len));
        match self.values.stage(entry.id.index, key, bytes) {
            Ok((place, ticket)) => {
                assert_eq!(place.len, value.len, "all of the value is staged");
                assert!(ticket > Ticket::default(), "a value has a ticket");
                entry.value = Some(value);
                entry.place = Some(place);
                Ok(ticket)
            }
            // A segment is shorter than that: the value stays in the entry.
            Err(Error::TooLarge { .. }) => Ok(Ticket::default()),
            Err(error) => Err(error),
        }
    }

    /// Makes `vote` durable, after everything appended before. On return it is also proven: damage
    /// to it is told from a torn tail, so that a node never votes twice because of it.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn save_vote(&self, vote: Vote) -> Result<()> {
        self.unless_stopping(self.wal.save_vote(vote)).await
    }

    /// Waits for `work`, but for room that may never come no longer than a stop does.
    async fn unless_stopping(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        patience::unless_stuck(work, || self.wal.is_stopping() && self.is_stuck()).await
    }

    /// The last saved vote.
    pub fn vote(&self) -> Option<Vote> {
        self.wal.vote()
    }

    /// Notes the commit index: it rides on the next block that is written (and on one of its own
    /// when the log is idle for a while); it is not durable on return.
    pub fn note_committed(&self, committed: LogId) {
        self.wal.note_committed(committed);
    }

    /// The last noted commit index, after a restart the last one that became durable.
    pub fn committed(&self) -> Option<LogId> {
        self.wal.committed()
    }

    /// Removes all entries after `last` (all entries if `None`), by appending a record that says
    /// so. Returns when it is appended; it is durable before anything appended later is. The
    /// values of separated entries become garbage.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    ///
    /// # Panics
    /// If `last` was purged: a bug in the caller.
    pub async fn truncate_after(&self, last: Option<LogId>) -> Result<()> {
        self.wal.truncate_after(last).await
    }

    /// Removes all entries up to and including `upto` (which may lie beyond the last entry, after
    /// a snapshot was installed) and frees the segments that hold nothing else, once the removal is
    /// durable.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn purge(&self, upto: LogId) -> Result<()> {
        self.wal.purge(upto).await
    }

    /// The last entry whose purge is durable: only of entries up to here may the value log give up
    /// values.
    pub fn purged_durable(&self) -> Option<LogIndex> {
        self.wal.purged_durable()
    }

    /// The last entry before the last `bytes` of entries, values included; `None`
    /// if the log holds fewer. Needs no I/O, and knows of what was written before a restart too.
    pub fn before_last_bytes(&self, bytes: u64) -> Option<LogIndex> {
        self.wal.before_last_bytes(bytes)
    }

    /// The id of the entry at `index`, if the log holds it. Needs no I/O.
    pub fn id_at(&self, index: LogIndex) -> Option<LogId> {
        self.wal.id_at(index)
    }

    /// Returns the entries from `from` up to but not including `to` that the log holds, stopping
    /// early once their bodies exceed `max_bytes` (but always at least one if there is one).
    ///
    /// # Errors
    /// `Corrupt` when a block or a value on disk is damaged, `Io`.
    pub async fn read(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> Result<Vec<Entry>> {
        let heads = self.wal.read(from, to, max_bytes).await?;
        let mut completed = stream::iter(heads)
            .map(|entry| self.complete(entry))
            .buffered(limits::VALUE_READS_IN_FLIGHT_MAX);
        let mut entries = Vec::new();
        while let Some((id, completed)) = completed.next().await {
            match completed {
                Ok(entry) => entries.push(entry),
                // Purged or truncated while this was reading, and its value may be gone with it:
                // what was read before stands.
                Err(_) if self.wal.id_at(id.index) != Some(id) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// As [`Log::read`], but without the values of separated entries, which do not count either:
    /// what applying entries needs.
    ///
    /// # Errors
    /// `Corrupt` when a block on disk is damaged, `Io`.
    pub async fn read_heads(
        &self,
        from: LogIndex,
        to: LogIndex,
        max_bytes: u64,
    ) -> Result<Vec<Entry>> {
        self.wal.read_heads(from, to, max_bytes).await
    }

    /// The entry at `index`, if memory has it; of a separated one only the head.
    pub fn head_in_memory(&self, index: LogIndex) -> Option<Entry> {
        self.wal.head_in_memory(index)
    }

    /// Reads the value of an entry that comes without it.
    async fn complete(&self, mut entry: Entry) -> (LogId, Result<Entry>) {
        let id = entry.id;
        let (Some(place), Some(part)) = (entry.place, entry.value) else {
            return (id, Ok(entry));
        };
        if entry.is_whole() {
            return (id, Ok(entry));
        }
        let key = part
            .space
            .key(key_of(&entry.body, part.key_start, part.key_len));
        match self.values.read(place, key).await {
            Ok(value) => {
                entry.body = joined(&entry.body, &value);
                debug_assert!(entry.is_whole(), "a value fits its head");
                (id, Ok(entry))
            }
            Err(error) => (id, Err(error)),
        }
    }

    /// Has what is written from now on go to another segment than this one, so that a purge can free it.
    pub fn end_segment(&self, id: SegmentId) {
        self.wal.end_segment(id);
    }

    /// See [`Wal::check`].
    pub(crate) async fn check(&self, id: SegmentId, offset: u64) -> Result<Option<u64>> {
        self.wal.check(id, offset).await
    }

    /// See [`Wal::at_rest`].
    pub(crate) fn at_rest(&self) -> Vec<(SegmentId, u64)> {
        self.wal.at_rest()
    }

    /// Waits until everything appended so far is durable.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn flush(&self) -> Result<()> {
        self.unless_stopping(self.wal.flush()).await
    }
}

fn key_of(body: &[u8], start: u32, len: u32) -> &[u8] {
    let from = start as usize;
    body.get(from..from + len as usize).unwrap_or_default()
}

fn joined(head: &[u8], value: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(head.len() + value.len());
    whole.extend_from_slice(head);
    whole.extend_from_slice(value);
    whole.freeze()
}

#[cfg(test)]
pub(crate) mod tests;
