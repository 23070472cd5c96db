//! The configuration of a node: read from TOML, checked completely before anything starts.
//!
//! Every problem is one sentence that names the file, the key and what is allowed. The cluster
//! section must say the same on every node; what a data directory was created with is checked
//! against it at every start (see [`crate::node::data_dir::identity`]).

mod check;
#[cfg(test)]
mod tests;

pub(crate) use check::is_place_name;

use crate::node::limits;
use corelith_consensus::Reads;
use corelith_io::Backend;
use corelith_shards::limits::{
    MEMTABLES_MAX, SCRUB_CYCLE_MIN, VALUE_THRESHOLD_BYTES, VLOG_SEGMENT_BYTES_DEFAULT,
};
use corelith_shards::{Compression, NodeId, Policy};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the kernel lists the CPUs.
const CPUS_ONLINE: &str = "/sys/devices/system/cpu/online";

/// What is wrong with a configuration, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {file}: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// The operating system's words.
        reason: String,
    },
    /// The file is no TOML, has an unknown key, lacks a key, or a value is of the wrong type.
    #[error("{file}, line {line}{key}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key as `", key `x`"`, or empty if it is not known.
        key: String,
        /// What the parser expected.
        reason: String,
    },
    /// A value is outside of what is allowed.
    #[error("{file}: {key}: {problem}")]
    Value {
        /// The file, or where else the configuration came from.
        file: String,
        /// The key with its table.
        key: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

/// Where a node listens: the port of its first core; core `c` listens on `port + c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Host name or address.
    pub host: String,
    /// Port of core 0.
    pub port: u16,
}

/// Where a node is, as the cluster map says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Host name or address, as others reach it.
    pub host: String,
    /// Port of core 0, as others reach it.
    pub port: u16,
    /// The zone: what fails together.
    pub zone: String,
    /// The region.
    pub region: String,
}

/// A node of the cluster, as every other node and every client reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// Its id, from 1; never reused for another machine.
    pub id: u64,
    /// Host name or address.
    pub host: String,
    /// Port of its core 0.
    pub port: u16,
    /// Number of cores it runs on.
    #[serde(default = "one")]
    pub cores: u16,
}

/// What all nodes of a cluster agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Its name. Nodes with another one form no cluster together. Empty if the node joins a cluster, whatever it is
    /// called.
    pub name: String,
    /// Number of shards, fixed when the cluster is created.
    pub shards: u32,
    /// Number of replicas of each shard; without it 3, or all nodes if there are fewer.
    pub replicas: Option<u32>,
    /// What a leader relies on when it answers a read.
    #[serde(default, deserialize_with = "reads")]
    pub reads: Reads,
    /// The cluster was formed before: a new data directory forms none, and waits for a node that knows the cluster.
    #[serde(default)]
    pub existing: bool,
    /// The first nodes. None if the node joins a cluster.
    pub nodes: Vec<NodeEntry>,
}

/// The storage of one shard, but for the block cache, which the shards of a core share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// A memtable of this size is flushed.
    pub memtable_bytes: u64,
    /// Length of a log segment; segments are written in advance.
    pub segment_bytes: u64,
    /// Recent log entries kept in memory for followers that are a little behind.
    pub log_cache_bytes: u64,
    /// Blocks of sstables kept in memory, for all shards of one core together.
    pub block_cache_bytes: u64,
    /// Applied log kept on disk for replicas that were away: one that missed more gets a snapshot.
    pub catch_up_bytes: u64,
    /// How sstables are compacted.
    #[serde(deserialize_with = "policy")]
    pub compaction: Policy,
    /// Whether blocks of new sstables are compressed.
    #[serde(deserialize_with = "compression")]
    pub compression: Compression,
    /// A value at least this long is written once, to the value log; 0: none is.
    pub value_threshold_bytes: u64,
    /// Length of a segment of the value log.
    pub value_segment_bytes: u64,
    /// Space held back for a full device; see [`StorageConfig::reserve`].
    pub reserve_bytes: Option<u64>,
    /// How fast the scrubber reads what is at rest; 0: it does not run.
    pub scrub_bytes_per_second: u64,
    /// A cycle of the scrubber over a shard begins at most this often.
    pub scrub_cycle_seconds: u64,
}

fn reads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Reads, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "lease" => Ok(Reads::Lease),
        "quorum" => Ok(Reads::Quorum),
        other => Err(D::Error::unknown_variant(other, &["lease", "quorum"])),
    }
}

fn policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Policy, D::Error> {
    let name = String::deserialize(deserializer)?;
    let policy = name.parse();
    policy.map_err(|_| D::Error::unknown_variant(&name, &["leveled", "tiered"]))
}

fn compression<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Compression, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "none" => Ok(Compression::None),
        "lz4" => Ok(Compression::Lz4),
        other => Err(D::Error::unknown_variant(other, &["none", "lz4"])),
    }
}

impl StorageConfig {
    /// Bytes held back on the device. Unless configured they are enough for what has to be written
    /// before anything can be removed: all memtables, and a segment of the log.
    pub fn reserve(&self) -> u64 {
        let needed = MEMTABLES_MAX as u64 * self.memtable_bytes + self.segment_bytes;
        self.reserve_bytes.unwrap_or(needed)
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            memtable_bytes: 32 << 20,
            segment_bytes: 64 << 20,
            log_cache_bytes: 16 << 20,
            block_cache_bytes: 256 << 20,
            catch_up_bytes: 256 << 20,
            compaction: Policy::Leveled,
            compression: Compression::None,
            value_threshold_bytes: VALUE_THRESHOLD_BYTES as u64,
            value_segment_bytes: VLOG_SEGMENT_BYTES_DEFAULT,
            reserve_bytes: None,
            scrub_bytes_per_second: limits::SCRUB_BYTES_PER_SECOND_DEFAULT,
            scrub_cycle_seconds: SCRUB_CYCLE_MIN.as_secs(),
        }
    }
}

/// The beats between nodes. Those of two nodes need not agree.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LivenessConfig {
    /// Time between two beats to a node.
    pub beat_ms: u64,
    /// How long the node's promises are: after so long without a beat its replicas elect others.
    pub promise_ms: u64,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            beat_ms: 50,
            promise_ms: 300,
        }
    }
}

impl LivenessConfig {
    /// Time between two beats.
    pub fn beat(&self) -> Duration {
        Duration::from_millis(self.beat_ms)
    }

    /// How long the node's promises are.
    pub fn promise(&self) -> Duration {
        Duration::from_millis(self.promise_ms)
    }
}

/// What the clients of one core may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientsConfig {
    /// Memory for connections, requests and answers of one core.
    pub memory_bytes: u64,
    /// A connection on which nothing goes on for this long is closed; 0: none is, while there are places.
    pub idle_seconds: u64,
}

impl Default for ClientsConfig {
    fn default() -> Self {
        Self {
            memory_bytes: limits::CLIENT_MEMORY_BYTES_DEFAULT,
            idle_seconds: limits::IDLE_SECONDS_DEFAULT,
        }
    }
}

impl ClientsConfig {
    /// How long a connection may be idle.
    pub fn idle(&self) -> Option<Duration> {
        (self.idle_seconds != 0).then_some(Duration::from_secs(self.idle_seconds))
    }
}

/// What runs the cores of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IoConfig {
    /// The executor of each core; without it the best one that the kernel takes.
    #[serde(deserialize_with = "backend")]
    pub backend: Option<Backend>,
}

fn backend<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Backend>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "glommio" => Ok(Some(Backend::Glommio)),
        "ring" => Ok(Some(Backend::Ring)),
        other => Err(D::Error::unknown_variant(other, &["glommio", "ring"])),
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// This node; 0 if the cluster is to give it an id, or has.
    pub id: NodeId,
    /// Where everything durable is.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// Number of cores (`node.cores`, or from its entry in the cluster section).
    pub cores: u16,
    /// Where others find it.
    pub place: Place,
    /// Nodes of the cluster that it asks to be taken in, if it is none of the first.
    pub join: Vec<(String, u16)>,
    /// CPU of each core; unpinned if empty.
    pub pin: Vec<usize>,
    /// What all nodes agree on.
    pub cluster: ClusterConfig,
    /// Sizes and ways of the storage.
    pub storage: StorageConfig,
    /// The beats between nodes.
    pub liveness: LivenessConfig,
    /// Bounds of the clients.
    pub clients: ClientsConfig,
    /// What runs the cores.
    pub io: IoConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    node: RawNode,
    cluster: Option<ClusterConfig>,
    #[serde(default)]
    storage: StorageConfig,
    #[serde(default)]
    liveness: LivenessConfig,
    #[serde(default)]
    clients: ClientsConfig,
    #[serde(default)]
    io: IoConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    id: Option<u64>,
    data_dir: PathBuf,
    listen: Option<String>,
    advertise: Option<String>,
    cores: Option<u16>,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    region: String,
    #[serde(default)]
    join: Vec<String>,
    #[serde(default)]
    pin: Vec<usize>,
}

fn one() -> u16 {
    1
}

impl NodeConfig {
    /// Reads and checks the file at `path`; the node joins the nodes at the addresses `join`, if there are any.
    ///
    /// # Errors
    /// One sentence about the first problem found.
    #[expect(
        clippy::disallowed_methods,
        reason = "read before the first core starts"
    )]
    pub fn load(path: &Path, join: &[String]) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            file: file.clone(),
            reason: error.to_string(),
        })?;
        let config = Self::parse_joining(&file, &text, join)?;
        // Where the kernel does not tell, the core that is to be pinned does.
        let online = std::fs::read_to_string(CPUS_ONLINE).unwrap_or_default();
        check::cpus(&config.pin, &online).map_err(|(key, problem)| ConfigError::Value {
            file,
            key,
            problem,
        })?;
        Ok(config)
    }

    /// Checks a configuration given as text; `file` is named in errors.
    ///
    /// # Errors
    /// One sentence about the first problem found.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        Self::parse_joining(file, text, &[])
    }

    fn parse_joining(file: &str, text: &str, join: &[String]) -> Result<Self, ConfigError> {
        let problem = |(key, problem): (String, String)| ConfigError::Value {
            file: file.to_owned(),
            key,
            problem,
        };
        check::raft(text).map_err(problem)?;
        let mut raw: RawConfig =
            toml::from_str(text).map_err(|error| check::syntax_error(file, text, &error))?;
        if !join.is_empty() {
            raw.node.join = join.to_vec();
        }
        check::storage(&raw.storage).map_err(problem)?;
        check::liveness(&raw.liveness).map_err(problem)?;
        check::clients(&raw.clients).map_err(problem)?;
        check::data_dir(&raw.node.data_dir).map_err(problem)?;
        let node = match raw.cluster {
            Some(cluster) if raw.node.join.is_empty() => of_first(&raw.node, cluster),
            cluster => of_joining(&raw.node, cluster),
        };
        let (cluster, entry, join) = node.map_err(problem)?;
        let cores = raw.node.cores.unwrap_or(entry.cores);
        check::cores(cores).map_err(problem)?;
        let listen = match &raw.node.listen {
            Some(text) => check::listen(text, cores).map_err(problem)?,
            None => Listen {
                host: entry.host.clone(),
                port: entry.port,
            },
        };
        check::pin(&raw.node.pin, cores).map_err(problem)?;
        let place = check::place(&raw.node, &entry, cores).map_err(problem)?;
        Ok(Self {
            id: NodeId(entry.id),
            data_dir: raw.node.data_dir,
            listen,
            cores,
            place,
            join,
            pin: raw.node.pin,
            cluster,
            storage: raw.storage,
            liveness: raw.liveness,
            clients: raw.clients,
            io: raw.io,
        })
    }
}

type Joins = Vec<(String, u16)>;

/// One of the first nodes: the cluster, and the node's entry there.
fn of_first(
    node: &RawNode,
    cluster: ClusterConfig,
) -> Result<(ClusterConfig, NodeEntry, Joins), (String, String)> {
    check::cluster(&cluster)?;
    let id = check::some_id(node.id)?;
    let entry = check::own_entry(id, &cluster)?.clone();
    Ok((cluster, entry, Vec::new()))
}

/// A node that joins: of the cluster it needs to know nothing.
fn of_joining(
    node: &RawNode,
    cluster: Option<ClusterConfig>,
) -> Result<(ClusterConfig, NodeEntry, Joins), (String, String)> {
    let join = check::join(&node.join, cluster.is_some())?;
    let listen = node.listen.as_deref().or(node.advertise.as_deref());
    let cores = node.cores.unwrap_or(1);
    check::cores(cores)?;
    let listen = check::listen(check::some_listen(listen)?, cores)?;
    let entry = NodeEntry {
        id: node.id.unwrap_or(0),
        host: listen.host,
        port: listen.port,
        cores,
    };
    check::id(entry.id)?;
    Ok((ClusterConfig::default(), entry, join))
}

impl ClusterConfig {
    /// Hash of the name. Nodes with another one form no cluster together.
    pub fn name_hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.name.as_bytes()).max(1)
    }

    /// How it tells other nodes what reads rely on.
    pub(crate) fn reads_tag(&self) -> u32 {
        match self.reads {
            Reads::Lease => 0,
            Reads::Quorum => 1,
        }
    }

    /// Whether the first nodes are configured.
    pub fn is_given(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Number of replicas of each shard.
    pub fn replica_count(&self) -> u32 {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.replicas.unwrap_or(limits::REPLICAS_DEFAULT).min(nodes)
    }
}
