//! Going over a table in order, with read-ahead that grows as the scan goes on.

use super::Value;
use super::block::{BlockCursor, Damage};
use super::format::{BlockHandle, BlockKind, decode_block};
use super::reader::Table;
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::limits::{READ_AHEAD_BYTES, READ_AHEAD_BYTES_MIN, READ_GAP_BYTES_MAX};
use std::collections::VecDeque;

/// A place in a table. The table is handed to each call, so that a cursor can borrow it or share it.
pub(crate) struct TableCursor {
    walk: TableWalk,
    data: BlockCursor,
    data_at: u64,
    value: Value,
    /// Data blocks read ahead, with their offsets.
    ahead: VecDeque<(u64, BlockCursor)>,
    ahead_bytes: usize,
}

impl TableCursor {
    /// A cursor at the first entry at or after (`key`, `at`); `None` if there is none.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(crate) async fn seek(table: &Table, key: &[u8], at: LogIndex) -> Result<Option<Self>> {
        let (walk, handle) = TableWalk::seek(table, key, at, true).await?;
        let mut data = cached_entries(table, handle, BlockKind::Data).await?;
        let found = data
            .seek(key, at)
            .map_err(|what| table.damaged(handle.offset, what))?;
        let mut cursor = Self {
            walk,
            data,
            data_at: handle.offset,
            value: Value::Deleted,
            ahead: VecDeque::new(),
            ahead_bytes: READ_AHEAD_BYTES_MIN,
        };
        if found {
            cursor.take_value(table)?;
            return Ok(Some(cursor));
        }
        let more = cursor.advance(table).await?;
        Ok(more.then_some(cursor))
    }

    /// The current entry: stored key, sequence number, value.
    pub(crate) fn current(&self) -> (&[u8], LogIndex, &Value) {
        (self.data.key(), self.data.at(), &self.value)
    }

    /// Goes to the next entry; `false` after the last.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(crate) async fn advance(&mut self, table: &Table) -> Result<bool> {
        loop {
            let damaged = |what| table.damaged(self.data_at, what);
            if self.data.advance().map_err(damaged)? {
                self.take_value(table)?;
                return Ok(true);
            }
            if self.ahead.is_empty() {
                self.read_ahead(table).await?;
            }
            let Some((offset, data)) = self.ahead.pop_front() else {
                return Ok(false);
            };
            self.data_at = offset;
            self.data = data;
        }
    }

    fn take_value(&mut self, table: &Table) -> Result<()> {
        let value = self.data.value();
        let value = value.map_err(|what| table.damaged(self.data_at, what))?;
        self.value = table.local_value(value);
        Ok(())
    }

    async fn read_ahead(&mut self, table: &Table) -> Result<()> {
        let handles = self.walk.next_run(table, self.ahead_bytes, true).await?;
        if handles.is_empty() {
            return Ok(());
        }
        self.ahead_bytes = (self.ahead_bytes * 2).min(READ_AHEAD_BYTES);
        let blocks = table.read_data(handles).await?;
        for handle in &blocks.handles {
            let payload =
                decode_block(table.tag(), *handle, BlockKind::Data, blocks.block(*handle))
                    .and_then(|stored| stored.to_bytes())
                    .map_err(|what| table.damaged(handle.offset, what))?;
            let data = table.entries(*handle, payload)?;
            self.ahead.push_back((handle.offset, data));
            corelith_io::yield_if_needed().await;
        }
        Ok(())
    }
}

/// Reads a block of entries through the cache.
async fn cached_entries(
    table: &Table,
    handle: BlockHandle,
    kind: BlockKind,
) -> Result<BlockCursor> {
    let cached = table.cached(handle);
    table.cache().count(|counters| match &cached {
        Some(_) => counters.hits += 1,
        None => counters.misses += 1,
    });
    let payload = match cached {
        Some(payload) => payload,
        None => {
            let payload = table.read(handle, kind).await?;
            table.keep(handle, kind, payload.clone());
            payload
        }
    };
    table.entries(handle, payload)
}

/// Goes over the data blocks of a table by its index.
pub(super) struct TableWalk {
    root: BlockCursor,
    leaf: BlockCursor,
    leaf_at: u64,
    /// A block that the last run had no room for.
    pending: Option<BlockHandle>,
    /// What ended the last run: the blocks before it come first.
    failure: Option<Error>,
}

impl TableWalk {
    /// Finds the data block that holds the place of (`key`, `at`), and stands after it.
    pub(super) async fn seek(
        table: &Table,
        key: &[u8],
        at: LogIndex,
        use_cache: bool,
    ) -> Result<(Self, BlockHandle)> {
        let root_damaged = |what| table.root_damaged(what);
        let mut root = BlockCursor::new(table.root().clone());
        root.seek_at_or_before(key, at).map_err(root_damaged)?;
        let handle = root.partition().map_err(root_damaged)?.leaf;
        let mut leaf = Self::read_leaf(table, handle, use_cache).await?;
        let damaged = |what: Damage| table.damaged(handle.offset, what);
        leaf.seek_at_or_before(key, at).map_err(damaged)?;
        let child = leaf.child().map_err(damaged)?;
        let walk = Self {
            root,
            leaf,
            leaf_at: handle.offset,
            pending: None,
            failure: None,
        };
        Ok((walk, child))
    }

    async fn read_leaf(table: &Table, handle: BlockHandle, use_cache: bool) -> Result<BlockCursor> {
        match use_cache {
            true => cached_entries(table, handle, BlockKind::Leaf).await,
            false => table.read_entries(handle, BlockKind::Leaf).await,
        }
    }

    /// Makes `handle` the first block of the next run.
    pub(super) fn put_back(&mut self, handle: BlockHandle) {
        let before = self.pending.replace(handle);
        assert!(before.is_none(), "one block is put back");
    }

    /// The next data block; `None` after the last.
    async fn next(&mut self, table: &Table, use_cache: bool) -> Result<Option<BlockHandle>> {
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        loop {
            let leaf_at = self.leaf_at;
            let damaged = |what: Damage| table.damaged(leaf_at, what);
            if self.leaf.advance().map_err(damaged)? {
                return Ok(Some(self.leaf.child().map_err(damaged)?));
            }
            let root_damaged = |what| table.root_damaged(what);
            if !self.root.advance().map_err(root_damaged)? {
                return Ok(None);
            }
            let handle = self.root.partition().map_err(root_damaged)?.leaf;
            self.leaf = Self::read_leaf(table, handle, use_cache).await?;
            self.leaf_at = handle.offset;
        }
    }

    /// The next data blocks that lie close enough together to be read with one read of at most
    /// `bytes_max`; none after the last.
    pub(super) async fn next_run(
        &mut self,
        table: &Table,
        bytes_max: usize,
        use_cache: bool,
    ) -> Result<Vec<BlockHandle>> {
        let mut run: Vec<BlockHandle> = Vec::new();
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        loop {
            let handle = match self.next(table, use_cache).await {
                Ok(Some(handle)) => handle,
                Ok(None) => break,
                Err(error) if run.is_empty() => return Err(error),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            };
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                let gap = handle.offset.checked_sub(last.end());
                let gap = gap.ok_or_else(|| {
                    table.damaged(self.leaf_at, "an index whose blocks are not in order")
                })?;
                // Blocks of long values are passed over.
                let far = gap > READ_GAP_BYTES_MAX as u64;
                if far || handle.end() - first.offset > bytes_max as u64 {
                    self.put_back(handle);
                    break;
                }
            }
            run.push(handle);
        }
        Ok(run)
    }
}
