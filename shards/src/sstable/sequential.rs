//! Going over a table from front to back as compaction does: past the cache, in reads of up to 128 KiB,
//! the next of which is on its way while the current one is decoded. Keys and values are borrowed from
//! what was read.

use super::block::{Damage, EntryPosition, HeldValue, Layout};
use super::cursor::TableWalk;
use super::format::{BlockHandle, BlockKind, StoredPayload, decode_block};
use super::reader::{DataBlocks, Table};
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::large::StoredLarge;
use crate::limits::BACKGROUND_IO_BYTES;
use crate::vlog::ValuePointer;
use corelith_io::JoinHandle;
use std::ops::Range;
use std::rc::Rc;

/// An entry under a [`SequentialCursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRef<'a> {
    /// The stored key.
    pub(crate) key: &'a [u8],
    /// The sequence number.
    pub(crate) at: LogIndex,
    pub(crate) value: ValueRef<'a>,
}

/// As [`super::Value`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueRef<'a> {
    /// Deleted.
    Deleted,
    /// The value.
    Inline(&'a [u8]),
    /// In a block of its own of the same table; see [`Table::stored`].
    Stored(BlockHandle),
    /// In the value log.
    Separated(ValuePointer),
    /// What stands for a large value.
    Large(StoredLarge),
}

impl ValueRef<'_> {
    /// Bytes that the table has of it.
    pub(crate) fn table_len(&self) -> usize {
        match self {
            Self::Deleted => 0,
            Self::Inline(value) => value.len(),
            Self::Stored(handle) => handle.len as usize,
            Self::Separated(pointer) => pointer.encoded_len(),
            Self::Large(large) => large.as_slice().len(),
        }
    }
}

/// The blocks that come next, or none; the walk goes on behind them.
type Ahead = Result<(TableWalk, Option<DataBlocks>)>;

/// A place in a table that is read to its end.
pub(crate) struct SequentialCursor {
    table: Rc<Table>,
    blocks: DataBlocks,
    /// The block after the current one, in `blocks`.
    next_block: usize,
    /// Where the current block is in the file.
    block_at: u64,
    /// The entries of the current block: in `unpacked` if it was compressed, else in `blocks`.
    entries: Range<usize>,
    is_unpacked: bool,
    unpacked: Vec<u8>,
    position: EntryPosition,
    ahead: Option<JoinHandle<Ahead>>,
    /// Why there is no going on.
    failure: Option<Error>,
}

impl SequentialCursor {
    /// A cursor at the first entry whose stored key is not below `from`; `None` if there is none.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(crate) async fn start(table: Rc<Table>, from: &[u8]) -> Result<Option<Self>> {
        let newest = LogIndex(u64::MAX);
        let (mut walk, first) = TableWalk::seek(&table, from, newest, false).await?;
        walk.put_back(first);
        let mut cursor = Self {
            ahead: Some(read_ahead(&table, walk)),
            blocks: DataBlocks {
                bytes: corelith_io::Buf::alloc(0),
                handles: Vec::new(),
            },
            table,
            next_block: 0,
            block_at: 0,
            entries: 0..0,
            is_unpacked: false,
            unpacked: Vec::new(),
            position: EntryPosition::new(),
            failure: None,
        };
        while cursor.advance().await? {
            if cursor.position.key.as_slice() >= from {
                return Ok(Some(cursor));
            }
        }
        Ok(None)
    }

    pub(crate) fn table(&self) -> &Rc<Table> {
        &self.table
    }

    /// The current entry.
    pub(crate) fn current(&self) -> EntryRef<'_> {
        let value = match self.position.held {
            HeldValue::Inline { start, len } => {
                let value = self.entry_bytes().get(start..start + len);
                ValueRef::Inline(value.unwrap_or_default())
            }
            HeldValue::Stored(handle) => ValueRef::Stored(handle),
            HeldValue::Separated(pointer) => ValueRef::Separated(self.table.local(pointer)),
            HeldValue::Large(large) => ValueRef::Large(large),
            // A partition is refused by `advance`.
            HeldValue::Deleted | HeldValue::Partition { .. } => ValueRef::Deleted,
        };
        EntryRef {
            key: &self.position.key,
            at: self.position.at,
            value,
        }
    }

    fn entry_bytes(&self) -> &[u8] {
        let bytes = match self.is_unpacked {
            true => self.unpacked.get(self.entries.clone()),
            false => self.blocks.bytes.get(self.entries.clone()),
        };
        bytes.unwrap_or_default()
    }

    /// Goes to the next entry; `false` after the last.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(crate) async fn advance(&mut self) -> Result<bool> {
        loop {
            if self.advance_in_block()? {
                return Ok(true);
            }
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            let next = self.go_to_next_block().await;
            // What was passed over must not look like the end.
            self.failure = next.as_ref().err().cloned();
            if !next? {
                return Ok(false);
            }
        }
    }

    /// Goes to the next entry if it is in the same block: `false` says to call
    /// [`SequentialCursor::advance`].
    ///
    /// # Errors
    /// `Corrupt`.
    #[inline]
    pub(crate) fn advance_in_block(&mut self) -> Result<bool> {
        let bytes = match self.is_unpacked {
            true => self.unpacked.get(self.entries.clone()),
            false => self.blocks.bytes.get(self.entries.clone()),
        };
        let advanced = self.position.advance(bytes.unwrap_or_default());
        if matches!(self.position.held, HeldValue::Partition { .. }) {
            return Err(self.damaged("an index entry among data"));
        }
        advanced.map_err(|what| self.damaged(what))
    }

    fn damaged(&self, what: Damage) -> Error {
        self.table.damaged(self.block_at, what)
    }

    /// Goes before the first entry of the next block; `false` after the last.
    async fn go_to_next_block(&mut self) -> Result<bool> {
        corelith_io::yield_if_needed().await;
        let handle = loop {
            if let Some(handle) = self.blocks.handles.get(self.next_block) {
                break *handle;
            }
            // Kept until it is finished: a future dropped here loses nothing.
            let Some(ahead) = &mut self.ahead else {
                return Ok(false);
            };
            let read = ahead.await;
            self.ahead = None;
            let Some((walk, blocks)) = read.transpose()? else {
                return Err(Error::Closed);
            };
            let Some(blocks) = blocks else {
                return Ok(false);
            };
            self.ahead = Some(read_ahead(&self.table, walk));
            self.blocks = blocks;
            self.next_block = 0;
        };
        self.next_block += 1;
        self.block_at = handle.offset;
        self.position.restart();
        let prepared = self.prepare(handle);
        self.entries = match prepared {
            Ok(entries) => entries,
            Err(what) => {
                self.entries = 0..0;
                return Err(self.damaged(what));
            }
        };
        Ok(true)
    }

    /// Checks and unpacks a block; returns where its entries are.
    fn prepare(&mut self, handle: BlockHandle) -> Result<Range<usize>, Damage> {
        let block = self.blocks.block(handle);
        let stored = decode_block(self.table.tag(), handle, BlockKind::Data, block)?;
        self.is_unpacked = stored.unpack(&mut self.unpacked)?;
        if self.is_unpacked {
            return Ok(0..Layout::of(&self.unpacked)?.entries_end);
        }
        let StoredPayload { bytes, .. } = stored;
        let entries_end = Layout::of(bytes)?.entries_end;
        let start = self.blocks.bytes.len() - block.len() + super::format::BLOCK_HEADER_BYTES;
        Ok(start..start + entries_end)
    }
}

fn read_ahead(table: &Rc<Table>, mut walk: TableWalk) -> JoinHandle<Ahead> {
    let table = Rc::clone(table);
    corelith_io::spawn_background(async move {
        let run = walk.next_run(&table, BACKGROUND_IO_BYTES, false).await?;
        let blocks = match run.is_empty() {
            true => None,
            false => Some(table.read_data(run).await?),
        };
        Ok((walk, blocks))
    })
}
