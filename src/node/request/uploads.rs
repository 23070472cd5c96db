//! Uploads of large values, and reads of their chunks.
//!
//! Invariants:
//! * A chunk holds its part of the memory for uploads until it is decided: who sends more than a shard takes waits, since
//!   nothing more is read of its connection once that memory is used.
//! * A chunk is read once there is room for the answer that carries it, and with a turn at the disk.
//! * A read names neither key nor version, and gives no bytes of another upload all the same: a chunk's id has that of its
//!   upload, 128 random bits that the client draws once; other content for a chunk that is there is refused; and only
//!   chunks of what was committed are given, which never change and are not put back once they are dropped. Which upload
//!   is the value of a key is the description's to say, which is read linearizably.

use super::answers::{Reply, failed, throttled};
use super::elsewhere;
use super::handler::{
    Handler, decode_failure, is_upload, read_failure, storage_failure, write_failure,
};
use bytes::Bytes;
use corelith_consensus::{Group, GroupError};
use corelith_shards::Space;
use corelith_wire::limits::{
    CHUNK_BYTES_MAX, KEY_BYTES_MAX, REQUEST_OVERHEAD_BYTES_MAX, STAGED_CHUNK_BYTES,
};
use corelith_wire::response::{Answer, Failure, ReplyMeta};
use corelith_wire::upload::{
    AbortUpload, BeginUpload, ChunkCommand, CommitUpload, HoldValue, ListUploads, ReadChunk,
    UploadReply, UploadStatus,
};
use corelith_wire::{Frame, Kind};
use std::rc::Rc;

impl Handler {
    /// Handles a request about an upload.
    pub(super) fn upload(&self, group: &Group, frame: Frame, reply: Reply) {
        let kind = frame.header.head.kind;
        assert!(is_upload(kind), "{kind:?} is about no upload");
        let payload = frame.into_payload();
        let group = group.clone();
        let refused = match kind {
            Kind::UPLOAD_CHUNK => match ChunkCommand::parse(&payload) {
                Ok(_) => {
                    return group
                        .submit_chunk(payload, move |result| reply.send(&of_write(result)));
                }
                Err(error) => decode_failure(error),
            },
            Kind::UPLOAD_BEGIN => match BeginUpload::parse(&payload) {
                Ok(begin) if self.belongs(begin.key, group.shard()) => {
                    return step(reply, async move { group.begin_upload(payload).await });
                }
                Ok(_) => Failure::Malformed,
                Err(error) => decode_failure(error),
            },
            Kind::UPLOAD_COMMIT => match CommitUpload::parse(&payload) {
                Ok(_) => return step(reply, async move { group.commit_upload(payload).await }),
                Err(error) => decode_failure(error),
            },
            Kind::UPLOAD_ABORT => match AbortUpload::parse(&payload) {
                Ok(_) => return step(reply, async move { group.abort_upload(payload).await }),
                Err(error) => decode_failure(error),
            },
            Kind::UPLOAD_STATUS => match UploadStatus::parse(&payload) {
                Ok(ask) => return tell_status(group, ask, reply),
                Err(error) => decode_failure(error),
            },
            Kind::UPLOAD_LIST => match ListUploads::parse(&payload) {
                Ok(ask) => return list(group, ask, reply),
                Err(error) => decode_failure(error),
            },
            _ => match HoldValue::parse(&payload) {
                Ok(hold) => return reply.send(&of_read(group.hold_value(hold.upload))),
                Err(error) => decode_failure(error),
            },
        };
        reply.send(&failed(refused));
    }

    /// Reads a part of a chunk, from this replica whether it leads or not.
    pub(super) fn read_chunk(self: &Rc<Self>, group: &Group, frame: &Frame, mut reply: Reply) {
        let read = match ReadChunk::parse(frame.body()) {
            Ok(read) => read,
            Err(error) => return reply.send(&failed(decode_failure(error))),
        };
        let Some(turn) = self.disk.right() else {
            return reply.send(&throttled());
        };
        let len = (read.end - read.start) as usize;
        // If there is no room the connection is known to wait for it from here on.
        reply.try_reserve(len);
        let group = group.clone();
        corelith_io::spawn_urgent(async move {
            if !reply.reserve(len).await {
                return;
            }
            let held = turn.take().await;
            let meta = applied_meta(&group);
            let range = read.start..read.end;
            let error = match group.read_chunk(read.chunk, range.clone()).await {
                Ok(found) => return reply.send(&chunk_answer(meta, found)),
                Err(error) => error,
            };
            drop(held);
            if !elsewhere::may_help(&error) {
                return reply.send(&failed(storage_failure(&error)));
            }
            // All of the chunk comes from the other one.
            if !reply.reserve(CHUNK_BYTES_MAX).await {
                return;
            }
            reply.send(
                &match elsewhere::row(&group, Space::Chunk, &read.chunk.key()).await {
                    Some(whole) => {
                        let part = |chunk: Bytes| {
                            let end = (range.end as usize).min(chunk.len());
                            chunk.slice((range.start as usize).min(end)..end)
                        };
                        chunk_answer(meta, whole.map(part))
                    }
                    None => failed(storage_failure(&error)),
                },
            );
        });
    }
}

/// Sends what an entry about an upload has come to.
fn step(reply: Reply, decided: impl Future<Output = Result<UploadReply, GroupError>> + 'static) {
    corelith_io::spawn(async move {
        reply.send(&of_write(decided.await));
    });
}

fn tell_status(group: Group, ask: UploadStatus, mut reply: Reply) {
    corelith_io::spawn(async move {
        let len = ask.chunks_max as usize * STAGED_CHUNK_BYTES;
        if reply.reserve(len).await {
            reply.send(&of_read(group.upload_status(ask).await));
        }
    });
}

fn list(group: Group, ask: ListUploads, mut reply: Reply) {
    corelith_io::spawn(async move {
        let len = ask.limit as usize * (KEY_BYTES_MAX + REQUEST_OVERHEAD_BYTES_MAX);
        if reply.reserve(len).await {
            reply.send(&match group.list_uploads(ask).await {
                Ok(page) => Answer::Uploads(page),
                Err(error) => failed(read_failure(&error)),
            });
        }
    });
}

fn of_write(result: Result<UploadReply, GroupError>) -> Answer {
    match result {
        Ok(reply) => Answer::Upload(reply),
        Err(error) => failed(write_failure(&error)),
    }
}

fn of_read(result: Result<UploadReply, GroupError>) -> Answer {
    match result {
        Ok(reply) => Answer::Upload(reply),
        Err(error) => failed(read_failure(&error)),
    }
}

/// Up to where the group had applied when it looked for a chunk.
fn applied_meta(group: &Group) -> ReplyMeta {
    let (applied, _) = group.engine().applied();
    applied.map_or_else(ReplyMeta::default, |id| ReplyMeta {
        term: id.term.0,
        index: id.index.0,
    })
}

fn chunk_answer(meta: ReplyMeta, found: Option<Bytes>) -> Answer {
    match found {
        Some(value) => Answer::Value {
            meta,
            version: 0,
            value,
        },
        None => Answer::NotFound { meta },
    }
}
