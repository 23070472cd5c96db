//! Files with direct I/O.

use crate::buf::Buf;
use crate::error::Result;
#[cfg(feature = "sim")]
use crate::sim;
use crate::uring;
use crate::world::{self, World};
use std::path::Path;

/// How to open a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    pub(crate) write: bool,
    pub(crate) create_new: bool,
    pub(crate) dsync: bool,
}

impl OpenOptions {
    /// Opens for reading only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens for writing too.
    #[must_use]
    pub fn write(mut self) -> Self {
        self.write = true;
        self
    }

    /// Creates the file, which must not exist yet.
    #[must_use]
    pub fn create_new(mut self) -> Self {
        self.create_new = true;
        self
    }

    /// Makes each write durable before it completes (`O_DSYNC`).
    #[must_use]
    pub fn dsync(mut self) -> Self {
        self.dsync = true;
        self
    }

    /// Opens the file at `path`.
    pub async fn open(self, path: &Path) -> Result<File> {
        let inner = match world::current() {
            World::Uring(core) => {
                FileInner::Uring(uring::file::File::open(core, self, path).await?)
            }
            #[cfg(feature = "sim")]
            World::Sim(core) => FileInner::Sim(sim::file::File::open(core, self, path).await?),
        };
        Ok(File { inner })
    }
}

/// An open file; all its methods take `&self` and may be in flight at once. Dropping it closes it.
pub struct File {
    inner: FileInner,
}

enum FileInner {
    Uring(uring::file::File),
    #[cfg(feature = "sim")]
    Sim(sim::file::File),
}

impl File {
    /// Opens an existing file for reading.
    pub async fn open(path: &Path) -> Result<Self> {
        OpenOptions::new().open(path).await
    }

    /// Reads `len` bytes at `offset` (no alignment needed); fewer only at the end of the file.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Buf> {
        match &self.inner {
            FileInner::Uring(inner) => inner.read_at(offset, len).await,
            #[cfg(feature = "sim")]
            FileInner::Sim(inner) => inner.read_at(offset, len).await,
        }
    }

    /// Writes all of `buf` at `offset`; both `offset` and the buffer's length must be multiples of
    /// [`crate::BLOCK_SIZE`]. The buffer is recycled when the write completes.
    pub async fn write_at(&self, offset: u64, buf: Buf) -> Result<()> {
        match &self.inner {
            FileInner::Uring(inner) => inner.write_at(offset, buf).await,
            #[cfg(feature = "sim")]
            FileInner::Sim(inner) => inner.write_at(offset, buf).await,
        }
    }

    /// Makes all completed writes and the file's length durable. A failure is final: data may be
    /// gone although a later call succeeds.
    pub async fn sync(&self) -> Result<()> {
        match &self.inner {
            FileInner::Uring(inner) => inner.sync().await,
            #[cfg(feature = "sim")]
            FileInner::Sim(inner) => inner.sync().await,
        }
    }

    /// The file's length in bytes.
    pub async fn len(&self) -> Result<u64> {
        match &self.inner {
            FileInner::Uring(inner) => inner.len().await,
            #[cfg(feature = "sim")]
            FileInner::Sim(inner) => inner.len().await,
        }
    }

    /// Sets the file's length.
    pub async fn set_len(&self, len: u64) -> Result<()> {
        match &self.inner {
            FileInner::Uring(inner) => inner.set_len(len).await,
            #[cfg(feature = "sim")]
            FileInner::Sim(inner) => inner.set_len(len).await,
        }
    }

    /// Reserves space for the first `len` bytes and makes the file at least that long; bytes that
    /// were not written read as zeros. What is reserved, and the new length, last after
    /// [`File::sync`]; writes into it cannot fail for want of space.
    ///
    /// # Errors
    /// `NoSpace` when the device has not that much room; part of it may be reserved all the same.
    pub async fn allocate(&self, len: u64) -> Result<()> {
        match &self.inner {
            FileInner::Uring(inner) => inner.allocate(len).await,
            #[cfg(feature = "sim")]
            FileInner::Sim(inner) => inner.allocate(len).await,
        }
    }
}
