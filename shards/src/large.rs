//! What stands in the place of a value that lies in chunks.
//!
//! ```text
//! stored = upload id u128, big-endian | length u64 | time of the commit u64      little-endian
//! ```

use crate::error::Error;
use bytes::Bytes;
use corelith_wire::ids::UploadId;

/// Bytes of the stored form.
pub(crate) const LARGE_BYTES: usize = 32;

/// A large value: which upload brought it. Its bytes are the upload's chunks, in [`Space::Chunk`](crate::Space::Chunk).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargeRef {
    /// The upload.
    pub upload: UploadId,
    /// Length of the value in bytes.
    pub len: u64,
    /// When it was committed, in microseconds since 1970.
    pub committed_us: u64,
}

impl LargeRef {
    /// The stored form.
    #[must_use]
    pub fn encode(self) -> [u8; LARGE_BYTES] {
        let mut bytes = [0; LARGE_BYTES];
        let (upload, rest) = bytes.split_at_mut(UploadId::KEY_BYTES);
        let (len, committed) = rest.split_at_mut(8);
        upload.copy_from_slice(&self.upload.key());
        len.copy_from_slice(&self.len.to_le_bytes());
        committed.copy_from_slice(&self.committed_us.to_le_bytes());
        bytes
    }

    /// What is said to who wants its bytes.
    pub(crate) fn is_no_bytes(self) -> Error {
        Error::IsLarge { len: self.len }
    }

    /// Reads the stored form; `None` if it is not of its length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (upload, rest) = bytes.split_first_chunk()?;
        let (len, committed) = rest.split_first_chunk()?;
        Some(Self {
            upload: UploadId(u128::from_be_bytes(*upload)),
            len: u64::from_le_bytes(*len),
            committed_us: u64::from_le_bytes(committed.try_into().ok()?),
        })
    }
}

/// A value, or what stands for it if it is large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemValue {
    /// The bytes.
    Bytes(Bytes),
    /// The bytes are chunks of an upload.
    Large(LargeRef),
}

impl ItemValue {
    /// Length of the value in bytes.
    #[must_use]
    pub fn value_len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Large(large) => large.len,
        }
    }

    /// Bytes that it takes in memory, or in an answer.
    #[must_use]
    pub fn held_len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Large(_) => LARGE_BYTES,
        }
    }

    /// The bytes, unless it is large.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Large(_) => None,
        }
    }

    /// See [`ItemValue::bytes`].
    #[must_use]
    pub fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Large(_) => None,
        }
    }
}

/// A [`LargeRef`] in its stored form, which takes no more memory than a pointer to a value does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredLarge([u8; LARGE_BYTES]);

impl StoredLarge {
    /// Takes one from the front of `bytes`; `None` if they are fewer.
    pub(crate) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (stored, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(Self(*stored))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn get(self) -> LargeRef {
        let decoded = LargeRef::decode(&self.0);
        assert!(decoded.is_some(), "a stored form has its length");
        decoded.unwrap_or(LargeRef {
            upload: UploadId(0),
            len: 0,
            committed_us: 0,
        })
    }
}

impl From<LargeRef> for StoredLarge {
    fn from(large: LargeRef) -> Self {
        Self(large.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_value_reads_back_and_is_found_by_its_bytes() {
        let large = LargeRef {
            upload: UploadId(0x0102 << 112 | 7),
            len: 1 << 31,
            committed_us: 0x1122,
        };
        let bytes = large.encode();
        assert_eq!(bytes[..2], [1, 2]);
        assert_eq!(
            bytes[16..],
            [0, 0, 0, 0x80, 0, 0, 0, 0, 0x22, 0x11, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(LargeRef::decode(&bytes), Some(large));
        assert_eq!(LargeRef::decode(&bytes[1..]), None);
        assert_eq!(LargeRef::decode(&[&bytes[..], &[0]].concat()), None);
        let mut rest = &[&bytes[..], &[9]].concat()[..];
        assert_eq!(
            StoredLarge::take(&mut rest).map(StoredLarge::get),
            Some(large)
        );
        assert_eq!((rest, StoredLarge::take(&mut rest)), (&[9][..], None));
    }
}
