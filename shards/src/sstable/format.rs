//! The bytes of an sstable. All integers are little-endian.
//!
//! ```text
//! file   = header | block ... | footer              everything starts at a multiple of 4 KiB
//! header = magic [8] "CLTABLE\0" | version u32 = 2 | shard u32 | store u64 | table u64 | crc32c u32
//!          (of all before) | zeros to 4 KiB
//! block  = crc32c u32 (of all after, without the zeros) | len u32 | kind u32 | 0 u32 | table u64 |
//!          offset u64 (of this block in the file) | payload [len] | zeros to a multiple of 4 KiB
//! footer = a block of kind 6 and 4 KiB, the last of the file
//! ```
//! Payloads by kind:
//! ```text
//! 1 data, 2 index leaf, 3 index root: see block.rs; the values of index entries are handles
//! 4 value: one long value
//! 5 filter: see filter.rs
//! 6 footer: version u32 | root handle | filter handle | properties handle
//! 7 properties: entries u64 | deletions u64 | value bytes u64 | lowest sequence number u64 |
//!   highest u64 | first stored key (u32 len, bytes) | last stored key (u32 len, bytes) |
//!   reference count u32 | reference ...
//! reference: value segment u64 | values u64 | bytes of their records u64
//! handle: offset u64 | payload length u32
//! ```
//! Version 1 has no references.
//!
//! A block names its table and its place, so that a block written or read at a wrong place is found.

use crate::error::{Error, Result};
use crate::ids::{LogIndex, Owner, ShardId, TableId, ValueSegmentId};
use crate::limits::{BLOCK_PAYLOAD_BYTES_MAX, KEY_BYTES_MAX, TABLE_REFERENCES_MAX};
use bytes::{Buf, Bytes};
use corelith_io::BLOCK_SIZE;
use std::fmt;
use std::path::Path;

pub(crate) const MAGIC: [u8; 8] = *b"CLTABLE\0";
/// Versions that are read; the last is written.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
const VERSION: u32 = *VERSIONS.end();
/// From this version on, properties list references.
const VERSION_OF_REFERENCES: u32 = 2;

/// Bytes of a block before its payload.
pub(super) const BLOCK_HEADER_BYTES: usize = 32;
const CRC_BYTES: usize = 4;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Data = 1,
    Leaf = 2,
    Root = 3,
    Value = 4,
    Filter = 5,
    Footer = 6,
    Properties = 7,
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    /// Offset of the block in its file.
    pub(crate) offset: u64,
    /// Length of its payload.
    pub(crate) len: u32,
}

impl Handle {
    /// Bytes that the block takes in the file.
    pub(crate) fn span(self) -> usize {
        (BLOCK_HEADER_BYTES + self.len as usize).next_multiple_of(BLOCK_SIZE)
    }

    /// Where the next block starts.
    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(self.span() as u64)
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let offset = bytes.try_get_u64_le().ok()?;
        let len = bytes.try_get_u32_le().ok()?;
        Self::checked(offset, u64::from(len))
    }

    /// A handle read from a file, if there can be such a block.
    pub(super) fn checked(offset: u64, len: u64) -> Option<Self> {
        let fits =
            offset.is_multiple_of(BLOCK_SIZE as u64) && len <= BLOCK_PAYLOAD_BYTES_MAX as u64;
        let len = u32::try_from(len).ok()?;
        fits.then_some(Self { offset, len })
    }
}

/// How much of a value segment a table refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The segment.
    pub(crate) segment: ValueSegmentId,
    /// How many values.
    pub(crate) values: u64,
    /// Length of their records, see [`crate::vlog::record_bytes`].
    pub(crate) bytes: u64,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            values,
            bytes,
        } = self;
        write!(f, "{values} in value segment {segment}, {bytes} bytes")
    }
}

/// What the manifest and the table itself say of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    /// Its number.
    pub(crate) id: TableId,
    /// Length of the file in bytes.
    pub(crate) file_bytes: u64,
    /// Versions in it.
    pub(crate) entries: u64,
    /// How many of them are deletions.
    pub(crate) deletions: u64,
    /// Sum of the values' lengths, wherever the values are.
    pub(crate) value_bytes: u64,
    /// Lowest sequence number.
    pub(crate) lowest: LogIndex,
    /// Highest sequence number.
    pub(crate) highest: LogIndex,
    /// First stored key.
    pub(crate) first_key: Bytes,
    /// Last stored key.
    pub(crate) last_key: Bytes,
    /// What it refers to in the value log, in order of segment, none twice.
    pub(crate) references: Vec<Reference>,
}

impl TableMeta {
    /// Bytes of the value log that the table refers to.
    pub(crate) fn reference_bytes(&self) -> u64 {
        self.references
            .iter()
            .map(|reference| reference.bytes)
            .sum()
    }

    /// The payload of the properties block.
    pub(crate) fn encode_properties(&self, out: &mut Vec<u8>) {
        for number in [
            self.entries,
            self.deletions,
            self.value_bytes,
            self.lowest.0,
            self.highest.0,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for key in [&self.first_key, &self.last_key] {
            let len = u32::try_from(key.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(key);
        }
        let count = u32::try_from(self.references.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        for reference in &self.references {
            for number in [reference.segment.0, reference.values, reference.bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
    }

    /// Takes properties from the front of `bytes`, as that version of tables has them.
    pub(crate) fn decode_properties(
        version: u32,
        id: TableId,
        file_bytes: u64,
        bytes: &mut &[u8],
    ) -> Option<Self> {
        Some(Self {
            id,
            file_bytes,
            entries: bytes.try_get_u64_le().ok()?,
            deletions: bytes.try_get_u64_le().ok()?,
            value_bytes: bytes.try_get_u64_le().ok()?,
            lowest: LogIndex(bytes.try_get_u64_le().ok()?),
            highest: LogIndex(bytes.try_get_u64_le().ok()?),
            first_key: take_key(bytes)?,
            last_key: take_key(bytes)?,
            references: match version {
                VERSION_OF_REFERENCES.. => take_references(bytes)?,
                _ => Vec::new(),
            },
        })
    }
}

fn take_references(bytes: &mut &[u8]) -> Option<Vec<Reference>> {
    const STORED_BYTES: usize = 24;
    let count = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    if count > TABLE_REFERENCES_MAX || bytes.len() < count * STORED_BYTES {
        return None;
    }
    let mut references: Vec<Reference> = Vec::with_capacity(count);
    for _ in 0..count {
        let reference = Reference {
            segment: ValueSegmentId(bytes.try_get_u64_le().ok()?),
            values: bytes.try_get_u64_le().ok()?,
            bytes: bytes.try_get_u64_le().ok()?,
        };
        if references
            .last()
            .is_some_and(|last| last.segment >= reference.segment)
        {
            return None;
        }
        references.push(reference);
    }
    Some(references)
}

fn take_key(bytes: &mut &[u8]) -> Option<Bytes> {
    let len = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    if len > KEY_BYTES_MAX + 1 {
        return None;
    }
    let (key, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(Bytes::copy_from_slice(key))
}

/// The payload of the footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) root: Handle,
    pub(super) filter: Handle,
    pub(super) properties: Handle,
}

impl Footer {
    /// Length of its payload.
    pub(super) const PAYLOAD_BYTES: u32 = 4 + 3 * 12;

    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        self.root.encode(&mut out);
        self.filter.encode(&mut out);
        self.properties.encode(&mut out);
        out
    }

    pub(super) fn decode(version: u32, mut bytes: &[u8]) -> Option<Self> {
        let found = bytes.try_get_u32_le().ok()?;
        let footer = Self {
            root: Handle::decode(&mut bytes)?,
            filter: Handle::decode(&mut bytes)?,
            properties: Handle::decode(&mut bytes)?,
        };
        (found == version && bytes.is_empty()).then_some(footer)
    }

    /// Where the footer of a file is.
    pub(super) fn handle(file_bytes: u64) -> Option<Handle> {
        let offset = file_bytes.checked_sub(BLOCK_SIZE as u64)?;
        Handle::checked(offset, u64::from(Self::PAYLOAD_BYTES))
    }
}

/// The first block of a table.
pub(super) fn encode_file_header(owner: Owner, id: TableId) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&owner.shard.0.to_le_bytes());
    out.extend_from_slice(&owner.store_id.to_le_bytes());
    out.extend_from_slice(&id.0.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Reads the first block of the table `file`: its format version, whose it is, and its number.
pub(super) fn decode_file_header(file: &Path, block: &[u8]) -> Result<(u32, Owner, TableId)> {
    const COVERED: usize = 32;
    let damaged = |what| Error::corrupt(file, 0, what);
    let (mut fields, mut after) = block
        .split_at_checked(COVERED)
        .ok_or(damaged("the file is too short"))?;
    let crc = after.try_get_u32_le().unwrap_or(0);
    if !fields.starts_with(&MAGIC) {
        return Err(damaged("not an sstable"));
    }
    if crc32c::crc32c(fields) != crc {
        return Err(damaged("the header's checksum does not match"));
    }
    fields.advance(MAGIC.len());
    let version = fields.get_u32_le();
    if version > VERSION {
        return Err(Error::NewerFormat {
            file: file.display().to_string(),
            found: version,
            known: VERSION,
        });
    }
    if !VERSIONS.contains(&version) {
        return Err(damaged("there is no such format version"));
    }
    let shard = ShardId(fields.get_u32_le());
    let store_id = fields.get_u64_le();
    let id = TableId(fields.get_u64_le());
    Ok((version, Owner { store_id, shard }, id))
}

/// The header of the block at `handle` with that payload.
pub(super) fn encode_block_header(
    table: TableId,
    handle: Handle,
    kind: Kind,
    payload: &[u8],
) -> [u8; BLOCK_HEADER_BYTES] {
    debug_assert_eq!(handle.len as usize, payload.len());
    let mut header = [0; BLOCK_HEADER_BYTES];
    let mut fields = Vec::with_capacity(BLOCK_HEADER_BYTES - CRC_BYTES);
    fields.extend_from_slice(&handle.len.to_le_bytes());
    fields.extend_from_slice(&(kind as u32).to_le_bytes());
    fields.extend_from_slice(&0_u32.to_le_bytes());
    fields.extend_from_slice(&table.0.to_le_bytes());
    fields.extend_from_slice(&handle.offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&fields), payload);
    let (crc_place, rest) = header.split_at_mut(CRC_BYTES);
    crc_place.copy_from_slice(&crc.to_le_bytes());
    rest.copy_from_slice(&fields);
    header
}

/// Checks a block read at `handle` and returns its payload.
pub(super) fn decode_block(
    table: TableId,
    handle: Handle,
    kind: Kind,
    block: &[u8],
) -> Result<&[u8], &'static str> {
    let len = handle.len as usize;
    let covered = block
        .get(CRC_BYTES..BLOCK_HEADER_BYTES + len)
        .ok_or("the file ends within a block")?;
    let mut fields = block;
    let crc = fields.get_u32_le();
    if crc32c::crc32c(covered) != crc {
        return Err("a block's checksum does not match");
    }
    let matches = fields.get_u32_le() == handle.len
        && fields.get_u32_le() == kind as u32
        && fields.get_u32_le() == 0
        && fields.get_u64_le() == table.0
        && fields.get_u64_le() == handle.offset;
    if !matches {
        return Err("another block is in this place");
    }
    fields.get(..len).ok_or("the file ends within a block")
}
