use super::*;
use crate::frame::Frame;
use crate::frame::{Accepts, FrameParser};
use crate::ids::{
    Epoch, FullClusterId, LogId, LogIndex, Mark, NodeId, ReplicaId, RequestId, ShardId, Start,
    StoreId, Term,
};
use crate::limits::DETACH_BYTES_MIN;
use bytes::Bytes;

pub(super) fn head() -> Head {
    Head {
        kind: Kind(0),
        request_id: RequestId(7),
        shard: ShardId(3),
        epoch: Epoch(1),
    }
}

fn sent(out: &Outbox) -> BytesMut {
    let mut bytes = BytesMut::new();
    for slice in out.slices() {
        bytes.extend_from_slice(slice);
    }
    bytes
}

pub(super) fn received(out: &Outbox) -> Vec<Frame> {
    let mut bytes = sent(out);
    let frames = FrameParser::new(Accepts::Peer).take(&mut bytes);
    let frames = frames.collect::<Result<Vec<_>, _>>().unwrap();
    assert!(bytes.is_empty());
    frames
}

fn id(index: u64) -> LogId {
    LogId {
        term: Term(5),
        node: ReplicaId(2),
        index: LogIndex(index),
    }
}

const VOTE: PeerVote = PeerVote {
    term: Term(5),
    node: ReplicaId(2),
    committed: true,
};

const EPOCH: PromiseEpoch = PromiseEpoch(u64::MAX - 7);

fn append(bodies: &[Bytes]) -> (AppendHead, Vec<PeerEntry>) {
    let entries: Vec<PeerEntry> = bodies
        .iter()
        .zip(10..)
        .map(|(body, index)| PeerEntry {
            id: id(index),
            kind: 2,
            body: body.clone(),
        })
        .collect();
    let append = AppendHead {
        vote: VOTE,
        before: Some(id(9)),
        committed: None,
        count: entries.len() as u32,
    };
    (append, entries)
}

#[test]
fn appends_read_back_whatever_the_sizes() {
    let small = Bytes::from_static(b"small");
    let large = Bytes::from(vec![7; DETACH_BYTES_MIN]);
    let cases: [&[Bytes]; 6] = [
        &[],
        &[Bytes::new()],
        &[small.clone(), large.clone(), small.clone()],
        std::slice::from_ref(&large),
        &[large.clone(), large.clone()],
        &[small.clone(), large.clone()],
    ];
    let mut out = Outbox::default();
    for bodies in cases {
        let (head_, entries) = append(bodies);
        encode_append(&mut out, head(), &head_, entries.into_iter());
    }
    let frames = received(&out);
    assert_eq!(frames.len(), cases.len());
    for (frame, bodies) in frames.iter().zip(cases) {
        assert_eq!(frame.header.head.kind, kinds::APPEND);
        assert_eq!(frame.header.head.request_id, RequestId(7));
        assert_eq!(parse_append(frame).unwrap(), append(bodies));
    }
}

#[test]
fn answers_read_back() {
    let results = [
        AppendResult::Taken { matching: None },
        AppendResult::Taken {
            matching: Some(id(4)),
        },
        AppendResult::Conflict { at: id(6) },
        AppendResult::HigherVote { vote: VOTE },
        AppendResult::Unable,
        AppendResult::Contradiction { at: id(6) },
    ];
    for result in results {
        let mut out = Outbox::default();
        encode_append_reply(&mut out, head(), &result, EPOCH);
        assert_eq!(parse_append_reply(&received(&out)[0]), Ok((result, EPOCH)));
    }
}

#[test]
fn a_refusal_with_one_byte_changed_is_no_acknowledgement() {
    for result in [
        AppendResult::Conflict { at: id(6) },
        AppendResult::HigherVote { vote: VOTE },
        AppendResult::Unable,
        AppendResult::Contradiction { at: id(6) },
    ] {
        let mut out = Outbox::default();
        encode_append_reply(&mut out, head(), &result, EPOCH);
        let good = received(&out).remove(0).body().to_vec();
        for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut wrong = good.clone();
            wrong[at] ^= 1 << bit;
            let parsed = parse_append_reply(&forged(kinds::APPEND_REPLY, &wrong, &[]));
            let taken = matches!(parsed, Ok((AppendResult::Taken { .. }, _)));
            assert!(!taken, "{result:?} with bit {bit} of byte {at} changed");
        }
    }
}

#[test]
fn heartbeats_read_back() {
    let beats: Vec<Heartbeat> = (0..5)
        .map(|n| Heartbeat {
            beat: n,
            shard: ShardId(n as u32),
            vote: VOTE,
            before: (n > 2).then(|| id(n)),
            committed: Some(id(n)),
        })
        .collect();
    let replies: Vec<HeartbeatReply> = (0..5)
        .map(|n| HeartbeatReply {
            beat: n,
            shard: ShardId(n as u32),
            result: AppendResult::Taken {
                matching: Some(id(n)),
            },
            epoch: PromiseEpoch(n << 60),
        })
        .collect();
    let mut out = Outbox::default();
    encode_heartbeats(&mut out, head(), &beats);
    encode_heartbeats_reply(&mut out, head(), &replies);
    let frames = received(&out);
    assert_eq!(parse_heartbeats(&frames[0]).unwrap(), beats);
    assert_eq!(parse_heartbeats_reply(&frames[1]).unwrap(), replies);
}

#[test]
fn votes_transfers_and_snapshots_read_back() {
    let ask = VoteAsk {
        vote: VOTE,
        last: Some(id(1)),
        handed_over_by: Some((Term(3), ReplicaId(2))),
    };
    let answer = VoteAnswer {
        vote: VOTE,
        last: None,
        granted: true,
        promised_ms: u32::MAX,
    };
    let transfer = Transfer {
        from: VOTE,
        to: ReplicaId(3),
        last: Some(id(8)),
    };
    let piece = Bytes::from(vec![1; 100_000]);
    let mut out = Outbox::default();
    encode_vote(&mut out, head(), true, &ask);
    encode_vote_reply(&mut out, head(), &answer);
    encode_transfer(&mut out, head(), &transfer);
    encode_lead(&mut out, head(), &VOTE);
    encode_lead_reply(&mut out, head(), true);
    encode_lead_reply(&mut out, head(), false);
    encode_snapshot_offer(&mut out, head(), 4, &VOTE);
    let bytes = FileBytes {
        whole: 9,
        crc: 8,
        bytes: piece,
    };
    encode_file_bytes(&mut out, head(), bytes.clone());
    encode_snapshot_reply(&mut out, head(), &VOTE);
    encode_plain(&mut out, head(), kinds::DONE);
    let frames = received(&out);
    assert_eq!(frames[0].header.head.kind, kinds::PRE_VOTE);
    assert_eq!(parse_vote(&frames[0]), Ok(ask));
    assert_eq!(parse_vote_reply(&frames[1]), Ok(answer));
    assert_eq!(parse_transfer(&frames[2]), Ok(transfer));
    assert_eq!(parse_lead(&frames[3]), Ok(VOTE));
    assert_eq!(parse_lead_reply(&frames[4]), Ok(true));
    assert_eq!(parse_lead_reply(&frames[5]), Ok(false));
    assert_eq!(parse_snapshot_offer(&frames[6]), Ok((4, VOTE)));
    assert_eq!(parse_file_bytes(&frames[7]), Ok(bytes));
    assert_eq!(parse_snapshot_reply(&frames[8]), Ok(VOTE));
    assert_eq!(frames[9].header.head.kind, kinds::DONE);
}

fn introduction() -> Introduction {
    Introduction {
        cluster: FullClusterId(1 << 100 | 7),
        node: NodeId(3),
        store: StoreId(1 << 90 | 9),
        start: Start {
            incarnation: 4,
            nonce: 5,
        },
        mark: Mark(1 << 40),
        port: 7000,
        cores: 3,
        settings: Settings::new(6, 3, 0),
    }
}

#[test]
fn introductions_and_receptions_read_back() {
    let by = introduction();
    let mut out = Outbox::default();
    encode_introduction(&mut out, head(), &by);
    assert_eq!(parse_introduction(&received(&out)[0]), Ok(by));
    let verdicts = [
        Verdict::Known,
        Verdict::OtherCluster,
        Verdict::NoSuchNode,
        Verdict::OtherSettings,
        Verdict::OtherStore(StoreId(8)),
        Verdict::RolledBack(by.start),
        Verdict::Behind(by.mark),
        Verdict::LostEntries,
        Verdict::Removed,
    ];
    for verdict in verdicts {
        let mut out = Outbox::default();
        let reception = Reception { verdict, by };
        encode_reception(&mut out, head(), &reception);
        assert_eq!(parse_reception(&received(&out)[0]), Ok(reception));
    }
}

#[test]
fn each_setting_that_differs_is_named() {
    let ours = introduction().settings;
    assert_eq!(ours.difference(&ours), None);
    type Change = fn(&mut Settings);
    let table: [(Change, &str); 3] = [
        (
            |s| s.shards = 9,
            "the number of shards is 6 here and 9 there",
        ),
        (
            |s| s.reads = 1,
            "cluster.reads (0 is lease, 1 quorum) is 0 here and 1 there",
        ),
        (
            |s| s.version = 2,
            "the version of log entries is 1 here and 2 there",
        ),
    ];
    for (change, expected) in table {
        let mut theirs = ours;
        change(&mut theirs);
        assert_eq!(ours.difference(&theirs).unwrap().to_string(), expected);
    }
}

/// A frame whose checksum is right and whose content is not.
pub(super) fn forged(kind: Kind, body: &[u8], value: &[u8]) -> Frame {
    let mut out = Outbox::default();
    FrameBuilder::begin(out.buffer(), Head { kind, ..head() })
        .raw(body)
        .seal_with(value);
    received(&out).remove(0)
}

#[test]
fn malformed_content_is_refused() {
    let (append_head, entries) = append(&[Bytes::from_static(b"a"), Bytes::from_static(b"bc")]);
    let mut out = Outbox::default();
    encode_append(&mut out, head(), &append_head, entries.into_iter());
    let good = received(&out).remove(0);
    let (body, value) = (good.body(), good.value());
    for len in 0..value.len() {
        let cut = forged(kinds::APPEND, body, &value[..len]);
        assert!(parse_append(&cut).is_err(), "value cut at {len}");
    }
    for len in 0..body.len() {
        let cut = forged(kinds::APPEND, &body[..len], &value);
        assert!(parse_append(&cut).is_err(), "body cut at {len}");
        let cut = forged(kinds::VOTE, &body[..len.min(40)], &[]);
        assert!(parse_vote(&cut).is_err());
    }
    let mut lying = body.to_vec();
    let count_at = lying.len() - 4;
    lying[count_at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(parse_append(&forged(kinds::APPEND, &lying, &value)).is_err());
    assert!(parse_heartbeats(&forged(kinds::HEARTBEATS, &[], &[0; 84])).is_err());
    assert!(parse_append_reply(&forged(kinds::APPEND_REPLY, &[9; 45], &[])).is_err());
}

/// Parses a frame as every kind there is, whatever its own.
fn parse_as_anything(frame: &Frame) {
    let _ = parse_append(frame);
    let _ = parse_append_reply(frame);
    let _ = parse_heartbeats(frame);
    let _ = parse_heartbeats_reply(frame);
    let _ = parse_vote(frame);
    let _ = parse_vote_reply(frame);
    let _ = parse_transfer(frame);
    let _ = parse_snapshot_offer(frame);
    let _ = parse_file_ask(frame);
    let _ = parse_file_bytes(frame);
    let _ = parse_snapshot_reply(frame);
    let _ = parse_introduction(frame);
    let _ = parse_reception(frame);
    let _ = parse_lead(frame);
    let _ = parse_lead_reply(frame);
    let _ = parse_beat(frame);
    let _ = parse_beat_reply(frame);
}

#[test]
fn whatever_comes_with_a_right_checksum_is_parsed_or_refused() {
    let (append_head, entries) = append(&[Bytes::from_static(b"a"), Bytes::from_static(b"bc")]);
    let beat = Heartbeat {
        beat: 1,
        shard: ShardId(2),
        vote: VOTE,
        before: Some(id(1)),
        committed: None,
    };
    let reply = HeartbeatReply {
        beat: 1,
        shard: ShardId(2),
        result: AppendResult::Unable,
        epoch: EPOCH,
    };
    let ask = VoteAsk {
        vote: VOTE,
        last: Some(id(1)),
        handed_over_by: None,
    };
    let answer = VoteAnswer {
        vote: VOTE,
        last: None,
        granted: false,
        promised_ms: 300,
    };
    let mut out = Outbox::default();
    encode_append(&mut out, head(), &append_head, entries.into_iter());
    encode_append_reply(&mut out, head(), &reply.result, reply.epoch);
    encode_heartbeats(&mut out, head(), &[beat, beat]);
    encode_heartbeats_reply(&mut out, head(), &[reply, reply]);
    encode_vote(&mut out, head(), false, &ask);
    encode_vote_reply(&mut out, head(), &answer);
    encode_snapshot_offer(&mut out, head(), 4, &VOTE);
    let ask = FileAsk {
        transfer: 4,
        file: Some(5),
        offset: 6,
    };
    encode_file_ask(&mut out, head(), &ask);
    encode_lead(&mut out, head(), &VOTE);
    encode_lead_reply(&mut out, head(), true);
    encode_beat(&mut out, head(), &liveness::tests::beat());
    encode_beat_reply(&mut out, head(), &liveness::tests::reply());
    for good in received(&out) {
        let (kind, body, value) = (good.header.head.kind, good.body(), good.value());
        let whole = [body, &value].concat();
        for bit in 0..whole.len() * 8 {
            let mut wrong = whole.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let (body, value) = wrong.split_at(body.len());
            parse_as_anything(&forged(kind, body, value));
        }
        for len in 0..whole.len() {
            let cut = &whole[..len];
            let (body, value) = cut.split_at(body.len().min(len));
            parse_as_anything(&forged(kind, body, value));
        }
    }
}

proptest::proptest! {
    #[test]
    fn random_bodies_are_parsed_or_refused(body: Vec<u8>, value: Vec<u8>) {
        parse_as_anything(&forged(kinds::APPEND, &body, &value));
    }
}

#[test]
fn questions_about_the_formation_and_their_answers_read_back() {
    let by = introduction();
    let ballot = Ballot {
        round: 3,
        store: StoreId(1 << 90 | 9),
    };
    let charter = Charter {
        cluster: FullClusterId(1 << 120 | 5),
        stores: vec![(NodeId(1), StoreId(1 << 90 | 9)), (NodeId(7), StoreId(0))],
    };
    assert_eq!(charter.store_of(NodeId(7)), Some(StoreId(0)));
    assert_eq!(charter.store_of(NodeId(2)), None);
    for step in [
        FormationStep::Who,
        FormationStep::Prepare(ballot),
        FormationStep::Accept(ballot, charter.clone()),
        FormationStep::Name,
        FormationStep::Stranger,
        FormationStep::Join(JoinPlace {
            host: "höst".to_owned(),
            port: 7411,
            cores: 3,
            zone: "a".to_owned(),
            region: String::new(),
        }),
    ] {
        let mut out = Outbox::default();
        let from = by;
        let name = 5;
        let ask = FormationAsk { name, from, step };
        encode_formation(&mut out, head(), &ask);
        assert_eq!(parse_formation(&received(&out)[0]), Ok(ask));
    }
    let promised = ballot;
    for answer in [
        FormationAnswer::Unformed {
            promised,
            accepted: None,
        },
        FormationAnswer::Unformed {
            promised,
            accepted: Some((ballot, charter.clone())),
        },
        FormationAnswer::Formed {
            charter: charter.clone(),
            verdict: Verdict::OtherStore(StoreId(6)),
        },
        FormationAnswer::Refused(Verdict::OtherSettings),
        FormationAnswer::Named(LastStarts(std::array::from_fn(|at| 1 << at))),
        FormationAnswer::Joined {
            node: NodeId(9),
            name: 77,
            charter: charter.clone(),
            map: Bytes::from_static(b"a map"),
        },
        FormationAnswer::Declined("not like this".to_owned()),
    ] {
        let mut out = Outbox::default();
        let reply = FormationReply { by, answer };
        encode_formation_reply(&mut out, head(), &reply);
        assert_eq!(parse_formation_reply(&received(&out)[0]), Ok(reply));
    }
}

/// Nodes out of order would be found by one search and not by another.
#[test]
fn a_charter_out_of_order_is_malformed() {
    let stores = vec![(NodeId(7), StoreId(1)), (NodeId(1), StoreId(2))];
    let charter = Charter {
        cluster: FullClusterId(5),
        stores,
    };
    let mut out = Outbox::default();
    let ask = FormationAsk {
        name: 5,
        from: introduction(),
        step: FormationStep::Accept(Ballot::default(), charter),
    };
    encode_formation(&mut out, head(), &ask);
    let what = "formation";
    let malformed = Err(DecodeError::Malformed { what });
    assert_eq!(parse_formation(&received(&out)[0]), malformed);
}

#[test]
fn a_store_that_was_rolled_back_had_other_starts() {
    let start = |incarnation, nonce| Start { incarnation, nonce };
    let mut starts = LastStarts::default();
    for incarnation in 1..=40 {
        starts.add(start(incarnation, 100 + incarnation));
    }
    let last = start(40, 140);
    for (earlier, expected) in [
        (start(39, 139), true),
        (start(39, 9), false),
        (start(25, 125), true),
        (start(25, 9), false),
        // So long ago that nobody knows.
        (start(24, 9), true),
        (start(40, 140), true),
        (start(41, 9), false),
    ] {
        assert_eq!(starts.may_include(last, earlier), expected, "{earlier:?}");
    }
}

#[test]
fn what_is_fetched_reads_back() {
    let key = Bytes::from_static;
    let asks = [
        FetchAsk::Outcome { index: LogIndex(7) },
        FetchAsk::Range {
            least: LogIndex(9),
            at: None,
            bytes: 1 << 20,
            first: key(b"\0a"),
            last: key(b"\0z"),
            after: key(b""),
        },
        FetchAsk::Range {
            least: LogIndex(0),
            at: Some(LogIndex(4)),
            bytes: 0,
            first: key(b"\0a"),
            last: key(b"\0a"),
            after: key(b"\0a"),
        },
    ];
    for ask in asks {
        let mut out = Outbox::default();
        encode_fetch(&mut out, head(), &ask);
        assert_eq!(parse_fetch(&received(&out)[0]), Ok(ask));
    }
    let record = |name: &'static [u8], len: usize| FetchedRecord {
        key: key(name),
        version: LogIndex(3),
        kind: match len {
            32 => FetchedKind::Large,
            _ => FetchedKind::Bytes,
        },
        value: Bytes::from(vec![5; len]),
    };
    let ends = [FetchEnd::Complete, FetchEnd::More, FetchEnd::Damaged];
    let records = ends.map(|end| FetchAnswer::Records {
        as_of: LogIndex(11),
        end,
        records: vec![
            record(b"\0a", 0),
            record(b"\0b", 100_000),
            record(b"\0c", 3),
        ],
    });
    let nothing = FetchAnswer::Records {
        as_of: LogIndex(0),
        end: FetchEnd::Complete,
        records: Vec::new(),
    };
    let outcomes = [Ok(()), Err(None), Err(Some(LogIndex(5)))].map(FetchAnswer::Decided);
    for answer in records.into_iter().chain(outcomes).chain([nothing]) {
        let mut out = Outbox::default();
        encode_fetch_reply(&mut out, head(), answer.clone());
        assert_eq!(parse_fetch_reply(&received(&out)[0]), Ok(answer));
    }
}
