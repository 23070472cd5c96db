//! Direct-I/O files on io_uring.

use crate::buf::Buf;
use crate::error::Result;
use crate::file::OpenOptions;
use std::path::Path;

pub(crate) struct File {}

impl File {
    pub(crate) async fn open(_options: OpenOptions, _path: &Path) -> Result<Self> {
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
