//! Buffers for direct I/O.

/// The unit of direct I/O: offsets and lengths of writes are multiples of it.
pub const BLOCK_SIZE: usize = 4096;

/// An owned, aligned buffer of one core. Its memory goes back to the core's pool when it is dropped.
pub struct Buf {
    _todo: (),
}

impl Buf {
    /// Returns a buffer of `len` bytes whose capacity is `len` rounded up to [`BLOCK_SIZE`]. The
    /// contents are unspecified (initialised, maybe stale).
    pub fn alloc(len: usize) -> Self {
        todo!("{len}")
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shortens the buffer to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        todo!("{len}")
    }
}

impl std::ops::Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        todo!()
    }
}

impl std::ops::DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        todo!()
    }
}
