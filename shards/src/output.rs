//! The end of a file that background work writes: one buffer that fills, and a few that are being written.
//!
//! Invariants: the buffer has room left; writes are of whole blocks; a bounded number is in flight.

use crate::error::Result;
use crate::limits::{BACKGROUND_IO_BYTES, OUTPUT_WRITES_IN_FLIGHT_MAX};
use crate::planted::{Bug, is_planted};
use corelith_io::{BLOCK_SIZE, Buf, File, JoinHandle};
use std::collections::VecDeque;
use std::rc::Rc;

/// Writes a file from its front to its end.
pub(crate) struct Output {
    file: Rc<File>,
    /// Where the next byte goes.
    offset: u64,
    buffer: Buf,
    filled: usize,
    in_flight: VecDeque<JoinHandle<corelith_io::Result<()>>>,
}

impl Output {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file: Rc::new(file),
            offset: 0,
            buffer: Buf::alloc(BACKGROUND_IO_BYTES),
            filled: 0,
            in_flight: VecDeque::new(),
        }
    }

    /// Where the next byte goes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let free = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let len = free.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            if let Some(place) = free.get_mut(..len) {
                place.copy_from_slice(now);
            }
            bytes = later;
            self.advance(len).await?;
        }
        Ok(())
    }

    /// Writes zeros up to the next multiple of `unit`, of which a block is a multiple.
    pub(crate) async fn align(&mut self, unit: usize) -> Result<()> {
        debug_assert!(BLOCK_SIZE.is_multiple_of(unit), "buffers begin at blocks");
        let len = self.filled.next_multiple_of(unit) - self.filled;
        let free = self.buffer.get_mut(self.filled..).unwrap_or_default();
        if let Some(place) = free.get_mut(..len) {
            place.fill(0);
        }
        self.advance(len).await
    }

    /// Counts `len` bytes that were put into the buffer, and sends it off when it is full.
    async fn advance(&mut self, len: usize) -> Result<()> {
        self.filled += len;
        self.offset += len as u64;
        assert!(self.filled <= self.buffer.len(), "bytes fit the buffer");
        if self.filled == self.buffer.len() {
            let next = Buf::alloc(BACKGROUND_IO_BYTES);
            let full = std::mem::replace(&mut self.buffer, next);
            self.send(full).await?;
            corelith_io::yield_if_needed().await;
        }
        Ok(())
    }

    /// Starts the write of `buffer`, whose last byte is the last one counted.
    async fn send(&mut self, buffer: Buf) -> Result<()> {
        if self.in_flight.len() >= OUTPUT_WRITES_IN_FLIGHT_MAX {
            self.await_oldest().await?;
        }
        let at = self.offset - buffer.len() as u64;
        assert!(
            at.is_multiple_of(BLOCK_SIZE as u64) && buffer.len().is_multiple_of(BLOCK_SIZE),
            "writes are of whole blocks"
        );
        let file = Rc::clone(&self.file);
        let write = async move { file.write_at(at, buffer).await };
        self.in_flight
            .push_back(corelith_io::spawn_background(write));
        assert!(self.in_flight.len() <= OUTPUT_WRITES_IN_FLIGHT_MAX);
        self.filled = 0;
        Ok(())
    }

    async fn await_oldest(&mut self) -> Result<()> {
        if let Some(oldest) = self.in_flight.pop_front()
            && let Some(result) = oldest.await
        {
            result?;
        }
        Ok(())
    }

    /// Writes the rest, makes the file durable and returns its length.
    pub(crate) async fn finish(mut self) -> Result<u64> {
        if self.filled > 0 {
            let mut rest = std::mem::replace(&mut self.buffer, Buf::alloc(0));
            rest.truncate(self.filled);
            self.send(rest).await?;
        }
        while !self.in_flight.is_empty() {
            self.await_oldest().await?;
        }
        if !is_planted(Bug::SkipFileSync) {
            self.file.sync().await?;
        }
        Ok(self.offset)
    }
}
