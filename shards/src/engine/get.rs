//! Reading one key.

mod head;

pub use head::FoundHead;

use super::{Engine, Found};
use crate::error::Result;
use crate::ids::LogIndex;
use crate::key::{Space, SpacedKey};
use crate::large::{LargeRef, StoredLarge};
use crate::memtable::{self, Value};
use crate::sstable::{self, BlockHandle, Table, hash_of};
use crate::version::Version;
use crate::vlog::{Segments, ValuePointer};
use bytes::Bytes;
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

/// Reads see the newest version.
const NOW: LogIndex = LogIndex(u64::MAX);

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRange {
    /// Log index of the write that put the value there.
    pub version: LogIndex,
    /// Length of the whole value in bytes.
    pub len: u64,
    /// The bytes asked for, as far as the value has them.
    pub bytes: Bytes,
}

/// Where a key's newest version is.
enum KeyPlace {
    Memory(memtable::KeyVersion),
    Table(Rc<Table>, LogIndex, sstable::Value),
    Nowhere,
}

/// What the cache knows of a key in the tables.
enum CachedKey {
    Nothing,
    Value(Rc<Table>, LogIndex, sstable::Value),
}

/// What memory knows of a key's current value.
pub enum Lookup {
    /// The value, or that there is none.
    Found(Option<Found>),
    /// The value is there, and has to be read.
    Stored(Stored),
    /// The value is large.
    Large(FoundLarge),
    /// The tables have to be asked.
    Unknown(Search),
}

/// Where the search of a key ended.
pub enum Sought {
    /// The value, or that there is none.
    Found(Option<Found>),
    /// The value is there, and has to be read.
    Stored(Stored),
    /// The value is large.
    Large(FoundLarge),
}

/// A large value as it was found: its bytes are chunks of an upload (see [`Space::Chunk`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundLarge {
    /// Log index of the commit that put it there.
    pub version: LogIndex,
    /// What it is.
    pub large: LargeRef,
}

/// A search that no memtable ended. It keeps the files that may hold the key.
pub struct Search {
    tables: Rc<Version>,
    segments: Rc<Segments>,
}

/// A value that was found but not read. It keeps the file that holds it.
pub struct Stored {
    version: LogIndex,
    at: StoredAt,
    segments: Rc<Segments>,
}

enum StoredAt {
    Table(Rc<Table>, BlockHandle),
    Log(ValuePointer),
}

impl Stored {
    /// Length of the value in bytes.
    pub fn value_len(&self) -> usize {
        match &self.at {
            StoredAt::Table(_, handle) => handle.len as usize,
            StoredAt::Log(pointer) => pointer.len as usize,
        }
    }
}

/// A value that is there, and where its bytes are.
enum ValueSource {
    Bytes(Bytes),
    Table(Rc<Table>, BlockHandle),
    Log(ValuePointer),
    Large(StoredLarge),
}

/// Counts the reads that had to ask several runs: enough of them pay for merging the runs. Belongs to one core.
#[derive(Default)]
pub(super) struct Searches {
    count: Cell<u64>,
    /// The count from which on a merge pays, until that has been told.
    due: Cell<Option<u64>>,
}

impl Searches {
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    pub(super) fn due_from(&self, due: Option<u64>) {
        self.due.set(due);
    }

    /// Begins anew: runs were merged.
    pub(super) fn reset(&self) {
        self.count.set(0);
    }

    /// Counts one; returns whether a merge pays from now on.
    pub(super) fn add(&self) -> bool {
        let count = self.count.get() + 1;
        self.count.set(count);
        let is_due = self.due.get().is_some_and(|due| count >= due);
        if is_due {
            self.due.set(None);
        }
        is_due
    }
}

impl Engine {
    /// The version of `key`'s current value, `None` if it has none. Memory only where possible.
    ///
    /// # Errors
    /// `Io` or `Corrupt` of a table.
    pub async fn version_of(&self, key: &[u8]) -> Result<Option<LogIndex>> {
        let found = self.find(Space::User.key(key)).await;
        Ok(match self.noted(found, None).await?.0 {
            KeyPlace::Memory(version) => is_there(&version).then_some(version.at),
            KeyPlace::Table(_, _, sstable::Value::Deleted) | KeyPlace::Nowhere => None,
            KeyPlace::Table(_, at, _) => Some(at),
        })
    }

    /// The version of `key`'s current value if memory knows it: `Some(None)` is a certain miss,
    /// `None` means that disk must be asked ([`Engine::version_of`]).
    pub fn version_in_memory(&self, key: &[u8]) -> Option<Option<LogIndex>> {
        let key = Space::User.key(key);
        match self.find_in_memory(key) {
            Some(version) => Some(is_there(&version).then_some(version.at)),
            None => match self.find_in_cache(key)? {
                CachedKey::Value(_, _, sstable::Value::Deleted) | CachedKey::Nothing => Some(None),
                CachedKey::Value(_, at, _) => Some(Some(at)),
            },
        }
    }

    /// What memory knows of the current value of `key`. It notes one search of the memtables, which
    /// [`Engine::search`] goes on from.
    pub fn look_up(&self, key: &[u8]) -> Lookup {
        // One step: a flush or collection cannot move the key or its value in between.
        let key = Space::User.key(key);
        let segments = self.inner.values.segments();
        let place = match self.find_in_memory(key) {
            Some(version) => KeyPlace::Memory(version),
            None => match self.find_in_cache(key) {
                Some(CachedKey::Nothing) => KeyPlace::Nowhere,
                Some(CachedKey::Value(table, at, value)) => KeyPlace::Table(table, at, value),
                None => {
                    let tables = Rc::clone(&self.inner.state.borrow().version);
                    return Lookup::Unknown(Search { tables, segments });
                }
            },
        };
        match sought(place, segments) {
            Sought::Found(found) => Lookup::Found(found),
            Sought::Stored(stored) => Lookup::Stored(stored),
            Sought::Large(large) => Lookup::Large(large),
        }
    }

    /// Goes on with a search of `key` in the tables.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` of a table.
    pub async fn search(&self, key: &[u8], search: Search) -> Result<Sought> {
        let Search { tables, segments } = search;
        let key = Space::User.key(key);
        let found = self.find_in_tables(key, &tables).await;
        let place = self.noted(found, Some(key)).await?;
        Ok(sought(place, segments))
    }

    /// Reads the value of `key` that was found to be stored there.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` of a table or of the value log.
    pub async fn read(&self, key: &[u8], stored: Stored) -> Result<Found> {
        self.read_spaced(Space::User.key(key), stored).await
    }

    async fn read_spaced(&self, key: SpacedKey<'_>, stored: Stored) -> Result<Found> {
        let found = self.read_stored(key, stored).await;
        self.noted(found, Some(key)).await
    }

    async fn read_stored(&self, key: SpacedKey<'_>, stored: Stored) -> Result<Found> {
        let version = stored.version;
        let value = match stored.at {
            StoredAt::Table(table, handle) => table.stored(handle).await?,
            StoredAt::Log(pointer) => {
                let values = &self.inner.values;
                values.read(&stored.segments, pointer, Some(key)).await?
            }
        };
        Ok(Found { version, value })
    }

    /// The current value of `key` if it is in memory: `Some(None)` is a certain miss, `None` means
    /// that disk must be asked ([`Engine::get`]).
    pub fn get_in_memory(&self, key: &[u8]) -> Option<Option<Found>> {
        match self.look_up(key) {
            Lookup::Found(found) => Some(found),
            Lookup::Stored(_) | Lookup::Large(_) | Lookup::Unknown(_) => None,
        }
    }

    /// The current value of `key`.
    ///
    /// # Errors
    /// `IsLarge` if it is large; `Io`, or `Corrupt` of a table or of the value log.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Found>> {
        let stored = match self.look_up(key) {
            Lookup::Found(found) => return Ok(found),
            Lookup::Stored(stored) => stored,
            Lookup::Large(found) => return Err(found.large.is_no_bytes()),
            Lookup::Unknown(search) => match self.search(key, search).await? {
                Sought::Found(found) => return Ok(found),
                Sought::Stored(stored) => stored,
                Sought::Large(found) => return Err(found.large.is_no_bytes()),
            },
        };
        self.read(key, stored).await.map(Some)
    }

    /// The bytes `range` of the current value of `key`, fewer where the value ends before. Of a
    /// value in the value log only the pages that the range touches are read.
    ///
    /// # Errors
    /// As [`Engine::get`].
    pub async fn get_range(&self, key: &[u8], range: Range<u64>) -> Result<Option<FoundRange>> {
        self.spaced_range(Space::User.key(key), range).await
    }

    async fn spaced_range(
        &self,
        key: SpacedKey<'_>,
        range: Range<u64>,
    ) -> Result<Option<FoundRange>> {
        let found = self.look_up_range(key, range).await;
        self.noted(found, Some(key)).await
    }

    /// The value of a row of the shard's own, `None` if it has none.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` of a table or of the value log.
    pub async fn row(&self, space: Space, key: &[u8]) -> Result<Option<Found>> {
        let key = space.key(key);
        let found = self.find(key).await;
        let (place, segments) = self.noted(found, None).await?;
        match sought(place, segments) {
            Sought::Found(found) => Ok(found),
            Sought::Stored(stored) => self.read_spaced(key, stored).await.map(Some),
            Sought::Large(found) => Err(found.large.is_no_bytes()),
        }
    }

    /// The bytes `range` of the value of a row, as [`Engine::get_range`].
    ///
    /// # Errors
    /// As [`Engine::row`].
    pub async fn row_range(
        &self,
        space: Space,
        key: &[u8],
        range: Range<u64>,
    ) -> Result<Option<FoundRange>> {
        self.spaced_range(space.key(key), range).await
    }

    async fn look_up_range(
        &self,
        key: SpacedKey<'_>,
        range: Range<u64>,
    ) -> Result<Option<FoundRange>> {
        let (place, segments) = self.find(key).await?;
        let Some((version, source)) = source_of(place) else {
            return Ok(None);
        };
        let whole = match source {
            ValueSource::Large(large) => return Err(large.get().is_no_bytes()),
            ValueSource::Bytes(bytes) => bytes,
            ValueSource::Table(table, handle) => table.stored(handle).await?,
            ValueSource::Log(pointer) => {
                let len = u64::from(pointer.len);
                let range = range.start.min(len)..range.end.min(len).max(range.start.min(len));
                let bytes = self
                    .inner
                    .values
                    .read_range(&segments, pointer, range)
                    .await?;
                return Ok(Some(FoundRange {
                    version,
                    len,
                    bytes,
                }));
            }
        };
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(whole.len());
        let start = place(range.start);
        Ok(Some(FoundRange {
            version,
            len: whole.len() as u64,
            bytes: whole.slice(start..place(range.end).max(start)),
        }))
    }

    async fn find(&self, key: SpacedKey<'_>) -> Result<(KeyPlace, Rc<Segments>)> {
        // One step: a flush or collection cannot move the key or its value in between.
        let segments = self.inner.values.segments();
        if let Some(version) = self.find_in_memory(key) {
            return Ok((KeyPlace::Memory(version), segments));
        }
        let tables = Rc::clone(&self.inner.state.borrow().version);
        let place = self.find_in_tables(key, &tables).await?;
        Ok((place, segments))
    }

    async fn find_in_tables(&self, key: SpacedKey<'_>, tables: &Version) -> Result<KeyPlace> {
        let stored_key = key.stored();
        let hash = hash_of(&stored_key);
        let mut asked = 0;
        let mut place = KeyPlace::Nowhere;
        for table in tables.candidates(&stored_key) {
            asked += 1;
            let said = table.ask(&stored_key, hash, NOW);
            if said.excludes() {
                continue;
            }
            let found = table.get_asked(&stored_key, hash, NOW, &said).await?;
            if let Some((at, value)) = found {
                place = KeyPlace::Table(Rc::clone(table), at, value);
                break;
            }
        }
        self.note_search(asked);
        Ok(place)
    }

    /// Notes a read that has asked `asked` runs.
    fn note_search(&self, asked: usize) {
        if asked > 1 && self.inner.searches.add() {
            self.inner.background.wake();
        }
    }

    fn find_in_memory(&self, key: SpacedKey<'_>) -> Option<memtable::KeyVersion> {
        self.inner.pace.meter.note_read();
        let state = self.inner.state.borrow();
        let active = state.active.get(key.space, key.key, NOW);
        active.or_else(|| {
            let mut frozen = state.frozen.iter().rev();
            frozen.find_map(|frozen| frozen.memtable.get(key.space, key.key, NOW))
        })
    }

    /// What the tables hold of `key`, if all blocks that it takes to know are in the cache.
    fn find_in_cache(&self, key: SpacedKey<'_>) -> Option<CachedKey> {
        let state = self.inner.state.borrow();
        let stored_key = key.stored();
        let hash = hash_of(&stored_key);
        let mut asked = 0;
        let mut found = CachedKey::Nothing;
        for table in state.version.candidates(&stored_key) {
            asked += 1;
            let said = table.ask(&stored_key, hash, NOW);
            if said.excludes() {
                continue;
            }
            // A read with I/O names the damage, if there is some.
            let cached = table.get_cached(&stored_key, hash, NOW, &said)?.ok()?;
            if let Some((at, value)) = cached {
                found = CachedKey::Value(Rc::clone(table), at, value);
                break;
            }
        }
        self.note_search(asked);
        Some(found)
    }
}

/// What is known of a value at `place`.
fn sought(place: KeyPlace, segments: Rc<Segments>) -> Sought {
    let Some((version, source)) = source_of(place) else {
        return Sought::Found(None);
    };
    let at = match source {
        ValueSource::Bytes(value) => return Sought::Found(Some(Found { version, value })),
        ValueSource::Table(table, handle) => StoredAt::Table(table, handle),
        ValueSource::Log(pointer) => StoredAt::Log(pointer),
        ValueSource::Large(large) => {
            let large = large.get();
            return Sought::Large(FoundLarge { version, large });
        }
    };
    Sought::Stored(Stored {
        version,
        at,
        segments,
    })
}

fn is_there(version: &memtable::KeyVersion) -> bool {
    version.value != Value::Deleted
}

fn source_of(place: KeyPlace) -> Option<(LogIndex, ValueSource)> {
    match place {
        KeyPlace::Memory(version) => match version.value {
            Value::Deleted => None,
            Value::Inline(bytes) => Some((version.at, ValueSource::Bytes(bytes))),
            Value::Separated(pointer) => Some((version.at, ValueSource::Log(pointer))),
            Value::Large(large) => Some((version.at, ValueSource::Large(large))),
        },
        KeyPlace::Table(table, at, value) => match value {
            sstable::Value::Deleted => None,
            sstable::Value::Inline(bytes) => Some((at, ValueSource::Bytes(bytes))),
            sstable::Value::Stored(handle) => Some((at, ValueSource::Table(table, handle))),
            sstable::Value::Separated(pointer) => Some((at, ValueSource::Log(pointer))),
            sstable::Value::Large(large) => Some((at, ValueSource::Large(large))),
        },
        KeyPlace::Nowhere => None,
    }
}
