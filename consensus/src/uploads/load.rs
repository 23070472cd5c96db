//! Reading the table of uploads from its rows.

use super::record::{self, CommittedRecord, OpenRecord, UploadRecord};
use super::{Chunks, Final, TIME, Uploads, ValueContent, own};
use crate::limits::{
    ENDED_UPLOADS_KEPT_MAX, OPEN_UPLOADS_MAX, STAGED_CHUNKS_MAX, UPLOAD_ROWS, UPLOAD_ROWS_BYTES,
};
use bytes::Bytes;
use corelith_shards::{Engine, Space};
use corelith_wire::{ChunkId, UploadId};
use std::collections::BTreeMap;

/// Reads a table from its rows, given in order of keys: those of the space Upload first, then those of Staged.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    table: Uploads,
    open: BTreeMap<UploadId, (OpenRecord, Chunks)>,
    /// The last record of a commit: its mark comes next.
    committed: Option<(UploadId, CommittedRecord)>,
}

/// A row that no table has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of an upload makes no sense")]
pub(crate) struct StrangeRow;

impl Loading {
    /// Takes a row of the space Upload.
    pub(crate) fn upload(&mut self, key: &[u8], value: &Bytes) -> Result<(), StrangeRow> {
        let (id, rest) = key.split_first_chunk::<16>().ok_or(StrangeRow)?;
        let upload = UploadId(u128::from_be_bytes(*id));
        if rest == [record::MARK] {
            let committed = self.committed.take_if(|(id, _)| *id == upload);
            let (_, committed) = committed.ok_or(StrangeRow)?;
            let how = Final::Committed {
                version: committed.version,
            };
            let whole = Some(committed.crc32c);
            self.table.insert_dead(upload, how, committed.len, whole);
            return Ok(());
        }
        self.flush()?;
        if !rest.is_empty() {
            return Err(StrangeRow);
        }
        match UploadRecord::decode(value).ok_or(StrangeRow)? {
            UploadRecord::Time(time_us) if upload == TIME => self.table.time_us = time_us,
            _ if upload == TIME => return Err(StrangeRow),
            UploadRecord::Time(_) => return Err(StrangeRow),
            UploadRecord::Open(begun) => {
                let begun = OpenRecord {
                    key: own(&begun.key),
                    attributes: own(&begun.attributes),
                    ..begun
                };
                self.open.insert(upload, (begun, BTreeMap::new()));
            }
            UploadRecord::Committed(committed) => self.committed = Some((upload, committed)),
            UploadRecord::Dead { how, bytes } => {
                self.table.insert_dead(upload, how, bytes, None);
            }
            UploadRecord::Ended { how, at } => {
                if self.table.ended.len() >= ENDED_UPLOADS_KEPT_MAX {
                    return Err(StrangeRow);
                }
                self.table.insert_ended(upload, how, at);
            }
        }
        Ok(())
    }

    /// The record before has no mark: it is the value of its key.
    fn flush(&mut self) -> Result<(), StrangeRow> {
        let Some((upload, committed)) = self.committed.take() else {
            return Ok(());
        };
        let CommittedRecord {
            key,
            version,
            len,
            crc32c,
            ..
        } = committed;
        if self.table.live.contains_key(&key) {
            return Err(StrangeRow);
        }
        let content = ValueContent { bytes: len, crc32c };
        self.table.insert_live(upload, own(&key), version, content);
        Ok(())
    }

    /// Takes a row of the space Staged. Those of uploads that are dead wait to be dropped.
    pub(crate) fn staged(&mut self, key: &[u8], value: &[u8]) -> Result<(), StrangeRow> {
        let chunk = ChunkId::of_key(key).ok_or(StrangeRow)?;
        let content = record::content(value).ok_or(StrangeRow)?;
        if let Some((_, chunks)) = self.open.get_mut(&chunk.upload) {
            chunks.insert((chunk.part, chunk.chunk), content);
        }
        Ok(())
    }

    /// The table.
    pub(crate) fn finish(mut self) -> Result<Uploads, StrangeRow> {
        self.flush()?;
        let staged: usize = self.open.values().map(|(_, chunks)| chunks.len()).sum();
        if self.open.len() > OPEN_UPLOADS_MAX || staged > STAGED_CHUNKS_MAX {
            return Err(StrangeRow);
        }
        for (upload, (begun, chunks)) in self.open {
            self.table.insert_open(upload, begun, chunks);
        }
        Ok(self.table)
    }
}

/// Why the rows of a shard make no table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Storage(#[from] corelith_shards::Error),
    #[error(transparent)]
    Row(#[from] StrangeRow),
}

/// Reads the table from the rows of a shard's state.
///
/// # Errors
/// See [`LoadError`].
pub(crate) async fn load(engine: &Engine) -> Result<Uploads, LoadError> {
    let mut loading = Loading::default();
    for space in [Space::Upload, Space::Staged] {
        let mut after = Bytes::new();
        loop {
            let page = engine.rows(space, &[], &after, UPLOAD_ROWS, UPLOAD_ROWS_BYTES);
            let page = page.await?;
            for row in &page.rows {
                match space {
                    Space::Upload => loading.upload(&row.key, &row.value)?,
                    _ => loading.staged(&row.key, &row.value)?,
                }
            }
            match page.rows.last() {
                Some(last) if page.more => after = last.key.clone(),
                _ => break,
            }
        }
    }
    Ok(loading.finish()?)
}
