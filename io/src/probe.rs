//! Checks at start-up, each with an error that says what to do.

use crate::buf::BLOCK_SIZE;
use crate::uring::file::unnamed_block;
use crate::uring::sys;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// glommio starts no executor below this.
const LOCKED_MEMORY_MIN: u64 = 512 << 10;

/// Raises this process's limit of open files as far as it may be raised, and returns it.
///
/// # Errors
/// What the system says; the former limit stays.
pub fn raise_open_files_limit() -> io::Result<u64> {
    sys::raise_open_files_limit()
}

/// Gives memory that was freed back to the system, on a thread that may block. Does nothing in the simulator.
pub async fn trim_memory() {
    #[cfg(feature = "sim")]
    if crate::world::is_simulated() {
        return;
    }
    crate::core::blocking(sys::trim_memory).await;
}

/// Why a node cannot run here, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The system call is forbidden.
    #[error(
        "io_uring is blocked on this machine: allow io_uring_setup, io_uring_enter and \
         io_uring_register in the seccomp profile of the container or service, and set the sysctl \
         kernel.io_uring_disabled to 0"
    )]
    IoUringBlocked,
    /// The kernel does not have it.
    #[error(
        "this kernel has no io_uring: run Linux 5.11 or newer (5.15 or newer is better), built with \
         CONFIG_IO_URING"
    )]
    IoUringMissing,
    /// Another failure of io_uring.
    #[error("io_uring does not start: {0}; see the limits of open files and locked memory")]
    IoUringFailed(#[source] io::Error),
    /// The limit of locked memory is too low.
    #[error(
        "the limit of locked memory is {limit_bytes} bytes and {cores} cores need {needed_bytes}: \
         raise it with `ulimit -l {needed_kib}` in the shell that starts the node, or with \
         LimitMEMLOCK={needed_bytes} in its systemd unit"
    )]
    LockedMemory {
        /// The present limit.
        limit_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
        /// What is needed in the unit of `ulimit -l`.
        needed_kib: u64,
        /// Executors that shall run.
        cores: usize,
    },
    /// The data directory cannot be created or written to.
    #[error("cannot write to the data directory {}: {source}; give the user that runs the node the \
             right to write there, or choose another directory", dir.display())]
    Directory {
        /// The data directory.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The data directory is on a file system in memory.
    #[error("the data directory {} is on a file system in memory (tmpfs), which loses everything \
             when the machine stops: choose a directory on a disk", dir.display())]
    InMemory {
        /// The data directory.
        dir: PathBuf,
    },
    /// The file system refuses direct I/O.
    #[error("the file system of the data directory {} does not take direct I/O in blocks of 4096 \
             bytes ({source}): choose a directory on XFS or ext4", dir.display())]
    DirectIo {
        /// The data directory.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Checks that `cores` executors with `locked_memory_bytes` each can run here and that `dir`
/// (created if missing) is on a file system that takes direct I/O. Run it on an ordinary thread
/// before the first core starts.
///
/// # Errors
/// The first thing that is missing.
pub fn probe(dir: &Path, cores: usize, locked_memory_bytes: usize) -> Result<(), ProbeError> {
    locked_memory(cores, locked_memory_bytes)?;
    io_uring()?;
    directory(dir)
}

/// Checks that io_uring may be used.
pub(crate) fn io_uring() -> Result<(), ProbeError> {
    sys::try_io_uring().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ProbeError::IoUringBlocked,
        Some(libc::ENOSYS) => ProbeError::IoUringMissing,
        _ => ProbeError::IoUringFailed(error),
    })
}

fn locked_memory(cores: usize, bytes_per_core: usize) -> Result<(), ProbeError> {
    let limit = sys::locked_memory_limit().map_err(ProbeError::IoUringFailed)?;
    match limit {
        Some(limit) => locked_memory_fits(limit, cores, bytes_per_core),
        None => Ok(()),
    }
}

fn locked_memory_fits(
    limit_bytes: u64,
    cores: usize,
    bytes_per_core: usize,
) -> Result<(), ProbeError> {
    let needed = u64::try_from(bytes_per_core.saturating_mul(cores)).unwrap_or(u64::MAX);
    let needed_bytes = needed.max(LOCKED_MEMORY_MIN);
    if limit_bytes >= needed_bytes {
        return Ok(());
    }
    Err(ProbeError::LockedMemory {
        limit_bytes,
        needed_bytes,
        needed_kib: needed_bytes.div_ceil(1024),
        cores,
    })
}

fn directory(dir: &Path) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Directory {
        dir: dir.to_owned(),
        source,
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    if sys::is_in_memory(dir).map_err(failed)? {
        return Err(ProbeError::InMemory {
            dir: dir.to_owned(),
        });
    }
    let file = match unnamed_block(dir) {
        Ok(file) => file,
        // Files without a name are not known there; direct I/O is the better complaint.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return Err(ProbeError::DirectIo {
                dir: dir.to_owned(),
                source: error,
            });
        }
        // A full device keeps no node from starting: deletes are what makes room.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    direct_io(&file).map_err(|source| ProbeError::DirectIo {
        dir: dir.to_owned(),
        source,
    })
}

/// Reads the file's only block directly into aligned memory.
fn direct_io(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let direct = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let mut memory = vec![0; 2 * BLOCK_SIZE];
    let start = memory.as_ptr().align_offset(BLOCK_SIZE);
    let block = memory
        .get_mut(start..start + BLOCK_SIZE)
        .ok_or(ErrorKind::OutOfMemory)?;
    direct.read_exact_at(block, 0)
}
