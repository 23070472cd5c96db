//! Whether an upload has all that a commit names.

use super::{CHUNK_BYTES, Chunks, crc};
use corelith_wire::limits::{LARGE_VALUE_BYTES_MAX, UPLOAD_PARTS_MAX};
use corelith_wire::upload::{PartLength, UploadRefusal};
use std::collections::BTreeSet;

/// The CRC-32C of the parts in order, if all their chunks are there.
///
/// # Errors
/// Why they make no value.
pub(super) fn crc32c(staged: &Chunks, parts: &[PartLength]) -> Result<u32, UploadRefusal> {
    let mut named = BTreeSet::new();
    let is_sound =
        parts.len() <= UPLOAD_PARTS_MAX && parts.iter().all(|part| named.insert(part.part));
    if !is_sound {
        return Err(UploadRefusal::Malformed);
    }
    let lens = parts.iter().map(|part| part.len);
    let len = lens.fold(0, u64::saturating_add);
    if len > LARGE_VALUE_BYTES_MAX {
        return Err(UploadRefusal::TooLarge {
            limit: LARGE_VALUE_BYTES_MAX,
        });
    }
    let mut crc32c = 0;
    for PartLength { part, len } in parts {
        let (mut left, mut next) = (*len, 0);
        let chunks = staged.range((*part, 0)..=(*part, u32::MAX));
        for ((_, chunk), content) in chunks {
            let expected = left.min(u64::from(CHUNK_BYTES));
            if *chunk != next || u64::from(content.len) != expected {
                break;
            }
            crc32c = crc::combine(crc32c, content.crc32c, content.len);
            left -= expected;
            next += 1;
        }
        // Neither less than is named nor more, which a part that ends where another chunk begins would have.
        let following = staged.range((*part, next)..=(*part, u32::MAX)).next();
        if left > 0 || following.is_some() {
            let (part, chunk) = (*part, next);
            return Err(UploadRefusal::Incomplete { part, chunk });
        }
    }
    Ok(crc32c)
}
