//! Memory for direct I/O: aligned blocks of our own, recycled per thread, and what glommio read.

use crate::buf::BLOCK_SIZE;
use crate::limits::{RECYCLED_BYTES_MAX, RECYCLED_LEN_MAX};
use glommio::io::{DmaBuffer, ReadResult};
use std::cell::RefCell;
use std::rc::Rc;

/// A block of aligned memory. Its length is a multiple of [`BLOCK_SIZE`].
pub(crate) struct DmaBlock {
    memory: Rc<DmaBuffer>,
    /// Bytes allocated; the buffer's own length is smaller after [`DmaBlock::trim`].
    capacity: usize,
}

impl DmaBlock {
    /// Takes a block from the thread's pool, or makes a zeroed one. `len` is a multiple of
    /// [`BLOCK_SIZE`] and not 0.
    pub(crate) fn take(len: usize) -> Self {
        assert!(len > 0 && len.is_multiple_of(BLOCK_SIZE));
        let recycled = POOL
            .try_with(|pool| pool.borrow_mut().take(len))
            .ok()
            .flatten();
        let block = recycled.unwrap_or_else(|| {
            let mut memory = glommio::allocate_dma_buffer_global(len);
            memory.as_bytes_mut().fill(0);
            Self {
                memory: Rc::new(memory),
                capacity: len,
            }
        });
        let bytes = block.bytes();
        assert_eq!(bytes.len(), len, "a block has the length asked for");
        assert!(
            bytes.as_ptr().addr().is_multiple_of(BLOCK_SIZE),
            "direct I/O wants aligned memory"
        );
        block
    }

    /// A block that starts with `bytes`, of which there is at least one.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut block = Self::take(bytes.len().next_multiple_of(BLOCK_SIZE));
        if let Some(to) = block.bytes_mut().and_then(|to| to.get_mut(..bytes.len())) {
            to.copy_from_slice(bytes);
        }
        block
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_bytes()
    }

    /// The bytes, to be changed: `None` while an operation in flight still owns the memory.
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Rc::get_mut(&mut self.memory).map(DmaBuffer::as_bytes_mut)
    }

    /// Shortens the block for good.
    pub(crate) fn trim(&mut self, len: usize) {
        if let Some(memory) = Rc::get_mut(&mut self.memory)
            && len < memory.len()
        {
            memory.trim_to_size(len);
        }
    }

    /// Shares the memory with an operation in flight.
    pub(crate) fn share(&self) -> Rc<DmaBuffer> {
        Rc::clone(&self.memory)
    }
}

impl Drop for DmaBlock {
    fn drop(&mut self) {
        // Memory that an abandoned operation still owns is freed when that completes.
        if Rc::strong_count(&self.memory) > 1 || self.memory.len() > RECYCLED_LEN_MAX {
            return;
        }
        let block = Idle {
            memory: Rc::clone(&self.memory),
            capacity: self.capacity,
        };
        // After the thread's pool is gone the memory is simply freed.
        let _ = POOL.try_with(|pool| pool.borrow_mut().put(block));
    }
}

/// A read's memory.
pub(crate) enum DmaRead {
    /// As glommio returned it.
    Glommio(ReadResult),
    /// A part of a block.
    Block {
        block: DmaBlock,
        start: usize,
        len: usize,
    },
}

impl DmaRead {
    /// The first `len` bytes of a block that was read into.
    pub(crate) fn of(block: DmaBlock, len: usize) -> Self {
        assert!(len <= block.bytes().len(), "a read fits its memory");
        Self::Block {
            block,
            start: 0,
            len,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Glommio(result) => result,
            Self::Block { block, start, len } => {
                let bytes = block.bytes().get(*start..).unwrap_or_default();
                bytes.get(..*len).unwrap_or_default()
            }
        }
    }

    /// The `len` bytes from `skip` on, if there are some, and so many.
    pub(crate) fn slice(self, skip: usize, len: usize) -> Option<Self> {
        match self {
            Self::Glommio(result) => ReadResult::slice(&result, skip, len).map(Self::Glommio),
            Self::Block {
                block,
                start,
                len: present,
            } => (len > 0 && skip + len <= present).then_some(Self::Block {
                block,
                start: start + skip,
                len,
            }),
        }
    }
}

impl std::ops::Deref for DmaRead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

struct Idle {
    memory: Rc<DmaBuffer>,
    capacity: usize,
}

/// Idle blocks of this thread by length in units of [`BLOCK_SIZE`]. Lengths are exact, since the
/// length of a `DmaBuffer` is what a write sends and can only shrink.
///
/// Invariants: `bytes` is the sum of the capacities and at most [`RECYCLED_BYTES_MAX`]; the memory of an
/// idle block is not shared.
struct Pool {
    by_blocks: Vec<Vec<Idle>>,
    bytes: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { by_blocks: Vec::new(), bytes: 0 }) };
}

impl Pool {
    fn take(&mut self, len: usize) -> Option<DmaBlock> {
        let idle = self.by_blocks.get_mut(len / BLOCK_SIZE)?.pop()?;
        assert_eq!(Rc::strong_count(&idle.memory), 1, "idle memory is shared");
        self.gave(idle.capacity);
        Some(DmaBlock {
            memory: idle.memory,
            capacity: idle.capacity,
        })
    }

    fn put(&mut self, block: Idle) {
        if block.capacity > RECYCLED_LEN_MAX {
            return;
        }
        while self.bytes + block.capacity > RECYCLED_BYTES_MAX {
            if !self.evict() {
                return;
            }
        }
        let blocks = block.memory.len() / BLOCK_SIZE;
        if self.by_blocks.len() <= blocks {
            self.by_blocks.resize_with(blocks + 1, Vec::new);
        }
        if let Some(list) = self.by_blocks.get_mut(blocks) {
            self.bytes += block.capacity;
            list.push(block);
        }
        assert!(self.bytes <= RECYCLED_BYTES_MAX, "the pool is bounded");
    }

    /// Counts the bytes of a block that has left.
    fn gave(&mut self, capacity: usize) {
        assert!(self.bytes >= capacity, "more left the pool than it held");
        self.bytes -= capacity;
    }

    /// Frees one block of the length that holds most of the pool, so that no length keeps the
    /// others out for good.
    fn evict(&mut self) -> bool {
        let fullest = self
            .by_blocks
            .iter_mut()
            .enumerate()
            .max_by_key(|(blocks, list)| blocks * list.len())
            .and_then(|(_, list)| list.pop());
        match fullest {
            Some(idle) => {
                self.gave(idle.capacity);
                true
            }
            None => {
                assert_eq!(self.bytes, 0, "an empty pool holds nothing");
                false
            }
        }
    }
}

/// Bytes that lie idle in this thread's pool.
pub(crate) fn idle_bytes() -> usize {
    POOL.try_with(|pool| pool.borrow().bytes).unwrap_or(0)
}
