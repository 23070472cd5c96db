//! `get`: values of all lengths, or some of their bytes, in bounded memory.

use super::args::GetArguments;
use super::connect::Reached;
use super::encoding::printable;
use super::entry::{DescriptionFields, EntryLine, KeyFields, ValueFields};
use super::failure::Failure;
use super::keys::{check_key, key};
use super::output;
use super::progress::{TransferBar, tell};
use super::sink::FileSink;
use super::transfer::Interrupts;
use corelith_client::{Download, EntryHead, Error, Get};
use futures_util::TryStreamExt;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// Longest value that is printed as JSON, in bytes.
const JSON_BYTES_MAX: u64 = 8 << 20;

/// Prints a key's value, or with `--meta` what is known of it.
pub(super) async fn run(reached: &Reached, get: GetArguments) -> Result<(), Failure> {
    let key = key(get.key.clone(), get.escaped)?;
    check_key(&reached.client, &key)?;
    let failed = |error| Failure::on_key(&key, error);
    let absent = || Failure::on_key(&key, Error::NotFound);
    let request = reached.client.get(&key);
    if get.meta || get.json {
        let request = request.deadline(reached.left());
        let found = request.clone().head().await.map_err(failed)?;
        let head = found.entry.ok_or_else(absent)?;
        if get.meta {
            return meta(&head, found.shard, get.json);
        }
        if head.value_len > JSON_BYTES_MAX {
            return Err(Failure::Argument(
                "the value has more than 8 MiB, too much for --json: use --output, or --meta with --json",
            ));
        }
        let found = request.lookup().await.map_err(failed)?;
        let entry = found.entry.ok_or_else(absent)?;
        return output::text(&output::json_line(&EntryLine {
            kind: "entry",
            key: KeyFields::of(&key),
            version: entry.version,
            length: entry.value.len() as u64,
            shard: Some(found.shard),
            value: Some(ValueFields::of(&entry.value)),
            large: false,
            description: None,
        })?);
    }
    let request = match get.range {
        Some(range) => range.of(request),
        None => request,
    };
    let request = request.ahead(get.transfer.concurrency.into());
    let opened = open(request, reached.left()).await.map_err(failed)?;
    let download = opened.ok_or_else(absent)?;
    let is_drawn =
        !get.transfer.no_progress && (get.output.is_some() || !std::io::stdout().is_terminal());
    let copied = match &get.output {
        Some(path) => to_file(download, path, is_drawn).await,
        None => to_output(download, get.with_version, is_drawn).await,
    };
    copied.map_err(|failure| match failure {
        Failure::Cluster(error) => failed(error),
        failure => failure,
    })
}

/// The value to read. Looking it up takes at most `left`; of a large one each further request has the client's
/// deadline, so that one is looked up again with that.
async fn open(request: Get, left: Duration) -> corelith_client::Result<Option<Download>> {
    let found = request.clone().deadline(left).stream().await?;
    match found {
        Some(found) if found.head().description().is_some() => request.stream().await,
        found => Ok(found),
    }
}

async fn to_output(
    mut download: Download,
    with_version: bool,
    is_drawn: bool,
) -> Result<(), Failure> {
    if with_version {
        output::text(&format!("version {}\n", download.head().version))?;
    }
    let bar = TransferBar::new(is_drawn, Some(download.len()));
    let copied = async {
        while let Some(bytes) = download.try_next().await? {
            output::bytes(&bytes)?;
            bar.at(download.position());
        }
        Ok(())
    };
    let copied = copied.await;
    bar.end();
    copied.and_then(|()| output::end_of_value())
}

async fn to_file(download: Download, path: &Path, is_drawn: bool) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let output = FileSink::create(path)?;
    let bar = TransferBar::new(is_drawn, Some(download.len()));
    let copied = tokio::select! {
        biased;
        () = interrupts.next() => Err(Failure::Interrupted),
        copied = copy(download, &output, &bar) => copied,
    };
    bar.end();
    match copied {
        Ok(()) => output.complete(),
        Err(failure) => {
            if matches!(failure, Failure::Interrupted) {
                tell(&format!("{} was not written", path.display()));
            }
            Err(failure)
        }
    }
}

async fn copy(mut download: Download, output: &FileSink, bar: &TransferBar) -> Result<(), Failure> {
    while let Some(bytes) = download.try_next().await? {
        output.write(bytes).await?;
        bar.at(download.position());
    }
    Ok(())
}

fn meta(head: &EntryHead, shard: u32, as_json: bool) -> Result<(), Failure> {
    let description = head.description().map(DescriptionFields::of);
    output::text(&match as_json {
        true => output::json_line(&EntryLine {
            kind: "entry",
            key: KeyFields::of(&head.key),
            version: head.version,
            length: head.value_len,
            shard: Some(shard),
            value: None,
            large: description.is_some(),
            description,
        })?,
        false => {
            let (key, version, length) = (printable(&head.key), head.version, head.value_len);
            let text = format!("key {key}\nversion {version}\nlength {length}\nshard {shard}\n");
            text + &description.map_or_else(String::new, |known| known.lines())
        }
    })
}
