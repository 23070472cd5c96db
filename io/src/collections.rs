//! Hash maps whose hashing repeats in a simulated run and cannot be flooded in a real one.

use crate::world;

/// Hashes with a seed drawn from the core's randomness when the map is made. A map that is made
/// outside of a core has a fixed seed: its keys must not be chosen by strangers.
#[derive(Clone, Debug)]
pub struct SeededState {
    state: (u64, u64),
}

impl Default for SeededState {
    fn default() -> Self {
        let state = match world::is_current() {
            true => (crate::random_u64(), crate::random_u64()),
            false => (0x6c65_726f_635f_6b31, 0x6c65_726f_635f_6b32),
        };
        Self { state }
    }
}

impl std::hash::BuildHasher for SeededState {
    #[expect(
        deprecated,
        reason = "SipHasher is the only keyed SipHash of the standard library"
    )]
    type Hasher = std::hash::SipHasher;

    #[expect(
        deprecated,
        reason = "SipHasher is the only keyed SipHash of the standard library"
    )]
    fn build_hasher(&self) -> Self::Hasher {
        std::hash::SipHasher::new_with_keys(self.state.0, self.state.1)
    }
}

/// A hash map; make it with `HashMap::default()`.
pub type HashMap<K, V> = std::collections::HashMap<K, V, SeededState>;
/// A hash set; make it with `HashSet::default()`.
pub type HashSet<T> = std::collections::HashSet<T, SeededState>;
