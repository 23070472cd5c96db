//! A block that is being filled. Records are encoded straight into the buffer that is written, so an
//! entry's bytes are copied once.

use super::format::{self, BlockHeader, EntryHead, HEADER_BYTES, Record, State};
use crate::flight;
use crate::ids::{LogIndex, Ticket};
use crate::length;
use bytes::BufMut;
use corelith_io::{BLOCK_SIZE, Buf};

/// A block of staged records; its header is written when it is submitted.
pub(crate) struct Block {
    buf: Buf,
    /// Bytes used, header included.
    len: usize,
    /// What of it the index of entries must know.
    pub(crate) entries: BlockEntries,
    /// The state after the last record that begins in this block or before.
    pub(crate) end_state: State,
    /// Place in the order of staging.
    pub(crate) sequence: u64,
    /// Highest ticket of the values that entries which begin in it refer to.
    pub(crate) values: Ticket,
    /// Bytes of those values, which stay in memory until the block is durable.
    pub(crate) value_bytes: usize,
}

/// Which entries begin in a block and are alive at its end, and what it cut off before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockEntries {
    /// First and last index of the entries.
    pub(crate) held: Option<(LogIndex, LogIndex)>,
    /// The lowest end that a truncation in the block left: `Some(None)` cut off everything.
    pub(crate) cut: Option<Option<LogIndex>>,
    /// Bytes of the entries that begin in it, values included.
    pub(crate) bytes: u64,
}

impl BlockEntries {
    pub(crate) fn begin(&mut self, index: LogIndex, bytes: u64) {
        self.bytes += bytes;
        let first = self.held.map_or(index, |(first, _)| first);
        self.held = Some((first, index));
    }

    pub(crate) fn truncate_after(&mut self, last: Option<LogIndex>) {
        self.cut = Some(match self.cut {
            Some(before) => before.min(last),
            None => last,
        });
        self.held = match (self.held, last) {
            (Some((first, end)), Some(last)) if first <= last => Some((first, end.min(last))),
            _ => None,
        };
    }

    pub(crate) fn purge(&mut self, upto: LogIndex) {
        self.held = match self.held {
            Some((first, end)) if end > upto => Some((first.max(LogIndex(upto.0 + 1)), end)),
            _ => None,
        };
    }
}

impl Block {
    /// Makes an empty block that may grow to `bytes_max`.
    pub(crate) fn new(bytes_max: usize, sequence: u64, state: State) -> Self {
        Self {
            buf: Buf::alloc(bytes_max),
            len: HEADER_BYTES,
            entries: BlockEntries::default(),
            end_state: state,
            sequence,
            values: Ticket::default(),
            value_bytes: 0,
        }
    }

    /// Makes the start block of a segment.
    pub(crate) fn start(sequence: u64, state: State) -> Self {
        let mut block = Self::new(BLOCK_SIZE, sequence, state);
        let mut out = block.unused();
        out.put_slice(&state.encode());
        block.len += format::STATE_BYTES;
        block
    }

    /// Whether nothing was put into it.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == HEADER_BYTES
    }

    /// Bytes that it can still take.
    pub(crate) fn room(&self) -> usize {
        self.buf.len() - self.len
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.len - HEADER_BYTES
    }

    /// Bytes that it takes on disk.
    pub(crate) fn disk_len(&self) -> usize {
        self.len.next_multiple_of(BLOCK_SIZE)
    }

    fn unused(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.len..).unwrap_or_default()
    }

    fn grow(&mut self, len: usize) {
        self.len += len;
        assert!(
            self.len <= self.buf.len(),
            "a block is longer than its buffer"
        );
    }

    /// Whether an entry should begin here: its header and a worthwhile part of what it stores fit.
    pub(crate) fn takes_entry(&self, head: &EntryHead) -> bool {
        let worthwhile = (head.stored_len as usize).min(BLOCK_SIZE / 8);
        self.room() >= format::FRAGMENT_HEADER_BYTES + head.header_bytes() + worthwhile
    }

    /// Begins an entry that stores `stored`, and returns how much of that went in. `values` is the
    /// ticket by which its value is durable, if it is separated.
    pub(crate) fn begin_entry(&mut self, head: &EntryHead, stored: &[u8], values: Ticket) -> usize {
        debug_assert!(self.takes_entry(head));
        let overhead = format::FRAGMENT_HEADER_BYTES + head.header_bytes();
        let here = stored.len().min(self.room().saturating_sub(overhead));
        let mut out = self.unused();
        format::put_entry_header(&mut out, head, length::stored(here));
        out.put_slice(stored.get(..here).unwrap_or_default());
        self.grow(overhead + here);
        self.entries.begin(head.id.index, head.whole_len());
        self.end_state.last = Some(head.id);
        if let Some(separated) = &head.separated {
            self.values = self.values.max(values);
            self.value_bytes += separated.place.len as usize;
        }
        here
    }

    /// Goes on with an entry begun in an earlier block and returns how much of `rest` went in.
    pub(crate) fn continue_entry(&mut self, head: &EntryHead, rest: &[u8]) -> usize {
        let here = rest
            .len()
            .min(self.room().saturating_sub(format::FRAGMENT_HEADER_BYTES));
        let mut out = self.unused();
        format::put_more_header(&mut out, head, length::stored(here), here == rest.len());
        out.put_slice(rest.get(..here).unwrap_or_default());
        self.grow(format::FRAGMENT_HEADER_BYTES + here);
        assert!(here > 0 || rest.is_empty(), "a block that takes nothing");
        here
    }

    /// Whether a record that is not an entry fits.
    pub(crate) fn takes_small_record(&self) -> bool {
        self.room() >= format::FRAGMENT_HEADER_BYTES + format::SMALL_RECORD_BYTES_MAX
    }

    /// Puts a record that is not an entry; `state` is the state after it.
    pub(crate) fn put_small_record(&mut self, record: &Record, state: State) {
        debug_assert!(self.takes_small_record());
        let len = format::put_small_record(self.unused(), record);
        self.grow(len);
        match *record {
            Record::TruncateAfter(last) => self.entries.truncate_after(last.map(|id| id.index)),
            Record::Purge(upto) => self.entries.purge(upto.index),
            Record::Vote(_) | Record::Entry(_) => {}
        }
        self.end_state = state;
    }

    /// Completes the block for its write: checksums, header, padding. `header` carries everything
    /// but the payload's length and crc. Returns the buffer and the block's crc.
    pub(crate) fn finish(mut self, mut header: BlockHeader) -> (Buf, u32) {
        let (used, _) = self.buf.split_at_mut(self.len);
        let (head, payload) = used.split_at_mut(HEADER_BYTES);
        header.payload_len = length::stored(payload.len());
        header.payload_crc = crc32c::crc32c(payload);
        let (bytes, crc) = header.encode();
        head.copy_from_slice(&bytes);
        (flight::padded(self.buf, self.len), crc)
    }
}
