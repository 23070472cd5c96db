//! The value log: values too long to be moved by every compaction, each written once.
//!
//! * `format`: the bytes on disk. `pointer`: what names a value.
//! * `pipeline`: the way from staged to durable; pure. `writer`: the tasks that write, and that
//!   prepare and seal segments.
//! * `segments`: the segments there are, as snapshots. `reader`: values read back.
//! * `walk`, `recovery`: reading a segment from its front, and what is true after a start. `tear`: a torn value told
//!   from a damaged one.
//! * `plan`: which segment to collect; pure. `rewrite`: collecting one.
//! * `received`: segments that came as files. `inspect`: a segment checked and printed. `at_rest`: the segments of a shard that is not open.
//!
//! Invariants:
//! * A pointer stays true while anything refers to its record: collection keeps segment and slot.
//! * A segment that was in use when the process ended is never appended to again.
//! * A file counts if the manifest names its id and generation, or if it is the first generation of
//!   a segment begun since the manifest was written. Everything else is removed at a start. So a
//!   collection or a removal may be broken off anywhere.
//! * A failed write or sync is final: the value log is fenced.

mod at_rest;
mod format;
mod inspect;
mod pipeline;
mod plan;
mod pointer;
mod reader;
mod received;
mod recovery;
mod rewrite;
mod segments;
mod tear;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

pub(crate) use at_rest::AtRest;
pub(crate) use format::MAGIC;
pub(crate) use inspect::inspect;
pub use inspect::{Verified, Verifier};
pub use plan::{Action, GarbageReport, PlanInput, SegmentGarbage, SegmentUse, plan};
pub use pointer::ValuePointer;
pub(crate) use pointer::record_bytes;
pub(crate) use received::{TornRecord, check_file};
pub use rewrite::{RecordRef, Rewritten};
pub(crate) use segments::file_id;
pub use segments::{Segment, SegmentMeta, Segments};
pub use tear::{LoggedValue, ValueState};

use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::flight;
use crate::ids::{FileSeries, LogIndex, Owner, Ticket, ValueSegmentId};
use crate::key::SpacedKey;
use crate::limits;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{BLOCK_SIZE, JoinHandle};
use pipeline::ValuePipeline;
use segments::IndexCache;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

/// How to open a value log.
#[derive(Clone, Copy, Debug)]
pub struct ValueLogOptions {
    /// Length of a segment, rounded up to whole blocks and into the bounds of
    /// [`limits`](crate::limits). A record never spans two.
    pub segment_bytes: u64,
    /// What the file ids of its segments come from; the manifest says it.
    pub series: FileSeries,
}

impl Default for ValueLogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: limits::VLOG_SEGMENT_BYTES_DEFAULT,
            series: FileSeries::default(),
        }
    }
}

/// The value log of one shard. Belongs to one core; clones share it.
#[derive(Clone)]
pub struct ValueLog {
    handle: Rc<Handle>,
}

/// Ends the background tasks when the last clone goes without [`ValueLog::close`].
struct Handle {
    shared: Rc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

type OnDurable = Rc<dyn Fn(Result<Ticket>)>;

/// What the value log and its tasks share.
struct Shared {
    dir: Directory,
    options: ValueLogOptions,
    pipeline: RefCell<ValuePipeline>,
    segments: RefCell<Rc<Segments>>,
    index_cache: RefCell<IndexCache>,
    /// Segments that were replaced or dropped, until no reader holds them.
    obsolete: RefCell<Vec<Rc<Segment>>>,
    /// Held while files are removed: a name must not be given anew meanwhile.
    removing: Semaphore,
    /// Files of collections that were broken off or not installed.
    garbage: RefCell<Vec<PathBuf>>,
    /// There was no room for a whole segment.
    disk_full: Cell<bool>,
    /// What is staged waits for room on the device.
    is_stuck: Cell<bool>,
    is_stopping: Cell<bool>,
    /// See [`ValueLog::set_thrifty`].
    is_thrifty: Cell<bool>,
    /// See [`ValueLog::next_received`].
    next_received: Cell<ValueSegmentId>,
    wake_writer: Notify,
    wake_keeper: Notify,
    closing: Notify,
    /// Something became durable or was sealed, or the value log ended.
    progress: Notify,
    on_durable: RefCell<Option<OnDurable>>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

impl ValueLog {
    /// Opens the value log in the existing directory `dir`. `known` are the segments that the
    /// manifest names, and no other segment has an id below `next`. Returns also the names of files
    /// that nothing refers to; they are removed.
    ///
    /// Segments begun since the manifest was written are among [`ValueLog::segments`], sealed, with
    /// what a scan found in them; a value in them that was never reported durable may be there.
    ///
    /// # Errors
    /// `Corrupt` when a known segment is missing or the header of any is damaged, `OtherStore`,
    /// `NewerFormat`, `Io`.
    pub async fn open(
        dir: impl Into<Directory>,
        owner: Owner,
        options: ValueLogOptions,
        known: Vec<SegmentMeta>,
        next: ValueSegmentId,
    ) -> Result<(Self, Vec<FileName>)> {
        let dir = dir.into();
        let options = options.within_limits();
        let recovered = recovery::recover(&dir, (owner, options.series), &known, next).await?;
        let shared = Rc::new(Shared {
            dir,
            options,
            pipeline: RefCell::new(ValuePipeline::new(options, recovered.next)),
            segments: RefCell::new(Rc::new(recovered.segments)),
            index_cache: RefCell::default(),
            obsolete: RefCell::default(),
            removing: Semaphore::new(1),
            garbage: RefCell::default(),
            disk_full: Cell::new(false),
            is_stuck: Cell::new(false),
            is_stopping: Cell::new(false),
            is_thrifty: Cell::new(false),
            next_received: Cell::new(recovered.next_received),
            wake_writer: Notify::new(),
            wake_keeper: Notify::new(),
            closing: Notify::new(),
            progress: Notify::new(),
            on_durable: RefCell::new(None),
            tasks: RefCell::default(),
        });
        shared.tasks.borrow_mut().extend([
            corelith_io::spawn(writer::run(Rc::clone(&shared))),
            corelith_io::spawn(writer::run_keeper(Rc::clone(&shared))),
        ]);
        let handle = Rc::new(Handle { shared });
        Ok((Self { handle }, recovered.removed))
    }

    fn shared(&self) -> &Rc<Shared> {
        &self.handle.shared
    }

    /// Has `told` called whenever more values are durable, with the last one of the contiguous
    /// durable prefix, and with the error after which nothing more ever will be. It may call the
    /// value log. Set once.
    pub fn on_durable(&self, told: impl Fn(Result<Ticket>) + 'static) {
        let before = self.shared().on_durable.replace(Some(Rc::new(told)));
        assert!(before.is_none(), "one is told of progress");
    }

    /// Stages a value for the write at `at` of `key`. It is in memory on return, and its pointer is
    /// final; it is durable once [`ValueLog::durable`] has reached its ticket. Callers wait in
    /// [`ValueLog::wait_for_room`] first: that is what bounds memory.
    ///
    /// # Errors
    /// `Fenced` or `Closed`; `TooLarge` when it exceeds the limits or a segment, which changes
    /// nothing.
    pub fn stage(
        &self,
        at: LogIndex,
        key: SpacedKey<'_>,
        value: &[u8],
    ) -> Result<(ValuePointer, Ticket)> {
        let shared = self.shared();
        let staged = shared.pipeline.borrow_mut().stage(at, key, value)?;
        shared.wake_writer.notify_one();
        Ok(staged)
    }

    /// The last staged value.
    pub fn staged(&self) -> Ticket {
        self.shared().pipeline.borrow().staged()
    }

    /// The last value of the contiguous durable prefix of all staged ones.
    pub fn durable(&self) -> Ticket {
        self.shared().pipeline.borrow().durable()
    }

    /// Waits until a value is durable.
    ///
    /// # Errors
    /// `Fenced` or `Closed`: it never will be.
    pub async fn wait_durable(&self, ticket: Ticket) -> Result<()> {
        self.shared().wait_durable(ticket).await
    }

    /// Ends the waits in [`ValueLog::wait_for_room`].
    pub(crate) fn begin_stop(&self) {
        let shared = self.shared();
        shared.is_stopping.set(true);
        shared.progress.notify_waiters();
    }

    /// Waits while too much is staged that is not durable yet.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_for_room(&self) -> Result<()> {
        let shared = self.shared();
        flight::until(&shared.progress, || {
            let pipeline = shared.pipeline.borrow();
            let (staged, max) = (pipeline.outstanding_bytes(), limits::VLOG_STAGED_BYTES_MAX);
            flight::room(&pipeline.fence, staged, max, shared.is_stopping.get())
        })
        .await
    }

    /// Whether there is no room on the device for the next segment.
    pub fn is_disk_full(&self) -> bool {
        self.shared().disk_full.get()
    }

    /// Whether what is staged waits for room on the device.
    pub(crate) fn is_stuck(&self) -> bool {
        self.shared().is_stuck.get()
    }

    /// A thrifty value log prepares no segment ahead: there is space only for what cannot wait.
    pub(crate) fn set_thrifty(&self, is_thrifty: bool) {
        let shared = self.shared();
        if shared.is_thrifty.replace(is_thrifty) && !is_thrifty {
            shared.wake_keeper.notify_one();
        }
    }

    /// Length of the files of segments out of use: those that a reader holds, and those about to be removed.
    pub(crate) fn obsolete_bytes(&self) -> u64 {
        let obsolete = self.shared().obsolete.borrow();
        obsolete
            .iter()
            .map(|segment| segment.meta().file_bytes)
            .sum()
    }

    /// Whether there are files out of use that no reader holds.
    pub(crate) fn has_unused(&self) -> bool {
        let shared = self.shared();
        let obsolete = shared.obsolete.borrow();
        !shared.garbage.borrow().is_empty()
            || obsolete
                .iter()
                .any(|segment| Rc::strong_count(segment) == 1)
    }

    /// Ends the segment that is written to if it is `id` and nothing is on its way to it, so that it is
    /// sealed and what is in it can be collected.
    pub(crate) fn end_segment(&self, id: ValueSegmentId) {
        let shared = self.shared();
        if shared.pipeline.borrow_mut().end_active(id) {
            shared.wake_keeper.notify_one();
        }
    }

    /// The segments at this moment; who holds the snapshot can read all values in it.
    pub fn segments(&self) -> Rc<Segments> {
        Rc::clone(&self.shared().segments.borrow())
    }

    /// What a manifest is to say: the sealed segments, and the id from which on there may be others; received
    /// ones are all named.
    pub(crate) fn sealed(&self) -> (Vec<SegmentMeta>, ValueSegmentId) {
        let next = self.first_unsealed();
        let segments = self.shared().segments.borrow();
        let named = |id: &ValueSegmentId| *id < next || id.is_received();
        let sealed = segments.iter().filter(|(id, _)| named(id));
        (sealed.map(|(_, segment)| segment.meta()).collect(), next)
    }

    /// The lowest id of a segment that is not sealed, begun or not. All segments below it are sealed:
    /// a manifest that names those of [`ValueLog::segments`] gives this as the id from which on there
    /// may be others.
    pub fn first_unsealed(&self) -> ValueSegmentId {
        let segments = self.shared().segments.borrow();
        let unsealed = segments.values().find(|segment| !segment.is_sealed());
        let next = || self.shared().pipeline.borrow().next_to_begin();
        unsealed.map_or_else(next, |segment| segment.id())
    }

    /// Waits for everything staged, unless the device is full, and stops the background work.
    /// Whatever comes after that is answered with `Closed`.
    ///
    /// # Errors
    /// `Fenced`, and `Closed` if something staged could not be written for want of space; the
    /// background work is stopped all the same.
    pub async fn close(&self) -> Result<()> {
        let shared = self.shared();
        shared.drain().await;
        shared.stop();
        let tasks = std::mem::take(&mut *shared.tasks.borrow_mut());
        for task in tasks {
            task.await;
        }
        // It may hold this value log.
        shared.on_durable.replace(None);
        let failure = shared.pipeline.borrow().fence.failure();
        failure.map_or(Ok(()), Err)
    }
}

impl ValueLogOptions {
    fn within_limits(mut self) -> Self {
        let (min, max) = (
            limits::VLOG_SEGMENT_BYTES_MIN,
            limits::VLOG_SEGMENT_BYTES_MAX,
        );
        let bytes = self.segment_bytes.clamp(min, max);
        self.segment_bytes = bytes.next_multiple_of(BLOCK_SIZE as u64);
        self
    }
}

impl Shared {
    async fn wait_durable(&self, ticket: Ticket) -> Result<()> {
        flight::until(&self.progress, || {
            let pipeline = self.pipeline.borrow();
            match pipeline.durable() >= ticket {
                true => Some(Ok(())),
                false => pipeline.fence.failure().map(Err),
            }
        })
        .await
    }

    /// Waits until everything staged is durable or cannot become so now.
    async fn drain(&self) {
        flight::until(&self.progress, || {
            let pipeline = self.pipeline.borrow();
            let is_over = pipeline.durable() == pipeline.staged() || pipeline.fence.is_failed();
            (is_over || self.is_stuck.get()).then_some(())
        })
        .await;
    }

    /// Puts a changed copy of the map of segments in its place.
    fn change_segments(&self, change: impl FnOnce(&mut Segments)) {
        let mut segments = (**self.segments.borrow()).clone();
        change(&mut segments);
        *self.segments.borrow_mut() = Rc::new(segments);
    }

    /// Takes the outcome of a write.
    fn complete(&self, number: u64, result: Result<()>) {
        if let Err(error) = &result {
            tracing::error!(%error, "a write of the value log failed: it is fenced");
        }
        let durable = self.pipeline.borrow_mut().complete(number, result);
        self.report(durable.transpose());
    }

    /// Fences the value log.
    fn fail(&self, error: Error) {
        tracing::error!(%error, "the value log is fenced");
        let error = self.pipeline.borrow_mut().fail(error);
        self.report(Some(Err(error)));
        self.wake_writer.notify_one();
        self.wake_keeper.notify_one();
    }

    fn report(&self, news: Option<Result<Ticket>>) {
        self.progress.notify_waiters();
        if self.pipeline.borrow().has_full() {
            self.wake_keeper.notify_one();
        }
        let told = self.on_durable.borrow().clone();
        if let Some((told, news)) = told.zip(news) {
            told(news);
        }
    }

    fn stop(&self) {
        self.pipeline.borrow_mut().fence.close();
        self.wake_writer.notify_one();
        self.wake_keeper.notify_one();
        self.closing.notify_waiters();
        self.progress.notify_waiters();
    }
}
