use super::{FILE_BYTES, Identity, IdentityError, check_same, decode, encode};
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
        held: [0, 3, 7].map(ShardId).into(),
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
            excluded: Some(Exclusion::RolledBack(start)),
            met: BTreeMap::new(),
            ..identity()
        },
    ];
    for identity in table {
        let bytes = encode(&identity);
        assert_eq!(bytes.len(), FILE_BYTES);
        assert_eq!(decode("f", &bytes).unwrap(), identity);
    }
}

#[test]
fn each_damaged_byte_is_noticed() {
    let good = encode(&identity());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(decode("f", &bad).is_err(), "byte {at}");
    }
    for len in [0, 100, BLOCK_SIZE, FILE_BYTES - 1] {
        assert!(matches!(
            decode("f", &good[..len]),
            Err(IdentityError::Corrupt { .. })
        ));
    }
}

#[test]
fn a_newer_format_is_named() {
    let mut newer = encode(&identity());
    newer[8] = 6;
    let error = decode("/d/node", &newer).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/d/node has format version 6; this program knows versions up to 5: use a newer one"
    );
}

/// The bytes of a file of version 5, as it is first written: others must read them.
#[test]
fn version_5_stays_as_it_is() {
    let bytes = encode(&identity());
    let hex = |range: std::ops::Range<usize>| -> String {
        bytes[range]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    assert_eq!(
        hex(0..64),
        "434c4e4f4445000005000000080000000300000002000300\
         0200000000000000cdab0000000000004d000000000000000000000400000000\
         0400000000000000"
    );
    assert_eq!(
        hex(64..162),
        "03000000000000004d000000000000000000000400000000\
         000000000000000000000000000000000000000000000000\
         02cdab0000000000000000000010000000\
         000000000000000000000000000000000000000000000000000000000000000000"
    );
    assert_eq!(hex(162..178), "00010000000000000101000000000000");
    assert_eq!(hex(290..294), "58020000");
    assert_eq!(hex(294..302), "1500000000000000");
    assert_eq!(
        hex(302..326),
        "010000000000000002000000000000000500000000000000"
    );
    assert_eq!(
        hex(326..374),
        "0b0000000000000000000000000000004d00000000000000000000040000000000000000000000000000000000000000"
    );
    assert_eq!(
        hex(374..415),
        "0b00000000000000000000000000000006000000000000006300000000000000\
         1f0000000000000001"
    );
    assert_eq!(hex(497..499), "8900");
    assert_eq!(hex(FILE_BYTES - 4..FILE_BYTES), "43b48fb3");
}

/// The bytes of files of versions 3 and 4, as they were written: without marks, and of version 3 without the
/// promise.
#[test]
fn versions_3_and_4_are_read() {
    let now = encode(&identity());
    for (version, promise_ms_max, crc_then) in [(3, 10_000, 0xc723_5e20_u32), (4, 600, 0x6a19_e2e1)]
    {
        let promise = if version == 3 { 290..290 } else { 290..294 };
        let mut bytes = [&now[..290], &now[promise], &now[302..374]].concat();
        for node in 0..3 {
            let at = 374 + 41 * node;
            bytes.extend_from_slice(&now[at..at + 32]);
        }
        bytes.extend_from_slice(&now[497..]);
        bytes.resize(FILE_BYTES - 4, 0);
        let len = FILE_BYTES - 4;
        bytes[len - 64..].fill(0);
        bytes[8] = version;
        let crc = crc32c::crc32c(&bytes);
        assert_eq!(
            format!("{crc:08x}"),
            format!("{crc_then:08x}"),
            "as it was written"
        );
        bytes.extend_from_slice(&crc.to_le_bytes());
        let mut expected = Identity {
            mark: Mark(0),
            promise_ms_max,
            ..identity()
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
                identity().held
            },
            ..identity()
        };
        assert_eq!(decode("f", &bytes).unwrap(), expected);
    }
}

#[test]
fn each_difference_is_one_sentence() {
    let stored = identity();
    type Change = fn(&mut Identity);
    let table: [(Change, &str); 6] = [
        (
            |i| i.node = NodeId(3),
            "node id 2, but the configuration says 3",
        ),
        (
            |i| i.name = 1,
            "cluster.name (a hash of it) 000000000000abcd, but the configuration says 0000000000000001",
        ),
        (
            |i| i.shards = 16,
            "the number of shards 8, but the configuration says 16",
        ),
        (
            |i| i.replicas = 1,
            "the number of replicas 3, but the configuration says 1",
        ),
        (
            |i| i.cores = 4,
            "the number of cores 2, but the configuration says 4",
        ),
        (
            |i| i.nodes = vec![NodeId(2)],
            "the nodes 1, 2, 5, but the configuration says 2",
        ),
    ];
    for (change, expected) in table {
        let mut configured = stored.clone();
        change(&mut configured);
        let error = check_same("/d".as_ref(), &stored, &configured).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(check_same("/d".as_ref(), &stored, &stored).is_ok());
}
