//! What clients write.

use bytes::{Bytes, BytesMut};
use corelith_wire::request::{
    Condition, OpenSession, Operation, WriteRequest, encode_open_session, encode_write,
};
use corelith_wire::{Epoch, Head, Kind, Outbox, RequestId};

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
