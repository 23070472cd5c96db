//! The client against a scripted cluster over real sockets.

#[cfg(test)]
mod mock;

use corelith_client::{BatchResult, Bytes, Cause, Client, Error, Field};
use corelith_wire::handshake::{Status, Welcome};
use corelith_wire::response::{Failure, Reason};
use corelith_wire::{HandshakeError, limits};
use futures_util::future::join_all;
use futures_util::{FutureExt, TryStreamExt};
use mock::{Act, Mock, silent_and_closed};
use std::time::Duration;

#[tokio::test]
async fn puts_gets_and_deletes() {
    let mock = Mock::start(3, 4).await;
    let client = mock.client().await;
    let first = client.put("key", "one").if_absent().await.unwrap();
    let entry = client.get("key").await.unwrap();
    assert_eq!(
        (entry.value.as_ref(), entry.version),
        (&b"one"[..], first.version)
    );
    let second = client
        .put("key", "two")
        .if_version(first.version)
        .await
        .unwrap();
    assert!(second.version > first.version && second.shard == first.shard);
    let current = Some(second.version);
    let stale = client.put("key", "three").if_version(first.version).await;
    assert_eq!(stale, Err(Error::Conflict { current }));
    assert_eq!(
        client.put("key", "3").if_absent().await,
        Err(Error::Conflict { current })
    );
    let stale = client.delete("key").if_version(first.version).await;
    assert_eq!(stale, Err(Error::Conflict { current }));
    client
        .delete("key")
        .if_version(second.version)
        .await
        .unwrap();
    assert_eq!(client.get("key").await, Err(Error::NotFound));
    let lookup = client.get("key").lookup().await.unwrap();
    assert_eq!((lookup.entry, lookup.shard), (None, first.shard));
    let gone = client.put("key", "4").if_version(second.version).await;
    assert_eq!(gone, Err(Error::Conflict { current: None }));
}

#[tokio::test]
async fn limits_are_learned_and_kept() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let limit = client.limits().value_bytes_max;
    assert_eq!(limit, limits::VALUE_BYTES_MAX as u64);
    let largest = Bytes::from(vec![7; limits::VALUE_BYTES_MAX]);
    client.put("large", largest.clone()).await.unwrap();
    assert_eq!(client.get("large").await.unwrap().value, largest);
    let too_large = client
        .put("key", vec![0; limits::VALUE_BYTES_MAX + 1])
        .await;
    let what = Field::Value;
    let len = limit + 1;
    assert_eq!(too_large, Err(Error::TooLarge { what, len, limit }));
    let text = too_large.unwrap_err().to_string();
    assert!(text.contains("value") && text.contains("8388609"), "{text}");
    let long_key = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    let scanned = client.scan(&long_key).try_collect::<Vec<_>>().await;
    for error in [
        client.get(&long_key).await.unwrap_err(),
        scanned.unwrap_err(),
    ] {
        let Error::TooLarge { what, len, limit } = error else {
            panic!("{error}");
        };
        assert_eq!((what, len, limit), (Field::Key, 4097, 4096));
    }
    assert!(matches!(
        client.put("", "value").await,
        Err(Error::Invalid { .. })
    ));
    assert_eq!(mock.state().requests, 2);
}

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
    assert!(
        found
            .iter()
            .all(|entry| entry.value.starts_with(b"value of a/"))
    );
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
            assert_eq!(head.value_len, entry.value.len() as u64);
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
    // A page of seven keys at a time, each with a client of its own.
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
    // After an error, the rest can be had.
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
    // What is not there is an error of the caller.
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
    // More than are in flight at once: those that wait for them have no time of their own.
    let results = batch.await;
    let unavailable = |result: &Result<_, _>| matches!(result, Err(Error::Unavailable { .. }));
    assert!(results.iter().all(unavailable));
    assert!(mock.state().requests <= 257, "{}", mock.state().requests);
}

#[tokio::test]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "references are what is tested"
)]
async fn keys_are_whatever_is_bytes() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let text = String::from("key");
    let bytes = Bytes::from("key");
    client.put(&text, &text).await.unwrap();
    client.put(text.as_str(), text.as_str()).await.unwrap();
    client.put(&text.as_str(), &text.as_str()).await.unwrap();
    client.put(text.clone(), text.clone()).await.unwrap();
    client.put(text.as_bytes(), text.as_bytes()).await.unwrap();
    client.put(b"key", *b"key").await.unwrap();
    client
        .put(vec![b'k', b'e', b'y'], text.clone().into_bytes())
        .await
        .unwrap();
    client
        .put(
            std::borrow::Cow::Borrowed(&b"key"[..]),
            std::borrow::Cow::Borrowed("key"),
        )
        .await
        .unwrap();
    client.put(&bytes, &bytes).await.unwrap();
    async fn generic(client: &Client, key: impl AsRef<[u8]>) -> Bytes {
        client.get(key).await.unwrap().value
    }
    assert_eq!(generic(&client, &text).await, "key");
    let found: Vec<_> = client
        .scan(&text[..2])
        .start_at(bytes)
        .try_collect()
        .await
        .unwrap();
    assert_eq!((found.len(), mock.state().applied), (1, 9));
}

#[tokio::test]
async fn operations_are_spans() {
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        });
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let guard = tracing::subscriber::set_default(subscriber.finish());
    client.put("key", "value").await.unwrap();
    mock.script([Act::Fail(Failure::NotLeader { leader: 0 })]);
    client.get("key").await.unwrap();
    assert!(client.delete("key2").if_version(9).await.is_err());
    client.get("other").head().await.unwrap();
    mock.script([Act::Hold]);
    let mut held = Box::pin(client.get("key").into_future());
    assert!((&mut held).now_or_never().is_none());
    drop(held);
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for expected in [
        "put{key_len=3 shard=0 attempts=2 outcome=\"ok\"}",
        "get{key_len=3 shard=0 attempts=2 outcome=\"ok\"}",
        "delete{key_len=4 shard=0 attempts=1 outcome=\"conflict\"}",
        "head{key_len=5 shard=0 attempts=1 outcome=\"not found\"}",
        "get{key_len=3 shard=0 attempts=1 outcome=\"dropped\"}",
    ] {
        assert!(log.contains(expected), "{expected} in\n{log}");
    }
}

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
async fn redirects_are_followed_and_remembered() {
    let mock = Mock::start(3, 1).await;
    mock.state().leaders[0] = 3;
    let client = mock.client().await;
    client.put("key", "1").await.unwrap();
    assert_eq!(
        mock.state().requests,
        1,
        "the opening of the session found the leader"
    );
    mock.state().leaders[0] = 2;
    client.put("key", "2").await.unwrap();
    client.get("key").await.unwrap();
    assert_eq!(mock.state().requests, 4);
}

#[tokio::test]
async fn whatever_happens_a_write_applies_once() {
    let unsure = Failure::Unavailable {
        reason: Reason::LeadershipLost,
        nothing_done: false,
    };
    for act in [
        Act::DropBefore,
        Act::DropAfter,
        Act::Damage,
        Act::Twice,
        Act::Forget,
        Act::Fail(Failure::Throttled { retry_after_ms: 5 }),
        Act::Fail(Failure::NotLeader { leader: 0 }),
        Act::Fail(Failure::WrongNode),
        Act::Fail(Failure::WindowFull),
        Act::Fail(unsure),
    ] {
        let mock = Mock::start(3, 1).await;
        let client = mock.client().await;
        client.put("before", "value").await.unwrap();
        mock.script([act.clone()]);
        let written = client.put("key", "value").if_absent().await.unwrap();
        assert_eq!(
            client.get("key").await.unwrap().version,
            written.version,
            "{act:?}"
        );
        assert_eq!(mock.state().applied, 2, "{act:?}");
        assert_eq!(client.get("key").await.unwrap().value, "value", "{act:?}");
    }
}

#[tokio::test]
async fn a_write_whose_session_went_after_a_loss_is_indeterminate() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    client.put("before", "value").await.unwrap();
    mock.script([Act::DropAfter, Act::Forget]);
    let result = client.put("key", "value").await;
    assert_eq!(
        result,
        Err(Error::Indeterminate {
            cause: Cause::SessionExpired
        })
    );
    assert!(
        !Error::Indeterminate {
            cause: Cause::SessionExpired
        }
        .is_retryable()
    );
    client.put("key", "value").await.unwrap();
}

#[tokio::test]
async fn deadlines_are_kept_and_tell_the_truth() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    client.put("before", "value").await.unwrap();
    let short = Duration::from_millis(80);
    mock.script([Act::Hold, Act::Hold]);
    let put = client.put("key", "value").deadline(short).await;
    assert_eq!(
        put,
        Err(Error::Indeterminate {
            cause: Cause::Timeout
        })
    );
    let get = client.get("key").deadline(short).await;
    assert_eq!(
        get,
        Err(Error::Unavailable {
            cause: Cause::Timeout
        })
    );
    mock.script([Act::Fail(Failure::Throttled {
        retry_after_ms: 60_000,
    })]);
    let retry_after = Duration::from_secs(60);
    assert_eq!(
        client.put("key", "1").await,
        Err(Error::Throttled { retry_after })
    );
    mock.script([Act::Fail(Failure::DiskFull)]);
    assert_eq!(client.put("key", "1").await, Err(Error::DiskFull));
    mock.script([Act::Fail(Failure::Corrupt)]);
    assert_eq!(client.get("key").await, Err(Error::Corrupt));
    assert_eq!(client.get("key").await, Err(Error::NotFound));
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
async fn no_more_is_in_flight_than_the_server_takes() {
    let mock = Mock::start(1, 1).await;
    mock.state().welcome = Box::new(|welcome: &mut Welcome| welcome.in_flight_max = 4);
    let client = mock.client().await;
    let puts = (0..200).map(|n| client.put(format!("{n}"), "value").into_future());
    assert!(join_all(puts).await.iter().all(Result::is_ok));
    assert!(
        (2..=4).contains(&mock.state().in_flight_seen),
        "{}",
        mock.state().in_flight_seen
    );
}

#[tokio::test]
async fn callers_that_give_up_hold_nobody_back() {
    let mock = Mock::start(1, 1).await;
    mock.state().welcome = Box::new(|welcome: &mut Welcome| welcome.session_window = 2);
    let client = mock.client().await;
    client.put("key", "1").await.unwrap();
    mock.script([Act::Hold, Act::Hold]);
    let held = ["a", "b"].map(|key| {
        let client = client.clone();
        tokio::spawn(async move { client.put(key, "held").await })
    });
    while mock.state().requests < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put("c", "2").await }
    });
    tokio::task::yield_now().await;
    assert_eq!(mock.state().requests, 3, "the window is full");
    held.iter().for_each(tokio::task::JoinHandle::abort);
    waiting.await.unwrap().unwrap();
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
    let too_old = HandshakeError::TooOld { ours: 1 };
    assert_eq!(tried[0].cause, Cause::Handshake(too_old));
    let seed = mock.seed();
    drop(mock);
    let error = connect(seed).await.unwrap_err();
    assert!(
        matches!(&error, Error::NoSeed { tried } if matches!(tried[0].cause, Cause::Connect(_)))
            && error.is_retryable()
    );
    assert!(matches!(
        connect("nowhere".into()).await,
        Err(Error::Invalid { .. })
    ));
    let none: [&str; 0] = [];
    assert!(matches!(
        Client::connect(none).await,
        Err(Error::Invalid { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_one_client() {
    let mock = Mock::start(3, 6).await;
    let client = mock.client().await;
    let callers = (0..64).map(|caller| {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 0..40 {
                let key = format!("{caller}/{n}");
                let written = client.put(key.clone(), key.clone()).await.unwrap();
                let entry = client.get(key.clone()).await.unwrap();
                assert_eq!(
                    (entry.version, entry.value),
                    (written.version, Bytes::from(key))
                );
            }
        })
    });
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    assert_eq!(mock.state().applied, 64 * 40);
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
    // One who asks for it is patient.
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
    // Less than a silent seed is given alone would fail by.
    let client = builder
        .deadline(Duration::from_millis(1900))
        .connect()
        .await;
    client.unwrap().put("key", "value").await.unwrap();
}
