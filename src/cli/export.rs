//! `export`: every key becomes a file under a directory.

use super::args::Export;
use super::failure::Failure;
use super::import::{Failures, finish, progress_bar};
use super::output;
use corelith_client::{Client, Entry};
use futures_util::StreamExt;
use std::ffi::OsStr;
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Exports every key that begins with the prefix. A key that cannot be a file is reported and left
/// out; the others go on.
pub(super) async fn run(client: &Client, arguments: Export) -> Result<(), Failure> {
    let root = arguments.dir;
    prepare(&root)?;
    let prefix = arguments.prefix.into_vec();
    let bar = progress_bar(0);
    let mut failed = Failures::new(&bar);
    let mut total = 0;
    let mut entries = std::pin::pin!(client.scan(prefix.clone()));
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        total += 1;
        let name = entry.key.get(prefix.len()..).unwrap_or_default();
        match write(&root, name, &entry).await {
            Ok(()) => {
                bar.inc_length(entry.value.len() as u64);
                bar.inc(entry.value.len() as u64);
            }
            Err(failure) => failed.note(Path::new(&output::printable(&entry.key)), &failure),
        }
    }
    finish("exported", &bar, total, failed)
}

fn prepare(root: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(root).map_err(|error| Failure::file("create", root, error))?;
    let mut names = std::fs::read_dir(root).map_err(|error| Failure::file("list", root, error))?;
    match names.next() {
        None => Ok(()),
        Some(_) => Err(Failure::DirectoryNotEmpty(root.to_owned())),
    }
}

async fn write(root: &Path, name: &[u8], entry: &Entry) -> Result<(), Failure> {
    let relative = relative_path(name)
        .ok_or_else(|| Failure::local("use as a file name", "the key", unusable()))?;
    let path = root.join(relative);
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent)
            .await
            .map_err(|error| Failure::file("create", parent, error))?;
    }
    tokio::fs::write(&path, &entry.value)
        .await
        .map_err(|error| Failure::file("write", &path, error))
}

fn unusable() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "it is empty, absolute, or has an empty, . or .. part",
    )
}

/// The path that `key` names below a directory, if it stays below it and names exactly one file.
pub(super) fn relative_path(key: &[u8]) -> Option<PathBuf> {
    let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    if !key.split(|byte| *byte == b'/').all(plain) {
        return None;
    }
    let path = PathBuf::from(OsStr::from_bytes(key));
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
        .then_some(path)
}
