//! What is asked of uploads and large values. All of it may be repeated: the answer is the same.

use bytes::Bytes;
use corelith_wire::response::Answer;
use corelith_wire::upload::{
    self, AbortUpload, BeginUpload, CommitUpload, HoldValue, ListUploads, ReadChunk, UploadStatus,
};
use corelith_wire::{ChunkId, Head, Outbox, UploadId};

/// A request about an upload or a large value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadAsk {
    /// Begins an upload.
    Begin {
        /// Its id.
        upload: UploadId,
        /// The key that is to get the value.
        key: Bytes,
        /// How long it may last, in ms; 0: as long as servers give by themselves.
        ttl_ms: u64,
        /// Its attributes, encoded.
        attributes: Bytes,
    },
    /// Sends a chunk.
    Chunk {
        /// Which one.
        chunk: ChunkId,
        /// Checksum of its bytes.
        crc32c: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Asks which chunks are durable.
    Status(UploadStatus),
    /// Makes it the value of its key.
    Commit(CommitUpload),
    /// Gives it up.
    Abort(UploadId),
    /// Lists the uploads of a shard.
    List(ListUploads),
    /// Reads a part of a chunk, at any replica.
    Read(ReadChunk),
    /// Keeps a value readable for a while.
    Hold(UploadId),
}

impl UploadAsk {
    /// Appends its frame.
    pub(crate) fn encode(&self, out: &mut Outbox, head: Head) {
        match self {
            Self::Begin {
                upload,
                key,
                ttl_ms,
                attributes,
            } => {
                let begin = BeginUpload {
                    upload: *upload,
                    key,
                    ttl_ms: *ttl_ms,
                    attributes,
                };
                upload::encode_begin(out, head, &begin);
            }
            Self::Chunk {
                chunk,
                crc32c,
                bytes,
            } => upload::encode_chunk(out, head, *chunk, *crc32c, bytes),
            Self::Status(status) => upload::encode_upload_status(out, head, *status),
            Self::Commit(commit) => upload::encode_commit(out, head, commit),
            Self::Abort(upload) => {
                let upload = *upload;
                upload::encode_abort(out, head, AbortUpload { upload });
            }
            Self::List(list) => upload::encode_list(out, head, *list),
            Self::Read(read) => upload::encode_read_chunk(out, head, *read),
            Self::Hold(upload) => {
                let upload = *upload;
                upload::encode_hold(out, head, HoldValue { upload });
            }
        }
    }

    /// Whether an answer is of the kind that it asks for.
    pub(crate) fn is_answered_by(&self, answer: &Answer) -> bool {
        match self {
            Self::List(_) => matches!(answer, Answer::Uploads(_)),
            Self::Read(_) => matches!(answer, Answer::Value { .. } | Answer::NotFound { .. }),
            _ => matches!(answer, Answer::Upload(_)),
        }
    }

    /// Bytes of content that go one way or the other.
    pub(crate) fn content_len(&self) -> usize {
        match self {
            Self::Begin { attributes, .. } => attributes.len(),
            Self::Chunk { bytes, .. } => bytes.len(),
            Self::Read(read) => read.end.saturating_sub(read.start) as usize,
            Self::Status(_) | Self::Commit(_) | Self::Abort(_) | Self::List(_) | Self::Hold(_) => 0,
        }
    }

    /// Bytes of the key that it names.
    pub(crate) fn key_len(&self) -> usize {
        match self {
            Self::Begin { key, .. } => key.len(),
            _ => 0,
        }
    }
}

/// Draws an id that no other upload has. Without system randomness, the client's own has to do.
pub(crate) fn upload_id(own: [u64; 2]) -> UploadId {
    let [high, low] = own;
    let own = u128::from(high) << 64 | u128::from(low);
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => UploadId(u128::from_le_bytes(bytes) ^ own),
        Err(_) => UploadId(own),
    }
}
