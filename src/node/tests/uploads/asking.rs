//! A client that uploads and reads chunks, and asks how that stands.

use super::super::{Client, PORT, leader_of};
use bytes::Bytes;
use corelith_io::sim::SimNode;
use corelith_wire::request::{self, Condition, GetRequest};
use corelith_wire::response::Answer;
use corelith_wire::upload::{
    self, AbortUpload, Attributes, BeginUpload, CommitUpload, Digest, HoldValue, LargeReply,
    ListUploads, PartLength, ReadChunk, UploadReply, UploadState, UploadStatus, UploadsPage,
};
use corelith_wire::{ChunkId, Flags, UploadId};

/// Bytes that differ from chunk to chunk.
pub(super) fn content(len: usize, salt: u8) -> Bytes {
    let byte = |n: usize| (n % 251) as u8 ^ salt;
    (0..len).map(byte).collect()
}

pub(super) fn id_of(upload: UploadId, (part, chunk): (u32, u32)) -> ChunkId {
    ChunkId {
        upload,
        part,
        chunk,
    }
}

pub(super) fn as_upload(answer: Answer) -> UploadReply {
    match answer {
        Answer::Upload(reply) => reply,
        other => panic!("{other:?}"),
    }
}

impl Client {
    pub(super) async fn begin(&mut self, upload: UploadId, key: &[u8]) -> Answer {
        let attributes = Attributes {
            pairs: vec![("content-type".to_owned(), "text/plain".to_owned())],
        };
        let attributes = attributes.encode().unwrap();
        let begin = BeginUpload {
            upload,
            key,
            ttl_ms: 60_000,
            attributes: &attributes,
        };
        self.ask(0, |out, head| upload::encode_begin(out, head, &begin))
            .await
    }

    pub(super) async fn chunk(&mut self, chunk: ChunkId, value: &Bytes) -> UploadState {
        let crc32c = crc32c::crc32c(value);
        let answer = self.ask(0, |out, head| {
            upload::encode_chunk(out, head, chunk, crc32c, value);
        });
        as_upload(answer.await).state
    }

    pub(super) async fn commit(&mut self, commit: &CommitUpload) -> UploadState {
        let answer = self.ask(0, |out, head| upload::encode_commit(out, head, commit));
        as_upload(answer.await).state
    }

    pub(super) async fn abort(&mut self, upload: UploadId) -> UploadState {
        let abort = AbortUpload { upload };
        let answer = self.ask(0, |out, head| upload::encode_abort(out, head, abort));
        as_upload(answer.await).state
    }

    pub(super) async fn how(&mut self, upload: UploadId, after: Option<(u32, u32)>) -> UploadReply {
        let ask = UploadStatus {
            upload,
            after,
            chunks_max: 2,
        };
        let answer = self.ask(0, |out, head| upload::encode_upload_status(out, head, ask));
        as_upload(answer.await)
    }

    pub(super) async fn list(&mut self, after: UploadId) -> UploadsPage {
        let ask = ListUploads { after, limit: 1 };
        let answer = self.ask(0, |out, head| upload::encode_list(out, head, ask));
        match answer.await {
            Answer::Uploads(page) => page,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn hold(&mut self, upload: UploadId) -> UploadState {
        let hold = HoldValue { upload };
        let answer = self.ask(0, |out, head| upload::encode_hold(out, head, hold));
        as_upload(answer.await).state
    }

    pub(super) async fn read(&mut self, chunk: ChunkId, start: u32, end: u32) -> Answer {
        let read = ReadChunk { chunk, start, end };
        self.ask(0, |out, head| upload::encode_read_chunk(out, head, read))
            .await
    }

    pub(super) async fn bytes_of(&mut self, chunk: ChunkId, start: u32, end: u32) -> Bytes {
        match self.read(chunk, start, end).await {
            Answer::Value { value, version, .. } => {
                assert_eq!(version, 0);
                value
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn get_with(&mut self, flags: Flags, key: &[u8]) -> Answer {
        self.ask(0, |out, head| {
            request::encode_get_with(out, head, flags, &GetRequest { key });
        })
        .await
    }

    pub(super) async fn describe(&mut self, key: &[u8]) -> LargeReply {
        match self.get(0, key).await {
            Answer::Large(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// Uploads `parts` of chunks to a key, commits them in that order; returns how it ended.
    pub(super) async fn upload(
        &mut self,
        upload: UploadId,
        key: &[u8],
        parts: &[Vec<Bytes>],
        condition: Condition,
    ) -> UploadState {
        let begun = as_upload(self.begin(upload, key).await);
        assert_eq!(begun.state, UploadState::Open);
        for (part, chunks) in (0..).zip(parts) {
            for (chunk, value) in (0..).zip(chunks) {
                let taken = self.chunk(id_of(upload, (part, chunk)), value).await;
                assert_eq!(taken, UploadState::Open);
            }
        }
        let commit = commit_of(upload, parts, condition);
        self.commit(&commit).await
    }
}

pub(super) fn commit_of(
    upload: UploadId,
    parts: &[Vec<Bytes>],
    condition: Condition,
) -> CommitUpload {
    let len_of = |chunks: &Vec<Bytes>| chunks.iter().map(|chunk| chunk.len() as u64).sum();
    let crc32c = parts.iter().flatten();
    CommitUpload {
        upload,
        condition,
        crc32c: crc32c.fold(0, |crc, chunk| crc32c::crc32c_append(crc, chunk)),
        digest: Digest::default(),
        parts: (0..)
            .zip(parts)
            .map(|(part, chunks)| PartLength {
                part,
                len: len_of(chunks),
            })
            .collect(),
    }
}

/// The node that leads shard 0.
pub(super) async fn leader(nodes: &[SimNode]) -> SimNode {
    nodes[leader_of(nodes[0].address(PORT), 0).await as usize - 1]
}

/// A client of the node that leads shard 0, at the core that has it or at another one.
pub(super) async fn client_of_leader(nodes: &[SimNode], core: u16) -> Client {
    let address = leader(nodes).await.address(PORT + core);
    Client::connect(address).await.0
}

/// Says of shard 0 what its leader says: open uploads, staged bytes, dead bytes.
pub(super) async fn counts(client: &mut Client) -> (u64, u64, u64) {
    let Answer::Status(status) = client.ask(0, request::encode_status).await else {
        panic!("no status");
    };
    let uploads = status.shards[0].uploads;
    (uploads.open, uploads.staged_bytes, uploads.dead_bytes)
}

/// Damaged places of shard 0 that are known.
pub(super) async fn damages(client: &mut Client) -> u64 {
    match client.ask(0, request::encode_storage).await {
        Answer::Storage(storage) => storage.shards[0].damaged,
        other => panic!("{other:?}"),
    }
}
