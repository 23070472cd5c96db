//! Memory for copies of what lies in larger buffers, such as those that connections receive into: a slice of
//! such a buffer would keep all of it.

use bytes::{Bytes, BytesMut};

/// Hands out slices of chunks; a chunk is freed when its last slice is. What is long gets memory of its
/// own.
#[derive(Debug)]
pub(crate) struct Arena {
    chunk_bytes: usize,
    /// Length from which on a copy gets memory of its own.
    own_from: usize,
    chunk: BytesMut,
    /// Bytes of all chunks, without the free end of the current one.
    bytes: usize,
}

impl Arena {
    /// Makes an arena without memory.
    pub(crate) fn new(chunk_bytes: usize, own_from: usize) -> Self {
        assert!(own_from <= chunk_bytes, "a slice fits its chunk");
        Self {
            chunk_bytes,
            own_from,
            chunk: BytesMut::new(),
            bytes: 0,
        }
    }

    /// Bytes of chunks handed out or lost at their ends.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that a copy of that length has of its own, beside the chunks.
    pub(crate) fn own_bytes(&self, len: usize) -> usize {
        if len >= self.own_from { len } else { 0 }
    }

    /// Copies a slice.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if self.own_bytes(bytes.len()) > 0 {
            return Bytes::copy_from_slice(bytes);
        }
        let free = self.chunk.capacity();
        if free < bytes.len() {
            self.bytes += free;
            self.chunk = BytesMut::with_capacity(self.chunk_bytes);
        }
        self.bytes += bytes.len();
        debug_assert!(
            self.chunk.capacity() >= bytes.len(),
            "a slice fits its chunk"
        );
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }
}
