//! The bytes of a snapshot on its way. All integers are little-endian.
//!
//! ```text
//! piece   = crc32c u32 (of all after) | magic [4] "CLSP" | version u16 = 1 | kind u16 | shard u32 |
//!           payload length u32 | number u64 | payload
//! kind 1, head (number 0): checkpoint (see checkpoint.rs)
//! kind 2, records: a part of the stream of records, cut anywhere
//! kind 3, end (the last): records u64 | crc32c u32 of the whole stream of records
//! record  = key length varint | sequence number varint | value length varint | stored key | value
//! ```
//! Records come in order of their stored keys (space, then key), one per key, deletions left out.

use crate::ids::ShardId;
use crate::length;
use crate::limits::SNAPSHOT_PIECE_BYTES_MAX;
use bytes::{Buf, Bytes};

const MAGIC: [u8; 4] = *b"CLSP";
const VERSION: u16 = 1;
const CRC_BYTES: usize = 4;
pub(super) const HEADER_BYTES: usize = 28;
pub(super) const PAYLOAD_BYTES_MAX: usize = SNAPSHOT_PIECE_BYTES_MAX - HEADER_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum PieceKind {
    Head = 1,
    Records = 2,
    End = 3,
}

pub(super) fn encode(shard: ShardId, number: u64, kind: PieceKind, payload: &[u8]) -> Bytes {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a piece is bounded");
    assert_eq!(
        kind == PieceKind::Head,
        number == 0,
        "the first piece is the head"
    );
    let mut piece = Vec::with_capacity(HEADER_BYTES + payload.len());
    piece.extend_from_slice(&[0; CRC_BYTES]);
    piece.extend_from_slice(&MAGIC);
    piece.extend_from_slice(&VERSION.to_le_bytes());
    piece.extend_from_slice(&(kind as u16).to_le_bytes());
    piece.extend_from_slice(&shard.0.to_le_bytes());
    let len = length::stored(payload.len());
    piece.extend_from_slice(&len.to_le_bytes());
    piece.extend_from_slice(&number.to_le_bytes());
    piece.extend_from_slice(payload);
    let (crc, covered) = piece.split_at_mut(CRC_BYTES);
    crc.copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
    piece.into()
}

/// Checks the piece that is expected to have that number; returns its kind and payload.
pub(super) fn decode(
    shard: ShardId,
    number: u64,
    piece: &Bytes,
) -> Result<(PieceKind, Bytes), &'static str> {
    if piece.len() < HEADER_BYTES || piece.len() > SNAPSHOT_PIECE_BYTES_MAX {
        return Err("no piece has this length");
    }
    let mut fields = piece.clone();
    let crc = fields.get_u32_le();
    if crc32c::crc32c(&fields) != crc {
        return Err("the checksum does not match");
    }
    if fields.split_to(MAGIC.len()) != MAGIC[..] {
        return Err("not a piece of a snapshot");
    }
    if fields.get_u16_le() != VERSION {
        return Err("the format version is not known");
    }
    let kind = match fields.get_u16_le() {
        1 => PieceKind::Head,
        2 => PieceKind::Records,
        3 => PieceKind::End,
        _ => return Err("the kind is not known"),
    };
    if fields.get_u32_le() != shard.0 {
        return Err("of another shard");
    }
    let len = fields.get_u32_le();
    if fields.get_u64_le() != number {
        return Err("out of order");
    }
    if usize::try_from(len) != Ok(fields.len()) {
        return Err("the length does not match");
    }
    Ok((kind, fields))
}
