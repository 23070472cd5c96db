//! Finding out what the log holds after a start.
//!
//! Each segment that was begun says with which block number it begins. A segment ends where the next
//! one begins; one that begins at or after a later one's beginning was given up by a recovery
//! (superseded). What remains must be one chain of blocks. Where the chain breaks, blocks further on
//! tell whether the missing one was ever acknowledged: if one of them carries `flushed up to` above
//! the missing number, acknowledged data is damaged and the log is not opened. Otherwise the rest is
//! a torn tail and does not count.
//!
//! A block is acknowledged together with the values that its entries refer to, and `flushed up to`
//! speaks of both. So the values of the blocks from there on are looked at: an entry whose value is
//! torn ends the log as a torn block would, before the block in which it begins. A value that was written
//! whole and has changed since is damage (`vlog/tear.rs`). A segment that is not there was perhaps not
//! there yet, unless entries were flushed to it. Only entries that
//! are held at the end of the log are asked for, since the values of purged ones may be gone. (With
//! an earlier end a truncation may be undone, and there is another end to be looked at.) Nor are those
//! that a checkpoint covers: the log was durable up to them before the checkpoint was, so a value of
//! theirs that is not whole was damaged since. Whoever reads it is told.
//!
//! A recovery changes nothing that a later recovery could decide otherwise about: the log goes on in
//! a segment that was never begun before, whose start names the block before it.

use super::format::{FLAG_START, MAGIC, State};
use super::index::Index;
use super::pipeline::Position;
use super::replay::{Asked, Replay, SeparatedEntry};
use super::scan::{self, Evidence, Seen, Window};
use super::segment::{Segment, units};
use super::{LogRange, WalOptions, index::Slot};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{LogId, LogIndex, Owner, SegmentId};
use crate::limits;
use crate::planted::{Bug, is_planted};
use crate::vlog::{LoggedValue, ValuePointer, ValueState};
use corelith_io::{BLOCK_SIZE, File, OpenOptions};
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How far a file without a readable start is searched: if its start was acknowledged, a block
/// within all the blocks that may have been in flight with it says so.
const SEARCH_BYTES: u64 =
    ((limits::LOG_WRITES_IN_FLIGHT_MAX + 2) * limits::LOG_BLOCK_BYTES_MAX) as u64;

/// What a recovery found.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) segments: VecDeque<Segment>,
    pub(super) position: Position,
    /// Files that hold nothing of the log, in order of their names.
    pub(super) free: Vec<FreeFile>,
    /// Above every name in use.
    pub(super) next_id: SegmentId,
    pub(super) created: bool,
    pub(super) blocks_cut: u64,
}

/// A file that can be pre-written space for a new segment.
pub(super) struct FreeFile {
    pub(super) path: PathBuf,
    pub(super) len: u64,
}

/// A file named as a segment.
struct LogFile {
    id: SegmentId,
    path: PathBuf,
    len: u64,
    file: Rc<File>,
    begun: Option<Begun>,
}

/// The start block of a segment.
#[derive(Clone, Copy)]
struct Begun {
    number: u64,
    previous: u32,
    state: State,
}

/// Where the chain of blocks broke.
struct Break {
    file: usize,
    offset: u64,
}

/// What the files of a log hold.
struct Contents {
    index: Index,
    state: State,
    committed: Option<LogId>,
    /// See [`Walk::ends`].
    ends: Vec<(usize, u64, u64)>,
    evidence: Evidence,
    next_number: u64,
    previous: u32,
    blocks_cut: u64,
    /// Whether intact blocks continue the chain beyond its end.
    is_cut: bool,
    lost: Vec<SeparatedEntry>,
}

/// Reads the log in `dir` and makes it ready to go on. It was durable up to the entry `covered`.
/// `value_of` tells what is in the place of a value; a whole one is durable from now on.
pub(super) async fn recover(
    dir: &Path,
    options: &WalOptions,
    covered: Option<LogIndex>,
    value_of: &impl AsyncFn(LoggedValue) -> Result<ValueState>,
) -> Result<Recovered> {
    let owner = Owner {
        store_id: options.store_id,
        shard: options.shard,
    };
    remove_unfinished(dir).await?;
    let files = open_files(dir, owner).await?;
    let next_id = SegmentId(files.last().map_or(1, |file| file.id.0 + 1));
    let cache_bytes = options.cache_bytes;
    let asked = Asked::Unproven { after: covered };
    let Some(contents) = read_files(dir, &files, owner, cache_bytes, asked, value_of).await? else {
        return Ok(Recovered {
            index: Index::new(cache_bytes),
            segments: VecDeque::new(),
            position: Position::default(),
            free: files.into_iter().map(free).collect(),
            next_id,
            created: true,
            blocks_cut: 0,
        });
    };
    let (segments, free) =
        settle(files, &contents.ends, contents.evidence, contents.is_cut).await?;
    Ok(Recovered {
        index: contents.index,
        segments,
        position: Position {
            next_number: contents.next_number,
            previous: contents.previous,
            state: contents.state,
            committed: contents.committed,
        },
        free,
        next_id,
        created: false,
        blocks_cut: contents.blocks_cut,
    })
}

/// What a log holds, as far as can be told without changing any of it.
pub(crate) struct Examined {
    index: Index,
    /// Segments in use.
    pub(crate) segments: usize,
    /// Acknowledged entries whose values are not whole.
    pub(crate) lost: Vec<(LogIndex, ValuePointer)>,
}

impl Examined {
    /// The entries it holds.
    pub(crate) fn range(&self) -> LogRange {
        self.index.range()
    }

    /// The entry at an index, if it is held.
    pub(crate) fn id_at(&self, index: LogIndex) -> Option<LogId> {
        self.index.id_at(index)
    }
}

/// Reads the log in `dir` as a recovery does, and asks for the values of all entries held; `None` if
/// there is no log.
///
/// # Errors
/// `Corrupt`, `NewerFormat`, `OtherStore`, `Io`, and those of `value_of`.
pub(crate) async fn examine(
    dir: &Path,
    owner: Owner,
    value_of: impl AsyncFn(LoggedValue) -> Result<ValueState>,
) -> Result<Option<Examined>> {
    let files = open_files(dir, owner).await?;
    let contents = read_files(dir, &files, owner, 0, Asked::All, &value_of).await?;
    Ok(contents.map(|contents| Examined {
        index: contents.index,
        segments: contents.ends.len(),
        lost: contents
            .lost
            .iter()
            .map(|entry| (entry.index, entry.value.place))
            .collect(),
    }))
}

/// Finds out what the files hold; `None` if that is no log. Changes nothing.
async fn read_files(
    dir: &Path,
    files: &[LogFile],
    owner: Owner,
    cache_bytes: usize,
    asked: Asked,
    value_of: &impl AsyncFn(LoggedValue) -> Result<ValueState>,
) -> Result<Option<Contents>> {
    let live = live_segments(files);
    let Some((&oldest, begun)) = live
        .first()
        .and_then(|oldest| Some((oldest, files.get(*oldest)?.begun?)))
    else {
        refuse_lost_start(files, owner).await?;
        return Ok(None);
    };
    let start = |bound| Walk {
        owner,
        files,
        bound,
        replay: Replay::new(cache_bytes, &begun.state, asked),
        lost: Vec::new(),
        next_number: begun.number,
        previous: begun.previous,
        ends: Vec::new(),
        evidence: Evidence::default(),
        window: Window::default(),
    };
    let mut walk = start(u64::MAX);
    let (mut blocks_cut, mut is_cut) = (0, false);
    if let Some(broken) = walk.run(&live).await? {
        blocks_cut = walk.judge(&broken).await?;
        walk.refuse_lost_entries(&broken, asked)?;
    }
    while let Some(torn) = walk.first_without_value(value_of).await? {
        tracing::warn!(
            block = torn,
            "the log ends before a value that is not whole"
        );
        blocks_cut += walk.next_number - torn;
        is_cut = true;
        let evidence = walk.evidence;
        walk = start(torn);
        walk.evidence = evidence;
        if let Some(broken) = walk.run(&live).await? {
            let path = files.get(broken.file).map_or(dir, |file| &file.path);
            let what = "a block that was intact a moment ago is not";
            return Err(Error::corrupt(path, broken.offset, what));
        }
    }
    walk.refuse_missing_segments(value_of).await?;
    walk.give_up_empty();
    let Walk {
        replay,
        next_number,
        previous,
        ends,
        evidence,
        lost,
        ..
    } = walk;
    let (index, state, committed) = match replay.finish() {
        Ok(finished) => finished,
        Err(fault) => {
            // The file before the oldest readable one is the damaged one, if there is one.
            let at = oldest.saturating_sub(1);
            let file = files.get(at).map_or(dir, |file| file.path.as_path());
            return Err(Error::corrupt(file, 0, fault));
        }
    };
    Ok(Some(Contents {
        index,
        state,
        committed,
        ends,
        evidence,
        next_number,
        previous,
        blocks_cut,
        is_cut,
        lost,
    }))
}

fn free(file: LogFile) -> FreeFile {
    FreeFile {
        path: file.path,
        len: file.len,
    }
}

/// Removes segments whose preparation was broken off.
async fn remove_unfinished(dir: &Path) -> Result<()> {
    let mut has_temporary = false;
    for entry in corelith_io::list_dir(dir).await? {
        if let Some(FileName::SegmentTemporary(_)) = FileName::parse(&entry.name) {
            corelith_io::remove_file(&dir.join(&entry.name)).await?;
            has_temporary = true;
        }
    }
    if has_temporary {
        corelith_io::sync_dir(dir).await?;
    }
    Ok(())
}

/// Opens every segment file, in order of ids, and reads its start.
async fn open_files(dir: &Path, owner: Owner) -> Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for entry in corelith_io::list_dir(dir).await? {
        let path = dir.join(&entry.name);
        if let Some(FileName::Segment(id)) = FileName::parse(&entry.name) {
            let file = Rc::new(File::open(&path).await?);
            let begun = read_start(&file, &path, id, owner).await?;
            files.push(LogFile {
                id,
                path,
                len: entry.len,
                file,
                begun,
            });
        }
    }
    files.sort_by_key(|file| file.id);
    Ok(files)
}

async fn read_start(
    file: &File,
    path: &Path,
    id: SegmentId,
    owner: Owner,
) -> Result<Option<Begun>> {
    let bytes = file.read_at(0, BLOCK_SIZE).await?;
    match scan::look(&bytes, id, owner) {
        Seen::Block(header, _, payload) if header.flags & FLAG_START != 0 => {
            Ok(State::decode(payload).map(|state| Begun {
                number: header.number,
                previous: header.previous,
                state,
            }))
        }
        Seen::Foreign(found) => Err(scan::foreign(path, found, owner)),
        Seen::Newer(version) => Err(scan::newer(path, version)),
        // What was acknowledged may have been there, and nothing else would say so.
        Seen::Nothing if is_of_something_else(&bytes) => {
            let what = "the start of a segment is of something else";
            Err(Error::corrupt(path, 0, what))
        }
        Seen::Block(..) | Seen::Stale | Seen::Nothing => Ok(None),
    }
}

/// Whether the start of a file was never written by a log: it is zero before the first block, and its
/// first sector is that of a block from then on, however torn the rest is.
fn is_of_something_else(start: &[u8]) -> bool {
    let magic = start.first_chunk().copied().map_or(0, u32::from_le_bytes);
    magic != 0 && magic != MAGIC
}

/// The segments that count: begun, and before everything that begins later.
fn live_segments(files: &[LogFile]) -> Vec<usize> {
    let mut live = Vec::new();
    let mut bound = u64::MAX;
    for (at, file) in files.iter().enumerate().rev() {
        if let Some(begun) = file.begun
            && begun.number < bound
        {
            bound = begun.number;
            live.push(at);
        }
    }
    live.reverse();
    live
}

/// With no readable start, the log is new unless some block says that a start was durable.
async fn refuse_lost_start(files: &[LogFile], owner: Owner) -> Result<()> {
    for file in files {
        let mut evidence = Evidence::default();
        let end = file.len.min(SEARCH_BYTES);
        scan::search(
            &file.file,
            &file.path,
            file.id,
            owner,
            0,
            end,
            &mut evidence,
        )
        .await?;
        if evidence.flushed_up_to > 0 {
            return Err(Error::corrupt(
                &file.path,
                0,
                "the start of the only segment cannot be read",
            ));
        }
    }
    Ok(())
}

/// The walk along the chain of blocks.
struct Walk<'a> {
    owner: Owner,
    files: &'a [LogFile],
    /// The log ends before this block.
    bound: u64,
    replay: Replay,
    next_number: u64,
    previous: u32,
    /// Per walked segment: its place in `files`, its first number, and the bytes that count.
    ends: Vec<(usize, u64, u64)>,
    /// Entries of acknowledged blocks whose values are not whole; filled if all are asked for.
    lost: Vec<SeparatedEntry>,
    evidence: Evidence,
    window: Window,
}

impl Walk<'_> {
    /// Walks the `live` segments until their end, the first break or the bound.
    async fn run(&mut self, live: &[usize]) -> Result<Option<Break>> {
        for (nth, &at) in live.iter().enumerate() {
            if self.next_number == self.bound {
                return Ok(None);
            }
            let next = live
                .get(nth + 1)
                .and_then(|next| self.files.get(*next)?.begun);
            if let Some(broken) = self.segment(at, next).await? {
                return Ok(Some(broken));
            }
        }
        Ok(None)
    }

    /// Walks one segment up to where the `next` one begins.
    async fn segment(&mut self, at: usize, next: Option<Begun>) -> Result<Option<Break>> {
        let Some(file) = self.files.get(at) else {
            return Ok(None);
        };
        self.window.clear();
        let first_number = self.next_number;
        let mut offset = 0;
        let broken = loop {
            if let Some(next) = next
                && next.number == self.next_number
            {
                if next.previous != self.previous {
                    let what = "the next segment does not continue this one";
                    return Err(Error::corrupt(&file.path, offset, what));
                }
                break None;
            }
            if self.next_number == self.bound {
                break None;
            }
            if offset >= file.len {
                break Some(Break { file: at, offset });
            }
            match self.block(file, offset).await? {
                Some(len) => offset += len,
                None => break Some(Break { file: at, offset }),
            }
            corelith_io::yield_if_needed().await;
        };
        self.ends.push((at, first_number, offset));
        Ok(broken)
    }

    /// Takes the block at `offset` and returns its length, or `None` if it does not continue the
    /// chain.
    async fn block(&mut self, file: &LogFile, offset: u64) -> Result<Option<u64>> {
        let bytes = self
            .window
            .get(
                &file.file,
                offset,
                limits::LOG_BLOCK_BYTES_MAX,
                limits::IO_BYTES_MAX,
            )
            .await?;
        let (header, crc, payload) = match scan::look(bytes, file.id, self.owner) {
            Seen::Block(header, crc, payload) => (header, crc, payload),
            Seen::Newer(version) => return Err(scan::newer(&file.path, version)),
            Seen::Stale | Seen::Foreign(_) | Seen::Nothing => return Ok(None),
        };
        if header.number != self.next_number || header.previous != self.previous {
            return Ok(None);
        }
        let len = header.used_len().next_multiple_of(BLOCK_SIZE) as u64;
        let slot = Slot {
            first: LogIndex(0),
            segment: super::format::segment_number(file.id),
            offset_units: units(offset),
            len_units: units(len),
            bytes_up_to: 0,
        };
        self.replay
            .block(&header, payload, slot)
            .map_err(|fault| Error::corrupt(&file.path, offset, fault))?;
        self.evidence.add(&header);
        self.next_number += 1;
        self.previous = crc;
        Ok(Some(len))
    }

    /// The first block that ends the log because a value that it refers to is not whole.
    async fn first_without_value(
        &mut self,
        value_of: &impl AsyncFn(LoggedValue) -> Result<ValueState>,
    ) -> Result<Option<u64>> {
        let proven = self.evidence.flushed_up_to;
        let asked = self.replay.separated(proven);
        let flushed = self.replay.flushed();
        let mut known: BTreeSet<_> = flushed.map(|entry| entry.value.place.segment).collect();
        for entry in asked {
            let state = value_of(entry.value).await?;
            if entry.block < proven {
                known.insert(entry.value.place.segment);
                if !matches!(state, ValueState::Whole) {
                    self.lost.push(entry);
                }
                continue;
            }
            match state {
                ValueState::Whole => {}
                ValueState::Missing(error) if known.contains(&entry.value.place.segment) => {
                    return Err(error);
                }
                ValueState::Torn | ValueState::Missing(_) => return Ok(Some(entry.block)),
                ValueState::Damaged(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Refuses a log of which entries were flushed to a value segment that is not there: its number would be
    /// given to another one.
    async fn refuse_missing_segments(
        &self,
        value_of: &impl AsyncFn(LoggedValue) -> Result<ValueState>,
    ) -> Result<()> {
        for entry in self.replay.flushed() {
            if let ValueState::Missing(error) = value_of(entry.value).await? {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives up a last segment that holds nothing but its start, so that a node that crashes again
    /// and again does not leave a file each time.
    fn give_up_empty(&mut self) {
        if let [.., _, (at, number, _)] = *self.ends.as_slice()
            && self.next_number == number + 1
            // A file that is not free yet would otherwise prove the loss of the start just given up.
            && self.evidence.flushed_up_to <= number
            && let Some(begun) = self.files.get(at).and_then(|file| file.begun)
        {
            self.next_number = number;
            self.previous = begun.previous;
            self.ends.pop();
        }
    }

    /// A block that is missing before the end of what a checkpoint covers was acknowledged, whether or not
    /// another block says so.
    fn refuse_lost_entries(&self, broken: &Break, asked: Asked) -> Result<()> {
        let Asked::Unproven { after } = asked else {
            return Ok(());
        };
        let last = self.replay.index.range().last.map(|id| id.index);
        match self.files.get(broken.file) {
            Some(file) if last < after => {
                let what = "a block of entries that a checkpoint covers is damaged or missing";
                Err(Error::corrupt(&file.path, broken.offset, what))
            }
            _ => Ok(()),
        }
    }

    /// Decides whether the break is damage (an error) or the end of the log, and returns how many
    /// intact blocks lie beyond it.
    async fn judge(&mut self, broken: &Break) -> Result<u64> {
        let mut beyond = Evidence::default();
        let mut lost_start = None;
        for (at, file) in self.files.iter().enumerate().skip(broken.file) {
            let (from, to) = match (at == broken.file, file.begun) {
                (true, _) => (broken.offset + BLOCK_SIZE as u64, file.len),
                (false, Some(_)) => (0, file.len),
                (false, None) => (0, file.len.min(SEARCH_BYTES)),
            };
            let before = beyond;
            scan::search(
                &file.file,
                &file.path,
                file.id,
                self.owner,
                from,
                to,
                &mut beyond,
            )
            .await?;
            let continues = at != broken.file && file.begun.is_none();
            if continues && lost_start.is_none() && beyond != before {
                lost_start = Some(&file.path);
            }
        }
        let known = &mut self.evidence.flushed_up_to;
        *known = beyond.flushed_up_to.max(*known);
        if *known <= self.next_number || is_planted(Bug::TakeDamageForTorn) {
            return Ok(beyond.blocks);
        }
        let what = "an acknowledged block is damaged or missing";
        let in_this_file = match self.files.get(broken.file) {
            Some(file) => {
                let bytes = file.file.read_at(broken.offset, BLOCK_SIZE).await?;
                let is_used = bytes.iter().any(|byte| *byte != 0);
                (is_used || lost_start.is_none()).then_some(&file.path)
            }
            None => None,
        };
        Err(match (in_this_file, lost_start) {
            (Some(path), _) => Error::corrupt(path, broken.offset, what),
            (None, Some(path)) => Error::corrupt(path, 0, what),
            (None, None) => Error::corrupt(Path::new(""), 0, what),
        })
    }
}

/// Makes what was read durable, gives back the space after each segment's end, and tells the
/// segments from the files that are free. If the log `is_cut`, intact blocks continue the chain beyond
/// its end: they go before another block of their number is written, which they would be taken for
/// if the start of its segment were lost.
async fn settle(
    files: Vec<LogFile>,
    ends: &[(usize, u64, u64)],
    evidence: Evidence,
    is_cut: bool,
) -> Result<(VecDeque<Segment>, Vec<FreeFile>)> {
    let mut segments = VecDeque::new();
    let mut rest = Vec::new();
    for (at, file) in files.into_iter().enumerate() {
        let Some(nth) = ends.iter().position(|(walked, ..)| *walked == at) else {
            rest.push(free(file));
            continue;
        };
        let Some(&(_, first_number, end)) = ends.get(nth) else {
            continue;
        };
        // Blocks that were read may still be in a cache of the device only: the process may have
        // died between their write and its flush. From now on they count as durable.
        let next_first = ends.get(nth + 1).map_or(u64::MAX, |(_, number, _)| *number);
        let is_unproven = next_first > evidence.flushed_up_to;
        // A segment that was rolled full keeps its length, so that it can be used again.
        let is_wasteful = file.len - end > file.len / 8;
        let is_shortened = is_wasteful || (is_cut && nth + 1 == ends.len());
        if (is_unproven || is_shortened) && !is_planted(Bug::SkipSettling) {
            let writable = OpenOptions::new().write().open(&file.path).await?;
            if is_shortened {
                writable.set_len(end).await?;
            }
            writable.sync().await?;
        }
        segments.push_back(Segment {
            id: file.id,
            path: file.path,
            file: file.file,
            first_number,
            end,
            durable_end: end,
            file_len: if is_shortened { end } else { file.len },
        });
    }
    Ok((segments, rest))
}
