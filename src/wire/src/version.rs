//! Protocol versions and optional features.
//!
//! ```text
//! version 1
//! version 2   a shard that is full says so (`ShardFull`); the state of a storage is a `STORAGE_REPLY_2`, which
//!             says what will come back to the device; nodes introduce themselves to each other
//! version 3   nodes exchange beats and promises; a follower may answer reads
//! version 4   nodes tell each other the marks of their stores
//! version 5   nodes tell each other of the cluster map, and admit new ones; snapshots are files that the receiver asks for
//! version 6   values that do not fit in a frame travel as chunks; nodes tell what kind of value a key has
//! ```
//! A side that speaks version 1 is answered in it: see [`response::encode_for`](crate::response::encode_for).
//! What version 2 adds has kinds and tags of its own, so that an answer can be read without knowing its version.

/// The newest version that this code speaks.
pub const NEWEST: u16 = 6;
/// The oldest version that this code still speaks with clients.
pub const OLDEST: u16 = 1;
/// The oldest version that this code still speaks with other nodes.
pub const OLDEST_OF_NODES: u16 = 6;
/// The first version that knows large values. A client of an older one gets a failure in their place.
pub const LARGE_VALUES: u16 = 6;
/// Optional features of this code, one bit each. Both sides use what both have.
pub const FEATURES: u64 = 0;

/// Why two version ranges have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The other side's newest version is older than our oldest.
    TheyAreTooOld,
    /// The other side's oldest version is newer than our newest.
    TheyAreTooNew,
}

/// The version to speak with a side that speaks `oldest..=newest`, from `least` on: the newest that both know.
///
/// # Errors
/// The ranges do not meet. A range that ends before it starts counts as too old.
pub fn negotiate(least: u16, oldest: u16, newest: u16) -> Result<u16, Mismatch> {
    if newest < least || newest < oldest {
        Err(Mismatch::TheyAreTooOld)
    } else if oldest > NEWEST {
        Err(Mismatch::TheyAreTooNew)
    } else {
        let version = newest.min(NEWEST);
        assert!(
            (OLDEST..=NEWEST).contains(&version),
            "version {version} is ours"
        );
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        for (oldest, newest, expected) in [
            (1, 1, Ok(1)),
            (1, 2, Ok(2)),
            (2, 9, Ok(6)),
            (1, 4, Ok(4)),
            (1, 9, Ok(6)),
            (0, 0, Err(Mismatch::TheyAreTooOld)),
            (7, 9, Err(Mismatch::TheyAreTooNew)),
            (5, 3, Err(Mismatch::TheyAreTooOld)),
            (1, 0, Err(Mismatch::TheyAreTooOld)),
        ] {
            assert_eq!(
                negotiate(OLDEST, oldest, newest),
                expected,
                "{oldest}..={newest}"
            );
        }
    }
}
