//! Filters: which stored keys may be in a part of a table.
//!
//! ```text
//! payload = kind u8 | filter                     kind 1: see bloom.rs, kind 2: see fuse.rs
//! ```
//! In version 1 a payload is a Bloom filter without a kind.

mod bloom;
mod fuse;

use super::options::FilterKind;
use bytes::Bytes;

const BLOOM: u8 = 1;
const FUSE: u8 = 2;

/// The hash of a stored key, which all tables' filters share.
pub(crate) fn hash_of(stored_key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(stored_key)
}

/// Puts the filter of keys with these hashes into `out`; repetitions are removed from `hashes`.
pub(super) fn build(kind: FilterKind, hashes: &mut Vec<u64>, out: &mut Vec<u8>) {
    out.clear();
    match kind {
        FilterKind::Fuse => {
            // The construction wants each hash once, and two keys may share one.
            hashes.sort_unstable();
            hashes.dedup();
            out.push(FUSE);
            if !fuse::build(hashes, out) {
                out.clear();
                build(FilterKind::Bloom, hashes, out);
            }
        }
        FilterKind::Bloom => {
            out.push(BLOOM);
            bloom::build(hashes, out);
        }
    }
    debug_assert!(
        hashes.iter().all(|hash| passes(out, *hash) == Some(true)),
        "a filter has every key"
    );
}

/// A filter as it was stored.
pub(super) enum Filter {
    Bloom(bloom::Bloom<Bytes>),
    Fuse(fuse::Fuse<Bytes>),
}

/// Whether a key with this hash may be where a filter with this payload says; `false` is certain,
/// and `None` that it cannot be the payload of one.
pub(super) fn passes(payload: &[u8], hash: u64) -> Option<bool> {
    let (kind, filter) = payload.split_first()?;
    match *kind {
        BLOOM => Some(bloom::Bloom::new(filter)?.may_contain(hash)),
        FUSE => Some(fuse::Fuse::new(filter)?.may_contain(hash)),
        _ => None,
    }
}

impl Filter {
    /// Takes a filter's payload; `None` if it cannot be one.
    pub(super) fn new(payload: Bytes) -> Option<Self> {
        match payload.first() {
            Some(&BLOOM) => bloom::Bloom::new(payload.slice(1..)).map(Self::Bloom),
            Some(&FUSE) => fuse::Fuse::new(payload.slice(1..)).map(Self::Fuse),
            _ => None,
        }
    }

    /// As [`Filter::new`], of a table of version 1.
    pub(super) fn of_version_1(payload: Bytes) -> Option<Self> {
        bloom::Bloom::new(payload).map(Self::Bloom)
    }

    /// Whether a key with this hash may be there; `false` is certain.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        match self {
            Self::Bloom(bloom) => bloom.may_contain(hash),
            Self::Fuse(fuse) => fuse.may_contain(hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: u32) -> u64 {
        hash_of(&key.to_le_bytes())
    }

    fn payload(kind: FilterKind, keys: u32) -> Bytes {
        // Every key twice, as those are whose versions fill several blocks.
        let mut hashes: Vec<u64> = (0..keys).chain(0..keys).map(hash).collect();
        let mut out = vec![7; 3];
        build(kind, &mut hashes, &mut out);
        out.into()
    }

    #[test]
    fn every_added_key_passes_and_few_others() {
        for kind in [FilterKind::Bloom, FilterKind::Fuse] {
            for keys in [1_u32, 2, 3, 10, 100, 1000, 8192] {
                let filter = Filter::new(payload(kind, keys)).unwrap();
                assert!((0..keys).all(|key| filter.may_contain(hash(key))));
                let others = keys..keys + 20_000;
                let passed = others.filter(|key| filter.may_contain(hash(*key))).count();
                // 0.4 % for fuse; far less for Bloom, to which every key is given twice.
                let limit = match kind {
                    FilterKind::Fuse if keys >= 1000 => 160,
                    FilterKind::Bloom if keys >= 1000 => 8,
                    _ => 500,
                };
                assert!(passed < limit, "{kind:?} of {keys} keys: {passed}");
            }
        }
    }

    #[test]
    fn filters_take_the_bits_they_are_meant_to() {
        let bits = |kind| payload(kind, 8192).len() * 8 / 8192;
        // Every key is given twice, which Bloom does not notice.
        assert_eq!(bits(FilterKind::Bloom), 40);
        assert!(bits(FilterKind::Fuse) <= 10);
    }

    #[test]
    fn a_dozen_bloom_filters_let_less_than_one_absent_key_in_a_hundred_pass() {
        let mut hashes: Vec<u64> = (0..8000).map(hash).collect();
        let mut out = Vec::new();
        build(FilterKind::Bloom, &mut hashes, &mut out);
        let filter = Filter::new(out.into()).unwrap();
        let others = 8000..208_000;
        let passed = others.filter(|key| filter.may_contain(hash(*key))).count();
        assert!(12 * passed < 2000, "{passed} of 200,000");
    }

    #[test]
    fn what_cannot_be_a_filter_is_refused() {
        for kind in [FilterKind::Bloom, FilterKind::Fuse] {
            let whole = payload(kind, 100);
            for len in 0..whole.len() {
                let cut = Filter::new(whole.slice(..len));
                if let Some(filter) = cut {
                    // Some shorter Bloom filter; asking it is harmless.
                    filter.may_contain(u64::MAX);
                }
            }
            for place in 0..21.min(whole.len()) {
                for bit in 0..8 {
                    let mut damaged = whole.to_vec();
                    damaged[place] ^= 1 << bit;
                    if let Some(filter) = Filter::new(damaged.into()) {
                        (0..500).for_each(|key| {
                            filter.may_contain(hash(key));
                        });
                    }
                }
            }
        }
        assert!(Filter::new(Bytes::new()).is_none());
        assert!(Filter::new(Bytes::from_static(&[9; 33])).is_none());
        assert!(Filter::new(Bytes::from_static(&[BLOOM])).is_none());
        assert!(Filter::of_version_1(Bytes::from_static(&[0; 33])).is_none());
    }
}
