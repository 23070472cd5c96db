//! A cluster of real nodes as an object store: the suite of the crate `object_store` itself, in both of its versions, and
//! what that suite does not look at. The suite deletes everything in the store, and expects its parts one after the other.

use crate::cluster::Cluster;
use bytes::Bytes;
use corelith_client::Client;
use corelith_client::object_store::CorelithStore;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store_0_14::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store_0_14::multipart::MultipartStore as _;
use object_store_0_14::path::Path;
use object_store_0_14::{
    Attribute, Attributes, Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMode, PutMultipartOptions, PutOptions, TagSet, UpdateVersion,
};
use std::time::Instant;

/// What both versions of the suite have, in an order that leaves nothing behind where nothing may be.
macro_rules! suite {
    ($api:ident, $store:expr) => {{
        use $api::integration as suite;
        let store = $store;
        suite::put_get_delete_list(store).await;
        suite::list_with_offset_exclusivity(store).await;
        suite::list_uses_directories_correctly(store).await;
        suite::list_with_delimiter(store).await;
        suite::list_paginated(store, store).await;
        suite::get_opts(store).await;
        suite::put_opts(store, true).await;
        // Ends as it began, and deletes what the others have left.
        suite::list_with_offset_exclusivity(store).await;
        let missing = suite::get_nonexistent_object(store, None).await;
        assert!(matches!(missing, Err($api::Error::NotFound { .. })));
        suite::rename_and_copy(store).await;
        suite::copy_rename_nonexistent_object(store).await;
        suite::copy_if_not_exists(store).await;
        suite::stream_get(store).await;
        suite::put_get_attributes(store).await;
        suite::multipart(store, store).await;
        suite::multipart_out_of_order(store).await;
        suite::multipart_race_condition(store, true).await;
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_object_store_passes() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let began = Instant::now();
    let store = &CorelithStore::new(client.clone());
    suite!(object_store_0_14, store);
    object_store_0_14::integration::multipart_with_opts(store, store).await;
    object_store_0_14::integration::multipart_put_part_out_of_order(store, store).await;
    println!("0.14 took {:?}", began.elapsed());
    let began = Instant::now();
    let store = &corelith_client::object_store_0_13::CorelithStore::new(client.clone());
    suite!(object_store_0_13, store);
    println!("0.13 took {:?}", began.elapsed());
    assert!(client.uploads().await.unwrap().is_empty(), "all are ended");
}

async fn listed(store: &CorelithStore, prefix: &str) -> Vec<ObjectMeta> {
    let prefix = Path::from(prefix);
    store.list(Some(&prefix)).try_collect().await.unwrap()
}

fn names(objects: &[ObjectMeta]) -> Vec<&str> {
    let names = objects.iter().map(|object| object.location.as_ref());
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_values_with_their_own_terms() {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    let store = CorelithStore::new(client.clone());
    times_and_names(&store, &client).await;
    conditions(&store, &client).await;
    copies(&store, &client).await;
    pages(&store, &client).await;
    uploads(&store, &client).await;
    assert!(client.uploads().await.unwrap().is_empty(), "all are ended");
}

/// A listing and a head say the same of every value, and each overwrite is newer.
async fn times_and_names(store: &CorelithStore, client: &Client) {
    let object = Path::from("times/object");
    let mut seen = Vec::new();
    for value in ["one", "two", "six"] {
        let put = store.put(&object, value.into()).await.unwrap();
        let head = store.head(&object).await.unwrap();
        assert_eq!(put.e_tag, head.e_tag);
        let found = listed(store, "times").await;
        assert_eq!((found.len(), &found[0]), (1, &head));
        seen.push(head.last_modified);
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    // Values that were put otherwise are objects as well, if their keys are paths.
    let not_paths: [&[u8]; 6] = [
        b"times//x",
        b"times/",
        b"/times/x",
        b"times/../x",
        b"times/./x",
        b"times/\xff",
    ];
    for key in [b"times/plain", &b"times/zero"[..]]
        .iter()
        .chain(&not_paths)
    {
        client.put(*key, "plain").await.unwrap();
    }
    let objects = listed(store, "times").await;
    assert_eq!(
        names(&objects),
        ["times/object", "times/plain", "times/zero"]
    );
    let plain = Path::from("times/plain");
    let head = store.head(&plain).await.unwrap();
    assert_eq!((&objects[1], head.size), (&head, 5));
    let micros = client.head("times/plain").await.unwrap().version;
    assert_eq!(head.last_modified.timestamp_micros(), micros as i64);
    client.put("times/plain", "other").await.unwrap();
    let later = store.head(&plain).await.unwrap();
    assert!(later.last_modified > head.last_modified);
    assert_eq!(
        store.get(&plain).await.unwrap().bytes().await.unwrap(),
        "other"
    );
    let ranges = store.get_ranges(&plain, &[3..5, 0..2, 1..9]).await.unwrap();
    assert_eq!(ranges, ["er", "ot", "ther"]);
    let behind = 5..6;
    let behind = store
        .get_ranges(&plain, std::slice::from_ref(&behind))
        .await;
    assert!(behind.is_err(), "{behind:?}");
    for key in not_paths {
        client.delete(key).await.unwrap();
    }
}

/// Conditions are decided as the value becomes visible.
async fn conditions(store: &CorelithStore, client: &Client) {
    let object = Path::from("conditions/object");
    let update = |e_tag: &str| {
        PutMode::Update(UpdateVersion {
            e_tag: Some(e_tag.to_owned()),
            version: None,
        })
    };
    for e_tag in ["\"7\"", "7", "W/\"7\""] {
        let put = store
            .put_opts(&object, "a".into(), update(e_tag).into())
            .await;
        assert!(matches!(put, Err(Error::Precondition { .. })), "{put:?}");
    }
    let mut tags = TagSet::default();
    tags.push("a", "b");
    let put = store
        .put_opts(&object, "a".into(), tags.clone().into())
        .await;
    assert!(matches!(put, Err(Error::NotSupported { .. })), "{put:?}");
    let of_version = GetOptions::new().with_version(Some("1"));
    store.put(&object, "a".into()).await.unwrap();
    let old = store.get_opts(&object, of_version).await;
    assert!(matches!(old, Err(Error::NotSupported { .. })));
    let multipart = |mode: PutMode| {
        let mut options = PutMultipartOptions::default();
        options.extensions.insert(mode);
        options
    };
    let options = multipart(PutMode::Create);
    let mut upload = store.put_multipart_opts(&object, options).await.unwrap();
    upload.put_part("b".into()).await.unwrap();
    let created = upload.complete().await;
    assert!(
        matches!(created, Err(Error::AlreadyExists { .. })),
        "{created:?}"
    );
    let current = store.head(&object).await.unwrap().e_tag.unwrap();
    let options = multipart(update(&current));
    let id = store.create_multipart_opts(&object, options).await.unwrap();
    let part = store.put_part(&object, &id, 0, "c".into()).await.unwrap();
    let other = Path::from("conditions/other");
    let wrong = store.put_part(&other, &id, 0, "c".into()).await;
    assert!(wrong.is_err(), "the id is of another object");
    let done = store
        .complete_multipart(&object, &id, vec![part.clone()])
        .await;
    let e_tag = done.unwrap().e_tag;
    // Said again, it is true still.
    let again = store.complete_multipart(&object, &id, vec![part]).await;
    assert_eq!(again.unwrap().e_tag, e_tag);
    let stale = store
        .put_opts(&object, "d".into(), update(&current).into())
        .await;
    assert!(
        matches!(stale, Err(Error::Precondition { .. })),
        "{stale:?}"
    );
    assert_eq!(client.get("conditions/object").await.unwrap().value, "c");
}

async fn copies(store: &CorelithStore, client: &Client) {
    let (from, to) = (Path::from("copies/from"), Path::from("copies/to"));
    let attributes = Attributes::from_iter([
        (Attribute::ContentType, "text/plain"),
        (Attribute::Metadata("content-type".into()), "mine"),
    ]);
    let value: Bytes = (0..5_000_001u32).map(|n| (n % 251) as u8).collect();
    let options = PutOptions::from(attributes.clone());
    store
        .put_opts(&from, value.clone().into(), options)
        .await
        .unwrap();
    let pairs = client.head("copies/from").await.unwrap();
    let pairs = pairs.description().unwrap().attributes.clone();
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        pairs,
        [
            own("content-type", "text/plain"),
            own("meta-content-type", "mine")
        ]
    );
    store.rename(&from, &from).await.unwrap();
    let onto_itself = store.rename_if_not_exists(&from, &from).await;
    assert!(matches!(onto_itself, Err(Error::AlreadyExists { .. })));
    store.copy(&from, &from).await.unwrap();
    store.rename_if_not_exists(&from, &to).await.unwrap();
    let gone = store.rename(&from, &from).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    let found = store.get(&to).await.unwrap();
    assert_eq!(found.attributes, attributes);
    assert!(found.bytes().await.unwrap() == value);
    // Ranges of one version: far from each other, overlapping, across chunks.
    let ranges = [
        4_999_990..5_000_100,
        0..3,
        1..5,
        1_048_570..1_048_580,
        0..5_000_001,
    ];
    let found = store.get_ranges(&to, &ranges).await.unwrap();
    for (range, found) in ranges.iter().zip(found) {
        let end = range.end.min(value.len() as u64) as usize;
        assert!(found == value[range.start as usize..end], "{range:?}");
    }
    // What is read stays readable.
    let reading = store.get(&to).await.unwrap();
    store.delete(&to).await.unwrap();
    assert!(reading.bytes().await.unwrap() == value);
}

async fn pages(store: &CorelithStore, client: &Client) {
    // More in a group than a listing reads of it.
    let keys = (0..2500).map(|n| format!("pages/group/{n:04}"));
    let keys: Vec<_> = keys.chain((0..7).map(|n| format!("pages/{n}"))).collect();
    stream::iter(&keys)
        .for_each_concurrent(64, |key| async move {
            client.put(key, "x").await.unwrap();
        })
        .await;
    client.put("pages/zoo/1", "x").await.unwrap();
    let prefix = Path::from("pages");
    let found = store.list_with_delimiter(Some(&prefix)).await.unwrap();
    assert_eq!(found.objects.len(), 7);
    let groups = [Path::from("pages/group"), Path::from("pages/zoo")];
    assert_eq!(found.common_prefixes, groups);
    let mut options = PaginatedListOptions {
        delimiter: Some("/".into()),
        max_keys: Some(4),
        offset: Some("pages/0".into()),
        ..Default::default()
    };
    let mut sizes = Vec::new();
    loop {
        let page = store.list_paginated(Some("pages/"), options.clone()).await;
        let page = page.unwrap();
        sizes.push((page.result.objects.len(), page.result.common_prefixes.len()));
        options.page_token = page.page_token;
        if options.page_token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [(4, 0), (2, 2)]);
    let all: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
    assert_eq!(all.len(), keys.len() + 1);
    assert!(all.is_sorted_by(|a, b| a.location < b.location));
    let deleted = store.delete_stream(
        stream::iter(all.clone())
            .map(|object| Ok(object.location))
            .boxed(),
    );
    let deleted: Vec<_> = deleted.try_collect().await.unwrap();
    assert!(deleted.iter().eq(all.iter().map(|object| &object.location)));
}

/// What is not finished leaves nothing behind.
async fn uploads(store: &CorelithStore, client: &Client) {
    let object = Path::from("uploads/object");
    let mut upload = store.put_multipart(&object).await.unwrap();
    upload.put_part("part".into()).await.unwrap();
    assert_eq!(client.uploads().await.unwrap().len(), 1);
    drop(upload);
    crate::waiting::until_async("the upload to be aborted", async || {
        match client.uploads().await.unwrap() {
            open if open.is_empty() => Ok(()),
            open => Err(format!("{open:?}")),
        }
    })
    .await;
    assert!(matches!(
        store.head(&object).await,
        Err(Error::NotFound { .. })
    ));
}
