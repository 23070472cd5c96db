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
//! // Only if no other client has changed the key since:
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
//! client follows leaders, retries until the deadline, and numbers its writes so that a retried write
//! applies once. If it cannot find out whether a write was applied, it returns
//! [`Error::Indeterminate`].
//!
//! **Reads from any replica.** Reads ask the leader of their shard, unless [`ReadFrom`] says otherwise, for a client
//! ([`ClientBuilder::read_from`]) or a read. They are linearizable in any case.
//!
//! **Keys** are anything that is `AsRef<[u8]>`, borrowed or owned. They are copied, since they are
//! short. **Values** are anything that is [`IntoValue`]; owned values are not copied.
//!
//! **Large values**, of up to 2 GiB. [`Client::put`] and [`Client::get`] take values of all sizes that fit in memory.
//! [`Client::upload`] writes one like a file, or in parts, and can be resumed by a token; [`Client::upload_file`] goes on
//! after a crash by itself; [`Get::stream`] reads one piece by piece, or a range of it. A large value appears as a
//! whole, under a condition like any write, and its bytes are read from all replicas at once. A scan tells its length
//! only.
//!
//! **Object stores.** With the features `object-store` and `object-store-0-13` a cluster is a store of the crate
//! `object_store`, versions 0.14 and 0.13, so that DataFusion, Delta, Lance and others can use it.
//!
//! **Deadlines.** Every operation ends within its deadline: its own, or else the client's. The deadline
//! covers connecting, resolving names, retries and waiting for leaders. Of a large value each request has it, and the
//! transfer has none.
//!
//! **Cancel safety.** Every future may be dropped at any time, in a `select!` for example, and the
//! client stays usable. A dropped read has no effect. A dropped write that was already sent may still
//! be applied, once; the client does not retry it. A scan continues with its next poll and loses no
//! entry.
//!
//! **Tracing.** Each request to a shard is a `tracing` span of level DEBUG, named after the request,
//! with the fields `key_len` (bytes), `shard`, `attempts` (how often it was sent) and `outcome`. A
//! disabled span costs the check of a flag.
//!
//! The `examples` directory has small complete programs.

mod batch;
mod client;
mod cluster;
mod doubt;
mod download;
mod error;
mod head;
mod keys;
mod limits;
mod link;
mod numbers;
#[cfg(feature = "object-store")]
pub mod object_store;
#[cfg(feature = "object-store-0-13")]
pub mod object_store_0_13;
#[cfg(any(feature = "object-store", feature = "object-store-0-13"))]
mod objects;
mod operation;
mod phase;
mod read;
mod replicas;
mod resolve;
mod route;
mod scan;
mod seeds;
pub mod session;
mod slots;
mod status;
mod token_text;
mod transport;
mod upload;
mod upload_ask;
mod value;
mod write;

/// The state machine of connections, for a simulator.
#[doc(hidden)]
pub mod connection {
    pub use crate::limits::{CONNECT_PATIENCE, CONNECT_TIMEOUT, SILENCE_MAX, TICK};
    pub use crate::phase::{Phase, Ready};
    pub use crate::slots::{Call, Room, Slots};
}

/// The decisions of uploads and downloads, for a simulator.
#[doc(hidden)]
pub mod transfer {
    pub use crate::download::plan::{ChunkLayout, ChunkPiece, DownloadPlan, ValueDamage};
    pub use crate::upload::digest::Digester;
    pub use crate::upload::plan::{
        ChunkPlace, PlanError, PlanSettings, PlannedChunk, UploadPlan, UploadTally, WholeContent,
    };
}

pub use batch::{
    Batch, BatchHandle, BatchOperation, BatchResult, BatchResults, IntoBatchOperation,
};
pub use bytes::Bytes;
pub use client::{Client, ClientBuilder, Limits, SEEDS_VARIABLE};
pub use cluster::{
    ClusterAnswer, ClusterAsk, ClusterOrder, ClusterView, ViewChange, ViewNode, ViewSetting,
    ViewShard,
};
pub use corelith_wire::UploadId;
pub use corelith_wire::map::{ClusterMap, MapNode, MapShard};
pub use corelith_wire::upload::{Digest, DigestKind, UploadRefusal, UploadState};
pub use download::Download;
pub use error::{Cause, Error, Field, Result, SeedFailure};
pub use head::{Description, EntryHead};
pub use read::{Entry, Get, Lookup};
pub use replicas::ReadFrom;
pub use scan::{Scan, ScanEntry, ScanToken, Value};
pub use status::{
    ClusterStatus, DamagedPlace, LevelStorage, NodePeer, NodeStatus, NodeStorage, NodeStranger,
    ScrubState, ShardRole, ShardStatus, ShardStorage, StatusReply, StorageReply,
};
pub use upload::builder::UploadBuilder;
pub use upload::file::FileUpload;
pub use upload::handle::Uploaded;
pub use upload::list::OpenUpload;
pub use upload::multipart::Multipart;
pub use upload::token::{UploadToken, UploadedPart};
pub use upload::{Progress, Upload};
pub use value::IntoValue;
pub use write::{Delete, Put, Written};
