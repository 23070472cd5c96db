//! The bytes of a segment of the value log. All integers are little-endian.
//!
//! ```text
//! generation 0      = header | batch ...
//! later generations = header | record ... | zeros to 4 KiB | index page ... | fence | footer
//! header = magic [8] "CLVALUE\0" | version u32 = 3 | file id u128 | seed u32 | generation u32 |
//!          crc32c u32 (of all before) | zeros to 4 KiB
//! batch  = record ... | zeros to 4 KiB             starts at a multiple of 4 KiB
//! record = crc32c u32 (begun with the seed; of all after up to the value) | magic [4] "CLVR" | key length u32 | value length u32 | slot u32 | space u32 |
//!          log index u64 | offset u64 (of this record in generation 0) | 0 u64 |
//!          key | crc32c u32 of each page of the value (one of an empty value) | value
//!          starts at a multiple of 8; the bytes before it are zeros
//! ```
//! The space is that of the key: 0 (user keys) in versions 1 and 2, which have no other.
//! A page is 64 KiB of the value, the last one less. A batch is what one or more writes put there;
//! it starts at a multiple of 4 KiB so that no durable block is ever written again. The slot is the
//! record's number in its segment. A record names its segment and its place, so that one written or
//! read at a wrong place is found.
//!
//! A later generation holds records of the one before as they were: same headers, same slots. Where
//! a slot is says its index, sorted by slot; everything of it starts at a multiple of 4 KiB:
//! ```text
//! index page = crc | count u32 | page number u32 | generation u32 | count x (slot u32 | offset u64) |
//!              zeros to 4 KiB
//! fence      = crc | count u32 | 0 u64 | first slot u32 of each index page | zeros to 4 KiB
//! footer     = crc | magic [4] "CLVF" | generation u32 | index pages u32 | end of the records u64 |
//!              records u64 | their bytes u64 | highest log index u64 | zeros to 4 KiB
//! crc        = crc32c u32, begun with the seed, of all after up to the zeros (index page, footer: with
//!              the zeros)
//! ```
//! The seed is the crc32c of the file id of generation 0, so that a record of another segment does not match.
//! Version 1 has shard u32, store u64 and segment u64 instead of file id and seed, and its seed is the crc32c
//! of those.
//!
//! The bytes of a record count without the zeros before it.

use crate::error::{Error, Result};
use crate::ids::{FileId, LogIndex, Owner, ShardId, ValueSegmentId};
use crate::key::{Space, SpacedKey};
use crate::length;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use bytes::{Buf, BufMut};
use corelith_io::BLOCK_SIZE;
use std::path::Path;

pub(crate) const MAGIC: [u8; 8] = *b"CLVALUE\0";
pub(crate) const VERSION: u32 = 3;
/// From this version on a segment says nothing of whose it is.
const VERSION_OF_FILE_IDS: u32 = 2;
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"CLVR");
const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"CLVF");

/// Bytes of a record before its key.
pub(super) const RECORD_HEADER_BYTES: usize = 48;
/// What one checksum of a value covers.
pub(super) const PAGE_BYTES: usize = 64 << 10;
/// Records start at multiples of this.
pub(super) const RECORD_ALIGNMENT: u64 = 8;
/// Where the first record of a segment is.
pub(super) const RECORDS_START: u64 = BLOCK_SIZE as u64;
const CRC_BYTES: usize = 4;
const FILE_HEADER_BYTES: usize = 36;
/// Versions before have a header of the same length.
const _: () = assert!(FILE_HEADER_BYTES == 12 + 16 + 8);

/// Bytes before the key and the checksums of the longest record's value.
pub(super) const HEAD_BYTES_MAX: usize =
    RECORD_HEADER_BYTES + KEY_BYTES_MAX + 4 * VALUE_BYTES_MAX.div_ceil(PAGE_BYTES);

const INDEX_HEADER_BYTES: usize = 16;
const INDEX_ENTRY_BYTES: usize = 12;
/// Slots of a full index page.
pub(super) const INDEX_PAGE_ENTRIES: usize = (BLOCK_SIZE - INDEX_HEADER_BYTES) / INDEX_ENTRY_BYTES;

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) file: FileId,
    /// What every checksum in the segment begins with. All generations have that of the first: records move
    /// from one to the next as they are.
    seed: u32,
    pub(super) generation: u32,
    /// Whose it says it is, and its number there; no version says so any more.
    pub(super) named: Option<(Owner, ValueSegmentId)>,
}

impl FileHeader {
    /// Of the first generation of a segment.
    pub(super) fn first(file: FileId) -> Self {
        Self {
            file,
            seed: crc32c::crc32c(&file.0.to_le_bytes()),
            generation: 0,
            named: None,
        }
    }

    /// Of the generation that follows.
    pub(super) fn next(self) -> Self {
        Self {
            file: FileId::draw(),
            generation: self.generation + 1,
            named: None,
            ..self
        }
    }

    /// Whose file it is, for messages.
    pub(super) fn whose(self) -> String {
        match self.named {
            Some((owner, _)) => owner.to_string(),
            None => format!("the file {}", self.file),
        }
    }

    /// The header without the zeros.
    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.put_u32_le(VERSION);
        out.put_u128_le(self.file.0);
        out.put_u32_le(self.seed);
        out.put_u32_le(self.generation);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out
    }

    /// Reads the header of the segment `file`.
    pub(super) fn decode(file: &Path, block: &[u8]) -> Result<Self> {
        let damaged = |what| Error::corrupt(file, 0, what);
        let (mut fields, mut after) = block
            .split_at_checked(FILE_HEADER_BYTES)
            .ok_or(damaged("the file is too short"))?;
        let crc = after.try_get_u32_le().unwrap_or(0);
        if !fields.starts_with(&MAGIC) {
            return Err(damaged("not a segment of the value log"));
        }
        if crc32c::crc32c(fields) != crc {
            return Err(damaged("the header's checksum does not match"));
        }
        fields.advance(MAGIC.len());
        let version = fields.get_u32_le();
        if version == 0 {
            return Err(damaged("there is no such format version"));
        }
        if version > VERSION {
            return Err(Error::NewerFormat {
                file: file.display().to_string(),
                found: version,
                known: VERSION,
            });
        }
        if version >= VERSION_OF_FILE_IDS {
            return Ok(Self {
                file: FileId(fields.get_u128_le()),
                seed: fields.get_u32_le(),
                generation: fields.get_u32_le(),
                named: None,
            });
        }
        let shard = ShardId(fields.get_u32_le());
        let store_id = fields.get_u64_le();
        let owner = Owner { store_id, shard };
        let segment = ValueSegmentId(fields.get_u64_le());
        let generation = fields.get_u32_le();
        Ok(Self {
            file: FileId::of_segment(owner, segment, generation),
            seed: seed_1(owner, segment),
            generation,
            named: Some((owner, segment)),
        })
    }

    /// What every checksum in the segment begins with.
    pub(super) fn seed(self) -> u32 {
        self.seed
    }
}

/// The seed of version 1.
fn seed_1(owner: Owner, segment: ValueSegmentId) -> u32 {
    let mut bytes = Vec::with_capacity(20);
    bytes.put_u32_le(owner.shard.0);
    bytes.put_u64_le(owner.store_id);
    bytes.put_u64_le(segment.0);
    crc32c::crc32c(&bytes)
}

/// The pages of a value of that length.
pub(super) fn page_count(value_len: u32) -> usize {
    (value_len as usize).div_ceil(PAGE_BYTES).max(1)
}

/// The checksums of the pages of `value`.
pub(super) fn page_crcs(value: &[u8]) -> impl Iterator<Item = u32> {
    let of_empty = value.is_empty().then_some(0);
    value.chunks(PAGE_BYTES).map(crc32c::crc32c).chain(of_empty)
}

/// Whether a record may begin with these 8 bytes.
pub(super) fn may_begin_record(bytes: &[u8]) -> bool {
    bytes.get(CRC_BYTES..) == Some(RECORD_MAGIC.to_le_bytes().as_slice())
}

/// The fixed part of a record, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) key_len: u32,
    pub(super) value_len: u32,
    /// Of the key.
    pub(super) space: Space,
    pub(super) slot: u32,
    /// The log index of the write.
    pub(super) at: LogIndex,
    /// Where the record is in generation 0.
    pub(super) offset: u64,
}

impl RecordHeader {
    /// Bytes before the value.
    pub(super) fn head_len(&self) -> usize {
        RECORD_HEADER_BYTES + self.key_len as usize + 4 * page_count(self.value_len)
    }

    /// Bytes of the whole record.
    pub(super) fn record_len(&self) -> u64 {
        self.head_len() as u64 + u64::from(self.value_len)
    }

    /// Everything of the record before the value, and its checksum.
    pub(super) fn encode_head(&self, seed: u32, key: &[u8], value: &[u8]) -> (Vec<u8>, u32) {
        debug_assert_eq!(self.key_len as usize, key.len());
        debug_assert_eq!(self.value_len as usize, value.len());
        let mut out = Vec::with_capacity(self.head_len());
        out.put_u32_le(0);
        out.put_u32_le(RECORD_MAGIC);
        out.put_u32_le(self.key_len);
        out.put_u32_le(self.value_len);
        out.put_u32_le(self.slot);
        out.put_u32_le(u32::from(self.space.tag()));
        out.put_u64_le(self.at.0);
        out.put_u64_le(self.offset);
        out.put_u64_le(0);
        out.put_slice(key);
        page_crcs(value).for_each(|crc| out.put_u32_le(crc));
        let crc = set_crc(&mut out, seed);
        (out, crc)
    }

    /// Reads the fixed part of a record and its checksum, which is not checked here; `None` if there
    /// cannot be such a record.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<(Self, u32)> {
        let crc = bytes.try_get_u32_le().ok()?;
        if bytes.try_get_u32_le().ok()? != RECORD_MAGIC {
            return None;
        }
        let key_len = bytes.try_get_u32_le().ok()?;
        let value_len = bytes.try_get_u32_le().ok()?;
        let slot = bytes.try_get_u32_le().ok()?;
        let space = u8::try_from(bytes.try_get_u32_le().ok()?).ok()?;
        let space = Space::of_tag(space).filter(|space| space.is_separable())?;
        let at = LogIndex(bytes.try_get_u64_le().ok()?);
        let offset = bytes.try_get_u64_le().ok()?;
        let zeros = bytes.try_get_u64_le().ok()?;
        let possible = zeros == 0
            && key_len as usize <= KEY_BYTES_MAX
            && value_len as usize <= VALUE_BYTES_MAX;
        let header = Self {
            key_len,
            value_len,
            space,
            slot,
            at,
            offset,
        };
        possible.then_some((header, crc))
    }
}

/// A record up to its value, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) header: RecordHeader,
    pub(super) crc: u32,
    /// As it is in the file.
    pub(super) bytes: Vec<u8>,
}

impl Head {
    /// Takes the head of a record from the front of `bytes`; `None` if it is not intact.
    pub(super) fn decode(seed: u32, bytes: &[u8]) -> Option<Self> {
        let (header, crc) = RecordHeader::decode(bytes)?;
        let bytes = bytes.get(..header.head_len())?;
        (crc_of(bytes, seed) == Some(crc)).then(|| Self {
            header,
            crc,
            bytes: bytes.to_vec(),
        })
    }

    pub(super) fn key(&self) -> SpacedKey<'_> {
        let end = RECORD_HEADER_BYTES + self.header.key_len as usize;
        let key = self.bytes.get(RECORD_HEADER_BYTES..end).unwrap_or_default();
        self.header.space.key(key)
    }

    /// The checksum of a page of the value.
    pub(super) fn page_crc(&self, page: usize) -> Option<u32> {
        let start = RECORD_HEADER_BYTES + self.header.key_len as usize + 4 * page;
        self.bytes.get(start..)?.try_get_u32_le().ok()
    }
}

/// Checks the pages of a value that comes in pieces.
pub(super) struct PageCheck<'a> {
    head: &'a Head,
    page: usize,
    in_page: usize,
    crc: u32,
}

impl<'a> PageCheck<'a> {
    /// Starts at the page of that number.
    pub(super) fn from_page(head: &'a Head, page: usize) -> Self {
        Self {
            head,
            page,
            in_page: 0,
            crc: 0,
        }
    }

    /// Takes the next bytes; the number of the page that they show to be damaged, if any.
    pub(super) fn update(&mut self, mut bytes: &[u8]) -> Result<(), usize> {
        while !bytes.is_empty() {
            let (here, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - self.in_page));
            self.crc = crc32c::crc32c_append(self.crc, here);
            self.in_page += here.len();
            bytes = rest;
            if self.in_page == PAGE_BYTES {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Takes the end of the value or of a page.
    pub(super) fn finish(mut self) -> Result<(), usize> {
        if self.in_page > 0 || self.head.header.value_len == 0 {
            self.end_page()?;
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), usize> {
        if self.head.page_crc(self.page) != Some(self.crc) {
            return Err(self.page);
        }
        (self.page, self.in_page, self.crc) = (self.page + 1, 0, 0);
        Ok(())
    }
}

/// The checksum of `bytes` but their first four, in which it is stored.
fn crc_of(bytes: &[u8], seed: u32) -> Option<u32> {
    Some(crc32c::crc32c_append(seed, bytes.get(CRC_BYTES..)?))
}

fn set_crc(bytes: &mut [u8], seed: u32) -> u32 {
    let crc = crc_of(bytes, seed).unwrap_or(0);
    if let Some(place) = bytes.first_chunk_mut::<CRC_BYTES>() {
        *place = crc.to_le_bytes();
    }
    crc
}

/// Where a slot is in a segment of a later generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotPlace {
    pub(super) slot: u32,
    pub(super) offset: u64,
}

/// An index page, in order of slots.
pub(super) fn encode_index_page(header: FileHeader, number: u32, slots: &[SlotPlace]) -> Vec<u8> {
    debug_assert!(slots.len() <= INDEX_PAGE_ENTRIES);
    let mut out = Vec::with_capacity(BLOCK_SIZE);
    out.put_u32_le(0);
    out.put_u32_le(length::stored(slots.len()));
    out.put_u32_le(number);
    out.put_u32_le(header.generation);
    for place in slots {
        out.put_u32_le(place.slot);
        out.put_u64_le(place.offset);
    }
    out.resize(BLOCK_SIZE, 0);
    set_crc(&mut out, header.seed());
    out
}

/// Reads the index page of that number; `None` if it is damaged or another one.
pub(super) fn decode_index_page(
    header: FileHeader,
    number: u32,
    page: &[u8],
) -> Option<Vec<SlotPlace>> {
    let mut fields = page.get(..BLOCK_SIZE)?;
    if crc_of(fields, header.seed()) != Some(fields.try_get_u32_le().ok()?) {
        return None;
    }
    let count = fields.try_get_u32_le().ok()? as usize;
    let matches = fields.get_u32_le() == number && fields.get_u32_le() == header.generation;
    if !matches || count > INDEX_PAGE_ENTRIES {
        return None;
    }
    (0..count)
        .map(|_| {
            Some(SlotPlace {
                slot: fields.try_get_u32_le().ok()?,
                offset: fields.try_get_u64_le().ok()?,
            })
        })
        .collect()
}

/// The fence of the index, without the zeros.
pub(super) fn encode_fence(header: FileHeader, firsts: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fence_bytes(firsts.len()));
    out.put_u32_le(0);
    out.put_u32_le(length::stored(firsts.len()));
    out.put_u64_le(0);
    firsts.iter().for_each(|first| out.put_u32_le(*first));
    set_crc(&mut out, header.seed());
    out
}

/// Bytes of the fence of `pages` index pages, without the zeros.
pub(super) fn fence_bytes(pages: usize) -> usize {
    INDEX_HEADER_BYTES + 4 * pages
}

/// Reads the fence of an index of `pages` pages; `None` if it is damaged.
pub(super) fn decode_fence(header: FileHeader, pages: usize, bytes: &[u8]) -> Option<Vec<u32>> {
    let mut fields = bytes.get(..fence_bytes(pages))?;
    if crc_of(fields, header.seed()) != Some(fields.try_get_u32_le().ok()?) {
        return None;
    }
    let matches = fields.get_u32_le() as usize == pages && fields.get_u64_le() == 0;
    matches.then(|| (0..pages).map(|_| fields.get_u32_le()).collect())
}

/// The last block of a segment of a later generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) index_pages: u32,
    /// Where the records end, before the zeros.
    pub(super) records_end: u64,
    pub(super) records: u64,
    /// Their bytes, as [`super::pointer::record_bytes`] counts them.
    pub(super) bytes: u64,
    pub(super) highest: LogIndex,
}

impl Footer {
    pub(super) fn encode(self, header: FileHeader) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_SIZE);
        out.put_u32_le(0);
        out.put_u32_le(FOOTER_MAGIC);
        out.put_u32_le(header.generation);
        out.put_u32_le(self.index_pages);
        for number in [self.records_end, self.records, self.bytes, self.highest.0] {
            out.put_u64_le(number);
        }
        out.resize(BLOCK_SIZE, 0);
        set_crc(&mut out, header.seed());
        out
    }

    /// Reads the last block of a file of that length; `None` if it is damaged.
    pub(super) fn decode(header: FileHeader, block: &[u8], file_bytes: u64) -> Option<Self> {
        let mut fields = block.get(..BLOCK_SIZE)?;
        let crc = crc_of(fields, header.seed());
        let matches = crc == Some(fields.get_u32_le())
            && fields.get_u32_le() == FOOTER_MAGIC
            && fields.get_u32_le() == header.generation;
        let footer = Self {
            index_pages: fields.get_u32_le(),
            records_end: fields.get_u64_le(),
            records: fields.get_u64_le(),
            bytes: fields.get_u64_le(),
            highest: LogIndex(fields.get_u64_le()),
        };
        (matches && footer.file_bytes() == Some(file_bytes)).then_some(footer)
    }

    /// Where the first index page is.
    pub(super) fn index_offset(self) -> Option<u64> {
        self.records_end.checked_next_multiple_of(BLOCK_SIZE as u64)
    }

    /// Where the fence is.
    pub(super) fn fence_offset(self) -> Option<u64> {
        let pages = u64::from(self.index_pages) * BLOCK_SIZE as u64;
        self.index_offset()?.checked_add(pages)
    }

    /// Length of the file.
    pub(super) fn file_bytes(self) -> Option<u64> {
        let fence =
            fence_bytes(self.index_pages as usize).next_multiple_of(BLOCK_SIZE) + BLOCK_SIZE;
        self.fence_offset()?.checked_add(fence as u64)
    }
}
