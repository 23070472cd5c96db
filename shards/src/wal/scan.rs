//! Reading blocks from segment files: one block, and the search for blocks after damage.

use super::format::{self, BadHeader, BlockHeader, HEADER_BYTES};
use super::segment::Segment;
use crate::error::{Error, Result};
use crate::ids::{Owner, SegmentId};
use crate::limits;
use corelith_io::{BLOCK_SIZE, Buf, File};
use std::path::Path;

/// What the bytes at the place of a block are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// An intact block of the segment, with its crc and its payload.
    Block(BlockHeader, u32, &'a [u8]),
    /// Left over from an earlier use of the file.
    Stale,
    /// An intact header of this segment's number, but of another store or shard.
    Foreign(Owner),
    /// An intact header of a newer format.
    Newer(u16),
    /// Zeros, a torn block, or damage.
    Nothing,
}

/// Looks at the front of `bytes`, where a block of `segment` is expected.
pub(super) fn look(bytes: &[u8], segment: SegmentId, owner: Owner) -> Seen<'_> {
    let (header, crc) = match BlockHeader::decode(bytes) {
        Ok(decoded) => decoded,
        Err(BadHeader::Newer(version)) => return Seen::Newer(version),
        Err(BadHeader::Damaged) => return Seen::Nothing,
    };
    if header.segment != segment {
        return Seen::Stale;
    }
    let found = Owner {
        store_id: header.store_id,
        shard: header.shard,
    };
    if found != owner {
        return Seen::Foreign(found);
    }
    match bytes.get(HEADER_BYTES..header.used_len()) {
        Some(payload) if header.covers(payload) => Seen::Block(header, crc, payload),
        _ => Seen::Nothing,
    }
}

/// A part of a file in memory, moved forward as it is read.
#[derive(Default)]
pub(super) struct Window {
    start: u64,
    buf: Option<Buf>,
    /// The file ends where it ends.
    is_last: bool,
}

impl Window {
    /// Forgets what it holds, before it is used on another file.
    pub(super) fn clear(&mut self) {
        self.buf = None;
    }

    /// Returns `len` bytes of `file` at `offset`, fewer at the end of the file. `ahead` is how much
    /// to read when it must read.
    pub(super) async fn get(
        &mut self,
        file: &File,
        offset: u64,
        len: usize,
        ahead: usize,
    ) -> Result<&[u8]> {
        let held = self.position(offset, len);
        if held.is_none() {
            let want = len.max(ahead).min(limits::IO_BYTES_MAX);
            let buf = file.read_at(offset, want).await?;
            self.is_last = buf.len() < want;
            self.buf = Some(buf);
            self.start = offset;
        }
        let at = self.position(offset, 0).unwrap_or(0);
        let rest = self.buf.as_deref().and_then(|buf| buf.get(at..));
        let rest = rest.unwrap_or_default();
        Ok(rest.get(..len).unwrap_or(rest))
    }

    fn position(&self, offset: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let held = self.buf.as_ref()?.len();
        (at + len <= held || (self.is_last && at <= held)).then_some(at)
    }
}

/// Checks the blocks of a segment in use from `offset` on, for about [`limits::VERIFY_STEP_BYTES`], as far as they are
/// durable; returns where the next one begins, `None` at the end.
pub(super) async fn check(segment: &Segment, owner: Owner, offset: u64) -> Result<Option<u64>> {
    let end = segment.durable_end;
    if offset >= end {
        return Ok(None);
    }
    let len = limits::VERIFY_STEP_BYTES.max(limits::LOG_BLOCK_BYTES_MAX);
    let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
    let bytes = segment.file.read_at(offset, len.min(left)).await?;
    let mut checked = 0;
    let mut last: Option<(u64, u32)> = None;
    while checked < bytes.len() {
        let rest = bytes.get(checked..).unwrap_or_default();
        let Seen::Block(header, crc, _) = look(rest, segment.id, owner) else {
            // It may go beyond what was read.
            if checked > 0 && (offset + bytes.len() as u64) < end {
                break;
            }
            let at = offset + checked as u64;
            return Err(Error::corrupt(&segment.path, at, "a block is damaged"));
        };
        if last.is_some_and(|(number, crc)| (header.number, header.previous) != (number + 1, crc)) {
            let at = offset + checked as u64;
            let what = "a block that does not continue the one before";
            return Err(Error::corrupt(&segment.path, at, what));
        }
        last = Some((header.number, crc));
        checked += header.used_len().next_multiple_of(BLOCK_SIZE);
        corelith_io::yield_if_needed().await;
    }
    Ok(Some(offset + checked as u64))
}

/// What a search found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// All blocks below this number were durable once.
    pub(super) flushed_up_to: u64,
    /// Intact blocks.
    pub(super) blocks: u64,
}

impl Evidence {
    pub(super) fn add(&mut self, header: &BlockHeader) {
        self.flushed_up_to = self.flushed_up_to.max(header.flushed_up_to);
        self.blocks += 1;
    }
}

/// Searches `file` from `offset` to `end` for intact blocks of `segment`, at every place where one
/// may begin.
pub(super) async fn search(
    file: &File,
    path: &Path,
    segment: SegmentId,
    owner: Owner,
    mut offset: u64,
    end: u64,
    evidence: &mut Evidence,
) -> Result<()> {
    let mut window = Window::default();
    while offset < end {
        let unit = window
            .get(file, offset, BLOCK_SIZE, limits::IO_BYTES_MAX)
            .await?;
        let len = match BlockHeader::decode(unit) {
            Err(BadHeader::Damaged) => None,
            Err(BadHeader::Newer(version)) => return Err(newer(path, version)),
            Ok((header, _)) if header.used_len() > limits::LOG_BLOCK_BYTES_MAX => None,
            Ok((header, _)) => {
                let block = window
                    .get(file, offset, header.used_len(), limits::IO_BYTES_MAX)
                    .await?;
                match look(block, segment, owner) {
                    Seen::Block(header, ..) => {
                        evidence.add(&header);
                        Some(header.used_len().next_multiple_of(BLOCK_SIZE))
                    }
                    _ => None,
                }
            }
        };
        offset += len.unwrap_or(BLOCK_SIZE) as u64;
        corelith_io::yield_if_needed().await;
    }
    Ok(())
}

/// The error for a file of a newer format.
pub(super) fn newer(path: &Path, version: u16) -> Error {
    Error::NewerFormat {
        file: path.display().to_string(),
        found: u32::from(version),
        known: u32::from(format::VERSION),
    }
}

/// The error for a file of another store or shard.
pub(super) fn foreign(path: &Path, found: Owner, expected: Owner) -> Error {
    Error::OtherStore {
        file: path.display().to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}
