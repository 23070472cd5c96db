//! Large values and their uploads, as the node sees them.

use super::lane::Arrived;
use super::{Group, note};
use crate::command::{Outcome, WriteReply, kind};
use crate::error::GroupError;
use crate::limits::DEAD_UPLOADS_SLOW;
use crate::types::Payload;
use crate::uploads::entry::{self, Step};
use crate::uploads::record::{CommittedRecord, UploadRecord};
use crate::uploads::{CHUNK_BYTES, ChunkContent, UploadCounts, upload_key};
use bytes::Bytes;
use corelith_io::sync::oneshot;
use corelith_shards::{self as shards, FoundLarge, Space};
use corelith_wire::response::ReplyMeta;
use corelith_wire::upload::{
    ChunkCommand, LargeReply, ListUploads, UploadRefusal, UploadReply, UploadState, UploadStatus,
    UploadsPage,
};
use corelith_wire::{ChunkId, UploadId};
use std::ops::Range;

impl Group {
    /// Proposes a chunk of an upload (`payload` is that of the client's frame) when its turn has come, and calls `reply` once
    /// it is durable on a majority and known to be taken, or is known not to be. What needs no entry, as a chunk that is
    /// there already, is answered at once. `reply` is called exactly once, maybe before this returns.
    pub fn submit_chunk(
        &self,
        payload: Bytes,
        reply: impl FnOnce(Result<UploadReply, GroupError>) + 'static,
    ) {
        let Ok(command) = ChunkCommand::parse(&payload) else {
            return reply(Err(GroupError::Malformed));
        };
        if !command.is_sound() {
            let refusal = UploadState::Refused(UploadRefusal::ChecksumDiffers);
            return reply(Ok(self.upload_answer(command.chunk.upload, refusal)));
        }
        let Some((chunk, content)) = entry::whole_chunk(&payload) else {
            return reply(Err(GroupError::Malformed));
        };
        self.queue_chunk(Arrived {
            chunk,
            content,
            payload,
            reply: Box::new(reply),
        });
    }

    /// What becomes of a chunk without an entry. What is staged is durable, whoever leads. For anything else this replica
    /// must know all that was answered.
    pub(super) fn settled_chunk(
        &self,
        chunk: ChunkId,
        content: ChunkContent,
    ) -> Option<UploadState> {
        let state = self.inner.uploads.borrow().settled(chunk, content)?;
        let is_sure = state == UploadState::Open || self.under_lease().is_some();
        is_sure.then_some(state)
    }

    /// Begins an upload; `body` is that of the client's frame.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn begin_upload(&self, body: Bytes) -> Result<UploadReply, GroupError> {
        // The table refuses for good what would be too many; by then they would have been dropped.
        if self.inner.leading().is_some() && self.upload_counts().dead >= DEAD_UPLOADS_SLOW {
            return Err(GroupError::Throttled);
        }
        self.step(kind::UPLOAD_BEGIN, &body, true).await
    }

    /// Makes an upload the value of its key, if its condition holds then, or tells how it ended.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn commit_upload(&self, body: Bytes) -> Result<UploadReply, GroupError> {
        self.step(kind::UPLOAD_COMMIT, &body, false).await
    }

    /// Gives an upload up, if it is open.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn abort_upload(&self, body: Bytes) -> Result<UploadReply, GroupError> {
        self.step(kind::UPLOAD_ABORT, &body, false).await
    }

    async fn step(&self, kind: u8, body: &[u8], grows: bool) -> Result<UploadReply, GroupError> {
        let body = entry::timed(self.inner.log_clock_us(), body);
        let (_, step) = entry::parse(kind, &body).ok_or(GroupError::Malformed)?;
        let upload = match &step {
            Step::Begin(begin) => begin.upload,
            Step::Commit(commit) => {
                let key = self.inner.uploads.borrow().key(commit.upload);
                if let Some(key) = key
                    && self.inner.may_be_undecidable_of(&key, commit.condition)
                    && let Err(error) = self.inner.engine.version_of(&key).await
                    && error.is_corrupt()
                {
                    return Err(GroupError::Corrupt);
                }
                commit.upload
            }
            Step::Abort(upload) => *upload,
            Step::Expire | Step::Drop(_) => return Err(GroupError::Malformed),
        };
        let decided = self.propose_step(kind, body, grows).await?;
        self.upload_reply(upload, decided)
    }

    /// Proposes an entry about an upload that has no chunk.
    pub(super) async fn propose_step(
        &self,
        kind: u8,
        body: Bytes,
        grows: bool,
    ) -> Result<WriteReply, GroupError> {
        let (sender, receiver) = oneshot::channel();
        let payload = Payload::plain(kind, body);
        self.propose(payload, grows, |decided| note(sender, decided));
        receiver.await.unwrap_or(Err(GroupError::Shutdown))
    }

    /// How an upload stands, and which chunks of it are there; all that was answered before is seen.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn upload_status(&self, ask: UploadStatus) -> Result<UploadReply, GroupError> {
        self.read_barrier().await?;
        let uploads = self.inner.uploads.borrow();
        let mut reply = self.upload_answer(ask.upload, uploads.state(ask.upload));
        let (chunks, more) = uploads.chunks(ask.upload, ask.after, ask.chunks_max as usize);
        (reply.chunks, reply.more) = (chunks, more);
        Ok(reply)
    }

    /// The open uploads of the shard.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn list_uploads(&self, ask: ListUploads) -> Result<UploadsPage, GroupError> {
        self.read_barrier().await?;
        let uploads = self.inner.uploads.borrow();
        let (uploads, more) = uploads.list(ask.after, ask.limit as usize);
        Ok(UploadsPage {
            meta: self.applied_meta(),
            uploads,
            more,
        })
    }

    /// Keeps a committed value readable for a while, also if it is replaced; asked of the leader again and again by those who
    /// read it.
    ///
    /// # Errors
    /// See [`GroupError`]. `Unavailable` also while this leader is not sure that it leads, or has not applied all that
    /// followers may have shown.
    pub fn hold_value(&self, upload: UploadId) -> Result<UploadReply, GroupError> {
        let inner = &self.inner;
        inner.leading().ok_or_else(|| inner.not_leading())?;
        // Followers may have shown a value whose commit this leader has not applied yet.
        self.try_read_point().ok_or(GroupError::Unavailable)?;
        let uploads = inner.uploads.borrow();
        if uploads.is_readable(upload) && !inner.keeper.is_dropping(upload) {
            inner.keeper.hold(upload, corelith_io::now());
            return Ok(self.upload_answer(upload, uploads.state(upload)));
        }
        let state = match uploads.state(upload) {
            UploadState::Committed { .. } => UploadState::Dropped,
            other => other,
        };
        Ok(self.upload_answer(upload, state))
    }

    /// What a large value is that was found; `None`: it has gone since. Whoever was told so may read it: a leader holds it.
    ///
    /// # Errors
    /// As those of the engine's reads.
    pub async fn describe_large(
        &self,
        found: &FoundLarge,
        meta: ReplyMeta,
    ) -> shards::Result<Option<LargeReply>> {
        let inner = &self.inner;
        let upload = found.large.upload;
        if inner.leading().is_some() {
            if inner.keeper.is_dropping(upload) {
                return Ok(None);
            }
            inner.keeper.hold(upload, corelith_io::now());
        }
        let key = upload_key(upload);
        let Some(row) = inner.engine.row(Space::Upload, &key).await? else {
            return Ok(None);
        };
        let described = self.describe_by(found, meta, &row.value);
        if described.is_none() && is_committed(&row.value) {
            let shard = self.shard();
            tracing::error!(%shard, %upload, "the record of a large value is that of another commit");
        }
        Ok(described)
    }

    /// What a large value is that was found, by the row of its upload, here or at another replica; `None`: the row is that
    /// of something else.
    pub fn describe_by(
        &self,
        found: &FoundLarge,
        meta: ReplyMeta,
        row: &Bytes,
    ) -> Option<LargeReply> {
        let Some(UploadRecord::Committed(committed)) = UploadRecord::decode(row) else {
            return None;
        };
        let CommittedRecord {
            key: _,
            version,
            committed_us,
            len,
            chunk_bytes,
            crc32c,
            digest,
            attributes,
            parts,
        } = committed;
        let is_of_it = (version, len) == (found.version, found.large.len);
        is_of_it.then(|| LargeReply {
            meta,
            version: version.0,
            upload: found.large.upload,
            len,
            chunk_bytes,
            crc32c,
            digest,
            committed_us,
            attributes: attributes.to_vec(),
            parts,
        })
    }

    /// Bytes of a chunk of a value that this replica has; `None`: it has not, or not yet, or not any more. What has come of
    /// an upload that is no value is not given out: its id may be used again, and a replica that lags would show old bytes.
    ///
    /// # Errors
    /// As those of the engine's reads.
    pub async fn read_chunk(
        &self,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> shards::Result<Option<Bytes>> {
        if !self.inner.uploads.borrow().is_readable(chunk.upload) {
            return Ok(None);
        }
        let range = u64::from(range.start)..u64::from(range.end);
        let key = chunk.key();
        let found = self.inner.engine.row_range(Space::Chunk, &key, range);
        Ok(found.await?.map(|found| found.bytes))
    }

    /// How many uploads and large values the shard has, as far as is applied here.
    pub fn upload_counts(&self) -> UploadCounts {
        self.inner.uploads.borrow().counts()
    }

    /// The uploads as of what is applied.
    #[cfg(test)]
    pub(crate) fn uploads(&self) -> crate::uploads::Uploads {
        self.inner.uploads.borrow().clone()
    }

    /// The answer to what an entry about an upload has come to.
    pub(super) fn upload_reply(
        &self,
        upload: UploadId,
        decided: WriteReply,
    ) -> Result<UploadReply, GroupError> {
        let Outcome::Upload(state) = decided.outcome else {
            return Err(GroupError::Malformed);
        };
        let mut reply = self.upload_answer(upload, state);
        reply.meta = ReplyMeta {
            term: decided.at.term.0,
            index: decided.at.index.0,
        };
        Ok(reply)
    }

    /// An answer without chunks, as of what is applied.
    pub(super) fn upload_answer(&self, upload: UploadId, state: UploadState) -> UploadReply {
        let expires_us = self.inner.uploads.borrow().expires_us(upload);
        let left_us = expires_us.map(|at| at.saturating_sub(self.inner.log_clock_us()));
        UploadReply {
            meta: self.applied_meta(),
            state,
            chunk_bytes: CHUNK_BYTES,
            expires_in_ms: left_us.unwrap_or(0) / 1000,
            chunks: Vec::new(),
            more: false,
        }
    }

    fn applied_meta(&self) -> ReplyMeta {
        let applied = self.inner.applied.last();
        ReplyMeta {
            term: applied.map_or(0, |id| id.term.0),
            index: applied.map_or(0, |id| id.index.0),
        }
    }
}

/// Whether a row of an upload says that it is committed.
fn is_committed(row: &Bytes) -> bool {
    matches!(UploadRecord::decode(row), Some(UploadRecord::Committed(_)))
}
