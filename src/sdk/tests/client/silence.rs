//! Nodes that fall silent, and the questions that they cause.

use crate::mock::{Act, Mock, State};
use corelith_client::Client;
use std::time::Duration;

/// Shorter than the time that one attempt waits for its answer.
const SHORT: Duration = Duration::from_millis(1500);

/// Waits for the cluster to see something.
async fn until(mock: &Mock, what: impl Fn(&State) -> bool) {
    let waiting = async {
        while !what(&mock.state()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(waited.is_ok(), "{:?}", mock.state());
}

async fn put(client: Client, key: String) -> corelith_client::Result<()> {
    client.put(key, "value").deadline(SHORT).await.map(drop)
}

#[tokio::test]
async fn requests_leave_a_silent_node_when_another_one_leads() {
    let mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    client.put("key", "1").await.unwrap();
    // Some of the writes are applied by the node that does not answer any more.
    mock.script([
        Act::Hold,
        Act::HoldAfter,
        Act::Hold,
        Act::HoldAfter,
        Act::Hold,
    ]);
    let puts: Vec<_> = (0..4)
        .map(|n| tokio::spawn(put(client.clone(), format!("{n}"))))
        .collect();
    until(&mock, |state| state.requests == 5).await;
    let get = tokio::spawn({
        let client = client.clone();
        async move { client.get("key").deadline(SHORT).await }
    });
    until(&mock, |state| state.requests == 6).await;
    // Without a successor it goes on waiting.
    until(&mock, |state| state.questions >= 2).await;
    assert_eq!(
        mock.state().requests,
        6,
        "nothing is sent twice before another node leads"
    );
    mock.state().leaders[0] = 2;
    for put in puts {
        put.await.unwrap().unwrap();
    }
    assert_eq!(get.await.unwrap().unwrap().value, "1");
    assert_eq!(mock.state().applied, 5, "each write once");
    // Later operations go to the new leader at once.
    let requests = mock.state().requests;
    client.put("key", "2").deadline(SHORT).await.unwrap();
    assert_eq!(mock.state().requests, requests + 1);
}

#[tokio::test]
async fn nothing_is_asked_or_sent_twice_while_all_is_well() {
    let mock = Mock::start(3, 3).await;
    let client = mock.client().await;
    let writers = (0..16).map(|writer| {
        let client = client.clone();
        async move {
            for n in 0..200 {
                let key = format!("{writer}-{n}");
                client.put(&key, "value").await.unwrap();
                client.get(&key).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(writers).await;
    let state = mock.state();
    assert_eq!((state.requests, state.questions), (16 * 200 * 2, 0));
}
