//! What every answer about a shard says of when it was true.

use rkyv::{Archive, Deserialize, Serialize};

/// Where in a shard's history an answer was true; zeros if no shard was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReplyMeta {
    /// Term of the leader that answered.
    pub term: u64,
    /// Log index: of the write, or the applied index that a read saw.
    pub index: u64,
}

impl From<&ArchivedReplyMeta> for ReplyMeta {
    fn from(meta: &ArchivedReplyMeta) -> Self {
        Self {
            term: meta.term.into(),
            index: meta.index.into(),
        }
    }
}
