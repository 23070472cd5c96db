//! How much a shard can hold: bounds on what grows with its data.
//!
//! Invariants:
//! * From [`FULL_FROM`] of a bound on, new values are refused with `Full`, long before what was accepted
//!   reaches the bound.
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
            let limit = most / FULL_FROM.1 * FULL_FROM.0;
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
    fn a_manifest_may_be_as_long_as_is_read_and_no_longer() {
        let bounds = Capacity::default();
        let longest = MANIFEST_BYTES_MAX as u64;
        bounds.takes_manifest(longest).unwrap();
        let error = bounds.takes_manifest(longest + 1).unwrap_err();
        assert!(error.wants_room() && !error.is_no_space(), "{error}");
    }
}
