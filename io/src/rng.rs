//! Randomness: of the operating system in the Uring world, of the seed in the Sim world.

/// Returns 64 random bits.
pub fn random_u64() -> u64 {
    todo!()
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
