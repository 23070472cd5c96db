//! Which pieces of a large value to read next, and in which order they are given out. Pure: a driver reads.
//!
//! Invariants:
//! - At most `ahead` pieces are on their way or have arrived and are not given out yet.
//! - Bytes are given out in order, each once between two seeks.
//! - The last byte of a whole read is given out only if the checksum of all bytes is that of the value.

use crate::limits::DOWNLOAD_AHEAD_MAX;
use crate::upload::plan::ChunkPlace;
use bytes::Bytes;
use corelith_wire::upload::PartLength;
use std::collections::BTreeMap;
use std::ops::Range;

/// A part of one chunk to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPiece {
    /// Where in the value it begins.
    pub at: u64,
    /// The chunk.
    pub place: ChunkPlace,
    /// Which bytes of the chunk.
    pub range: Range<u32>,
}

impl ChunkPiece {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        u64::from(self.range.end - self.range.start)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// Where the bytes of a value lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkLayout {
    /// The parts that have bytes, each with where in the value it begins.
    parts: Vec<(u64, PartLength)>,
    chunk_bytes: u64,
    len: u64,
}

impl ChunkLayout {
    /// The layout of a value of `len` bytes; `None` if the parts are not those of one.
    pub fn new(parts: &[PartLength], chunk_bytes: u32, len: u64) -> Option<Self> {
        let mut begins = 0u64;
        let mut placed = Vec::with_capacity(parts.len());
        for part in parts.iter().filter(|part| part.len > 0) {
            placed.push((begins, *part));
            begins = begins.checked_add(part.len)?;
        }
        let fits = begins == len && chunk_bytes > 0;
        fits.then_some(Self {
            parts: placed,
            chunk_bytes: chunk_bytes.into(),
            len,
        })
    }

    /// Length of the value, in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the value is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The longest piece of one chunk from `at` on that ends by `end`; `None` if there are no bytes.
    pub fn piece(&self, at: u64, end: u64) -> Option<ChunkPiece> {
        let behind = self.parts.partition_point(|(begins, _)| *begins <= at);
        let (begins, part) = self.parts.get(behind.checked_sub(1)?)?;
        let in_part = at.checked_sub(*begins)?;
        let chunk = in_part / self.chunk_bytes;
        let chunk_begins = chunk * self.chunk_bytes;
        let chunk_ends = (chunk_begins + self.chunk_bytes).min(part.len);
        let in_chunk = in_part - chunk_begins;
        let until = chunk_ends.min(end.checked_sub(*begins)?);
        if until <= in_part {
            return None;
        }
        let place = ChunkPlace {
            part: part.part,
            chunk: u32::try_from(chunk).ok()?,
        };
        // No chunk has more bytes than fit.
        let range = in_chunk as u32..(until - chunk_begins) as u32;
        Some(ChunkPiece { at, place, range })
    }
}

/// What arrived is not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueDamage {
    /// A piece of another length.
    Length,
    /// The checksum of all bytes is another.
    Checksum,
}

/// The plan of one download. Owned by it.
#[derive(Debug)]
pub struct DownloadPlan {
    layout: ChunkLayout,
    /// What is read of the value.
    range: Range<u64>,
    /// The next byte to give out.
    position: u64,
    /// The next byte to ask for.
    next: u64,
    ahead: usize,
    /// Pieces on their way, by where they begin, with their lengths.
    in_flight: BTreeMap<u64, u64>,
    arrived: BTreeMap<u64, Bytes>,
    /// Of the bytes given out, while these are all from the value's first one on.
    crc32c: Option<u32>,
    expected: u32,
}

impl DownloadPlan {
    /// Reads `range` of a value whose bytes have the checksum `crc32c`, with so many pieces ahead.
    pub fn new(layout: ChunkLayout, range: Range<u64>, crc32c: u32, ahead: usize) -> Self {
        let end = range.end.min(layout.len());
        let start = range.start.min(end);
        let is_whole = start == 0 && end == layout.len();
        Self {
            layout,
            range: start..end,
            position: start,
            next: start,
            ahead: ahead.clamp(1, DOWNLOAD_AHEAD_MAX),
            in_flight: BTreeMap::new(),
            arrived: BTreeMap::new(),
            crc32c: is_whole.then_some(0),
            expected: crc32c,
        }
    }

    /// What is read of the value.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Where in the value the next byte lies that is given out.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next piece to ask for; `None`: none now.
    pub fn next_piece(&mut self) -> Option<ChunkPiece> {
        if self.in_flight.len() + self.arrived.len() >= self.ahead {
            return None;
        }
        let piece = self.layout.piece(self.next, self.range.end)?;
        self.next += piece.len();
        let before = self.in_flight.insert(piece.at, piece.len());
        assert!(before.is_none(), "{piece:?} is asked for twice");
        assert!(self.next <= self.range.end, "{piece:?} is within the range");
        assert!(self.in_flight.len() + self.arrived.len() <= self.ahead);
        Some(piece)
    }

    /// Takes the bytes of the piece that begins at `at`. One that nobody waits for any more is dropped.
    ///
    /// # Errors
    /// They are too few or too many.
    pub fn arrived(&mut self, at: u64, bytes: Bytes) -> Result<(), ValueDamage> {
        let Some(len) = self.in_flight.remove(&at) else {
            return Ok(());
        };
        if bytes.len() as u64 != len {
            return Err(ValueDamage::Length);
        }
        self.arrived.insert(at, bytes);
        Ok(())
    }

    /// The next bytes, at most `bytes_max`; `None` if they have not arrived.
    ///
    /// # Errors
    /// All have arrived, and their checksum is not that of the value.
    pub fn take(&mut self, bytes_max: usize) -> Result<Option<Bytes>, ValueDamage> {
        let Some(first) = self.arrived.first_entry() else {
            return Ok(None);
        };
        let (at, piece) = (*first.key(), first.get());
        let Some(skipped) = self.position.checked_sub(at) else {
            return Ok(None);
        };
        // Less than its length, which fits.
        let skipped = skipped as usize;
        assert!(skipped < piece.len(), "a piece that was given out is gone");
        let until = piece.len().min(skipped.saturating_add(bytes_max.max(1)));
        let bytes = piece.slice(skipped..until);
        let position = self.position + bytes.len() as u64;
        self.crc32c = self.crc32c.map(|crc| crc32c::crc32c_append(crc, &bytes));
        let is_all = position == self.range.end;
        if is_all && self.crc32c.is_some_and(|crc| crc != self.expected) {
            return Err(ValueDamage::Checksum);
        }
        let rest = piece.slice(until..);
        first.remove();
        if !rest.is_empty() {
            self.arrived.insert(position, rest);
        }
        assert!(
            position <= self.range.end,
            "nothing beyond the range is given out"
        );
        self.position = position;
        Ok(Some(bytes))
    }

    /// Whether all bytes are given out.
    pub fn is_at_end(&self) -> bool {
        self.position >= self.range.end
    }

    /// Goes on at `to` in the value, at most at the end of the range. Returns the pieces on their way that nobody
    /// waits for any more. What has arrived or is on its way is kept if it comes next.
    pub fn seek(&mut self, to: u64) -> Vec<u64> {
        let to = to.clamp(self.range.start, self.range.end);
        if to == self.position {
            return Vec::new();
        }
        let goes_on = (self.position..self.next).contains(&to);
        self.position = to;
        self.crc32c = None;
        let is_needed = |at: u64, len: u64| goes_on && at + len > to;
        self.arrived
            .retain(|at, bytes| is_needed(*at, bytes.len() as u64));
        let mut dropped = Vec::new();
        self.in_flight.retain(|at, len| {
            let needed = is_needed(*at, *len);
            if !needed {
                dropped.push(*at);
            }
            needed
        });
        if !goes_on {
            self.next = to;
        }
        dropped
    }
}

#[cfg(test)]
mod tests;
