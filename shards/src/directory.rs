//! The directory of a shard, whose names the log, the value log and the engine change side by side.
//!
//! Invariant: after a sync of the directory has failed, every later one fails too. The failed sync may have
//! covered names of the other users, and the kernel reports such a loss once. A full device is no such
//! failure: nothing is lost, and a later sync covers the same names.

use crate::error::{Error, Result};
use crate::planted::{Bug, is_planted};
use corelith_io::sync::semaphore::Semaphore;
use std::cell::RefCell;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// See the module. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct Directory {
    inner: Rc<DirectoryInner>,
}

struct DirectoryInner {
    path: PathBuf,
    /// Held while the directory is synced: with two at once, one could be told that its names are durable
    /// before it is known that the other has lost them.
    syncing: Semaphore,
    failure: RefCell<Option<Error>>,
}

impl From<&Path> for Directory {
    fn from(path: &Path) -> Self {
        Self {
            inner: Rc::new(DirectoryInner {
                path: path.to_path_buf(),
                syncing: Semaphore::new(1),
                failure: RefCell::new(None),
            }),
        }
    }
}

impl From<&PathBuf> for Directory {
    fn from(path: &PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<&Directory> for Directory {
    fn from(directory: &Directory) -> Self {
        directory.clone()
    }
}

impl Deref for Directory {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.inner.path
    }
}

impl Directory {
    /// Makes the names in it durable.
    ///
    /// # Errors
    /// `Io`. With any but `NoSpace` this sync and all later ones have failed.
    pub(crate) async fn sync(&self) -> Result<()> {
        if is_planted(Bug::SkipDirectorySync) {
            return Ok(());
        }
        let inner = &self.inner;
        let _syncing = inner.syncing.acquire(1).await;
        if let Some(error) = inner.failure.borrow().clone() {
            return Err(error);
        }
        let synced = corelith_io::sync_dir(&inner.path).await;
        synced.map_err(Error::from).inspect_err(|error| {
            if !error.is_no_space() {
                let before = inner.failure.replace(Some(error.clone()));
                assert!(before.is_none(), "nothing is synced after a failure");
            }
        })
    }
}
