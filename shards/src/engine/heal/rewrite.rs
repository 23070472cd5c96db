//! Rewriting tables within their runs: what leaves out ranges, puts versions in, or moves values.

use crate::engine::run_writer::RunWriter;
use crate::engine::{Engine, EngineState};
use crate::error::{Error, Result};
use crate::ids::{LogIndex, RunId, TableId, ValueSegmentId};
use crate::key::compare;
use crate::key::{Space, SpacedKey};
use crate::large::StoredLarge;
use crate::length;
use crate::limits::TABLE_BYTES;
use crate::manifest::Manifest;
use crate::pace::{Lane, PACE_STEP_BYTES};
use crate::planted::{Bug, is_planted};
use crate::sstable::{Content, EntryRef, SequentialCursor, Table, TableMeta, ValueRef};
use crate::vlog::ValuePointer;
use bytes::Bytes;
use corelith_io::sync::oneshot;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Entries after which a rewriting asks whether others want the core.
const ENTRIES_PER_TURN: u32 = 16;

/// Where the value of a fetched version is.
pub(super) enum StagedValue {
    Here(Bytes),
    Separated(ValuePointer),
    Large(StoredLarge),
}

pub(super) struct StagedVersion {
    pub(super) stored_key: Bytes,
    pub(super) at: LogIndex,
    pub(super) value: StagedValue,
}

/// Stored keys, both ends included.
pub(super) struct StoredRange {
    pub(super) first: Bytes,
    pub(super) last: Bytes,
}

impl StoredRange {
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        *self.first <= *key && *key <= *self.last
    }

    pub(super) fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        *self.first <= *last && *first <= *self.last
    }
}

/// What a rewriting leaves out and puts in.
pub(super) struct Rewriting {
    /// Empty if nothing is replaced.
    pub(super) ranges: Vec<StoredRange>,
    /// Up to which key, included, something was fetched, and as of which index; in order.
    pub(super) parts: Vec<(Bytes, LogIndex)>,
    /// Values in this segment are moved elsewhere.
    pub(super) evacuated: Option<ValueSegmentId>,
}

impl Rewriting {
    /// The lowest index as of which a part is: tables without newer versions are not read within the range.
    fn least(&self) -> LogIndex {
        let parts = self.parts.iter().map(|(_, as_of)| *as_of);
        parts.min().unwrap_or_default()
    }

    /// The highest one.
    pub(super) fn most(&self) -> LogIndex {
        let parts = self.parts.iter().map(|(_, as_of)| *as_of);
        parts.max().unwrap_or_default()
    }

    /// Whether something fetched takes the place of the version.
    fn replaces(&self, key: &[u8], at: LogIndex) -> bool {
        let is_in_range = self.ranges.iter().any(|range| range.contains(key));
        let part = self.parts.partition_point(|(last, _)| **last < *key);
        let as_of = self.parts.get(part).map(|(_, as_of)| *as_of);
        is_in_range && as_of.is_some_and(|as_of| at <= as_of)
    }
}

impl Engine {
    /// [`Engine::rewrite`] in a task of its own: an edit that was begun is ended, whoever waits for it. `held` is kept as
    /// long.
    pub(super) async fn rewrite_in_task(
        &self,
        rewriting: Rewriting,
        versions: Vec<StagedVersion>,
        is_read: impl Fn(&Rc<Table>) -> bool + 'static,
        held: impl Sized + 'static,
    ) -> Result<bool> {
        let (told, done) = oneshot::channel();
        let engine = self.clone();
        drop(corelith_io::spawn_background(async move {
            let _working = engine.working();
            let rewritten = engine.rewrite(&rewriting, &versions, is_read).await;
            drop(held);
            engine.remove_unused().await;
            drop(told.send(rewritten));
        }));
        done.await.unwrap_or(Err(Error::Closed))
    }

    /// Rewrites the tables that are to be read, each run for itself, and puts `versions` into the oldest run.
    async fn rewrite(
        &self,
        rewriting: &Rewriting,
        versions: &[StagedVersion],
        is_read: impl Fn(&Rc<Table>) -> bool,
    ) -> Result<bool> {
        self.check_usable()?;
        let version = Rc::clone(&self.inner.state.borrow().version);
        let levels = version.levels.iter().enumerate();
        let runs = levels.flat_map(|(level, runs)| runs.iter().map(move |run| (level, run)));
        let runs: Vec<_> = runs.collect();
        let mut replaced: BTreeSet<TableId> = BTreeSet::new();
        let mut written: Vec<(u8, RunId, Vec<TableMeta>)> = Vec::new();
        let mut outputs: Vec<RunWriter> = Vec::new();
        for (place, (level, run)) in runs.iter().enumerate() {
            let tables = run.tables.iter().map(|table| (table, is_read(table)));
            let tables: Vec<(&Rc<Table>, bool)> = tables.collect();
            let read = tables.iter().filter(|(_, is_read)| *is_read);
            let read: Vec<TableId> = read.map(|(table, _)| table.meta().id).collect();
            let is_oldest = place + 1 == runs.len();
            let put_in = if is_oldest { versions } else { &[] };
            if read.is_empty() && put_in.is_empty() {
                continue;
            }
            replaced.extend(read);
            let mut output = self.rewrite_run(rewriting, *level, &tables, put_in).await?;
            let level = length::stored_level(*level);
            written.push((level, run.id, output.finish().await?));
            outputs.push(output);
        }
        if runs.is_empty() && !versions.is_empty() {
            let mut output = self.rewrite_run(rewriting, 0, &[], versions).await?;
            written.push((0, RunId(0), output.finish().await?));
            outputs.push(output);
        }
        if written.is_empty() {
            return Ok(true);
        }
        let made = self.replace(rewriting, &replaced, written).await;
        if matches!(made, Ok(true)) || !self.is_unfenced() {
            outputs.iter_mut().for_each(RunWriter::keep);
        }
        made
    }

    /// Makes the edit.
    async fn replace(
        &self,
        rewriting: &Rewriting,
        replaced: &BTreeSet<TableId>,
        written: Vec<(u8, RunId, Vec<TableMeta>)>,
    ) -> Result<bool> {
        let metas = written.iter().flat_map(|(_, _, metas)| metas);
        let metas: Vec<TableMeta> = metas.cloned().collect();
        let opened = self.open_tables(&metas).await?;
        let change = |manifest: &mut Manifest, _: &EngineState| {
            if manifest.tables.is_empty() && replaced.is_empty() {
                manifest.push_run(metas);
                return true;
            }
            manifest.replace_in_place(replaced, written)
        };
        let renew = |_: &mut EngineState| {
            for range in &rewriting.ranges {
                let (first, last) = (range.first.clone(), range.last.clone());
                self.inner.pins.renewed(first, last, rewriting.most());
            }
        };
        self.edit(&opened, change, renew).await
    }

    /// Writes what stays of the tables of a run that are to be read, and `versions`, to new ones.
    async fn rewrite_run(
        &self,
        rewriting: &Rewriting,
        level: usize,
        tables: &[(&Rc<Table>, bool)],
        versions: &[StagedVersion],
    ) -> Result<RunWriter> {
        let mut output = HealOutput {
            run: RunWriter::new(self, self.table_options(level), TABLE_BYTES),
            versions: versions.iter(),
            next: None,
            last_key: Vec::new(),
            is_begun: false,
        };
        output.next = output.versions.next();
        for (table, is_rewritten) in tables {
            let meta = table.meta();
            if !is_rewritten {
                // It lies between the new ones.
                output.put_in_before(&meta.first_key).await?;
                output.run.end_table().await?;
                continue;
            }
            let keeps = is_planted(Bug::HealKeepsOldVersions) && !self.is_damaged(table);
            let is_read = rewriting.ranges.is_empty() || meta.highest > rewriting.least() || keeps;
            if is_read {
                self.copy(rewriting, table, &[], None, &mut output).await?;
                continue;
            }
            // Nothing within the ranges stays, so it is not read.
            let mut from: Vec<u8> = Vec::new();
            let ranges = rewriting.ranges.iter();
            for range in ranges.filter(|range| range.overlaps(&meta.first_key, &meta.last_key)) {
                if meta.first_key < range.first {
                    self.copy(rewriting, table, &from, Some(&range.first), &mut output)
                        .await?;
                }
                from = [&range.last[..], &[0]].concat();
            }
            if meta.last_key[..] >= from[..] {
                self.copy(rewriting, table, &from, None, &mut output)
                    .await?;
            }
        }
        while let Some(version) = output.next {
            output.put_in(version).await?;
        }
        Ok(output.run)
    }

    /// Copies what stays of the entries of a table from the key `from` on to before `until`.
    async fn copy(
        &self,
        rewriting: &Rewriting,
        table: &Rc<Table>,
        from: &[u8],
        until: Option<&Bytes>,
        output: &mut HealOutput<'_>,
    ) -> Result<()> {
        let copied = self.copy_entries(rewriting, table, from, until, output);
        let copied = copied.await;
        if let (Err(Error::Corrupt { offset, .. }), Some(until)) = (&copied, until) {
            // A block that begins where the range does: every entry before it has come.
            let (first, _) = table.key_range_at(*offset).await;
            if first >= *until {
                return Ok(());
            }
        }
        self.noted(copied, None).await
    }

    async fn copy_entries(
        &self,
        rewriting: &Rewriting,
        table: &Rc<Table>,
        from: &[u8],
        until: Option<&Bytes>,
        output: &mut HealOutput<'_>,
    ) -> Result<()> {
        let Some(mut cursor) = SequentialCursor::start(Rc::clone(table), from).await? else {
            return Ok(());
        };
        let mut count = 0;
        let mut moved = 0;
        loop {
            let EntryRef { key, at, value } = cursor.current();
            if until.is_some_and(|until| *key >= **until) {
                return Ok(());
            }
            moved += 2 * (key.len() + value.table_len()) as u64;
            if !rewriting.replaces(key, at) || is_planted(Bug::HealKeepsOldVersions) {
                let stored: Bytes;
                let content = match value {
                    ValueRef::Deleted => Content::Deleted,
                    ValueRef::Inline(bytes) => Content::Inline(bytes),
                    ValueRef::Separated(pointer)
                        if rewriting.evacuated == Some(pointer.segment) =>
                    {
                        Content::Separated(self.move_value(key, at, pointer).await?)
                    }
                    ValueRef::Separated(pointer) => Content::Separated(pointer),
                    ValueRef::Large(large) => Content::Large(large),
                    ValueRef::Stored(handle) => {
                        stored = table.stored(handle).await?;
                        Content::Inline(&stored)
                    }
                };
                output.add(key, at, content).await?;
            }
            if !(cursor.advance_in_block()? || cursor.advance().await?) {
                return Ok(());
            }
            count += 1;
            if count == ENTRIES_PER_TURN {
                count = 0;
                self.check_usable()?;
                if moved >= PACE_STEP_BYTES {
                    self.pace(Lane::Compaction, std::mem::take(&mut moved))
                        .await;
                }
                corelith_io::yield_if_needed().await;
            }
        }
    }

    /// Writes a value of the value log there again, elsewhere, durably.
    async fn move_value(
        &self,
        stored_key: &[u8],
        at: LogIndex,
        pointer: ValuePointer,
    ) -> Result<ValuePointer> {
        let values = &self.inner.values;
        // Tables are written with keys of spaces only; any other is no record's.
        let key = SpacedKey::of_stored(stored_key).unwrap_or(Space::User.key(stored_key));
        let read = values.read(&values.segments(), pointer, Some(key)).await;
        let value = self.noted(read, Some(key)).await?;
        values.wait_for_room().await?;
        let (moved, ticket) = values.stage(at, key, &value)?;
        values.wait_durable(ticket).await?;
        assert!(
            moved.segment != pointer.segment,
            "a value is moved out of {:?}",
            pointer.segment
        );
        Ok(moved)
    }
}

/// The new tables of a run, and the versions that are put in between.
struct HealOutput<'a> {
    run: RunWriter,
    versions: std::slice::Iter<'a, StagedVersion>,
    next: Option<&'a StagedVersion>,
    last_key: Vec<u8>,
    is_begun: bool,
}

impl<'a> HealOutput<'a> {
    async fn add(&mut self, key: &[u8], at: LogIndex, content: Content<'_>) -> Result<()> {
        while let Some(version) = self.next
            && compare((&version.stored_key, version.at), (key, at)) == Ordering::Less
        {
            self.put_in(version).await?;
        }
        self.write(key, at, content).await
    }

    /// Puts in what lies before `key`.
    async fn put_in_before(&mut self, key: &[u8]) -> Result<()> {
        while let Some(version) = self.next.filter(|version| version.stored_key[..] < *key) {
            self.put_in(version).await?;
        }
        Ok(())
    }

    async fn put_in(&mut self, version: &'a StagedVersion) -> Result<()> {
        self.next = self.versions.next();
        let content = match &version.value {
            StagedValue::Here(value) => Content::Inline(value),
            StagedValue::Separated(pointer) => Content::Separated(*pointer),
            StagedValue::Large(large) => Content::Large(*large),
        };
        self.write(&version.stored_key, version.at, content).await?;
        corelith_io::yield_if_needed().await;
        Ok(())
    }

    async fn write(&mut self, key: &[u8], at: LogIndex, content: Content<'_>) -> Result<()> {
        let is_new_key = !self.is_begun || self.last_key != key;
        self.is_begun = true;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.run.add(key, at, content, is_new_key).await
    }
}
