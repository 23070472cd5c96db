//! Checks a whole shard that is not open: everything that one file says of another is compared with what the
//! other holds. Nothing is changed.
//!
//! * Every table, and what the manifest says of it.
//! * Every record of the value log, the slot indexes, and the totals in the manifest.
//! * Every pointer of every table: the record is there, with the same key and write. Its value is checked with
//!   its segment, so that each byte is read once.
//! * Every large value: its upload is there, and chunks of as many bytes.
//! * The log, as a start reads it, the values of its entries, and that it continues where the tables end.
//!
//! A damaged record that nothing refers to is no problem: a crash may have torn it before it was acknowledged,
//! or it is garbage.
//!
//! Of a table, the first damaged block is reported and pointers up to it are checked: the table has to be
//! replaced as a whole. Of a value segment, every damaged record is reported.
//!
//! Memory is bounded: pointers are checked in batches, in the order of their places.

use crate::cache::BlockCache;
use crate::engine::{check_large, describe_keys};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{FileSeries, LogIndex, Owner, ShardId, TableId, ValueSegmentId};
use crate::key::{Space, SpacedKey};
use crate::limits::{CHECK_DAMAGED_MAX, CHECK_POINTERS_MAX};
use crate::manifest::{Manifest, PlacedTable};
use crate::recovery;
use crate::shard::{Fit, fit};
use crate::sstable::{self, EntryRef, SequentialCursor, Table, ValueRef};
use crate::vlog::{self, AtRest, ValuePointer, Verified};
use crate::wal;
use bytes::Bytes;
use corelith_io::ErrorKind;
use corelith_io::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Where in it, in bytes; 0 if it is about the file as a whole.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
    /// First and last key that are concerned, as tables store them (the tag of the space, then the
    /// key); both empty if that is not known.
    pub first_key: Bytes,
    /// See [`Problem::first_key`].
    pub last_key: Bytes,
}

impl Problem {
    /// The keys for people.
    pub fn keys(&self) -> String {
        describe_keys(&self.first_key, &self.last_key)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, offset {}: {}", self.file, self.offset, self.what)?;
        match self.last_key.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", self.keys()),
        }
    }
}

/// What a check has looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The shard; `None` if its manifest cannot be read.
    pub shard: Option<ShardId>,
    /// Whether the shard was never opened: its creation was broken off, and will be done again.
    pub is_unfinished: bool,
    /// Files that belong to the shard, and their length in bytes.
    pub files: u64,
    /// See [`Summary::files`].
    pub bytes: u64,
    /// Tables.
    pub tables: u64,
    /// Entries of tables.
    pub entries: u64,
    /// Pointers of tables to the value log.
    pub pointers: u64,
    /// Large values.
    pub large_values: u64,
    /// Segments of the value log.
    pub value_segments: u64,
    /// Records in them that are intact.
    pub value_records: u64,
    /// Damaged records that nothing refers to.
    pub torn_records: u64,
    /// Segments of the log.
    pub log_segments: u64,
    /// Entries that the log holds.
    pub log_entries: u64,
    /// Problems reported.
    pub problems: u64,
    /// Files that nothing names; a start removes those that are the shard's own.
    pub orphans: Vec<String>,
}

/// Checks the shard in `dir` and reports every problem. The shard cannot be opened meanwhile. `known` is the
/// owner of a shard that was created before: it must be there.
///
/// # Errors
/// `Io` if the directory cannot be read, or (`Locked`) a process has the shard open. Whatever is wrong
/// with files is a problem, not an error.
pub async fn check_shard(
    dir: &Path,
    known: Option<Owner>,
    on_problem: impl FnMut(Problem),
) -> Result<Summary> {
    let entries = match corelith_io::list_dir(dir).await {
        Err(error) if error.kind() == ErrorKind::NotFound && known.is_some() => Vec::new(),
        entries => entries?,
    };
    let files = entries.iter().filter(|entry| !entry.is_dir);
    let files: Vec<(String, u64)> = files.map(|file| (file.name.clone(), file.len)).collect();
    // A shard that was never opened has no lock file, and gets none.
    let _lock = match entries.is_empty() {
        true => None,
        false => corelith_io::lock_dir_as_it_is(dir).await?,
    };
    let mut names = files.iter().filter_map(|(name, _)| FileName::parse(name));
    let has = |wanted| names.clone().any(|name| name == wanted);
    // One beside a manifest means nothing: its removal may have been lost.
    let is_unfinished = has(FileName::Creating) && !has(FileName::Manifest);
    if let Some(owner) = known {
        let what = match is_unfinished {
            true => Some(recovery::IS_ANOTHER),
            false if !names.any(|name| name != FileName::Lock) => Some(recovery::IS_MISSING),
            false => None,
        };
        if let Some(what) = what {
            return Ok(lost(dir, owner, what, on_problem));
        }
    }
    let mut summary = Summary::default();
    if is_unfinished {
        summary.is_unfinished = true;
        return Ok(summary);
    }
    let path = FileName::Manifest.path(dir);
    let loaded = Manifest::load_path(&path).await;
    let mut checker = Checker {
        dir,
        tell: on_problem,
        values: AtRest::new(dir, whose(&loaded)),
        damaged: BTreeMap::new(),
        told: BTreeSet::new(),
        summary,
    };
    match loaded {
        Ok((owner, manifest)) => {
            checker.check_owner(&path, owner, known);
            checker.run(owner, &manifest, &files).await?;
        }
        Err(error) => checker.failed(&path, &error, (Bytes::new(), Bytes::new())),
    }
    Ok(checker.summary)
}

/// Reports a shard that is missing.
fn lost(
    dir: &Path,
    owner: Owner,
    what: &'static str,
    mut on_problem: impl FnMut(Problem),
) -> Summary {
    on_problem(Problem {
        file: dir.display().to_string(),
        offset: 0,
        what: what.to_owned(),
        first_key: Bytes::new(),
        last_key: Bytes::new(),
    });
    Summary {
        shard: Some(owner.shard),
        problems: 1,
        ..Summary::default()
    }
}

fn whose(loaded: &Result<(Owner, Manifest)>) -> (Owner, FileSeries) {
    match loaded {
        Ok((owner, manifest)) => (*owner, manifest.series),
        Err(_) => {
            let nobody = Owner {
                store_id: 0,
                shard: ShardId(0),
            };
            (nobody, FileSeries::default())
        }
    }
}

/// A record that is not intact, until something refers to it.
struct Damaged {
    error: Error,
    /// As tables store it.
    key: Bytes,
    at: LogIndex,
}

/// A pointer to be looked at.
struct PendingPointer {
    pointer: ValuePointer,
    at: LogIndex,
    stored_key: Bytes,
}

/// A check under way.
struct Checker<'a, F> {
    dir: &'a Path,
    tell: F,
    values: AtRest,
    /// By segment and slot; at most [`CHECK_DAMAGED_MAX`].
    damaged: BTreeMap<(ValueSegmentId, u32), Damaged>,
    /// Those of them that were told.
    told: BTreeSet<(ValueSegmentId, u32)>,
    summary: Summary,
}

impl<F: FnMut(Problem)> Checker<'_, F> {
    async fn run(
        &mut self,
        owner: Owner,
        manifest: &Manifest,
        files: &[(String, u64)],
    ) -> Result<()> {
        self.summary.shard = Some(owner.shard);
        self.sort_out(manifest, files);
        self.check_segments(manifest, files).await;
        self.check_references(manifest);
        let mut tables = HashMap::default();
        for placed in &manifest.tables {
            let table = self.check_table(placed).await;
            tables.extend(table.map(|table| (placed.meta.id, table)));
        }
        self.check_large(manifest, &tables).await;
        drop(tables);
        self.check_log(owner, manifest).await;
        self.summary.torn_records += self.damaged.len() as u64;
        Ok(())
    }

    /// Reports a shard in the place of another one.
    fn check_owner(&mut self, path: &Path, owner: Owner, known: Option<Owner>) {
        if let Some(known) = known.filter(|known| *known != owner) {
            let what = format!("it belongs to {owner}, not to {known}");
            self.problem(path, 0, &what, Default::default());
        }
    }

    fn problem(&mut self, file: &Path, offset: u64, what: &str, keys: (Bytes, Bytes)) {
        self.summary.problems += 1;
        (self.tell)(Problem {
            file: file.display().to_string(),
            offset,
            what: what.to_owned(),
            first_key: keys.0,
            last_key: keys.1,
        });
    }

    /// Reports an error about `file`.
    fn failed(&mut self, file: &Path, error: &Error, keys: (Bytes, Bytes)) {
        match error {
            Error::Corrupt { file, offset, what } => {
                let file = PathBuf::from(file);
                self.problem(&file, *offset, what, keys);
            }
            Error::Io(io) if io.kind() == ErrorKind::NotFound => {
                self.problem(file, 0, "the file is missing", keys);
            }
            error => {
                let what = format!("it cannot be checked: {error}");
                self.problem(file, 0, &what, keys);
            }
        }
    }

    /// Counts the files, and lists those that nothing names.
    fn sort_out(&mut self, manifest: &Manifest, files: &[(String, u64)]) {
        let tables: BTreeSet<_> = manifest.tables.iter().map(|table| table.meta.id).collect();
        let segments = manifest.segments.iter();
        let segments: BTreeMap<_, _> = segments.map(|meta| (meta.id, meta.generation)).collect();
        for (name, bytes) in files {
            let is_named = match FileName::parse(name) {
                None | Some(FileName::ManifestTemporary | FileName::Creating) => false,
                Some(FileName::SegmentTemporary(_) | FileName::ValueSegmentTemporary(_)) => false,
                Some(FileName::Table(id)) => tables.contains(&id),
                Some(FileName::ValueSegment(id, generation)) => match segments.get(&id) {
                    Some(named) => *named == generation,
                    None => manifest.may_be_begun(id) && generation == 0,
                },
                // The log tells its own files apart.
                Some(
                    FileName::Segment(_) | FileName::Manifest | FileName::Lock | FileName::Reserve,
                ) => true,
            };
            if is_named {
                self.summary.files += 1;
                self.summary.bytes += bytes;
            } else {
                self.summary.orphans.push(name.clone());
            }
        }
    }

    /// Checks every record of the value log.
    async fn check_segments(&mut self, manifest: &Manifest, files: &[(String, u64)]) {
        for meta in &manifest.segments {
            let path = FileName::ValueSegment(meta.id, meta.generation).path(self.dir);
            let verifier = self.values.open(*meta).await;
            self.check_segment(&path, verifier).await;
        }
        let known = |id| manifest.segments.iter().any(|meta| meta.id == id);
        for (name, _) in files {
            let Some(FileName::ValueSegment(id, 0)) = FileName::parse(name) else {
                continue;
            };
            if manifest.may_be_begun(id) && !known(id) {
                let verifier = self.values.open_begun(id).await;
                self.check_segment(&self.dir.join(name), verifier).await;
            }
        }
    }

    async fn check_segment(&mut self, path: &Path, verifier: Result<vlog::Verifier>) {
        self.summary.value_segments += 1;
        let mut verifier = match verifier {
            Ok(verifier) => verifier,
            Err(error) => return self.failed(path, &error, Default::default()),
        };
        loop {
            match verifier.step().await {
                Ok(None) => return,
                Ok(Some(Verified::Intact)) => self.summary.value_records += 1,
                Ok(Some(Verified::Damaged { error, record })) => match record {
                    Some((key, at, pointer)) if self.damaged.len() < CHECK_DAMAGED_MAX => {
                        let place = (pointer.segment, pointer.slot);
                        self.damaged.insert(place, Damaged { error, key, at });
                        assert!(self.damaged.len() <= CHECK_DAMAGED_MAX);
                    }
                    record => {
                        let key = record.map(|(key, ..)| key);
                        let keys = key.map(|key| (key.clone(), key)).unwrap_or_default();
                        self.failed(path, &error, keys);
                    }
                },
                Err(error) => return self.failed(path, &error, Default::default()),
            }
        }
    }

    /// Compares what the tables say they refer to with the segments there are.
    fn check_references(&mut self, manifest: &Manifest) {
        let mut referenced: BTreeMap<ValueSegmentId, (u64, u64)> = BTreeMap::new();
        for reference in manifest
            .tables
            .iter()
            .flat_map(|table| table.meta.referenced())
        {
            let sum = referenced.entry(reference.segment).or_default();
            sum.0 += reference.values;
            sum.1 += reference.bytes;
        }
        let path = FileName::Manifest.path(self.dir);
        for (id, (values, bytes)) in referenced {
            let what = match self.values.meta(id) {
                None => format!(
                    "tables refer to {values} values of value segment {id}, which cannot be read"
                ),
                Some(meta) if values > meta.records || bytes > meta.bytes => format!(
                    "tables refer to {values} values of {bytes} bytes in value segment {id}, which has \
                     {} of {} bytes",
                    meta.records, meta.bytes
                ),
                Some(_) => continue,
            };
            self.problem(&path, 0, &what, Default::default());
        }
    }

    /// Looks at the large values, if all tables are open.
    async fn check_large(&mut self, manifest: &Manifest, tables: &HashMap<TableId, Rc<Table>>) {
        let rows = Space::Upload.tag();
        let has_rows = |placed: &PlacedTable| placed.meta.last_key.first() >= Some(&rows);
        if tables.len() != manifest.tables.len() || !manifest.tables.iter().any(has_rows) {
            return;
        }
        let mut found = Vec::new();
        let path = FileName::Manifest.path(self.dir);
        let checked = check_large(&manifest.tables, tables, |problem| {
            if found.len() < CHECK_DAMAGED_MAX {
                found.push(problem);
            }
        });
        match checked.await {
            Ok(count) => self.summary.large_values = count,
            // It was told when the tables were checked.
            Err(error) if error.is_corrupt() => {}
            Err(error) => self.failed(&path, &error, Default::default()),
        }
        for problem in found {
            self.problem(&path, 0, &problem.what, (problem.key.clone(), problem.key));
        }
    }

    /// Checks a table; `None` if it cannot be opened.
    async fn check_table(&mut self, placed: &PlacedTable) -> Option<Rc<Table>> {
        self.summary.tables += 1;
        let meta = &placed.meta;
        let path = FileName::Table(meta.id).path(self.dir);
        let none = BlockCache::new(0);
        let table = match Table::open(self.dir, meta.clone(), &none).await {
            Ok(table) => Rc::new(table),
            Err(error) => {
                let keys = (meta.first_key.clone(), meta.last_key.clone());
                self.failed(&path, &error, keys);
                return None;
            }
        };
        self.summary.entries += meta.entries;
        let mut verifier = sstable::Verifier::new(Rc::clone(&table));
        loop {
            match verifier.step().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    let keys = match &error {
                        Error::Corrupt { offset, .. } => table.key_range_at(*offset).await,
                        _ => (meta.first_key.clone(), meta.last_key.clone()),
                    };
                    self.failed(&path, &error, keys);
                    break;
                }
            }
        }
        if meta.referenced().next().is_some() {
            self.check_pointers(Rc::clone(&table)).await;
        }
        Some(table)
    }

    /// Looks at every pointer of a table, up to its first damaged block, which has been told.
    async fn check_pointers(&mut self, table: Rc<Table>) {
        let Ok(Some(mut cursor)) = SequentialCursor::start(table, &[]).await else {
            return;
        };
        let mut pending = Vec::new();
        loop {
            let EntryRef { key, at, value } = cursor.current();
            if let ValueRef::Separated(pointer) = value {
                pending.push(PendingPointer {
                    pointer,
                    at,
                    stored_key: Bytes::copy_from_slice(key),
                });
            }
            if pending.len() >= CHECK_POINTERS_MAX {
                self.check_batch(std::mem::take(&mut pending)).await;
            }
            match cursor.advance().await {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
        }
        self.check_batch(pending).await;
    }

    async fn check_batch(&mut self, mut batch: Vec<PendingPointer>) {
        assert!(batch.len() <= CHECK_POINTERS_MAX, "a batch is bounded");
        batch.sort_by_key(|pending| (pending.pointer.segment, pending.pointer.offset));
        for PendingPointer {
            pointer,
            at,
            stored_key,
        } in batch
        {
            corelith_io::yield_if_needed().await;
            self.summary.pointers += 1;
            // Missing segments are reported once.
            if self.values.meta(pointer.segment).is_none() {
                continue;
            }
            let keys = (stored_key.clone(), stored_key.clone());
            let path = self.segment_path(pointer.segment);
            if let Some(damaged) = self.damaged.remove(&(pointer.segment, pointer.slot)) {
                self.failed(&path, &damaged.error, keys);
                self.told.insert((pointer.segment, pointer.slot));
                continue;
            }
            let Some(key) = SpacedKey::of_stored(&stored_key) else {
                continue;
            };
            if let Err(error) = self.values.check_head(pointer, key, at).await {
                self.failed(&path, &error, keys);
            }
        }
    }

    fn segment_path(&self, id: ValueSegmentId) -> PathBuf {
        let generation = self.values.meta(id).map_or(0, |meta| meta.generation);
        FileName::ValueSegment(id, generation).path(self.dir)
    }

    /// Reads the log, looks at the values of its entries, and whether it continues the tables.
    async fn check_log(&mut self, owner: Owner, manifest: &Manifest) {
        let values = &self.values;
        let is_whole = async |pointer| values.is_whole(pointer).await;
        let examined = match wal::examine(self.dir, owner, is_whole).await {
            Ok(Some(examined)) => examined,
            Ok(None) => return self.problem(self.dir, 0, "the log is missing", Default::default()),
            Err(error) => return self.failed(self.dir, &error, Default::default()),
        };
        let range = examined.range();
        let index = |id: Option<crate::LogId>| id.map_or(0, |id| id.index.0);
        self.summary.log_segments = examined.segments as u64;
        self.summary.log_entries = index(range.last).saturating_sub(index(range.purged));
        for (at, pointer) in &examined.lost {
            if self.told.contains(&(pointer.segment, pointer.slot)) {
                continue;
            }
            let damaged = self.damaged.remove(&(pointer.segment, pointer.slot));
            let keys = damaged.as_ref().map(|damaged| damaged.key.clone());
            let keys = keys.map(|key| (key.clone(), key)).unwrap_or_default();
            let same = damaged.filter(|damaged| damaged.at == *at);
            let path = self.segment_path(pointer.segment);
            let offset = match same.map(|damaged| damaged.error) {
                Some(Error::Corrupt { offset, .. }) => offset,
                _ => pointer.offset,
            };
            let what = format!("the value of log entry {at} is damaged");
            self.problem(&path, offset, &what, keys);
        }
        let checkpoint = manifest.checkpoint.applied;
        let at_checkpoint = checkpoint.and_then(|id| examined.id_at(id.index));
        let joined = fit(
            checkpoint,
            manifest.installed,
            range.purged,
            range.last,
            at_checkpoint,
        );
        if let Fit::Damaged(what) = joined {
            self.problem(
                &FileName::Manifest.path(self.dir),
                0,
                what,
                Default::default(),
            );
        }
    }
}

#[cfg(test)]
mod tests;
