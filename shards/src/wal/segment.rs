//! The segments of the log, before, while and after they hold blocks that are needed.
//!
//! Invariants:
//! * The segments in use are in order of their ids; the last one is written to.
//! * The durable part of a segment only grows, and lies within what was submitted to it.
//! * A segment is released when its blocks are durable, and given to be freed when its release is proven.

use crate::ids::SegmentId;
use crate::limits;
use corelith_io::{BLOCK_SIZE, File};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;

/// A segment that holds blocks of the log.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) path: PathBuf,
    pub(crate) file: Rc<File>,
    /// Number of its start block.
    pub(crate) first_number: u64,
    /// Bytes of blocks in it, submitted ones included.
    pub(crate) end: u64,
    /// Bytes of them that are durable: readers read no further, since what lies behind may change while
    /// they read it.
    pub(crate) durable_end: u64,
    /// Length of the file.
    pub(crate) file_len: u64,
}

/// A pre-written file under the name of a segment to come; the name is durable.
pub(crate) struct Prepared {
    pub(crate) id: SegmentId,
    pub(crate) path: PathBuf,
    pub(crate) file: Rc<File>,
    /// Its length.
    pub(crate) len: u64,
}

/// A segment that the log needs no more once `proven` has reached `proof`.
pub(crate) struct Released {
    pub(crate) segment: Segment,
    pub(crate) proof: u64,
}

/// A length or offset in a segment, in units of `BLOCK_SIZE`.
pub(crate) fn units(bytes: u64) -> u32 {
    match u32::try_from(bytes / BLOCK_SIZE as u64) {
        Ok(units) => units,
        Err(_) => panic!("offset {bytes} is beyond the longest segment"),
    }
}

/// The segments of a log: in use, prepared, and released.
pub(crate) struct SegmentChain {
    /// Length of a whole one.
    segment_bytes: u64,
    in_use: VecDeque<Segment>,
    prepared: VecDeque<Prepared>,
    released: VecDeque<Released>,
    /// The writer waits for a segment.
    is_starved: bool,
    /// The active one takes nothing more.
    is_ended: bool,
}

impl SegmentChain {
    pub(crate) fn new(segment_bytes: u64, in_use: VecDeque<Segment>) -> Self {
        let chain = Self {
            segment_bytes,
            in_use,
            prepared: VecDeque::new(),
            released: VecDeque::new(),
            is_starved: false,
            is_ended: false,
        };
        assert!(chain.in_use.iter().is_sorted_by_key(|segment| segment.id));
        chain
    }

    // ---- in use ----

    pub(crate) fn len(&self) -> usize {
        self.in_use.len()
    }

    /// Whether a block of that length fits into the active segment.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let active = self.in_use.back();
        !self.is_ended && active.is_some_and(|active| active.end + len as u64 <= active.file_len)
    }

    /// Has the next block go to a new segment, if that one is active; returns whether it is.
    pub(crate) fn end_active(&mut self, id: SegmentId) -> bool {
        let is_active = self.in_use.back().is_some_and(|active| active.id == id);
        self.is_ended |= is_active;
        is_active
    }

    /// Makes `prepared` the active segment, which begins with that block.
    pub(crate) fn begin(&mut self, prepared: Prepared, first_number: u64) {
        if let Some(active) = self.in_use.back() {
            assert!(active.id < prepared.id, "segments are used in order");
            assert!(active.first_number <= first_number, "blocks in order");
        }
        self.is_ended = false;
        self.in_use.push_back(Segment {
            id: prepared.id,
            path: prepared.path,
            file: prepared.file,
            first_number,
            end: 0,
            durable_end: 0,
            file_len: prepared.len,
        });
    }

    /// Takes room for a block in the active segment; returns that and where the block begins.
    pub(crate) fn extend(&mut self, len: usize) -> (&Segment, u64) {
        assert!(self.has_room(len), "a block was submitted without room");
        let Some(active) = self.in_use.back_mut() else {
            panic!("a block was submitted without a segment");
        };
        let offset = active.end;
        assert!(offset.is_multiple_of(BLOCK_SIZE as u64), "blocks are whole");
        active.end += len as u64;
        (active, offset)
    }

    /// Notes that the blocks of a segment are durable up to `end`.
    pub(crate) fn note_durable(&mut self, id: SegmentId, end: u64) {
        let at = self.position(id);
        let Some(segment) = self.in_use.get_mut(at).filter(|found| found.id == id) else {
            panic!(
                "segment {} was released before its blocks were durable",
                id.0
            );
        };
        let grows = segment.durable_end < end && end <= segment.end;
        assert!(grows, "the durable part of a segment grows within it");
        segment.durable_end = end;
    }

    pub(crate) fn get(&self, id: SegmentId) -> Option<&Segment> {
        let at = self.position(id);
        self.in_use.get(at).filter(|segment| segment.id == id)
    }

    fn position(&self, id: SegmentId) -> usize {
        self.in_use.partition_point(|segment| segment.id < id)
    }

    /// The segments in use, and how much of each is durable.
    pub(crate) fn at_rest(&self) -> Vec<(SegmentId, u64)> {
        let segments = self.in_use.iter();
        segments
            .map(|segment| (segment.id, segment.durable_end))
            .collect()
    }

    /// The segment that follows `id`.
    pub(crate) fn after(&self, id: SegmentId) -> Option<&Segment> {
        let at = self.in_use.partition_point(|segment| segment.id <= id);
        self.in_use.get(at)
    }

    /// The oldest segment and the number of the first block behind it, unless it is the active one.
    pub(crate) fn oldest(&self) -> Option<(SegmentId, u64)> {
        let next = self.in_use.get(1)?;
        let oldest = self.in_use.front()?;
        assert!(oldest.first_number <= next.first_number, "blocks in order");
        Some((oldest.id, next.first_number))
    }

    // ---- prepared ----

    /// A prepared segment; if there is none, the writer waits for one.
    pub(crate) fn take_prepared(&mut self) -> Option<Prepared> {
        let prepared = self.prepared.pop_front();
        self.is_starved = prepared.is_none();
        prepared
    }

    pub(crate) fn add_prepared(&mut self, prepared: Prepared) {
        let last = self.prepared.back().map(|before| before.id);
        assert!(last < Some(prepared.id), "segments are prepared in order");
        self.prepared.push_back(prepared);
        self.is_starved = false;
    }

    /// Whether the writer waits for a segment.
    pub(crate) fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// Whether the next segment should be prepared: none is, and the active one is half full.
    pub(crate) fn wants_segment(&self) -> bool {
        let active = self.in_use.back();
        let is_half_full = active.is_some_and(|active| active.end >= active.file_len / 2);
        self.prepared.is_empty() && (self.is_starved || self.is_ended || is_half_full)
    }

    /// Whether a segment of which `done` bytes are pre-written would be late at the present pace: it
    /// is to be ready before the second half of the active one is nine tenths full.
    pub(crate) fn is_behind(&self, done: u64) -> bool {
        let Some(active) = self.in_use.back() else {
            return true;
        };
        let half = active.file_len / 2;
        let used = active.end.saturating_sub(half);
        self.is_starved || done * 9 * half < used * 10 * active.file_len
    }

    /// Whether a released segment should become a spare rather than be removed.
    pub(crate) fn wants_spare(&self) -> bool {
        self.prepared.len() < limits::LOG_SPARE_SEGMENTS_MAX
    }

    /// The length of a segment with which a starved writer can go on when there is no room for a whole
    /// one: a fraction, but any block fits, the longest of which has `block_bytes`.
    pub(crate) fn short_segment_bytes(&self, block_bytes: usize) -> Option<u64> {
        let least = (block_bytes + BLOCK_SIZE) as u64;
        let short = self.segment_bytes / limits::LOG_SHORT_SEGMENT_DIVISOR;
        let short = short.next_multiple_of(BLOCK_SIZE as u64).max(least);
        (self.is_starved && short < self.segment_bytes).then_some(short)
    }

    // ---- released ----

    /// Releases the oldest segment. It may be freed once the blocks below `proof` are proven to be durable.
    pub(crate) fn release_oldest(&mut self, proof: u64) {
        assert!(self.in_use.len() > 1, "the active segment is needed");
        let before = self.released.back().map(|released| released.proof);
        assert!(before <= Some(proof), "segments are released in order");
        let oldest = self.in_use.pop_front();
        self.released
            .extend(oldest.map(|segment| Released { segment, proof }));
    }

    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// The oldest released segment, once it may be freed.
    pub(crate) fn take_released(&mut self, proven: u64) -> Option<Released> {
        let released = self
            .released
            .pop_front_if(|released| released.proof <= proven);
        let oldest = self.in_use.front().map(|oldest| oldest.id);
        let id = released.as_ref().map(|released| released.segment.id);
        assert!(
            id.is_none() || id < oldest,
            "segments are freed oldest first"
        );
        released
    }

    /// Gives it back, since it could not be freed now.
    pub(crate) fn put_back_released(&mut self, released: Released) {
        let next = self.released.front().map(|next| next.proof);
        assert!(next.is_none_or(|next| released.proof <= next), "in order");
        self.released.push_front(released);
    }
}
