//! Reading a range of keys.

use super::merge::{Merge, Merged, Span};
use super::{Engine, Found, FoundHead, View};
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::key::Space;
use crate::pins::Pin;
use bytes::Bytes;

/// One key of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// User key.
    pub key: Bytes,
    /// Its value and version.
    pub found: Found,
}

/// One key of a scan that reads no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemHead {
    /// User key.
    pub key: Bytes,
    /// Version and length of its value.
    pub found: FoundHead,
}

/// What to scan: user keys `start <= key < end` (`end` empty: to the last key).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// First key.
    pub start: Bytes,
    /// First key beyond, or empty.
    pub end: Bytes,
}

/// A part of a scan's result.
#[derive(Clone, Debug)]
pub struct ScanPage<T = Item> {
    /// In key order.
    pub items: Vec<T>,
    /// Whether keys may follow; go on after the last item's key.
    pub more: bool,
}

impl Engine {
    /// The first items of `range` as of sequence number `at` (`None`: now), until `max_items` or
    /// `max_bytes` of keys and values are reached; at least one item if there is one.
    ///
    /// # Errors
    /// `SequenceGone` if `at` is in the past and not pinned (see [`Engine::pin`]); `Io` or
    /// `Corrupt` of a table.
    pub async fn scan(
        &self,
        range: &ScanRange,
        at: Option<LogIndex>,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<ScanPage> {
        let mut items = Vec::new();
        let take = async |merged: Merged, view: &View| {
            let value = merged.value(view).await;
            if let Some(value) = self.noted(value, Some(&merged.key)).await? {
                let version = merged.at;
                items.push(Item {
                    key: merged.key,
                    found: Found { version, value },
                });
            }
            Ok(items.len())
        };
        let cost = |merged: &Merged| merged.key.len() + merged.value_len();
        let more = self
            .walk(range, at, max_items, max_bytes, cost, take)
            .await?;
        Ok(ScanPage { items, more })
    }

    /// As [`Engine::scan`], but with the lengths of values instead of the values, which are not read;
    /// `max_bytes` bounds the keys.
    ///
    /// # Errors
    /// As [`Engine::scan`].
    pub async fn scan_heads(
        &self,
        range: &ScanRange,
        at: Option<LogIndex>,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<ScanPage<ItemHead>> {
        let mut items = Vec::new();
        let take = async |merged: Merged, _: &View| {
            let found = FoundHead {
                version: merged.at,
                len: merged.value_len() as u64,
            };
            items.push(ItemHead {
                key: merged.key,
                found,
            });
            Ok(items.len())
        };
        let cost = |merged: &Merged| merged.key.len();
        let more = self
            .walk(range, at, max_items, max_bytes, cost, take)
            .await?;
        Ok(ScanPage { items, more })
    }

    /// Goes over what `range` held as of `at`, deletions left out, and hands it to `take`, which says
    /// how many it has taken; until those are `max_items`, or the costs of what was handed over exceed
    /// `max_cost`. Whether anything may follow.
    async fn walk(
        &self,
        range: &ScanRange,
        at: Option<LogIndex>,
        max_items: usize,
        max_cost: usize,
        cost: impl Fn(&Merged) -> usize,
        mut take: impl AsyncFnMut(Merged, &View) -> Result<usize>,
    ) -> Result<bool> {
        self.inner.pace.meter.note_read();
        // What is seen must stay until the scan is done.
        let now = self.pin();
        let at = at.map_or(now.at(), |at| at.min(now.at()));
        if !self.inner.pins.readable(at) {
            return Err(Error::SequenceGone { at: at.0 });
        }
        let _pin = Pin::new(&self.inner.pins, at);
        drop(now);
        let span = Span {
            space: Space::User,
            start: range.start.clone(),
            end: range.end.clone(),
            at,
        };
        let view = self.view();
        let merge = Merge::start(&view, span).await;
        let mut merge = self.noted(merge, None).await?;
        let (mut taken, mut spent) = (0, 0_usize);
        loop {
            let next = merge.next().await;
            let Some(merged) = self.noted(next, None).await? else {
                return Ok(false);
            };
            corelith_io::yield_if_needed().await;
            if merged.is_deleted() {
                continue;
            }
            spent = spent.saturating_add(cost(&merged));
            if spent > max_cost && taken > 0 {
                return Ok(true);
            }
            taken = take(merged, &view).await?;
            if taken >= max_items.max(1) {
                return Ok(merge.may_go_on());
            }
        }
    }
}
