//! Uploads, whatever happens on the way.

use crate::mock::{Act, Mock};
use corelith_client::{
    Bytes, Client, DigestKind, Error, FileUpload, Multipart, Progress, UploadState, UploadToken,
};
use corelith_wire::response::{Failure, Reason};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

pub(crate) fn bytes(len: usize) -> Bytes {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
    waited.unwrap_or_else(|_| panic!("never {what}"));
}

#[tokio::test]
async fn a_stream_becomes_a_value_as_a_whole() {
    let mock = Mock::start(3, 4).await;
    let client = mock.client().await;
    let value = bytes(10_000);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = {
        let told = Arc::clone(&told);
        move |progress: Progress| told.lock().unwrap().push(progress.bytes_durable)
    };
    let upload = client.upload("film").content_type("video/mp4");
    let upload = upload.attributes([("by", "us")]).length(10_000);
    let mut upload = upload.on_progress(listener).start().await.unwrap();
    upload.write_all(&value[..3000]).await.unwrap();
    upload.write(value.slice(3000..9000)).await.unwrap();
    assert_eq!(client.get("film").await, Err(Error::NotFound));
    let copied = upload.write_from(&value[9000..]).await.unwrap();
    assert_eq!(copied, 1000);
    let uploaded = upload.commit().await.unwrap();
    assert_eq!((uploaded.len, upload.position()), (10_000, 10_000));
    assert_eq!(uploaded.crc32c, crc32c::crc32c(&value));
    assert_eq!(upload.commit().await, Ok(uploaded), "again");
    assert!(upload.write(value.clone()).await.is_err());
    let entry = client.get("film").await.unwrap();
    assert_eq!((entry.version, &entry.value), (uploaded.version, &value));
    let head = client.head("film").await.unwrap();
    assert_eq!((head.version, head.value_len), (uploaded.version, 10_000));
    let description = head.description().unwrap();
    assert_eq!(description.content_type(), Some("video/mp4"));
    assert_eq!(description.attribute("by"), Some("us"));
    assert_eq!(description.crc32c, uploaded.crc32c);
    let told = told.lock().unwrap();
    assert_eq!((told.is_sorted(), told.last()), (true, Some(&10_000)));
    let progress = upload.progress();
    assert_eq!(
        (progress.bytes_sent, progress.length),
        (10_000, Some(10_000))
    );
}

#[tokio::test]
async fn an_empty_value_can_be_uploaded() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let mut upload = client.upload("empty").start().await.unwrap();
    upload.shutdown().await.unwrap();
    assert!(upload.uploaded().is_some());
    upload.flush().await.unwrap();
    assert!(client.get("empty").await.unwrap().value.is_empty());
    let stream = client.get("empty").stream().await.unwrap().unwrap();
    assert!(stream.is_empty() && stream.collect().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_put_that_does_not_fit_in_a_frame_is_an_upload() {
    let mock = Mock::start(3, 2).await;
    mock.state().uploads.chunk_bytes = corelith_wire::limits::CHUNK_BYTES_MAX as u32;
    let client = mock.client().await;
    let value = bytes((9 << 20) + 5);
    let first = client.put("large", &value).if_absent().await.unwrap();
    let chunks = mock.state().uploads.chunks_sent.clone();
    assert_eq!((chunks.len(), chunks.last().unwrap().2), (19, 5));
    assert_eq!(client.get("large").await.unwrap().value, value);
    let current = Some(first.version);
    let again = client.put("large", &value).if_absent().await;
    assert_eq!(again, Err(Error::Conflict { current }));
    let mut batch = client.batch();
    let put = batch.add(client.put("large", &value).if_version(first.version));
    let results = batch.await;
    let second = results.of(put).unwrap();
    assert!(second.version > first.version);
    // A small value takes its place.
    client.put("large", "small").await.unwrap();
    assert_eq!(client.get("large").await.unwrap().value, "small");
}

#[tokio::test]
async fn values_have_up_to_two_gib() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let limit = 1 << 31;
    for len in [limit - 1, limit] {
        let upload = client.upload("long").length(len).start().await.unwrap();
        upload.abort().await.unwrap();
    }
    for len in [limit + 1, 9_999_999_999, u64::MAX] {
        let refused = client.upload("long").length(len).start().await;
        let what = corelith_client::Field::Value;
        let expected = Error::TooLarge { what, len, limit };
        assert_eq!(refused.err(), Some(expected));
    }
}

/// Both chunks are on their way at once, longer than an attempt, a silent connection and a whole request may last elsewhere.
#[tokio::test]
async fn a_slow_uplink_gets_its_chunks_there() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let value = bytes(900_000);
    mock.state().uploads.chunk_bytes = 512 * 1024;
    let mut upload = client.upload("film").start().await.unwrap();
    mock.state().uplink = Some(100_000);
    upload.write(value.clone()).await.unwrap();
    let uploaded = upload.commit().await.unwrap();
    assert_eq!(uploaded.crc32c, crc32c::crc32c(&value));
    let sent = mock.state().uploads.chunks_sent.clone();
    assert_eq!(sent.len(), 2, "nothing is sent again: {sent:?}");
}

#[tokio::test]
async fn what_goes_wrong_on_the_way_is_repeated() {
    let mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    let value = bytes(20_000);
    let unavailable = Failure::Unavailable {
        reason: Reason::LeadershipLost,
        nothing_done: false,
    };
    let acts = [
        Act::DropAfter,
        Act::Fail(unavailable),
        Act::Serve,
        Act::Fail(Failure::Throttled { retry_after_ms: 1 }),
        Act::DropBefore,
        Act::Serve,
        Act::Twice,
        Act::Fail(Failure::DiskFull),
        Act::DropAfter,
    ];
    mock.script(acts);
    let mut upload = client.upload("key").start().await.unwrap();
    upload.write_all(&value).await.unwrap();
    // The commit is applied, and its answer lost.
    upload.flush().await.unwrap();
    mock.script([Act::DropAfter]);
    let uploaded = upload.commit().await.unwrap();
    assert_eq!(uploaded.len, 20_000);
    assert_eq!(client.get("key").await.unwrap().value, value);
}

#[tokio::test]
async fn another_process_goes_on_without_sending_again() {
    let mock = Mock::start(3, 1).await;
    let value = bytes(12_345);
    let (token, durable) = {
        let client = mock.client().await;
        let mut upload = client.upload("key").if_absent().start().await.unwrap();
        upload.write_all(&value[..5000]).await.unwrap();
        upload.flush().await.unwrap();
        assert_eq!(upload.progress().bytes_durable, 5000);
        upload.write_all(&value[5000..8000]).await.unwrap();
        let sent = || mock.state().uploads.chunks_sent.len() >= 7;
        until("seven chunks arrived", sent).await;
        (upload.token().to_string(), 5000 + 2 * 1024)
    };
    let token: UploadToken = token.parse().unwrap();
    let client = mock.client().await;
    assert_eq!(client.uploads().await.unwrap().len(), 1);
    let before = mock.state().uploads.chunks_sent.len();
    let mut upload = client.upload("key").resume(&token).await.unwrap();
    assert_eq!(upload.resume_at(), durable);
    upload.write_all(&value[durable as usize..]).await.unwrap();
    let uploaded = upload.commit().await.unwrap();
    let progress = upload.progress();
    assert_eq!(
        (progress.bytes_skipped, progress.bytes_sent),
        (durable, 12_345 - durable)
    );
    let sent = mock.state().uploads.chunks_sent[before..].to_vec();
    let sent: usize = sent.iter().map(|chunk| chunk.2).sum();
    assert_eq!(sent as u64, 12_345 - durable);
    assert_eq!(client.get("key").await.unwrap().value, value);
    // It has ended: its token resumes nothing.
    let again = client.upload("key").resume(&token).await;
    let version = uploaded.version;
    let how = UploadState::Committed { version };
    assert_eq!(again.err(), Some(Error::UploadEnded { how }));
    assert!(client.upload("other").resume(&token).await.is_err());
    assert!(client.uploads().await.unwrap().is_empty());
}

#[cfg(feature = "sha256")]
#[tokio::test]
async fn a_digest_sees_all_bytes_of_a_resumed_upload() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let value = bytes(5000);
    let mut upload = client
        .upload("whole")
        .digest(corelith_client::DigestKind::Sha256);
    let mut whole = upload.clone().start().await.unwrap();
    whole.write(&value).await.unwrap();
    let whole = whole.commit().await.unwrap();
    assert_eq!(whole.digest.kind, corelith_client::DigestKind::Sha256);
    let mut first = upload.clone().start().await.unwrap();
    first.write_all(&value[..3000]).await.unwrap();
    first.flush().await.unwrap();
    let token = first.token();
    drop(first);
    upload = client.upload("whole");
    let mut second = upload.resume(&token).await.unwrap();
    assert_eq!(second.resume_at(), 0);
    second.write(&value).await.unwrap();
    let uploaded = second.commit().await.unwrap();
    assert_eq!(uploaded.digest, whole.digest);
    assert_eq!(second.progress().bytes_skipped, 3000);
    let head = client.head("whole").await.unwrap();
    assert_eq!(head.description().unwrap().digest, whole.digest);
}

#[tokio::test]
async fn errors_come_again_and_nothing_panics() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let upload = client.upload("key").deadline(Duration::from_millis(300));
    let mut upload = upload.concurrency(2).start().await.unwrap();
    upload.write_all(&bytes(1024)).await.unwrap();
    upload.flush().await.unwrap();
    mock.state().uploads.drop_all();
    let expected = Error::UploadEnded {
        how: UploadState::Expired,
    };
    assert_eq!(upload.write(bytes(100_000)).await, Err(expected.clone()));
    for _ in 0..3 {
        assert_eq!(upload.write("more").await, Err(expected.clone()));
        assert_eq!(upload.flush().await, Err(expected.clone()));
        assert_eq!(upload.commit().await, Err(expected.clone()));
        assert!(upload.write_all(b"more").await.is_err());
        assert!(upload.shutdown().await.is_err());
    }
    let too_long = client.upload("key").length((1 << 31) + 1).start().await;
    assert!(matches!(too_long, Err(Error::TooLarge { limit, .. }) if limit == 1 << 31));
    let limit = vec![("name", "x".repeat(9000))];
    let attributes = client.upload("key").attributes(limit).start().await;
    assert!(matches!(attributes, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn writes_wait_when_all_chunks_are_in_use() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let mut upload = client.upload("key").concurrency(2).start().await.unwrap();
    mock.script([Act::Hold, Act::Hold]);
    // Two in flight and one full; one byte more does not go in.
    upload.write_all(&bytes(3 * 1024)).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(50), upload.write_all(b"x"));
    assert!(more.await.is_err());
    assert_eq!(upload.position(), 3 * 1024);
}

#[tokio::test]
async fn a_commit_that_nobody_waited_for_takes_no_more_bytes() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let mut upload = client.upload("key").start().await.unwrap();
    upload.write_all(&bytes(100)).await.unwrap();
    upload.flush().await.unwrap();
    mock.script([Act::Hold]);
    let dropped = tokio::time::timeout(Duration::from_millis(50), upload.commit()).await;
    assert!(dropped.is_err());
    let write = tokio::time::timeout(Duration::from_secs(5), upload.write("more"));
    assert!(matches!(write.await.unwrap(), Err(Error::Invalid { .. })));
    assert_eq!(upload.commit().await.unwrap().len, 100);
}

#[tokio::test]
async fn an_abort_leaves_nothing() {
    let mock = Mock::start(3, 2).await;
    let client = mock.client().await;
    let mut upload = client.upload("key").start().await.unwrap();
    upload.write_all(&bytes(4000)).await.unwrap();
    upload.abort().await.unwrap();
    assert!(client.uploads().await.unwrap().is_empty());
    // One that its process forgot.
    let forgotten = client.upload("key").start().await.unwrap();
    let id = forgotten.token().upload();
    drop(forgotten);
    let open = client.uploads().await.unwrap();
    assert_eq!(
        (open.len(), open[0].upload, &open[0].key[..]),
        (1, id, &b"key"[..])
    );
    client.abort_upload("key", id).await.unwrap();
    client.abort_upload("key", id).await.unwrap();
    assert!(client.uploads().await.unwrap().is_empty());
    // A put that fails gives its space back by itself.
    mock.state().uploads.chunk_bytes = corelith_wire::limits::CHUNK_BYTES_MAX as u32;
    let value = bytes(9 << 20);
    client.put("key", "here").await.unwrap();
    let put = client.put("key", value).if_absent().await;
    assert!(matches!(put, Err(Error::Conflict { .. })));
    let large = client.put("key", bytes(9 << 20));
    let dropped = tokio::time::timeout(Duration::from_millis(5), large).await;
    if dropped.is_err() {
        let is_over = || !mock.state().uploads.states().contains(&UploadState::Open);
        until("the dropped put was aborted", is_over).await;
    }
}

#[tokio::test]
async fn a_beginning_that_nobody_waits_for_leaves_nothing() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let upload = client.upload("key").deadline(Duration::from_millis(300));
    let is_aborted = |count| {
        let states = mock.state().uploads.states();
        states.len() == count && states.iter().all(|state| *state == UploadState::Aborted)
    };
    // It begins, and the answer is lost until the deadline has passed.
    mock.script([Act::HoldAfter]);
    let failed = upload.clone().start().await;
    assert!(matches!(failed, Err(Error::Unavailable { .. })));
    until("it is aborted", || is_aborted(1)).await;
    // The same, and the caller goes away first.
    mock.script([Act::HoldAfter]);
    let dropped = tokio::time::timeout(Duration::from_millis(100), upload.clone().start());
    assert!(dropped.await.is_err());
    until("it is aborted", || is_aborted(2)).await;
    mock.script([Act::HoldAfter]);
    let failed = upload.multipart().await;
    assert!(matches!(failed, Err(Error::Unavailable { .. })));
    until("it is aborted", || is_aborted(3)).await;
}

#[tokio::test]
async fn a_source_that_has_changed_is_not_gone_on_with_if_all_of_it_is_given() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let value = bytes(5000);
    let mut first = client.upload("key").start().await.unwrap();
    first.write_all(&value[..3000]).await.unwrap();
    first.flush().await.unwrap();
    let token = first.token();
    drop(first);
    let resume = || client.upload("key").from_start().resume(&token);
    let mut changed = value.to_vec();
    changed[7] ^= 1;
    for other in [&changed[..], &value[..2999], &value[..0]] {
        let mut upload = resume().await.unwrap();
        assert_eq!(upload.resume_at(), 0);
        let differs = match upload.write(other).await {
            Ok(()) => upload.commit().await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(differs, Err(Error::ContentDiffers), "{} bytes", other.len());
        upload.stays_silently();
    }
    let before = mock.state().uploads.chunks_sent.len();
    let mut upload = resume().await.unwrap();
    upload.write(&value).await.unwrap();
    upload.commit().await.unwrap();
    assert_eq!(upload.progress().bytes_skipped, 3000);
    let sent = mock.state().uploads.chunks_sent[before..].to_vec();
    assert_eq!(sent.iter().map(|chunk| chunk.2).sum::<usize>(), 2000);
    assert_eq!(client.get("key").await.unwrap().value, value);
}

#[tokio::test]
async fn parts_come_in_any_order() {
    let mock = Mock::start(3, 1).await;
    let client = mock.client().await;
    let upload = client.upload("key").multipart().await.unwrap();
    let (one, two, three) = (bytes(5000), bytes(3), bytes(2048));
    let (last, first) = tokio::join!(upload.put_part(9, &three), upload.put_part(1, one.clone()));
    last.unwrap();
    let before = mock.state().uploads.chunks_sent.len();
    assert_eq!(upload.put_part(1, one.clone()).await, first);
    assert!(mock.state().uploads.chunks_sent.len() >= before);
    let differs = upload.put_part(1, bytes(4999)).await;
    assert_eq!(differs, Err(Error::ContentDiffers));
    assert!(matches!(
        upload.commit(&[1, 2]).await,
        Err(Error::Invalid { .. })
    ));
    // Another process puts what is missing.
    let token = upload.token();
    drop(upload);
    let sent = mock.state().uploads.chunks_sent.len();
    let upload = Multipart::resume(&client, &token).await.unwrap();
    upload.put_part(1, &one).await.unwrap();
    assert_eq!(mock.state().uploads.chunks_sent.len(), sent, "it was there");
    let second = upload.put_part(4, &two).await.unwrap();
    upload.put_part(5, bytes(77)).await.unwrap();
    let uploaded = upload.commit(&[1, 4, 9]).await.unwrap();
    assert_eq!(upload.commit(&[1, 4, 9]).await, Ok(uploaded));
    let expected = [one, two, three].concat();
    assert_eq!(client.get("key").await.unwrap().value, expected);
    // Without memory of its own.
    let upload = client.upload("other").multipart().await.unwrap();
    let part = upload.put_part(0, "text").await.unwrap();
    assert_ne!(part, second);
    let attached = Multipart::attach(&client, &upload.token()).unwrap();
    attached.commit_uploaded(&[part]).await.unwrap();
    assert_eq!(client.get("other").await.unwrap().value, "text");
    // No parts: an empty value.
    let upload = client.upload("empty").multipart().await.unwrap();
    upload.commit(&[]).await.unwrap();
    assert!(client.get("empty").await.unwrap().value.is_empty());
    let upload = client.upload("gone").multipart().await.unwrap();
    upload.abort().await.unwrap();
    assert!(upload.put_part(0, "x").await.is_err());
}

#[tokio::test]
async fn a_part_of_another_length_is_another_part() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let value = bytes(4096);
    let upload = client.upload("key").multipart().await.unwrap();
    upload.put_part(1, value.slice(..3000)).await.unwrap();
    upload.put_part(2, value.slice(..2048)).await.unwrap();
    let token = upload.token();
    let resumed = Multipart::resume(&client, &token).await.unwrap();
    for upload in [upload, resumed] {
        // Its chunks are there, and so are those behind.
        let shorter = upload.put_part(1, value.slice(..1024)).await;
        assert_eq!(shorter, Err(Error::ContentDiffers));
        let longer = upload.put_part(2, value.clone()).await;
        assert_eq!(longer, Err(Error::ContentDiffers));
        upload.put_part(1, value.slice(..3000)).await.unwrap();
    }
    let resumed = Multipart::resume(&client, &token).await.unwrap();
    resumed.commit(&[2, 1]).await.unwrap();
    assert_eq!(client.get("key").await.unwrap().value.len(), 5048);
}

async fn file_of(directory: &tempfile::TempDir, value: &[u8]) -> std::path::PathBuf {
    let path = directory.path().join("content");
    tokio::fs::write(&path, value).await.unwrap();
    path
}

#[tokio::test]
async fn files_go_on_after_a_crash() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let directory = tempfile::tempdir().unwrap();
    let value = bytes(50_000);
    let path = file_of(&directory, &value).await;
    let token_path = directory.path().join("content.corelith-upload");
    let upload = |client: &Client| {
        client
            .upload_file("key", &path)
            .options(|with| with.concurrency(2))
    };
    // Killed in the middle: the tenth request and all behind are never answered.
    mock.script(std::iter::repeat_n(Act::Serve, 10));
    mock.script(std::iter::repeat_n(Act::Hold, 2));
    let killed = {
        let killed = tokio::spawn(std::future::IntoFuture::into_future(upload(&client)));
        let sent = || mock.state().requests >= 12;
        until("twelve requests arrived", sent).await;
        killed
    };
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());
    assert!(token_path.exists());
    let before: usize = mock
        .state()
        .uploads
        .chunks_sent
        .iter()
        .map(|chunk| chunk.2)
        .sum();
    let uploaded = upload(&client).await.unwrap();
    assert_eq!(uploaded.len, 50_000);
    let sent: usize = mock
        .state()
        .uploads
        .chunks_sent
        .iter()
        .map(|chunk| chunk.2)
        .sum();
    assert!(before >= 9 * 1024 && sent == 50_000, "{before}, {sent}");
    assert!(!token_path.exists());
    assert_eq!(client.get("key").await.unwrap().value, value);
}

#[tokio::test]
async fn a_file_that_has_changed_is_not_gone_on_with() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let directory = tempfile::tempdir().unwrap();
    let path = file_of(&directory, &bytes(5000)).await;
    mock.script([Act::Serve, Act::Fail(Failure::TooLarge { limit: 1 })]);
    let failed = client.upload_file("key", &path).await;
    assert!(matches!(failed, Err(Error::TooLarge { .. })), "{failed:?}");
    file_of(&directory, &bytes(5001)).await;
    let changed = client.upload_file("key", &path).await;
    assert!(matches!(changed, Err(Error::Invalid { .. })), "{changed:?}");
    // An upload that is over is begun anew.
    file_of(&directory, &bytes(5000)).await;
    let other = directory.path().join("token");
    let missing = client
        .upload_file("key", directory.path().join("none"))
        .await;
    assert!(matches!(missing, Err(Error::File { .. })));
    mock.script([Act::Serve, Act::Fail(Failure::TooLarge { limit: 1 })]);
    let upload = || client.upload_file("key", &path).token_file(&other);
    upload().await.unwrap_err();
    mock.state().uploads.drop_all();
    assert_eq!(upload().await.unwrap().len, 5000);
    assert!(!other.exists());
}

/// What is given again must be what the upload was begun with: it would be committed with that.
#[tokio::test]
async fn a_file_is_not_gone_on_with_under_other_options() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let directory = tempfile::tempdir().unwrap();
    let path = file_of(&directory, &bytes(5000)).await;
    let token_path = directory.path().join("content.corelith-upload");
    let upload = || client.upload_file("key", &path);
    let with = |of: FileUpload| of.options(|with| with.if_absent().attributes([("by", "us")]));
    mock.script([Act::Serve, Act::Fail(Failure::TooLarge { limit: 1 })]);
    with(upload()).await.unwrap_err();
    let others = [
        ("condition", upload()),
        ("condition", upload().options(|with| with.if_version(7))),
        (
            "condition",
            upload().resume_only().options(|with| with.if_version(7)),
        ),
        ("digest", {
            with(upload()).options(|with| with.digest(DigestKind::Sha256))
        }),
        ("attributes", {
            upload().options(|with| with.if_absent().attributes([("by", "me")]))
        }),
        ("attributes", upload().options(|with| with.if_absent())),
    ];
    for (option, other) in others {
        assert_eq!(other.difference().await, Ok(Some(option)));
        let refused = other.await.unwrap_err();
        let expected = format!("invalid {option}: the upload of this file was begun with ");
        assert!(refused.to_string().starts_with(&expected), "{refused}");
        assert!(token_path.exists());
    }
    for same in [with(upload()), upload().resume_only()] {
        assert_eq!(same.difference().await, Ok(None));
    }
    // Whoever only goes on need not know them.
    assert_eq!(upload().resume_only().await.unwrap().len, 5000);
    assert!(!token_path.exists());
    let head = client.head("key").await.unwrap();
    assert_eq!(head.description().unwrap().attribute("by"), Some("us"));
}

#[tokio::test]
async fn the_token_of_an_upload_that_was_aborted_goes() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let directory = tempfile::tempdir().unwrap();
    let path = file_of(&directory, &bytes(5000)).await;
    let token_path = directory.path().join("content.corelith-upload");
    let upload = || client.upload_file("key", &path);
    let mut ids = Vec::new();
    for _ in 0..2 {
        mock.script([Act::Serve, Act::Fail(Failure::TooLarge { limit: 1 })]);
        upload().await.unwrap_err();
        let id = upload().token().await.unwrap().unwrap().upload();
        client.abort_upload("key", id).await.unwrap();
        ids.push(id);
        match ids[..] {
            [first] => assert_eq!(upload().forget(first).await, Ok(true)),
            _ => {
                assert_eq!(upload().forget(ids[0]).await, Ok(false));
                let ended = upload().resume_only().await;
                let is_ended = matches!(ended, Err(Error::UploadEnded { .. }));
                assert!(is_ended, "{ended:?}");
            }
        }
        assert!(!token_path.exists());
    }
    assert_eq!(upload().forget(ids[0]).await, Ok(false));
}

#[tokio::test]
async fn a_file_that_was_committed_is_not_uploaded_again() {
    let mock = Mock::start(1, 1).await;
    let client = mock.client().await;
    let directory = tempfile::tempdir().unwrap();
    let value = bytes(5000);
    let path = file_of(&directory, &value).await;
    // Begin, five chunks, and the commit, whose answer is lost with the process.
    mock.script(std::iter::repeat_n(Act::Serve, 6));
    mock.script([Act::HoldAfter]);
    let upload = || client.upload_file("key", &path);
    let killed = tokio::spawn(std::future::IntoFuture::into_future(upload()));
    let is_committed = |state: &UploadState| matches!(state, UploadState::Committed { .. });
    let committed = || mock.state().uploads.states().iter().any(is_committed);
    until("it was committed", committed).await;
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());
    let sent = mock.state().uploads.chunks_sent.len();
    let uploaded = upload().await.unwrap();
    let entry = client.get("key").await.unwrap();
    assert_eq!((uploaded.version, uploaded.len), (entry.version, 5000));
    assert_eq!(uploaded.crc32c, crc32c::crc32c(&value));
    assert_eq!(mock.state().uploads.chunks_sent.len(), sent);
    assert!(!directory.path().join("content.corelith-upload").exists());
}
