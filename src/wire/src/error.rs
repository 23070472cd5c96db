//! What can be wrong with bytes that came from the other side.

use crate::ids::ClusterId;
use thiserror::Error;

/// The stream of frames is broken: the connection must be closed, nothing after this point can be
/// trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("frame of unknown kind {kind}: the other side speaks another protocol version")]
    UnknownKind {
        /// The kind's number.
        kind: u16,
    },
    /// Longer than its kind may be. Nothing was allocated for it.
    #[error("frame of kind {kind} announces {len} bytes, allowed are {limit}")]
    TooLong {
        /// The kind's number.
        kind: u16,
        /// Announced bytes after the header.
        len: u32,
        /// The most that this kind may have.
        limit: usize,
    },
    /// The body is said to reach beyond the frame.
    #[error("frame announces a body of {body_len} bytes in {len}")]
    BodyBeyondFrame {
        /// Announced bytes of the body.
        body_len: u32,
        /// Announced bytes after the header.
        len: u32,
    },
    /// Damaged on the way.
    #[error("frame checksum is {found:08x}, expected {expected:08x}: damaged on the way")]
    Checksum {
        /// As the header says.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// The stream ended inside a frame.
    #[error("connection ended inside a frame, {have} bytes into it")]
    Truncated {
        /// Bytes of the frame that did arrive.
        have: usize,
    },
}

/// A frame arrived whole, but its body is not what its kind promises, or it could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes are no valid message.
    #[error("malformed {what}")]
    Malformed {
        /// The message, or the part of it, that is wrong.
        what: &'static str,
    },
    /// The message is valid, but a field exceeds its bound.
    #[error("{what} of {len} bytes, allowed are {limit}")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// Its length.
        len: usize,
        /// Its bound.
        limit: usize,
    },
}

/// The two sides cannot work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// Something else listens or talks there.
    #[error("the other side does not speak the Corelith protocol")]
    NotCorelith,
    /// Damaged on the way.
    #[error("handshake checksum mismatch: damaged on the way")]
    Checksum,
    /// A field that this version does not know.
    #[error("handshake holds an unknown {what}: {value}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its content.
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
    /// The nodes there belong to another cluster.
    #[error("the other side belongs to cluster {theirs}, not to {ours}: check the addresses")]
    OtherCluster {
        /// The cluster that was asked for.
        ours: ClusterId,
        /// The cluster that answered.
        theirs: ClusterId,
    },
    /// No more connections are taken now.
    #[error(
        "the node takes no more connections now, or is none of a cluster yet and says why in its log: try again later \
         or another node"
    )]
    Busy,
    /// The server does not offer that role to this side.
    #[error("the server refuses this role")]
    RoleRefused,
}
