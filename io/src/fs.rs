//! Names: directories, renames, removals. All of them run on the blocking pool in the Uring world.

use crate::error::Result;
#[cfg(feature = "sim")]
use crate::sim;
use crate::uring;
use crate::world::{self, World};
use std::path::Path;

/// The file in a directory that [`lock_dir`] locks.
pub const LOCK_FILE: &str = "LOCK";

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// File name without the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes, 0 for a directory.
    pub len: u64,
}

/// An exclusive lock of a directory against other processes, held until it is dropped.
pub struct DirLock {
    _inner: LockInner,
}

#[expect(dead_code, reason = "held for its drop")]
enum LockInner {
    Uring(uring::fs::DirLock),
    #[cfg(feature = "sim")]
    Sim(sim::file::DirLock),
}

/// Locks the directory `path` (through [`LOCK_FILE`] in it).
///
/// # Errors
/// `Locked` when another process (or another holder in this one) has it.
pub async fn lock_dir(path: &Path) -> Result<DirLock> {
    let inner = match world::current() {
        World::Uring(_) => LockInner::Uring(uring::fs::lock_dir(path).await?),
        #[cfg(feature = "sim")]
        World::Sim(core) => LockInner::Sim(sim::file::lock_dir(core, path).await?),
    };
    Ok(DirLock { _inner: inner })
}

/// As [`lock_dir`], but changes nothing: `None` if [`LOCK_FILE`] is not there. It works where nothing can be
/// written.
///
/// # Errors
/// `Locked` when another process (or another holder in this one) has it.
pub async fn lock_dir_as_it_is(path: &Path) -> Result<Option<DirLock>> {
    let inner = match world::current() {
        World::Uring(_) => uring::fs::lock_dir_as_it_is(path)
            .await?
            .map(LockInner::Uring),
        #[cfg(feature = "sim")]
        World::Sim(core) => {
            let entries = sim::file::list_dir(core.clone(), path).await?;
            match entries.iter().any(|entry| entry.name == LOCK_FILE) {
                true => Some(LockInner::Sim(sim::file::lock_dir(core, path).await?)),
                false => None,
            }
        }
    };
    Ok(inner.map(|inner| DirLock { _inner: inner }))
}

/// Creates a directory and its parents and makes every created name durable.
pub async fn create_dir_all(path: &Path) -> Result<()> {
    match world::current() {
        World::Uring(_) => uring::fs::create_dir_all(path).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::file::create_dir_all(core, path).await,
    }
}

/// Lists a directory in order of names.
pub async fn list_dir(path: &Path) -> Result<Vec<DirEntry>> {
    match world::current() {
        World::Uring(_) => uring::fs::list_dir(path).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::file::list_dir(core, path).await,
    }
}

/// Makes creations, renames and removals in the directory `path` durable.
pub async fn sync_dir(path: &Path) -> Result<()> {
    match world::current() {
        World::Uring(_) => uring::fs::sync_dir(path).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::file::sync_dir(core, path).await,
    }
}

/// Renames a file, replacing an existing one atomically. Durable after [`sync_dir`].
pub async fn rename(from: &Path, to: &Path) -> Result<()> {
    match world::current() {
        World::Uring(_) => uring::fs::rename(from, to).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::file::rename(core, from, to).await,
    }
}

/// Removes a file. Durable after [`sync_dir`].
pub async fn remove_file(path: &Path) -> Result<()> {
    match world::current() {
        World::Uring(_) => uring::fs::remove_file(path).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::file::remove_file(core, path).await,
    }
}

/// Removes a directory with everything in it. Durable after [`sync_dir`] of its parent.
pub async fn remove_dir_all(path: &Path) -> Result<()> {
    match world::current() {
        World::Uring(_) => uring::fs::remove_dir_all(path).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::file::remove_dir_all(core, path).await,
    }
}

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What this process can still use.
    pub free: u64,
    /// Used and free.
    pub total: u64,
    /// The device that holds the file system: paths with the same one share the space.
    pub device: u64,
}

/// The space of the file system that holds `path`.
pub async fn space(path: &Path) -> Result<Space> {
    match world::current() {
        World::Uring(_) => uring::fs::space(path).await,
        #[cfg(feature = "sim")]
        World::Sim(core) => sim::file::space(core, path).await,
    }
}

/// Free bytes on the file system that holds `path`.
pub async fn free_bytes(path: &Path) -> Result<u64> {
    Ok(space(path).await?.free)
}
