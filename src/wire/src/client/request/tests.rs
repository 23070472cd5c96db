use super::*;
use crate::frame::{Accepts, Frame, FrameParser};
use crate::ids::{Epoch, RequestId, ShardId};
use bytes::BytesMut;
use proptest::prelude::*;

const HEAD: Head = Head {
    kind: Kind::GET,
    request_id: RequestId(9),
    shard: ShardId(1),
    epoch: Epoch(1),
};

fn frame(encode: impl FnOnce(&mut Outbox)) -> Frame {
    let mut out = Outbox::default();
    encode(&mut out);
    let mut bytes = BytesMut::new();
    out.slices()
        .for_each(|slice| bytes.extend_from_slice(slice));
    assert_eq!(bytes.len(), out.len());
    let mut frames: Vec<_> = FrameParser::new(Accepts::Requests)
        .take(&mut bytes)
        .collect();
    assert_eq!(frames.len(), 1);
    frames.remove(0).unwrap()
}

fn write_frame(request: &WriteRequest<'_>, value: &[u8]) -> Frame {
    frame(|out| encode_write(out, HEAD, request, &Bytes::copy_from_slice(value)))
}

const WRITE: WriteRequest<'static> = WriteRequest {
    session: 11,
    number: 12,
    answered_below: 10,
    condition: Condition::Version(5),
    operation: Operation::Put,
    key: b"a key",
};

#[test]
fn a_value_shares_the_received_memory() {
    let frame = write_frame(&WRITE, b"value");
    let command = WriteCommand::parse(frame.payload()).unwrap();
    let range = frame.payload().as_ptr_range();
    assert!(range.contains(&command.value.as_ptr()) && range.contains(&command.key.as_ptr()));
    assert_eq!(frame.value(), command.value);
}

#[test]
fn every_truncation_of_a_write_is_an_error_or_a_shorter_value() {
    let payload = write_frame(&WRITE, b"value").into_payload();
    let body_len = payload.len() - 5;
    for len in 0..payload.len() {
        let found = WriteCommand::parse(&payload.slice(..len));
        assert_eq!(found.is_ok(), len >= body_len, "{len}");
    }
}

#[test]
fn no_flipped_bit_of_a_body_panics() {
    let payload = write_frame(&WRITE, b"value").into_payload();
    for bit in 0..payload.len() * 8 {
        let mut bad = payload.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        // The frame's checksum catches it; the body alone may read as another valid write.
        if let Ok(command) = WriteCommand::parse(&Bytes::from(bad)) {
            assert!(command.key.len() + command.value.len() <= payload.len());
        }
    }
}

#[test]
fn bounds_are_enforced() {
    let key = vec![b'k'; KEY_BYTES_MAX + 1];
    let too_large = |what, len, limit| Err(DecodeError::TooLarge { what, len, limit });
    let long_key = write_frame(&WriteRequest { key: &key, ..WRITE }, b"");
    assert_eq!(
        WriteCommand::parse(long_key.payload()),
        too_large("key", KEY_BYTES_MAX + 1, KEY_BYTES_MAX)
    );
    let get = frame(|out| encode_get(out, HEAD, &GetRequest { key: &key }));
    assert!(GetRequest::parse(get.body()).is_err());
    let largest = write_frame(
        &WriteRequest {
            key: &key[1..],
            ..WRITE
        },
        &vec![7; VALUE_BYTES_MAX],
    );
    assert_eq!(
        WriteCommand::parse(largest.payload()).unwrap().value.len(),
        VALUE_BYTES_MAX
    );
    let delete = WriteRequest {
        operation: Operation::Delete,
        ..WRITE
    };
    assert!(WriteCommand::parse(write_frame(&delete, b"value").payload()).is_err());
    assert!(WriteCommand::parse(write_frame(&delete, b"").payload()).is_ok());
}

#[test]
fn scans_and_sessions_survive_the_wire() {
    let scan = ScanRequest {
        start: b"a",
        end: b"b",
        limit_items: u32::MAX,
        max_bytes: 77,
        at_version: 8,
    };
    let found = frame(|out| encode_scan(out, HEAD, &scan));
    let expected = ScanRequest {
        limit_items: limits::SCAN_ITEMS_MAX as u32,
        ..scan
    };
    assert_eq!(ScanRequest::parse(found.body()), Ok(expected));
    assert_eq!(found.header.flags, Flags::default());
    let keys = frame(|out| encode_scan_keys(out, HEAD, &scan));
    assert_eq!(keys.body(), found.body(), "the flag alone differs");
    assert_eq!(keys.header.flags, Flags::WITHOUT_VALUES);
    let head = frame(|out| encode_get_head(out, HEAD, &GetRequest { key: b"k" }));
    assert!(head.header.flags.contains(Flags::WITHOUT_VALUES));
    assert_eq!(GetRequest::parse(head.body()).unwrap().key, b"k");
    let open = OpenSession { client: 99 };
    let found = frame(|out| encode_open_session(out, HEAD, open));
    assert_eq!(OpenSession::parse(found.body()), Ok(open));
    assert!(frame(|out| encode_status(out, HEAD)).body().is_empty());
    assert!(frame(|out| encode_storage(out, HEAD)).body().is_empty());
    assert!(frame(|out| encode_describe(out, HEAD)).body().is_empty());
}

fn any_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Any),
        Just(Condition::Absent),
        any::<u64>().prop_map(Condition::Version)
    ]
}

proptest! {
    #[test]
    fn writes_survive_the_wire(
        session: u64, number: u64, answered_below: u64, condition in any_condition(),
        delete: bool,
        key in prop::collection::vec(any::<u8>(), 0..100),
        value in prop::collection::vec(any::<u8>(), 0..70_000),
    ) {
        let operation = if delete { Operation::Delete } else { Operation::Put };
        let value = if delete { Vec::new() } else { value };
        let request =
            WriteRequest { session, number, answered_below, condition, operation, key: &key };
        let command = WriteCommand::parse(write_frame(&request, &value).payload()).unwrap();
        prop_assert_eq!(command, WriteCommand {
            session, number, answered_below, condition, operation,
            key: key.clone().into(), value: value.into(),
        });
    }

    #[test]
    fn gets_survive_the_wire(key in prop::collection::vec(any::<u8>(), 0..100)) {
        let found = frame(|out| encode_get(out, HEAD, &GetRequest { key: &key }));
        prop_assert_eq!(GetRequest::parse(found.body()), Ok(GetRequest { key: &key }));
    }

    #[test]
    fn random_bodies_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = WriteCommand::parse(&bytes);
        let _ = GetRequest::parse(&bytes);
        let _ = ScanRequest::parse(&bytes);
        let _ = OpenSession::parse(&bytes);
    }
}
