//! Uploads of large values.
//!
//! A value that does not fit in one frame travels as chunks, each of which is durable on a majority before it is
//! acknowledged. The value becomes visible by a commit, whole, whatever its size.

pub(crate) mod builder;
pub(crate) mod digest;
pub(crate) mod file;
pub(crate) mod handle;
pub(crate) mod list;
pub(crate) mod multipart;
pub(crate) mod outcome;
pub(crate) mod plan;
pub(crate) mod token;

use crate::error::{Error, Result};
use crate::limits::COPIED_BYTES;
use crate::value::IntoValue;
use builder::{Listener, UploadBuilder, refused};
use handle::{UploadHandle, Uploaded};
use plan::{ChunkPlace, PlanError, UploadPlan};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use token::UploadToken;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::{JoinError, JoinSet};

/// How far an upload has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of the value that are durable on a majority.
    pub bytes_durable: u64,
    /// Bytes that this process has sent, each counted once.
    pub bytes_sent: u64,
    /// Bytes that it did not send, since an earlier process had.
    pub bytes_skipped: u64,
    /// Length of the value in bytes, if it is known.
    pub length: Option<u64>,
}

/// What becomes of an upload that is dropped before its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterDrop {
    /// It can be resumed.
    Stays,
    /// It can be resumed, and whoever dropped it knows.
    StaysSilently,
    /// Nobody has its token.
    IsAborted,
}

/// The end of an upload in progress.
type Committing = Pin<Box<dyn Future<Output = Result<Uploaded>> + Send>>;

/// An upload that is written like a file: an [`AsyncWrite`], or by [`write`](Self::write). Made by
/// [`UploadBuilder::start`] and [`UploadBuilder::resume`].
///
/// **Nothing of it can be read before [`commit`](Self::commit)**, or before `poll_shutdown`, which is the same.
/// An upload that is dropped before stays in the cluster until its time to live passes, so that its
/// [`token`](Self::token) can resume it; the drop logs a warning. [`abort`](Self::abort) ends it at once.
///
/// **Memory**: the chunks in flight ([`concurrency`](UploadBuilder::concurrency)) and one more, of at most 512 KiB each:
/// 2.5 MiB by default. When all are in use, a write waits. Whole chunks given to [`write`](Self::write) are not copied.
///
/// **Flush** waits until what was written is durable on a majority. It sends a chunk that is not full as it is, which
/// costs space and time, and does so at most 4,000 times; after that it waits for the full chunks only.
///
/// **Errors**: after an error every further call returns the same error again. The upload can be resumed by its token if
/// the error is of the kind that passes.
///
/// Cancel safe: a dropped future of `flush` or `commit` can be called for again. Of a dropped `write`, a part of the
/// bytes may have been taken; [`position`](Self::position) says how many.
pub struct Upload {
    handle: UploadHandle,
    plan: UploadPlan,
    sending: JoinSet<(ChunkPlace, Result<()>)>,
    length: Option<u64>,
    on_progress: Option<Listener>,
    resume_at: u64,
    dropped: AfterDrop,
    committing: Option<Committing>,
    /// What it came to.
    ended: Option<Result<Uploaded>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("token", &self.handle.token)
            .field("progress", &self.progress())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Upload {
    fn new(builder: UploadBuilder, handle: UploadHandle, plan: UploadPlan) -> Self {
        Self {
            handle,
            resume_at: plan.position(),
            plan,
            sending: JoinSet::new(),
            length: builder.length,
            on_progress: builder.on_progress,
            dropped: AfterDrop::Stays,
            committing: None,
            ended: None,
        }
    }

    /// Nobody has its token: dropped, it is aborted.
    pub(crate) fn aborts_when_dropped(&mut self) {
        self.dropped = AfterDrop::IsAborted;
    }

    /// Dropped, it stays as ever, but no warning is logged: the caller keeps its token, or ends it in another way.
    pub fn stays_silently(&mut self) {
        self.dropped = AfterDrop::StaysSilently;
    }

    /// With what another process can resume it. It stays the same.
    pub fn token(&self) -> UploadToken {
        self.handle.token.clone()
    }

    /// Where in the value the first byte belongs that is to be written. 0 for a new upload. A resumed one goes on behind what
    /// is durable, or at 0 if it computes a digest, which needs all bytes, or compares them
    /// ([`UploadBuilder::from_start`]); then the durable ones are not sent again.
    pub fn resume_at(&self) -> u64 {
        self.resume_at
    }

    /// Where in the value the next byte belongs.
    pub fn position(&self) -> u64 {
        self.plan.position()
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        let tally = self.plan.tally();
        Progress {
            bytes_durable: tally.durable,
            bytes_sent: tally.sent,
            bytes_skipped: tally.skipped,
            length: self.length,
        }
    }

    /// What it came to, once it is committed.
    pub fn uploaded(&self) -> Option<&Uploaded> {
        self.ended.as_ref()?.as_ref().ok()
    }

    fn tell(&self) {
        if let Some(listener) = &self.on_progress {
            listener(self.progress());
        }
    }

    /// Writes bytes. Whole chunks of owned bytes are sent without a copy.
    ///
    /// # Errors
    /// `TooLarge` if the value gets longer than values may be; `ContentDiffers` if it was resumed and other bytes were
    /// uploaded before; `UploadEnded` if it expired or was aborted; `DiskFull`, `ShardFull`, `Unavailable` or
    /// `Throttled` if a chunk cannot be sent within the deadline of a request.
    pub async fn write(&mut self, bytes: impl IntoValue) -> Result<()> {
        let mut bytes = bytes.into_value();
        while !bytes.is_empty() {
            std::future::poll_fn(|context| self.poll_room(context)).await?;
            let taken = self.plan.write_shared(&mut bytes);
            self.checked(taken)?;
            self.launch()?;
        }
        Ok(())
    }

    /// Writes all that `source` gives, and returns how many bytes. It flushes nothing in between, other than
    /// [`tokio::io::copy`], which flushes whenever its source pauses. Keeps 64 KiB more in memory.
    ///
    /// # Errors
    /// Those of `source`, and as [`write`](Self::write).
    pub async fn write_from(&mut self, mut source: impl AsyncRead + Unpin) -> io::Result<u64> {
        let mut buffer = vec![0; COPIED_BYTES];
        let mut total = 0;
        loop {
            let count = source.read(&mut buffer).await?;
            let read = buffer.get(..count).unwrap_or_default();
            if read.is_empty() {
                return Ok(total);
            }
            self.write_all(read).await?;
            total += count as u64;
        }
    }

    /// Waits until what was written is durable on a majority, see [`Upload`].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn flush(&mut self) -> Result<()> {
        std::future::poll_fn(|context| self.poll_flushed(context)).await
    }

    /// Makes what was written the value of the key. When it returns, the value can be read, and is durable on a majority.
    ///
    /// # Errors
    /// `Conflict` if the condition does not hold, `Indeterminate` if the outcome is not known: then call it again, or
    /// read the key. Those of [`write`](Self::write).
    pub async fn commit(&mut self) -> Result<Uploaded> {
        std::future::poll_fn(|context| self.poll_commit(context)).await
    }

    /// Gives the upload up: nothing is left of it. Retried until the deadline of a request.
    ///
    /// # Errors
    /// `UploadEnded` if it is committed; `Unavailable` or `Throttled` if the deadline passes first.
    pub async fn abort(mut self) -> Result<()> {
        self.sending.shutdown().await;
        self.committing = None;
        let handle = self.handle.clone();
        self.fail(ended_here());
        handle.abort().await
    }

    fn fail(&mut self, error: Error) -> Error {
        // The first error is the one that is told.
        match self.ended.get_or_insert(Err(error.clone())) {
            Err(first) => first.clone(),
            Ok(_) => error,
        }
    }

    fn checked<T>(&mut self, result: std::result::Result<T, PlanError>) -> Result<T> {
        let limit = self.handle.client.limits().value_bytes_max;
        result.map_err(|error| self.fail(refused(error, limit)))
    }

    /// Whether it takes more.
    fn check(&self) -> Result<()> {
        match &self.ended {
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(_)) => Err(ended_here()),
            None => Ok(()),
        }
    }

    /// Sends the chunks that may go.
    fn launch(&mut self) -> Result<()> {
        let before = self.plan.tally();
        loop {
            let next = self.plan.next_chunk();
            let Some(chunk) = self.checked(next)? else {
                break;
            };
            let handle = self.handle.clone();
            self.sending.spawn(async move {
                let place = chunk.place;
                (place, handle.send(chunk).await)
            });
        }
        if self.plan.tally().skipped != before.skipped {
            self.tell();
        }
        Ok(())
    }

    fn sent(
        &mut self,
        joined: std::result::Result<(ChunkPlace, Result<()>), JoinError>,
    ) -> Result<()> {
        let (place, result) = joined.map_err(|error| self.fail(of_task(&error)))?;
        if let Err(error) = result {
            return Err(self.fail(error));
        }
        self.plan.durable(place);
        self.tell();
        Ok(())
    }

    /// Takes the outcomes that are there, and sends what may go then, until there is nothing to take.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.check()?;
        self.launch()?;
        while let Poll::Ready(Some(joined)) = self.sending.poll_join_next(context) {
            self.sent(joined)?;
            self.launch()?;
        }
        Ok(())
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_sent(context)?;
        if self.plan.is_finished() {
            return Poll::Ready(Err(ended_here()));
        }
        match self.plan.room() > 0 {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn poll_flushed(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.uploaded().is_some() {
            return Poll::Ready(Ok(()));
        }
        self.check()?;
        self.plan.flush();
        self.poll_sent(context)?;
        match self.plan.is_flushed() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn poll_commit(&mut self, context: &mut Context<'_>) -> Poll<Result<Uploaded>> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(ended.clone());
        }
        if self.committing.is_none() {
            self.plan.finish();
            self.poll_sent(context)?;
            let Some(content) = self.plan.content() else {
                return Poll::Pending;
            };
            let handle = self.handle.clone();
            self.committing = Some(Box::pin(async move { handle.commit(content).await }));
        }
        let Some(committing) = &mut self.committing else {
            return Poll::Pending;
        };
        let result = ready!(committing.as_mut().poll(context));
        self.committing = None;
        // One of which nothing is known, or that came to nothing yet, may be asked for again.
        let is_over = match &result {
            Ok(_) => true,
            Err(Error::Indeterminate { .. }) => false,
            Err(error) => !error.is_retryable(),
        };
        if is_over {
            self.ended = Some(result.clone());
        }
        Poll::Ready(result)
    }
}

fn ended_here() -> Error {
    Error::Invalid {
        what: "call: the upload was committed or aborted before, or is being so",
    }
}

/// A task that was cancelled with its runtime, or that panicked.
pub(crate) fn of_task(error: &JoinError) -> Error {
    tracing::error!(%error, "a task of the client did not end by itself");
    let cause = crate::error::Cause::Closed;
    Error::Unavailable { cause }
}

impl AsyncWrite for Upload {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(self.check().map(|()| 0).map_err(io::Error::from));
        }
        ready!(self.poll_room(context))?;
        let taken = self.plan.write(bytes);
        let count = self.checked(taken)?;
        self.launch()?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flushed(context).map_err(io::Error::from)
    }

    /// Commits.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let committed = ready!(self.poll_commit(context));
        Poll::Ready(committed.map(drop).map_err(io::Error::from))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let is_over = matches!(
            self.ended,
            Some(Ok(_) | Err(Error::Conflict { .. } | Error::UploadEnded { .. }))
        );
        match self.dropped {
            AfterDrop::IsAborted if !is_over => self.handle.clone().abort_later(),
            AfterDrop::Stays if self.ended.is_none() => {
                let upload = self.handle.token.upload;
                tracing::warn!(%upload, "an upload was dropped before its commit: no one sees anything of it; it \
                    can be resumed by its token until its time to live passes");
            }
            _ => {}
        }
    }
}
