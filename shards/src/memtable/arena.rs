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

    /// Copies a slice.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        let free = self.chunk.capacity();
        if free < bytes.len() {
            self.bytes += free;
            self.chunk = BytesMut::with_capacity(ARENA_CHUNK_BYTES.max(bytes.len()));
        }
        self.bytes += bytes.len();
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }
}
