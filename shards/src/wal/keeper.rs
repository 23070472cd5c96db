//! The task that keeps a segment ahead of the writer and frees those released.
//!
//! Invariants:
//! * A segment is freed only when its release is proven (`segment.rs`).
//! * A writer that waits for a segment comes first.

use super::segment::{Prepared, Released};
use super::shared::Shared;
use crate::error::{Error, Result};
use std::rc::Rc;
use std::time::Duration;

/// How long to wait before asking a full device for a segment again.
const FULL_RETRY: Duration = Duration::from_secs(1);

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
    if pipeline.fence.is_failed() || (pipeline.fence.is_closed() && pipeline.is_idle()) {
        return Step::End;
    }
    // A starved writer comes first: without it nothing released is ever proven.
    if pipeline.segments.is_starved() {
        return Step::Prepare;
    }
    if let Some(released) = pipeline.take_released() {
        assert!(!pipeline.segments.is_starved(), "a writer comes first");
        return Step::Free(released);
    }
    if pipeline.segments.has_released() {
        // Without it durable, a block would prove nothing new.
        if pipeline.is_all_durable() && !pipeline.fence.is_closed() {
            pipeline.stage_empty();
            shared.wake_writer.notify_one();
        }
        return Step::Wait;
    }
    // A short segment does for the writer; that there is room again shows with a whole one.
    let is_owed = shared.disk_full.get() && !pipeline.fence.is_closed();
    match pipeline.wants_segment() || is_owed {
        true => Step::Prepare,
        false => Step::Wait,
    }
}

async fn free(shared: &Rc<Shared>, released: Released) -> Result<()> {
    let segment = &released.segment;
    let (wants_spare, segment_bytes) = {
        let pipeline = shared.pipeline.borrow();
        let in_use = pipeline.segments.get(segment.id);
        assert!(in_use.is_none(), "what is freed is in use no more");
        (
            pipeline.segments.wants_spare(),
            pipeline.options().segment_bytes,
        )
    };
    // Somebody may still be reading from it; a removed file stays readable, one written anew not.
    let is_read = Rc::strong_count(&segment.file) > 1;
    let is_fitting = wants_spare && !is_read && segment.file_len == segment_bytes;
    let files = &shared.files;
    let freed = async {
        let reused = files.reuse_if(is_fitting, &segment.path, segment_bytes);
        match reused.await? {
            Some(prepared) => Ok(Some(prepared)),
            None => files.remove(&segment.path).await.map(|()| None),
        }
    };
    match freed.await {
        Ok(Some(prepared)) => {
            shared.add_prepared(prepared);
            shared.disk_full.set(false);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) if error.is_no_space() => {
            tracing::warn!(%error, "no room to free a segment of the log");
            shared
                .pipeline
                .borrow_mut()
                .segments
                .put_back_released(released);
            pause(shared).await;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Waits before a full device is asked again; a purge or a starving writer may end it early.
async fn pause(shared: &Shared) {
    let woken = shared.wake_keeper.notified();
    let _ = corelith_io::timeout(FULL_RETRY, woken).await;
}

async fn prepare(shared: &Rc<Shared>) -> Result<()> {
    let len = shared.pipeline.borrow().options().segment_bytes;
    let is_behind = |done| shared.pipeline.borrow().is_behind(done);
    let prepared = match shared.files.create(len, is_behind).await {
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
            shared
                .is_stuck
                .set(shared.pipeline.borrow().segments.is_starved());
            if shared.pipeline.borrow().fence.is_closed() {
                return Err(Error::Closed);
            }
            pause(shared).await;
            Ok(())
        }
    }
}

/// Prepares a short segment for a writer that waits for one, if there is room for that.
async fn create_short(shared: &Shared) -> Result<Option<Prepared>> {
    let len = shared.pipeline.borrow().short_segment_bytes();
    let Some(len) = len else { return Ok(None) };
    match shared.files.create(len, |_| true).await {
        Err(error) if error.is_no_space() => Ok(None),
        result => result.map(Some),
    }
}
