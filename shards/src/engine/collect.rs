//! Collects the value log.
//!
//! Garbage is known exactly: the bytes of a segment minus those that the tables refer to. Only segments
//! whose entries the log has purged count: the log, or a memtable, may refer to records of the others that
//! no table refers to. A collection never writes to the index: a record that is live
//! is one that a table refers to, and it keeps its segment and slot.
//!
//! Invariants:
//! * A record is dropped only if no table of the current version, and no memtable, has its pointer.
//!   Versions that a pinned sequence number sees are in the tables, so their records stay.
//! * Readers hold the segments of their view, so an old generation stays readable for them.
//! * The order is: new file durable, manifest durable, old file removed.

use super::background::Turn;
use super::compact::is_no_space;
use super::{Engine, ReadView};
use crate::error::Result;
use crate::ids::{LogIndex, ValueSegmentId};
use crate::memtable;
use crate::pace::{Lane, PACE_STEP_BYTES};
use crate::planted::{Bug, is_planted};
use crate::sstable::{SequentialCursor, Table, ValueRef, hash_of};
use crate::vlog::{GarbageReport, PlanInput, RecordRef, SegmentMeta, SegmentUse, plan};
use corelith_io::collections::HashMap;
use std::cell::Cell;
use std::rc::Rc;

/// Entries after which a walk through a table asks whether others want the core.
const ENTRIES_PER_TURN: u32 = 64;

impl Engine {
    /// What of the value log is garbage, and what collection does about it next.
    pub(super) fn garbage_report(&self) -> GarbageReport {
        let state = self.inner.state.borrow();
        let mut referenced: HashMap<ValueSegmentId, u64> = HashMap::default();
        for table in state.version.tables() {
            for reference in table.meta().referenced() {
                *referenced.entry(reference.segment).or_insert(0) += reference.bytes;
            }
        }
        let mut in_memory: HashMap<ValueSegmentId, u64> = HashMap::default();
        for memtable in state.memtables() {
            memtable.for_references(|segment, bytes| {
                *in_memory.entry(segment).or_insert(0) += bytes;
            });
        }
        let received_from = state.receiving.iter().min().copied();
        let segments: Vec<SegmentUse> = self
            .inner
            .values
            .segments()
            .values()
            .map(|segment| {
                let meta = segment.meta();
                // What is being received is referred to when it is installed.
                let is_received = received_from.is_some_and(|from| meta.id >= from)
                    || state.held.contains(&meta.id);
                SegmentUse {
                    id: meta.id,
                    bytes: meta.bytes,
                    referenced: referenced.get(&meta.id).copied().unwrap_or(0),
                    in_memory: match is_received {
                        true => meta.bytes,
                        false => in_memory.get(&meta.id).copied().unwrap_or(0),
                    },
                    records: meta.records,
                    sealed: segment.is_sealed() && !is_received,
                    highest: meta.highest,
                }
            })
            .collect();
        plan(PlanInput {
            segments: &segments,
            purged: match is_planted(Bug::CollectUnpurged) {
                true => Some(LogIndex(u64::MAX)),
                false => (self.inner.log.purged)(),
            },
            free_fraction: self.inner.free_fraction.get(),
            is_eager: self.is_eager(),
        })
    }

    /// Whether collection has something to do.
    pub(super) fn is_collection_due(&self) -> bool {
        let report = self.garbage_report();
        report.drops().next().is_some() || report.rewrite().is_some()
    }

    /// Removes the segments that are garbage as a whole, and rewrites the one with most garbage if
    /// there is too much.
    pub(super) async fn collect_once(&self) -> Turn {
        let is_stuck = &self.inner.background.collection_is_stuck;
        let report = self.garbage_report();
        if let Some(id) = report.end {
            self.inner.values.end_segment(id);
        }
        let drops: Vec<ValueSegmentId> = report.drops().collect();
        let result = match report.rewrite() {
            _ if !drops.is_empty() => self.drop_segments(&drops).await,
            Some(id) if !self.gives_way() => self.rewrite_segment(id).await,
            Some(_) => return Turn::Wait,
            None => {
                is_stuck.set(false);
                return Turn::Wait;
            }
        };
        is_stuck.set(is_no_space(&result));
        self.remove_unused().await;
        match result {
            Ok(()) => Turn::Again,
            Err(error) => self.compaction_failed(&error).await,
        }
    }

    async fn drop_segments(&self, ids: &[ValueSegmentId]) -> Result<()> {
        let values = &self.inner.values;
        self.edit(
            &[],
            |manifest, _| {
                debug_assert!(
                    !manifest.refers_to_any(ids) || is_planted(Bug::CollectUnpurged),
                    "a segment that is dropped has no live record"
                );
                manifest
                    .segments
                    .retain(|segment| !ids.contains(&segment.id));
                true
            },
            |_| ids.iter().for_each(|id| values.drop_segment(*id)),
        )
        .await?;
        let dropped = &self.inner.counters.dropped_segments;
        dropped.add(ids.len() as u64);
        Ok(())
    }

    async fn rewrite_segment(&self, id: ValueSegmentId) -> Result<()> {
        let values = &self.inner.values;
        let Some(segment) = values.segments().get(&id).cloned() else {
            return Ok(());
        };
        let counters = &self.inner.counters.collection;
        let _running = counters.start();
        let before = segment.meta();
        let view = self.view();
        let live = self.live_slots(&view, before).await?;
        let moved = Cell::new(0);
        let rewritten = values
            .rewrite(&segment, async |record| {
                self.check_usable()?;
                let is_live = match &live {
                    _ if is_planted(Bug::IgnoreReferences) => false,
                    Some(live) => live.contains(record.pointer.slot),
                    None => is_live(&view, record).await?,
                };
                // Garbage is not read.
                let bytes = if is_live { record.pointer.len } else { 0 };
                moved.set(moved.get() + 2 * (record.key.key.len() as u64 + u64::from(bytes)));
                if moved.get() >= PACE_STEP_BYTES {
                    self.pace(Lane::Collection, moved.take()).await;
                }
                Ok(is_live)
            })
            .await?;
        drop(view);
        let meta = rewritten.meta();
        assert!(
            meta.id == before.id && meta.generation > before.generation,
            "a rewritten segment keeps its number"
        );
        debug_assert!(
            meta.records <= before.records && meta.bytes <= before.bytes,
            "a collection adds nothing"
        );
        counters.read(before.file_bytes);
        counters.wrote(meta.file_bytes);
        if is_planted(Bug::RemoveBeforeManifest) {
            drop(segment);
            values.install_rewritten(rewritten);
            values.remove_obsolete(&self.inner.removals).await;
            let replace = |manifest: &mut crate::manifest::Manifest, _: &super::EngineState| {
                manifest.segments = values.sealed().0;
                true
            };
            return self.edit(&[], replace, |_| {}).await.map(|_| ());
        }
        let mut rewritten = Some(rewritten);
        let edited = self
            .edit(
                &[],
                |manifest, _| {
                    let mut segments = manifest.segments.iter_mut();
                    let place = segments.find(|other| **other == before);
                    place.map(|place| *place = meta).is_some()
                },
                |_| {
                    if let Some(rewritten) = rewritten.take() {
                        values.install_rewritten(rewritten);
                    }
                },
            )
            .await;
        // After a failure of the edit's end the manifest on disk may name the new file.
        if let Some(rewritten) = rewritten.filter(|_| !self.is_unfenced()) {
            rewritten.keep();
        }
        edited.map(|_| ())
    }
}

impl Engine {
    /// The slots of a segment that tables refer to, if going through those tables is cheaper than to
    /// look each record up: tables of pointers alone are short. The log has purged every entry of the
    /// segment, so no memtable refers to it.
    async fn live_slots(&self, view: &ReadView, segment: SegmentMeta) -> Result<Option<LiveSlots>> {
        if is_planted(Bug::IgnorePinsOfSegments) {
            return Ok(None);
        }
        let refers = |table: &&Rc<Table>| table.refers_to(segment.id);
        let tables: Vec<&Rc<Table>> = view.version.tables().filter(refers).collect();
        let bytes: u64 = tables.iter().map(|table| table.meta().file_bytes).sum();
        if bytes > segment.file_bytes {
            return Ok(None);
        }
        self.inner.counters.collection.read(bytes);
        let mut slots = LiveSlots::default();
        for table in tables {
            let mut cursor = SequentialCursor::start(Rc::clone(table), &[]).await?;
            let mut count = 0_u32;
            let mut moved = 0;
            while let Some(entry) = cursor.as_ref().map(SequentialCursor::current) {
                // To look at it costs the core about what writing it would.
                moved += 2 * (entry.key.len() + entry.value.table_len()) as u64;
                if let ValueRef::Separated(pointer) = entry.value
                    && pointer.segment == segment.id
                {
                    slots.add(pointer.slot);
                }
                let goes_on = match &mut cursor {
                    Some(cursor) => cursor.advance_in_block()? || cursor.advance().await?,
                    None => false,
                };
                if !goes_on {
                    break;
                }
                count += 1;
                if count.is_multiple_of(ENTRIES_PER_TURN) {
                    self.check_usable()?;
                    self.pace(Lane::Collection, std::mem::take(&mut moved))
                        .await;
                    corelith_io::yield_if_needed().await;
                }
            }
        }
        Ok(Some(slots))
    }
}

/// Slots of one segment, a bit each; they are bounded by `limits::VLOG_SLOTS_MAX`.
#[derive(Default)]
struct LiveSlots {
    words: Vec<u64>,
}

impl LiveSlots {
    fn add(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word |= 1 << (slot % 64);
        }
    }

    fn contains(&self, slot: u32) -> bool {
        let word = self.words.get(slot as usize / 64);
        word.is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
}

/// Whether anything of `view` has the record's pointer.
pub(super) async fn is_live(view: &ReadView, record: &RecordRef<'_>) -> Result<bool> {
    for memtable in &view.memtables {
        let version = memtable.get(record.key.space, record.key.key, record.at);
        if let Some(version) = version
            && version.value == memtable::Value::Separated(record.pointer)
        {
            return Ok(true);
        }
    }
    let stored_key = record.key.stored();
    if is_planted(Bug::IgnorePinsOfSegments) {
        let hash = hash_of(&stored_key);
        for table in view.version.candidates(&stored_key) {
            let now = LogIndex(u64::MAX);
            let said = table.ask(&stored_key, hash, now);
            let found = table.get_asked(&stored_key, hash, now, &said).await?;
            if let Some((at, _)) = found {
                return Ok(at == record.at);
            }
        }
    }
    for table in view.version.candidates(&stored_key) {
        if table
            .holds(&stored_key, record.at, record.pointer, true)
            .await?
        {
            return Ok(true);
        }
    }
    Ok(false)
}
