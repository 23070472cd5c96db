//! Checking what is at rest.

use crate::limits::SCRUB_CYCLE_MIN;
use std::time::Duration;

/// How a shard checks what is at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes read per second; 0: nothing is checked.
    pub bytes_per_second: u64,
    /// A cycle over everything begins at most this often.
    pub cycle_min: Duration,
}

impl Default for ScrubOptions {
    /// Nothing is checked.
    fn default() -> Self {
        Self {
            bytes_per_second: 0,
            cycle_min: SCRUB_CYCLE_MIN,
        }
    }
}
