//! What a shard's directory holds when it is opened, and its creation.
//!
//! A shard is created under a marker file, which is durable before anything else is made. The manifest
//! ends the creation: it is stored when the log is durable. While there is a marker and no manifest,
//! the shard was never opened, so nothing in the directory matters and its creation starts over. The
//! marker is removed last; one beside a manifest means nothing, since its removal may have been lost.
//! Without the marker, a directory that holds any file of ours must hold a manifest and a log.

use crate::directory::Directory;
use crate::engine::put_back;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{FileSeries, Owner};
use crate::manifest::Manifest;
use crate::removal::remove_if_there;
use crate::vlog::Segments;
use corelith_io::{DirLock, ErrorKind, OpenOptions};
use std::path::Path;

/// What is wrong with a shard that was created before and is not there.
pub(crate) const IS_MISSING: &str = "the shard is missing";
/// What is wrong with a directory in which a shard is being created that was created before.
pub(crate) const IS_ANOTHER: &str =
    "the shard is missing, and another one was being created in its place";

/// A directory that is ready for its log and engine to be opened.
pub(crate) struct RecoveredDirectory {
    pub(crate) manifest: Manifest,
    /// The shard is being created: [`finish_creation`] is to be called.
    pub(crate) creating: bool,
    pub(crate) lock: DirLock,
}

/// Locks the directory, reads its manifest and removes files that the manifest does not name. A shard
/// that `is_known` was created before: what is missing of it is damage, and nothing is made.
pub(crate) async fn recover(
    dir: &Directory,
    owner: Owner,
    is_known: bool,
) -> Result<RecoveredDirectory> {
    if is_known {
        refuse_lost(dir).await?;
    }
    corelith_io::create_dir_all(dir).await?;
    let lock = corelith_io::lock_dir(dir).await?;
    let entries = corelith_io::list_dir(dir).await?;
    let names = entries.iter().filter(|entry| !entry.is_dir);
    let names: Vec<FileName> = names
        .filter_map(|entry| FileName::parse(&entry.name))
        .filter(|name| *name != FileName::Lock)
        .collect();
    let has = |name: FileName| names.contains(&name);

    let creating = has(FileName::Creating) && !has(FileName::Manifest);
    if creating || names.is_empty() {
        start_creation(dir, &names).await?;
        return Ok(RecoveredDirectory {
            manifest: Manifest {
                series: FileSeries::draw(),
                ..Manifest::default()
            },
            creating: true,
            lock,
        });
    }
    if !has(FileName::Manifest) {
        let path = FileName::Manifest.path(dir);
        return Err(Error::corrupt(&path, 0, "the manifest is missing"));
    }
    let manifest = Manifest::load(dir, owner).await?;
    let has_log = names
        .iter()
        .any(|name| matches!(name, FileName::Segment(_)));
    if !has_log {
        return Err(Error::corrupt(dir, 0, "the log is missing"));
    }
    renew_manifest(&manifest, dir, owner).await?;
    put_back(dir, &manifest).await?;
    let is_orphan = |name: &FileName| match name {
        FileName::Table(id) => !manifest.tables.iter().any(|table| table.meta.id == *id),
        FileName::ManifestTemporary | FileName::Creating => true,
        _ => false,
    };
    let orphans: Vec<FileName> = names.iter().copied().filter(is_orphan).collect();
    for orphan in &orphans {
        remove_if_there(&orphan.path(dir)).await?;
    }
    if !orphans.is_empty() {
        dir.sync().await?;
    }
    Ok(RecoveredDirectory {
        manifest,
        creating: false,
        lock,
    })
}

/// Refuses a shard that was created before if there is nothing of it, or a creation that was broken off.
async fn refuse_lost(dir: &Path) -> Result<()> {
    let entries = match corelith_io::list_dir(dir).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        entries => entries?,
    };
    let names = entries
        .iter()
        .filter_map(|entry| FileName::parse(&entry.name));
    let has = |wanted| names.clone().any(|name| name == wanted);
    if has(FileName::Creating) && !has(FileName::Manifest) {
        let path = FileName::Creating.path(dir);
        return Err(Error::corrupt(&path, 0, IS_ANOTHER));
    }
    match names.clone().any(|name| name != FileName::Lock) {
        true => Ok(()),
        false => Err(Error::corrupt(dir, 0, IS_MISSING)),
    }
}

/// Refuses a shard some of whose tables refer to a segment of the value log that is not there. The
/// manifest names sealed segments only, and an id that is free would be given to another file.
///
/// # Errors
/// `Corrupt`, which names the file.
pub(crate) fn refuse_missing_values(
    dir: &Path,
    manifest: &Manifest,
    segments: &Segments,
) -> Result<()> {
    let tables = manifest.tables.iter();
    let mut referred = tables.flat_map(|placed| placed.meta.referenced());
    match referred.find(|reference| !segments.contains_key(&reference.segment)) {
        Some(reference) => {
            let path = FileName::ValueSegment(reference.segment, 0).path(dir);
            Err(Error::corrupt(&path, 0, "the value segment is missing"))
        }
        None => Ok(()),
    }
}

/// Stores the manifest once more before files go that only an older one may name. A process that ended
/// because a sync of the directory failed has left a name that the kernel shows and the device may not
/// have, and no sync makes it durable any more.
async fn renew_manifest(manifest: &Manifest, dir: &Directory, owner: Owner) -> Result<()> {
    match manifest.store(dir, owner).await {
        // A full device must not keep a shard from starting.
        Err(error) if error.is_no_space() => {
            tracing::warn!(%error, "no room to store the manifest anew");
            Ok(())
        }
        stored => stored,
    }
}

/// Leaves the directory with the marker alone.
async fn start_creation(dir: &Directory, names: &[FileName]) -> Result<()> {
    if !names.contains(&FileName::Creating) {
        let path = FileName::Creating.path(dir);
        OpenOptions::new().write().create_new().open(&path).await?;
        dir.sync().await?;
    }
    for name in names {
        if *name != FileName::Creating {
            corelith_io::remove_file(&name.path(dir)).await?;
        }
    }
    Ok(())
}

/// Ends a creation whose log is durable: stores the first manifest and removes the marker.
pub(crate) async fn finish_creation(
    dir: &Directory,
    owner: Owner,
    manifest: &Manifest,
) -> Result<()> {
    manifest.store(dir, owner).await?;
    corelith_io::remove_file(&FileName::Creating.path(dir)).await?;
    dir.sync().await
}
