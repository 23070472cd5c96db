//! Large values of simulated clients: their content, what is asked of their uploads, and reads of all their bytes.

use crate::client::{Client, some_replica};
use bytes::{BufMut as _, Bytes, BytesMut};
use corelith_client::session::{Request, Source, UploadAsk};
use corelith_client::{Error, UploadState};
use corelith_io::random_u64;
use corelith_wire::request::Condition;
use corelith_wire::response::Answer;
use corelith_wire::upload::{
    CommitUpload, Digest, LargeReply, PartLength, ReadChunk, UploadReply, UploadStatus,
};
use corelith_wire::{ChunkId, ShardId, UploadId};
use futures_util::future::join_all;
use std::time::Duration;

/// How long an upload may last: longer than any run.
const TTL_MS: u64 = 3_600_000;
/// The length of a large value names it: this and its number, and some multiple of the next.
const LEN_MIN: u64 = 1_000;
const LEN_STEP: u64 = 1 << 16;
/// How often bytes are asked for again that no replica had though the leader says that they are there.
const TURNS_MAX: u32 = 20;
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// SplitMix64 of one number.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The upload of a value.
pub(crate) fn upload_of(value: u64) -> UploadId {
    UploadId(u128::from(value) << 64 | 1)
}

/// The value of an upload.
pub(crate) fn value_of(upload: UploadId) -> u64 {
    (upload.0 >> 64) as u64
}

/// The value of that length.
pub(crate) fn value_of_len(len: u64) -> u64 {
    (len - LEN_MIN) % LEN_STEP
}

/// The parts of a value, each a chunk of its own: no byte is that of another place or value.
pub(crate) fn parts_of(value: u64) -> Vec<Bytes> {
    let len = LEN_MIN + value + LEN_STEP * (mix(value) % 3);
    let count = 1 + mix(!value) % 5;
    let mut ends: Vec<u64> = (1..count)
        .map(|at| 1 + mix(value << 8 | at) % (len - 1))
        .collect();
    ends.push(len);
    ends.sort_unstable();
    ends.dedup();
    let starts = [0].into_iter().chain(ends.clone());
    starts
        .zip(ends)
        .map(|(start, end)| {
            let mut bytes = BytesMut::with_capacity((end - start) as usize + 8);
            for word in 0..(end - start).div_ceil(8) {
                bytes.put_u64_le(mix(value << 40 ^ start << 20 ^ word));
            }
            bytes.truncate((end - start) as usize);
            bytes.freeze()
        })
        .collect()
}

/// An upload of one client.
#[derive(Clone)]
pub(crate) struct Uploading {
    pub client: Client,
    pub shard: ShardId,
    pub key: Bytes,
    pub value: u64,
}

impl Uploading {
    /// Of a value that nobody else uploads.
    pub(crate) fn new(client: &Client, key: &Bytes, value: u64) -> Self {
        Self {
            client: client.clone(),
            shard: client.map().shard_of(key),
            key: key.clone(),
            value,
        }
    }

    fn id(&self) -> UploadId {
        upload_of(self.value)
    }

    async fn ask(&self, ask: UploadAsk, within: Duration) -> Result<UploadState, Error> {
        let reply = self.ask_all(ask, within).await?;
        Ok(reply.state)
    }

    async fn ask_all(&self, ask: UploadAsk, within: Duration) -> Result<UploadReply, Error> {
        let shard = self.shard;
        match self
            .client
            .run(Request::Upload { shard, ask }, within)
            .await?
        {
            Answer::Upload(reply) => Ok(reply),
            other => panic!("{} is answered with {other:?}", self.value),
        }
    }

    pub(crate) async fn begin(&self, within: Duration) -> Result<UploadState, Error> {
        self.begin_for(TTL_MS, within).await
    }

    /// Begins it with a time to live of its own.
    pub(crate) async fn begin_for(
        &self,
        ttl_ms: u64,
        within: Duration,
    ) -> Result<UploadState, Error> {
        let begin = UploadAsk::Begin {
            upload: self.id(),
            key: self.key.clone(),
            ttl_ms,
            attributes: Bytes::new(),
        };
        self.ask(begin, within).await
    }

    /// Sends a part.
    pub(crate) async fn send(&self, part: u32, within: Duration) -> Result<UploadState, Error> {
        let bytes = parts_of(self.value).swap_remove(part as usize);
        self.send_bytes(part, bytes, within).await
    }

    /// Sends bytes in the place of a part.
    pub(crate) async fn send_bytes(
        &self,
        part: u32,
        bytes: Bytes,
        within: Duration,
    ) -> Result<UploadState, Error> {
        let chunk = UploadAsk::Chunk {
            chunk: chunk_of(self.id(), part),
            crc32c: crc32c::crc32c(&bytes),
            bytes,
        };
        self.ask(chunk, within).await
    }

    /// Sends parts side by side.
    pub(crate) async fn send_all(
        &self,
        parts: &[u32],
        within: Duration,
    ) -> Vec<Result<UploadState, Error>> {
        join_all(parts.iter().map(|part| self.send(*part, within))).await
    }

    pub(crate) async fn commit(
        &self,
        condition: Condition,
        within: Duration,
    ) -> Result<UploadState, Error> {
        let parts = parts_of(self.value);
        let whole = parts
            .iter()
            .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let lengths = (0..).zip(&parts).map(|(part, bytes)| PartLength {
            part,
            len: bytes.len() as u64,
        });
        let commit = CommitUpload {
            upload: self.id(),
            condition,
            crc32c: whole,
            digest: Digest::default(),
            parts: lengths.collect(),
        };
        self.ask(UploadAsk::Commit(commit), within).await
    }

    pub(crate) async fn abort(&self, within: Duration) -> Result<UploadState, Error> {
        self.ask(UploadAsk::Abort(self.id()), within).await
    }

    /// How it stands, with the parts that are durable.
    pub(crate) async fn status(&self, within: Duration) -> Result<(UploadState, Vec<u32>), Error> {
        let status = UploadStatus {
            upload: self.id(),
            after: None,
            chunks_max: 100,
        };
        let reply = self.ask_all(UploadAsk::Status(status), within).await?;
        let parts = reply.chunks.iter().map(|chunk| chunk.part).collect();
        Ok((reply.state, parts))
    }
}

fn chunk_of(upload: UploadId, part: u32) -> ChunkId {
    ChunkId {
        upload,
        part,
        chunk: 0,
    }
}

/// What a description says must be what was uploaded.
fn check_description(large: &LargeReply) {
    let parts = parts_of(value_of(large.upload));
    let len: usize = parts.iter().map(Bytes::len).sum();
    assert_eq!(large.len, len as u64, "{large:?}");
    assert_eq!(large.parts.len(), parts.len(), "{large:?}");
}

/// Reads the bytes of a value that a read has found: some range of each part from any replica, or all of it. Says whether it
/// came to an end; if so, the bytes were right.
pub(crate) async fn read_bytes(
    client: &Client,
    key: &Bytes,
    large: &LargeReply,
    within: Duration,
) -> bool {
    check_description(large);
    let value = value_of(large.upload);
    let reading = Uploading::new(client, key, value);
    let mut is_held = false;
    for (part, bytes) in (0..).zip(parts_of(value)) {
        let len = bytes.len() as u32;
        let (start, end) = match random_u64() % 3 {
            0 => {
                let start = (random_u64() % u64::from(len)) as u32;
                let end = start + 1 + (random_u64() % u64::from(len - start)) as u32;
                (start, end)
            }
            _ => (0, len),
        };
        let mut turns = 0;
        loop {
            if !is_held {
                match reading.ask(UploadAsk::Hold(large.upload), within).await {
                    Ok(UploadState::Committed { version }) => {
                        assert_eq!(version, large.version, "of {}", large.upload);
                        is_held = true;
                    }
                    // It was replaced, and nobody had said that it is read.
                    Ok(UploadState::Dropped) => return false,
                    Ok(other) => panic!("a value that was read is {other:?}"),
                    Err(_) => return false,
                }
            }
            let chunk = chunk_of(large.upload, part);
            let ask = UploadAsk::Read(ReadChunk { chunk, start, end });
            let shard = reading.shard;
            let request = Request::Upload { shard, ask };
            let source = Source::From(some_replica());
            match client.carry(request, within, source).await.0 {
                Ok(Answer::Value { value: found, .. }) => {
                    let wanted = &bytes[start as usize..end as usize];
                    assert!(found == wanted, "other bytes in part {part} of {value}");
                    break;
                }
                // Those that have it were not asked, or another leader must be asked to hold it.
                Ok(Answer::NotFound { .. }) => {
                    turns += 1;
                    is_held = false;
                    assert!(turns < TURNS_MAX, "part {part} of {value} is nowhere");
                    corelith_io::sleep(TURN_PAUSE).await;
                }
                Ok(other) => panic!("{chunk:?} is {other:?}"),
                Err(_) => return false,
            }
        }
    }
    true
}
