//! The bodies of the entries that the table of uploads is made of.
//!
//! ```text
//! UPLOAD_BEGIN, UPLOAD_COMMIT, UPLOAD_ABORT   u64 time, then the body of the client's frame
//! UPLOAD_CHUNK    the payload of the client's frame: its head, 36 bytes with the row, then the chunk
//! UPLOAD_EXPIRE   u64 time
//! UPLOAD_DROP     u64 time, 16 bytes upload (big-endian), u8 whether nothing is left, then runs of chunks:
//!                 u32 part, u32 first, u32 count
//! ```
//!
//! Numbers are little-endian; a time is the leader's clock, in microseconds since 1970.

use super::{Begin, ChunkContent};
use crate::command::kind;
use crate::limits::DROP_CHUNKS_MAX;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use corelith_shards::limits::SEPARATED_VALUE_BYTES_MIN;
use corelith_shards::{Space, ValuePart};
use corelith_wire::upload::{AbortUpload, BeginUpload, CommitUpload, UploadChunk};
use corelith_wire::{ChunkId, UploadId};

/// Where a chunk's bytes begin in its entry.
pub(crate) const CHUNK_AT: usize = UploadChunk::VALUE_START;

/// Chunks of one part that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkRun {
    pub(crate) part: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl ChunkRun {
    /// Part and number of each chunk.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let Self { part, first, count } = *self;
        (first..first.saturating_add(count)).map(move |chunk| (part, chunk))
    }
}

/// Chunks to drop of what is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DropChunks {
    pub(crate) upload: UploadId,
    pub(crate) runs: Vec<ChunkRun>,
    /// Whether none is left after these.
    pub(crate) is_last: bool,
}

impl DropChunks {
    /// Of chunks in order.
    pub(crate) fn of(
        upload: UploadId,
        chunks: impl Iterator<Item = ChunkId>,
        is_last: bool,
    ) -> Self {
        let mut runs: Vec<ChunkRun> = Vec::new();
        for ChunkId { part, chunk, .. } in chunks {
            match runs.last_mut() {
                Some(run) if run.part == part && run.first + run.count == chunk => run.count += 1,
                _ => runs.push(ChunkRun {
                    part,
                    first: chunk,
                    count: 1,
                }),
            }
        }
        Self {
            upload,
            runs,
            is_last,
        }
    }
}

/// What an entry about an upload says, but for one with a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Begin(Begin),
    Commit(CommitUpload),
    Abort(UploadId),
    Expire,
    Drop(DropChunks),
}

/// The body of such an entry.
pub(crate) fn timed(time_us: u64, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + rest.len());
    out.put_u64_le(time_us);
    out.put_slice(rest);
    out.freeze()
}

/// The body of an entry that drops chunks.
pub(crate) fn dropping(time_us: u64, dropped: &DropChunks) -> Bytes {
    let mut out = BytesMut::with_capacity(25 + 12 * dropped.runs.len());
    out.put_u64_le(time_us);
    out.put_u128(dropped.upload.0);
    out.put_u8(dropped.is_last.into());
    for run in &dropped.runs {
        out.put_u32_le(run.part);
        out.put_u32_le(run.first);
        out.put_u32_le(run.count);
    }
    out.freeze()
}

/// Reads the body of an entry of that kind, with its time; `None` if it makes no sense.
pub(crate) fn parse(kind: u8, body: &Bytes) -> Option<(u64, Step)> {
    let mut rest = body.clone();
    let time_us = rest.try_get_u64_le().ok()?;
    let step = match kind {
        kind::UPLOAD_BEGIN => {
            let begin = BeginUpload::parse(&rest).ok()?;
            Step::Begin(Begin {
                upload: begin.upload,
                key: Bytes::copy_from_slice(begin.key),
                ttl_ms: begin.ttl_ms,
                attributes: Bytes::copy_from_slice(begin.attributes),
            })
        }
        kind::UPLOAD_COMMIT => Step::Commit(CommitUpload::parse(&rest).ok()?),
        kind::UPLOAD_ABORT => Step::Abort(AbortUpload::parse(&rest).ok()?.upload),
        kind::UPLOAD_EXPIRE if rest.is_empty() => Step::Expire,
        kind::UPLOAD_DROP => Step::Drop(dropped(rest)?),
        _ => return None,
    };
    Some((time_us, step))
}

fn dropped(mut rest: Bytes) -> Option<DropChunks> {
    let upload = UploadId(rest.try_get_u128().ok()?);
    let is_last = match rest.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let (mut runs, mut chunks) = (Vec::new(), 0_usize);
    while rest.has_remaining() {
        let run = ChunkRun {
            part: rest.try_get_u32_le().ok()?,
            first: rest.try_get_u32_le().ok()?,
            count: rest.try_get_u32_le().ok()?,
        };
        run.first.checked_add(run.count)?;
        chunks = chunks.checked_add(run.count as usize)?;
        if run.count == 0 || chunks > DROP_CHUNKS_MAX {
            return None;
        }
        runs.push(run);
    }
    Some(DropChunks {
        upload,
        runs,
        is_last,
    })
}

/// Which chunk an entry brings, and what is in it: read from its head. `None` if that makes no sense.
pub(crate) fn chunk(body: &[u8]) -> Option<(ChunkId, ChunkContent)> {
    let (head, chunk) = UploadChunk::parse_head(body).ok()?;
    let content = ChunkContent {
        len: head.len,
        crc32c: head.crc32c,
    };
    Some((chunk, content))
}

/// The same of an entry that has the chunk's bytes, whose length is checked.
pub(crate) fn whole_chunk(body: &Bytes) -> Option<(ChunkId, ChunkContent)> {
    let (chunk, content) = chunk(body)?;
    (body.len() == CHUNK_AT + content.len as usize).then_some((chunk, content))
}

/// The chunk's bytes and their row, if they are long enough for a log to separate them.
pub(crate) fn value_part(content: ChunkContent) -> Option<ValuePart> {
    (content.len as usize >= SEPARATED_VALUE_BYTES_MIN).then_some(ValuePart {
        start: CHUNK_AT as u32,
        len: content.len,
        key_start: UploadChunk::ROW_START as u32,
        key_len: ChunkId::KEY_BYTES as u32,
        space: Space::Chunk,
    })
}
