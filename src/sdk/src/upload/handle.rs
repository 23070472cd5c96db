//! The requests of one upload.

use super::outcome;
use super::plan::{ChunkPlace, PlannedChunk, WholeContent};
use super::token::{UploadToken, UploadedPart};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::operation::Request;
use crate::upload_ask::UploadAsk;
use corelith_wire::limits::{UPLOAD_CHUNKS_LISTED_MAX, UPLOAD_CHUNKS_MAX};
use corelith_wire::response::Answer;
use corelith_wire::upload::{CommitUpload, Digest, StagedChunk, UploadReply, UploadStatus};
use corelith_wire::{ChunkId, ShardId};
use std::time::Duration;

/// A value that was uploaded, is durable on a majority of its shard's replicas, and can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uploaded {
    /// The key's new version, the log index of the commit.
    pub version: u64,
    /// Length of the value, in bytes.
    pub len: u64,
    /// Checksum of the value; 0 if it was committed by an earlier process and overwritten since.
    pub crc32c: u32,
    /// Digest of the value, if one was wanted.
    pub digest: Digest,
    /// The shard that holds the key.
    pub shard: u32,
    /// Term of the leader that answered.
    pub term: u64,
    /// Log index at which the answer was true.
    pub index: u64,
}

/// The requests of one upload. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct UploadHandle {
    pub(crate) client: Client,
    /// Without parts.
    pub(crate) token: UploadToken,
    /// How long each request may take.
    pub(crate) deadline: Option<Duration>,
}

impl UploadHandle {
    fn shard(&self) -> ShardId {
        self.client.shard_of(&self.token.key)
    }

    async fn ask(&self, ask: UploadAsk) -> Result<UploadReply> {
        let shard = self.shard();
        self.client.ask_of(shard, ask, self.deadline).await
    }

    /// Begins it; learns how long its chunks are.
    pub(crate) async fn begin(&mut self, ttl_ms: u64, attributes: Vec<u8>) -> Result<()> {
        let ask = UploadAsk::Begin {
            upload: self.token.upload,
            key: self.token.key.clone(),
            ttl_ms,
            attributes: attributes.into(),
        };
        let reply = self.ask(ask).await?;
        outcome::is_open(reply.state)?;
        let most = corelith_wire::limits::CHUNK_BYTES_MAX as u32;
        if reply.chunk_bytes == 0 || reply.chunk_bytes > most {
            return Err(Error::Protocol {
                what: "chunks that are empty or too long",
            });
        }
        self.token.chunk_bytes = reply.chunk_bytes;
        Ok(())
    }

    /// Sends a chunk; when it returns, the chunk is durable on a majority.
    pub(crate) async fn send(&self, chunk: PlannedChunk) -> Result<()> {
        let ChunkPlace {
            part,
            chunk: number,
        } = chunk.place;
        let ask = UploadAsk::Chunk {
            chunk: ChunkId {
                upload: self.token.upload,
                part,
                chunk: number,
            },
            crc32c: chunk.crc32c,
            bytes: chunk.bytes,
        };
        outcome::of_chunk(self.ask(ask).await?.state)
    }

    /// The durable chunks, in order, page by page.
    pub(crate) async fn staged(&self) -> Result<Vec<StagedChunk>> {
        let mut found: Vec<StagedChunk> = Vec::new();
        loop {
            let after = found.last().map(|last| (last.part, last.chunk));
            let status = UploadStatus {
                upload: self.token.upload,
                after,
                chunks_max: UPLOAD_CHUNKS_LISTED_MAX as u32,
            };
            let reply = self.ask(UploadAsk::Status(status)).await?;
            outcome::is_open(reply.state)?;
            let place = |chunk: &StagedChunk| (chunk.part, chunk.chunk);
            let first = reply.chunks.first().map(place);
            let rises = reply.chunks.is_sorted_by(|a, b| place(a) < place(b));
            let follows = first.is_none_or(|first| after.is_none_or(|after| after < first));
            let is_over = !reply.more;
            found.extend(reply.chunks);
            if !rises
                || !follows
                || found.len() > UPLOAD_CHUNKS_MAX
                || (first.is_none() && !is_over)
            {
                return Err(Error::Protocol {
                    what: "a list of chunks out of order",
                });
            }
            if is_over {
                return Ok(found);
            }
        }
    }

    /// Makes it the value of its key.
    pub(crate) async fn commit(&self, content: WholeContent) -> Result<Uploaded> {
        let WholeContent {
            parts,
            len,
            crc32c,
            digest,
        } = content;
        let ask = UploadAsk::Commit(CommitUpload {
            upload: self.token.upload,
            condition: self.token.condition,
            crc32c,
            digest,
            parts,
        });
        let reply = self.ask(ask).await?;
        let version = outcome::of_commit(reply.state)?;
        Ok(Uploaded {
            version,
            len,
            crc32c,
            digest,
            shard: self.shard().0,
            term: reply.meta.term,
            index: reply.meta.index,
        })
    }

    /// Gives it up, so that its chunks are given back.
    pub(crate) async fn abort(&self) -> Result<()> {
        let reply = self.ask(UploadAsk::Abort(self.token.upload)).await?;
        outcome::of_abort(reply.state)
    }

    /// As [`UploadHandle::abort`], in the background: nobody waits for it. What cannot be aborted expires.
    pub(crate) fn abort_later(self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = self.abort().await {
                tracing::debug!(upload = %self.token.upload, %error, "an upload is left to expire");
            }
        });
    }

    pub(crate) fn token_with(&self, parts: Vec<UploadedPart>) -> UploadToken {
        UploadToken {
            parts,
            ..self.token.clone()
        }
    }
}

impl Client {
    /// Asks the leader of `shard` something of an upload or a large value.
    pub(crate) async fn ask_of(
        &self,
        shard: ShardId,
        ask: UploadAsk,
        deadline: Option<Duration>,
    ) -> Result<UploadReply> {
        match self.run(Request::Upload { shard, ask }, deadline).await? {
            Answer::Upload(reply) => Ok(reply),
            _ => Err(Error::Protocol {
                what: "an answer of the wrong kind",
            }),
        }
    }
}
