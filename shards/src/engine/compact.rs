//! Runs compactions: a few at a time, so that merges of small runs go on beside a long one.
//!
//! A compaction reads tables that no longer change and writes others; nothing else waits for it. One
//! manifest edit puts the new ones in the place of the old ones. The task gives way to the foreground
//! after every few entries.

use super::background::Turn;
use super::inputs::Inputs;
use super::run_writer::RunWriter;
use super::versions::{Fate, Versions};
use super::{Engine, edit};
use crate::compaction::{self, CompactionTask, Shape};
use crate::error::{Error, Result};
use crate::limits::{BACKGROUND_IO_BYTES, COMPACTIONS_MAX, DAMAGE_PAUSE, DISK_FULL_RETRY};
use crate::pace::{Lane, PACE_STEP_BYTES};
use crate::sstable::{Content, EntryRef, Table, TableMeta, ValueRef};
use bytes::Bytes;
use std::rc::Rc;

/// Entries after which a compaction asks whether others want the core.
const ENTRIES_PER_TURN: u32 = 16;

/// A compaction that runs; others keep off its tables and keys.
struct Compacting {
    engine: Engine,
    task: Rc<CompactionTask>,
}

impl Drop for Compacting {
    fn drop(&mut self) {
        let running = &mut self.engine.inner.compacting.borrow_mut();
        let before = running.len();
        running.retain(|task| !Rc::ptr_eq(task, &self.task));
        assert_eq!(running.len() + 1, before, "a compaction ends once");
        self.engine.inner.changed.notify_waiters();
    }
}

pub(super) fn is_no_space(result: &Result<()>) -> bool {
    result.as_ref().is_err_and(Error::is_no_space)
}

impl Engine {
    /// Looks at what compaction has to do, and how urgent it is.
    pub(super) fn measure_debt(&self) {
        let options = self.picker_options();
        let (debt, due) = {
            let state = self.inner.state.borrow();
            let shape = edit::shape_of(&state.version);
            (
                compaction::debt(&shape, state.policy, &options),
                compaction::searches_due(&shape, state.policy, &options),
            )
        };
        let garbage = self.garbage_report();
        let backlog = &self.inner.backlog;
        backlog.debt.set(debt);
        backlog.garbage_bytes.set(garbage.garbage);
        backlog.value_bytes.set(garbage.bytes);
        self.ask_for_share();
        self.inner.searches.due_from(due);
    }

    /// The version as the picker sees it, with what runs.
    fn shape(&self) -> Shape {
        let mut shape = edit::shape_of(&self.inner.state.borrow().version);
        for task in self.inner.compacting.borrow().iter() {
            shape.start(task);
        }
        shape
    }

    /// Takes the most urgent compaction that can run beside those that do.
    fn pick_compaction(&self) -> Option<Compacting> {
        if self.inner.holds.is_held() {
            return None;
        }
        let policy = self.inner.state.borrow().policy;
        let task = compaction::pick(&self.shape(), policy, &self.picker_options())?;
        let task = Rc::new(task);
        let mut running = self.inner.compacting.borrow_mut();
        running.push(Rc::clone(&task));
        assert!(running.len() <= COMPACTIONS_MAX, "compactions are bounded");
        drop(running);
        Some(Compacting {
            engine: self.clone(),
            task,
        })
    }

    /// Whether compaction has nothing to do.
    pub(super) fn is_compaction_settled(&self) -> bool {
        let policy = self.inner.state.borrow().policy;
        compaction::settled(&self.shape(), policy, &self.picker_options())
    }

    fn picker_options(&self) -> compaction::PickerOptions {
        compaction::PickerOptions {
            mix: self.inner.mix.get(),
            searches: self.inner.searches.count(),
            is_eager: self.is_eager(),
            oldest_pin: self.inner.pins.oldest(),
            ..self.inner.options.compaction.clone()
        }
    }

    /// Runs the most urgent compaction, if there is one.
    pub(super) async fn compact_once(&self) -> Turn {
        if self.gives_way() {
            return Turn::Wait;
        }
        let is_stuck = &self.inner.background.compaction_is_stuck;
        let Some(compacting) = self.pick_compaction() else {
            is_stuck.set(false);
            return Turn::Wait;
        };
        let result = self.compact(&compacting.task).await;
        is_stuck.set(is_no_space(&result));
        drop(compacting);
        match result {
            Ok(()) => {
                self.remove_unused().await;
                Turn::Again
            }
            Err(error) => self.compaction_failed(&error).await,
        }
    }

    /// Whether work that needs space leaves what there is to others: on a full device flushes come
    /// first, since writers and the log wait for them, and then one compaction at a time.
    pub(super) fn gives_way(&self) -> bool {
        let is_flushing = !self.inner.state.borrow().frozen.is_empty();
        let is_compacting = !self.inner.compacting.borrow().is_empty();
        self.is_disk_full() && (is_flushing || is_compacting)
    }

    /// Decides what a failure of background work means.
    pub(super) async fn compaction_failed(&self, error: &Error) -> Turn {
        let shard = self.inner.owner;
        self.remove_unused().await;
        self.note_damage(error, None).await;
        match error {
            Error::Closed | Error::Fenced(_) => return Turn::Wait,
            error if error.wants_room() => {
                tracing::warn!(%shard, %error, "no room to compact or collect");
                self.pause(DISK_FULL_RETRY).await;
            }
            // It could not be read. Readers of it get the error, and nothing is lost by waiting.
            error if error.is_corrupt() => {
                tracing::error!(%shard, %error, "compaction or collection met damage");
                self.pause(DAMAGE_PAUSE).await;
            }
            // What is there may still be read another time; nothing was written wrong.
            Error::Io(io) if io.is_read() => {
                tracing::error!(%shard, %error, "compaction or collection cannot read");
                self.pause(DAMAGE_PAUSE).await;
            }
            error => self.fence(error.clone()),
        }
        Turn::Again
    }

    /// Waits for a while, or until the shard is closed.
    pub(super) async fn pause(&self, duration: std::time::Duration) {
        let until = corelith_io::now() + duration;
        while self.check_usable().is_ok() {
            let changed = self.inner.changed.notified();
            let rest = until.saturating_duration_since(corelith_io::now());
            if rest.is_zero() || corelith_io::timeout(rest, changed).await.is_err() {
                return;
            }
        }
    }

    async fn compact(&self, task: &CompactionTask) -> Result<()> {
        if task.moves {
            let moved = self.edit(&[], |manifest, _| manifest.apply(task, None), |_| {});
            let moved = moved.await?;
            self.inner.counters.moves.add(u64::from(moved));
            return Ok(());
        }
        let counters = &self.inner.counters.compaction;
        let _running = counters.start();
        let runs = edit::inputs_of(&self.inner.state.borrow().version, task);
        // An installed snapshot may have replaced them.
        let Some(runs) = runs else { return Ok(()) };
        let options = self.table_options(task.output.level);
        let mut output = RunWriter::new(self, options, self.inner.options.compaction.table_bytes);
        output.cut_before(&task.cuts);
        let superseded = self.merge(runs, task.bottom, &mut output).await?;
        let tables: Vec<TableMeta> = output.finish().await?;
        let opened: Vec<Rc<Table>> = self.open_tables(&tables).await?;
        let replaced = self
            .edit(
                &opened,
                |manifest, _| manifest.apply(task, Some(tables)),
                |_| {},
            )
            .await;
        if matches!(replaced, Ok(true)) || !self.is_unfenced() {
            output.keep();
        }
        if task.inputs.iter().any(|input| input.level == 0) {
            self.inner.searches.reset();
        }
        let mut mix = self.inner.mix.get();
        mix.merged(&task.mixed, superseded);
        self.inner.mix.set(mix);
        counters.read(task.bytes);
        counters.wrote(output.bytes());
        replaced.map(|_| ())
    }

    /// Writes what survives of `runs` to `output`; returns how many versions were superseded.
    async fn merge(
        &self,
        runs: Vec<Vec<Rc<Table>>>,
        is_bottom: bool,
        output: &mut RunWriter,
    ) -> Result<u64> {
        let begun = async || {
            self.pace(Lane::Compaction, BACKGROUND_IO_BYTES as u64)
                .await
        };
        let mut inputs = Inputs::start(runs, begun).await?;
        let mut versions = Versions::new(&self.inner.pins, is_bottom);
        let mut last_key: Vec<u8> = Vec::new();
        // Whether the output has a version of the last key.
        let mut is_begun = false;
        let mut is_first = true;
        let mut count = 0;
        // Read and, at most, written.
        let mut moved = 0;
        while let Some((EntryRef { key, at, value }, table)) = inputs.current() {
            let is_new_key = is_first || key != last_key;
            if is_new_key {
                is_first = false;
                is_begun = false;
                last_key.clear();
                last_key.extend_from_slice(key);
            }
            moved += 2 * (key.len() + value.table_len()) as u64;
            let is_deleted = value == ValueRef::Deleted;
            if versions.next(at, is_deleted, is_new_key) == Fate::Keep {
                for deleted in versions.take_deletions() {
                    output
                        .add(&last_key, deleted, Content::Deleted, !is_begun)
                        .await?;
                    is_begun = true;
                }
                let stored: Bytes;
                let content = match value {
                    ValueRef::Deleted => Content::Deleted,
                    ValueRef::Inline(bytes) => Content::Inline(bytes),
                    ValueRef::Separated(pointer) => Content::Separated(pointer),
                    ValueRef::Large(large) => Content::Large(large),
                    ValueRef::Stored(handle) => {
                        stored = table.stored(handle).await?;
                        Content::Inline(&stored)
                    }
                };
                output.add(&last_key, at, content, !is_begun).await?;
                is_begun = true;
            }
            inputs.advance().await?;
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
        Ok(versions.superseded())
    }
}
