//! The rows of the table of uploads, as they are stored. Numbers are little-endian.
//!
//! ```text
//! space Upload, key: the upload's id, 16 bytes big-endian (0: the log's time)
//!   u8 version 1, u8 tag, then by tag
//!   0 time       u64 microseconds since 1970
//!   1 open       u64 begun, u64 expires, u32 length of the key, key, attributes to the end
//!   2 committed  u64 version of the key, u64 time of the commit, u64 length, u32 bytes of a chunk, u32 CRC-32C,
//!                u8 kind of digest, 32 bytes digest, u32 length of the key, u32 length of the attributes, key, attributes,
//!                then for each part, in order: u32 part, u64 length
//!   3 dead       u8 how it ended, u64 version, u64 bytes of its chunks
//!   4 ended      u8 how it ended, u64 version, u64 index of the entry that dropped the last of it
//!   how it ended: 1 committed, 2 conflicted (version: the key's, 0 if it had none), 3 aborted, 4 expired
//! space Upload, key: the id and a byte 1: a committed value is dead, and all of it is there; u64 index of the entry that
//!   replaced it. Once some of it is dropped its record is that of what is dead
//! space Staged, key: that of the chunk: u32 length, u32 CRC-32C
//! ```

use super::{ChunkContent, Final};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use corelith_shards::LogIndex;
use corelith_wire::upload::{Digest, DigestKind, PartLength};

const VERSION: u8 = 1;
/// The last byte of the key of a mark.
pub(super) const MARK: u8 = 1;

const TIME: u8 = 0;
const OPEN: u8 = 1;
const COMMITTED: u8 = 2;
const DEAD: u8 = 3;
const ENDED: u8 = 4;

/// Bytes of a part in the record of a commit.
const PART_BYTES: usize = 12;

/// How an upload began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRecord {
    pub(crate) key: Bytes,
    pub(crate) begun_us: u64,
    pub(crate) expires_us: u64,
    pub(crate) attributes: Bytes,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommittedRecord {
    pub(crate) key: Bytes,
    pub(crate) version: LogIndex,
    pub(crate) committed_us: u64,
    pub(crate) len: u64,
    pub(crate) chunk_bytes: u32,
    pub(crate) crc32c: u32,
    pub(crate) digest: Digest,
    pub(crate) attributes: Bytes,
    pub(crate) parts: Vec<PartLength>,
}

/// A row of the space Upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UploadRecord {
    Time(u64),
    Open(OpenRecord),
    Committed(CommittedRecord),
    Dead { how: Final, bytes: u64 },
    Ended { how: Final, at: LogIndex },
}

fn put_how(out: &mut BytesMut, how: Final) {
    let (tag, version) = match how {
        Final::Committed { version } => (1, version.0),
        Final::Conflicted { current } => (2, current.map_or(0, |version| version.0)),
        Final::Aborted => (3, 0),
        Final::Expired => (4, 0),
    };
    out.put_u8(tag);
    out.put_u64_le(version);
}

fn get_how(from: &mut Bytes) -> Option<Final> {
    let (tag, version) = (from.try_get_u8().ok()?, from.try_get_u64_le().ok()?);
    Some(match tag {
        1 => Final::Committed {
            version: LogIndex(version),
        },
        2 => Final::Conflicted {
            current: (version != 0).then_some(LogIndex(version)),
        },
        3 => Final::Aborted,
        4 => Final::Expired,
        _ => return None,
    })
}

/// A length that was checked when what it is of came in.
#[expect(
    clippy::expect_used,
    reason = "another length would be a bug of this crate"
)]
fn short(len: usize) -> u32 {
    u32::try_from(len).expect("keys and attributes are short")
}

fn take(from: &mut Bytes, len: u32) -> Option<Bytes> {
    let len = len as usize;
    (len <= from.len()).then(|| from.split_to(len))
}

impl UploadRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            Self::Time(time_us) => {
                out.put_u8(TIME);
                out.put_u64_le(*time_us);
            }
            Self::Open(open) => {
                out.put_u8(OPEN);
                out.put_u64_le(open.begun_us);
                out.put_u64_le(open.expires_us);
                out.put_u32_le(short(open.key.len()));
                out.put_slice(&open.key);
                out.put_slice(&open.attributes);
            }
            Self::Committed(committed) => committed.encode(&mut out),
            Self::Dead { how, bytes } => {
                out.put_u8(DEAD);
                put_how(&mut out, *how);
                out.put_u64_le(*bytes);
            }
            Self::Ended { how, at } => {
                out.put_u8(ENDED);
                put_how(&mut out, *how);
                out.put_u64_le(at.0);
            }
        }
        out.freeze()
    }

    /// What [`UploadRecord::encode`] wrote; `None` if it did not.
    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut from = value.clone();
        if from.try_get_u8().ok()? != VERSION {
            return None;
        }
        let record = match from.try_get_u8().ok()? {
            TIME => Self::Time(from.try_get_u64_le().ok()?),
            OPEN => {
                let begun_us = from.try_get_u64_le().ok()?;
                let expires_us = from.try_get_u64_le().ok()?;
                let key_len = from.try_get_u32_le().ok()?;
                Self::Open(OpenRecord {
                    key: take(&mut from, key_len)?,
                    begun_us,
                    expires_us,
                    attributes: std::mem::take(&mut from),
                })
            }
            COMMITTED => Self::Committed(CommittedRecord::decode(&mut from)?),
            DEAD => Self::Dead {
                how: get_how(&mut from)?,
                bytes: from.try_get_u64_le().ok()?,
            },
            ENDED => Self::Ended {
                how: get_how(&mut from)?,
                at: LogIndex(from.try_get_u64_le().ok()?),
            },
            _ => return None,
        };
        from.is_empty().then_some(record)
    }
}

impl CommittedRecord {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(COMMITTED);
        out.put_u64_le(self.version.0);
        out.put_u64_le(self.committed_us);
        out.put_u64_le(self.len);
        out.put_u32_le(self.chunk_bytes);
        out.put_u32_le(self.crc32c);
        out.put_u8(self.digest.kind as u8);
        out.put_slice(&self.digest.bytes);
        out.put_u32_le(short(self.key.len()));
        out.put_u32_le(short(self.attributes.len()));
        out.put_slice(&self.key);
        out.put_slice(&self.attributes);
        for part in &self.parts {
            out.put_u32_le(part.part);
            out.put_u64_le(part.len);
        }
    }

    fn decode(from: &mut Bytes) -> Option<Self> {
        let version = LogIndex(from.try_get_u64_le().ok()?);
        let committed_us = from.try_get_u64_le().ok()?;
        let len = from.try_get_u64_le().ok()?;
        let chunk_bytes = from.try_get_u32_le().ok()?;
        let crc32c = from.try_get_u32_le().ok()?;
        let kind = digest_kind(from.try_get_u8().ok()?)?;
        let mut bytes = [0; 32];
        from.try_copy_to_slice(&mut bytes).ok()?;
        let key_len = from.try_get_u32_le().ok()?;
        let attributes_len = from.try_get_u32_le().ok()?;
        let key = take(from, key_len)?;
        let attributes = take(from, attributes_len)?;
        if !from.len().is_multiple_of(PART_BYTES) {
            return None;
        }
        let mut parts = Vec::with_capacity(from.len() / PART_BYTES);
        while from.has_remaining() {
            parts.push(PartLength {
                part: from.try_get_u32_le().ok()?,
                len: from.try_get_u64_le().ok()?,
            });
        }
        Some(Self {
            key,
            version,
            committed_us,
            len,
            chunk_bytes,
            crc32c,
            digest: Digest { kind, bytes },
            attributes,
            parts,
        })
    }
}

fn digest_kind(number: u8) -> Option<DigestKind> {
    let all = [DigestKind::None, DigestKind::Sha256, DigestKind::Blake3];
    all.into_iter().find(|kind| *kind as u8 == number)
}

/// The row of a staged chunk.
pub(super) fn staged(content: ChunkContent) -> Bytes {
    let mut out = BytesMut::with_capacity(8);
    out.put_u32_le(content.len);
    out.put_u32_le(content.crc32c);
    out.freeze()
}

/// What [`staged`] wrote.
pub(super) fn content(mut value: &[u8]) -> Option<ChunkContent> {
    let content = ChunkContent {
        len: value.try_get_u32_le().ok()?,
        crc32c: value.try_get_u32_le().ok()?,
    };
    value.is_empty().then_some(content)
}
