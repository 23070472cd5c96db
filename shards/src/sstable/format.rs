//! The bytes of an sstable. All integers are little-endian.
//!
//! ```text
//! file   = header | block ... | footer              everything starts at a multiple of 4 KiB
//! header = magic [8] "CLTABLE\0" | version u32 = 4 | 0 u32 | file id u128 | crc32c u32 (of all
//!          before) | zeros to 4 KiB
//! block  = crc32c u32 (of all after, without the zeros) | len u32 | kind u32 | whole u32 |
//!          tag u64 (lower half of the file id) | offset u64 (of this block in the file) | payload [len] |
//!          zeros to a multiple of 4 KiB
//! footer = a block of kind 6 and 4 KiB, the last of the file
//! ```
//! `whole` is 0, or the length of a payload that is stored in LZ4's block format; only data blocks
//! are. Payloads by kind:
//! ```text
//! 1 data, 2 index leaf, 3 index root: see block.rs; leaves refer to data blocks, the root to leaves
//!   and their filters
//! 4 value: one long value
//! 5 filter, of the keys in the data blocks of one leaf: see filter.rs
//! 6 footer: version u32 | root handle | properties handle
//! 7 properties: see properties.rs
//! handle: offset u64 | length u32 of the payload as it is stored
//! ```
//! A partition is a run of data blocks, its filter and its leaf, in this order. Blocks of long values
//! lie before the data block that refers to them; root, properties and footer end the file.
//!
//! Version 3 has no large values.
//! Versions 1 and 2 have shard u32, store u64 and table u64 in the header, and the table's number for the
//! tag. Version 1 compresses nothing, has one filter for the whole file, named by the footer between root
//! and properties, and its root refers to leaves only.
//!
//! A block names its file and its place, so that a block written or read at a wrong place is found.

use crate::error::{Error, Result};
use crate::ids::{FileId, Owner, ShardId, TableId};
use crate::limits::{BLOCK_PAYLOAD_BYTES_MAX, TABLE_BLOCK_BYTES_MAX};
use bytes::Buf;
use corelith_io::BLOCK_SIZE;
use std::path::Path;

pub(crate) const MAGIC: [u8; 8] = *b"CLTABLE\0";
/// The version that is written; all from 1 on are read.
pub(crate) const VERSION: u32 = 4;
/// From this version on a table says nothing of whose it is.
const VERSION_OF_FILE_IDS: u32 = 3;

/// Bytes of a block before its payload.
pub(super) const BLOCK_HEADER_BYTES: usize = 32;
const CRC_BYTES: usize = 4;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum BlockKind {
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
pub(crate) struct BlockHandle {
    /// Offset of the block in its file.
    pub(crate) offset: u64,
    /// Length of its payload as it is stored.
    pub(crate) len: u32,
}

impl BlockHandle {
    /// Bytes that the block takes in the file.
    pub(crate) fn span(self) -> usize {
        span_of(self.len as usize)
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

/// Bytes that a block with a payload of `len` bytes takes in the file.
pub(super) fn span_of(len: usize) -> usize {
    (BLOCK_HEADER_BYTES + len).next_multiple_of(BLOCK_SIZE)
}

/// The payload of the footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableFooter {
    pub(super) root: BlockHandle,
    /// The filter of the whole file, of version 1.
    pub(super) filter: Option<BlockHandle>,
    pub(super) properties: BlockHandle,
}

impl TableFooter {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        self.root.encode(&mut out);
        self.properties.encode(&mut out);
        let handle = Self::handle(VERSION, BLOCK_SIZE as u64);
        debug_assert_eq!(
            handle.map(|handle| handle.len as usize),
            Some(out.len()),
            "a footer has its length"
        );
        out
    }

    pub(super) fn decode(version: u32, mut bytes: &[u8]) -> Option<Self> {
        let found = bytes.try_get_u32_le().ok()?;
        let root = BlockHandle::decode(&mut bytes)?;
        let filter = match version {
            1 => Some(BlockHandle::decode(&mut bytes)?),
            _ => None,
        };
        let footer = Self {
            root,
            filter,
            properties: BlockHandle::decode(&mut bytes)?,
        };
        (found == version && bytes.is_empty()).then_some(footer)
    }

    /// Where the footer of a file is.
    pub(super) fn handle(version: u32, file_bytes: u64) -> Option<BlockHandle> {
        let handles = if version == 1 { 3 } else { 2 };
        let offset = file_bytes.checked_sub(BLOCK_SIZE as u64)?;
        BlockHandle::checked(offset, 4 + handles * 12)
    }
}

/// The first block of a table.
pub(super) fn encode_file_header(file: FileId) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&file.0.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// What the first block of a table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableHeader {
    pub(super) version: u32,
    pub(super) file: FileId,
    /// What its blocks carry.
    pub(super) tag: u64,
    /// Whose it says it is, and its number there; no version says so any more.
    pub(super) named: Option<(Owner, TableId)>,
}

/// Reads the first block of the table `file`.
pub(super) fn decode_file_header(file: &Path, block: &[u8]) -> Result<TableHeader> {
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
    if version == 0 {
        return Err(damaged("there is no such format version"));
    }
    let shard = ShardId(fields.get_u32_le());
    if version >= VERSION_OF_FILE_IDS {
        let file = FileId(fields.get_u128_le());
        return Ok(TableHeader {
            version,
            file,
            tag: file.tag(),
            named: None,
        });
    }
    let store_id = fields.get_u64_le();
    let id = TableId(fields.get_u64_le());
    let owner = Owner { store_id, shard };
    Ok(TableHeader {
        version,
        file: FileId::of_table(owner, id),
        tag: id.0,
        named: Some((owner, id)),
    })
}

/// The header of the block at `handle` with that payload, which has `whole` bytes when unpacked
/// (0: it is not compressed).
pub(super) fn encode_block_header(
    tag: u64,
    handle: BlockHandle,
    kind: BlockKind,
    whole: u32,
    payload: &[u8],
) -> [u8; BLOCK_HEADER_BYTES] {
    assert_eq!(handle.len as usize, payload.len());
    assert!(
        handle.offset.is_multiple_of(BLOCK_SIZE as u64),
        "a block starts at a unit of direct I/O"
    );
    assert!(
        is_whole_possible(kind, whole as usize),
        "a block that would not be read"
    );
    let mut header = [0; BLOCK_HEADER_BYTES];
    let (crc_place, fields) = header.split_at_mut(CRC_BYTES);
    let numbers = [handle.len, kind as u32, whole];
    let (places, rest) = fields.split_at_mut(3 * 4);
    for (place, number) in places.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    for (place, number) in rest.chunks_exact_mut(8).zip([tag, handle.offset]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(fields), payload);
    crc_place.copy_from_slice(&crc.to_le_bytes());
    header
}

/// Whether a block of this kind may have `whole` bytes when unpacked (0: it is not compressed).
fn is_whole_possible(kind: BlockKind, whole: usize) -> bool {
    whole == 0 || (kind == BlockKind::Data && whole <= TABLE_BLOCK_BYTES_MAX)
}

/// A payload as it is stored.
#[derive(Clone, Copy)]
pub(super) struct StoredPayload<'a> {
    pub(super) bytes: &'a [u8],
    /// Its length when unpacked, at most [`TABLE_BLOCK_BYTES_MAX`]; `None` if it is not compressed.
    pub(super) whole: Option<usize>,
}

/// Checks a block read at `handle` and returns its payload.
pub(super) fn decode_block(
    tag: u64,
    handle: BlockHandle,
    kind: BlockKind,
    block: &[u8],
) -> Result<StoredPayload<'_>, &'static str> {
    let len = handle.len as usize;
    let covered = block
        .get(CRC_BYTES..BLOCK_HEADER_BYTES + len)
        .ok_or("the file ends within a block")?;
    let mut fields = block;
    let crc = fields.get_u32_le();
    if crc32c::crc32c(covered) != crc {
        return Err("a block's checksum does not match");
    }
    let found_len = fields.get_u32_le();
    let found_kind = fields.get_u32_le();
    let whole = fields.get_u32_le() as usize;
    let matches = found_len == handle.len
        && found_kind == kind as u32
        && fields.get_u64_le() == tag
        && fields.get_u64_le() == handle.offset;
    if !matches {
        return Err("another block is in this place");
    }
    if !is_whole_possible(kind, whole) {
        return Err("a compressed block that cannot be");
    }
    let bytes = fields.get(..len).ok_or("the file ends within a block")?;
    let whole = (whole > 0).then_some(whole);
    Ok(StoredPayload { bytes, whole })
}
