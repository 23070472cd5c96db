//! Version and length of a value without the value.

use super::{FoundLarge, Lookup, Search, Sought, Stored};
use crate::engine::{Engine, Found};
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

impl From<Found> for FoundHead {
    fn from(found: Found) -> Self {
        Self {
            version: found.version,
            len: found.value.len() as u64,
        }
    }
}

impl From<Stored> for FoundHead {
    fn from(stored: Stored) -> Self {
        Self {
            version: stored.version,
            len: stored.value_len() as u64,
        }
    }
}

impl From<FoundLarge> for FoundHead {
    fn from(found: FoundLarge) -> Self {
        Self {
            version: found.version,
            len: found.large.len,
        }
    }
}

impl Lookup {
    /// The head of the value if memory knows it (`Ok(None)` is a certain miss), or the search that has to go on.
    ///
    /// # Errors
    /// The search.
    pub fn into_head(self) -> std::result::Result<Option<FoundHead>, Search> {
        match self {
            Self::Found(found) => Ok(found.map(FoundHead::from)),
            Self::Stored(stored) => Ok(Some(stored.into())),
            Self::Large(large) => Ok(Some(large.into())),
            Self::Unknown(search) => Err(search),
        }
    }
}

impl Sought {
    /// The head of the value, if there is one.
    pub fn into_head(self) -> Option<FoundHead> {
        match self {
            Self::Found(found) => found.map(FoundHead::from),
            Self::Stored(stored) => Some(stored.into()),
            Self::Large(large) => Some(large.into()),
        }
    }
}

impl Engine {
    /// The head of `key`'s current value. Index blocks may be read, separated values are not.
    ///
    /// # Errors
    /// `Io` or `Corrupt` of a table.
    pub async fn head(&self, key: &[u8]) -> Result<Option<FoundHead>> {
        match self.look_up(key).into_head() {
            Ok(head) => Ok(head),
            Err(search) => Ok(self.search(key, search).await?.into_head()),
        }
    }
}
