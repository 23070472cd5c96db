//! What this replica holds of a range, for another one whose own copy is damaged.
//!
//! Invariant: of a key up to the last one of an answer, the newest version as of the answer's index is in it, or the
//! key is deleted. What follows may be anything.

use super::merge::{Merge, ScanSpan};
use super::{Engine, ItemValue};
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::key::Space;
use crate::limits::FETCH_BYTES_MAX;
use bytes::Bytes;

/// A key of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedKey {
    /// The stored key: the tag of its [`Space`], then the key.
    pub stored_key: Bytes,
    /// Its version.
    pub at: LogIndex,
    /// Its value.
    pub value: ItemValue,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchedEnd {
    /// With the range.
    Complete,
    /// It is long enough; more may follow.
    More,
    /// What follows is damaged here too.
    Damaged,
}

/// What a replica holds of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The index as of which it is.
    pub as_of: LogIndex,
    /// In key order.
    pub keys: Vec<FetchedKey>,
    /// How they end.
    pub end: FetchedEnd,
}

impl Engine {
    /// The live keys from `first` to `last`, both stored keys and included, that come after `after` (if that is not
    /// empty), as of `at` or as of what is applied; until about `bytes_max` of them are gathered. Ends before what is
    /// damaged here.
    ///
    /// # Errors
    /// `SequenceGone` if what was there at `at` is no longer kept, `Io`, `Closed`.
    pub async fn fetch(
        &self,
        (first, last): (&[u8], &[u8]),
        after: &[u8],
        at: Option<LogIndex>,
        bytes_max: usize,
    ) -> Result<Fetched> {
        self.check_usable()?;
        let session = Space::Session.tag();
        let begins_before = first.first().is_none_or(|tag| *tag <= session);
        if begins_before && last.first().is_some_and(|tag| *tag >= session) {
            // Changed sessions are put into a memtable when it is frozen.
            self.freeze();
        }
        let gone = |at: LogIndex| Error::SequenceGone { at: at.0 };
        let pin = match at {
            None => self.pin(),
            Some(at) if at > self.pin().at() => return Err(gone(at)),
            Some(at) => self.pin_at(at).ok_or_else(|| gone(at))?,
        };
        let as_of = pin.at();
        assert!(at.is_none_or(|at| at == as_of), "a pin is where it was put");
        if !self.inner.pins.renewed_after(as_of).is_empty() {
            return Err(gone(as_of));
        }
        let mut fetched = Fetched {
            as_of,
            keys: Vec::new(),
            end: FetchedEnd::Complete,
        };
        let bytes_max = bytes_max.min(FETCH_BYTES_MAX);
        match self
            .gather(first.max(after), last, after, bytes_max, &mut fetched)
            .await
        {
            Ok(end) => fetched.end = end,
            Err(error) if error.is_corrupt() => {
                self.note_damage(&error, None).await;
                fetched.end = FetchedEnd::Damaged;
            }
            Err(error) => return Err(error),
        }
        Ok(fetched)
    }

    async fn gather(
        &self,
        first: &[u8],
        last: &[u8],
        after: &[u8],
        bytes_max: usize,
        fetched: &mut Fetched,
    ) -> Result<FetchedEnd> {
        let view = self.view();
        let mut bytes = 0;
        for span in spans(first, last, fetched.as_of) {
            let space = span.space;
            let mut merge = Merge::start(&view, span).await?;
            while let Some(merged) = merge.next().await? {
                corelith_io::yield_if_needed().await;
                assert!(
                    merged.at <= fetched.as_of,
                    "a version of {} in an answer as of {}",
                    merged.at.0,
                    fetched.as_of.0
                );
                let stored_key = Bytes::from(space.stored_key(&merged.key));
                if merged.is_deleted() || stored_key == after {
                    continue;
                }
                if bytes > 0 && bytes + stored_key.len() + merged.value_len() > bytes_max {
                    return Ok(FetchedEnd::More);
                }
                let value = merged.value(&view).await;
                let value = self.noted(value, Some(merged.spaced())).await?;
                let Some(value) = value else { continue };
                bytes += stored_key.len() + value.held_len();
                fetched.keys.push(FetchedKey {
                    stored_key,
                    at: merged.at,
                    value,
                });
            }
        }
        Ok(FetchedEnd::Complete)
    }
}

/// The parts of a range of stored keys in each space.
fn spans(first: &[u8], last: &[u8], at: LogIndex) -> Vec<ScanSpan> {
    let in_space = |space: Space| {
        let tag = space.tag();
        let begins = first.first().is_none_or(|first| *first <= tag);
        let ends = last.first().is_some_and(|last| *last >= tag);
        let start = match Space::of_stored(first) {
            Some((of, key)) if of == space => Bytes::copy_from_slice(key),
            _ => Bytes::new(),
        };
        let end = match Space::of_stored(last) {
            // The first key behind it.
            Some((of, key)) if of == space => Bytes::from([key, &[0]].concat()),
            _ => Bytes::new(),
        };
        (begins && ends).then_some(ScanSpan {
            space,
            start,
            end,
            at,
        })
    };
    Space::ALL.into_iter().filter_map(in_space).collect()
}
