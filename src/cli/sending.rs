//! The course of an upload: what is sent, what is shown meanwhile, and what is said if it does not end well.

use super::args::TransferOptions;
use super::connect::Reached;
use super::encoding::shell_word;
use super::failure::Failure;
use super::pieces::Pieces;
use super::progress::{TransferBar, tell};
use super::stored::Stored;
use super::transfer::{Interrupts, concerns_cluster};
use bytes::Bytes;
use corelith_client::{FileUpload, Upload, UploadBuilder, Uploaded};
use indicatif::BinaryBytes;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Watches an upload: the bar on the terminal, and what came of its bytes.
#[derive(Clone)]
pub(super) struct Watch {
    bar: TransferBar,
    last: Arc<Mutex<corelith_client::Progress>>,
}

impl Watch {
    pub(super) fn new(transfer: &TransferOptions, length: Option<u64>) -> Self {
        Self {
            bar: TransferBar::new(!transfer.no_progress, length),
            last: Arc::default(),
        }
    }

    /// Has the upload report to this.
    pub(super) fn of(&self, upload: UploadBuilder) -> UploadBuilder {
        let watch = self.clone();
        upload.on_progress(move |progress| {
            watch.bar.at(progress.bytes_durable);
            *watch.last.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        })
    }

    pub(super) fn last(&self) -> corelith_client::Progress {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self) {
        self.bar.end();
    }

    /// Says how to go on after a failure that passes.
    pub(super) fn tell_how_to_go_on(&self, failure: &Failure, command: &str) {
        if !matches!(failure, Failure::Interrupted) && !concerns_cluster(failure.exit_code()) {
            return;
        }
        let durable = BinaryBytes(self.last().bytes_durable);
        tell(&format!("{durable} are uploaded; to finish: {command}"));
    }
}

/// Writes everything, and commits.
pub(super) async fn send(
    upload: &mut Upload,
    begin: Bytes,
    pieces: Option<Pieces>,
) -> Result<Uploaded, Failure> {
    upload.write(begin).await?;
    if let Some(mut pieces) = pieces {
        while let Some(piece) = pieces.next().await {
            upload.write(piece?).await?;
        }
    }
    Ok(upload.commit().await?)
}

/// Uploads a file beside which its token lies, and says how to go on if it does not end.
pub(super) async fn upload_file(
    reached: &Reached,
    upload: FileUpload,
    path: &Path,
    watch: &Watch,
) -> Result<Stored, Failure> {
    let mut interrupts = Interrupts::new()?;
    let outcome = tokio::select! {
        biased;
        () = interrupts.next() => Err(Failure::Interrupted),
        uploaded = upload.clone().into_future() => uploaded.map_err(Failure::Cluster),
    };
    watch.end();
    if let Err(failure) = &outcome
        && matches!(upload.token().await, Ok(Some(_)))
    {
        let command = format!("upload resume {}", shell_word(path.as_os_str()));
        watch.tell_how_to_go_on(failure, &reached.command(&command));
    }
    Ok(Stored::of(&outcome?, watch.last()))
}
