//! Puts files to their keys, short ones at once and long ones as uploads, a few of those at a time.

use super::failure::Failure;
use super::keys::check_size;
use super::pieces::Pieces;
use super::transfer::LARGE_MAX;
use bytes::Bytes;
use corelith_client::{Client, DigestKind, Error, Field, Upload, UploadId};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// A file that becomes a key.
pub(super) struct ImportSource {
    pub(super) path: PathBuf,
    pub(super) key: Vec<u8>,
    pub(super) len: u64,
    /// What a manifest says of it.
    pub(super) listed: Option<Listed>,
}

/// What a manifest says of a file.
pub(super) struct Listed {
    pub(super) crc32c: u32,
    pub(super) sha256: bool,
    pub(super) attributes: Vec<(String, String)>,
}

impl Listed {
    /// Whether something was told of the value, so that it was an upload.
    fn is_described(&self) -> bool {
        self.sha256 || !self.attributes.is_empty()
    }
}

/// Puts files.
pub(super) struct Importer<'a> {
    client: &'a Client,
    /// Of long values.
    turns: Semaphore,
    /// Uploads that have not ended, with their keys.
    open: Mutex<BTreeMap<UploadId, Vec<u8>>>,
}

impl<'a> Importer<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self {
            client,
            turns: Semaphore::new(LARGE_MAX),
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<UploadId, Vec<u8>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the file's content; returns its length.
    pub(super) async fn put(&self, source: &ImportSource) -> Result<u64, Failure> {
        let limits = self.client.limits();
        let (key_len, key_max) = (source.key.len() as u64, limits.key_bytes_max as u64);
        check_size(Field::Key, key_len, key_max)?;
        // Checked before the file is read.
        check_size(Field::Value, source.len, limits.value_bytes_max)?;
        let is_described = source.listed.as_ref().is_some_and(Listed::is_described);
        let frame_max = self.client.cluster_map().limits.value_bytes_max;
        if is_described || source.len > frame_max {
            return self.upload(source).await;
        }
        let failed = |error| Failure::local("read", "", error);
        let value = tokio::fs::read(&source.path).await.map_err(failed)?;
        let bytes = value.len() as u64;
        check_size(Field::Value, bytes, limits.value_bytes_max)?;
        source.check(bytes, crc32c::crc32c(&value))?;
        self.client.put(source.key.clone(), value).await?;
        Ok(bytes)
    }

    /// In bounded memory. The value becomes visible only if it is what the manifest says.
    async fn upload(&self, source: &ImportSource) -> Result<u64, Failure> {
        // It is never closed.
        let _turn = self.turns.acquire().await.ok();
        let failed = |error| Failure::local("read", "", error);
        let file = File::open(&source.path).map_err(failed)?;
        let mut builder = self.client.upload(&source.key);
        if let Some(listed) = &source.listed {
            builder = builder.attributes(listed.attributes.clone());
            if listed.sha256 {
                builder = builder.digest(DigestKind::Sha256);
            }
        }
        let mut upload = builder.start().await?;
        upload.stays_silently();
        let id = upload.token().upload();
        self.open().insert(id, source.key.clone());
        let sent = send(&mut upload, source, Pieces::of(file, failed)).await;
        if sent.is_err() {
            drop(upload.abort().await);
        }
        self.open().remove(&id);
        sent
    }

    /// Gives up the uploads that were dropped on their way. What cannot be reached ends by itself.
    pub(super) async fn give_up(&self) {
        let left = std::mem::take(&mut *self.open());
        for (id, key) in left {
            if self
                .client
                .abort_upload(key, id)
                .await
                .is_err_and(|error| !matches!(error, Error::UploadEnded { .. }))
            {
                return;
            }
        }
    }
}

impl ImportSource {
    /// Compares what was read with what the manifest says.
    fn check(&self, len: u64, crc32c: u32) -> Result<(), Failure> {
        let Some(listed) = &self.listed else {
            return Ok(());
        };
        let problem = match () {
            () if len != self.len => "its length differs from the manifest",
            () if crc32c != listed.crc32c => "its checksum differs from the manifest",
            () => return Ok(()),
        };
        Err(Failure::DamagedFile {
            path: self.path.clone(),
            problem,
        })
    }
}

/// Sends the file, checks it and commits; returns its length.
async fn send(
    upload: &mut Upload,
    source: &ImportSource,
    mut pieces: Pieces,
) -> Result<u64, Failure> {
    let (mut len, mut crc32c) = (0, 0);
    while let Some(piece) = pieces.next().await {
        let piece: Bytes = piece?;
        len += piece.len() as u64;
        crc32c = crc32c::crc32c_append(crc32c, &piece);
        upload.write(piece).await?;
    }
    source.check(len, crc32c)?;
    upload.commit().await?;
    Ok(len)
}
