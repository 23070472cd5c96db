//! What clients write.

use bytes::{Bytes, BytesMut};
use corelith_wire::request::{
    Condition, OpenSession, Operation, WriteRequest, encode_open_session, encode_write,
};
use corelith_wire::upload::{
    AbortUpload, BeginUpload, CommitUpload, Digest, PartLength, encode_abort, encode_begin,
    encode_chunk, encode_commit,
};
use corelith_wire::{ChunkId, Epoch, Head, Kind, Outbox, RequestId, UploadId};

/// The payload of a write frame.
pub(crate) fn command(request: &WriteRequest<'_>, value: &Bytes) -> Bytes {
    let mut out = Outbox::default();
    let head = Head {
        kind: Kind::WRITE,
        request_id: RequestId(0),
        shard: corelith_wire::ShardId(0),
        epoch: Epoch(0),
    };
    encode_write(&mut out, head, request, value);
    let mut frame = BytesMut::new();
    for slice in out.slices() {
        frame.extend_from_slice(slice);
    }
    frame.freeze().slice(corelith_wire::limits::HEADER_BYTES..)
}

/// The payload of a frame that opens a session.
pub(crate) fn open_body() -> Bytes {
    let mut out = Outbox::default();
    let head = Head {
        kind: Kind::OPEN_SESSION,
        request_id: RequestId(0),
        shard: corelith_wire::ShardId(0),
        epoch: Epoch(0),
    };
    encode_open_session(&mut out, head, OpenSession { client: 1 });
    out.buffer()
        .split_off(corelith_wire::limits::HEADER_BYTES)
        .freeze()
}

/// The payload of a frame that `encode` writes.
fn payload(encode: impl FnOnce(&mut Outbox, Head)) -> Bytes {
    let mut out = Outbox::default();
    let head = Head {
        kind: Kind::WRITE,
        request_id: RequestId(0),
        shard: corelith_wire::ShardId(0),
        epoch: Epoch(0),
    };
    encode(&mut out, head);
    let mut frame = BytesMut::new();
    for slice in out.slices() {
        frame.extend_from_slice(slice);
    }
    frame.freeze().slice(corelith_wire::limits::HEADER_BYTES..)
}

/// Begins an upload.
pub(crate) fn begin(upload: UploadId, key: &str, ttl_ms: u64) -> Bytes {
    let begin = BeginUpload {
        upload,
        key: key.as_bytes(),
        ttl_ms,
        attributes: &[],
    };
    payload(|out, head| encode_begin(out, head, &begin))
}

/// A chunk.
pub(crate) fn chunk(chunk: ChunkId, bytes: &Bytes) -> Bytes {
    let crc32c = crc32c::crc32c(bytes);
    payload(|out, head| encode_chunk(out, head, chunk, crc32c, bytes))
}

/// The commit of parts of one chunk each.
pub(crate) fn commit(upload: UploadId, condition: Condition, parts: &[Bytes]) -> Bytes {
    let parts: Vec<(u32, Bytes)> = (0..).zip(parts.iter().cloned()).collect();
    commit_of(upload, condition, &parts)
}

/// As [`commit`], of parts with their numbers.
pub(crate) fn commit_of(upload: UploadId, condition: Condition, parts: &[(u32, Bytes)]) -> Bytes {
    let lens = parts.iter().map(|(part, bytes)| PartLength {
        part: *part,
        len: bytes.len() as u64,
    });
    let commit = CommitUpload {
        upload,
        condition,
        crc32c: parts
            .iter()
            .fold(0, |crc, (_, part)| crc32c::crc32c_append(crc, part)),
        digest: Digest::default(),
        parts: lens.collect(),
    };
    payload(|out, head| encode_commit(out, head, &commit))
}

/// Gives an upload up.
pub(crate) fn abort(upload: UploadId) -> Bytes {
    payload(|out, head| encode_abort(out, head, AbortUpload { upload }))
}

/// A put of a session.
pub(crate) fn put(
    session: u64,
    number: u64,
    condition: Condition,
    key: &str,
    value: &str,
) -> Bytes {
    let request = WriteRequest {
        session,
        number,
        answered_below: number,
        condition,
        operation: Operation::Put,
        key: key.as_bytes(),
    };
    command(&request, &Bytes::copy_from_slice(value.as_bytes()))
}

/// A delete of a session.
pub(crate) fn delete(session: u64, number: u64, key: &str) -> Bytes {
    let request = WriteRequest {
        session,
        number,
        answered_below: number,
        condition: Condition::Any,
        operation: Operation::Delete,
        key: key.as_bytes(),
    };
    command(&request, &Bytes::new())
}
