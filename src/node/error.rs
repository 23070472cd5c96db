//! Why a node cannot start or go on: each is one sentence that says what to do.

use crate::node::config::ConfigError;
use crate::node::data_dir::identity::IdentityError;
use corelith_io::probe::ProbeError;
use corelith_shards::ShardId;

/// Why a node cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This machine or its limits do not allow it.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The data directory is not this node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Other nodes know another store as this node, or a later start of this one.
    #[error("{why}")]
    Excluded {
        /// What it is, and what to do.
        why: String,
    },
    /// The node was removed from the cluster: it ends as it should.
    #[error("{why}")]
    Removed {
        /// What it is, and what to do.
        why: String,
    },
    /// The host name to listen on has no address.
    #[error(
        "the host {host:?} has no address ({reason}): check the configuration or the name service"
    )]
    Resolve {
        /// The host.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// Another process listens there.
    #[error("the port {port} on {host} is in use: stop the process that has it, or {instead}")]
    PortInUse {
        /// The address without the port.
        host: String,
        /// The port.
        port: u16,
        /// How to choose another one.
        instead: &'static str,
    },
    /// The machine has no such address, or may not listen there.
    #[error(
        "cannot listen on {address} ({source}): give an address of this machine in `node.listen`, or in this node's \
         entry of cluster.nodes"
    )]
    Address {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot listen there for another reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: corelith_io::Error,
    },
    /// A shard's storage or consensus state cannot be opened.
    #[error("shard {shard} in {dir} cannot be opened: {reason}")]
    Shard {
        /// The shard.
        shard: ShardId,
        /// Where it is.
        dir: String,
        /// Why. The error itself belongs to the core and cannot leave it.
        reason: String,
    },
    /// The consensus options were refused.
    #[error("consensus cannot be set up as configured: {reason}")]
    Raft {
        /// Why.
        reason: String,
    },
    /// An executor cannot start or has failed.
    #[error("core {core} of node {node} cannot run: {source}")]
    Core {
        /// The node.
        node: u64,
        /// The core.
        core: u16,
        /// Why.
        source: corelith_io::Error,
    },
    /// The executor of a node's beats cannot start or has failed.
    #[error("the beats of node {node} cannot run: {source}")]
    Beats {
        /// The node.
        node: u64,
        /// Why.
        source: corelith_io::Error,
    },
    /// The operating system refuses something that every process needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A core ended although nobody asked it to.
    #[error("core {core} of node {node} has ended unexpectedly")]
    Ended {
        /// The node.
        node: u64,
        /// The core.
        core: u16,
    },
    /// Closing takes too long.
    #[error(
        "not everything could be closed within {seconds} s; nothing acknowledged is lost, the next \
         start recovers it from the log"
    )]
    SlowStop {
        /// The time it had.
        seconds: u64,
    },
    /// The user asked twice.
    #[error("stopped at once by a second signal; the next start recovers from the log")]
    Interrupted,
}

impl NodeError {
    /// Whether the configuration must change before another try can succeed.
    pub fn is_misconfiguration(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::Raft { .. }
                | Self::Identity(IdentityError::Differs { .. } | IdentityError::Foreign { .. })
        )
    }
}
