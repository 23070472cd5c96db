//! Where a separated value is.
//!
//! ```text
//! stored  = segment varint | slot varint | offset varint | value length varint | crc u32
//! ```

use crate::ids::ValueSegmentId;
use crate::varint;
use bytes::Buf;

/// Bytes of a record before its key.
const RECORD_HEADER_BYTES: u64 = 48;

/// A record carries a checksum of every page of its value, so that a part of it can be verified.
const PAGE_BYTES: u32 = 64 << 10;

/// Length of the record of a value of `len` bytes under a user key of `key_len` bytes:
/// `header [48] | key | crc u32 of each page | value`.
pub(crate) fn record_bytes(key_len: usize, len: u32) -> u64 {
    let pages = u64::from(len.div_ceil(PAGE_BYTES).max(1));
    RECORD_HEADER_BYTES + key_len as u64 + 4 * pages + u64::from(len)
}

/// Names a record of the value log. It stays true for as long as anything refers to the record:
/// collection moves records, but keeps their segment and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValuePointer {
    /// The segment.
    pub segment: ValueSegmentId,
    /// The record's number in its segment.
    pub slot: u32,
    /// Offset of the record in the first generation of the segment, in bytes.
    pub offset: u64,
    /// Length of the value in bytes.
    pub len: u32,
    /// crc32c of the record's header, which covers the checksums of all pages of the value.
    pub crc: u32,
}

impl ValuePointer {
    /// Length of the stored form.
    pub(crate) fn encoded_len(&self) -> usize {
        varint::len(self.segment.0)
            + varint::len(u64::from(self.slot))
            + varint::len(self.offset)
            + varint::len(u64::from(self.len))
            + 4
    }

    /// Appends the stored form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.segment.0);
        varint::put(out, u64::from(self.slot));
        varint::put(out, self.offset);
        varint::put(out, u64::from(self.len));
        out.extend_from_slice(&self.crc.to_le_bytes());
    }

    /// Takes a pointer from the front of `bytes`; `None` if there is none.
    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            segment: ValueSegmentId(varint::take(bytes)?),
            slot: u32::try_from(varint::take(bytes)?).ok()?,
            offset: varint::take(bytes)?,
            len: u32::try_from(varint::take(bytes)?).ok()?,
            crc: bytes.try_get_u32_le().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_a_header_its_key_a_checksum_per_page_and_its_value() {
        for (len, pages) in [(0, 1), (1, 1), (65_536, 1), (65_537, 2), (8 << 20, 128)] {
            assert_eq!(record_bytes(5, len), 48 + 5 + 4 * pages + u64::from(len));
        }
    }

    #[test]
    fn a_pointer_reads_back_and_its_parts_are_refused() {
        let pointer = ValuePointer {
            segment: ValueSegmentId(u64::MAX),
            slot: u32::MAX,
            offset: 1 << 40,
            len: 8 << 20,
            crc: 0x1234_5678,
        };
        let mut bytes = Vec::new();
        pointer.encode(&mut bytes);
        for len in 0..bytes.len() {
            assert_eq!(ValuePointer::decode(&mut &bytes[..len]), None);
        }
        assert_eq!(ValuePointer::decode(&mut bytes.as_slice()), Some(pointer));
    }
}
