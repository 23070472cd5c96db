//! What is to be sent next on a connection: small frames gathered in one buffer, large values kept
//! where they are.

use crate::limits::DETACH_BYTES_MIN;
use bytes::{Bytes, BytesMut};

/// Frames to be written, in order. Owned by the writer of one connection, and reused.
#[derive(Debug, Default)]
pub struct Outbox {
    buffer: BytesMut,
    /// Values that belong between the bytes of `buffer`: (offset in `buffer`, value), by offset.
    detached: Vec<(usize, Bytes)>,
    detached_bytes: usize,
}

impl Outbox {
    /// An empty one whose buffer holds `capacity` bytes before it grows.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            buffer: BytesMut::with_capacity(capacity),
            ..Self::default()
        }
    }

    /// Bytes to be written.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.detached_bytes
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer of small frames, to append whole frames to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Appends value bytes: copied if small, kept as they are if large.
    pub fn value(&mut self, value: Bytes) {
        if value.len() < DETACH_BYTES_MIN {
            self.buffer.extend_from_slice(&value);
        } else {
            self.detached_bytes += value.len();
            self.detached.push((self.buffer.len(), value));
        }
    }

    /// Everything to be written, in order.
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

    /// Forgets everything (it was written), and keeps the buffer.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.detached.clear();
        self.detached_bytes = 0;
    }
}
