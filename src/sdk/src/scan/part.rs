//! One shard's part of a scan: its pages, one after the other.

use crate::error::{Error, Result};
use crate::head::EntryHead;
use crate::replicas::{ReadFrom, Source};
use crate::scan::{ScanEntry, Value};
use bytes::{BufMut, Bytes, BytesMut};
use corelith_wire::response::{Answer, ScanPage, ScanValue};
use corelith_wire::{NodeId, ShardId};
use std::collections::VecDeque;
use std::pin::Pin;

/// A page request in flight.
pub(super) type Fetch<T> = Pin<Box<dyn Future<Output = Result<FetchedPage<T>>> + Send>>;

/// A page and the node that sent it.
pub(super) type FetchedPage<T> = (ScanPage<T>, Option<NodeId>);

/// An item of a scan: an entry or a head.
pub trait Item: Sized + Send + Unpin + 'static {
    /// Whether pages are requested without values.
    const KEYS_ONLY: bool;
    /// The page in `answer`; `None` if it is another kind of answer.
    fn page(answer: Answer) -> Option<ScanPage<Self>>;
    /// Its key.
    fn key(&self) -> &Bytes;
}

impl Item for ScanEntry {
    const KEYS_ONLY: bool = false;

    fn page(answer: Answer) -> Option<ScanPage<Self>> {
        let Answer::ScanPage(page) = answer else {
            return None;
        };
        Some(map(page, |item| Self {
            key: item.key,
            value: match item.value {
                ScanValue::Bytes(bytes) => Value::Bytes(bytes),
                ScanValue::Large { len } => Value::Large { len },
            },
            version: item.version,
        }))
    }

    fn key(&self) -> &Bytes {
        &self.key
    }
}

impl Item for EntryHead {
    const KEYS_ONLY: bool = true;

    fn page(answer: Answer) -> Option<ScanPage<Self>> {
        match answer {
            Answer::ScanHeads(page) => Some(map(page, |item| {
                Self::new(item.key, item.version, item.value_len).committed(item.committed_us)
            })),
            // Older releases always send the values.
            Answer::ScanPage(page) => Some(map(page, |item| {
                Self::new(item.key, item.version, item.value.len())
            })),
            _ => None,
        }
    }

    fn key(&self) -> &Bytes {
        &self.key
    }
}

fn map<T, U>(page: ScanPage<T>, item: impl FnMut(T) -> U) -> ScanPage<U> {
    ScanPage {
        meta: page.meta,
        at_version: page.at_version,
        more: page.more,
        items: page.items.into_iter().map(item).collect(),
    }
}

/// One shard's part of a scan. Owned by its scan.
pub(super) struct ScanPart<T> {
    pub(super) shard: ShardId,
    /// Where the next page starts.
    pub(super) start: Bytes,
    /// Log index of the first page, 0 before it arrived.
    pub(super) at_version: u64,
    /// The node that keeps the view of the first page.
    pub(super) at_node: Option<NodeId>,
    /// Whether keys follow after `items`.
    pub(super) more: bool,
    pub(super) items: VecDeque<T>,
    pub(super) fetch: Option<Fetch<T>>,
    /// Whether its first item's key is in the scan's `heads`.
    pub(super) listed: bool,
}

impl<T> ScanPart<T> {
    pub(super) fn new(shard: ShardId, start: Bytes) -> Self {
        Self {
            shard,
            start,
            at_version: 0,
            at_node: None,
            more: true,
            items: VecDeque::new(),
            fetch: None,
            listed: false,
        }
    }
}

impl<T: Item> ScanPart<T> {
    /// Continues after the last key with the shard's state at the next page: the earlier state is gone.
    pub(super) fn start_over(&mut self) {
        self.at_version = 0;
        self.at_node = None;
    }

    /// Where its next page comes from, if the scan reads from `from`.
    pub(super) fn source(&self, from: ReadFrom) -> Source {
        match self.at_node {
            Some(node) if from != ReadFrom::Leader => Source::At(node),
            _ => Source::From(from),
        }
    }

    /// Takes the next page. Keys have at most `key_bytes_max` bytes.
    pub(super) fn take(
        &mut self,
        (page, from): FetchedPage<T>,
        key_bytes_max: usize,
    ) -> Result<()> {
        let rising = page
            .items
            .iter()
            .zip(page.items.iter().skip(1))
            .all(|(a, b)| a.key() < b.key());
        let after = page
            .items
            .first()
            .is_none_or(|first| *first.key() >= self.start);
        let last = page.items.last().map(Item::key);
        if !rising || !after || (page.more && last.is_none()) {
            return Err(Error::Protocol {
                what: "a page of a scan out of order",
            });
        }
        self.more = page.more;
        match last.map(|last| next_key(last, key_bytes_max)) {
            Some(Some(next)) => self.start = next,
            Some(None) => self.more = false,
            None => {}
        }
        self.at_version = page.at_version;
        self.at_node = from;
        self.items.extend(page.items);
        Ok(())
    }
}

/// The first key after `key` among keys of at most `bytes_max` bytes, `None` if there is none.
pub(super) fn next_key(key: &[u8], bytes_max: usize) -> Option<Bytes> {
    if key.len() >= bytes_max {
        // No longer key starts with a key of the greatest length.
        let next = super::successor(key);
        return (!next.is_empty()).then_some(next);
    }
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.put_u8(0);
    Some(next.freeze())
}
