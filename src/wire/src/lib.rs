//! Frames and messages of the Corelith protocol: no I/O, no runtime.
//!
//! A connection starts with a fixed-size [`handshake`], then carries [`frame`]s in both directions.
//! A frame is a 32-byte header, a body (rkyv, validated and used in place) and value bytes. Requests
//! ([`request`]) carry an id that their answer ([`response`]) repeats; many are in flight, answers
//! come in any order.
//!
//! Decoding never trusts a length: caps are checked on the header alone, before anything is
//! allocated, then the checksum, then the body. What cannot be decoded is a typed [`error`].

mod body;
pub mod client;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod ids;
pub mod limits;
pub mod outbox;
pub mod peer;
pub mod placement;
pub mod version;
pub mod width;

pub use client::{map, request, response, status, storage};
pub use error::{DecodeError, FrameError, HandshakeError};
pub use frame::{Flags, Frame, FrameBuilder, FrameParser, Head, Header, Kind};
pub use ids::{ClusterId, Epoch, LogId, LogIndex, NodeId, RequestId, ShardId, Term};
pub use outbox::Outbox;

#[cfg(test)]
mod golden;
