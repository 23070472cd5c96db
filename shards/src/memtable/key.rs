//! The keys of the map. Short ones lie in its nodes, so that finding a place among them reads no
//! other memory.

use bytes::Bytes;
use std::borrow::Borrow;
use std::cmp::Ordering;

/// Longest key that is kept in place: with it a key takes 40 bytes, 8 more than a slice of an arena.
pub(super) const SHORT_LEN_MAX: usize = 38;

/// A user key, ordered as its bytes are.
#[derive(Debug)]
pub(super) enum MapKey {
    Short { len: u8, bytes: [u8; SHORT_LEN_MAX] },
    Long(Bytes),
}

const _: () = assert!(size_of::<MapKey>() == 40);

impl MapKey {
    /// The key in place, `None` if it is too long for that.
    pub(super) fn short(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; SHORT_LEN_MAX];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        let len = u8::try_from(key.len()).ok()?;
        Some(Self::Short { len, bytes })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Short { .. } => Bytes::copy_from_slice(self.as_slice()),
            Self::Long(bytes) => bytes.clone(),
        }
    }
}

impl Borrow<[u8]> for MapKey {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for MapKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for MapKey {}

impl PartialOrd for MapKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MapKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}
