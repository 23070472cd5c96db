//! Checks at start-up, each with an error that says what to do.

use std::path::Path;

/// Why a node cannot run here, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("TODO")]
    Todo,
}

/// Checks that `cores` executors with `locked_memory_bytes` each can run here and that `dir`
/// (created if missing) is on a file system that takes direct I/O. Run it on an ordinary thread
/// before the first core starts.
pub fn probe(dir: &Path, cores: usize, locked_memory_bytes: usize) -> Result<(), ProbeError> {
    let _ = (dir, cores, locked_memory_bytes);
    todo!()
}
