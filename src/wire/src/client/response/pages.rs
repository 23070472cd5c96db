//! Pages of scans, with and without values.

use super::ReplyMeta;
use crate::body::access;
use crate::error::DecodeError;
use crate::frame::{Frame, FrameBuilder, Head, Kind, field};
use crate::limits;
use crate::outbox::Outbox;
use crate::width::u32_len;
use bytes::{BufMut, Bytes};
use rkyv::{Archive, Serialize};

/// Body of a [`Kind::SCAN_PAGE`] or [`Kind::SCAN_HEADS`] before its item table.
#[derive(Clone, Copy, Debug, Archive, Serialize)]
struct ScanPageHead {
    meta: ReplyMeta,
    at_version: u64,
    item_count: u32,
    more: bool,
}

/// One key of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanItem {
    /// The key.
    pub key: Bytes,
    /// Version of the value: the log index of its write.
    pub version: u64,
    /// The value.
    pub value: ScanValue,
}

/// The value of a key in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanValue {
    /// Its bytes.
    Bytes(Bytes),
    /// It is large: its bytes are read as those of a key.
    Large {
        /// Its length, in bytes.
        len: u64,
    },
}

/// The length in a page's table that stands for a large value: what is told of it is among the value bytes.
const LARGE_VALUE: u32 = u32::MAX;

impl ScanValue {
    /// Length of the value, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no one asks")]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Large { len } => *len,
        }
    }

    /// Its bytes; `None` if it is large.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Large { .. } => None,
        }
    }
}

impl From<Bytes> for ScanValue {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// One key of a page without values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanHead {
    /// The key.
    pub key: Bytes,
    /// Version of the value: the log index of its write.
    pub version: u64,
    /// Length of the value, in bytes.
    pub value_len: u64,
    /// When a large value was committed, in µs since 1970, if that was asked for.
    pub committed_us: Option<u64>,
}

/// A part of a scan of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage<T = ScanItem> {
    /// Where in the shard's history.
    pub meta: ReplyMeta,
    /// The log index at which the page was read; the next page's request repeats it.
    pub at_version: u64,
    /// Whether the range has more keys after the last one.
    pub more: bool,
    /// In key order.
    pub items: Vec<T>,
}

/// Appends a page: the body is a table of (`key_len` u32, `value_len` u32, `version` u64), then a
/// `ScanPageHead`; keys and values in the table's order are the value bytes. The `value_len` of a large value is 2^32-1,
/// and its length as a u64 is in the place of its bytes.
pub fn encode_scan_page(out: &mut Outbox, head: Head, page: &ScanPage) {
    let row = |item: &ScanItem| {
        let value_len = match &item.value {
            ScanValue::Bytes(bytes) => u32_len(bytes.len()),
            ScanValue::Large { .. } => LARGE_VALUE,
        };
        row(&item.key, value_len, item.version)
    };
    let lengths: Vec<[u8; limits::LARGE_ITEM_BYTES]> = page
        .items
        .iter()
        .filter_map(|item| match item.value {
            ScanValue::Bytes(_) => None,
            ScanValue::Large { len } => Some(len.to_le_bytes()),
        })
        .collect();
    let mut lengths = lengths.iter();
    let tail = page.items.iter().flat_map(move |item| {
        let value = match &item.value {
            ScanValue::Bytes(bytes) => bytes.as_ref(),
            ScanValue::Large { .. } => lengths.next().map_or(&[][..], |len| len),
        };
        [item.key.as_ref(), value]
    });
    encode_page(out, head, Kind::SCAN_PAGE, page, row, tail);
}

/// Appends a page without values: like [`encode_scan_page`], but the value bytes are the keys alone. The `value_len` of a
/// large value whose time is told is 2^32-1, and behind its key are its length and that time, a u64 each.
pub fn encode_scan_heads(out: &mut Outbox, head: Head, page: &ScanPage<ScanHead>) {
    let row = |item: &ScanHead| {
        let value_len = match item.committed_us {
            None => head_len(item.value_len),
            Some(_) => LARGE_VALUE,
        };
        row(&item.key, value_len, item.version)
    };
    let told: Vec<[u8; limits::LARGE_HEAD_BYTES]> = page
        .items
        .iter()
        .filter_map(|item| Some((item.value_len, item.committed_us?)))
        .map(|(len, committed_us)| {
            let mut told = [0; limits::LARGE_HEAD_BYTES];
            let mut fields = told.as_mut_slice();
            fields.put_u64_le(len);
            fields.put_u64_le(committed_us);
            told
        })
        .collect();
    let mut told = told.iter();
    let tail = page.items.iter().flat_map(move |item| {
        let large = item.committed_us.and_then(|_| told.next());
        [item.key.as_ref(), large.map_or(&[][..], |large| large)]
    });
    encode_page(out, head, Kind::SCAN_HEADS, page, row, tail);
}

/// The length of a value in the table of a page without values.
fn head_len(len: u64) -> u32 {
    match u32::try_from(len) {
        Ok(len) if len != LARGE_VALUE => len,
        _ => unreachable!("a value of {len} bytes is above the limit of values"),
    }
}

fn encode_page<'p, T>(
    out: &mut Outbox,
    head: Head,
    kind: Kind,
    page: &ScanPage<T>,
    row: impl Fn(&T) -> [u8; limits::SCAN_ITEM_BYTES],
    tail: impl Iterator<Item = &'p [u8]>,
) {
    let mut frame = FrameBuilder::begin(out.buffer(), head.of_kind(kind));
    for item in &page.items {
        frame = frame.raw(&row(item));
    }
    frame
        .flat(&ScanPageHead {
            meta: page.meta,
            at_version: page.at_version,
            item_count: u32_len(page.items.len()),
            more: page.more,
        })
        .seal_parts(tail);
}

fn row(key: &[u8], value_len: u32, version: u64) -> [u8; limits::SCAN_ITEM_BYTES] {
    let mut row = [0u8; limits::SCAN_ITEM_BYTES];
    let mut fields = row.as_mut_slice();
    fields.put_u32_le(u32_len(key.len()));
    fields.put_u32_le(value_len);
    fields.put_u64_le(version);
    row
}

/// Parses a page.
pub(super) fn parse_items(frame: &Frame) -> Result<ScanPage, DecodeError> {
    parse_page(frame, |key_len, value_len, version, take| {
        Ok(ScanItem {
            key: take(key_len)?,
            value: parse_value(value_len, take)?,
            version,
        })
    })
}

/// Parses a page without values.
pub(super) fn parse_heads(frame: &Frame) -> Result<ScanPage<ScanHead>, DecodeError> {
    parse_page(frame, |key_len, value_len, version, take| {
        let key = take(key_len)?;
        let (value_len, committed_us) = parse_head(value_len, take)?;
        Ok(ScanHead {
            key,
            version,
            value_len,
            committed_us,
        })
    })
}

/// Takes the next bytes of a page's keys and values.
type Take<'a> = dyn FnMut(u32) -> Result<Bytes, DecodeError> + 'a;

/// Takes the next value of a page.
fn parse_value(value_len: u32, take: &mut Take<'_>) -> Result<ScanValue, DecodeError> {
    if value_len != LARGE_VALUE {
        return take(value_len).map(ScanValue::Bytes);
    }
    let bytes = take(limits::LARGE_ITEM_BYTES as u32)?;
    let len = bytes.as_ref().try_into().map(u64::from_le_bytes);
    match len {
        Ok(len) if len <= limits::LARGE_VALUE_BYTES_MAX => Ok(ScanValue::Large { len }),
        _ => Err(DecodeError::Malformed { what: "scan page" }),
    }
}

/// Takes what is told of the next value of a page without values: its length, and of a large one the time of its commit.
fn parse_head(value_len: u32, take: &mut Take<'_>) -> Result<(u64, Option<u64>), DecodeError> {
    if value_len != LARGE_VALUE {
        return Ok((value_len.into(), None));
    }
    let bytes = take(limits::LARGE_HEAD_BYTES as u32)?;
    let (fields, _) = bytes.as_chunks::<8>();
    match fields {
        [len, committed_us] if u64::from_le_bytes(*len) <= limits::LARGE_VALUE_BYTES_MAX => Ok((
            u64::from_le_bytes(*len),
            Some(u64::from_le_bytes(*committed_us)),
        )),
        _ => Err(DecodeError::Malformed { what: "scan page" }),
    }
}

/// Parses a page; `item` makes one of (`key_len`, `value_len`, `version`).
fn parse_page<T>(
    frame: &Frame,
    item: impl Fn(u32, u32, u64, &mut Take<'_>) -> Result<T, DecodeError>,
) -> Result<ScanPage<T>, DecodeError> {
    let malformed = DecodeError::Malformed { what: "scan page" };
    let body = frame.body();
    let head = access::<ArchivedScanPageHead>(body, "scan page")?;
    let table_len = body.len().saturating_sub(size_of::<ArchivedScanPageHead>());
    let (rows, excess) = body
        .get(..table_len)
        .unwrap_or_default()
        .as_chunks::<{ limits::SCAN_ITEM_BYTES }>();
    let item_count = head.item_count.to_native() as usize;
    if !excess.is_empty() || rows.len() != item_count || item_count > limits::SCAN_ITEMS_MAX {
        return Err(malformed);
    }
    let mut rest = frame.value();
    let mut take = |len: u32| -> Result<Bytes, DecodeError> {
        if len as usize > rest.len() {
            Err(malformed)
        } else {
            Ok(rest.split_to(len as usize))
        }
    };
    let mut items = Vec::with_capacity(item_count);
    for row in rows {
        items.push(item(
            u32::from_le_bytes(field(row, 0)),
            u32::from_le_bytes(field(row, 4)),
            u64::from_le_bytes(field(row, 8)),
            &mut take,
        )?);
    }
    if !rest.is_empty() {
        return Err(malformed);
    }
    Ok(ScanPage {
        meta: (&head.meta).into(),
        at_version: head.at_version.into(),
        more: head.more,
        items,
    })
}
