//! The answers about uploads and large values.

use super::{
    Digest, PartLength, UploadState, at_most, put_bytes, put_parts, take_bytes, take_parts,
};
use crate::error::DecodeError;
use crate::fields::Fields;
use crate::frame::{FrameBuilder, Head, Kind};
use crate::ids::UploadId;
use crate::limits;
use crate::outbox::Outbox;
use crate::reply_meta::ReplyMeta;
use crate::width::u32_len;
use bytes::{BufMut, BytesMut};

/// Fewest bytes of an upload in a page.
const SUMMARY_BYTES_MIN: usize = 49;

/// What a large value is: body of a [`Kind::LARGE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LargeReply {
    /// Where in the shard's history.
    pub meta: ReplyMeta,
    /// Its version.
    pub version: u64,
    /// The upload that it came of, by which its chunks are read.
    pub upload: UploadId,
    /// Its length, in bytes.
    pub len: u64,
    /// Bytes of each chunk but the last of a part.
    pub chunk_bytes: u32,
    /// Checksum of the whole.
    pub crc32c: u32,
    /// Digest of the whole.
    pub digest: Digest,
    /// When it was committed, in µs since 1970.
    pub committed_us: u64,
    /// See [`Attributes`](super::Attributes).
    pub attributes: Vec<u8>,
    /// Its parts, in its order.
    pub parts: Vec<PartLength>,
}

impl LargeReply {
    /// Most bytes of an answer with these lengths, beside its header.
    #[must_use]
    pub fn bytes_max(attributes: usize, parts: usize) -> usize {
        attributes + parts * limits::PART_BYTES + limits::REQUEST_OVERHEAD_BYTES_MAX
    }

    /// Parses the body.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(body, "description of a value");
        let meta = take_meta(&mut fields)?;
        let (version, upload, len) = (fields.u64()?, UploadId(fields.u128()?), fields.u64()?);
        let (chunk_bytes, crc32c) = (fields.u32()?, fields.u32()?);
        let (digest, committed_us) = (Digest::take(&mut fields)?, fields.u64()?);
        let limit = limits::ATTRIBUTES_BYTES_MAX;
        let attributes = take_bytes(&mut fields, "attributes", limit)?.to_vec();
        let parts = take_parts(&mut fields)?;
        // Whoever reads the value relies on this.
        let sum: u64 = parts.iter().map(|part| part.len).sum();
        if sum != len || (len > 0 && chunk_bytes == 0) || len > limits::LARGE_VALUE_BYTES_MAX {
            return Err(fields.malformed());
        }
        fields.end()?;
        Ok(Self {
            meta,
            version,
            upload,
            len,
            chunk_bytes,
            crc32c,
            digest,
            committed_us,
            attributes,
            parts,
        })
    }
}

/// Appends the description of a large value.
pub fn encode_large(out: &mut Outbox, head: Head, reply: &LargeReply) {
    let capacity = LargeReply::bytes_max(reply.attributes.len(), reply.parts.len());
    let mut body = BytesMut::with_capacity(capacity);
    put_meta(&mut body, reply.meta);
    body.put_u64_le(reply.version);
    body.put_u128_le(reply.upload.0);
    body.put_u64_le(reply.len);
    body.put_u32_le(reply.chunk_bytes);
    body.put_u32_le(reply.crc32c);
    reply.digest.put(&mut body);
    body.put_u64_le(reply.committed_us);
    put_bytes(&mut body, &reply.attributes);
    put_parts(&mut body, &reply.parts);
    sealed(out, head, Kind::LARGE, &body);
}

/// A chunk that an upload has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StagedChunk {
    /// Its part.
    pub part: u32,
    /// Its place within the part.
    pub chunk: u32,
    /// Its length, in bytes.
    pub len: u32,
    /// Checksum of its bytes.
    pub crc32c: u32,
}

/// How an upload or a large value stands: body of a [`Kind::UPLOAD_REPLY`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadReply {
    /// Where in the shard's history.
    pub meta: ReplyMeta,
    /// How it stands.
    pub state: UploadState,
    /// Bytes of each chunk but the last of a part.
    pub chunk_bytes: u32,
    /// In how many ms it expires, or is no longer held.
    pub expires_in_ms: u64,
    /// The chunks that it has, in order, if they were asked for.
    pub chunks: Vec<StagedChunk>,
    /// Whether it has more of them.
    pub more: bool,
}

impl UploadReply {
    /// Parses the body.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(body, "answer about an upload");
        let meta = take_meta(&mut fields)?;
        let state = UploadState::take(&mut fields)?;
        let (chunk_bytes, expires_in_ms) = (fields.u32()?, fields.u64()?);
        let (more, count) = (fields.flag()?, fields.u32()? as usize);
        at_most("list of chunks", count, limits::UPLOAD_CHUNKS_LISTED_MAX)?;
        let (rows, _) = fields
            .bytes(count * limits::STAGED_CHUNK_BYTES)?
            .as_chunks::<{ limits::STAGED_CHUNK_BYTES }>();
        let mut chunks = Vec::with_capacity(rows.len());
        for row in rows {
            let mut row = Fields::of(row, "chunk");
            chunks.push(StagedChunk {
                part: row.u32()?,
                chunk: row.u32()?,
                len: row.u32()?,
                crc32c: row.u32()?,
            });
        }
        fields.end()?;
        Ok(Self {
            meta,
            state,
            chunk_bytes,
            expires_in_ms,
            chunks,
            more,
        })
    }
}

/// Appends how an upload stands.
pub fn encode_upload_reply(out: &mut Outbox, head: Head, reply: &UploadReply) {
    let mut body = BytesMut::with_capacity(64 + reply.chunks.len() * limits::STAGED_CHUNK_BYTES);
    put_meta(&mut body, reply.meta);
    reply.state.put(&mut body);
    body.put_u32_le(reply.chunk_bytes);
    body.put_u64_le(reply.expires_in_ms);
    body.put_u8(u8::from(reply.more));
    body.put_u32_le(u32_len(reply.chunks.len()));
    for chunk in &reply.chunks {
        body.put_u32_le(chunk.part);
        body.put_u32_le(chunk.chunk);
        body.put_u32_le(chunk.len);
        body.put_u32_le(chunk.crc32c);
    }
    sealed(out, head, Kind::UPLOAD_REPLY, &body);
}

/// An upload in a page of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadSummary {
    /// The upload.
    pub upload: UploadId,
    /// The key that is to get the value.
    pub key: Vec<u8>,
    /// When it began, in µs since 1970.
    pub begun_us: u64,
    /// When it expires, in µs since 1970.
    pub expires_us: u64,
    /// Chunks that it has.
    pub chunks: u32,
    /// Their bytes.
    pub bytes: u64,
    /// How it stands.
    pub state: UploadState,
}

/// Uploads of a shard, by their ids: body of a [`Kind::UPLOADS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadsPage {
    /// Where in the shard's history.
    pub meta: ReplyMeta,
    /// The uploads.
    pub uploads: Vec<UploadSummary>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl UploadsPage {
    /// Parses the body.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::of(body, "page of uploads");
        let meta = take_meta(&mut fields)?;
        let (more, count) = (fields.flag()?, fields.u32()? as usize);
        at_most("page of uploads", count, limits::UPLOADS_LISTED_MAX)?;
        if count > body.len() / SUMMARY_BYTES_MIN {
            return Err(fields.malformed());
        }
        let mut uploads = Vec::with_capacity(count);
        for _ in 0..count {
            uploads.push(UploadSummary {
                upload: UploadId(fields.u128()?),
                begun_us: fields.u64()?,
                expires_us: fields.u64()?,
                chunks: fields.u32()?,
                bytes: fields.u64()?,
                state: UploadState::take(&mut fields)?,
                key: take_bytes(&mut fields, "key", limits::KEY_BYTES_MAX)?.to_vec(),
            });
        }
        fields.end()?;
        Ok(Self {
            meta,
            uploads,
            more,
        })
    }
}

/// Appends a page of uploads.
pub fn encode_uploads(out: &mut Outbox, head: Head, page: &UploadsPage) {
    let mut body = BytesMut::with_capacity(64 * (1 + page.uploads.len()));
    put_meta(&mut body, page.meta);
    body.put_u8(u8::from(page.more));
    body.put_u32_le(u32_len(page.uploads.len()));
    for upload in &page.uploads {
        body.put_u128_le(upload.upload.0);
        body.put_u64_le(upload.begun_us);
        body.put_u64_le(upload.expires_us);
        body.put_u32_le(upload.chunks);
        body.put_u64_le(upload.bytes);
        upload.state.put(&mut body);
        put_bytes(&mut body, &upload.key);
    }
    sealed(out, head, Kind::UPLOADS, &body);
}

fn put_meta(out: &mut BytesMut, meta: ReplyMeta) {
    out.put_u64_le(meta.term);
    out.put_u64_le(meta.index);
}

fn take_meta(fields: &mut Fields<'_>) -> Result<ReplyMeta, DecodeError> {
    Ok(ReplyMeta {
        term: fields.u64()?,
        index: fields.u64()?,
    })
}

fn sealed(out: &mut Outbox, head: Head, kind: Kind, body: &[u8]) {
    FrameBuilder::begin(out.buffer(), head.of_kind(kind))
        .raw(body)
        .seal();
}
