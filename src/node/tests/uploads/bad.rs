//! Clients that ask for much of large values and take nothing, or send half of what they said; bytes that change on the way
//! or on a disk; and values that are longer than the memory of a node.

use super::super::abuse::{is_given_back, served, until, used};
use super::asking::{as_upload, commit_of, content, id_of};
use super::{Client, Cluster, ID, PORT, key_of};
use crate::node::limits;
use bytes::{Bytes, BytesMut};
use corelith_io::TcpStream;
use corelith_wire::limits::CHUNK_BYTES_MAX;
use corelith_wire::request::Condition;
use corelith_wire::response::Answer;
use corelith_wire::upload::{self, ReadChunk, UploadState};
use corelith_wire::{Outbox, UploadId};
use std::net::SocketAddr;
use std::time::Duration;

/// Longer than the memory for clients, of 64 MiB.
const LONG_CHUNKS: u32 = 160;
/// Chunks on their way at a time.
const AHEAD: u32 = 8;

/// A chunk of a long value.
fn nth(whole: &Bytes, chunk: u32) -> Bytes {
    let mut bytes = BytesMut::from(whole.as_ref());
    bytes[..4].copy_from_slice(&chunk.to_le_bytes());
    bytes.freeze()
}

#[test]
fn a_value_longer_than_the_memory_streams_both_ways() {
    let cluster = Cluster::start(60, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let (key, whole) = (key_of(0, 0), content(CHUNK_BYTES_MAX, 1));
        as_upload(client.begin(ID, &key).await);
        for from in (0..LONG_CHUNKS).step_by(AHEAD as usize) {
            let mut out = Outbox::default();
            for chunk in from..from + AHEAD {
                let (head, bytes) = (client.head(0), nth(&whole, chunk));
                let crc32c = crc32c::crc32c(&bytes);
                upload::encode_chunk(&mut out, head, id_of(ID, (0, chunk)), crc32c, &bytes);
            }
            client.send(&out).await;
            for _ in 0..AHEAD {
                let (_, answer) = client.receive().await.unwrap();
                assert_eq!(as_upload(answer).state, UploadState::Open);
                used();
            }
        }
        let chunks = vec![(0..LONG_CHUNKS).map(|chunk| nth(&whole, chunk)).collect()];
        let commit = commit_of(ID, &chunks, Condition::Absent);
        let ended = client.commit(&commit).await;
        assert!(matches!(ended, UploadState::Committed { .. }), "{ended:?}");
        assert_eq!(client.describe(&key).await.len, commit.parts[0].len);
        for from in (0..LONG_CHUNKS).step_by(AHEAD as usize) {
            ask_for(&mut client, from..from + AHEAD).await;
            for chunk in from..from + AHEAD {
                let (_, answer) = client.receive().await.unwrap();
                let Answer::Value { value, .. } = answer else {
                    panic!("{answer:?}");
                };
                // They come in any order.
                let found = u32::from_le_bytes(*value.first_chunk().unwrap());
                assert!((from..from + AHEAD).contains(&found), "{chunk}");
                assert!(value == nth(&whole, found), "{found}");
                used();
            }
        }
        until("all is given back", Duration::from_secs(5), || used() == 0).await;
    });
}

/// Asks for whole chunks.
async fn ask_for(client: &mut Client, chunks: std::ops::Range<u32>) {
    let mut out = Outbox::default();
    for chunk in chunks {
        let read = ReadChunk {
            chunk: id_of(ID, (0, chunk)),
            start: 0,
            end: CHUNK_BYTES_MAX as u32,
        };
        let head = client.head(0);
        upload::encode_read_chunk(&mut out, head, read);
    }
    client.send(&out).await;
}

/// Writes a short value, which [`served`] reads, and a large one of one chunk.
async fn fill(address: SocketAddr) {
    let (mut client, _) = Client::connect(address).await;
    let session = client.open_session(0).await;
    client.put(0, (session, 1), &key_of(0, 1), b"short").await;
    let (key, parts) = (key_of(0, 0), [vec![content(CHUNK_BYTES_MAX, 1)]]);
    let ended = client.upload(ID, &key, &parts, Condition::Any).await;
    assert!(matches!(ended, UploadState::Committed { .. }), "{ended:?}");
}

/// Sends all of these bytes in a task of its own, as far as the node takes them.
async fn pour(client: &mut Client, address: SocketAddr, bytes: Vec<u8>) {
    let (_, idle) = TcpStream::connect(address).await.unwrap().into_split();
    let mut write = std::mem::replace(&mut client.write, idle);
    corelith_io::spawn(async move {
        let _ = write.write_all(&bytes).await;
        std::future::pending::<()>().await;
    });
}

#[test]
fn chunks_that_nobody_reads_stay_within_the_budget() {
    let cluster = Cluster::start(61, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        fill(address).await;
        let mut abusers = Vec::new();
        for _ in 0..10 {
            let (mut client, _) = Client::connect(address).await;
            for _ in 0..200 {
                ask_for(&mut client, 0..1).await;
            }
            abusers.push(client);
            used();
        }
        is_given_back(address, 8 << 20).await;
        drop(abusers);
    });
}

/// Many uploads are open, whose clients send chunks and read no answer, or stop in the middle of a chunk.
#[test]
fn chunks_whose_senders_read_nothing_or_stop_stay_within_the_budget() {
    for stops in [false, true] {
        let cluster = Cluster::start(62, 1);
        let address = cluster.nodes[0].address(PORT);
        cluster.sim.block_on(cluster.client, async move {
            fill(address).await;
            let value = content(CHUNK_BYTES_MAX, 2);
            let crc32c = crc32c::crc32c(&value);
            let mut abusers = Vec::new();
            for number in 0..40_u128 {
                let (mut client, _) = Client::connect(address).await;
                let upload = UploadId(1000 + number);
                as_upload(client.begin(upload, &key_of(0, 2)).await);
                let mut out = Outbox::default();
                for chunk in 0..4 {
                    let head = client.head(0);
                    upload::encode_chunk(&mut out, head, id_of(upload, (0, chunk)), crc32c, &value);
                }
                let mut bytes: Vec<u8> = out.slices().flatten().copied().collect();
                if stops {
                    bytes.truncate(CHUNK_BYTES_MAX / 2);
                }
                pour(&mut client, address, bytes).await;
                abusers.push(client);
                used();
            }
            served(address).await;
            // Another's upload comes to its turn.
            let (mut client, _) = Client::connect(address).await;
            let (key, parts) = (key_of(0, 3), [vec![content(300_000, 3)]]);
            let other = UploadId(1);
            let work = client.upload(other, &key, &parts, Condition::Any);
            let ended = corelith_io::timeout(limits::TRANSFER_DEADLINE * 20, work).await;
            let is_committed = matches!(ended, Ok(UploadState::Committed { .. }));
            assert!(is_committed, "{ended:?}");
            let give_back = limits::TRANSFER_DEADLINE * 8;
            until("all is given back", give_back, || used() == 0).await;
            drop(abusers);
        });
    }
}

/// A chunk with a changed bit is not taken, wherever the bit is, and can be sent again.
#[test]
fn a_chunk_that_changes_on_the_way_is_sent_again() {
    let cluster = Cluster::start(63, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let (key, value) = (key_of(0, 0), content(70_000, 4));
        as_upload(client.begin(ID, &key).await);
        let chunk = id_of(ID, (0, 0));
        let crc32c = crc32c::crc32c(&value);
        let mut places: Vec<usize> = (0..120).collect();
        places.extend((120..70_000).step_by(7_001));
        for place in places {
            let (mut other, _) = Client::connect(address).await;
            let mut out = Outbox::default();
            let head = other.head(0);
            upload::encode_chunk(&mut out, head, chunk, crc32c, &value);
            let mut bytes: Vec<u8> = out.slices().flatten().copied().collect();
            bytes[place] ^= 1 << (place % 8);
            // A length that grew has the node wait for more, which does not come.
            bytes.extend([0; 64]);
            let _ = other.write.write_all(&bytes).await;
            let answer = corelith_io::timeout(Duration::from_secs(5), other.receive()).await;
            if let Ok(Some((_, answer))) = answer {
                let is_refused = match &answer {
                    Answer::Upload(reply) => reply.state != UploadState::Open,
                    answer => matches!(answer, Answer::Failure { .. }),
                };
                assert!(is_refused, "bit in byte {place}: {answer:?}");
            }
            let status = client.how(ID, None).await;
            assert!(status.chunks.is_empty(), "bit in byte {place} is taken");
        }
        assert_eq!(client.chunk(chunk, &value).await, UploadState::Open);
        let commit = commit_of(ID, &[vec![value.clone()]], Condition::Any);
        let ended = client.commit(&commit).await;
        assert!(matches!(ended, UploadState::Committed { .. }), "{ended:?}");
        assert!(client.bytes_of(chunk, 0, 70_000).await == value);
    });
}
