//! The uploads that are open in a cluster.

use super::outcome;
use crate::client::{Client, own};
use crate::error::{Error, Result};
use crate::limits::UPLOAD_LISTS_MAX;
use crate::operation::Request;
use crate::upload_ask::UploadAsk;
use bytes::Bytes;
use corelith_wire::limits::UPLOADS_LISTED_MAX;
use corelith_wire::response::Answer;
use corelith_wire::upload::{ListUploads, UploadState, UploadSummary};
use corelith_wire::{ShardId, UploadId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::time::{Duration, SystemTime};

/// More pages than a shard has uploads: it makes none.
const PAGES_MAX: usize = 4096;

/// An upload that is neither committed nor given up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenUpload {
    /// Its id.
    pub upload: UploadId,
    /// The key that is to get the value.
    pub key: Bytes,
    /// The shard of the key.
    pub shard: u32,
    /// When it began, by the clock of the shard's leader.
    pub begun_at: SystemTime,
    /// When the cluster gives it up.
    pub expires_at: SystemTime,
    /// Its durable chunks.
    pub chunks: u32,
    /// Their bytes.
    pub bytes: u64,
}

impl Client {
    /// Lists the open uploads of all shards, the oldest first. A shard has at most 1,024. Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` or `Throttled` if a shard does not answer within the client's deadline.
    pub async fn uploads(&self) -> Result<Vec<OpenUpload>> {
        let shards = 0..self.cluster_map().shard_count();
        let lists = stream::iter(shards).map(|shard| self.uploads_of(ShardId(shard)));
        let lists: Vec<Vec<OpenUpload>> = lists.buffered(UPLOAD_LISTS_MAX).try_collect().await?;
        let mut uploads: Vec<OpenUpload> = lists.into_iter().flatten().collect();
        uploads.sort_by_key(|upload| (upload.begun_at, upload.upload));
        Ok(uploads)
    }

    async fn uploads_of(&self, shard: ShardId) -> Result<Vec<OpenUpload>> {
        let mut found = Vec::new();
        let mut after = UploadId(0);
        for _ in 0..PAGES_MAX {
            let ask = UploadAsk::List(ListUploads {
                after,
                limit: UPLOADS_LISTED_MAX as u32,
            });
            let request = Request::Upload { shard, ask };
            let Answer::Uploads(page) = self.run(request, None).await? else {
                return Err(Error::Protocol {
                    what: "an answer of the wrong kind",
                });
            };
            let last = page.uploads.last().map(|last| last.upload);
            let open = page.uploads.into_iter();
            let open = open.filter(|upload| upload.state == UploadState::Open);
            found.extend(open.map(|upload| of_summary(upload, shard)));
            match last {
                Some(last) if page.more && last > after => after = last,
                _ if page.more => break,
                _ => return Ok(found),
            }
        }
        Err(Error::Protocol {
            what: "a list of uploads without an end",
        })
    }

    /// Gives up the upload `upload` to `key`: nothing is left of it. One that has ended already stays as it is.
    /// Cancel safe: it may be given up or not, and can be again.
    ///
    /// # Errors
    /// `UploadEnded` if it is committed; `Unavailable` or `Throttled` if the client's deadline passes first.
    pub async fn abort_upload(&self, key: impl AsRef<[u8]>, upload: UploadId) -> Result<()> {
        let shard = self.shard_of(&own(key));
        let reply = self.ask_of(shard, UploadAsk::Abort(upload), None).await?;
        outcome::of_abort(reply.state)
    }
}

fn of_summary(summary: UploadSummary, shard: ShardId) -> OpenUpload {
    OpenUpload {
        upload: summary.upload,
        key: summary.key.into(),
        shard: shard.0,
        begun_at: time_of(summary.begun_us),
        expires_at: time_of(summary.expires_us),
        chunks: summary.chunks,
        bytes: summary.bytes,
    }
}

/// The time so many microseconds after the beginning of 1970; that beginning if there is no such time.
pub(crate) fn time_of(micros: u64) -> SystemTime {
    let since = Duration::from_micros(micros);
    let time = SystemTime::UNIX_EPOCH.checked_add(since);
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
