//! Uploads of large values and what came of them: the replicated table of a shard.
//!
//! The life of an upload is entries of the log: it begins, chunks come, it is committed or given up. Committed it is the
//! *live* value of its key, until a write to the key makes it *dead*. So are the chunks of an upload that came to nothing.
//! What is dead is dropped step by step, and of an upload that has *ended* the table remembers for a while how.
//!
//! Invariants:
//! * The table is a function of the log up to the applied entry: no clock, no randomness, no order of a hash map decides
//!   anything. Times come from entries, and are made to rise.
//! * Each change of the table comes with the rows that say so ([`RowChange`]), which are written in the same step. A table
//!   that is loaded from them equals the one that was.
//! * Every bound is looked at here, where all replicas decide alike.
//! * A key has at most one live upload, and has it exactly if its row is a large value with that id.
//! * Chunks of what is open or live are never dropped; nothing that is dead comes back.

mod crc;
mod ends;
pub(crate) mod entry;
mod load;
pub(crate) mod record;
mod rows;
#[cfg(test)]
mod tests;
mod whole;

pub(crate) use load::{LoadError, load};
pub(crate) use rows::{RowChange, upload_key, write};

use crate::limits::{
    DEAD_UPLOADS_MAX, LIVE_UPLOADS_MAX, OPEN_UPLOADS_MAX, STAGED_CHUNKS_MAX, UPLOAD_TTL_DEFAULT,
    UPLOAD_TTL_MAX, UPLOAD_TTL_MIN,
};
use crate::planted::{Bug, is_planted};
use bytes::Bytes;
use corelith_shards::{LargeRef, LogIndex, Space};
use corelith_wire::limits::{
    ATTRIBUTES_BYTES_MAX, CHUNK_BYTES_MAX, KEY_BYTES_MAX, LARGE_VALUE_BYTES_MAX, UPLOAD_CHUNKS_MAX,
};
use corelith_wire::upload::{CommitUpload, StagedChunk, UploadRefusal, UploadState, UploadSummary};
use corelith_wire::width::u32_len;
use corelith_wire::{ChunkId, UploadId};
use record::{CommittedRecord, OpenRecord, UploadRecord};
use rows::{chunk_key, own, put};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// Length of every chunk of a part but its last. All replicas decide by it: another length needs a version of its own.
pub(crate) const CHUNK_BYTES: u32 = CHUNK_BYTES_MAX as u32;
const _: () = assert!(LARGE_VALUE_BYTES_MAX <= UPLOAD_CHUNKS_MAX as u64 * CHUNK_BYTES as u64);
/// Names the row with the log's time; no upload has this id.
const TIME: UploadId = UploadId(0);

/// What an upload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Final {
    Committed { version: LogIndex },
    Conflicted { current: Option<LogIndex> },
    Aborted,
    Expired,
}

impl Final {
    fn state(self) -> UploadState {
        match self {
            Self::Committed { version } => UploadState::Committed { version: version.0 },
            Self::Conflicted { current } => UploadState::Conflicted {
                current: current.map(|version| version.0),
            },
            Self::Aborted => UploadState::Aborted,
            Self::Expired => UploadState::Expired,
        }
    }
}

/// Length and CRC-32C of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkContent {
    pub(crate) len: u32,
    pub(crate) crc32c: u32,
}

/// Length and CRC-32C of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ValueContent {
    bytes: u64,
    crc32c: u32,
}

/// The chunks of an upload, by part and chunk.
type Chunks = BTreeMap<(u32, u32), ChunkContent>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    begun: OpenRecord,
    chunks: Chunks,
    bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum KnownUpload {
    Open(Box<Open>),
    /// The value of a key.
    Live {
        key: Bytes,
        version: LogIndex,
        content: ValueContent,
    },
    /// Its chunks are to be dropped.
    Dead {
        how: Final,
        bytes: u64,
        /// The checksum of a value all of which is still there.
        whole: Option<u32>,
    },
    /// Nothing is left of it but how it ended.
    Ended {
        how: Final,
        at: LogIndex,
    },
}

impl KnownUpload {
    fn state(&self) -> UploadState {
        match self {
            Self::Open(_) => UploadState::Open,
            Self::Live { version, .. } => UploadState::Committed { version: version.0 },
            Self::Dead { how, .. } | Self::Ended { how, .. } => how.state(),
        }
    }
}

/// How many there are of what, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadCounts {
    /// Uploads that are neither committed nor given up.
    pub open: usize,
    /// Chunks of them ...
    pub staged_chunks: usize,
    /// ... and their bytes.
    pub staged_bytes: u64,
    /// Keys whose value is large.
    pub live: usize,
    /// Bytes of these values.
    pub live_bytes: u64,
    /// Values and uploads whose chunks are to be dropped ...
    pub dead: usize,
    /// ... and their bytes.
    pub dead_bytes: u64,
}

/// See the module. Changed only by applying log entries; belongs to one core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uploads {
    /// The last entry's that has one, in microseconds since 1970.
    time_us: u64,
    known: BTreeMap<UploadId, KnownUpload>,
    /// The open ones.
    open: BTreeSet<UploadId>,
    /// When they expire.
    expiring: BTreeSet<(u64, UploadId)>,
    live: BTreeMap<Bytes, UploadId>,
    dead: BTreeSet<UploadId>,
    ended: BTreeSet<(LogIndex, UploadId)>,
    counts: UploadCounts,
}

/// An upload as a client begins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) upload: UploadId,
    pub(crate) key: Bytes,
    /// 0: the usual time.
    pub(crate) ttl_ms: u64,
    pub(crate) attributes: Bytes,
}

/// How long an upload may take.
fn ttl(asked_ms: u64) -> Duration {
    match asked_ms {
        0 => UPLOAD_TTL_DEFAULT,
        asked => Duration::from_millis(asked).clamp(UPLOAD_TTL_MIN, UPLOAD_TTL_MAX),
    }
}

fn refused(refusal: UploadRefusal) -> UploadState {
    UploadState::Refused(refusal)
}

impl Uploads {
    /// The log's time.
    pub(crate) fn time_us(&self) -> u64 {
        self.time_us
    }

    pub(crate) fn counts(&self) -> UploadCounts {
        self.counts
    }

    /// Whether there is nothing that time or a leader would have to do with.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.expiring.is_empty() && self.dead.is_empty()
    }

    /// How an upload stands.
    pub(crate) fn state(&self, upload: UploadId) -> UploadState {
        let known = self.known.get(&upload);
        known.map_or(UploadState::Unknown, KnownUpload::state)
    }

    /// Whether all chunks of a committed value are there, whether or not it is still a key's value.
    pub(crate) fn is_readable(&self, upload: UploadId) -> bool {
        match self.known.get(&upload) {
            Some(KnownUpload::Live { .. }) => true,
            Some(KnownUpload::Dead { whole, .. }) => whole.is_some(),
            _ => false,
        }
    }

    /// Whether its chunks are to be dropped.
    pub(crate) fn is_dead(&self, upload: UploadId) -> bool {
        self.dead.contains(&upload)
    }

    /// When an open upload expires.
    pub(crate) fn expires_us(&self, upload: UploadId) -> Option<u64> {
        self.open(upload).map(|open| open.begun.expires_us)
    }

    /// When the first one expires.
    pub(crate) fn first_expiry_us(&self) -> Option<u64> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// What is to be dropped, in order of ids from the one behind `after` on, and those before it at the end.
    pub(crate) fn dead_after(&self, after: UploadId, most: usize) -> Vec<UploadId> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let dead = self.dead.range(behind).chain(self.dead.range(..=after));
        dead.take(most).copied().collect()
    }

    /// The next chunks of an open upload after one, in order, and whether there are more.
    pub(crate) fn chunks(
        &self,
        upload: UploadId,
        after: Option<(u32, u32)>,
        most: usize,
    ) -> (Vec<StagedChunk>, bool) {
        let Some(open) = self.open(upload) else {
            return (Vec::new(), false);
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = open.chunks.range((from, Bound::Unbounded));
        let listed = rest.by_ref().take(most);
        let listed = listed.map(|((part, chunk), content)| StagedChunk {
            part: *part,
            chunk: *chunk,
            len: content.len,
            crc32c: content.crc32c,
        });
        (listed.collect(), rest.next().is_some())
    }

    /// The next open uploads after one, in order, and whether there are more.
    pub(crate) fn list(&self, after: UploadId, most: usize) -> (Vec<UploadSummary>, bool) {
        let rest = self.open.range((Bound::Excluded(after), Bound::Unbounded));
        let mut rest = rest.filter_map(|upload| {
            let open = self.open(*upload)?;
            Some(UploadSummary {
                upload: *upload,
                key: open.begun.key.to_vec(),
                begun_us: open.begun.begun_us,
                expires_us: open.begun.expires_us,
                chunks: u32_len(open.chunks.len()),
                bytes: open.bytes,
                state: UploadState::Open,
            })
        });
        let listed = rest.by_ref().take(most).collect();
        (listed, rest.next().is_some())
    }

    /// The key of an open upload.
    pub(crate) fn key(&self, upload: UploadId) -> Option<Bytes> {
        self.open(upload).map(|open| open.begun.key.clone())
    }

    fn open(&self, upload: UploadId) -> Option<&Open> {
        match self.known.get(&upload) {
            Some(KnownUpload::Open(open)) => Some(open),
            _ => None,
        }
    }

    /// An entry of that time is applied.
    fn pass(&mut self, time_us: u64, changes: &mut Vec<RowChange>) {
        let before = self.time_us;
        self.time_us = time_us.max(before.saturating_add(1));
        assert!(self.time_us > before || before == u64::MAX, "time rises");
        let time = UploadRecord::Time(self.time_us);
        changes.push(put(TIME, &time));
    }

    /// Begins an upload, unless it is known.
    pub(crate) fn begin(
        &mut self,
        begin: &Begin,
        time_us: u64,
        changes: &mut Vec<RowChange>,
    ) -> UploadState {
        let Begin {
            upload,
            key,
            ttl_ms,
            attributes,
        } = begin;
        let is_sound = *upload != TIME
            && key.len() <= KEY_BYTES_MAX
            && attributes.len() <= ATTRIBUTES_BYTES_MAX;
        if !is_sound {
            return refused(UploadRefusal::Malformed);
        }
        match self.known.get(upload) {
            Some(KnownUpload::Open(open)) if open.begun.key != *key => {
                return refused(UploadRefusal::OtherKey);
            }
            Some(known) => return known.state(),
            None => {}
        }
        // What takes the place of another value makes no more of them.
        let live = match self.live.contains_key(key) {
            true => 0,
            false => self.counts.live,
        };
        for (count, limit) in [
            (self.open.len(), OPEN_UPLOADS_MAX),
            (self.dead.len(), DEAD_UPLOADS_MAX),
            (live, LIVE_UPLOADS_MAX),
        ] {
            if count >= limit {
                let limit = limit as u32;
                return refused(UploadRefusal::TooMany { limit });
            }
        }
        self.pass(time_us, changes);
        let ttl_us = u64::try_from(ttl(*ttl_ms).as_micros()).unwrap_or(u64::MAX);
        let begun = OpenRecord {
            key: own(key),
            begun_us: self.time_us,
            expires_us: self.time_us.saturating_add(ttl_us),
            attributes: own(attributes),
        };
        changes.push(put(*upload, &UploadRecord::Open(begun.clone())));
        self.insert_open(*upload, begun, BTreeMap::new());
        UploadState::Open
    }

    fn insert_open(&mut self, upload: UploadId, begun: OpenRecord, chunks: Chunks) {
        let bytes = chunks.values().map(|content| u64::from(content.len)).sum();
        self.expiring.insert((begun.expires_us, upload));
        self.counts.open += 1;
        self.counts.staged_chunks += chunks.len();
        self.counts.staged_bytes += bytes;
        let open = Open {
            begun,
            chunks,
            bytes,
        };
        let before = self.known.insert(upload, KnownUpload::Open(Box::new(open)));
        assert!(before.is_none(), "{upload} begins twice");
        self.open.insert(upload);
        assert_eq!(self.counts.open, self.open.len());
    }

    /// What becomes of a chunk that needs no entry, or whose entry has no effect; `None`: it is to be stored.
    pub(crate) fn settled(&self, chunk: ChunkId, content: ChunkContent) -> Option<UploadState> {
        let Some(open) = self.open(chunk.upload) else {
            return Some(self.state(chunk.upload));
        };
        if !(1..=CHUNK_BYTES).contains(&content.len) {
            return Some(refused(UploadRefusal::Malformed));
        }
        match open.chunks.get(&(chunk.part, chunk.chunk)) {
            Some(known) if *known == content => return Some(UploadState::Open),
            Some(_) if is_planted(Bug::TakeOtherContent) => return None,
            Some(_) => return Some(refused(UploadRefusal::ChunkDiffers)),
            None => {}
        }
        let end = u64::from(chunk.chunk) * u64::from(CHUNK_BYTES) + u64::from(content.len);
        if end > LARGE_VALUE_BYTES_MAX {
            return Some(refused(UploadRefusal::TooLarge {
                limit: LARGE_VALUE_BYTES_MAX,
            }));
        }
        let too_many = |limit: usize| {
            Some(refused(UploadRefusal::TooMany {
                limit: limit as u32,
            }))
        };
        if open.chunks.len() >= UPLOAD_CHUNKS_MAX {
            return too_many(UPLOAD_CHUNKS_MAX);
        }
        if self.counts.staged_chunks >= STAGED_CHUNKS_MAX {
            return too_many(STAGED_CHUNKS_MAX);
        }
        None
    }

    /// Takes a chunk that is not settled; its bytes are written by the caller.
    pub(crate) fn stage(
        &mut self,
        chunk: ChunkId,
        content: ChunkContent,
        changes: &mut Vec<RowChange>,
    ) {
        assert_eq!(self.settled(chunk, content), None, "{chunk} is settled");
        let Some(KnownUpload::Open(open)) = self.known.get_mut(&chunk.upload) else {
            return;
        };
        let before = open.chunks.insert((chunk.part, chunk.chunk), content);
        let before = before.map_or(0, |before| u64::from(before.len));
        open.bytes = open.bytes + u64::from(content.len) - before;
        self.counts.staged_bytes = self.counts.staged_bytes + u64::from(content.len) - before;
        self.counts.staged_chunks += usize::from(before == 0);
        let (key, row) = (chunk_key(chunk), record::staged(content));
        changes.push(RowChange::Put(Space::Staged, key, row));
        assert!(self.counts.staged_chunks <= STAGED_CHUNKS_MAX);
    }

    /// Whether an upload has all that a commit names.
    ///
    /// # Errors
    /// How it stands, or why it cannot be committed. Of two commits that make different values of it the one that comes
    /// first in the log is taken, and the other one is told so; once chunks of the value are dropped, what it was is not
    /// known any more, and both are told its version.
    pub(crate) fn check_commit(&self, commit: &CommitUpload) -> Result<(), UploadState> {
        let Some(open) = self.open(commit.upload) else {
            let asked = ValueContent {
                bytes: commit.parts.iter().map(|part| part.len).sum(),
                crc32c: commit.crc32c,
            };
            return Err(match self.committed(commit.upload) {
                Some((version, content)) if content != asked => {
                    refused(UploadRefusal::CommittedOtherwise { version: version.0 })
                }
                _ => self.state(commit.upload),
            });
        };
        if is_planted(Bug::CommitIncomplete) {
            return Ok(());
        }
        let crc32c = whole::crc32c(&open.chunks, &commit.parts).map_err(refused)?;
        match crc32c == commit.crc32c {
            true => Ok(()),
            false => Err(refused(UploadRefusal::ChecksumDiffers)),
        }
    }

    /// Commits an upload that [`Uploads::check_commit`] lets pass, as the entry at `at`, or ends it if its condition did not
    /// hold.
    pub(crate) fn commit(
        &mut self,
        at: LogIndex,
        commit: &CommitUpload,
        condition: Result<(), Option<LogIndex>>,
        time_us: u64,
        changes: &mut Vec<RowChange>,
    ) -> UploadState {
        debug_assert_eq!(self.check_commit(commit), Ok(()), "{}", commit.upload);
        self.pass(time_us, changes);
        if let Err(current) = condition {
            let how = Final::Conflicted { current };
            self.end_open(commit.upload, how, changes);
            return how.state();
        }
        let upload = commit.upload;
        let Some(open) = self.remove_open(upload) else {
            return UploadState::Unknown;
        };
        let named: BTreeSet<u32> = commit.parts.iter().map(|part| part.part).collect();
        for (part, chunk) in open.chunks.into_keys() {
            let key = chunk_key(ChunkId {
                upload,
                part,
                chunk,
            });
            changes.push(RowChange::Delete(Space::Staged, key.clone()));
            if !named.contains(&part) {
                changes.push(RowChange::Delete(Space::Chunk, key));
            }
        }
        let len = commit.parts.iter().map(|part| part.len).sum();
        let committed = CommittedRecord {
            key: open.begun.key,
            version: at,
            committed_us: self.time_us,
            len,
            chunk_bytes: CHUNK_BYTES,
            crc32c: commit.crc32c,
            digest: commit.digest,
            attributes: open.begun.attributes,
            parts: commit.parts.clone(),
        };
        let key = committed.key.clone();
        self.replaced(at, &key, changes);
        let large = LargeRef {
            upload,
            len,
            committed_us: self.time_us,
        };
        changes.push(put(upload, &UploadRecord::Committed(committed)));
        changes.push(RowChange::Large(key.clone(), large));
        let content = ValueContent {
            bytes: len,
            crc32c: commit.crc32c,
        };
        self.insert_live(upload, key, at, content);
        UploadState::Committed { version: at.0 }
    }

    /// The version of a committed value, and what it is, if all of it is still there.
    fn committed(&self, upload: UploadId) -> Option<(LogIndex, ValueContent)> {
        match *self.known.get(&upload)? {
            KnownUpload::Live {
                version, content, ..
            } => Some((version, content)),
            KnownUpload::Dead {
                how: Final::Committed { version },
                bytes,
                whole: Some(crc32c),
            } => Some((version, ValueContent { bytes, crc32c })),
            _ => None,
        }
    }

    fn insert_live(
        &mut self,
        upload: UploadId,
        key: Bytes,
        version: LogIndex,
        content: ValueContent,
    ) {
        let other = self.live.insert(key.clone(), upload);
        assert_eq!(other, None, "{upload} and another are the value of a key");
        self.counts.live += 1;
        self.counts.live_bytes += content.bytes;
        assert_eq!(self.counts.live, self.live.len(), "the live are counted");
        let live = KnownUpload::Live {
            key,
            version,
            content,
        };
        self.known.insert(upload, live);
    }

    fn remove_open(&mut self, upload: UploadId) -> Option<Open> {
        self.open(upload)?;
        let Some(KnownUpload::Open(open)) = self.known.remove(&upload) else {
            return None;
        };
        let expired = self.expiring.remove(&(open.begun.expires_us, upload));
        let was_open = self.open.remove(&upload);
        assert!(expired && was_open, "{upload} would expire");
        self.counts.open -= 1;
        self.counts.staged_chunks -= open.chunks.len();
        self.counts.staged_bytes -= open.bytes;
        assert_eq!(
            self.counts.open,
            self.expiring.len(),
            "the open are counted"
        );
        Some(*open)
    }
}
