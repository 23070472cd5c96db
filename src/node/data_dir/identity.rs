//! Who a data directory belongs to: the file `node` in it.
//!
//! Written when the directory is first used, and compared with the configuration at every later start. A
//! directory that holds anything else but no `node` file is refused: a node that forgot its log would
//! vote twice. For the same reason it lists the shards that the store holds: one that is listed and not
//! there is damage, and is never created anew.
//!
//! Invariants:
//! * A shard is listed after everything of its creation is durable, and before its replica votes or
//!   takes an entry. So a crash in between leaves a shard that was never used, which is listed then.
//! * The file is replaced as a whole.
//!
//! ```text
//! 0   8   magic "CLNODE\0\0"
//! 8   4   format version, 2
//! 12  4   shards
//! 16  4   replicas
//! 20  2   cores of this node
//! 22  2   number of nodes N
//! 24  8   node id
//! 32  8   cluster id
//! 40  8   store id, drawn at random: every file of the node carries it
//! 48  8N  ids of all nodes, ascending
//! ..  B   the shards that the store holds, a bit each: shard s is bit s % 8 of byte s / 8; B is
//!         shards / 8, rounded up
//! ..      zeros
//! 4092 4  crc32c of the bytes before
//! ```
//! All numbers are little-endian. Version 1 does not say which shards there are: those that are found at
//! the first start are listed.

use crate::node::cluster::placement::Placement;
use crate::node::limits;
use corelith_io::{BLOCK_SIZE, Buf, DirLock, ErrorKind, File, OpenOptions, Receiver, Sender};
use corelith_shards::{NodeId, ShardId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "node";
const NEW_FILE_NAME: &str = "node.new";
pub(crate) const SHARDS_DIR: &str = "shards";
pub(crate) const MAGIC: &[u8; 8] = b"CLNODE\0\0";
const FORMAT_VERSION: u32 = 2;
const NODES_AT: usize = 48;
const CRC_AT: usize = BLOCK_SIZE - 4;

const _: () =
    assert!(NODES_AT + 8 * limits::NODES_MAX + (limits::SHARDS_MAX as usize).div_ceil(8) <= CRC_AT);

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
         directory of a node: restore the file. If it is lost, see 'a data directory is lost' in \
         docs/operations.md; an empty directory is for a node that has never run only, since one \
         that forgets its votes breaks the cluster"
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
         possible, see 'a data directory is lost' in docs/operations.md; do not start the node with \
         an empty directory, since one that forgets its votes breaks the cluster"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// What does not fit.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "{file} has format version {version}; this program knows versions up to {FORMAT_VERSION}: use a \
         newer one"
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

/// What a data directory was created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Number of shards of the cluster.
    pub shards: u32,
    /// Replicas of each.
    pub replicas: u32,
    /// Cores of this node.
    pub cores: u16,
    /// This node.
    pub node: NodeId,
    /// The cluster.
    pub cluster_id: u64,
    /// Drawn at random when the directory was created.
    pub store_id: u64,
    /// All nodes, ascending.
    pub nodes: Vec<NodeId>,
    /// The shards that the store holds.
    pub held: BTreeSet<ShardId>,
}

/// An opened data directory, locked against other processes until dropped.
pub struct DataDir {
    /// What it was created with.
    pub identity: Identity,
    _lock: DirLock,
}

/// The directory of a shard's files.
pub fn shard_dir(data_dir: &Path, shard: ShardId) -> PathBuf {
    data_dir.join(SHARDS_DIR).join(format!("{:05}", shard.0))
}

impl DataDir {
    /// What keeps the list of its shards from now on. It writes to the directory: it must be gone before
    /// this is.
    pub fn held_shards(&self, dir: &Path) -> HeldShards {
        HeldShards {
            dir: dir.to_owned(),
            identity: self.identity.clone(),
        }
    }

    /// Locks `dir`, creating it if needed, and checks that it belongs to this node of `placement`.
    /// Must run on a core.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub async fn open(
        dir: &Path,
        placement: &Placement,
        cores: u16,
    ) -> Result<Self, IdentityError> {
        corelith_io::create_dir_all(dir).await?;
        let lock = corelith_io::lock_dir(dir).await.map_err(|error| {
            if error.kind() == ErrorKind::Locked {
                IdentityError::InUse { dir: show(dir) }
            } else {
                error.into()
            }
        })?;
        let configured = |store_id| Identity {
            shards: placement.shards,
            replicas: placement.replicas,
            cores,
            node: placement.me,
            cluster_id: placement.cluster_id,
            store_id,
            nodes: placement.members().iter().map(|m| m.id).collect(),
            held: BTreeSet::new(),
        };
        let identity = match read(dir).await? {
            Some(stored) => {
                check_same(dir, &stored, &configured(stored.store_id))?;
                stored
            }
            None => {
                check_empty(dir).await?;
                let fresh = configured(corelith_io::random_u64().max(1));
                write(dir, &fresh).await?;
                fresh
            }
        };
        corelith_io::create_dir_all(&dir.join(SHARDS_DIR)).await?;
        Ok(Self {
            identity,
            _lock: lock,
        })
    }
}

/// Keeps the list of shards in the `node` file of a directory that is open. Belongs to the first core.
pub struct HeldShards {
    dir: PathBuf,
    identity: Identity,
}

/// Shards to be listed, and where to tell that they are.
pub(crate) struct Listing {
    pub(crate) shards: Vec<ShardId>,
    pub(crate) told: Sender<Result<(), IdentityError>>,
}

impl HeldShards {
    /// Lists what the cores of the node ask for, until all of them have ended.
    pub(crate) async fn keep(mut self, asked: Receiver<Listing>) {
        while let Ok(Listing { shards, told }) = asked.recv().await {
            let listed = self.add(&shards).await;
            // A core that has failed does not wait for it.
            let _ = told.try_send(listed);
        }
    }

    /// Lists shards that were created, durably.
    ///
    /// # Errors
    /// The file could not be written: none of them may be used.
    async fn add(&mut self, shards: &[ShardId]) -> Result<(), IdentityError> {
        let mut identity = self.identity.clone();
        identity.held.extend(shards);
        if identity != self.identity {
            write(&self.dir, &identity).await?;
            self.identity = identity;
        }
        Ok(())
    }
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
    let block = file.read_at(0, BLOCK_SIZE).await?;
    decode(&show(&path), &block).map(Some)
}

/// Writes under another name, then renames: the file is complete or not there.
async fn write(dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let new = dir.join(NEW_FILE_NAME);
    match corelith_io::remove_file(&new).await {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = OpenOptions::new().write().create_new().open(&new).await?;
    let mut block = Buf::alloc(BLOCK_SIZE);
    block.copy_from_slice(&encode(identity));
    file.write_at(0, block).await?;
    file.sync().await?;
    corelith_io::rename(&new, &dir.join(FILE_NAME)).await?;
    corelith_io::sync_dir(dir).await?;
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

fn check_same(dir: &Path, stored: &Identity, configured: &Identity) -> Result<(), IdentityError> {
    let list = |nodes: &[NodeId]| {
        let ids: Vec<String> = nodes.iter().map(|node| node.0.to_string()).collect();
        ids.join(", ")
    };
    let hex = |id: u64| format!("{id:016x}");
    let settings = [
        (
            "node id",
            stored.node.0.to_string(),
            configured.node.0.to_string(),
        ),
        (
            "cluster id (from cluster.name)",
            hex(stored.cluster_id),
            hex(configured.cluster_id),
        ),
        (
            "the number of shards",
            stored.shards.to_string(),
            configured.shards.to_string(),
        ),
        (
            "the number of replicas",
            stored.replicas.to_string(),
            configured.replicas.to_string(),
        ),
        (
            "the number of cores",
            stored.cores.to_string(),
            configured.cores.to_string(),
        ),
        ("the nodes", list(&stored.nodes), list(&configured.nodes)),
    ];
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

fn encode(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_SIZE);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&identity.shards.to_le_bytes());
    bytes.extend_from_slice(&identity.replicas.to_le_bytes());
    bytes.extend_from_slice(&identity.cores.to_le_bytes());
    assert!(
        identity.nodes.len() <= limits::NODES_MAX,
        "the configuration bounds the nodes"
    );
    bytes.extend_from_slice(&(identity.nodes.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&identity.node.0.to_le_bytes());
    bytes.extend_from_slice(&identity.cluster_id.to_le_bytes());
    bytes.extend_from_slice(&identity.store_id.to_le_bytes());
    for node in &identity.nodes {
        bytes.extend_from_slice(&node.0.to_le_bytes());
    }
    assert!(
        identity.shards <= limits::SHARDS_MAX,
        "the configuration bounds the shards"
    );
    let mut held = vec![0_u8; identity.shards.div_ceil(8) as usize];
    for shard in &identity.held {
        assert!(shard.0 < identity.shards, "{shard} is none of the cluster");
        if let Some(byte) = held.get_mut(shard.0 as usize / 8) {
            *byte |= 1 << (shard.0 % 8);
        }
    }
    bytes.append(&mut held);
    assert!(bytes.len() <= CRC_AT, "everything has its place");
    bytes.resize(CRC_AT, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads the block of a `node` file; `file` is named in errors.
///
/// # Errors
/// `Corrupt` or `Newer`.
pub fn decode(file: &str, block: &[u8]) -> Result<Identity, IdentityError> {
    let corrupt = |what| IdentityError::Corrupt {
        file: file.to_owned(),
        what,
    };
    let (Some(content), Some(crc)) = (block.get(..CRC_AT), block.get(CRC_AT..)) else {
        return Err(corrupt("it is shorter than one block"));
    };
    let mut fields = Fields(content);
    if fields.take::<8>() != *MAGIC {
        return Err(corrupt("it does not start with the magic of a node file"));
    }
    let version = u32::from_le_bytes(fields.take());
    if version > FORMAT_VERSION {
        return Err(IdentityError::Newer {
            file: file.to_owned(),
            version,
        });
    }
    if Fields(crc).take::<4>() != crc32c::crc32c(content).to_le_bytes() {
        return Err(corrupt("its checksum does not match"));
    }
    let shards = u32::from_le_bytes(fields.take());
    let replicas = u32::from_le_bytes(fields.take());
    let cores = u16::from_le_bytes(fields.take());
    let count = u16::from_le_bytes(fields.take());
    let node = NodeId(u64::from_le_bytes(fields.take()));
    let cluster_id = u64::from_le_bytes(fields.take());
    let store_id = u64::from_le_bytes(fields.take());
    if usize::from(count) > limits::NODES_MAX {
        return Err(corrupt("it lists too many nodes"));
    }
    let nodes = (0..count)
        .map(|_| NodeId(u64::from_le_bytes(fields.take())))
        .collect();
    if shards > limits::SHARDS_MAX {
        return Err(corrupt("it has too many shards"));
    }
    // Zeros in version 1.
    let bits: Vec<u8> = (0..shards.div_ceil(8))
        .map(|_| u8::from_le_bytes(fields.take()))
        .collect();
    let is_held = |shard: &u32| {
        let byte = bits.get(*shard as usize / 8);
        byte.is_some_and(|byte| byte >> (shard % 8) & 1 == 1)
    };
    let held = (0..shards).filter(is_held).map(ShardId).collect();
    Ok(Identity {
        shards,
        replicas,
        cores,
        node,
        cluster_id,
        store_id,
        nodes,
        held,
    })
}

/// Reads fields one after the other; zeros beyond the end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CRC_AT, Identity, IdentityError, check_same, decode, encode};
    use corelith_shards::{NodeId, ShardId};

    fn identity() -> Identity {
        Identity {
            shards: 8,
            replicas: 3,
            cores: 2,
            node: NodeId(2),
            cluster_id: 0xabcd,
            store_id: 77,
            nodes: vec![NodeId(1), NodeId(2), NodeId(5)],
            held: [0, 3, 7].map(ShardId).into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(decode("f", &encode(&identity())).unwrap(), identity());
    }

    #[test]
    fn each_damaged_byte_is_noticed() {
        let good = encode(&identity());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode("f", &bad).is_err(), "byte {at}");
        }
        assert!(matches!(
            decode("f", &good[..100]),
            Err(IdentityError::Corrupt { .. })
        ));
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut newer = encode(&identity());
        newer[8] = 3;
        let error = decode("/d/node", &newer).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/d/node has format version 3; this program knows versions up to 2: use a newer one"
        );
    }

    /// The bytes of a file of version 1, as they were written: it lists no shards.
    #[test]
    fn version_1_lists_no_shards() {
        let mut bytes = b"CLNODE\0\0".to_vec();
        for number in [1_u32, 8, 3] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&[2, 0, 3, 0]);
        for number in [2_u64, 0xabcd, 77, 1, 2, 5] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.resize(CRC_AT, 0);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let expected = Identity {
            held: [].into(),
            ..identity()
        };
        assert_eq!(decode("f", &bytes).unwrap(), expected);
    }

    #[test]
    fn each_difference_is_one_sentence() {
        let stored = identity();
        type Change = fn(&mut Identity);
        let table: [(Change, &str); 6] = [
            (
                |i| i.node = NodeId(3),
                "node id 2, but the configuration says 3",
            ),
            (
                |i| i.cluster_id = 1,
                "cluster id (from cluster.name) 000000000000abcd, but the configuration says 0000000000000001",
            ),
            (
                |i| i.shards = 16,
                "the number of shards 8, but the configuration says 16",
            ),
            (
                |i| i.replicas = 1,
                "the number of replicas 3, but the configuration says 1",
            ),
            (
                |i| i.cores = 4,
                "the number of cores 2, but the configuration says 4",
            ),
            (
                |i| i.nodes = vec![NodeId(2)],
                "the nodes 1, 2, 5, but the configuration says 2",
            ),
        ];
        for (change, expected) in table {
            let mut configured = stored.clone();
            change(&mut configured);
            let error = check_same("/d".as_ref(), &stored, &configured).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(check_same("/d".as_ref(), &stored, &stored).is_ok());
    }
}
