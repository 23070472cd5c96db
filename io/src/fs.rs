//! Names: directories, renames, removals. All of them run on the blocking pool in the Uring world.

use crate::error::Result;
use std::path::Path;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// File name without the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes, 0 for a directory.
    pub len: u64,
}

/// An exclusive lock of a directory against other processes, held until it is dropped.
pub struct DirLock {
    _todo: (),
}

/// Locks the directory `path` (through a file `LOCK` in it).
///
/// # Errors
/// `Locked` when another process (or another holder in this one) has it.
pub async fn lock_dir(path: &Path) -> Result<DirLock> {
    let _ = path;
    todo!()
}

/// Creates a directory and its parents and makes every created name durable.
pub async fn create_dir_all(path: &Path) -> Result<()> {
    let _ = path;
    todo!()
}

/// Lists a directory in order of names.
pub async fn list_dir(path: &Path) -> Result<Vec<Entry>> {
    let _ = path;
    todo!()
}

/// Makes creations, renames and removals in the directory `path` durable.
pub async fn sync_dir(path: &Path) -> Result<()> {
    let _ = path;
    todo!()
}

/// Renames a file, replacing an existing one atomically. Durable after [`sync_dir`].
pub async fn rename(from: &Path, to: &Path) -> Result<()> {
    let _ = (from, to);
    todo!()
}

/// Removes a file. Durable after [`sync_dir`].
pub async fn remove_file(path: &Path) -> Result<()> {
    let _ = path;
    todo!()
}

/// Removes a directory with everything in it. Durable after [`sync_dir`] of its parent.
pub async fn remove_dir_all(path: &Path) -> Result<()> {
    let _ = path;
    todo!()
}

/// Free bytes on the file system that holds `path`.
pub async fn free_bytes(path: &Path) -> Result<u64> {
    let _ = path;
    todo!()
}
