//! Keeps the bytes of a value while somebody reads them.
//!
//! The leader drops the bytes of an overwritten value when no one has asked it to hold them for a while. So a task that lives
//! as long as the download asks again and again. A download that nobody polls would hold its value forever, so the
//! task ends if it is not polled for long.

use crate::client::Client;
use crate::error::Result;
use crate::limits::{DOWNLOAD_IDLE_MAX, HOLD_DEADLINE, HOLD_RENEW_PAUSE, HOLD_RETRY_PAUSE};
use crate::upload::outcome;
use crate::upload_ask::UploadAsk;
use corelith_wire::{ShardId, UploadId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The holder of one download. Dropping it ends its task.
#[derive(Debug)]
pub(super) struct Holder {
    client: Client,
    shard: ShardId,
    upload: UploadId,
    polled: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Holder {
    pub(super) fn new(client: Client, shard: ShardId, upload: UploadId) -> Self {
        Self {
            client,
            shard,
            upload,
            polled: Arc::default(),
            task: None,
        }
    }

    /// Holds the value from now on. Returns false if it is gone.
    pub(super) async fn begin(&mut self) -> Result<bool> {
        let hold = UploadAsk::Hold(self.upload);
        let reply = self.client.ask_of(self.shard, hold, None).await?;
        let is_held = outcome::is_readable(reply.state);
        if is_held {
            self.keep(HOLD_RENEW_PAUSE);
        }
        Ok(is_held)
    }

    /// Renews the hold, for the first time after `first`.
    fn keep(&mut self, first: Duration) {
        let (client, shard, upload) = (self.client.clone(), self.shard, self.upload);
        let polled = Arc::clone(&self.polled);
        self.task = Some(tokio::spawn(renew(client, shard, upload, polled, first)));
    }

    /// Notes that the application polled the download, which holds the value from now on.
    pub(super) fn polled(&mut self) {
        self.polled.store(true, Ordering::Relaxed);
        if self.task.as_ref().is_none_or(JoinHandle::is_finished) {
            self.keep(Duration::ZERO);
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn renew(
    client: Client,
    shard: ShardId,
    upload: UploadId,
    polled: Arc<AtomicBool>,
    first: Duration,
) {
    let mut pause = first;
    let mut idle = Duration::ZERO;
    while idle < DOWNLOAD_IDLE_MAX {
        tokio::time::sleep(pause).await;
        idle = match polled.swap(false, Ordering::Relaxed) {
            true => Duration::ZERO,
            false => idle + pause,
        };
        let hold = UploadAsk::Hold(upload);
        let held = client.ask_of(shard, hold, Some(HOLD_DEADLINE)).await;
        // If it is gone, the next read says so.
        pause = match held {
            Ok(_) => HOLD_RENEW_PAUSE,
            Err(_) => HOLD_RETRY_PAUSE,
        };
    }
}
