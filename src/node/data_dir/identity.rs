//! Who a data directory is and belongs to: the file `node` in it.
//!
//! Written when the directory is first used, and compared with the configuration at every later start. A
//! directory that holds anything else but no `node` file is refused: a node that forgot its log would
//! vote twice. For the same reason it lists the shards that the store holds: one that is listed as
//! made and not there is damage, and is never created anew.
//!
//! Invariants:
//! * A shard is listed with its replica's generation before its directory is made, and as made after everything
//!   of its creation is durable, before its replica votes or takes an entry. So a crash in between leaves a shard
//!   that was never used, and is made then.
//! * The shards of the founding are listed once. What a start opens is what is listed.
//! * A shard that is dropped is listed as such before its directory goes, and as gone after that. Its generation
//!   stays: a replica that was dropped never comes back.
//! * The file is replaced as a whole, by one whose blocks were allocated before: a full device keeps no
//!   node from starting or from knowing its peers.
//! * The incarnation is raised durably before the node says anything to anybody, and the mark before anybody
//!   is told of it.
//! * A promise is given only after it was written down how long it may be, and that is taken back only after
//!   all longer ones have run out.
//! * What peers have said against the store is kept: it takes part in nothing after another start either.

mod format;
mod held;
#[cfg(test)]
mod tests;

use crate::node::cluster::formation::Acceptor;
use crate::node::cluster::judge::Met;
use crate::node::cluster::standing::Exclusion;
use corelith_io::{BLOCK_SIZE, Buf, DirLock, ErrorKind, File, OpenOptions};
use corelith_shards::{NodeId, ShardId};
use corelith_wire::peer::LastStarts;
use corelith_wire::{Mark, Start, StoreId};
pub use format::decode;
#[cfg(test)]
pub(crate) use format::encode;
pub(crate) use format::{FILE_BYTES_MAX, MAGIC};
pub(crate) use held::may_make;
pub use held::{HeldShard, HeldState, ShardNote};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "node";
/// The next one is written here.
const NEW_FILE_NAME: &str = "node.new";
pub(crate) const SHARDS_DIR: &str = "shards";

const _: () = assert!(FILE_BYTES_MAX.is_multiple_of(BLOCK_SIZE));

/// Why a data directory cannot be used by this node.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process uses it.
    #[error(
        "the data directory {dir} is in use by another process: stop that one, or choose another \
         directory"
    )]
    InUse {
        /// The directory.
        dir: String,
    },
    /// It was created for something else than is configured now.
    #[error(
        "the data directory {dir} was created with {what} {stored}, but the configuration says \
         {configured}: use the configuration it was created with, or another directory"
    )]
    Differs {
        /// The directory.
        dir: String,
        /// Which setting.
        what: &'static str,
        /// What the directory was created with.
        stored: String,
        /// What is configured.
        configured: String,
    },
    /// Files, but no `node` file.
    #[error(
        "the directory {dir} holds `{found}` but no `node` file, so it is no complete data \
         directory of a node: restore the file as this node wrote it last. If it is lost, see 'a data \
         directory is lost' in docs/operations.md, and leave everything in the directory"
    )]
    Foreign {
        /// The directory.
        dir: String,
        /// One of the names found.
        found: String,
    },
    /// The `node` file is damaged.
    #[error(
        "{file} is damaged ({what}): restore it as this node wrote it last. If that is not \
         possible, see 'a data directory is lost' in docs/operations.md, and leave everything in the \
         directory"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// What does not fit.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "{file} has format version {version}; this program knows versions up to {}: use a newer one",
        format::VERSION
    )]
    Newer {
        /// The file.
        file: String,
        /// The version found.
        version: u32,
    },
    /// The device or file system failed.
    #[error(transparent)]
    Io(#[from] corelith_io::Error),
}

/// Who a data directory is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Number of shards of the cluster; 0 before the node is one of it.
    pub shards: u32,
    /// Replicas of each, when the cluster was formed.
    pub replicas: u32,
    /// What reads rely on, as nodes tell each other.
    pub reads: u16,
    /// Cores of the node in its last start.
    pub cores: u16,
    /// This node; 0 before the cluster has given it an id.
    pub node: NodeId,
    /// Hash of the cluster's name.
    pub name: u64,
    /// Drawn at random when the directory was created.
    pub store: StoreId,
    /// How often a node was started on it.
    pub incarnation: u64,
    /// The last of these starts.
    pub starts: LastStarts,
    /// How far the store has come.
    pub mark: Mark,
    /// How long the longest promise may have been that the store gave to other nodes, in milliseconds.
    pub promise_ms_max: u32,
    /// What is known of the cluster's formation.
    pub formation: Acceptor,
    /// What peers have said against the store.
    pub excluded: Option<Exclusion>,
    /// The first nodes, ascending.
    pub nodes: Vec<NodeId>,
    /// The peers that were met.
    pub met: BTreeMap<NodeId, Met>,
    /// Whether the shards of the founding are listed.
    pub is_founded: bool,
    /// The shards that the store has, or had.
    pub held: BTreeMap<ShardId, HeldShard>,
}

/// What the configuration says of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The node's id, if it is configured.
    pub node: Option<NodeId>,
    /// Its cores.
    pub cores: u16,
    /// The cluster, if its first nodes are configured.
    pub cluster: Option<ExpectedCluster>,
}

/// A cluster whose first nodes are configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedCluster {
    /// Hash of its name.
    pub name: u64,
    /// Number of shards.
    pub shards: u32,
    /// Replicas of each.
    pub replicas: u32,
    /// What reads rely on, as nodes tell each other.
    pub reads: u16,
    /// The first nodes, ascending.
    pub nodes: Vec<NodeId>,
}

impl Identity {
    /// What files of shards carry of the store's id.
    pub fn short_store(&self) -> u64 {
        self.store.0 as u64
    }
}

/// An opened data directory, locked against other processes until dropped.
pub struct DataDir {
    /// Who it is.
    pub identity: Identity,
    /// This start of it.
    pub start: Start,
    /// How long the longest promise may have been that an earlier start gave.
    pub promised_before: Duration,
    _lock: DirLock,
}

/// The directory of a shard's files.
pub fn shard_dir(data_dir: &Path, shard: ShardId) -> PathBuf {
    let name = match shard {
        ShardId::META => "meta".to_owned(),
        ShardId(number) => format!("{number:05}"),
    };
    data_dir.join(SHARDS_DIR).join(name)
}

impl DataDir {
    /// Locks `dir`, creating it if needed, checks that it is what is expected, and
    /// begins another start of it, which may give promises of `promise`. Must run on a core.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub async fn open(
        dir: &Path,
        expected: &Expected,
        promise: Duration,
    ) -> Result<Self, IdentityError> {
        corelith_io::create_dir_all(dir).await?;
        let lock = corelith_io::lock_dir(dir).await.map_err(|error| {
            if error.kind() == ErrorKind::Locked {
                IdentityError::InUse { dir: show(dir) }
            } else {
                error.into()
            }
        })?;
        let mut identity = match read(dir).await? {
            Some(stored) => {
                check_same(dir, &stored, expected)?;
                stored
            }
            None => {
                check_empty(dir).await?;
                new_identity(expected)
            }
        };
        if let Some(cluster) = &expected.cluster {
            identity.reads = cluster.reads;
        }
        identity.cores = expected.cores;
        identity.incarnation = identity.incarnation.saturating_add(1);
        let start = Start {
            incarnation: identity.incarnation,
            nonce: corelith_io::random_u64(),
        };
        identity.starts.add(start);
        let promised_before = Duration::from_millis(identity.promise_ms_max.into());
        identity.promise_ms_max = identity.promise_ms_max.max(in_ms(promise));
        write(dir, &identity).await?;
        corelith_io::create_dir_all(&dir.join(SHARDS_DIR)).await?;
        Ok(Self {
            identity,
            start,
            promised_before,
            _lock: lock,
        })
    }
}

/// Of a directory that is new.
fn new_identity(expected: &Expected) -> Identity {
    let mut identity = Identity {
        node: expected.node.unwrap_or_default(),
        store: new_store(),
        ..Identity::default()
    };
    if let Some(cluster) = &expected.cluster {
        identity.shards = cluster.shards;
        identity.replicas = cluster.replicas;
        identity.name = cluster.name;
        identity.nodes.clone_from(&cluster.nodes);
    }
    identity
}

/// A promise's length as the file has it.
pub(crate) fn in_ms(promise: Duration) -> u32 {
    u32::try_from(promise.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// An id that no other store has, nor may mean anything else.
fn new_store() -> StoreId {
    let high = u128::from(corelith_io::random_u64() >> 1);
    let low = u128::from(corelith_io::random_u64().max(1));
    StoreId(high << 64 | low)
}

/// Reads the identity of the data directory `dir`, if it has one.
///
/// # Errors
/// `Corrupt`, `Newer` or `Io`.
pub async fn read(dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = dir.join(FILE_NAME);
    let file = match File::open(&path).await {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let bytes = file.read_at(0, FILE_BYTES_MAX).await?;
    decode(&show(&path), &bytes).map(Some)
}

/// Writes under another name, then renames: the file is complete or not there.
pub(super) async fn write(dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let new = dir.join(NEW_FILE_NAME);
    let bytes = format::encode(identity);
    write_new(&new, &bytes).await?;
    corelith_io::rename(&new, &dir.join(FILE_NAME)).await?;
    corelith_io::sync_dir(dir).await?;
    // The next one has its blocks, and its name, before it is needed.
    if let Err(error) = write_new(&new, &vec![0; bytes.len()]).await {
        tracing::debug!(%error, "the next identity has no space yet");
    }
    Ok(())
}

/// Writes a file that begins with these bytes, over one if there is one.
async fn write_new(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let file = match OpenOptions::new().write().open(path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            OpenOptions::new().write().create_new().open(path).await?
        }
        opened => opened?,
    };
    let mut blocks = Buf::alloc(bytes.len());
    blocks.copy_from_slice(bytes);
    file.write_at(0, blocks).await?;
    file.sync().await?;
    Ok(())
}

/// A crash during the first start leaves at most the names allowed here.
async fn check_empty(dir: &Path) -> Result<(), IdentityError> {
    let names = corelith_io::list_dir(dir).await?;
    let allowed = ["LOCK", NEW_FILE_NAME, "lost+found"];
    match names
        .into_iter()
        .find(|e| !allowed.contains(&e.name.as_str()))
    {
        Some(entry) => Err(IdentityError::Foreign {
            dir: show(dir),
            found: entry.name,
        }),
        None => Ok(()),
    }
}

fn check_same(dir: &Path, stored: &Identity, expected: &Expected) -> Result<(), IdentityError> {
    let list = |nodes: &[NodeId]| {
        let ids: Vec<String> = nodes.iter().map(|node| node.0.to_string()).collect();
        ids.join(", ")
    };
    let hex = |id: u64| format!("{id:016x}");
    let mut settings = Vec::new();
    if let Some(node) = expected.node.filter(|_| stored.node.0 != 0) {
        settings.push(("node id", stored.node.0.to_string(), node.0.to_string()));
    }
    if let Some(cluster) = &expected.cluster {
        settings.extend([
            (
                "cluster.name (a hash of it)",
                hex(stored.name),
                hex(cluster.name),
            ),
            (
                "the number of shards",
                stored.shards.to_string(),
                cluster.shards.to_string(),
            ),
            (
                "the number of replicas",
                stored.replicas.to_string(),
                cluster.replicas.to_string(),
            ),
            ("the nodes", list(&stored.nodes), list(&cluster.nodes)),
        ]);
    }
    for (what, stored, configured) in settings {
        if stored != configured {
            return Err(IdentityError::Differs {
                dir: show(dir),
                what,
                stored,
                configured,
            });
        }
    }
    Ok(())
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
