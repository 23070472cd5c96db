//! The Rust SDK of Corelith, a strongly consistent key-value store.
//!
//! ```no_run
//! # async fn example() -> corelith_client::Result<()> {
//! use corelith_client::{Client, Error};
//!
//! let client = Client::connect(["127.0.0.1:7411"]).await?;
//! let written = client.put("greeting", "hello").await?;
//! let entry = client.get("greeting").await?;
//! assert_eq!((entry.value.as_ref(), entry.version), (&b"hello"[..], written.version));
//! // Only if nobody else has changed it meanwhile:
//! match client.put("greeting", "hello, world").if_version(entry.version).await {
//!     Err(Error::Conflict { current }) => println!("it is at version {current:?} now"),
//!     result => println!("written at version {}", result?.version),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Reads and writes are linearizable: a read sees every write that was acknowledged before it
//! began. A write is acknowledged when it is durable on a majority of its shard's replicas. The
//! client follows leaders, repeats what failed until the deadline, and numbers its writes so that
//! a repeated one applies once. What cannot be known it says: [`Error::Indeterminate`].
//!
//! **Keys** are given as anything that is `AsRef<[u8]>`, borrowed or owned, and copied: they are
//! short. **Values** are [`IntoValue`]: those that are owned are not copied.
//!
//! **Deadlines.** An operation ends within its deadline, the client's unless it has one of its own.
//! Connecting, resolving names, retries and waiting for leaders are in it.
//!
//! **Dropping a future.** Everything here may be dropped at any time, in a `select!` for example, and
//! the client goes on working. What was read is lost, a write that was sent may be applied or not
//! (and is not repeated), a scan goes on with its next call.
//!
//! **Tracing.** Each request to a shard is a `tracing` span of level DEBUG, named after what it does,
//! with the fields `key_len`, `shard`, `attempts` (how often it was sent) and `outcome`. Without a
//! subscriber that wants it, it costs the check of a flag.
//!
//! Programs to read are in the `examples` directory.

mod batch;
mod client;
mod error;
mod limits;
mod link;
mod numbers;
mod operation;
mod phase;
mod read;
mod resolve;
mod route;
mod scan;
mod seeds;
pub mod session;
mod slots;
mod status;
mod transport;
mod value;
mod write;

/// The decisions of connections, for a simulator.
#[doc(hidden)]
pub mod connection {
    pub use crate::limits::{CONNECT_TIMEOUT, SILENCE_MAX, TICK};
    pub use crate::phase::{Phase, Ready};
    pub use crate::slots::{Room, Slots};
}

pub use batch::{
    Batch, BatchHandle, BatchOperation, BatchResult, BatchResults, IntoBatchOperation,
};
pub use bytes::Bytes;
pub use client::{Client, ClientBuilder, Limits, SEEDS_VARIABLE};
pub use corelith_wire::map::{ClusterMap, MapNode, MapShard};
pub use error::{Cause, Error, Field, Result, SeedFailure};
pub use read::{Entry, EntryHead, Get, Lookup};
pub use scan::{Scan, ScanToken};
pub use status::{
    ClusterStatus, DamagedPlace, LevelStorage, NodeStatus, NodeStorage, NodeStranger, ScrubState,
    ShardRole, ShardStatus, ShardStorage, StatusReply, StorageReply,
};
pub use value::IntoValue;
pub use write::{Delete, Put, Written};
