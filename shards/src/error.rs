//! The error of this crate.

use std::path::Path;
use std::sync::Arc;

/// What went wrong in a shard, and what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The device or file system failed. `NoSpace` goes away when space is freed; after anything
    /// else the shard is to be closed and opened again.
    #[error("{0}")]
    Io(#[source] Arc<corelith_io::Error>),
    /// The bytes of a file are not what was written there. The data must come from another replica;
    /// nothing is ever served from it.
    #[error("{file} is damaged at offset {offset}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file was written by a newer release: run that release.
    #[error("{file} has format version {found}; this release reads versions up to {known}")]
    NewerFormat {
        /// The file.
        file: String,
        /// The version it has.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The file belongs to another store or shard: directories were mixed up.
    #[error("{file} belongs to {found}, not to {expected}")]
    OtherStore {
        /// The file.
        file: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// A piece of a snapshot is damaged, out of order, or of another shard: ask for it again, or
    /// start over.
    #[error("snapshot piece {number}: {what}")]
    BadPiece {
        /// The piece that was expected, counted from 0.
        number: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The snapshot is not newer than the state: drop it.
    #[error("the snapshot is not newer than what is applied here")]
    OldSnapshot,
    /// One item is longer than the log takes; nothing of the call was appended.
    #[error("an entry of {len} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The longest allowed.
        limit: u64,
    },
    /// The value is large: its bytes are read chunk by chunk.
    #[error("a large value of {len} bytes was asked for as a whole")]
    IsLarge {
        /// Its length in bytes.
        len: u64,
    },
    /// The shard holds as much as its metadata can: it takes no new values. Deletions, compaction and
    /// collection go on, and make room.
    #[error("the shard is full: {used} {what}, of at most {limit}")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How much of it there is, or would be.
        used: u64,
        /// How much there may be.
        limit: u64,
    },
    /// Versions as of this sequence number are no longer kept: read again at a newer one.
    #[error("sequence number {at} can no longer be read")]
    SequenceGone {
        /// The sequence number asked for.
        at: u64,
    },
    /// An earlier failure is final: the shard answers reads from memory and disk but takes nothing
    /// more; close it and open it again.
    #[error("the shard is fenced: {0}")]
    Fenced(#[source] Box<Error>),
    /// The shard is closed.
    #[error("the shard is closed")]
    Closed,
}

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<corelith_io::Error> for Error {
    fn from(error: corelith_io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl Error {
    /// Damage found in `file` at `offset`.
    pub fn corrupt(file: &Path, offset: u64, what: &'static str) -> Self {
        Self::Corrupt {
            file: file.display().to_string(),
            offset,
            what,
        }
    }

    /// Whether it is damage of that file.
    pub(crate) fn is_in(&self, name: &str) -> bool {
        matches!(self, Self::Corrupt { file, .. } if file == name)
    }

    /// Whether the device is full, which goes away when space is freed.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == corelith_io::ErrorKind::NoSpace,
            Self::Fenced(error) => error.is_no_space(),
            _ => false,
        }
    }

    /// Whether it waits for room that deletions, compaction and collection make: on the device, or in
    /// the metadata of the shard.
    pub(crate) fn wants_room(&self) -> bool {
        matches!(self, Self::Full { .. }) || self.is_no_space()
    }

    /// Whether stored bytes are damaged, and so must come from another replica.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Fenced(error) => error.is_corrupt(),
            _ => false,
        }
    }
}
