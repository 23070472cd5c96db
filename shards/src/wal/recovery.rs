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

use super::files::{self, LogFile};
use super::index::Index;
use super::pipeline::Position;
use super::replay::{Asked, Replay, Replayed, SeparatedEntry};
use super::scan::Evidence;
use super::segment::Segment;
use super::walk::ChainWalk;
use super::{LogRange, WalOptions};
use crate::error::{Error, Result};
use crate::ids::{LogId, LogIndex, Owner, SegmentId};
use crate::planted::{Bug, is_planted};
use crate::vlog::{LoggedValue, ValuePointer, ValueState};
use corelith_io::OpenOptions;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

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
    /// See [`Replayed::purge`].
    pub(super) purge: Option<LogId>,
}

/// A file that can be pre-written space for a new segment.
pub(super) struct FreeFile {
    pub(super) path: PathBuf,
    pub(super) len: u64,
}

/// What the files of a log hold.
struct Contents {
    replayed: Replayed,
    /// See [`ChainWalk::ends`].
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
    files::remove_unfinished(dir).await?;
    let files = files::open_files(dir, owner).await?;
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
            purge: None,
        });
    };
    let (segments, free) =
        settle(files, &contents.ends, contents.evidence, contents.is_cut).await?;
    let Replayed {
        index,
        state,
        committed,
        purge,
    } = contents.replayed;
    Ok(Recovered {
        index,
        segments,
        purge,
        position: Position {
            next_number: contents.next_number,
            previous: contents.previous,
            state,
            committed,
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
    let files = files::open_files(dir, owner).await?;
    let contents = read_files(dir, &files, owner, 0, Asked::All, &value_of).await?;
    Ok(contents.map(|contents| Examined {
        index: contents.replayed.index,
        segments: contents.ends.len(),
        lost: contents
            .lost
            .iter()
            .map(|entry| (entry.index, entry.value.place))
            .collect(),
    }))
}

/// Finds out what the files hold; `None` if that is no log. Changes nothing.
///
/// Segments with damage are passed over if a checkpoint covers all entries in them, and one that comes later is intact:
/// its start names the vote.
async fn read_files(
    dir: &Path,
    files: &[LogFile],
    owner: Owner,
    cache_bytes: usize,
    asked: Asked,
    value_of: &impl AsyncFn(LoggedValue) -> Result<ValueState>,
) -> Result<Option<Contents>> {
    let live = files::live_segments(files);
    let read = read_live(dir, files, &live, owner, cache_bytes, asked, value_of).await;
    let Err(damage @ Error::Corrupt { .. }) = read else {
        return read;
    };
    let Asked::Unproven { after: Some(after) } = asked else {
        return Err(damage);
    };
    for (nth, at) in live.iter().enumerate().skip(1) {
        let begun = files.get(*at).and_then(|file| file.begun);
        let last = begun.and_then(|begun| begun.state.last);
        if last.is_none_or(|last| last.index > after) {
            break;
        }
        let rest = live.get(nth..).unwrap_or_default();
        let read = read_live(dir, files, rest, owner, cache_bytes, asked, value_of).await;
        if let Ok(Some(contents)) = read {
            tracing::warn!(%damage, "the log is damaged where a checkpoint covers it, and goes on behind that");
            return Ok(Some(contents));
        }
    }
    Err(damage)
}

/// As [`read_files`], of these segments.
async fn read_live(
    dir: &Path,
    files: &[LogFile],
    live: &[usize],
    owner: Owner,
    cache_bytes: usize,
    asked: Asked,
    value_of: &impl AsyncFn(LoggedValue) -> Result<ValueState>,
) -> Result<Option<Contents>> {
    let Some((&oldest, begun)) = live
        .first()
        .and_then(|oldest| Some((oldest, files.get(*oldest)?.begun?)))
    else {
        files::refuse_lost_start(files, owner).await?;
        return Ok(None);
    };
    let start = |bound| {
        ChainWalk::new(
            owner,
            files,
            begun,
            Replay::new(cache_bytes, &begun.state, asked),
            bound,
        )
    };
    let mut walk = start(u64::MAX);
    let (mut blocks_cut, mut is_cut) = (0, false);
    if let Some(broken) = walk.run(live).await? {
        blocks_cut = walk.judge(&broken).await?;
        walk.refuse_lost_entries(&broken, asked)?;
    }
    while let Some(torn) = walk.first_without_value(value_of).await? {
        assert!(
            walk.evidence.flushed_up_to <= torn && torn < walk.next_number,
            "nothing that was flushed is given up"
        );
        tracing::warn!(
            block = torn,
            "the log ends before a value that is not whole"
        );
        blocks_cut += walk.next_number - torn;
        is_cut = true;
        let evidence = walk.evidence;
        walk = start(torn);
        walk.evidence = evidence;
        if let Some(broken) = walk.run(live).await? {
            let path = files.get(broken.file).map_or(dir, |file| &file.path);
            let what = "a block that was intact a moment ago is not";
            return Err(Error::corrupt(path, broken.offset, what));
        }
    }
    walk.refuse_missing_segments(value_of).await?;
    walk.give_up_empty();
    finish(dir, walk, oldest, blocks_cut, is_cut).map(Some)
}

/// What a walk from the `oldest` segment to its end has found.
fn finish(
    dir: &Path,
    walk: ChainWalk<'_>,
    oldest: usize,
    blocks_cut: u64,
    is_cut: bool,
) -> Result<Contents> {
    let replayed = match walk.replay.finish() {
        Ok(replayed) => replayed,
        Err(fault) => {
            // The file before the oldest readable one is the damaged one, if there is one.
            let at = oldest.saturating_sub(1);
            let file = walk.files.get(at).map_or(dir, |file| file.path.as_path());
            return Err(Error::corrupt(file, 0, fault));
        }
    };
    assert!(
        walk.evidence.flushed_up_to <= walk.next_number || is_planted(Bug::TakeDamageForTorn),
        "nothing that was flushed is given up"
    );
    Ok(Contents {
        replayed,
        ends: walk.ends,
        evidence: walk.evidence,
        next_number: walk.next_number,
        previous: walk.previous,
        blocks_cut,
        is_cut,
        lost: walk.lost,
    })
}

fn free(file: LogFile) -> FreeFile {
    FreeFile {
        path: file.path,
        len: file.len,
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
    debug_assert!(segments.iter().is_sorted_by_key(|segment| segment.id));
    Ok((segments, rest))
}
