//! How much of what is written replaces something.
//!
//! A store that is being filled gains nothing from merging early, one that is being overwritten gets its
//! space back. The shape alone does not tell them apart, the merges do: of entries in different runs,
//! each pair has some chance to be of the same key, and a merge counts both the pairs and what it
//! dropped. Chance times entries below is how many of them a new entry replaces. (Capture and
//! recapture, as ecologists count fish.)
//!
//! It is kept in memory only. After a start it is unknown, which lies between the two extremes, until
//! the first merge.

/// Weight of what was known before a merge, against one of the same size.
const REMEMBERED: f64 = 0.5;

/// What is assumed of entries as long as nothing is known.
const UNKNOWN: f64 = 0.5;

/// An estimate of how often writes go to existing keys. Belongs to a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WriteMix {
    /// Pairs of entries of different runs that were merged.
    pairs: f64,
    /// Entries that merges dropped.
    dropped: f64,
}

impl WriteMix {
    /// Takes account of a merge in which `dropped` entries went, and so many pairs of entries might
    /// have been of the same key.
    pub(crate) fn merged(&mut self, pairs: f64, dropped: u64) {
        if pairs > 0.0 {
            self.pairs = self.pairs * REMEMBERED + pairs;
            self.dropped = self.dropped * REMEMBERED + dropped as f64;
        }
    }

    /// The share, from 0 to 1, of new entries that replace one of `existing` entries.
    pub(crate) fn replaced(&self, existing: u64) -> f64 {
        if self.pairs > 0.0 {
            (self.dropped / self.pairs * existing as f64).min(1.0)
        } else {
            UNKNOWN
        }
    }
}
