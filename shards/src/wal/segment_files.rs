//! The files of the log: pre-written one ahead, used again when freed.
//!
//! Invariants:
//! * A segment id is higher than any used before in the directory, and its name is durable before
//!   the first block is written to it.
//! * Segments are freed oldest first, each one durably before the next, so that no crash leaves a
//!   gap in the log.

use super::WalOptions;
use super::recovery::FreeFile;
use super::segment::Prepared;
use crate::directory::Directory;
use crate::error::Result;
use crate::filename::FileName;
use crate::ids::SegmentId;
use crate::limits;
use crate::removal::remove_if_there;
use corelith_io::{BLOCK_SIZE, Buf, OpenOptions};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// See [`limits::LOG_PREWRITE_STEP_BYTES`].
const PREWRITE_PAUSE: Duration = Duration::from_millis(8);

/// Hands out segments to come. Belongs to the core of its log.
pub(super) struct SegmentFiles {
    dir: Directory,
    next_id: Cell<u64>,
    /// Names that a failed preparation may have left.
    abandoned: RefCell<Vec<PathBuf>>,
}

impl SegmentFiles {
    pub(super) fn new(dir: Directory, next_id: SegmentId) -> Self {
        Self {
            dir,
            next_id: Cell::new(next_id.0),
            abandoned: RefCell::default(),
        }
    }

    fn take_id(&self) -> SegmentId {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        SegmentId(id)
    }

    /// Pre-writes a new segment of `len` bytes, with pauses while `is_behind` of the bytes done is
    /// false.
    pub(super) async fn create(
        &self,
        len: u64,
        is_behind: impl Fn(u64) -> bool,
    ) -> Result<Prepared> {
        self.remove_abandoned().await?;
        let id = self.take_id();
        let temporary = FileName::SegmentTemporary(id).path(&self.dir);
        let created = async {
            fill(&temporary, len, is_behind).await?;
            self.adopt(&temporary, id, len).await
        };
        let created = created.await;
        if created.is_err() {
            self.abandoned
                .borrow_mut()
                .extend([temporary.clone(), FileName::Segment(id).path(&self.dir)]);
            // What stays now goes before the next one is begun, or at the next start.
            let _ = self.remove_abandoned().await;
        }
        created
    }

    /// Takes a file of the right length, whatever it holds, as a segment to come.
    pub(super) async fn reuse(&self, path: &Path, len: u64) -> Result<Prepared> {
        self.remove_abandoned().await?;
        let id = self.take_id();
        let adopted = self.adopt(path, id, len).await;
        if adopted.is_err() {
            let renamed = FileName::Segment(id).path(&self.dir);
            self.abandoned.borrow_mut().push(renamed);
        }
        adopted
    }

    async fn adopt(&self, from: &Path, id: SegmentId, len: u64) -> Result<Prepared> {
        assert!(id.0 < self.next_id.get(), "an id that was taken");
        assert!(len.is_multiple_of(BLOCK_SIZE as u64), "blocks are whole");
        let path = FileName::Segment(id).path(&self.dir);
        corelith_io::rename(from, &path).await?;
        self.dir.sync().await?;
        let file = OpenOptions::new().write().dsync().open(&path).await?;
        Ok(Prepared {
            id,
            path,
            file: Rc::new(file),
            len,
        })
    }

    /// Removes what failed preparations left. The sync that the next segment needs makes it durable, so
    /// no such name stands between segments in use.
    async fn remove_abandoned(&self) -> Result<()> {
        loop {
            let Some(path) = self.abandoned.borrow().last().cloned() else {
                return Ok(());
            };
            remove_if_there(&path).await?;
            self.abandoned.borrow_mut().pop();
        }
    }

    /// Removes a file; it may be gone already, though not durably.
    pub(super) async fn remove(&self, path: &Path) -> Result<()> {
        self.remove_abandoned().await?;
        remove_if_there(path).await?;
        self.dir.sync().await
    }

    /// Sorts out the files that a recovery found free, and returns the first segment to use and at
    /// most one spare.
    pub(super) async fn after_recovery(
        &self,
        options: &WalOptions,
        free: Vec<FreeFile>,
    ) -> Result<(Prepared, Option<Prepared>)> {
        let mut prepared = VecDeque::new();
        for file in free {
            let is_fitting = file.len == options.segment_bytes && prepared.len() < 2;
            match self.reuse_if(is_fitting, &file.path, file.len).await? {
                Some(spare) => prepared.push_back(spare),
                None => self.remove(&file.path).await?,
            }
        }
        let first = match prepared.pop_front() {
            Some(first) => first,
            None => self.create_first(options).await?,
        };
        Ok((first, prepared.pop_front()))
    }

    /// Takes the file as a segment to come; `None` if it is not fit for that or the device is full.
    pub(super) async fn reuse_if(
        &self,
        is_fitting: bool,
        path: &Path,
        len: u64,
    ) -> Result<Option<Prepared>> {
        if !is_fitting {
            return Ok(None);
        }
        match self.reuse(path, len).await {
            Err(error) if error.is_no_space() => Ok(None),
            reused => reused.map(Some),
        }
    }

    /// On a full device a node must still start, so that what makes room can be done: a short
    /// segment will do.
    async fn create_first(&self, options: &WalOptions) -> Result<Prepared> {
        let at_once = |_| true;
        match self.create(options.segment_bytes, at_once).await {
            Err(error) if error.is_no_space() => {
                self.create(limits::LOG_SEGMENT_BYTES_MIN, at_once).await
            }
            result => result,
        }
    }
}

/// Writes zeros to a new file, so that later writes stay inside written extents: on those a durable
/// write costs no journal commit.
async fn fill(path: &Path, len: u64, is_behind: impl Fn(u64) -> bool) -> Result<()> {
    let file = OpenOptions::new().write().create_new().open(path).await?;
    let mut writes = FuturesUnordered::new();
    let mut offset = 0;
    while offset < len || !writes.is_empty() {
        let in_haste = is_behind(offset);
        let in_flight_max = if in_haste {
            limits::LOG_PREWRITES_IN_FLIGHT_MAX
        } else {
            1
        };
        if offset < len && writes.len() < in_flight_max {
            let step = if in_haste {
                limits::IO_BYTES_MAX
            } else {
                limits::LOG_PREWRITE_STEP_BYTES
            };
            let step = (len - offset).min(step as u64);
            let mut zeros = Buf::alloc(usize::try_from(step).unwrap_or(0));
            zeros.fill(0);
            writes.push(file.write_at(offset, zeros));
            offset += step;
        } else if let Some(result) = writes.next().await {
            result?;
            if !in_haste {
                corelith_io::sleep(PREWRITE_PAUSE).await;
            }
        }
    }
    drop(writes);
    assert_eq!(offset, len, "all of it is written");
    Ok(file.sync().await?)
}
