//! What version 6 adds: large values.

use super::{HEAD, META, check, sent};
use crate::frame::{Accepts, FrameParser};
use crate::handshake::{Hello, Welcome};
use crate::peer::{self, FetchAnswer, FetchEnd, FetchedKind, FetchedRecord};
use crate::request::{self, Condition, GetRequest, ScanRequest};
use crate::response::{self, ScanHead, ScanItem, ScanPage, ScanValue};
use crate::upload::{
    self, AbortUpload, Attributes, BeginUpload, ChunkCommand, CommitUpload, Digest, DigestKind,
    HoldValue, LargeReply, ListUploads, PartLength, ReadChunk, StagedChunk, UploadRefusal,
    UploadReply, UploadState, UploadStatus, UploadSummary, UploadsPage,
};
use crate::{ChunkId, ClusterId, Epoch, Flags, LogIndex, NodeId, UploadId};
use bytes::Bytes;

#[test]
fn version_6_is_sent_as_it_always_was() {
    let hello = Hello::peer(ClusterId(0xfeed), NodeId(3));
    check(
        "hello",
        &hello.encode(),
        "434f52454c49544806000600020000000000000000000000edfe000000000000030000000000000000000000\
         216af902",
    );
    let welcome = Welcome::answer(&hello, ClusterId(0xfeed), Epoch(1), NodeId(2), 1);
    check(
        "welcome",
        &welcome.encode(),
        "434f52454c49544800000600010000000000000000000000edfe000000000000020000000000000000008000\
         00100000001000000010000001000000b9e24c04",
    );
    let record = |kind| FetchedRecord {
        key: Bytes::from_static(b"key"),
        version: LogIndex(9),
        kind,
        value: Bytes::from_static(b"value"),
    };
    let answer = FetchAnswer::Records {
        as_of: LogIndex(8),
        end: FetchEnd::More,
        records: vec![record(FetchedKind::Bytes), record(FetchedKind::Large)],
    };
    let bytes = sent(|out| peer::encode_fetch_reply(out, HEAD, answer));
    check(
        "answer to a fetch",
        &bytes,
        "400000009061c7e4910100000e00000004030201000000000500000006000000000800000000000000010200\
         000000030000000900000000000000050000006b657976616c75650103000000090000000000000005000000\
         6b657976616c7565",
    );
}

const UPLOAD: UploadId = UploadId(0x0a0b_0c0d << 64);
const PARTS: [PartLength; 2] = [
    PartLength { part: 3, len: 5 },
    PartLength {
        part: 1,
        len: 1 << 20,
    },
];
const DIGEST: Digest = Digest {
    kind: DigestKind::Blake3,
    bytes: [0xd1; 32],
};

#[test]
fn uploads_of_version_6_are_asked_as_they_always_were() {
    let attributes = Attributes {
        pairs: vec![("content-type".to_owned(), "a/b".to_owned())],
    };
    let attributes = attributes.encode().unwrap();
    check(
        "attributes",
        &attributes,
        "0c00636f6e74656e742d747970650300612f62",
    );
    let begin = BeginUpload {
        upload: UPLOAD,
        key: b"key",
        ttl_ms: 4,
        attributes: &attributes,
    };
    let bytes = sent(|out| upload::encode_begin(out, HEAD, &begin));
    check(
        "beginning",
        &bytes,
        "360000006b5d89b609000000360000000403020100000000050000000600000000000000000000000d0c0b0a\
         000000000400000000000000030000006b6579130000000c00636f6e74656e742d747970650300612f62",
    );
    let chunk = ChunkId {
        upload: UPLOAD,
        part: 3,
        chunk: 7,
    };
    let value = Bytes::from_static(b"value");
    let mut bytes = sent(|out| upload::encode_chunk(out, HEAD, chunk, 6, &value));
    check(
        "chunk",
        &bytes,
        "29000000929daf9c0a000000240000000403020100000000050000000600000020000000000000000a0b0c0d\
         00000000000000000000000300000007050000000600000076616c7565",
    );
    let frame = FrameParser::new(Accepts::Requests)
        .take(&mut bytes)
        .next()
        .unwrap()
        .unwrap();
    let command = ChunkCommand::parse(frame.payload()).unwrap();
    assert_eq!((command.chunk, command.value), (chunk, value));
    let ask = UploadStatus {
        upload: UPLOAD,
        after: Some((3, 7)),
        chunks_max: 8,
    };
    let bytes = sent(|out| upload::encode_upload_status(out, HEAD, ask));
    check(
        "question for an upload",
        &bytes,
        "1d00000090c3c9730b0000001d0000000403020100000000050000000600000000000000000000000d0c0b0a\
         0000000001030000000700000008000000",
    );
    let commit = CommitUpload {
        upload: UPLOAD,
        condition: Condition::Version(9),
        crc32c: 6,
        digest: DIGEST,
        parts: PARTS.to_vec(),
    };
    let bytes = sent(|out| upload::encode_commit(out, HEAD, &commit));
    check(
        "commit",
        &bytes,
        "5a000000ad2d51b40c0000005a0000000403020100000000050000000600000000000000000000000d0c0b0a\
         000000000209000000000000000600000002d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1\
         d1d1d1d1d1d102000000030000000500000000000000010000000000100000000000",
    );
    let abort = AbortUpload { upload: UPLOAD };
    let bytes = sent(|out| upload::encode_abort(out, HEAD, abort));
    check(
        "abort",
        &bytes,
        "10000000aca9ea550d000000100000000403020100000000050000000600000000000000000000000d0c0b0a\
         00000000",
    );
    let list = ListUploads {
        after: UPLOAD,
        limit: 5,
    };
    let bytes = sent(|out| upload::encode_list(out, HEAD, list));
    check(
        "question for uploads",
        &bytes,
        "14000000593e8d6d0e000000140000000403020100000000050000000600000000000000000000000d0c0b0a\
         0000000005000000",
    );
    let read = ReadChunk {
        chunk,
        start: 1,
        end: 4,
    };
    let bytes = sent(|out| upload::encode_read_chunk(out, HEAD, read));
    check(
        "read of a chunk",
        &bytes,
        "200000005a9445610f0000002000000004030201000000000500000006000000000000000a0b0c0d00000000\
         0000000000000003000000070100000004000000",
    );
    let hold = HoldValue { upload: UPLOAD };
    let bytes = sent(|out| upload::encode_hold(out, HEAD, hold));
    check(
        "hold",
        &bytes,
        "100000004ba448e210000000100000000403020100000000050000000600000000000000000000000d0c0b0a\
         00000000",
    );
    let wishes = Flags::WITHOUT_VALUES.with(Flags::DESCRIBED);
    let get = GetRequest { key: b"key" };
    let bytes = sent(|out| request::encode_get_with(out, HEAD, wishes, &get));
    check(
        "get of a description",
        &bytes,
        "0b0000002a01825e030005000b000000040302010000000005000000060000006b6579fdffffff03000000",
    );
    let scan = ScanRequest {
        start: b"a",
        end: b"",
        limit_items: 3,
        max_bytes: 4,
        at_version: 0,
    };
    let bytes = sent(|out| request::encode_scan_with(out, HEAD, wishes, &scan));
    check(
        "scan of times",
        &bytes,
        "21000000dfc873ba04000500210000000403020100000000050000000600000061ffffffff01000000f8ffff\
         ff0000000003000000040000000000000000000000",
    );
}

#[test]
fn uploads_of_version_6_are_answered_as_they_always_were() {
    let large = LargeReply {
        meta: META,
        version: 9,
        upload: UPLOAD,
        len: 5 + (1 << 20),
        chunk_bytes: 1 << 20,
        crc32c: 6,
        digest: DIGEST,
        committed_us: 10,
        attributes: b"attributes".to_vec(),
        parts: PARTS.to_vec(),
    };
    let bytes = sent(|out| upload::encode_large(out, HEAD, &large));
    check(
        "description",
        &bytes,
        "8b000000a823fe208f0000008b00000004030201000000000500000006000000070000000000000008000000\
         00000000090000000000000000000000000000000d0c0b0a0000000005001000000000000000100006000000\
         02d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d10a000000000000000a0000\
         006174747269627574657302000000030000000500000000000000010000000000100000000000",
    );
    let head = |key, value_len, committed_us| ScanHead {
        key: Bytes::from_static(key),
        version: 9,
        value_len,
        committed_us,
    };
    let page = ScanPage {
        meta: META,
        at_version: 8,
        more: false,
        items: vec![head(b"k", 5, None), head(b"l", 1 << 31, Some(10))],
    };
    let bytes = sent(|out| response::encode_scan_heads(out, HEAD, &page));
    check(
        "page with times",
        &bytes,
        "4f0000003e835b538c0000003d00000004030201000000000500000006000000010000000500000009000000\
         0000000001000000ffffffff0900000000000000070000000000000008000000000000000800000000000000\
         02000000006b6c00000080000000000a00000000000000",
    );
    let chunk = StagedChunk {
        part: 3,
        chunk: 7,
        len: 5,
        crc32c: 6,
    };
    let states = [
        (
            UploadState::Unknown,
            "320000006b4a960c900000003200000004030201000000000500000006000000070000000000000008000000\
         0000000000000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Open,
            "32000000bac16272900000003200000004030201000000000500000006000000070000000000000008000000\
         0000000001000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Committed { version: 9 },
            "3a000000738667b3900000003a00000004030201000000000500000006000000070000000000000008000000\
         00000000020900000000000000000010004d0000000000000001010000000300000007000000050000000600\
         0000",
        ),
        (
            UploadState::Conflicted { current: Some(9) },
            "3a000000e300b040900000003a00000004030201000000000500000006000000070000000000000008000000\
         00000000030900000000000000000010004d0000000000000001010000000300000007000000050000000600\
         0000",
        ),
        (
            UploadState::Conflicted { current: None },
            "3a000000a6674b24900000003a00000004030201000000000500000006000000070000000000000008000000\
         00000000030000000000000000000010004d0000000000000001010000000300000007000000050000000600\
         0000",
        ),
        (
            UploadState::Aborted,
            "32000000de13a8f2900000003200000004030201000000000500000006000000070000000000000008000000\
         0000000004000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Expired,
            "320000000f985c8c900000003200000004030201000000000500000006000000070000000000000008000000\
         0000000005000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Dropped,
            "320000007c04410f900000003200000004030201000000000500000006000000070000000000000008000000\
         0000000006000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Refused(UploadRefusal::TooMany { limit: 9 }),
            "3700000034253753900000003700000004030201000000000500000006000000070000000000000008000000\
         00000000070009000000000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Refused(UploadRefusal::OtherKey),
            "330000000c0800dd900000003300000004030201000000000500000006000000070000000000000008000000\
         000000000701000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Refused(UploadRefusal::ChunkDiffers),
            "330000007f941d5e900000003300000004030201000000000500000006000000070000000000000008000000\
         000000000702000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Refused(UploadRefusal::Incomplete { part: 3, chunk: 7 }),
            "3b0000004534455e900000003b00000004030201000000000500000006000000070000000000000008000000\
         0000000007030300000007000000000010004d00000000000000010100000003000000070000000500000006\
         000000",
        ),
        (
            UploadState::Refused(UploadRefusal::ChecksumDiffers),
            "3300000068daca5d900000003300000004030201000000000500000006000000070000000000000008000000\
         000000000704000010004d00000000000000010100000003000000070000000500000006000000",
        ),
        (
            UploadState::Refused(UploadRefusal::TooLarge { limit: 9 }),
            "3b000000ef48a321900000003b00000004030201000000000500000006000000070000000000000008000000\
         0000000007050900000000000000000010004d00000000000000010100000003000000070000000500000006\
         000000",
        ),
        (
            UploadState::Refused(UploadRefusal::CommittedOtherwise { version: 9 }),
            "3b0000003e33e0c3900000003b00000004030201000000000500000006000000070000000000000008000000\
         0000000007070900000000000000000010004d00000000000000010100000003000000070000000500000006\
         000000",
        ),
        (
            UploadState::Refused(UploadRefusal::Malformed),
            "33000000cacd23a0900000003300000004030201000000000500000006000000070000000000000008000000\
         000000000706000010004d00000000000000010100000003000000070000000500000006000000",
        ),
    ];
    for (state, golden) in states {
        let reply = UploadReply {
            meta: META,
            state,
            chunk_bytes: 1 << 20,
            expires_in_ms: 77,
            chunks: vec![chunk],
            more: true,
        };
        let bytes = sent(|out| upload::encode_upload_reply(out, HEAD, &reply));
        check(&format!("{state:?}"), &bytes, golden);
    }
    let page = UploadsPage {
        meta: META,
        uploads: vec![UploadSummary {
            upload: UPLOAD,
            key: b"key".to_vec(),
            begun_us: 1,
            expires_us: 2,
            chunks: 3,
            bytes: 4,
            state: UploadState::Open,
        }],
        more: true,
    };
    let bytes = sent(|out| upload::encode_uploads(out, HEAD, &page));
    check(
        "page of uploads",
        &bytes,
        "49000000ddb81fac910000004900000004030201000000000500000006000000070000000000000008000000\
         00000000010100000000000000000000000d0c0b0a0000000001000000000000000200000000000000030000\
         00040000000000000001030000006b6579",
    );
    let item = |value| ScanItem {
        key: Bytes::from_static(b"key"),
        version: 9,
        value,
    };
    let page = ScanPage {
        meta: META,
        at_version: 8,
        more: true,
        items: vec![
            item(ScanValue::Large { len: 1 << 31 }),
            item(Bytes::from_static(b"value").into()),
        ],
    };
    let bytes = sent(|out| response::encode_scan_page(out, HEAD, &page));
    check(
        "page of a scan",
        &bytes,
        "5000000036e7ff7e850000003d0000000403020100000000050000000600000003000000ffffffff09000000\
         0000000003000000050000000900000000000000070000000000000008000000000000000800000000000000\
         02000000016b657900000080000000006b657976616c7565",
    );
}
