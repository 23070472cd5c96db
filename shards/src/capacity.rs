//! How much a shard can hold: bounds on what grows with its data.
//!
//! Invariants:
//! * From [`FULL_FROM`] of a bound on, new values are refused with `Full`, long before what was accepted
//!   reaches the bound, if that is large. Any bound but 0 takes something.
//! * Nothing is written that would not be read: an edit whose manifest would be too long is refused, and the
//!   manifest before it stays in effect.

use crate::error::{Error, Result};
use crate::limits::{
    FULL_FROM, LOG_SEGMENTS_MAX, MANIFEST_BYTES_MAX, TABLES_MAX, VALUE_SEGMENTS_MAX,
};

const MANIFEST_BYTES: &str = "bytes of the manifest";

/// What grows with the data: how much there is of it, or how much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of its manifest.
    pub manifest_bytes: u64,
    /// Its tables.
    pub tables: u64,
    /// Segments of its value log.
    pub value_segments: u64,
    /// Segments of its log.
    pub log_segments: u64,
}

impl Default for Capacity {
    /// What there may be.
    fn default() -> Self {
        Self {
            manifest_bytes: MANIFEST_BYTES_MAX as u64,
            tables: TABLES_MAX as u64,
            value_segments: VALUE_SEGMENTS_MAX as u64,
            log_segments: LOG_SEGMENTS_MAX as u64,
        }
    }
}

impl Capacity {
    /// Whether a shard that has `used` takes new values.
    ///
    /// # Errors
    /// `Full`.
    pub(crate) fn takes_values(&self, used: &Self) -> Result<()> {
        let table = [
            (MANIFEST_BYTES, used.manifest_bytes, self.manifest_bytes),
            ("tables", used.tables, self.tables),
            (
                "segments of the value log",
                used.value_segments,
                self.value_segments,
            ),
            ("segments of the log", used.log_segments, self.log_segments),
        ];
        for (what, used, most) in table {
            let limit = full_from(most);
            if used >= limit {
                return Err(Error::Full { what, used, limit });
            }
        }
        Ok(())
    }

    /// Whether a manifest of that length may be written.
    ///
    /// # Errors
    /// `Full`.
    pub(crate) fn takes_manifest(&self, bytes: u64) -> Result<()> {
        match bytes > self.manifest_bytes {
            true => Err(Error::Full {
                what: MANIFEST_BYTES,
                used: bytes,
                limit: self.manifest_bytes,
            }),
            false => Ok(()),
        }
    }
}

/// From how much on a shard with that bound is full: rounded up, so that a small bound takes something.
fn full_from(most: u64) -> u64 {
    let (part, whole) = FULL_FROM;
    let limit = most / whole * part + (most % whole * part).div_ceil(whole);
    assert!(limit <= most, "a shard is full within its bound");
    assert!((limit == 0) == (most == 0), "a bound takes something");
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_full_from_three_quarters_of_any_bound() {
        let bounds = Capacity {
            manifest_bytes: 4000,
            tables: 400,
            value_segments: 40,
            log_segments: 8,
        };
        let below = Capacity {
            manifest_bytes: 2999,
            tables: 299,
            value_segments: 29,
            log_segments: 5,
        };
        bounds.takes_values(&below).unwrap();
        let full = |used: Capacity| match bounds.takes_values(&used).unwrap_err() {
            Error::Full { what, used, limit } => (what, used, limit),
            error => panic!("{error}"),
        };
        let manifest_bytes = 3000;
        let used = Capacity {
            manifest_bytes,
            ..below
        };
        assert_eq!(full(used), ("bytes of the manifest", 3000, 3000));
        let used = Capacity {
            tables: 300,
            ..below
        };
        assert_eq!(full(used), ("tables", 300, 300));
        let value_segments = 31;
        let used = Capacity {
            value_segments,
            ..below
        };
        assert_eq!(full(used), ("segments of the value log", 31, 30));
        let used = Capacity {
            log_segments: 6,
            ..below
        };
        assert_eq!(full(used), ("segments of the log", 6, 6));
    }

    #[test]
    fn a_small_bound_leaves_room_for_what_is_below_it() {
        let table = [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 3),
            (4, 3),
            (5, 4),
            (6, 5),
            (8, 6),
        ];
        for (tables, full_from) in table {
            let bounds = Capacity {
                tables,
                ..Capacity::default()
            };
            let takes = |tables| {
                let used = Capacity {
                    manifest_bytes: 0,
                    tables,
                    value_segments: 0,
                    log_segments: 0,
                };
                bounds.takes_values(&used).is_ok()
            };
            let first_full = (0..=tables).find(|used| !takes(*used));
            assert_eq!(first_full, Some(full_from), "of {tables}");
        }
    }

    #[test]
    fn a_manifest_may_be_as_long_as_is_read_and_no_longer() {
        let bounds = Capacity::default();
        let longest = MANIFEST_BYTES_MAX as u64;
        bounds.takes_manifest(longest).unwrap();
        let error = bounds.takes_manifest(longest + 1).unwrap_err();
        assert!(error.wants_room() && !error.is_no_space(), "{error}");
    }
}
