//! The storage engine of one shard: the [`Log`] (write-ahead log and Raft log in one) and the
//! [`Engine`] (memtable, sstables, manifest), opened together as a [`Shard`].
//!
//! A shard belongs to one core; its handles are cheap to clone and never leave that core.

mod arena;
mod cache;
pub mod check;
mod checkpoint;
mod compaction;
pub mod directory;
pub mod engine;
pub mod error;
pub mod filename;
pub mod gc_plan;
pub mod ids;
pub mod inspect;
pub mod key;
mod length;
pub mod limits;
pub mod log;
mod manifest;
mod memtable;
mod output;
mod pins;
pub mod planted;
mod recovery;
pub mod removal;
mod reserve;
pub mod session;
pub mod shard;
mod sstable;
mod varint;
mod version;
pub mod vlog;
pub mod wal;

pub use cache::{BlockCache, CacheCounters};
pub use compaction::{Policy, UnknownPolicy};
pub use engine::{
    Damage, DamageHook, Engine, Found, FoundRange, Item, LevelReport, ScanPage, ScanRange,
    ScrubOptions, ScrubProgress, Snapshot, SnapshotWriter, Statistics, StorageReport,
    WorkStatistics,
};
pub use error::{Error, Result};
pub use ids::{LogId, LogIndex, NodeId, ShardId, Term, ValueSegmentId};
pub use key::Space;
pub use log::{Log, LogOptions};
pub use pins::Pin;
pub use session::{Admission, Recorded, SessionTable};
pub use shard::{Shard, ShardOptions};
pub use sstable::Compression;
pub use vlog::ValuePointer;
pub use wal::{Entry, LogRange, LogRecovered, ValuePart, Vote};
