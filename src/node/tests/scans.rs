//! Scans, and reads without values.

use super::{Client, Cluster, PORT, key_of};
use bytes::Bytes;
use corelith_wire::request::{self, GetRequest, ScanRequest};
use corelith_wire::response::{Answer, Failure};
use std::time::Duration;

#[test]
fn scans_see_one_moment_over_their_pages() {
    let cluster = Cluster::start(8, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let session = client.open_session(0).await;
        let mut keys: Vec<_> = (0..10).map(|salt| key_of(0, salt)).collect();
        keys.sort();
        for (number, key) in (1..).zip(&keys) {
            client.put(0, (session, number), key, b"old").await;
        }
        let mut found = Vec::new();
        let (mut start, mut at_version) = (Vec::new(), 0);
        loop {
            let request = ScanRequest {
                start: &start,
                end: b"",
                limit_items: 3,
                max_bytes: 1000,
                at_version,
            };
            let page = match client
                .ask(0, |out, head| request::encode_scan(out, head, &request))
                .await
            {
                Answer::ScanPage(page) => page,
                other => panic!("{other:?}"),
            };
            at_version = page.at_version;
            found.extend(
                page.items
                    .iter()
                    .map(|item| (item.key.to_vec(), item.value.bytes().unwrap().to_vec())),
            );
            if !page.more {
                break;
            }
            start = found.last().unwrap().0.clone();
            start.push(0);
            let number = 11 + found.len() as u64;
            client
                .put(0, (session, number), keys.last().unwrap(), b"new")
                .await;
        }
        let expected: Vec<_> = keys.into_iter().map(|key| (key, b"old".to_vec())).collect();
        assert_eq!(found, expected);
    });
}

/// Asks for keys of shard 0 from `start` on as of `at_version`; what came, or the failure.
async fn scan_page(
    client: &mut Client,
    (start, end): (&[u8], &[u8]),
    at_version: u64,
) -> Result<(u64, Vec<Bytes>), Failure> {
    let request = ScanRequest {
        start,
        end,
        limit_items: 2,
        max_bytes: 1000,
        at_version,
    };
    let answer = client.ask(0, |out, head| request::encode_scan(out, head, &request));
    match answer.await {
        Answer::ScanPage(page) => {
            let values = page
                .items
                .into_iter()
                .map(|item| item.value.bytes().unwrap().clone());
            Ok((page.at_version, values.collect()))
        }
        Answer::ScanHeads(page) => Ok((page.at_version, Vec::new())),
        Answer::Failure { failure, .. } => Err(failure),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_view_of_a_scan_lives_while_it_is_touched_and_goes_with_its_client() {
    let cluster = Cluster::start(8, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut writer, _) = Client::connect(address).await;
        let session = writer.open_session(0).await;
        let mut keys: Vec<_> = (0..4).map(|salt| key_of(0, salt)).collect();
        keys.sort();
        let mut number = 0;
        for key in &keys {
            number += 1;
            writer.put(0, (session, number), key, b"old").await;
        }
        let (rest, end): (&[u8], &[u8]) = (&keys[2], b"");
        let (mut slow, _) = Client::connect(address).await;
        let (mut silent, _) = Client::connect(address).await;
        let (kept, _) = scan_page(&mut slow, (b"", end), 0).await.unwrap();
        number += 1;
        writer.put(0, (session, number), &keys[0], b"other").await;
        let (unkept, _) = scan_page(&mut silent, (b"", end), 0).await.unwrap();
        assert_ne!(kept, unkept, "two moments");
        // Over two minutes, everything is written to again and again.
        for _ in 0..12 {
            corelith_io::sleep(Duration::from_secs(10)).await;
            for key in &keys {
                number += 1;
                writer.put(0, (session, number), key, b"new").await;
            }
            let touched = scan_page(&mut slow, (rest, rest), kept).await;
            assert_eq!(touched, Ok((kept, Vec::new())));
        }
        let page = scan_page(&mut slow, (rest, end), kept).await;
        assert_eq!(page.unwrap().1, ["old", "old"]);
        let page = scan_page(&mut silent, (rest, end), unkept).await;
        assert_eq!(page, Err(Failure::VersionGone));
        // One who connects again soon finds it, one who stays away does not.
        drop(slow);
        corelith_io::sleep(Duration::from_secs(5)).await;
        let (mut again, _) = Client::connect(address).await;
        assert!(scan_page(&mut again, (rest, rest), kept).await.is_ok());
        drop(again);
        corelith_io::sleep(Duration::from_secs(15)).await;
        let page = scan_page(&mut writer, (rest, end), kept).await;
        assert_eq!(page, Err(Failure::VersionGone));
    });
}

#[test]
fn heads_come_without_values() {
    let cluster = Cluster::start(8, 1);
    let address = cluster.nodes[0].address(PORT);
    cluster.sim.block_on(cluster.client, async move {
        let (mut client, _) = Client::connect(address).await;
        let session = client.open_session(0).await;
        let mut keys: Vec<_> = (0..4).map(|salt| key_of(0, salt)).collect();
        keys.sort();
        for (number, key) in (1..).zip(&keys) {
            let value = vec![7; 10_000 * number as usize];
            client.put(0, (session, number), key, &value).await;
        }
        let request = ScanRequest {
            start: b"",
            end: b"",
            limit_items: 3,
            max_bytes: 1000,
            at_version: 0,
        };
        let answer = client.ask(0, |out, head| {
            request::encode_scan_keys(out, head, &request)
        });
        let Answer::ScanHeads(page) = answer.await else {
            panic!("not a page of heads");
        };
        assert!(page.more);
        let lens: Vec<_> = page.items.iter().map(|item| item.value_len).collect();
        assert_eq!(lens, [10_000, 20_000, 30_000]);
        assert!(page.items.iter().map(|item| &item.key).eq(&keys[..3]));
        for (key, expected) in [(&keys[3], Some(40_000)), (&key_of(0, 9), None)] {
            let request = GetRequest { key };
            let answer = client.ask(0, |out, head| request::encode_get_head(out, head, &request));
            let found = match answer.await {
                Answer::Head { value_len, .. } => Some(value_len),
                Answer::NotFound { .. } => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected);
        }
    });
}
