//! The errors in bytes received from the other side.

use crate::ids::ClusterId;
use thiserror::Error;

/// The stream of frames is broken: nothing after this point can be trusted, so the connection must be
/// closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A kind that this version does not know or this connection does not accept.
    #[error("frame of unknown kind {kind}: the other side speaks another protocol version")]
    UnknownKind {
        /// The kind's number.
        kind: u16,
    },
    /// The frame is longer than its kind allows. Nothing was allocated for it.
    #[error("frame of kind {kind} has {len} bytes, at most {limit} are allowed")]
    TooLong {
        /// The kind's number.
        kind: u16,
        /// Announced bytes after the header.
        len: u32,
        /// Most bytes after the header that this kind allows.
        limit: usize,
    },
    /// The body is longer than the frame.
    #[error("frame of {len} bytes has a body of {body_len} bytes")]
    BodyBeyondFrame {
        /// Announced bytes of the body.
        body_len: u32,
        /// Announced bytes after the header.
        len: u32,
    },
    /// The frame was damaged in transit.
    #[error("frame checksum is {found:08x}, expected {expected:08x}: damaged in transit")]
    Checksum {
        /// As the header says.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// The stream ended inside a frame.
    #[error("connection ended inside a frame, {have} bytes into it")]
    Truncated {
        /// Bytes of the frame that arrived.
        have: usize,
    },
}

/// A frame is complete, but its body is not a valid message of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes are not a valid message.
    #[error("malformed {what}")]
    Malformed {
        /// The message, or the part of it that is wrong.
        what: &'static str,
    },
    /// The message is valid, but a field exceeds its bound.
    #[error("{what} of {len} bytes, at most {limit} are allowed")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// Its length.
        len: usize,
        /// Its bound.
        limit: usize,
    },
}

/// The handshake failed: the two sides cannot work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The other side is not a Corelith node or client.
    #[error("the other side does not speak the Corelith protocol")]
    NotCorelith,
    /// The handshake was damaged in transit.
    #[error("handshake checksum mismatch: damaged in transit")]
    Checksum,
    /// A field that this version does not know.
    #[error("the handshake holds an unknown {what}: {value}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u16,
    },
    /// This side is too old for the other.
    #[error("the other side no longer speaks protocol version {ours}: upgrade this side")]
    TooOld {
        /// Newest version of this side.
        ours: u16,
    },
    /// This side is too new for the other.
    #[error("the other side does not yet speak protocol version {ours}: upgrade the other side")]
    TooNew {
        /// Oldest version of this side.
        ours: u16,
    },
    /// The other side belongs to another cluster.
    #[error("the other side belongs to cluster {theirs}, not to {ours}: check the addresses")]
    OtherCluster {
        /// The cluster that this side expects.
        ours: ClusterId,
        /// The cluster that answered.
        theirs: ClusterId,
    },
    /// The node takes no connection of this role now: it is full, or not part of a formed cluster.
    #[error(
        "the node takes no such connection now: it is full, still waits for its cluster to form, or is excluded from it"
    )]
    Busy,
    /// The server does not offer that role to this side.
    #[error("the server refuses this role")]
    RoleRefused,
}
