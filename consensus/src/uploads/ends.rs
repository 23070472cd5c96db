//! How uploads come to nothing, values die, and what is dead is dropped.

use super::entry::{ChunkRun, DropChunks};
use super::record::UploadRecord;
use super::rows::{chunk_key, mark_key, put};
use super::{Final, KnownUpload, RowChange, Uploads, ValueContent, refused, upload_key};
use crate::limits::{DROP_CHUNKS_MAX, ENDED_UPLOADS_KEPT_MAX, EXPIRE_UPLOADS_MAX};
use bytes::Bytes;
use corelith_shards::{LogIndex, Space};
use corelith_wire::upload::{UploadRefusal, UploadState};
use corelith_wire::{ChunkId, UploadId};

impl Uploads {
    /// A write of the entry at `at` takes the place of the key's value.
    pub(crate) fn replaced(&mut self, at: LogIndex, key: &[u8], changes: &mut Vec<RowChange>) {
        if self.live.is_empty() {
            return;
        }
        let Some(upload) = self.live.remove(key) else {
            return;
        };
        let known = self.known.remove(&upload);
        let Some(KnownUpload::Live {
            version, content, ..
        }) = known
        else {
            panic!("{upload} is live, and {known:?}");
        };
        let ValueContent { bytes, crc32c } = content;
        self.counts.live -= 1;
        self.counts.live_bytes -= bytes;
        assert_eq!(self.counts.live, self.live.len(), "the live are counted");
        // The record of the commit stays: it is what readers go by.
        let mark = Bytes::copy_from_slice(&at.0.to_le_bytes());
        changes.push(RowChange::Put(Space::Upload, mark_key(upload), mark));
        self.insert_dead(upload, Final::Committed { version }, bytes, Some(crc32c));
    }

    pub(super) fn insert_dead(
        &mut self,
        upload: UploadId,
        how: Final,
        bytes: u64,
        whole: Option<u32>,
    ) {
        assert!(
            whole.is_none() || matches!(how, Final::Committed { .. }),
            "{upload} is no value"
        );
        self.dead.insert(upload);
        self.counts.dead += 1;
        self.counts.dead_bytes += bytes;
        let dead = KnownUpload::Dead { how, bytes, whole };
        let before = self.known.insert(upload, dead);
        assert!(before.is_none(), "{upload} dies twice");
        assert_eq!(self.counts.dead, self.dead.len(), "the dead are counted");
    }

    /// An open upload comes to nothing; its chunks are dropped later.
    pub(super) fn end_open(&mut self, upload: UploadId, how: Final, changes: &mut Vec<RowChange>) {
        let Some(open) = self.remove_open(upload) else {
            return;
        };
        let bytes = open.bytes;
        assert!(
            !matches!(how, Final::Committed { .. }),
            "a commit ends otherwise"
        );
        changes.push(put(upload, &UploadRecord::Dead { how, bytes }));
        self.insert_dead(upload, how, bytes, None);
    }

    /// Gives an upload up, if it is open.
    pub(crate) fn abort(
        &mut self,
        upload: UploadId,
        time_us: u64,
        changes: &mut Vec<RowChange>,
    ) -> UploadState {
        if self.open(upload).is_some() {
            self.pass(time_us, changes);
            self.end_open(upload, Final::Aborted, changes);
        }
        self.state(upload)
    }

    /// Ends the uploads whose time has run out, some of them.
    pub(crate) fn expire(&mut self, time_us: u64, changes: &mut Vec<RowChange>) {
        self.pass(time_us, changes);
        for _ in 0..EXPIRE_UPLOADS_MAX {
            match self.expiring.first() {
                Some((at, upload)) if *at <= self.time_us => {
                    let upload = *upload;
                    self.end_open(upload, Final::Expired, changes);
                }
                _ => break,
            }
        }
    }

    /// Drops chunks of what is dead; what is not is left alone.
    pub(crate) fn drop_chunks(
        &mut self,
        at: LogIndex,
        dropped: &DropChunks,
        time_us: u64,
        changes: &mut Vec<RowChange>,
    ) -> UploadState {
        let upload = dropped.upload;
        let Some(KnownUpload::Dead { how, bytes, whole }) = self.known.get(&upload) else {
            return self.state(upload);
        };
        let (how, bytes, is_whole) = (*how, *bytes, whole.is_some());
        let count: usize = dropped.runs.iter().map(|run| run.count as usize).sum();
        if count > DROP_CHUNKS_MAX {
            return refused(UploadRefusal::Malformed);
        }
        self.pass(time_us, changes);
        let is_value = matches!(how, Final::Committed { .. });
        for chunk in dropped.runs.iter().flat_map(ChunkRun::places) {
            let key = chunk_key(ChunkId {
                upload,
                part: chunk.0,
                chunk: chunk.1,
            });
            if !is_value {
                changes.push(RowChange::Delete(Space::Staged, key.clone()));
            }
            changes.push(RowChange::Delete(Space::Chunk, key));
        }
        if is_whole {
            // Nobody reads it from here on: neither this leader nor another one lets anyone hold what is left.
            changes.push(RowChange::Delete(Space::Upload, mark_key(upload)));
        }
        if !dropped.is_last {
            if is_whole {
                changes.push(put(upload, &UploadRecord::Dead { how, bytes }));
                let dead = KnownUpload::Dead {
                    how,
                    bytes,
                    whole: None,
                };
                self.known.insert(upload, dead);
            }
            return how.state();
        }
        self.known.remove(&upload);
        self.dead.remove(&upload);
        self.counts.dead -= 1;
        self.counts.dead_bytes -= bytes;
        changes.push(put(upload, &UploadRecord::Ended { how, at }));
        self.insert_ended(upload, how, at);
        while self.ended.len() > ENDED_UPLOADS_KEPT_MAX {
            let Some((_, oldest)) = self.ended.pop_first() else {
                break;
            };
            self.known.remove(&oldest);
            changes.push(RowChange::Delete(Space::Upload, upload_key(oldest)));
        }
        how.state()
    }

    pub(super) fn insert_ended(&mut self, upload: UploadId, how: Final, at: LogIndex) {
        self.known.insert(upload, KnownUpload::Ended { how, at });
        let is_new = self.ended.insert((at, upload));
        assert!(is_new, "{upload} ends twice");
        assert!(
            self.ended.len() <= ENDED_UPLOADS_KEPT_MAX + 1,
            "few are kept"
        );
    }
}
