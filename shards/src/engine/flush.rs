//! Freezing memtables, flushing them to tables, checkpoints.

use super::run_writer::RunWriter;
use super::{Engine, Frozen};
use crate::error::{Error, Result};
use crate::ids::LogId;
use crate::key::Space;
use crate::limits::{DISK_FULL_RETRY, FLUSHED_TABLE_BYTES, FULL_RETRY, SCAN_BATCH_ENTRIES};
use crate::memtable::{Memtable, Value};
use crate::pace::Lane;
use crate::planted::{Bug, is_planted};
use crate::sstable::{Content, FilterKind, TableOptions};
use bytes::Bytes;
use std::ops::Bound;
use std::rc::Rc;

impl Engine {
    /// Flushes everything applied so far and returns the log id of the checkpoint that covers it.
    ///
    /// # Errors
    /// `Fenced` or `Closed`. A full device is waited out.
    pub async fn checkpoint(&self) -> Result<Option<LogId>> {
        self.freeze();
        let target = self.inner.state.borrow().applied.index();
        loop {
            let changed = self.inner.changed.notified();
            let checkpointed = self.checkpointed();
            if checkpointed.map(|id| id.index) >= target {
                return Ok(checkpointed);
            }
            self.check_usable()?;
            changed.await;
        }
    }

    /// The log id of the last durable checkpoint: a log purge must not go beyond it.
    pub fn checkpointed(&self) -> Option<LogId> {
        self.inner.state.borrow().manifest.checkpoint.applied
    }

    /// Completes when the last durable checkpoint is beyond `known`. If there will be none any more
    /// (fenced or closed), it never does.
    pub async fn wait_checkpoint(&self, known: Option<LogId>) -> Option<LogId> {
        let known = known.map(|id| id.index);
        loop {
            let changed = self.inner.changed.notified();
            let checkpointed = self.checkpointed();
            if checkpointed.map(|id| id.index) > known {
                return checkpointed;
            }
            changed.await;
        }
    }

    /// Ends the active memtable, with all session changes in it, and has it flushed.
    pub(super) fn freeze(&self) {
        {
            let state = &mut *self.inner.state.borrow_mut();
            let covered = match state.frozen.back() {
                Some(frozen) => frozen.checkpoint.index(),
                None => state.manifest.checkpoint.index(),
            };
            let Some(applied) = state.applied.index() else {
                return;
            };
            if state.closed || covered == Some(applied) {
                return;
            }
            assert!(covered < Some(applied), "checkpoints advance");
            for (session, record) in self.inner.sessions.borrow_mut().take_changes() {
                if is_planted(Bug::ForgetSessions) {
                    continue;
                }
                let key = session.to_be_bytes();
                let record = record.map_or(Value::Deleted, |record| Value::Inline(record.into()));
                let pins = &self.inner.pins;
                state
                    .active
                    .insert(Space::Session, applied, &key, record, pins);
            }
            let memtable = std::mem::take(&mut state.active);
            let checkpoint = state.applied.clone();
            state.unfrozen_since = None;
            state.frozen.push_back(Rc::new(Frozen {
                memtable,
                checkpoint,
            }));
        }
        self.start_flushing();
    }

    fn start_flushing(&self) {
        {
            let state = &mut *self.inner.state.borrow_mut();
            if state.flushing || state.frozen.is_empty() || state.failure.is_some() {
                return;
            }
            state.flushing = true;
        }
        let engine = self.clone();
        corelith_io::spawn_background(async move { engine.flush_all().await });
    }

    async fn flush_all(self) {
        loop {
            let oldest = {
                let state = &mut *self.inner.state.borrow_mut();
                let oldest = state.frozen.front().cloned();
                state.flushing = oldest.is_some() && state.failure.is_none();
                oldest.filter(|_| state.flushing)
            };
            let Some(oldest) = oldest else { break };
            let result = self.flush(&oldest).await;
            match &result {
                Ok(_) => self.inner.state.borrow_mut().disk_full = false,
                Err(error) if error.is_no_space() => {
                    self.inner.state.borrow_mut().disk_full = true;
                }
                Err(_) => {}
            }
            // What a flush without room has written goes at once.
            self.remove_unused().await;
            match result {
                Ok(is_flushed) => {
                    self.inner.changed.notify_waiters();
                    if is_flushed {
                        self.retire_memtable(Rc::clone(&oldest.memtable));
                    }
                    drop(oldest);
                    self.keep_up_freeing().await;
                }
                Err(error) if self.is_unfenced() && self.gives_up_flushing(&error) => break,
                Err(error) if error.wants_room() && self.is_unfenced() => {
                    self.wait_to_flush(error).await;
                }
                Err(error) => self.fence(error),
            }
        }
        self.inner.changed.notify_waiters();
    }

    /// After a flush that found no room on the device.
    async fn wait_to_flush(&self, error: Error) {
        if self.inner.state.borrow().closed {
            self.fence(error);
        } else if self.is_stopping() {
            let given_up = self.inner.reserve.give_up().await;
            given_up.unwrap_or_else(|error| self.fence(error));
        } else {
            tracing::warn!(shard = %self.inner.owner, %error, "no room to flush");
            let is_full = matches!(error, Error::Full { .. });
            self.pause(if is_full { FULL_RETRY } else { DISK_FULL_RETRY })
                .await;
        }
    }

    /// Whether flushing is given up: the shard is to stop and has no room for it, not even with the reserve.
    /// Nothing is lost: the log has what the memtables have.
    fn gives_up_flushing(&self, error: &Error) -> bool {
        let has_tried_all = !error.is_no_space() || self.inner.reserve.is_given_up();
        let has_tried_all = error.wants_room() && has_tried_all;
        let state = &mut *self.inner.state.borrow_mut();
        let gives_up = state.stopping && !state.closed && has_tried_all;
        if gives_up {
            let shard = self.inner.owner;
            tracing::warn!(%shard, %error, "stopped without a flush: the log has everything");
            state.unflushed = Some(error.clone());
            state.closed = true;
            state.flushing = false;
        }
        gives_up
    }

    /// Makes one frozen memtable durable as a run and a checkpoint; `false` if an installed snapshot has
    /// taken its place.
    async fn flush(&self, frozen: &Rc<Frozen>) -> Result<bool> {
        let counters = &self.inner.counters;
        let _running = counters.flush.start();
        self.inner.pace.begin_flush();
        let mut run = RunWriter::new(self, self.table_options(0), FLUSHED_TABLE_BYTES);
        self.write_memtable(&frozen.memtable, &mut run).await?;
        let tables = run.finish().await?;
        // A follower may apply an entry before its own log has it.
        if !is_planted(Bug::SkipBarrier) {
            (self.inner.log.barrier)().await?;
        }
        let opened = self.open_tables(&tables).await?;
        let published = self
            .edit(
                &opened,
                |manifest, state| {
                    let front = state.frozen.front();
                    if !front.is_some_and(|front| Rc::ptr_eq(front, frozen)) {
                        // An installed snapshot has replaced the state meanwhile.
                        return false;
                    }
                    assert!(
                        manifest.checkpoint.index() < frozen.checkpoint.index(),
                        "checkpoints advance"
                    );
                    manifest.checkpoint = match is_planted(Bug::CheckpointAhead) {
                        true => state.applied.clone(),
                        false => frozen.checkpoint.clone(),
                    };
                    manifest.push_run(tables);
                    true
                },
                |state| {
                    let flushed = state.frozen.pop_front();
                    assert!(
                        flushed.is_some_and(|flushed| Rc::ptr_eq(&flushed, frozen)),
                        "memtables are flushed in order"
                    );
                },
            )
            .await;
        // After a failure of an edit's end the manifest on disk may name the tables.
        if matches!(published, Ok(true)) || !self.is_unfenced() {
            counters.flush.wrote(run.bytes());
            run.keep();
        }
        published
    }

    async fn write_memtable(&self, memtable: &Memtable, run: &mut RunWriter) -> Result<()> {
        for space in Space::ALL {
            // A table of several spaces would overlap every other one.
            run.end_table().await?;
            let mut last: Option<Bytes> = None;
            loop {
                let from = match &last {
                    Some(last) => Bound::Excluded(last.as_ref()),
                    None => Bound::Unbounded,
                };
                let range = (from, Bound::Unbounded);
                let batch = memtable.all_versions(space, range, SCAN_BATCH_ENTRIES);
                let Some((key, _)) = batch.last() else { break };
                last = Some(key.clone());
                let written = run.bytes();
                for (key, versions) in batch {
                    let stored_key = space.stored_key(&key);
                    let mut newer = None;
                    for version in versions {
                        // A version that no pin sees now cannot be seen later.
                        let seen =
                            newer.is_none_or(|newer| self.inner.pins.sees(version.at, newer));
                        if seen {
                            let content = content_of(&version.value);
                            run.add(&stored_key, version.at, content, newer.is_none())
                                .await?;
                        } else if let Some(newer) = newer {
                            self.inner.pins.dropped(newer);
                        }
                        newer = Some(version.at);
                    }
                }
                self.pace(Lane::Flush, run.bytes().saturating_sub(written))
                    .await;
                corelith_io::yield_if_needed().await;
            }
        }
        Ok(())
    }

    /// How tables of a level are written: the filter of the last levels is smaller and more exact,
    /// that of the first ones is built faster.
    pub(super) fn table_options(&self, level: usize) -> TableOptions {
        TableOptions {
            compression: self.inner.options.compression,
            filter: match level {
                0 => FilterKind::Bloom,
                _ => FilterKind::Fuse,
            },
        }
    }

    /// Whether the engine is about to be closed.
    pub fn is_stopping(&self) -> bool {
        self.inner.state.borrow().stopping
    }

    /// Says that the engine will be closed: from now on nothing waits for room, on the device or in
    /// memory, that may never come.
    pub(crate) fn begin_stop(&self) {
        self.inner.state.borrow_mut().stopping = true;
        self.inner.changed.notify_waiters();
    }

    /// Flushes what can be flushed and stops the background work.
    pub(crate) async fn close(&self) -> Result<()> {
        self.begin_stop();
        let flushed = self.checkpoint().await;
        self.inner.state.borrow_mut().closed = true;
        self.inner.changed.notify_waiters();
        self.inner.background.wake();
        loop {
            let changed = self.inner.changed.notified();
            let is_flushing = self.inner.state.borrow().flushing;
            let is_scrubbing = self.inner.scrubbing.is_working();
            if !is_flushing && !is_scrubbing && self.inner.background.is_idle() {
                break;
            }
            changed.await;
        }
        assert!(
            self.inner.compacting.borrow().is_empty(),
            "nothing runs in a closed shard"
        );
        self.inner.incoming.wait().await;
        self.inner.removals.set_held_max(0);
        self.remove_unused().await;
        match flushed {
            Ok(_) => Ok(()),
            Err(Error::Closed) => {
                let unflushed = self.inner.state.borrow_mut().unflushed.take();
                unflushed.map_or(Ok(()), Err)
            }
            Err(error) => Err(error),
        }
    }
}

fn content_of(value: &Value) -> Content<'_> {
    match value {
        Value::Deleted => Content::Deleted,
        Value::Inline(value) => Content::Inline(value),
        Value::Separated(pointer) => Content::Separated(*pointer),
        Value::Large(large) => Content::Large(*large),
    }
}
