//! Why a command failed, in one sentence, and with which exit code.

use super::args::Connection;
use super::output;
use crate::node::data_dir::on_disk::OfflineError;
use crate::node::error::NodeError;
use corelith_client::Error;
use std::path::{Path, PathBuf};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The cluster refused or could not answer.
    #[error("{0}")]
    Cluster(#[from] Error),
    /// No node of the cluster answers.
    #[error(
        "no cluster at {seeds}: {source} (start one with `corelith dev`, or name one with --connect host:port or CORELITH_SEEDS)"
    )]
    Connecting {
        /// Where it was looked for.
        seeds: String,
        /// What happened.
        source: Error,
    },
    /// The key does not exist.
    #[error("key {key} does not exist")]
    NotFound {
        /// Printable form of the key.
        key: String,
    },
    /// The condition does not hold.
    #[error("not written: key {key} {current}")]
    Conflict {
        /// Printable form of the key.
        key: String,
        /// What stands against it.
        current: String,
    },
    /// The node or the dev cluster failed.
    #[error("{0}")]
    Node(Box<dyn std::error::Error + Send + Sync>),
    /// The file is none of ours, or damaged.
    #[error("{source}")]
    Inspect {
        /// What is wrong with it.
        source: crate::node::data_dir::inspect::InspectError,
    },
    /// A directory cannot be looked at.
    #[error("{0}")]
    Offline(#[from] OfflineError),
    /// A check found damage; each problem was printed.
    #[error("{problems} problems found, see above")]
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
        /// On what, with a blank before it, or empty.
        subject: String,
        /// What happened.
        source: std::io::Error,
    },
    /// The directory to export to has something in it.
    #[error("{} is not empty: give a new or an empty directory", .0.display())]
    DirectoryNotEmpty(PathBuf),
    /// Some of many files failed; each was reported when it did.
    #[error("{failed} of {total} files failed, see above; the others are done")]
    Partly {
        /// How many failed.
        failed: u64,
        /// Of how many.
        total: u64,
        /// The exit code of the first failure.
        code: u8,
    },
    /// Whoever read our output has gone, such as `head`: not a failure.
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

    /// A failure to find the cluster.
    pub fn connecting(connection: &Connection, source: Error) -> Self {
        Self::Connecting {
            seeds: connection.seeds().join(", "),
            source,
        }
    }

    /// What the SDK said about an operation on `key`.
    pub fn on_key(key: &[u8], error: Error) -> Self {
        let key = output::printable(key);
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

    /// The exit code, as `corelith --help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::NotFound { .. } | Self::Conflict { .. } => 1,
            Self::Inspect { .. } | Self::Damaged { .. } | Self::DirectoryNotEmpty(_) => 2,
            Self::Offline(OfflineError::NoData { .. }) => 2,
            Self::Connecting { source, .. } => match source {
                Error::Invalid { .. } => 2,
                _ => 3,
            },
            Self::Node(error)
                if error
                    .downcast_ref::<NodeError>()
                    .is_some_and(NodeError::is_misconfiguration) =>
            {
                2
            }
            Self::Offline(_) | Self::Node(_) | Self::Core { .. } | Self::Local { .. } => 5,
            Self::Partly { code, .. } => *code,
            Self::Cluster(error) => match error {
                Error::NotFound | Error::Conflict { .. } => 1,
                Error::TooLarge { .. } | Error::Invalid { .. } => 2,
                Error::Indeterminate { .. } => 4,
                _ => 3,
            },
        }
    }
}
