use super::super::tests::{forged, head, received};
use super::*;

fn told() -> ToldMembership {
    ToldMembership {
        term: 7,
        replica: 3 | 2 << 48,
        index: 900,
        body: vec![1, 2, 3],
    }
}

fn report() -> NodeReport {
    NodeReport {
        store: 1 << 90 | 9,
        free_bytes: 1 << 40,
        used_bytes: 5,
        leads: vec![LeadReport {
            term: 5,
            shard: 4,
            voters: vec![vec![1, 2, 3], vec![2, 3, 4 | 1 << 48]],
            learners: vec![5],
            at: 10,
            is_committed: true,
            last: 12,
            matching: vec![ReplicaMatch {
                replica: 2,
                index: 11,
                copied_bytes: 3,
                copy_bytes: 8,
            }],
        }],
        holds: vec![HoldReport {
            shard: u32::MAX,
            generation: 3,
            bytes: 77,
            is_down: true,
        }],
    }
}

pub(in super::super) fn asks() -> Vec<NodeAsk> {
    let change = |step| NodeAsk::Change { shard: 8, step };
    vec![
        NodeAsk::MapSince { epoch: 5 },
        NodeAsk::Open {
            shard: 6,
            replica: 3 | 1 << 48,
            told: None,
        },
        NodeAsk::Open {
            shard: u32::MAX,
            replica: 7,
            told: Some(told()),
        },
        change(MemberStep::AddLearner {
            replica: 4,
            store: 1 << 100,
        }),
        change(MemberStep::SetVoters {
            replicas: vec![1, 2, 4],
        }),
        change(MemberStep::RemoveLearner { replica: 4 }),
        change(MemberStep::Lead { to: 2 }),
        NodeAsk::Report(report()),
        NodeAsk::Register(Registration {
            node: 0,
            store: 9,
            host: "10.0.0.9".to_owned(),
            port: 7411,
            cores: 2,
            zone: "a".to_owned(),
            region: String::new(),
        }),
        NodeAsk::Admin { ask: vec![9; 70] },
    ]
}

fn replies() -> Vec<NodeReply> {
    vec![
        NodeReply::Map { bytes: vec![4; 99] },
        NodeReply::NoNews,
        NodeReply::Done { at: 3 },
        NodeReply::NotLeader { leader: None },
        NodeReply::NotLeader { leader: Some(2) },
        NodeReply::Lags {
            replica: 4,
            entries: 1_000,
        },
        NodeReply::Busy,
        NodeReply::failed("no such shard"),
        NodeReply::Admin { answer: vec![8; 3] },
    ]
}

fn asked(ask: &NodeAsk) -> Frame {
    let mut out = Outbox::default();
    encode_node(&mut out, head(), ask);
    received(&out).remove(0)
}

fn replied(reply: &NodeReply) -> Frame {
    let mut out = Outbox::default();
    encode_node_reply(&mut out, head(), reply);
    received(&out).remove(0)
}

#[test]
fn questions_and_answers_read_back() {
    for ask in asks() {
        let frame = asked(&ask);
        assert_eq!(frame.header.head.kind, kinds::NODE);
        assert_eq!(parse_node(&frame), Ok(ask));
    }
    for reply in replies() {
        let frame = replied(&reply);
        assert_eq!(frame.header.head.kind, kinds::NODE_REPLY);
        assert_eq!(parse_node_reply(&frame), Ok(reply));
    }
    assert_eq!(told().at().index, LogIndex(900));
}

/// Whatever is cut off or changed: an error, or another sound question, and never a panic.
#[test]
fn hostile_content_is_an_error() {
    for ask in asks() {
        let good = asked(&ask);
        let body = good.body();
        for len in 0..body.len() {
            let found = parse_node(&forged(kinds::NODE, &body[..len], &[]));
            assert_ne!(found.as_ref(), Ok(&ask), "cut at {len}");
        }
        for at in 0..body.len() {
            for bit in 0..8 {
                let mut bad = body.to_vec();
                bad[at] ^= 1 << bit;
                if let Ok(other) = parse_node(&forged(kinds::NODE, &bad, &[])) {
                    assert!(other.is_sound());
                }
            }
        }
    }
    for reply in replies() {
        let good = replied(&reply);
        for at in 0..good.body().len() {
            let mut bad = good.body().to_vec();
            bad[at] ^= 0xff;
            if let Ok(other) = parse_node_reply(&forged(kinds::NODE_REPLY, &bad, &[])) {
                assert!(other.is_sound());
            }
        }
    }
}

#[test]
fn what_is_beyond_its_bounds_is_malformed() {
    type Change = fn(&mut Registration);
    let changes: [Change; 6] = [
        |r| r.host.clear(),
        |r| r.host = "h".repeat(HOST_BYTES_MAX + 1),
        |r| r.zone = "z".repeat(PLACE_BYTES_MAX + 1),
        |r| r.cores = 0,
        |r| r.port = 0,
        |r| (r.port, r.cores) = (65_535, 2),
    ];
    for change in changes {
        let mut registration = Registration {
            host: "h".to_owned(),
            port: 1,
            cores: 1,
            ..Registration::default()
        };
        assert!(registration.is_sound());
        change(&mut registration);
        let mut out = Outbox::default();
        let head = head().of_kind(kinds::NODE);
        FrameBuilder::begin(out.buffer(), head)
            .nested(&NodeAsk::Register(registration))
            .seal();
        assert!(parse_node(&received(&out)[0]).is_err());
    }
    let NodeReply::Failed { why } = NodeReply::failed("ü".repeat(WHY_BYTES_MAX)) else {
        panic!()
    };
    assert_eq!(why.len(), WHY_BYTES_MAX);
}
