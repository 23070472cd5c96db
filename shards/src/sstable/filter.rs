//! A split-block Bloom filter: 256-bit blocks, eight bits per key, all in one cache line.
//!
//! Source: J. Apple, "Split block Bloom filters" (2021), as in Apache Parquet. At 12 bits per key
//! about 0.5 % of absent keys pass. Building costs a few nanoseconds per key, so a flush never holds
//! up its core.
//!
//! The stored form is the array of blocks: eight u32 words each, little-endian.

use crate::limits::FILTER_BITS_PER_KEY;
use bytes::Bytes;

const WORDS: usize = 8;
const BLOCK_BYTES: usize = WORDS * 4;
const SALTS: [u32; WORDS] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// The hash of a stored key, which all tables' filters share.
pub(crate) fn hash_of(stored_key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(stored_key)
}

/// The block of a hash among `blocks`.
fn block_of(hash: u64, blocks: usize) -> usize {
    let scaled = ((hash >> 32) * blocks as u64) >> 32;
    usize::try_from(scaled).unwrap_or(0)
}

/// The bit of a hash in each word.
fn masks(hash: u64) -> [u32; WORDS] {
    // The low half chooses the bits, the high half the block.
    let low = (hash & u64::from(u32::MAX)) as u32;
    SALTS.map(|salt| 1 << (low.wrapping_mul(salt) >> 27))
}

/// A filter being filled.
pub(super) struct FilterBuilder {
    blocks: Vec<[u32; WORDS]>,
}

impl FilterBuilder {
    /// A filter for about `keys` keys.
    pub(super) fn new(keys: usize) -> Self {
        let bits = (keys as u64).saturating_mul(FILTER_BITS_PER_KEY);
        let blocks = bits.div_ceil(8 * BLOCK_BYTES as u64).max(1);
        Self {
            blocks: vec![[0; WORDS]; usize::try_from(blocks).unwrap_or(1)],
        }
    }

    pub(super) fn add(&mut self, hash: u64) {
        let block = block_of(hash, self.blocks.len());
        if let Some(words) = self.blocks.get_mut(block) {
            for (word, mask) in words.iter_mut().zip(masks(hash)) {
                *word |= mask;
            }
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let words = self.blocks.into_iter().flatten();
        words.flat_map(u32::to_le_bytes).collect()
    }
}

/// A filter as it was stored.
pub(super) struct Filter {
    bytes: Bytes,
}

impl Filter {
    /// Takes a filter's payload; `None` if it cannot be one.
    pub(super) fn new(bytes: Bytes) -> Option<Self> {
        let whole = !bytes.is_empty() && bytes.len().is_multiple_of(BLOCK_BYTES);
        whole.then_some(Self { bytes })
    }

    /// Whether a key with this hash may be in the table; `false` is certain.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let start = block_of(hash, self.bytes.len() / BLOCK_BYTES) * BLOCK_BYTES;
        let block = self.bytes.get(start..start + BLOCK_BYTES).unwrap_or(&[]);
        let (words, _) = block.as_chunks::<4>();
        words
            .iter()
            .zip(masks(hash))
            .all(|(word, mask)| u32::from_le_bytes(*word) & mask != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_added_key_passes_and_few_others() {
        for keys in [0_u32, 1, 10, 1000, 20_000] {
            let mut builder = FilterBuilder::new(keys as usize);
            for key in 0..keys {
                builder.add(hash_of(&key.to_le_bytes()));
            }
            let filter = Filter::new(builder.finish().into()).unwrap();
            let passes = |key: u32| filter.may_contain(hash_of(&key.to_le_bytes()));
            assert!((0..keys).all(passes));
            let false_positives = (keys..keys + 20_000).filter(|key| passes(*key)).count();
            assert!(false_positives < 400, "{keys} keys: {false_positives}");
        }
        assert!(Filter::new(Bytes::new()).is_none());
        assert!(Filter::new(Bytes::from_static(&[0; 33])).is_none());
    }
}
