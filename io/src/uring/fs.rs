//! Names: directories, renames, removals, on the blocking pool.

use super::sys;
use super::task::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Space;
use crate::fs::{DirEntry, LOCK_FILE};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Holds the lock until the file is closed.
pub(crate) struct DirLock {
    _file: File,
}

async fn at_path<T: Send + 'static>(
    operation: &'static str,
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let owned = path.to_owned();
    blocking(move || work(&owned))
        .await
        .map_err(|error| Error::at_path(operation, path, error))
}

pub(crate) async fn lock_dir(path: &Path) -> Result<DirLock> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    lock(path, options).await
}

pub(crate) async fn lock_dir_as_it_is(path: &Path) -> Result<Option<DirLock>> {
    let mut options = File::options();
    options.read(true);
    match lock(path, options).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        locked => locked.map(Some),
    }
}

async fn lock(path: &Path, options: OpenOptions) -> Result<DirLock> {
    let owned = path.join(LOCK_FILE);
    let locked = blocking(move || {
        let file = options.open(&owned)?;
        Ok(match file.try_lock() {
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => return Err(error),
        })
    })
    .await;
    match locked {
        Ok(Some(file)) => Ok(DirLock { _file: file }),
        Ok(None) => Err(Error::with_kind(
            ErrorKind::Locked,
            "lock",
            path.display().to_string(),
            io::Error::other("another process uses this directory"),
        )),
        Err(error) => Err(Error::at_path("lock", path, error)),
    }
}

pub(crate) async fn create_dir_all(path: &Path) -> Result<()> {
    at_path("create directory", path, create_durably).await
}

fn create_durably(path: &Path) -> io::Result<()> {
    let missing: Vec<PathBuf> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.is_dir())
        .map(Path::to_owned)
        .collect();
    for dir in missing.iter().rev() {
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync(parent(dir))?,
        }
    }
    match path.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub(crate) async fn list_dir(path: &Path) -> Result<Vec<DirEntry>> {
    at_path("list", path, |path| {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since its name was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_dir = metadata.is_dir();
            entries.push(DirEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir,
                len: if is_dir { 0 } else { metadata.len() },
            });
        }
        entries.sort();
        Ok(entries)
    })
    .await
}

pub(crate) async fn sync_dir(path: &Path) -> Result<()> {
    at_path("sync directory", path, sync).await
}

pub(crate) async fn rename(from: &Path, to: &Path) -> Result<()> {
    let to = to.to_owned();
    at_path("rename", from, move |from| std::fs::rename(from, to)).await
}

pub(crate) async fn remove_file(path: &Path) -> Result<()> {
    at_path("remove", path, |path| std::fs::remove_file(path)).await
}

pub(crate) async fn remove_dir_all(path: &Path) -> Result<()> {
    at_path("remove directory", path, |path| {
        std::fs::remove_dir_all(path)
    })
    .await
}

pub(crate) async fn space(path: &Path) -> Result<Space> {
    at_path("measure the free space of", path, sys::space).await
}
