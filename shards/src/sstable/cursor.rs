//! Going over a table in order, with read-ahead that grows as the scan goes on.

use super::Value;
use super::block::{Block, BlockCursor};
use super::format::{Handle, Kind};
use super::reader::Table;
use crate::error::Result;
use crate::ids::LogIndex;
use crate::limits::{READ_AHEAD_BYTES, TABLE_BLOCK_BYTES};
use std::collections::VecDeque;

/// A place in a table. The table is handed to each call, so that a cursor can borrow it or share it.
pub(crate) struct TableCursor {
    root: BlockCursor,
    leaf: BlockCursor,
    data: Option<BlockCursor>,
    /// Data blocks read ahead, with their offsets; the leaf stands at the last of them.
    ahead: VecDeque<Block>,
    ahead_bytes: usize,
}

impl TableCursor {
    /// A cursor at the first entry at or after (`key`, `at`), if [`TableCursor::seek`] says so.
    pub(crate) async fn seek(table: &Table, key: &[u8], at: LogIndex) -> Result<Option<Self>> {
        let mut root = BlockCursor::new(table.root().clone());
        root.seek_at_or_before(key, at)
            .map_err(|what| table.damaged(0, what))?;
        let mut leaf = table.child(&root, Kind::Leaf).await?;
        leaf.seek_at_or_before(key, at)
            .map_err(|what| table.damaged(0, what))?;
        let mut data = table.child(&leaf, Kind::Data).await?;
        let found = data.seek(key, at).map_err(|what| table.damaged(0, what))?;
        let mut cursor = Self::after(root, leaf);
        cursor.data = Some(data);
        if found || cursor.advance(table).await? {
            return Ok(Some(cursor));
        }
        Ok(None)
    }

    /// A cursor after the data block at which `leaf` stands.
    pub(super) fn after(root: BlockCursor, leaf: BlockCursor) -> Self {
        Self {
            root,
            leaf,
            data: None,
            ahead: VecDeque::new(),
            ahead_bytes: TABLE_BLOCK_BYTES,
        }
    }

    /// The current entry: stored key, sequence number, value.
    pub(crate) fn current(&self) -> (&[u8], LogIndex, &Value) {
        match &self.data {
            Some(data) => (data.key(), data.at(), data.value()),
            None => (&[], LogIndex(0), &Value::Deleted),
        }
    }

    /// Goes to the next entry; `false` after the last.
    pub(crate) async fn advance(&mut self, table: &Table) -> Result<bool> {
        loop {
            if self.advance_in_block(table)? {
                return Ok(true);
            }
            if !self.next_block(table).await? {
                return Ok(false);
            }
        }
    }

    /// Goes to the next entry of the current block.
    pub(super) fn advance_in_block(&mut self, table: &Table) -> Result<bool> {
        match &mut self.data {
            Some(data) => data.advance().map_err(|what| table.damaged(0, what)),
            None => Ok(false),
        }
    }

    /// Goes before the first entry of the next data block; `false` after the last block.
    pub(super) async fn next_block(&mut self, table: &Table) -> Result<bool> {
        if self.ahead.is_empty() {
            self.read_ahead(table).await?;
        }
        self.data = self.ahead.pop_front().map(BlockCursor::new);
        Ok(self.data.is_some())
    }

    async fn read_ahead(&mut self, table: &Table) -> Result<()> {
        let damaged = |what| table.damaged(0, what);
        if !self.leaf.advance().map_err(damaged)? {
            if !self.root.advance().map_err(damaged)? {
                return Ok(());
            }
            self.leaf = table.child(&self.root, Kind::Leaf).await?;
            if !self.leaf.advance().map_err(damaged)? {
                return Ok(());
            }
        }
        let mut handles: Vec<Handle> = Vec::new();
        loop {
            let Value::Stored(handle) = *self.leaf.value() else {
                return Err(damaged("an index entry without a block"));
            };
            handles.push(handle);
            let mut next = self.leaf.clone();
            if !next.advance().map_err(damaged)? {
                break;
            }
            // Blocks of long values may lie between; they are not read along.
            let first = handles.first().map_or(0, |first| first.offset);
            let follows = matches!(next.value(), Value::Stored(next) if next.offset == handle.end()
                && next.end() - first <= self.ahead_bytes as u64);
            if !follows {
                break;
            }
            self.leaf = next;
        }
        self.ahead_bytes = (self.ahead_bytes * 2).min(READ_AHEAD_BYTES);
        self.ahead = table.blocks(&handles).await?.into();
        Ok(())
    }
}
