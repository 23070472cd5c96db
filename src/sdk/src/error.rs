//! What can go wrong, and what the caller can do about it.

use corelith_wire::{ClusterId, DecodeError, FrameError, HandshakeError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The result of the SDK's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation did not give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The key has no value.
    #[error("no such key")]
    NotFound,
    /// The condition of a write does not hold. Nothing was changed: read the key and decide anew.
    #[error("the condition does not hold: {}", standing(*.current))]
    Conflict {
        /// The version that the key has, `None` if it has no value.
        current: Option<u64>,
    },
    /// The cluster has more to do than it can take. Nothing was changed: try again later.
    #[error("the cluster is overloaded; try again in {retry_after:?} or later")]
    Throttled {
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk of the shard's leader is full. Nothing was changed: delete something or add space;
    /// reads and deletes work.
    #[error("the shard's disk is full; delete something or add space")]
    DiskFull,
    /// The shard holds as much as a shard can. Nothing was changed: delete something; reads and deletes
    /// work.
    #[error("the shard holds as much as it can; delete something")]
    ShardFull,
    /// The key or the value is too long. Nothing was changed.
    #[error("the {what} is too large: it has {len} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Which of the two.
        what: Field,
        /// How long it is, in bytes.
        len: u64,
        /// The longest that would do, in bytes.
        limit: u64,
    },
    /// The stored data is damaged and no good copy of it was found.
    #[error("the stored data is damaged and no good copy of it was found; see the node's log")]
    Corrupt,
    /// The deadline passed before the operation could be done. It had no effect and will have none:
    /// try again when the cause is gone.
    #[error("the cluster could not be asked in time: {cause}")]
    Unavailable {
        /// What the last attempt met.
        cause: Cause,
    },
    /// The write may have been applied or not, and may yet be: read the key to find out.
    #[error("it is not known whether the write was applied: {cause}; read the key to find out")]
    Indeterminate {
        /// What the last attempt met.
        cause: Cause,
    },
    /// What the scan has seen of a shard was dropped meanwhile, and it was to give one moment of each: start
    /// it again.
    #[error("what the scan has seen is gone; start it again")]
    ScanExpired,
    /// The other side does not keep to the protocol: check that both sides have matching versions.
    #[error("the server broke the protocol ({what}); check that client and servers match")]
    Protocol {
        /// What it did.
        what: &'static str,
    },
    /// None of the seeds led to a cluster.
    #[error("no cluster at {}", listed(.tried))]
    NoSeed {
        /// Every seed, and what was met there last.
        tried: Vec<SeedFailure>,
    },
    /// A seed is no address: correct it.
    #[error("invalid seed {seed:?}: {problem}")]
    InvalidSeed {
        /// The seed, as it was given.
        seed: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The builder or the call was given something impossible.
    #[error("invalid {what}")]
    Invalid {
        /// What is impossible.
        what: &'static str,
    },
}

impl Error {
    /// Its name, for logs and measurements.
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
            Self::Protocol { .. } => "protocol",
            Self::NoSeed { .. } => "no seed",
            Self::Invalid { .. } => "invalid",
            Self::InvalidSeed { .. } => "invalid seed",
        }
    }

    /// Whether the same call may succeed later without anything being changed by the caller, and
    /// repeating it does no harm. (A conflict, for one, needs a new decision; an indeterminate
    /// write a look at the key.)
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. }
                | Self::DiskFull
                | Self::ShardFull
                | Self::Unavailable { .. }
                | Self::ScanExpired
                | Self::NoSeed { .. }
        )
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
    /// The seed, as it was given.
    pub seed: String,
    /// What was met there last.
    pub cause: Cause,
}

/// Names seeds that met the same together: `a:1, b:1: refused; c:1: no answer`.
fn listed(tried: &[SeedFailure]) -> String {
    let groups = tried.chunk_by(|one, next| one.cause == next.cause);
    let each = groups.filter_map(|group| {
        let seeds: Vec<&str> = group.iter().map(|failure| &failure.seed[..]).collect();
        Some(format!("{}: {}", seeds.join(", "), group.first()?.cause))
    });
    each.collect::<Vec<_>>().join("; ")
}

/// What stood in the way of the last attempt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Cause {
    /// No attempt was made before the deadline.
    #[error("the deadline passed before it could be sent")]
    NotTried,
    /// The host name leads to no address.
    #[error("the name {host} does not resolve: {reason}")]
    Resolve {
        /// The name.
        host: Arc<str>,
        /// What the system said of it.
        reason: Arc<str>,
    },
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(std::io::ErrorKind),
    /// The address answered, but not as a node of this cluster.
    #[error("handshake failed: {0}")]
    Handshake(HandshakeError),
    /// The connection broke while the request was under way.
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
    /// The shard has no leader that is known.
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
    /// The leader changed while the request was under way.
    #[error("the shard's leader changed meanwhile")]
    LeadershipLost,
    /// The storage of that replica failed.
    #[error("the storage of the shard's replica failed; see the node's log")]
    StorageFailed,
    /// The node does not hold the shard: the map is being renewed.
    #[error("the node does not hold the shard")]
    WrongNode,
    /// The session that numbered the write was forgotten by the cluster.
    #[error("the session expired while the write was under way")]
    SessionExpired,
    /// The cluster is overloaded.
    #[error("the cluster is overloaded")]
    Overload,
    /// Another cluster answers at the address.
    #[error("cluster {0} answers there")]
    OtherCluster(ClusterId),
    /// The client was dropped.
    #[error("the client was closed")]
    Closed,
}

fn standing(current: Option<u64>) -> String {
    match current {
        Some(version) => format!("the key has version {version}"),
        None => "the key has no value".to_owned(),
    }
}
