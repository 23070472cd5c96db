//! `put` and `cas`: values of all lengths, from the command line, a file or a pipe.
//!
//! A value that fits in one frame, and of which nothing is told, is put at once. Any other one is uploaded in bounded
//! memory: from a file so that `upload resume` can finish it, from a pipe so that a failure leaves nothing.

use super::args::{CasArguments, DescribeOptions, PutArguments, TransferOptions, ValueArgument};
use super::connect::Reached;
use super::encoding::{key_words, shell_word};
use super::failure::Failure;
use super::keys::{check_key, check_size, key};
use super::pieces::Pieces;
use super::progress::tell;
use super::sending::{Watch, send, upload_file};
use super::stored::Stored;
use super::transfer::Interrupts;
use bytes::{Bytes, BytesMut};
use corelith_client::{DigestKind, Error, Field, Upload, UploadBuilder, UploadState};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sets a key's value.
pub(super) async fn put(reached: &Reached, put: PutArguments) -> Result<(), Failure> {
    let condition = match (put.if_version, put.if_absent) {
        (Some(version), _) => Expectation::Version(version),
        (None, true) => Expectation::Absent,
        (None, false) => Expectation::None,
    };
    let value = ValuePut {
        reached,
        // Taken before the value is read, perhaps from a terminal: that time does not count.
        left: reached.left(),
        key: key(put.key, put.escaped)?,
        condition,
        describe: put.describe,
        transfer: put.transfer,
    };
    value.run(put.value, put.json).await
}

/// Sets a key's value if the condition holds.
pub(super) async fn cas(reached: &Reached, cas: CasArguments) -> Result<(), Failure> {
    let condition = match cas.expected.version {
        Some(version) => Expectation::Version(version),
        None => Expectation::Absent,
    };
    let value = ValuePut {
        reached,
        left: reached.left(),
        key: key(cas.key, cas.escaped)?,
        condition,
        describe: cas.describe,
        transfer: cas.transfer,
    };
    value.run(cas.value, cas.json).await
}

/// What must hold of the key.
#[derive(Clone, Copy, Debug)]
enum Expectation {
    None,
    Version(u64),
    Absent,
}

/// A value on its way to its key.
struct ValuePut<'a> {
    reached: &'a Reached,
    left: Duration,
    key: Vec<u8>,
    condition: Expectation,
    describe: DescribeOptions,
    transfer: TransferOptions,
}

/// What becomes of an upload that does not end well.
enum Leaving<'a> {
    /// Nobody can send the rest: it is given up.
    GivesUp,
    /// The file with the rest, for a printed token.
    Token(&'a Path),
}

impl ValuePut<'_> {
    async fn run(&self, value: ValueArgument, as_json: bool) -> Result<(), Failure> {
        check_key(&self.reached.client, &self.key)?;
        let stored = match (value.file, value.value) {
            (Some(path), _) => self.file(path).await?,
            (None, Some(text)) if text == *"-" => {
                let failed = |error| Failure::local("read standard input", "", error);
                self.piped(Pieces::of(std::io::stdin(), failed)).await?
            }
            (None, text) => {
                let value = text.unwrap_or_else(OsString::new).into_vec();
                self.whole(value.into()).await?
            }
        };
        stored.print(&self.key, as_json)
    }

    /// Longest value that is put at once.
    fn frame_max(&self) -> u64 {
        self.reached.client.cluster_map().limits.value_bytes_max
    }

    /// Of a value in memory.
    async fn whole(&self, value: Bytes) -> Result<Stored, Failure> {
        let client = &self.reached.client;
        let limit = client.limits().value_bytes_max;
        check_size(Field::Value, value.len() as u64, limit)?;
        if self.describe.is_given() || value.len() as u64 > self.frame_max() {
            let length = Some(value.len() as u64);
            return self.streamed(value, None, length, Leaving::GivesUp).await;
        }
        let request = client.put(self.key.clone(), value).deadline(self.left);
        let request = match self.condition {
            Expectation::None => request,
            Expectation::Version(version) => request.if_version(version),
            Expectation::Absent => request.if_absent(),
        };
        let written = request.await.map_err(|error| self.failed(error))?;
        Ok(written.into())
    }

    /// Of a value whose length is not known.
    async fn piped(&self, mut pieces: Pieces) -> Result<Stored, Failure> {
        let mut begin = BytesMut::new();
        while begin.len() as u64 <= self.frame_max() {
            match pieces.next().await {
                Some(piece) => begin.extend_from_slice(&piece?),
                None => return self.whole(begin.freeze()).await,
            }
        }
        let begin = begin.freeze();
        self.streamed(begin, Some(pieces), None, Leaving::GivesUp)
            .await
    }

    async fn file(&self, path: PathBuf) -> Result<Stored, Failure> {
        let failed_path = path.clone();
        let failed = move |error| Failure::file("read", &failed_path, error);
        let mut file = File::open(&path).map_err(&failed)?;
        let metadata = file.metadata().map_err(&failed)?;
        if !metadata.is_file() {
            return self.piped(Pieces::of(file, failed)).await;
        }
        let (len, limit) = (metadata.len(), self.reached.client.limits().value_bytes_max);
        check_size(Field::Value, len, limit)?;
        if len <= self.frame_max() && !self.describe.is_given() {
            let mut value = Vec::new();
            let limited = &mut file.by_ref().take(self.frame_max() + 1);
            limited.read_to_end(&mut value).map_err(&failed)?;
            return self.whole(value.into()).await;
        }
        let watch = Watch::new(&self.transfer, Some(len));
        let upload = self.reached.client.upload_file(&self.key, &path);
        let upload = upload.options(|upload| self.options(upload, &watch));
        // Of a put of the same file to another key, for example at the same time.
        let is_of_another = upload.is_of_another().await;
        if !is_of_another.map_err(|error| self.failed(error))? {
            match upload_file(self.reached, upload.clone(), &path, &watch).await {
                // The token cannot lie there, in a directory that is not ours for example.
                Err(Failure::Cluster(Error::File { what: "write", .. })) => {}
                Err(failure @ Failure::Cluster(Error::Invalid { .. })) => {
                    return Err(match upload.difference().await {
                        Ok(Some(option)) => self.begun_otherwise(&path, option),
                        _ => failure,
                    });
                }
                outcome => return outcome.map_err(|failure| self.named(failure)),
            }
        }
        let pieces = Pieces::of(file, failed);
        self.streamed(Bytes::new(), Some(pieces), Some(len), Leaving::Token(&path))
            .await
    }

    /// An upload of the file was interrupted, and what is given now is something else.
    fn begun_otherwise(&self, path: &Path, option: &str) -> Failure {
        let file = shell_word(path.as_os_str());
        let command = |words: &str| self.reached.command(&format!("upload {words} {file}"));
        Failure::Refused(format!(
            "an upload of {} was interrupted that began with another {option}: give the same again, finish it as it began \
             ({}), or give it up ({})",
            path.display(),
            command("resume"),
            command("abort --file"),
        ))
    }

    /// The options of an upload.
    fn options(&self, upload: UploadBuilder, watch: &Watch) -> UploadBuilder {
        let upload = upload
            .concurrency(self.transfer.concurrency.into())
            .attributes(self.describe.attributes())
            .digest(match self.describe.sha256 {
                true => DigestKind::Sha256,
                false => DigestKind::None,
            });
        let upload = match self.condition {
            Expectation::None => upload,
            Expectation::Version(version) => upload.if_version(version),
            Expectation::Absent => upload.if_absent(),
        };
        watch.of(upload)
    }

    /// Uploads what was read, and the pieces behind it.
    async fn streamed(
        &self,
        begin: Bytes,
        pieces: Option<Pieces>,
        length: Option<u64>,
        leaving: Leaving<'_>,
    ) -> Result<Stored, Failure> {
        let mut interrupts = Interrupts::new()?;
        let watch = Watch::new(&self.transfer, length);
        let builder = self.options(self.reached.client.upload(&self.key), &watch);
        let builder = match length {
            Some(length) => builder.length(length),
            None => builder,
        };
        let mut upload = builder.start().await.map_err(|error| self.failed(error))?;
        upload.stays_silently();
        let sent = tokio::select! {
            biased;
            () = interrupts.next() => Err(Failure::Interrupted),
            sent = send(&mut upload, begin, pieces) => sent.map_err(|failure| self.named(failure)),
        };
        watch.end();
        match (sent, leaving) {
            (Ok(uploaded), _) => Ok(Stored::of(&uploaded, watch.last())),
            (Err(failure), Leaving::GivesUp) => {
                self.give_up(upload, &failure).await;
                Err(failure)
            }
            (Err(failure), Leaving::Token(path)) => {
                let token = upload.token();
                let command = self.reached.command(&format!(
                    "upload resume {token} --file {}",
                    shell_word(path.as_os_str())
                ));
                watch.tell_how_to_go_on(&failure, &command);
                Err(failure)
            }
        }
    }

    /// Nobody could send the rest of it.
    async fn give_up(&self, upload: Upload, failure: &Failure) {
        let id = upload.token().upload();
        match upload.abort().await {
            Ok(()) if matches!(failure, Failure::Interrupted) => {
                tell("the upload was given up: nothing was written");
            }
            Ok(()) => {}
            Err(Error::UploadEnded {
                how: UploadState::Committed { version },
            }) => tell(&format!(
                "the value was written before, as version {version}"
            )),
            // It has ended without a value, or tells nothing new.
            Err(Error::UploadEnded { .. }) => {}
            Err(error) => {
                let key = key_words(&self.key);
                let command = self.reached.command(&format!("upload abort {key} {id}"));
                tell(&format!(
                    "the upload is not given up yet ({error}); it ends by itself within a day, or by: {command}"
                ));
            }
        }
    }

    fn failed(&self, error: Error) -> Failure {
        Failure::on_key(&self.key, error)
    }

    /// A failure that names the key if it is about it.
    fn named(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Cluster(error) => self.failed(error),
            failure => failure,
        }
    }
}
