//! What is asked of uploads and large values.

use super::{
    Attributes, Digest, PartLength, at_most, put_bytes, put_parts, take_bytes, take_parts,
};
use crate::error::DecodeError;
use crate::fields::Fields;
use crate::frame::{FrameBuilder, Head, Kind};
use crate::ids::{ChunkId, UploadId};
use crate::limits::{self, DETACH_BYTES_MIN};
use crate::outbox::Outbox;
use crate::request::Condition;
use crate::width::u32_len;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Body of a [`Kind::UPLOAD_BEGIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeginUpload<'a> {
    /// The upload: a random number.
    pub upload: UploadId,
    /// The key that is to get the value.
    pub key: &'a [u8],
    /// How long it may last, in ms; 0: as long as servers give by themselves.
    pub ttl_ms: u64,
    /// See [`Attributes::encode`].
    pub attributes: &'a [u8],
}

/// Appends the beginning of an upload.
pub fn encode_begin(out: &mut Outbox, head: Head, begin: &BeginUpload<'_>) {
    let mut body = BytesMut::with_capacity(32 + begin.key.len() + begin.attributes.len());
    body.put_u128_le(begin.upload.0);
    body.put_u64_le(begin.ttl_ms);
    put_bytes(&mut body, begin.key);
    put_bytes(&mut body, begin.attributes);
    sealed(out, head, Kind::UPLOAD_BEGIN, &body);
}

impl<'a> BeginUpload<'a> {
    /// Parses the body, in place.
    ///
    /// # Errors
    /// It is malformed, or key or attributes are too long.
    pub fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(body, "beginning of an upload");
        let (upload, ttl_ms) = (UploadId(fields.u128()?), fields.u64()?);
        let key = take_bytes(&mut fields, "key", limits::KEY_BYTES_MAX)?;
        let limit = limits::ATTRIBUTES_BYTES_MAX;
        let attributes = take_bytes(&mut fields, "attributes", limit)?;
        fields.end()?;
        Attributes::decode(attributes)?;
        Ok(Self {
            upload,
            key,
            ttl_ms,
            attributes,
        })
    }
}

/// Body of a [`Kind::UPLOAD_CHUNK`]; the chunk's bytes follow it as the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadChunk<'a> {
    /// Length of the chunk, in bytes.
    pub len: u32,
    /// Checksum of its bytes.
    pub crc32c: u32,
    /// [`ChunkId::key`].
    pub row: &'a [u8],
}

impl<'a> UploadChunk<'a> {
    /// Where the row begins in a payload.
    pub const ROW_START: usize = 4;
    /// Where the chunk's bytes begin in a payload.
    pub const VALUE_START: usize = 4 + limits::CHUNK_BODY_BYTES;

    /// Parses the start of a payload, which may lack the chunk's bytes, in place.
    ///
    /// # Errors
    /// It is malformed, or the chunk is too long.
    pub fn parse_head(payload: &'a [u8]) -> Result<(Self, ChunkId), DecodeError> {
        let mut fields = Fields::of(payload, "chunk");
        if fields.u32()? as usize != limits::CHUNK_BODY_BYTES {
            return Err(fields.malformed());
        }
        let row = fields.bytes(ChunkId::KEY_BYTES)?;
        let chunk = ChunkId::of_key(row).ok_or_else(|| fields.malformed())?;
        let (len, crc32c) = (fields.u32()?, fields.u32()?);
        if len == 0 {
            return Err(fields.malformed());
        }
        at_most("chunk", len as usize, limits::CHUNK_BYTES_MAX)?;
        Ok((Self { len, crc32c, row }, chunk))
    }
}

/// Appends a chunk. The payload of its frame is `u32 body_len | body | value`, which is a log entry's body as it stands.
/// A long value is not copied.
pub fn encode_chunk(out: &mut Outbox, head: Head, chunk: ChunkId, crc32c: u32, value: &Bytes) {
    let mut body = BytesMut::with_capacity(UploadChunk::VALUE_START);
    body.put_u32_le(u32_len(limits::CHUNK_BODY_BYTES));
    body.put_slice(&chunk.key());
    body.put_u32_le(u32_len(value.len()));
    body.put_u32_le(crc32c);
    assert_eq!(
        body.len(),
        UploadChunk::VALUE_START,
        "the body has all its fields"
    );
    let frame = FrameBuilder::begin(out.buffer(), head.of_kind(Kind::UPLOAD_CHUNK)).raw(&body);
    if value.len() < DETACH_BYTES_MIN {
        frame.seal_with(value);
    } else {
        frame.seal_detached(value);
        out.value(value.clone());
    }
}

/// A chunk as it arrived: the payload of its frame, which is also the body of its log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkCommand {
    /// Which one.
    pub chunk: ChunkId,
    /// Checksum of its bytes as the sender says; see [`ChunkCommand::is_sound`].
    pub crc32c: u32,
    /// Its bytes, sharing the payload's memory.
    pub value: Bytes,
}

impl ChunkCommand {
    /// Parses a chunk's payload or a log entry's body. Copies nothing.
    ///
    /// # Errors
    /// It is malformed, or the chunk is too long.
    pub fn parse(payload: &Bytes) -> Result<Self, DecodeError> {
        let (head, chunk) = UploadChunk::parse_head(payload)?;
        let (len, crc32c) = (head.len as usize, head.crc32c);
        let mut value = payload.clone();
        value.advance(UploadChunk::VALUE_START);
        if value.len() != len {
            return Err(DecodeError::Malformed { what: "chunk" });
        }
        Ok(Self {
            chunk,
            crc32c,
            value,
        })
    }

    /// Whether its bytes are what the checksum is of.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        crc32c::crc32c(&self.value) == self.crc32c
    }
}

/// Body of a [`Kind::UPLOAD_STATUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// The upload.
    pub upload: UploadId,
    /// The part and chunk after which to list chunks; `None`: from the first on.
    pub after: Option<(u32, u32)>,
    /// Most chunks to list.
    pub chunks_max: u32,
}

/// Appends a question for an upload.
pub fn encode_upload_status(out: &mut Outbox, head: Head, ask: UploadStatus) {
    let (part, chunk) = ask.after.unwrap_or_default();
    let mut body = BytesMut::with_capacity(32);
    body.put_u128_le(ask.upload.0);
    body.put_u8(u8::from(ask.after.is_some()));
    body.put_u32_le(part);
    body.put_u32_le(chunk);
    body.put_u32_le(ask.chunks_max);
    sealed(out, head, Kind::UPLOAD_STATUS, &body);
}

impl UploadStatus {
    /// Parses the body; lowers the chunks to the protocol's limit.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(body, "question for an upload");
        let (upload, has_after) = (UploadId(fields.u128()?), fields.flag()?);
        let after = (fields.u32()?, fields.u32()?);
        let chunks_max = fields.u32()?.min(limits::UPLOAD_CHUNKS_LISTED_MAX as u32);
        fields.end()?;
        Ok(Self {
            upload,
            after: has_after.then_some(after),
            chunks_max,
        })
    }
}

/// Body of a [`Kind::UPLOAD_COMMIT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitUpload {
    /// The upload.
    pub upload: UploadId,
    /// When it becomes the value of its key.
    pub condition: Condition,
    /// Checksum of the whole value.
    pub crc32c: u32,
    /// Digest of the whole value.
    pub digest: Digest,
    /// The parts that make the value, in its order; empty: an empty value.
    pub parts: Vec<PartLength>,
}

/// Appends the commit of an upload.
pub fn encode_commit(out: &mut Outbox, head: Head, commit: &CommitUpload) {
    let capacity = 96 + commit.parts.len() * limits::PART_BYTES;
    let mut body = BytesMut::with_capacity(capacity);
    body.put_u128_le(commit.upload.0);
    let (tag, version) = match commit.condition {
        Condition::Any => (0, 0),
        Condition::Absent => (1, 0),
        Condition::Version(version) => (2, version),
    };
    body.put_u8(tag);
    body.put_u64_le(version);
    body.put_u32_le(commit.crc32c);
    commit.digest.put(&mut body);
    put_parts(&mut body, &commit.parts);
    sealed(out, head, Kind::UPLOAD_COMMIT, &body);
}

impl CommitUpload {
    /// Parses the body.
    ///
    /// # Errors
    /// It is malformed, or has too many parts.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(body, "commit of an upload");
        let upload = UploadId(fields.u128()?);
        let condition = match (fields.u8()?, fields.u64()?) {
            (0, 0) => Condition::Any,
            (1, 0) => Condition::Absent,
            (2, version) => Condition::Version(version),
            _ => return Err(fields.malformed()),
        };
        let (crc32c, digest) = (fields.u32()?, Digest::take(&mut fields)?);
        let parts = take_parts(&mut fields)?;
        fields.end()?;
        Ok(Self {
            upload,
            condition,
            crc32c,
            digest,
            parts,
        })
    }
}

/// Body of a [`Kind::UPLOAD_ABORT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortUpload {
    /// The upload.
    pub upload: UploadId,
}

/// Appends the end of an upload that is to come to nothing.
pub fn encode_abort(out: &mut Outbox, head: Head, abort: AbortUpload) {
    let body = abort.upload.0.to_le_bytes();
    sealed(out, head, Kind::UPLOAD_ABORT, &body);
}

impl AbortUpload {
    /// Parses the body.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let upload = parse_id(body, "end of an upload")?;
        Ok(Self { upload })
    }
}

/// Body of a [`Kind::UPLOAD_LIST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListUploads {
    /// The upload after which to go on; 0: from the first on.
    pub after: UploadId,
    /// Most uploads to list.
    pub limit: u32,
}

/// Appends a question for the open uploads of a shard.
pub fn encode_list(out: &mut Outbox, head: Head, ask: ListUploads) {
    let mut body = BytesMut::with_capacity(20);
    body.put_u128_le(ask.after.0);
    body.put_u32_le(ask.limit);
    sealed(out, head, Kind::UPLOAD_LIST, &body);
}

impl ListUploads {
    /// Parses the body; lowers the uploads to the protocol's limit.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(body, "question for uploads");
        let after = UploadId(fields.u128()?);
        let limit = fields.u32()?.min(limits::UPLOADS_LISTED_MAX as u32);
        fields.end()?;
        Ok(Self { after, limit })
    }
}

/// Body of a [`Kind::READ_CHUNK`]: the bytes `start..end` of a chunk, those of them that it has. The chunk's id says of which
/// upload it is; no other name is needed, since no two uploads have one id and a committed chunk does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// First byte.
    pub start: u32,
    /// End, exclusive, and behind `start`.
    pub end: u32,
}

/// Appends a read of a chunk.
pub fn encode_read_chunk(out: &mut Outbox, head: Head, read: ReadChunk) {
    let mut body = BytesMut::with_capacity(32);
    body.put_slice(&read.chunk.key());
    body.put_u32_le(read.start);
    body.put_u32_le(read.end);
    sealed(out, head, Kind::READ_CHUNK, &body);
}

impl ReadChunk {
    /// Parses the body.
    ///
    /// # Errors
    /// It is malformed: a range without bytes, or beyond what a chunk may have, included.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(body, "read of a chunk");
        let row = fields.bytes(ChunkId::KEY_BYTES)?;
        let chunk = ChunkId::of_key(row).ok_or_else(|| fields.malformed())?;
        let (start, end) = (fields.u32()?, fields.u32()?);
        if start >= end || end as usize > limits::CHUNK_BYTES_MAX {
            return Err(fields.malformed());
        }
        fields.end()?;
        Ok(Self { chunk, start, end })
    }
}

/// Body of a [`Kind::HOLD_VALUE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldValue {
    /// The upload that the value came of.
    pub upload: UploadId,
}

/// Appends the wish to keep a value readable.
pub fn encode_hold(out: &mut Outbox, head: Head, hold: HoldValue) {
    let body = hold.upload.0.to_le_bytes();
    sealed(out, head, Kind::HOLD_VALUE, &body);
}

impl HoldValue {
    /// Parses the body.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let upload = parse_id(body, "hold of a value")?;
        Ok(Self { upload })
    }
}

fn parse_id(body: &[u8], what: &'static str) -> Result<UploadId, DecodeError> {
    let mut fields = Fields::of(body, what);
    let upload = UploadId(fields.u128()?);
    fields.end()?;
    Ok(upload)
}

fn sealed(out: &mut Outbox, head: Head, kind: Kind, body: &[u8]) {
    FrameBuilder::begin(out.buffer(), head.of_kind(kind))
        .raw(body)
        .seal();
}
