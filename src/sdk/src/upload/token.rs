//! What another process needs to go on with an upload, in a form that can be stored.
//!
//! ```text
//! version u8 = 1 | cluster u64 | upload u128 | chunk_bytes u32 | digest u8 | condition u8 | version of the condition u64
//! | key length u32 | key | count of parts u32: (part u32 | length u64 | crc32c u32) | crc32c of all before
//! ```
//! Little-endian, as hexadecimal text.

use crate::error::{Error, Result};
use crate::token_text::{self, CRC_BYTES};
use bytes::{Buf, BufMut, Bytes};
use corelith_wire::limits::{KEY_BYTES_MAX, UPLOAD_PARTS_MAX};
use corelith_wire::request::Condition;
use corelith_wire::upload::DigestKind;
use corelith_wire::{ClusterId, UploadId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

const VERSION: u8 = 1;
/// Bytes of a token without its key and parts.
const FIXED_BYTES: usize = 1 + 8 + 16 + 4 + 1 + 1 + 8 + 4 + 4 + CRC_BYTES;
/// Bytes of a part.
const PART_BYTES: usize = 4 + 8 + 4;

/// A part that is durable on a majority, as [`Multipart::put_part`](crate::Multipart::put_part) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    /// The part.
    pub part: u32,
    /// Its length, in bytes.
    pub len: u64,
    /// Checksum of its bytes.
    pub crc32c: u32,
}

/// With what an upload can be resumed: its id, key, condition and kind of digest, and for a
/// [`Multipart`](crate::Multipart) the parts that were durable when the token was made. It holds no content and no
/// secret. Its text (`Display`, `FromStr`, and serde, as a string) can be stored or sent to another process. It may be
/// used any number of times, as long as the upload lives.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadToken {
    pub(crate) cluster: ClusterId,
    pub(crate) upload: UploadId,
    pub(crate) key: Bytes,
    pub(crate) chunk_bytes: u32,
    pub(crate) digest: DigestKind,
    pub(crate) condition: Condition,
    pub(crate) parts: Vec<UploadedPart>,
}

impl UploadToken {
    /// The upload's id.
    pub fn upload(&self) -> UploadId {
        self.upload
    }

    /// The key that is to get the value.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Refuses a token of another cluster or key.
    pub(crate) fn check(&self, cluster: ClusterId, key: &[u8]) -> Result<()> {
        if self.cluster != cluster {
            return Err(Error::Invalid {
                what: "upload token: it is of another cluster",
            });
        }
        if self.key != key {
            return Err(Error::Invalid {
                what: "upload token: it is of another key",
            });
        }
        Ok(())
    }

    fn bytes(&self) -> Vec<u8> {
        let capacity = FIXED_BYTES + self.key.len() + self.parts.len() * PART_BYTES;
        let mut bytes = Vec::with_capacity(capacity);
        bytes.put_u8(VERSION);
        bytes.put_u64_le(self.cluster.0);
        bytes.put_u128_le(self.upload.0);
        bytes.put_u32_le(self.chunk_bytes);
        bytes.put_u8(self.digest as u8);
        let (condition, version) = match self.condition {
            Condition::Any => (0, 0),
            Condition::Absent => (1, 0),
            Condition::Version(version) => (2, version),
        };
        bytes.put_u8(condition);
        bytes.put_u64_le(version);
        assert!(self.key.len() <= KEY_BYTES_MAX, "it was checked");
        bytes.put_u32_le(self.key.len() as u32);
        bytes.put_slice(&self.key);
        assert!(self.parts.len() <= UPLOAD_PARTS_MAX, "there are no more");
        bytes.put_u32_le(self.parts.len() as u32);
        for part in &self.parts {
            bytes.put_u32_le(part.part);
            bytes.put_u64_le(part.len);
            bytes.put_u32_le(part.crc32c);
        }
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if rest.try_get_u8().ok()? != VERSION {
            return None;
        }
        let cluster = ClusterId(rest.try_get_u64_le().ok()?);
        let upload = UploadId(rest.try_get_u128_le().ok()?);
        let chunk_bytes = rest.try_get_u32_le().ok()?;
        let digest = match rest.try_get_u8().ok()? {
            0 => DigestKind::None,
            1 => DigestKind::Sha256,
            2 => DigestKind::Blake3,
            _ => return None,
        };
        let condition = match (rest.try_get_u8().ok()?, rest.try_get_u64_le().ok()?) {
            (0, 0) => Condition::Any,
            (1, 0) => Condition::Absent,
            (2, version) => Condition::Version(version),
            _ => return None,
        };
        let len = rest.try_get_u32_le().ok()? as usize;
        let (key, behind) = rest.split_at_checked(len)?;
        rest = behind;
        let count = rest.try_get_u32_le().ok()? as usize;
        if count > UPLOAD_PARTS_MAX || len > KEY_BYTES_MAX || chunk_bytes == 0 {
            return None;
        }
        let mut part = || {
            Some(UploadedPart {
                part: rest.try_get_u32_le().ok()?,
                len: rest.try_get_u64_le().ok()?,
                crc32c: rest.try_get_u32_le().ok()?,
            })
        };
        let parts = (0..count).map(|_| part()).collect::<Option<_>>()?;
        rest.is_empty().then(|| Self {
            cluster,
            upload,
            key: Bytes::copy_from_slice(key),
            chunk_bytes,
            digest,
            condition,
            parts,
        })
    }
}

impl fmt::Display for UploadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        token_text::write(f, self.bytes())
    }
}

impl fmt::Debug for UploadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadToken")
            .field("upload", &self.upload)
            .field("key", &self.key)
            .field("parts", &self.parts.len())
            .finish_non_exhaustive()
    }
}

impl FromStr for UploadToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        token_text::read(text)
            .and_then(|bytes| Self::of_bytes(&bytes))
            .ok_or(Error::Invalid {
                what: "upload token: it is incomplete or not a token",
            })
    }
}

impl Serialize for UploadToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UploadToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct TokenText;

        impl de::Visitor<'_> for TokenText {
            type Value = UploadToken;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the text of an upload token")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<UploadToken, E> {
                text.parse().map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_str(TokenText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> UploadToken {
        UploadToken {
            cluster: ClusterId(0xc0),
            upload: UploadId(0xfeed),
            key: Bytes::from_static(b"k\0"),
            chunk_bytes: 1 << 20,
            digest: DigestKind::Sha256,
            condition: Condition::Version(7),
            parts: vec![UploadedPart {
                part: 3,
                len: 5,
                crc32c: 9,
            }],
        }
    }

    #[test]
    fn tokens_survive_their_text() {
        let text = token().to_string();
        // As it was first written: tokens are kept.
        let expected = "01 c000000000000000 edfe0000000000000000000000000000 00001000 01 02 0700000000000000 \
             02000000 6b00 01000000 03000000 0500000000000000 09000000";
        assert_eq!(text[..text.len() - 8], expected.replace(' ', ""));
        assert_eq!(text.parse::<UploadToken>().unwrap(), token());
        let json = serde_json::to_string(&token()).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<UploadToken>(&json).unwrap(), token());
        assert!(serde_json::from_str::<UploadToken>("\"00\"").is_err());
        let plain = UploadToken {
            condition: Condition::Absent,
            digest: DigestKind::None,
            parts: vec![],
            ..token()
        };
        assert_eq!(format!(" {plain}\n").parse::<UploadToken>().unwrap(), plain);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = token().to_string();
        for at in 0..text.len() {
            assert!(text[..at].parse::<UploadToken>().is_err(), "cut at {at}");
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).unwrap();
            assert!(other.parse::<UploadToken>().is_err(), "changed at {at}");
        }
        assert!(token().check(ClusterId(0xc0), b"k\0").is_ok());
        assert!(token().check(ClusterId(0xc1), b"k\0").is_err());
        assert!(token().check(ClusterId(0xc0), b"k").is_err());
    }
}
