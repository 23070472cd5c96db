//! The options of an upload.

use super::digest::Digester;
use super::handle::UploadHandle;
use super::plan::{PlanError, PlanSettings, UploadPlan};
use super::token::UploadToken;
use super::{Progress, Upload};
use crate::client::{Client, own};
use crate::error::{Error, Field, Result};
use crate::keys::check_key;
use crate::limits::{UPLOAD_IN_FLIGHT, UPLOAD_IN_FLIGHT_MAX};
use bytes::Bytes;
use corelith_wire::request::Condition;
use corelith_wire::upload::{Attributes, DigestKind};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Told of the progress.
pub(super) type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

/// The options of an upload, made by [`Client::upload`]. [`start`](Self::start) begins one that is written like a file,
/// [`multipart`](Self::multipart) one of parts in any order, and [`resume`](Self::resume) goes on with one that an earlier
/// process began.
#[derive(Clone)]
#[must_use = "an upload begins with `start`, `multipart` or `resume`"]
pub struct UploadBuilder {
    pub(super) client: Client,
    pub(super) key: Bytes,
    pub(super) condition: Option<Condition>,
    pub(super) concurrency: usize,
    ttl: Option<Duration>,
    pub(super) attributes: Attributes,
    pub(super) digest: DigestKind,
    pub(super) length: Option<u64>,
    from_start: bool,
    deadline: Option<Duration>,
    pub(super) on_progress: Option<Listener>,
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
            from_start: false,
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

    /// How many chunks (of at most 512 KiB) are in flight at a time. The upload keeps so many in memory, and one more.
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

    /// Has all bytes of a resumed upload given again from the start: those that are durable are compared, and not sent.
    /// Without it they are trusted to be those of the same source; if that has changed since, the value is made of both.
    pub fn from_start(mut self) -> Self {
        self.from_start = true;
        self
    }

    /// How long each request of the upload may take, including retries. The upload as a whole has no deadline. A chunk has
    /// more, the time that it and what was sent before it travel at 64 KiB/s, up to two minutes. Default: the client's
    /// deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Calls `listener` whenever more bytes are durable, from within the functions of the upload. It should return soon.
    pub fn on_progress(mut self, listener: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(listener));
        self
    }

    /// Begins an upload that is written like a file. Cancel safe; an upload that has begun all the same is given up by the
    /// cluster after its [`ttl`](Self::ttl).
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
        let mut digester = Digester::new(token.digest)?;
        if self.from_start {
            digester.need_all_bytes();
        }
        let handle = self.handle_of(token);
        let staged = handle.staged().await?;
        let settings = self.settings(token.chunk_bytes);
        let plan = UploadPlan::resume(settings, digester, &staged);
        let plan = plan.map_err(|error| self.refused(error))?;
        let upload = Upload::new(self, handle, plan);
        upload.tell();
        Ok(upload)
    }

    pub(super) fn check(&self) -> Result<()> {
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

    fn attributes_sent(&self) -> Result<Vec<u8>> {
        self.attributes.encode().map_err(|_| Error::Invalid {
            what: "attributes: their names and values have more than 8 KiB",
        })
    }

    /// By which other attributes are known.
    pub(super) fn attributes_crc32c(&self) -> Result<u32> {
        Ok(crc32c::crc32c(&self.attributes_sent()?))
    }

    pub(super) async fn begin(&self) -> Result<UploadHandle> {
        let attributes = self.attributes_sent()?;
        let ttl_ms = self.ttl.map_or(0, |ttl| {
            u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
        });
        let handle = UploadHandle {
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
        BegunUpload(Some(handle)).begin(ttl_ms, attributes).await
    }

    fn refused(&self, error: PlanError) -> Error {
        refused(error, self.client.limits().value_bytes_max)
    }
}

/// An upload of which nobody has the token yet. Dropped, also because its beginning is not waited for any more or has no
/// answer in time, it is aborted: it may have begun, and would be open until its time to live passes.
struct BegunUpload(Option<UploadHandle>);

impl BegunUpload {
    async fn begin(mut self, ttl_ms: u64, attributes: Vec<u8>) -> Result<UploadHandle> {
        let begun = match &mut self.0 {
            Some(handle) => handle.begin(ttl_ms, attributes).await,
            None => Ok(()),
        };
        let may_have_begun = |error: &Error| matches!(error, Error::Unavailable { .. });
        if begun.as_ref().is_err_and(|error| !may_have_begun(error)) {
            self.0 = None;
        }
        begun?;
        self.0.take().ok_or(Error::Protocol {
            what: "an upload that has begun twice",
        })
    }
}

impl Drop for BegunUpload {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            handle.abort_later();
        }
    }
}

/// What is told of an error of the plan.
pub(super) fn refused(error: PlanError, limit: u64) -> Error {
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
