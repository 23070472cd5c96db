//! The files of the log: pre-written one ahead, used again when freed.
//!
//! Invariants:
//! * A segment id is higher than any used before in the directory, and its name is durable before
//!   the first block is written to it.
//! * Segments are freed oldest first, each one durably before the next, so that no crash leaves a
//!   gap in the log.

use super::recovery::FreeFile;
use super::segment::{Prepared, Released};
use super::{Shared, WalOptions};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::SegmentId;
use crate::limits;
use crate::planted::{Bug, is_planted};
use corelith_io::{Buf, OpenOptions};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::Cell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// How long to wait before asking a full device for a segment again.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// See [`limits::LOG_PREWRITE_STEP_BYTES`].
const PREWRITE_PAUSE: Duration = Duration::from_millis(8);

/// Hands out segments to come. Belongs to the core of its log.
pub(super) struct Directory {
    path: PathBuf,
    next_id: Cell<u64>,
}

impl Directory {
    pub(super) fn new(path: PathBuf, next_id: SegmentId) -> Self {
        Self {
            path,
            next_id: Cell::new(next_id.0),
        }
    }

    fn take_id(&self) -> SegmentId {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        SegmentId(id)
    }

    async fn sync(&self) -> Result<()> {
        if is_planted(Bug::SkipDirectorySync) {
            return Ok(());
        }
        Ok(corelith_io::sync_dir(&self.path).await?)
    }

    /// Pre-writes a new segment of `len` bytes, with pauses while `is_behind` of the bytes done is
    /// false.
    pub(super) async fn create(
        &self,
        len: u64,
        is_behind: impl Fn(u64) -> bool,
    ) -> Result<Prepared> {
        let id = self.take_id();
        let temporary = FileName::SegmentTemporary(id).path(&self.path);
        if let Err(error) = fill(&temporary, len, is_behind).await {
            // Whether this works or not, the name is removed at the next start.
            let _ = corelith_io::remove_file(&temporary).await;
            return Err(error);
        }
        self.adopt(&temporary, id, len).await
    }

    /// Takes a file of the right length, whatever it holds, as a segment to come.
    pub(super) async fn reuse(&self, path: &Path, len: u64) -> Result<Prepared> {
        let id = self.take_id();
        self.adopt(path, id, len).await
    }

    async fn adopt(&self, from: &Path, id: SegmentId, len: u64) -> Result<Prepared> {
        let path = FileName::Segment(id).path(&self.path);
        corelith_io::rename(from, &path).await?;
        self.sync().await?;
        let file = OpenOptions::new().write().dsync().open(&path).await?;
        Ok(Prepared {
            id,
            path,
            file: Rc::new(file),
            len,
        })
    }

    pub(super) async fn remove(&self, path: &Path) -> Result<()> {
        corelith_io::remove_file(path).await?;
        self.sync().await
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
            if file.len == options.segment_bytes && prepared.len() < 2 {
                prepared.push_back(self.reuse(&file.path, file.len).await?);
            } else {
                self.remove(&file.path).await?;
            }
        }
        let first = match prepared.pop_front() {
            Some(first) => first,
            None => self.create_first(options).await?,
        };
        Ok((first, prepared.pop_front()))
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
    Ok(file.sync().await?)
}

/// What the keeper of the segments does next.
enum Step {
    End,
    Prepare,
    Free(Released),
    Wait,
}

/// Keeps one segment ahead, and frees those released, until the log is closed.
pub(super) async fn run(shared: Rc<Shared>) {
    loop {
        let result = match next_step(&shared) {
            Step::End => return,
            Step::Prepare => prepare(&shared).await,
            Step::Free(released) => free(&shared, released).await,
            Step::Wait => {
                shared.wake_keeper.notified().await;
                Ok(())
            }
        };
        if let Err(error) = result {
            shared.fail(error);
        }
    }
}

fn next_step(shared: &Shared) -> Step {
    let mut pipeline = shared.pipeline.borrow_mut();
    if pipeline.is_failed() || (pipeline.is_closed() && pipeline.is_idle()) {
        return Step::End;
    }
    // A starved writer comes first: without it nothing released is ever proven.
    if pipeline.is_starved() {
        return Step::Prepare;
    }
    if let Some(released) = pipeline.take_released() {
        return Step::Free(released);
    }
    if pipeline.has_released() {
        // Without it durable, a block would prove nothing new.
        if pipeline.is_all_durable() && !pipeline.is_closed() {
            pipeline.stage_empty();
            shared.wake_writer.notify_one();
        }
        return Step::Wait;
    }
    // A short segment does for the writer; that there is room again shows with a whole one.
    let is_owed = shared.disk_full.get() && !pipeline.is_closed();
    match pipeline.wants_segment() || is_owed {
        true => Step::Prepare,
        false => Step::Wait,
    }
}

async fn free(shared: &Rc<Shared>, released: Released) -> Result<()> {
    let segment = released.segment;
    let (wants_spare, segment_bytes) = {
        let pipeline = shared.pipeline.borrow();
        (pipeline.wants_spare(), pipeline.options().segment_bytes)
    };
    // Somebody may still be reading from it; a removed file stays readable, one written anew not.
    let is_read = Rc::strong_count(&segment.file) > 1;
    if wants_spare && !is_read && segment.file_len == segment_bytes {
        let prepared = shared.directory.reuse(&segment.path, segment_bytes).await?;
        shared.add_prepared(prepared);
        shared.disk_full.set(false);
        Ok(())
    } else {
        shared.directory.remove(&segment.path).await
    }
}

async fn prepare(shared: &Rc<Shared>) -> Result<()> {
    let len = shared.pipeline.borrow().options().segment_bytes;
    let is_behind = |done| shared.pipeline.borrow().is_behind(done);
    let prepared = match shared.directory.create(len, is_behind).await {
        Err(error) if error.is_no_space() => {
            if !shared.disk_full.replace(true) {
                tracing::warn!(%error, "no room for the next segment of the log");
            }
            create_short(shared).await
        }
        Ok(prepared) => {
            shared.disk_full.set(false);
            Ok(Some(prepared))
        }
        Err(error) => Err(error),
    };
    match prepared? {
        Some(prepared) => {
            shared.add_prepared(prepared);
            Ok(())
        }
        None => {
            shared.is_stuck.set(shared.pipeline.borrow().is_starved());
            if shared.pipeline.borrow().is_closed() {
                return Err(Error::Closed);
            }
            // A purge may free one earlier.
            let freed = shared.wake_keeper.notified();
            let _ = corelith_io::timeout(FULL_RETRY, freed).await;
            Ok(())
        }
    }
}

/// Prepares a short segment for a writer that waits for one, if there is room for that.
async fn create_short(shared: &Shared) -> Result<Option<Prepared>> {
    let len = shared.pipeline.borrow().short_segment_bytes();
    let Some(len) = len else { return Ok(None) };
    match shared.directory.create(len, |_| true).await {
        Err(error) if error.is_no_space() => Ok(None),
        result => result.map(Some),
    }
}
