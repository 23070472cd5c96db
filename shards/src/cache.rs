//! Blocks of tables kept in memory, up to a budget.
//!
//! The policy is that of the crate `quick_cache`, a CLOCK-Pro close to S3-FIFO: a new block is on
//! probation and leaves soon unless it is used again; a queue of ghosts remembers who left too early.
//! So a stream of blocks that are read once passes through and displaces nothing. Long scans and
//! compactions do not use the cache at all.
//!
//! Filters and index leaves share the budget with data blocks: a fixed division would be wrong for
//! either small or large values. One of them serves the reads of a hundred data blocks, so it is
//! inserted as used once already: it is not evicted at the end of its probation but joins the blocks that
//! stay.
//!
//! Invariant: the weights of the blocks held are at most the budget.

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

/// Memory of an entry beside its bytes: its place in the map and in a queue, the allocation's header,
/// and its share of the ghosts.
const ENTRY_BYTES: usize = 160;

/// A typical block; from it follows how many ghosts are kept.
const BLOCK_BYTES_TYPICAL: usize = 6 << 10;

/// No block may take more than this part of the budget, so that none evicts most others.
const BLOCK_SHARE_MAX: usize = 8;

/// The number of a file and the offset of a block in it.
type Place = (u64, u64);

/// Hashes a place. Its numbers are not chosen by clients, so the hash needs no secret and is the same in every
/// run.
#[derive(Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        let halves = [product & u128::from(u64::MAX), product >> 64];
        let [low, high] = halves.map(|half| u64::try_from(half).unwrap_or(0));
        self.0 = (low ^ high).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Place, Bytes> for Weight {
    fn weight(&self, _place: &Place, payload: &Bytes) -> u64 {
        (payload.len() + ENTRY_BYTES) as u64
    }
}

type Blocks =
    Cache<Place, Bytes, Weight, BuildHasherDefault<PlaceHasher>, DefaultLifecycle<Place, Bytes>>;

/// What a cache and the filters in it have done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Blocks that were found.
    pub hits: u64,
    /// Blocks that had to be read.
    pub misses: u64,
    /// Searches of a table that its filter ended.
    pub filter_negatives: u64,
    /// Searches of a table that its filter let pass.
    pub filter_positives: u64,
    /// Those of them that found nothing.
    pub false_positives: u64,
    /// Bytes held now, with the memory that each block takes beside its bytes.
    pub bytes: u64,
}

struct CacheInner {
    blocks: RefCell<Blocks>,
    budget_bytes: usize,
    next_file: Cell<u64>,
    counters: Cell<CacheCounters>,
}

/// The block cache of one core, which all its shards share; clones share it.
#[derive(Clone)]
pub struct BlockCache {
    inner: Rc<CacheInner>,
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache").finish_non_exhaustive()
    }
}

impl BlockCache {
    /// A cache that holds up to `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Self {
        let items = (budget_bytes / BLOCK_BYTES_TYPICAL).max(1);
        let blocks = Cache::with(
            items,
            budget_bytes as u64,
            Weight,
            BuildHasherDefault::default(),
            DefaultLifecycle::default(),
        );
        Self {
            inner: Rc::new(CacheInner {
                blocks: RefCell::new(blocks),
                budget_bytes,
                next_file: Cell::new(0),
                counters: Cell::default(),
            }),
        }
    }

    /// A number that names a file here for as long as it is open. Not its table's id: a shard that
    /// is opened again may give the id of an orphan to another table, whose blocks would be mixed up.
    pub(crate) fn next_file_number(&self) -> u64 {
        let number = self.inner.next_file.get();
        self.inner.next_file.set(number + 1);
        number
    }

    /// The payload of a block, if it is held.
    pub(crate) fn get(&self, file: u64, offset: u64) -> Option<Bytes> {
        self.inner.blocks.borrow().get(&(file, offset)).cloned()
    }

    /// What `look` sees in the payload of a block, if it is held.
    pub(crate) fn with<T>(
        &self,
        file: u64,
        offset: u64,
        look: impl FnOnce(&Bytes) -> T,
    ) -> Option<T> {
        let blocks = self.inner.blocks.borrow();
        blocks.get(&(file, offset)).map(look)
    }

    /// Holds the payload of a block, and lets go of others beyond the budget. `serves_many` is for
    /// filters and index leaves.
    pub(crate) fn insert(&self, file: u64, offset: u64, payload: Bytes, serves_many: bool) {
        if payload.len() + ENTRY_BYTES > self.inner.budget_bytes / BLOCK_SHARE_MAX {
            return;
        }
        let place = (file, offset);
        let mut blocks = self.inner.blocks.borrow_mut();
        blocks.insert(place, payload);
        if serves_many {
            blocks.get(&place);
        }
        assert!(
            blocks.weight() <= self.inner.budget_bytes as u64,
            "the cache is bounded"
        );
    }

    /// What it has done.
    pub fn counters(&self) -> CacheCounters {
        let blocks = self.inner.blocks.borrow();
        let weights = || blocks.iter().map(|(place, it)| Weight.weight(place, it));
        debug_assert_eq!(
            blocks.weight(),
            weights().sum::<u64>(),
            "the cache counts what it holds"
        );
        CacheCounters {
            bytes: blocks.weight(),
            ..self.inner.counters.get()
        }
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut CacheCounters)) {
        let mut counters = self.inner.counters.get();
        change(&mut counters);
        self.inner.counters.set(counters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    #[test]
    fn the_budget_is_never_exceeded() {
        let budget = 256 << 10;
        let cache = BlockCache::new(budget);
        let mut state = 1_u64;
        let mut found = 0;
        for _ in 0..50_000 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let number = (state >> 40) % 300;
            // A block has one length, whenever it is read.
            let len = 1 + (number as usize * 7919) % 40_000;
            match cache.get(number % 3, number) {
                Some(payload) => {
                    assert_eq!(payload.len(), len);
                    found += 1;
                }
                None => cache.insert(number % 3, number, block(len), number.is_multiple_of(5)),
            }
            assert!(cache.counters().bytes <= budget as u64);
        }
        assert!(found > 500, "{found}");
        assert!(cache.counters().bytes > budget as u64 / 2);
    }

    #[test]
    fn too_large_a_block_and_a_budget_of_nothing_are_harmless() {
        let cache = BlockCache::new(64 << 10);
        cache.insert(1, 0, block(8 << 10), false);
        assert!(cache.get(1, 0).is_none());
        let none = BlockCache::new(0);
        none.insert(1, 0, block(10), true);
        assert!(none.get(1, 0).is_none());
    }

    #[test]
    fn blocks_in_use_stay_while_a_stream_passes() {
        let cache = BlockCache::new(1 << 20);
        for offset in 0..50 {
            cache.insert(0, offset, block(4000), offset < 10);
        }
        let mut found = 0;
        for offset in 0..20_000 {
            cache.insert(1, offset, block(4000), false);
            // The first ten are an index, asked for now and then.
            found += usize::from(offset % 200 == 0 && cache.get(0, (offset / 200) % 10).is_some());
        }
        assert!(found >= 95, "{found} of 100");
        let streamed = (0..19_000).filter(|offset| cache.get(1, *offset).is_some());
        assert!(streamed.count() < 300);
    }

    #[test]
    fn files_are_told_apart() {
        let cache = BlockCache::new(1 << 20);
        let (first, second) = (cache.next_file_number(), cache.clone().next_file_number());
        cache.insert(first, 4096, block(1), false);
        cache.insert(second, 4096, block(2), false);
        assert_eq!(cache.get(first, 4096).unwrap().len(), 1);
        assert_eq!(cache.get(second, 4096).unwrap().len(), 2);
        assert!(cache.get(first, 8192).is_none());
    }

    #[test]
    fn hashes_of_places_differ_in_their_low_and_high_bits() {
        use std::hash::BuildHasher;
        let hasher = BuildHasherDefault::<PlaceHasher>::default();
        let mut low = std::collections::BTreeSet::new();
        let mut high = std::collections::BTreeSet::new();
        for file in 0..64_u64 {
            for block in 0..64_u64 {
                let hash = hasher.hash_one((file, block << 12));
                low.insert(hash & 0xffff);
                high.insert(hash >> 48);
            }
        }
        // 4096 draws of 65,536: about 3970 different ones.
        assert!(low.len() > 3800 && high.len() > 3800);
    }
}
