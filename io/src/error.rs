//! The error of this crate.

use std::path::Path;

/// What went wrong, as far as the caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such file, directory or route: the name is wrong or not created yet.
    NotFound,
    /// The file exists already and `create_new` was asked for.
    AlreadyExists,
    /// No space left on the device, or a quota or size limit was reached: free space, then retry.
    NoSpace,
    /// Permission denied.
    Permission,
    /// The directory is locked by another process.
    Locked,
    /// The address is in use by another socket: choose another port.
    AddressInUse,
    /// No socket listens there, or the connection was closed or reset: connect again.
    Disconnected,
    /// No file descriptors, socket buffers or kernel memory are left: wait until some come back.
    Exhausted,
    /// Any other failure of the device or the kernel (EIO and the like): not to be retried blindly.
    Device,
    /// The request itself was wrong (alignment, a path that is no file): a bug or bad configuration.
    Invalid,
}

/// A failed operation: what was tried, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}: {source}")]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    subject: String,
    source: std::io::Error,
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether a read failed: nothing was changed, and another one may succeed.
    pub fn is_read(&self) -> bool {
        self.operation == "read"
    }

    /// Makes an error from the failure of `operation` on `subject`; the kind follows from `source`.
    pub fn new(
        operation: &'static str,
        subject: impl Into<String>,
        source: std::io::Error,
    ) -> Self {
        Self {
            kind: kind_of(&source),
            operation,
            subject: subject.into(),
            source,
        }
    }

    /// As [`Error::new`], with a path as the subject.
    pub fn at_path(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::new(operation, path.display().to_string(), source)
    }

    /// As [`Error::new`], with the kind given.
    pub fn with_kind(
        kind: ErrorKind,
        operation: &'static str,
        subject: impl Into<String>,
        source: std::io::Error,
    ) -> Self {
        Self {
            kind,
            operation,
            subject: subject.into(),
            source,
        }
    }

    /// What went wrong, as far as the caller can act on it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

fn kind_of(source: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Std;
    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    if source
        .raw_os_error()
        .is_some_and(|code| exhausted.contains(&code))
    {
        return ErrorKind::Exhausted;
    }
    match source.kind() {
        Std::NotFound => ErrorKind::NotFound,
        Std::AlreadyExists => ErrorKind::AlreadyExists,
        Std::StorageFull | Std::QuotaExceeded | Std::FileTooLarge => ErrorKind::NoSpace,
        Std::PermissionDenied => ErrorKind::Permission,
        Std::AddrInUse => ErrorKind::AddressInUse,
        Std::ConnectionRefused
        | Std::ConnectionReset
        | Std::ConnectionAborted
        | Std::NotConnected
        | Std::BrokenPipe
        | Std::TimedOut
        | Std::HostUnreachable
        | Std::NetworkUnreachable
        | Std::UnexpectedEof => ErrorKind::Disconnected,
        Std::InvalidInput => ErrorKind::Invalid,
        _ => ErrorKind::Device,
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, ErrorKind};
    use std::io;

    #[test]
    fn kinds_follow_from_codes() {
        let table = [
            (libc::EMFILE, ErrorKind::Exhausted),
            (libc::ENFILE, ErrorKind::Exhausted),
            (libc::ENOBUFS, ErrorKind::Exhausted),
            (libc::ENOMEM, ErrorKind::Exhausted),
            (libc::ECONNABORTED, ErrorKind::Disconnected),
            (libc::ECONNRESET, ErrorKind::Disconnected),
            (libc::ENOTCONN, ErrorKind::Disconnected),
            (libc::ENOSPC, ErrorKind::NoSpace),
            (libc::EIO, ErrorKind::Device),
        ];
        for (code, expected) in table {
            let error = Error::new("accept at", "here", io::Error::from_raw_os_error(code));
            assert_eq!(error.kind(), expected, "{error}");
        }
    }
}
