//! What a memtable holds for one version of a key.

use crate::large::StoredLarge;
use crate::vlog::ValuePointer;
use bytes::Bytes;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Deleted.
    Deleted,
    /// The value.
    Inline(Bytes),
    /// Where the value is.
    Separated(ValuePointer),
    /// What stands for a large value.
    Large(StoredLarge),
}

/// It lies in the nodes of the map.
const _: () = assert!(size_of::<Value>() == 40);

impl Value {
    /// Length of the value in bytes, 0 if deleted; of a large one, of what stands for it.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Deleted => 0,
            Self::Inline(bytes) => bytes.len(),
            Self::Separated(pointer) => pointer.len as usize,
            Self::Large(large) => large.as_slice().len(),
        }
    }
}
