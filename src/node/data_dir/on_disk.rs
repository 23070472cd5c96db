//! Data directories without a node: finding the shards in them, and looking at each. Nothing is
//! changed. Must run on a core.

use crate::node::data_dir::identity::{self, IdentityError};
use bytes::Bytes;
use corelith_io::{BLOCK_SIZE, DirLock, ErrorKind, File};
use corelith_shards::check::{Problem, Summary, check_shard};
use corelith_shards::filename::FileName;
use corelith_shards::gc_plan::{ShardPlan, plan_shard};
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

/// The data under a directory.
pub struct Data {
    /// The directories of its shards, in order.
    pub shards: Vec<PathBuf>,
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
        data.shards.push(dir.to_owned());
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
    if !has(identity::SHARDS_DIR) {
        return Ok(false);
    }
    if lock && has(&FileName::Lock.to_string()) {
        let locked = corelith_io::lock_dir(dir).await;
        data._locks
            .push(locked.map_err(|error| in_use(dir, error))?);
    }
    data.problems.extend(check_identity(dir).await?);
    let shards = dir.join(identity::SHARDS_DIR);
    let found = corelith_io::list_dir(&shards).await?;
    let found = found.into_iter().filter(|entry| entry.is_dir);
    data.shards
        .extend(found.map(|entry| shards.join(entry.name)));
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

async fn check_identity(dir: &Path) -> Result<Option<Problem>, OfflineError> {
    let path = dir.join(identity::FILE_NAME);
    let what = match File::open(&path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => "the file is missing".to_owned(),
        Err(error) => return Err(error.into()),
        Ok(file) => {
            let block = file.read_at(0, BLOCK_SIZE).await?;
            match identity::decode(&path.display().to_string(), &block) {
                Ok(_) => return Ok(None),
                Err(IdentityError::Corrupt { what, .. }) => what.to_owned(),
                Err(error) => error.to_string(),
            }
        }
    };
    Ok(Some(Problem {
        file: path.display().to_string(),
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
pub async fn check(shard: &Path, on_problem: impl FnMut(Problem)) -> Result<Summary, OfflineError> {
    check_shard(shard, on_problem)
        .await
        .map_err(|error| match error {
            corelith_shards::Error::Io(io) if io.kind() == ErrorKind::Locked => {
                OfflineError::InUse {
                    dir: shard.display().to_string(),
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
