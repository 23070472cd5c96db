//! Why a command failed, in one sentence, and its exit code.

use super::args::Connection;
use super::encoding::{counted, printable};
use super::unserved::ShardLack;
use crate::node::data_dir::identity::IdentityError;
use crate::node::data_dir::inspect::InspectError;
use crate::node::data_dir::left::LeftError;
use crate::node::data_dir::on_disk::OfflineError;
use crate::node::error::NodeError;
use corelith_client::{Error, UploadRefusal};
use std::path::{Path, PathBuf};

/// Exit codes, as [`EXIT_CODES`](super::args) lists them.
pub(super) mod code {
    pub(in crate::cli) const ABSENT: u8 = 1;
    pub(in crate::cli) const WRONG_INPUT: u8 = 2;
    pub(in crate::cli) const UNREACHABLE: u8 = 3;
    pub(in crate::cli) const UNKNOWN: u8 = 4;
    pub(in crate::cli) const LOCAL: u8 = 5;
    pub(in crate::cli) const DAMAGED: u8 = 6;
    pub(in crate::cli) const FULL: u8 = 7;
    pub(in crate::cli) const INTERRUPTED: u8 = 130;
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The cluster refused or could not answer.
    #[error("{0}")]
    Cluster(#[from] Error),
    /// No node of the cluster answers, and the user did not name one.
    #[error(
        "{source} (start a cluster with `corelith dev`, or name one with --connect host:port or CORELITH_SEEDS)"
    )]
    NoCluster {
        /// The cause at each address.
        source: Error,
    },
    /// An address of the cluster is invalid.
    #[error("{origin}: {source}")]
    Seed {
        /// Where the address comes from.
        origin: &'static str,
        /// What is wrong with it.
        source: Error,
    },
    /// Some shards cannot serve requests.
    #[error("{}", unserved(shards))]
    Unserved {
        /// Which, and why.
        shards: Vec<(u32, ShardLack)>,
    },
    /// The key does not exist.
    #[error("key {key} does not exist")]
    NotFound {
        /// Printable form of the key.
        key: String,
    },
    /// The key has no such upload.
    #[error("key {key} has no open upload {upload}")]
    NoUpload {
        /// Printable form of the key.
        key: String,
        /// The upload's id.
        upload: String,
    },
    /// The condition does not hold.
    #[error("not written: key {key} {current}")]
    Conflict {
        /// Printable form of the key.
        key: String,
        /// The key's state, which contradicts the condition.
        current: String,
    },
    /// The node or the dev cluster failed.
    #[error("{0}")]
    Node(Box<dyn std::error::Error + Send + Sync>),
    /// The file is not one of ours, or is damaged.
    #[error("{source}")]
    Inspect {
        /// What is wrong with it.
        source: InspectError,
    },
    /// A directory cannot be read.
    #[error("{0}")]
    Offline(#[from] OfflineError),
    /// The shards of a node that is left do not go on.
    #[error("{0}")]
    Left(#[from] LeftError),
    /// A check found damage; each problem was printed.
    #[error("{} found, see above", counted(*.problems, "problem", "problems"))]
    Damaged {
        /// How many.
        problems: u64,
    },
    /// A core cannot run here.
    #[error("cannot read files: {source}")]
    Core {
        /// Why.
        source: corelith_io::Error,
    },
    /// A file or directory of this machine failed.
    #[error("cannot {what}{subject}: {source}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// The object, with a blank before it, or empty.
        subject: String,
        /// What happened.
        source: std::io::Error,
    },
    /// A file or directory given as an argument cannot be used.
    #[error("{path}: {problem}", path = path.display())]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A file is not what its manifest says.
    #[error("{path} is damaged: {problem}", path = path.display())]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What does not match.
        problem: &'static str,
    },
    /// An argument cannot be used.
    #[error("{0}")]
    Argument(&'static str),
    /// Some of many keys or files failed; each was reported when it did.
    #[error("{failed} of {total} failed, see above")]
    Partly {
        /// How many failed.
        failed: u64,
        /// How many were tried.
        total: u64,
        /// The largest exit code of all failures.
        code: u8,
    },
    /// The cluster refused an order.
    #[error("{0}")]
    Refused(String),
    /// It is not known whether the cluster took an order.
    #[error(
        "it is not known whether the order was taken ({0}); see `corelith cluster status`, and give it again"
    )]
    OrderLost(corelith_client::Cause),
    /// The user interrupted the command, which printed how far it got.
    #[error("interrupted")]
    Interrupted,
    /// The reader of our output, such as `head`, has closed it: not a failure.
    #[error("output closed")]
    OutputClosed,
}

impl Failure {
    /// A failure of a node or of the dev cluster.
    pub fn node(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Node(Box::new(error))
    }

    /// A failure of a file of this machine.
    pub fn file(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::local(what, &path.display().to_string(), source)
    }

    /// A failure of this machine.
    pub fn local(what: &'static str, subject: &str, source: std::io::Error) -> Self {
        let subject = if subject.is_empty() {
            String::new()
        } else {
            format!(" {subject}")
        };
        Self::Local {
            what,
            subject,
            source,
        }
    }

    /// A file or directory that cannot be used.
    pub fn unusable(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    /// A failure to find the cluster. Who names a cluster with --connect does not need to hear how to start one.
    pub(super) fn connecting(error: Error, connection: &Connection) -> Self {
        let origin = connection.origin;
        match error {
            source @ (Error::InvalidSeed { .. } | Error::Invalid { .. }) => {
                Self::Seed { origin, source }
            }
            source @ Error::NoSeed { .. } if !connection.is_given => Self::NoCluster { source },
            error => Self::Cluster(error),
        }
    }

    /// The SDK's error for an operation on `key`.
    pub fn on_key(key: &[u8], error: Error) -> Self {
        let key = printable(key);
        match error {
            Error::NotFound => Self::NotFound { key },
            Error::Conflict {
                current: Some(version),
            } => Self::Conflict {
                key,
                current: format!("has version {version}"),
            },
            Error::Conflict { current: None } => Self::Conflict {
                key,
                current: "does not exist".to_owned(),
            },
            error => Self::Cluster(error),
        }
    }

    /// The exit code, one of those that `corelith --help` lists.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::NotFound { .. } | Self::NoUpload { .. } | Self::Conflict { .. } => code::ABSENT,
            Self::Unusable { .. } | Self::Argument(_) | Self::Seed { .. } | Self::Refused(_) => {
                code::WRONG_INPUT
            }
            Self::OrderLost(_) => code::UNKNOWN,
            Self::Damaged { .. } | Self::DamagedFile { .. } => code::DAMAGED,
            Self::NoCluster { .. } | Self::Unserved { .. } => code::UNREACHABLE,
            Self::Inspect { source } => of_inspection(source),
            Self::Offline(error) => of_offline(error),
            Self::Left(error) => of_left(error),
            Self::Node(error) => error
                .downcast_ref::<NodeError>()
                .map_or(code::LOCAL, of_node),
            Self::Core { .. } | Self::Local { .. } => code::LOCAL,
            Self::Partly { code, .. } => *code,
            Self::Interrupted => code::INTERRUPTED,
            Self::Cluster(error) => of_cluster(error),
        }
    }
}

/// Names shards that cannot serve requests: only some, since there may be thousands.
fn unserved(shards: &[(u32, ShardLack)]) -> String {
    const NAMED_MAX: usize = 8;
    let named = shards
        .iter()
        .take(NAMED_MAX)
        .map(|(shard, lack)| match lack {
            ShardLack::Majority => format!("shard {shard} has no majority"),
            ShardLack::Leader => format!("shard {shard} has no leader"),
        });
    let named: Vec<String> = named.collect();
    let mut text = named.join(", ");
    if shards.len() > NAMED_MAX {
        text += &format!(" and {} more like these", shards.len() - NAMED_MAX);
    }
    text
}

fn of_cluster(error: &Error) -> u8 {
    match error {
        Error::NotFound | Error::Conflict { .. } => code::ABSENT,
        Error::TooLarge { .. }
        | Error::Invalid { .. }
        | Error::InvalidSeed { .. }
        | Error::UploadEnded { .. }
        | Error::ContentDiffers => code::WRONG_INPUT,
        Error::UploadRefused {
            why: UploadRefusal::TooMany { .. },
        } => code::FULL,
        Error::UploadRefused { .. } => code::WRONG_INPUT,
        Error::File { .. } => code::LOCAL,
        Error::Indeterminate { .. } => code::UNKNOWN,
        Error::Corrupt => code::DAMAGED,
        Error::DiskFull | Error::ShardFull => code::FULL,
        _ => code::UNREACHABLE,
    }
}

fn of_node(error: &NodeError) -> u8 {
    match error {
        NodeError::Identity(error) => of_identity(error),
        error if error.is_misconfiguration() => code::WRONG_INPUT,
        _ => code::LOCAL,
    }
}

fn of_identity(error: &IdentityError) -> u8 {
    match error {
        IdentityError::Corrupt { .. } => code::DAMAGED,
        IdentityError::Differs { .. }
        | IdentityError::Foreign { .. }
        | IdentityError::Newer { .. } => code::WRONG_INPUT,
        _ => code::LOCAL,
    }
}

fn of_inspection(error: &InspectError) -> u8 {
    match error {
        InspectError::Identity(error) => of_identity(error),
        InspectError::Shard(error) => of_shard(error),
        InspectError::Foreign { .. } => code::WRONG_INPUT,
    }
}

fn of_offline(error: &OfflineError) -> u8 {
    match error {
        OfflineError::NoData { .. } => code::WRONG_INPUT,
        OfflineError::Shard(error) => of_shard(error),
        _ => code::LOCAL,
    }
}

fn of_left(error: &LeftError) -> u8 {
    match error {
        LeftError::NoNode { .. } => code::WRONG_INPUT,
        LeftError::Identity(error) => of_identity(error),
        LeftError::InUse { .. } | LeftError::Io(_) | LeftError::Shard { .. } => code::LOCAL,
    }
}

fn of_shard(error: &corelith_shards::Error) -> u8 {
    match error {
        corelith_shards::Error::Corrupt { .. } => code::DAMAGED,
        corelith_shards::Error::NewerFormat { .. } | corelith_shards::Error::OtherStore { .. } => {
            code::WRONG_INPUT
        }
        _ => code::LOCAL,
    }
}
