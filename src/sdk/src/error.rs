//! The errors of the SDK, and what the caller can do about each.

use corelith_wire::response::Reason;
use corelith_wire::upload::{UploadRefusal, UploadState};
use corelith_wire::{ClusterId, DecodeError, FrameError, HandshakeError};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The result of the SDK's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed. [`is_retryable`](Self::is_retryable) says whether the same call may succeed
/// later.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The key has no value.
    #[error("no such key")]
    NotFound,
    /// The condition of a write does not hold. Nothing was changed: read the key and decide again.
    #[error("the condition does not hold: {}", standing(*.current))]
    Conflict {
        /// The key's current version, `None` if it has no value.
        current: Option<u64>,
    },
    /// The cluster is overloaded. Nothing was changed: try again later.
    #[error("the cluster is overloaded; try again in {retry_after:?} or later")]
    Throttled {
        /// How long to wait before the next try, at least.
        retry_after: Duration,
    },
    /// The disk of the shard's leader is full. Nothing was changed: delete data or add space; reads and
    /// deletes still work.
    #[error("the shard's disk is full; delete data or add space")]
    DiskFull,
    /// The shard holds as much as a shard can. Nothing was changed: delete data; reads and deletes still
    /// work.
    #[error("the shard is full: it holds as much as a shard can; delete data")]
    ShardFull,
    /// The key or the value is too long. Nothing was changed: shorten it.
    #[error("the {what} is too large: it has {len} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Which of the two.
        what: Field,
        /// Its length in bytes.
        len: u64,
        /// The longest length allowed, in bytes.
        limit: u64,
    },
    /// The stored data is damaged at the leader, and no other replica has answered in its place, although a read
    /// waits for one for some seconds: see the log of the shard's nodes.
    #[error("the stored data is damaged at the leader; no other replica has answered in its place")]
    Corrupt,
    /// The deadline passed before the cluster could answer. The operation had no effect and will have
    /// none: try again later.
    #[error("the cluster did not answer in time: {cause}")]
    Unavailable {
        /// Why the last attempt failed.
        cause: Cause,
    },
    /// The write may have been applied, or may still be applied: read the key to find out.
    #[error("it is not known whether the write was applied: {cause}; read the key to find out")]
    Indeterminate {
        /// Why the last attempt failed.
        cause: Cause,
    },
    /// A shard no longer has the state that the scan reads, and [`Scan::one_moment`](crate::Scan::one_moment)
    /// forbids a later one: start the scan again.
    #[error("a shard no longer has the state that the scan reads; start the scan again")]
    ScanExpired,
    /// The upload has ended, so it takes no more: begin another one. A commit that was answered with this did not
    /// change the key, unless it says `Committed` or `Dropped`.
    #[error("the upload has ended: {}", state(*.how))]
    UploadEnded {
        /// What it came to.
        how: UploadState,
    },
    /// The cluster does not do what was asked of the upload. Nothing was changed, and the upload stands as it stood.
    #[error("the upload is refused: {}", why_not(*.why))]
    UploadRefused {
        /// Why.
        why: UploadRefusal,
    },
    /// Other bytes were uploaded at this place before: resume with the same content, or begin another upload.
    #[error("the bytes are not those that were uploaded at this place before")]
    ContentDiffers,
    /// The value was overwritten or deleted while it was read, and its bytes are gone: read the key again.
    #[error(
        "the value was overwritten or deleted while it was read, and its bytes are gone; read it again"
    )]
    ValueGone,
    /// A file cannot be read or written.
    #[error("cannot {what} {}: {kind}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: Arc<Path>,
        /// Why not.
        kind: std::io::ErrorKind,
    },
    /// The server violated the protocol: check that client and servers have compatible versions.
    #[error(
        "the server violated the protocol ({what}); check that client and server versions match"
    )]
    Protocol {
        /// The violation.
        what: &'static str,
    },
    /// None of the seeds led to a cluster.
    #[error("no cluster at {}", listed(.tried))]
    NoSeed {
        /// Every seed, with the cause of its last failure.
        tried: Vec<SeedFailure>,
    },
    /// A seed is not an address `host:port`: correct it.
    #[error("invalid seed {seed:?}: {problem}")]
    InvalidSeed {
        /// The seed, as given.
        seed: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An argument of the builder or of the call is invalid: correct it.
    #[error("invalid {what}")]
    Invalid {
        /// The argument, and what is wrong with it.
        what: &'static str,
    },
}

impl Error {
    /// The error's name, for logs and measurements.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::Conflict { .. } => "conflict",
            Self::Throttled { .. } => "throttled",
            Self::DiskFull => "disk full",
            Self::ShardFull => "shard full",
            Self::TooLarge { .. } => "too large",
            Self::Corrupt => "corrupt",
            Self::Unavailable { .. } => "unavailable",
            Self::Indeterminate { .. } => "indeterminate",
            Self::ScanExpired => "scan expired",
            Self::UploadEnded { .. } => "upload ended",
            Self::UploadRefused { .. } => "upload refused",
            Self::ContentDiffers => "content differs",
            Self::ValueGone => "value gone",
            Self::File { .. } => "file",
            Self::Protocol { .. } => "protocol",
            Self::NoSeed { .. } => "no seed",
            Self::Invalid { .. } => "invalid",
            Self::InvalidSeed { .. } => "invalid seed",
        }
    }

    /// Whether the same call may succeed later, and repeating it does no harm. (A conflict needs a new
    /// decision first, an indeterminate write a read of the key.)
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. }
                | Self::DiskFull
                | Self::ShardFull
                | Self::Unavailable { .. }
                | Self::ScanExpired
                | Self::ValueGone
                | Self::NoSeed { .. }
        )
    }
}

impl From<Error> for std::io::Error {
    /// For `AsyncRead` and `AsyncWrite`. The error is the source.
    fn from(error: Error) -> Self {
        use std::io::ErrorKind;
        let kind = match &error {
            Error::NotFound | Error::ValueGone => ErrorKind::NotFound,
            Error::Corrupt | Error::Protocol { .. } | Error::ContentDiffers => {
                ErrorKind::InvalidData
            }
            Error::DiskFull | Error::ShardFull => ErrorKind::StorageFull,
            Error::TooLarge { .. } => ErrorKind::FileTooLarge,
            Error::Unavailable { .. } | Error::Throttled { .. } => ErrorKind::TimedOut,
            Error::Invalid { .. } | Error::InvalidSeed { .. } => ErrorKind::InvalidInput,
            Error::File { kind, .. } => *kind,
            _ => ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The key.
    Key,
    /// The value.
    Value,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
        })
    }
}

/// A seed that led to no cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeedFailure {
    /// The seed, as given.
    pub seed: String,
    /// The cause of its last failure.
    pub cause: Cause,
}

/// Lists seeds, grouped by cause: `a:1, b:1: refused; c:1: no answer`.
fn listed(tried: &[SeedFailure]) -> String {
    let groups = tried.chunk_by(|one, next| one.cause == next.cause);
    let each = groups.filter_map(|group| {
        let seeds: Vec<&str> = group.iter().map(|failure| &failure.seed[..]).collect();
        Some(format!("{}: {}", seeds.join(", "), group.first()?.cause))
    });
    each.collect::<Vec<_>>().join("; ")
}

/// Why the last attempt of an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Cause {
    /// No attempt was made before the deadline.
    #[error("the deadline passed before it could be sent")]
    NotTried,
    /// The host name does not resolve.
    #[error("the name {host} does not resolve: {reason}")]
    Resolve {
        /// The name.
        host: Arc<str>,
        /// The system's reason.
        reason: Arc<str>,
    },
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(std::io::ErrorKind),
    /// The address answered, but not as a node of this cluster.
    #[error("{}", refusal(.0))]
    Handshake(HandshakeError),
    /// The connection broke while the request was in flight.
    #[error("the connection broke: {0}")]
    Broken(std::io::ErrorKind),
    /// The connection was closed for a broken frame.
    #[error("the connection was closed: {0}")]
    Frame(FrameError),
    /// The answer could not be understood.
    #[error("the answer cannot be understood: {0}")]
    Answer(DecodeError),
    /// No answer came in time.
    #[error("no answer came in time")]
    Timeout,
    /// No node knows a leader of the shard.
    #[error("the shard has no leader at the moment")]
    NoLeader,
    /// The shard has no majority.
    #[error("no majority of the shard's replicas can be reached")]
    NoQuorum,
    /// The node is starting.
    #[error("the node is starting")]
    Starting,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The leader changed while the request was in flight.
    #[error("the shard's leader changed while the request was in flight")]
    LeadershipLost,
    /// The storage of that replica failed.
    #[error("the storage of the shard's replica failed; see the node's log")]
    StorageFailed,
    /// The node does not hold the shard; the client fetches a newer map.
    #[error("the node does not hold the shard")]
    WrongNode,
    /// The cluster forgot the session that numbered the write.
    #[error("the session expired while the write was in flight")]
    SessionExpired,
    /// The cluster is overloaded.
    #[error("the cluster is overloaded")]
    Overload,
    /// Another cluster answers at the address.
    #[error("cluster {0} answers at this address")]
    OtherCluster(ClusterId),
    /// The client was dropped.
    #[error("the client was closed")]
    Closed,
    /// The cluster does not know the upload any more.
    #[error("the cluster does not know the upload any more")]
    Forgotten,
    /// The node is of a release that does not have what was asked.
    #[error("the node is of a release without large values")]
    OlderNode,
}

fn refusal(error: &HandshakeError) -> String {
    match error {
        HandshakeError::Busy => {
            "the node accepts no clients now: it is full, still waits for its cluster to form, \
                                 or is excluded from it; its log says which"
                .to_owned()
        }
        error => format!("handshake failed: {error}"),
    }
}

fn state(how: UploadState) -> String {
    match how {
        UploadState::Unknown => "the cluster does not know it (any more)".to_owned(),
        UploadState::Open => "it is open".to_owned(),
        UploadState::Committed { version } => format!("it was committed at version {version}"),
        UploadState::Conflicted { current } => {
            format!("its condition did not hold, {}", standing(current))
        }
        UploadState::Aborted => "it was aborted".to_owned(),
        UploadState::Expired => "it has expired".to_owned(),
        UploadState::Dropped => "it was committed, and its value was overwritten since".to_owned(),
        UploadState::Refused(why) => why_not(why),
    }
}

fn why_not(why: UploadRefusal) -> String {
    match why {
        UploadRefusal::TooMany { limit } => {
            format!("there are as many uploads, parts or chunks as there may be, {limit}")
        }
        UploadRefusal::OtherKey => "the id is that of another upload".to_owned(),
        UploadRefusal::ChunkDiffers => "other bytes were uploaded before".to_owned(),
        UploadRefusal::Incomplete { part, chunk } => {
            format!("chunk {chunk} of part {part} is missing")
        }
        UploadRefusal::ChecksumDiffers => "the chunks have another checksum".to_owned(),
        UploadRefusal::TooLarge { limit } => format!("more than {limit} bytes"),
        UploadRefusal::Malformed => "the request makes no sense".to_owned(),
        UploadRefusal::CommittedOtherwise { version } => {
            format!("it was committed with other content, as version {version}")
        }
    }
}

fn standing(current: Option<u64>) -> String {
    match current {
        Some(version) => format!("the key has version {version}"),
        None => "the key has no value".to_owned(),
    }
}

impl From<Reason> for Cause {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NoQuorum => Cause::NoQuorum,
            Reason::Starting => Cause::Starting,
            Reason::Stopping => Cause::Stopping,
            Reason::LeadershipLost => Cause::LeadershipLost,
            Reason::StorageFailed => Cause::StorageFailed,
        }
    }
}
