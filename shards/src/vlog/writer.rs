//! The tasks that write the value log: one submits buffers, one keeps segments ahead.
//!
//! Invariants:
//! * A segment's name is durable before the first record is written to it, and its space is
//!   allocated: a full device shows while a segment is prepared, never in a write.
//! * A segment is sealed when all its writes are durable, oldest first.
//! * On a full device, what is staged gets a segment that is just long enough if there is room for that;
//!   none is prepared ahead from what was held back for other things.

use super::Shared;
use super::format::FileHeader;
use super::pipeline::{BatchWrite, Next};
use super::segments::Segment;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::flight::{self, Writing};
use crate::ids::ValueSegmentId;
use crate::limits::DISK_FULL_RETRY;
use crate::removal::remove_if_there;
use corelith_io::{BLOCK_SIZE, Buf, OpenOptions};
use futures_util::stream::FuturesUnordered;
use std::path::Path;
use std::rc::Rc;

/// Submits what the pipeline says and takes what completes, until the value log is closed.
pub(super) async fn run(shared: Rc<Shared>) {
    let submit = |writes: &mut FuturesUnordered<_>| {
        submit(&shared, |write| writes.push(execute(write)));
        let pipeline = shared.pipeline.borrow();
        let is_over = pipeline.fence.is_over() && pipeline.is_idle();
        if is_over || pipeline.wants_segment().is_some() {
            shared.wake_keeper.notify_one();
        }
        match is_over {
            true => Writing::IsOver,
            false => Writing::GoesOn,
        }
    };
    let complete = |number, result| shared.complete(number, result);
    flight::run_writes(&shared.wake_writer, submit, complete).await;
}

fn submit(shared: &Shared, mut start: impl FnMut(BatchWrite)) {
    loop {
        let next = shared.pipeline.borrow_mut().next();
        match next {
            Next::Write(write) => start(write),
            Next::Begin(segment) => shared.change_segments(|segments| {
                segments.insert(segment.id(), segment);
            }),
            Next::NeedSegment | Next::Nothing => return,
        }
    }
}

async fn execute(write: BatchWrite) -> (u64, Result<()>) {
    let result = write.segment.file.write_at(write.offset, write.buf).await;
    (write.number, result.map_err(Into::into))
}

/// What the keeper does next.
enum Step {
    End,
    Prepare(ValueSegmentId),
    Seal(Rc<Segment>),
    Wait,
}

/// Keeps one segment ahead and seals full ones, until the value log is closed.
pub(super) async fn run_keeper(shared: Rc<Shared>) {
    let mut may_seal = true;
    loop {
        let step = next_step(&shared, may_seal);
        may_seal = true;
        let result = match step {
            Step::End => return,
            Step::Prepare(id) => prepare(&shared, id).await,
            Step::Seal(segment) => match seal(&shared, &segment).await {
                Err(error) if error.is_no_space() => {
                    tracing::warn!(%error, "no room to seal a segment of the value log");
                    // What waits for a segment has its turn first.
                    may_seal = false;
                    seal_later(&shared, segment).await;
                    Ok(())
                }
                sealed => sealed,
            },
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

fn next_step(shared: &Shared, may_seal: bool) -> Step {
    let mut pipeline = shared.pipeline.borrow_mut();
    let may_prepare = pipeline.is_starved() || !shared.is_thrifty.get();
    let prepare = pipeline.wants_segment();
    // That there is room again shows with a whole segment, whether or not one is wanted by now.
    let is_owed = shared.disk_full.get();
    let prepare = prepare.or_else(|| pipeline.owed_segment().filter(|_| is_owed));
    let prepare = prepare.filter(|_| may_prepare);
    let prepare = prepare.map(Step::Prepare);
    let is_late = prepare.is_some() && !shared.disk_full.get();
    if may_seal
        && !is_late
        && let Some(segment) = pipeline.take_full()
    {
        // On a full device, what it gives back may be what is missing.
        return Step::Seal(segment);
    }
    if let Some(prepare) = prepare {
        return prepare;
    }
    if pipeline.fence.is_failed() || (pipeline.fence.is_closed() && pipeline.is_idle()) {
        return Step::End;
    }
    match pipeline.take_full() {
        Some(segment) => Step::Seal(segment),
        None => Step::Wait,
    }
}

async fn seal(shared: &Shared, segment: &Segment) -> Result<()> {
    segment.seal().await?;
    shared.progress.notify_waiters();
    Ok(())
}

async fn prepare(shared: &Shared, id: ValueSegmentId) -> Result<()> {
    let header = FileHeader::first(shared.options.series.segment(id));
    let prepared = match create(&shared.dir, (id, header), shared.options.segment_bytes).await {
        Err(error) if error.is_no_space() => {
            if !shared.disk_full.replace(true) {
                tracing::warn!(%error, "no room for the next segment of the value log");
            }
            create_short(shared, id, header).await
        }
        Ok(segment) => {
            assert_eq!(segment.id(), id, "it is the one that was asked for");
            shared.disk_full.set(false);
            Ok(Some(segment))
        }
        Err(error) => Err(error),
    };
    match prepared? {
        Some(segment) => {
            shared.pipeline.borrow_mut().add_prepared(Rc::new(segment));
            shared.is_stuck.set(false);
            shared.wake_writer.notify_one();
            Ok(())
        }
        None => {
            shared.is_stuck.set(shared.pipeline.borrow().is_starved());
            shared.progress.notify_waiters();
            if shared.pipeline.borrow().fence.is_closed() {
                return Err(Error::Closed);
            }
            pause(shared).await;
            Ok(())
        }
    }
}

/// Waits before a full device is asked again.
async fn pause(shared: &Shared) {
    let woken = shared.closing.notified();
    let _ = corelith_io::timeout(DISK_FULL_RETRY, woken).await;
}

/// Puts a segment back that could not be sealed for want of space. Its records are durable, and a start
/// seals what a closed value log has not.
async fn seal_later(shared: &Shared, segment: Rc<Segment>) {
    if !shared.pipeline.borrow().fence.is_closed() {
        shared.pipeline.borrow_mut().put_back_full(segment);
        pause(shared).await;
    }
}

/// Prepares a segment for what is staged and waits for it, if there is room for that.
async fn create_short(
    shared: &Shared,
    id: ValueSegmentId,
    header: FileHeader,
) -> Result<Option<Segment>> {
    let len = {
        let mut pipeline = shared.pipeline.borrow_mut();
        pipeline.is_starved().then(|| pipeline.shorten_next())
    };
    let Some(len) = len else { return Ok(None) };
    match create(&shared.dir, (id, header), len).await {
        Err(error) if error.is_no_space() => Ok(None),
        result => result.map(Some),
    }
}

/// Prepares a segment: its space, its header, its name. One that fails leaves nothing behind, or what the
/// next one begins by removing.
async fn create(
    dir: &Directory,
    (id, header): (ValueSegmentId, FileHeader),
    len: u64,
) -> Result<Segment> {
    let temporary = FileName::ValueSegmentTemporary(id).path(dir);
    let path = FileName::ValueSegment(id, 0).path(dir);
    let created = async {
        remove_if_there(&temporary).await?;
        fill(&temporary, header, len).await?;
        corelith_io::rename(&temporary, &path).await?;
        dir.sync().await?;
        Segment::open_prepared(dir, id, header).await
    };
    let created = created.await;
    if created.is_err() {
        for left in [&temporary, &path] {
            let _ = remove_if_there(left).await;
        }
    }
    created
}

async fn fill(path: &Path, header: FileHeader, len: u64) -> Result<()> {
    let file = OpenOptions::new().write().create_new().open(path).await?;
    file.allocate(len).await?;
    file.write_at(0, block_of(&header.encode())).await?;
    Ok(file.sync().await?)
}

/// A block that begins with `bytes`.
pub(super) fn block_of(bytes: &[u8]) -> Buf {
    let mut block = Buf::zeroed(bytes.len().next_multiple_of(BLOCK_SIZE));
    let start = block.get_mut(..bytes.len()).unwrap_or_default();
    start.copy_from_slice(bytes);
    block
}
