//! What a log entry says, and what became of it.
//!
//! The body of a write entry is the payload of the client's write frame, unchanged, so neither the
//! leader nor a follower encodes anything.
//!
//! A recorded result, as the session table keeps it for retries:
//!
//! ```text
//! offset  size
//!      0     1  tag: 1 applied, 2 conflict
//!      1     8  applied: the version given to the key; conflict: its current version, 0 if absent
//!      9     8  term of the entry that decided it
//!     17     8  index of the entry that decided it
//! ```

use bytes::Bytes;
use corelith_shards::limits::SEPARATED_VALUE_BYTES_MIN;
use corelith_shards::{LogId, LogIndex, Space, Term, ValuePart};
use corelith_wire::request::{Condition, Operation, WriteCommand};
use corelith_wire::upload::UploadState;

/// What the body of a log entry is. Numbers are never used again for something else.
pub mod kind {
    /// Nothing; a leader begins its term with one.
    pub const BLANK: u8 = 0;
    /// The members of the group.
    pub const MEMBERSHIP: u8 = 1;
    /// A put or delete.
    pub const WRITE: u8 = 2;
    /// Opens a client session, named by the entry's index.
    pub const OPEN_SESSION: u8 = 3;
    /// Begins an upload of a large value.
    pub const UPLOAD_BEGIN: u8 = 4;
    /// Brings a chunk of an upload.
    pub const UPLOAD_CHUNK: u8 = 5;
    /// Makes an upload the value of its key.
    pub const UPLOAD_COMMIT: u8 = 6;
    /// Gives an upload up.
    pub const UPLOAD_ABORT: u8 = 7;
    /// Ends uploads whose time has run out.
    pub const UPLOAD_EXPIRE: u8 = 8;
    /// Drops chunks of what is dead.
    pub const UPLOAD_DROP: u8 = 9;
}

/// A write's body, parsed: what it asks, and where in the body key and value are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) session: u64,
    pub(crate) number: u64,
    pub(crate) answered_below: u64,
    pub(crate) condition: Condition,
    /// Whether it gives the key a value.
    pub(crate) is_put: bool,
    key_start: u32,
    key_len: u32,
    value_start: u32,
}

impl Parsed {
    /// Parses a body; `None` if it makes no sense.
    pub(crate) fn of(body: &Bytes) -> Option<Self> {
        Self::from_command(body, &WriteCommand::parse(body).ok()?)
    }

    /// From what a body was parsed into; `None` if it was another body.
    pub(crate) fn from_command(body: &Bytes, command: &WriteCommand) -> Option<Self> {
        let value = part_of(body, &command.value)?;
        // The key is in the head, which ends where the value begins; an empty one too.
        let key = part_of(body, &command.key)?.min(value);
        Some(Self {
            session: command.session,
            number: command.number,
            answered_below: command.answered_below,
            condition: command.condition,
            is_put: command.operation == Operation::Put,
            key_start: u32::try_from(key).ok()?,
            key_len: u32::try_from(command.key.len()).ok()?,
            value_start: u32::try_from(value).ok()?,
        })
    }

    /// The key, in the body that was parsed or its head.
    pub(crate) fn key<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        let start = self.key_start as usize;
        let key = body.get(start..start + self.key_len as usize);
        assert!(key.is_some(), "{self:?} is of another body");
        key.unwrap_or_default()
    }

    /// The value, in the body that was parsed.
    pub(crate) fn value(&self, body: &Bytes) -> Bytes {
        let start = self.value_start as usize;
        assert!(start <= body.len(), "{self:?} is of another body");
        body.slice(start..)
    }

    /// The value and the key of a put whose value is long enough for a log to separate it.
    pub(crate) fn value_part(&self, body: &Bytes) -> Option<ValuePart> {
        let len = u32::try_from(body.len())
            .ok()?
            .checked_sub(self.value_start)?;
        (len as usize >= SEPARATED_VALUE_BYTES_MIN).then_some(ValuePart {
            start: self.value_start,
            len,
            key_start: self.key_start,
            key_len: self.key_len,
            space: Space::User,
        })
    }
}

/// Where in `body` a part begins that shares its memory. What is empty shares none: it is at the end.
fn part_of(body: &Bytes, part: &Bytes) -> Option<usize> {
    if part.is_empty() {
        return Some(body.len());
    }
    let start = part.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
    (start + part.len() <= body.len()).then_some(start)
}

/// What became of a write when its entry was applied. The same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect; `version` is the log index of the entry that made it (of an earlier entry
    /// if this one was a retry).
    Applied {
        /// The version it gave the key.
        version: LogIndex,
    },
    /// Its condition did not hold; nothing changed.
    Conflict {
        /// The key's version at that point, `None` if it had no value.
        current: Option<LogIndex>,
    },
    /// The session is not open (never was, or has expired): not applied, and it never will be.
    SessionExpired,
    /// The client has said before that this write was answered: a stray duplicate.
    Stale,
    /// Too far ahead of the writes that the client has seen answered.
    WindowFull,
    /// The entry's body made no sense; nothing changed.
    Malformed,
    /// The entry opened a session.
    SessionOpened {
        /// Its id.
        session: u64,
    },
    /// The entry was about an upload, which stands like this now.
    Upload(UploadState),
    /// The entry was blank or a membership change.
    Internal,
}

/// The entry that decided something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Its term.
    pub term: Term,
    /// Its place in the log.
    pub index: LogIndex,
}

impl From<LogId> for Decided {
    fn from(id: LogId) -> Self {
        Self {
            term: id.term,
            index: id.index,
        }
    }
}

/// The answer to a write. A retry gets the first answer, from the entry that gave it: what a later
/// entry would find may be something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteReply {
    /// The entry at which it was decided.
    pub at: Decided,
    /// What was decided.
    pub outcome: Outcome,
}

impl std::fmt::Display for WriteReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}: {:?}", self.at.term, self.at.index, self.outcome)
    }
}

/// Bytes of a recorded result.
pub const RECORD_BYTES: usize = 25;
const APPLIED: u8 = 1;
const CONFLICT: u8 = 2;

impl WriteReply {
    /// What the session table keeps of it; `None` for what is not a result of a write.
    pub fn record(self) -> Option<[u8; RECORD_BYTES]> {
        let (tag, version) = match self.outcome {
            Outcome::Applied { version } => (APPLIED, version.0),
            Outcome::Conflict { current } => (CONFLICT, current.map_or(0, |version| version.0)),
            _ => return None,
        };
        assert!(
            tag != APPLIED || version != 0,
            "a write made version 0, which says that there is none"
        );
        let mut record = [tag; RECORD_BYTES];
        let numbers = [version, self.at.term.0, self.at.index.0];
        let places = record.iter_mut().skip(1);
        for (place, byte) in places.zip(numbers.iter().flat_map(|number| number.to_le_bytes())) {
            *place = byte;
        }
        Some(record)
    }

    /// Reads what [`WriteReply::record`] wrote; `None` if it did not.
    pub fn from_record(record: &[u8]) -> Option<Self> {
        let (tag, rest) = record.split_first()?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        let (term, index) = rest.split_first_chunk::<8>()?;
        let version = u64::from_le_bytes(*version);
        let outcome = match *tag {
            APPLIED => Outcome::Applied {
                version: LogIndex(version),
            },
            // Index 0 holds the first membership, so no key has version 0.
            CONFLICT => Outcome::Conflict {
                current: (version != 0).then_some(LogIndex(version)),
            },
            _ => return None,
        };
        let at = Decided {
            term: Term(u64::from_le_bytes(*term)),
            index: LogIndex(u64::from_le_bytes(index.try_into().ok()?)),
        };
        Some(Self { at, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cluster::command;
    use corelith_wire::request::WriteRequest;

    fn write(operation: Operation, key: &[u8], value_len: usize) -> Bytes {
        let request = WriteRequest {
            session: 1,
            number: 2,
            answered_below: 1,
            condition: Condition::Absent,
            operation,
            key,
        };
        command(&request, &Bytes::from(vec![7; value_len]))
    }

    fn put(key: &[u8], value_len: usize) -> Bytes {
        write(Operation::Put, key, value_len)
    }

    #[test]
    fn the_value_of_a_put_and_its_key_are_found() {
        for (key, value_len) in [(&b""[..], 256), (b"k", 300), (&[9; 4096], 70_000)] {
            let body = put(key, value_len);
            let part = value_part(&body).unwrap();
            assert_eq!(part.len as usize, value_len);
            assert_eq!((part.start + part.len) as usize, body.len());
            let key_end = part.key_start + part.key_len;
            assert_eq!(&body[part.key_start as usize..key_end as usize], key);
            assert!(key_end <= part.start);
            // Applying reads the head as it reads the whole.
            let head = WriteCommand::parse(&body.slice(..part.start as usize)).unwrap();
            let whole = WriteCommand::parse(&body).unwrap();
            let value = Bytes::new();
            assert_eq!(head, WriteCommand { value, ..whole });
        }
    }

    fn value_part(body: &Bytes) -> Option<ValuePart> {
        Parsed::of(body)?.value_part(body)
    }

    #[test]
    fn what_is_short_or_would_be_refused_has_no_value_part() {
        let long = put(b"key", 1000);
        let mut too_far = long.to_vec();
        too_far[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let cases = [
            put(b"key", 255),
            put(b"key", 0),
            put(b"key", (8 << 20) + 1),
            long.slice(..6),
            write(Operation::Delete, b"key", 1000),
            Bytes::from(too_far),
            Bytes::new(),
        ];
        for body in cases {
            assert_eq!(value_part(&body), None, "{} bytes", body.len());
        }
    }

    #[test]
    fn what_was_parsed_gives_back_key_and_value() {
        for (key, value_len) in [(&b"key"[..], 5), (b"", 0), (b"", 7), (b"k", 0)] {
            let body = put(key, value_len);
            let parsed = Parsed::of(&body).unwrap();
            assert_eq!(parsed.key(&body), key);
            assert_eq!(parsed.value(&body), vec![7; value_len]);
        }
        let other = put(b"key", 9);
        let command = WriteCommand::parse(&put(b"key", 9)).unwrap();
        assert_eq!(Parsed::from_command(&other, &command), None);
    }

    #[test]
    fn records_read_back() {
        let outcomes = [
            Outcome::Applied {
                version: LogIndex(7),
            },
            Outcome::Conflict {
                current: Some(LogIndex(u64::MAX)),
            },
            Outcome::Conflict { current: None },
        ];
        let at = Decided {
            term: Term(3),
            index: LogIndex(1 << 40),
        };
        for outcome in outcomes {
            let reply = WriteReply { at, outcome };
            let record = reply.record().unwrap();
            assert_eq!(WriteReply::from_record(&record), Some(reply));
        }
        let expired = Outcome::SessionExpired;
        assert_eq!(
            WriteReply {
                at,
                outcome: expired
            }
            .record(),
            None
        );
        assert_eq!(WriteReply::from_record(&[9; RECORD_BYTES]), None);
        assert_eq!(WriteReply::from_record(&[1, 0]), None);
    }
}
