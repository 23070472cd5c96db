//! The rows of uploads, as changes of the table write them.

use super::record::{self, UploadRecord};
use bytes::Bytes;
use corelith_shards::{Engine, LargeRef, LogIndex, Space};
use corelith_wire::{ChunkId, UploadId};

/// What is to be written with a change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowChange {
    /// A row of the shard's own.
    Put(Space, Bytes, Bytes),
    /// It goes.
    Delete(Space, Bytes),
    /// The key's value is that upload.
    Large(Bytes, LargeRef),
}

/// A copy with memory of its own: what it is a part of is much longer.
pub(super) fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

pub(super) fn put(upload: UploadId, record: &UploadRecord) -> RowChange {
    RowChange::Put(Space::Upload, upload_key(upload), record.encode())
}

/// The key of an upload's record.
pub(crate) fn upload_key(upload: UploadId) -> Bytes {
    Bytes::copy_from_slice(&upload.0.to_be_bytes())
}

/// The key of the row that says that a committed value is dead.
pub(super) fn mark_key(upload: UploadId) -> Bytes {
    let mut key = upload.0.to_be_bytes().to_vec();
    key.push(record::MARK);
    Bytes::from(key)
}

pub(super) fn chunk_key(chunk: ChunkId) -> Bytes {
    Bytes::copy_from_slice(&chunk.key())
}

/// Writes what has changed with the entry at `at`.
pub(crate) fn write(engine: &Engine, at: LogIndex, changes: Vec<RowChange>) {
    for change in changes {
        match change {
            RowChange::Put(space, key, value) => engine.put_row(at, space, &key, value),
            RowChange::Delete(space, key) => engine.delete_row(at, space, &key),
            RowChange::Large(key, large) => engine.put_large(at, &key, large),
        }
    }
}
