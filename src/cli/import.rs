//! `import`: every file under a directory becomes a key.

use super::args::Import;
use super::failure::Failure;
use corelith_client::Client;
use futures_util::{StreamExt, stream};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

struct Source {
    path: PathBuf,
    key: Vec<u8>,
    len: u64,
}

/// Imports the directory. A file that fails is reported and left out; the others go on.
pub(super) async fn run(client: &Client, arguments: Import) -> Result<(), Failure> {
    let prefix = arguments.prefix.into_vec();
    let sources = list(&arguments.dir, &prefix)?;
    let total = sources.len() as u64;
    let bar = progress_bar(sources.iter().map(|source| source.len).sum());
    let mut failed = Failures::new(&bar);
    let mut puts = stream::iter(sources)
        .map(|source| async move {
            let outcome = put(client, &source).await;
            (source, outcome)
        })
        .buffer_unordered(usize::from(arguments.in_flight));
    while let Some((source, outcome)) = puts.next().await {
        bar.inc(source.len);
        if let Err(failure) = outcome {
            failed.note(&source.path, &failure);
        }
    }
    finish("imported", &bar, total, failed)
}

async fn put(client: &Client, source: &Source) -> Result<(), Failure> {
    // Refused before it is read, so that a huge file costs no memory.
    let limit = client.limits().value_bytes_max;
    if source.len > limit {
        let (what, len) = (corelith_client::Field::Value, source.len);
        return Err(corelith_client::Error::TooLarge { what, len, limit }.into());
    }
    let value = tokio::fs::read(&source.path)
        .await
        .map_err(|error| Failure::file("read", &source.path, error))?;
    client.put(source.key.clone(), value).await?;
    Ok(())
}

/// Lists the regular files under `root`, in order of names; links and devices are left out.
fn list(root: &Path, prefix: &[u8]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let failure = |error| Failure::file("list", &directory, error);
        for entry in std::fs::read_dir(&directory).map_err(failure)? {
            let entry = entry.map_err(failure)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(failure)?;
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let relative = path
                    .strip_prefix(root)
                    .unwrap_or(&path)
                    .as_os_str()
                    .as_bytes();
                let key = [prefix, relative].concat();
                let len = entry.metadata().map_err(failure)?.len();
                sources.push(Source { path, key, len });
            }
        }
    }
    sources.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(sources)
}

/// A bar over bytes; nothing is drawn if standard error is no terminal.
pub(super) fn progress_bar(total_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(total_bytes);
    let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Counts the files that failed, and reports each.
pub(super) struct Failures<'a> {
    bar: &'a ProgressBar,
    count: u64,
    code: u8,
}

impl<'a> Failures<'a> {
    /// None yet.
    pub(super) fn new(bar: &'a ProgressBar) -> Self {
        Self {
            bar,
            count: 0,
            code: 0,
        }
    }

    /// Reports a failure.
    pub(super) fn note(&mut self, path: &Path, failure: &Failure) {
        if self.count == 0 {
            self.code = failure.exit_code();
        }
        self.count += 1;
        self.bar.suspend(|| {
            // Nobody is left to tell if standard error is gone.
            let _ = writeln!(std::io::stderr(), "{}: {failure}", path.display());
        });
    }
}

/// Prints what was done, and tells the failure if not all of it was.
pub(super) fn finish(
    what: &str,
    bar: &ProgressBar,
    total: u64,
    failed: Failures<'_>,
) -> Result<(), Failure> {
    bar.finish_and_clear();
    super::output::text(&format!(
        "{what} {} files, {}, in {}\n",
        total.saturating_sub(failed.count),
        HumanBytes(bar.position()),
        HumanDuration(bar.elapsed()),
    ))?;
    if failed.count > 0 {
        return Err(Failure::Partly {
            failed: failed.count,
            total,
            code: failed.code,
        });
    }
    Ok(())
}
