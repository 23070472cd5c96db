//! Batches and their results.

use crate::mock::{Act, Mock};
use corelith_client::{BatchResult, Error};
use std::time::Duration;

#[tokio::test]
async fn batches_give_results_in_order() {
    let mock = Mock::start(1, 2).await;
    let client = mock.client().await;
    client.put("there", "1").await.unwrap();
    let conditional = client.put("there", "2").if_absent();
    let batch = client
        .batch()
        .put("new", "3")
        .with(conditional)
        .get("there")
        .get("not there");
    let results = batch.delete("other").await;
    assert!(results.written(0).is_ok());
    assert!(matches!(results.written(1), Err(Error::Conflict { .. })));
    assert_eq!(results.entry(2).unwrap().value, "1");
    assert_eq!(results.entry(3), Err(Error::NotFound));
    assert!(matches!(results[4], Ok(BatchResult::Written(_))));
    assert_eq!(results.len(), 5);
    assert_eq!(results.first_error().unwrap().0, 1);
    // A wrong position is the caller's error.
    assert!(matches!(results.entry(0), Err(Error::Invalid { .. })));
    assert!(matches!(results.written(5), Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn handles_find_their_results() {
    let mock = Mock::start(1, 2).await;
    let client = mock.client().await;
    client.put("there", "1").await.unwrap();
    let mut batch = client.batch();
    let read = batch.add(client.get("there"));
    let written = batch.add(client.put("new", "2"));
    let deleted = batch.add(client.delete("new").if_version(1_000_000));
    let results = batch.await;
    assert_eq!(results.of(read).unwrap().value, "1");
    assert!(results.of(written).unwrap().version > 0);
    assert!(matches!(results.of(deleted), Err(Error::Conflict { .. })));
    assert!(client.batch().await.of(read).is_err(), "of another batch");
}

#[tokio::test]
async fn the_deadline_of_a_batch_bounds_all_of_it() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    client.put("key", "value").await.unwrap();
    mock.script(std::iter::repeat_n(Act::Hold, 1000));
    let mut batch = client.batch().deadline(Duration::from_millis(100));
    for _ in 0..400 {
        batch = batch.get("key");
    }
    // More operations than fit in flight: the waiting ones share the batch's deadline.
    let results = batch.await;
    let unavailable = |result: &Result<_, _>| matches!(result, Err(Error::Unavailable { .. }));
    assert!(results.iter().all(unavailable));
    assert!(mock.state().requests <= 257, "{}", mock.state().requests);
}
