//! Writes a run: one table after the other, each ended at a length, never within the versions of a key.
//!
//! Invariants:
//! * The tables are in key order and no key is in two of them.
//! * Files that no manifest may name become garbage when the writer is dropped.

use super::Engine;
use crate::error::Result;
use crate::ids::{LogIndex, TableId};
use crate::key::Space;
use crate::sstable::{Content, TableMeta, TableOptions, TableWriter};
use bytes::Bytes;

/// The tables of a run being written. Dropped before [`RunWriter::keep`], its files are removed.
pub(super) struct RunWriter {
    engine: Engine,
    options: TableOptions,
    table_bytes: u64,
    writer: Option<TableWriter>,
    tables: Vec<TableMeta>,
    begun: Vec<TableId>,
    /// Keys before which a table is best ended, last first.
    cuts: Vec<Bytes>,
    /// Tag of the space of the last key; those up to [`Space::System`] share tables.
    space: u8,
}

impl RunWriter {
    /// Starts a run of tables of about `table_bytes`.
    pub(super) fn new(engine: &Engine, options: TableOptions, table_bytes: u64) -> Self {
        Self {
            engine: engine.clone(),
            options,
            table_bytes,
            writer: None,
            tables: Vec::new(),
            begun: Vec::new(),
            cuts: Vec::new(),
            space: Space::System.tag(),
        }
    }

    /// Has tables end before these keys, which are in order.
    pub(super) fn cut_before(&mut self, cuts: &[Bytes]) {
        debug_assert!(cuts.is_sorted(), "cuts are in key order");
        self.cuts = cuts.iter().rev().cloned().collect();
    }

    /// Adds a version; versions come in the order of [`crate::key::compare`]. `is_new_key`: it is
    /// the first of its key.
    pub(super) async fn add(
        &mut self,
        key: &[u8],
        at: LogIndex,
        content: Content<'_>,
        is_new_key: bool,
    ) -> Result<()> {
        let mut is_cut = false;
        while self.cuts.pop_if(|cut| key >= &cut[..]).is_some() {
            is_cut = true;
        }
        let is_full = self.writer.as_ref().is_some_and(|writer| {
            writer.file_bytes() >= self.table_bytes || writer.is_nearly_full()
        });
        // Rows that are many and short-lived have tables of their own, whose figures are then of them alone.
        let space = key.first().copied().unwrap_or(0).max(Space::System.tag());
        let is_other_space = std::mem::replace(&mut self.space, space) != space;
        if (is_full || is_cut || is_other_space) && is_new_key {
            self.end_table().await?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                self.engine.check_unfenced()?;
                let inner = &self.engine.inner;
                let id = self.engine.new_table_id();
                self.begun.push(id);
                let table = TableWriter::create(&inner.dir, id, self.options).await?;
                self.writer.insert(table)
            }
        };
        writer.add(key, at, content).await
    }

    /// Ends the current table, if there is one.
    pub(super) async fn end_table(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            let table = writer.finish().await?;
            let last = self.tables.last();
            assert!(
                last.is_none_or(|last| last.last_key < table.first_key && last.id < table.id),
                "tables of a run are in order"
            );
            self.tables.push(table);
        }
        Ok(())
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        let tables = self.tables.iter().map(|table| table.file_bytes);
        let current = self.writer.as_ref().map_or(0, TableWriter::file_bytes);
        tables.sum::<u64>() + current
    }

    /// Makes the run durable, names included, and returns its tables.
    pub(super) async fn finish(&mut self) -> Result<Vec<TableMeta>> {
        self.end_table().await?;
        assert_eq!(
            self.tables.len(),
            self.begun.len(),
            "every table begun is finished"
        );
        if !self.begun.is_empty() {
            self.engine.inner.dir.sync().await?;
        }
        Ok(self.tables.clone())
    }

    /// Keeps the files: a manifest may name them.
    pub(super) fn keep(&mut self) {
        self.begun.clear();
    }
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        let state = &mut *self.engine.inner.state.borrow_mut();
        state.garbage.append(&mut self.begun);
    }
}
