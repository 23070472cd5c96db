//! The answers of servers. The header carries the shard, and every body the term and log index at which
//! the answer was true. An application may use the index as a fencing token.

mod pages;

pub use pages::{ScanHead, ScanItem, ScanPage, ScanValue, encode_scan_heads, encode_scan_page};

use crate::body::{access, deserialize};
use crate::client::cluster::{ClusterAnswer, encode_cluster_answer};
use crate::error::DecodeError;
use crate::frame::{Frame, FrameBuilder, Head, Kind};
use crate::limits::{self, DETACH_BYTES_MIN};
use crate::map::ClusterMap;
use crate::outbox::Outbox;
pub use crate::reply_meta::ReplyMeta;
use crate::status::StatusReply;
use crate::storage::StorageReply;
use crate::storage::version_1::StorageReply1;
use crate::upload::{
    LargeReply, UploadReply, UploadsPage, encode_large, encode_upload_reply, encode_uploads,
};
use crate::version;
use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

/// Body of answers that carry one number: the version of an applied write ([`Kind::WRITTEN`]), the key's
/// current version ([`Kind::CONFLICT`], 0 for none), a value's version ([`Kind::VALUE`]), a session's id
/// ([`Kind::SESSION_OPENED`]), or 0 ([`Kind::NOT_FOUND`]).
#[derive(Clone, Copy, Debug, Archive, Serialize)]
struct Number {
    meta: ReplyMeta,
    number: u64,
}

/// Body of a [`Kind::HEAD`].
#[derive(Clone, Copy, Debug, Archive, Serialize)]
struct HeadBody {
    meta: ReplyMeta,
    version: u64,
    value_len: u64,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum Failure {
    /// This replica does not lead the shard.
    NotLeader {
        /// The leader as far as this node knows, 0 if it knows none.
        leader: u64,
    } = 0,
    /// This node holds no replica of the shard.
    WrongNode = 1,
    /// The request's map is older than the server's.
    WrongEpoch {
        /// The newer map.
        map: ClusterMap,
    } = 2,
    /// The node is overloaded; nothing was done.
    Throttled {
        /// Time to wait before the next try.
        retry_after_ms: u32,
    } = 3,
    /// The key, the value or the request exceeds a limit.
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    } = 4,
    /// The shard takes no writes until there is room on disk; deletes and reads work.
    DiskFull = 5,
    /// The shard cannot answer now.
    Unavailable {
        /// Why.
        reason: Reason,
        /// Whether the request certainly had no effect and will have none.
        nothing_done: bool,
    } = 6,
    /// The session is unknown or has expired: the write was not applied and never will be.
    SessionExpired = 7,
    /// A duplicate of a write that the client has declared answered.
    Stale = 8,
    /// The stored data is damaged and no good copy of it was found.
    Corrupt = 9,
    /// The request is not a valid message.
    Malformed = 10,
    /// The state at the requested log index is gone: start the scan again.
    VersionGone = 11,
    /// The write's number is too far beyond the session's lowest unanswered one.
    WindowFull = 12,
    /// The shard holds as much as a shard can: it takes no puts until data is deleted; deletes and reads
    /// work.
    ShardFull = 13,
}

/// Body of a [`Kind::FAILURE`].
#[derive(Clone, Debug, Archive, Serialize)]
struct FailureBody {
    meta: ReplyMeta,
    failure: Failure,
}

/// Why a shard cannot answer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum Reason {
    /// No majority of the shard's replicas can be reached.
    NoQuorum = 0,
    /// The node is starting.
    Starting = 1,
    /// The node is stopping.
    Stopping = 2,
    /// Leadership ended while the request was in flight.
    LeadershipLost = 3,
    /// This replica's storage failed; another one will lead.
    StorageFailed = 4,
}

/// Appends the answer to a write that applied.
pub fn encode_written(out: &mut Outbox, head: Head, meta: ReplyMeta, version: u64) {
    encode_number(out, head.of_kind(Kind::WRITTEN), meta, version);
}

/// Appends the answer to a write whose condition does not hold. `current` is 0 if the key is
/// absent.
pub fn encode_conflict(out: &mut Outbox, head: Head, meta: ReplyMeta, current: u64) {
    encode_number(out, head.of_kind(Kind::CONFLICT), meta, current);
}

/// Appends the answer to a read of a key that has no value.
pub fn encode_not_found(out: &mut Outbox, head: Head, meta: ReplyMeta) {
    encode_number(out, head.of_kind(Kind::NOT_FOUND), meta, 0);
}

/// Appends the answer to the opening of a session.
pub fn encode_session_opened(out: &mut Outbox, head: Head, meta: ReplyMeta, session: u64) {
    encode_number(out, head.of_kind(Kind::SESSION_OPENED), meta, session);
}

fn encode_number(out: &mut Outbox, head: Head, meta: ReplyMeta, number: u64) {
    FrameBuilder::begin(out.buffer(), head)
        .flat(&Number { meta, number })
        .seal();
}

/// Appends a value. A large value is not copied.
pub fn encode_value(out: &mut Outbox, head: Head, meta: ReplyMeta, version: u64, value: &Bytes) {
    let head = head.of_kind(Kind::VALUE);
    let frame = FrameBuilder::begin(out.buffer(), head).flat(&Number {
        meta,
        number: version,
    });
    if value.len() < DETACH_BYTES_MIN {
        frame.seal_with(value);
    } else {
        frame.seal_detached(value);
        out.value(value.clone());
    }
}

/// Appends a value's version and length.
pub fn encode_head(out: &mut Outbox, head: Head, meta: ReplyMeta, version: u64, value_len: u64) {
    let head = head.of_kind(Kind::HEAD);
    let body = HeadBody {
        meta,
        version,
        value_len,
    };
    FrameBuilder::begin(out.buffer(), head).flat(&body).seal();
}

/// Appends the state of a node.
pub fn encode_status_reply(out: &mut Outbox, head: Head, status: &StatusReply) {
    encode_status_reply_for(version::NEWEST, out, head, status);
}

fn encode_status_reply_for(version: u16, out: &mut Outbox, head: Head, status: &StatusReply) {
    let head = head.of_kind(Kind::STATUS_REPLY);
    FrameBuilder::begin(out.buffer(), head)
        .nested(status)
        .seal_with(status.behind(version).as_bytes());
}

/// Appends the state of a node's storage.
pub fn encode_storage_reply(out: &mut Outbox, head: Head, storage: &StorageReply) {
    let head = head.of_kind(Kind::STORAGE_REPLY_2);
    FrameBuilder::begin(out.buffer(), head)
        .nested(storage)
        .seal();
}

/// Like [`encode_storage_reply`], for a client that speaks version 1.
fn encode_storage_reply_1(out: &mut Outbox, head: Head, storage: &StorageReply) {
    let head = head.of_kind(Kind::STORAGE_REPLY);
    FrameBuilder::begin(out.buffer(), head)
        .nested(&StorageReply1::of(storage))
        .seal();
}

/// Appends the cluster map.
pub fn encode_map(out: &mut Outbox, head: Head, map: &ClusterMap) {
    FrameBuilder::begin(out.buffer(), head.of_kind(Kind::MAP))
        .nested(map)
        .seal();
}

/// Appends a failure.
pub fn encode_failure(out: &mut Outbox, head: Head, meta: ReplyMeta, failure: Failure) {
    let head = head.of_kind(Kind::FAILURE);
    FrameBuilder::begin(out.buffer(), head)
        .nested(&FailureBody { meta, failure })
        .seal();
}

/// A parsed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write applied.
    Written {
        /// Where in the shard's history.
        meta: ReplyMeta,
        /// The key's new version.
        version: u64,
    },
    /// The write's condition does not hold.
    Conflict {
        /// Where in the shard's history.
        meta: ReplyMeta,
        /// The key's current version, 0 if it has no value.
        current: u64,
    },
    /// The key has no value.
    NotFound {
        /// Where in the shard's history.
        meta: ReplyMeta,
    },
    /// A value.
    Value {
        /// Where in the shard's history.
        meta: ReplyMeta,
        /// Its version.
        version: u64,
        /// Its bytes, sharing the receive buffer.
        value: Bytes,
    },
    /// A value's version and length.
    Head {
        /// Where in the shard's history.
        meta: ReplyMeta,
        /// Its version.
        version: u64,
        /// Its length, in bytes.
        value_len: u64,
    },
    /// A page of keys.
    ScanPage(ScanPage),
    /// A page of keys without their values.
    ScanHeads(ScanPage<ScanHead>),
    /// The session is open.
    SessionOpened {
        /// Where in the shard's history.
        meta: ReplyMeta,
        /// Its id.
        session: u64,
    },
    /// The state of a node.
    Status(StatusReply),
    /// The state of a node's storage.
    Storage(StorageReply),
    /// What a large value is.
    Large(LargeReply),
    /// How an upload or a large value stands.
    Upload(UploadReply),
    /// A page of uploads.
    Uploads(UploadsPage),
    /// The cluster map.
    Map(ClusterMap),
    /// The state of the cluster, or what becomes of an order.
    Cluster(ClusterAnswer),
    /// Not done.
    Failure {
        /// Where in the shard's history.
        meta: ReplyMeta,
        /// Why.
        failure: Failure,
    },
}

impl Answer {
    /// Where in its shard's history it was true; `None` if that is not told.
    pub fn meta(&self) -> Option<ReplyMeta> {
        match self {
            Self::Written { meta, .. }
            | Self::Conflict { meta, .. }
            | Self::NotFound { meta }
            | Self::Value { meta, .. }
            | Self::Head { meta, .. }
            | Self::SessionOpened { meta, .. } => Some(*meta),
            Self::ScanPage(page) => Some(page.meta),
            Self::ScanHeads(page) => Some(page.meta),
            Self::Large(reply) => Some(reply.meta),
            Self::Upload(reply) => Some(reply.meta),
            Self::Uploads(page) => Some(page.meta),
            Self::Status(_)
            | Self::Storage(_)
            | Self::Map(_)
            | Self::Cluster(_)
            | Self::Failure { .. } => None,
        }
    }

    /// Whether it tells of a large value what versions before [`version::LARGE_VALUES`] cannot.
    fn has_large(&self) -> bool {
        match self {
            Self::Large(_) => true,
            Self::ScanPage(page) => page
                .items
                .iter()
                .any(|item| matches!(item.value, ScanValue::Large { .. })),
            Self::ScanHeads(page) => page.items.iter().any(|item| item.committed_us.is_some()),
            _ => false,
        }
    }

    /// Parses an answer.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn parse(frame: &Frame) -> Result<Self, DecodeError> {
        let body = frame.body();
        let number = |what| -> Result<(ReplyMeta, u64), DecodeError> {
            let found = access::<ArchivedNumber>(body, what)?;
            Ok(((&found.meta).into(), found.number.into()))
        };
        match frame.header.head.kind {
            Kind::WRITTEN => {
                number("answer to a write").map(|(meta, version)| Self::Written { meta, version })
            }
            Kind::CONFLICT => {
                number("conflict").map(|(meta, current)| Self::Conflict { meta, current })
            }
            Kind::NOT_FOUND => number("absence").map(|(meta, _)| Self::NotFound { meta }),
            Kind::VALUE => number("value").map(|(meta, version)| Self::Value {
                meta,
                version,
                value: frame.value(),
            }),
            Kind::SESSION_OPENED => {
                number("session").map(|(meta, session)| Self::SessionOpened { meta, session })
            }
            Kind::HEAD => {
                let found = access::<ArchivedHeadBody>(body, "head")?;
                Ok(Self::Head {
                    meta: (&found.meta).into(),
                    version: found.version.into(),
                    value_len: found.value_len.into(),
                })
            }
            Kind::SCAN_PAGE => pages::parse_items(frame).map(Self::ScanPage),
            Kind::SCAN_HEADS => pages::parse_heads(frame).map(Self::ScanHeads),
            Kind::LARGE => LargeReply::parse(body).map(Self::Large),
            Kind::UPLOAD_REPLY => UploadReply::parse(body).map(Self::Upload),
            Kind::UPLOADS => UploadsPage::parse(body).map(Self::Uploads),
            Kind::STATUS_REPLY => StatusReply::parse(body, &frame.value()).map(Self::Status),
            Kind::STORAGE_REPLY => StorageReply1::parse(body).map(Self::Storage),
            Kind::STORAGE_REPLY_2 => StorageReply::parse(body).map(Self::Storage),
            Kind::MAP => ClusterMap::parse(body).map(Self::Map),
            Kind::CLUSTER_ANSWER => ClusterAnswer::parse(body).map(Self::Cluster),
            Kind::FAILURE => {
                let found = access::<ArchivedFailureBody>(body, "failure")?;
                let failure = deserialize(&found.failure, "failure")?;
                if let Failure::WrongEpoch { map } = &failure {
                    map.check()?;
                }
                Ok(Self::Failure {
                    meta: (&found.meta).into(),
                    failure,
                })
            }
            _ => Err(DecodeError::Malformed {
                what: "kind of answer",
            }),
        }
    }
}

/// Appends any answer as the frame that `head` begins.
pub fn encode(out: &mut Outbox, head: Head, answer: &Answer) {
    encode_for(version::NEWEST, out, head, answer);
}

/// Like [`encode`], for a client that speaks `version` of the protocol. An answer that the version lacks becomes the
/// nearest one that it has: a full shard becomes a full disk, since both take only deletes and reads. A large value becomes
/// a failure: it is longer than that version's values can be.
pub fn encode_for(version: u16, out: &mut Outbox, head: Head, answer: &Answer) {
    assert!(
        version >= version::OLDEST,
        "the handshake refuses version {version}"
    );
    if let Answer::Status(status) = answer {
        return encode_status_reply_for(version, out, head, status);
    }
    if version < version::LARGE_VALUES
        && let Some(meta) = answer.meta()
        && answer.has_large()
    {
        let limit = limits::VALUE_BYTES_MAX as u64;
        return encode_failure(out, head, meta, Failure::TooLarge { limit });
    }
    if version >= 2 {
        return encode_newest(out, head, answer);
    }
    match answer {
        Answer::Storage(storage) => encode_storage_reply_1(out, head, storage),
        Answer::Failure {
            meta,
            failure: Failure::ShardFull,
        } => encode_failure(out, head, *meta, Failure::DiskFull),
        answer => encode_newest(out, head, answer),
    }
}

fn encode_newest(out: &mut Outbox, head: Head, answer: &Answer) {
    match answer {
        Answer::Written { meta, version } => encode_written(out, head, *meta, *version),
        Answer::Conflict { meta, current } => encode_conflict(out, head, *meta, *current),
        Answer::NotFound { meta } => encode_not_found(out, head, *meta),
        Answer::Value {
            meta,
            version,
            value,
        } => {
            encode_value(out, head, *meta, *version, value);
        }
        Answer::Head {
            meta,
            version,
            value_len,
        } => encode_head(out, head, *meta, *version, *value_len),
        Answer::ScanPage(page) => encode_scan_page(out, head, page),
        Answer::ScanHeads(page) => encode_scan_heads(out, head, page),
        Answer::SessionOpened { meta, session } => {
            encode_session_opened(out, head, *meta, *session);
        }
        Answer::Large(reply) => encode_large(out, head, reply),
        Answer::Upload(reply) => encode_upload_reply(out, head, reply),
        Answer::Uploads(page) => encode_uploads(out, head, page),
        Answer::Status(status) => encode_status_reply(out, head, status),
        Answer::Storage(storage) => encode_storage_reply(out, head, storage),
        Answer::Map(map) => encode_map(out, head, map),
        Answer::Cluster(answer) => encode_cluster_answer(out, head, answer),
        Answer::Failure { meta, failure } => {
            encode_failure(out, head, *meta, failure.clone());
        }
    }
}

#[cfg(test)]
mod tests;
