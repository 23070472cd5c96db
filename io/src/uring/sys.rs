//! System calls that neither std nor glommio offers.

#![expect(unsafe_code, reason = "raw system calls")]

use crate::fs::Space;
use crate::limits::{
    KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES, UNACKNOWLEDGED_MILLIS_MAX,
};
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Nanoseconds of the monotonic clock that counts the time of a suspended machine. Read in the vDSO: 20 ns, as
/// `CLOCK_MONOTONIC`.
pub(crate) fn boottime_nanos() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec; CLOCK_BOOTTIME exists on every Linux with io_uring, so this succeeds.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}

/// What `fstat` says of an open file, as far as it is of use here.
pub(crate) struct Stat {
    pub(crate) device: u64,
    pub(crate) len: u64,
}

/// Looks at an open file. The inode is in memory, so this does not block.
pub(crate) fn stat(file: &impl AsRawFd) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the descriptor is open while `file` is borrowed, and `stat` has room for the answer.
    check(unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded and filled it; all zeros is a valid `stat` too.
    let stat = unsafe { stat.assume_init() };
    Ok(Stat {
        device: stat.st_dev,
        len: u64::try_from(stat.st_size).unwrap_or(0),
    })
}

/// Bytes that an unprivileged user may still write to the file system that holds `path`.
pub(crate) fn space(path: &Path) -> io::Result<Space> {
    let device = std::fs::metadata(path)?.dev();
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` is a C string and `stat` has room for the answer.
    check(unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: statvfs succeeded and filled it; all zeros is valid too.
    let stat = unsafe { stat.assume_init() };
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        device,
    })
}

/// Whether `path` is on a file system that lives in memory.
pub(crate) fn is_in_memory(path: &Path) -> io::Result<bool> {
    /// The constant of `linux/magic.h` that the libc crate lacks.
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` is a C string and `stat` has room for the answer.
    check(unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: statfs succeeded and filled it; all zeros is valid too.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_type == libc::TMPFS_MAGIC || stat.f_type == RAMFS_MAGIC)
}

/// Closes the descriptor when the process runs another program.
pub(crate) fn set_close_on_exec(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open while `file` is borrowed.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })
}

/// Another descriptor of the same open file.
pub(crate) fn duplicate(file: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open while `file` is borrowed.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the kernel end a connection whose other side has vanished, idle or not.
pub(crate) fn keep_alive(file: &impl AsRawFd) -> io::Result<()> {
    let fd = file.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    let tcp = libc::IPPROTO_TCP;
    set_option(fd, tcp, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)?;
    set_option(fd, tcp, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)?;
    set_option(fd, tcp, libc::TCP_KEEPCNT, KEEPALIVE_PROBES)?;
    set_option(fd, tcp, libc::TCP_USER_TIMEOUT, UNACKNOWLEDGED_MILLIS_MAX)
}

fn set_option(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let value_ptr = (&raw const value).cast();
    // The size of an int is 4.
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the caller's socket is open, and the kernel reads `len` bytes of `value`.
    check(unsafe { libc::setsockopt(fd, level, name, value_ptr, len) })
}

/// Raises the limit of open files as far as it may be raised, and returns it.
pub(crate) fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` has room for the answer.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a valid rlimit whose soft limit is not above the hard one.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

/// Gives memory that the allocator keeps back to the system. Takes milliseconds.
#[cfg(target_env = "gnu")]
pub(crate) fn trim_memory() {
    // SAFETY: it may be called at any time from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// As above: other allocators decide by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim_memory() {}

/// Ends a connection in both directions and wakes the tasks that wait for it.
pub(crate) fn shutdown(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open while `file` is borrowed.
    check(unsafe { libc::shutdown(file.as_raw_fd(), libc::SHUT_RDWR) })
}

/// The soft limit of locked memory in bytes, `None` if unlimited.
pub(crate) fn locked_memory_limit() -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` has room for the answer.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur))
}

/// Makes a write over the limit of file sizes, or to a closed connection, an error instead of the end
/// of the process.
pub(crate) fn ignore_signals_of_failed_writes() {
    for signal in [libc::SIGXFSZ, libc::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code of ours in a handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Sets up and closes a small ring, to learn whether io_uring may be used here.
pub(crate) fn try_io_uring() -> io::Result<()> {
    /// `sizeof(struct io_uring_params)`.
    const PARAMS_LEN: usize = 120;
    let mut params = [0u64; PARAMS_LEN / 8];
    // SAFETY: `params` is zeroed, aligned and as long as the kernel's structure.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr()) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
        Ok(fd) if fd >= 0 => drop(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => return Err(io::Error::last_os_error()),
    }
    Ok(())
}

/// Has this thread run on one processor only.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: a set of zeros is empty, the processor is one that it has room for, and it lives through the call.
    check(unsafe {
        libc::CPU_SET(cpu, &mut *set.as_mut_ptr());
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set.as_ptr())
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn the_kernel_ends_connections_whose_other_side_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        keep_alive(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let seconds = |seconds: i32| Duration::from_secs(seconds.try_into().unwrap());
        let idle = seconds(KEEPALIVE_IDLE_SECONDS);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
        let interval = seconds(KEEPALIVE_INTERVAL_SECONDS);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), interval);
        let probes = u32::try_from(KEEPALIVE_PROBES).unwrap();
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), probes);
        let unacknowledged = Duration::from_millis(UNACKNOWLEDGED_MILLIS_MAX.try_into().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(unacknowledged));
        // Of a silent side is known within two minutes, with data on its way within one.
        assert!(idle + interval * probes <= Duration::from_secs(120));
        assert!(unacknowledged <= Duration::from_secs(60));
    }
}
