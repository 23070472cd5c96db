//! The tasks that write the log.

use super::Shared;
use super::pipeline::{Next, Write};
use crate::error::Result;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// When nothing was written for this long, a block of its own makes the commit index durable and
/// proves the blocks before it.
const IDLE: Duration = Duration::from_secs(1);

/// Submits what the pipeline says and takes what completes, until the log is closed.
pub(super) async fn run(shared: Rc<Shared>) {
    let mut writes = FuturesUnordered::new();
    loop {
        let (is_over, is_starved) = {
            let mut pipeline = shared.pipeline.borrow_mut();
            let is_starved = loop {
                match pipeline.next() {
                    Next::Write(write) => writes.push(execute(write)),
                    Next::NeedSegment => break true,
                    Next::Nothing => break false,
                }
            };
            let is_over = pipeline.is_closed() || pipeline.is_failed();
            (
                is_over && pipeline.is_idle(),
                is_starved || pipeline.wants_segment(),
            )
        };
        if is_starved || is_over {
            shared.wake_keeper.notify_one();
        }
        if is_over {
            return;
        }
        let mut woken = pin!(shared.wake_writer.notified());
        poll_fn(|cx| {
            let mut is_ready = woken.as_mut().poll(cx).is_ready();
            while let Poll::Ready(Some((number, result))) = writes.poll_next_unpin(cx) {
                shared.complete(number, result);
                is_ready = true;
            }
            match is_ready {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

pub(super) async fn execute(write: Write) -> (u64, Result<()>) {
    let result = write.file.write_at(write.offset, write.buf).await;
    (write.number, result.map_err(Into::into))
}

/// Writes an empty block when the log has been idle and its end is not proven, until the log is
/// closed.
pub(super) async fn run_idle(shared: Rc<Shared>) {
    loop {
        shared.wake_idle.notified().await;
        loop {
            let before = {
                let pipeline = shared.pipeline.borrow();
                if pipeline.is_closed() || pipeline.is_failed() {
                    return;
                }
                if !pipeline.wants_proof() {
                    break;
                }
                pipeline.submitted()
            };
            let closing = shared.closing.notified();
            if corelith_io::timeout(IDLE, closing).await.is_ok() {
                return;
            }
            let mut pipeline = shared.pipeline.borrow_mut();
            // While blocks wait for their values, another would prove nothing.
            let is_idle = pipeline.submitted() == before && pipeline.is_all_durable();
            if is_idle && pipeline.refusal().is_none() {
                pipeline.stage_empty();
                shared.wake_writer.notify_one();
            }
        }
    }
}
