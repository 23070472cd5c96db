//! What one operation of a client did and saw, as it stands in files too.

use serde::{Deserialize, Serialize};

/// What a write puts under its key: a number that no other write of the history has, or nothing.
pub type ValueId = Option<u64>;

/// The condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteCondition {
    /// None.
    Any,
    /// The key has no value.
    Absent,
    /// The key has this version.
    Version(u64),
}

impl WriteCondition {
    /// Whether it holds of a key that has this version, 0 for none.
    pub fn holds(self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => version == 0,
            Self::Version(named) => version == named && named != 0,
        }
    }
}

/// Where in a shard's log an answer was true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPoint {
    /// Of a write: the term of its entry. Of a read: a term that the log had reached by then. 0: not told.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub term: u64,
    /// The log index.
    pub index: u64,
}

impl LogPoint {
    /// A point whose term was not told.
    pub fn at(index: u64) -> Self {
        Self { term: 0, index }
    }
}

/// What was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A write that applied; its index is the key's new version. `value` is null for a delete.
    Written {
        /// What it put.
        value: ValueId,
        /// Its condition.
        condition: WriteCondition,
        /// The write's entry.
        at: LogPoint,
    },
    /// A write that was refused because its key stood at `current` (0: absent).
    Refused {
        /// Its condition.
        condition: WriteCondition,
        /// The key's version.
        current: u64,
        /// Null if the answer did not say.
        at: Option<LogPoint>,
    },
    /// A write that may have applied, or may yet.
    Unknown {
        /// What it puts.
        value: ValueId,
        /// Its condition.
        condition: WriteCondition,
    },
    /// A read that found a value with its version, or nothing.
    Read {
        /// Version and value.
        found: Option<(u64, u64)>,
        /// Where.
        at: LogPoint,
    },
}

/// One operation on one key. A page of a scan is a read of every key of its range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The client.
    pub client: u64,
    /// The shard of the key.
    pub shard: u32,
    /// The key.
    pub key: String,
    /// When it began, in nanoseconds of one clock for all clients.
    pub began: u64,
    /// When its answer was there; null: never.
    pub ended: Option<u64>,
    /// The node that it was sent to last, 0 if that is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub node: u64,
    /// What came of it.
    #[serde(flatten)]
    pub what: What,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Observation {
    /// When it ended, as far as others can have waited for it.
    pub(crate) fn end(&self) -> u64 {
        self.ended.unwrap_or(u64::MAX)
    }

    /// The point that its answer named, and whether it is that of a write.
    pub(crate) fn point(&self) -> Option<(LogPoint, bool)> {
        match &self.what {
            What::Written { at, .. } => Some((*at, true)),
            What::Read { at, .. } => Some((*at, false)),
            What::Refused { at, .. } => at.map(|at| (at, false)),
            What::Unknown { .. } => None,
        }
    }

    /// Whether it says nothing: a refusal that names neither an index nor a version is true at some time or other.
    pub(crate) fn is_empty(&self) -> bool {
        match self.what {
            What::Refused {
                condition,
                current: 0,
                at: None,
            } => !condition.holds(0),
            _ => false,
        }
    }

    /// The lowest index at which its answer can have been true, and whether that is the index of a write.
    pub(crate) fn index(&self) -> Option<(u64, bool)> {
        let lowest = match &self.what {
            What::Refused {
                current, at: None, ..
            } => return Some((*current, false)),
            _ => self.point(),
        };
        lowest.map(|(at, is_write)| (at.index, is_write))
    }
}
