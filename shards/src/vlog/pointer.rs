//! Where a separated value is.
//!
//! ```text
//! stored  = segment varint | slot varint | offset varint | value length varint | crc u32
//! ```

use crate::ids::ValueSegmentId;
use crate::varint;
use bytes::Buf;

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

/// Bytes that the record of a value takes, without what aligns it.
pub(crate) fn record_bytes(key_len: usize, len: u32) -> u64 {
    48 + key_len as u64 + 4 * u64::from(len.div_ceil(65_536).max(1)) + u64::from(len)
}
