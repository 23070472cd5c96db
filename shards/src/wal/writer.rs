//! The tasks that write the log.

use super::pipeline::{BlockWrite, Lack, Next};
use super::shared::Shared;
use crate::error::Result;
use crate::flight::{self, Writing};
use futures_util::stream::FuturesUnordered;
use std::rc::Rc;
use std::time::Duration;

/// When nothing was written for this long, an empty block proves the blocks before it: until then, damage to
/// the last of them passes for a torn tail.
const PROOF_DELAY: Duration = Duration::from_millis(20);

/// When nothing was written for this long, a block of its own makes the commit index durable. A start that does
/// not know it learns it from the leader, so there is no hurry.
const COMMIT_DELAY: Duration = Duration::from_secs(1);

/// Submits what the pipeline says and takes what completes, until the log is closed.
pub(super) async fn run(shared: Rc<Shared>) {
    let submit = |writes: &mut FuturesUnordered<_>| {
        let mut pipeline = shared.pipeline.borrow_mut();
        let is_starved = loop {
            match pipeline.next() {
                Next::Write(write) => writes.push(execute(write)),
                Next::NeedSegment => break true,
                Next::Nothing => break false,
            }
        };
        let is_over = pipeline.fence.is_over() && pipeline.is_idle();
        if is_starved || pipeline.wants_segment() || is_over {
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

pub(super) async fn execute(write: BlockWrite) -> (u64, Result<()>) {
    let result = write.file.write_at(write.offset, write.buf).await;
    (write.number, result.map_err(Into::into))
}

/// Writes an empty block when the log has been idle and its end is not proven, until the log is
/// closed.
pub(super) async fn run_idle(shared: Rc<Shared>) {
    let mut commit_due = None;
    while !shared.is_over() {
        let lack = shared.pipeline.borrow().lack();
        if lack != Some(Lack::Commit) {
            commit_due = None;
        }
        match lack {
            None => shared.wake_idle.notified().await,
            Some(Lack::Commit) => {
                let due = *commit_due.get_or_insert_with(|| corelith_io::now() + COMMIT_DELAY);
                let woken = shared.wake_idle.notified();
                // What is written meanwhile is to be proven, long before that.
                if corelith_io::timeout(due - corelith_io::now(), woken)
                    .await
                    .is_err()
                {
                    stage_proof(&shared);
                    commit_due = None;
                }
            }
            Some(Lack::Proof) => {
                let before = shared.pipeline.borrow().submitted();
                let closing = shared.closing.notified();
                let _ = corelith_io::timeout(PROOF_DELAY, closing).await;
                let is_idle = shared.pipeline.borrow().submitted() == before;
                if is_idle && !stage_proof(&shared) {
                    // What is in flight wakes this task when it is durable.
                    shared.wake_idle.notified().await;
                }
            }
        }
    }
}

/// Has an empty block written, if everything staged is durable: else it would prove nothing.
fn stage_proof(shared: &Shared) -> bool {
    let mut pipeline = shared.pipeline.borrow_mut();
    let is_of_use = pipeline.is_all_durable() && pipeline.fence.check().is_ok();
    if is_of_use {
        pipeline.stage_empty();
        shared.wake_writer.notify_one();
    }
    is_of_use
}
