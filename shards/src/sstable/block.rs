//! Sorted entries of a data or index block, with shared key prefixes left out.
//!
//! ```text
//! payload = entry ... | restart u32 ... | restart count u32
//! entry   = shared varint | rest varint | kind u8 | sequence number varint | place | key rest |
//!           value bytes
//! place   = nothing (kind 0, deleted) | value length varint (kind 1, inline) |
//!           handle (kind 2, stored in a block of its own) |
//!           a pointer (kind 3, in the value log; see vlog/pointer.rs) |
//!           handle | handle (kind 4, a leaf and its filter; in the root only)
//! handle  = offset / 4096 varint | payload length varint
//! ```
//! `shared` counts all bytes that the key has in common with the key before, on which searches rely. A
//! restart is the offset of an entry whose `shared` is 0 whatever it has in common; the first entry is one.
//! Kinds 3 and 4 came with version 2.

pub(super) mod find;

use super::Value;
use super::format::Handle;
use crate::ids::LogIndex;
use crate::key::compare;
use crate::length;
use crate::limits::{KEY_BYTES_MAX, RESTART_INTERVAL};
use crate::varint;
use crate::vlog::ValuePointer;
use bytes::Bytes;
use corelith_io::BLOCK_SIZE;
use std::cmp::Ordering;

const DELETED: u8 = 0;
const INLINE: u8 = 1;
const STORED: u8 = 2;
const SEPARATED: u8 = 3;
const PARTITION: u8 = 4;

/// Most keys are shorter, so that the memory for one is taken once.
const KEY_BYTES_USUAL: usize = 64;

/// What is wrong with a block whose checksum matched: it was written wrong.
pub(super) type Damage = &'static str;

const SHORT: Damage = "an entry does not fit its block";

/// A leaf of the index and the filter of the keys below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) leaf: Handle,
    /// `None` in tables of version 1.
    pub(super) filter: Option<Handle>,
}

/// A value to be put into a block.
#[derive(Clone, Copy)]
pub(super) enum Put<'a> {
    Deleted,
    Inline(&'a [u8]),
    Stored(Handle),
    Separated(ValuePointer),
    Partition { leaf: Handle, filter: Handle },
}

impl Put<'_> {
    /// Bytes of the place and the value.
    fn len(&self) -> usize {
        match self {
            Self::Deleted => 0,
            Self::Inline(value) => varint::len(value.len() as u64) + value.len(),
            Self::Stored(handle) => handle_len(*handle),
            Self::Separated(pointer) => pointer.encoded_len(),
            Self::Partition { leaf, filter } => handle_len(*leaf) + handle_len(*filter),
        }
    }
}

fn handle_len(handle: Handle) -> usize {
    varint::len(handle.offset / BLOCK_SIZE as u64) + varint::len(u64::from(handle.len))
}

fn put_handle(handle: Handle, out: &mut Vec<u8>) {
    debug_assert!(
        Handle::checked(handle.offset, u64::from(handle.len)) == Some(handle),
        "a handle that would not be read"
    );
    varint::put(out, handle.offset / BLOCK_SIZE as u64);
    varint::put(out, u64::from(handle.len));
}

fn take_handle(bytes: &mut &[u8]) -> Result<Handle, Damage> {
    let number = varint::take(bytes).ok_or(SHORT)?;
    let len = varint::take(bytes).ok_or(SHORT)?;
    let offset = number.checked_mul(BLOCK_SIZE as u64);
    offset
        .and_then(|offset| Handle::checked(offset, len))
        .ok_or("a handle to no block")
}

/// Builds the payload of a block.
pub(super) struct BlockBuilder {
    /// Every this many entries a key is stored whole.
    interval: usize,
    payload: Vec<u8>,
    restarts: Vec<u32>,
    entries: usize,
}

impl Default for BlockBuilder {
    fn default() -> Self {
        Self::with_interval(RESTART_INTERVAL)
    }
}

impl BlockBuilder {
    /// A builder of blocks with more or fewer restarts than usual: a lookup decodes half an interval.
    pub(super) fn with_interval(interval: usize) -> Self {
        Self {
            interval,
            payload: Vec::new(),
            restarts: Vec::new(),
            entries: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Length of the payload if it were finished now.
    pub(super) fn len(&self) -> usize {
        self.payload.len() + self.restarts.len() * 4 + 4
    }

    /// Length of the payload if it were finished after this entry; see [`BlockBuilder::add`].
    pub(super) fn len_with(&self, key: &[u8], shared: usize, at: LogIndex, put: &Put<'_>) -> usize {
        let restart = self.restarts_next();
        let shared = if restart { 0 } else { shared };
        let rest = key.len() - shared;
        let entry = varint::len(shared as u64)
            + varint::len(rest as u64)
            + 1
            + varint::len(at.0)
            + put.len()
            + rest;
        self.len() + entry + if restart { 4 } else { 0 }
    }

    fn restarts_next(&self) -> bool {
        self.entries.is_multiple_of(self.interval)
    }

    /// Adds an entry; entries come in order. `shared` is what its key has in common with the key
    /// added before.
    pub(super) fn add(&mut self, key: &[u8], shared: usize, at: LogIndex, put: Put<'_>) {
        assert!(shared <= key.len(), "a key shares no more than it has");
        let whole = cfg!(debug_assertions).then(|| self.len_with(key, shared, at, &put));
        let mut shared = shared;
        if self.restarts_next() {
            let offset = length::stored(self.payload.len());
            self.restarts.push(offset);
            shared = 0;
        }
        let rest = key.get(shared..).unwrap_or(&[]);
        let out = &mut self.payload;
        varint::put(out, shared as u64);
        varint::put(out, rest.len() as u64);
        out.push(match put {
            Put::Deleted => DELETED,
            Put::Inline(_) => INLINE,
            Put::Stored(_) => STORED,
            Put::Separated(_) => SEPARATED,
            Put::Partition { .. } => PARTITION,
        });
        varint::put(out, at.0);
        let mut value_bytes: &[u8] = &[];
        match put {
            Put::Deleted => {}
            Put::Inline(value) => {
                varint::put(out, value.len() as u64);
                value_bytes = value;
            }
            Put::Stored(handle) => put_handle(handle, out),
            Put::Separated(pointer) => pointer.encode(out),
            Put::Partition { leaf, filter } => {
                put_handle(leaf, out);
                put_handle(filter, out);
            }
        }
        out.extend_from_slice(rest);
        out.extend_from_slice(value_bytes);
        self.entries += 1;
        debug_assert!(
            whole.is_none_or(|whole| whole == self.len()),
            "an entry takes what was planned"
        );
    }

    /// Returns the payload and starts the next block.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        assert!(
            self.entries > 0,
            "a block without entries would not be read"
        );
        assert_eq!(
            self.restarts.len(),
            self.entries.div_ceil(self.interval),
            "restarts are at intervals"
        );
        let mut payload = std::mem::take(&mut self.payload);
        for restart in &self.restarts {
            payload.extend_from_slice(&restart.to_le_bytes());
        }
        let count = length::stored(self.restarts.len());
        payload.extend_from_slice(&count.to_le_bytes());
        self.restarts.clear();
        self.entries = 0;
        payload
    }

    /// Takes the memory of a finished payload for the block begun.
    pub(super) fn reuse(&mut self, mut memory: Vec<u8>) {
        if self.payload.capacity() == 0 {
            memory.clear();
            self.payload = memory;
        }
    }
}

/// Number of leading bytes that `left` and `right` share.
#[inline]
pub(super) fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    let (left_words, _) = left.as_chunks::<8>();
    let (right_words, _) = right.as_chunks::<8>();
    let mut shared = 0;
    for (left, right) in left_words.iter().zip(right_words) {
        let differ = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if differ != 0 {
            return shared + differ.trailing_zeros() as usize / 8;
        }
        shared += 8;
    }
    let rest = left.iter().zip(right).skip(shared);
    shared + rest.take_while(|(left, right)| left == right).count()
}

/// How a payload is divided.
#[derive(Clone, Copy, Default)]
pub(super) struct Layout {
    /// Where the entries end and the restarts start.
    pub(super) entries_end: usize,
    restart_count: usize,
}

impl Layout {
    pub(super) fn of(payload: &[u8]) -> Result<Self, Damage> {
        const SHORT: Damage = "a block is too short";
        let count_at = payload.len().checked_sub(4).ok_or(SHORT)?;
        let count = read_u32(payload, count_at).ok_or(SHORT)?;
        let restart_count = usize::try_from(count).map_err(|_| SHORT)?;
        let entries_end = restart_count
            .checked_mul(4)
            .and_then(|restarts| count_at.checked_sub(restarts))
            .ok_or("a block's restarts do not fit")?;
        if restart_count == 0 || entries_end == 0 {
            return Err("a block without entries");
        }
        Ok(Self {
            entries_end,
            restart_count,
        })
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*four))
}

/// What an entry holds; bytes are named by their place in the payload.
#[derive(Clone, Copy)]
pub(super) enum Held {
    Deleted,
    Inline { start: usize, len: usize },
    Stored(Handle),
    Separated(ValuePointer),
    Partition { leaf: Handle, filter: Handle },
}

/// An entry whose key is not put together yet.
struct Ahead {
    shared: usize,
    rest_at: usize,
    rest: usize,
    at: LogIndex,
    held: Held,
    next: usize,
}

impl Ahead {
    /// The entry at `start` of a block's entries, after a key of `key_len` bytes; `None` at the end.
    #[inline]
    fn decode(entries: &[u8], start: usize, key_len: usize) -> Result<Option<Self>, Damage> {
        let mut entry = entries.get(start..).ok_or(SHORT)?;
        if entry.is_empty() {
            return Ok(None);
        }
        let shared = varint::take_len(&mut entry).ok_or(SHORT)?;
        let rest = varint::take_len(&mut entry).ok_or(SHORT)?;
        let (kind, after) = entry.split_first().ok_or(SHORT)?;
        entry = after;
        let at = LogIndex(varint::take(&mut entry).ok_or(SHORT)?);
        let mut value_len = 0;
        let mut held = match *kind {
            DELETED => Held::Deleted,
            INLINE => {
                value_len = varint::take_len(&mut entry).ok_or(SHORT)?;
                Held::Deleted
            }
            STORED => Held::Stored(take_handle(&mut entry)?),
            SEPARATED => Held::Separated(ValuePointer::decode(&mut entry).ok_or(SHORT)?),
            PARTITION => Held::Partition {
                leaf: take_handle(&mut entry)?,
                filter: take_handle(&mut entry)?,
            },
            _ => return Err("an entry of unknown kind"),
        };
        if shared > key_len || shared.saturating_add(rest) > KEY_BYTES_MAX + 1 {
            return Err("an entry whose key cannot be");
        }
        if entry.len() < rest || entry.len() - rest < value_len {
            return Err(SHORT);
        }
        let rest_at = entries.len() - entry.len();
        let value_at = rest_at + rest;
        if *kind == INLINE {
            held = Held::Inline {
                start: value_at,
                len: value_len,
            };
        }
        Ok(Some(Self {
            shared,
            rest_at,
            rest,
            at,
            held,
            next: value_at + value_len,
        }))
    }

    #[inline]
    fn key_rest<'a>(&self, entries: &'a [u8]) -> &'a [u8] {
        let rest = entries.get(self.rest_at..self.rest_at + self.rest);
        rest.unwrap_or_default()
    }

    /// The order of this entry, which follows `key_before`, and `target`.
    #[inline]
    fn compare(&self, entries: &[u8], key_before: &[u8], target: (&[u8], LogIndex)) -> Ordering {
        let prefix = key_before.get(..self.shared).unwrap_or_default();
        let by_key = match target.0.split_at_checked(self.shared) {
            Some((head, tail)) => prefix
                .cmp(head)
                .then_with(|| self.key_rest(entries).cmp(tail)),
            None => prefix.cmp(target.0),
        };
        by_key.then_with(|| target.1.cmp(&self.at))
    }
}

/// A place among the entries of a block, whose bytes each call is given.
#[derive(Clone)]
pub(super) struct Position {
    /// Offset of the entry after the current one.
    next: usize,
    pub(super) key: Vec<u8>,
    pub(super) at: LogIndex,
    pub(super) held: Held,
}

impl Position {
    /// Before the first entry.
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            key: Vec::with_capacity(KEY_BYTES_USUAL),
            at: LogIndex(0),
            held: Held::Deleted,
        }
    }

    /// Goes before the first entry of another block.
    pub(super) fn restart(&mut self) {
        self.next = 0;
        self.key.clear();
    }

    /// Goes to the next entry; `false` after the last.
    #[inline]
    pub(super) fn advance(&mut self, entries: &[u8]) -> Result<bool, Damage> {
        let ahead = Ahead::decode(entries, self.next, self.key.len())?;
        if let Some(ahead) = &ahead {
            self.accept(entries, ahead);
        }
        Ok(ahead.is_some())
    }

    #[inline]
    fn accept(&mut self, entries: &[u8], ahead: &Ahead) {
        self.key.truncate(ahead.shared);
        self.key.extend_from_slice(ahead.key_rest(entries));
        self.at = ahead.at;
        self.held = ahead.held;
        self.next = ahead.next;
    }
}

/// A block in memory. Cheap to clone.
#[derive(Clone)]
pub(super) struct Block {
    payload: Bytes,
    layout: Layout,
}

impl Block {
    pub(super) fn new(payload: Bytes) -> Result<Self, Damage> {
        let layout = Layout::of(&payload)?;
        Ok(Self { payload, layout })
    }

    fn entries(&self) -> &[u8] {
        let entries = self.payload.get(..self.layout.entries_end);
        entries.unwrap_or_default()
    }

    /// Checks that every key leaves out just what it has in common with the one before, and that restarts
    /// are where the block says.
    fn check(&self) -> Result<(), Damage> {
        let entries = self.entries();
        let mut position = Position::new();
        let mut before = Vec::new();
        let mut restarts = 0;
        while let Some(ahead) = Ahead::decode(entries, position.next, position.key.len())? {
            let is_restart = restarts < self.layout.restart_count
                && restart(&self.payload, self.layout, restarts)? == position.next;
            before.clone_from(&position.key);
            position.accept(entries, &ahead);
            let shared = match is_restart {
                true => 0,
                false => common_prefix(&before, &position.key),
            };
            if ahead.shared != shared {
                return Err("a key that leaves out more or less than it shares");
            }
            restarts += usize::from(is_restart);
        }
        match restarts == self.layout.restart_count {
            true => Ok(()),
            false => Err("a restart that is no entry"),
        }
    }
}

impl Held {
    /// The value of an entry of a data block with that payload.
    pub(super) fn value(self, payload: &Bytes) -> Result<Value, Damage> {
        Ok(match self {
            Self::Deleted => Value::Deleted,
            Self::Inline { start, len } => Value::Inline(payload.slice(start..start + len)),
            Self::Stored(handle) => Value::Stored(handle),
            Self::Separated(pointer) => Value::Separated(pointer),
            Self::Partition { .. } => return Err("an index entry among data"),
        })
    }

    /// The block that an entry of a leaf refers to.
    pub(super) fn child(self) -> Result<Handle, Damage> {
        match self {
            Self::Stored(handle) => Ok(handle),
            _ => Err("an index entry without a block"),
        }
    }
}

/// Offset of the restart with that number.
fn restart(payload: &[u8], layout: Layout, number: usize) -> Result<usize, Damage> {
    let offset = read_u32(payload, layout.entries_end + number * 4)
        .and_then(|offset| usize::try_from(offset).ok());
    match offset {
        Some(offset) if offset < layout.entries_end => Ok(offset),
        _ => Err("a restart outside of its block"),
    }
}

/// Offset of the last restart that is at or before (`key`, `at`), or of the first.
fn restart_before(
    payload: &[u8],
    layout: Layout,
    key: &[u8],
    at: LogIndex,
) -> Result<usize, Damage> {
    let entries = payload.get(..layout.entries_end).ok_or(SHORT)?;
    // Restarts below `low` are at or before the target, those from `high` on are after it.
    let (mut low, mut high) = (1, layout.restart_count);
    while low < high {
        let middle = low + (high - low) / 2;
        let start = restart(payload, layout, middle)?;
        let ahead = Ahead::decode(entries, start, 0)?;
        let ahead = ahead.ok_or("a restart without an entry")?;
        if ahead.compare(entries, &[], (key, at)) == Ordering::Greater {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    restart(payload, layout, low - 1)
}

/// Goes over the entries of a block.
#[derive(Clone)]
pub(super) struct BlockCursor {
    block: Block,
    position: Position,
}

impl BlockCursor {
    /// A cursor before the first entry.
    pub(super) fn new(block: Block) -> Self {
        Self {
            block,
            position: Position::new(),
        }
    }

    /// See [`Block::check`].
    pub(super) fn check(&self) -> Result<(), Damage> {
        self.block.check()
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.position.key
    }

    pub(super) fn at(&self) -> LogIndex {
        self.position.at
    }

    /// The value of the current entry of a data block.
    pub(super) fn value(&self) -> Result<Value, Damage> {
        self.position.held.value(&self.block.payload)
    }

    /// The block that the current entry of a leaf refers to.
    pub(super) fn child(&self) -> Result<Handle, Damage> {
        self.position.held.child()
    }

    /// What the current entry of a root refers to.
    pub(super) fn partition(&self) -> Result<Partition, Damage> {
        match self.position.held {
            Held::Partition { leaf, filter } => Ok(Partition {
                leaf,
                filter: Some(filter),
            }),
            Held::Stored(leaf) => Ok(Partition { leaf, filter: None }),
            _ => Err("an index entry without a block"),
        }
    }

    /// Goes to the next entry; `false` after the last.
    pub(super) fn advance(&mut self) -> Result<bool, Damage> {
        self.position.advance(self.block.entries())
    }

    /// Goes to the first entry at or after (`key`, `at`); `false` if all are before it.
    pub(super) fn seek(&mut self, key: &[u8], at: LogIndex) -> Result<bool, Damage> {
        self.seek_restart(key, at)?;
        while self.advance()? {
            if compare((self.key(), self.at()), (key, at)) != Ordering::Less {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes to the last entry at or before (`key`, `at`), or to the first entry if there is none:
    /// in an index, to the block that holds the place of that key.
    pub(super) fn seek_at_or_before(&mut self, key: &[u8], at: LogIndex) -> Result<(), Damage> {
        self.seek_restart(key, at)?;
        if !self.advance()? {
            return Err("a block without entries");
        }
        let entries = self.block.entries();
        let position = &mut self.position;
        while let Some(ahead) = Ahead::decode(entries, position.next, position.key.len())? {
            if ahead.compare(entries, &position.key, (key, at)) == Ordering::Greater {
                break;
            }
            position.accept(entries, &ahead);
        }
        Ok(())
    }

    /// Goes before the last restart that is at or before (`key`, `at`), or before the first.
    fn seek_restart(&mut self, key: &[u8], at: LogIndex) -> Result<(), Damage> {
        self.position.next = restart_before(&self.block.payload, self.block.layout, key, at)?;
        self.position.key.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_prefixes_are_counted_to_the_byte() {
        let left: Vec<u8> = (0..40).collect();
        for len in 0..40 {
            let mut right = left.clone();
            right[len] ^= 0x80;
            assert_eq!(common_prefix(&left, &right), len);
            assert_eq!(common_prefix(&left, &left[..len]), len);
            assert_eq!(common_prefix(&left[..len], &left), len);
        }
    }

    #[test]
    fn the_length_of_the_next_entry_is_known() {
        let handle = Handle {
            offset: 77 << 12,
            len: 4064,
        };
        let pointer = ValuePointer {
            segment: crate::ids::ValueSegmentId(300),
            slot: 5,
            offset: 1 << 33,
            len: 70_000,
            crc: 1,
        };
        let puts = [
            Put::Deleted,
            Put::Inline(&[9; 200]),
            Put::Stored(handle),
            Put::Separated(pointer),
            Put::Partition {
                leaf: handle,
                filter: handle,
            },
        ];
        let mut builder = BlockBuilder::default();
        let mut last = Vec::new();
        for number in 0..100_u64 {
            let key = format!("key {number:05}").into_bytes();
            let shared = common_prefix(&last, &key);
            let put = puts[number as usize % puts.len()];
            let at = LogIndex(1 << (number % 64));
            let len = builder.len_with(&key, shared, at, &put);
            builder.add(&key, shared, at, put);
            assert_eq!(builder.len(), len);
            last = key;
        }
        let len = builder.len();
        assert_eq!(builder.finish().len(), len);
    }
}
