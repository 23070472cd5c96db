//! Puts, gets and deletes, whatever happens on the way.

use crate::mock::{Act, Mock};
use corelith_client::{Bytes, Cause, Client, Error, Field};
use corelith_wire::handshake::Welcome;
use corelith_wire::limits;
use corelith_wire::response::{Failure, Reason};
use futures_util::future::join_all;
use futures_util::{FutureExt, TryStreamExt};
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
    assert_eq!(limit, 1 << 31);
    let largest = Bytes::from(vec![7; limits::VALUE_BYTES_MAX]);
    client.put("large", largest.clone()).await.unwrap();
    assert_eq!(client.get("large").await.unwrap().value, largest);
    // Nothing of it is touched.
    let too_large = client.put("key", vec![0; (1 << 31) + 1]).await;
    let what = Field::Value;
    let len = limit + 1;
    assert_eq!(too_large, Err(Error::TooLarge { what, len, limit }));
    let text = too_large.unwrap_err().to_string();
    assert!(
        text.contains("value") && text.contains("2147483649"),
        "{text}"
    );
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
async fn a_release_without_large_values_is_sent_none() {
    let mock = Mock::start(1, 1).await;
    mock.state().welcome = Box::new(|welcome: &mut Welcome| welcome.version = 5);
    let client = mock.client().await;
    assert_eq!(
        client.limits().value_bytes_max,
        limits::VALUE_BYTES_MAX as u64
    );
    let put = client
        .put("key", vec![0; limits::VALUE_BYTES_MAX + 1])
        .await;
    assert!(matches!(put, Err(Error::TooLarge { .. })), "{put:?}");
    let upload = client.upload("key").deadline(Duration::from_millis(100));
    let cause = Cause::OlderNode;
    assert_eq!(
        upload.start().await.err(),
        Some(Error::Unavailable { cause })
    );
    assert_eq!(mock.state().requests, 0);
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
    // With a second subscriber: a single one is asked only at a span's first use, and if the thread of
    // another test uses it first, the span is off everywhere.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
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
async fn reads_of_damaged_data_wait_for_a_leader_with_a_good_copy() {
    let mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    client.put("key", "1").await.unwrap();
    for _ in 0..3 {
        mock.state().leaders[0] = 1;
        mock.state().damaged = Some((1, 4));
        assert_eq!(client.get("key").await.unwrap().value, "1");
        mock.state().leaders[0] = 1;
        mock.state().damaged = Some((1, 4));
        let found: Vec<_> = client.scan("").try_collect().await.unwrap();
        assert_eq!(found.len(), 1);
    }
    // Nobody takes the lead over.
    mock.state().leaders[0] = 1;
    mock.state().damaged = Some((1, usize::MAX));
    let short = Duration::from_millis(300);
    let get = client.get("key").deadline(short).await;
    assert_eq!(get, Err(Error::Corrupt));
    let scan = client.scan("").deadline(short).try_collect::<Vec<_>>();
    assert_eq!(scan.await, Err(Error::Corrupt));
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
