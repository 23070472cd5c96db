//! Reading the version and length of a value without the value.

use super::{Place, Source, source_of};
use crate::engine::Engine;
use crate::error::Result;
use crate::ids::LogIndex;

/// What is known of a value without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundHead {
    /// Log index of the write that put it there.
    pub version: LogIndex,
    /// Its length in bytes.
    pub len: u64,
}

impl Engine {
    /// The head of `key`'s current value if memory knows it: `Some(None)` is a certain miss, `None`
    /// means that disk must be asked ([`Engine::head`]).
    pub fn head_in_memory(&self, key: &[u8]) -> Option<Option<FoundHead>> {
        if let Some(version) = self.find_in_memory(key) {
            return Some(head_of(Place::Memory(version)));
        }
        let found = self.find_in_cache(key)?;
        Some(found.and_then(|(version, value)| head_of_stored(version, &value)))
    }

    /// The head of `key`'s current value. Index blocks may be read, values are not.
    ///
    /// # Errors
    /// `Io` or `Corrupt` of a table.
    pub async fn head(&self, key: &[u8]) -> Result<Option<FoundHead>> {
        let found = self.find(key).await;
        let (place, _) = self.noted(found, Some(key)).await?;
        Ok(head_of(place))
    }
}

fn head_of(place: Place) -> Option<FoundHead> {
    let (version, source) = source_of(place)?;
    let len = match source {
        Source::Bytes(bytes) => bytes.len() as u64,
        Source::Table(_, handle) => u64::from(handle.len),
        Source::Log(pointer) => u64::from(pointer.len),
    };
    Some(FoundHead { version, len })
}

fn head_of_stored(version: LogIndex, value: &crate::sstable::Value) -> Option<FoundHead> {
    use crate::sstable::Value;
    let len = match value {
        Value::Deleted => return None,
        Value::Inline(bytes) => bytes.len() as u64,
        Value::Stored(handle) => u64::from(handle.len),
        Value::Separated(pointer) => u64::from(pointer.len),
    };
    Some(FoundHead { version, len })
}
