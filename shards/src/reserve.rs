//! Space held back on a device, so that work that makes room still runs when the device is full.
//!
//! The reserve is a file without content. New values are refused as soon as a segment cannot be prepared for
//! them. When work that makes room cannot go on either, the file is removed, and flushes, compactions,
//! collections and the log use its space. New values are refused until the whole reserve is taken again, so
//! they never use it up.

use crate::directory::Directory;
use crate::error::Result;
use crate::filename::FileName;
use crate::removal::remove_if_there;
use corelith_io::{ErrorKind, OpenOptions};
use std::cell::Cell;
use std::path::PathBuf;

/// See the module. Belongs to one core.
pub(crate) struct Reserve {
    dir: Directory,
    path: PathBuf,
    bytes: u64,
    is_held: Cell<bool>,
}

impl Reserve {
    /// The reserve of the shard in `dir`, not yet taken.
    pub(crate) fn new(dir: impl Into<Directory>, bytes: u64) -> Self {
        let dir = dir.into();
        Self {
            path: FileName::Reserve.path(&dir),
            dir,
            bytes,
            is_held: Cell::new(bytes == 0),
        }
    }

    /// Whether all of it is there.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.get()
    }

    /// Whether there is nothing left to give up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.bytes == 0 || !self.is_held()
    }

    /// Takes it if there is room.
    ///
    /// # Errors
    /// Whatever but a full device goes wrong.
    pub(crate) async fn take(&self) -> Result<()> {
        if self.is_held() {
            return Ok(());
        }
        assert!(self.bytes > 0, "a reserve of nothing is always held");
        self.remove().await?;
        let file = OpenOptions::new().write().create_new();
        let file = match file.open(&self.path).await {
            Err(error) if error.kind() == ErrorKind::NoSpace => return Ok(()),
            file => file?,
        };
        match file.allocate(self.bytes).await {
            Ok(()) => {
                self.is_held.set(true);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                drop(file);
                self.remove().await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives up what a life before has left of it; `false` if that is nothing. It is for a start that has no room.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) async fn give_up_left(&self) -> Result<bool> {
        assert!(
            self.bytes == 0 || !self.is_held(),
            "what this life holds is given up otherwise"
        );
        match corelith_io::remove_file(&self.path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            removed => removed?,
        }
        self.dir.sync().await?;
        Ok(true)
    }

    /// Gives it up for others to use.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) async fn give_up(&self) -> Result<()> {
        if self.bytes == 0 || !self.is_held.replace(false) {
            return Ok(());
        }
        self.remove().await?;
        // Until the removal is durable, the space may still be the file's.
        self.dir.sync().await
    }

    async fn remove(&self) -> Result<()> {
        Ok(remove_if_there(&self.path).await?)
    }
}
