//! Received files become the state: names of the shard, then one edit of the manifest.

use super::record::ReceptionRecord;
use super::{DIRECTORY, Incoming, PART, WHOLE, path_of};
use crate::directory::Directory;
use crate::engine::install::load_sessions;
use crate::engine::{Engine, ReadView, edit};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{FileId, RunId, ValueSegmentId};
use crate::limits::VALUE_SEGMENTS_RECEIVED;
use crate::manifest::{Manifest, PlacedTable};
use crate::planted::{Bug, is_planted};
use crate::session::SessionTable;
use crate::sstable::{self, Table};
use crate::vlog::{self, SegmentMeta};
use corelith_io::ErrorKind;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How often a compaction of tables that stay is waited for.
const COMPACTION_LOOK: Duration = Duration::from_millis(5);

/// Received files with their names of the shard. Dropped before a manifest may name them, they are removed.
struct Placement {
    engine: Engine,
    tables: Vec<PlacedTable>,
    segments: Vec<SegmentMeta>,
    /// Those of the files that were received.
    names: BTreeMap<FileId, FileName>,
    is_kept: bool,
}

impl Drop for Placement {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let inner = &self.engine.inner;
        for name in self.names.values() {
            match name {
                FileName::Table(id) => inner.state.borrow_mut().garbage.push(*id),
                other => inner.values.discard(other.path(&inner.dir)),
            }
        }
    }
}

impl Engine {
    /// Replaces the whole state by received files, atomically and durably. They must be of a newer checkpoint than
    /// what is applied, and [`Incoming::finish`] must have returned.
    ///
    /// # Errors
    /// `OldSnapshot`, `Corrupt`, `Fenced`, `Io`; `BadPiece` if it is to be begun anew.
    pub async fn install_files(&self, incoming: &Incoming) -> Result<()> {
        self.check_usable()?;
        let checkpoint = incoming.list.manifest.checkpoint.clone();
        let mut placement = self.place(incoming).await?;
        self.inner.values.add_received(&placement.segments).await?;
        // The next edit names the segments, whatever it is about: those that nothing refers to are collected.
        let is_table = |name: &FileName| matches!(name, FileName::Table(_));
        placement.names.retain(|_, name| is_table(name));
        let (opened, version) = self.open_placed(incoming, &placement).await?;
        let view = ReadView {
            memtables: Vec::new(),
            version: Rc::new(version),
            segments: self.inner.values.segments(),
            values: self.inner.values.clone(),
        };
        let sessions = match is_planted(Bug::SnapshotWithoutSessions) {
            true => SessionTable::default(),
            false => load_sessions(&view).await?,
        };
        drop(view);
        let tables = placement.tables.clone();
        let mut sessions = Some(sessions);
        let installed = loop {
            let mut is_busy = false;
            let installed = self
                .edit(
                    &opened,
                    |manifest, state| {
                        is_busy = self.is_compacting(&tables);
                        if is_busy || checkpoint.index() <= state.applied.index() {
                            return false;
                        }
                        manifest.checkpoint = checkpoint.clone();
                        manifest.installed = checkpoint.applied;
                        manifest.tables = tables.clone();
                        true
                    },
                    |state| {
                        let sessions = sessions.take().unwrap_or_default();
                        self.replace_state(state, &checkpoint, sessions);
                    },
                )
                .await;
            if !is_busy {
                break installed;
            }
            corelith_io::sleep(COMPACTION_LOOK).await;
        };
        placement.is_kept = matches!(installed, Ok(true)) || !self.is_unfenced();
        if !installed? {
            return Err(Error::OldSnapshot);
        }
        self.remove_unused().await;
        let dir = incoming.dir.clone();
        let removing = async move { Ok(corelith_io::remove_dir_all(&dir).await?) };
        if let Err(error) = incoming.place().change(removing).await {
            tracing::warn!(%error, "the directory of received files stays");
        }
        Ok(())
    }

    /// Whether a compaction works on one of these tables: it would put its output where they no longer are.
    fn is_compacting(&self, tables: &[PlacedTable]) -> bool {
        let compacting = self.inner.compacting.borrow();
        let inputs = compacting.iter().flat_map(|task| &task.inputs);
        let mut inputs = inputs.flat_map(|input| &input.tables);
        inputs.any(|id| tables.iter().any(|placed| placed.meta.id == *id))
    }

    /// Gives the received files their names.
    async fn place(&self, incoming: &Incoming) -> Result<Placement> {
        let list = &incoming.list.manifest;
        let mut placement = Placement {
            engine: self.clone(),
            tables: Vec::new(),
            segments: Vec::new(),
            names: BTreeMap::new(),
            is_kept: false,
        };
        let mut numbers = BTreeMap::new();
        for listed in &list.segments {
            if let Some(segment) = incoming.segments.get(&listed.file) {
                self.check_in_use(segment.id(), listed.file)?;
                numbers.insert(listed.id, segment.id());
                continue;
            }
            let id = self.inner.values.next_received();
            assert!(
                id.0 >= VALUE_SEGMENTS_RECEIVED,
                "received segments have numbers of their own"
            );
            incoming.held.add(id);
            numbers.insert(listed.id, id);
            placement.segments.push(SegmentMeta { id, ..*listed });
            let name = FileName::ValueSegment(id, listed.generation);
            placement.names.insert(listed.file, name);
        }
        let mut runs = BTreeMap::new();
        for listed in &list.tables {
            let run = *runs
                .entry((listed.level, listed.run))
                .or_insert_with(|| RunId(self.new_table_id().0));
            let mut placed = PlacedTable {
                run,
                ..listed.clone()
            };
            match incoming.tables.get(&listed.meta.file) {
                Some(table) => placed.meta = table.meta().clone(),
                None => {
                    placed.meta.id = self.new_table_id();
                    let number_of = |listed| numbers.get(&listed).copied();
                    let renumbered = placed.meta.renumber(number_of);
                    renumbered.ok_or(Error::corrupt(
                        &incoming.dir,
                        0,
                        "a segment is not listed",
                    ))?;
                    let name = FileName::Table(placed.meta.id);
                    placement.names.insert(listed.meta.file, name);
                }
            }
            placement.tables.push(placed);
        }
        // One with torn records would count as whole if it were taken back.
        let names: BTreeMap<FileId, FileName> = {
            let files = incoming.files.borrow();
            let is_whole = |id: &FileId| files.get(id).is_some_and(|partial| partial.is_whole);
            let whole = placement.names.iter().filter(|(id, _)| is_whole(id));
            whole.map(|(id, name)| (*id, *name)).collect()
        };
        incoming.record(names).await?;
        let mut renames = Vec::with_capacity(placement.names.len());
        for (id, name) in &placement.names {
            let torn = incoming
                .files
                .borrow()
                .get(id)
                .is_some_and(|it| !it.is_whole);
            let extension = if torn { PART } else { WHOLE };
            let from = path_of(&incoming.dir, *id, extension);
            renames.push((from, name.path(&self.inner.dir)));
        }
        let (dir, from) = (self.inner.dir.clone(), incoming.dir.clone());
        let renaming = async move {
            for (from, to) in renames {
                corelith_io::rename(&from, &to).await?;
            }
            dir.sync().await?;
            Ok(corelith_io::sync_dir(&from).await?)
        };
        incoming.place().change(renaming).await?;
        Ok(placement)
    }

    /// Refuses to go on with a segment that was here at first and is no longer.
    fn check_in_use(&self, id: ValueSegmentId, file: FileId) -> Result<()> {
        let segments = self.inner.values.segments();
        match segments
            .get(&id)
            .is_some_and(|segment| segment.meta().file == file)
        {
            true => Ok(()),
            false => Err(Error::BadPiece {
                number: 0,
                what: "a segment was collected meanwhile",
            }),
        }
    }

    /// Opens the tables that were received, and puts them together with those that were here.
    async fn open_placed(
        &self,
        incoming: &Incoming,
        placement: &Placement,
    ) -> Result<(Vec<Rc<Table>>, crate::version::Version)> {
        let here = |placed: &&PlacedTable| incoming.tables.contains_key(&placed.meta.file);
        let received = placement.tables.iter().filter(|placed| !here(placed));
        let metas: Vec<_> = received.map(|placed| placed.meta.clone()).collect();
        let mut opened = self.open_tables(&metas).await?;
        opened.extend(incoming.tables.values().cloned());
        let by_id = opened
            .iter()
            .map(|table| (table.meta().id, Rc::clone(table)));
        let version = edit::version_of(&placement.tables, &by_id.collect());
        Ok((opened, version))
    }
}

/// Takes back names of the shard that received files were given for a manifest that did not become durable.
pub(crate) async fn put_back(dir: &Directory, manifest: &Manifest) -> Result<()> {
    let incoming = dir.join(DIRECTORY);
    match corelith_io::list_dir(&incoming).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        listed => drop(listed?),
    }
    let record = ReceptionRecord::load(&incoming).await?;
    if record.placed.is_empty() {
        return Ok(());
    }
    match take_back(dir, manifest, &incoming, record).await {
        // A full device must not keep a shard from starting. A file that keeps its name of the shard is an orphan and is
        // received again; what the record says of it is held against the file before it counts.
        Err(error) if error.is_no_space() => {
            tracing::warn!(%error, "no room to take received files back");
            Ok(())
        }
        taken => taken,
    }
}

/// Takes back the names that a record says were given.
async fn take_back(
    dir: &Directory,
    manifest: &Manifest,
    incoming: &Path,
    mut record: ReceptionRecord,
) -> Result<()> {
    for (file, name) in std::mem::take(&mut record.placed) {
        let is_named = match name {
            FileName::Table(id) => manifest.names(id),
            FileName::ValueSegment(id, _) => manifest.segments.iter().any(|it| it.id == id),
            _ => true,
        };
        let place = name.path(dir);
        if !is_named && is_of(&place, name, file).await? {
            corelith_io::rename(&place, &path_of(incoming, file, WHOLE)).await?;
        }
    }
    corelith_io::sync_dir(incoming).await?;
    dir.sync().await?;
    // From here on the shard may give the numbers to files of its own.
    record.store(incoming).await
}

/// Whether the file at `place` says that it is `file`. What is there may have got the number since.
async fn is_of(place: &Path, name: FileName, file: FileId) -> Result<bool> {
    if !is_there(place).await? {
        return Ok(false);
    }
    let found = match name {
        FileName::Table(_) => sstable::file_id(place).await,
        _ => vlog::file_id(place).await,
    };
    match found {
        Err(error @ Error::Io(_)) => Err(error),
        found => Ok(found.is_ok_and(|found| found == file)),
    }
}

async fn is_there(path: &Path) -> Result<bool> {
    match corelith_io::File::open(path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        opened => opened.map(|_| true).map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::{OWNER, log_id, open};
    use crate::ids::{LogIndex, TableId};
    use bytes::Bytes;
    use corelith_io::sim::{IoKind, Sim};

    #[test]
    fn only_a_file_that_is_what_was_placed_is_put_back() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async {
            let dir = &Directory::from(Path::new("/data/shard-1"));
            let engine = open(dir, 64 << 10).await.unwrap();
            engine.put(LogIndex(1), b"key", Bytes::from_static(b"value"));
            engine.set_applied(log_id(1), None);
            engine.checkpoint().await.unwrap();
            engine.close().await.unwrap();
            let mut manifest = Manifest::load(dir, OWNER).await.unwrap();
            let meta = manifest.tables.remove(0).meta;
            let name = FileName::Table(meta.id);
            let incoming = dir.join(DIRECTORY);
            corelith_io::create_dir_all(&incoming).await.unwrap();
            let placed = |file| ReceptionRecord {
                placed: BTreeMap::from([(file, name)]),
                ..ReceptionRecord::default()
            };
            // The number was used again, for a table of the shard's own.
            let other = FileId(meta.file.0 ^ 1);
            placed(other).store(&incoming).await.unwrap();
            put_back(dir, &manifest).await.unwrap();
            let whole = path_of(&incoming, other, WHOLE);
            assert!(!is_there(&whole).await.unwrap(), "it is another file");
            assert!(is_there(&name.path(dir)).await.unwrap());
            placed(meta.file).store(&incoming).await.unwrap();
            put_back(dir, &manifest).await.unwrap();
            let whole = path_of(&incoming, meta.file, WHOLE);
            assert!(is_there(&whole).await.unwrap());
            // Names are taken back once.
            let record = ReceptionRecord::load(&incoming).await.unwrap();
            assert_eq!(record, ReceptionRecord::default());
        });
    }

    /// A shard on a full device starts: not even the record that names were taken back has room.
    #[test]
    fn names_are_taken_back_on_a_full_device() {
        for kind in [None, Some(IoKind::Rename), Some(IoKind::SyncDir)] {
            let sim = Sim::new(1);
            let node = sim.add_node();
            let disk = sim.disk(node);
            sim.block_on(node, async move {
                let dir = &Directory::from(Path::new("/data/shard-1"));
                open(dir, 64 << 10).await.unwrap().close().await.unwrap();
                let manifest = Manifest::load(dir, OWNER).await.unwrap();
                let incoming = dir.join(DIRECTORY);
                corelith_io::create_dir_all(&incoming).await.unwrap();
                let (file, table) = (FileId(7), FileName::Table(TableId(9)));
                let placed = ReceptionRecord {
                    placed: BTreeMap::from([(file, table)]),
                    ..ReceptionRecord::default()
                };
                placed.store(&incoming).await.unwrap();
                match kind {
                    Some(kind) => disk.fail_for_space(kind, DIRECTORY, 0),
                    None => disk.set_capacity(disk.used_bytes()),
                }
                put_back(dir, &manifest).await.unwrap();
                let engine = open(dir, 64 << 10).await.unwrap();
                disk.set_capacity(1 << 30);
                engine.close().await.unwrap();
            });
        }
    }
}
