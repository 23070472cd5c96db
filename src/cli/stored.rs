//! How a write came out, and what is printed of it.

use super::entry::{KeyFields, digest_of};
use super::failure::Failure;
use super::output;
use corelith_client::{DigestKind, Progress, Uploaded, Written};
use serde::Serialize;

/// How a write came out.
pub(super) struct Stored {
    pub(super) version: u64,
    pub(super) shard: u32,
    /// Of an upload.
    pub(super) upload: Option<StoredUpload>,
}

#[derive(Serialize)]
pub(super) struct StoredUpload {
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    sent: u64,
    skipped: u64,
}

impl From<Written> for Stored {
    fn from(written: Written) -> Self {
        Self {
            version: written.version,
            shard: written.shard,
            upload: None,
        }
    }
}

impl Stored {
    pub(super) fn of(uploaded: &Uploaded, progress: Progress) -> Self {
        Self {
            version: uploaded.version,
            shard: uploaded.shard,
            upload: Some(StoredUpload {
                length: uploaded.len,
                sha256: digest_of(&uploaded.digest, DigestKind::Sha256),
                sent: progress.bytes_sent,
                skipped: progress.bytes_skipped,
            }),
        }
    }

    pub(super) fn print(&self, key: &[u8], as_json: bool) -> Result<(), Failure> {
        let Self {
            version,
            shard,
            upload,
        } = self;
        output::text(&match as_json {
            true => output::json_line(&WrittenLine {
                kind: "written",
                key: KeyFields::of(key),
                version: *version,
                shard: *shard,
                upload: upload.as_ref(),
            })?,
            false => format!("version {version} (shard {shard})\n"),
        })
    }
}

#[derive(Serialize)]
struct WrittenLine<'a> {
    kind: &'static str,
    #[serde(flatten)]
    key: KeyFields<'a>,
    version: u64,
    shard: u32,
    #[serde(flatten)]
    upload: Option<&'a StoredUpload>,
}
