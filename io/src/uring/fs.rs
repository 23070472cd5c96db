//! Names: directories, renames, removals, on the blocking pool.

use crate::error::Result;
use crate::fs::Entry;
use std::path::Path;

pub(crate) struct DirLock {}

pub(crate) async fn lock_dir(_path: &Path) -> Result<DirLock> {
    todo!()
}

pub(crate) async fn create_dir_all(_path: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn list_dir(_path: &Path) -> Result<Vec<Entry>> {
    todo!()
}

pub(crate) async fn sync_dir(_path: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn rename(_from: &Path, _to: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn remove_file(_path: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn remove_dir_all(_path: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn free_bytes(_path: &Path) -> Result<u64> {
    todo!()
}
