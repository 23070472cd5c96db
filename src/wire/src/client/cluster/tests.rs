use super::*;
use crate::frame::{Accepts, FrameParser};
use crate::response::{self, Answer};
use crate::{Epoch, RequestId, ShardId};
use bytes::BytesMut;

const HEAD: Head = Head {
    kind: Kind::GET,
    request_id: RequestId(0x0102_0304),
    shard: ShardId(5),
    epoch: Epoch(6),
};

fn sent(encode: impl FnOnce(&mut Outbox)) -> BytesMut {
    let mut out = Outbox::default();
    encode(&mut out);
    let mut bytes = BytesMut::new();
    out.slices()
        .for_each(|slice| bytes.extend_from_slice(slice));
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn asks() -> Vec<ClusterAsk> {
    let text = str::to_owned;
    let orders = [
        ClusterOrder::Status,
        ClusterOrder::Drain { node: 1 },
        ClusterOrder::Undrain { node: 2 },
        ClusterOrder::Remove { node: 3 },
        ClusterOrder::Replace { old: 4, new: 5 },
        ClusterOrder::Set {
            key: text("moves_max"),
            value: text("16"),
        },
        ClusterOrder::MoveShard {
            shard: 6,
            from: 7,
            to: 8,
        },
        ClusterOrder::LeadShard { shard: 9, to: 10 },
        ClusterOrder::Rejoin {
            node: 11,
            store: 12,
        },
        ClusterOrder::Recover { lost: vec![13, 14] },
    ];
    let ask = |order| ClusterAsk {
        order,
        dry_run: true,
    };
    orders.into_iter().map(ask).collect()
}

fn view() -> ClusterView {
    let text = str::to_owned;
    ClusterView {
        cluster: 1,
        epoch: 2,
        version: 4,
        leader: 3,
        map_nodes: vec![3],
        settings: vec![ViewSetting {
            key: text("replicas"),
            value: text("3"),
        }],
        nodes: vec![ViewNode {
            node: 3,
            store: 4,
            waiting: 5,
            host: text("host-name"),
            port: 6,
            cores: 7,
            zone: text("z"),
            region: text("r"),
            state: text("active"),
            heard_ms: Some(8),
            replicas: 9,
            prefers: 10,
            leads: 11,
            used_bytes: 12,
            free_bytes: 13,
        }],
        shards: vec![ViewShard {
            replicas: vec![3],
            leader: 3,
        }],
        changes: vec![ViewChange {
            shard: 0,
            to: 3,
            from: 2,
            why: text("move"),
            phase: text("copying"),
            bytes_done: 14,
            bytes_all: 15,
            running_ms: 16,
        }],
        troubles: vec![text("a trouble")],
    }
}

fn answers() -> Vec<ClusterAnswer> {
    let lines = || vec!["one line".to_owned(), "another".to_owned()];
    vec![
        ClusterAnswer::Status { view: view() },
        ClusterAnswer::Planned { lines: lines() },
        ClusterAnswer::Done { lines: lines() },
        ClusterAnswer::Refused {
            why: "a reason".to_owned(),
        },
    ]
}

#[test]
fn orders_and_answers_are_sent_as_they_were_first_sent() {
    let mut found = String::new();
    for ask in asks() {
        let mut bytes = sent(|out| encode_cluster_ask(out, HEAD, &ask));
        found += &format!("{}\n", hex(&bytes));
        let mut frames = FrameParser::new(Accepts::Requests).take(&mut bytes);
        let frame = frames.next().unwrap().unwrap();
        assert_eq!(ClusterAsk::parse(frame.body()), Ok(ask));
    }
    for answer in answers() {
        let answer = Answer::Cluster(answer);
        let mut bytes = sent(|out| response::encode(out, HEAD, &answer));
        found += &format!("{}\n", hex(&bytes));
        let mut frames = FrameParser::new(Accepts::Answers).take(&mut bytes);
        let frame = frames.next().unwrap().unwrap();
        assert_eq!(Answer::parse(&frame), Ok(answer));
    }
    assert_eq!(found, include_str!("golden.hex"));
}

#[test]
fn hostile_bytes_are_refused_or_a_message() {
    let mut bodies = Vec::new();
    for ask in asks() {
        let mut bytes = sent(|out| encode_cluster_ask(out, HEAD, &ask));
        let frame = FrameParser::new(Accepts::Requests).take(&mut bytes).next();
        bodies.push(frame.unwrap().unwrap().body().to_vec());
    }
    for answer in answers() {
        let mut bytes = sent(|out| encode_cluster_answer(out, HEAD, &answer));
        let frame = FrameParser::new(Accepts::Answers).take(&mut bytes).next();
        bodies.push(frame.unwrap().unwrap().body().to_vec());
    }
    for body in bodies {
        for at in 0..body.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut broken = body.clone();
                broken[at] = value;
                let _ = ClusterAsk::parse(&broken);
                let _ = ClusterAnswer::parse(&broken);
            }
            let _ = ClusterAsk::parse(&body[..at]);
            let _ = ClusterAnswer::parse(&body[..at]);
        }
    }
}

#[test]
fn long_lists_are_refused() {
    let parse = |order| {
        let ask = ClusterAsk {
            order,
            dry_run: false,
        };
        let mut bytes = sent(|out| encode_cluster_ask(out, HEAD, &ask));
        let frame = FrameParser::new(Accepts::Requests).take(&mut bytes).next();
        ClusterAsk::parse(frame.unwrap().unwrap().body())
    };
    let lost = |count: usize| ClusterOrder::Recover {
        lost: vec![1; count],
    };
    assert!(parse(lost(limits::LOST_NODES_MAX)).is_ok());
    assert!(parse(lost(limits::LOST_NODES_MAX + 1)).is_err());
    let set = |len: usize| ClusterOrder::Set {
        key: "k".repeat(len),
        value: String::new(),
    };
    assert!(parse(set(limits::SETTING_BYTES_MAX)).is_ok());
    assert!(parse(set(limits::SETTING_BYTES_MAX + 1)).is_err());
}
