//! openraft's log storage: the shard's log.
//!
//! Damage that a read meets is noted in the engine, whatever becomes of the read: so the replica is known
//! to be ill, gets no lead and gives up the one it has (`group/upkeep.rs`). What follows from it:
//! * Entries to be sent to a follower: the leader goes on without sending them ([`Unsendable`]) until
//!   another node leads, or the log is purged beyond them and the follower gets a snapshot.
//! * Entries to be applied, and what openraft reads when it starts: without them there is no state. The
//!   error ends the replica and names the place.

use crate::activity::GroupActivity;
use crate::ahead::ParsedAhead;
use crate::limits::{APPEND_BYTES, APPLY_BYTES, DAMAGE_PAUSE};
use crate::types::{self, LogEntry, LogId, Types, Vote};
use corelith_shards::{self as shards, Engine, Log, LogIndex};
use futures_util::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use std::cell::Cell;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

/// The entry that could not be read to be sent, on its way from the log to the network: openraft takes an
/// error of the log for the end of the replica, and one of the network for a follower to try again.
#[derive(Debug, Default)]
pub(crate) struct Unsendable(Cell<Option<LogIndex>>);

impl Unsendable {
    fn note(&self, index: LogIndex) {
        self.0.set(Some(index));
    }

    /// Whether `index` is that entry. It is forgotten: the next one to need it reads it again.
    pub(crate) fn take(&self, index: LogIndex) -> bool {
        let is_that = self.0.get() == Some(index);
        if is_that {
            self.0.set(None);
        }
        is_that
    }
}

/// The log of one shard, to openraft.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
    engine: Engine,
    ahead: Rc<ParsedAhead>,
    unsendable: Rc<Unsendable>,
    activity: GroupActivity,
    /// Openraft applies nothing before it runs.
    is_deferred: bool,
}

impl LogStore {
    /// Makes a store over a shard's log, which leaves for the state machine what was parsed and for the
    /// network what cannot be sent. The engine remembers damage, and what is written is noted as activity.
    pub(crate) fn new(
        log: Log,
        engine: Engine,
        ahead: Rc<ParsedAhead>,
        unsendable: Rc<Unsendable>,
        activity: GroupActivity,
    ) -> Self {
        Self {
            log,
            engine,
            ahead,
            unsendable,
            activity,
            is_deferred: false,
        }
    }

    /// Has what is not applied yet applied once it is known anew to be committed, while the group runs.
    pub(crate) fn defer(&mut self) {
        self.is_deferred = true;
    }

    /// The part of `range` that the log holds, as `from..to`.
    fn held(&self, range: impl RangeBounds<u64>) -> (u64, u64) {
        let held = self.log.range();
        let first = held.purged.map_or(0, |id| id.index.0 + 1);
        let end = held.last.map_or(0, |id| id.index.0 + 1);
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => end,
        };
        (from.max(first), to.min(end))
    }

    /// The entries to be sent to a follower, values included; none if the first one is damaged, which is
    /// left to the network to say.
    async fn read(&self, from: u64, to: u64) -> io::Result<Vec<LogEntry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let (from, to) = (LogIndex(from), LogIndex(to));
        let mut read = self.log.read(from, to, APPEND_BYTES as u64).await;
        if let Err(error) = &read
            && error.is_corrupt()
        {
            self.engine.note_log_damage(error).await;
            // What lies before the damage can be sent.
            read = self.log.read(from, LogIndex(from.0 + 1), 0).await;
        }
        let entries = match read {
            Ok(entries) => entries,
            Err(error) if error.is_corrupt() => {
                self.engine.note_log_damage(&error).await;
                // A follower that waits for it has it tried again and again.
                corelith_io::sleep(DAMAGE_PAUSE).await;
                self.unsendable.note(from);
                return Ok(Vec::new());
            }
            Err(error) => return Err(io_error(error)),
        };
        check_run(&entries, from, to);
        Ok(entries.into_iter().map(LogEntry::from).collect())
    }

    /// The entries without the values that the log has separated.
    async fn read_heads(&self, from: u64, to: u64, max_bytes: u64) -> io::Result<Vec<LogEntry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let (from, to) = (LogIndex(from), LogIndex(to));
        let entries = match self.log.read_heads(from, to, max_bytes).await {
            Ok(entries) => entries,
            Err(error) => {
                self.engine.note_log_damage(&error).await;
                return Err(io_error(error));
            }
        };
        check_run(&entries, from, to);
        Ok(entries.into_iter().map(LogEntry::from).collect())
    }
}

/// What was read of `from..to` has no holes: openraft would take one entry for another.
fn check_run(entries: &[shards::Entry], from: LogIndex, to: LogIndex) {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return;
    };
    let (first, last) = (first.id.index, last.id.index);
    assert!(
        from <= first && last < to,
        "{first} to {last} were read of {from} to {to}"
    );
    assert_eq!(
        last.0 - first.0 + 1,
        entries.len() as u64,
        "entries between {first} and {last} are missing"
    );
}

/// A storage error on its way through openraft, which stops the group.
pub(crate) fn io_error(error: corelith_shards::Error) -> io::Error {
    // The error itself belongs to its core; openraft only reports it.
    io::Error::other(error.to_string())
}

impl RaftLogReader<Types> for LogStore {
    /// Without separated values: openraft asks it for ids, for memberships, and for what is to be applied,
    /// never for what is sent to others.
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let (mut from, to) = self.held(range);
        let mut entries = Vec::new();
        while from < to {
            let read = self.read_heads(from, to, u64::MAX).await?;
            let Some(last) = read.last() else { break };
            from = openraft::entry::RaftEntry::log_id_parts(last).1 + 1;
            entries.extend(read);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        let (from, to) = self.held(start..end);
        self.read(from, to).await
    }

    /// The entries to apply, read a few MiB at a time: after a restart there may be gigabytes.
    /// Applying does not look at separated values.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<LogEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug,
    {
        let (from, to) = self.held(range);
        let chunks = futures_util::stream::try_unfold(from, {
            let store = self.clone();
            move |from| {
                let store = store.clone();
                async move {
                    let entries = store.read_heads(from, to, APPLY_BYTES).await?;
                    let read = entries.len() as u64;
                    Ok::<_, io::Error>((read > 0).then(|| (entries, from + read)))
                }
            }
        });
        flatten(chunks)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().map(types::vote))
    }
}

/// The entries of a stream of chunks; an error ends it.
fn flatten(
    chunks: impl Stream<Item = io::Result<Vec<LogEntry>>>,
) -> impl Stream<Item = io::Result<LogEntry>> {
    use futures_util::{StreamExt, stream};
    chunks.flat_map(|chunk| match chunk {
        Ok(entries) => stream::iter(entries).map(Ok).left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    })
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let held = self.log.range();
        Ok(LogState {
            last_purged_log_id: held.purged.map(types::log_id),
            last_log_id: held.last.map(types::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.activity.note();
        self.log
            .save_vote(types::shard_vote(vote))
            .await
            .map_err(io_error)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log.note_committed(types::shard_log_id(committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let committed = match self.is_deferred {
            true => self.engine.applied().0,
            false => self.log.committed(),
        };
        Ok(committed.map(types::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry>,
    {
        // Nothing waits here unless the device has stalled with many MiB on their way to it: then
        // the group waits with it, which bounds its memory and lets another node take the lead.
        self.activity.note();
        self.log.wait_for_room().await.map_err(io_error)?;
        let entries = entries
            .into_iter()
            .map(|entry| {
                let parsed = entry.payload.parsed;
                let entry = shards::Entry::from(entry);
                if let Some(parsed) = parsed {
                    self.ahead.note(entry.id, parsed);
                }
                entry
            })
            .collect();
        self.log.append(entries, |result| {
            callback.io_completed(result.map_err(io_error));
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.activity.note();
        self.log
            .truncate_after(last.map(types::shard_log_id))
            .await
            .map_err(io_error)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.activity.note();
        self.log
            .purge(types::shard_log_id(upto))
            .await
            .map_err(io_error)
    }
}

#[cfg(test)]
mod tests;
