//! How a table is written. Every table says itself how it was, so that tables of all kinds live
//! beside each other and an option can change at any time.

/// Whether the blocks of tables are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// LZ4, where it saves a unit of direct I/O.
    Lz4,
}

/// How the keys of a table are summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FilterKind {
    /// Split-block Bloom: 20 bits per key, a few nanoseconds per key to build. For tables that are
    /// soon compacted away.
    #[default]
    Bloom,
    /// Binary fuse: 9 bits per key for as few false positives, ten times the work to build. For
    /// tables that stay.
    Fuse,
}

/// How a table is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableOptions {
    pub(crate) compression: Compression,
    pub(crate) filter: FilterKind,
}
