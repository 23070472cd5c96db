use super::*;
use crate::frame::{Accepts, Frame, FrameParser, Head, Kind};
use crate::ids::{ChunkId, Epoch, RequestId, ShardId, UploadId};
use crate::outbox::Outbox;
use crate::request::Condition;
use bytes::Bytes;
use proptest::prelude::*;

const HEAD: Head = Head {
    kind: Kind::GET,
    request_id: RequestId(9),
    shard: ShardId(1),
    epoch: Epoch(1),
};
const UPLOAD: UploadId = UploadId(0xfeed << 90);
const CHUNK: ChunkId = ChunkId {
    upload: UPLOAD,
    part: 3,
    chunk: 7,
};

fn frame(encode: impl FnOnce(&mut Outbox)) -> Frame {
    let mut out = Outbox::default();
    encode(&mut out);
    let mut bytes = BytesMut::new();
    out.slices()
        .for_each(|slice| bytes.extend_from_slice(slice));
    let mut frames: Vec<_> = FrameParser::new(Accepts::Requests)
        .take(&mut bytes)
        .collect();
    assert_eq!(frames.len(), 1);
    frames.remove(0).unwrap()
}

fn commit(parts: usize) -> CommitUpload {
    let part = |part: usize| PartLength {
        part: part as u32,
        len: limits::LARGE_VALUE_BYTES_MAX,
    };
    CommitUpload {
        upload: UPLOAD,
        condition: Condition::Version(6),
        crc32c: 5,
        digest: Digest {
            kind: DigestKind::Sha256,
            bytes: [8; 32],
        },
        parts: (0..parts).map(part).collect(),
    }
}

fn chunk_payload(value: &'static [u8]) -> Bytes {
    frame(|out| encode_chunk(out, HEAD, CHUNK, 4, &Bytes::from_static(value))).into_payload()
}

/// Whether bytes are a message.
type Parses = fn(&Bytes) -> bool;

/// Each kind of request, and whether bytes are one of that kind.
fn asks() -> Vec<(Frame, Parses)> {
    let begin = BeginUpload {
        upload: UPLOAD,
        key: b"key",
        ttl_ms: 9,
        attributes: &[],
    };
    let status = UploadStatus {
        upload: UPLOAD,
        after: Some((1, 2)),
        chunks_max: 3,
    };
    let (upload, after, limit) = (UPLOAD, UPLOAD, 2);
    let read = ReadChunk {
        chunk: CHUNK,
        start: 1,
        end: 2,
    };
    vec![
        (frame(|out| encode_begin(out, HEAD, &begin)), |body| {
            BeginUpload::parse(body).is_ok()
        }),
        (
            frame(|out| encode_chunk(out, HEAD, CHUNK, 4, &Bytes::from_static(b"value"))),
            |body| ChunkCommand::parse(body).is_ok(),
        ),
        (
            frame(|out| encode_upload_status(out, HEAD, status)),
            |body| UploadStatus::parse(body).is_ok(),
        ),
        (frame(|out| encode_commit(out, HEAD, &commit(2))), |body| {
            CommitUpload::parse(body).is_ok()
        }),
        (
            frame(|out| encode_abort(out, HEAD, AbortUpload { upload })),
            |body| AbortUpload::parse(body).is_ok(),
        ),
        (
            frame(|out| encode_list(out, HEAD, ListUploads { after, limit })),
            |body| ListUploads::parse(body).is_ok(),
        ),
        (frame(|out| encode_read_chunk(out, HEAD, read)), |body| {
            ReadChunk::parse(body).is_ok()
        }),
        (
            frame(|out| encode_hold(out, HEAD, HoldValue { upload })),
            |body| HoldValue::parse(body).is_ok(),
        ),
    ]
}

#[test]
fn every_truncation_and_every_excess_is_refused() {
    for (frame, parses) in asks() {
        let kind = frame.header.head.kind;
        let payload = frame.into_payload();
        assert!(parses(&payload), "{kind:?}");
        for len in 0..payload.len() {
            assert!(!parses(&payload.slice(..len)), "{kind:?} of {len}");
        }
        let longer = Bytes::from([&payload[..], &[0]].concat());
        assert!(!parses(&longer), "{kind:?}");
    }
}

#[test]
fn no_flipped_bit_panics() {
    for (frame, parses) in asks() {
        let payload = frame.into_payload();
        for bit in 0..payload.len() * 8 {
            let mut bad = payload.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            parses(&Bytes::from(bad));
        }
    }
}

#[test]
fn requests_survive_the_wire() {
    let attributes = Attributes {
        pairs: vec![("content-type".into(), "text/plain".into())],
    };
    let attributes = attributes.encode().unwrap();
    let begin = BeginUpload {
        upload: UPLOAD,
        key: b"key",
        ttl_ms: 9,
        attributes: &attributes,
    };
    let found = frame(|out| encode_begin(out, HEAD, &begin));
    assert_eq!(BeginUpload::parse(found.body()), Ok(begin));
    for after in [None, Some((0, 0)), Some((1, 2))] {
        let ask = UploadStatus {
            upload: UPLOAD,
            after,
            chunks_max: u32::MAX,
        };
        let found = frame(|out| encode_upload_status(out, HEAD, ask));
        let chunks_max = limits::UPLOAD_CHUNKS_LISTED_MAX as u32;
        let expected = UploadStatus { chunks_max, ..ask };
        assert_eq!(UploadStatus::parse(found.body()), Ok(expected));
    }
    for condition in [Condition::Any, Condition::Absent, Condition::Version(3)] {
        let commit = CommitUpload {
            condition,
            ..commit(2)
        };
        let found = frame(|out| encode_commit(out, HEAD, &commit));
        assert_eq!(CommitUpload::parse(found.body()), Ok(commit));
    }
    let (upload, after) = (UPLOAD, UPLOAD);
    let found = frame(|out| encode_abort(out, HEAD, AbortUpload { upload }));
    assert_eq!(AbortUpload::parse(found.body()), Ok(AbortUpload { upload }));
    let found = frame(|out| encode_hold(out, HEAD, HoldValue { upload }));
    assert_eq!(HoldValue::parse(found.body()), Ok(HoldValue { upload }));
    let ask = ListUploads {
        after,
        limit: u32::MAX,
    };
    let found = frame(|out| encode_list(out, HEAD, ask));
    let limit = limits::UPLOADS_LISTED_MAX as u32;
    let expected = ListUploads { after, limit };
    assert_eq!(ListUploads::parse(found.body()), Ok(expected));
}

/// A log names the row of a chunk without its bytes, which lie elsewhere.
#[test]
fn the_head_of_a_chunk_stands_without_its_bytes() {
    let payload = chunk_payload(b"value");
    let command = ChunkCommand::parse(&payload).unwrap();
    assert_eq!((command.chunk, command.crc32c), (CHUNK, 4));
    assert_eq!(command.value, &b"value"[..]);
    assert!(payload.as_ptr_range().contains(&command.value.as_ptr()));
    let head = payload.slice(..UploadChunk::VALUE_START);
    let (found, chunk) = UploadChunk::parse_head(&head).unwrap();
    assert_eq!((found.len, found.crc32c, chunk), (5, 4, CHUNK));
    let row_end = UploadChunk::ROW_START + ChunkId::KEY_BYTES;
    assert_eq!(found.row, &payload[UploadChunk::ROW_START..row_end]);
    assert_eq!(found.row, CHUNK.key());
}

#[test]
fn the_bytes_of_a_chunk_are_checked_against_its_checksum() {
    let value = Bytes::from_static(b"value");
    for (crc32c, expected) in [(crc32c::crc32c(&value), true), (0, false)] {
        let payload = frame(|out| encode_chunk(out, HEAD, CHUNK, crc32c, &value)).into_payload();
        assert_eq!(ChunkCommand::parse(&payload).unwrap().is_sound(), expected);
    }
}

#[test]
fn bounds_are_enforced() {
    assert!(
        ChunkCommand::parse(&chunk_payload(b"")).is_err(),
        "no bytes"
    );
    let longest = Bytes::from(vec![1; limits::CHUNK_BYTES_MAX]);
    let found = frame(|out| encode_chunk(out, HEAD, CHUNK, 0, &longest));
    assert!(ChunkCommand::parse(found.payload()).is_ok());

    let found = frame(|out| encode_commit(out, HEAD, &commit(limits::UPLOAD_PARTS_MAX)));
    assert!(CommitUpload::parse(found.body()).is_ok());
    let mut too_long = commit(1);
    too_long.parts[0].len += 1;
    let found = frame(|out| encode_commit(out, HEAD, &too_long));
    assert!(CommitUpload::parse(found.body()).is_err());

    let table = [(0, 1, true), (0, 0, false), (2, 1, false)];
    let max = limits::CHUNK_BYTES_MAX as u32;
    let ends = [(0, max, true), (0, max + 1, false), (max, max + 1, false)];
    for (start, end, expected) in table.into_iter().chain(ends) {
        let chunk = CHUNK;
        let read = ReadChunk { chunk, start, end };
        let found = frame(|out| encode_read_chunk(out, HEAD, read));
        let found = ReadChunk::parse(found.body());
        assert_eq!(found.ok(), expected.then_some(read));
    }

    let key = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    let attributes = vec![0; limits::ATTRIBUTES_BYTES_MAX + 1];
    for (key, attributes, expected) in [
        (&key[1..], &attributes[1..], true),
        (&key[..], &[][..], false),
        (&[][..], &attributes[..], false),
        // Names and values that end in the middle.
        (&[][..], &[1][..], false),
        (&[][..], &[0, 0][..], false),
        (&[][..], &[1, 0, 0xff, 0, 0][..], false),
    ] {
        let begin = BeginUpload {
            upload: UPLOAD,
            key,
            ttl_ms: 0,
            attributes,
        };
        let found = frame(|out| encode_begin(out, HEAD, &begin));
        let found = BeginUpload::parse(found.body());
        assert_eq!(found.is_ok(), expected, "{found:?}");
    }
}

/// What frames may carry has room for the longest that messages may be.
#[test]
fn the_longest_messages_fit_in_their_frames() {
    let parts = commit(limits::UPLOAD_PARTS_MAX).parts;
    let large = LargeReply {
        attributes: vec![0; limits::ATTRIBUTES_BYTES_MAX],
        parts,
        ..LargeReply::default()
    };
    let state = UploadState::Refused(UploadRefusal::Incomplete { part: 1, chunk: 2 });
    let reply = UploadReply {
        state,
        chunks: vec![StagedChunk::default(); limits::UPLOAD_CHUNKS_LISTED_MAX],
        ..UploadReply::default()
    };
    let summary = UploadSummary {
        key: vec![0; limits::KEY_BYTES_MAX],
        state,
        ..UploadSummary::default()
    };
    let page = UploadsPage {
        uploads: vec![summary; limits::UPLOADS_LISTED_MAX],
        ..UploadsPage::default()
    };
    let encoders: [&dyn Fn(&mut Outbox); 3] = [
        &|out| encode_large(out, HEAD, &large),
        &|out| encode_upload_reply(out, HEAD, &reply),
        &|out| encode_uploads(out, HEAD, &page),
    ];
    for encode in encoders {
        let mut out = Outbox::default();
        encode(&mut out);
        let mut bytes = BytesMut::new();
        out.slices()
            .for_each(|slice| bytes.extend_from_slice(slice));
        let mut frames = FrameParser::new(Accepts::Answers).take(&mut bytes);
        assert!(frames.next().unwrap().is_ok());
    }
}

#[test]
fn attributes_that_are_too_long_are_not_encoded() {
    let of = |len| Attributes {
        pairs: vec![(String::new(), "x".repeat(len))],
    };
    let most = limits::ATTRIBUTES_BYTES_MAX - 4;
    let bytes = of(most).encode().unwrap();
    assert_eq!(Attributes::decode(&bytes), Ok(of(most)));
    assert!(of(most + 1).encode().is_err());
}

proptest! {
    #[test]
    fn any_attributes_survive(pairs in prop::collection::vec((".{0,40}", ".{0,40}"), 0..20)) {
        let attributes = Attributes { pairs };
        let bytes = attributes.encode().unwrap();
        prop_assert_eq!(Attributes::decode(&bytes), Ok(attributes));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        for (_, parses) in asks() {
            parses(&bytes);
        }
        let _ = LargeReply::parse(&bytes);
        let _ = UploadReply::parse(&bytes);
        let _ = UploadsPage::parse(&bytes);
        let _ = Attributes::decode(&bytes);
    }
}
