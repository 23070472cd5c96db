//! Edits of the manifest, and the files that they leave behind.
//!
//! Invariants:
//! * A file is removed only after the manifest that no longer names it is durable, and when no reader
//!   holds it.
//! * One edit is made at a time, each from the manifest that the one before put into effect.

use super::{Engine, EngineState, separated_bytes_max};
use crate::compaction::{CompactionTask, Input, LevelShape, RunShape, Shape, TableShape};
use crate::error::Result;
use crate::filename::FileName;
use crate::ids::TableId;
use crate::limits::DISK_FULL_RETRY;
use crate::manifest::{Manifest, PlacedTable};
use crate::planted::{Bug, is_planted};
use crate::sstable::{Table, TableMeta};
use crate::version::{SortedRun, Version};
use corelith_io::collections::HashMap;
use std::rc::Rc;

/// The version that a manifest describes, whose tables are all among `tables`.
pub(super) fn version_of(placed: &[PlacedTable], tables: &HashMap<TableId, Rc<Table>>) -> Version {
    Version::new(placed, |id| match tables.get(&id) {
        Some(table) => Rc::clone(table),
        None => panic!("table {id} is not open"),
    })
}

/// A version as the compaction's picker sees it.
pub(super) fn shape_of(version: &Version) -> Shape {
    let table = |table: &Rc<Table>| {
        let meta = table.meta();
        TableShape {
            id: meta.id,
            file_bytes: meta.file_bytes,
            entries: meta.entries,
            deletions: meta.deletions,
            value_bytes: meta.reference_bytes(),
            first: meta.first_key.clone(),
            last: meta.last_key.clone(),
            highest: meta.highest,
            busy: false,
        }
    };
    let run = |run: &SortedRun| RunShape {
        id: run.id.0,
        tables: run.tables.iter().map(table).collect(),
    };
    let level = |runs: &Vec<SortedRun>| LevelShape {
        runs: runs.iter().map(run).collect(),
    };
    Shape {
        levels: version.levels.iter().map(level).collect(),
        claims: Vec::new(),
    }
}

/// The tables that a compaction reads, by run; `None` if one of them is gone.
pub(super) fn inputs_of(version: &Version, task: &CompactionTask) -> Option<Vec<Vec<Rc<Table>>>> {
    let run_of = |input: &Input| {
        let runs = version.levels.get(input.level)?;
        let run = runs.iter().find(|run| run.id.0 == input.run)?;
        let table = |id: &TableId| {
            let mut tables = run.tables.iter();
            tables.find(|table| table.meta().id == *id).cloned()
        };
        input.tables.iter().map(table).collect()
    };
    task.inputs.iter().map(run_of).collect()
}

impl Engine {
    /// Opens tables just written.
    pub(super) async fn open_tables(&self, metas: &[TableMeta]) -> Result<Vec<Rc<Table>>> {
        let inner = &self.inner;
        let mut tables = Vec::with_capacity(metas.len());
        for meta in metas {
            let table = Table::open(&inner.dir, meta.clone(), &inner.cache).await?;
            tables.push(Rc::new(table));
        }
        Ok(tables)
    }

    /// Makes an edit durable and puts it into effect, in one step for all readers. `change` makes it
    /// in a copy of the manifest, and returns `false` to give it up; `opened` are the tables that
    /// come in; `then` is part of the step. Returns whether the edit was made.
    ///
    /// # Errors
    /// The old manifest is in effect; after a failed commit, which fences the shard, the new one may
    /// be on disk. `Full` if the new one would be too long to be read.
    pub(super) async fn edit(
        &self,
        opened: &[Rc<Table>],
        change: impl FnOnce(&mut Manifest, &EngineState) -> bool,
        then: impl FnOnce(&mut EngineState),
    ) -> Result<bool> {
        let inner = &self.inner;
        let _edit = inner.manifest_edit.acquire(1).await;
        self.check_unfenced()?;
        let manifest = {
            let state = inner.state.borrow();
            let mut manifest = state.manifest.clone();
            manifest.generation += 1;
            manifest.next_table = state.next_table;
            manifest.policy = state.policy;
            (manifest.segments, manifest.next_segment) = inner.values.sealed();
            if !change(&mut manifest, &state) {
                return Ok(false);
            }
            manifest
        };
        let bytes = manifest.encode(inner.owner);
        inner.options.capacity.takes_manifest(bytes.len() as u64)?;
        Manifest::prepare(&inner.dir, &bytes).await?;
        assert_eq!(
            manifest.generation,
            inner.state.borrow().manifest.generation + 1,
            "one edit is made at a time"
        );
        if is_planted(Bug::RemoveBeforeManifest) {
            self.retire(&manifest, opened, |_| {});
            self.remove_unused().await;
        }
        self.commit(&manifest).await?;
        inner.manifest_bytes.set(bytes.len() as u64);
        self.retire(&manifest, opened, then);
        inner.state.borrow().check();
        self.measure_debt();
        inner.counters.edits.add(1);
        inner.changed.notify_waiters();
        inner.background.wake();
        Ok(true)
    }

    /// Puts a prepared manifest in the place of the old one, durably. Once it is there, a full device is
    /// waited out: it is unknown which of the two a crash would leave.
    ///
    /// # Errors
    /// The old manifest is in effect if the device is full; after anything else the shard is fenced.
    async fn commit(&self, manifest: &Manifest) -> Result<()> {
        let inner = &self.inner;
        match Manifest::replace(&inner.dir).await {
            Err(error) if error.is_no_space() => return Err(error),
            replaced => replaced.inspect_err(|error| self.fence(error.clone()))?,
        }
        let mut synced = inner.dir.sync().await;
        while let Err(error) = &synced
            && error.is_no_space()
            && !inner.state.borrow().closed
        {
            tracing::warn!(shard = %inner.owner, %error, "no room to make the manifest durable");
            inner.state.borrow_mut().disk_full = true;
            corelith_io::sleep(DISK_FULL_RETRY).await;
            synced = manifest.store(&inner.dir, inner.owner).await;
            inner.state.borrow_mut().disk_full = false;
        }
        synced.inspect_err(|error| self.fence(error.clone()))
    }

    /// Puts a manifest into effect; the tables that it does not name become obsolete.
    fn retire(
        &self,
        manifest: &Manifest,
        opened: &[Rc<Table>],
        then: impl FnOnce(&mut EngineState),
    ) {
        let state = &mut *self.inner.state.borrow_mut();
        let current = state.version.tables().chain(opened);
        let mut tables: HashMap<TableId, Rc<Table>> = current
            .map(|table| (table.meta().id, Rc::clone(table)))
            .collect();
        state.version = Rc::new(version_of(&manifest.tables, &tables));
        for placed in &manifest.tables {
            tables.remove(&placed.meta.id);
        }
        let mut obsolete: Vec<Rc<Table>> = tables.into_values().collect();
        obsolete.sort_by_key(|table| table.meta().id);
        state.obsolete.append(&mut obsolete);
        // A table that was replaced comes back with a snapshot that has it.
        let named = |table: &Rc<Table>| manifest.names(table.meta().id);
        state.obsolete.retain(|table| !named(table));
        let memtable_bytes = self.inner.options.memtable_bytes;
        state.separated_bytes_max = separated_bytes_max(&state.version, memtable_bytes);
        state.manifest = manifest.clone();
        then(state);
    }

    /// Whether [`Engine::remove_unused`] has something to remove: reads that held files do not say when
    /// they end.
    pub(super) fn has_unused(&self) -> bool {
        let state = self.inner.state.borrow();
        let mut obsolete = state.obsolete.iter();
        !state.garbage.is_empty()
            || obsolete.any(|table| Rc::strong_count(table) == 1)
            || self.inner.values.has_unused()
    }

    /// Removes files that nothing refers to. What fails is tried again, at the latest by the next
    /// start.
    pub(super) async fn remove_unused(&self) {
        let removable = {
            let state = &mut *self.inner.state.borrow_mut();
            let garbage = std::mem::take(&mut state.garbage).into_iter();
            let mut removable: Vec<_> = garbage.map(|id| (id, u64::MAX)).collect();
            state.obsolete.retain(|table| {
                let held = Rc::strong_count(table) > 1 && !is_planted(Bug::RemoveWhileHeld);
                if !held {
                    removable.push((table.meta().id, table.meta().file_bytes));
                }
                held
            });
            debug_assert!(
                removable.iter().all(|(id, _)| !state.manifest.names(*id)),
                "a file that the manifest names is removed"
            );
            removable
        };
        let removals = &self.inner.removals;
        if self.is_disk_full() {
            removals.set_held_max(0);
        }
        for (id, bytes) in removable {
            let path = FileName::Table(id).path(&self.inner.dir);
            if let Err(error) = removals.remove(&path, bytes).await {
                tracing::warn!(%error, "an unused table stays");
            }
        }
        self.inner.values.remove_obsolete(removals).await;
        // Elsewhere the next edit makes removals durable; a full device may not come to it without
        // their space.
        if self.is_disk_full()
            && let Err(error) = self.inner.dir.sync().await
        {
            tracing::warn!(%error, "removed files may still take space");
        }
    }
}
