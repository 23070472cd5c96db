//! Writes an sstable: a stream of sorted versions into a file, in a few large writes at a time.
//!
//! Invariants:
//! * Entries come in the order of `key::compare`, none twice.
//! * The filter of a partition has every key with an entry in one of its data blocks; a key whose
//!   versions go on in the next partition is in both filters.
//! * Nothing refers to the table before [`TableWriter::finish`] has returned and the directory is
//!   synced.

use super::Content;
use super::block::{BlockBuilder, PutValue, common_prefix};
use super::compress::Compressor;
use super::filter::{self, hash_of};
use super::format::{
    BLOCK_HEADER_BYTES, BlockHandle, BlockKind, TableFooter, encode_block_header,
    encode_file_header, span_of,
};
use super::options::{Compression, TableOptions};
use super::properties::{Counted, References, TableMeta};
use crate::error::Result;
use crate::filename::FileName;
use crate::ids::{FileId, LogIndex, TableId};
use crate::key::compare;
use crate::length;
use crate::limits::{
    BLOCK_PAYLOAD_BYTES_MAX, FILTER_KEYS_MAX, INLINE_VALUE_BYTES_MAX, LEAF_RESTART_INTERVAL,
    TABLE_BLOCK_SPAN, TABLE_BLOCK_WASTE, TABLE_COMPRESSED_BLOCK_SPAN, TABLE_ENTRIES_MAX,
    TABLE_LEAF_SPAN, TABLE_REFERENCES_MAX, TABLE_ROOT_BYTES,
};
use crate::output::Output;
use corelith_io::{BLOCK_SIZE, OpenOptions};
use std::cmp::Ordering;
use std::path::Path;

/// A table being written. Dropped unfinished, its file is an orphan.
pub(crate) struct TableWriter {
    tag: u64,
    options: TableOptions,
    output: Output,
    compressor: Option<Compressor>,
    data: BlockBuilder,
    /// Lower bound of the data block being filled, above all keys before it.
    data_bound: Bound,
    leaf: IndexBuilder,
    root: IndexBuilder,
    /// Of the keys in the leaf being filled, then of those in the data block being filled.
    hashes: Vec<u64>,
    /// How many of the hashes belong to the leaf.
    leaf_hashes: usize,
    filter: Vec<u8>,
    last_key: Vec<u8>,
    last_at: LogIndex,
    references: References,
    meta: TableMeta,
}

/// A place between the keys of two blocks.
#[derive(Clone, Default)]
struct Bound {
    key: Vec<u8>,
    at: LogIndex,
}

impl TableWriter {
    /// Starts the table `id` in `dir`.
    pub(crate) async fn create(dir: &Path, id: TableId, options: TableOptions) -> Result<Self> {
        let path = FileName::Table(id).path(dir);
        let new = OpenOptions::new().write().create_new().open(&path).await?;
        let mut output = Output::new(new);
        let file = FileId::draw();
        output.write(&encode_file_header(file)).await?;
        output.align(BLOCK_SIZE).await?;
        Ok(Self {
            tag: file.tag(),
            options,
            output,
            compressor: (options.compression == Compression::Lz4).then(Compressor::new),
            data: BlockBuilder::default(),
            data_bound: Bound::default(),
            leaf: IndexBuilder::default(),
            root: IndexBuilder::default(),
            hashes: Vec::new(),
            leaf_hashes: 0,
            filter: Vec::new(),
            last_key: Vec::new(),
            last_at: LogIndex(0),
            references: References::default(),
            meta: TableMeta::empty(id, file),
        })
    }

    /// Length of the file so far.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.output.offset()
    }

    /// Whether nothing more may be added.
    pub(crate) fn is_full(&self) -> bool {
        self.meta.entries >= TABLE_ENTRIES_MAX
            || self.references.len() >= TABLE_REFERENCES_MAX
            || self.root.len() >= 3 * TABLE_ROOT_BYTES
    }

    /// Whether the next key should begin another table: there is room left for the versions of this
    /// one only.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.meta.entries >= TABLE_ENTRIES_MAX / 2
            || self.references.len() >= TABLE_REFERENCES_MAX / 2
            || self.root.len() >= TABLE_ROOT_BYTES
    }

    /// Adds a version of a stored key.
    ///
    /// # Panics
    /// If it is not after the last one, or the table [is full](TableWriter::is_full).
    pub(crate) async fn add(
        &mut self,
        key: &[u8],
        at: LogIndex,
        content: Content<'_>,
    ) -> Result<()> {
        assert!(!self.is_full(), "a table is bounded");
        let shared = common_prefix(&self.last_key, key);
        let same_key = self.check_order(key, shared, at);
        let put = match content {
            Content::Deleted => PutValue::Deleted,
            Content::Inline(value) if value.len() <= INLINE_VALUE_BYTES_MAX => {
                PutValue::Inline(value)
            }
            Content::Inline(value) => {
                PutValue::Stored(self.write_block(BlockKind::Value, value).await?)
            }
            Content::Separated(pointer) => PutValue::Separated(pointer),
            Content::Large(large) => PutValue::Large(large),
        };
        if self.ends_data_block(key, shared, at, &put) {
            self.finish_data_block().await?;
        }
        let begins = self.data.is_empty();
        if begins {
            self.begin_data_block(key, shared, same_key, at);
        }
        self.data.add(key, shared, at, put);
        // Once in each block, so that every filter has the keys of its blocks.
        if begins || !same_key {
            self.hashes.push(hash_of(key));
        }
        self.last_key.truncate(shared);
        let rest = key.get(shared..).unwrap_or_default();
        self.last_key.extend_from_slice(rest);
        self.last_at = at;
        self.count(key, at, content);
        Ok(())
    }

    /// Asserts that (`key`, `at`) may follow; returns whether it is another version of the last key.
    fn check_order(&self, key: &[u8], shared: usize, at: LogIndex) -> bool {
        let (last, next) = (self.last_key.get(shared), key.get(shared));
        let same_key = self.meta.entries > 0 && last.is_none() && next.is_none();
        let follows = self.meta.entries == 0 || last < next || (same_key && self.last_at > at);
        assert!(follows, "entries are written in order");
        same_key
    }

    fn count(&mut self, key: &[u8], at: LogIndex, content: Content<'_>) {
        let value = match content {
            Content::Deleted => Counted::Deleted,
            Content::Inline(value) => Counted::Here(value.len() as u64),
            Content::Separated(pointer) => Counted::Separated(pointer),
            Content::Large(large) => Counted::Here(large.as_slice().len() as u64),
        };
        self.meta.count(key, at, value, &mut self.references);
    }

    /// Whether the data block is to end before this entry; see [`TABLE_BLOCK_WASTE`].
    fn ends_data_block(&self, key: &[u8], shared: usize, at: LogIndex, put: &PutValue<'_>) -> bool {
        if self.data.is_empty() {
            return false;
        }
        let whole = self.data.len_with(key, shared, at, put);
        let compressor = self.compressor.as_ref();
        let stored = |len| compressor.map_or(len, |compressor| compressor.expected(len));
        let (len, with) = (stored(self.data.len()), span_of(stored(whole)));
        let span = span_of(len);
        if with == span {
            return span_of(whole) > TABLE_COMPRESSED_BLOCK_SPAN;
        }
        let unused = span - BLOCK_HEADER_BYTES - len;
        unused * TABLE_BLOCK_WASTE <= span
            || with > TABLE_BLOCK_SPAN
            || span_of(whole) > TABLE_COMPRESSED_BLOCK_SPAN
    }

    /// Notes the shortest key above the last one and not above (`key`, `at`).
    fn begin_data_block(&mut self, key: &[u8], shared: usize, same_key: bool, at: LogIndex) {
        let bound = &mut self.data_bound;
        bound.key.clear();
        let shortest = match self.meta.entries > 0 && !same_key {
            true => key.get(..=shared),
            false => None,
        };
        bound.at = shortest.map_or(at, |_| LogIndex(u64::MAX));
        bound.key.extend_from_slice(shortest.unwrap_or(key));
        debug_assert!(
            compare((&bound.key, bound.at), (key, at)) != Ordering::Greater,
            "a block has no entry below its bound"
        );
    }

    async fn finish_data_block(&mut self) -> Result<()> {
        let payload = self.data.finish();
        let handle = self.write_data_block(&payload).await?;
        self.data.reuse(payload);
        let put = PutValue::Stored(handle);
        let full = span_of(self.leaf.len_with(&self.data_bound, &put)) > TABLE_LEAF_SPAN
            || self.hashes.len() > FILTER_KEYS_MAX;
        if full && !self.leaf.is_empty() {
            self.finish_leaf().await?;
        }
        self.leaf.add(&self.data_bound, put);
        self.leaf_hashes = self.hashes.len();
        Ok(())
    }

    /// Ends the partition whose data blocks are in the leaf.
    async fn finish_leaf(&mut self) -> Result<()> {
        assert!(!self.leaf.is_empty(), "a partition has data blocks");
        let next = self.hashes.split_off(self.leaf_hashes);
        let mut hashes = std::mem::replace(&mut self.hashes, next);
        self.leaf_hashes = 0;
        // Versions of a key in several blocks.
        hashes.dedup();
        let mut filter = std::mem::take(&mut self.filter);
        filter::build(self.options.filter, &mut hashes, &mut filter);
        let filter_handle = self.write_block(BlockKind::Filter, &filter).await?;
        self.filter = filter;

        let bound = std::mem::take(&mut self.leaf.first);
        let leaf = self.leaf.finish();
        let leaf_handle = self.write_block(BlockKind::Leaf, &leaf).await?;
        self.leaf.builder.reuse(leaf);
        let put = PutValue::Partition {
            leaf: leaf_handle,
            filter: filter_handle,
        };
        self.root.add(&bound, put);
        corelith_io::yield_if_needed().await;
        Ok(())
    }

    /// Writes what is left and makes the file durable. Its name is durable after a sync of the
    /// directory.
    ///
    /// # Panics
    /// If nothing was added.
    pub(crate) async fn finish(mut self) -> Result<TableMeta> {
        assert!(self.meta.entries > 0, "a table has entries");
        self.finish_data_block().await?;
        self.finish_leaf().await?;
        let root = self.root.finish();
        let root = self.write_block(BlockKind::Root, &root).await?;

        self.meta.last_key = std::mem::take(&mut self.last_key).into();
        self.meta.references = self.references.finish();
        let mut properties = Vec::new();
        self.meta.encode_properties(&mut properties);
        let properties = self.write_block(BlockKind::Properties, &properties).await?;

        let footer = TableFooter {
            root,
            filter: None,
            properties,
        };
        self.write_block(BlockKind::Footer, &footer.encode())
            .await?;
        self.meta.file_bytes = self.output.finish().await?;
        let meta = &self.meta;
        assert!(meta.deletions <= meta.entries && meta.lowest <= meta.highest);
        assert!(
            meta.first_key <= meta.last_key,
            "entries are written in order"
        );
        assert!(meta.file_bytes.is_multiple_of(BLOCK_SIZE as u64));
        Ok(self.meta)
    }

    async fn write_data_block(&mut self, payload: &[u8]) -> Result<BlockHandle> {
        let Some(mut compressor) = self.compressor.take() else {
            return self.write_block(BlockKind::Data, payload).await;
        };
        let written = match compressor.compress(payload) {
            Some(packed) => {
                let whole = length::stored(payload.len());
                self.write(BlockKind::Data, whole, packed).await
            }
            None => self.write_block(BlockKind::Data, payload).await,
        };
        self.compressor = Some(compressor);
        written
    }

    async fn write_block(&mut self, kind: BlockKind, payload: &[u8]) -> Result<BlockHandle> {
        self.write(kind, 0, payload).await
    }

    async fn write(&mut self, kind: BlockKind, whole: u32, payload: &[u8]) -> Result<BlockHandle> {
        assert!(
            payload.len() <= BLOCK_PAYLOAD_BYTES_MAX,
            "a block is bounded"
        );
        let handle = BlockHandle {
            offset: self.output.offset(),
            len: length::stored(payload.len()),
        };
        let header = encode_block_header(self.tag, handle, kind, whole, payload);
        self.output.write(&header).await?;
        self.output.write(payload).await?;
        self.output.align(BLOCK_SIZE).await?;
        assert_eq!(self.output.offset(), handle.end());
        Ok(handle)
    }
}

/// Builds a leaf or the root.
struct IndexBuilder {
    builder: BlockBuilder,
    first: Bound,
    last_key: Vec<u8>,
}

impl Default for IndexBuilder {
    fn default() -> Self {
        Self {
            builder: BlockBuilder::with_interval(LEAF_RESTART_INTERVAL),
            first: Bound::default(),
            last_key: Vec::new(),
        }
    }
}

impl IndexBuilder {
    fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Length of the payload.
    fn len(&self) -> usize {
        self.builder.len()
    }

    /// Length of the payload with this entry.
    fn len_with(&self, bound: &Bound, put: &PutValue<'_>) -> usize {
        let shared = common_prefix(&self.last_key, &bound.key);
        self.builder.len_with(&bound.key, shared, bound.at, put)
    }

    fn add(&mut self, bound: &Bound, put: PutValue<'_>) {
        if self.is_empty() {
            self.first.clone_from(bound);
        }
        debug_assert!(
            self.is_empty() || self.last_key <= bound.key,
            "an index is in order"
        );
        let shared = common_prefix(&self.last_key, &bound.key);
        self.builder.add(&bound.key, shared, bound.at, put);
        self.last_key.clone_from(&bound.key);
    }

    fn finish(&mut self) -> Vec<u8> {
        self.last_key.clear();
        self.builder.finish()
    }
}
