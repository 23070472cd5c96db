//! The value log: values too long to be moved by every compaction, each written once.

mod pointer;

pub use pointer::ValuePointer;
pub(crate) use pointer::record_bytes;
