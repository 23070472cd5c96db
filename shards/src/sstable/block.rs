//! Sorted entries of a data or index block, with shared key prefixes left out.
//!
//! ```text
//! payload = entry ... | restart u32 ... | restart count u32
//! entry   = shared varint | rest varint | kind u8 | sequence number varint | place | key rest |
//!           value bytes
//! place   = nothing (kind 0, deleted) | value length varint (kind 1, inline) |
//!           offset / 4096 varint, payload length varint (kind 2, stored in a block of its own) |
//!           a pointer (kind 3, in the value log; see vlog/pointer.rs)
//! ```
//! `shared` counts the bytes that the key has in common with the key before. A restart is the offset
//! of an entry whose `shared` is 0; the first entry is one.

use super::Value;
use super::format::Handle;
use crate::ids::LogIndex;
use crate::key::compare;
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

/// What is wrong with a block whose checksum matched: it was written wrong.
pub(super) type Damage = &'static str;

/// A value to be put into a block.
#[derive(Clone, Copy)]
pub(super) enum Put<'a> {
    Deleted,
    Inline(&'a [u8]),
    Stored(Handle),
    Separated(ValuePointer),
}

/// Builds the payload of a block.
#[derive(Default)]
pub(super) struct BlockBuilder {
    payload: Vec<u8>,
    restarts: Vec<u32>,
    entries: usize,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Length of the payload if it were finished now.
    pub(super) fn len(&self) -> usize {
        self.payload.len() + self.restarts.len() * 4 + 4
    }

    /// Adds an entry; entries come in order.
    pub(super) fn add(&mut self, key: &[u8], at: LogIndex, value: Put<'_>) {
        let shared = if self.entries.is_multiple_of(RESTART_INTERVAL) {
            let offset = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
            self.restarts.push(offset);
            0
        } else {
            common_prefix(&self.last_key, key)
        };
        let rest = key.get(shared..).unwrap_or(&[]);
        varint::put(&mut self.payload, shared as u64);
        varint::put(&mut self.payload, rest.len() as u64);
        let kind = match value {
            Put::Deleted => DELETED,
            Put::Inline(_) => INLINE,
            Put::Stored(_) => STORED,
            Put::Separated(_) => SEPARATED,
        };
        self.payload.push(kind);
        varint::put(&mut self.payload, at.0);
        let mut value_bytes: &[u8] = &[];
        match value {
            Put::Deleted => {}
            Put::Inline(value) => {
                varint::put(&mut self.payload, value.len() as u64);
                value_bytes = value;
            }
            Put::Stored(handle) => {
                varint::put(&mut self.payload, handle.offset / BLOCK_SIZE as u64);
                varint::put(&mut self.payload, u64::from(handle.len));
            }
            Put::Separated(pointer) => pointer.encode(&mut self.payload),
        }
        self.payload.extend_from_slice(rest);
        self.payload.extend_from_slice(value_bytes);
        self.entries += 1;
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(rest);
    }

    /// Returns the payload and starts the next block.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut payload = std::mem::take(&mut self.payload);
        for restart in &self.restarts {
            payload.extend_from_slice(&restart.to_le_bytes());
        }
        let count = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        payload.extend_from_slice(&count.to_le_bytes());
        *self = Self::default();
        payload
    }
}

/// Number of leading bytes that `left` and `right` share.
pub(super) fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

/// A block as it was stored. Cheap to clone.
#[derive(Clone)]
pub(super) struct Block {
    payload: Bytes,
    /// Where the entries end and the restarts start.
    entries_end: usize,
    restart_count: usize,
}

impl Block {
    pub(super) fn new(payload: Bytes) -> Result<Self, Damage> {
        const SHORT: Damage = "a block is too short";
        let count_at = payload.len().checked_sub(4).ok_or(SHORT)?;
        let count = read_u32(&payload, count_at).ok_or(SHORT)?;
        let restart_count = usize::try_from(count).map_err(|_| SHORT)?;
        let entries_end = restart_count
            .checked_mul(4)
            .and_then(|restarts| count_at.checked_sub(restarts))
            .ok_or("a block's restarts do not fit")?;
        if restart_count == 0 || entries_end == 0 {
            return Err("a block without entries");
        }
        Ok(Self {
            payload,
            entries_end,
            restart_count,
        })
    }

    fn restart(&self, index: usize) -> Result<usize, Damage> {
        let offset = read_u32(&self.payload, self.entries_end + index * 4)
            .and_then(|offset| usize::try_from(offset).ok());
        match offset {
            Some(offset) if offset < self.entries_end => Ok(offset),
            _ => Err("a restart outside of its block"),
        }
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*four))
}

/// Goes over the entries of a block.
#[derive(Clone)]
pub(super) struct BlockCursor {
    block: Block,
    /// Offset of the entry after the current one.
    next: usize,
    key: Vec<u8>,
    at: LogIndex,
    value: Value,
}

impl BlockCursor {
    /// A cursor before the first entry.
    pub(super) fn new(block: Block) -> Self {
        Self {
            block,
            next: 0,
            key: Vec::new(),
            at: LogIndex(0),
            value: Value::Deleted,
        }
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn at(&self) -> LogIndex {
        self.at
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    /// Goes to the next entry; `false` after the last.
    pub(super) fn advance(&mut self) -> Result<bool, Damage> {
        const SHORT: Damage = "an entry does not fit its block";
        let entries = self.block.payload.get(..self.block.entries_end);
        let mut entry = entries.and_then(|all| all.get(self.next..)).ok_or(SHORT)?;
        if entry.is_empty() {
            return Ok(false);
        }
        let shared = varint::take_len(&mut entry).ok_or(SHORT)?;
        let rest = varint::take_len(&mut entry).ok_or(SHORT)?;
        let (kind, after) = entry.split_first().ok_or(SHORT)?;
        entry = after;
        let at = LogIndex(varint::take(&mut entry).ok_or(SHORT)?);
        let (mut value, value_len) = match *kind {
            DELETED => (Value::Deleted, 0),
            INLINE => {
                let len = varint::take_len(&mut entry).ok_or(SHORT)?;
                (Value::Inline(Bytes::new()), len)
            }
            STORED => {
                let offset = varint::take(&mut entry)
                    .and_then(|number| number.checked_mul(BLOCK_SIZE as u64))
                    .ok_or(SHORT)?;
                let len = varint::take(&mut entry).ok_or(SHORT)?;
                let handle = Handle::checked(offset, len).ok_or("a handle to no block")?;
                (Value::Stored(handle), 0)
            }
            SEPARATED => {
                let pointer = ValuePointer::decode(&mut entry).ok_or(SHORT)?;
                (Value::Separated(pointer), 0)
            }
            _ => return Err("an entry of unknown kind"),
        };
        if shared > self.key.len() || shared.saturating_add(rest) > KEY_BYTES_MAX + 1 {
            return Err("an entry whose key cannot be");
        }
        let (key_rest, after) = entry.split_at_checked(rest).ok_or(SHORT)?;
        let key_at = self.block.entries_end - entry.len();
        let value_at = key_at + rest;
        if value_len > after.len() {
            return Err(SHORT);
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(key_rest);
        if let Value::Inline(bytes) = &mut value {
            *bytes = self.block.payload.slice(value_at..value_at + value_len);
        }
        self.next = value_at + value_len;
        self.at = at;
        self.value = value;
        Ok(true)
    }

    /// Goes to the first entry at or after (`key`, `at`); `false` if all are before it.
    pub(super) fn seek(&mut self, key: &[u8], at: LogIndex) -> Result<bool, Damage> {
        self.seek_restart(key, at)?;
        while self.advance()? {
            if compare((&self.key, self.at), (key, at)) != Ordering::Less {
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
        let mut ahead = self.clone();
        while ahead.advance()? && compare((&ahead.key, ahead.at), (key, at)) != Ordering::Greater {
            self.clone_from(&ahead);
        }
        Ok(())
    }

    /// Goes before the last restart that is at or before (`key`, `at`), or before the first.
    fn seek_restart(&mut self, key: &[u8], at: LogIndex) -> Result<(), Damage> {
        // Restarts below `low` are at or before the target, those from `high` on are after it.
        let (mut low, mut high) = (1, self.block.restart_count);
        while low < high {
            let middle = low + (high - low) / 2;
            self.go_to_restart(middle)?;
            if !self.advance()? {
                return Err("a restart without an entry");
            }
            if compare((&self.key, self.at), (key, at)) == Ordering::Greater {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        self.go_to_restart(low - 1)
    }

    fn go_to_restart(&mut self, index: usize) -> Result<(), Damage> {
        self.next = self.block.restart(index)?;
        self.key.clear();
        Ok(())
    }
}
