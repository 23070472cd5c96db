//! What a log and its tasks share.

use super::pipeline::{BlockPipeline, Callback};
use super::segment::Prepared;
use super::segment_files::SegmentFiles;
use crate::error::{Error, Result};
use crate::ids::Ticket;
use crate::planted::{Bug, is_planted};
use corelith_io::JoinHandle;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::oneshot;
use std::cell::{Cell, RefCell};

/// See the module. Belongs to the core of its log.
pub(super) struct Shared {
    pub(super) pipeline: RefCell<BlockPipeline>,
    pub(super) files: SegmentFiles,
    /// There was no room for a whole segment.
    pub(super) disk_full: Cell<bool>,
    /// What is staged waits for room on the device.
    pub(super) is_stuck: Cell<bool>,
    pub(super) is_stopping: Cell<bool>,
    pub(super) wake_writer: Notify,
    pub(super) wake_keeper: Notify,
    pub(super) wake_idle: Notify,
    pub(super) closing: Notify,
    /// Something became durable, or the log ended.
    pub(super) progress: Notify,
    pub(super) tasks: RefCell<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(super) fn new(pipeline: BlockPipeline, files: SegmentFiles) -> Self {
        Self {
            pipeline: RefCell::new(pipeline),
            files,
            disk_full: Cell::new(false),
            is_stuck: Cell::new(false),
            is_stopping: Cell::new(false),
            wake_writer: Notify::new(),
            wake_keeper: Notify::new(),
            wake_idle: Notify::new(),
            closing: Notify::new(),
            progress: Notify::new(),
            tasks: RefCell::default(),
        }
    }

    /// Stages something, unless the log takes nothing any more.
    pub(super) fn stage(&self, stage: impl FnOnce(&mut BlockPipeline)) -> Result<()> {
        let mut pipeline = self.pipeline.borrow_mut();
        pipeline.fence.check()?;
        stage(&mut pipeline);
        drop(pipeline);
        self.wake_writer.notify_one();
        Ok(())
    }

    pub(super) async fn flush(&self) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        let callback: Callback = Box::new(|result| drop(sender.send(result)));
        {
            let mut pipeline = self.pipeline.borrow_mut();
            pipeline.fence.check()?;
            if pipeline.wait(callback).is_some() {
                return Ok(());
            }
        }
        receiver.await.unwrap_or(Err(Error::Closed))
    }

    /// Waits until everything staged so far is durable and a later block says so.
    pub(super) async fn flush_proven(&self) -> Result<()> {
        self.flush().await?;
        let upto = self.pipeline.borrow().content();
        self.prove(upto).await?;
        // The commit index has no block number: it is durable with any block after it.
        if self.pipeline.borrow().wants_commit() {
            self.stage(BlockPipeline::stage_empty)?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Waits until a durable block says that the blocks below `upto`, all durable, are so.
    pub(super) async fn prove(&self, upto: u64) -> Result<()> {
        // Whatever is submitted after this call says it; what was submitted before may not.
        while self.pipeline.borrow().proven() < upto {
            self.stage(BlockPipeline::stage_empty)?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Takes the outcome of a block's write.
    pub(super) fn complete(&self, number: u64, mut result: Result<()>) {
        if is_planted(Bug::IgnoreFailedWrites) {
            result = Ok(());
        }
        if let Err(error) = &result {
            tracing::error!(%error, "a write of the log failed: it is fenced");
        }
        let (ready, result) = self.pipeline.borrow_mut().complete(number, result);
        self.report(ready, &result);
    }

    /// Notes that values are durable. Blocks that waited for them alone are so too.
    pub(super) fn values_durable(&self, upto: Ticket) {
        let ready = self.pipeline.borrow_mut().values_durable(upto);
        self.report(ready, &Ok(()));
        self.wake_writer.notify_one();
    }

    /// Fences the log.
    pub(super) fn fail(&self, error: Error) {
        tracing::error!(%error, "the log is fenced");
        let (ready, result) = self.pipeline.borrow_mut().fail(error);
        self.report(ready, &result);
        self.wake_writer.notify_one();
    }

    pub(super) fn report(&self, ready: Vec<Callback>, result: &Result<()>) {
        for callback in ready {
            callback(result.clone());
        }
        self.progress.notify_waiters();
        self.wake_idle.notify_one();
        if self.pipeline.borrow().segments.has_released() {
            self.wake_keeper.notify_one();
        }
    }

    pub(super) fn add_prepared(&self, prepared: Prepared) {
        self.pipeline.borrow_mut().segments.add_prepared(prepared);
        self.is_stuck.set(false);
        self.wake_writer.notify_one();
    }

    /// Whether nothing is to be written any more.
    pub(super) fn is_over(&self) -> bool {
        self.pipeline.borrow().fence.is_over()
    }

    pub(super) fn stop(&self) {
        self.pipeline.borrow_mut().fence.close();
        self.wake_writer.notify_one();
        self.wake_keeper.notify_one();
        self.wake_idle.notify_one();
        self.closing.notify_waiters();
        self.progress.notify_waiters();
    }
}
