//! Internal keys: (space, user key, sequence number descending).
//!
//! In a memtable each space is a map of its own. In a table the space is the first byte of the
//! stored key, and entries are ordered by stored key (bytewise), then by sequence number descending,
//! so that the first entry at or after (key, n) is the newest version that a read at n may see.

use crate::ids::LogIndex;
use corelith_wire::ids::{ChunkId, UploadId};
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

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
    /// Uploads and manifests of large values, keyed by upload id (big-endian).
    Upload = 3,
    /// Chunks of open uploads: length and checksum, keyed as [`Space::Chunk`].
    Staged = 4,
    /// The bytes of chunks, keyed by [`ChunkId::key`](corelith_wire::ids::ChunkId::key).
    Chunk = 5,
}

/// A key with its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpacedKey<'a> {
    /// The space.
    pub space: Space,
    /// The key in it.
    pub key: &'a [u8],
}

impl<'a> SpacedKey<'a> {
    /// It as tables store it.
    pub(crate) fn stored(self) -> Vec<u8> {
        self.space.stored_key(self.key)
    }

    /// The key that tables store so; `None` if there is no such space.
    pub(crate) fn of_stored(stored: &'a [u8]) -> Option<Self> {
        let (space, key) = Space::of_stored(stored)?;
        Some(Self { space, key })
    }
}

impl Space {
    /// All spaces, in the order in which tables hold them.
    pub(crate) const ALL: [Self; 6] = [
        Self::User,
        Self::Session,
        Self::System,
        Self::Upload,
        Self::Staged,
        Self::Chunk,
    ];

    /// The first byte of this space's stored keys.
    pub(crate) fn tag(self) -> u8 {
        self as u8
    }

    /// The space with that tag, if there is one.
    pub(crate) fn of_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|space| space.tag() == tag)
    }

    /// `key` in this space.
    #[must_use]
    pub fn key(self, key: &[u8]) -> SpacedKey<'_> {
        SpacedKey { space: self, key }
    }

    /// Whether it is of rows that entries of the log put and delete one by one.
    pub(crate) fn is_of_rows(self) -> bool {
        matches!(self, Self::Upload | Self::Staged | Self::Chunk)
    }

    /// Whether values of this space may lie in the value log.
    pub(crate) fn is_separable(self) -> bool {
        matches!(self, Self::User | Self::Chunk)
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
        Some((Self::of_tag(*tag)?, key))
    }
}

impl fmt::Display for SpacedKey<'_> {
    /// As people read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_ascii();
        let chunk = ChunkId::of_key(self.key);
        match (self.space, UploadId::of_key(self.key), chunk) {
            (Space::User, ..) => write!(f, "\"{key}\""),
            (Space::Session, ..) => write!(f, "session {key}"),
            (Space::System, ..) => write!(f, "setting {key}"),
            (Space::Upload, Some(id), _) => write!(f, "upload {id}"),
            (Space::Staged, _, Some(id)) => write!(f, "staged chunk {id}"),
            (Space::Chunk, _, Some(id)) => write!(f, "chunk {id}"),
            (space, ..) => write!(f, "{space:?} {key}"),
        }
    }
}

/// The order of entries in a table.
pub(crate) fn compare(left: (&[u8], LogIndex), right: (&[u8], LogIndex)) -> Ordering {
    left.0.cmp(right.0).then_with(|| right.1.cmp(&left.1))
}

/// Finds places among sorted keys without touching the keys: eight bytes of each lie side by side.
#[derive(Default)]
pub(crate) struct Prefixes {
    /// Leading bytes that all keys have in common.
    skip: usize,
    prefixes: Vec<u64>,
}

impl Prefixes {
    /// Of sorted keys, all of which lie from `first` to `last`.
    pub(crate) fn new<'a>(first: &[u8], last: &[u8], keys: impl Iterator<Item = &'a [u8]>) -> Self {
        let shared = first
            .iter()
            .zip(last)
            .take_while(|(one, other)| one == other);
        let skip = shared.count();
        Self {
            skip,
            prefixes: keys.map(|key| prefix(key, skip)).collect(),
        }
    }

    /// The keys that `key`, which lies from `first` to `last` too, must be compared with: those
    /// before the range are below it, those behind it above.
    pub(crate) fn undecided(&self, key: &[u8]) -> Range<usize> {
        let wanted = prefix(key, self.skip);
        let start = self.prefixes.partition_point(|prefix| *prefix < wanted);
        let rest = self.prefixes.get(start..).unwrap_or_default();
        start..start + rest.partition_point(|prefix| *prefix == wanted)
    }
}

/// Eight bytes of a key from `skip` on, as a number that orders as they do.
fn prefix(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(eight) => u64::from_be_bytes(*eight),
        None => {
            let mut eight = [0; 8];
            if let Some(place) = eight.get_mut(..rest.len()) {
                place.copy_from_slice(rest);
            }
            u64::from_be_bytes(eight)
        }
    }
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
        assert_eq!(Space::of_stored(b"\x06k"), None);
    }

    #[test]
    fn prefixes_leave_few_keys_to_compare() {
        let keys: Vec<Vec<u8>> = (0..2000_u32)
            .map(|number| format!("common/{:05}", number * 3).into_bytes())
            .chain(["common/1", "common/10", "common/10\0"].map(|key| key.into()))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let (first, last) = (keys.first().unwrap(), keys.last().unwrap());
        let prefixes = Prefixes::new(first, last, keys.iter().map(Vec::as_slice));
        let wanted = (0..6000_u32).map(|number| format!("common/{number:05}").into_bytes());
        for wanted in wanted.chain(keys.iter().cloned()) {
            if wanted < *first || wanted > *last {
                continue;
            }
            let range = prefixes.undecided(&wanted);
            assert!(keys[..range.start].iter().all(|key| *key < wanted));
            assert!(keys[range.end..].iter().all(|key| *key > wanted));
            assert!(range.len() <= 4, "{range:?}");
        }
    }
}
