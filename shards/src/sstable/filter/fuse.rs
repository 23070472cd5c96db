//! A binary fuse filter with fingerprints of 8 bits: about 10 bits per key at the size of a
//! partition, and 0.4 % of absent keys pass.
//!
//! Source: T. M. Graf and D. Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor Filters" (2022).
//! The crate `xorf` finds the fingerprints. They are looked up here, so that what is stored means the
//! same whatever becomes of the crate.
//!
//! ```text
//! filter = seed u64 | segment length u32 | window u32 | fingerprint u8 ...
//! ```
//! The segment length is a power of two, the window (where the first of three fingerprints of a key
//! may be) a multiple of it, and there are window + 2 segments of fingerprints. Of a key's hash mixed
//! with the seed (the finalizer of MurmurHash3), the product with the window, shifted right by 64, is
//! the first place; the second and third are one and two segments on, with the hash's bits from 18
//! and from 0 on exclusive-or'ed to the place in the segment. The exclusive or of the three
//! fingerprints is the lowest byte of the hash exclusive-or its upper half.

use bytes::Buf;
use std::ops::Deref;
use xorf::BinaryFuse8;

/// Appends the filter of `hashes`, which are sorted and distinct; `false` if none was found.
pub(super) fn build(hashes: &[u64], out: &mut Vec<u8>) -> bool {
    debug_assert!(
        hashes.is_sorted_by(|one, next| one < next),
        "each hash is there once"
    );
    let Ok(filter) = BinaryFuse8::try_from(hashes) else {
        return false;
    };
    let descriptor = &filter.descriptor;
    out.extend_from_slice(&descriptor.seed.to_le_bytes());
    out.extend_from_slice(&descriptor.segment_length.to_le_bytes());
    out.extend_from_slice(&descriptor.segment_count_length.to_le_bytes());
    out.extend_from_slice(&filter.fingerprints);
    true
}

pub(in crate::sstable) struct Fuse<B> {
    seed: u64,
    segment_len: u32,
    window: u32,
    fingerprints: B,
}

impl<B: Buf + Deref<Target = [u8]>> Fuse<B> {
    pub(super) fn new(mut bytes: B) -> Option<Self> {
        let seed = bytes.try_get_u64_le().ok()?;
        let segment_len = bytes.try_get_u32_le().ok()?;
        let window = bytes.try_get_u32_le().ok()?;
        let whole = u64::from(window) + 2 * u64::from(segment_len);
        let fits = segment_len.is_power_of_two()
            && window > 0
            && window.is_multiple_of(segment_len)
            && bytes.len() as u64 == whole;
        fits.then_some(Self {
            seed,
            segment_len,
            window,
            fingerprints: bytes,
        })
    }

    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let hash = mix(hash.wrapping_add(self.seed));
        let first = (u128::from(hash) * u128::from(self.window)) >> 64;
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let segment_len = self.segment_len as usize;
        let within = |bits: u64| (bits & u64::from(self.segment_len - 1)) as usize;
        let second = (first + segment_len) ^ within(hash >> 18);
        let third = (first + 2 * segment_len) ^ within(hash);
        let fingerprint = ((hash ^ (hash >> 32)) & 0xff) as u8;
        let mut found = fingerprint;
        for place in [first, second, third] {
            // Never outside, by the checks of `new`.
            found ^= self.fingerprints.get(place).copied().unwrap_or(0);
        }
        found == 0
    }
}

/// The finalizer of MurmurHash3.
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xorf::Filter;

    #[test]
    fn it_answers_as_the_crate_that_built_it() {
        for keys in [1, 2, 5, 100, 5000] {
            let mut hashes: Vec<u64> = (0..keys).map(mix).collect();
            hashes.sort_unstable();
            let theirs = BinaryFuse8::try_from(&hashes).unwrap();
            let mut bytes = Vec::new();
            assert!(build(&hashes, &mut bytes));
            let ours = Fuse::new(bytes::Bytes::from(bytes)).unwrap();
            for number in 0..20_000 {
                let hash = mix(number);
                assert_eq!(ours.may_contain(hash), theirs.contains(&hash));
            }
        }
    }
}
