//! The way of a record from staged to durable: pure bookkeeping, without I/O.
//!
//! ```text
//! append ──> open block ──full──> sealed blocks ──submit──> in flight ──contiguous──> durable
//!                 └──────few writes in flight───────┘                     & values
//! ```
//!
//! Invariants:
//! * Blocks are submitted in the order of staging; their numbers and their crc chain follow it.
//! * A block is durable when its write has completed and the values that it refers to are durable
//!   (written by the value log, which tells its progress as the highest ticket of a contiguous
//!   durable prefix). Until then it is in flight.
//! * `durable` counts the contiguous durable prefix of all blocks; a waiter is called when the last
//!   block that holds something of what it waits for is below it, in order of staging.
//! * `proven` is the highest `flushed up to` in a durable block: damage below it can be told from a
//!   torn tail. A segment is released only when its whole content and what made it superfluous are
//!   below it.
//! * After a failure nothing is submitted or acknowledged any more.

use super::block::Block;
use super::format::{BlockHeader, FLAG_RECOVERED, FLAG_START, Record, State, segment_number};
use super::index::{Index, Slot};
use super::segment::{Prepared, Released, Segment, SegmentChain, units};
use super::{Entry, Vote, WalOptions};
use crate::error::{Error, Result};
use crate::flight::{Fence, WritesInFlight};
use crate::ids::{LogId, LogIndex, SegmentId, Ticket};
use crate::limits;
use crate::planted::{Bug, is_planted};
use corelith_io::{BLOCK_SIZE, Buf, File, Instant};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Called when something became durable, or never will.
pub(crate) type Callback = Box<dyn FnOnce(Result<()>)>;

/// Who waits for a block.
enum Waiter {
    Callback(Callback),
    /// The log itself: a purge up to here takes effect on disk.
    Purge(LogIndex),
}

/// A block to write.
pub(crate) struct BlockWrite {
    pub(crate) number: u64,
    pub(crate) file: Rc<File>,
    pub(crate) offset: u64,
    pub(crate) buf: Buf,
}

/// What the writer shall do next.
pub(crate) enum Next {
    /// Wait.
    Nothing,
    /// Wait for a prepared segment.
    NeedSegment,
    /// Submit this.
    Write(BlockWrite),
}

/// What another block would put on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// That the last blocks with a content are durable.
    Proof,
    /// The commit index.
    Commit,
}

/// A block on its way to the device.
struct BlockInFlight {
    sequence: u64,
    segment: SegmentId,
    /// Where the block ends in it.
    end: u64,
    bytes: usize,
    /// The values up to here must be durable.
    values: Ticket,
    flushed_up_to: u64,
    submitted_at: Instant,
}

/// How the device that holds a log answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPulse {
    /// Blocks that have become durable since the start.
    pub durable: u64,
    /// When the oldest block was submitted that is not durable.
    pub oldest: Option<Instant>,
    /// How long blocks take to become durable, smoothed over some twenty of them.
    pub latency: Duration,
}

/// Of the smoothed latency, the part that a new one counts.
const LATENCY_PARTS: u32 = 16;

/// Where a recovered log goes on.
#[derive(Default)]
pub(crate) struct Position {
    pub(crate) next_number: u64,
    pub(crate) previous: u32,
    pub(crate) state: State,
    pub(crate) committed: Option<LogId>,
}

/// See the module. Belongs to the core of its log.
pub(crate) struct BlockPipeline {
    options: WalOptions,
    block_bytes: usize,
    pub(crate) index: Index,
    /// After everything staged.
    state: State,
    committed: Option<LogId>,

    sealed: VecDeque<Block>,
    open: Option<Block>,
    /// Blocks ever opened here: the sequence number of the newest.
    staged_sequence: u64,
    waiters: VecDeque<(u64, Waiter)>,
    /// Staged or in flight.
    outstanding_bytes: usize,

    pub(crate) segments: SegmentChain,
    previous: u32,
    submitted_state: State,
    submitted_sequence: u64,
    submitted_commit: Option<LogIndex>,
    /// One more than the number of the last submitted block with a payload.
    submitted_content: u64,
    /// Sequence of the last submitted block that cut entries off.
    submitted_cut: u64,
    /// Blocks submitted and not durable, by number.
    flight: WritesInFlight<BlockInFlight>,

    durable: u64,
    durable_sequence: u64,
    /// Smoothed time from submitted to durable.
    latency: Duration,
    proven: u64,
    values_durable: Ticket,
    /// The last durable purge.
    purged_durable: Option<LogIndex>,
    /// The same while its segments are not released.
    to_release: Option<LogIndex>,

    pub(crate) fence: Fence,
}

impl BlockPipeline {
    pub(crate) fn new(
        options: WalOptions,
        index: Index,
        segments: VecDeque<Segment>,
        position: Position,
    ) -> Self {
        let room = usize::try_from(options.segment_bytes).unwrap_or(usize::MAX) - BLOCK_SIZE;
        let segments = SegmentChain::new(options.segment_bytes, segments);
        Self {
            block_bytes: limits::LOG_BLOCK_BYTES_MAX.min(room),
            options,
            index,
            state: position.state,
            committed: position.committed,
            sealed: VecDeque::new(),
            open: None,
            staged_sequence: 0,
            waiters: VecDeque::new(),
            outstanding_bytes: 0,
            segments,
            previous: position.previous,
            submitted_state: position.state,
            submitted_sequence: 0,
            submitted_commit: position.committed.map(|id| id.index),
            submitted_content: 0,
            submitted_cut: 0,
            flight: WritesInFlight::new(position.next_number, limits::LOG_WRITES_IN_FLIGHT_MAX),
            // A recovery has read them back and synced them.
            durable: position.next_number,
            latency: Duration::ZERO,
            durable_sequence: 0,
            proven: 0,
            values_durable: Ticket::default(),
            purged_durable: position.state.purged.map(|id| id.index),
            to_release: position.state.purged.map(|id| id.index),
            fence: Fence::default(),
        }
    }

    // ---- staging ----

    fn open_block(&mut self) -> &mut Block {
        debug_assert!(!self.fence.is_failed(), "staged after a failure");
        if self.open.is_none() {
            self.staged_sequence += 1;
        }
        let (bytes, sequence, state) = (self.block_bytes, self.staged_sequence, self.state);
        self.open
            .get_or_insert_with(|| Block::new(bytes, sequence, state))
    }

    fn seal(&mut self) {
        let (last, open) = (self.sealed.back(), self.open.as_ref());
        debug_assert!(
            last.zip(open)
                .is_none_or(|(last, open)| last.sequence < open.sequence),
            "blocks are sealed in the order of staging"
        );
        self.sealed.extend(self.open.take());
    }

    /// Stages an entry; if it is separated, its value is durable when those up to `values` are.
    pub(crate) fn stage_entry(&mut self, entry: Entry, values: Ticket) {
        let (head, mut rest) = entry.record();
        self.index.append(head.id);
        if !self.open_block().takes_entry(&head) {
            self.seal();
        }
        let taken = self.open_block().begin_entry(&head, rest, values);
        rest = rest.get(taken..).unwrap_or_default();
        self.state.last = Some(head.id);
        while !rest.is_empty() {
            self.seal();
            let taken = self.open_block().continue_entry(&head, rest);
            rest = rest.get(taken..).unwrap_or_default();
        }
        self.outstanding_bytes += head.header_bytes() + entry.body.len();
        self.index.keep(entry, self.staged_sequence);
    }

    fn stage_small_record(&mut self, record: &Record) {
        if !self.open_block().takes_small_record() {
            self.seal();
        }
        let state = self.state;
        self.open_block().put_small_record(record, state);
    }

    /// Stages a vote.
    pub(crate) fn stage_vote(&mut self, vote: Vote) {
        self.state.vote = Some(vote);
        self.stage_small_record(&Record::Vote(vote));
    }

    /// Stages a truncation.
    pub(crate) fn stage_truncate_after(&mut self, last: Option<LogId>) {
        self.index.truncate_after(last);
        self.state.last = self.index.range().last;
        if !is_planted(Bug::ForgetTruncation) {
            self.stage_small_record(&Record::TruncateAfter(last));
        }
    }

    /// Drops some of what was purged from memory; `false` when it has.
    pub(crate) fn forget_purged(&mut self) -> bool {
        self.index.forget_purged(limits::FREED_AT_ONCE)
    }

    /// Stages a purge.
    pub(crate) fn stage_purge(&mut self, upto: LogId) {
        self.index.purge(upto);
        self.state.purged = Some(upto);
        self.state.last = self.index.range().last;
        self.stage_small_record(&Record::Purge(upto));
        self.wait_for_staged(Waiter::Purge(upto.index));
        if is_planted(Bug::ReleaseEarly) {
            self.to_release = Some(upto.index);
            self.release();
        }
    }

    /// Stages a block without records, unless a block is staged anyway.
    pub(crate) fn stage_empty(&mut self) {
        if self.sealed.is_empty() {
            self.open_block();
        }
    }

    /// Has `callback` called when everything staged so far is durable; gives it back if that is so.
    pub(crate) fn wait(&mut self, callback: Callback) -> Option<Callback> {
        if self.durable_sequence == self.staged_sequence {
            return Some(callback);
        }
        self.wait_for_staged(Waiter::Callback(callback));
        None
    }

    fn wait_for_staged(&mut self, waiter: Waiter) {
        let last = self.waiters.back().map_or(0, |(at, _)| *at);
        assert!(last <= self.staged_sequence, "waiters are in order");
        assert!(self.durable_sequence <= self.staged_sequence);
        self.waiters.push_back((self.staged_sequence, waiter));
    }

    pub(crate) fn note_committed(&mut self, committed: LogId) {
        if self
            .committed
            .is_none_or(|known| known.index < committed.index)
        {
            self.committed = Some(committed);
        }
    }

    pub(crate) fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes
    }

    // ---- submission ----

    /// Decides what to write next.
    pub(crate) fn next(&mut self) -> Next {
        if self.fence.is_failed() || self.flight.is_full() {
            return Next::Nothing;
        }
        if self.sealed.is_empty() && self.flight.uncompleted() < limits::LOG_EAGER_WRITES {
            self.seal();
        }
        let Some(len) = self.sealed.front().map(Block::disk_len) else {
            return Next::Nothing;
        };
        if !self.segments.has_room(len) {
            return match self.segments.take_prepared() {
                Some(prepared) => Next::Write(self.begin_segment(prepared, 0)),
                None => Next::NeedSegment,
            };
        }
        match self.sealed.pop_front() {
            Some(block) => Next::Write(self.submit(block, 0)),
            None => Next::Nothing,
        }
    }

    /// Makes `prepared` the active segment of a log just recovered.
    pub(crate) fn begin_recovered(&mut self, prepared: Prepared) -> BlockWrite {
        self.begin_segment(prepared, FLAG_RECOVERED)
    }

    fn begin_segment(&mut self, prepared: Prepared, flags: u16) -> BlockWrite {
        self.segments.begin(prepared, self.flight.next());
        let start = Block::start(self.submitted_sequence, self.submitted_state);
        self.submit(start, FLAG_START | flags)
    }

    fn submit(&mut self, block: Block, flags: u16) -> BlockWrite {
        assert!(
            !self.fence.is_failed(),
            "a block is submitted after a failure"
        );
        assert!(
            block.sequence >= self.submitted_sequence,
            "blocks out of order"
        );
        let (number, len) = (self.flight.next(), block.disk_len());
        assert!(
            self.durable <= number,
            "a block is flushed before it is written"
        );
        let (active, offset) = self.segments.extend(len);
        let (segment, end, file) = (active.id, active.end, Rc::clone(&active.file));
        let commit = self.committed.map(|id| id.index);
        let header = BlockHeader {
            flags,
            payload_crc: 0,
            payload_len: 0,
            previous: self.previous,
            store_id: self.options.store_id,
            number,
            flushed_up_to: self.durable,
            commit,
            segment,
            shard: self.options.shard,
        };
        if flags & FLAG_START == 0 {
            let slot = Slot {
                first: LogIndex(0),
                segment: segment_number(segment),
                offset_units: units(offset),
                len_units: units(len as u64),
                bytes_up_to: 0,
            };
            self.index.add_block(block.entries, slot);
        }
        if !block.is_empty() {
            self.submitted_content = number + 1;
        }
        if block.entries.cut.is_some() {
            self.submitted_cut = block.sequence;
        }
        self.submitted_sequence = block.sequence;
        self.submitted_state = block.end_state;
        self.submitted_commit = commit;
        let submitted = self.flight.submit(BlockInFlight {
            sequence: block.sequence,
            segment,
            end,
            bytes: block.payload_len() + block.value_bytes,
            values: block.values,
            flushed_up_to: self.durable,
            submitted_at: corelith_io::now(),
        });
        assert_eq!(submitted, number, "a block is numbered as it is submitted");
        let (buf, crc) = block.finish(header);
        self.previous = crc;
        BlockWrite {
            number,
            file,
            offset,
            buf,
        }
    }

    // ---- completion ----

    /// Takes the outcome of a write, and returns the callbacks whose time has come, with what to
    /// tell them.
    pub(crate) fn complete(
        &mut self,
        number: u64,
        result: Result<()>,
    ) -> (Vec<Callback>, Result<()>) {
        self.flight.complete(number);
        if let Err(error) = result {
            return self.fail(error);
        }
        (self.advance(), Ok(()))
    }

    /// Notes that the values up to `upto` are durable, and returns the callbacks whose time has
    /// come.
    pub(crate) fn values_durable(&mut self, upto: Ticket) -> Vec<Callback> {
        self.values_durable = self.values_durable.max(upto);
        self.advance()
    }

    /// Moves the durable prefix on as far as it goes.
    fn advance(&mut self) -> Vec<Callback> {
        if self.fence.is_failed() {
            return Vec::new();
        }
        let values = match is_planted(Bug::AcknowledgeBeforeValues) {
            true => Ticket(u64::MAX),
            false => self.values_durable,
        };
        while let Some((number, write)) = self.flight.pop_durable(|write| write.values <= values) {
            assert_eq!(number, self.durable, "a gap in the durable prefix");
            assert!(
                self.durable_sequence <= write.sequence && write.sequence <= self.staged_sequence,
                "blocks are durable in the order of staging"
            );
            self.durable += 1;
            let took = write.submitted_at.elapsed();
            self.latency = self.latency - self.latency / LATENCY_PARTS + took / LATENCY_PARTS;
            self.durable_sequence = write.sequence;
            self.segments.note_durable(write.segment, write.end);
            self.proven = self.proven.max(write.flushed_up_to);
            assert!(self.proven < self.durable, "what proves is durable itself");
            self.outstanding_bytes = match self.durable_sequence == self.staged_sequence {
                true => 0,
                false => self.outstanding_bytes.saturating_sub(write.bytes),
            };
        }
        let mut ready = Vec::new();
        let durable = self.durable_sequence;
        while let Some((_, waiter)) = self.waiters.pop_front_if(|(at, _)| *at <= durable) {
            match waiter {
                Waiter::Callback(callback) => ready.push(callback),
                Waiter::Purge(upto) => {
                    self.purged_durable = Some(upto);
                    self.to_release = Some(upto);
                }
            }
        }
        self.index.evict(durable);
        self.release();
        ready
    }

    /// Fences the log: everybody who waits is told, and nothing is taken any more.
    pub(crate) fn fail(&mut self, error: Error) -> (Vec<Callback>, Result<()>) {
        let error = self.fence.fail(error);
        self.sealed.clear();
        self.open = None;
        self.outstanding_bytes = 0;
        let waiters = std::mem::take(&mut self.waiters);
        let callbacks = waiters.into_iter().filter_map(|(_, waiter)| match waiter {
            Waiter::Callback(callback) => Some(callback),
            Waiter::Purge(_) => None,
        });
        (callbacks.collect(), Err(error))
    }

    /// Releases the segments that a durable purge has made superfluous.
    fn release(&mut self) {
        // A truncation not yet durable has taken its blocks out of the index; their segments are
        // needed as long as it may be lost.
        if self.submitted_cut > self.durable_sequence {
            return;
        }
        let Some(upto) = self.to_release.take() else {
            return;
        };
        assert!(
            Some(upto) <= self.purged_durable || is_planted(Bug::ReleaseEarly),
            "only what a durable purge covers is released"
        );
        let needed = self.index.release_slots(upto);
        while let Some((oldest, next_number)) = self.segments.oldest()
            && needed.is_none_or(|needed| oldest < needed)
        {
            if next_number >= self.durable && !is_planted(Bug::ReleaseEarly) {
                self.to_release = Some(upto);
                return;
            }
            self.segments.release_oldest(self.durable);
        }
    }

    /// Has the next block go to a new segment if that one is active, so that it can be released; whether it is.
    pub(crate) fn end_segment(&mut self, id: SegmentId) -> bool {
        let is_active = self.fence.check().is_ok() && self.segments.end_active(id);
        if is_active {
            self.stage_empty();
            // What was purged before may be all that it holds.
            self.to_release = self.to_release.max(self.purged_durable);
        }
        is_active
    }

    // ---- state of the log on disk ----

    pub(crate) fn proven(&self) -> u64 {
        self.proven
    }

    /// Blocks submitted so far: it changes whenever something is written.
    pub(crate) fn submitted(&self) -> u64 {
        self.flight.next()
    }

    /// What a crash now would find missing on disk.
    pub(crate) fn lack(&self) -> Option<Lack> {
        if self.fence.is_failed() {
            return None;
        }
        match self.submitted_content > self.proven {
            true => Some(Lack::Proof),
            false => self.wants_commit().then_some(Lack::Commit),
        }
    }

    /// One more than the number of the last submitted block that holds something.
    pub(crate) fn content(&self) -> u64 {
        self.submitted_content
    }

    /// Whether the commit index was noted after the last submitted block.
    pub(crate) fn wants_commit(&self) -> bool {
        self.submitted_commit != self.committed.map(|id| id.index)
    }

    /// Whether there is nothing to write or being written.
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.uncompleted() == 0 && self.open.is_none() && self.sealed.is_empty()
    }

    /// Whether everything staged is durable.
    pub(crate) fn is_all_durable(&self) -> bool {
        self.durable_sequence == self.staged_sequence && self.flight.is_empty()
    }

    /// How the device answers.
    pub(crate) fn pulse(&self) -> LogPulse {
        LogPulse {
            durable: self.durable,
            oldest: self.flight.oldest().map(|write| write.submitted_at),
            latency: self.latency,
        }
    }

    /// The last entry whose purge is durable.
    pub(crate) fn purged_durable(&self) -> Option<LogIndex> {
        self.purged_durable
    }

    /// Whether the next segment should be prepared.
    pub(crate) fn wants_segment(&self) -> bool {
        !self.fence.is_failed() && self.segments.wants_segment()
    }

    /// Whether a segment of which `done` bytes are pre-written would be late.
    pub(crate) fn is_behind(&self, done: u64) -> bool {
        self.fence.is_closed() || self.segments.is_behind(done)
    }

    /// The oldest released segment, once it may be freed.
    pub(crate) fn take_released(&mut self) -> Option<Released> {
        let proven = match is_planted(Bug::ReleaseEarly) {
            true => u64::MAX,
            false => self.proven,
        };
        self.segments.take_released(proven)
    }

    /// See [`SegmentChain::short_segment_bytes`].
    pub(crate) fn short_segment_bytes(&self) -> Option<u64> {
        self.segments.short_segment_bytes(self.block_bytes)
    }

    pub(crate) fn options(&self) -> &WalOptions {
        &self.options
    }
}

#[cfg(test)]
mod tests;
