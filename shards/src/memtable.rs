//! The newest writes of a shard, in memory and in key order.
//!
//! Invariants:
//! * The versions of a key are in descending order of sequence number.
//! * An overwritten version stays while a pinned sequence number can see it.
//! * `deletions` and `references` are sums over the versions held.
//! * `bytes` is an upper bound of the memory held, but for the last arena chunk's free end.
//! * No count falls below zero, and without versions all but the arena's are zero.

mod key;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use value::Value;

use crate::arena::Arena;
use crate::ids::{LogIndex, ValueSegmentId};
use crate::key::Space;
use crate::limits::{ARENA_CHUNK_BYTES, OWN_VALUE_BYTES_MIN};
use crate::pins::Pins;
use crate::vlog::record_bytes;
use bytes::Bytes;
use key::MapKey;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, IntoIter};
use std::ops::Bound;

/// Memory of one map entry beside the arena: 96 bytes in a node that is two thirds full.
const ENTRY_BYTES: usize = 148;

/// A value, where it is, or its absence, as of a sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyVersion {
    /// Log index of the write.
    pub(crate) at: LogIndex,
    pub(crate) value: Value,
}

/// The versions of one key.
struct Chain {
    newest: KeyVersion,
    /// Those that a pinned sequence number can see, newest first. Nearly always absent.
    #[expect(
        clippy::box_collection,
        reason = "8 bytes instead of 24 in every entry"
    )]
    older: Option<Box<Vec<KeyVersion>>>,
}

impl Chain {
    fn new(newest: KeyVersion) -> Self {
        Self {
            newest,
            older: None,
        }
    }

    /// The version that a read at `at` sees.
    fn visible(&self, at: LogIndex) -> Option<&KeyVersion> {
        if self.newest.at <= at {
            return Some(&self.newest);
        }
        self.older.as_ref()?.iter().find(|version| version.at <= at)
    }

    /// All versions, newest first.
    fn versions(&self) -> impl Iterator<Item = &KeyVersion> {
        let older = self.older.iter().flat_map(|older| older.iter());
        std::iter::once(&self.newest).chain(older)
    }
}

struct MemtableContents {
    user: BTreeMap<MapKey, Chain>,
    session: BTreeMap<MapKey, Chain>,
    system: BTreeMap<MapKey, Chain>,
    upload: BTreeMap<MapKey, Chain>,
    staged: BTreeMap<MapKey, Chain>,
    chunk: BTreeMap<MapKey, Chain>,
    arena: Arena,
    /// Memory besides the arena's.
    other_bytes: usize,
    versions: u64,
    /// Versions that are deletions.
    deletions: u64,
    /// Deletions of chunks that were put here.
    dropped_chunks: u64,
    /// Bytes of records that versions refer to, by segment.
    references: BTreeMap<ValueSegmentId, u64>,
    /// Bytes of the value log that were written for what was put here, overwritten or not.
    separated_bytes: u64,
}

impl Default for MemtableContents {
    fn default() -> Self {
        Self {
            user: BTreeMap::new(),
            session: BTreeMap::new(),
            system: BTreeMap::new(),
            upload: BTreeMap::new(),
            staged: BTreeMap::new(),
            chunk: BTreeMap::new(),
            arena: Arena::new(ARENA_CHUNK_BYTES, OWN_VALUE_BYTES_MIN),
            other_bytes: 0,
            versions: 0,
            deletions: 0,
            dropped_chunks: 0,
            references: BTreeMap::new(),
            separated_bytes: 0,
        }
    }
}

impl MemtableContents {
    fn space(&self, space: Space) -> &BTreeMap<MapKey, Chain> {
        match space {
            Space::User => &self.user,
            Space::Session => &self.session,
            Space::System => &self.system,
            Space::Upload => &self.upload,
            Space::Staged => &self.staged,
            Space::Chunk => &self.chunk,
        }
    }

    /// Bytes that a value has of its own, beside the chunks of the arena.
    fn own_bytes(&self, value: &Value) -> usize {
        match value {
            Value::Inline(value) => self.arena.own_bytes(value.len()),
            Value::Separated(_) | Value::Large(_) | Value::Deleted => 0,
        }
    }

    /// Whether the counts are those of the versions that are there.
    fn is_counted(&self) -> bool {
        let (mut versions, mut deletions, mut own_bytes) = (0, 0, 0);
        let mut references: BTreeMap<ValueSegmentId, u64> = BTreeMap::new();
        for (key, chain) in Space::ALL.iter().flat_map(|space| self.space(*space)) {
            for version in chain.versions() {
                versions += 1;
                deletions += u64::from(version.value == Value::Deleted);
                own_bytes += self.own_bytes(&version.value);
                if let Value::Separated(pointer) = &version.value {
                    *references.entry(pointer.segment).or_default() +=
                        record_bytes(key.as_slice().len(), pointer.len);
                }
            }
        }
        let count = usize::try_from(versions).unwrap_or(usize::MAX);
        (versions, deletions) == (self.versions, self.deletions)
            && own_bytes + count * ENTRY_BYTES == self.other_bytes
            && references == self.references
    }

    /// Counts one more version.
    fn added(&mut self) {
        self.versions += 1;
        self.other_bytes += ENTRY_BYTES;
    }

    /// Counts the deletion or reference of a version.
    fn refers(&mut self, key_len: usize, value: &Value) {
        match value {
            Value::Deleted => self.deletions += 1,
            Value::Inline(_) | Value::Large(_) => {}
            Value::Separated(pointer) => {
                let bytes = record_bytes(key_len, pointer.len);
                self.separated_bytes += bytes;
                *self.references.entry(pointer.segment).or_default() += bytes;
            }
        }
    }

    /// Takes the deletion or reference of a version out of the counts.
    fn forgets(&mut self, key_len: usize, value: &Value) {
        match value {
            Value::Deleted => {
                assert!(self.deletions > 0, "a deletion that goes was counted");
                self.deletions -= 1;
            }
            Value::Inline(_) | Value::Large(_) => {}
            Value::Separated(pointer) => {
                let bytes = record_bytes(key_len, pointer.len);
                let Some(left) = self.references.get_mut(&pointer.segment) else {
                    panic!("a version that goes was counted");
                };
                assert!(*left >= bytes, "a record that goes was counted");
                *left -= bytes;
                if *left == 0 {
                    self.references.remove(&pointer.segment);
                }
            }
        }
    }
}

/// A memtable. Belongs to one core; shared by the engine and the reads that go over it.
#[derive(Default)]
pub(crate) struct Memtable {
    contents: RefCell<MemtableContents>,
}

impl Memtable {
    /// Memory held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let contents = self.contents.borrow();
        contents.arena.bytes() + contents.other_bytes
    }

    /// Number of versions of all keys.
    pub(crate) fn versions(&self) -> u64 {
        self.contents.borrow().versions
    }

    /// Bytes of the value log that were written for what was put here.
    pub(crate) fn separated_bytes(&self) -> u64 {
        self.contents.borrow().separated_bytes
    }

    /// Versions that are deletions.
    pub(crate) fn deletions(&self) -> u64 {
        self.contents.borrow().deletions
    }

    /// Deletions of chunks that were put here; each gives back a chunk's bytes.
    pub(crate) fn dropped_chunks(&self) -> u64 {
        self.contents.borrow().dropped_chunks
    }

    /// Calls `each` with the segments that versions refer to, and the bytes of the records.
    pub(crate) fn for_references(&self, mut each: impl FnMut(ValueSegmentId, u64)) {
        for (segment, bytes) in &self.contents.borrow().references {
            each(*segment, *bytes);
        }
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.versions() == 0
    }

    /// Adds a version, and drops the one before if no pin can see it; returns whether it did.
    pub(crate) fn insert(
        &self,
        space: Space,
        at: LogIndex,
        key: &[u8],
        value: Value,
        pins: &Pins,
    ) -> bool {
        let contents = &mut *self.contents.borrow_mut();
        contents.other_bytes += contents.own_bytes(&value);
        let value = match value {
            // As it came it may be a slice of a far longer buffer.
            Value::Inline(value) => Value::Inline(contents.arena.copy(&value)),
            value => value,
        };
        contents.refers(key.len(), &value);
        let newest = KeyVersion { at, value };
        let map = match space {
            Space::User => &mut contents.user,
            Space::Session => &mut contents.session,
            Space::System => &mut contents.system,
            Space::Upload => &mut contents.upload,
            Space::Staged => &mut contents.staged,
            Space::Chunk => {
                contents.dropped_chunks += u64::from(newest.value == Value::Deleted);
                &mut contents.chunk
            }
        };
        let present = match MapKey::short(key) {
            Some(key) => match map.entry(key) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    entry.insert(Chain::new(newest));
                    contents.added();
                    return false;
                }
            },
            // A long key that is there keeps its bytes in the arena: it is looked for first.
            None => match map.get_mut(key) {
                Some(chain) => chain,
                None => {
                    let key = MapKey::Long(contents.arena.copy(key));
                    map.insert(key, Chain::new(newest));
                    contents.added();
                    return false;
                }
            },
        };
        assert!(present.newest.at < at, "writes are applied in log order");
        let before = std::mem::replace(&mut present.newest, newest);
        let dropped = !pins.sees(before.at, at);
        if dropped {
            let freed = contents.own_bytes(&before.value);
            assert!(
                contents.other_bytes >= freed,
                "memory that goes was counted"
            );
            contents.other_bytes -= freed;
            contents.forgets(key.len(), &before.value);
        } else {
            let older = present.older.get_or_insert_default();
            debug_assert!(older.first().is_none_or(|older| older.at < before.at));
            older.insert(0, before);
            contents.added();
        }
        debug_assert!(contents.deletions <= contents.versions);
        dropped
    }

    /// The version of `key` that a read at `at` sees.
    pub(crate) fn get(&self, space: Space, key: &[u8], at: LogIndex) -> Option<KeyVersion> {
        let contents = self.contents.borrow();
        contents.space(space).get(key)?.visible(at).cloned()
    }

    /// The keys of `range` in order with the version that a read at `at` sees, at most `count`.
    pub(crate) fn visible(
        &self,
        space: Space,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        at: LogIndex,
        count: usize,
    ) -> Vec<(Bytes, KeyVersion)> {
        let contents = self.contents.borrow();
        contents
            .space(space)
            .range::<[u8], _>(range)
            .filter_map(|(key, chain)| Some((key.to_bytes(), chain.visible(at)?.clone())))
            .take(count)
            .collect()
    }

    /// The keys of `range` in order with all their versions, newest first, at most `count` keys.
    pub(crate) fn all_versions(
        &self,
        space: Space,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        count: usize,
    ) -> Vec<(Bytes, Vec<KeyVersion>)> {
        let contents = self.contents.borrow();
        contents
            .space(space)
            .range::<[u8], _>(range)
            .take(count)
            .map(|(key, chain)| (key.to_bytes(), chain.versions().cloned().collect()))
            .collect()
    }

    /// What is left to be freed of a memtable out of use.
    pub(crate) fn into_leftovers(self) -> Leftovers {
        let contents = self.contents.into_inner();
        debug_assert!(contents.is_counted(), "counts are of what is there");
        let maps = [
            contents.user,
            contents.session,
            contents.system,
            contents.upload,
            contents.staged,
            contents.chunk,
        ];
        Leftovers {
            entries: maps.map(BTreeMap::into_iter),
            _arena: contents.arena,
        }
    }
}

/// The entries of a memtable out of use.
pub(crate) struct Leftovers {
    entries: [IntoIter<MapKey, Chain>; 6],
    /// Some keys are in it.
    _arena: Arena,
}

impl Leftovers {
    /// Frees up to `count` entries; `false` if there were fewer.
    pub(crate) fn free(&mut self, count: usize) -> bool {
        self.entries.iter_mut().flatten().take(count).count() == count
    }
}
