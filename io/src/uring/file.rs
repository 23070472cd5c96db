//! Direct-I/O files on io_uring.

use super::core::CoreExecutor;
use super::memory::{DmaBlock, DmaRead};
use super::once::once;
use super::ring::Driver;
use super::sys;
use super::task::blocking;
use super::{Core, io_error};
use crate::buf::{BLOCK_SIZE, Buf};
use crate::error::{Error, Result};
use crate::file::OpenOptions;
use crate::transfer::{self, Pieces};
use glommio::io::DmaFile;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

const BLOCK: u64 = BLOCK_SIZE as u64;

pub(crate) struct File {
    file: RawFile,
    path: PathBuf,
}

/// A file as its core's executor has it.
enum RawFile {
    Glommio(DmaFile),
    Ring(Rc<Driver>, Rc<OwnedFd>),
}

impl AsRawFd for RawFile {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Glommio(file) => file.as_raw_fd(),
            Self::Ring(_, file) => file.as_raw_fd(),
        }
    }
}

impl File {
    pub(crate) async fn open(core: Core, options: OpenOptions, path: &Path) -> Result<Self> {
        let failed = |error| Error::at_path("open", path, error);
        let owned = path.to_owned();
        if let CoreExecutor::Ring(ring) = core.executor() {
            let file = blocking(move || open_direct(options, &open_named(options, &owned)?)).await;
            let file = RawFile::Ring(Rc::clone(ring.driver()), Rc::new(file.map_err(failed)?));
            return Ok(Self {
                file,
                path: path.to_owned(),
            });
        }
        // std opens or creates the file on the blocking pool, and glommio opens it once more by its
        // descriptor: glommio alone would panic if the name vanished while it opens it.
        let named = blocking(move || open_named(options, &owned))
            .await
            .map_err(failed)?;
        probe_device(&core, &named, path).await.map_err(failed)?;
        let file = reopen(options, &named).await.map_err(failed)?;
        Ok(Self {
            file: RawFile::Glommio(file),
            path: path.to_owned(),
        })
    }

    pub(crate) async fn read_at(&self, offset: u64, len: usize) -> Result<Buf> {
        if len == 0 {
            return Ok(Buf::alloc(0));
        }
        let (start, skip) = transfer::align(offset);
        let aligned_len = skip.saturating_add(len).next_multiple_of(BLOCK_SIZE);
        let result = self.read_blocks(start, aligned_len).await?;
        let present = result.len();
        if present < skip + len && self.goes_on(start.saturating_add(present as u64))? {
            return transfer::read_rest(self, start, skip, len, &result).await;
        }
        let wanted = present.saturating_sub(skip).min(len);
        match result.slice(skip.min(present), wanted) {
            Some(slice) if wanted > 0 => Ok(Buf::from_read(slice)),
            _ => Ok(Buf::alloc(0)),
        }
    }

    async fn read_blocks(&self, start: u64, len: usize) -> Result<DmaRead> {
        loop {
            let read = match &self.file {
                RawFile::Glommio(file) => {
                    let read = once(file.read_at_aligned(start, len)).await;
                    read.map(DmaRead::Glommio).map_err(io_error)
                }
                RawFile::Ring(driver, file) => {
                    let read = driver.read(file, start, DmaBlock::take(len)).await;
                    read.map(|(block, len)| DmaRead::of(block, len))
                }
            };
            match read {
                Ok(result) => return Ok(result),
                Err(error) => self.retry("read", error)?,
            }
        }
    }

    pub(crate) async fn write_at(&self, offset: u64, buf: Buf) -> Result<()> {
        if !offset.is_multiple_of(BLOCK) || !buf.len().is_multiple_of(BLOCK_SIZE) {
            return Err(self.failed("write", io::ErrorKind::InvalidInput.into()));
        }
        if buf.is_empty() {
            return Ok(());
        }
        let block = buf.into_block();
        let len = block.bytes().len();
        let written = self.write_block(offset, &block).await?;
        if written < len {
            return transfer::write_rest(self, offset, block.bytes(), written).await;
        }
        Ok(())
    }

    async fn write_block(&self, offset: u64, block: &DmaBlock) -> Result<usize> {
        loop {
            let written = match &self.file {
                RawFile::Glommio(file) => {
                    let written = once(file.write_rc_at(block.share(), offset)).await;
                    written.map_err(io_error)
                }
                RawFile::Ring(driver, file) => driver.write(file, offset, block).await,
            };
            match written {
                Ok(written) => return Ok(written),
                Err(error) => self.retry("write", error)?,
            }
        }
    }

    pub(crate) async fn sync(&self) -> Result<()> {
        let synced = match &self.file {
            RawFile::Glommio(file) => once(file.fdatasync()).await.map_err(io_error),
            RawFile::Ring(driver, file) => driver.sync(file).await,
        };
        synced.map_err(|error| self.failed("sync", error))
    }

    #[expect(clippy::unused_async, reason = "the same shape in both worlds")]
    pub(crate) async fn len(&self) -> Result<u64> {
        Ok(self.stat()?.len)
    }

    pub(crate) async fn set_len(&self, len: u64) -> Result<()> {
        let failed = |error| self.failed("set the length of", error);
        match &self.file {
            RawFile::Glommio(file) => {
                let truncated = once(file.truncate(len)).await;
                truncated.map_err(|error| failed(io_error(error)))
            }
            RawFile::Ring(_, file) => {
                let file = std::fs::File::from(file.try_clone().map_err(failed)?);
                blocking(move || file.set_len(len)).await.map_err(failed)
            }
        }
    }

    pub(crate) async fn allocate(&self, len: u64) -> Result<()> {
        // The kernel refuses to reserve nothing.
        if len == 0 {
            return Ok(());
        }
        loop {
            let allocated = match &self.file {
                RawFile::Glommio(file) => {
                    let allocated = once(file.pre_allocate(len, false)).await;
                    allocated.map_err(io_error)
                }
                RawFile::Ring(driver, file) => driver.allocate(file, len).await,
            };
            match allocated {
                Ok(()) => return Ok(()),
                Err(error) => self.retry("allocate", error)?,
            }
        }
    }

    fn stat(&self) -> Result<sys::Stat> {
        sys::stat(&self.file).map_err(|error| self.failed("look at", error))
    }

    /// Passes on any failure but an interruption.
    fn retry(&self, operation: &'static str, error: io::Error) -> Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(self.failed(operation, error)),
        }
    }
}

impl Pieces for File {
    type Bytes = DmaRead;

    async fn read_piece(&self, start: u64, len: usize) -> Result<DmaRead> {
        self.read_blocks(start, len).await
    }

    async fn write_piece(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        self.write_block(offset, &DmaBlock::copy_of(bytes)).await
    }

    fn goes_on(&self, offset: u64) -> Result<bool> {
        Ok(offset < self.stat()?.len)
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        Error::at_path(operation, &self.path, error)
    }
}

fn open_named(options: OpenOptions, path: &Path) -> io::Result<std::fs::File> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(options.write || options.create_new)
        .create_new(options.create_new)
        .open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is not a regular file",
    ))
}

/// Opens an open file once more, for glommio.
///
/// Reads do not update the time of access (`O_NOATIME`): nothing uses it, and each update writes metadata.
/// Only the owner of a file may open it so; others open it without the flag.
async fn reopen(options: OpenOptions, file: &std::fs::File) -> io::Result<DmaFile> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let dsync = if options.dsync { libc::O_DSYNC } else { 0 };
    let open = async |flags| {
        let mut open = glommio::io::OpenOptions::new();
        open.read(true).write(options.write || options.create_new);
        open.custom_flags(flags);
        open.dma_open(&path).await.map_err(io_error)
    };
    let opened = match open(dsync | libc::O_NOATIME).await {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(dsync).await,
        opened => opened,
    };
    opened.map_err(explained)
}

fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::new(
            io::ErrorKind::InvalidInput,
            "the file system does not take direct I/O",
        ),
        _ => error,
    }
}

/// As [`reopen`], without glommio.
fn open_direct(options: OpenOptions, file: &std::fs::File) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let dsync = if options.dsync { libc::O_DSYNC } else { 0 };
    let open = |flags| {
        std::fs::OpenOptions::new()
            .read(true)
            .write(options.write || options.create_new)
            .custom_flags(libc::O_DIRECT | dsync | flags)
            .open(&path)
    };
    let opened = match open(libc::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(0),
        opened => opened,
    };
    opened.map(OwnedFd::from).map_err(explained)
}

/// Lets the executor probe the device of `file` with a file that has a block.
///
/// glommio reads the first file that it opens on a device to learn whether polled I/O works there.
/// In an empty file that read succeeds at the end of the file without having asked the device, and
/// every later read of the device fails.
///
/// On a read-only file system no such file can be made. The executor then probes the device with `file`
/// itself, unless that is shorter than a block.
async fn probe_device(core: &Core, file: &std::fs::File, path: &Path) -> io::Result<()> {
    let sys::Stat { device, len } = sys::stat(file)?;
    if core.probed_devices().borrow().contains(&device) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
    match blocking(move || unnamed_block(&dir)).await {
        Ok(sample) => drop(reopen(OpenOptions::new(), &sample).await?),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            if len < BLOCK_SIZE as u64 {
                return Ok(());
            }
        }
        Err(error) => return Err(error),
    }
    core.probed_devices().borrow_mut().insert(device);
    Ok(())
}

/// Makes a file of one block that has no name and vanishes when it is closed.
pub(crate) fn unnamed_block(dir: &Path) -> io::Result<std::fs::File> {
    let dir = match dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => dir,
    };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(dir)?;
    file.write_all_at(&[0; BLOCK_SIZE], 0)?;
    file.sync_data()?;
    Ok(file)
}
