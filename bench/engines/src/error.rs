//! Why a measurement, or the harness, gave up.

use std::path::PathBuf;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("corelith: {0}")]
    Ours(#[from] corelith_shards::Error),
    #[error("corelith: a core: {0}")]
    Core(#[from] corelith_io::Error),
    #[error("RocksDB: {0}")]
    Rocks(#[from] rocksdb::Error),
    #[error("fjall: {0}")]
    Fjall(#[from] fjall::Error),
    #[error("a thread of the load generator ended early")]
    Ended,
    #[error("{count} gets of keys that are there found nothing, or a value of another length")]
    Wrong { count: u64 },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the measurement of {engine} ended with {status}")]
    Child {
        engine: &'static str,
        status: std::process::ExitStatus,
    },
    #[error(
        "{} MiB were resident at most, and {} MiB are the budget: see --scale-cache and --scale-memtable",
        peak >> 20,
        budget >> 20
    )]
    Memory { peak: u64, budget: u64 },
    #[error("the writing process was to be killed, and ended with {0}")]
    NotKilled(std::process::ExitStatus),
    #[error("what a measurement reported cannot be read: {0}")]
    Report(#[from] serde_json::Error),
}

impl BenchError {
    /// Says which file or directory it was.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

pub(crate) type Result<T, E = BenchError> = std::result::Result<T, E>;
