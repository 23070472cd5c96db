//! The bytes of a manifest. All integers are little-endian.
//!
//! ```text
//! file    = magic [8] "CLMANIF\0" | version u32 = 2 | crc32c u32 (of all after, without the zeros) |
//!           length u32 of the payload | shard u32 | store u64 | payload | zeros to 4 KiB
//! payload = generation u64 | next table u64 | checkpoint (see checkpoint.rs) |
//!           installed option (a log id) | table count u32 | table ...
//! table   = id u64 | file length u64 | properties (see sstable/format.rs)
//! ```
//! A manifest has the properties of tables of its own version; so those of version 1 list no references.

use super::Manifest;
use crate::checkpoint::{Checkpoint, decode_log_id_option, encode_log_id_option};
use crate::error::{Error, Result};
use crate::ids::{Owner, ShardId, TableId};
use crate::limits::TABLES_MAX;
use crate::sstable::TableMeta;
use bytes::Buf;
use corelith_io::BLOCK_SIZE;
use std::path::Path;

pub(crate) const MAGIC: [u8; 8] = *b"CLMANIF\0";
/// The version that is written; all from 1 on are read.
const VERSION: u32 = 2;
const COVERED_FROM: usize = 16;
const HEADER_BYTES: usize = 32;

pub(super) fn encode(owner: Owner, manifest: &Manifest) -> Vec<u8> {
    assert!(manifest.tables.len() <= TABLES_MAX, "tables are bounded");
    let mut payload = Vec::new();
    payload.extend_from_slice(&manifest.generation.to_le_bytes());
    payload.extend_from_slice(&manifest.next_table.0.to_le_bytes());
    manifest.checkpoint.encode(&mut payload);
    encode_log_id_option(manifest.installed, &mut payload);
    let count = u32::try_from(manifest.tables.len()).unwrap_or(u32::MAX);
    payload.extend_from_slice(&count.to_le_bytes());
    for table in &manifest.tables {
        payload.extend_from_slice(&table.id.0.to_le_bytes());
        payload.extend_from_slice(&table.file_bytes.to_le_bytes());
        table.encode_properties(&mut payload);
    }

    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
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
    let manifest = decode_payload(version, &mut payload)
        .filter(|_| payload.is_empty())
        .ok_or(damaged("the manifest is malformed"))?;
    Ok((Owner { store_id, shard }, manifest))
}

fn decode_payload(version: u32, payload: &mut &[u8]) -> Option<Manifest> {
    let generation = payload.try_get_u64_le().ok()?;
    let next_table = TableId(payload.try_get_u64_le().ok()?);
    let checkpoint = Checkpoint::decode(payload)?;
    let installed = decode_log_id_option(payload)?;
    let count = usize::try_from(payload.try_get_u32_le().ok()?).ok()?;
    if count > TABLES_MAX {
        return None;
    }
    let mut tables = Vec::new();
    for _ in 0..count {
        let id = TableId(payload.try_get_u64_le().ok()?);
        let file_bytes = payload.try_get_u64_le().ok()?;
        let table = TableMeta::decode_properties(version, id, file_bytes, payload)?;
        if id >= next_table {
            return None;
        }
        tables.push(table);
    }
    Some(Manifest {
        generation,
        next_table,
        checkpoint,
        installed,
        tables,
    })
}
