//! Reading one key.

use super::{Engine, Found};
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::key::Space;
use crate::memtable::Version;
use crate::sstable::{Table, Value, hash_of};
use bytes::Bytes;
use std::rc::Rc;

/// Reads see the newest version.
const NOW: LogIndex = LogIndex(u64::MAX);

/// Where a key's newest version is.
enum Place {
    Memory(Version),
    Table(Rc<Table>, LogIndex, Value),
    Nowhere,
}

impl Engine {
    /// The version of `key`'s current value, `None` if it has none. Memory only where possible.
    ///
    /// # Errors
    /// `Io` or `Corrupt` of a table.
    pub async fn version_of(&self, key: &[u8]) -> Result<Option<LogIndex>> {
        Ok(match self.find(key).await? {
            Place::Memory(version) => version.value.map(|_| version.at),
            Place::Table(_, _, Value::Deleted) | Place::Nowhere => None,
            Place::Table(_, at, _) => Some(at),
        })
    }

    /// The version of `key`'s current value if memory knows it: `Some(None)` is a certain miss,
    /// `None` means that disk must be asked ([`Engine::version_of`]).
    pub fn version_in_memory(&self, key: &[u8]) -> Option<Option<LogIndex>> {
        match self.find_in_memory(key) {
            Some(version) => Some(version.value.map(|_| version.at)),
            None => self.candidates(key).is_empty().then_some(None),
        }
    }

    /// The current value of `key` if it is in memory: `Some(None)` is a certain miss, `None` means
    /// that disk must be asked ([`Engine::get`]).
    pub fn get_in_memory(&self, key: &[u8]) -> Option<Option<Found>> {
        match self.find_in_memory(key) {
            Some(version) => Some(found(version)),
            None => self.candidates(key).is_empty().then_some(None),
        }
    }

    /// The current value of `key`.
    ///
    /// # Errors
    /// `Io` or `Corrupt` of a table.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Found>> {
        Ok(match self.find(key).await? {
            Place::Memory(version) => found(version),
            Place::Table(table, version, value) => value_in(&table, &value)
                .await?
                .map(|value| Found { version, value }),
            Place::Nowhere => None,
        })
    }

    async fn find(&self, key: &[u8]) -> Result<Place> {
        if let Some(version) = self.find_in_memory(key) {
            return Ok(Place::Memory(version));
        }
        // Same step as the look at the memtables: a flush cannot move the key in between.
        let candidates = self.candidates(key);
        if candidates.is_empty() {
            return Ok(Place::Nowhere);
        }
        let stored_key = Space::User.stored_key(key);
        let hash = hash_of(&stored_key);
        for table in candidates {
            if let Some((at, value)) = table.get(&stored_key, hash, NOW).await? {
                return Ok(Place::Table(table, at, value));
            }
        }
        Ok(Place::Nowhere)
    }

    fn find_in_memory(&self, key: &[u8]) -> Option<Version> {
        let state = self.inner.state.borrow();
        let active = state.active.get(Space::User, key, NOW);
        active.or_else(|| {
            let mut frozen = state.frozen.iter().rev();
            frozen.find_map(|frozen| frozen.memtable.get(Space::User, key, NOW))
        })
    }

    /// The tables that may hold `key`, newest first.
    fn candidates(&self, key: &[u8]) -> Vec<Rc<Table>> {
        let state = self.inner.state.borrow();
        if state.tables.is_empty() {
            return Vec::new();
        }
        let stored_key = Space::User.stored_key(key);
        let hash = hash_of(&stored_key);
        let tables = state.tables.iter();
        let candidates = tables.filter(|table| table.excludes(&stored_key, hash) != Some(true));
        candidates.cloned().collect()
    }
}

/// The bytes of a value found in `table`; `None` if deleted.
pub(super) async fn value_in(table: &Table, value: &Value) -> Result<Option<Bytes>> {
    match value {
        Value::Deleted => Ok(None),
        Value::Inline(bytes) => Ok(Some(bytes.clone())),
        Value::Stored(handle) => table.stored(*handle).await.map(Some),
        Value::Separated(_) => Err(Error::Corrupt {
            file: table.name(),
            offset: 0,
            what: "a separated value, but the shard has no value log",
        }),
    }
}

fn found(version: Version) -> Option<Found> {
    Some(Found {
        version: version.at,
        value: version.value?,
    })
}
