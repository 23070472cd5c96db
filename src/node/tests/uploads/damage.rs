//! Chunks, and what is told of large values, on a disk that has changed them.

use super::asking::{client_of_leader, content, damages, id_of, leader};
use super::{Client, Cluster, ID, key_of};
use bytes::Bytes;
use corelith_io::sim::SimDisk;
use corelith_wire::Flags;
use corelith_wire::limits::CHUNK_BYTES_MAX;
use corelith_wire::request::{self, Condition, ScanRequest};
use corelith_wire::response::{Answer, ScanValue};
use corelith_wire::upload::{LargeReply, UploadState};
use std::time::Duration;

/// Flips a bit of the page of a value of `0x5c` that lies `behind` its beginning, wherever it is; how many there were.
fn flip(disk: &SimDisk, behind: u64) -> usize {
    let mut flipped = 0;
    for (path, _) in disk.files() {
        if !path.ends_with(".vlog") {
            continue;
        }
        let bytes = disk.read(&path).unwrap();
        if let Some(at) = bytes.windows(64).position(|bytes| bytes == [0x5c; 64]) {
            disk.flip_bit(&path, at as u64 + behind);
            flipped += 1;
        }
    }
    flipped
}

/// The same once it lies there: a majority that has it may be the others.
async fn flip_when_there(disk: &SimDisk, behind: u64) {
    for _ in 0..1000 {
        match flip(disk, behind) {
            0 => corelith_io::sleep(Duration::from_millis(1)).await,
            flipped => return assert_eq!(flipped, 1, "it lies in one place"),
        }
    }
    panic!("it is not there");
}

/// Uploads a value of `0x5c` to `key_of(0, 0)`.
async fn upload_alike(client: &mut Client) -> Bytes {
    let value = Bytes::from(vec![0x5c; 300_000]);
    let parts = [vec![value.clone()]];
    let ended = client
        .upload(ID, &key_of(0, 0), &parts, Condition::Any)
        .await;
    assert!(matches!(ended, UploadState::Committed { .. }), "{ended:?}");
    value
}

/// Reads of a chunk whose bytes the leader's disk does not give back are answered with what another replica holds, and
/// those of other parts of it with what is there.
#[test]
fn a_damaged_chunk_comes_from_another_replica() {
    let cluster = Cluster::start(47, 3);
    let (nodes, world) = (cluster.nodes.clone(), cluster.sim.clone());
    cluster.sim.block_on(cluster.client, async move {
        let disk = world.disk(leader(&nodes).await);
        let mut client = client_of_leader(&nodes, 0).await;
        let value = upload_alike(&mut client).await;
        flip_when_there(&disk, 3000).await;
        let chunk = id_of(ID, (0, 0));
        let behind = client.bytes_of(chunk, 200_000, 250_000).await;
        assert!(behind == value[200_000..250_000]);
        assert_eq!(damages(&mut client).await, 0, "nothing was met");
        assert!(client.bytes_of(chunk, 10, 5000).await == value[10..5000]);
        assert!(client.bytes_of(chunk, 0, CHUNK_BYTES_MAX as u32).await == value);
    });
}

/// The same for what a key has and for what the value is, which lie in tables, in gets and scans alike.
#[test]
fn a_damaged_description_comes_from_another_replica() {
    let cluster = Cluster::start(48, 3);
    let (nodes, world) = (cluster.nodes.clone(), cluster.sim.clone());
    cluster.sim.block_on(cluster.client, async move {
        let disk = world.disk(leader(&nodes).await);
        let mut client = client_of_leader(&nodes, 0).await;
        let key = key_of(0, 0);
        let parts = [vec![content(70_000, 1)]];
        let ended = client.upload(ID, &key, &parts, Condition::Any).await;
        assert!(matches!(ended, UploadState::Committed { .. }), "{ended:?}");
        let described = client.describe(&key).await;
        let session = client.open_session(0).await;
        let tables = || {
            let files = disk.files().into_iter();
            files.filter(|(path, _)| path.contains("/shards/00000/") && path.ends_with(".sst"))
        };
        let mut number = 0;
        while tables().next().is_none() {
            number += 1;
            assert!(number < 5000, "no table is written");
            let other = key_of(0, 1 + number as u32 % 7);
            client.put(0, (session, number), &other, &[7; 2000]).await;
        }
        corelith_io::sleep(Duration::from_secs(1)).await;
        // At first the description alone, then all that is there.
        for step in 0..2 {
            let mut flipped = 0;
            for (path, len) in tables() {
                let bytes = disk.read(&path).unwrap();
                let attribute = bytes.windows(10).position(|bytes| bytes == b"text/plain");
                let places: Vec<u64> = match step {
                    0 => attribute.map(|at| at as u64).into_iter().collect(),
                    _ => (0..len / 500).map(|at| at * 500).collect(),
                };
                flipped += places.len();
                places.iter().for_each(|at| disk.flip_bit(&path, *at));
            }
            assert!(flipped > 0, "step {step}");
            let again = client.describe(&key).await;
            assert!(damages(&mut client).await > 0, "step {step}: none was met");
            let expected = LargeReply {
                meta: again.meta,
                ..described.clone()
            };
            assert_eq!(again, expected, "step {step}");
        }
        let head = client.get_with(Flags::WITHOUT_VALUES, &key).await;
        assert!(
            matches!(
                head,
                Answer::Head {
                    value_len: 70_000,
                    ..
                }
            ),
            "{head:?}"
        );
        let scan = ScanRequest {
            start: &key,
            end: b"",
            limit_items: 1,
            max_bytes: 1000,
            at_version: 0,
        };
        let page = client.ask(0, |out, head| request::encode_scan(out, head, &scan));
        match page.await {
            Answer::ScanPage(page) => {
                assert_eq!(page.items[0].key, key);
                assert_eq!(page.items[0].value, ScanValue::Large { len: 70_000 });
            }
            other => panic!("{other:?}"),
        }
    });
}

/// A page of a chunk whose bit has flipped is made whole again from another replica.
#[test]
fn a_flipped_page_of_a_chunk_is_repaired() {
    let cluster = Cluster::start(64, 3);
    let (nodes, world) = (cluster.nodes.clone(), cluster.sim.clone());
    cluster.sim.block_on(cluster.client, async move {
        let disk = world.disk(leader(&nodes).await);
        let mut client = client_of_leader(&nodes, 0).await;
        let value = upload_alike(&mut client).await;
        flip_when_there(&disk, 150_000).await;
        let chunk = id_of(ID, (0, 0));
        assert!(client.bytes_of(chunk, 0, 60_000).await == value[..60_000]);
        assert!(client.bytes_of(chunk, 0, CHUNK_BYTES_MAX as u32).await == value);
        let begun = corelith_io::now();
        while damages(&mut client).await > 0 {
            assert!(begun.elapsed() < Duration::from_secs(120), "it stays");
            corelith_io::sleep(Duration::from_millis(100)).await;
        }
        assert!(client.bytes_of(chunk, 0, CHUNK_BYTES_MAX as u32).await == value);
        assert_eq!(damages(&mut client).await, 0, "it was met again");
    });
}
