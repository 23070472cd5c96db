//! The directory of received files: who changes it, and until when it is kept.
//!
//! A reception may be given up at any moment, and what it has asked the file system to do is done later all the same:
//! the next one would lose a file that it has just made. So each change is made by a task of its own, which has the
//! turn until the file system has answered.
//!
//! What a reception leaves is for one that goes on with it. If none comes for [`INCOMING_KEPT`], its space is given back.
//!
//! Invariant: of a shard that is open, only who has the turn gives or takes names here.

use super::{DIRECTORY, Partial};
use crate::directory::Directory;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::ids::FileId;
use crate::limits::INCOMING_KEPT;
use crate::removal::{Removals, remove_if_there};
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{ErrorKind, File, Instant, OpenOptions, Space};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

/// See the module. Belongs to the core of its engine.
pub(in crate::engine) struct IncomingPlace {
    /// The directory that it is in.
    shard: Directory,
    dir: PathBuf,
    turn: Semaphore,
    /// Receptions under way.
    receptions: Cell<usize>,
    /// Since when there is none; `None` if nothing is left of the last one.
    left_since: Cell<Option<Instant>>,
}

impl IncomingPlace {
    /// That of the shard in this directory.
    pub(in crate::engine) fn new(shard: &Directory) -> Self {
        Self {
            shard: shard.clone(),
            dir: shard.join(DIRECTORY),
            turn: Semaphore::new(1),
            receptions: Cell::new(0),
            left_since: Cell::new(Some(corelith_io::now())),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A reception begins.
    pub(super) fn begin(&self) {
        self.receptions.set(self.receptions.get() + 1);
        self.left_since.set(None);
    }

    /// A reception is over, whatever it came to.
    pub(super) fn end(&self) {
        assert!(self.receptions.get() > 0, "a reception ends once");
        self.receptions.set(self.receptions.get() - 1);
        if self.receptions.get() == 0 {
            self.left_since.set(Some(corelith_io::now()));
        }
    }

    /// Does `work` once all is done that was begun before, to its end, whoever waits for it.
    pub(super) async fn change<T: 'static>(
        &self,
        work: impl Future<Output = Result<T>> + 'static,
    ) -> Result<T> {
        let turn = self.turn.acquire(1).await;
        let changed = corelith_io::spawn(async move {
            let result = work.await;
            drop(turn);
            result
        });
        changed.await.unwrap_or(Err(Error::Closed))
    }

    /// Waits until all is done that was begun.
    pub(in crate::engine) async fn wait(&self) {
        drop(self.turn.acquire(1).await);
    }

    /// Whether nobody has gone on for so long with what is left that nobody will.
    pub(in crate::engine) fn is_forgotten(&self) -> bool {
        let since = self.left_since.get();
        since.is_some_and(|since| since.elapsed() >= INCOMING_KEPT)
    }

    /// Removes all that was received.
    pub(super) async fn give_back(&self, removals: &Removals) -> Result<()> {
        let (shard, dir, removals) = (self.shard.clone(), self.dir.clone(), removals.clone());
        self.change(remove_all(shard, dir, removals)).await
    }
}

async fn remove_all(shard: Directory, dir: PathBuf, removals: Removals) -> Result<()> {
    let entries = match corelith_io::list_dir(&dir).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        removals.remove(&dir.join(&entry.name), entry.len).await?;
    }
    // Until the removals are durable, the space may still be taken.
    corelith_io::sync_dir(&dir).await?;
    corelith_io::remove_dir_all(&dir).await?;
    shard.sync().await
}

/// Opens a file for pieces, anew if none of it is there.
pub(super) async fn open_part(path: PathBuf, is_new: bool, bytes: u64) -> Result<File> {
    let mut options = OpenOptions::new().write();
    if is_new {
        remove_if_there(&path).await?;
        options = options.create_new();
    }
    let file = options.open(&path).await?;
    // A device without room for it says so now.
    file.allocate(bytes).await?;
    Ok(file)
}

impl Engine {
    /// Refuses a reception that the device has no room for, before it fills the device; what was received of it goes.
    pub(super) async fn check_room(&self, files: &BTreeMap<FileId, Partial>) -> Result<()> {
        // One that is begun has its space.
        let missing = files.values().filter(|partial| !partial.is_begun());
        let missing: u64 = missing.map(|partial| partial.entry.bytes).sum();
        let inner = &self.inner;
        let Space { free, total, .. } = corelith_io::space(&inner.dir).await?;
        // Some file systems do not say.
        if missing <= free || total == 0 {
            return Ok(());
        }
        inner.incoming.give_back(&inner.removals).await?;
        Err(Error::Full {
            what: "bytes are to be received",
            used: missing,
            limit: free,
        })
    }

    /// Gives the space of received files back with which nobody goes on.
    pub(in crate::engine) async fn remove_forgotten(&self) {
        let place = &self.inner.incoming;
        if !place.is_forgotten() {
            return;
        }
        assert_eq!(
            place.receptions.get(),
            0,
            "what is being received is not forgotten"
        );
        place.left_since.set(None);
        if let Err(error) = place.give_back(&self.inner.removals).await {
            tracing::warn!(shard = %self.inner.owner, %error, "received files stay");
            place.left_since.set(Some(corelith_io::now()));
        }
    }
}
