//! Files and directories of a simulated node's disk.

use super::Core;
use crate::buf::Buf;
use crate::error::Result;
use crate::file::OpenOptions;
use crate::fs::Entry;
use std::path::Path;

pub(crate) struct File {}

impl File {
    pub(crate) async fn open(_core: Core, _options: OpenOptions, _path: &Path) -> Result<Self> {
        todo!()
    }

    pub(crate) async fn read_at(&self, _offset: u64, _len: usize) -> Result<Buf> {
        todo!()
    }

    pub(crate) async fn write_at(&self, _offset: u64, _buf: Buf) -> Result<()> {
        todo!()
    }

    pub(crate) async fn sync(&self) -> Result<()> {
        todo!()
    }

    pub(crate) async fn len(&self) -> Result<u64> {
        todo!()
    }

    pub(crate) async fn set_len(&self, _len: u64) -> Result<()> {
        todo!()
    }
}

pub(crate) struct DirLock {}

pub(crate) async fn lock_dir(_core: Core, _path: &Path) -> Result<DirLock> {
    todo!()
}

pub(crate) async fn create_dir_all(_core: Core, _path: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn list_dir(_core: Core, _path: &Path) -> Result<Vec<Entry>> {
    todo!()
}

pub(crate) async fn sync_dir(_core: Core, _path: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn rename(_core: Core, _from: &Path, _to: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn remove_file(_core: Core, _path: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn remove_dir_all(_core: Core, _path: &Path) -> Result<()> {
    todo!()
}

pub(crate) async fn free_bytes(_core: Core, _path: &Path) -> Result<u64> {
    todo!()
}
