//! Reads that meet damage, answered with what another replica holds.
//!
//! An answer is as of an index at least as high as the read point, and committed: it is what a read at that
//! replica would have given. A page of a scan is of one moment, as any other.
//!
//! Invariant: who waits for room in an answer holds no value meanwhile.

use super::answers::Reply;
use super::slow_read::{KeyValue, applied};
use bytes::Bytes;
use corelith_consensus::Group;
use corelith_shards::limits::KEY_BYTES_MAX;
use corelith_shards::{
    Error, Fetched, FetchedEnd, FetchedKey, Found, FoundLarge, Item, ItemValue, LogIndex, ScanPage,
    ScanRange, Space,
};

/// Whether another replica may have what could not be read here.
pub(super) fn may_help(error: &Error) -> bool {
    match error {
        Error::Io(io) => io.is_read(),
        error => error.is_corrupt(),
    }
}

/// What a key holds elsewhere, and as of which index.
pub(super) struct FoundElsewhere {
    pub(super) found: KeyValue,
    pub(super) seen: LogIndex,
}

/// The value of `key` as of `least` or later, once `reply` has room for it. `None`: nobody has it, or nobody wants it
/// any more.
pub(super) async fn get(
    group: &Group,
    key: &[u8],
    least: LogIndex,
    reply: &mut Reply,
) -> Option<FoundElsewhere> {
    loop {
        let found = head(group, key, least).await?;
        let len = match &found.found {
            KeyValue::Bytes(found) => found.value.len(),
            KeyValue::Nothing | KeyValue::Large(_) => 0,
        };
        if reply.try_reserve(len) {
            return Some(found);
        }
        drop(found);
        if !reply.reserve(len).await {
            return None;
        }
    }
}

/// As [`get`], for an answer without the value.
pub(super) async fn head(group: &Group, key: &[u8], least: LogIndex) -> Option<FoundElsewhere> {
    let stored = stored(Space::User, key);
    let range = (stored.clone(), stored, Bytes::new());
    let fetched = group.fetch_elsewhere(range, None, least, 0).await?;
    let found = match fetched.keys.into_iter().next() {
        Some(FetchedKey { at, value, .. }) => match value {
            ItemValue::Bytes(value) => KeyValue::Bytes(Found { version: at, value }),
            ItemValue::Large(large) => KeyValue::Large(FoundLarge { version: at, large }),
        },
        None => KeyValue::Nothing,
    };
    Some(FoundElsewhere {
        found,
        seen: fetched.as_of,
    })
}

/// A row of the shard's own, `Some(None)` if it is gone. `None`: nobody can say. As much must be applied there as here.
pub(super) async fn row(group: &Group, space: Space, key: &[u8]) -> Option<Option<Bytes>> {
    let stored = stored(space, key);
    let range = (stored.clone(), stored, Bytes::new());
    let least = applied(group.engine());
    let fetched = group.fetch_elsewhere(range, None, least, 0).await?;
    let found = fetched.keys.into_iter().next();
    match found.map(|found| found.value.into_bytes()) {
        Some(bytes) => bytes.map(Some),
        None => Some(None),
    }
}

/// What a page is to hold at most.
pub(super) struct PageRange<'a> {
    pub(super) range: &'a ScanRange,
    pub(super) items_max: usize,
    pub(super) bytes_max: usize,
    /// Bytes of its first item.
    pub(super) first_max: usize,
}

/// A page of a scan as of one moment, or how long its first item is if it is too long.
pub(super) async fn page(
    group: &Group,
    wanted: &PageRange<'_>,
    at: Option<LogIndex>,
    least: LogIndex,
) -> Option<(ScanPage, LogIndex)> {
    let first = stored(Space::User, &wanted.range.start);
    let last = match wanted.range.end.is_empty() {
        true => stored(Space::User, &[u8::MAX; KEY_BYTES_MAX]),
        false => stored(Space::User, &wanted.range.end),
    };
    let mut page = ScanPage {
        items: Vec::new(),
        more: true,
        too_long: None,
    };
    let mut bytes = 0;
    let (mut after, mut at) = (Bytes::new(), at);
    while bytes < wanted.bytes_max && page.items.len() < wanted.items_max {
        let range = (first.clone(), last.clone(), after.clone());
        let left = wanted.bytes_max - bytes;
        let fetched = group.fetch_elsewhere(range, at, least, left).await;
        let Some(Fetched { as_of, keys, end }) = fetched else {
            break;
        };
        at = Some(as_of);
        for FetchedKey {
            stored_key,
            at: version,
            value,
        } in keys
        {
            let key = stored_key.slice(1..);
            if !wanted.range.end.is_empty() && key >= wanted.range.end {
                page.more = false;
                return Some((page, as_of));
            }
            let cost = key.len() + value.held_len();
            if page.items.is_empty() && cost > wanted.first_max {
                page.too_long = Some(cost);
                return Some((page, as_of));
            }
            if !page.items.is_empty()
                && (bytes + cost > wanted.bytes_max || page.items.len() >= wanted.items_max)
            {
                return Some((page, as_of));
            }
            bytes += cost;
            page.items.push(Item {
                key,
                version,
                value,
            });
            after = stored_key;
        }
        if end == FetchedEnd::Complete {
            page.more = false;
            return Some((page, as_of));
        }
    }
    // A page with nothing in it would not say where to go on.
    let at = at.filter(|_| !page.items.is_empty())?;
    Some((page, at))
}

fn stored(space: Space, key: &[u8]) -> Bytes {
    let mut stored = Vec::with_capacity(key.len() + 1);
    stored.push(space as u8);
    stored.extend_from_slice(key);
    stored.into()
}
