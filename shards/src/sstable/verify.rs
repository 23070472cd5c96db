//! Checking a whole table against itself, in steps of bounded size and past the cache.

use super::Value;
use super::block::{BlockCursor, Damage};
use super::filter::{Filter, hash_of};
use super::format::{BlockHandle, BlockKind, decode_block};
use super::properties::{Counted, References, TableMeta};
use super::reader::{Ends, Table};
use crate::error::Result;
use crate::ids::LogIndex;
use crate::key::compare;
use crate::limits::{READ_GAP_BYTES_MAX, VERIFY_STEP_BYTES};
use bytes::Bytes;
use corelith_io::BLOCK_SIZE;
use std::cmp::Ordering;
use std::rc::Rc;

/// Checks that every block is what was written there, that entries are in order and where the index
/// says, that filters have every key, that nothing else is in the file, and that the properties are
/// true.
pub(crate) struct Verifier {
    table: Rc<Table>,
    /// `None` until the ends of the file are checked.
    root: Option<BlockCursor>,
    partition: Option<PartitionCheck>,
    found: TableTally,
}

/// A leaf whose data blocks are being checked.
struct PartitionCheck {
    leaf: BlockCursor,
    leaf_at: u64,
    /// Whether the leaf stands at a block that is not checked yet.
    at_block: bool,
    filter: Option<Filter>,
}

/// A data block and the place that the index gives it among the keys.
struct ExpectedBlock {
    handle: BlockHandle,
    bound: (Vec<u8>, LogIndex),
}

/// What the file turned out to hold so far.
struct TableTally {
    meta: TableMeta,
    references: References,
    last: Option<(Vec<u8>, LogIndex)>,
    /// Bytes of the file that belong to something.
    covered: u64,
}

impl Verifier {
    pub(crate) fn new(table: Rc<Table>) -> Self {
        let found = TableTally {
            meta: TableMeta::empty(table.meta().id, table.meta().file),
            references: References::default(),
            last: None,
            covered: 0,
        };
        Self {
            table,
            root: None,
            partition: None,
            found,
        }
    }

    /// Checks some more and returns how many bytes that took; `None` when all is checked and right.
    ///
    /// # Errors
    /// `Corrupt` with the offset of the block that is not as it should be
    /// ([`Table::key_range_at`] tells which keys that concerns), `Io`. There is no going on after an
    /// error.
    pub(crate) async fn step(&mut self) -> Result<Option<u64>> {
        let Some(root) = &mut self.root else {
            return self.check_ends().await.map(Some);
        };
        if let Some(partition) = &mut self.partition {
            let run = partition.next_run(&self.table)?;
            if !run.is_empty() {
                return self.check_run(run).await.map(Some);
            }
            self.partition = None;
        }
        let table = Rc::clone(&self.table);
        if root.advance().map_err(|what| table.root_damaged(what))? {
            return self.begin_partition().await.map(Some);
        }
        self.check_totals()?;
        Ok(None)
    }

    async fn check_ends(&mut self) -> Result<u64> {
        let table = &self.table;
        let ends = Ends::read(table.path(), table.file()).await?;
        if !ends.meta.is_of_file(table.meta()) || ends.header != table.header() {
            return Err(table.damaged(ends.footer.properties.offset, "another table"));
        }
        let mut bytes = ends.bytes;
        if let Some(handle) = ends.footer.filter {
            table.read(handle, BlockKind::Filter).await?;
            bytes += handle.span() as u64;
        }
        self.root = Some(table.entries(ends.footer.root, ends.root)?);
        self.found.covered += bytes;
        Ok(bytes)
    }

    /// Reads the leaf and the filter at which the root stands.
    async fn begin_partition(&mut self) -> Result<u64> {
        let table = &self.table;
        let root_damaged = |what| table.root_damaged(what);
        let Some(root) = &self.root else {
            return Ok(0);
        };
        let partition = root.partition().map_err(root_damaged)?;
        let handle = partition.leaf;
        let damaged = |what| table.damaged(handle.offset, what);
        let mut leaf = table.read_entries(handle, BlockKind::Leaf).await?;
        leaf.check().map_err(damaged)?;
        let at_block = leaf.advance().map_err(damaged)?;
        if (leaf.key(), leaf.at()) != (root.key(), root.at()) {
            return Err(damaged("a leaf that begins elsewhere than the root says"));
        }
        let mut bytes = handle.span() as u64;
        let filter = match partition.filter {
            Some(handle) => {
                let payload = table.read(handle, BlockKind::Filter).await?;
                bytes += handle.span() as u64;
                let filter = Filter::new(payload);
                Some(filter.ok_or(table.damaged(handle.offset, "the filter is malformed"))?)
            }
            None => None,
        };
        self.partition = Some(PartitionCheck {
            leaf,
            leaf_at: handle.offset,
            at_block,
            filter,
        });
        self.found.covered += bytes;
        Ok(bytes)
    }

    async fn check_run(&mut self, run: Vec<ExpectedBlock>) -> Result<u64> {
        let table = Rc::clone(&self.table);
        let handles = run.iter().map(|expected| expected.handle).collect();
        let blocks = table.read_data(handles).await?;
        let mut bytes = blocks.bytes.len() as u64;
        for expected in &run {
            let handle = expected.handle;
            let block = blocks.block(handle);
            let payload = decode_block(table.tag(), handle, BlockKind::Data, block)
                .and_then(|stored| stored.to_bytes())
                .map_err(|what| table.damaged(handle.offset, what))?;
            let data = table.entries(handle, payload)?;
            self.found.covered += handle.span() as u64;
            bytes += self.check_data(expected, data).await?;
            corelith_io::yield_if_needed().await;
        }
        Ok(bytes)
    }

    /// Checks the entries of a data block; returns how many bytes of long values were read.
    async fn check_data(&mut self, expected: &ExpectedBlock, mut data: BlockCursor) -> Result<u64> {
        let table = Rc::clone(&self.table);
        let damaged = |what| table.damaged(expected.handle.offset, what);
        let bound = (expected.bound.0.as_slice(), expected.bound.1);
        let found = &mut self.found;
        if found.is_not_below(bound) {
            return Err(damaged("a block that the index has in a wrong place"));
        }
        data.check().map_err(damaged)?;
        let mut bytes = 0;
        let mut is_first = true;
        while data.advance().map_err(damaged)? {
            let entry = (data.key(), data.at());
            let below = compare(entry, bound) == Ordering::Less;
            if found.is_not_below(entry) || (is_first && below) {
                return Err(damaged("entries that are not in order"));
            }
            is_first = false;
            let partition = self.partition.as_ref();
            let filter = partition.and_then(|partition| partition.filter.as_ref());
            let filter = filter.or(table.whole_filter());
            if !filter.is_some_and(|filter| filter.may_contain(hash_of(data.key()))) {
                return Err(damaged("a key that its filter does not have"));
            }
            let value = data.value().map_err(damaged)?;
            if let Value::Stored(handle) = value {
                table.stored(handle).await?;
                bytes += handle.span() as u64;
                found.covered += handle.span() as u64;
            }
            found.add(entry, &value);
        }
        Ok(bytes)
    }

    fn check_totals(&mut self) -> Result<()> {
        let found = &mut self.found;
        let table = &self.table;
        let at = table.footer().properties.offset;
        found.meta.file_bytes = table.meta().file_bytes;
        found.meta.references = found.references.finish();
        if let Some((key, _)) = found.last.take() {
            found.meta.last_key = key.into();
        }
        if !found.meta.is_of_file(table.meta()) {
            return Err(table.damaged(at, "the properties are not those of the entries"));
        }
        if found.covered != table.meta().file_bytes {
            return Err(table.damaged(at, "the file holds what nothing refers to"));
        }
        Ok(())
    }
}

impl PartitionCheck {
    /// The next data blocks that are read at once; none at the end.
    fn next_run(&mut self, table: &Table) -> Result<Vec<ExpectedBlock>> {
        let damaged = |what: Damage| table.damaged(self.leaf_at, what);
        let mut run: Vec<ExpectedBlock> = Vec::new();
        while self.at_block {
            let handle = self.leaf.child().map_err(damaged)?;
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                let gap = handle.offset.checked_sub(last.handle.end());
                let gap = gap.ok_or_else(|| damaged("an index whose blocks are not in order"))?;
                let far = gap > READ_GAP_BYTES_MAX as u64;
                if far || handle.end() - first.handle.offset > VERIFY_STEP_BYTES as u64 {
                    break;
                }
            }
            run.push(ExpectedBlock {
                handle,
                bound: (self.leaf.key().to_vec(), self.leaf.at()),
            });
            self.at_block = self.leaf.advance().map_err(damaged)?;
        }
        Ok(run)
    }
}

impl TableTally {
    /// Whether the last entry is not below `place`.
    fn is_not_below(&self, place: (&[u8], LogIndex)) -> bool {
        let last = self.last.as_ref();
        last.is_some_and(|last| compare((&last.0, last.1), place) != Ordering::Less)
    }

    fn add(&mut self, (key, at): (&[u8], LogIndex), value: &Value) {
        let value = match value {
            Value::Deleted => Counted::Deleted,
            Value::Inline(bytes) => Counted::Here(bytes.len() as u64),
            Value::Stored(handle) => Counted::Here(u64::from(handle.len)),
            Value::Separated(pointer) => Counted::Separated(*pointer),
            Value::Large(large) => Counted::Here(large.as_slice().len() as u64),
        };
        self.meta.count(key, at, value, &mut self.references);
        let last = self.last.get_or_insert_default();
        last.0.clear();
        last.0.extend_from_slice(key);
        last.1 = at;
    }
}

impl Table {
    /// The first and last stored key that the block at `offset` may have to do with, by the index:
    /// all keys for what is not part of a partition, those of the partition for a filter or leaf (or
    /// if the leaf cannot be read), those of the data block for that and the long values before it.
    pub(crate) async fn key_range_at(&self, offset: u64) -> (Bytes, Bytes) {
        let whole = (self.meta().first_key.clone(), self.meta().last_key.clone());
        self.narrowed(offset, &whole).await.unwrap_or(whole)
    }

    async fn narrowed(&self, offset: u64, whole: &(Bytes, Bytes)) -> Option<(Bytes, Bytes)> {
        if offset < BLOCK_SIZE as u64 {
            return None;
        }
        let mut root = BlockCursor::new(self.root().clone());
        let leaf_end = |root: &BlockCursor| Ok(root.partition()?.leaf.end());
        let range = range_of(&mut root, leaf_end, offset, whole)?;
        let partition = root.partition().ok()?;
        let data_end = partition.filter.unwrap_or(partition.leaf).offset;
        if offset >= data_end {
            return Some(range);
        }
        let Ok(mut leaf) = self.read_entries(partition.leaf, BlockKind::Leaf).await else {
            return Some(range);
        };
        let block_end = |leaf: &BlockCursor| Ok(leaf.child()?.end());
        range_of(&mut leaf, block_end, offset, &range).or(Some(range))
    }
}

/// Goes to the first entry of `index` that ends beyond `offset`; returns its keys within `within`.
fn range_of(
    index: &mut BlockCursor,
    end: impl Fn(&BlockCursor) -> Result<u64, Damage>,
    offset: u64,
    within: &(Bytes, Bytes),
) -> Option<(Bytes, Bytes)> {
    let mut is_first = true;
    while index.advance().ok()? {
        if end(index).ok()? <= offset {
            is_first = false;
            continue;
        }
        let first = match is_first {
            true => within.0.clone(),
            false => Bytes::copy_from_slice(index.key()),
        };
        let mut next = index.clone();
        let last = match next.advance().ok()? {
            true => Bytes::copy_from_slice(next.key()),
            false => within.1.clone(),
        };
        return Some((first, last));
    }
    None
}
