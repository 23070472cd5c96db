//! Ordered scans over all shards.
//!
//! Keys are spread over the shards by hash, so a scan asks every shard, page by page, and merges.
//! All pages of one shard are read as of the log index of its first page: what a scan gives of one
//! shard is one consistent state. Different shards are read at different moments.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::limits::{
    SCAN_BUFFER_BYTES, SCAN_FETCHES_MAX, SCAN_PAGE_BYTES_MAX, SCAN_PAGE_BYTES_MIN, SCAN_PAGE_ITEMS,
};
use crate::operation::Request;
use crate::read::Entry;
use bytes::{BufMut, Bytes, BytesMut};
use corelith_wire::ShardId;
use corelith_wire::response::{Answer, ScanItem, ScanPage};
use futures_core::Stream;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

type Fetch = Pin<Box<dyn Future<Output = Result<ScanPage>> + Send>>;

/// What is known of one shard's part.
struct Part {
    shard: ShardId,
    /// Where the next page starts.
    start: Bytes,
    /// Log index of the first page, 0 before it came.
    at_version: u64,
    /// Whether keys follow those at hand.
    more: bool,
    items: VecDeque<ScanItem>,
    fetch: Option<Fetch>,
    /// Whether its first item's key is among the heads.
    listed: bool,
}

/// A stream of entries in key order, see [`Client::scan`]. After an error it ends.
#[must_use = "a scan does nothing until it is polled"]
pub struct Scan {
    client: Client,
    end: Bytes,
    limit: u64,
    deadline: Option<Duration>,
    parts: Vec<Part>,
    /// The first key of every part that has items at hand, with the part's place.
    heads: BinaryHeap<Reverse<(Bytes, usize)>>,
    fetching: usize,
    /// Whether some part should be asked for a page that is not on its way.
    hungry: bool,
    ended: bool,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            end, limit, ended, ..
        } = self;
        f.debug_struct("Scan")
            .field("end", end)
            .field("limit", limit)
            .field("ended", ended)
            .finish_non_exhaustive()
    }
}

impl Scan {
    pub(crate) fn prefix(client: Client, prefix: Bytes) -> Self {
        let end = successor(&prefix);
        Self::range(client, prefix, end)
    }

    pub(crate) fn range(client: Client, start: Bytes, end: Bytes) -> Self {
        let shard_count = client.cluster_map().shard_count();
        let part = |shard| Part {
            shard: ShardId(shard),
            start: start.clone(),
            at_version: 0,
            more: true,
            items: VecDeque::new(),
            fetch: None,
            listed: false,
        };
        let parts = (0..shard_count).map(part).collect();
        let heads = BinaryHeap::new();
        Self {
            client,
            end,
            limit: u64::MAX,
            deadline: None,
            parts,
            heads,
            fetching: 0,
            hungry: true,
            ended: false,
        }
    }

    /// Gives at most `limit` entries.
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// How long each page may take, retries included; otherwise the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Every shard has a page at hand, and one on its way at times: many shards get small pages.
    fn page_bytes(&self) -> u32 {
        let shards = u32::try_from(self.parts.len()).unwrap_or(u32::MAX).max(1);
        (SCAN_BUFFER_BYTES / shards).clamp(SCAN_PAGE_BYTES_MIN, SCAN_PAGE_BYTES_MAX)
    }

    fn fetch(&self, part: &Part) -> Fetch {
        let items = u32::try_from(self.limit)
            .unwrap_or(u32::MAX)
            .min(SCAN_PAGE_ITEMS);
        let request = Request::Scan {
            shard: part.shard,
            start: part.start.clone(),
            end: self.end.clone(),
            limit_items: items,
            max_bytes: self.page_bytes(),
            at_version: part.at_version,
        };
        let (client, deadline) = (self.client.clone(), self.deadline);
        Box::pin(async move {
            match client.run(request, deadline).await? {
                Answer::ScanPage(page) => Ok(page),
                _ => Err(Error::Protocol {
                    what: "an answer of the wrong kind",
                }),
            }
        })
    }

    /// Starts and polls fetches. `Ok(true)` if every part shows its first item or has none.
    fn advance(&mut self, context: &mut Context<'_>) -> Result<bool> {
        let mut complete = true;
        self.hungry = false;
        for at in 0..self.parts.len() {
            let Some(part) = self.parts.get(at) else {
                break;
            };
            let wanted = self.wants_page(part);
            let started = (wanted && self.fetching < SCAN_FETCHES_MAX).then(|| self.fetch(part));
            self.hungry |= wanted && started.is_none();
            let Some(part) = self.parts.get_mut(at) else {
                break;
            };
            if started.is_some() {
                part.fetch = started;
                self.fetching += 1;
            }
            if let Some(fetch) = &mut part.fetch
                && let Poll::Ready(page) = fetch.as_mut().poll(context)
            {
                part.fetch = None;
                self.fetching -= 1;
                part.take(page?)?;
                self.hungry = true;
            }
            if !part.listed {
                match part.items.front() {
                    Some(first) => {
                        self.heads.push(Reverse((first.key.clone(), at)));
                        part.listed = true;
                    }
                    None => complete &= !part.more,
                }
            }
        }
        Ok(complete)
    }

    /// Whether the next page of `part` should be on its way: while little of the last one is left,
    /// and less than what may still be given.
    fn wants_page(&self, part: &Part) -> bool {
        let left = part.items.len();
        let low = left < SCAN_PAGE_ITEMS as usize / 4 && (left as u64) < self.limit;
        part.more && part.fetch.is_none() && low
    }

    /// The smallest key of all parts.
    fn next_entry(&mut self) -> Option<Entry> {
        let Reverse((_, at)) = self.heads.pop()?;
        let part = self.parts.get_mut(at)?;
        let ScanItem {
            key,
            version,
            value,
        } = part.items.pop_front()?;
        if let Some(next) = part.items.front() {
            self.heads.push(Reverse((next.key.clone(), at)));
        } else {
            part.listed = false;
        }
        self.limit -= 1;
        self.hungry |= self.parts.get(at).is_some_and(|part| self.wants_page(part));
        Some(Entry {
            key,
            value,
            version,
        })
    }
}

impl Part {
    fn take(&mut self, page: ScanPage) -> Result<()> {
        let last = page.items.last().map(|item| item.key.clone());
        let rising = page
            .items
            .iter()
            .zip(page.items.iter().skip(1))
            .all(|(a, b)| a.key < b.key);
        let after = page
            .items
            .first()
            .is_none_or(|first| first.key >= self.start);
        if !rising || !after || (page.more && last.is_none()) {
            return Err(Error::Protocol {
                what: "a page of a scan out of order",
            });
        }
        if let Some(last) = last {
            // The first key after `last`.
            let mut next = BytesMut::with_capacity(last.len() + 1);
            next.extend_from_slice(&last);
            next.put_u8(0);
            self.start = next.freeze();
        }
        self.at_version = page.at_version;
        self.more = page.more;
        self.items.extend(page.items);
        Ok(())
    }
}

impl Stream for Scan {
    type Item = Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended || this.limit == 0 {
            return Poll::Ready(None);
        }
        while this.hungry || this.fetching > 0 {
            match this.advance(context) {
                Ok(true) => break,
                // A fetch that ended made room for one that was held back.
                Ok(false) if this.hungry && this.fetching < SCAN_FETCHES_MAX => {}
                Ok(false) => return Poll::Pending,
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let entry = this.next_entry();
        this.ended = entry.is_none();
        Poll::Ready(entry.map(Ok))
    }
}

/// The first key after all keys that start with `prefix`; empty if there is none.
fn successor(prefix: &[u8]) -> Bytes {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if let Some(next) = last.checked_add(1) {
            key.push(next);
            break;
        }
    }
    Bytes::from(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        for (prefix, expected) in [
            (&b""[..], &b""[..]),
            (b"a", b"b"),
            (b"a\xff", b"b"),
            (b"\xff\xff", b""),
            (b"a\x00", b"a\x01"),
        ] {
            assert_eq!(successor(prefix), expected, "{prefix:?}");
        }
    }
}
