//! Files received from another replica, and their installation in the place of the own state.
//!
//! They lie in a directory of their own, each under its file id, until all are there and intact. So what was
//! received is not asked for again after a restart, whoever sends the rest: pieces that are durable are in a record
//! (`record.rs`), and a file that is whole and was checked has a name that says so.
//!
//! Invariants:
//! * A piece counts after a restart only if a sync of its file has come before the record that names it.
//! * A file becomes part of the shard only after every block and record of it was checked here: what the sender's
//!   disk or the way damaged is not installed.
//! * Names of the shard are given to received files before the manifest that names them, and taken back at a start
//!   that finds another manifest.
//! * What the receiver had of the list already is held: no collection replaces it meanwhile.
//! * No listed segment is written to here: it would be there twice under one id, once as it was when it was sent.

mod install;
mod place;
mod record;

pub(crate) use install::put_back;
pub(super) use place::IncomingPlace;

use super::Engine;
use super::files::{FileEntry, FileList, piece_len};
use crate::cache::BlockCache;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{FileId, LogId, ValueSegmentId};
use crate::limits::{FILE_PIECE_BYTES, INCOMING_RECORD_EVERY_BYTES};
use crate::planted::{Bug, is_planted};
use crate::sstable::{self, Table};
use crate::vlog::{self, Segment, SegmentMeta, TornRecord};
use bytes::Bytes;
use corelith_io::sync::semaphore::Semaphore;
use corelith_io::{Buf, File};
use record::{Durable, ReceptionRecord, piece_count};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The directory of received files within that of the shard.
const DIRECTORY: &str = "incoming";
const WHOLE: &str = "whole";
const PART: &str = "part";

/// A piece that is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingPiece {
    /// Of this file.
    pub file: FileId,
    /// From here on.
    pub offset: u64,
    /// This much.
    pub len: usize,
}

/// How far a reception has come, in bytes of the files that were missing at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncomingProgress {
    /// What is here.
    pub done: u64,
    /// What it takes.
    pub all: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Missing,
    Asked,
    Written,
}

/// A file that is being received.
struct Partial {
    entry: FileEntry,
    pieces: Vec<Piece>,
    file: Option<Rc<File>>,
    is_whole: bool,
    /// Written to since the last sync.
    is_dirty: bool,
    /// Records of a segment that are not intact: a crash of the sender's may have left them. They must be of no
    /// table's.
    torn: Vec<TornRecord>,
}

/// See the module and [`Engine::receive_files`]. Belongs to one core.
pub struct Incoming {
    engine: Engine,
    dir: PathBuf,
    list: FileList,
    files: RefCell<BTreeMap<FileId, Partial>>,
    tables: BTreeMap<FileId, Rc<Table>>,
    segments: BTreeMap<FileId, Rc<Segment>>,
    /// Held while files are opened or created.
    opening: Semaphore,
    recording: Semaphore,
    unrecorded: Cell<u64>,
    record_every: Cell<u64>,
    held: HeldSegments,
}

/// Value segments that collection leaves alone while this lives.
struct HeldSegments {
    engine: Engine,
    ids: RefCell<Vec<ValueSegmentId>>,
}

impl HeldSegments {
    fn begin(engine: &Engine) -> Self {
        engine.inner.incoming.begin();
        Self {
            engine: engine.clone(),
            ids: RefCell::default(),
        }
    }

    fn add(&self, id: ValueSegmentId) {
        self.ids.borrow_mut().push(id);
        self.engine.inner.state.borrow_mut().held.push(id);
    }
}

impl Drop for HeldSegments {
    fn drop(&mut self) {
        self.engine.inner.incoming.end();
        let held = &mut self.engine.inner.state.borrow_mut().held;
        for id in self.ids.borrow().iter() {
            let at = held.iter().position(|other| other == id);
            assert!(at.is_some(), "what is held is let go once");
            at.map(|at| held.swap_remove(at));
        }
    }
}

impl Partial {
    fn new(entry: FileEntry, durable: Option<Durable>) -> Result<Self> {
        let count = piece_count(entry.bytes).ok_or(Error::Closed)?;
        let mut pieces = vec![Piece::Missing; count];
        if let Some(durable) = durable {
            // One that has grown since keeps what it had, but for a last piece that was short.
            let full = match durable.bytes == entry.bytes {
                true => count,
                false => usize::try_from(durable.bytes / FILE_PIECE_BYTES as u64).unwrap_or(0),
            };
            for (piece, is_durable) in pieces.iter_mut().zip(durable.pieces).take(full) {
                if is_durable {
                    *piece = Piece::Written;
                }
            }
        }
        Ok(Self {
            entry,
            pieces,
            file: None,
            is_whole: false,
            is_dirty: false,
            torn: Vec::new(),
        })
    }

    fn len_of(&self, at: usize) -> usize {
        piece_len(self.entry.bytes, offset_of(at)).unwrap_or(0)
    }

    fn done(&self) -> u64 {
        let written = self.pieces.iter().enumerate();
        let written = written.filter(|(_, piece)| **piece == Piece::Written);
        written.map(|(at, _)| self.len_of(at) as u64).sum()
    }

    fn is_begun(&self) -> bool {
        self.is_whole || self.pieces.contains(&Piece::Written)
    }

    fn is_complete(&self) -> bool {
        self.pieces.iter().all(|piece| *piece == Piece::Written)
    }
}

fn offset_of(at: usize) -> u64 {
    at as u64 * FILE_PIECE_BYTES as u64
}

fn path_of(dir: &Path, id: FileId, extension: &str) -> PathBuf {
    dir.join(format!("{id}.{extension}"))
}

/// The file that a name is of, and whether it is whole.
fn parse(name: &str) -> Option<(FileId, bool)> {
    let (id, extension) = name.split_once('.')?;
    let id = FileId(u128::from_str_radix(id, 16).ok()?);
    let is_whole = match extension {
        WHOLE => true,
        PART => false,
        _ => return None,
    };
    Some((id, is_whole))
}

impl Engine {
    /// Starts receiving the files of a list, or goes on with what a reception before left, before a restart or
    /// not. Nothing of the state changes until [`Engine::install_files`]. One reception runs at a time: the caller
    /// drops the one before.
    ///
    /// # Errors
    /// `OldSnapshot`; `Full` if there is no room for what is missing: nothing is left of it then; `BadPiece` if it is to be
    /// begun anew; `Fenced`, `Closed`, `Io`.
    pub async fn receive_files(&self, list: FileList) -> Result<Incoming> {
        self.check_usable()?;
        let inner = &self.inner;
        if list.manifest.checkpoint.index() <= inner.state.borrow().applied.index() {
            return Err(Error::OldSnapshot);
        }
        let held = HeldSegments::begin(self);
        let listed: BTreeMap<FileId, FileEntry> =
            list.files().map(|entry| (entry.id, entry)).collect();
        self.seal_listed(&listed).await?;
        let mut segments = BTreeMap::new();
        for segment in inner.values.segments().values() {
            let SegmentMeta {
                file, file_bytes, ..
            } = segment.meta();
            let wanted = listed.get(&file);
            if segment.is_sealed() && wanted.is_some_and(|entry| entry.bytes <= file_bytes) {
                held.add(segment.id());
                segments.insert(file, Rc::clone(segment));
            }
        }
        let kept: BTreeSet<_> = segments.values().map(|segment| segment.id()).collect();
        let tables: BTreeMap<FileId, Rc<Table>> = {
            let state = inner.state.borrow();
            let tables = state.version.tables();
            // One that refers to a segment which has grown since would keep the shorter copy beside the other one.
            let tables = tables.filter(|table| table.meta().segments().is_subset(&kept));
            let tables = tables.map(|table| (table.meta().file, Rc::clone(table)));
            tables.filter(|(id, _)| listed.contains_key(id)).collect()
        };
        let dir = inner.incoming.dir().to_path_buf();
        let is_here = |id: &FileId| tables.contains_key(id) || segments.contains_key(id);
        let wanted = listed.into_iter().filter(|(id, _)| !is_here(id));
        let taking = take_up(dir.clone(), wanted.collect());
        let files = inner.incoming.change(taking).await?;
        assert!(
            !files.keys().any(is_here),
            "what is here is not received again"
        );
        self.check_room(&files).await?;
        Ok(Incoming {
            engine: self.clone(),
            dir,
            list,
            files: RefCell::new(files),
            tables,
            segments,
            opening: Semaphore::new(1),
            recording: Semaphore::new(1),
            unrecorded: Cell::new(0),
            record_every: Cell::new(INCOMING_RECORD_EVERY_BYTES),
            held,
        })
    }
}

impl Engine {
    /// Has nothing more written to segments that are listed.
    async fn seal_listed(&self, listed: &BTreeMap<FileId, FileEntry>) -> Result<()> {
        let unsealed: Vec<ValueSegmentId> = {
            let segments = self.inner.values.segments();
            let unsealed = segments.values().filter(|segment| !segment.is_sealed());
            let unsealed = unsealed.filter(|segment| listed.contains_key(&segment.meta().file));
            unsealed.map(|segment| segment.id()).collect()
        };
        for id in unsealed {
            if !self.wait_sealed(id).await? {
                return Err(Error::BadPiece {
                    number: 0,
                    what: "a segment of the list is written to",
                });
            }
            let segments = self.inner.values.segments();
            assert!(
                segments.get(&id).is_none_or(|segment| segment.is_sealed()),
                "nothing more is written to {id}"
            );
        }
        Ok(())
    }
}

/// What of the wanted files lies in `dir`, which is made if there is none; what is not wanted is removed.
async fn take_up(
    dir: PathBuf,
    wanted: BTreeMap<FileId, FileEntry>,
) -> Result<BTreeMap<FileId, Partial>> {
    let dir = dir.as_path();
    corelith_io::create_dir_all(dir).await?;
    let mut record = ReceptionRecord::load(dir).await?;
    let mut found = BTreeMap::new();
    for entry in corelith_io::list_dir(dir).await? {
        match parse(&entry.name).filter(|(id, _)| wanted.contains_key(id)) {
            Some((id, is_whole)) => {
                let before = found.insert(id, is_whole);
                debug_assert!(before.is_none(), "a rename leaves one name");
            }
            None if parse(&entry.name).is_some() => {
                corelith_io::remove_file(&dir.join(&entry.name)).await?;
            }
            None => {}
        }
    }
    let mut files = BTreeMap::new();
    for (id, entry) in wanted {
        let durable = record.partial.remove(&id);
        let mut partial = match found.get(&id) {
            Some(false) => Partial::new(entry, durable)?,
            None => Partial::new(entry, None)?,
            Some(true) => {
                let whole = path_of(dir, id, WHOLE);
                let bytes = File::open(&whole).await?.len().await?;
                let pieces = vec![true; piece_count(bytes).unwrap_or(0)];
                let mut partial = Partial::new(entry, Some(Durable { bytes, pieces }))?;
                partial.is_whole = bytes == entry.bytes;
                if !partial.is_whole {
                    corelith_io::rename(&whole, &path_of(dir, id, PART)).await?;
                }
                partial
            }
        };
        partial.is_dirty = false;
        files.insert(id, partial);
    }
    Ok(files)
}

impl Incoming {
    fn place(&self) -> &IncomingPlace {
        &self.engine.inner.incoming
    }

    /// What is received.
    pub fn list(&self) -> &FileList {
        &self.list
    }

    /// How far it has come.
    pub fn progress(&self) -> IncomingProgress {
        let files = self.files.borrow();
        let progress = IncomingProgress {
            done: files.values().map(Partial::done).sum(),
            all: files.values().map(|partial| partial.entry.bytes).sum(),
        };
        assert!(progress.done <= progress.all, "{progress:?}");
        progress
    }

    /// A piece that is not here and was not asked for; it counts as asked for from now on.
    pub fn next_missing(&self) -> Option<MissingPiece> {
        let files = &mut *self.files.borrow_mut();
        for (id, partial) in files {
            let missing = |piece: &Piece| *piece == Piece::Missing;
            let Some(at) = partial.pieces.iter().position(missing) else {
                continue;
            };
            if let Some(piece) = partial.pieces.get_mut(at) {
                *piece = Piece::Asked;
            }
            let len = partial.len_of(at);
            assert!(len > 0, "each piece of {id} has bytes");
            return Some(MissingPiece {
                file: *id,
                offset: offset_of(at),
                len,
            });
        }
        None
    }

    /// Says that a piece asked for does not come: it is missing again.
    pub fn give_back(&self, piece: MissingPiece) {
        self.set(&piece, Piece::Asked, Piece::Missing);
    }

    fn set(&self, piece: &MissingPiece, from: Piece, to: Piece) {
        let files = &mut *self.files.borrow_mut();
        let at = usize::try_from(piece.offset / FILE_PIECE_BYTES as u64);
        let partial = files.get_mut(&piece.file);
        let place = partial
            .zip(at.ok())
            .and_then(|(partial, at)| partial.pieces.get_mut(at));
        if let Some(place) = place.filter(|place| **place == from) {
            *place = to;
        }
    }

    /// Takes a piece that was asked for, with the checksum that the sender gave for it. Several may be on their way
    /// at once. The last piece of a file has the whole file checked before this returns.
    ///
    /// # Errors
    /// `BadPiece`: it is missing again. `Corrupt`: the file, received whole, is not intact, and all of it is
    /// missing again. `Io`: the reception is over.
    pub async fn write_piece(&self, piece: MissingPiece, bytes: &[u8], crc: u32) -> Result<()> {
        self.engine.check_usable()?;
        let is_intact = crc32c::crc32c(bytes) == crc || is_planted(Bug::TakeUncheckedPieces);
        if bytes.len() != piece.len || !is_intact {
            self.give_back(piece);
            return Err(Error::BadPiece {
                number: piece.offset / FILE_PIECE_BYTES as u64,
                what: "the checksum or the length does not match",
            });
        }
        let Some(file) = self.file(piece.file).await? else {
            return Ok(());
        };
        let mut buf = Buf::alloc(bytes.len());
        buf.copy_from_slice(bytes);
        if let Err(error) = file.write_at(piece.offset, buf).await {
            self.give_back(piece);
            return Err(error.into());
        }
        self.set(&piece, Piece::Asked, Piece::Written);
        let is_complete = {
            let files = &mut *self.files.borrow_mut();
            let partial = files.get_mut(&piece.file);
            partial.is_some_and(|partial| {
                partial.is_dirty = true;
                partial.is_complete()
            })
        };
        if is_complete {
            self.complete(piece.file).await?;
        }
        let unrecorded = self.unrecorded.get() + bytes.len() as u64;
        self.unrecorded.set(unrecorded);
        if unrecorded >= self.record_every.get() {
            self.unrecorded.set(0);
            self.record(BTreeMap::new()).await?;
        }
        Ok(())
    }

    /// The file that pieces are written to; `None` if it is whole.
    async fn file(&self, id: FileId) -> Result<Option<Rc<File>>> {
        let _opening = self.opening.acquire(1).await;
        let (is_new, bytes) = {
            let files = self.files.borrow();
            let Some(partial) = files.get(&id).filter(|partial| !partial.is_whole) else {
                return Ok(None);
            };
            if let Some(file) = &partial.file {
                return Ok(Some(Rc::clone(file)));
            }
            (!partial.is_begun(), partial.entry.bytes)
        };
        let opening = place::open_part(path_of(&self.dir, id, PART), is_new, bytes);
        let file = Rc::new(self.place().change(opening).await?);
        if let Some(partial) = self.files.borrow_mut().get_mut(&id) {
            partial.file = Some(Rc::clone(&file));
        }
        Ok(Some(file))
    }

    /// Checks a file whose pieces are all here.
    async fn complete(&self, id: FileId) -> Result<()> {
        let Some(file) = self.file(id).await? else {
            return Ok(());
        };
        file.sync().await?;
        let (path, whole) = (path_of(&self.dir, id, PART), path_of(&self.dir, id, WHOLE));
        // Whoever has checked it before may have gone when it had its new name.
        let opening = whole.clone();
        let opening = async move { Ok(File::open(&opening).await.is_ok()) };
        let is_named = self.place().change(opening).await?;
        let checked = match is_named || is_planted(Bug::TakeUncheckedPieces) {
            true => Ok(Vec::new()),
            false => self.check(&path, id).await,
        };
        match checked {
            Ok(torn) => {
                let is_whole = torn.is_empty();
                if is_whole && !is_named {
                    let naming = async move { Ok(corelith_io::rename(&path, &whole).await?) };
                    self.place().change(naming).await?;
                }
                if let Some(partial) = self.files.borrow_mut().get_mut(&id) {
                    assert!(partial.is_complete(), "{id} was checked with all pieces");
                    partial.is_whole = is_whole;
                    partial.is_dirty = false;
                    partial.torn = torn;
                    partial.file = None;
                }
                Ok(())
            }
            Err(error) => {
                self.forget(id);
                Err(error)
            }
        }
    }

    /// Checks every byte of a file against itself and what the list says of it.
    async fn check(&self, path: &Path, id: FileId) -> Result<Vec<TornRecord>> {
        let manifest = &self.list.manifest;
        let mut tables = manifest.tables.iter();
        if let Some(placed) = tables.find(|placed| placed.meta.file == id) {
            let none = BlockCache::new(0);
            let table = Table::open_at(path.to_path_buf(), placed.meta.clone(), &none).await?;
            let mut verifier = sstable::Verifier::new(Rc::new(table));
            while verifier.step().await?.is_some() {}
            return Ok(Vec::new());
        }
        let mut segments = manifest.segments.iter();
        match segments.find(|meta| meta.file == id) {
            Some(meta) => vlog::check_file(path, *meta).await,
            None => Err(Error::corrupt(path, 0, "the list has no such file")),
        }
    }

    /// Makes durable what was received so far, and that it was.
    async fn record(&self, placed: BTreeMap<FileId, FileName>) -> Result<()> {
        let _recording = self.recording.acquire(1).await;
        let (mut record, mut dirty) = (ReceptionRecord::default(), Vec::new());
        for (id, partial) in &mut *self.files.borrow_mut() {
            if partial.is_whole {
                continue;
            }
            let pieces = partial.pieces.iter();
            let pieces: Vec<bool> = pieces.map(|piece| *piece == Piece::Written).collect();
            if pieces.contains(&true) {
                let bytes = partial.entry.bytes;
                record.partial.insert(*id, Durable { bytes, pieces });
            }
            if std::mem::take(&mut partial.is_dirty) {
                dirty.extend(partial.file.clone());
            }
        }
        record.placed = placed;
        let dir = self.dir.clone();
        let storing = async move {
            for file in dirty {
                file.sync().await?;
            }
            record.store(&dir).await
        };
        self.place().change(storing).await
    }

    /// Ends the reception: every file is here and intact.
    ///
    /// # Errors
    /// `BadPiece` if pieces are missing; `Corrupt` as [`Incoming::write_piece`], `Io`.
    pub async fn finish(&self) -> Result<(Option<LogId>, Option<(LogId, Bytes)>)> {
        let ids: Vec<FileId> = {
            let files = self.files.borrow();
            let open = files.iter().filter(|(_, partial)| !partial.is_whole);
            open.map(|(id, _)| *id).collect()
        };
        for id in ids {
            let is_complete = self
                .files
                .borrow()
                .get(&id)
                .is_some_and(Partial::is_complete);
            if !is_complete {
                return Err(Error::BadPiece {
                    number: 0,
                    what: "a file is not complete",
                });
            }
            // One that was complete before a restart, or has torn records, is checked here.
            self.complete(id).await?;
        }
        self.check_torn().await?;
        Ok(self.list.applied())
    }

    /// Checks that no table refers to a record that is not intact.
    async fn check_torn(&self) -> Result<()> {
        let torn: Vec<(FileId, Vec<TornRecord>)> = {
            let files = self.files.borrow();
            let torn = files.iter().map(|(id, it)| (*id, it.torn.clone()));
            torn.filter(|(_, torn)| !torn.is_empty()).collect()
        };
        let manifest = &self.list.manifest;
        for (id, torn) in torn {
            let mut segments = manifest.segments.iter();
            let number = segments.find(|meta| meta.file == id).map(|meta| meta.id);
            for placed in &manifest.tables {
                let refers = |number| placed.meta.segments().contains(&number);
                let file = placed.meta.file;
                if self.tables.contains_key(&file) || !number.is_some_and(refers) {
                    continue;
                }
                let path = path_of(&self.dir, file, WHOLE);
                let table = Table::open_at(path, placed.meta.clone(), &BlockCache::new(0)).await?;
                for (key, at, pointer) in &torn {
                    if table.holds(key, *at, *pointer, false).await? {
                        self.forget(id);
                        let path = path_of(&self.dir, id, PART);
                        let what = "a value is damaged";
                        return Err(Error::corrupt(&path, pointer.offset, what));
                    }
                }
            }
        }
        Ok(())
    }

    /// Has a file received again.
    fn forget(&self, id: FileId) {
        if let Some(partial) = self.files.borrow_mut().get_mut(&id) {
            partial.pieces.fill(Piece::Missing);
            partial.file = None;
            partial.is_whole = false;
            partial.torn.clear();
        }
    }

    /// Has what was received written down after each so many bytes.
    #[cfg(test)]
    pub(super) fn record_every(&self, bytes: u64) {
        self.record_every.set(bytes);
    }
}
