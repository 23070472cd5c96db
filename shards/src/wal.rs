//! The write-ahead log of a shard, which is its Raft log.
//!
//! * `entry`, `format`: what is kept, and the bytes on disk.
//! * `block`, `index`, `pipeline`: what is staged, what is held, and the way from staged to durable;
//!   pure.
//! * `shared`: what the log and its tasks share. `writer`: the task that writes blocks. `segment`,
//!   `segment_files`, `keeper`: the segments, their files, and the task that prepares and frees those.
//! * `files`, `scan`, `walk`, `replay`, `recovery`: finding out what the log holds after a start.
//! * `reader`: entries read back. `inspect`: a segment file printed.
//!
//! The values of separated entries are elsewhere, in the value log. Here they are a ticket: an entry
//! is durable when its blocks are and the value log has said that the values up to its ticket are
//! ([`Wal::value_listener`]). Whoever removes values does so only of entries whose purge is durable
//! ([`Wal::purged_durable`]).
//!
//! A failed write or sync is final: the log is fenced, since what the device holds is unknown.

mod block;
mod entry;
mod files;
mod format;
mod index;
pub(crate) mod inspect;
mod keeper;
mod pipeline;
mod reader;
mod recovery;
mod replay;
mod scan;
mod segment;
mod segment_files;
mod shared;
mod walk;
mod writer;

use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::flight;
use crate::ids::{LogId, LogIndex, Owner, ReplicaId, SegmentId, ShardId, Term, Ticket};
use crate::limits;
use crate::patience;
use crate::planted::{Bug, is_planted};
use crate::vlog::{LoggedValue, ValueState};
use corelith_io::BLOCK_SIZE;
use pipeline::BlockPipeline;
pub use pipeline::LogPulse;
use segment_files::SegmentFiles;
use shared::Shared;
use std::rc::Rc;

pub use entry::{Entry, ValuePart};
pub(crate) use recovery::examine;

/// The vote of this replica: the highest leadership claim it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vote {
    /// Term voted in.
    pub term: Term,
    /// Replica voted for.
    pub node: ReplicaId,
    /// Whether a majority granted it.
    pub committed: bool,
}

/// What the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRange {
    /// Last purged entry; all entries up to it are gone.
    pub purged: Option<LogId>,
    /// Last entry (may not be durable yet); equal to `purged` when nothing follows it.
    pub last: Option<LogId>,
}

/// How to open a log.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The id of the store; every block carries it.
    pub store_id: u64,
    /// Whose log it is; every block carries it.
    pub shard: ShardId,
    /// Length of a segment, rounded up to whole blocks and into the bounds of
    /// [`limits`](crate::limits).
    pub segment_bytes: u64,
    /// Recent entries kept in memory, in bytes.
    pub cache_bytes: usize,
}

/// What was found when a log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecovered {
    /// There was no log: it was created. A shard that has a checkpoint must take this for damage.
    pub created: bool,
    /// Intact blocks beyond the end. They were dropped because a block before them is torn, or a value of
    /// theirs or of a block before them. None of them was ever acknowledged.
    pub blocks_cut: u64,
}

/// How much of separated entries a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Whole bodies: those of entries in memory, and the reader sees to the values of the others.
    Bodies,
    /// Heads.
    Heads,
}

impl Want {
    fn part_of(self, entry: Entry) -> Entry {
        match self {
            Self::Bodies => entry,
            Self::Heads => entry.without_separated_value(),
        }
    }

    fn len_of(self, entry: &Entry) -> u64 {
        match self {
            Self::Bodies => entry.whole_len(),
            Self::Heads => entry.body.len() as u64,
        }
    }
}

/// The log of one shard. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Wal {
    handle: Rc<WalHandle>,
}

/// Ends the background tasks when the last clone of a log goes without [`Wal::close`].
struct WalHandle {
    shared: Rc<Shared>,
}

impl Drop for WalHandle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Wal {
    /// Opens the log in the directory `dir`, creating it if there is none.
    ///
    /// A checkpoint says that the log was durable up to the entry `covered`.
    ///
    /// `value_of` is asked about values that may never have become durable, and makes durable what it finds
    /// whole. If one is torn, its entry and everything after it was never acknowledged, and is dropped.
    ///
    /// # Errors
    /// `Corrupt` when acknowledged blocks are damaged or missing, or a value that was written whole,
    /// `NewerFormat`, `OtherStore`, `Io` (`NoSpace` when there is no room even for a short segment), and
    /// those of `value_of`.
    pub async fn open(
        dir: impl Into<Directory>,
        options: WalOptions,
        covered: Option<LogIndex>,
        value_of: impl AsyncFn(LoggedValue) -> Result<ValueState>,
    ) -> Result<(Self, LogRecovered)> {
        let options = options.within_limits();
        let dir = dir.into();
        corelith_io::create_dir_all(&dir).await?;
        let recovered = recovery::recover(&dir, &options, covered, &value_of).await?;
        let files = SegmentFiles::new(dir, recovered.next_id);
        let (first, spare) = files.after_recovery(&options, recovered.free).await?;
        let mut pipeline = BlockPipeline::new(
            options,
            recovered.index,
            recovered.segments,
            recovered.position,
        );
        let (number, result) = writer::execute(pipeline.begin_recovered(first)).await;
        result?;
        pipeline.complete(number, Ok(())).1?;
        if let Some(spare) = spare {
            pipeline.segments.add_prepared(spare);
        }
        if let Some(upto) = recovered.purge {
            pipeline.stage_purge(upto);
        }
        let shared = Rc::new(Shared::new(pipeline, files));
        shared.tasks.borrow_mut().extend([
            corelith_io::spawn(writer::run(Rc::clone(&shared))),
            corelith_io::spawn_background(keeper::run(Rc::clone(&shared))),
            corelith_io::spawn(writer::run_idle(Rc::clone(&shared))),
        ]);
        shared.wake_idle.notify_one();
        shared.wake_writer.notify_one();
        let handle = Rc::new(WalHandle { shared });
        let found = LogRecovered {
            created: recovered.created,
            blocks_cut: recovered.blocks_cut,
        };
        Ok((Self { handle }, found))
    }

    fn shared(&self) -> &Rc<Shared> {
        &self.handle.shared
    }

    /// Ends the waits in [`Wal::wait_for_room`].
    pub(crate) fn begin_stop(&self) {
        let shared = self.shared();
        shared.is_stopping.set(true);
        shared.progress.notify_waiters();
    }

    /// Whether the log will be closed.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared().is_stopping.get()
    }

    /// Waits for everything appended, makes the commit index durable and stops the background work.
    /// Whatever comes after that is answered with `Closed`. What waits for room on the device is given up
    /// after a while.
    ///
    /// # Errors
    /// `Fenced`, and one of no space if something was given up; the background work is stopped all the same.
    pub async fn close(&self) -> Result<()> {
        self.close_unless(|| self.is_stuck()).await
    }

    /// As [`Wal::close`], where `is_stuck` tells whether something waits for room.
    pub(crate) async fn close_unless(&self, is_stuck: impl Fn() -> bool) -> Result<()> {
        let shared = self.shared();
        let flushed = patience::unless_stuck(shared.flush_proven(), is_stuck).await;
        shared.stop();
        let tasks = std::mem::take(&mut *shared.tasks.borrow_mut());
        for task in tasks {
            task.await;
        }
        flushed
    }

    /// Waits while too much is appended that is not durable yet. Callers of [`Wal::append`] wait
    /// here first: that is what bounds the log's memory.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_for_room(&self) -> Result<()> {
        let shared = self.shared();
        flight::until(&shared.progress, || {
            let pipeline = shared.pipeline.borrow();
            let (staged, max) = (pipeline.outstanding_bytes(), limits::LOG_STAGED_BYTES_MAX);
            flight::room(&pipeline.fence, staged, max, shared.is_stopping.get())
        })
        .await
    }

    /// Whether there is no room on the device for the next segment. The active one still takes
    /// what makes room (deletes, membership changes, votes); new values should be refused.
    pub fn is_disk_full(&self) -> bool {
        self.shared().disk_full.get()
    }

    /// Segments in use.
    pub(crate) fn segments(&self) -> usize {
        self.shared().pipeline.borrow().segments.len()
    }

    /// Whether a segment is in use.
    pub(crate) fn has_segment(&self, id: SegmentId) -> bool {
        self.shared().pipeline.borrow().segments.get(id).is_some()
    }

    /// Whether what is appended waits for room on the device.
    pub(crate) fn is_stuck(&self) -> bool {
        self.shared().is_stuck.get()
    }

    /// Has what is written from now on go to another segment than this one, so that a purge can free it.
    pub(crate) fn end_segment(&self, id: SegmentId) {
        let shared = self.shared();
        if shared.pipeline.borrow_mut().end_segment(id) {
            shared.wake_writer.notify_one();
            shared.wake_keeper.notify_one();
        }
    }

    /// Checks the blocks of a segment from `offset` on, which is where one begins, as far as they are durable; returns
    /// where the next one begins, `None` at the end or if the segment is in use no more.
    ///
    /// # Errors
    /// `Corrupt` with the offset of a block that is not what was written there, `Io`.
    pub(crate) async fn check(&self, id: SegmentId, offset: u64) -> Result<Option<u64>> {
        let (segment, owner) = {
            let pipeline = self.shared().pipeline.borrow();
            let options = pipeline.options();
            let owner = Owner {
                store_id: options.store_id,
                shard: options.shard,
            };
            match pipeline.segments.get(id) {
                Some(segment) => (segment.clone(), owner),
                None => return Ok(None),
            }
        };
        let checked = scan::check(&segment, owner, offset).await;
        // It may have been freed meanwhile, and used again.
        match self.has_segment(id) {
            true => checked,
            false => Ok(None),
        }
    }

    /// The segments in use, and how much of each is durable.
    pub(crate) fn at_rest(&self) -> Vec<(SegmentId, u64)> {
        let pipeline = self.shared().pipeline.borrow();
        pipeline.segments.at_rest()
    }

    /// How the device answers.
    pub(crate) fn pulse(&self) -> LogPulse {
        self.shared().pipeline.borrow().pulse()
    }

    /// What the log holds, entries not yet durable included.
    pub fn range(&self) -> LogRange {
        self.shared().pipeline.borrow().index.range()
    }

    /// Appends consecutive entries. They are readable on return; `durable` is called once all of
    /// them (and everything appended before) are durable, or with the error after which this log
    /// never accepts anything again. Calls come in order of appends, from another task unless the
    /// answer is known at once. With `TooLarge` nothing was appended and the log goes on.
    ///
    /// The values of separated entries are durable when those up to the ticket `values` are.
    ///
    /// The first index must be `last + 1` (anything in a log that never held an entry).
    ///
    /// # Panics
    /// If the indexes do not follow, or a separated entry is not whole or not what its place says: a
    /// bug in the caller.
    pub fn append(
        &self,
        entries: Vec<Entry>,
        values: Ticket,
        durable: impl FnOnce(Result<()>) + 'static,
    ) {
        if let Err(error) = self.takes(&entries) {
            durable(Err(error));
            return;
        }
        let shared = self.shared();
        let mut pipeline = shared.pipeline.borrow_mut();
        for entry in entries {
            pipeline.stage_entry(entry, values);
        }
        if is_planted(Bug::AcknowledgeBeforeDurable) {
            drop(pipeline);
            shared.wake_writer.notify_one();
            durable(Ok(()));
            return;
        }
        let at_once = pipeline.wait(Box::new(durable));
        drop(pipeline);
        shared.wake_writer.notify_one();
        if let Some(durable) = at_once {
            durable(Ok(()));
        }
    }

    /// Whether [`Wal::append`] would take these entries.
    ///
    /// # Errors
    /// `TooLarge`, `Fenced` or `Closed`.
    pub fn takes(&self, entries: &[Entry]) -> Result<()> {
        self.shared().pipeline.borrow().fence.check()?;
        let longest = entries.iter().map(Entry::whole_len).max().unwrap_or(0);
        let limit = limits::LOG_ENTRY_BYTES_MAX as u64;
        match longest > limit {
            true => Err(Error::TooLarge {
                len: longest,
                limit,
            }),
            false => Ok(()),
        }
    }

    /// What the value log is to call when it has made values durable, with the highest ticket up to
    /// which all are, and when it never will. It does not keep the log open.
    pub fn value_listener(&self) -> impl Fn(Result<Ticket>) + 'static {
        let shared = Rc::clone(self.shared());
        move |progress| match progress {
            Ok(upto) => shared.values_durable(upto),
            Err(error) => shared.fail(error),
        }
    }

    /// Makes `vote` durable, after everything appended before. On return it is also proven: damage
    /// to it is told from a torn tail, so that a node never votes twice because of it.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn save_vote(&self, vote: Vote) -> Result<()> {
        self.shared().stage(|pipeline| pipeline.stage_vote(vote))?;
        if is_planted(Bug::VoteBeforeDurable) {
            return Ok(());
        }
        if is_planted(Bug::VoteWithoutProof) {
            return self.shared().flush().await;
        }
        self.shared().flush_proven().await
    }

    /// The last saved vote.
    pub fn vote(&self) -> Option<Vote> {
        self.shared().pipeline.borrow().state().vote
    }

    /// Notes the commit index: it rides on the next block that is written, or on one of its own when the
    /// log is idle for a second. It is not durable on return.
    pub fn note_committed(&self, committed: LogId) {
        let shared = self.shared();
        shared.pipeline.borrow_mut().note_committed(committed);
        shared.wake_idle.notify_one();
    }

    /// The last noted commit index, after a restart the last one that became durable.
    pub fn committed(&self) -> Option<LogId> {
        self.shared().pipeline.borrow().committed()
    }

    /// Removes all entries after `last` (all entries if `None`), by appending a record that says
    /// so. Returns when it is appended; it is durable before anything appended later is.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    ///
    /// # Panics
    /// If `last` was purged: a bug in the caller.
    pub async fn truncate_after(&self, last: Option<LogId>) -> Result<()> {
        let range = self.range();
        let index = last.map(|id| id.index);
        assert!(
            index >= range.purged.map(|id| id.index),
            "truncated after {last:?}, which is purged"
        );
        if index >= range.last.map(|id| id.index) {
            return Ok(());
        }
        self.shared()
            .stage(|pipeline| pipeline.stage_truncate_after(last))
    }

    /// Removes all entries up to and including `upto` (which may lie beyond the last entry, after
    /// a snapshot was installed) and frees the segments that hold nothing else, once the removal is
    /// durable.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn purge(&self, upto: LogId) -> Result<()> {
        let purged = self.range().purged;
        if purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        self.shared().stage(|pipeline| pipeline.stage_purge(upto))?;
        self.forget_purged();
        Ok(())
    }

    /// Frees the memory of purged entries bit by bit.
    fn forget_purged(&self) {
        let shared = Rc::downgrade(self.shared());
        drop(corelith_io::spawn_background(async move {
            while let Some(shared) = shared.upgrade()
                && shared.pipeline.borrow_mut().forget_purged()
            {
                drop(shared);
                corelith_io::sleep(limits::FREE_PAUSE).await;
            }
        }));
    }

    /// The last entry whose purge is durable: no recovery asks for the values of entries up to it.
    pub fn purged_durable(&self) -> Option<LogIndex> {
        self.shared().pipeline.borrow().purged_durable()
    }

    /// The last entry before the blocks in which the last `bytes` of written entries begin, values
    /// included; `None` if there are fewer bytes. Needs no I/O.
    pub fn before_last_bytes(&self, bytes: u64) -> Option<LogIndex> {
        self.shared()
            .pipeline
            .borrow()
            .index
            .before_last_bytes(bytes)
    }

    /// The id of the entry at `index`, if the log holds it. Needs no I/O.
    pub fn id_at(&self, index: LogIndex) -> Option<LogId> {
        self.shared().pipeline.borrow().index.id_at(index)
    }

    /// Returns the entries from `from` up to but not including `to` that the log holds, stopping
    /// early once their whole bodies exceed `max_bytes` (but always at least one if there is one).
    /// Of a separated entry that is no longer in memory only the head is there
    /// ([`Entry::is_whole`]).
    ///
    /// # Errors
    /// `Corrupt` when a block on disk is damaged, `Io`.
    pub async fn read(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> Result<Vec<Entry>> {
        reader::read(self.shared(), from, to, max_bytes, Want::Bodies).await
    }

    /// As [`Wal::read`], but of every separated entry only the head is there and counts.
    ///
    /// # Errors
    /// `Corrupt` when a block on disk is damaged, `Io`.
    pub async fn read_heads(
        &self,
        from: LogIndex,
        to: LogIndex,
        max_bytes: u64,
    ) -> Result<Vec<Entry>> {
        reader::read(self.shared(), from, to, max_bytes, Want::Heads).await
    }

    /// The entry at `index` without a separated value, if memory has it.
    pub fn head_in_memory(&self, index: LogIndex) -> Option<Entry> {
        let pipeline = self.shared().pipeline.borrow();
        pipeline.index.cached_one(index)
    }

    /// Waits until everything appended so far is durable.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn flush(&self) -> Result<()> {
        self.shared().flush().await
    }
}

impl WalOptions {
    fn within_limits(mut self) -> Self {
        self.segment_bytes = self
            .segment_bytes
            .clamp(limits::LOG_SEGMENT_BYTES_MIN, limits::LOG_SEGMENT_BYTES_MAX)
            .next_multiple_of(BLOCK_SIZE as u64);
        self
    }
}

#[cfg(test)]
pub(crate) mod tests;
