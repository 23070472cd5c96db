use super::*;
use crate::frame::{Accepts, FrameParser};
use crate::ids::{ClusterId, Epoch, RequestId, ShardId};
use crate::map::MapNode;
use crate::status::{NodePeer, NodeStranger, ShardRole, ShardStatus};
use crate::storage::{DamagedPlace, LevelStorage, ShardStorage};
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
    for (version, expected) in [(1, 0), (2, 0), (3, 2)] {
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
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    let items = vec![item("a", "1"), item("b", ""), item("", "3")];
    ScanPage {
        meta: META,
        at_version: 6,
        more: true,
        items,
    }
}

fn heads() -> ScanPage<ScanHead> {
    let item = |key: &str, value_len| ScanHead {
        key: Bytes::copy_from_slice(key.as_bytes()),
        version: 5,
        value_len,
    };
    ScanPage {
        meta: META,
        at_version: 6,
        more: false,
        items: vec![item("a", u32::MAX), item("bc", 0)],
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
    ];
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
