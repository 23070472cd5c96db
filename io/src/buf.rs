//! Buffers for direct I/O.

use crate::uring::memory::{self, DmaBlock, DmaRead};
use std::ops::{Deref, DerefMut};

/// The unit of direct I/O: offsets and lengths of writes are multiples of it.
pub const BLOCK_SIZE: usize = 4096;

/// An owned, aligned buffer of one core. Its memory goes back to the core's pool when it is dropped.
///
/// Invariant: `len` is at most the length of the memory.
pub struct Buf {
    memory: Memory,
    len: usize,
}

enum Memory {
    None,
    Block(DmaBlock),
    Read(DmaRead),
}

impl Buf {
    /// Returns a buffer of `len` bytes whose capacity is `len` rounded up to [`BLOCK_SIZE`]. The
    /// contents are unspecified (initialised, maybe stale).
    pub fn alloc(len: usize) -> Self {
        #[cfg_attr(
            not(feature = "sim"),
            expect(unused_mut, reason = "the simulator fills it")
        )]
        let mut buf = Self::to_overwrite(len);
        // What an earlier simulation left in the pool must not change this one.
        #[cfg(feature = "sim")]
        if crate::world::is_simulated() {
            buf.fill(0xa5);
        }
        buf
    }

    /// As [`Buf::alloc`], for a caller that shows nobody a byte before it has written it.
    pub(crate) fn to_overwrite(len: usize) -> Self {
        let memory = match len {
            0 => Memory::None,
            len => Memory::Block(DmaBlock::take(len.next_multiple_of(BLOCK_SIZE))),
        };
        let buf = Self { memory, len };
        assert!(len <= buf.memory.bytes().len(), "a buffer fits its memory");
        buf
    }

    /// Returns a buffer of `len` bytes that are all 0.
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::to_overwrite(len);
        buf.fill(0);
        buf
    }

    pub(crate) fn from_read(read: DmaRead) -> Self {
        Self {
            len: read.bytes().len(),
            memory: Memory::Read(read),
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Shortens the buffer to `len` bytes. Allocate buffers at the length that will be written
    /// where it is known: one that is written shorter is recycled at the shorter length.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The bytes as a block that a write can own: exactly as long, a multiple of [`BLOCK_SIZE`].
    pub(crate) fn into_block(self) -> DmaBlock {
        let len = self.len;
        assert!(
            len > 0 && len.is_multiple_of(BLOCK_SIZE),
            "a write is of whole blocks"
        );
        let block = match self.memory {
            Memory::Block(mut block) => {
                block.trim(len);
                block
            }
            memory => {
                let bytes = memory.bytes().get(..len).unwrap_or_default();
                DmaBlock::copy_of(bytes)
            }
        };
        assert_eq!(block.bytes().len(), len, "a write has the buffer's length");
        block
    }

    /// Bytes of buffers of this thread that lie idle, for use by the next ones.
    pub fn idle_bytes() -> usize {
        memory::idle_bytes()
    }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Memory::None => &[],
            Memory::Block(block) => block.bytes(),
            Memory::Read(read) => read.bytes(),
        }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        debug_assert!(self.len <= self.memory.bytes().len());
        self.memory.bytes().get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // What a read returned is shared with the executor's statistics and never written in place.
        if let Memory::Read(read) = &self.memory {
            self.memory = Memory::Block(DmaBlock::copy_of(read.bytes()));
        }
        match &mut self.memory {
            Memory::Block(block) => block
                .bytes_mut()
                .and_then(|bytes| bytes.get_mut(..self.len))
                .unwrap_or_default(),
            _ => Default::default(),
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}
