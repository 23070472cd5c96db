//! The bytes of a manifest. All integers are little-endian.
//!
//! ```text
//! file    = magic [8] "CLMANIF\0" | version u32 = 3 | crc32c u32 (of all after, without the zeros) |
//!           length u32 of the payload | shard u32 | store u64 | payload | zeros to 4 KiB
//! payload = generation u64 | next table u64 | next segment u64 | series u128 |
//!           policy u8 (1 leveled, 2 tiered) | checkpoint (see checkpoint.rs) | installed option (a log id) |
//!           table count u32 | table ... | segment count u32 | segment ...
//! table   = id u64 | level u8 | run u64 | file id u128 | count u32 | count x value segment u64 |
//!           file length u64 | properties (see sstable/properties.rs)
//! segment = id u64 | generation u32 | file id u128 | file length u64 | records u64 | record bytes u64 |
//!           highest log index u64
//! ```
//! The value segments of a table are the numbers that those of its references have here, in the same order;
//! none if they are those of the file.
//!
//! Version 2 has no series, file ids and value segments of tables: they come from whose the manifest is (see
//! ids.rs). Version 1 has no next segment, policy, level, run and segments, and table properties without
//! references: its tables stand newest first, each a run of level 0.

use super::{Manifest, PlacedTable};
use crate::checkpoint::{Checkpoint, decode_log_id_option, encode_log_id_option};
use crate::compaction::Policy;
use crate::error::{Error, Result};
use crate::ids::{FileId, FileSeries, LogIndex, Owner, RunId, ShardId, TableId, ValueSegmentId};
use crate::length;
use crate::sstable::TableMeta;
use crate::vlog::SegmentMeta;
use bytes::Buf;
use corelith_io::BLOCK_SIZE;
use std::path::Path;

pub(crate) const MAGIC: [u8; 8] = *b"CLMANIF\0";
/// What a segment of the value log takes.
pub(crate) const SEGMENT_BYTES: u64 = 60;
pub(super) const VERSION: u32 = 4;
const VERSION_OF_FILE_IDS: u32 = 3;
const COVERED_FROM: usize = 16;
const HEADER_BYTES: usize = 32;

pub(super) fn encode(owner: Owner, manifest: &Manifest) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&manifest.generation.to_le_bytes());
    payload.extend_from_slice(&manifest.next_table.0.to_le_bytes());
    payload.extend_from_slice(&manifest.next_segment.0.to_le_bytes());
    payload.extend_from_slice(&manifest.series.0.to_le_bytes());
    payload.push(manifest.policy.tag());
    manifest.checkpoint.encode(&mut payload);
    encode_log_id_option(manifest.installed, &mut payload);
    let count = length::stored(manifest.tables.len());
    payload.extend_from_slice(&count.to_le_bytes());
    for PlacedTable { level, run, meta } in &manifest.tables {
        payload.extend_from_slice(&meta.id.0.to_le_bytes());
        payload.push(*level);
        payload.extend_from_slice(&run.0.to_le_bytes());
        payload.extend_from_slice(&meta.file.0.to_le_bytes());
        let count = length::stored(meta.renumbered.len());
        payload.extend_from_slice(&count.to_le_bytes());
        for segment in &meta.renumbered {
            payload.extend_from_slice(&segment.0.to_le_bytes());
        }
        payload.extend_from_slice(&meta.file_bytes.to_le_bytes());
        meta.encode_properties(&mut payload);
    }
    let count = length::stored(manifest.segments.len());
    payload.extend_from_slice(&count.to_le_bytes());
    for segment in &manifest.segments {
        encode_segment(segment, &mut payload);
    }

    let len = length::stored(payload.len());
    let mut covered = len.to_le_bytes().to_vec();
    covered.extend_from_slice(&owner.shard.0.to_le_bytes());
    covered.extend_from_slice(&owner.store_id.to_le_bytes());
    covered.append(&mut payload);

    let mut file = MAGIC.to_vec();
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
    file.append(&mut covered);
    file.resize(file.len().next_multiple_of(BLOCK_SIZE), 0);
    file
}

pub(super) fn decode(path: &Path, file: &[u8]) -> Result<(Owner, Manifest)> {
    let damaged = |what| Error::corrupt(path, 0, what);
    let mut fields = file;
    let short = damaged("the manifest is too short");
    let magic = fields.split_off(..MAGIC.len()).ok_or(short.clone())?;
    if magic != MAGIC {
        return Err(damaged("not a manifest"));
    }
    let version = fields.try_get_u32_le().map_err(|_| short.clone())?;
    if version > VERSION {
        return Err(Error::NewerFormat {
            file: path.display().to_string(),
            found: version,
            known: VERSION,
        });
    }
    if version == 0 {
        return Err(damaged("there is no such format version"));
    }
    let crc = fields.try_get_u32_le().map_err(|_| short.clone())?;
    let len = fields.try_get_u32_le().map_err(|_| short.clone())?;
    let end = HEADER_BYTES.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
    let covered = file.get(COVERED_FROM..end).ok_or(short.clone())?;
    if crc32c::crc32c(covered) != crc {
        return Err(damaged("the manifest's checksum does not match"));
    }
    let shard = ShardId(fields.try_get_u32_le().map_err(|_| short.clone())?);
    let store_id = fields.try_get_u64_le().map_err(|_| short.clone())?;
    let mut payload = file.get(HEADER_BYTES..end).ok_or(short)?;
    let owner = Owner { store_id, shard };
    let manifest = decode_payload(&mut payload, version, owner)
        .filter(|_| payload.is_empty())
        .ok_or(damaged("the manifest is malformed"))?;
    Ok((owner, manifest))
}

fn decode_payload(payload: &mut &[u8], version: u32, owner: Owner) -> Option<Manifest> {
    let is_first = version == 1;
    let generation = payload.try_get_u64_le().ok()?;
    let next_table = TableId(payload.try_get_u64_le().ok()?);
    let (mut next_segment, mut policy) = (ValueSegmentId(0), Policy::default());
    if !is_first {
        next_segment = ValueSegmentId(payload.try_get_u64_le().ok()?);
    }
    let series = match version {
        VERSION_OF_FILE_IDS.. => FileSeries(payload.try_get_u128_le().ok()?),
        _ => FileSeries::of(owner),
    };
    if !is_first {
        policy = Policy::of_tag(payload.try_get_u8().ok()?)?;
    }
    let checkpoint = Checkpoint::decode(payload)?;
    let installed = decode_log_id_option(payload)?;
    // Counts need no bound of their own: each item takes bytes, and those are bounded.
    let count = payload.try_get_u32_le().ok()?;
    let mut tables = Vec::new();
    for _ in 0..count {
        let table = if is_first {
            decode_table_1(payload, owner)?
        } else {
            decode_table(payload, version, owner)?
        };
        tables.push(table);
    }
    let mut segments = Vec::new();
    if !is_first {
        let count = payload.try_get_u32_le().ok()?;
        for _ in 0..count {
            segments.push(decode_segment(payload, version, owner)?);
        }
    }
    let manifest = Manifest {
        generation,
        next_table,
        next_segment,
        series,
        policy,
        checkpoint,
        installed,
        tables,
        segments,
    };
    manifest.is_sound().then_some(manifest)
}

fn decode_table_1(payload: &mut &[u8], owner: Owner) -> Option<PlacedTable> {
    let id = TableId(payload.try_get_u64_le().ok()?);
    let file_bytes = payload.try_get_u64_le().ok()?;
    let named = (id, FileId::of_table(owner, id));
    let meta = TableMeta::decode_properties(1, named, file_bytes, payload)?;
    Some(PlacedTable {
        level: 0,
        run: RunId(id.0),
        meta,
    })
}

fn decode_table(payload: &mut &[u8], version: u32, owner: Owner) -> Option<PlacedTable> {
    let id = TableId(payload.try_get_u64_le().ok()?);
    let level = payload.try_get_u8().ok()?;
    let run = RunId(payload.try_get_u64_le().ok()?);
    let mut file = FileId::of_table(owner, id);
    let mut renumbered = Vec::new();
    if version >= VERSION_OF_FILE_IDS {
        file = FileId(payload.try_get_u128_le().ok()?);
        for _ in 0..payload.try_get_u32_le().ok()? {
            renumbered.push(ValueSegmentId(payload.try_get_u64_le().ok()?));
        }
    }
    let file_bytes = payload.try_get_u64_le().ok()?;
    let mut meta = TableMeta::decode_properties(VERSION, (id, file), file_bytes, payload)?;
    let is_whole = renumbered.is_empty() || renumbered.len() == meta.referenced().count();
    meta.renumbered = Some(renumbered).filter(|_| is_whole)?;
    Some(PlacedTable { level, run, meta })
}

fn encode_segment(segment: &SegmentMeta, out: &mut Vec<u8>) {
    out.extend_from_slice(&segment.id.0.to_le_bytes());
    out.extend_from_slice(&segment.generation.to_le_bytes());
    out.extend_from_slice(&segment.file.0.to_le_bytes());
    for number in [
        segment.file_bytes,
        segment.records,
        segment.bytes,
        segment.highest.0,
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn decode_segment(payload: &mut &[u8], version: u32, owner: Owner) -> Option<SegmentMeta> {
    let id = ValueSegmentId(payload.try_get_u64_le().ok()?);
    let generation = payload.try_get_u32_le().ok()?;
    let file = match version {
        VERSION_OF_FILE_IDS.. => FileId(payload.try_get_u128_le().ok()?),
        _ => FileId::of_segment(owner, id, generation),
    };
    Some(SegmentMeta {
        id,
        generation,
        file,
        file_bytes: payload.try_get_u64_le().ok()?,
        records: payload.try_get_u64_le().ok()?,
        bytes: payload.try_get_u64_le().ok()?,
        highest: LogIndex(payload.try_get_u64_le().ok()?),
    })
}
