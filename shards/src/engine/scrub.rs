//! The scrubber: reads everything at rest again and again, and checks it.
//!
//! Bytes that are never read can decay unnoticed until the last good replica of them is gone. So each shard
//! has a task that reads its tables, its sealed value segments, its log as far as it is durable, and its manifest at a set
//! rate. It holds the engine only while
//! it works, and a file only while it checks it.
//!
//! A table is checked up to its first damaged block: it has to be replaced as a whole anyway. Of a
//! value segment every record is checked.

use super::collect::is_live;
use super::{Engine, EngineInner};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{SegmentId, TableId, ValueSegmentId};
use crate::key::SpacedKey;
use crate::limits::{SCRUB_CYCLE_MIN, SCRUB_START_DELAY, VERIFY_STEP_BYTES};
use crate::manifest::Manifest;
use crate::pace::{Bucket, STEPS};
use crate::sstable;
use crate::vlog::{self, RecordRef, Verified};
use corelith_io::sync::notify::Notify;
use corelith_io::{ErrorKind, Instant, now, spawn_background};
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How a shard checks what is at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes read per second; 0: nothing is checked.
    pub bytes_per_second: u64,
    /// A cycle over everything begins at most this often.
    pub cycle_min: Duration,
}

impl Default for ScrubOptions {
    /// Nothing is checked.
    fn default() -> Self {
        Self {
            bytes_per_second: 0,
            cycle_min: SCRUB_CYCLE_MIN,
        }
    }
}

/// How far a scrubber has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// The current cycle since the shard was opened, or the last one; 0: none yet.
    pub cycle: u64,
    /// Bytes of files checked in it.
    pub bytes_done: u64,
    /// Bytes of all files there were when it began.
    pub bytes_total: u64,
    /// Damaged blocks and records found in it.
    pub damaged: u64,
    /// Whether it is under way.
    pub running: bool,
}

/// What the engine knows of its scrubber. Belongs to its core.
#[derive(Default)]
pub(super) struct Scrubbing {
    progress: Cell<ScrubProgress>,
    /// Whether the task holds the engine.
    is_working: Cell<bool>,
}

impl Scrubbing {
    /// How far it has come.
    pub(super) fn progress(&self) -> ScrubProgress {
        self.progress.get()
    }

    /// Whether a closing engine has to wait for it.
    pub(super) fn is_working(&self) -> bool {
        self.is_working.get()
    }

    fn change(&self, change: impl FnOnce(&mut ScrubProgress)) {
        let mut progress = self.progress.get();
        change(&mut progress);
        assert!(
            progress.bytes_done <= progress.bytes_total,
            "more is checked than there is"
        );
        self.progress.set(progress);
    }
}

/// A file to be checked.
#[derive(Clone, Copy)]
enum ScrubFile {
    Table(TableId),
    /// And its generation.
    Segment(ValueSegmentId, u32),
    /// A segment of the log.
    Log(SegmentId),
    Manifest,
}

/// The check of a file under way.
enum FileCheck {
    Table(Box<sstable::Verifier>),
    Segment(Box<vlog::Verifier>),
    /// Up to where it is checked.
    Log(u64),
    Manifest,
}

struct Current {
    file: ScrubFile,
    check: FileCheck,
    /// Progress when the file was begun, and its length.
    done_before: u64,
    bytes: u64,
}

/// Goes from file to file. Belongs to its task.
struct Scrubber {
    options: ScrubOptions,
    files: std::vec::IntoIter<(ScrubFile, u64)>,
    current: Option<Current>,
    /// When the cycle began.
    begun: Instant,
    bucket: Bucket,
    /// When the rate allows more to be read.
    resume: Instant,
}

impl Engine {
    /// Starts the task, if it is to run at all.
    pub(super) fn start_scrubbing(&self) {
        let options = self.inner.options.scrub;
        if options.bytes_per_second == 0 {
            return;
        }
        let weak = Rc::downgrade(&self.inner);
        let wake = self.inner.background.waker();
        drop(spawn_background(async move {
            let begun = now();
            let mut scrubber = Scrubber {
                options,
                files: Vec::new().into_iter(),
                current: None,
                begun,
                bucket: Bucket::new(STEPS),
                resume: begun + options.cycle_min.min(SCRUB_START_DELAY),
            };
            while is_open_at(&weak, &wake, scrubber.resume).await {
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self { inner };
                let scrubbing = &engine.inner.scrubbing;
                scrubbing.is_working.set(true);
                scrubber.turn(&engine).await;
                scrubbing.is_working.set(false);
                if engine.inner.state.borrow().closed {
                    engine.inner.changed.notify_waiters();
                }
            }
        }));
    }
}

/// Waits until `at`; `false` as soon as the engine is closed or gone.
async fn is_open_at(weak: &Weak<EngineInner>, wake: &Notify, at: Instant) -> bool {
    loop {
        let woken = wake.notified();
        let inner = weak.upgrade();
        if inner.is_none_or(|inner| inner.state.borrow().closed) {
            return false;
        }
        let rest = at.saturating_duration_since(now());
        if rest.is_zero() || corelith_io::timeout(rest, woken).await.is_err() {
            return true;
        }
    }
}

impl Scrubber {
    /// Checks some more, and decides when to go on.
    async fn turn(&mut self, engine: &Engine) {
        if engine.check_usable().is_err() {
            // It is fenced, and is to be opened again.
            self.resume = now() + SCRUB_START_DELAY;
            return;
        }
        if self.current.is_none() && !self.begin(engine).await {
            // Nothing, or nothing more, in this cycle.
            engine
                .inner
                .scrubbing
                .change(|progress| progress.running = false);
            let next = self.begun + self.options.cycle_min.max(Duration::from_millis(1));
            self.resume = next.max(now());
            return;
        }
        let bytes = self.check_some(engine).await;
        // What a slow device has cost is not caught up.
        let rate = Some(self.options.bytes_per_second);
        self.resume = now() + self.bucket.take(now(), bytes, rate);
    }

    /// Begins the next file, of the next cycle if this one is over and it is time; `false` if there is
    /// none.
    async fn begin(&mut self, engine: &Engine) -> bool {
        let is_running = engine.inner.scrubbing.progress().running;
        if self.files.len() == 0 {
            if is_running {
                return false;
            }
            self.begin_cycle(engine);
        }
        while let Some((file, bytes)) = self.files.next() {
            let done_before = engine.inner.scrubbing.progress().bytes_done;
            let check = match file {
                ScrubFile::Table(id) => engine
                    .table(id)
                    .map(|table| Ok(FileCheck::Table(Box::new(sstable::Verifier::new(table))))),
                ScrubFile::Segment(id, generation) => {
                    let segment = engine.inner.values.segments().get(&id).cloned();
                    match segment.filter(|segment| segment.generation() == generation) {
                        Some(segment) => {
                            let verifier = match segment.is_sealed() {
                                true => vlog::Verifier::new(&segment).await.map(Some),
                                false => vlog::Verifier::of_active(&segment).await,
                            };
                            let check = |verifier| FileCheck::Segment(Box::new(verifier));
                            verifier.map(|verifier| verifier.map(check)).transpose()
                        }
                        None => None,
                    }
                }
                ScrubFile::Log(_) => Some(Ok(FileCheck::Log(0))),
                ScrubFile::Manifest => Some(Ok(FileCheck::Manifest)),
            };
            match check {
                Some(Ok(check)) => {
                    self.current = Some(Current {
                        file,
                        check,
                        done_before,
                        bytes,
                    });
                    return true;
                }
                Some(Err(error)) => self.failed(engine, &error, None).await,
                // It has been replaced meanwhile.
                None => {}
            }
            let done = done_before + bytes;
            engine
                .inner
                .scrubbing
                .change(|progress| progress.bytes_done = done);
        }
        false
    }

    fn begin_cycle(&mut self, engine: &Engine) {
        let state = engine.inner.state.borrow();
        let tables = state.version.tables().map(|table| {
            let meta = table.meta();
            (ScrubFile::Table(meta.id), meta.file_bytes)
        });
        let segments = engine.inner.values.segments();
        let values = segments.values().map(|segment| {
            let meta = segment.meta();
            (
                ScrubFile::Segment(meta.id, meta.generation),
                meta.file_bytes,
            )
        });
        let log = (engine.inner.log.at_rest)().into_iter();
        let log = log.map(|(id, bytes)| (ScrubFile::Log(id), bytes));
        let manifest = (ScrubFile::Manifest, engine.inner.manifest_bytes.get());
        let files = tables.chain(values).chain(log).chain([manifest]);
        let mut files: Vec<(ScrubFile, u64)> = files.collect();
        // A shard that is often opened anew would otherwise never come to the last ones.
        let first = corelith_io::random_u64() % (files.len().max(1) as u64);
        files.rotate_left(usize::try_from(first).unwrap_or(0));
        let bytes_total = files.iter().map(|(_, bytes)| bytes).sum();
        self.files = files.into_iter();
        self.begun = now();
        engine.inner.scrubbing.change(|progress| {
            *progress = ScrubProgress {
                cycle: progress.cycle + 1,
                bytes_total,
                running: true,
                ..ScrubProgress::default()
            };
        });
    }

    /// Checks the current file for about [`VERIFY_STEP_BYTES`]; returns how many bytes were read.
    async fn check_some(&mut self, engine: &Engine) -> u64 {
        let Some(mut current) = self.current.take() else {
            return 0;
        };
        let mut bytes = 0;
        let mut goes_on = is_current(engine, current.file);
        while goes_on && bytes < VERIFY_STEP_BYTES as u64 && engine.check_usable().is_ok() {
            let step = match &mut current.check {
                FileCheck::Table(verifier) => verifier.step().await,
                FileCheck::Segment(verifier) => {
                    let before = verifier.position();
                    let found = verifier.step().await;
                    let read = verifier.position().saturating_sub(before);
                    self.judge(engine, found)
                        .await
                        .map(|more| more.then_some(read))
                }
                FileCheck::Log(at) => match current.file {
                    ScrubFile::Log(id) => {
                        let next = (engine.inner.log.check)(id, *at).await;
                        next.map(|next| next.map(|next| next - std::mem::replace(at, next)))
                    }
                    _ => Ok(None),
                },
                FileCheck::Manifest => engine.check_manifest().await.map(|()| None),
            };
            match step {
                Ok(Some(read)) => bytes += read,
                Ok(None) => goes_on = false,
                Err(error) => {
                    self.failed(engine, &error, None).await;
                    goes_on = false;
                }
            }
        }
        let file_end = current.done_before + current.bytes;
        engine.inner.scrubbing.change(|progress| {
            progress.bytes_done = match goes_on {
                true => (progress.bytes_done + bytes).min(file_end),
                false => file_end,
            };
        });
        match goes_on {
            true => self.current = Some(current),
            false => {
                drop(current);
                // It may have been replaced while it was held here.
                engine.remove_unused().await;
            }
        }
        bytes
    }

    /// Takes what a step over a segment has found; `false` at the end.
    async fn judge(&self, engine: &Engine, found: Result<Option<Verified>>) -> Result<bool> {
        let (error, record) = match found? {
            None => return Ok(false),
            Some(Verified::Intact) => return Ok(true),
            Some(Verified::Damaged { error, record }) => (error, record),
        };
        let Some((key, at, pointer)) = record else {
            self.failed(engine, &error, None).await;
            return Ok(true);
        };
        let Some(key) = SpacedKey::of_stored(&key) else {
            return Ok(true);
        };
        let record = RecordRef { key, at, pointer };
        // A crash may have torn a record that nothing refers to.
        if is_needed(engine, &record).await {
            self.failed(engine, &error, Some(key)).await;
        }
        Ok(true)
    }

    /// Takes the failure of a check: damage is noted, anything else only logged.
    async fn failed(&self, engine: &Engine, error: &Error, key: Option<SpacedKey<'_>>) {
        if error.is_corrupt() {
            engine
                .inner
                .scrubbing
                .change(|progress| progress.damaged += 1);
            engine.note_damage(error, key).await;
            engine.heal_manifest().await;
        } else {
            let shard = engine.inner.owner;
            tracing::warn!(%shard, %error, "a file could not be checked");
        }
    }
}

/// Whether the current version still has the file.
fn is_current(engine: &Engine, file: ScrubFile) -> bool {
    match file {
        ScrubFile::Table(id) => engine.table(id).is_some(),
        ScrubFile::Segment(id, generation) => {
            let segments = engine.inner.values.segments();
            segments.get(&id).map(|segment| segment.generation()) == Some(generation)
        }
        ScrubFile::Log(id) => (engine.inner.log.has_segment)(id),
        ScrubFile::Manifest => true,
    }
}

impl Engine {
    /// Checks that the manifest is on disk as it is in memory.
    async fn check_manifest(&self) -> Result<()> {
        let inner = &self.inner;
        let _edit = inner.manifest_edit.acquire(1).await;
        self.check_unfenced()?;
        let found = Manifest::load(&inner.dir, inner.owner).await;
        let is_gone =
            |error: &Error| matches!(error, Error::Io(io) if io.kind() == ErrorKind::NotFound);
        let what = match found {
            Ok(found) if found == inner.state.borrow().manifest => return Ok(()),
            Ok(_) => "another manifest than the one in effect",
            Err(error) if is_gone(&error) => "the manifest is gone",
            Err(error) => return Err(error),
        };
        Err(Error::corrupt(
            &FileName::Manifest.path(&inner.dir),
            0,
            what,
        ))
    }

    /// Writes the manifest anew if it is known to be damaged: it is whole in memory.
    async fn heal_manifest(&self) {
        if !self.damages().iter().any(Self::is_of_manifest) {
            return;
        }
        let shard = self.inner.owner;
        match self.edit(&[], |_, _| true, |_| {}).await {
            Ok(_) => {
                self.damage_healed(Self::is_of_manifest);
                tracing::warn!(%shard, "the manifest is written anew");
            }
            Err(error) => tracing::warn!(%shard, %error, "the manifest cannot be written anew"),
        }
    }
}

/// Whether anything refers to the record, as far as can be told.
async fn is_needed(engine: &Engine, record: &RecordRef<'_>) -> bool {
    let view = engine.view();
    is_live(&view, record).await.unwrap_or(true)
}
