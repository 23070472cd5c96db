//! The frame: a fixed header, a body, and value bytes.
//!
//! ```text
//! offset  size
//!      0     4  len         bytes after the header
//!      4     4  crc32c      of header bytes 8..32, then of everything after the header
//!      8     2  kind        what the body is, see [`Kind`]
//!     10     2  flags       see [`Flags`]; a side ignores bits that it does not know
//!     12     4  body_len    length of the body; the rest of len is value bytes
//!     16     8  request_id  pairs an answer with its request
//!     24     4  shard       the shard that is asked, or that answers
//!     28     4  epoch       generation of the sender's cluster map
//!     32   len  body, then value bytes
//! ```
//! All fields are little-endian. Invariants: a frame is refused on its header alone if its connection
//! does not accept its kind, if it exceeds the length cap of its kind, or if its body exceeds the frame;
//! a frame is handed out only if its checksum matches.

use crate::body::{self, Flat, Nested};
use crate::error::FrameError;
use crate::ids::{Epoch, RequestId, ShardId};
use crate::limits::{self, HEADER_BYTES};
use crate::width::u32_len;
use bytes::{BufMut, Bytes, BytesMut};

/// The kind of a frame. A number never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// Put or delete a key. The frame's payload is the log entry's body.
    pub const WRITE: Self = Self(0x01);
    /// Open a session at a shard.
    pub const OPEN_SESSION: Self = Self(0x02);
    /// Read a key.
    pub const GET: Self = Self(0x03);
    /// Read a page of keys in order.
    pub const SCAN: Self = Self(0x04);
    /// Ask for the state of a node.
    pub const STATUS: Self = Self(0x05);
    /// Ask for the cluster map.
    pub const DESCRIBE: Self = Self(0x06);
    /// Ask for the state of a node's storage.
    pub const STORAGE: Self = Self(0x07);
    /// Ask for the state of the cluster, or give it an order.
    pub const CLUSTER: Self = Self(0x08);
    /// Begin an upload of a large value.
    pub const UPLOAD_BEGIN: Self = Self(0x09);
    /// A chunk of an upload. The frame's payload is the log entry's body.
    pub const UPLOAD_CHUNK: Self = Self(0x0a);
    /// Ask how an upload stands.
    pub const UPLOAD_STATUS: Self = Self(0x0b);
    /// Make an upload the value of its key.
    pub const UPLOAD_COMMIT: Self = Self(0x0c);
    /// Give an upload up.
    pub const UPLOAD_ABORT: Self = Self(0x0d);
    /// List the open uploads of a shard.
    pub const UPLOAD_LIST: Self = Self(0x0e);
    /// Read a part of a chunk of a large value, at any replica.
    pub const READ_CHUNK: Self = Self(0x0f);
    /// Keep a large value readable for a while, though it may be overwritten.
    pub const HOLD_VALUE: Self = Self(0x10);

    /// Answer: the write is applied.
    pub const WRITTEN: Self = Self(0x81);
    /// Answer: the write's condition does not hold; nothing was changed.
    pub const CONFLICT: Self = Self(0x82);
    /// Answer: the key has no value.
    pub const NOT_FOUND: Self = Self(0x83);
    /// Answer: a value.
    pub const VALUE: Self = Self(0x84);
    /// Answer: a page of keys.
    pub const SCAN_PAGE: Self = Self(0x85);
    /// Answer: the session is open.
    pub const SESSION_OPENED: Self = Self(0x86);
    /// Answer: the state of a node.
    pub const STATUS_REPLY: Self = Self(0x87);
    /// Answer: the cluster map.
    pub const MAP: Self = Self(0x88);
    /// Answer: the request failed, with the reason.
    pub const FAILURE: Self = Self(0x89);
    /// Answer: the state of a node's storage, in version 1 of the protocol.
    pub const STORAGE_REPLY: Self = Self(0x8a);
    /// Answer: a value's version and length, without the value.
    pub const HEAD: Self = Self(0x8b);
    /// Answer: a page of keys, with the versions and lengths of their values.
    pub const SCAN_HEADS: Self = Self(0x8c);
    /// Answer: the state of a node's storage, from version 2 of the protocol on.
    pub const STORAGE_REPLY_2: Self = Self(0x8d);
    /// Answer: the state of the cluster, or what becomes of an order.
    pub const CLUSTER_ANSWER: Self = Self(0x8e);
    /// Answer: what a large value is, in place of its bytes.
    pub const LARGE: Self = Self(0x8f);
    /// Answer: how an upload or a large value stands.
    pub const UPLOAD_REPLY: Self = Self(0x90);
    /// Answer: a page of uploads.
    pub const UPLOADS: Self = Self(0x91);

    /// The first of the kinds that nodes send each other.
    pub const PEER_FIRST: Self = Self(0x100);
    /// The last of the kinds that nodes send each other.
    pub const PEER_LAST: Self = Self(0x1ff);
}

/// Optional wishes of a frame, one bit each. Every bit must be safe to ignore, since older releases
/// ignore it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// On a [`Kind::GET`] or [`Kind::SCAN`]: versions and lengths are enough, so the answer may be a
    /// [`Kind::HEAD`] or [`Kind::SCAN_HEADS`].
    pub const WITHOUT_VALUES: Self = Self(1);
    /// On a [`Kind::GET`] or [`Kind::SCAN`]: a follower may answer, at a point that its leader names. Nodes
    /// before version 3 send the client on to the leader.
    pub const FOLLOWER_MAY_ANSWER: Self = Self(2);
    /// On a [`Kind::GET`] without values: of a large value, a [`Kind::LARGE`] is wanted in place of a [`Kind::HEAD`]. On
    /// a [`Kind::SCAN`] without values: of a large value, the time of its commit is wanted.
    pub const DESCRIBED: Self = Self(4);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The frames that a connection may carry toward this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// Requests of clients.
    Requests,
    /// Answers to a client.
    Answers,
    /// Frames between nodes, in both directions.
    Peer,
}

impl Accepts {
    /// Most bytes after the header of a frame of `kind`; `None` if the connection does not accept the
    /// kind.
    fn cap(self, kind: Kind) -> Option<usize> {
        match self {
            Self::Requests => match kind {
                Kind::WRITE => Some(limits::WRITE_BYTES_MAX),
                Kind::OPEN_SESSION
                | Kind::GET
                | Kind::SCAN
                | Kind::STATUS
                | Kind::DESCRIBE
                | Kind::STORAGE
                | Kind::CLUSTER
                | Kind::UPLOAD_STATUS
                | Kind::UPLOAD_ABORT
                | Kind::UPLOAD_LIST
                | Kind::READ_CHUNK
                | Kind::HOLD_VALUE => Some(limits::PLAIN_REQUEST_BYTES_MAX),
                Kind::UPLOAD_BEGIN => Some(limits::UPLOAD_BEGIN_BYTES_MAX),
                Kind::UPLOAD_CHUNK => Some(limits::UPLOAD_CHUNK_BYTES_MAX),
                Kind::UPLOAD_COMMIT => Some(limits::COMMIT_BYTES_MAX),
                _ => None,
            },
            Self::Answers => match kind {
                Kind::WRITTEN
                | Kind::CONFLICT
                | Kind::NOT_FOUND
                | Kind::SESSION_OPENED
                | Kind::HEAD => Some(limits::SMALL_REPLY_BYTES_MAX),
                Kind::VALUE => Some(limits::VALUE_REPLY_BYTES_MAX),
                Kind::SCAN_PAGE | Kind::SCAN_HEADS => Some(limits::SCAN_REPLY_BYTES_MAX),
                Kind::STATUS_REPLY
                | Kind::MAP
                | Kind::FAILURE
                | Kind::STORAGE_REPLY
                | Kind::STORAGE_REPLY_2
                | Kind::CLUSTER_ANSWER => Some(limits::MAP_REPLY_BYTES_MAX),
                Kind::LARGE => Some(limits::LARGE_REPLY_BYTES_MAX),
                Kind::UPLOAD_REPLY => Some(limits::UPLOAD_REPLY_BYTES_MAX),
                Kind::UPLOADS => Some(limits::UPLOADS_BYTES_MAX),
                _ => None,
            },
            Self::Peer => (Kind::PEER_FIRST <= kind && kind <= Kind::PEER_LAST)
                .then_some(limits::PEER_BYTES_MAX),
        }
    }
}

/// The header fields that the sender chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the frame is.
    pub kind: Kind,
    /// Pairs an answer with its request.
    pub request_id: RequestId,
    /// The shard that is asked, or that answers.
    pub shard: ShardId,
    /// Generation of the sender's cluster map.
    pub epoch: Epoch,
}

impl Head {
    /// The same head with another kind.
    #[must_use]
    pub fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The head of an answer to this request.
    #[must_use]
    pub fn answer(self, kind: Kind, epoch: Epoch) -> Self {
        Self {
            kind,
            epoch,
            ..self
        }
    }
}

/// A frame's header, whose lengths were checked against the caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes after the header.
    pub len: u32,
    /// Checksum computed by the sender.
    pub crc32c: u32,
    /// The sender's optional wishes.
    pub flags: Flags,
    /// Bytes of the body.
    pub body_len: u32,
    /// The other fields.
    pub head: Head,
}

impl Header {
    /// Parses and checks the header at the start of `bytes`; `None` if it is incomplete.
    ///
    /// # Errors
    /// The connection does not accept the kind, or a length exceeds its cap.
    pub fn parse(bytes: &[u8], accepts: Accepts) -> Result<Option<Self>, FrameError> {
        let Some(fixed) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let kind = Kind(u16::from_le_bytes(field(fixed, 8)));
        let len = u32::from_le_bytes(field(fixed, 0));
        let body_len = u32::from_le_bytes(field(fixed, 12));
        let Some(limit) = accepts.cap(kind) else {
            return Err(FrameError::UnknownKind { kind: kind.0 });
        };
        if len as usize > limit {
            return Err(FrameError::TooLong {
                kind: kind.0,
                len,
                limit,
            });
        }
        if body_len > len {
            return Err(FrameError::BodyBeyondFrame { body_len, len });
        }
        Ok(Some(Self {
            len,
            crc32c: u32::from_le_bytes(field(fixed, 4)),
            flags: Flags(u16::from_le_bytes(field(fixed, 10))),
            body_len,
            head: Head {
                kind,
                request_id: RequestId(u64::from_le_bytes(field(fixed, 16))),
                shard: ShardId(u32::from_le_bytes(field(fixed, 24))),
                epoch: Epoch(u32::from_le_bytes(field(fixed, 28))),
            },
        }))
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.len as usize
    }
}

/// `N` bytes of a fixed-size structure at an offset within it.
pub(crate) fn field<const N: usize>(fixed: &[u8], at: usize) -> [u8; N] {
    match fixed.get(at..).and_then(<[u8]>::first_chunk::<N>) {
        Some(bytes) => *bytes,
        None => unreachable!("a field of {N} bytes at {at} lies outside its structure"),
    }
}

/// A complete frame whose checksum matches. Its bytes are a slice of the receive buffer.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The header.
    pub header: Header,
    payload: Bytes,
}

impl Frame {
    /// Everything after the header. For a [`Kind::WRITE`] this is the log entry's body.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Everything after the header, without a copy.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The same frame with its own copy of the bytes: it does not keep the receive buffer alive.
    #[must_use]
    pub fn into_owned(self) -> Self {
        Self {
            payload: Bytes::copy_from_slice(&self.payload),
            ..self
        }
    }

    /// The body, in place.
    pub fn body(&self) -> &[u8] {
        self.payload
            .get(..self.header.body_len as usize)
            .unwrap_or_default()
    }

    /// The value bytes, sharing the receive buffer.
    pub fn value(&self) -> Bytes {
        assert!(
            self.header.body_len as usize <= self.payload.len(),
            "the header was checked"
        );
        self.payload.slice(self.header.body_len as usize..)
    }
}

/// Splits received bytes into frames. One per direction of a connection.
#[derive(Clone, Copy, Debug)]
pub struct FrameParser {
    accepts: Accepts,
}

impl FrameParser {
    /// A parser for a connection that may carry `accepts`.
    pub fn new(accepts: Accepts) -> Self {
        Self { accepts }
    }

    /// Takes all complete frames out of `buffer` with one split; the rest stays there. An error comes
    /// after the good frames before it; the connection must then be closed.
    pub fn take(&self, buffer: &mut BytesMut) -> Frames {
        let mut end = 0;
        let mut error = None;
        loop {
            match Header::parse(buffer.get(end..).unwrap_or_default(), self.accepts) {
                Ok(Some(header)) if end + header.frame_bytes() <= buffer.len() => {
                    end += header.frame_bytes();
                }
                Ok(_) => break,
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
        }
        assert!(end <= buffer.len(), "a frame that is taken is complete");
        let bytes = if end == 0 {
            Bytes::new()
        } else {
            buffer.split_to(end).freeze()
        };
        Frames {
            bytes,
            error,
            accepts: self.accepts,
        }
    }

    /// Number of bytes missing until the first frame in `buffer` is complete, or until its header is if
    /// that is incomplete: the amount to reserve before the next read.
    ///
    /// # Errors
    /// The frame is refused.
    pub fn missing(&self, buffer: &[u8]) -> Result<usize, FrameError> {
        let bytes = Header::parse(buffer, self.accepts)?.map_or(HEADER_BYTES, |h| h.frame_bytes());
        Ok(bytes.saturating_sub(buffer.len()))
    }

    /// Checks that the stream may end here.
    ///
    /// # Errors
    /// `rest` is the start of an incomplete frame.
    pub fn end(&self, rest: &[u8]) -> Result<(), FrameError> {
        if rest.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Truncated { have: rest.len() })
        }
    }
}

/// The frames of one [`FrameParser::take`].
#[derive(Debug)]
pub struct Frames {
    bytes: Bytes,
    error: Option<FrameError>,
    accepts: Accepts,
}

impl Frames {
    fn cut(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = Header::parse(&self.bytes, self.accepts)? else {
            return self.error.take().map_or(Ok(None), Err);
        };
        assert!(
            header.frame_bytes() <= self.bytes.len(),
            "frames that are taken are complete"
        );
        let frame = self.bytes.split_to(header.frame_bytes());
        let found = checksum(&frame);
        if found != header.crc32c {
            return Err(FrameError::Checksum {
                expected: header.crc32c,
                found,
            });
        }
        Ok(Some(Frame {
            header,
            payload: frame.slice(HEADER_BYTES..),
        }))
    }
}

impl Iterator for Frames {
    type Item = Result<Frame, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.cut();
        if next.is_err() {
            self.bytes = Bytes::new();
            self.error = None;
        }
        next.transpose()
    }
}

/// The checksum of a frame: it covers everything except the length and the checksum itself.
fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c(frame.get(8..).unwrap_or_default())
}

/// Appends one frame to a buffer. The header comes first and is patched when the frame is sealed.
#[derive(Debug)]
pub struct FrameBuilder<'a> {
    out: &'a mut BytesMut,
    start: usize,
}

impl<'a> FrameBuilder<'a> {
    /// Starts a frame at the end of `out`.
    pub fn begin(out: &'a mut BytesMut, head: Head) -> Self {
        let start = out.len();
        let mut fixed = [0u8; HEADER_BYTES];
        {
            let mut fields = fixed.as_mut_slice();
            fields.put_u64_le(0);
            fields.put_u16_le(head.kind.0);
            fields.put_u16_le(0);
            fields.put_u32_le(0);
            fields.put_u64_le(head.request_id.0);
            fields.put_u32_le(head.shard.0);
            fields.put_u32_le(head.epoch.0);
            assert!(fields.is_empty(), "the header has all its fields");
        }
        out.extend_from_slice(&fixed);
        Self { out, start }
    }

    /// Sets the frame's flags.
    #[must_use]
    pub fn flags(self, flags: Flags) -> Self {
        let place = self.start + 10;
        match self.out.get_mut(place..place + 2) {
            Some(bytes) => bytes.copy_from_slice(&flags.0.to_le_bytes()),
            None => unreachable!("a frame's header lies in its buffer"),
        }
        self
    }

    /// Appends raw bytes to the body.
    #[must_use]
    pub fn raw(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Appends an rkyv message without nested lists to the body, without an allocation.
    #[must_use]
    pub fn flat(self, message: &impl Flat) -> Self {
        body::write_flat(self.out, message);
        self
    }

    /// Appends an rkyv message to the body.
    #[must_use]
    pub fn nested(self, message: &impl Nested) -> Self {
        body::write_nested(self.out, message);
        self
    }

    /// Like [`flat`](Self::flat), with the message's length (u32) in front of it.
    #[must_use]
    pub fn prefixed(self, message: &impl Flat) -> Self {
        let at = self.out.len();
        self.out.put_u32_le(0);
        body::write_flat(self.out, message);
        let len = u32_len(self.out.len() - at - 4);
        patch(self.out, at, len);
        self
    }

    /// Ends a frame without a value.
    pub fn seal(self) {
        self.seal_with(&[]);
    }

    /// Ends a frame and copies its value bytes after the body.
    pub fn seal_with(self, value: &[u8]) {
        let body_len = self.out.len() - self.start - HEADER_BYTES;
        self.out.extend_from_slice(value);
        self.patch(body_len, value.len(), &[]);
    }

    /// Ends a frame and copies its value bytes, the concatenation of `parts`, after the body.
    pub fn seal_parts<'p>(self, parts: impl Iterator<Item = &'p [u8]>) {
        let body_len = self.out.len() - self.start - HEADER_BYTES;
        for part in parts {
            self.out.extend_from_slice(part);
        }
        let value_len = self.out.len() - self.start - HEADER_BYTES - body_len;
        self.patch(body_len, value_len, &[]);
    }

    /// Ends a frame whose value bytes are not in the buffer: the caller sends exactly these bytes right
    /// after the frame.
    pub fn seal_detached(self, value: &[u8]) {
        let body_len = self.out.len() - self.start - HEADER_BYTES;
        self.patch(body_len, value.len(), value);
    }

    fn patch(self, body_len: usize, value_len: usize, detached: &[u8]) {
        let copied = self.out.len() - self.start - HEADER_BYTES;
        assert_eq!(
            body_len + value_len,
            copied + detached.len(),
            "the frame's length is the number of bytes sent"
        );
        patch(self.out, self.start, u32_len(body_len + value_len));
        patch(self.out, self.start + 12, u32_len(body_len));
        let frame = self.out.get(self.start..).unwrap_or_default();
        let crc = crc32c::crc32c_append(checksum(frame), detached);
        patch(self.out, self.start + 4, crc);
    }
}

fn patch(out: &mut BytesMut, at: usize, value: u32) {
    match out.get_mut(at..at + 4) {
        Some(place) => place.copy_from_slice(&value.to_le_bytes()),
        None => unreachable!("a frame's header lies in its buffer"),
    }
}

#[cfg(test)]
mod tests;
