//! Freezing memtables, flushing them to tables, checkpoints.

use super::{Engine, Frozen};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{LogId, TableId};
use crate::key::Space;
use crate::limits::{DISK_FULL_RETRY, FROZEN_MEMTABLES_MAX, SCAN_BATCH_ENTRIES};
use crate::manifest::{Manifest, sync_dir};
use crate::memtable::Memtable;
use crate::sstable::{Content, Table, TableMeta, TableOptions, TableWriter};
use bytes::Bytes;
use std::ops::Bound;
use std::rc::Rc;

impl Engine {
    /// Waits while flushes lag so far behind that no more may be applied (memory budget).
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_for_room(&self) -> Result<()> {
        loop {
            let changed = self.inner.changed.notified();
            self.check_usable()?;
            if self.inner.state.borrow().frozen.len() < FROZEN_MEMTABLES_MAX {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Whether [`Engine::wait_for_room`] would return at once.
    pub fn has_room(&self) -> bool {
        self.inner.state.borrow().frozen.len() < FROZEN_MEMTABLES_MAX && self.check_usable().is_ok()
    }

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
                let key = session.to_be_bytes();
                let record = record.map(Bytes::from);
                let pins = &self.inner.pins;
                state
                    .active
                    .insert(Space::Session, applied, &key, record, pins);
            }
            let memtable = std::mem::take(&mut state.active);
            let checkpoint = state.applied.clone();
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
            self.collect().await;
            match result {
                Ok(()) => {
                    self.inner.state.borrow_mut().disk_full = false;
                    self.inner.changed.notify_waiters();
                    free(oldest).await;
                }
                Err(error) if error.is_no_space() && self.is_unfenced() => {
                    let closed = {
                        let state = &mut *self.inner.state.borrow_mut();
                        state.disk_full = true;
                        state.closed
                    };
                    if closed {
                        self.fence(error);
                    } else {
                        tracing::warn!(shard = %self.inner.owner, %error, "no room to flush");
                        corelith_io::sleep(DISK_FULL_RETRY).await;
                    }
                }
                Err(error) => self.fence(error),
            }
        }
        self.inner.changed.notify_waiters();
    }

    /// Makes one frozen memtable durable as a table and a checkpoint.
    async fn flush(&self, frozen: &Rc<Frozen>) -> Result<()> {
        let mut written = None;
        if !frozen.memtable.is_empty() {
            let id = self.new_table_id();
            match self.write_table(id, &frozen.memtable).await {
                Ok(meta) => written = Some(meta),
                Err(error) => {
                    self.inner.state.borrow_mut().garbage.push(id);
                    return Err(error);
                }
            }
        }
        let id = written.as_ref().map(|meta| meta.id);
        let result = self.publish(frozen, written).await;
        let state = &mut *self.inner.state.borrow_mut();
        // After a failure the manifest on disk may name the table.
        let unused = !matches!(result, Ok(true)) && state.failure.is_none();
        state.garbage.extend(id.filter(|_| unused));
        result.map(|_| ())
    }

    async fn write_table(&self, id: TableId, memtable: &Memtable) -> Result<TableMeta> {
        let inner = &self.inner;
        let options = TableOptions::default();
        let mut writer = TableWriter::create(&inner.dir, inner.owner, id, options).await?;
        for space in Space::ALL {
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
                for (key, versions) in batch {
                    let stored_key = space.stored_key(&key);
                    let mut newer = None;
                    for version in versions {
                        // Nobody who comes from now on can see a version that no pin sees now.
                        let seen =
                            newer.is_none_or(|newer| self.inner.pins.sees(version.at, newer));
                        if seen {
                            let content = match &version.value {
                                Some(value) => Content::Inline(value),
                                None => Content::Deleted,
                            };
                            writer.add(&stored_key, version.at, content).await?;
                        } else if let Some(newer) = newer {
                            self.inner.pins.dropped(newer);
                        }
                        newer = Some(version.at);
                    }
                }
                corelith_io::yield_if_needed().await;
            }
        }
        let meta = writer.finish().await?;
        sync_dir(&self.inner.dir).await?;
        Ok(meta)
    }

    /// Puts a written table into the manifest and the view, in place of its memtable. Returns
    /// `false` if an installed snapshot has replaced the state meanwhile.
    async fn publish(&self, frozen: &Rc<Frozen>, written: Option<TableMeta>) -> Result<bool> {
        // A follower may apply an entry before its own log has it.
        (self.inner.log_barrier)().await?;
        let table = match written {
            Some(meta) => {
                let inner = &self.inner;
                let table = Table::open(&inner.dir, inner.owner, meta, &inner.cache).await?;
                Some(Rc::new(table))
            }
            None => None,
        };
        let _edit = self.inner.manifest_edit.acquire(1).await;
        let mut manifest = {
            let state = self.inner.state.borrow();
            let front = state.frozen.front();
            if !front.is_some_and(|front| Rc::ptr_eq(front, frozen)) {
                return Ok(false);
            }
            let mut manifest = state.manifest.clone();
            manifest.next_table = state.next_table;
            manifest
        };
        assert!(
            manifest.checkpoint.index() < frozen.checkpoint.index(),
            "checkpoints advance"
        );
        manifest.generation += 1;
        manifest.checkpoint = frozen.checkpoint.clone();
        if let Some(table) = &table {
            manifest.tables.insert(0, table.meta().clone());
        }
        manifest.prepare(&self.inner.dir, self.inner.owner).await?;
        if let Err(error) = Manifest::commit(&self.inner.dir).await {
            self.fence(error.clone());
            return Err(error);
        }

        let state = &mut *self.inner.state.borrow_mut();
        state.manifest = manifest;
        state.frozen.pop_front();
        if let Some(table) = table {
            let tables = std::iter::once(table).chain(state.tables.iter().cloned());
            state.tables = Rc::new(tables.collect());
        }
        Ok(true)
    }

    /// Removes files that nothing refers to. What fails is tried again, at the latest by the next
    /// start.
    pub(super) async fn collect(&self) {
        let removable = {
            let state = &mut *self.inner.state.borrow_mut();
            let mut removable = std::mem::take(&mut state.garbage);
            state.obsolete.retain(|table| {
                let held = Rc::strong_count(table) > 1;
                if !held {
                    removable.push(table.meta().id);
                }
                held
            });
            removable
        };
        for id in removable {
            let path = FileName::Table(id).path(&self.inner.dir);
            if let Err(error) = corelith_io::remove_file(&path).await
                && error.kind() != corelith_io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "an unused table stays");
            }
        }
    }

    /// Flushes what can be flushed and stops the background work.
    pub(crate) async fn close(&self) -> Result<()> {
        let flushed = self.checkpoint().await;
        self.inner.state.borrow_mut().closed = true;
        self.inner.changed.notify_waiters();
        loop {
            let changed = self.inner.changed.notified();
            if !self.inner.state.borrow().flushing {
                break;
            }
            changed.await;
        }
        self.collect().await;
        match flushed {
            Ok(_) | Err(Error::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Frees a flushed memtable, unless a read still holds it.
async fn free(frozen: Rc<Frozen>) {
    if let Ok(frozen) = Rc::try_unwrap(frozen)
        && let Ok(memtable) = Rc::try_unwrap(frozen.memtable)
    {
        memtable.free().await;
    }
}
