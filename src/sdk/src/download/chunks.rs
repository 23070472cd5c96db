//! Reads of chunks, from any replica that has them.

use super::plan::ChunkPiece;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::limits::{MISSING_CHUNK_PAUSE, MISSING_CHUNK_TURNS};
use crate::operation::Request;
use crate::replicas::{ReadFrom, Source};
use crate::upload::outcome;
use crate::upload_ask::UploadAsk;
use bytes::Bytes;
use corelith_wire::response::Answer;
use corelith_wire::upload::{ReadChunk, UploadState};
use corelith_wire::{ChunkId, ShardId, UploadId};
use std::time::Duration;

/// Reads the chunks of one value. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ChunkReader {
    pub(super) client: Client,
    pub(super) shard: ShardId,
    pub(super) upload: UploadId,
    pub(super) from: ReadFrom,
    /// How long each request may take.
    pub(super) deadline: Option<Duration>,
}

impl ChunkReader {
    /// Reads a piece. The session goes from replica to replica; if none has it, the leader says whether the value is gone.
    pub(super) async fn read(&self, piece: &ChunkPiece) -> Result<Bytes> {
        let ask = UploadAsk::Read(ReadChunk {
            chunk: ChunkId {
                upload: self.upload,
                part: piece.place.part,
                chunk: piece.place.chunk,
            },
            start: piece.range.start,
            end: piece.range.end,
        });
        let mut turn = 0;
        loop {
            let shard = self.shard;
            let request = Request::Upload {
                shard,
                ask: ask.clone(),
            };
            let source = Source::From(self.from);
            let (answer, _) = self.client.run_from(request, self.deadline, source).await?;
            match answer {
                Answer::Value { value, .. } => return Ok(value),
                Answer::NotFound { .. } => {}
                _ => {
                    return Err(Error::Protocol {
                        what: "an answer of the wrong kind",
                    });
                }
            }
            let hold = UploadAsk::Hold(self.upload);
            let reply = self.client.ask_of(shard, hold, self.deadline).await?;
            let pause = after_missing(reply.state, turn)?;
            tokio::time::sleep(pause).await;
            turn += 1;
        }
    }
}

/// No replica has a chunk of a value that stands so at the leader: how long to wait before they are asked again.
fn after_missing(state: UploadState, turn: u32) -> Result<Duration> {
    if !outcome::is_readable(state) {
        return Err(Error::ValueGone);
    }
    match turn < MISSING_CHUNK_TURNS {
        true => Ok(MISSING_CHUNK_PAUSE * 2u32.saturating_pow(turn)),
        false => Err(Error::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_says_whether_a_value_is_gone() {
        let there = UploadState::Committed { version: 3 };
        for gone in [UploadState::Dropped, UploadState::Unknown] {
            assert_eq!(after_missing(gone, 0), Err(Error::ValueGone));
        }
        let pause = after_missing(there, 0).unwrap();
        assert_eq!(after_missing(there, 2), Ok(pause * 4));
        let never = after_missing(there, MISSING_CHUNK_TURNS);
        assert_eq!(never, Err(Error::Corrupt));
    }
}
