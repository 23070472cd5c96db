//! A value that is not whole: torn, or damaged.
//!
//! The space of a segment reads as zeros until it is written, and each sector of generation 0 is written once.
//! A power cut leaves each sector of a write in flight as it was or as it was to be. So where a part of a record
//! does not match its checksum, a torn write shows: at least one of the part's sectors is zero. If none is, all
//! of them were written, and something has changed them since.
//!
//! What cannot be told: a sector that was damaged to zeros from one that was not written, and damage to a part that
//! has a sector of zeros by itself. Such a part counts as torn.

use super::ValueLog;
use super::format::{Head, PAGE_BYTES, page_count};
use super::pointer::ValuePointer;
use super::reader::{PIECE_PAGES, Place, fixed_len, page_end};
use super::segments::{IndexCache, Segment, Segments};
use crate::error::{Error, Result};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

/// The unit that a device writes wholly or not at all.
const SECTOR: usize = 512;

const _: () = assert!(PAGE_BYTES.is_multiple_of(SECTOR));

/// A value as an entry of the log names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedValue {
    /// Where it is.
    pub place: ValuePointer,
    /// Length of the key that it belongs to.
    pub key_len: u32,
}

/// What is in the place of a value.
#[derive(Clone, Debug)]
pub enum ValueState {
    /// All of it, undamaged.
    Whole,
    /// Perhaps it was never written whole.
    Torn,
    /// There is no such segment.
    Missing(Error),
    /// It was written whole, and is not what was written.
    Damaged(Error),
}

/// Whether some of the sectors in `bytes` may never have been written. They begin with a sector, and `wanted`
/// bytes of them would be there if all were.
fn has_unwritten_sector(bytes: &[u8], wanted: usize) -> bool {
    let is_zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    bytes.len() < wanted || bytes.chunks(SECTOR).any(is_zero)
}

impl ValueLog {
    /// What is in the place of a value.
    ///
    /// # Errors
    /// `Io`, and those of the slot index of its segment; damage to the record is no error.
    pub(crate) async fn state_of(
        &self,
        segments: &Segments,
        value: LoggedValue,
    ) -> Result<ValueState> {
        let shared = self.shared();
        shared.wait_for_record(value.place).await?;
        let segment = segments.get(&value.place.segment).cloned();
        state_in(&shared.dir, segment, &shared.index_cache, value).await
    }
}

/// What is in the place of a value, given its segment if it is there.
pub(super) async fn state_in(
    dir: &Path,
    segment: Option<Rc<Segment>>,
    index_cache: &RefCell<IndexCache>,
    value: LoggedValue,
) -> Result<ValueState> {
    let is_missing = segment.is_none();
    match Place::find(dir, segment, index_cache, value.place).await {
        Ok(place) => judge(&place, value.key_len as usize).await,
        Err(error) if is_missing => Ok(ValueState::Missing(error)),
        Err(error) if error.is_corrupt() => Ok(ValueState::Damaged(error)),
        Err(error) => Err(error),
    }
}

/// Reads all of the record in `place`, whose key has that length, and judges it.
async fn judge(place: &Place, key_len: usize) -> Result<ValueState> {
    let head_len = fixed_len(place.pointer) + key_len;
    let read = place.read_at(0, head_len).await?;
    let head = match place.head(&read) {
        Ok(head) => head,
        Err(error) => return state_of(place, 0, head_len, error).await,
    };
    drop(read);
    for first in (0..page_count(place.pointer.len)).step_by(PIECE_PAGES) {
        let state = judge_pages(place, &head, first).await?;
        if !matches!(state, ValueState::Whole) {
            return Ok(state);
        }
        corelith_io::yield_if_needed().await;
    }
    Ok(ValueState::Whole)
}

/// Judges as many pages as one I/O reads. Damage to one of them outweighs that another is torn.
async fn judge_pages(place: &Place, head: &Head, first: usize) -> Result<ValueState> {
    let pointer: ValuePointer = place.pointer;
    let end = (first + PIECE_PAGES).min(page_count(pointer.len));
    let start = page_end(pointer, first);
    let len = page_end(pointer, end) - start;
    let bytes = place.read_at(head.bytes.len() + start, len).await?;
    assert!(start <= page_end(pointer, end), "pages are in order");
    let mut state = ValueState::Whole;
    for page in first..end {
        let (from, to) = (page_end(pointer, page), page_end(pointer, page + 1));
        let here = bytes.get(from - start..to - start);
        let Err(error) = place.check(head, page, here.unwrap_or_default()) else {
            continue;
        };
        let at = head.bytes.len() + from;
        state = state_of(place, at, to - from, error).await?;
        if matches!(state, ValueState::Damaged(_)) {
            break;
        }
    }
    Ok(state)
}

/// The state of a part of a record that `error` says is not whole.
async fn state_of(place: &Place, at: usize, len: usize, error: Error) -> Result<ValueState> {
    if !error.is_corrupt() {
        return Err(error);
    }
    if !place.segment.may_be_torn() {
        return Ok(ValueState::Damaged(error));
    }
    let from = place.offset.saturating_add(at as u64);
    let start = from - from % SECTOR as u64;
    let wanted = (len + usize::try_from(from - start).unwrap_or(0)).next_multiple_of(SECTOR);
    debug_assert!(from + len as u64 <= start + wanted as u64);
    let bytes = place.segment.file.read_at(start, wanted).await?;
    Ok(match has_unwritten_sector(&bytes, wanted) {
        true => ValueState::Torn,
        false => ValueState::Damaged(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_torn() {
        let written = [7_u8; 4 * SECTOR];
        let mut torn = written;
        torn[SECTOR..2 * SECTOR].fill(0);
        let mut one_byte = torn;
        one_byte[2 * SECTOR - 1] = 1;
        let mut across = written;
        across[SECTOR / 2..SECTOR * 3 / 2].fill(0);
        for (bytes, wanted, may_be_torn) in [
            (&written[..], 4 * SECTOR, false),
            (&torn[..], 4 * SECTOR, true),
            (&one_byte[..], 4 * SECTOR, false),
            (&across[..], 4 * SECTOR, false),
            // The file ends before the record does.
            (&written[..], 5 * SECTOR, true),
            (&[][..], SECTOR, true),
        ] {
            assert_eq!(has_unwritten_sector(bytes, wanted), may_be_torn);
        }
    }
}
