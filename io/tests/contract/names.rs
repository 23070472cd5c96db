//! Names: creation, listing, renames, removal, the directory lock.

use crate::Place;
use corelith_io::{
    BLOCK_SIZE, Buf, DirEntry, ErrorKind, File, OpenOptions, create_dir_all, free_bytes, list_dir,
    lock_dir, lock_dir_as_it_is, remove_dir_all, remove_file, rename, sync_dir,
};
use std::path::Path;

async fn create(path: &Path, byte: u8) -> File {
    let file = OpenOptions::new().write().create_new().open(path).await;
    let file = file.unwrap();
    let mut buf = Buf::alloc(BLOCK_SIZE);
    buf.fill(byte);
    file.write_at(0, buf).await.unwrap();
    file
}

async fn first_byte(path: &Path) -> u8 {
    File::open(path).await.unwrap().read_at(0, 1).await.unwrap()[0]
}

async fn names(dir: &Path) -> Vec<String> {
    let entries = list_dir(dir).await.unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

pub(crate) async fn a_missing_file_is_not_found(place: Place) {
    let missing = place.dir.join("missing");
    let kinds = [
        File::open(&missing).await.err().unwrap().kind(),
        remove_file(&missing).await.unwrap_err().kind(),
        list_dir(&missing).await.unwrap_err().kind(),
        rename(&missing, &place.dir.join("other"))
            .await
            .unwrap_err()
            .kind(),
        create_in(&missing).await,
    ];
    assert_eq!(kinds, [ErrorKind::NotFound; 5]);
}

async fn create_in(dir: &Path) -> ErrorKind {
    let options = OpenOptions::new().write().create_new();
    options.open(&dir.join("file")).await.err().unwrap().kind()
}

pub(crate) async fn create_new_refuses_an_existing_name(place: Place) {
    let path = place.dir.join("file");
    create(&path, 1).await;
    let again = OpenOptions::new().write().create_new().open(&path).await;
    assert_eq!(again.err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(first_byte(&path).await, 1);
}

pub(crate) async fn directories_are_made_with_their_parents(place: Place) {
    let deep = place.dir.join("a/b/c");
    create_dir_all(&deep).await.unwrap();
    create_dir_all(&deep).await.unwrap();
    create(&deep.join("file"), 1).await;
    sync_dir(&deep).await.unwrap();
    assert_eq!(names(&deep).await, ["file"]);
    let path = deep.join("file");
    create_dir_all(&path).await.unwrap_err();
}

pub(crate) async fn a_directory_lists_its_names_in_order(place: Place) {
    for name in ["c", "a", "d"] {
        create(&place.dir.join(name), 1).await;
    }
    create_dir_all(&place.dir.join("b")).await.unwrap();
    let entry = |name: &str, is_dir, len| DirEntry {
        name: name.to_owned(),
        is_dir,
        len,
    };
    let len = BLOCK_SIZE as u64;
    assert_eq!(
        list_dir(&place.dir).await.unwrap(),
        [
            entry("a", false, len),
            entry("b", true, 0),
            entry("c", false, len),
            entry("d", false, len),
        ]
    );
}

pub(crate) async fn rename_replaces(place: Place) {
    let (from, to) = (place.dir.join("from"), place.dir.join("to"));
    create(&from, 1).await;
    create(&to, 2).await;
    rename(&from, &to).await.unwrap();
    sync_dir(&place.dir).await.unwrap();
    assert_eq!(names(&place.dir).await, ["to"]);
    assert_eq!(first_byte(&to).await, 1);
}

pub(crate) async fn removed_names_are_gone(place: Place) {
    let dir = place.dir.join("dir");
    create_dir_all(&dir.join("inner")).await.unwrap();
    create(&dir.join("inner/file"), 1).await;
    create(&place.dir.join("file"), 1).await;
    remove_file(&place.dir.join("file")).await.unwrap();
    remove_dir_all(&dir).await.unwrap();
    sync_dir(&place.dir).await.unwrap();
    assert!(names(&place.dir).await.is_empty());
}

pub(crate) async fn one_lock_per_directory(place: Place) {
    let lock = lock_dir(&place.dir).await.unwrap();
    let second = lock_dir(&place.dir).await;
    assert_eq!(second.err().unwrap().kind(), ErrorKind::Locked);
    drop(lock);
    lock_dir(&place.dir).await.unwrap();
}

pub(crate) async fn a_lock_that_changes_nothing(place: Place) {
    assert!(lock_dir_as_it_is(&place.dir).await.unwrap().is_none());
    assert!(names(&place.dir).await.is_empty(), "nothing is made");
    drop(lock_dir(&place.dir).await.unwrap());
    let lock = lock_dir_as_it_is(&place.dir).await.unwrap();
    assert!(lock.is_some());
    let second = lock_dir(&place.dir).await;
    assert_eq!(second.err().unwrap().kind(), ErrorKind::Locked);
    let second = lock_dir_as_it_is(&place.dir).await;
    assert_eq!(second.err().unwrap().kind(), ErrorKind::Locked);
}

pub(crate) async fn an_open_file_outlives_its_name(place: Place) {
    let path = place.dir.join("file");
    let file = create(&path, 5).await;
    remove_file(&path).await.unwrap();
    assert_eq!(file.read_at(0, 1).await.unwrap()[0], 5);
    assert_eq!(file.len().await.unwrap(), BLOCK_SIZE as u64);
    create(&path, 6).await;
    assert_eq!(file.read_at(0, 1).await.unwrap()[0], 5);
    assert_eq!(first_byte(&path).await, 6);
}

pub(crate) async fn there_is_free_space(place: Place) {
    assert!(free_bytes(&place.dir).await.unwrap() > 0);
}
