//! Immutable, sorted files of key versions.
//!
//! The writer and the reader share `format`; `block` is what both put into data and index blocks.

mod block;
mod cursor;
mod filter;
pub(crate) mod format;
mod inspect;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use cursor::TableCursor;
pub(crate) use filter::hash_of;
pub(crate) use format::{Handle, TableMeta};
pub(crate) use inspect::inspect;
pub(crate) use reader::Table;
pub(crate) use writer::TableWriter;

use bytes::Bytes;

/// What a table holds for one version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Deleted.
    Deleted,
    /// The value.
    Inline(Bytes),
    /// Where the value is; see [`Table::value`].
    Stored(Handle),
}
