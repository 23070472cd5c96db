//! Reads of large values.

use crate::mock::{Act, Mock};
use crate::uploads::bytes;
use corelith_client::{Bytes, Client, Error, ReadFrom, Value};
use futures_util::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

async fn uploaded(client: &Client, key: &str, len: usize) -> Bytes {
    let value = bytes(len);
    let mut upload = client.upload(key).start().await.unwrap();
    upload.write(&value).await.unwrap();
    upload.commit().await.unwrap();
    value
}

#[tokio::test]
async fn values_are_streamed_from_all_replicas() {
    let mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    let value = uploaded(&client, "key", 30_000).await;
    mock.state().answered_by.clear();
    let download = client.get("key").stream().await.unwrap().unwrap();
    assert_eq!(
        (download.len(), download.head().value_len),
        (30_000, 30_000)
    );
    let pieces: Vec<Bytes> = download.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), value);
    let nodes: BTreeSet<u64> = mock.state().answered_by.iter().copied().collect();
    assert_eq!(nodes, BTreeSet::from([1, 2, 3]));
    assert_eq!(mock.state().uploads.holds, 1);
    mock.state().answered_by.clear();
    let get = client.get("key").from(ReadFrom::Leader).await.unwrap();
    assert_eq!(get.value, value);
    let nodes: BTreeSet<u64> = mock.state().answered_by.iter().copied().collect();
    assert_eq!(nodes.len(), 1);
    assert!(client.get("none").stream().await.unwrap().is_none());
}

#[tokio::test]
async fn ranges_are_read_of_values_of_all_sizes() {
    let mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    let value = uploaded(&client, "large", 5000).await;
    client.put("small", &value).await.unwrap();
    for key in ["large", "small"] {
        let read = async |get: corelith_client::Get| get.await.unwrap().value;
        assert_eq!(read(client.get(key).range(..10)).await, value[..10]);
        assert_eq!(
            read(client.get(key).range(1000..=1100)).await,
            value[1000..=1100]
        );
        assert_eq!(read(client.get(key).range(4990..9000)).await, value[4990..]);
        assert_eq!(read(client.get(key).range(6000..)).await, "");
        assert_eq!(read(client.get(key).last(3)).await, value[4997..]);
        let stream = client.get(key).range(1000..3000).stream().await;
        let mut stream = stream.unwrap().unwrap();
        assert_eq!((stream.len(), stream.range()), (2000, 1000..3000));
        let mut three = [0; 3];
        stream.read_exact(&mut three).await.unwrap();
        assert_eq!(three, value[1000..1003]);
        assert_eq!(stream.seek(SeekFrom::End(-2)).await.unwrap(), 1998);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, value[2998..3000]);
        assert_eq!(stream.seek(SeekFrom::Start(10)).await.unwrap(), 10);
        assert_eq!(stream.seek(SeekFrom::Current(-5)).await.unwrap(), 5);
        assert!(stream.seek(SeekFrom::Current(-50)).await.is_err());
        rest.clear();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, value[1005..3000]);
        assert_eq!(stream.seek(SeekFrom::Start(9999)).await.unwrap(), 2000);
        assert_eq!(stream.read(&mut three).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn replicas_without_the_bytes_or_that_are_gone_are_passed_over() {
    let mut mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    let value = uploaded(&client, "key", 20_000).await;
    let leader = mock.state().leaders[0];
    let others: BTreeSet<u64> = (1..=3).filter(|node| *node != leader).collect();
    mock.state().uploads.lagging = others.clone();
    assert_eq!(client.get("key").await.unwrap().value, value);
    mock.state().uploads.lagging.clear();
    let mut stream = client.get("key").ahead(2).stream().await.unwrap().unwrap();
    let mut found = stream.next().await.unwrap().unwrap().to_vec();
    mock.stop(*others.first().unwrap()).await;
    mock.script([Act::DropBefore, Act::Damage]);
    while let Some(bytes) = stream.next().await {
        found.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!(found, value);
}

#[tokio::test]
async fn a_value_that_is_gone_says_so() {
    let mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    uploaded(&client, "key", 20_000).await;
    let mut stream = client.get("key").stream().await.unwrap().unwrap();
    stream.next().await.unwrap().unwrap();
    mock.state().uploads.drop_all();
    let mut found = loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    for _ in 0..3 {
        assert_eq!(found, Some(Err(Error::ValueGone)));
        found = stream.next().await;
    }
    let mut byte = [0];
    assert!(stream.read(&mut byte).await.is_err());
    // Nobody can read it, and it stays so.
    assert_eq!(client.get("key").await, Err(Error::ValueGone));
    assert_eq!(
        client.get("key").stream().await.err(),
        Some(Error::ValueGone)
    );
}

#[tokio::test]
async fn damage_is_told_before_the_last_bytes() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    uploaded(&client, "key", 5000).await;
    mock.state().uploads.damage();
    assert_eq!(client.get("key").await, Err(Error::Corrupt));
    let stream = client.get("key").stream().await.unwrap().unwrap();
    let items: Vec<_> = StreamExt::take(stream, 5).collect().await;
    let whole = items.iter().filter(|item| item.is_ok()).count();
    assert_eq!((whole, items.last()), (4, Some(&Err(Error::Corrupt))));
    // Of a range nobody knows.
    assert_eq!(
        client.get("key").range(1..).await.unwrap().value.len(),
        4999
    );
}

#[tokio::test]
async fn scans_tell_the_lengths_of_large_values() {
    let mock = Mock::start(3, 2).await;
    let client = mock.client().await;
    let value = uploaded(&client, "a", 5000).await;
    client.put("b", "small").await.unwrap();
    let entries: Vec<_> = client.scan("").try_collect().await.unwrap();
    assert_eq!(entries[0].value, Value::Large { len: 5000 });
    assert_eq!(
        (entries[1].value.len(), &entries[1].value == "small"),
        (5, true)
    );
    assert!(entries[0].value.bytes().is_none() && entries[0].value != value);
    let heads: Vec<_> = client.scan("").keys_only().try_collect().await.unwrap();
    assert_eq!((heads[0].value_len, heads[0].description()), (5000, None));
    let head = client.head("a").await.unwrap();
    assert_eq!(heads[0].committed_at(), head.committed_at());
    assert!(head.committed_at().is_some() && heads[1].committed_at().is_none());
}

#[test]
fn transfers_go_from_thread_to_thread() {
    fn is_send<T: Send + Unpin + 'static>() {}
    is_send::<corelith_client::Download>();
    is_send::<corelith_client::Upload>();
    is_send::<corelith_client::Multipart>();
    is_send::<corelith_client::FileUpload>();
}
