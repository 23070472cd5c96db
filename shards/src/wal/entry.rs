//! What the log is asked to keep: entries.

use super::format::{EntryHead, Separated};
use crate::ids::LogId;
use crate::key::Space;
use crate::length;
use crate::vlog::ValuePointer;
use bytes::Bytes;

/// One log entry. `kind` and `body` are opaque here; `body` is a slice of a larger buffer more
/// often than not (of a received frame), and is written as it came.
///
/// The body may end with a value, as `value` says. An entry with a `place` is *separated*: the
/// log's files hold only its head (the body up to the value) and the place, the value itself is in
/// the value log. In memory it has its whole body, or its head alone when it was read without its
/// value ([`Entry::is_whole`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term, leader and index.
    pub id: LogId,
    /// What the body is; a tag of the layer above.
    pub kind: u8,
    /// The bytes.
    pub body: Bytes,
    /// Which part of the whole body is a value: told by the one who appends the entry, and kept for
    /// separated entries only.
    pub value: Option<ValuePart>,
    /// Where the value is, if the entry is separated.
    pub place: Option<ValuePointer>,
}

/// The value at the end of an entry's body, and the key in front of it that the value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValuePart {
    /// Where the value starts, which is the length of the head.
    pub start: u32,
    /// Its length; it is the rest of the body.
    pub len: u32,
    /// Where the key starts; it lies in the head.
    pub key_start: u32,
    /// The key's length.
    pub key_len: u32,
    /// The key's space; one whose values may be separated.
    pub space: Space,
}

impl ValuePart {
    fn body_len(&self) -> u64 {
        u64::from(self.start) + u64::from(self.len)
    }

    /// Whether it describes a whole body of this length.
    pub(crate) fn fits(&self, body_len: usize) -> bool {
        self.body_len() == body_len as u64 && self.key_is_in_head()
    }

    pub(crate) fn key_is_in_head(&self) -> bool {
        u64::from(self.key_start) + u64::from(self.key_len) <= u64::from(self.start)
    }
}

impl Entry {
    /// Makes an entry that is not separated, of whose body nothing is known.
    pub fn new(id: LogId, kind: u8, body: Bytes) -> Self {
        Self {
            id,
            kind,
            body,
            value: None,
            place: None,
        }
    }

    /// Length of the whole body, also when only the head is here.
    pub fn whole_len(&self) -> u64 {
        self.value
            .map_or(self.body.len() as u64, |value| value.body_len())
    }

    /// Whether the whole body is here.
    pub fn is_whole(&self) -> bool {
        self.whole_len() == self.body.len() as u64
    }

    /// The entry without a value that is in the value log.
    #[must_use]
    pub fn without_separated_value(mut self) -> Self {
        let stored = self.stored_len();
        self.body.truncate(stored);
        self
    }

    /// How much of the body the log's files hold.
    fn stored_len(&self) -> usize {
        match (self.place, self.value) {
            (Some(_), Some(value)) => value.start as usize,
            _ => self.body.len(),
        }
    }

    /// The part of the body that the log's files hold, and what they say of it.
    ///
    /// # Panics
    /// If a separated entry's parts do not fit each other, or its value is not here: a bug in the
    /// caller of the log.
    pub(super) fn record(&self) -> (EntryHead, &[u8]) {
        let separated = self.place.map(|place| {
            let fitting = self.value.filter(|value| {
                value.fits(self.body.len()) && value.len == place.len && value.len > 0
            });
            let Some(value) = fitting else {
                panic!("entry {} is not what its place says", self.id);
            };
            Separated {
                key_start: value.key_start,
                key_len: value.key_len,
                space: value.space,
                place,
            }
        });
        let stored = self.body.get(..self.stored_len()).unwrap_or_default();
        let head = EntryHead {
            id: self.id,
            kind: self.kind,
            stored_len: length::stored(stored.len()),
            separated,
        };
        (head, stored)
    }

    /// Makes the entry that a record holds.
    pub(super) fn from_record(head: &EntryHead, stored: Bytes) -> Self {
        Self {
            id: head.id,
            kind: head.kind,
            body: stored,
            value: head.separated.map(|separated| ValuePart {
                start: head.stored_len,
                len: separated.place.len,
                key_start: separated.key_start,
                key_len: separated.key_len,
                space: separated.space,
            }),
            place: head.separated.map(|separated| separated.place),
        }
    }
}
