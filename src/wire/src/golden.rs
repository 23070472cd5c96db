//! Bytes of each protocol version as they were first sent. They must stay as they are: other versions
//! of clients and nodes read and write them, and logs hold the payloads of writes.

mod version_6;

use crate::frame::{Accepts, FrameParser};
use crate::handshake::{Hello, Welcome};
use crate::peer::{
    self, AppendResult, Beat, BeatReply, CoreSet, FileAsk, FileBytes, GivenPoint, Health,
    HeartbeatReply, Introduction, NodeAsk, NodeHealth, NodeReply, PeerVote, PromiseEpoch,
    Registration, Settings, VoteAnswer, VoteAsk,
};
use crate::request::{
    self, Condition, GetRequest, Operation, ScanRequest, WriteCommand, WriteRequest,
};
use crate::response::{self, Answer, Failure, ReplyMeta, ScanHead, ScanPage};
use crate::storage::{DamagedPlace, LevelStorage, ScrubState, ShardStorage, StorageReply};
use crate::{
    ClusterId, Epoch, Flags, FullClusterId, Head, Kind, LogId, LogIndex, Mark, NodeId, Outbox,
    ReplicaId, RequestId, ShardId, Start, StoreId, Term,
};
use bytes::{Bytes, BytesMut};
use std::time::Duration;

const HEAD: Head = Head {
    kind: Kind::GET,
    request_id: RequestId(0x0102_0304),
    shard: ShardId(5),
    epoch: Epoch(6),
};
const META: ReplyMeta = ReplyMeta { term: 7, index: 8 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sent(encode: impl FnOnce(&mut Outbox)) -> BytesMut {
    let mut out = Outbox::default();
    encode(&mut out);
    let mut bytes = BytesMut::new();
    out.slices()
        .for_each(|slice| bytes.extend_from_slice(slice));
    bytes
}

fn check(name: &str, bytes: &[u8], golden: &str) {
    assert_eq!(hex(bytes), golden, "{name}");
}

#[test]
fn version_1_is_sent_as_it_always_was() {
    let hello = Hello {
        oldest: 1,
        newest: 1,
        ..Hello::peer(ClusterId(0xfeed), NodeId(3))
    };
    check(
        "hello",
        &hello.encode(),
        "434f52454c49544801000100020000000000000000000000edfe000000000000\
             030000000000000000000000d38dbde4",
    );
    // Nodes of version 1 are refused, clients are not.
    let hello = Hello {
        oldest: 1,
        newest: 1,
        ..Hello::client(ClusterId(0xfeed))
    };
    let welcome = Welcome::answer(&hello, ClusterId(0xfeed), Epoch(1), NodeId(2), 1);
    check(
        "welcome",
        &welcome.encode(),
        "434f52454c49544800000100010000000000000000000000edfe000000000000\
             02000000000000000000800000100000001000000010000001000000a4cc62aa",
    );
    let write = WriteRequest {
        session: 11,
        number: 12,
        answered_below: 10,
        condition: Condition::Version(9),
        operation: Operation::Put,
        key: b"key",
    };
    let value = Bytes::from_static(b"value");
    let mut bytes = sent(|out| request::encode_write(out, HEAD, &write, &value));
    check(
        "write",
        &bytes,
        "3600000082e59bcf010000003100000004030201000000000500000006000000\
             2d0000006b65790b000000000000000c000000000000000a0000000000000002\
             090000000000000000dbffffff0300000076616c7565",
    );
    let frame = FrameParser::new(Accepts::Requests)
        .take(&mut bytes)
        .next()
        .unwrap()
        .unwrap();
    let command = WriteCommand::parse(frame.payload()).unwrap();
    assert_eq!((command.number, command.key.as_ref()), (12, &b"key"[..]));
    let bytes = sent(|out| request::encode_get(out, HEAD, &GetRequest { key: b"key" }));
    check(
        "get",
        &bytes,
        "0b00000048f0b369030000000b00000004030201000000000500000006000000\
             6b6579fdffffff03000000",
    );
    let bytes = sent(|out| request::encode_get_head(out, HEAD, &GetRequest { key: b"key" }));
    check(
        "get without value",
        &bytes,
        "0b00000067db8a33030001000b00000004030201000000000500000006000000\
             6b6579fdffffff03000000",
    );
    let bytes = sent(|out| response::encode_head(out, HEAD, META, 9, 5));
    check(
        "head",
        &bytes,
        "200000003b818ade8b0000002000000004030201000000000500000006000000\
             0700000000000000080000000000000009000000000000000500000000000000",
    );
    let page = ScanPage {
        meta: META,
        at_version: 8,
        more: true,
        items: vec![ScanHead {
            key: Bytes::from_static(b"key"),
            version: 9,
            value_len: 5,
            committed_us: None,
        }],
    };
    let bytes = sent(|out| response::encode_scan_heads(out, HEAD, &page));
    check(
        "page without values",
        &bytes,
        "30000000d01c53a88c0000002d00000004030201000000000500000006000000\
             0300000005000000090000000000000007000000000000000800000000000000\
             080000000000000001000000016b6579",
    );
    let mut bytes = sent(|out| response::encode_value(out, HEAD, META, 9, &value));
    check(
        "value",
        &bytes,
        "1d00000015597149840000001800000004030201000000000500000006000000\
             07000000000000000800000000000000090000000000000076616c7565",
    );
    let frame = FrameParser::new(Accepts::Answers)
        .take(&mut bytes)
        .next()
        .unwrap()
        .unwrap();
    let expected = Answer::Value {
        meta: META,
        version: 9,
        value,
    };
    assert_eq!(Answer::parse(&frame), Ok(expected));
    let failure = Failure::NotLeader { leader: 2 };
    let bytes = sent(|out| response::encode_failure(out, HEAD, META, failure));
    check(
        "failure",
        &bytes,
        "39000000127ddcbb890000003900000004030201000000000500000006000000\
             0700000000000000080000000000000000020000000000000000000000000000\
             00000000000000000000000000000000000000000000000000",
    );
}

/// A storage of which version 1 can say everything.
fn storage() -> StorageReply {
    let shard = ShardStorage {
        shard: 5,
        core: 1,
        policy: "leveled".to_owned(),
        levels: vec![LevelStorage {
            level: 1,
            runs: 2,
            tables: 3,
            bytes: 4,
            entries: 5,
            deletions: 6,
        }],
        value_segments: 7,
        value_bytes: 8,
        garbage_bytes: 9,
        debt_bytes: 10,
        memtable_bytes: 11,
        is_disk_full: true,
        scrub: ScrubState {
            cycle: 12,
            bytes_done: 13,
            bytes_total: 14,
            damaged: 15,
            is_running: true,
        },
        damaged: 1,
        damages: vec![DamagedPlace {
            file: "a file".to_owned(),
            offset: 16,
            what: "a checksum".to_owned(),
            keys: "a to b".to_owned(),
        }],
        ..ShardStorage::default()
    };
    StorageReply {
        node: 2,
        shards: vec![shard],
    }
}

/// Encodes an answer for a side of that version, and checks its bytes and that they can be read.
fn check_answer(version: u16, name: &str, answer: &Answer, read: &Answer, golden: &str) {
    let mut bytes = sent(|out| response::encode_for(version, out, HEAD, answer));
    check(name, &bytes, golden);
    let frame = FrameParser::new(Accepts::Answers)
        .take(&mut bytes)
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(Answer::parse(&frame).as_ref(), Ok(read), "{name}");
}

fn failed(failure: Failure) -> Answer {
    Answer::Failure {
        meta: META,
        failure,
    }
}

#[test]
fn a_side_of_version_1_is_answered_in_it() {
    let mut newer = storage();
    for shard in &mut newer.shards {
        shard.returning_bytes = 17;
        shard.returning_waits_for = "a scan".to_owned();
    }
    check_answer(
        1,
        "storage",
        &Answer::Storage(newer),
        &Answer::Storage(storage()),
        "d60000005234551a8a000000d60000000403020100000000050000000600000001000000020000000000000003\
         000000000000000400000000000000050000000000000006000000000000006120636865636b73756d61206669\
         6c65ffff10000000000000008a000000e6ffffff6120746f2062ffff0500000001006c6576656c6564ff9cffff\
         ff010000000700000000000000080000000000000009000000000000000a000000000000000b00000000000000\
         010c000000000000000d000000000000000e000000000000000f0000000000000001010000000000000078ffff\
         ff01000000020000000000000088ffffff01000000",
    );
    check_answer(
        1,
        "a full shard",
        &failed(Failure::ShardFull),
        &failed(Failure::DiskFull),
        "3900000067be2650890000003900000004030201000000000500000006000000070000000000000008000000000000\
         000500000000000000000000000000000000000000000000000000000000000000000000000000000000",
    );
}

#[test]
fn version_2_is_sent_as_it_always_was() {
    let hello = Hello {
        oldest: 2,
        newest: 2,
        ..Hello::peer(ClusterId(0xfeed), NodeId(3))
    };
    check(
        "hello",
        &hello.encode(),
        "434f52454c49544802000200020000000000000000000000edfe00000000000003000000000000000000000064dd\
         f533",
    );
    // Nodes of version 2 are refused, clients are not.
    let hello = Hello {
        newest: 2,
        ..Hello::client(ClusterId(0xfeed))
    };
    let welcome = Welcome::answer(&hello, ClusterId(0xfeed), Epoch(1), NodeId(2), 1);
    check(
        "welcome",
        &welcome.encode(),
        "434f52454c49544800000200010000000000000000000000edfe0000000000000200000000000000000080000010\
         00000010000000100000010000008ea08b8d",
    );
    let mut newer = storage();
    for shard in &mut newer.shards {
        shard.hidden_garbage_bytes = 18;
        shard.returning_bytes = 17;
        shard.returning_waits_for = "a scan".to_owned();
    }
    let newer = Answer::Storage(newer);
    check_answer(
        2,
        "storage",
        &newer,
        &newer,
        "ee000000f02a155e8d000000ee000000040302010000000005000000060000000100000002000000000000000300\
         0000000000000400000000000000050000000000000006000000000000006120636865636b73756d612066696c65\
         ffff10000000000000008a000000e6ffffff6120746f2062ffff0500000001006c6576656c6564ff9cffffff0100\
         00000700000000000000080000000000000009000000000000001200000000000000110000000000000061207363\
         616effff0a000000000000000b00000000000000010c000000000000000d000000000000000e000000000000000f\
         0000000000000001010000000000000060ffffff01000000020000000000000070ffffff01000000",
    );
    let full = failed(Failure::ShardFull);
    check_answer(
        2,
        "a full shard",
        &full,
        &full,
        "39000000d23c348d8900000039000000040302010000000005000000060000000700000000000000080000000000\
         00000d00000000000000000000000000000000000000000000000000000000000000000000000000000000",
    );
}

const VOTE: PeerVote = PeerVote {
    term: Term(9),
    node: ReplicaId(2),
    committed: true,
};
const PROMISE_EPOCH: PromiseEpoch = PromiseEpoch(0x1234_5678_9a00_0007);

#[test]
fn version_5_is_sent_as_it_always_was() {
    let of_5 = |hello| Hello {
        oldest: 5,
        newest: 5,
        ..hello
    };
    let hello = of_5(Hello::peer(ClusterId(0xfeed), NodeId(3)));
    check(
        "hello",
        &hello.encode(),
        "434f52454c49544805000500020000000000000000000000edfe000000000000030000000000000000000000\
         963ab1d5",
    );
    // Nodes of version 5 are refused, clients are not.
    let hello = of_5(Hello::client(ClusterId(0xfeed)));
    let welcome = Welcome::answer(&hello, ClusterId(0xfeed), Epoch(1), NodeId(2), 1);
    check(
        "welcome",
        &welcome.encode(),
        "434f52454c49544800000500010000000000000000000000edfe000000000000020000000000000000008000\
         00100000001000000010000001000000938ea523",
    );
    let bytes = sent(|out| peer::encode_snapshot_offer(out, HEAD, 4, &VOTE));
    check(
        "offer",
        &bytes,
        "19000000d1b0a4520e0100001900000004030201000000000500000006000000040000000000000009000000\
         00000000020000000000000001",
    );
    let ask = FileAsk {
        transfer: 4,
        file: Some(5),
        offset: 6,
    };
    let bytes = sent(|out| peer::encode_file_ask(out, HEAD, &ask));
    check(
        "question for a piece",
        &bytes,
        "21000000e5fef1dc0f0100002100000004030201000000000500000006000000040000000000000001050000\
         000000000000000000000000000600000000000000",
    );
    let piece = FileBytes {
        whole: 9,
        crc: 8,
        bytes: Bytes::from_static(b"piece"),
    };
    let bytes = sent(|out| peer::encode_file_bytes(out, HEAD, piece));
    check(
        "piece",
        &bytes,
        "1100000084c85a348e0100000c00000004030201000000000500000006000000090000000000000008000000\
         7069656365",
    );
    let hello = of_5(Hello::beats(ClusterId(0xfeed), NodeId(3)));
    check(
        "hello before beats",
        &hello.encode(),
        "434f52454c49544805000500050000000000000000000000edfe000000000000030000000000000000000000\
         e708c165",
    );
    let mut settings = Settings::new(6, 3, 1);
    (settings.key_bytes_max, settings.value_bytes_max) = (1, 2);
    settings.session_window = 4;
    let introduction = Introduction {
        cluster: FullClusterId(5),
        node: NodeId(3),
        store: StoreId(9),
        start: Start {
            incarnation: 4,
            nonce: 5,
        },
        mark: Mark(6),
        port: 7000,
        cores: 3,
        settings,
    };
    let bytes = sent(|out| peer::encode_introduction(out, HEAD, &introduction));
    check(
        "introduction",
        &bytes,
        "60000000ca0929cd080100006000000004030201000000000500000006000000050000000000000000000000\
         0000000003000000000000000900000000000000000000000000000004000000000000000500000000000000\
         0600000000000000581b030001000000060000000300000001000000020000000400000001000000",
    );
}

#[test]
fn version_4_is_sent_as_it_always_was() {
    let of_4 = |hello| Hello {
        oldest: 4,
        newest: 4,
        ..hello
    };
    let hello = of_4(Hello::peer(ClusterId(0xfeed), NodeId(3)));
    check(
        "hello",
        &hello.encode(),
        "434f52454c49544804000400020000000000000000000000edfe000000000000030000000000000000000000\
         fb0a8998",
    );
    // Nodes of version 4 are refused, clients are not.
    let hello = of_4(Hello::client(ClusterId(0xfeed)));
    let welcome = Welcome::answer(&hello, ClusterId(0xfeed), Epoch(1), NodeId(2), 1);
    check(
        "welcome",
        &welcome.encode(),
        "434f52454c49544800000400010000000000000000000000edfe000000000000020000000000000000008000\
         00100000001000000010000001000000da7859c2",
    );
}

#[test]
fn votes_and_acknowledgements_of_version_3_are_sent_as_they_always_were() {
    let last = Some(LogId {
        term: Term(8),
        node: ReplicaId(1),
        index: LogIndex(77),
    });
    let ask = VoteAsk {
        vote: VOTE,
        last,
        handed_over_by: Some((Term(8), ReplicaId(1))),
    };
    let bytes = sent(|out| peer::encode_vote(out, HEAD, false, &ask));
    check(
        "vote",
        &bytes,
        "3a0000009fdc5319020100003a00000004030201000000000500000006000000090000000000000002000000\
         0000000001080000000000000001000000000000004d00000000000000010800000000000000010000000000\
         0000",
    );
    let answer = VoteAnswer {
        vote: VOTE,
        last,
        granted: false,
        promised_ms: 299,
    };
    let bytes = sent(|out| peer::encode_vote_reply(out, HEAD, &answer));
    check(
        "answer to a vote",
        &bytes,
        "2e000000ae183b2c820100002e00000004030201000000000500000006000000090000000000000002000000\
         0000000001080000000000000001000000000000004d00000000000000002b010000",
    );
    let bytes = sent(|out| peer::encode_lead(out, HEAD, &VOTE));
    check(
        "lead",
        &bytes,
        "110000009fba230d0b0100001100000004030201000000000500000006000000090000000000000002000000\
         0000000001",
    );
    let bytes = sent(|out| peer::encode_lead_reply(out, HEAD, true));
    check(
        "answer to a lead",
        &bytes,
        "01000000b0a9a44b8b010000010000000403020100000000050000000600000001",
    );
    let result = AppendResult::Taken { matching: last };
    let bytes = sent(|out| peer::encode_append_reply(out, HEAD, &result, PROMISE_EPOCH));
    check(
        "answer to an append",
        &bytes,
        "350000004993a825800100003500000004030201000000000500000006000000000800000000000000010000\
         00000000004d0000000000000000000000000000000000000000000000000000000700009a78563412",
    );
    let reply = HeartbeatReply {
        beat: 3,
        shard: ShardId(5),
        result: AppendResult::HigherVote { vote: VOTE },
        epoch: PROMISE_EPOCH,
    };
    let bytes = sent(|out| peer::encode_heartbeats_reply(out, HEAD, &[reply]));
    check(
        "answers to heartbeats",
        &bytes,
        "41000000429646ba810100000000000004030201000000000500000006000000030000000000000005000000\
         0200000000000000000000000000000000ffffffffffffffff09000000000000000200000000000000010200\
         000700009a78563412",
    );
}

#[test]
fn beats_of_version_5_are_sent_as_they_always_were() {
    let node = Health {
        is_disk_full: true,
        is_draining: true,
        ..Health::default()
    };
    let health = NodeHealth {
        node,
        damaged: vec![ShardId(5), ShardId(6)],
        has_more: true,
        write_us: 90,
        map: Epoch(12),
    };
    let beat = Beat {
        number: 1,
        sent_at: 2,
        heard: 3,
        vouched: CoreSet::from_iter([0, 1, 255]),
        health: health.clone(),
        mark: Mark(7),
    };
    let bytes = sent(|out| peer::encode_beat(out, HEAD, &beat));
    check(
        "beat",
        &bytes,
        "53000000800716df0a0100005300000004030201000000000500000006000000010000000000000002000000\
         0000000003000000000000000300000000000000000000000000000000000000000000000000000000000080\
         8a5a000000020005000000060000000c0000000700000000000000",
    );
    let reply = BeatReply {
        number: 1,
        replied_at: 4,
        promise: Duration::from_millis(300),
        epoch: PROMISE_EPOCH,
        to: CoreSet::from_iter([0, 64]),
        health,
    };
    let bytes = sent(|out| peer::encode_beat_reply(out, HEAD, &reply));
    check(
        "answer to a beat",
        &bytes,
        "53000000e78bd11c8a0100005300000004030201000000000500000006000000010000000000000004000000\
         0000000000a3e111000000000700009a78563412010000000000000001000000000000000000000000000000\
         00000000000000008a5a000000020005000000060000000c000000",
    );
}

/// The bytes between nodes that are not about one group.
#[test]
fn questions_to_nodes_of_version_5_are_sent_as_they_always_were() {
    let register = NodeAsk::Register(Registration {
        node: 4,
        store: 1 << 90 | 9,
        host: "10.0.0.9".to_owned(),
        port: 7411,
        cores: 2,
        zone: "north".to_owned(),
        region: "here".to_owned(),
    });
    let bytes = sent(|out| peer::encode_node(out, HEAD, &register));
    check(
        "registration",
        &bytes,
        "35000000b8c5f78c0d0100003500000004030201000000000500000006000000040400000000000000090000\
         0000000000000000040000000031302e302e302e39f31c02006e6f727468ffffff68657265ffffffff",
    );
    let open = NodeAsk::Open {
        shard: 5,
        replica: 2 | 3 << 48,
        told: None,
    };
    let bytes = sent(|out| peer::encode_node(out, HEAD, &open));
    check(
        "open",
        &bytes,
        "350000003c6782fc0d0100003500000004030201000000000500000006000000010500000002000000000003\
         0000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    );
    let bytes = sent(|out| peer::encode_node_reply(out, HEAD, &NodeReply::Done { at: 9 }));
    check(
        "done",
        &bytes,
        "11000000015cb50b8d0100001100000004030201000000000500000006000000020900000000000000000000\
         0000000000",
    );
}

#[test]
fn reads_from_any_replica_of_version_3_are_sent_as_they_always_were() {
    let anywhere = Flags::FOLLOWER_MAY_ANSWER;
    let request = GetRequest { key: b"key" };
    let bytes = sent(|out| request::encode_get_with(out, HEAD, anywhere, &request));
    check(
        "get from any replica",
        &bytes,
        "0b00000016a6c1dd030002000b000000040302010000000005000000060000006b6579fdffffff03000000",
    );
    let request = ScanRequest {
        start: b"a",
        end: b"b",
        limit_items: 3,
        max_bytes: 4,
        at_version: 5,
    };
    let flags = anywhere.with(Flags::WITHOUT_VALUES);
    let bytes = sent(|out| request::encode_scan_with(out, HEAD, flags, &request));
    check(
        "keys of a page from any replica",
        &bytes,
        "22000000fd2027d50400030022000000040302010000000005000000060000006162feffffff01000000f7ffffff\
         0100000003000000040000000500000000000000",
    );
    let bytes = sent(|out| peer::encode_read_point(out, HEAD));
    check(
        "question for a read point",
        &bytes,
        "000000007096c3890c0100000000000004030201000000000500000006000000",
    );
    let given = GivenPoint {
        vote: PeerVote {
            term: Term(7),
            node: ReplicaId(2),
            committed: true,
        },
        upto: LogId {
            term: Term(7),
            node: ReplicaId(2),
            index: LogIndex(9),
        },
    };
    let mut bytes = sent(|out| peer::encode_read_point_reply(out, HEAD, &given));
    check(
        "read point",
        &bytes,
        "290000004437fcff8c01000029000000040302010000000005000000060000000700000000000000020000000000\
         000001070000000000000002000000000000000900000000000000",
    );
    let mut frames = FrameParser::new(Accepts::Peer).take(&mut bytes);
    let frame = frames.next().unwrap().unwrap();
    assert_eq!(peer::parse_read_point_reply(&frame), Ok(given));
}
