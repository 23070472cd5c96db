//! The storage engine of one shard: the [`Log`] (write-ahead log and Raft log in one) and the
//! [`Engine`] (memtable, sstables, manifest), opened together as a [`Shard`].
//!
//! A shard belongs to one core; its handles are cheap to clone and never leave that core.

mod cache;
mod checkpoint;
mod compaction;
pub mod engine;
pub mod error;
pub mod filename;
pub mod ids;
pub mod inspect;
pub mod key;
pub mod limits;
mod manifest;
mod memtable;
mod pins;
pub mod planted;
mod recovery;
pub mod session;
pub mod shard;
mod sstable;
mod varint;
mod vlog;
pub mod wal;

pub use compaction::{Policy, UnknownPolicy};
pub use engine::{Engine, Found, Item, ScanPage, ScanRange, Snapshot, SnapshotWriter};
pub use error::{Error, Result};
pub use ids::{LogId, LogIndex, NodeId, ShardId, Term};
pub use key::Space;
pub use pins::Pin;
pub use session::{Admission, Recorded, SessionTable};
pub use shard::{Shard, ShardOptions};
pub use wal::{Entry, Log, LogOptions, LogRange, LogRecovered, Vote};
