//! The requests of clients.

use crate::body::access;
use crate::error::DecodeError;
use crate::frame::{Flags, FrameBuilder, Head, Kind};
use crate::limits::{self, DETACH_BYTES_MIN, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::outbox::Outbox;
use bytes::Bytes;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// The condition of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize)]
#[repr(u8)]
pub enum Condition {
    /// Always.
    #[default]
    Any = 0,
    /// If the key has no value.
    Absent = 1,
    /// If the key's value has this version.
    Version(u64) = 2,
}

/// The kind of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
#[repr(u8)]
pub enum Operation {
    /// Sets the key's value.
    Put = 0,
    /// Deletes the key.
    Delete = 1,
}

/// Body of a [`Kind::WRITE`]; the value of a put follows it outside of rkyv.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct WriteRequest<'a> {
    /// The session's id, assigned by the shard.
    pub session: u64,
    /// Number of this write within the session, from 1.
    pub number: u64,
    /// Every write with a lower number is answered and will not be sent again.
    pub answered_below: u64,
    /// When it applies.
    pub condition: Condition,
    /// Put or delete.
    pub operation: Operation,
    /// The key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
}

/// Appends a write. The payload of its frame is `u32 body_len | body | value`, which is a log
/// entry's body as it stands.
pub fn encode_write(out: &mut Outbox, head: Head, request: &WriteRequest<'_>, value: &Bytes) {
    let head = head.of_kind(Kind::WRITE);
    let frame = FrameBuilder::begin(out.buffer(), head).prefixed(request);
    if value.len() < DETACH_BYTES_MIN {
        frame.seal_with(value);
    } else {
        frame.seal_detached(value);
        out.value(value.clone());
    }
}

/// A write as it arrived: the payload of its frame, which is also the body of its log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteCommand {
    /// See [`WriteRequest`].
    pub session: u64,
    /// See [`WriteRequest`].
    pub number: u64,
    /// See [`WriteRequest`].
    pub answered_below: u64,
    /// See [`WriteRequest`].
    pub condition: Condition,
    /// See [`WriteRequest`].
    pub operation: Operation,
    /// The key, sharing the payload's memory.
    pub key: Bytes,
    /// The value, sharing the payload's memory; empty for a delete.
    pub value: Bytes,
}

impl WriteCommand {
    /// Parses a write frame's payload or a log entry's body. Copies nothing.
    ///
    /// # Errors
    /// It is malformed, or key or value are too long.
    pub fn parse(payload: &Bytes) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed { what: "write" };
        let (prefix, rest) = payload.split_first_chunk::<4>().ok_or(malformed)?;
        let body_len = u32::from_le_bytes(*prefix) as usize;
        let (body, value) = rest.split_at_checked(body_len).ok_or(malformed)?;
        let request = access::<ArchivedWriteRequest<'_>>(body, "write")?;
        let operation = match request.operation {
            ArchivedOperation::Put => Operation::Put,
            ArchivedOperation::Delete => Operation::Delete,
        };
        if operation == Operation::Delete && !value.is_empty() {
            return Err(DecodeError::Malformed {
                what: "delete with a value",
            });
        }
        check_key(&request.key)?;
        check_len("value", value.len(), VALUE_BYTES_MAX)?;
        Ok(Self {
            session: request.session.into(),
            number: request.number.into(),
            answered_below: request.answered_below.into(),
            condition: match request.condition {
                ArchivedCondition::Any => Condition::Any,
                ArchivedCondition::Absent => Condition::Absent,
                ArchivedCondition::Version(version) => Condition::Version(version.into()),
            },
            operation,
            key: payload.slice_ref(&request.key),
            value: payload.slice_ref(value),
        })
    }
}

/// Body of a [`Kind::OPEN_SESSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct OpenSession {
    /// A random number that identifies the client in a session table.
    pub client: u64,
}

/// Appends a request to open a session.
pub fn encode_open_session(out: &mut Outbox, head: Head, request: OpenSession) {
    let head = head.of_kind(Kind::OPEN_SESSION);
    FrameBuilder::begin(out.buffer(), head)
        .flat(&request)
        .seal();
}

impl OpenSession {
    /// Parses the body (for this kind also the log entry's body).
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let what = "session opening";
        // rkyv ignores bytes in front of the message, so a longer body is refused.
        if body.len() != size_of::<ArchivedOpenSession>() {
            return Err(DecodeError::Malformed { what });
        }
        let request = access::<ArchivedOpenSession>(body, what)?;
        Ok(Self {
            client: request.client.into(),
        })
    }
}

/// Body of a [`Kind::GET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct GetRequest<'a> {
    /// The key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
}

/// Appends a read of a key.
pub fn encode_get(out: &mut Outbox, head: Head, request: &GetRequest<'_>) {
    encode_get_with(out, head, Flags::default(), request);
}

/// Appends a read of the version and length of a key's value. Older nodes answer with the value.
pub fn encode_get_head(out: &mut Outbox, head: Head, request: &GetRequest<'_>) {
    encode_get_with(out, head, Flags::WITHOUT_VALUES, request);
}

/// Appends a read of a key with wishes.
pub fn encode_get_with(out: &mut Outbox, head: Head, flags: Flags, request: &GetRequest<'_>) {
    let head = head.of_kind(Kind::GET);
    let frame = FrameBuilder::begin(out.buffer(), head).flags(flags);
    frame.flat(request).seal();
}

impl<'a> GetRequest<'a> {
    /// Parses the body, in place.
    ///
    /// # Errors
    /// It is malformed, or the key is too long.
    pub fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        let request = access::<ArchivedGetRequest<'a>>(body, "get")?;
        check_key(&request.key)?;
        Ok(Self { key: &request.key })
    }
}

/// Body of a [`Kind::SCAN`]: keys `start <= key < end` of one shard, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct ScanRequest<'a> {
    /// First key.
    #[rkyv(with = InlineAsBox)]
    pub start: &'a [u8],
    /// End of the range, exclusive; empty for no end.
    #[rkyv(with = InlineAsBox)]
    pub end: &'a [u8],
    /// Most items in the page.
    pub limit_items: u32,
    /// Most bytes of keys and values in the page; one item always fits.
    pub max_bytes: u32,
    /// Read as of this log index, from an earlier page; 0 for the latest.
    pub at_version: u64,
}

/// Appends a read of a page.
pub fn encode_scan(out: &mut Outbox, head: Head, request: &ScanRequest<'_>) {
    encode_scan_with(out, head, Flags::default(), request);
}

/// Appends a read of a page of keys with the versions and lengths of their values. Older nodes answer
/// with the values.
pub fn encode_scan_keys(out: &mut Outbox, head: Head, request: &ScanRequest<'_>) {
    encode_scan_with(out, head, Flags::WITHOUT_VALUES, request);
}

/// Appends a read of a page with wishes.
pub fn encode_scan_with(out: &mut Outbox, head: Head, flags: Flags, request: &ScanRequest<'_>) {
    let head = head.of_kind(Kind::SCAN);
    let frame = FrameBuilder::begin(out.buffer(), head).flags(flags);
    frame.flat(request).seal();
}

impl<'a> ScanRequest<'a> {
    /// Parses the body, in place; lowers items and bytes to the protocol's limits.
    ///
    /// # Errors
    /// It is malformed, or a key is too long.
    pub fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        let request = access::<ArchivedScanRequest<'a>>(body, "scan")?;
        check_key(&request.start)?;
        check_key(&request.end)?;
        Ok(Self {
            start: &request.start,
            end: &request.end,
            limit_items: request
                .limit_items
                .to_native()
                .min(limits::SCAN_ITEMS_MAX as u32),
            max_bytes: request
                .max_bytes
                .to_native()
                .min(limits::SCAN_PAGE_BYTES_MAX as u32),
            at_version: request.at_version.into(),
        })
    }
}

/// Appends a request for the state of the node with all its cores. Its body is empty.
pub fn encode_status(out: &mut Outbox, head: Head) {
    FrameBuilder::begin(out.buffer(), head.of_kind(Kind::STATUS)).seal();
}

/// Appends a question for the state of the node's storage, all its cores included. Its body is empty.
/// A node of a release without it closes the connection.
pub fn encode_storage(out: &mut Outbox, head: Head) {
    let head = head.of_kind(Kind::STORAGE);
    FrameBuilder::begin(out.buffer(), head).seal();
}

/// Appends a request for the cluster map. Its body is empty.
pub fn encode_describe(out: &mut Outbox, head: Head) {
    FrameBuilder::begin(out.buffer(), head.of_kind(Kind::DESCRIBE)).seal();
}

fn check_key(key: &[u8]) -> Result<(), DecodeError> {
    check_len("key", key.len(), KEY_BYTES_MAX)
}

fn check_len(what: &'static str, len: usize, limit: usize) -> Result<(), DecodeError> {
    if len <= limit {
        Ok(())
    } else {
        Err(DecodeError::TooLarge { what, len, limit })
    }
}

#[cfg(test)]
mod tests;
