//! Uploads of files, which go on after the process was killed.
//!
//! The token lies in a file beside the content: three lines,
//! ```text
//! corelith upload 2
//! the token's text
//! the file's length in bytes, when it was modified in ns since 1970, and the CRC-32C of the attributes as they are sent
//! ```
//! Version 1 is without the last number.

use super::Upload;
use super::builder::UploadBuilder;
use super::handle::Uploaded;
use super::token::UploadToken;
use crate::client::{Client, own};
use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use corelith_wire::UploadId;
use corelith_wire::request::Condition;
use corelith_wire::upload::{Digest, DigestKind, UploadState};
use std::ffi::OsString;
use std::future::{Future, IntoFuture};
use std::io::{ErrorKind, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::SystemTime;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

/// First line of a token's file.
const HEADING: &str = "corelith upload 2";
/// That of the version before.
const HEADING_1: &str = "corelith upload 1";
/// Longest file of a token, in bytes: a key and no parts fit in many times.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;
/// The end of a token file's name.
const TOKEN_SUFFIX: &str = ".corelith-upload";

/// The upload of a file, made by [`Client::upload_file`]. Awaiting it returns [`Uploaded`].
///
/// If the process ends before, the same call goes on where it stopped: a file beside the content, with the name of the
/// content and `.corelith-upload`, holds the upload's token. It is removed when the upload has ended. If the content
/// has another length or time of modification since, or the call has another condition, digest or attributes, it fails
/// with `Invalid`: see [`difference`](Self::difference).
///
/// **Memory**: that of an [`Upload`], and two more chunks of at most 512 KiB to read ahead.
///
/// Cancel safe: the token stays, and another call goes on.
///
/// # Errors
/// Those of [`Upload::write`] and [`Upload::commit`]; `File` if a file cannot be read or written; `Invalid` if the file
/// changes while it is uploaded.
#[derive(Clone, Debug)]
#[must_use = "an upload does nothing until it is awaited"]
pub struct FileUpload {
    builder: UploadBuilder,
    path: PathBuf,
    token_path: PathBuf,
    begins: bool,
}

impl Client {
    /// Uploads the file at `path` to `key`. Call it again to go on after a crash.
    pub fn upload_file(&self, key: impl AsRef<[u8]>, path: impl Into<PathBuf>) -> FileUpload {
        let path = path.into();
        let mut token_name = OsString::from(&path);
        token_name.push(TOKEN_SUFFIX);
        FileUpload {
            builder: UploadBuilder::new(self.clone(), own(key)),
            token_path: token_name.into(),
            path,
            begins: true,
        }
    }
}

impl FileUpload {
    /// Keeps the token in this file.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_path = path.into();
        self
    }

    /// Sets options of the upload, for example `.options(|upload| upload.if_absent())`.
    pub fn options(mut self, set: impl FnOnce(UploadBuilder) -> UploadBuilder) -> Self {
        self.builder = set(self.builder);
        self
    }

    /// Only goes on with what an earlier process began, and does not begin another upload if there is nothing to go on
    /// with. Condition, digest and attributes need not be given again.
    ///
    /// # Errors
    /// Besides the others, `Invalid` if there is no token, and `UploadEnded` if its upload has ended without a commit: then
    /// the token is removed.
    pub fn resume_only(mut self) -> Self {
        self.begins = false;
        self
    }

    /// The token that an earlier process has left, if there is one. Cancel safe.
    ///
    /// # Errors
    /// `File` if its file cannot be read, `Invalid` if that is something else.
    pub async fn token(&self) -> Result<Option<UploadToken>> {
        let kept = self.kept_token().await?;
        Ok(kept.map(|kept| kept.token))
    }

    /// What an earlier process has given otherwise for the upload that it left: "condition", "digest" or "attributes".
    /// `None` also if there is no token. Such an upload is finished as it began by [`resume_only`](Self::resume_only)
    /// without these options, or aborted. Cancel safe.
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn difference(&self) -> Result<Option<&'static str>> {
        let kept = self.kept_token().await?;
        let differs = kept.and_then(|kept| self.differs(&kept));
        Ok(differs.map(|(option, _)| option))
    }

    /// Removes the file with the token if that is of this upload, which was aborted for example; whether it was. Cancel
    /// safe.
    ///
    /// # Errors
    /// As [`token`](Self::token), and `File` if it cannot be removed.
    pub async fn forget(&self, upload: UploadId) -> Result<bool> {
        let token = self.token().await?;
        let is_of_it = token.is_some_and(|token| token.upload == upload);
        if is_of_it {
            self.remove_token().await?;
        }
        Ok(is_of_it)
    }

    /// Whether an earlier process has left the token of an upload to another key or in another cluster. Cancel safe.
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn is_of_another(&self) -> Result<bool> {
        let token = self.token().await?;
        let cluster = self.builder.client.cluster_id();
        Ok(token.is_some_and(|token| token.check(cluster, &self.builder.key).is_err()))
    }

    async fn run(self) -> Result<Uploaded> {
        let mut file = File::open(&self.path)
            .await
            .map_err(failed("read", &self.path))?;
        let identity = FileIdentity::of(&file)
            .await
            .map_err(failed("read", &self.path))?;
        let builder = self.builder.clone().length(identity.len);
        let mut upload = match self.resumed(&builder, identity).await? {
            Resumed::Goes(upload) => *upload,
            Resumed::WasCommitted(uploaded) => {
                self.remove_token().await?;
                return Ok(uploaded);
            }
            Resumed::Begins => {
                let mut upload = builder.start().await?;
                // Nobody could resume it before its token is kept.
                upload.aborts_when_dropped();
                let kept = KeptToken {
                    token: upload.token(),
                    identity,
                    attributes_crc32c: Some(self.builder.attributes_crc32c()?),
                };
                self.keep_token(&kept).await?;
                upload
            }
        };
        // Its token is kept.
        upload.stays_silently();
        let result = self.send(&mut file, identity, &mut upload).await;
        let has_ended = match &result {
            Ok(_) => true,
            Err(error) => matches!(error, Error::Conflict { .. } | Error::UploadEnded { .. }),
        };
        if has_ended {
            self.remove_token().await?;
        }
        result
    }

    /// What is there of an earlier process.
    async fn resumed(&self, builder: &UploadBuilder, identity: FileIdentity) -> Result<Resumed> {
        let Some(kept) = self.kept_token().await? else {
            return match self.begins {
                true => Ok(Resumed::Begins),
                false => Err(Error::Invalid {
                    what: "file: no upload of it was broken off, there is no token's file",
                }),
            };
        };
        if kept.identity != identity {
            return Err(Error::Invalid {
                what: "file: it has changed since its upload began; remove the token's file to begin again",
            });
        }
        let is_same = match self.differs(&kept) {
            Some((_, what)) => Err(Error::Invalid { what }),
            None => Ok(()),
        };
        match builder.clone().resume(&kept.token).await {
            Ok(upload) => is_same.map(|()| Resumed::Goes(Box::new(upload))),
            // The process ended before it removed the token's file, or was away for long.
            Err(Error::UploadEnded { how }) => match how {
                UploadState::Committed { version } => {
                    is_same?;
                    let committed = self.committed(builder, &kept.token, version, identity);
                    Ok(Resumed::WasCommitted(committed.await?))
                }
                _ if self.begins => Ok(Resumed::Begins),
                how => {
                    self.remove_token().await?;
                    Err(Error::UploadEnded { how })
                }
            },
            Err(error) => Err(error),
        }
    }

    /// Which option differs from that of the upload that was left, and what is said of it. Whoever only goes on need not
    /// give them again.
    fn differs(&self, kept: &KeptToken) -> Option<(&'static str, &'static str)> {
        let (builder, begins) = (&self.builder, self.begins);
        let condition = builder
            .condition
            .or(begins.then_some(Condition::default()))
            .is_some_and(|condition| condition != kept.token.condition);
        let digest =
            (begins || builder.digest != DigestKind::None) && builder.digest != kept.token.digest;
        let attributes = (begins || !builder.attributes.pairs.is_empty())
            && kept.attributes_crc32c.is_some()
            && kept.attributes_crc32c != builder.attributes_crc32c().ok();
        match (condition, digest, attributes) {
            (true, _, _) => Some((
                "condition",
                "condition: the upload of this file was begun with another one; finish it as it began, or abort it",
            )),
            (_, true, _) => Some((
                "digest",
                "digest: the upload of this file was begun with another one; finish it as it began, or abort it",
            )),
            (_, _, true) => Some((
                "attributes",
                "attributes: the upload of this file was begun with others; finish it as it began, or abort it",
            )),
            (false, false, false) => None,
        }
    }

    /// What an earlier process has committed. Checksum and digest are those of the value, unless it was overwritten since.
    async fn committed(
        &self,
        builder: &UploadBuilder,
        token: &UploadToken,
        version: u64,
        identity: FileIdentity,
    ) -> Result<Uploaded> {
        let lookup = builder.client.get(&token.key).head().await?;
        let head = lookup.entry.as_ref();
        let description = head.and_then(|head| head.description());
        let own = description.filter(|of| of.upload == token.upload);
        Ok(Uploaded {
            version,
            len: identity.len,
            crc32c: own.map_or(0, |of| of.crc32c),
            digest: own.map_or(Digest::default(), |of| of.digest),
            shard: lookup.shard,
            term: lookup.term,
            index: lookup.index,
        })
    }

    async fn send(
        &self,
        file: &mut File,
        identity: FileIdentity,
        upload: &mut Upload,
    ) -> Result<Uploaded> {
        let piece_bytes = upload.token().chunk_bytes.max(1) as usize;
        file.set_max_buf_size(piece_bytes);
        let at = SeekFrom::Start(upload.resume_at());
        file.seek(at).await.map_err(failed("read", &self.path))?;
        loop {
            let piece = read_piece(file, piece_bytes).await;
            let piece = piece.map_err(failed("read", &self.path))?;
            if piece.is_empty() {
                break;
            }
            upload.write(piece).await?;
        }
        let now = FileIdentity::of(file).await;
        let now = now.map_err(failed("read", &self.path))?;
        if now != identity || upload.position() != identity.len {
            return Err(Error::Invalid {
                what: "file: it changed while it was uploaded",
            });
        }
        upload.commit().await
    }

    async fn kept_token(&self) -> Result<Option<KeptToken>> {
        let path = &self.token_path;
        let mut text = String::new();
        match File::open(path).await {
            Ok(file) => {
                let mut limited = file.take(TOKEN_FILE_BYTES_MAX);
                let read = limited.read_to_string(&mut text).await;
                read.map_err(failed("read", path))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", path)(error)),
        }
        KeptToken::parse(&text).map(Some).ok_or(Error::Invalid {
            what: "token's file: it is incomplete, or no file of a token",
        })
    }

    /// Writes the token's file, whole or not at all.
    async fn keep_token(&self, kept: &KeptToken) -> Result<()> {
        let path = &self.token_path;
        let mut new_name = OsString::from(path);
        new_name.push(".new");
        let new_path = PathBuf::from(new_name);
        let text = kept.text();
        let write = async {
            let mut file = File::create(&new_path).await?;
            file.write_all(text.as_bytes()).await?;
            file.sync_all().await?;
            fs::rename(&new_path, path).await?;
            sync_directory(path).await
        };
        write.await.map_err(failed("write", path))
    }

    async fn remove_token(&self) -> Result<()> {
        match fs::remove_file(&self.token_path).await {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &self.token_path)(error))
            }
            _ => Ok(()),
        }
    }
}

impl IntoFuture for FileUpload {
    type Output = Result<Uploaded>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

enum Resumed {
    /// Nothing is there to go on with.
    Begins,
    Goes(Box<Upload>),
    WasCommitted(Uploaded),
}

/// By which a file is known to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    len: u64,
    modified_ns: u128,
}

impl FileIdentity {
    async fn of(file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata().await?;
        let since = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH);
        Ok(Self {
            len: metadata.len(),
            modified_ns: since.map_or(0, |since| since.as_nanos()),
        })
    }
}

/// What the file of a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeptToken {
    token: UploadToken,
    identity: FileIdentity,
    /// `None` in a file of version 1.
    attributes_crc32c: Option<u32>,
}

impl KeptToken {
    fn text(&self) -> String {
        let (token, identity) = (&self.token, self.identity);
        let FileIdentity { len, modified_ns } = identity;
        match self.attributes_crc32c {
            Some(crc32c) => format!("{HEADING}\n{token}\n{len} {modified_ns} {crc32c}\n"),
            None => format!("{HEADING_1}\n{token}\n{len} {modified_ns}\n"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (heading, rest) = text.split_once('\n')?;
        let (token, rest) = rest.split_once('\n')?;
        let mut numbers = rest.strip_suffix('\n')?.split(' ');
        let identity = FileIdentity {
            len: numbers.next()?.parse().ok()?,
            modified_ns: numbers.next()?.parse().ok()?,
        };
        let attributes_crc32c = match heading {
            HEADING => Some(numbers.next()?.parse().ok()?),
            HEADING_1 => None,
            _ => return None,
        };
        numbers.next().is_none().then_some(())?;
        Some(Self {
            token: token.parse().ok()?,
            identity,
            attributes_crc32c,
        })
    }
}

/// The next piece of a file, of that many bytes but for the last; empty at the end.
async fn read_piece(file: &mut File, bytes: usize) -> std::io::Result<Bytes> {
    let mut piece = BytesMut::with_capacity(bytes);
    while piece.len() < bytes {
        let mut rest = (&mut *file).take((bytes - piece.len()) as u64);
        if rest.read_buf(&mut piece).await? == 0 {
            break;
        }
    }
    Ok(piece.freeze())
}

/// Makes the name of a file durable.
async fn sync_directory(path: &Path) -> std::io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new("."))).await?;
    directory.sync_all().await
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::File {
        what,
        path: path.into(),
        kind: error.kind(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_wire::ClusterId;

    #[test]
    fn the_file_of_a_token_survives_and_others_are_refused() {
        let token = UploadToken {
            cluster: ClusterId(1),
            upload: UploadId(2),
            key: Bytes::from_static(b"key"),
            chunk_bytes: 8,
            digest: DigestKind::None,
            condition: Condition::Any,
            parts: Vec::new(),
        };
        let identity = FileIdentity {
            len: 5,
            modified_ns: 1_700_000_000_000_000_001,
        };
        for (version, attributes_crc32c) in [(1, None), (2, Some(77))] {
            let kept = KeptToken {
                token: token.clone(),
                identity,
                attributes_crc32c,
            };
            let text = kept.text();
            let heading = format!("corelith upload {version}\n");
            assert!(text.starts_with(&heading), "{text}");
            assert!(text.contains("\n5 1700000000000000001"), "{text}");
            assert_eq!(KeptToken::parse(&text), Some(kept));
            for end in 0..text.len() {
                assert_eq!(KeptToken::parse(&text[..end]), None, "cut at {end}");
            }
        }
    }
}
