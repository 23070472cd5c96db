//! Frames and messages of the Corelith protocol: no I/O, no runtime.
//!
//! A connection starts with a fixed-size [`handshake`], then carries [`frame`]s in both directions.
//! A frame is a 32-byte header, a body (rkyv, validated and used in place) and value bytes. Requests
//! ([`request`]) carry an id that their answer ([`response`]) repeats. Many requests are in flight at
//! once, and answers arrive in any order.
//!
//! Decoding never trusts a length: caps are checked on the header alone, before anything is
//! allocated, then the checksum, then the body. Bytes that cannot be decoded give a typed [`error`].
//!
//! A request is encoded, sent, and parsed from the received bytes:
//!
//! ```
//! use bytes::BytesMut;
//! use corelith_wire::frame::Accepts;
//! use corelith_wire::request::{GetRequest, encode_get};
//! use corelith_wire::{Epoch, FrameParser, Head, Kind, Outbox, RequestId, ShardId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let head = Head {
//!     kind: Kind::GET,
//!     request_id: RequestId(1),
//!     shard: ShardId(4),
//!     epoch: Epoch(1),
//! };
//! let mut outbox = Outbox::default();
//! encode_get(&mut outbox, head, &GetRequest { key: b"name" });
//!
//! let mut received = BytesMut::new();
//! outbox.slices().for_each(|slice| received.extend_from_slice(slice));
//! for frame in FrameParser::new(Accepts::Requests).take(&mut received) {
//!     let frame = frame?;
//!     assert_eq!(frame.header.head, head);
//!     assert_eq!(GetRequest::parse(frame.body())?.key, b"name");
//! }
//! # Ok(())
//! # }
//! ```

mod body;
pub mod client;
pub mod error;
mod fields;
pub mod frame;
pub mod handshake;
pub mod ids;
pub mod limits;
pub mod outbox;
pub mod peer;
pub mod placement;
pub mod version;
pub mod width;

pub(crate) use client::reply_meta;
pub use client::{cluster, map, request, response, status, storage, upload};
pub use error::{DecodeError, FrameError, HandshakeError};
pub use frame::{Flags, Frame, FrameBuilder, FrameParser, Head, Header, Kind};
pub use ids::{
    ChunkId, ClusterId, Epoch, FullClusterId, LogId, LogIndex, Mark, NodeId, ReplicaId, RequestId,
    ShardId, Start, StoreId, Term, UploadId,
};
pub use outbox::Outbox;

#[cfg(test)]
mod golden;
