//! `import`: writes the files under a directory to the cluster as keys.

use super::args::ImportArguments;
use super::encoding::counted;
use super::failure::Failure;
use super::importer::{ImportSource, Importer, Listed};
use super::manifest::{self, ExportRecord, ManifestSummary};
use super::transfer::{End, Interrupts, Tally, after_argument, concerns_cluster};
use super::watermark::Watermark;
use corelith_client::Client;
use futures_util::{StreamExt, stream};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

type Sources = Box<dyn Iterator<Item = Result<ImportSource, Failure>> + Send>;

/// Refuses an `--after` that no key of the import can be: it would leave out every file, or none.
pub(super) fn refuse_other_after(arguments: &ImportArguments) -> Result<(), Failure> {
    let prefix = arguments.prefix.as_bytes();
    match &arguments.after {
        Some(after) if !after.0.starts_with(prefix) => Err(Failure::Argument(
            "--after names a stored key, prefix included: it must start with the --prefix",
        )),
        _ => Ok(()),
    }
}

/// Imports the directory. A file that fails is reported and skipped; the others go on.
pub(super) async fn run(client: &Client, arguments: ImportArguments) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let after = arguments.after.map(|key| key.0);
    let prefix = arguments.prefix.into_vec();
    let (sources, mut tally) = match ManifestSummary::read(&arguments.dir)? {
        Some((summary, _)) => {
            refuse_incomplete(&arguments.dir, &summary, arguments.incomplete)?;
            let tally = Tally::new("imported", summary.bytes, !arguments.no_progress);
            exported(&arguments.dir, summary, prefix, after.clone(), tally)?
        }
        None => plain(
            &arguments.dir,
            &prefix,
            after.as_deref(),
            !arguments.no_progress,
        ),
    };
    let importer = Importer::new(client);
    let importer = &importer;
    let mut puts = std::pin::pin!(
        stream::iter(sources)
            .enumerate()
            .map(|(place, source)| async move {
                let source = source?;
                let outcome = importer.put(&source).await;
                Ok((place as u64, source, outcome))
            })
            .buffer_unordered(usize::from(arguments.in_flight))
    );
    let mut mark = Watermark::after(after);
    let end = loop {
        let outcome = tokio::select! {
            biased;
            () = interrupts.next() => break End::Interrupted,
            outcome = puts.next() => outcome,
        };
        match outcome {
            None => break End::Complete,
            Some(Err(failure)) => break End::BrokenOff(failure),
            Some(Ok((place, source, Ok(bytes)))) => {
                tally.done(bytes);
                mark.done(place, source.key);
            }
            Some(Ok((place, source, Err(failure)))) => {
                tally.failed(&source.path.display().to_string(), &failure);
                // A fault of the file itself does not go away: do not try it again.
                match concerns_cluster(failure.exit_code()) {
                    true => mark.hold(place),
                    false => mark.done(place, source.key),
                }
                if tally.is_hopeless(&failure, concerns_cluster) {
                    break End::BrokenOff(failure);
                }
            }
        }
    };
    importer.give_up().await;
    let go_on = match mark.key() {
        Some(key) => format!(
            "to continue, repeat the command with {}",
            after_argument(&key)
        ),
        None => "to continue, repeat the command".to_owned(),
    };
    tally.finish(end, &go_on, arguments.json)
}

fn refuse_incomplete(dir: &Path, summary: &ManifestSummary, allowed: bool) -> Result<(), Failure> {
    let problem = match (summary.is_ended, summary.failed.len()) {
        _ if allowed => return Ok(()),
        (true, 0) => return Ok(()),
        (true, 1) => "it holds an export that lacks one key".to_owned(),
        (true, failed) => format!("it holds an export that lacks {failed} keys"),
        (false, _) => "it holds an export that is not complete".to_owned(),
    };
    Err(Failure::unusable(
        dir,
        problem
            + ": complete it with `corelith export`, or import the keys that it holds with --incomplete",
    ))
}

/// The files of an export, by its manifest.
fn exported(
    dir: &Path,
    summary: ManifestSummary,
    prefix: Vec<u8>,
    after: Option<Vec<u8>>,
    mut tally: Tally,
) -> Result<(Sources, Tally), Failure> {
    let mut unlisted = 0;
    walk(dir, |found| {
        unlisted += u64::from(matches!(found, FoundEntry::File(..)));
    });
    // The manifest itself is a file.
    let unlisted = unlisted.saturating_sub(summary.keys + 1);
    if unlisted > 0 {
        let what = format!(
            "{}: {} skipped: not in the manifest",
            dir.display(),
            counted(unlisted, "file", "files")
        );
        tally.skipped_all(unlisted, &what);
    }
    let full = move |key: &[u8]| [prefix.as_slice(), key].concat();
    if let Some(after) = &after {
        let mut records = manifest::records(dir)?;
        if !records.any(|record| record.is_ok_and(|record| full(&record.key) == *after)) {
            return Err(Failure::Argument(
                "the manifest does not list the key of --after",
            ));
        }
    }
    let mut waiting = after.is_some();
    let root = dir.to_owned();
    let sources = manifest::records(dir)?.filter_map(move |record| {
        let ExportRecord {
            key,
            file,
            length,
            crc32c,
            sha256,
            attributes,
            ..
        } = match record {
            Ok(record) => record,
            Err(failure) => return Some(Err(failure)),
        };
        let key = full(&key);
        if waiting {
            waiting = after.as_deref() != Some(&key);
            return None;
        }
        Some(Ok(ImportSource {
            path: root.join(file),
            key,
            len: length,
            listed: Some(Listed {
                crc32c,
                sha256,
                attributes,
            }),
        }))
    });
    Ok((Box::new(sources), tally))
}

/// The files of any other directory, in order of their keys.
fn plain(dir: &Path, prefix: &[u8], after: Option<&[u8]>, is_drawn: bool) -> (Sources, Tally) {
    let mut sources = Vec::new();
    let mut skipped = Vec::new();
    let mut failed = Vec::new();
    walk(dir, |found| match found {
        FoundEntry::File(path, len) => {
            let relative = path
                .strip_prefix(dir)
                .unwrap_or(&path)
                .as_os_str()
                .as_bytes();
            let key = [prefix, relative].concat();
            sources.push(ImportSource {
                path,
                key,
                len,
                listed: None,
            });
        }
        FoundEntry::Other(path) => skipped.push(path),
        FoundEntry::Failed(path, error) => failed.push((path, error)),
    });
    sources.retain(|source| after.is_none_or(|after| source.key.as_slice() > after));
    sources.sort_by(|a, b| a.key.cmp(&b.key));
    let bytes = sources.iter().map(|source| source.len).sum();
    let mut tally = Tally::new("imported", bytes, is_drawn);
    for path in skipped {
        tally.skipped(&path.display().to_string(), "not a regular file");
    }
    for (path, error) in failed {
        let name = path.display().to_string();
        tally.failed(&name, &Failure::local("read", "", error));
    }
    (Box::new(sources.into_iter().map(Ok)), tally)
}

/// What a walk through a directory finds.
enum FoundEntry {
    File(PathBuf, u64),
    /// A link, a device, a socket.
    Other(PathBuf),
    Failed(PathBuf, std::io::Error),
}

/// Calls `tell` with everything under `root` except directories.
fn walk(root: &Path, mut tell: impl FnMut(FoundEntry)) {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let names = match std::fs::read_dir(&directory) {
            Ok(names) => names,
            Err(error) => {
                tell(FoundEntry::Failed(directory, error));
                continue;
            }
        };
        for entry in names {
            let found = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)));
            match found {
                Ok((path, data)) if data.is_dir() => directories.push(path),
                Ok((path, data)) if data.is_file() => tell(FoundEntry::File(path, data.len())),
                Ok((path, _)) => tell(FoundEntry::Other(path)),
                Err(error) => tell(FoundEntry::Failed(directory.clone(), error)),
            }
        }
    }
}
