//! Builds the payload of a block.

use super::{DELETED, INLINE, LARGE, PARTITION, SEPARATED, STORED};
use crate::ids::LogIndex;
use crate::large::StoredLarge;
use crate::length;
use crate::limits::RESTART_INTERVAL;
use crate::sstable::format::BlockHandle;
use crate::varint;
use crate::vlog::ValuePointer;
use corelith_io::BLOCK_SIZE;

/// A value to be put into a block.
#[derive(Clone, Copy)]
pub(in crate::sstable) enum PutValue<'a> {
    Deleted,
    Inline(&'a [u8]),
    Stored(BlockHandle),
    Separated(ValuePointer),
    Partition {
        leaf: BlockHandle,
        filter: BlockHandle,
    },
    Large(StoredLarge),
}

impl PutValue<'_> {
    /// Bytes of the place and the value.
    fn len(&self) -> usize {
        match self {
            Self::Deleted => 0,
            Self::Inline(value) => varint::len(value.len() as u64) + value.len(),
            Self::Stored(handle) => handle_len(*handle),
            Self::Separated(pointer) => pointer.encoded_len(),
            Self::Partition { leaf, filter } => handle_len(*leaf) + handle_len(*filter),
            Self::Large(large) => large.as_slice().len(),
        }
    }
}

fn handle_len(handle: BlockHandle) -> usize {
    varint::len(handle.offset / BLOCK_SIZE as u64) + varint::len(u64::from(handle.len))
}

fn put_handle(handle: BlockHandle, out: &mut Vec<u8>) {
    debug_assert!(
        BlockHandle::checked(handle.offset, u64::from(handle.len)) == Some(handle),
        "a handle that would not be read"
    );
    varint::put(out, handle.offset / BLOCK_SIZE as u64);
    varint::put(out, u64::from(handle.len));
}

/// Builds the payload of a block.
pub(in crate::sstable) struct BlockBuilder {
    /// Every this many entries a key is stored whole.
    interval: usize,
    payload: Vec<u8>,
    restarts: Vec<u32>,
    entries: usize,
}

impl Default for BlockBuilder {
    fn default() -> Self {
        Self::with_interval(RESTART_INTERVAL)
    }
}

impl BlockBuilder {
    /// A builder of blocks with more or fewer restarts than usual: a lookup decodes half an interval.
    pub(in crate::sstable) fn with_interval(interval: usize) -> Self {
        Self {
            interval,
            payload: Vec::new(),
            restarts: Vec::new(),
            entries: 0,
        }
    }

    pub(in crate::sstable) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Length of the payload if it were finished now.
    pub(in crate::sstable) fn len(&self) -> usize {
        self.payload.len() + self.restarts.len() * 4 + 4
    }

    /// Length of the payload if it were finished after this entry; see [`BlockBuilder::add`].
    pub(in crate::sstable) fn len_with(
        &self,
        key: &[u8],
        shared: usize,
        at: LogIndex,
        put: &PutValue<'_>,
    ) -> usize {
        let restart = self.restarts_next();
        let shared = if restart { 0 } else { shared };
        let rest = key.len() - shared;
        let entry = varint::len(shared as u64)
            + varint::len(rest as u64)
            + 1
            + varint::len(at.0)
            + put.len()
            + rest;
        self.len() + entry + if restart { 4 } else { 0 }
    }

    fn restarts_next(&self) -> bool {
        self.entries.is_multiple_of(self.interval)
    }

    /// Adds an entry; entries come in order. `shared` is what its key has in common with the key
    /// added before.
    pub(in crate::sstable) fn add(
        &mut self,
        key: &[u8],
        shared: usize,
        at: LogIndex,
        put: PutValue<'_>,
    ) {
        assert!(shared <= key.len(), "a key shares no more than it has");
        let whole = cfg!(debug_assertions).then(|| self.len_with(key, shared, at, &put));
        let mut shared = shared;
        if self.restarts_next() {
            let offset = length::stored(self.payload.len());
            self.restarts.push(offset);
            shared = 0;
        }
        let rest = key.get(shared..).unwrap_or(&[]);
        let out = &mut self.payload;
        varint::put(out, shared as u64);
        varint::put(out, rest.len() as u64);
        out.push(match put {
            PutValue::Deleted => DELETED,
            PutValue::Inline(_) => INLINE,
            PutValue::Stored(_) => STORED,
            PutValue::Separated(_) => SEPARATED,
            PutValue::Partition { .. } => PARTITION,
            PutValue::Large(_) => LARGE,
        });
        varint::put(out, at.0);
        let mut value_bytes: &[u8] = &[];
        match put {
            PutValue::Deleted => {}
            PutValue::Inline(value) => {
                varint::put(out, value.len() as u64);
                value_bytes = value;
            }
            PutValue::Stored(handle) => put_handle(handle, out),
            PutValue::Separated(pointer) => pointer.encode(out),
            PutValue::Partition { leaf, filter } => {
                put_handle(leaf, out);
                put_handle(filter, out);
            }
            PutValue::Large(large) => out.extend_from_slice(large.as_slice()),
        }
        out.extend_from_slice(rest);
        out.extend_from_slice(value_bytes);
        self.entries += 1;
        debug_assert!(
            whole.is_none_or(|whole| whole == self.len()),
            "an entry takes what was planned"
        );
    }

    /// Returns the payload and starts the next block.
    pub(in crate::sstable) fn finish(&mut self) -> Vec<u8> {
        assert!(
            self.entries > 0,
            "a block without entries would not be read"
        );
        assert_eq!(
            self.restarts.len(),
            self.entries.div_ceil(self.interval),
            "restarts are at intervals"
        );
        let mut payload = std::mem::take(&mut self.payload);
        for restart in &self.restarts {
            payload.extend_from_slice(&restart.to_le_bytes());
        }
        let count = length::stored(self.restarts.len());
        payload.extend_from_slice(&count.to_le_bytes());
        self.restarts.clear();
        self.entries = 0;
        payload
    }

    /// Takes the memory of a finished payload for the block begun.
    pub(in crate::sstable) fn reuse(&mut self, mut memory: Vec<u8>) {
        if self.payload.capacity() == 0 {
            memory.clear();
            self.payload = memory;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sstable::block::common_prefix;

    #[test]
    fn the_length_of_the_next_entry_is_known() {
        let handle = BlockHandle {
            offset: 77 << 12,
            len: 4064,
        };
        let pointer = ValuePointer {
            segment: crate::ids::ValueSegmentId(300),
            slot: 5,
            offset: 1 << 33,
            len: 70_000,
            crc: 1,
        };
        let large = crate::LargeRef {
            upload: corelith_wire::ids::UploadId(7),
            len: 1 << 31,
            committed_us: u64::MAX,
        };
        let puts = [
            PutValue::Deleted,
            PutValue::Inline(&[9; 200]),
            PutValue::Stored(handle),
            PutValue::Separated(pointer),
            PutValue::Partition {
                leaf: handle,
                filter: handle,
            },
            PutValue::Large(large.into()),
        ];
        let mut builder = BlockBuilder::default();
        let mut last = Vec::new();
        for number in 0..100_u64 {
            let key = format!("key {number:05}").into_bytes();
            let shared = common_prefix(&last, &key);
            let put = puts[number as usize % puts.len()];
            let at = LogIndex(1 << (number % 64));
            let len = builder.len_with(&key, shared, at, &put);
            builder.add(&key, shared, at, put);
            assert_eq!(builder.len(), len);
            last = key;
        }
        let len = builder.len();
        assert_eq!(builder.finish().len(), len);
    }
}
