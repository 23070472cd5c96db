//! Reading a range of keys.

use super::merge::{Merge, Merged, ScanSpan};
use super::{Engine, FoundHead, ReadView};
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::key::Space;
use crate::large::{ItemValue, LargeRef};
use crate::pins::Pin;
use bytes::Bytes;

/// One key of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// User key.
    pub key: Bytes,
    /// Log index of the write that put the value there.
    pub version: LogIndex,
    /// The value.
    pub value: ItemValue,
}

/// One key of a scan that reads no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemHead {
    /// User key.
    pub key: Bytes,
    /// Version and length of its value.
    pub found: FoundHead,
    /// What stands for its value if that is large.
    pub large: Option<LargeRef>,
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
    /// There are no items, since the first one has this many bytes, more than was allowed.
    pub too_long: Option<usize>,
}

/// How a walk over a range ended.
struct Walked {
    /// Whether anything may follow.
    more: bool,
    /// See [`ScanPage::too_long`].
    too_long: Option<usize>,
}

/// How far a walk goes.
struct Bounds {
    items: usize,
    /// Of all that is handed over, but for the first.
    cost: usize,
    /// Of the first.
    first: usize,
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
        let mut items = Vec::new();
        let take = async |merged: Merged, view: &ReadView| {
            let value = merged.value(view).await;
            if let Some(value) = self.noted(value, Some(merged.spaced())).await? {
                items.push(Item {
                    key: merged.key,
                    version: merged.at,
                    value,
                });
            }
            Ok(items.len())
        };
        let cost = |merged: &Merged| merged.key.len() + merged.value_len();
        let bounds = Bounds {
            items: max_items,
            cost: max_bytes,
            first: first_max,
        };
        let Walked { more, too_long } = self.walk(range, at, bounds, cost, take).await?;
        Ok(ScanPage {
            items,
            more,
            too_long,
        })
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
        let take = async |merged: Merged, _: &ReadView| {
            let large = merged.large();
            let found = FoundHead {
                version: merged.at,
                len: large.map_or(merged.value_len() as u64, |large| large.len),
            };
            items.push(ItemHead {
                key: merged.key,
                found,
                large,
            });
            Ok(items.len())
        };
        let cost = |merged: &Merged| merged.key.len();
        let bounds = Bounds {
            items: max_items,
            cost: max_bytes,
            first: usize::MAX,
        };
        let Walked { more, too_long } = self.walk(range, at, bounds, cost, take).await?;
        Ok(ScanPage {
            items,
            more,
            too_long,
        })
    }

    /// Goes over what `range` held as of `at`, deletions left out, and hands it to `take`, which says
    /// how many it has taken, until a bound is reached.
    async fn walk(
        &self,
        range: &ScanRange,
        at: Option<LogIndex>,
        bounds: Bounds,
        cost: impl Fn(&Merged) -> usize,
        mut take: impl AsyncFnMut(Merged, &ReadView) -> Result<usize>,
    ) -> Result<Walked> {
        let ends = |more| Walked {
            more,
            too_long: None,
        };
        self.inner.pace.meter.note_read();
        // What is seen must stay until the scan is done.
        let now = self.pin();
        let at = at.map_or(now.at(), |at| at.min(now.at()));
        if !self.inner.pins.readable(at) {
            return Err(Error::SequenceGone { at: at.0 });
        }
        let _pin = Pin::new(&self.inner.pins, at);
        drop(now);
        let span = ScanSpan {
            space: Space::User,
            start: range.start.clone(),
            end: range.end.clone(),
            at,
        };
        let renewed = self.inner.pins.renewed_after(at);
        let view = self.view();
        let merge = Merge::start(&view, span).await;
        let mut merge = self.noted(merge, None).await?;
        let (mut taken, mut spent) = (0, 0_usize);
        let first = Space::User.stored_key(&range.start);
        // Whether all of it up to a key, the last one if there is none, is as it was at that moment.
        let check = |last: Option<&Bytes>| {
            let behind = match last {
                Some(last) => [&Space::User.stored_key(last)[..], &[0]].concat(),
                None if range.end.is_empty() => vec![Space::User.tag() + 1],
                None => Space::User.stored_key(&range.end),
            };
            match renewed.iter().any(|range| range.overlaps(&first, &behind)) {
                true => Err(Error::SequenceGone { at: at.0 }),
                false => Ok(()),
            }
        };
        loop {
            let next = merge.next().await;
            let Some(merged) = self.noted(next, None).await? else {
                check(None)?;
                return Ok(ends(false));
            };
            corelith_io::yield_if_needed().await;
            if merged.is_deleted() {
                continue;
            }
            if !renewed.is_empty() {
                check(Some(&merged.key))?;
            }
            spent = spent.saturating_add(cost(&merged));
            if spent > bounds.cost && taken > 0 {
                return Ok(ends(true));
            }
            if spent > bounds.first && taken == 0 {
                return Ok(Walked {
                    more: true,
                    too_long: Some(spent),
                });
            }
            taken = take(merged, &view).await?;
            if taken >= bounds.items.max(1) {
                return Ok(ends(merge.may_go_on()));
            }
        }
    }
}
