//! `export`: writes every key to a file under a directory, and lists the files in a manifest.

use super::args::ExportArguments;
use super::encoding::{counted, printable};
use super::failure::Failure;
use super::manifest::{ExportRecord, Subject, Writer, file_names, sync_directory};
use super::transfer::{End, Interrupts, Tally, concerns_cluster_or_files};
use bytes::Bytes;
use corelith_client::{Client, Entry, Error};
use futures_util::{StreamExt, stream};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// The outcome of one key.
enum KeyOutcome {
    Exported(ExportRecord),
    /// It was deleted after it was listed.
    Gone,
    Failed(Vec<u8>, Failure),
    /// The scan that lists the keys failed.
    NotListed(Failure),
}

/// Exports every key that starts with the prefix. A key that cannot be read or written is reported and
/// skipped; the others go on.
pub(super) async fn run(client: &Client, arguments: ExportArguments) -> Result<(), Failure> {
    let root = arguments.dir;
    let prefix = arguments.prefix.into_vec();
    let mut interrupts = Interrupts::new()?;
    let subject = Subject {
        cluster: client.cluster_map().cluster,
        prefix: prefix.clone(),
    };
    let mut manifest = Writer::open(&root, &subject)?;
    let mut tally = Tally::new("exported", 0);
    let again: Vec<_> = manifest.summary.failed.iter().cloned().map(Ok).collect();
    let keys = stream::iter(again).chain(rest(client, &manifest, &prefix));
    let first = manifest.lines();
    let (root_ref, prefix_len) = (root.as_path(), prefix.len());
    let mut outcomes = std::pin::pin!(
        keys.enumerate()
            .map(|(place, key)| async move {
                match key {
                    Ok(key) => {
                        export(client, root_ref, prefix_len, key, first + place as u64).await
                    }
                    Err(failure) => KeyOutcome::NotListed(failure),
                }
            })
            .buffered(usize::from(arguments.in_flight))
    );
    let end = loop {
        let outcome = tokio::select! {
            biased;
            () = interrupts.next() => break End::Interrupted,
            outcome = outcomes.next() => outcome,
        };
        match outcome {
            None => break End::Complete,
            Some(KeyOutcome::Gone) => {}
            Some(KeyOutcome::NotListed(failure)) => break End::BrokenOff(failure),
            Some(KeyOutcome::Exported(record)) => {
                let length = record.length;
                manifest.exported(record)?;
                tally.done(length);
            }
            Some(KeyOutcome::Failed(key, failure)) => {
                tally.failed(&printable(&key), &failure);
                manifest.failed(key, &failure)?;
                if tally.is_hopeless(&failure, concerns_cluster_or_files) {
                    break End::BrokenOff(failure);
                }
            }
        }
    };
    if matches!(end, End::Complete) {
        manifest.end()?;
    }
    let go_on = format!(
        "{} holds {} so far; repeat the same command to continue",
        root.display(),
        counted(manifest.summary.keys, "key", "keys")
    );
    tally.finish(end, &go_on, arguments.json)
}

/// The keys that the export has not tried yet.
fn rest(
    client: &Client,
    manifest: &Writer,
    prefix: &[u8],
) -> impl futures_util::Stream<Item = Result<Vec<u8>, Failure>> + use<> {
    // The first key after the last one.
    let start = manifest
        .summary
        .last
        .as_ref()
        .map(|last| [last.as_slice(), &[0]].concat());
    let limit = match manifest.summary.is_ended {
        true => 0,
        false => u64::MAX,
    };
    client
        .scan(prefix)
        .start_at(start.unwrap_or_default())
        .limit(limit)
        .keys_only()
        .map(|entry| match entry {
            Ok(entry) => Ok(entry.key.to_vec()),
            Err(error) => Err(Failure::Cluster(error)),
        })
}

async fn export(
    client: &Client,
    root: &Path,
    prefix_len: usize,
    key: Vec<u8>,
    number: u64,
) -> KeyOutcome {
    let entry = match client.get(key.clone()).await {
        Ok(entry) => entry,
        Err(Error::NotFound) => return KeyOutcome::Gone,
        Err(error) => return KeyOutcome::Failed(key, error.into()),
    };
    let name = key.get(prefix_len..).unwrap_or_default();
    match write(root, &file_names(name, number), &entry).await {
        Ok(file) => KeyOutcome::Exported(ExportRecord {
            key,
            file,
            version: entry.version,
            length: entry.value.len() as u64,
            crc32c: crc32c::crc32c(&entry.value),
        }),
        Err(failure) => KeyOutcome::Failed(key, failure),
    }
}

/// Writes the value under the first name that does not collide with another key's file.
async fn write(root: &Path, names: &[String], entry: &Entry) -> Result<String, Failure> {
    let mut met = None;
    for name in names {
        let path = root.join(name);
        match write_file(root, &path, &entry.value).await {
            Ok(()) => return Ok(name.clone()),
            Err(error) => {
                let is_name_taken = matches!(
                    error.kind(),
                    ErrorKind::IsADirectory
                        | ErrorKind::NotADirectory
                        | ErrorKind::AlreadyExists
                        | ErrorKind::InvalidFilename
                );
                let failure = Failure::file("write", &path, error);
                if !is_name_taken {
                    return Err(failure);
                }
                met = Some(failure);
            }
        }
    }
    Err(met.unwrap_or_else(|| Failure::unusable(root, "every name for a key's file is taken")))
}

/// Writes a file below `root` and makes it durable, including its directory entries up to `root`: only then may the
/// manifest list it.
async fn write_file(root: &Path, path: &Path, value: &Bytes) -> std::io::Result<()> {
    assert!(
        path.starts_with(root),
        "{} is not in {}",
        path.display(),
        root.display()
    );
    let (root, path, value) = (root.to_owned(), path.to_owned(), value.clone());
    let work = move || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = File::create(&path)?;
        file.write_all(&value)?;
        file.sync_all()?;
        let directories = path.ancestors().skip(1);
        for directory in directories.take_while(|directory| directory.starts_with(&root)) {
            sync_directory(directory)?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await?
}
