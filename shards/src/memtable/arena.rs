//! Memory for keys and small values, taken in chunks.

use crate::limits::ARENA_CHUNK_BYTES;
use bytes::{Bytes, BytesMut};

/// Hands out slices of large chunks; a chunk is freed when its last slice is.
#[derive(Default)]
pub(super) struct Arena {
    chunk: BytesMut,
    /// Bytes of all chunks, without the free end of the current one.
    bytes: usize,
}

impl Arena {
    /// Bytes handed out or lost at the ends of chunks.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies two slices, one after the other.
    pub(super) fn copy(&mut self, first: &[u8], second: &[u8]) -> (Bytes, Bytes) {
        let len = first.len() + second.len();
        let free = self.chunk.capacity();
        if free < len {
            self.bytes += free;
            self.chunk = BytesMut::with_capacity(ARENA_CHUNK_BYTES.max(len));
        }
        self.bytes += len;
        self.chunk.extend_from_slice(first);
        self.chunk.extend_from_slice(second);
        let mut first_copy = self.chunk.split().freeze();
        let second_copy = first_copy.split_off(first.len());
        (first_copy, second_copy)
    }
}
