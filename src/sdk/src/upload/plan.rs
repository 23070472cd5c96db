//! What an upload sends next, and what of it is durable. Pure: a driver sends, and reports what is durable.
//!
//! A stream is cut into chunks of one part. A flush cuts the chunk that it meets short, which ends the part, and the
//! next byte begins another one.
//!
//! Invariants:
//! - A part of a stream ends with a chunk that is shorter than the others, or with the stream.
//! - A part begins when all chunks of the parts before it are durable. So among the chunks that an earlier process
//!   left, only those of the last part may have gaps, and the bytes before the first gap are a prefix of the stream.
//! - A chunk that is known to be durable is not sent again. If other bytes come by in its place, the upload fails.
//! - At most `in_flight_max` chunks are in flight, and one more is being filled.

use crate::limits::{UPLOAD_CUTS_MAX, UPLOAD_IN_FLIGHT_MAX};
use crate::upload::digest::Digester;
use bytes::{Buf as _, Bytes, BytesMut};
use corelith_wire::upload::{Digest, PartLength, StagedChunk};
use std::collections::BTreeMap;

/// Where a chunk lies in its upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkPlace {
    /// The part.
    pub part: u32,
    /// The chunk within the part, from 0.
    pub chunk: u32,
}

/// A chunk to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedChunk {
    /// Where it lies.
    pub place: ChunkPlace,
    /// Checksum of its bytes.
    pub crc32c: u32,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Why a plan cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The value would have more bytes than are allowed.
    TooLarge {
        /// Its length so far, with the bytes that do not fit.
        len: u64,
    },
    /// Other bytes were uploaded at this place before.
    Differs {
        /// Where in the value.
        at: u64,
    },
    /// The chunks that an earlier process left are not those of a stream.
    NotAStream,
}

/// What a commit says of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeContent {
    /// The parts, in order. None is empty.
    pub parts: Vec<PartLength>,
    /// Length of all of them, in bytes.
    pub len: u64,
    /// Checksum of all of them.
    pub crc32c: u32,
    /// Digest of all of them.
    pub digest: Digest,
}

/// Bytes of an upload, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadTally {
    /// Durable on a majority.
    pub durable: u64,
    /// Sent, each counted once.
    pub sent: u64,
    /// Not sent, since they were durable already.
    pub skipped: u64,
}

/// The bytes of the chunk that is being filled.
#[derive(Debug)]
enum Filling {
    Copied(BytesMut),
    /// A whole chunk of the caller's own buffer.
    Shared(Bytes),
}

impl Filling {
    fn len(&self) -> usize {
        match self {
            Self::Copied(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
        }
    }
}

/// How a plan is made.
#[derive(Clone, Copy, Debug)]
pub struct PlanSettings {
    /// Bytes of a chunk, as the server says.
    pub chunk_bytes: u32,
    /// Most bytes of the value.
    pub bytes_max: u64,
    /// Most chunks in flight.
    pub in_flight_max: usize,
}

/// The plan of one stream. Owned by its upload.
#[derive(Debug)]
pub struct UploadPlan {
    chunk_bytes: usize,
    bytes_max: u64,
    in_flight_max: usize,
    filling: Filling,
    /// Of the chunk that is being filled.
    place: ChunkPlace,
    /// Bytes before it in its part.
    part_bytes: u64,
    /// Bytes before it in the value.
    cut_bytes: u64,
    /// The parts that have ended.
    parts: Vec<PartLength>,
    /// Durable chunks that an earlier process left, from `place` on.
    known: BTreeMap<ChunkPlace, StagedChunk>,
    /// Lengths of the chunks that are sent and not known to be durable.
    in_flight: BTreeMap<ChunkPlace, u64>,
    crc32c: u32,
    digester: Digester,
    /// How often a flush has cut a chunk short, also in earlier processes.
    cuts: u32,
    /// The chunk that is being filled goes as it is.
    cuts_short: bool,
    finishing: bool,
    tally: UploadTally,
}

impl UploadPlan {
    /// The plan of a new upload.
    pub fn new(settings: PlanSettings, digester: Digester) -> Self {
        let chunk_bytes = settings.chunk_bytes.max(1);
        Self {
            chunk_bytes: chunk_bytes as usize,
            bytes_max: settings.bytes_max,
            in_flight_max: settings.in_flight_max.clamp(1, UPLOAD_IN_FLIGHT_MAX),
            filling: Filling::Copied(BytesMut::new()),
            place: ChunkPlace { part: 0, chunk: 0 },
            part_bytes: 0,
            cut_bytes: 0,
            parts: Vec::new(),
            known: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            crc32c: 0,
            digester,
            cuts: 0,
            cuts_short: false,
            finishing: false,
            tally: UploadTally::default(),
        }
    }

    /// The plan of an upload that an earlier process has begun. `staged` are its durable chunks, in order. The bytes
    /// come from [`UploadPlan::position`] on: behind the durable prefix, or from the start if a digest is wanted,
    /// since that needs all bytes.
    ///
    /// # Errors
    /// The chunks are not those of a stream.
    pub fn resume(
        settings: PlanSettings,
        digester: Digester,
        staged: &[StagedChunk],
    ) -> Result<Self, PlanError> {
        let mut plan = Self::new(settings, digester);
        let known = staged.iter().map(|chunk| (place_of(chunk), *chunk));
        plan.known = known.collect();
        plan.check_known()?;
        // As many flushes ended a part.
        plan.cuts = staged.last().map_or(0, |last| last.part);
        if plan.digester.is_needed() {
            return Ok(plan);
        }
        while let Some(chunk) = plan.known.remove(&plan.place) {
            let len = u64::from(chunk.len);
            plan.crc32c = combined(plan.crc32c, chunk.crc32c, len);
            plan.tally.durable += len;
            plan.tally.skipped += len;
            plan.pass(len);
        }
        Ok(plan)
    }

    /// Refuses chunks with a gap in another part than the last, or that go on behind a short one.
    fn check_known(&self) -> Result<(), PlanError> {
        let mut next = ChunkPlace { part: 0, chunk: 0 };
        let mut gap = None;
        for (place, chunk) in &self.known {
            let len = chunk.len as usize;
            let follows = place.part == next.part && place.chunk >= next.chunk;
            let is_behind_gap = gap.is_some_and(|part| part != place.part);
            if !follows || is_behind_gap || len == 0 || len > self.chunk_bytes {
                return Err(PlanError::NotAStream);
            }
            if *place != next {
                gap = Some(place.part);
            }
            next = after(*place, len < self.chunk_bytes);
        }
        Ok(())
    }

    /// Where in the value the next byte lies.
    pub fn position(&self) -> u64 {
        self.cut_bytes + self.filling.len() as u64
    }

    /// What became of the bytes so far.
    pub fn tally(&self) -> UploadTally {
        self.tally
    }

    /// Length of the chunk that is being filled, once it is full.
    fn target(&self) -> usize {
        let known = self.known.get(&self.place);
        known.map_or(self.chunk_bytes, |chunk| chunk.len as usize)
    }

    /// How many bytes it takes now.
    pub fn room(&self) -> usize {
        match self.finishing || self.cuts_short {
            true => 0,
            false => self.target().saturating_sub(self.filling.len()),
        }
    }

    /// Copies bytes; returns how many: 0 if there is no room.
    ///
    /// # Errors
    /// `TooLarge`; then none is taken.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, PlanError> {
        self.check_length(bytes.len())?;
        let count = self.room().min(bytes.len());
        let target = self.target();
        if let (Some(taken), Filling::Copied(buffer)) = (bytes.get(..count), &mut self.filling) {
            buffer.reserve(target - buffer.len());
            buffer.extend_from_slice(taken);
        }
        Ok(count)
    }

    /// Takes bytes off `bytes`, a whole chunk without a copy; returns how many: 0 if there is no room.
    ///
    /// # Errors
    /// As [`UploadPlan::write`].
    pub fn write_shared(&mut self, bytes: &mut Bytes) -> Result<usize, PlanError> {
        self.check_length(bytes.len())?;
        let target = self.target();
        if self.filling.len() == 0 && self.room() == target && bytes.len() >= target {
            self.filling = Filling::Shared(bytes.split_to(target));
            return Ok(target);
        }
        let count = self.write(bytes)?;
        bytes.advance(count);
        Ok(count)
    }

    fn check_length(&self, more: usize) -> Result<(), PlanError> {
        let len = self.position().saturating_add(more as u64);
        match len <= self.bytes_max {
            true => Ok(()),
            false => Err(PlanError::TooLarge { len }),
        }
    }

    /// Has all bytes sent that came so far; [`UploadPlan::is_flushed`] says when they are durable.
    pub fn flush(&mut self) {
        // A chunk cannot end early if others of its part follow.
        let is_last = self.known.range(self.place..).next().is_none();
        if self.filling.len() > 0 && !self.cuts_short && is_last && self.cuts < UPLOAD_CUTS_MAX {
            self.cuts += u32::from(self.filling.len() < self.target());
            self.cuts_short = true;
        }
    }

    /// Whether all bytes before the last [`UploadPlan::flush`] are durable. After [`UPLOAD_CUTS_MAX`] flushes: all of
    /// whole chunks.
    pub fn is_flushed(&self) -> bool {
        let is_cut = self.filling.len() < self.target();
        self.in_flight.is_empty() && !self.cuts_short && (self.filling.len() == 0 || is_cut)
    }

    /// No byte will come any more.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Whether no byte may come any more.
    pub fn is_finished(&self) -> bool {
        self.finishing
    }

    /// The next chunk to send; `None`: none now.
    ///
    /// # Errors
    /// `Differs`.
    pub fn next_chunk(&mut self) -> Result<Option<PlannedChunk>, PlanError> {
        while self.is_ready() {
            let at = self.cut_bytes;
            let bytes = match &mut self.filling {
                Filling::Copied(buffer) => buffer.split().freeze(),
                Filling::Shared(bytes) => std::mem::take(bytes),
            };
            self.filling = Filling::Copied(BytesMut::new());
            self.cuts_short = false;
            let (place, len) = (self.place, bytes.len() as u64);
            let crc32c = crc32c::crc32c(&bytes);
            self.crc32c = combined(self.crc32c, crc32c, len);
            self.digester.update(&bytes);
            let known = self.known.remove(&place);
            self.pass(len);
            let Some(known) = known else {
                self.tally.sent += len;
                let before = self.in_flight.insert(place, len);
                assert!(before.is_none(), "{place:?} is sent twice");
                assert!(self.in_flight.len() <= self.in_flight_max);
                return Ok(Some(PlannedChunk {
                    place,
                    crc32c,
                    bytes,
                }));
            };
            if (u64::from(known.len), known.crc32c) != (len, crc32c) {
                return Err(PlanError::Differs { at });
            }
            self.tally.skipped += len;
            self.tally.durable += len;
        }
        match self.finishing && self.filling.len() == 0 && !self.known.is_empty() {
            // Fewer bytes than before.
            true => Err(PlanError::Differs { at: self.cut_bytes }),
            false => Ok(None),
        }
    }

    /// Whether the chunk that is being filled may go.
    fn is_ready(&self) -> bool {
        let len = self.filling.len();
        let is_whole = len > 0 && (len == self.target() || self.cuts_short || self.finishing);
        let begins_part = self.place.chunk == 0 && !self.in_flight.is_empty();
        is_whole && self.in_flight.len() < self.in_flight_max && !begins_part
    }

    /// Goes on behind a chunk of `len` bytes.
    fn pass(&mut self, len: u64) {
        let is_short = len < self.chunk_bytes as u64;
        self.part_bytes += len;
        self.cut_bytes += len;
        if is_short {
            let (part, len) = (self.place.part, std::mem::take(&mut self.part_bytes));
            self.parts.push(PartLength { part, len });
        }
        self.place = after(self.place, is_short);
    }

    /// A chunk is durable.
    pub fn durable(&mut self, place: ChunkPlace) {
        let len = self.in_flight.remove(&place);
        assert!(len.is_some(), "{place:?} is not in flight");
        self.tally.durable += len.unwrap_or_default();
    }

    /// Chunks in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The content, once all of a finished stream is durable.
    pub fn content(&mut self) -> Option<WholeContent> {
        if !self.finishing || self.filling.len() > 0 || !self.in_flight.is_empty() {
            return None;
        }
        let mut parts = self.parts.clone();
        if self.part_bytes > 0 {
            let (part, len) = (self.place.part, self.part_bytes);
            parts.push(PartLength { part, len });
        }
        let len = self.cut_bytes;
        let of_parts: u64 = parts.iter().map(|part| part.len).sum();
        assert_eq!(of_parts, len, "the parts are the value");
        assert_eq!(self.tally.durable, len, "all of it is durable");
        Some(WholeContent {
            parts,
            len,
            crc32c: self.crc32c,
            digest: self.digester.finish(),
        })
    }
}

fn place_of(chunk: &StagedChunk) -> ChunkPlace {
    ChunkPlace {
        part: chunk.part,
        chunk: chunk.chunk,
    }
}

/// The place behind a chunk.
fn after(place: ChunkPlace, is_short: bool) -> ChunkPlace {
    match is_short {
        true => ChunkPlace {
            part: place.part.saturating_add(1),
            chunk: 0,
        },
        false => ChunkPlace {
            part: place.part,
            chunk: place.chunk.saturating_add(1),
        },
    }
}

/// Checksum of some bytes and `len` more.
pub(crate) fn combined(before: u32, more: u32, len: u64) -> u32 {
    // At most the length of a value, which fits.
    crc32c::crc32c_combine(before, more, len as usize)
}

#[cfg(test)]
mod tests;
