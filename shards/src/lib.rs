//! The storage engine of one shard: the [`Log`] (write-ahead log and Raft log in one) and the
//! [`Engine`] (memtable, sstables, manifest), opened together as a [`Shard`].
//!
//! A shard belongs to one core; its handles are cheap to clone and never leave that core.
//!
//! What consensus does with one, in short: an entry is appended to the log, and applied to the engine
//! once it is committed. (Here it counts as committed as soon as it is durable.)
//!
//! ```
//! use corelith_shards::{Entry, LogId, LogIndex, ReplicaId, Shard, ShardId, ShardOptions, Term};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("shard-0");
//! corelith_io::run(move || async move {
//!     let shard = Shard::open(&path, ShardOptions::new(7, ShardId(0))).await?;
//!     let (term, node, index) = (Term(1), ReplicaId(1), LogIndex(1));
//!     let id = LogId { term, node, index };
//!     let entry = Entry {
//!         id,
//!         kind: 1,
//!         body: "name=Ann".into(),
//!         value: None,
//!         place: None,
//!     };
//!     let (durable, is_durable) = corelith_io::channel(1);
//!     shard.log.append(vec![entry], move |result| {
//!         let _ = durable.try_send(result);
//!     });
//!     is_durable.recv().await.expect("the log answers")?;
//!     shard.engine.put(index, b"name", "Ann".into());
//!     shard.engine.set_applied(id, None);
//!
//!     let found = shard.engine.get(b"name").await?.expect("it was put");
//!     assert_eq!((&found.value[..], found.version), (&b"Ann"[..], index));
//!     shard.close().await
//! })?;
//! # Ok(())
//! # }
//! ```

mod arena;
mod cache;
mod capacity;
pub mod check;
mod checkpoint;
mod compaction;
pub mod directory;
pub mod engine;
pub mod error;
pub mod filename;
mod flight;
pub mod gc_plan;
pub mod ids;
pub mod inspect;
pub mod key;
pub mod large;
mod length;
pub mod limits;
pub mod log;
mod manifest;
mod memtable;
mod output;
mod pace;
mod patience;
mod pins;
pub mod planted;
mod recovery;
pub mod removal;
mod reserve;
mod rounds;
pub mod session;
pub mod shard;
mod sstable;
mod text;
mod varint;
mod version;
pub mod vlog;
pub mod wal;

pub use cache::{BlockCache, CacheCounters};
pub use capacity::Capacity;
pub use compaction::{Policy, UnknownPolicy};
pub use engine::{
    Damage, DamageHook, Engine, Fetched, FetchedEnd, FetchedKey, FileEntry, FileKind, FileList,
    Found, FoundHead, FoundLarge, FoundRange, Heal, Incoming, IncomingProgress, Item, ItemHead,
    ItemValue, LevelReport, Lookup, MissingPiece, PinnedFiles, Remedy, Returning, Row, RowPage,
    ScanPage, ScanRange, ScrubOptions, ScrubProgress, Search, Snapshot, SnapshotWriter, Sought,
    Statistics, StorageReport, Stored, Wait, WorkStatistics,
};
pub use error::{Error, Result};
pub use ids::{FileId, LogId, LogIndex, NodeId, ReplicaId, ShardId, Term, ValueSegmentId};
pub use key::{Space, SpacedKey};
pub use large::LargeRef;
pub use log::{Log, LogOptions};
pub use pins::Pin;
pub use rounds::Rounds;
pub use session::{Admission, Recorded, SessionTable};
pub use shard::{Shard, ShardOptions};
pub use sstable::Compression;
pub use vlog::ValuePointer;
pub use wal::{Entry, LogPulse, LogRange, LogRecovered, ValuePart, Vote};
