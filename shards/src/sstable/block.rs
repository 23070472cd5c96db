//! Sorted entries of a data or index block, with shared key prefixes left out.
//!
//! ```text
//! payload = entry ... | restart u32 ... | restart count u32
//! entry   = shared varint | rest varint | kind u8 | sequence number varint | place | key rest |
//!           value bytes
//! place   = nothing (kind 0, deleted) | value length varint (kind 1, inline) |
//!           handle (kind 2, stored in a block of its own) |
//!           a pointer (kind 3, in the value log; see vlog/pointer.rs) |
//!           handle | handle (kind 4, a leaf and its filter; in the root only) |
//!           what stands for a large value [32] (kind 5; see large.rs)
//! handle  = offset / 4096 varint | payload length varint
//! ```
//! `shared` counts all bytes that the key has in common with the key before, on which searches rely. A
//! restart is the offset of an entry whose `shared` is 0 whatever it has in common; the first entry is one.
//! Kinds 3 and 4 came with version 2, kind 5 with version 4.

mod builder;
pub(super) mod find;

pub(super) use builder::{BlockBuilder, PutValue};

use super::Value;
use super::format::BlockHandle;
use crate::ids::LogIndex;
use crate::key::compare;
use crate::large::StoredLarge;
use crate::limits::KEY_BYTES_MAX;
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
const LARGE: u8 = 5;

/// Most keys are shorter, so that the memory for one is taken once.
const KEY_BYTES_USUAL: usize = 64;

/// What is wrong with a block whose checksum matched: it was written wrong.
pub(super) type Damage = &'static str;

const SHORT: Damage = "an entry does not fit its block";

/// A leaf of the index and the filter of the keys below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) leaf: BlockHandle,
    /// `None` in tables of version 1.
    pub(super) filter: Option<BlockHandle>,
}

fn take_handle(bytes: &mut &[u8]) -> Result<BlockHandle, Damage> {
    let number = varint::take(bytes).ok_or(SHORT)?;
    let len = varint::take(bytes).ok_or(SHORT)?;
    let offset = number.checked_mul(BLOCK_SIZE as u64);
    offset
        .and_then(|offset| BlockHandle::checked(offset, len))
        .ok_or("a handle to no block")
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
pub(super) enum HeldValue {
    Deleted,
    Inline {
        start: usize,
        len: usize,
    },
    Stored(BlockHandle),
    Separated(ValuePointer),
    Partition {
        leaf: BlockHandle,
        filter: BlockHandle,
    },
    Large(StoredLarge),
}

/// An entry whose key is not put together yet.
struct DecodedEntry {
    shared: usize,
    rest_at: usize,
    rest: usize,
    at: LogIndex,
    held: HeldValue,
    next: usize,
}

impl DecodedEntry {
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
            DELETED => HeldValue::Deleted,
            INLINE => {
                value_len = varint::take_len(&mut entry).ok_or(SHORT)?;
                HeldValue::Deleted
            }
            STORED => HeldValue::Stored(take_handle(&mut entry)?),
            SEPARATED => HeldValue::Separated(ValuePointer::decode(&mut entry).ok_or(SHORT)?),
            PARTITION => HeldValue::Partition {
                leaf: take_handle(&mut entry)?,
                filter: take_handle(&mut entry)?,
            },
            LARGE => HeldValue::Large(StoredLarge::take(&mut entry).ok_or(SHORT)?),
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
            held = HeldValue::Inline {
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
pub(super) struct EntryPosition {
    /// Offset of the entry after the current one.
    next: usize,
    pub(super) key: Vec<u8>,
    pub(super) at: LogIndex,
    pub(super) held: HeldValue,
}

impl EntryPosition {
    /// Before the first entry.
    pub(super) fn new() -> Self {
        Self {
            next: 0,
            key: Vec::with_capacity(KEY_BYTES_USUAL),
            at: LogIndex(0),
            held: HeldValue::Deleted,
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
        let ahead = DecodedEntry::decode(entries, self.next, self.key.len())?;
        if let Some(ahead) = &ahead {
            self.accept(entries, ahead);
        }
        Ok(ahead.is_some())
    }

    #[inline]
    fn accept(&mut self, entries: &[u8], ahead: &DecodedEntry) {
        self.key.truncate(ahead.shared);
        self.key.extend_from_slice(ahead.key_rest(entries));
        self.at = ahead.at;
        self.held = ahead.held;
        self.next = ahead.next;
    }
}

/// A block in memory. Cheap to clone.
#[derive(Clone)]
pub(super) struct EntryBlock {
    payload: Bytes,
    layout: Layout,
}

impl EntryBlock {
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
        let mut position = EntryPosition::new();
        let mut before = Vec::new();
        let mut restarts = 0;
        while let Some(ahead) = DecodedEntry::decode(entries, position.next, position.key.len())? {
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

impl HeldValue {
    /// The value of an entry of a data block with that payload.
    pub(super) fn value(self, payload: &Bytes) -> Result<Value, Damage> {
        Ok(match self {
            Self::Deleted => Value::Deleted,
            Self::Inline { start, len } => Value::Inline(payload.slice(start..start + len)),
            Self::Stored(handle) => Value::Stored(handle),
            Self::Separated(pointer) => Value::Separated(pointer),
            Self::Large(large) => Value::Large(large),
            Self::Partition { .. } => return Err("an index entry among data"),
        })
    }

    /// The block that an entry of a leaf refers to.
    pub(super) fn child(self) -> Result<BlockHandle, Damage> {
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
        let ahead = DecodedEntry::decode(entries, start, 0)?;
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
    block: EntryBlock,
    position: EntryPosition,
}

impl BlockCursor {
    /// A cursor before the first entry.
    pub(super) fn new(block: EntryBlock) -> Self {
        Self {
            block,
            position: EntryPosition::new(),
        }
    }

    /// See [`EntryBlock::check`].
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
    pub(super) fn child(&self) -> Result<BlockHandle, Damage> {
        self.position.held.child()
    }

    /// What the current entry of a root refers to.
    pub(super) fn partition(&self) -> Result<Partition, Damage> {
        match self.position.held {
            HeldValue::Partition { leaf, filter } => Ok(Partition {
                leaf,
                filter: Some(filter),
            }),
            HeldValue::Stored(leaf) => Ok(Partition { leaf, filter: None }),
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
        while let Some(ahead) = DecodedEntry::decode(entries, position.next, position.key.len())? {
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
}
