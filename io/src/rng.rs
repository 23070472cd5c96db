//! Randomness: of the operating system in the Uring world, of the seed in the Sim world.

use crate::world::{self, World};
use std::cell::RefCell;

/// How many words one call to the operating system fetches.
const POOL_WORDS: usize = 32;

thread_local! {
    /// Random words from the operating system, not yet used.
    static POOL: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Returns 64 random bits.
pub fn random_u64() -> u64 {
    world::with(|world| match world {
        World::Uring(_) => system_u64(),
        #[cfg(feature = "sim")]
        World::Sim(core) => core.world.rng.next(),
    })
}

/// Fills `bytes` with random bytes.
pub fn fill_random(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let random = random_u64().to_le_bytes();
        for (to, from) in chunk.iter_mut().zip(random) {
            *to = from;
        }
    }
}

/// Returns 64 random bits of the operating system, whichever world this is.
fn system_u64() -> u64 {
    POOL.with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.is_empty() {
            let mut bytes = [0; POOL_WORDS * 8];
            if let Err(error) = getrandom::fill(&mut bytes) {
                panic!("the operating system gives no randomness: {error}");
            }
            let (words, _) = bytes.as_chunks::<8>();
            pool.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
        }
        pool.pop().unwrap_or_default()
    })
}
