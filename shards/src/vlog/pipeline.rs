//! The way of a value from staged to durable: pure bookkeeping, without I/O.
//!
//! ```text
//! stage ──> open buffer ──full──> sealed buffers ──submit──> in flight ──contiguous──> durable
//!                └───────few writes in flight───────┘
//! ```
//!
//! Invariants:
//! * Where a record will be is decided when it is staged, whether or not its segment exists yet.
//!   Segments are used in the order of their ids, without a gap.
//! * Buffers are submitted in the order of staging, each at the offset that was decided.
//! * `durable` counts the contiguous durable prefix of all staged values.
//! * No block is written twice: what is submitted ends at a multiple of 4 KiB, and the next record
//!   starts there or later.
//! * After a failure nothing is submitted or reported durable any more.
//!
//! Writes go to allocated space with `O_DSYNC`. Measured with one file on the development machine (ext4
//! on a virtio disk; two cores, busy with compilers); GiB/s, medians of seven runs:
//!
//! ```text
//!                                              64 KiB x 2    x 8   x 16   1 MiB x 2    x 4    x 8   x 16
//! allocated, O_DSYNC                                 0.07   0.52   0.79        0.87   1.15   1.40   1.08
//! growing, O_DSYNC                                   0.13   0.05   0.13        0.35   0.93   0.93   0.51
//! allocated, one fdatasync per completed group       0.26   0.50   0.60        0.63   0.80   1.10   0.86
//! written with zeros before, O_DSYNC                 0.22   0.63   1.01        1.21   1.69   1.48   1.55
//! ```
//!
//! Growing commits the journal for every write. Writing zeros first is fastest while it is not
//! counted, but writes everything twice; the log does that, for its small writes. A sync per group is
//! better only at a few small writes at once.

use super::ValueLogOptions;
use super::format::{FileHeader, RECORD_ALIGNMENT, RECORDS_START, RecordHeader};
use super::pointer::ValuePointer;
use super::segments::{Segment, Totals};
use crate::error::{Error, Result};
use crate::flight::{self, Fence, WritesInFlight};
use crate::ids::{FileSeries, LogIndex, Ticket, ValueSegmentId};
use crate::key::SpacedKey;
use crate::limits;
use corelith_io::{BLOCK_SIZE, Buf};
use std::collections::VecDeque;
use std::rc::Rc;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// A buffer of staged bytes that one write takes to its segment.
struct Batch {
    segment: ValueSegmentId,
    offset: u64,
    buf: Buf,
    /// Bytes used.
    len: usize,
    mark: StagedMark,
}

/// The last record that ends in a buffer or before it.
#[derive(Clone, Copy)]
struct StagedMark {
    ticket: Ticket,
    /// Where it ends, or the first one of the segment begins.
    end: u64,
    /// Of the segment, up to it.
    totals: Totals,
}

impl Batch {
    fn room(&self) -> usize {
        self.buf.len() - self.len
    }

    /// Where the write of it ends.
    fn end(&self) -> u64 {
        self.offset + self.len.next_multiple_of(BLOCK_SIZE) as u64
    }
}

/// A buffer on its way to the device.
struct BatchInFlight {
    segment: Rc<Segment>,
    end: u64,
    bytes: usize,
    mark: StagedMark,
}

/// A buffer to write.
pub(super) struct BatchWrite {
    pub(super) number: u64,
    pub(super) segment: Rc<Segment>,
    pub(super) offset: u64,
    pub(super) buf: Buf,
}

/// What the writer shall do next.
pub(super) enum Next {
    /// Wait.
    Nothing,
    /// Wait for a prepared segment.
    NeedSegment,
    /// Show this segment to readers: it is the one that is written from now on.
    Begin(Rc<Segment>),
    /// Submit this.
    Write(BatchWrite),
}

/// See the module. Belongs to the core of its value log.
pub(super) struct ValuePipeline {
    series: FileSeries,
    /// Of the segment that the next record goes to.
    seed: u32,
    segment_bytes: u64,

    /// Where the next record goes.
    segment: ValueSegmentId,
    offset: u64,
    slot: u32,
    staged: StagedMark,
    outstanding_bytes: usize,
    open: Option<Batch>,
    sealed: VecDeque<Batch>,

    active: Option<Rc<Segment>>,
    prepared: Option<Rc<Segment>>,
    next_prepared: ValueSegmentId,
    starved: bool,
    /// The segment written to last, and the end of the last write to it.
    submitted_end: (ValueSegmentId, u64),
    /// Full segments, oldest first, whose writes may still be in flight.
    full: VecDeque<Rc<Segment>>,

    flight: WritesInFlight<BatchInFlight>,
    durable: Ticket,
    /// Records that begin before here are durable.
    durable_at: (ValueSegmentId, u64),

    pub(super) fence: Fence,
}

impl ValuePipeline {
    /// Starts with the segment `next`, which does not exist yet.
    pub(super) fn new(options: ValueLogOptions, next: ValueSegmentId) -> Self {
        let series = options.series;
        Self {
            series,
            seed: FileHeader::first(series.segment(next)).seed(),
            segment_bytes: options.segment_bytes,
            segment: next,
            offset: RECORDS_START,
            slot: 0,
            staged: StagedMark {
                ticket: Ticket(0),
                end: RECORDS_START,
                totals: Totals::default(),
            },
            outstanding_bytes: 0,
            open: None,
            sealed: VecDeque::new(),
            active: None,
            prepared: None,
            next_prepared: next,
            starved: false,
            submitted_end: (next, RECORDS_START),
            full: VecDeque::new(),
            flight: WritesInFlight::new(0, limits::VLOG_WRITES_IN_FLIGHT_MAX),
            durable: Ticket(0),
            durable_at: (next, RECORDS_START),
            fence: Fence::default(),
        }
    }

    // ---- staging ----

    /// Stages a value.
    pub(super) fn stage(
        &mut self,
        at: LogIndex,
        key: SpacedKey<'_>,
        value: &[u8],
    ) -> Result<(ValuePointer, Ticket)> {
        self.fence.check()?;
        let mut header = self.header_of(at, key, value)?;
        let len = header.record_len();
        let fits = |offset: u64| offset + len <= self.segment_bytes;
        let start = self.offset.next_multiple_of(RECORD_ALIGNMENT);
        let start = match fits(start) && self.slot < limits::VLOG_SLOTS_MAX {
            true => start,
            false => self.begin_segment(),
        };
        assert!(
            start + len <= self.segment_bytes,
            "a record never spans two segments"
        );
        (header.slot, header.offset) = (self.slot, start);
        // Two passes over the value: the checksums of its pages come before it.
        let (head, crc) = header.encode_head(self.seed, key.key, value);
        let padding = usize::try_from(start - self.offset).unwrap_or(0);
        self.put(
            [0; RECORD_ALIGNMENT as usize]
                .get(..padding)
                .unwrap_or_default(),
        );
        self.put(&head);
        self.put(value);

        assert_eq!(
            self.offset.max(start + len),
            self.offset,
            "all of it is put"
        );
        self.slot += 1;
        self.staged.ticket = Ticket(self.staged.ticket.0 + 1);
        self.staged.end = start + len;
        self.staged.totals.add(key.key.len(), header.value_len, at);
        let last = self.open.as_mut().or(self.sealed.back_mut());
        if let Some(batch) = last {
            batch.mark = self.staged;
        }
        let pointer = ValuePointer {
            segment: self.segment,
            slot: header.slot,
            offset: start,
            len: header.value_len,
            crc,
        };
        Ok((pointer, self.staged.ticket))
    }

    fn header_of(&self, at: LogIndex, key: SpacedKey<'_>, value: &[u8]) -> Result<RecordHeader> {
        let key_len = check_len(key.key.len(), limits::KEY_BYTES_MAX)?;
        let value_len = check_len(value.len(), limits::VALUE_BYTES_MAX)?;
        let header = RecordHeader {
            key_len,
            value_len,
            space: key.space,
            slot: 0,
            at,
            offset: 0,
        };
        let room = self.segment_bytes - RECORDS_START;
        if header.record_len() > room {
            return Err(Error::TooLarge {
                len: header.record_len(),
                limit: room,
            });
        }
        Ok(header)
    }

    /// Goes on to the next segment; returns where its first record is.
    fn begin_segment(&mut self) -> u64 {
        self.seal();
        self.segment = ValueSegmentId(self.segment.0 + 1);
        assert!(!self.segment.is_received(), "numbers of segments are left");
        self.seed = FileHeader::first(self.series.segment(self.segment)).seed();
        self.offset = RECORDS_START;
        self.slot = 0;
        self.staged.end = RECORDS_START;
        self.staged.totals = Totals::default();
        RECORDS_START
    }

    /// Appends to the open buffer, and to as many more as it takes.
    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (segment, offset) = (self.segment, self.offset);
            let mark = self.staged;
            let left = usize::try_from(self.segment_bytes - offset).unwrap_or(usize::MAX);
            let batch = self.open.get_or_insert_with(|| {
                assert!(offset.is_multiple_of(BLOCK), "a batch starts a block");
                Batch {
                    segment,
                    offset,
                    buf: Buf::alloc(limits::VLOG_WRITE_BYTES_MAX.min(left)),
                    len: 0,
                    mark,
                }
            });
            let (here, rest) = bytes.split_at(bytes.len().min(batch.room()));
            let to = batch.buf.get_mut(batch.len..batch.len + here.len());
            to.unwrap_or_default().copy_from_slice(here);
            batch.len += here.len();
            let is_full = batch.room() == 0;
            self.offset += here.len() as u64;
            self.outstanding_bytes += here.len();
            bytes = rest;
            if is_full {
                self.seal();
            }
        }
    }

    fn seal(&mut self) {
        if let Some(batch) = self.open.take() {
            self.offset = self.offset.next_multiple_of(BLOCK);
            self.sealed.push_back(batch);
        }
    }

    pub(super) fn staged(&self) -> Ticket {
        self.staged.ticket
    }

    pub(super) fn durable(&self) -> Ticket {
        self.durable
    }

    pub(super) fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes
    }

    /// The segment that will be begun next.
    pub(super) fn next_to_begin(&self) -> ValueSegmentId {
        let prepared = self.prepared.as_ref();
        prepared.map_or(self.next_prepared, |segment| segment.id())
    }

    /// Whether the record that begins there was staged here and is not durable yet.
    pub(super) fn is_pending(&self, segment: ValueSegmentId, offset: u64) -> bool {
        let place = (segment, offset);
        self.durable_at <= place && place < (self.segment, self.staged.end)
    }

    // ---- submission ----

    /// Decides what to write next.
    pub(super) fn next(&mut self) -> Next {
        if self.fence.is_failed() || self.flight.is_full() {
            return Next::Nothing;
        }
        if self.sealed.is_empty() && self.flight.uncompleted() < limits::VLOG_EAGER_WRITES {
            self.seal();
        }
        let Some(batch) = self.sealed.pop_front() else {
            return Next::Nothing;
        };
        match &self.active {
            Some(active) if active.id() == batch.segment => {
                let active = Rc::clone(active);
                Next::Write(self.submit(active, batch))
            }
            _ => {
                self.sealed.push_front(batch);
                self.next_segment()
            }
        }
    }

    fn next_segment(&mut self) -> Next {
        // Nothing more goes to the old one, whether or not there is a new one.
        self.full.extend(self.active.take());
        let Some(prepared) = self.prepared.take() else {
            self.starved = true;
            return Next::NeedSegment;
        };
        let next = self.sealed.front().map(|batch| batch.segment);
        assert_eq!(next, Some(prepared.id()), "segments are used without a gap");
        self.active = Some(Rc::clone(&prepared));
        Next::Begin(prepared)
    }

    fn submit(&mut self, segment: Rc<Segment>, batch: Batch) -> BatchWrite {
        assert!(
            !self.fence.is_failed(),
            "a batch is submitted after a failure"
        );
        assert_eq!(segment.id(), batch.segment, "a batch goes to its segment");
        assert!(
            batch.end() <= self.segment_bytes,
            "a batch fits its segment"
        );
        if self.submitted_end.0 == batch.segment {
            let is_new = self.submitted_end.1 <= batch.offset;
            assert!(is_new, "no block is written twice");
        }
        self.submitted_end = (batch.segment, batch.end());
        let number = self.flight.submit(BatchInFlight {
            segment: Rc::clone(&segment),
            end: batch.end(),
            bytes: batch.len,
            mark: batch.mark,
        });
        BatchWrite {
            number,
            segment,
            offset: batch.offset,
            buf: flight::padded(batch.buf, batch.len),
        }
    }

    // ---- completion ----

    /// Takes the outcome of a write; returns what is durable since, if that is more than before.
    pub(super) fn complete(&mut self, number: u64, result: Result<()>) -> Result<Option<Ticket>> {
        self.flight.complete(number);
        if let Err(error) = result {
            return Err(self.fail(error));
        }
        if self.fence.is_failed() {
            return Ok(None);
        }
        let before = self.durable;
        while let Some((_, write)) = self.flight.pop_durable(|_| true) {
            let mark = write.mark;
            assert!(
                self.durable <= mark.ticket && mark.ticket <= self.staged.ticket,
                "the durable prefix only grows, within what is staged"
            );
            write.segment.grow(write.end, mark.totals);
            self.durable = mark.ticket;
            self.durable_at = (write.segment.id(), mark.end);
            self.outstanding_bytes -= write.bytes;
        }
        Ok((self.durable > before).then_some(self.durable))
    }

    /// Fences the value log; returns what everybody is told.
    pub(super) fn fail(&mut self, error: Error) -> Error {
        self.sealed.clear();
        self.open = None;
        self.outstanding_bytes = 0;
        self.fence.fail(error)
    }

    // ---- segments ----

    /// Ends the active segment if it is `id` and everything staged is durable; whether it did.
    pub(super) fn end_active(&mut self, id: ValueSegmentId) -> bool {
        let is_active = self.active.as_ref().is_some_and(|active| active.id() == id);
        if !is_active || self.segment != id || !self.is_idle() || self.fence.is_failed() {
            return false;
        }
        assert_eq!(self.durable, self.staged.ticket, "an idle log is durable");
        self.full.extend(self.active.take());
        self.begin_segment();
        true
    }

    /// The segment to prepare, if one should be: when there is work for it, or the active one is
    /// half full. A shard without separated values has none.
    pub(super) fn wants_segment(&self) -> Option<ValueSegmentId> {
        let half_full = self.active.as_ref().is_some_and(|active| {
            (self.segment, self.offset) > (active.id(), self.segment_bytes / 2)
        });
        let wanted = !self.fence.is_failed()
            && self.prepared.is_none()
            && (self.starved || (half_full && !self.fence.is_closed()));
        wanted.then_some(self.next_prepared)
    }

    /// The segment that could be prepared, wanted or not.
    pub(super) fn owed_segment(&self) -> Option<ValueSegmentId> {
        let is_possible = !self.fence.is_over() && self.prepared.is_none();
        is_possible.then_some(self.next_prepared)
    }

    /// Whether what is staged waits for the segment that is to be prepared.
    pub(super) fn is_starved(&self) -> bool {
        self.starved
    }

    /// Has what is staged end the segment that it waits for, and returns how long that has to be: there
    /// is no room for a whole one.
    pub(super) fn shorten_next(&mut self) -> u64 {
        assert!(self.starved, "something is staged for it");
        if self.segment == self.next_prepared {
            self.begin_segment();
        }
        let last = self
            .sealed
            .iter()
            .rfind(|batch| batch.segment == self.next_prepared);
        let end = last.map_or(RECORDS_START, |batch| batch.offset + batch.len as u64);
        end.next_multiple_of(BLOCK)
    }

    pub(super) fn add_prepared(&mut self, segment: Rc<Segment>) {
        assert_eq!(segment.id(), self.next_prepared, "segments come in order");
        self.next_prepared = ValueSegmentId(segment.id().0 + 1);
        self.prepared = Some(segment);
        self.starved = false;
    }

    /// The oldest full segment, once nothing is in flight to it.
    pub(super) fn take_full(&mut self) -> Option<Rc<Segment>> {
        let oldest = self.flight.oldest().map(|write| write.segment.id());
        let is_failed = self.fence.is_failed();
        self.full
            .pop_front_if(|segment| !is_failed && oldest.is_none_or(|oldest| oldest > segment.id()))
    }

    /// Gives it back, since it could not be sealed now.
    pub(super) fn put_back_full(&mut self, segment: Rc<Segment>) {
        let next = self.full.front().map(|next| next.id());
        assert!(next.is_none_or(|next| segment.id() < next), "oldest first");
        self.full.push_front(segment);
    }

    pub(super) fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Whether everything staged is written, or never will be.
    pub(super) fn is_idle(&self) -> bool {
        self.flight.uncompleted() == 0 && self.open.is_none() && self.sealed.is_empty()
    }
}

fn check_len(len: usize, limit: usize) -> Result<u32> {
    let too_large = || Error::TooLarge {
        len: len as u64,
        limit: limit as u64,
    };
    match u32::try_from(len) {
        Ok(len) if len as usize <= limit => Ok(len),
        _ => Err(too_large()),
    }
}
