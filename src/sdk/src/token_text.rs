//! Bytes as text that can be kept: hexadecimal digits, with a checksum at the end.

use bytes::BufMut;
use std::fmt::{self, Write as _};

/// Bytes of the checksum.
pub(crate) const CRC_BYTES: usize = 4;

/// Writes `content` and its CRC-32C (little-endian) as text.
pub(crate) fn write(f: &mut fmt::Formatter<'_>, mut content: Vec<u8>) -> fmt::Result {
    content.put_u32_le(crc32c::crc32c(&content));
    let mut text = String::with_capacity(2 * content.len());
    for byte in content {
        write!(text, "{byte:02x}")?;
    }
    f.write_str(&text)
}

/// The content of such a text, with space around it or not; `None` if it is incomplete or was changed.
pub(crate) fn read(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| (*byte as char).to_digit(16);
    let (pairs, odd) = text.trim().as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some((digit(high)? << 4 | digit(low)?) as u8))
        .collect();
    let mut bytes = bytes.filter(|_| odd.is_empty())?;
    let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
        return None;
    }
    bytes.truncate(bytes.len() - CRC_BYTES);
    Some(bytes)
}
