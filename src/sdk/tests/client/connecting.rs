//! Finding the cluster and nodes that come and go.

use crate::mock::{self, Mock, silent_and_closed};
use corelith_client::{Cause, Client, Error};
use corelith_wire::HandshakeError;
use corelith_wire::handshake::{Status, Welcome};
use std::time::Duration;

#[tokio::test]
async fn status_lists_nodes_that_do_not_answer_too() {
    let mut mock = Mock::start(3, 2).await;
    let client = mock.client().await;
    mock.stop(2).await;
    let status = client.status().await.unwrap();
    assert_eq!(status.map.cluster, mock::CLUSTER.0);
    let replies: Vec<_> = status.nodes.iter().map(|node| node.reply.is_ok()).collect();
    assert_eq!(replies, [true, false, true]);
    assert_eq!(status.nodes[0].reply.as_ref().unwrap().shards.len(), 2);
}

#[tokio::test]
async fn a_node_that_goes_and_comes_back_is_used_again() {
    let mut mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    client.put("key", "1").await.unwrap();
    mock.stop(1).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put("key", "2").await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    mock.restart(1).await;
    waiting.await.unwrap().unwrap();
    assert_eq!(client.get("key").await.unwrap().value, "2");
}

#[tokio::test]
async fn those_who_cannot_be_used_are_named() {
    let mock = Mock::start(1, 1).await;
    let connect = |seed: String| async {
        let deadline = Duration::from_millis(30);
        Client::builder()
            .seeds([seed])
            .connect_deadline(deadline)
            .connect()
            .await
    };
    mock.state().welcome = Box::new(|welcome: &mut Welcome| welcome.status = Status::TooOld);
    let error = connect(mock.seed()).await.unwrap_err();
    let Error::NoSeed { tried } = &error else {
        panic!("{error}");
    };
    assert_eq!(tried[0].seed, mock.seed());
    let ours = corelith_wire::version::NEWEST;
    let too_old = HandshakeError::TooOld { ours };
    assert_eq!(tried[0].cause, Cause::Handshake(too_old));
    mock.state().welcome = Box::new(|welcome: &mut Welcome| welcome.status = Status::Busy);
    let error = connect(mock.seed()).await.unwrap_err().to_string();
    let busy = "the node accepts no clients now: it is full, still waits for its cluster to form, or is excluded";
    assert!(error.contains(busy), "{error}");
    let seed = mock.seed();
    drop(mock);
    let error = connect(seed).await.unwrap_err();
    assert!(
        matches!(&error, Error::NoSeed { tried } if matches!(tried[0].cause, Cause::Connect(_)))
            && error.is_retryable()
    );
    assert!(matches!(
        connect("nowhere".into()).await,
        Err(Error::InvalidSeed { .. })
    ));
    let none: [&str; 0] = [];
    assert!(matches!(
        Client::connect(none).await,
        Err(Error::Invalid { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_connecting() {
    let (_silent, at, gone) = silent_and_closed();
    let before = tokio::time::Instant::now();
    let builder = Client::builder().seeds([at.clone(), gone.clone()]);
    let error = builder.deadline(Duration::from_millis(300)).connect().await;
    let Err(Error::NoSeed { tried }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(before.elapsed(), Duration::from_millis(300));
    assert_eq!(tried[0].cause, Cause::Timeout);
    assert!(matches!(tried[1].cause, Cause::Connect(_)), "{tried:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_server_the_answer_comes_within_a_second() {
    let (_silent, _, gone) = silent_and_closed();
    let (_silent, _, other) = silent_and_closed();
    let before = tokio::time::Instant::now();
    let error = Client::connect([gone.clone(), other.clone()]).await;
    let error = error.unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(1));
    let text = error.to_string();
    assert!(text.contains(&gone) && text.contains(&other), "{text}");
    // With a connect deadline, the client keeps trying.
    let wished = Duration::from_secs(3);
    let builder = Client::builder().seeds([gone]).connect_deadline(wished);
    let before = tokio::time::Instant::now();
    assert!(builder.connect().await.is_err());
    assert_eq!(before.elapsed(), wished);
}

#[tokio::test]
async fn a_silent_seed_does_not_hold_up_the_next_one() {
    let mock = Mock::start(1, 1).await;
    let (_silent, at, _) = silent_and_closed();
    let builder = Client::builder().seeds([at, mock.seed()]);
    // Shorter than the time limit of a single silent seed.
    let client = builder
        .deadline(Duration::from_millis(1900))
        .connect()
        .await;
    client.unwrap().put("key", "value").await.unwrap();
}
