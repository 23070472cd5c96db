//! Large values: what they are, and how uploads stand. What is asked of them is in `upload/asks.rs`, the answers are in
//! `upload/answers.rs`. All of it is plain little-endian bytes, since log entries hold what is asked as it arrived:
//!
//! ```text
//! UPLOAD_BEGIN   16 upload, 8 time to live in ms, 4 length of the key, key, 4 length of the attributes, attributes
//! UPLOAD_CHUNK   in front of the body its length (4), as in a WRITE
//!                24 row (the chunk's key: upload, part and chunk big-endian), 4 length, 4 crc32c; the bytes are the value
//! UPLOAD_STATUS  16 upload, 1 whether chunks are wanted after one, 4 its part, 4 its chunk, 4 most chunks
//! UPLOAD_COMMIT  16 upload, condition, 4 crc32c, digest, parts
//! UPLOAD_ABORT   16 upload
//! UPLOAD_LIST    16 upload after which to go on, 4 most uploads
//! READ_CHUNK     24 row, 4 start, 4 end
//! HOLD_VALUE     16 upload
//!
//! LARGE          meta, 8 version, 16 upload, 8 length, 4 bytes of a chunk, 4 crc32c, digest, 8 time of the commit,
//!                4 length of the attributes, attributes, parts
//! UPLOAD_REPLY   meta, state, 4 bytes of a chunk, 8 ms until it expires, 1 more, 4 count of chunks:
//!                4 part, 4 chunk, 4 length, 4 crc32c
//! UPLOADS        meta, 1 more, 4 count of uploads:
//!                16 upload, 8 begun, 8 expires, 4 chunks, 8 bytes, state, 4 length of the key, key
//!
//! meta           8 term, 8 index
//! condition      1 tag (0 any, 1 absent, 2 version), 8 version or 0
//! digest         1 kind, 32 bytes
//! parts          4 count: 4 part, 8 length
//! attributes     of each: 2 length of the name, name, 2 length of the value, value
//! state          1 tag: 0 unknown, 1 open, 2 committed, 3 conflicted, 4 aborted, 5 expired, 6 dropped, 7 refused
//!                2: 8 version; 3: 8 current version, 0 for none
//!                7: 1 why: 0 too many (4 limit), 1 other key, 2 chunk differs, 3 incomplete (4 part, 4 chunk),
//!                   4 checksum differs, 5 too large (8 limit), 6 malformed
//! ```
//! Times are microseconds since 1970.

mod answers;
mod asks;
mod attributes;
#[cfg(test)]
mod tests;

pub use answers::{
    LargeReply, StagedChunk, UploadReply, UploadSummary, UploadsPage, encode_large,
    encode_upload_reply, encode_uploads,
};
pub use asks::{
    AbortUpload, BeginUpload, ChunkCommand, CommitUpload, HoldValue, ListUploads, ReadChunk,
    UploadChunk, UploadStatus, encode_abort, encode_begin, encode_chunk, encode_commit,
    encode_hold, encode_list, encode_read_chunk, encode_upload_status,
};
pub use attributes::Attributes;

use crate::error::DecodeError;
use crate::fields::Fields;
use crate::limits;
use crate::width::u32_len;
use bytes::{BufMut, BytesMut};

/// The length of a part of a large value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartLength {
    /// The part, in the client's numbering.
    pub part: u32,
    /// Its length, in bytes.
    pub len: u64,
}

/// How a [`Digest`] was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum DigestKind {
    /// There is none.
    #[default]
    None = 0,
    /// SHA-256.
    Sha256 = 1,
    /// BLAKE3.
    Blake3 = 2,
}

/// A digest of a whole value as its client computed it. Servers keep it and do not check it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How it was made.
    pub kind: DigestKind,
    /// Its bytes; zeros if there is none.
    pub bytes: [u8; 32],
}

/// How an upload stands, or what it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UploadState {
    /// Nothing is known of it: it never began, or ended long ago.
    #[default]
    Unknown,
    /// It takes chunks.
    Open,
    /// It is the value of its key, or was.
    Committed {
        /// The version that it gave the key.
        version: u64,
    },
    /// The condition of its commit did not hold: it ended.
    Conflicted {
        /// The version of the key then, if it had a value.
        current: Option<u64>,
    },
    /// It was given up.
    Aborted,
    /// Its time to live passed.
    Expired,
    /// It was the value of its key, and its bytes are gone.
    Dropped,
    /// What was asked is not done; the upload stands as it stood.
    Refused(UploadRefusal),
}

/// Why something is not done for an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadRefusal {
    /// The shard or the upload has as many uploads or chunks as it may have.
    TooMany {
        /// How many.
        limit: u32,
    },
    /// The id is that of an upload to another key, or on other terms.
    OtherKey,
    /// The chunk is there, with other content.
    ChunkDiffers,
    /// A chunk that the commit needs is not there, or has not the length that it needs.
    Incomplete {
        /// Its part.
        part: u32,
        /// Its place within the part.
        chunk: u32,
    },
    /// The chunks do not make what the checksum is of.
    ChecksumDiffers,
    /// The chunk or the value exceeds a limit.
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// What was asked makes no sense.
    Malformed,
    /// The upload was committed, as another value than the one that is asked for.
    CommittedOtherwise {
        /// The version of that.
        version: u64,
    },
}

impl Digest {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(self.kind as u8);
        out.put_slice(&self.bytes);
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let kind = match fields.u8()? {
            0 => DigestKind::None,
            1 => DigestKind::Sha256,
            2 => DigestKind::Blake3,
            _ => return Err(fields.malformed()),
        };
        let mut bytes = [0; 32];
        bytes.copy_from_slice(fields.bytes(32)?);
        if kind == DigestKind::None && bytes != [0; 32] {
            return Err(fields.malformed());
        }
        Ok(Self { kind, bytes })
    }
}

impl UploadState {
    fn put(&self, out: &mut BytesMut) {
        match *self {
            Self::Unknown => out.put_u8(0),
            Self::Open => out.put_u8(1),
            Self::Committed { version } => {
                out.put_u8(2);
                out.put_u64_le(version);
            }
            Self::Conflicted { current } => {
                assert_ne!(current, Some(0), "no value has version 0");
                out.put_u8(3);
                out.put_u64_le(current.unwrap_or(0));
            }
            Self::Aborted => out.put_u8(4),
            Self::Expired => out.put_u8(5),
            Self::Dropped => out.put_u8(6),
            Self::Refused(refusal) => {
                out.put_u8(7);
                refusal.put(out);
            }
        }
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        Ok(match fields.u8()? {
            0 => Self::Unknown,
            1 => Self::Open,
            2 => Self::Committed {
                version: fields.u64()?,
            },
            3 => Self::Conflicted {
                current: Some(fields.u64()?).filter(|version| *version != 0),
            },
            4 => Self::Aborted,
            5 => Self::Expired,
            6 => Self::Dropped,
            7 => Self::Refused(UploadRefusal::take(fields)?),
            _ => return Err(fields.malformed()),
        })
    }
}

impl UploadRefusal {
    fn put(self, out: &mut BytesMut) {
        match self {
            Self::TooMany { limit } => {
                out.put_u8(0);
                out.put_u32_le(limit);
            }
            Self::OtherKey => out.put_u8(1),
            Self::ChunkDiffers => out.put_u8(2),
            Self::Incomplete { part, chunk } => {
                out.put_u8(3);
                out.put_u32_le(part);
                out.put_u32_le(chunk);
            }
            Self::ChecksumDiffers => out.put_u8(4),
            Self::TooLarge { limit } => {
                out.put_u8(5);
                out.put_u64_le(limit);
            }
            Self::Malformed => out.put_u8(6),
            Self::CommittedOtherwise { version } => {
                out.put_u8(7);
                out.put_u64_le(version);
            }
        }
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        Ok(match fields.u8()? {
            0 => Self::TooMany {
                limit: fields.u32()?,
            },
            1 => Self::OtherKey,
            2 => Self::ChunkDiffers,
            3 => Self::Incomplete {
                part: fields.u32()?,
                chunk: fields.u32()?,
            },
            4 => Self::ChecksumDiffers,
            5 => Self::TooLarge {
                limit: fields.u64()?,
            },
            6 => Self::Malformed,
            7 => Self::CommittedOtherwise {
                version: fields.u64()?,
            },
            _ => return Err(fields.malformed()),
        })
    }
}

fn put_parts(out: &mut BytesMut, parts: &[PartLength]) {
    out.put_u32_le(u32_len(parts.len()));
    for part in parts {
        out.put_u32_le(part.part);
        out.put_u64_le(part.len);
    }
}

/// The parts that come next. No part is longer than a value may be, so that their lengths can be summed.
fn take_parts(fields: &mut Fields<'_>) -> Result<Vec<PartLength>, DecodeError> {
    let count = fields.u32()? as usize;
    at_most("list of parts", count, limits::UPLOAD_PARTS_MAX)?;
    // As many as are there, so a lying count costs no memory.
    let (rows, _) = fields
        .bytes(count * limits::PART_BYTES)?
        .as_chunks::<{ limits::PART_BYTES }>();
    let mut parts = Vec::with_capacity(rows.len());
    for row in rows {
        let mut row = Fields::of(row, "part");
        let part = PartLength {
            part: row.u32()?,
            len: row.u64()?,
        };
        if part.len > limits::LARGE_VALUE_BYTES_MAX {
            return Err(DecodeError::TooLarge {
                what: "part",
                len: usize::try_from(part.len).unwrap_or(usize::MAX),
                limit: limits::LARGE_VALUE_BYTES_MAX as usize,
            });
        }
        parts.push(part);
    }
    Ok(parts)
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32_len(bytes.len()));
    out.put_slice(bytes);
}

/// The bytes that come next behind their length.
fn take_bytes<'a>(
    fields: &mut Fields<'a>,
    what: &'static str,
    limit: usize,
) -> Result<&'a [u8], DecodeError> {
    let len = fields.u32()? as usize;
    at_most(what, len, limit)?;
    fields.bytes(len)
}

fn at_most(what: &'static str, len: usize, limit: usize) -> Result<(), DecodeError> {
    match len <= limit {
        true => Ok(()),
        false => Err(DecodeError::TooLarge { what, len, limit }),
    }
}
