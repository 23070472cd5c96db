//! Reads that other replicas than the leader answer.

use crate::mock::{Act, Mock};
use corelith_client::{Client, ReadFrom};
use corelith_wire::response::{Failure, Reason};
use futures_util::TryStreamExt;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

async fn reader(mock: &Mock, from: ReadFrom) -> Client {
    let builder = Client::builder().seeds([mock.seed()]).read_from(from);
    builder.connect().await.unwrap()
}

/// The nodes that answered reads since this was asked last.
fn answered_by(mock: &Mock) -> Vec<u64> {
    std::mem::take(&mut mock.state().answered_by)
}

#[tokio::test]
async fn reads_spread_over_all_replicas() {
    let mock = Mock::start(3, 1).await;
    let client = reader(&mock, ReadFrom::Any).await;
    client.put("key", "value").await.unwrap();
    for _ in 0..9 {
        assert_eq!(client.get("key").await.unwrap().value, "value");
    }
    let mut nodes = answered_by(&mock);
    nodes.sort_unstable();
    assert_eq!(nodes, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
    for _ in 0..3 {
        client.get("key").from(ReadFrom::Leader).await.unwrap();
        client.get("key").head().await.unwrap();
    }
    let nodes = answered_by(&mock);
    assert!(nodes.iter().filter(|node| **node == 1).count() >= 3);
}

#[tokio::test]
async fn a_node_of_old_sends_the_client_on_to_the_leader() {
    let mock = Mock::start(3, 1).await;
    mock.state().knows_followers = false;
    let client = reader(&mock, ReadFrom::Any).await;
    client.put("key", "value").await.unwrap();
    for _ in 0..6 {
        assert_eq!(client.get("key").await.unwrap().value, "value");
    }
    assert_eq!(answered_by(&mock), [1; 6]);
}

#[tokio::test]
async fn what_a_replica_refuses_or_loses_the_leader_answers() {
    let refused = Failure::Unavailable {
        reason: Reason::StorageFailed,
        nothing_done: true,
    };
    for act in [Act::Fail(refused), Act::DropBefore, Act::Hold] {
        let mock = Mock::start(3, 1).await;
        let client = reader(&mock, ReadFrom::Any).await;
        client.put("key", "value").await.unwrap();
        // The first reads tell whose turn is next.
        let asked = loop {
            client.get("key").await.unwrap();
            if answered_by(&mock) == [1] {
                break act.clone();
            }
        };
        mock.script([asked]);
        assert_eq!(client.get("key").await.unwrap().value, "value");
        assert_eq!(answered_by(&mock), [1], "{act:?}");
    }
}

#[tokio::test]
async fn the_nearest_replica_is_measured() {
    let mock = Mock::start(3, 1).await;
    let client = reader(&mock, ReadFrom::Nearest).await;
    client.put("key", "value").await.unwrap();
    client.get("key").await.unwrap();
    assert_eq!(answered_by(&mock), [1], "none is measured yet");
    let far = Duration::from_millis(30);
    mock.state().distances = [(1, far), (2, far)].into();
    let deadline = Instant::now() + Duration::from_secs(60);
    let near = loop {
        client.get("key").await.unwrap();
        let nodes = answered_by(&mock);
        if nodes != [1] || Instant::now() > deadline {
            break nodes;
        }
    };
    assert_eq!(near, [3]);
}

#[tokio::test]
async fn a_scan_stays_at_the_replica_that_sent_its_first_page() {
    let mock = Mock::start(3, 1).await;
    let client = reader(&mock, ReadFrom::Any).await;
    for n in 0..3_000 {
        client.put(format!("k/{n:04}"), "value").await.unwrap();
    }
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let found: Vec<_> = client.scan("k/").try_collect().await.unwrap();
        assert_eq!(found.len(), 3_000);
        let nodes = answered_by(&mock);
        assert!(nodes.len() >= 3, "several pages: {nodes:?}");
        assert!(nodes.iter().all(|node| *node == nodes[0]), "{nodes:?}");
        seen.insert(nodes[0]);
    }
    assert_eq!(seen.len(), 3);
    let keys = client.scan("k/").from(ReadFrom::Leader).keys_only();
    assert_eq!(keys.try_collect::<Vec<_>>().await.unwrap().len(), 3_000);
    assert!(answered_by(&mock).iter().all(|node| *node == 1));
}
