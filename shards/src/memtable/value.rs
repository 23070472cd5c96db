//! What a memtable holds for one version of a key.

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
}

impl Value {
    /// Length of the value in bytes, 0 if deleted.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Deleted => 0,
            Self::Inline(bytes) => bytes.len(),
            Self::Separated(pointer) => pointer.len as usize,
        }
    }
}
