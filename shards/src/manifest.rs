//! The manifest: which tables make up a shard, and up to which log entry they hold its state.
//!
//! Every edit writes the whole manifest to a new file, makes it durable, renames it over the old one
//! and syncs the directory. A manifest is a few hundred bytes per table and changes once per flush,
//! so this costs less than a replay of edits would have to be trusted with: there is no torn tail to
//! tell from damage, and any wrong byte is an error.
//!
//! Invariants:
//! * The tables that a manifest names are durable, names included, before it is.
//! * The log is durable up to the checkpoint before the manifest is, so that state never gets ahead
//!   of the log (after a snapshot was installed, `installed` says that it may be).
//! * What is written is sound, and what is read is refused unless it is: tables and segments in order, and
//!   numbered below the next ones.

mod format;
#[cfg(test)]
mod tests;

use crate::checkpoint::Checkpoint;
use crate::compaction::{CompactionTask, Policy};
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{FileSeries, LogId, Owner, RunId, TableId, ValueSegmentId};
use crate::limits::{IO_BYTES_MAX, LEVELS_MAX, MANIFEST_BYTES_MAX};
use crate::planted::{Bug, is_planted};
use crate::removal::remove_if_there;
use crate::sstable::TableMeta;
use crate::vlog::SegmentMeta;
use corelith_io::{BLOCK_SIZE, Buf, File, OpenOptions};
use std::collections::BTreeSet;
use std::path::Path;

pub(crate) use format::{MAGIC, SEGMENT_BYTES};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Counts the edits.
    pub(crate) generation: u64,
    /// No table has had this number or a higher one.
    pub(crate) next_table: TableId,
    /// Every value-log segment with a lower number that exists is among `segments`; others from here
    /// on, up to [`crate::limits::VALUE_SEGMENTS_RECEIVED`], were begun since.
    pub(crate) next_segment: ValueSegmentId,
    /// What the ids of segments begun here come from; never changes.
    pub(crate) series: FileSeries,
    /// How the shard is compacted.
    pub(crate) policy: Policy,
    /// What the tables hold.
    pub(crate) checkpoint: Checkpoint,
    /// The last entry of the last installed snapshot: the log may end before it.
    pub(crate) installed: Option<LogId>,
    /// By level, then by run from the newest on, then by key.
    pub(crate) tables: Vec<PlacedTable>,
    /// The full segments of the value log, by number; then those received from elsewhere.
    pub(crate) segments: Vec<SegmentMeta>,
}

/// Whether levels, runs and the tables of runs stand as they must.
fn is_in_order(tables: &[PlacedTable]) -> bool {
    let pairs = tables.iter().zip(tables.iter().skip(1));
    let mut fine = pairs.map(|(before, after)| {
        before.level < after.level
            || (before.level == after.level
                && (before.run != after.run || before.meta.last_key < after.meta.first_key))
    });
    fine.all(|fine| fine)
}

/// A table and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlacedTable {
    pub(crate) level: u8,
    pub(crate) run: RunId,
    pub(crate) meta: TableMeta,
}

/// Whether segments stand as they must.
fn are_in_order(segments: &[SegmentMeta], next: ValueSegmentId) -> bool {
    let mut pairs = segments.iter().zip(segments.iter().skip(1));
    let mut begun = segments.iter().filter(|segment| !segment.id.is_received());
    pairs.all(|(before, after)| before.id < after.id) && begun.all(|segment| segment.id < next)
}

impl Manifest {
    /// See the module.
    fn is_sound(&self) -> bool {
        let mut tables = self.tables.iter();
        is_in_order(&self.tables)
            && are_in_order(&self.segments, self.next_segment)
            && tables.all(|placed| {
                placed.meta.id < self.next_table && usize::from(placed.level) < LEVELS_MAX
            })
    }

    /// Whether it names the table.
    pub(crate) fn names(&self, table: TableId) -> bool {
        self.tables.iter().any(|placed| placed.meta.id == table)
    }

    /// Whether a segment that is not named may have been begun since.
    pub(crate) fn may_be_begun(&self, segment: ValueSegmentId) -> bool {
        segment >= self.next_segment && !segment.is_received()
    }

    /// Whether a table refers to one of these segments.
    pub(crate) fn refers_to_any(&self, segments: &[ValueSegmentId]) -> bool {
        let tables = self.tables.iter();
        let mut references = tables.flat_map(|placed| placed.meta.referenced());
        references.any(|reference| segments.contains(&reference.segment))
    }

    /// Puts a run in front of all others of level 0.
    pub(crate) fn push_run(&mut self, tables: Vec<TableMeta>) {
        let Some(run) = tables.first().map(|table| RunId(table.id.0)) else {
            return;
        };
        let placed = tables.into_iter().map(|meta| PlacedTable {
            level: 0,
            run,
            meta,
        });
        match is_planted(Bug::RunBehind) {
            true => self.tables.extend(placed),
            false => drop(self.tables.splice(0..0, placed)),
        }
    }

    /// Replaces the inputs of a compaction by what it wrote, or moves them if it wrote nothing; `false`
    /// if they are no longer there.
    pub(crate) fn apply(&mut self, task: &CompactionTask, written: Option<Vec<TableMeta>>) -> bool {
        let inputs: BTreeSet<TableId> = task
            .inputs
            .iter()
            .flat_map(|input| input.tables.iter().copied())
            .collect();
        let is_input = |placed: &PlacedTable| inputs.contains(&placed.meta.id);
        let taken = self.tables.iter().filter(|placed| is_input(placed));
        let taken: Vec<TableMeta> = taken.map(|placed| placed.meta.clone()).collect();
        let Some(level) = u8::try_from(task.output.level)
            .ok()
            .filter(|_| taken.len() == inputs.len())
        else {
            // An installed snapshot has replaced them.
            return false;
        };
        assert!(
            task.output.level < LEVELS_MAX,
            "a compaction writes to a level"
        );
        let metas = written.unwrap_or(taken);
        // The run that the result becomes part of, and how many tables stand before it.
        let in_level = |placed: &&PlacedTable| placed.level == level;
        let mut runs = self.tables.iter().filter(in_level).map(|placed| placed.run);
        let run = match task.output.run.map(RunId) {
            Some(run) if runs.clone().any(|other| other == run) => Some(run),
            _ => runs.next(),
        };
        let begins = |placed: &PlacedTable| match run {
            Some(run) => placed.level == level && placed.run == run,
            None => placed.level > level,
        };
        let until = self.tables.iter().position(begins);
        let before = self.tables.iter().take(until.unwrap_or(usize::MAX));
        let place = before.filter(|placed| !is_input(placed)).count();
        let Some(run) = run.or(metas.first().map(|meta| RunId(meta.id.0))) else {
            self.tables.retain(|placed| !is_input(placed));
            return true;
        };
        let rest = std::mem::take(&mut self.tables).into_iter();
        let (mut whole, stay): (Vec<PlacedTable>, Vec<PlacedTable>) = rest
            .filter(|placed| !is_input(placed))
            .partition(|placed| placed.level == level && placed.run == run);
        whole.extend(
            metas
                .into_iter()
                .map(|meta| PlacedTable { level, run, meta }),
        );
        whole.sort_by(|left, right| left.meta.first_key.cmp(&right.meta.first_key));
        self.tables = stay;
        self.tables.splice(place..place, whole);
        assert!(is_in_order(&self.tables), "a compaction broke the order");
        true
    }

    /// Replaces tables of several runs by others of the same run; `false` if one of them is no longer there, or one
    /// of the runs.
    pub(crate) fn replace_in_place(
        &mut self,
        replaced: &BTreeSet<TableId>,
        written: Vec<(u8, RunId, Vec<TableMeta>)>,
    ) -> bool {
        let is_replaced = |placed: &&PlacedTable| replaced.contains(&placed.meta.id);
        let has_run = |(level, run, _): &(u8, RunId, Vec<TableMeta>)| {
            let mut tables = self.tables.iter();
            tables.any(|placed| (placed.level, placed.run) == (*level, *run))
        };
        let are_there = self.tables.iter().filter(is_replaced).count() == replaced.len();
        if !are_there || !written.iter().all(has_run) {
            return false;
        }
        let is_same_run = |one: &PlacedTable, other: &PlacedTable| {
            one.level == other.level && one.run == other.run
        };
        let mut tables = Vec::with_capacity(self.tables.len());
        for old in self.tables.chunk_by(is_same_run) {
            let stay = old.iter().filter(|placed| !is_replaced(placed));
            let mut whole: Vec<PlacedTable> = stay.cloned().collect();
            let here = old.first().map(|placed| (placed.level, placed.run));
            for (level, run, metas) in &written {
                if here == Some((*level, *run)) {
                    whole.extend(metas.iter().map(|meta| PlacedTable {
                        level: *level,
                        run: *run,
                        meta: meta.clone(),
                    }));
                }
            }
            whole.sort_by(|left, right| left.meta.first_key.cmp(&right.meta.first_key));
            tables.append(&mut whole);
        }
        self.tables = tables;
        assert!(is_in_order(&self.tables), "a repair broke the order");
        true
    }

    /// Reads the manifest of `owner` in `dir`.
    ///
    /// # Errors
    /// `Corrupt`, `NewerFormat`, `OtherStore`, and `Io` (`NotFound` if there is none).
    pub(crate) async fn load(dir: &Path, owner: Owner) -> Result<Self> {
        let path = FileName::Manifest.path(dir);
        let (found, manifest) = Self::load_path(&path).await?;
        if found == owner {
            return Ok(manifest);
        }
        Err(Error::OtherStore {
            file: path.display().to_string(),
            found: found.to_string(),
            expected: owner.to_string(),
        })
    }

    /// Reads a manifest, whosever it is.
    pub(crate) async fn load_path(path: &Path) -> Result<(Owner, Self)> {
        let file = File::open(path).await?;
        let len = usize::try_from(file.len().await?).unwrap_or(usize::MAX);
        if len > MANIFEST_BYTES_MAX {
            return Err(Error::corrupt(path, 0, "the manifest is too long"));
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let piece = (len - bytes.len()).min(IO_BYTES_MAX);
            let read = file.read_at(bytes.len() as u64, piece).await?;
            if read.is_empty() {
                break;
            }
            bytes.extend_from_slice(&read);
        }
        format::decode(path, &bytes)
    }

    /// Reads what [`Manifest::encode`] gave, from elsewhere than a file; `name` is for messages.
    ///
    /// # Errors
    /// `Corrupt`, `NewerFormat`.
    pub(crate) fn decode(name: &Path, bytes: &[u8]) -> Result<(Owner, Self)> {
        format::decode(name, bytes)
    }

    /// Makes this the manifest of `owner` in `dir`, durably.
    ///
    /// # Errors
    /// The old manifest may be in place, or this one.
    pub(crate) async fn store(&self, dir: &Directory, owner: Owner) -> Result<()> {
        Self::prepare(dir, &self.encode(owner)).await?;
        Self::replace(dir).await?;
        dir.sync().await
    }

    /// The bytes of its file.
    pub(crate) fn encode(&self, owner: Owner) -> Vec<u8> {
        assert!(self.is_sound(), "a manifest that would not be read");
        format::encode(owner, self)
    }

    /// The first part of [`Manifest::store`]: writes the new file beside the old one.
    ///
    /// # Errors
    /// The old manifest is in place.
    ///
    /// # Panics
    /// If it is longer than what is read: a bug, since edits check the length.
    pub(crate) async fn prepare(dir: &Path, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= MANIFEST_BYTES_MAX, "a manifest is bounded");
        assert!(
            bytes.len().is_multiple_of(BLOCK_SIZE),
            "a manifest is whole blocks"
        );
        let temporary = FileName::ManifestTemporary.path(dir);
        let written = write_file(&temporary, bytes).await;
        if written.is_err() {
            // What is left of it would hold space that the next attempt needs.
            let _ = corelith_io::remove_file(&temporary).await;
        }
        written
    }

    /// The second part: puts the prepared file into the old one's place. It stays there once the directory
    /// is synced.
    ///
    /// # Errors
    /// The old manifest is in place if the device is full. After any other failure either may be, after
    /// a crash as well: the caller is to be fenced.
    pub(crate) async fn replace(dir: &Path) -> Result<()> {
        let temporary = FileName::ManifestTemporary.path(dir);
        let replaced = corelith_io::rename(&temporary, &FileName::Manifest.path(dir)).await;
        if replaced.is_err() {
            // As above.
            let _ = corelith_io::remove_file(&temporary).await;
        }
        Ok(replaced?)
    }
}

async fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    remove_if_there(path).await?;
    let file = OpenOptions::new().write().create_new().open(path).await?;
    let mut offset = 0;
    for piece in bytes.chunks(IO_BYTES_MAX) {
        let mut buffer = Buf::alloc(piece.len().next_multiple_of(BLOCK_SIZE));
        let (content, rest) = buffer.split_at_mut(piece.len());
        content.copy_from_slice(piece);
        rest.fill(0);
        let len = buffer.len() as u64;
        file.write_at(offset, buffer).await?;
        offset += len;
    }
    file.sync().await?;
    Ok(())
}
