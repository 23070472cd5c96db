//! Data directories without a node: finding the shards in them, and looking at each. Nothing is
//! changed. Must run on a core.

use crate::node::data_dir::identity::{self, HeldState, Identity, IdentityError};
use bytes::Bytes;
use corelith_io::{DirLock, ErrorKind};
use corelith_shards::check::{Problem, Summary, check_shard};
use corelith_shards::filename::FileName;
use corelith_shards::gc_plan::{ShardPlan, plan_shard};
use corelith_shards::ids::Owner;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A node runs on it.
    #[error("{dir} is in use by another process: stop the node first")]
    InUse {
        /// The directory.
        dir: String,
    },
    /// It is something else.
    #[error(
        "{dir} holds no data: give the data directory of a node or of `corelith dev`, or the directory \
         of a shard"
    )]
    NoData {
        /// The directory.
        dir: String,
    },
    /// What is needed of it cannot be read.
    #[error(transparent)]
    Shard(#[from] corelith_shards::Error),
    /// The device or file system failed.
    #[error(transparent)]
    Io(#[from] corelith_io::Error),
}

/// A shard under a directory.
pub struct ShardAt {
    /// Its directory, which may be missing.
    pub dir: PathBuf,
    /// Whose it must be, if the store's identity says that it holds it.
    pub known: Option<Owner>,
}

/// The data under a directory.
pub struct Data {
    /// Its shards, in order.
    pub shards: Vec<ShardAt>,
    /// What is wrong beside the shards.
    pub problems: Vec<Problem>,
    /// No node starts while this is held.
    _locks: Vec<DirLock>,
}

/// Finds the shards under `dir`; with `lock` no node can start on it, or it is refused.
///
/// # Errors
/// See [`OfflineError`].
pub async fn open(dir: &Path, lock: bool) -> Result<Data, OfflineError> {
    let mut data = Data {
        shards: Vec::new(),
        problems: Vec::new(),
        _locks: Vec::new(),
    };
    if add_node(dir, lock, &mut data).await? {
        return Ok(data);
    }
    let entries = corelith_io::list_dir(dir).await?;
    let is_shard = entries.iter().any(|entry| {
        let name = FileName::parse(&entry.name);
        !entry.is_dir && name.is_some_and(|name| name != FileName::Lock)
    });
    if is_shard {
        data.shards.push(ShardAt {
            dir: dir.to_owned(),
            known: None,
        });
        return Ok(data);
    }
    // A directory of `corelith dev`.
    for entry in entries.iter().filter(|entry| entry.is_dir) {
        add_node(&dir.join(&entry.name), lock, &mut data).await?;
    }
    match data.shards.is_empty() {
        true => Err(OfflineError::NoData {
            dir: dir.display().to_string(),
        }),
        false => Ok(data),
    }
}

/// Adds the shards of the node whose data directory `dir` is; `false` if it is none.
async fn add_node(dir: &Path, lock: bool, data: &mut Data) -> Result<bool, OfflineError> {
    let entries = corelith_io::list_dir(dir).await?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    if !has(identity::SHARDS_DIR) && !has(identity::FILE_NAME) {
        return Ok(false);
    }
    if lock {
        let locked = corelith_io::lock_dir_as_it_is(dir).await;
        data._locks
            .extend(locked.map_err(|error| in_use(dir, error))?);
    }
    let known = match read_identity(dir).await? {
        Ok(identity) => shards_of(dir, &identity),
        Err(problem) => {
            data.problems.push(problem);
            BTreeMap::new()
        }
    };
    let shards = dir.join(identity::SHARDS_DIR);
    // The identity says which shards there must be, also if their directory is gone.
    let found = match has(identity::SHARDS_DIR) {
        true => corelith_io::list_dir(&shards).await?,
        false => Vec::new(),
    };
    let found = found.into_iter().filter(|entry| entry.is_dir);
    let mut all: BTreeMap<PathBuf, Option<Owner>> =
        found.map(|entry| (shards.join(entry.name), None)).collect();
    all.extend(known.into_iter().map(|(dir, owner)| (dir, Some(owner))));
    data.shards
        .extend(all.into_iter().map(|(dir, known)| ShardAt { dir, known }));
    Ok(true)
}

fn in_use(dir: &Path, error: corelith_io::Error) -> OfflineError {
    match error.kind() {
        ErrorKind::Locked => OfflineError::InUse {
            dir: dir.display().to_string(),
        },
        _ => error.into(),
    }
}

/// The directories of the shards that a store holds, and whose they must be.
fn shards_of(dir: &Path, identity: &Identity) -> BTreeMap<PathBuf, Owner> {
    let held = identity.held.iter();
    let held = held.filter(|(_, held)| held.state == HeldState::Made);
    let held = held.map(|(shard, _)| {
        let owner = Owner {
            store_id: identity.short_store(),
            shard: *shard,
        };
        (identity::shard_dir(dir, *shard), owner)
    });
    held.collect()
}

/// The identity of a data directory, or what is wrong with it.
async fn read_identity(dir: &Path) -> Result<Result<Identity, Problem>, OfflineError> {
    let what = match identity::read(dir).await {
        Ok(Some(identity)) => return Ok(Ok(identity)),
        Ok(None) => "the file is missing".to_owned(),
        Err(IdentityError::Io(error)) => return Err(error.into()),
        Err(IdentityError::Corrupt { what, .. }) => what.to_owned(),
        Err(error) => error.to_string(),
    };
    Ok(Err(Problem {
        file: dir.join(identity::FILE_NAME).display().to_string(),
        offset: 0,
        what,
        first_key: Bytes::new(),
        last_key: Bytes::new(),
    }))
}

/// Checks a shard.
///
/// # Errors
/// See [`OfflineError`].
pub async fn check(
    shard: &ShardAt,
    on_problem: impl FnMut(Problem),
) -> Result<Summary, OfflineError> {
    check_shard(&shard.dir, shard.known, on_problem)
        .await
        .map_err(|error| match error {
            corelith_shards::Error::Io(io) if io.kind() == ErrorKind::Locked => {
                OfflineError::InUse {
                    dir: shard.dir.display().to_string(),
                }
            }
            error => error.into(),
        })
}

/// What collection would do with a shard; `None` if the shard was never opened.
///
/// # Errors
/// See [`OfflineError`].
pub async fn plan(shard: &Path) -> Result<Option<ShardPlan>, OfflineError> {
    match plan_shard(shard).await {
        Ok(plan) => Ok(Some(plan)),
        Err(corelith_shards::Error::Io(io)) if io.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
