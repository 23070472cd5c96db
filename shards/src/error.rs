//! The error of this crate.

/// What went wrong in a shard, and what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device or file system failed.
    #[error(transparent)]
    Io(#[from] corelith_io::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
