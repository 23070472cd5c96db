use super::*;
use crate::frame::{Accepts, FrameParser};
use crate::ids::{ClusterId, Epoch, RequestId, ShardId, UploadId};
use crate::map::MapNode;
use crate::status::{NodePeer, NodeStranger, ShardRole, ShardStatus, UploadsStatus};
use crate::storage::{DamagedPlace, LevelStorage, ShardStorage};
use crate::upload::{
    Digest, DigestKind, PartLength, StagedChunk, UploadRefusal, UploadState, UploadSummary,
};
use bytes::BytesMut;

const META: ReplyMeta = ReplyMeta { term: 3, index: 44 };
const HEAD: Head = Head {
    kind: Kind::GET,
    request_id: RequestId(9),
    shard: ShardId(1),
    epoch: Epoch(1),
};

fn map() -> ClusterMap {
    let node = |id| MapNode {
        id,
        host: format!("host-{id}"),
        base_port: 7411,
        cores: 2,
    };
    ClusterMap::place(
        Epoch(4),
        ClusterId(77),
        vec![node(3), node(1), node(2)],
        8,
        3,
    )
}

fn status() -> StatusReply {
    let shard = ShardStatus {
        shard: 1,
        role: ShardRole::Leader,
        term: 4,
        uploads: UploadsStatus {
            open: 1,
            staged_bytes: 2,
            dead_bytes: 3,
        },
        ..Default::default()
    };
    StatusReply {
        node: 1,
        version: "0.1.0".into(),
        shards: vec![shard, ShardStatus { shard: 2, ..shard }],
        strangers: vec![NodeStranger {
            node: 3,
            why: "it is a copy".into(),
        }],
        peers: vec![
            NodePeer {
                node: 2,
                heard_ms: Some(45),
                counts: true,
                promised: false,
                is_clock_right: true,
                health: vec!["full".into(), "slow".into()],
            },
            NodePeer {
                node: 3,
                ..Default::default()
            },
        ],
        ..Default::default()
    }
}

/// To an older side a line about a peer would be a stranger's, or malformed.
#[test]
fn older_sides_hear_of_no_peers() {
    for (version, expected, has_uploads) in [
        (1, 0, false),
        (2, 0, false),
        (3, 2, false),
        (5, 2, false),
        (6, 2, true),
    ] {
        let mut out = Outbox::default();
        encode_for(version, &mut out, HEAD, &Answer::Status(status()));
        let mut bytes = BytesMut::new();
        for slice in out.slices() {
            bytes.extend_from_slice(slice);
        }
        let frame = FrameParser::new(Accepts::Answers).take(&mut bytes).next();
        let Ok(Answer::Status(read)) = Answer::parse(&frame.unwrap().unwrap()) else {
            panic!("a status");
        };
        assert_eq!((read.peers.len(), read.strangers.len()), (expected, 1));
        let uploads = read.shards.iter().map(|shard| shard.uploads.open == 1);
        assert!(uploads.eq([has_uploads; 2]), "version {version}");
    }
}

fn storage() -> StorageReply {
    StorageReply {
        node: 2,
        shards: vec![ShardStorage {
            shard: 3,
            policy: "leveled".into(),
            levels: vec![LevelStorage {
                level: 6,
                tables: 9,
                ..Default::default()
            }],
            returning_bytes: 5,
            returning_waits_for: "merges".into(),
            damaged: 1,
            damages: vec![DamagedPlace {
                file: "/d/1.sst".into(),
                offset: 4096,
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

fn page() -> ScanPage {
    let item = |key: &str, value: &str| ScanItem {
        key: Bytes::copy_from_slice(key.as_bytes()),
        version: 5,
        value: Bytes::copy_from_slice(value.as_bytes()).into(),
    };
    let large = ScanItem {
        value: ScanValue::Large {
            len: limits::LARGE_VALUE_BYTES_MAX,
        },
        ..item("c", "")
    };
    let items = vec![item("a", "1"), item("b", ""), large, item("", "3")];
    ScanPage {
        meta: META,
        at_version: 6,
        more: true,
        items,
    }
}

fn large() -> LargeReply {
    LargeReply {
        meta: META,
        version: 40,
        upload: UploadId(6 << 100),
        len: 3 << 20,
        chunk_bytes: 1 << 20,
        crc32c: 7,
        digest: Digest {
            kind: DigestKind::Blake3,
            bytes: [9; 32],
        },
        committed_us: 11,
        attributes: vec![1, 2, 3],
        parts: vec![
            PartLength {
                part: 5,
                len: 1 << 20,
            },
            PartLength {
                part: 2,
                len: 2 << 20,
            },
        ],
    }
}

fn summary() -> UploadSummary {
    UploadSummary {
        upload: UploadId(8),
        key: b"key".to_vec(),
        begun_us: 1,
        expires_us: 2,
        chunks: 3,
        bytes: 4,
        state: UploadState::Open,
    }
}

fn upload_replies() -> impl Iterator<Item = UploadReply> {
    let refusals = [
        UploadRefusal::TooMany { limit: 9 },
        UploadRefusal::OtherKey,
        UploadRefusal::ChunkDiffers,
        UploadRefusal::Incomplete { part: 1, chunk: 2 },
        UploadRefusal::ChecksumDiffers,
        UploadRefusal::TooLarge { limit: 1 << 31 },
        UploadRefusal::Malformed,
    ];
    let states = [
        UploadState::Unknown,
        UploadState::Open,
        UploadState::Committed { version: 5 },
        UploadState::Conflicted { current: Some(6) },
        UploadState::Conflicted { current: None },
        UploadState::Aborted,
        UploadState::Expired,
        UploadState::Dropped,
    ];
    let refusals = refusals.into_iter().map(UploadState::Refused);
    let chunk = |chunk| StagedChunk {
        part: 3,
        chunk,
        len: 1 << 20,
        crc32c: 4,
    };
    let states = states.into_iter().chain(refusals);
    states.enumerate().map(move |(n, state)| UploadReply {
        meta: META,
        state,
        chunk_bytes: 1 << 20,
        expires_in_ms: 77,
        chunks: (0..n as u32).map(chunk).collect(),
        more: n % 2 == 1,
    })
}

/// A client of an older version would take the answer for a broken one.
#[test]
fn older_clients_get_a_failure_for_a_large_value() {
    let too_large = Answer::Failure {
        meta: META,
        failure: Failure::TooLarge {
            limit: limits::VALUE_BYTES_MAX as u64,
        },
    };
    let mut plain = heads();
    plain
        .items
        .iter_mut()
        .for_each(|item| item.committed_us = None);
    let plain = Answer::ScanHeads(plain);
    for version in 1..=version::NEWEST {
        let sent = |answer: Answer| {
            let mut out = Outbox::default();
            encode_for(version, &mut out, HEAD, &answer);
            let mut bytes = BytesMut::new();
            out.slices()
                .for_each(|slice| bytes.extend_from_slice(slice));
            let frame = FrameParser::new(Accepts::Answers).take(&mut bytes).next();
            (Answer::parse(&frame.unwrap().unwrap()).unwrap(), answer)
        };
        let answers = [
            Answer::Large(large()),
            Answer::ScanPage(page()),
            Answer::ScanHeads(heads()),
        ];
        for answer in answers {
            let (found, newest) = sent(answer);
            let expected = match version >= version::LARGE_VALUES {
                true => &newest,
                false => &too_large,
            };
            assert_eq!(&found, expected, "version {version}");
        }
        assert_eq!(sent(plain.clone()).0, plain);
    }
}

#[test]
fn a_description_whose_lengths_disagree_is_refused() {
    let parsed = |change: fn(&mut LargeReply)| {
        let mut reply = large();
        change(&mut reply);
        let mut out = Outbox::default();
        encode_large(&mut out, HEAD, &reply);
        let body: Vec<u8> = out.slices().flatten().copied().collect();
        LargeReply::parse(&body[limits::HEADER_BYTES..]).is_ok()
    };
    assert!(parsed(|_| {}));
    assert!(parsed(|reply| (reply.len, reply.parts) = (0, vec![])));
    assert!(!parsed(|reply| reply.len += 1));
    assert!(!parsed(|reply| reply.chunk_bytes = 0));
    assert!(!parsed(|reply| reply.parts[0].len = u64::MAX));
    assert!(!parsed(|reply| {
        let len = limits::LARGE_VALUE_BYTES_MAX;
        reply.parts = vec![PartLength { part: 0, len }; 2];
        reply.len = 2 * len;
    }));
}

fn heads() -> ScanPage<ScanHead> {
    let item = |key: &str, value_len, committed_us| ScanHead {
        key: Bytes::copy_from_slice(key.as_bytes()),
        version: 5,
        value_len,
        committed_us,
    };
    ScanPage {
        meta: META,
        at_version: 6,
        more: false,
        items: vec![
            item("a", 1 << 31, None),
            item("b", 1 << 31, Some(u64::MAX)),
            item("bc", 0, None),
            item("d", 1, Some(0)),
        ],
    }
}

fn encode(out: &mut Outbox, answer: &Answer) {
    super::encode(out, HEAD, answer);
}

fn all() -> Vec<Answer> {
    let mut all = vec![
        Answer::Written {
            meta: META,
            version: 1,
        },
        Answer::Conflict {
            meta: META,
            current: 2,
        },
        Answer::NotFound { meta: META },
        Answer::Value {
            meta: META,
            version: 3,
            value: Bytes::from_static(b"value"),
        },
        Answer::Value {
            meta: META,
            version: 3,
            value: Bytes::from(vec![1; 100_000]),
        },
        Answer::Head {
            meta: META,
            version: 3,
            value_len: 1 << 40,
        },
        Answer::ScanHeads(heads()),
        Answer::ScanPage(page()),
        Answer::ScanPage(ScanPage {
            items: vec![],
            more: false,
            ..page()
        }),
        Answer::SessionOpened {
            meta: META,
            session: 4,
        },
        Answer::Status(status()),
        Answer::Storage(storage()),
        Answer::Map(map()),
        Answer::Large(large()),
        Answer::Large(LargeReply::default()),
        Answer::Uploads(UploadsPage::default()),
        Answer::Uploads(UploadsPage {
            meta: META,
            uploads: vec![summary(), UploadSummary::default(), summary()],
            more: true,
        }),
    ];
    all.extend(upload_replies().map(Answer::Upload));
    let reason = Reason::LeadershipLost;
    let failures = [
        Failure::NotLeader { leader: 2 },
        Failure::WrongNode,
        Failure::WrongEpoch { map: map() },
        Failure::Throttled { retry_after_ms: 5 },
        Failure::TooLarge { limit: 6 },
        Failure::DiskFull,
        Failure::ShardFull,
        Failure::Unavailable {
            reason,
            nothing_done: true,
        },
        Failure::SessionExpired,
        Failure::Stale,
        Failure::Corrupt,
        Failure::Malformed,
        Failure::VersionGone,
        Failure::WindowFull,
    ];
    all.extend(failures.map(|failure| Answer::Failure {
        meta: META,
        failure,
    }));
    all
}

#[test]
fn answers_survive_the_wire_behind_each_other() {
    let mut out = Outbox::default();
    all().iter().for_each(|answer| encode(&mut out, answer));
    let mut bytes = BytesMut::new();
    out.slices()
        .for_each(|slice| bytes.extend_from_slice(slice));
    let found: Vec<_> = FrameParser::new(Accepts::Answers)
        .take(&mut bytes)
        .map(|frame| Answer::parse(&frame.unwrap()).unwrap())
        .collect();
    assert_eq!(found, all());
    out.clear();
    assert!(out.is_empty() && out.slices().next().is_none());
}

#[test]
fn damaged_bodies_never_panic() {
    for answer in all() {
        let mut out = Outbox::default();
        encode(&mut out, &answer);
        let mut bytes = BytesMut::new();
        out.slices()
            .for_each(|slice| bytes.extend_from_slice(slice));
        let header_bytes = limits::HEADER_BYTES;
        for bit in (header_bytes * 8..bytes.len() * 8).take(20_000) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let crc = crc32c::crc32c(&bad[8..]).to_le_bytes();
            bad[4..8].copy_from_slice(&crc);
            let frame = FrameParser::new(Accepts::Answers)
                .take(&mut bad)
                .next()
                .unwrap()
                .unwrap();
            // With its checksum made good again it is another answer, or an error.
            let _ = Answer::parse(&frame);
        }
    }
}

#[test]
fn impossible_maps_are_refused() {
    let changes: [fn(&mut ClusterMap); 8] = [
        |map| map.nodes.clear(),
        |map| map.shards.clear(),
        |map| map.nodes.swap(0, 1),
        |map| map.nodes[0].cores = 0,
        |map| map.nodes[0].base_port = u16::MAX,
        |map| map.nodes[0].host.clear(),
        |map| map.shards[0].replicas.clear(),
        |map| map.shards[0].replicas[0] = 99,
    ];
    assert_eq!(map().check(), Ok(()));
    for (n, change) in changes.iter().enumerate() {
        let mut map = map();
        change(&mut map);
        assert!(map.check().is_err(), "change {n}");
    }
}

#[test]
fn the_map_leads_to_a_core() {
    let map = map();
    let replicas: Vec<_> = map.replicas(ShardId(4)).map(|node| node.0).collect();
    assert_eq!(replicas, [2, 3, 1]);
    assert_eq!(
        map.address(crate::NodeId(2), ShardId(4)),
        Some(("host-2", 7411))
    );
    assert_eq!(
        map.address(crate::NodeId(2), ShardId(5)),
        Some(("host-2", 7412))
    );
    assert_eq!(map.address(crate::NodeId(9), ShardId(5)), None);
    assert!(map.shard_of(b"key").0 < 8);
}
