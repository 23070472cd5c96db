//! Immutable, sorted files of key versions.
//!
//! The writer and the reader share `format`; `block` is what both put into data and index blocks.

mod block;
mod compress;
mod cursor;
mod filter;
pub(crate) mod format;
mod inspect;
mod lookup;
mod options;
mod properties;
mod reader;
mod sequential;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub(crate) use cursor::TableCursor;
pub(crate) use filter::hash_of;
pub(crate) use format::BlockHandle;
pub(crate) use inspect::inspect;
pub use options::Compression;
pub(crate) use options::{FilterKind, TableOptions};
#[cfg(test)]
pub(crate) use properties::Reference;
pub(crate) use properties::TableMeta;
pub(crate) use reader::{Table, file_id};
pub(crate) use sequential::{EntryRef, SequentialCursor, ValueRef};
pub(crate) use verify::Verifier;
pub(crate) use writer::TableWriter;

use crate::large::StoredLarge;
use crate::vlog::ValuePointer;
use bytes::Bytes;

/// What is put into a table for one version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// Deleted.
    Deleted,
    /// The value.
    Inline(&'a [u8]),
    /// Where the value log has the value.
    Separated(ValuePointer),
    /// What stands for a large value.
    Large(StoredLarge),
}

/// What a table holds for one version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Deleted.
    Deleted,
    /// The value.
    Inline(Bytes),
    /// In a block of its own of the same table; see [`Table::stored`].
    Stored(BlockHandle),
    /// In the value log, which the caller asks.
    Separated(ValuePointer),
    /// What stands for a large value.
    Large(StoredLarge),
}
