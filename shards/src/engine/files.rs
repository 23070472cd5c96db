//! The files of a checkpoint, offered to another replica as they are.
//!
//! What is offered does not change: tables and sealed segments never do, and of a segment that is written to, what
//! is durable stays as it is. So a receiver that comes back later goes on where it was, also with what another
//! list names.
//!
//! Invariants:
//! * Every value that a listed table refers to is in a listed segment.
//! * No listed file is longer than one of its kind can be, nor are all of them together longer than a list's may be: what
//!   another replica says of lengths takes memory here.
//! * A file that is pinned keeps its bytes; what holds it back are the references held here.

use super::Engine;
use crate::error::{Error, Result};
use crate::ids::{FileId, LogId, Owner, ShardId, ValueSegmentId};
use crate::limits::{
    FILE_PIECE_BYTES, LISTED_BYTES_MAX, TABLE_FILE_BYTES_MAX, VALUE_SEGMENT_FILE_BYTES_MAX,
    VALUE_SEGMENTS_RECEIVED,
};
use crate::manifest::Manifest;
use crate::sstable::Table;
use crate::vlog::{Segment, SegmentMeta};
use bytes::Bytes;
use corelith_io::{BLOCK_SIZE, Instant};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A table.
    Table,
    /// A generation of a value segment.
    ValueSegment,
}

/// A file of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// What names its content.
    pub id: FileId,
    /// What it is.
    pub kind: FileKind,
    /// How many bytes of it are meant, from its front.
    pub bytes: u64,
}

/// The files that make up a checkpoint, with all that must be known to use them elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileList {
    /// The manifest that a shard of nothing but these files would have.
    pub(super) manifest: Manifest,
}

impl FileList {
    /// Its files, none twice.
    pub fn files(&self) -> impl Iterator<Item = FileEntry> {
        let tables = self.manifest.tables.iter().map(|placed| FileEntry {
            id: placed.meta.file,
            kind: FileKind::Table,
            bytes: placed.meta.file_bytes,
        });
        let segments = self.manifest.segments.iter().map(|segment| FileEntry {
            id: segment.file,
            kind: FileKind::ValueSegment,
            bytes: segment.file_bytes,
        });
        tables.chain(segments)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    /// The log id and membership record of the checkpoint.
    pub fn applied(&self) -> (Option<LogId>, Option<(LogId, Bytes)>) {
        let checkpoint = &self.manifest.checkpoint;
        (checkpoint.applied, checkpoint.membership.clone())
    }

    /// Reads what [`PinnedFiles::encoded`] gave for a list of `shard`.
    ///
    /// # Errors
    /// `Corrupt` or `NewerFormat`: nothing can be done with it.
    pub fn decode(shard: ShardId, bytes: &[u8]) -> Result<Self> {
        let name = Path::new("list of files");
        let (owner, manifest) = Manifest::decode(name, bytes)?;
        let list = Self { manifest };
        match owner.shard == shard && list.is_whole() {
            true => Ok(list),
            false => Err(Error::corrupt(name, 0, "a list that cannot be")),
        }
    }

    /// Whether it is one that [`Engine::pin_files`] could have made.
    fn is_whole(&self) -> bool {
        let mut ids = BTreeSet::new();
        let unit = BLOCK_SIZE as u64;
        let (mut files, mut left) = (self.files(), LISTED_BYTES_MAX);
        let mut has_room = |file: &FileEntry| {
            let longest = match file.kind {
                FileKind::Table => TABLE_FILE_BYTES_MAX,
                FileKind::ValueSegment => VALUE_SEGMENT_FILE_BYTES_MAX,
            };
            let rest = left.checked_sub(file.bytes);
            left = rest.unwrap_or(0);
            rest.is_some() && (unit..=longest).contains(&file.bytes)
        };
        let listed: BTreeSet<_> = self.manifest.segments.iter().map(|meta| meta.id).collect();
        let mut referred = self.manifest.tables.iter().map(|it| it.meta.segments());
        files.all(|file| ids.insert(file.id) && has_room(&file) && file.bytes.is_multiple_of(unit))
            && referred.all(|segments| segments.is_subset(&listed))
    }
}

/// The files of one checkpoint, which stay until this is dropped. Belongs to one core.
pub struct PinnedFiles {
    list: FileList,
    owner: Owner,
    tables: BTreeMap<FileId, Rc<Table>>,
    segments: BTreeMap<FileId, Rc<Segment>>,
    used: Cell<Instant>,
}

impl Engine {
    /// Pins the files of the last durable checkpoint. Costs no I/O.
    ///
    /// # Errors
    /// `Corrupt` if a table refers to a segment that is not there.
    pub fn pin_files(&self) -> Result<PinnedFiles> {
        let inner = &self.inner;
        let state = inner.state.borrow();
        let all = inner.values.segments();
        let tables = state.version.tables();
        let tables: BTreeMap<FileId, Rc<Table>> = tables
            .map(|table| (table.meta().file, Rc::clone(table)))
            .collect();
        let referred = tables.values().flat_map(|table| table.meta().segments());
        let referred: BTreeSet<ValueSegmentId> = referred.collect();
        let mut segments = BTreeMap::new();
        let mut metas: Vec<SegmentMeta> = Vec::new();
        for id in referred {
            let what = "there is no such value segment";
            let segment = all.get(&id).ok_or(Error::corrupt(&inner.dir, 0, what))?;
            metas.push(segment.meta());
            segments.insert(segment.meta().file, Rc::clone(segment));
        }
        let list = FileList {
            manifest: Manifest {
                next_segment: ValueSegmentId(VALUE_SEGMENTS_RECEIVED),
                segments: metas,
                ..state.manifest.clone()
            },
        };
        debug_assert!(list.is_whole(), "a list is read again");
        assert!(
            list.files()
                .all(|file| tables.contains_key(&file.id) || segments.contains_key(&file.id)),
            "what is listed is held"
        );
        Ok(PinnedFiles {
            list,
            owner: inner.owner,
            tables,
            segments,
            used: Cell::new(corelith_io::now()),
        })
    }
}

impl PinnedFiles {
    /// What is pinned.
    pub fn list(&self) -> &FileList {
        &self.list
    }

    /// The list as it is sent.
    pub fn encoded(&self) -> Bytes {
        self.list.manifest.encode(self.owner).into()
    }

    /// Reads a piece of a file: up to `FILE_PIECE_BYTES` from `offset`, `None` if nothing like that is pinned.
    /// The bytes are as they are on disk, and may be damaged.
    ///
    /// # Errors
    /// `Io`.
    pub async fn read(&self, file: FileId, offset: u64) -> Result<Option<Bytes>> {
        self.used.set(corelith_io::now());
        let bytes = self.list.files().find(|entry| entry.id == file);
        let bytes = bytes.map_or(0, |entry| entry.bytes);
        let Some(len) = piece_len(bytes, offset) else {
            return Ok(None);
        };
        let read = match (self.tables.get(&file), self.segments.get(&file)) {
            (Some(table), _) => table.read_raw(offset, len).await?,
            (None, Some(segment)) => segment.read_raw(offset, len).await?,
            (None, None) => return Ok(None),
        };
        Ok((read.len() == len).then(|| Bytes::copy_from_slice(&read)))
    }

    /// Notes that somebody wants them still.
    pub fn touch(&self) {
        self.used.set(corelith_io::now());
    }

    /// For how long nothing was read.
    pub fn idle(&self) -> Duration {
        corelith_io::now().saturating_duration_since(self.used.get())
    }
}

/// The length of the piece at `offset` of a file of that length, if there is one.
pub(super) fn piece_len(file_bytes: u64, offset: u64) -> Option<usize> {
    let unit = FILE_PIECE_BYTES as u64;
    let left = file_bytes.checked_sub(offset).filter(|left| *left > 0)?;
    if !offset.is_multiple_of(unit) {
        return None;
    }
    usize::try_from(left.min(unit)).ok()
}
