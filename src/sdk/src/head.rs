//! What is known of a value without its bytes.

use crate::error::{Error, Result};
use crate::upload::list::time_of;
use bytes::Bytes;
use corelith_wire::UploadId;
use corelith_wire::response::ReplyMeta;
use corelith_wire::upload::{Attributes, Digest, LargeReply, PartLength};
use std::sync::Arc;
use std::time::SystemTime;

/// A key with the version and length of its value, without the value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryHead {
    /// The key.
    pub key: Bytes,
    /// Version of its value, as in [`Entry`].
    pub version: u64,
    /// Length of its value, in bytes.
    pub value_len: u64,
    pub(crate) committed_us: Option<u64>,
    pub(crate) description: Option<Arc<Description>>,
}

impl EntryHead {
    /// The head of a value of which no more is known.
    pub(crate) fn new(key: Bytes, version: u64, value_len: u64) -> Self {
        Self {
            key,
            version,
            value_len,
            committed_us: None,
            description: None,
        }
    }

    /// With when its value was committed, if that is known.
    pub(crate) fn committed(self, committed_us: Option<u64>) -> Self {
        Self {
            committed_us,
            ..self
        }
    }

    pub(crate) fn of_large(key: Bytes, reply: LargeReply) -> Result<(ReplyMeta, Self)> {
        let attributes = Attributes::decode(&reply.attributes).map_err(|_| Error::Protocol {
            what: "attributes that are none",
        })?;
        let meta = reply.meta;
        let description = Description {
            upload: reply.upload,
            len: reply.len,
            crc32c: reply.crc32c,
            digest: reply.digest,
            attributes: attributes.pairs,
            chunk_bytes: reply.chunk_bytes,
            committed_us: reply.committed_us,
            parts: reply.parts,
        };
        let head = Self {
            key,
            version: reply.version,
            value_len: description.len,
            committed_us: Some(description.committed_us),
            description: Some(Arc::new(description)),
        };
        Ok((meta, head))
    }

    /// What was told of the value when it was uploaded. `None` for a value that was put in one frame, and for heads from a
    /// scan.
    pub fn description(&self) -> Option<&Description> {
        self.description.as_deref()
    }

    /// When its value was committed, by the clock of the shard's leader. Strictly rising within a shard. Information only.
    /// `None` for a value that was put in one frame.
    pub fn committed_at(&self) -> Option<SystemTime> {
        self.committed_us.map(time_of)
    }
}

/// What was told of a value when it was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The upload that it came of.
    pub upload: UploadId,
    /// Its length, in bytes.
    pub len: u64,
    /// Checksum of all of it, which the cluster has checked.
    pub crc32c: u32,
    /// Digest of all of it, as the client that uploaded it computed it.
    pub digest: Digest,
    /// Its attributes, in the order in which they were given.
    pub attributes: Vec<(String, String)>,
    /// Bytes of its chunks.
    pub chunk_bytes: u32,
    pub(crate) committed_us: u64,
    pub(crate) parts: Vec<PartLength>,
}

impl Description {
    /// When it was committed, by the clock of the shard's leader. Strictly rising within a shard. Information only.
    pub fn committed_at(&self) -> SystemTime {
        time_of(self.committed_us)
    }

    /// The first attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The attribute `content-type`.
    pub fn content_type(&self) -> Option<&str> {
        self.attribute("content-type")
    }
}
