//! The frames to send next on a connection: small frames are gathered in one buffer, large values are
//! not copied.

use crate::frame::{FrameBuilder, Head};
use crate::limits::{DETACH_BYTES_MIN, HEADER_BYTES};
use crate::width::u32_len;
use bytes::{Bytes, BytesMut};

/// Frames to send, in order. The writer of one connection owns and reuses it.
#[derive(Debug, Default)]
pub struct Outbox {
    buffer: BytesMut,
    /// Values to send between the bytes of `buffer`: (offset in `buffer`, value), sorted by offset.
    detached: Vec<(usize, Bytes)>,
    detached_bytes: usize,
}

/// An unfinished frame, see [`Outbox::begin_mixed`].
#[derive(Debug)]
pub(crate) struct MixedFrame {
    start: usize,
    detached: usize,
    detached_bytes: usize,
}

impl Outbox {
    /// An empty outbox whose buffer holds `capacity` bytes before it grows.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            buffer: BytesMut::with_capacity(capacity),
            ..Self::default()
        }
    }

    /// Number of bytes to send.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.detached_bytes
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer of small frames, to append whole frames to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Appends value bytes; copies small values, keeps a reference to large ones.
    pub fn value(&mut self, value: Bytes) {
        if value.len() < DETACH_BYTES_MIN {
            self.buffer.extend_from_slice(&value);
        } else {
            self.detached_bytes += value.len();
            self.detached.push((self.buffer.len(), value));
        }
    }

    /// Begins a frame with any number of values; write its body and values, then
    /// [`Outbox::seal_mixed`].
    pub(crate) fn begin_mixed(&mut self, head: Head) -> MixedFrame {
        let frame = MixedFrame {
            start: self.buffer.len(),
            detached: self.detached.len(),
            detached_bytes: self.detached_bytes,
        };
        FrameBuilder::begin(&mut self.buffer, head);
        frame
    }

    /// Ends the frame; its first `body_len` bytes after the header are the body.
    pub(crate) fn seal_mixed(&mut self, frame: MixedFrame, body_len: usize) {
        let MixedFrame {
            start,
            detached,
            detached_bytes,
        } = frame;
        let len = self.len() - detached_bytes - start - HEADER_BYTES;
        assert!(
            body_len <= len,
            "a body of {body_len} bytes in a frame of {len}"
        );
        assert!(
            detached <= self.detached.len(),
            "values were removed from an unfinished frame"
        );
        self.patch(start, len);
        self.patch(start + 12, body_len);
        let mut from = start + 8;
        let mut crc = 0;
        for (at, value) in self.detached.get(detached..).unwrap_or_default() {
            crc = crc32c::crc32c_append(crc, self.buffer.get(from..*at).unwrap_or_default());
            crc = crc32c::crc32c_append(crc, value);
            from = *at;
        }
        crc = crc32c::crc32c_append(crc, self.buffer.get(from..).unwrap_or_default());
        self.patch(start + 4, crc as usize);
    }

    fn patch(&mut self, at: usize, value: usize) {
        let value = u32_len(value);
        match self.buffer.get_mut(at..at + 4) {
            Some(place) => place.copy_from_slice(&value.to_le_bytes()),
            None => unreachable!("a frame's header lies in its buffer"),
        }
    }

    /// Everything to send, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        let between = self.detached.iter().flat_map(move |(at, value)| {
            let small = self.buffer.get(from..*at).unwrap_or_default();
            from = *at;
            [small, value.as_ref()]
        });
        let last = self.detached.last().map_or(0, |(at, _)| *at);
        let rest = self.buffer.get(last..).unwrap_or_default();
        between.chain([rest]).filter(|slice| !slice.is_empty())
    }

    /// Drops everything, after it was sent, and keeps the buffer.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.detached.clear();
        self.detached_bytes = 0;
    }
}
