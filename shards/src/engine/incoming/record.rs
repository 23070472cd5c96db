//! What is known of files that are being received, over a restart. All integers are little-endian.
//!
//! ```text
//! file   = magic [8] "CLINCOM\0" | version u32 = 1 | crc32c u32 (of all after, without the zeros) |
//!          length u32 of the payload | payload | zeros to 4 KiB
//! payload = count u32 | partial ... | count u32 | placed ...
//! partial = file id u128 | length u64 | bits u8 ... (one for each piece of FILE_PIECE_BYTES, the lowest first:
//!           whether it is durable)
//! placed  = file id u128 | kind u8 (1 table, 2 value segment) | number u64 | generation u32
//! ```
//! A file that was received whole and found intact is no longer listed: its name says so. Placed are those that
//! were given names of the shard for a manifest that may not have become durable.

use crate::error::Result;
use crate::filename::FileName;
use crate::ids::{FileId, TableId, ValueSegmentId};
use crate::length;
use crate::limits::{FILE_PIECE_BYTES, INCOMING_RECORD_BYTES_MAX, IO_BYTES_MAX};
use crate::removal::remove_if_there;
use bytes::Buf as _;
use corelith_io::{BLOCK_SIZE, Buf, File, OpenOptions};
use std::collections::BTreeMap;
use std::path::Path;

const MAGIC: [u8; 8] = *b"CLINCOM\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 20;
const COVERED_FROM: usize = 16;
const NAME: &str = "RECORD";
const NAME_TEMPORARY: &str = "RECORD.tmp";

/// Pieces of a file that are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Durable {
    pub(super) bytes: u64,
    pub(super) pieces: Vec<bool>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReceptionRecord {
    pub(super) partial: BTreeMap<FileId, Durable>,
    pub(super) placed: BTreeMap<FileId, FileName>,
}

/// How many pieces a file of that length has.
pub(super) fn piece_count(bytes: u64) -> Option<usize> {
    usize::try_from(bytes.div_ceil(FILE_PIECE_BYTES as u64)).ok()
}

impl ReceptionRecord {
    fn encode(&self) -> Vec<u8> {
        let mut payload = length::stored(self.partial.len()).to_le_bytes().to_vec();
        for (id, durable) in &self.partial {
            assert_eq!(
                piece_count(durable.bytes),
                Some(durable.pieces.len()),
                "a file has its pieces"
            );
            payload.extend_from_slice(&id.0.to_le_bytes());
            payload.extend_from_slice(&durable.bytes.to_le_bytes());
            for bits in durable.pieces.chunks(8) {
                let bits = bits.iter().zip(0..).map(|(set, at)| u8::from(*set) << at);
                payload.push(bits.sum());
            }
        }
        payload.extend_from_slice(&length::stored(self.placed.len()).to_le_bytes());
        for (id, name) in &self.placed {
            let (kind, number, generation) = match *name {
                FileName::ValueSegment(id, generation) => (2, id.0, generation),
                FileName::Table(id) => (1, id.0, 0),
                other => panic!("{other} is not received"),
            };
            payload.extend_from_slice(&id.0.to_le_bytes());
            payload.push(kind);
            payload.extend_from_slice(&number.to_le_bytes());
            payload.extend_from_slice(&generation.to_le_bytes());
        }
        let mut covered = length::stored(payload.len()).to_le_bytes().to_vec();
        covered.append(&mut payload);
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
        file.append(&mut covered);
        file.resize(file.len().next_multiple_of(BLOCK_SIZE), 0);
        debug_assert!(
            Self::decode(&file).as_ref() == Some(self),
            "what is written is read again"
        );
        file
    }

    fn decode(file: &[u8]) -> Option<Self> {
        let mut fields = file;
        let magic = fields.split_off(..MAGIC.len())?;
        let version = fields.try_get_u32_le().ok()?;
        let crc = fields.try_get_u32_le().ok()?;
        let len = usize::try_from(fields.try_get_u32_le().ok()?).ok()?;
        let end = HEADER_BYTES.checked_add(len)?;
        let is_known = magic == MAGIC && version == VERSION;
        if !is_known || crc32c::crc32c(file.get(COVERED_FROM..end)?) != crc {
            return None;
        }
        let mut payload = file.get(HEADER_BYTES..end)?;
        let mut record = Self::default();
        for _ in 0..payload.try_get_u32_le().ok()? {
            let id = FileId(payload.try_get_u128_le().ok()?);
            let bytes = payload.try_get_u64_le().ok()?;
            let count = piece_count(bytes)?;
            let bits = payload.split_off(..count.div_ceil(8))?;
            let is_set = |at: usize| {
                bits.get(at / 8)
                    .is_some_and(|byte| byte >> (at % 8) & 1 == 1)
            };
            let pieces = (0..count).map(is_set).collect();
            record.partial.insert(id, Durable { bytes, pieces });
        }
        for _ in 0..payload.try_get_u32_le().ok()? {
            let id = FileId(payload.try_get_u128_le().ok()?);
            let kind = payload.try_get_u8().ok()?;
            let number = payload.try_get_u64_le().ok()?;
            let generation = payload.try_get_u32_le().ok()?;
            let name = match kind {
                1 => FileName::Table(TableId(number)),
                2 => FileName::ValueSegment(ValueSegmentId(number), generation),
                _ => return None,
            };
            record.placed.insert(id, name);
        }
        payload.is_empty().then_some(record)
    }

    /// Reads the record in `dir`. One that is not there or not intact says nothing: files are received again.
    pub(super) async fn load(dir: &Path) -> Result<Self> {
        let file = match File::open(&dir.join(NAME)).await {
            Err(error) if error.kind() == corelith_io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            opened => opened?,
        };
        let len = usize::try_from(file.len().await?).unwrap_or(usize::MAX);
        if len > INCOMING_RECORD_BYTES_MAX {
            return Ok(Self::default());
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let piece = (len - bytes.len()).min(IO_BYTES_MAX);
            let read = file.read_at(bytes.len() as u64, piece).await?;
            if read.is_empty() {
                break;
            }
            bytes.extend_from_slice(&read);
        }
        Ok(Self::decode(&bytes).unwrap_or_default())
    }

    /// Makes it the record in `dir`, durably, together with all names there.
    pub(super) async fn store(&self, dir: &Path) -> Result<()> {
        let temporary = dir.join(NAME_TEMPORARY);
        remove_if_there(&temporary).await?;
        let file = OpenOptions::new()
            .write()
            .create_new()
            .open(&temporary)
            .await?;
        let mut offset = 0;
        for piece in self.encode().chunks(IO_BYTES_MAX) {
            let mut buf = Buf::alloc(piece.len());
            buf.copy_from_slice(piece);
            file.write_at(offset, buf).await?;
            offset += piece.len() as u64;
        }
        file.sync().await?;
        corelith_io::rename(&temporary, &dir.join(NAME)).await?;
        Ok(corelith_io::sync_dir(dir).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_damage_is_found() {
        let unit = FILE_PIECE_BYTES as u64;
        let mut record = ReceptionRecord::default();
        for (id, bytes) in [(1, 4096), (2, 8 * unit), (u128::MAX, 17 * unit + 4096)] {
            let count = piece_count(bytes).unwrap();
            let pieces = (0..count).map(|at| at % 3 == 1).collect();
            record.partial.insert(FileId(id), Durable { bytes, pieces });
        }
        let segment = FileName::ValueSegment(ValueSegmentId(1 << 32), 3);
        record.placed.insert(FileId(9), segment);
        record.placed.insert(FileId(8), FileName::Table(TableId(5)));
        let bytes = record.encode();
        assert_eq!(ReceptionRecord::decode(&bytes), Some(record));
        let end = HEADER_BYTES + u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
        for at in 0..end {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(ReceptionRecord::decode(&damaged), None, "{at}");
            assert_eq!(ReceptionRecord::decode(&bytes[..at]), None, "{at}");
        }
    }
}
