//! Ordered scans over all shards.
//!
//! Keys are spread over the shards by hash, so a scan reads every shard, page by page, and merges the
//! pages. All pages of one shard are read as of the log index of its first page: the scan returns one
//! consistent state of each shard. Different shards are read at different moments.
//!
//! A shard keeps that state as long as it hears from the scan, see [`keep`]. If the state is gone anyway
//! (the node was restarted, too many scans were open), the scan continues after the last key with the
//! shard's current state, and [`Scan::is_consistent`] turns false.

mod keep;
mod part;
mod token;

pub use token::ScanToken;

use crate::client::{Client, own};
use crate::error::{Error, Result};
use crate::head::EntryHead;
use crate::keys::check_key_len;
use crate::limits::{
    SCAN_BUFFER_BYTES, SCAN_FETCHES_MAX, SCAN_PAGE_BYTES_MAX, SCAN_PAGE_BYTES_MIN, SCAN_PAGE_ITEMS,
};
use crate::operation::Request;
use crate::read::Entry;
use crate::replicas::ReadFrom;
use bytes::Bytes;
use corelith_wire::ShardId;
use futures_core::Stream;
use keep::Keeper;
use part::{Fetch, Item, ScanPart, next_key};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A key of a [`Scan`] with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanEntry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Value,
    /// Version of its value, as in [`Entry`].
    pub version: u64,
}

/// The value of a key in a [`Scan`].
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Its bytes.
    Bytes(Bytes),
    /// It is too long for a page of a scan: read the key for its bytes, see [`Client::get`].
    Large {
        /// Its length, in bytes.
        len: u64,
    },
}

impl Value {
    /// Its bytes; `None` for a large value.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Large { .. } => None,
        }
    }

    /// Its length, in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Large { len } => *len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Value {
    /// Shows the beginning only: it may have millions of bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 64;
        match self {
            Self::Bytes(bytes) => {
                let shown = bytes.slice(..bytes.len().min(SHOWN_BYTES));
                write!(f, "{shown:?} of {} bytes", bytes.len())
            }
            Self::Large { len } => write!(f, "{len} bytes"),
        }
    }
}

impl From<Entry> for ScanEntry {
    fn from(entry: Entry) -> Self {
        Self {
            key: entry.key,
            value: Value::Bytes(entry.value),
            version: entry.version,
        }
    }
}

impl<B: AsRef<[u8]> + ?Sized> PartialEq<B> for Value {
    /// Whether it has these bytes. A large value has none that are known.
    fn eq(&self, other: &B) -> bool {
        self.bytes().is_some_and(|bytes| bytes == other.as_ref())
    }
}

/// A scan, made by [`Client::scan`]: a stream of [`ScanEntry`]s in key order, or with
/// [`keys_only`](Self::keys_only) of their heads. After an error the stream ends.
///
/// For each shard, the scan returns the state at one moment: when it first read the shard. This holds
/// even if the scan is polled slowly, as long as it is polled at least every ten minutes. Different
/// shards are read at different moments. If a shard loses that state (its leader was restarted, or a
/// new leader has dropped overwritten values), the scan continues after the last key with the shard's
/// current state. [`is_consistent`](Self::is_consistent) reports this, and
/// [`one_moment`](Self::one_moment) turns it into an error. In any case the scan returns every key that
/// exists throughout, once, in order.
///
/// Cancel safe: dropping the future of a `next` loses nothing, since the next call returns the same
/// entry. [`token`](Self::token) says where another scan can continue.
///
/// # Errors
/// Each item may be an error: `Unavailable` or `Throttled` if a page does not arrive within its
/// deadline, `ScanExpired` with [`one_moment`](Self::one_moment), `Corrupt` if stored data is damaged
/// and for some seconds no replica with a good copy takes the lead, `TooLarge` for a start, end or prefix
/// that is longer than a key.
#[must_use = "a scan does nothing until it is polled"]
pub struct Scan<T = ScanEntry> {
    client: Client,
    /// Lower bound of the keys not yet returned.
    start: Bytes,
    end: Bytes,
    limit: u64,
    deadline: Option<Duration>,
    from: ReadFrom,
    /// One per shard; empty before the first poll.
    parts: Vec<ScanPart<T>>,
    /// The first key of every part that has items, with the part's index.
    heads: BinaryHeap<Reverse<(Bytes, usize)>>,
    fetching: usize,
    /// Whether some part needs a page that is not yet requested.
    hungry: bool,
    keeper: Keeper,
    /// Whether the scan fails if a shard loses its state.
    one_moment: bool,
    /// Whether all pages of each shard were read as of one moment.
    consistent: bool,
    /// Whether the whole range was returned.
    complete: bool,
    failed: bool,
}

impl<T> fmt::Debug for Scan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan")
            .field("start", &self.start)
            .field("end", &self.end)
            .field("limit", &self.limit)
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Reads all keys that start with `prefix`, in order. An empty prefix reads all keys. Returns a
    /// stream of [`ScanEntry`]s.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::prefix(self.clone(), own(prefix))
    }

    /// Reads all keys `start <= key < end`, in order. An empty `end` means no upper bound. Returns a
    /// stream of [`ScanEntry`]s.
    pub fn scan_range(&self, start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Scan {
        Scan::range(self.clone(), own(start), own(end))
    }

    /// Continues a scan from its [`token`](Scan::token). It reads the current state, not that of the
    /// earlier scan.
    ///
    /// # Errors
    /// `Invalid` if the token is of another cluster.
    pub fn resume_scan(&self, token: &ScanToken) -> Result<Scan> {
        let (start, end) = token.range(self.cluster_id())?;
        Ok(Scan::range(self.clone(), start, end))
    }
}

impl Scan {
    pub(crate) fn prefix(client: Client, prefix: Bytes) -> Self {
        let end = successor(&prefix);
        Self::range(client, prefix, end)
    }

    pub(crate) fn range(client: Client, start: Bytes, end: Bytes) -> Self {
        let from = client.read_from();
        Self {
            client,
            start,
            end,
            limit: u64::MAX,
            deadline: None,
            from,
            parts: Vec::new(),
            heads: BinaryHeap::new(),
            fetching: 0,
            hungry: true,
            keeper: Keeper::default(),
            one_moment: false,
            consistent: true,
            complete: false,
            failed: false,
        }
    }

    /// Returns keys with the versions and lengths (in bytes) of their values. The values are neither read
    /// from disk nor sent. Call it before the first poll: entries fetched before are fetched again.
    pub fn keys_only(self) -> Scan<EntryHead> {
        let Self {
            client,
            start,
            end,
            limit,
            deadline,
            from,
            one_moment,
            complete,
            failed,
            ..
        } = self;
        Scan {
            client,
            start,
            end,
            limit,
            deadline,
            from,
            parts: Vec::new(),
            heads: BinaryHeap::new(),
            fetching: 0,
            hungry: true,
            keeper: Keeper::default(),
            one_moment,
            consistent: true,
            complete,
            failed,
        }
    }

    /// Restricts the scan to keys from `key` on, inclusive. Call it before the first poll.
    pub fn start_at(mut self, key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        if key > &self.start[..] {
            self.start = Bytes::copy_from_slice(key);
        }
        self
    }

    /// Restricts the scan to keys before `key`, exclusive; an empty `key` changes nothing. Call it before
    /// the first poll.
    pub fn end_before(mut self, key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        if self.end.is_empty() || (!key.is_empty() && key < &self.end[..]) {
            self.end = Bytes::copy_from_slice(key);
        }
        self
    }
}

impl<T> Scan<T> {
    /// Returns at most `limit` more entries.
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Sets how long each page may take, including retries. Default: the client's deadline. The scan as
    /// a whole has no deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Says which replicas may send pages. All pages of a shard come from the replica that sent the first one, as long
    /// as it can. Default: as the client's builder says. Call it before the first poll.
    pub fn from(mut self, from: ReadFrom) -> Self {
        self.from = from;
        self
    }

    /// Makes the scan fail with `ScanExpired` if a shard loses the state that the scan reads.
    pub fn one_moment(mut self) -> Self {
        self.one_moment = true;
        self
    }

    /// Whether all entries returned so far are, for each shard, from one moment.
    pub fn is_consistent(&self) -> bool {
        self.consistent
    }

    /// The token from which [`Client::resume_scan`] continues after the last entry returned. Usable at
    /// any time, also after the limit is reached or after an error. `None` if the scan has returned
    /// everything.
    pub fn token(&self) -> Option<ScanToken> {
        let drained = !self.parts.is_empty()
            && self
                .parts
                .iter()
                .all(|part| !part.more && part.items.is_empty());
        if self.complete || drained {
            return None;
        }
        let cluster = self.client.cluster_id();
        Some(ScanToken::new(
            cluster,
            self.start.clone(),
            self.end.clone(),
        ))
    }
}

impl<T> Scan<T> {
    /// As [`Scan::start_at`].
    #[cfg(any(feature = "object-store", feature = "object-store-0-13"))]
    pub(crate) fn starting_at(mut self, key: Vec<u8>) -> Self {
        if key[..] > self.start[..] {
            self.start = key.into();
        }
        self
    }
}

impl<T: Item> Scan<T> {
    /// Creates the parts. Returns false if the range is empty.
    fn begin(&mut self) -> Result<bool> {
        check_key_len(&self.client, &self.start)?;
        check_key_len(&self.client, &self.end)?;
        if !self.end.is_empty() && self.start >= self.end {
            return Ok(false);
        }
        let shard_count = self.client.cluster_map().shard_count();
        self.parts = (0..shard_count)
            .map(|shard| ScanPart::new(ShardId(shard), self.start.clone()))
            .collect();
        Ok(true)
    }

    /// Bytes per page. Every shard may hold a page and have another in flight, so pages are smaller with
    /// more shards.
    fn page_bytes(&self) -> u32 {
        let shards = u32::try_from(self.parts.len()).unwrap_or(u32::MAX).max(1);
        (SCAN_BUFFER_BYTES / shards).clamp(SCAN_PAGE_BYTES_MIN, SCAN_PAGE_BYTES_MAX)
    }

    fn fetch(&self, part: &ScanPart<T>) -> Fetch<T> {
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
            keys_only: T::KEYS_ONLY,
        };
        let (client, deadline) = (self.client.clone(), self.deadline);
        let source = part.source(self.from);
        Box::pin(async move {
            let (answer, node) = client.run_from(request, deadline, source).await?;
            let page = T::page(answer).ok_or(Error::Protocol {
                what: "an answer of the wrong kind",
            })?;
            Ok((page, node))
        })
    }

    /// Starts and polls fetches. `Ok(true)` if every part has its first item in `heads` or is at its end.
    fn advance(&mut self, context: &mut Context<'_>) -> Result<bool> {
        let key_bytes_max = self.client.limits().key_bytes_max;
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
                self.hungry = true;
                match page {
                    Err(Error::ScanExpired) if !self.one_moment && part.at_version != 0 => {
                        part.start_over();
                        self.consistent = false;
                    }
                    page => part.take(page?, key_bytes_max)?,
                }
                if part.more && part.at_version != 0 {
                    let (start, at_version) = (part.start.clone(), part.at_version);
                    let source = part.source(self.from);
                    self.keeper
                        .keep(&self.client, part.shard, start, at_version, source);
                } else {
                    self.keeper.forget(part.shard);
                }
            }
            if !part.listed {
                match part.items.front() {
                    Some(first) => {
                        self.heads.push(Reverse((first.key().clone(), at)));
                        part.listed = true;
                    }
                    None => complete &= !part.more,
                }
            }
        }
        Ok(complete)
    }

    /// Whether to request the next page of `part`: few items are left, and fewer than the limit allows.
    fn wants_page(&self, part: &ScanPart<T>) -> bool {
        let left = part.items.len();
        let low = left < SCAN_PAGE_ITEMS as usize / 4 && (left as u64) < self.limit;
        part.more && part.fetch.is_none() && low
    }

    /// Takes the item with the smallest key of all parts.
    fn next_item(&mut self) -> Option<T> {
        let Reverse((key, at)) = self.heads.pop()?;
        let part = self.parts.get_mut(at)?;
        let item = part.items.pop_front()?;
        if let Some(next) = part.items.front() {
            self.heads.push(Reverse((next.key().clone(), at)));
        } else {
            part.listed = false;
        }
        self.limit -= 1;
        self.hungry |= self.parts.get(at).is_some_and(|part| self.wants_page(part));
        match next_key(&key, self.client.limits().key_bytes_max) {
            Some(next) => self.start = next,
            None => self.complete = true,
        }
        Some(item)
    }
}

impl<T: Item> Stream for Scan<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.complete || this.failed || this.limit == 0 {
            // The scan has ended: its state on the shards may go.
            this.keeper = Keeper::default();
            return Poll::Ready(None);
        }
        this.keeper.polled();
        if this.parts.is_empty() {
            match this.begin() {
                Ok(true) => {}
                Ok(false) => {
                    this.complete = true;
                    return Poll::Ready(None);
                }
                Err(error) => {
                    this.failed = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        while this.hungry || this.fetching > 0 {
            match this.advance(context) {
                Ok(true) => break,
                // A fetch has ended, so another one can start.
                Ok(false) if this.hungry && this.fetching < SCAN_FETCHES_MAX => {}
                Ok(false) => return Poll::Pending,
                Err(error) => {
                    this.failed = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let item = this.next_item();
        this.complete |= item.is_none();
        Poll::Ready(item.map(Ok))
    }
}

/// The smallest key greater than all keys that start with `prefix`; empty if there is none.
pub(crate) fn successor(prefix: &[u8]) -> Bytes {
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
