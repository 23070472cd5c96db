use super::format::FILE_BYTES_MIN;
use super::{
    Expected, ExpectedCluster, HeldShard, HeldState, Identity, IdentityError, check_same, decode,
    encode,
};
use crate::node::cluster::formation::Acceptor;
use crate::node::cluster::judge::Met;
use crate::node::cluster::standing::Exclusion;
use corelith_io::BLOCK_SIZE;
use corelith_shards::{NodeId, ShardId};
use corelith_wire::peer::{Ballot, Charter, LastStarts};
use corelith_wire::{FullClusterId, Mark, Start, StoreId};
use std::collections::BTreeMap;

fn charter() -> Charter {
    let stores = [(1, 11), (2, 1 << 90 | 77), (5, 0)];
    Charter {
        cluster: FullClusterId(1 << 100 | 0xabcd),
        stores: stores
            .map(|(node, store)| (NodeId(node), StoreId(store)))
            .into(),
    }
}

fn ballot(round: u64) -> Ballot {
    let store = StoreId(1 << 90 | 77);
    Ballot { round, store }
}

fn identity() -> Identity {
    let met = Met {
        store: StoreId(11),
        start: Start {
            incarnation: 6,
            nonce: 99,
        },
        mark: Mark(31),
        has_lost: true,
    };
    Identity {
        shards: 8,
        replicas: 3,
        reads: 1,
        cores: 2,
        node: NodeId(2),
        name: 0xabcd,
        store: StoreId(1 << 90 | 77),
        incarnation: 4,
        starts: LastStarts(std::array::from_fn(|at| at as u64 + 256)),
        mark: Mark(21),
        promise_ms_max: 600,
        formation: Acceptor {
            promised: ballot(3),
            accepted: None,
            charter: Some(charter()),
        },
        excluded: None,
        nodes: vec![NodeId(1), NodeId(2), NodeId(5)],
        met: BTreeMap::from([(NodeId(1), met)]),
        is_founded: true,
        held: [
            (ShardId(0), HeldShard::first(HeldState::Made)),
            (ShardId(3), held(7, HeldState::ToBeMade)),
            (ShardId(7), held(1, HeldState::Gone)),
            (ShardId::META, held(2, HeldState::Dropped)),
        ]
        .into(),
    }
}

fn held(generation: u16, state: HeldState) -> HeldShard {
    HeldShard { generation, state }
}

/// The same as older versions had it.
fn as_before() -> Identity {
    let made = HeldShard::first(HeldState::Made);
    Identity {
        reads: 0,
        is_founded: false,
        held: [0, 3, 7].map(|shard| (ShardId(shard), made)).into(),
        ..identity()
    }
}

#[test]
fn what_is_written_is_read() {
    let accepted = Acceptor {
        promised: ballot(3),
        accepted: Some((ballot(2), charter())),
        charter: None,
    };
    let start = Start {
        incarnation: 9,
        nonce: 1,
    };
    let table = [
        identity(),
        Identity {
            formation: Acceptor::default(),
            ..identity()
        },
        Identity {
            formation: accepted,
            excluded: Some(Exclusion::OtherStore(StoreId(1 << 70))),
            ..identity()
        },
        Identity {
            excluded: Some(Exclusion::Behind(Mark(1 << 40))),
            ..identity()
        },
        Identity {
            excluded: Some(Exclusion::LostEntries),
            ..identity()
        },
        Identity {
            excluded: Some(Exclusion::Removed),
            node: NodeId(0),
            is_founded: false,
            held: BTreeMap::new(),
            ..identity()
        },
        Identity {
            excluded: Some(Exclusion::RolledBack(start)),
            met: BTreeMap::new(),
            ..identity()
        },
    ];
    for identity in table {
        let mut bytes = encode(&identity);
        assert_eq!(bytes.len(), FILE_BYTES_MIN);
        assert_eq!(decode("f", &bytes).unwrap(), identity);
        // What is left of a longer one.
        bytes.extend_from_slice(&[7; BLOCK_SIZE]);
        assert_eq!(decode("f", &bytes).unwrap(), identity);
    }
    let mut longest = identity();
    longest.shards = 4096;
    for shard in (0..4096).map(ShardId) {
        longest.held.insert(shard, held(u16::MAX, HeldState::Made));
    }
    let met = longest.met[&NodeId(1)];
    longest.met = (1..=4096).map(|node| (NodeId(node), met)).collect();
    assert_eq!(decode("f", &encode(&longest)).unwrap(), longest);
}

#[test]
fn each_damaged_byte_is_noticed() {
    let good = encode(&identity());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(decode("f", &bad).is_err(), "byte {at}");
    }
    for len in [0, 100, BLOCK_SIZE, FILE_BYTES_MIN - 1] {
        assert!(matches!(
            decode("f", &good[..len]),
            Err(IdentityError::Corrupt { .. })
        ));
    }
}

#[test]
fn a_newer_format_is_named() {
    let mut newer = encode(&identity());
    newer[8] = 7;
    let error = decode("/d/node", &newer).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/d/node has format version 7; this program knows versions up to 6: use a newer one"
    );
}

/// The bytes of a file of version 6, as it is first written: others must read them.
#[test]
fn version_6_stays_as_it_is() {
    let bytes = encode(&identity());
    let hex = |range: std::ops::Range<usize>| -> String {
        bytes[range]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    assert_eq!(
        hex(0..72),
        "434c4e4f444500000600000000200000080000000300000001000200030001000200000000000000cdab000000000000\
         4d0000000000000000000004000000000400000000000000"
    );
    assert_eq!(hex(170..178), "0001000000000000");
    assert_eq!(hex(298..310), "580200001500000000000000");
    assert_eq!(
        hex(382..435),
        "010000000100000000000000\
         0b00000000000000000000000000000006000000000000006300000000000000\
         1f0000000000000001"
    );
    assert_eq!(
        hex(435..467),
        "04000000000000000000010300000007000007000000010003ffffffff020002"
    );
    assert_eq!(hex(FILE_BYTES_MIN - 4..FILE_BYTES_MIN), "fa535ad7");
}

/// A file of version 5, but for its checksum.
fn version_5() -> Vec<u8> {
    let now = encode(&identity());
    let mut bytes = b"CLNODE\0\0\x05\0\0\0".to_vec();
    bytes.extend_from_slice(&[8, 0, 0, 0, 3, 0, 0, 0, 2, 0, 3, 0]);
    // From the node's id to the charter's stores.
    bytes.extend_from_slice(&now[32..382]);
    bytes.extend_from_slice(&now[394..435]);
    bytes.resize(bytes.len() + 2 * 41, 0);
    bytes.push(0b1000_1001);
    bytes.resize(FILE_BYTES_MIN - 4, 0);
    bytes
}

fn sealed(mut bytes: Vec<u8>, crc_then: u32) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    let (crc_now, crc_then) = (format!("{crc:08x}"), format!("{crc_then:08x}"));
    assert_eq!(crc_now, crc_then, "as it was written");
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The bytes of a file of version 5, as it was written.
#[test]
fn version_5_is_read() {
    let bytes = sealed(version_5(), 0xb38f_b443);
    assert_eq!(decode("f", &bytes).unwrap(), as_before());
}

/// The bytes of files of versions 3 and 4, as they were written: without marks, and of version 3 without the
/// promise.
#[test]
fn versions_3_and_4_are_read() {
    let then = version_5();
    for (version, promise_ms_max, crc_then) in [(3, 10_000, 0xc723_5e20_u32), (4, 600, 0x6a19_e2e1)]
    {
        let promise = if version == 3 { 290..290 } else { 290..294 };
        let mut bytes = [&then[..290], &then[promise], &then[302..374]].concat();
        for node in 0..3 {
            let at = 374 + 41 * node;
            bytes.extend_from_slice(&then[at..at + 32]);
        }
        bytes.extend_from_slice(&then[497..]);
        bytes.resize(FILE_BYTES_MIN - 4, 0);
        bytes[8] = version;
        let bytes = sealed(bytes, crc_then);
        let mut expected = Identity {
            mark: Mark(0),
            promise_ms_max,
            ..as_before()
        };
        for met in expected.met.values_mut() {
            (met.mark, met.has_lost) = (Mark(0), false);
        }
        assert_eq!(decode("f", &bytes).unwrap(), expected);
    }
}

/// The bytes of files of versions 1 and 2, as they were written.
#[test]
fn older_versions_are_of_a_cluster_with_any_stores() {
    for (version, held) in [(1_u32, 0), (2, 0b1000_1001)] {
        let mut bytes = b"CLNODE\0\0".to_vec();
        for number in [version, 8, 3] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&[2, 0, 3, 0]);
        for number in [2_u64, 0xabcd, 77, 1, 2, 5] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(held);
        bytes.resize(BLOCK_SIZE - 4, 0);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let expected = Identity {
            store: StoreId(77),
            incarnation: 0,
            starts: LastStarts::default(),
            mark: Mark(0),
            promise_ms_max: 10_000,
            formation: Acceptor {
                charter: Some(Charter {
                    cluster: FullClusterId(0xabcd),
                    stores: [1, 2, 5].map(|node| (NodeId(node), StoreId::ANY)).into(),
                }),
                ..Acceptor::default()
            },
            met: BTreeMap::new(),
            held: if version == 1 {
                [].into()
            } else {
                as_before().held
            },
            ..as_before()
        };
        assert_eq!(decode("f", &bytes).unwrap(), expected);
    }
}

#[test]
fn each_difference_is_one_sentence() {
    let stored = identity();
    let same = ExpectedCluster {
        name: stored.name,
        shards: stored.shards,
        replicas: stored.replicas,
        reads: stored.reads,
        nodes: stored.nodes.clone(),
    };
    type Change = fn(&mut ExpectedCluster);
    let table: [(Change, &str); 4] = [
        (
            |c| c.name = 1,
            "cluster.name (a hash of it) 000000000000abcd, but the configuration says 0000000000000001",
        ),
        (
            |c| c.shards = 16,
            "the number of shards 8, but the configuration says 16",
        ),
        (
            |c| c.replicas = 1,
            "the number of replicas 3, but the configuration says 1",
        ),
        (
            |c| c.nodes = vec![NodeId(2)],
            "the nodes 1, 2, 5, but the configuration says 2",
        ),
    ];
    let expected = |node, cluster| Expected {
        node,
        cores: 1,
        cluster,
    };
    let check = |expected| check_same("/d".as_ref(), &stored, &expected);
    for (change, why) in table {
        let mut configured = same.clone();
        change(&mut configured);
        let error = check(expected(None, Some(configured))).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = check(expected(Some(NodeId(3)), None)).unwrap_err();
    let why = "node id 2, but the configuration says 3";
    assert!(error.to_string().contains(why), "{error}");
    for node in [None, Some(NodeId(2))] {
        assert!(check(expected(node, None)).is_ok());
        assert!(check(expected(node, Some(same.clone()))).is_ok());
    }
    // Whoever joins has no id before the cluster has given it one.
    let joining = Identity {
        node: NodeId(0),
        ..Identity::default()
    };
    assert!(check_same("/d".as_ref(), &joining, &expected(Some(NodeId(3)), None)).is_ok());
}
