//! Uploads of large values, and reads of their chunks.

use super::{CORES, Client, Cluster, PORT, key_of};
use crate::node::request::budget::MADE;
use bytes::Bytes;
use corelith_io::sim::SimNode;
use corelith_wire::handshake::Hello;
use corelith_wire::limits::{CHUNK_BYTES_MAX, VALUE_BYTES_MAX};
use corelith_wire::request::{self, Condition, ScanRequest};
use corelith_wire::response::{Answer, Failure, ScanValue};
use corelith_wire::upload::{
    self, Attributes, CommitUpload, UploadRefusal, UploadState, UploadStatus,
};
use corelith_wire::{ClusterId, Flags, Kind, Outbox, UploadId, version};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

mod asking;
mod bad;
mod damage;

use asking::{as_upload, client_of_leader, commit_of, content, counts, id_of, leader};

const ID: UploadId = UploadId(0x77);

#[test]
fn a_value_that_was_uploaded_is_described_and_read_by_its_chunks() {
    let cluster = Cluster::start(40, 3);
    let nodes = cluster.nodes.clone();
    cluster.sim.block_on(cluster.client, async move {
        // At the core that has the shard, and at one that passes everything on.
        for core in 0..CORES {
            let mut client = client_of_leader(&nodes, core).await;
            let key = key_of(0, core.into());
            let upload = UploadId(9 + u128::from(core));
            let parts = [
                vec![content(CHUNK_BYTES_MAX, 1), content(70_000, 2)],
                vec![content(CHUNK_BYTES_MAX, 3), content(5, 4)],
            ];
            let ended = client.upload(upload, &key, &parts, Condition::Absent).await;
            let UploadState::Committed { version } = ended else {
                panic!("{ended:?}");
            };
            let len = parts.iter().flatten().map(Bytes::len).sum::<usize>() as u64;
            let described = client.describe(&key).await;
            assert_eq!((described.version, described.len), (version, len));
            assert_eq!((described.upload, described.parts.len()), (upload, 2));
            let attributes = Attributes::decode(&described.attributes).unwrap();
            assert_eq!(attributes.pairs[0].1, "text/plain");
            assert!(described.committed_us > 0 && described.meta.index >= version);
            let head = client.get_with(Flags::WITHOUT_VALUES, &key).await;
            let Answer::Head { value_len, .. } = head else {
                panic!("{head:?}");
            };
            assert_eq!(value_len, len);
            let wishes = Flags::WITHOUT_VALUES.with(Flags::DESCRIBED);
            match client.get_with(wishes, &key).await {
                Answer::Large(again) => assert_eq!(again.parts, described.parts),
                other => panic!("{other:?}"),
            }
            let end = [&key[..], b"\0"].concat();
            let scan = ScanRequest {
                start: &key,
                end: &end,
                limit_items: 10,
                max_bytes: 100_000,
                at_version: 0,
            };
            let encode = |out: &mut Outbox, head| {
                request::encode_scan_with(out, head, wishes, &scan);
            };
            match client.ask(0, encode).await {
                Answer::ScanHeads(page) => {
                    let head = &page.items[0];
                    let time = Some(described.committed_us);
                    assert_eq!((head.value_len, head.committed_us), (len, time));
                }
                other => panic!("{other:?}"),
            }
            for (part, chunks) in (0..).zip(&parts) {
                for (chunk, value) in (0..).zip(chunks) {
                    let id = id_of(upload, (part, chunk));
                    let whole = client.bytes_of(id, 0, CHUNK_BYTES_MAX as u32).await;
                    assert!(whole == value, "{id}");
                    assert!(client.bytes_of(id, 1, 3).await == value[1..3], "{id}");
                }
            }
            let missing = client.read(id_of(upload, (2, 0)), 0, 1).await;
            assert!(matches!(missing, Answer::NotFound { .. }), "{missing:?}");
            assert_eq!(
                client.hold(upload).await,
                UploadState::Committed { version }
            );
            // Asked again, it says so again.
            let commit = commit_of(upload, &parts, Condition::Absent);
            assert_eq!(client.commit(&commit).await, ended);
        }
    });
}

#[test]
fn chunks_come_in_any_order_and_again() {
    let cluster = Cluster::start(41, 3);
    let nodes = cluster.nodes.clone();
    cluster.sim.block_on(cluster.client, async move {
        let mut client = client_of_leader(&nodes, 0).await;
        let key = key_of(0, 0);
        let whole = content(CHUNK_BYTES_MAX, 1);
        assert_eq!(
            client.chunk(id_of(ID, (0, 0)), &whole).await,
            UploadState::Unknown
        );
        for _ in 0..2 {
            let begun = as_upload(client.begin(ID, &key).await);
            assert_eq!(begun.state, UploadState::Open);
            assert_eq!(begun.chunk_bytes as usize, CHUNK_BYTES_MAX);
            assert!(begun.expires_in_ms > 0 && begun.expires_in_ms <= 60_000);
        }
        let other_key = as_upload(client.begin(ID, &key_of(0, 1)).await).state;
        assert_eq!(other_key, UploadState::Refused(UploadRefusal::OtherKey));
        // All at once, the last first, and one of them twice.
        let mut out = Outbox::default();
        let mut wanted = BTreeSet::new();
        let last = content(100, 2);
        let crc_of = |value: &Bytes| crc32c::crc32c(value);
        let sent = [(2, &last), (1, &whole), (0, &whole), (1, &whole)];
        for (chunk, value) in sent {
            let head = client.head(0);
            wanted.insert(head.request_id);
            let id = id_of(ID, (0, chunk));
            upload::encode_chunk(&mut out, head, id, crc_of(value), value);
        }
        client.send(&out).await;
        while !wanted.is_empty() {
            let (id, answer) = client.receive().await.unwrap();
            assert!(wanted.remove(&id));
            assert_eq!(as_upload(answer).state, UploadState::Open);
        }
        let other = content(100, 3);
        let differs = UploadState::Refused(UploadRefusal::ChunkDiffers);
        assert_eq!(client.chunk(id_of(ID, (0, 2)), &other).await, differs);
        let first = client.how(ID, None).await;
        let found = first.chunks.iter().map(|chunk| (chunk.chunk, chunk.len));
        assert!(found.eq([(0, CHUNK_BYTES_MAX as u32), (1, CHUNK_BYTES_MAX as u32)]));
        assert!(first.more && first.state == UploadState::Open);
        let rest = client.how(ID, Some((0, 1))).await;
        assert_eq!((rest.chunks.len(), rest.more), (1, false));
        assert_eq!(rest.chunks[0].crc32c, crc_of(&last));
        let page = client.list(UploadId(0)).await;
        assert_eq!((page.uploads.len(), page.more), (1, false));
        let summary = &page.uploads[0];
        assert_eq!((summary.upload, &summary.key), (ID, &key));
        assert_eq!(summary.chunks, 3);
        assert_eq!(client.list(ID).await.uploads, []);
        // What was damaged on its way to the client's frame is not taken.
        let wrong = client.ask(0, |out, head| {
            upload::encode_chunk(out, head, id_of(ID, (1, 0)), 7, &last);
        });
        let expected = UploadState::Refused(UploadRefusal::ChecksumDiffers);
        assert_eq!(as_upload(wrong.await).state, expected);
    });
}

#[test]
fn an_upload_that_comes_to_nothing_gives_its_space_back() {
    let cluster = Cluster::start(42, 3);
    let nodes = cluster.nodes.clone();
    cluster.sim.block_on(cluster.client, async move {
        let mut client = client_of_leader(&nodes, 0).await;
        let key = key_of(0, 0);
        let session = client.open_session(0).await;
        let put = client.put(0, (session, 1), &key, b"small").await;
        let Answer::Written { version, .. } = put else {
            panic!("{put:?}");
        };
        let parts = [vec![content(CHUNK_BYTES_MAX, 1), content(70_000, 2)]];
        let len = (CHUNK_BYTES_MAX + 70_000) as u64;
        let commit = commit_of(ID, &parts, Condition::Any);
        as_upload(client.begin(ID, &key).await);
        client.chunk(id_of(ID, (0, 0)), &parts[0][0]).await;
        let incomplete = UploadRefusal::Incomplete { part: 0, chunk: 1 };
        assert_eq!(
            client.commit(&commit).await,
            UploadState::Refused(incomplete)
        );
        client.chunk(id_of(ID, (0, 1)), &parts[0][1]).await;
        let other = CommitUpload {
            crc32c: 1,
            ..commit.clone()
        };
        let differs = UploadState::Refused(UploadRefusal::ChecksumDiffers);
        assert_eq!(client.commit(&other).await, differs);
        assert_eq!(counts(&mut client).await, (1, len, 0));
        let absent = CommitUpload {
            condition: Condition::Absent,
            ..commit.clone()
        };
        let conflicted = UploadState::Conflicted {
            current: Some(version),
        };
        assert_eq!(client.commit(&absent).await, conflicted);
        assert_eq!(client.commit(&commit).await, conflicted, "it has ended");
        let aborted = UploadId(5);
        as_upload(client.begin(aborted, &key).await);
        client.chunk(id_of(aborted, (0, 0)), &parts[0][0]).await;
        for _ in 0..2 {
            assert_eq!(client.abort(aborted).await, UploadState::Aborted);
        }
        let begun = corelith_io::now();
        while counts(&mut client).await != (0, 0, 0) {
            assert!(begun.elapsed() < Duration::from_secs(60));
            corelith_io::sleep(Duration::from_millis(100)).await;
        }
        for (upload, part) in [(ID, 0), (ID, 1), (aborted, 0)] {
            let found = client.read(id_of(upload, (0, part)), 0, 1).await;
            assert!(matches!(found, Answer::NotFound { .. }), "{found:?}");
        }
        let found = client.get(0, &key).await;
        assert!(
            matches!(&found, Answer::Value { value, .. } if value == "small"),
            "{found:?}"
        );
        assert_eq!(client.how(ID, None).await.state, conflicted);
    });
}

/// What a leader took another one goes on with.
#[test]
fn an_upload_survives_its_leader_and_any_replica_gives_its_chunks() {
    let cluster = Cluster::start(43, 3);
    let nodes = cluster.nodes.clone();
    let (sim, key) = (cluster.sim.clone(), key_of(0, 0));
    let (of_upload, ended) = (nodes.clone(), key.clone());
    let parts = [vec![content(CHUNK_BYTES_MAX, 1), content(70_000, 2)]];
    let sent = parts.clone();
    let first = cluster.sim.block_on(cluster.client, async move {
        let mut client = client_of_leader(&of_upload, 0).await;
        as_upload(client.begin(ID, &ended).await);
        client.chunk(id_of(ID, (0, 0)), &sent[0][0]).await;
        leader(&of_upload).await
    });
    sim.crash(first);
    let left: Vec<SimNode> = nodes.into_iter().filter(|node| *node != first).collect();
    cluster.sim.block_on(cluster.client, async move {
        let begun = corelith_io::now();
        let mut client = loop {
            assert!(begun.elapsed() < Duration::from_secs(60), "no leader");
            let mut found = None;
            for node in &left {
                let (mut client, _) = Client::connect(node.address(PORT)).await;
                let ask = UploadStatus {
                    upload: ID,
                    after: None,
                    chunks_max: 5,
                };
                let answer =
                    client.ask(0, |out, head| upload::encode_upload_status(out, head, ask));
                if let Answer::Upload(reply) = answer.await {
                    assert_eq!((reply.state, reply.chunks.len()), (UploadState::Open, 1));
                    found = Some(client);
                }
            }
            match found {
                Some(client) => break client,
                None => corelith_io::sleep(Duration::from_millis(100)).await,
            }
        };
        let second = id_of(ID, (0, 1));
        assert_eq!(client.chunk(second, &parts[0][1]).await, UploadState::Open);
        let commit = commit_of(ID, &parts, Condition::Absent);
        let ended = client.commit(&commit).await;
        assert!(matches!(ended, UploadState::Committed { .. }), "{ended:?}");
        for node in &left {
            let (mut client, _) = Client::connect(node.address(PORT)).await;
            let begun = corelith_io::now();
            let value = loop {
                assert!(begun.elapsed() < Duration::from_secs(60), "no chunk");
                match client.read(second, 10, 20).await {
                    Answer::Value { value, .. } => break value,
                    // It has not applied it yet.
                    Answer::NotFound { .. } => {}
                    other => panic!("{other:?}"),
                }
                corelith_io::sleep(Duration::from_millis(10)).await;
            };
            assert!(value == parts[0][1][10..20]);
            let described = client.get_with(Flags::FOLLOWER_MAY_ANSWER, &key).await;
            let Answer::Large(described) = described else {
                panic!("{described:?}");
            };
            assert_eq!(described.upload, ID);
        }
    });
}

#[test]
fn an_older_client_gets_a_failure_that_it_knows() {
    let cluster = Cluster::start(44, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let key = key_of(0, 0);
        let parts = [vec![content(70_000, 2)]];
        let ended = client.upload(ID, &key, &parts, Condition::Any).await;
        assert!(matches!(ended, UploadState::Committed { .. }), "{ended:?}");
        let scan = ScanRequest {
            start: b"",
            end: b"",
            limit_items: 10,
            max_bytes: 100_000,
            at_version: 0,
        };
        let answer = client.ask(0, |out, head| request::encode_scan(out, head, &scan));
        let Answer::ScanPage(page) = answer.await else {
            panic!("no page");
        };
        assert_eq!(page.items[0].value, ScanValue::Large { len: 70_000 });
        let hello = Hello {
            newest: version::LARGE_VALUES - 1,
            ..Hello::client(ClusterId(0))
        };
        let (mut old, _) = Client::introduce(address, hello).await;
        let expected = Failure::TooLarge {
            limit: VALUE_BYTES_MAX as u64,
        };
        let of_get = old.get(0, &key).await;
        let of_scan = old.ask(0, |out, head| request::encode_scan(out, head, &scan));
        for answer in [of_get, of_scan.await] {
            match answer {
                Answer::Failure { failure, .. } => assert_eq!(failure, expected),
                other => panic!("{other:?}"),
            }
        }
        match old.get_with(Flags::WITHOUT_VALUES, &key).await {
            Answer::Head { value_len, .. } => assert_eq!(value_len, 70_000),
            other => panic!("{other:?}"),
        }
        let heads = old.ask(0, |out, head| request::encode_scan_keys(out, head, &scan));
        match heads.await {
            Answer::ScanHeads(page) => {
                assert_eq!(page.items[0].value_len, 70_000);
                assert_eq!(page.items[0].committed_us, None);
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn what_makes_no_sense_is_refused_and_the_connection_lives() {
    let cluster = Cluster::start(45, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let failure = |answer| match answer {
            Answer::Failure { failure, .. } => failure,
            other => panic!("{other:?}"),
        };
        let no_key = failure(client.begin(ID, b"").await);
        assert_eq!(no_key, Failure::Malformed);
        let of_another = failure(client.begin(ID, &key_of(1, 0)).await);
        assert_eq!(of_another, Failure::Malformed);
        for kind in 0x09..=0x10 {
            let answer = client.ask(0, |out, head| {
                let head = head.of_kind(Kind(kind));
                let frame = corelith_wire::FrameBuilder::begin(out.buffer(), head);
                frame.raw(b"nonsense").seal_with(b"and more of it");
            });
            assert_eq!(failure(answer.await), Failure::Malformed, "kind {kind}");
        }
        let backwards = failure(client.read(id_of(ID, (0, 0)), 2, 2).await);
        assert_eq!(backwards, Failure::Malformed);
        assert_eq!(client.how(ID, None).await.state, UploadState::Unknown);
    });
}

/// Many chunks at once, of one client and another, are all taken while the memory of the node stays within its budget.
#[test]
fn chunks_wait_their_turn_within_the_budget() {
    let cluster = Cluster::start(46, 1);
    let address = cluster.nodes[0].address(PORT);
    let most = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = std::rc::Rc::clone(&most);
    cluster.sim.block_on(cluster.client, async move {
        let mut sending = Vec::new();
        for salt in 0..3_u8 {
            sending.push(corelith_io::spawn(async move {
                let (mut client, _) = Client::connect(address).await;
                let upload = UploadId(1 + u128::from(salt));
                let key = key_of(0, salt.into());
                as_upload(client.begin(upload, &key).await);
                let value = content(CHUNK_BYTES_MAX, salt);
                let crc32c = crc32c::crc32c(&value);
                let mut wanted = BTreeMap::new();
                let mut out = Outbox::default();
                for chunk in 0..16 {
                    let head = client.head(0);
                    let id = id_of(upload, (0, chunk));
                    wanted.insert(head.request_id, chunk);
                    upload::encode_chunk(&mut out, head, id, crc32c, &value);
                }
                let mut write = client.write;
                let writing = corelith_io::spawn(async move {
                    for slice in out.slices() {
                        write.write_all(slice).await.unwrap();
                    }
                    write
                });
                client.write = corelith_io::TcpStream::connect(address)
                    .await
                    .unwrap()
                    .into_split()
                    .1;
                while !wanted.is_empty() {
                    let (id, answer) = client.receive().await.unwrap();
                    assert!(wanted.remove(&id).is_some());
                    assert_eq!(as_upload(answer).state, UploadState::Open);
                }
                drop(writing.await);
            }));
        }
        let watching = corelith_io::spawn(async move {
            loop {
                let used = MADE.with_borrow(|made| made.iter().map(|budget| budget.used()).max());
                seen.set(seen.get().max(used.unwrap_or(0)));
                corelith_io::sleep(Duration::from_millis(1)).await;
            }
        });
        for sent in sending {
            sent.await;
        }
        drop(watching);
    });
    // A quarter of the memory of clients is for uploads and their starts.
    let bound = (64 << 20) / 4 + (2 << 20);
    assert!(most.get() > 4 << 20 && most.get() < bound, "{}", most.get());
}

/// What was described stays readable after it was overwritten, while it is held.
#[test]
fn an_overwritten_value_is_read_to_its_end() {
    let cluster = Cluster::start(49, 3);
    let nodes = cluster.nodes.clone();
    cluster.sim.block_on(cluster.client, async move {
        let mut client = client_of_leader(&nodes, 1).await;
        let key = key_of(0, 0);
        let parts = [vec![content(70_000, 1)]];
        client.upload(ID, &key, &parts, Condition::Any).await;
        let described = client.describe(&key).await;
        let next = UploadId(0x78);
        let others = [vec![content(80_000, 2)]];
        let condition = Condition::Version(described.version);
        let ended = client.upload(next, &key, &others, condition).await;
        assert!(matches!(ended, UploadState::Committed { .. }), "{ended:?}");
        assert_eq!(client.describe(&key).await.upload, next);
        let chunk = id_of(ID, (0, 0));
        let begun = corelith_io::now();
        while begun.elapsed() < Duration::from_secs(200) {
            assert!(matches!(
                client.hold(ID).await,
                UploadState::Committed { .. }
            ));
            assert!(client.bytes_of(chunk, 0, 70_000).await == parts[0][0]);
            corelith_io::sleep(Duration::from_secs(20)).await;
        }
        let begun = corelith_io::now();
        while !matches!(client.read(chunk, 0, 1).await, Answer::NotFound { .. }) {
            assert!(begun.elapsed() < Duration::from_secs(200), "it is kept");
            corelith_io::sleep(Duration::from_secs(10)).await;
        }
        let state = client.hold(ID).await;
        assert!(!matches!(state, UploadState::Committed { .. }), "{state:?}");
        let session = client.open_session(0).await;
        client.delete(0, (session, 1), &key).await;
        let gone = client.get(0, &key).await;
        assert!(matches!(gone, Answer::NotFound { .. }), "{gone:?}");
    });
}
