//! What a replica asks of another one because its own copy is damaged.
//!
//! ```text
//! FETCH (a range)           1  tag 0
//!                           8  index that the answer must have reached
//!                           8  index as of which it is to be, 0: as of what is applied
//!                           4  bytes wanted
//!                           4  length of the first stored key, 4 of the last one, 4 of the key after which to go on
//!                           n  the three keys (the last one has no bytes to begin at the first key)
//! FETCH (an outcome)        1  tag 1
//!                           8  index of the entry
//! FETCH_REPLY (a range)     1  tag 0
//!                           8  index as of which the records are
//!                           1  how it ended: 0 the range is complete, 1 more follows, 2 damage follows here too
//!                           4  count of records; these are the value of the frame:
//!                              1 kind of the value, 4 length of the stored key, 8 version, 4 length of the value, key,
//!                              value; kinds: 0 the value's bytes, 1 what a shard keeps of a large value
//! FETCH_REPLY (an outcome)  1  tag 1
//!                           1  0 applied, 1 the condition did not hold
//!                           8  version that the key had, 0: none
//! ```
//! A stored key is the tag of its space, then the key. Records come in key order, and what follows goes on after
//! the last of them. Who cannot answer says `REFUSED`.

use super::{Fields, kinds, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::ids::LogIndex;
use crate::outbox::Outbox;
use crate::width::u32_len;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a record beside key and value.
const RECORD_HEAD_BYTES: usize = 17;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchAsk {
    /// What a range of stored keys holds, both ends included.
    Range {
        /// Index that the answer must have reached.
        least: LogIndex,
        /// Index as of which the answer is to be; `None`: as of what is applied.
        at: Option<LogIndex>,
        /// Bytes of keys and values after which the answer ends.
        bytes: u32,
        /// First stored key.
        first: Bytes,
        /// Last stored key.
        last: Bytes,
        /// The key after which to go on; empty: from the first on.
        after: Bytes,
    },
    /// What became of the condition of the entry at an index.
    Outcome {
        /// The index.
        index: LogIndex,
    },
}

/// A record of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedRecord {
    /// The stored key.
    pub key: Bytes,
    /// Its version.
    pub version: LogIndex,
    /// What its value is.
    pub kind: FetchedKind,
    /// Its value.
    pub value: Bytes,
}

/// What the value of a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FetchedKind {
    /// The bytes themselves.
    #[default]
    Bytes,
    /// What a shard keeps of a large value.
    Large,
}

/// How the records of a range end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchEnd {
    /// With the range.
    Complete,
    /// There is more.
    More,
    /// What follows is damaged at the answering replica as well.
    Damaged,
}

/// The answer to a [`FetchAsk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchAnswer {
    /// To a range.
    Records {
        /// Index as of which they are.
        as_of: LogIndex,
        /// How they end.
        end: FetchEnd,
        /// In key order.
        records: Vec<FetchedRecord>,
    },
    /// To an outcome: whether the condition held, and if not, the version that the key had.
    Decided(Result<(), Option<LogIndex>>),
}

/// Appends a `FETCH`.
pub fn encode_fetch(out: &mut Outbox, head: Head, ask: &FetchAsk) {
    let mut body = BytesMut::with_capacity(64);
    match ask {
        FetchAsk::Range {
            least,
            at,
            bytes,
            first,
            last,
            after,
        } => {
            assert_ne!(*at, Some(LogIndex(0)), "nothing is as of index 0");
            body.put_u8(0);
            body.put_u64_le(least.0);
            body.put_u64_le(at.map_or(0, |at| at.0));
            body.put_u32_le(*bytes);
            for key in [first, last, after] {
                body.put_u32_le(u32_len(key.len()));
            }
            for key in [first, last, after] {
                body.put_slice(key);
            }
        }
        FetchAsk::Outcome { index } => {
            body.put_u8(1);
            body.put_u64_le(index.0);
        }
    }
    sealed(out, head, kinds::FETCH, &body);
}

/// Parses a `FETCH`.
///
/// # Errors
/// It is malformed.
pub fn parse_fetch(frame: &Frame) -> Result<FetchAsk, DecodeError> {
    let mut fields = Fields::of(frame.body(), "fetch");
    let ask = match fields.u8()? {
        0 => {
            let (least, at, bytes) = (fields.u64()?, fields.u64()?, fields.u32()?);
            let lens = [fields.u32()?, fields.u32()?, fields.u32()?];
            let mut keys = [Bytes::new(), Bytes::new(), Bytes::new()];
            for (key, len) in keys.iter_mut().zip(lens) {
                *key = fields.copied(len)?;
            }
            let [first, last, after] = keys;
            FetchAsk::Range {
                least: LogIndex(least),
                at: (at != 0).then_some(LogIndex(at)),
                bytes,
                first,
                last,
                after,
            }
        }
        1 => FetchAsk::Outcome {
            index: LogIndex(fields.u64()?),
        },
        _ => return Err(fields.malformed()),
    };
    fields.end()?;
    Ok(ask)
}

/// Appends a `FETCH_REPLY`; long values are sent from where they are.
pub fn encode_fetch_reply(out: &mut Outbox, head: Head, answer: FetchAnswer) {
    let mut body = BytesMut::with_capacity(16);
    let (as_of, end, records) = match answer {
        FetchAnswer::Decided(outcome) => {
            body.put_u8(1);
            body.put_u8(u8::from(outcome.is_err()));
            let current = outcome.err().flatten();
            body.put_u64_le(current.map_or(0, |version| version.0));
            return sealed(out, head, kinds::FETCH_REPLY, &body);
        }
        FetchAnswer::Records {
            as_of,
            end,
            records,
        } => (as_of, end, records),
    };
    body.put_u8(0);
    body.put_u64_le(as_of.0);
    body.put_u8(match end {
        FetchEnd::Complete => 0,
        FetchEnd::More => 1,
        FetchEnd::Damaged => 2,
    });
    body.put_u32_le(u32_len(records.len()));
    let kind = kinds::FETCH_REPLY;
    let frame = out.begin_mixed(Head { kind, ..head });
    out.buffer().put_slice(&body);
    for record in records {
        let buffer = out.buffer();
        buffer.put_u8(match record.kind {
            FetchedKind::Bytes => 0,
            FetchedKind::Large => 1,
        });
        buffer.put_u32_le(u32_len(record.key.len()));
        buffer.put_u64_le(record.version.0);
        buffer.put_u32_le(u32_len(record.value.len()));
        buffer.put_slice(&record.key);
        out.value(record.value);
    }
    out.seal_mixed(frame, body.len());
}

/// Parses a `FETCH_REPLY`; the records share its memory.
///
/// # Errors
/// It is malformed.
pub fn parse_fetch_reply(frame: &Frame) -> Result<FetchAnswer, DecodeError> {
    let what = "fetch reply";
    let mut fields = Fields::of(frame.body(), what);
    if fields.u8()? == 1 {
        let (has_failed, current) = (fields.flag()?, fields.u64()?);
        fields.end()?;
        let current = (current != 0).then_some(LogIndex(current));
        return match (has_failed, current) {
            (false, Some(_)) => Err(DecodeError::Malformed { what }),
            (false, None) => Ok(FetchAnswer::Decided(Ok(()))),
            (true, current) => Ok(FetchAnswer::Decided(Err(current))),
        };
    }
    let as_of = LogIndex(fields.u64()?);
    let end = match fields.u8()? {
        0 => FetchEnd::Complete,
        1 => FetchEnd::More,
        2 => FetchEnd::Damaged,
        _ => return Err(fields.malformed()),
    };
    let count = fields.u32()? as usize;
    fields.end()?;
    let mut rest = frame.value();
    // Every record takes at least its head, so a lying count costs no memory.
    if count > rest.len() / RECORD_HEAD_BYTES {
        return Err(DecodeError::Malformed { what });
    }
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let mut fields = Fields::of(&rest, what);
        let kind = match fields.u8()? {
            0 => FetchedKind::Bytes,
            1 => FetchedKind::Large,
            _ => return Err(fields.malformed()),
        };
        let key_len = fields.u32()? as usize;
        let version = LogIndex(fields.u64()?);
        let value_len = fields.u32()? as usize;
        rest.advance(RECORD_HEAD_BYTES);
        if key_len > rest.len() || value_len > rest.len() - key_len {
            return Err(DecodeError::Malformed { what });
        }
        let key = rest.split_to(key_len);
        let value = rest.split_to(value_len);
        records.push(FetchedRecord {
            key,
            version,
            kind,
            value,
        });
    }
    if !rest.is_empty() {
        return Err(DecodeError::Malformed { what });
    }
    Ok(FetchAnswer::Records {
        as_of,
        end,
        records,
    })
}
