//! Internal keys: (space, user key, sequence number descending).
//!
//! In a memtable each space is a map of its own. In a table the space is the first byte of the
//! stored key, and entries are ordered by stored key (bytewise), then by sequence number descending,
//! so that the first entry at or after (key, n) is the newest version that a read at n may see.

use crate::ids::LogIndex;
use std::cmp::Ordering;

/// Separates user keys from the shard's own records, so that one flush covers all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Space {
    /// Keys of users.
    User = 0,
    /// Client sessions, keyed by session id (big-endian).
    Session = 1,
    /// The shard's own settings (last membership and the like).
    System = 2,
}

impl Space {
    /// All spaces, in the order in which tables hold them.
    pub(crate) const ALL: [Self; 3] = [Self::User, Self::Session, Self::System];

    /// The first byte of this space's stored keys.
    pub(crate) fn tag(self) -> u8 {
        self as u8
    }

    /// `key` of this space as tables store it.
    pub(crate) fn stored_key(self, key: &[u8]) -> Vec<u8> {
        let mut stored = Vec::with_capacity(key.len() + 1);
        stored.push(self.tag());
        stored.extend_from_slice(key);
        stored
    }

    /// The space and key of a stored key; `None` if there is no such space.
    pub(crate) fn of_stored(stored: &[u8]) -> Option<(Self, &[u8])> {
        let (tag, key) = stored.split_first()?;
        let space = Self::ALL.into_iter().find(|space| space.tag() == *tag)?;
        Some((space, key))
    }
}

/// The order of entries in a table.
pub(crate) fn compare(left: (&[u8], LogIndex), right: (&[u8], LogIndex)) -> Ordering {
    left.0.cmp(right.0).then_with(|| right.1.cmp(&left.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_come_first_and_spaces_do_not_mix() {
        let ordered: [(Vec<u8>, LogIndex); 6] = [
            (Space::User.stored_key(b""), LogIndex(1)),
            (Space::User.stored_key(b"a"), LogIndex(9)),
            (Space::User.stored_key(b"a"), LogIndex(2)),
            (Space::User.stored_key(b"a\0"), LogIndex(10)),
            (Space::User.stored_key(b"\xff\xff"), LogIndex(1)),
            (Space::Session.stored_key(b""), LogIndex(1)),
        ];
        for (left, right) in ordered.iter().zip(&ordered[1..]) {
            assert_eq!(
                compare((&left.0, left.1), (&right.0, right.1)),
                Ordering::Less
            );
        }
        for space in Space::ALL {
            assert_eq!(
                Space::of_stored(&space.stored_key(b"k")),
                Some((space, &b"k"[..]))
            );
        }
        assert_eq!(Space::of_stored(b""), None);
        assert_eq!(Space::of_stored(b"\x03k"), None);
    }
}
