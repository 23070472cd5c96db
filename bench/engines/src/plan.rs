//! What one process measures. The harness hands a plan to a child of itself as JSON, so that engines share
//! neither an allocator nor counters of the kernel.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// A storage engine.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    Ours,
    Rocksdb,
    Fjall,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Rocksdb => "rocksdb",
            Self::Fjall => "fjall",
        }
    }

    /// As people write it.
    pub(crate) fn display_name(self) -> &'static str {
        match self {
            Self::Ours => "Corelith",
            Self::Rocksdb => "RocksDB",
            Self::Fjall => "fjall",
        }
    }
}

/// Settings that mean the same to every engine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tuning {
    /// Budget of the block cache.
    pub(crate) cache_bytes: usize,
    /// A memtable is flushed at this size; up to three are held.
    pub(crate) memtable_bytes: usize,
    /// Values at least this long are kept apart from keys.
    pub(crate) separate_bytes: usize,
}

/// Keys and the lengths of their values. A key's value always has the same length, so the live bytes of a
/// directory are known however often it was overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data {
    /// Keys 0..keys exist once the data is loaded.
    pub(crate) keys: u64,
    /// Length of most values.
    pub(crate) value_bytes: usize,
    /// Length of one value in `large_every`; nothing is large if that is 0.
    pub(crate) large_bytes: usize,
    /// See `large_bytes`.
    pub(crate) large_every: u64,
}

impl Data {
    /// Keys with values of one length.
    pub(crate) fn uniform(keys: u64, value_bytes: usize) -> Self {
        Self {
            keys,
            value_bytes,
            large_bytes: 0,
            large_every: 0,
        }
    }

    pub(crate) fn value_bytes_max(&self) -> usize {
        self.value_bytes.max(self.large_bytes)
    }
}

/// How long something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Span {
    /// Time before measuring.
    pub(crate) warm_up: Duration,
    /// Time to measure.
    pub(crate) measure: Duration,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Job {
    /// Writes all keys in random order and settles; measured too, but done to prepare others.
    Fill { data: Data, writers: usize },
    /// Durable puts of new keys.
    Put {
        value_bytes: usize,
        outstanding: usize,
        span: Span,
    },
    /// Gets of keys that are there, or of keys that are not.
    Get {
        data: Data,
        outstanding: usize,
        absent: bool,
        span: Span,
    },
    /// Gets beside puts, at a rate or as fast as they go.
    Mixed {
        data: Data,
        outstanding: usize,
        puts_per_second: Option<f64>,
        durable: bool,
        span: Span,
    },
    /// All keys once, then uniform overwriting.
    Overwrite {
        data: Data,
        overwrites: u64,
        writers: usize,
    },
    /// Puts and gets at a steady rate, latency over time.
    Timeline {
        data: Data,
        puts_per_second: f64,
        gets_per_second: f64,
        durable: bool,
        writers: usize,
        span: Span,
    },
}

impl Job {
    /// Its data; puts of new keys have none beforehand.
    pub(crate) fn data(&self) -> Data {
        match self {
            Self::Put { value_bytes, .. } => Data::uniform(0, *value_bytes),
            Self::Fill { data, .. }
            | Self::Get { data, .. }
            | Self::Mixed { data, .. }
            | Self::Overwrite { data, .. }
            | Self::Timeline { data, .. } => *data,
        }
    }
}

/// What one child does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) engine: Engine,
    pub(crate) dir: PathBuf,
    /// Cores (and shards) of ours.
    pub(crate) cores: usize,
    pub(crate) tuning: Tuning,
    pub(crate) seed: u64,
    pub(crate) job: Job,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_the_way_to_a_child() {
        let plan = Plan {
            engine: Engine::Rocksdb,
            dir: "/data/x y".into(),
            cores: 2,
            tuning: Tuning {
                cache_bytes: 1,
                memtable_bytes: 2,
                separate_bytes: 3,
            },
            seed: u64::MAX,
            job: Job::Mixed {
                data: Data::uniform(9, 256),
                outstanding: 64,
                puts_per_second: None,
                durable: false,
                span: Span {
                    warm_up: Duration::from_millis(1),
                    measure: Duration::from_secs(9),
                },
            },
        };
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
