//! `export`: writes every key to a file under a directory, and lists the files in a manifest.

use super::args::ExportArguments;
use super::encoding::{counted, printable};
use super::failure::Failure;
use super::manifest::{ExportRecord, Subject, Writer, file_names, sync_directory};
use super::sink;
use super::transfer::{End, Interrupts, LARGE_MAX, Tally, concerns_cluster_or_files};
use corelith_client::{Client, DigestKind, Download, Error};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How often a value is read that is overwritten while it is read.
const READS_MAX: usize = 3;

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
    let mut tally = Tally::new("exported", 0, !arguments.no_progress);
    let again: Vec<_> = manifest.summary.failed.iter().cloned().map(Ok).collect();
    let keys = stream::iter(again).chain(rest(client, &manifest, &prefix));
    let first = manifest.lines();
    let (root_ref, prefix_len) = (root.as_path(), prefix.len());
    let turns = Semaphore::new(LARGE_MAX);
    let source = (client, &turns);
    let mut outcomes = std::pin::pin!(
        keys.enumerate()
            .map(|(place, key)| async move {
                match key {
                    Ok(key) => {
                        export(source, root_ref, prefix_len, key, first + place as u64).await
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
    (client, turns): (&Client, &Semaphore),
    root: &Path,
    prefix_len: usize,
    key: Vec<u8>,
    number: u64,
) -> KeyOutcome {
    let name = key.get(prefix_len..).unwrap_or_default();
    let names = file_names(name, number);
    for _ in 0..READS_MAX {
        match read((client, turns), root, &key, &names).await {
            Ok(Some(record)) => return KeyOutcome::Exported(record),
            Ok(None) => return KeyOutcome::Gone,
            // It was overwritten meanwhile.
            Err(Failure::Cluster(Error::ValueGone)) => {}
            Err(failure) => return KeyOutcome::Failed(key, failure),
        }
    }
    KeyOutcome::Failed(key, Error::ValueGone.into())
}

/// Reads the value into a file; `None` if there is none.
async fn read(
    (client, turns): (&Client, &Semaphore),
    root: &Path,
    key: &[u8],
    names: &[String],
) -> Result<Option<ExportRecord>, Failure> {
    let request = client.get(key);
    let Some(mut download) = request.clone().stream().await? else {
        return Ok(None);
    };
    let mut turn = None;
    if download.head().description().is_some() {
        turn = turns.try_acquire().ok();
        if turn.is_none() {
            // A value that is not read meanwhile is not kept for long: it is looked up again.
            drop(download);
            turn = turns.acquire().await.ok();
            match request.stream().await? {
                Some(again) => download = again,
                None => return Ok(None),
            }
        }
    }
    let record = write(root, names, download).await?;
    drop(turn);
    Ok(Some(record))
}

/// Writes the value under the first name that does not collide with another key's file.
async fn write(root: &Path, names: &[String], download: Download) -> Result<ExportRecord, Failure> {
    let (name, file) = create(root, names).await?;
    let path = root.join(&name);
    let written = fill(root, name, file, download).await;
    if written.is_err() {
        // What is not whole is not listed: an import would not know what it is.
        let _ = std::fs::remove_file(&path);
    }
    written
}

async fn fill(
    root: &Path,
    name: String,
    file: Arc<File>,
    mut download: Download,
) -> Result<ExportRecord, Failure> {
    let path = root.join(&name);
    let failed = |error| Failure::file("write", &path, error);
    let (mut length, mut crc32c) = (0, 0);
    while let Some(piece) = download.try_next().await? {
        length += piece.len() as u64;
        crc32c = crc32c::crc32c_append(crc32c, &piece);
        sink::write(&file, piece).await.map_err(failed)?;
    }
    let synced = sync(root.to_owned(), path.clone(), file).await;
    synced.map_err(failed)?;
    let head = download.head();
    assert_eq!(length, head.value_len, "a download ends at its end");
    let description = head.description();
    Ok(ExportRecord {
        key: head.key.to_vec(),
        file: name,
        version: head.version,
        length,
        crc32c,
        sha256: description.is_some_and(|known| known.digest.kind == DigestKind::Sha256),
        attributes: description.map_or_else(Vec::new, |known| known.attributes.clone()),
    })
}

/// Creates the file of the first name that is free.
async fn create(root: &Path, names: &[String]) -> Result<(String, Arc<File>), Failure> {
    let mut met = None;
    for name in names {
        let path = root.join(name);
        match create_file(root, path.clone()).await {
            Ok(file) => return Ok((name.clone(), Arc::new(file))),
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

async fn create_file(root: &Path, path: PathBuf) -> std::io::Result<File> {
    assert!(
        path.starts_with(root),
        "{} is not in {}",
        path.display(),
        root.display()
    );
    let work = move || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        File::create(&path)
    };
    tokio::task::spawn_blocking(work).await?
}

/// Makes a file below `root` durable, and its directory entries up to `root`: only then may the manifest list it.
async fn sync(root: PathBuf, path: PathBuf, file: Arc<File>) -> std::io::Result<()> {
    let work = move || {
        file.sync_all()?;
        let directories = path.ancestors().skip(1);
        for directory in directories.take_while(|directory| directory.starts_with(&root)) {
            sync_directory(directory)?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await?
}
