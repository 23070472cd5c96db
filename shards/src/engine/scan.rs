//! Reading a range of keys.

use super::merge::{Merge, Span};
use super::{Engine, Found};
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

/// What to scan: user keys `start <= key < end` (`end` empty: to the last key).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// First key.
    pub start: Bytes,
    /// First key beyond, or empty.
    pub end: Bytes,
}

/// A part of a scan's result.
#[derive(Clone, Debug, Default)]
pub struct ScanPage {
    /// In key order.
    pub items: Vec<Item>,
    /// Whether keys may follow; go on after the last item's key.
    pub more: bool,
    /// There are no items, since the first one has this many bytes, more than was allowed.
    pub too_long: Option<usize>,
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
        self.scan_within(range, at, max_items, max_bytes, usize::MAX)
            .await
    }

    /// As [`Engine::scan`], but a first item of more than `first_max` bytes is not read: its length is
    /// what the page says then.
    ///
    /// # Errors
    /// As [`Engine::scan`].
    pub async fn scan_within(
        &self,
        range: &ScanRange,
        at: Option<LogIndex>,
        max_items: usize,
        max_bytes: usize,
        first_max: usize,
    ) -> Result<ScanPage> {
        self.inner.pacer.note_read();
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
        let mut page = ScanPage::default();
        let mut bytes = 0_usize;
        loop {
            let next = merge.next().await;
            let Some(merged) = self.noted(next, None).await? else {
                break;
            };
            corelith_io::yield_if_needed().await;
            if merged.is_deleted() {
                continue;
            }
            bytes = bytes.saturating_add(merged.key.len() + merged.value_len());
            if bytes > max_bytes && !page.items.is_empty() {
                page.more = true;
                break;
            }
            if bytes > first_max && page.items.is_empty() {
                page.too_long = Some(bytes);
                page.more = true;
                break;
            }
            let value = merged.value(&view).await;
            if let Some(value) = self.noted(value, Some(&merged.key)).await? {
                let version = merged.at;
                page.items.push(Item {
                    key: merged.key,
                    found: Found { version, value },
                });
            }
            if page.items.len() >= max_items.max(1) {
                page.more = merge.may_go_on();
                break;
            }
        }
        Ok(page)
    }
}
