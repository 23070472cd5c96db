//! Scans: order, pages, tokens, and the state that they read.

use crate::mock::{Act, Mock};
use corelith_client::Error;
use corelith_wire::limits;
use corelith_wire::response::Failure;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use std::time::Duration;

#[tokio::test]
async fn scans_merge_the_shards_in_key_order() {
    let mock = Mock::start(3, 5).await;
    let client = mock.client().await;
    let keys: Vec<String> = (0..300).map(|n| format!("a/{n:04}")).collect();
    let puts = keys
        .iter()
        .map(|key| client.put(key.clone(), format!("value of {key}")));
    for put in join_all(puts.map(IntoFuture::into_future)).await {
        put.unwrap();
    }
    client.put("b/1", "other").await.unwrap();
    let found: Vec<_> = client.scan("a/").try_collect().await.unwrap();
    let found_keys: Vec<_> = found.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(found_keys, keys);
    assert!(found.iter().all(|entry| {
        entry
            .value
            .bytes()
            .is_some_and(|value| value.starts_with(b"value of a/"))
    }));
    let few: Vec<_> = client.scan("a/").limit(11).try_collect().await.unwrap();
    assert_eq!(few, found[..11]);
    let range: Vec<_> = client
        .scan_range("a/0100", "a/0102")
        .try_collect()
        .await
        .unwrap();
    assert_eq!(range, found[100..102]);
    let all: Vec<_> = client.scan("").try_collect().await.unwrap();
    assert_eq!(all.len(), 301);
    let none: Vec<_> = client.scan("zzz").try_collect().await.unwrap();
    assert!(none.is_empty());
}

#[tokio::test]
async fn keys_are_read_without_values() {
    for knows_heads in [true, false] {
        let mock = Mock::start(3, 5).await;
        mock.state().knows_heads = knows_heads;
        let client = mock.client().await;
        let value = |n: usize| vec![7; n * 100];
        for n in 0..40 {
            client.put(format!("k/{n:02}"), value(n)).await.unwrap();
        }
        let whole: Vec<_> = client.scan("k/").try_collect().await.unwrap();
        let heads: Vec<_> = client.scan("k/").keys_only().try_collect().await.unwrap();
        assert_eq!(heads.len(), 40);
        for (head, entry) in heads.iter().zip(&whole) {
            assert_eq!((&head.key, head.version), (&entry.key, entry.version));
            assert_eq!(head.value_len, entry.value.len());
        }
        let found = client.get("k/07").head().await.unwrap();
        assert_eq!(found.entry.as_ref(), Some(&heads[7]));
        assert_eq!(
            found.shard,
            client.get("k/07").lookup().await.unwrap().shard
        );
        assert_eq!(client.get("none").head().await.unwrap().entry, None);
    }
}

#[tokio::test]
async fn a_scan_goes_on_where_its_token_says() {
    let mock = Mock::start(1, 3).await;
    let client = mock.client().await;
    let keys: Vec<String> = (0..50).map(|n| format!("t/{n:02}")).collect();
    for key in &keys {
        client.put(key.clone(), "value").await.unwrap();
    }
    client.put("u", "behind").await.unwrap();
    // Pages of seven keys, each read by another client.
    let (mut found, mut token) = (Vec::new(), None::<String>);
    loop {
        let client = mock.client().await;
        let scan = match &token {
            None => client.scan("t/"),
            Some(text) => client.resume_scan(&text.parse().unwrap()).unwrap(),
        };
        let mut scan = scan.limit(7).keys_only();
        while let Some(head) = scan.try_next().await.unwrap() {
            found.push(head.key);
        }
        match scan.token() {
            Some(next) => token = Some(next.to_string()),
            None => break,
        }
    }
    assert!(found.iter().eq(&keys), "{found:?}");
    // After an error, the token still reaches the rest.
    let mut scan = client.scan("t/");
    assert_eq!(scan.try_next().await.unwrap().unwrap().key, "t/00");
    mock.script(std::iter::repeat_n(Act::Fail(Failure::Malformed), 3));
    let mut given = 1;
    let error = loop {
        match scan.try_next().await {
            Ok(Some(_)) => given += 1,
            Ok(None) => panic!("the scan has not failed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    mock.state().script.clear();
    let rest = client.resume_scan(&scan.token().unwrap()).unwrap();
    let rest: Vec<_> = rest.try_collect().await.unwrap();
    assert_eq!(given + rest.len(), keys.len());
    assert_eq!(rest.last().unwrap().key, "t/49");
}

#[tokio::test]
async fn a_scan_goes_on_after_its_moment_is_gone_and_says_so() {
    let mock = Mock::start(1, 3).await;
    let client = mock.client().await;
    let keys: Vec<String> = (0..90).map(|n| format!("{n:02}")).collect();
    for key in &keys {
        client.put(key, "value").await.unwrap();
    }
    for one_moment in [false, true] {
        let mut scan = client.scan("");
        if one_moment {
            scan = scan.one_moment();
        }
        let mut found = vec![scan.try_next().await.unwrap().unwrap().key];
        assert!(scan.is_consistent());
        mock.script([Act::Fail(Failure::VersionGone)]);
        let error = loop {
            match scan.try_next().await {
                Ok(Some(entry)) => found.push(entry.key),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        mock.state().script.clear();
        if one_moment {
            assert_eq!(error, Some(Error::ScanExpired));
        } else {
            assert_eq!(error, None);
            assert!(found.iter().eq(&keys), "each once, in order: {found:?}");
            assert!(!scan.is_consistent());
        }
    }
}

#[tokio::test]
async fn an_open_scan_is_kept_alive_until_it_is_forgotten() {
    let mock = Mock::start(1, 3).await;
    let client = mock.client().await;
    for n in 0..3000 {
        client.put(format!("{n:04}"), "value").await.unwrap();
    }
    let mut scan = client.scan("");
    scan.try_next().await.unwrap().unwrap();
    // From here on, paused time advances whenever all tasks wait.
    tokio::time::pause();
    let touches = || mock.state().touches;
    assert_eq!(touches(), 0);
    tokio::time::sleep(Duration::from_secs(65)).await;
    let after_a_minute = touches();
    assert!(
        (3 * 6..=3 * 8).contains(&after_a_minute),
        "{after_a_minute}"
    );
    scan.try_next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(2000)).await;
    let forgotten = touches();
    let most = 3 * (600 / 8 + 10);
    assert!((3 * 60..=most).contains(&forgotten), "{forgotten}");
    tokio::time::sleep(Duration::from_secs(2000)).await;
    assert_eq!(touches(), forgotten, "it was not polled for long");
    // A scan that has ended or was dropped sends no touches.
    let mut dropped = client.scan("");
    dropped.try_next().await.unwrap().unwrap();
    drop(dropped);
    let mut ended = client.scan("").limit(1);
    while ended.try_next().await.unwrap().is_some() {}
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(touches(), forgotten);
}

#[tokio::test]
async fn the_range_of_a_scan_can_be_narrowed() {
    let mock = Mock::start(1, 3).await;
    let client = mock.client().await;
    for key in ["a/1", "a/2", "a/3", "a/4", "b"] {
        client.put(key, "value").await.unwrap();
    }
    let all = || client.scan("a/");
    for (scan, expected) in [
        (all().start_at("a/2"), &["a/2", "a/3", "a/4"][..]),
        (all().start_at("a/2").end_before("a/4"), &["a/2", "a/3"]),
        (
            all().start_at("").end_before(""),
            &["a/1", "a/2", "a/3", "a/4"],
        ),
        (all().end_before("z").limit(1), &["a/1"]),
        (all().start_at("b"), &[]),
        (all().end_before("a"), &[]),
        (client.scan("").start_at("a/4"), &["a/4", "b"]),
    ] {
        let text = format!("{scan:?}");
        let found: Vec<_> = scan.try_collect().await.unwrap();
        let found: Vec<_> = found.into_iter().map(|entry| entry.key).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[tokio::test]
async fn a_scan_goes_on_behind_a_longest_key() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let mut keys: Vec<Vec<u8>> = (0..20)
        .map(|n| {
            let mut key = vec![b'k'; limits::KEY_BYTES_MAX];
            key[limits::KEY_BYTES_MAX - 1] = n;
            key
        })
        .collect();
    keys.push(vec![0xff; limits::KEY_BYTES_MAX]);
    for key in &keys {
        client.put(key.clone(), "value").await.unwrap();
    }
    let found: Vec<_> = client.scan("").try_collect().await.unwrap();
    assert!(found.iter().map(|entry| &entry.key).eq(&keys));
    let mut scan = client.scan("").limit(20);
    while scan.try_next().await.unwrap().is_some() {}
    let rest = client.resume_scan(&scan.token().unwrap()).unwrap();
    let rest: Vec<_> = rest.try_collect().await.unwrap();
    assert_eq!(rest.len(), 1);
}

#[tokio::test]
async fn scans_of_many_shards_fetch_a_few_at_a_time() {
    let mock = Mock::start(1, 40).await;
    let client = mock.client().await;
    let keys: Vec<String> = (0..1500).map(|n| format!("{n:04}")).collect();
    let mut batch = client.batch();
    for key in &keys {
        batch = batch.put(key.clone(), "value");
    }
    assert!(batch.await.iter().all(Result::is_ok));
    let found: Vec<_> = client.scan("").try_collect().await.unwrap();
    assert!(found.iter().map(|entry| &entry.key).eq(&keys));
}
