//! Uploads of large values.
//!
//! A value that does not fit in one frame travels as chunks, each of which is durable on a majority before it is
//! acknowledged. The value becomes visible by a commit, whole, whatever its size.

pub(crate) mod ask;
pub(crate) mod digest;
pub(crate) mod file;
pub(crate) mod handle;
pub(crate) mod list;
pub(crate) mod multipart;
pub(crate) mod outcome;
pub(crate) mod plan;
pub(crate) mod token;

use crate::client::{Client, own};
use crate::error::{Error, Field, Result};
use crate::limits::{UPLOAD_IN_FLIGHT, UPLOAD_IN_FLIGHT_MAX};
use crate::value::IntoValue;
use crate::write::check_key;
use bytes::Bytes;
use corelith_wire::UploadId;
use corelith_wire::request::Condition;
use corelith_wire::upload::{Attributes, DigestKind};
use digest::Digester;
use handle::{UploadHandle, Uploaded};
use multipart::Multipart;
use plan::{Place, PlanError, PlanSettings, UploadPlan};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use token::UploadToken;
use tokio::io::AsyncWrite;
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

/// Told of the progress.
type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

/// The options of an upload, made by [`Client::upload`]. [`start`](Self::start) begins one that is written like a file,
/// [`multipart`](Self::multipart) one of parts in any order, and [`resume`](Self::resume) goes on with one that an earlier
/// process began.
#[derive(Clone)]
#[must_use = "an upload begins with `start`, `multipart` or `resume`"]
pub struct UploadBuilder {
    client: Client,
    key: Bytes,
    condition: Option<Condition>,
    concurrency: usize,
    ttl: Option<Duration>,
    attributes: Attributes,
    digest: DigestKind,
    length: Option<u64>,
    deadline: Option<Duration>,
    on_progress: Option<Listener>,
}

impl fmt::Debug for UploadBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadBuilder")
            .field("key", &self.key)
            .field("condition", &self.condition)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Uploads a value of any length to `key`, as a stream or in parts. The value replaces that of the key when it is
    /// committed; until then nobody sees anything of it.
    ///
    /// ```no_run
    /// # async fn example(client: corelith_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let mut upload = client.upload("film").content_type("video/mp4").start().await?;
    /// upload.write_all(b"any number of times").await?;
    /// let uploaded = upload.commit().await?;
    /// println!("{} bytes at version {}", uploaded.len, uploaded.version);
    /// # Ok(())
    /// # }
    /// ```
    pub fn upload(&self, key: impl AsRef<[u8]>) -> UploadBuilder {
        UploadBuilder::new(self.clone(), own(key))
    }
}

impl UploadBuilder {
    pub(crate) fn new(client: Client, key: Bytes) -> Self {
        Self {
            client,
            key,
            condition: None,
            concurrency: UPLOAD_IN_FLIGHT,
            ttl: None,
            attributes: Attributes::default(),
            digest: DigestKind::None,
            length: None,
            deadline: None,
            on_progress: None,
        }
    }

    pub(crate) fn condition(mut self, condition: Condition) -> Self {
        self.condition = Some(condition);
        self
    }

    /// Commits only if the key has this version then; otherwise the commit fails with `Conflict`, and the upload has
    /// ended.
    pub fn if_version(self, version: u64) -> Self {
        self.condition(Condition::Version(version))
    }

    /// Commits only if the key has no value then; otherwise the commit fails with `Conflict`, and the upload has ended.
    pub fn if_absent(self) -> Self {
        self.condition(Condition::Absent)
    }

    /// How many chunks (of at most 1 MiB) are in flight at a time. The upload keeps so many in memory, and one more.
    /// Default: 4; at most 64.
    pub fn concurrency(mut self, chunks: usize) -> Self {
        self.concurrency = chunks.clamp(1, UPLOAD_IN_FLIGHT_MAX);
        self
    }

    /// How long the upload may last before the cluster gives it up, from 1 s to 7 days. Default: 24 hours.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Attributes of the value, which [`Client::head`] returns: 8 KiB of names and values in all. They are added to those
    /// given before.
    pub fn attributes<N: Into<String>, V: Into<String>>(
        mut self,
        attributes: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let attributes = attributes.into_iter();
        let pairs = attributes.map(|(name, value)| (name.into(), value.into()));
        self.attributes.pairs.extend(pairs);
        self
    }

    /// The attribute `content-type`.
    pub fn content_type(self, content_type: impl Into<String>) -> Self {
        self.attributes([("content-type", content_type.into())])
    }

    /// Computes a digest of the whole value as its bytes go by, which is kept with it. A crc32c is computed and checked
    /// in any case. SHA-256 and BLAKE3 need the features `sha256` and `blake3` of this crate.
    pub fn digest(mut self, kind: DigestKind) -> Self {
        self.digest = kind;
        self
    }

    /// The length of the value in bytes, if it is known: shown in [`Progress`], and refused before anything is sent
    /// if it is too large.
    pub fn length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    /// How long each request of the upload may take, including retries. The upload as a whole has no deadline. Default:
    /// the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Calls `listener` whenever more bytes are durable, from within the functions of the upload. It should return soon.
    pub fn on_progress(mut self, listener: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(listener));
        self
    }

    /// Begins an upload that is written like a file.
    ///
    /// # Errors
    /// `TooLarge` for a [`length`](Self::length) that no value may have; `Invalid` for attributes that are too long or a
    /// digest whose feature is missing; `UploadRefused` if the shard has too many open uploads; `Unavailable` or
    /// `Throttled` if the deadline passes first.
    pub async fn start(self) -> Result<Upload> {
        self.check()?;
        let digester = Digester::new(self.digest)?;
        let handle = self.begin().await?;
        let plan = UploadPlan::new(self.settings(handle.token.chunk_bytes), digester);
        Ok(Upload::new(self, handle, plan))
    }

    /// Begins an upload whose parts come in any order, numbered by the caller.
    ///
    /// # Errors
    /// As [`start`](Self::start). A digest is refused, since parts do not come in order.
    pub async fn multipart(self) -> Result<Multipart> {
        self.check()?;
        if self.digest != DigestKind::None {
            return Err(Error::Invalid {
                what: "digest: a multipart upload cannot compute one",
            });
        }
        let handle = self.begin().await?;
        Ok(Multipart::new(handle, self.concurrency))
    }

    /// Goes on with the upload of a token, which another process may have begun: see [`Upload::resume_at`] for where. What
    /// is durable already is not sent again. A condition given here replaces that of the token; attributes and time to
    /// live stay as they are.
    ///
    /// # Errors
    /// `UploadEnded` if it has ended, `Invalid` if the token is of another key or cluster or of a multipart upload, and those
    /// of [`start`](Self::start).
    pub async fn resume(mut self, token: &UploadToken) -> Result<Upload> {
        self.check()?;
        token.check(self.client.cluster_id(), &self.key)?;
        self.digest = token.digest;
        let digester = Digester::new(token.digest)?;
        let handle = self.handle_of(token);
        let staged = handle.staged().await?;
        let settings = self.settings(token.chunk_bytes);
        let plan = UploadPlan::resume(settings, digester, &staged);
        let plan = plan.map_err(|error| self.refused(error))?;
        let upload = Upload::new(self, handle, plan);
        upload.tell();
        Ok(upload)
    }

    fn check(&self) -> Result<()> {
        check_key(&self.client, &self.key)?;
        let (len, limit) = (
            self.length.unwrap_or(0),
            self.client.limits().value_bytes_max,
        );
        if len > limit {
            let what = Field::Value;
            return Err(Error::TooLarge { what, len, limit });
        }
        Ok(())
    }

    fn settings(&self, chunk_bytes: u32) -> PlanSettings {
        PlanSettings {
            chunk_bytes,
            bytes_max: self.client.limits().value_bytes_max,
            in_flight_max: self.concurrency,
        }
    }

    pub(crate) fn handle_of(&self, token: &UploadToken) -> UploadHandle {
        let mut token = UploadToken {
            parts: Vec::new(),
            ..token.clone()
        };
        token.condition = self.condition.unwrap_or(token.condition);
        UploadHandle {
            client: self.client.clone(),
            token,
            deadline: self.deadline,
        }
    }

    async fn begin(&self) -> Result<UploadHandle> {
        let attributes = self.attributes.encode().map_err(|_| Error::Invalid {
            what: "attributes: their names and values have more than 8 KiB",
        })?;
        let ttl_ms = self.ttl.map_or(0, |ttl| {
            u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
        });
        let mut handle = UploadHandle {
            client: self.client.clone(),
            token: UploadToken {
                cluster: self.client.cluster_id(),
                upload: self.client.draw_upload_id(),
                key: self.key.clone(),
                chunk_bytes: 0,
                digest: self.digest,
                condition: self.condition.unwrap_or_default(),
                parts: Vec::new(),
            },
            deadline: self.deadline,
        };
        handle.begin(ttl_ms, attributes).await?;
        Ok(handle)
    }

    fn refused(&self, error: PlanError) -> Error {
        refused(error, self.client.limits().value_bytes_max)
    }
}

fn refused(error: PlanError, limit: u64) -> Error {
    match error {
        PlanError::TooLarge { len } => {
            let what = Field::Value;
            Error::TooLarge { what, len, limit }
        }
        PlanError::Differs { .. } => Error::ContentDiffers,
        PlanError::NotAStream => Error::Invalid {
            what: "upload token: its upload is not one of a stream",
        },
    }
}

/// What becomes of an upload that is dropped before its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
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
/// **Memory**: the chunks in flight ([`concurrency`](UploadBuilder::concurrency)) and one more, of at most 1 MiB each:
/// 5 MiB by default. When all are in use, a write waits. Whole chunks given to [`write`](Self::write) are not copied.
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
    sending: JoinSet<(Place, Result<()>)>,
    length: Option<u64>,
    on_progress: Option<Listener>,
    resume_at: u64,
    dropped: Dropped,
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
            dropped: Dropped::Stays,
            committing: None,
            ended: None,
        }
    }

    /// Nobody has its token: dropped, it is aborted.
    pub(crate) fn aborts_when_dropped(&mut self) {
        self.dropped = Dropped::IsAborted;
    }

    /// Dropped, it stays as ever, but no warning is logged: the caller keeps its token, or ends it in another way.
    pub fn stays_silently(&mut self) {
        self.dropped = Dropped::StaysSilently;
    }

    /// With what another process can resume it. It stays the same.
    pub fn token(&self) -> UploadToken {
        self.handle.token.clone()
    }

    /// Where in the value the first byte belongs that is to be written. 0 for a new upload. A resumed one goes on behind what
    /// is durable, or at 0 if it computes a digest, which needs all bytes; then the durable ones are not sent again.
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

    fn sent(&mut self, joined: std::result::Result<(Place, Result<()>), JoinError>) -> Result<()> {
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
        let is_over = self.ended.as_ref().is_some_and(Result::is_ok);
        match self.dropped {
            Dropped::IsAborted if !is_over => self.handle.clone().abort_later(),
            Dropped::Stays if self.ended.is_none() => {
                let upload = self.handle.token.upload;
                tracing::warn!(%upload, "an upload was dropped before its commit: no one sees anything of it; it \
                    can be resumed by its token until its time to live passes");
            }
            _ => {}
        }
    }
}

/// Draws an id that no other upload has. Without system randomness, the client's own has to do.
pub(crate) fn upload_id(own: [u64; 2]) -> UploadId {
    let [high, low] = own;
    let own = u128::from(high) << 64 | u128::from(low);
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => UploadId(u128::from_le_bytes(bytes) ^ own),
        Err(_) => UploadId(own),
    }
}
