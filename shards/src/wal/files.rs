//! The segment files that a start finds, and which of them count.
//!
//! Invariant: of the segments that count, each begins with a higher block number than the one before.

use super::format::{FLAG_START, MAGIC, State};
use super::scan::{self, Evidence, Seen};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{Owner, SegmentId};
use crate::limits;
use corelith_io::{BLOCK_SIZE, File};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How far a file without a readable start is searched: if its start was acknowledged, a block
/// within all the blocks that may have been in flight with it says so.
pub(super) const SEARCH_BYTES: u64 =
    ((limits::LOG_WRITES_IN_FLIGHT_MAX + 2) * limits::LOG_BLOCK_BYTES_MAX) as u64;

/// A file named as a segment.
pub(super) struct LogFile {
    pub(super) id: SegmentId,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    pub(super) file: Rc<File>,
    pub(super) begun: Option<Begun>,
}

/// The start block of a segment.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) number: u64,
    pub(super) previous: u32,
    pub(super) state: State,
}

/// Removes segments whose preparation was broken off.
pub(super) async fn remove_unfinished(dir: &Path) -> Result<()> {
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
pub(super) async fn open_files(dir: &Path, owner: Owner) -> Result<Vec<LogFile>> {
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
pub(super) fn live_segments(files: &[LogFile]) -> Vec<usize> {
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
    debug_assert!(
        live.is_sorted_by_key(|at| files
            .get(*at)
            .and_then(|file| file.begun)
            .map(|begun| begun.number)),
        "each begins behind the one before"
    );
    live
}

/// With no readable start, the log is new unless some block says that a start was durable.
pub(super) async fn refuse_lost_start(files: &[LogFile], owner: Owner) -> Result<()> {
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
