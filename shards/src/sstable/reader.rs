//! An open sstable. The index root stays in memory; filters, index leaves and data blocks come through
//! the cache; every block's checksum and place are checked whenever it is read.

use super::Value;
use super::block::{BlockCursor, Damage, EntryBlock, Partition};
use super::filter::Filter;
use super::format::{
    BLOCK_HEADER_BYTES, BlockHandle, BlockKind, TableFooter, TableHeader, decode_block,
    decode_file_header,
};
use super::properties::TableMeta;
use crate::cache::BlockCache;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{FileId, LogIndex, Owner, TableId, ValueSegmentId};
use crate::key::{Prefixes, compare};
use crate::limits::IO_BYTES_MAX;
use crate::vlog::ValuePointer;
use bytes::{Bytes, BytesMut};
use corelith_io::{BLOCK_SIZE, Buf, File};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An open table. Belongs to one core; shared by the versions and reads that hold it.
pub(crate) struct Table {
    meta: TableMeta,
    path: PathBuf,
    file: File,
    header: TableHeader,
    footer: TableFooter,
    root: EntryBlock,
    /// What the root holds, decoded: a lookup goes through it in every run that it asks.
    partitions: Vec<Bounded>,
    /// Of the partitions' bounds.
    bounds: Prefixes,
    /// The filter of the whole table, of version 1.
    whole_filter: Option<Filter>,
    cache: BlockCache,
    /// Names this table in the cache.
    file_number: u64,
    /// The segments that it refers to, by their numbers here.
    segments: BTreeSet<ValueSegmentId>,
}

/// A partition and the lower bound of its entries.
pub(super) struct Bounded {
    key: Box<[u8]>,
    at: LogIndex,
    pub(super) partition: Partition,
}

impl Bounded {
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

/// The blocks of a table that are read before all others.
pub(super) struct Ends {
    pub(super) header: TableHeader,
    pub(super) footer: TableFooter,
    pub(super) root: Bytes,
    pub(super) meta: TableMeta,
    /// Bytes of the file that they take.
    pub(super) bytes: u64,
}

fn decode_root(root: &EntryBlock) -> Result<Vec<Bounded>, Damage> {
    let mut cursor = BlockCursor::new(root.clone());
    let mut partitions = Vec::new();
    while cursor.advance()? {
        partitions.push(Bounded {
            key: cursor.key().into(),
            at: cursor.at(),
            partition: cursor.partition()?,
        });
    }
    Ok(partitions)
}

impl Table {
    /// Opens the table that the manifest describes as `meta`.
    pub(crate) async fn open(dir: &Path, meta: TableMeta, cache: &BlockCache) -> Result<Self> {
        Self::open_at(FileName::Table(meta.id).path(dir), meta, cache).await
    }

    /// As [`Table::open`], wherever the file is.
    pub(crate) async fn open_at(
        path: PathBuf,
        meta: TableMeta,
        cache: &BlockCache,
    ) -> Result<Self> {
        let mut table = Self::open_path(path, cache).await?;
        if table.header.file != meta.file {
            return Err(table.damaged(0, "another file is in the place of the table"));
        }
        if !table.meta.is_of_file(&meta) {
            return Err(table.damaged(0, "the manifest describes another table"));
        }
        table.segments = meta.segments();
        table.meta = meta;
        Ok(table)
    }

    /// Opens the table at `path`, whatever it says of itself.
    pub(crate) async fn open_path(path: PathBuf, cache: &BlockCache) -> Result<Self> {
        let file = File::open(&path).await?;
        let ends = Ends::read(&path, &file).await?;
        let damaged = |handle: BlockHandle, what| Error::corrupt(&path, handle.offset, what);
        let root = EntryBlock::new(ends.root).map_err(|what| damaged(ends.footer.root, what))?;
        let partitions = decode_root(&root).map_err(|what| damaged(ends.footer.root, what))?;
        let whole_filter = match ends.footer.filter {
            None => None,
            Some(handle) => {
                let reader = BlockReader {
                    file: &file,
                    path: &path,
                    tag: ends.header.tag,
                };
                let payload = reader.read(handle, BlockKind::Filter).await?;
                let filter = Filter::of_version_1(payload)
                    .ok_or_else(|| damaged(handle, "the filter is malformed"))?;
                Some(filter)
            }
        };
        let bounds = Prefixes::new(
            &ends.meta.first_key,
            &ends.meta.last_key,
            partitions.iter().map(Bounded::key),
        );
        Ok(Self {
            bounds,
            segments: ends.meta.segments(),
            meta: ends.meta,
            path,
            file,
            header: ends.header,
            footer: ends.footer,
            root,
            partitions,
            whole_filter,
            file_number: cache.next_file_number(),
            cache: cache.clone(),
        })
    }

    pub(crate) fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// What its blocks carry.
    pub(super) fn tag(&self) -> u64 {
        self.header.tag
    }

    /// Whose it says it is, and its number there, if its format does.
    pub(super) fn named(&self) -> Option<(Owner, TableId)> {
        self.header.named
    }

    /// Its header.
    pub(super) fn header(&self) -> TableHeader {
        self.header
    }

    /// Whether it refers to a value segment.
    pub(crate) fn refers_to(&self, segment: ValueSegmentId) -> bool {
        self.segments.contains(&segment)
    }

    /// A pointer as it is in the file, with the number that its segment has here.
    #[inline]
    pub(super) fn local(&self, pointer: ValuePointer) -> ValuePointer {
        match self.meta.renumbered.is_empty() {
            true => pointer,
            false => self.meta.local(pointer),
        }
    }

    /// A value as it is in the file, as [`Table::local`].
    #[inline]
    pub(super) fn local_value(&self, value: Value) -> Value {
        match value {
            Value::Separated(pointer) => Value::Separated(self.local(pointer)),
            other => other,
        }
    }

    /// Whether what is at `offset` belongs to a part of the entries, or to the index or filter of one.
    pub(crate) fn is_data(&self, offset: u64) -> bool {
        (BLOCK_SIZE as u64..self.footer.root.offset).contains(&offset)
    }

    /// Version of its format.
    pub(crate) fn format_version(&self) -> u32 {
        self.header.version
    }

    /// Bytes of the file as they are.
    pub(crate) async fn read_raw(&self, offset: u64, len: usize) -> Result<Buf> {
        Ok(self.file.read_at(offset, len).await?)
    }

    /// The name of its file, for messages.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn footer(&self) -> TableFooter {
        self.footer
    }

    pub(super) fn root(&self) -> &EntryBlock {
        &self.root
    }

    /// The place of the partition that holds the place of (`key`, `at`), or of the first one.
    pub(super) fn partition_of(&self, key: &[u8], at: LogIndex) -> usize {
        let undecided = self.bounds.undecided(key);
        let below = self.partitions.get(undecided.clone()).unwrap_or_default();
        let below = below.partition_point(|bounded| {
            compare((&bounded.key, bounded.at), (key, at)) != Ordering::Greater
        });
        (undecided.start + below).saturating_sub(1)
    }

    pub(super) fn partition(&self, place: usize) -> Option<&Bounded> {
        self.partitions.get(place)
    }

    pub(super) fn file_number(&self) -> u64 {
        self.file_number
    }

    pub(super) fn whole_filter(&self) -> Option<&Filter> {
        self.whole_filter.as_ref()
    }

    pub(super) fn cache(&self) -> &BlockCache {
        &self.cache
    }

    pub(super) fn damaged(&self, offset: u64, what: Damage) -> Error {
        Error::corrupt(&self.path, offset, what)
    }

    /// Damage of the root, whose checksum matched when the table was opened.
    pub(super) fn root_damaged(&self, what: Damage) -> Error {
        self.damaged(self.footer.root.offset, what)
    }

    /// A block's payload if the cache holds it.
    pub(super) fn cached(&self, handle: BlockHandle) -> Option<Bytes> {
        self.cache.get(self.file_number, handle.offset)
    }

    /// Gives the cache a block that was read.
    pub(super) fn keep(&self, handle: BlockHandle, kind: BlockKind, payload: Bytes) {
        let serves_many = matches!(kind, BlockKind::Filter | BlockKind::Leaf);
        self.cache
            .insert(self.file_number, handle.offset, payload, serves_many);
    }

    /// Reads a block's payload, past the cache.
    pub(super) async fn read(&self, handle: BlockHandle, kind: BlockKind) -> Result<Bytes> {
        self.reader().read(handle, kind).await
    }

    /// Reads a block of entries, past the cache.
    pub(super) async fn read_entries(
        &self,
        handle: BlockHandle,
        kind: BlockKind,
    ) -> Result<BlockCursor> {
        let payload = self.read(handle, kind).await?;
        self.entries(handle, payload)
    }

    /// Goes over a block of entries.
    pub(super) fn entries(&self, handle: BlockHandle, payload: Bytes) -> Result<BlockCursor> {
        EntryBlock::new(payload)
            .map(BlockCursor::new)
            .map_err(|what| self.damaged(handle.offset, what))
    }

    /// Reads data blocks that lie within one I/O, past the cache.
    pub(super) async fn read_data(&self, handles: Vec<BlockHandle>) -> Result<DataBlocks> {
        let first = handles.first().map_or(0, |first| first.offset);
        let end = handles.last().map_or(0, |last| last.end());
        let len = usize::try_from(end.saturating_sub(first)).unwrap_or(usize::MAX);
        if len > IO_BYTES_MAX {
            return Err(self.damaged(first, "a data block that is too long"));
        }
        let bytes = self.file.read_at(first, len).await?;
        Ok(DataBlocks { bytes, handles })
    }

    /// The bytes of a [`super::Value::Stored`] found here.
    pub(crate) async fn stored(&self, handle: BlockHandle) -> Result<Bytes> {
        self.read(handle, BlockKind::Value).await
    }

    fn reader(&self) -> BlockReader<'_> {
        BlockReader {
            file: &self.file,
            path: &self.path,
            tag: self.header.tag,
        }
    }
}

/// Data blocks as one read brought them, unchecked.
pub(super) struct DataBlocks {
    pub(super) bytes: Buf,
    pub(super) handles: Vec<BlockHandle>,
}

impl DataBlocks {
    /// The block at `handle`, one of those that were read, and what follows it.
    pub(super) fn block(&self, handle: BlockHandle) -> &[u8] {
        debug_assert!(self.handles.contains(&handle), "a block that was not read");
        let first = self.handles.first().map_or(0, |first| first.offset);
        let start = usize::try_from(handle.offset.saturating_sub(first)).unwrap_or(usize::MAX);
        self.bytes.get(start..).unwrap_or_default()
    }
}

/// The id of the file of a table, as the file itself says it.
pub(crate) async fn file_id(path: &Path) -> Result<FileId> {
    let first = File::open(path).await?.read_at(0, BLOCK_SIZE).await?;
    Ok(decode_file_header(path, &first)?.file)
}

impl Ends {
    pub(super) async fn read(path: &Path, file: &File) -> Result<Self> {
        let file_bytes = file.len().await?;
        let first = file.read_at(0, BLOCK_SIZE).await?;
        let header = decode_file_header(path, &first)?;
        let damaged = |offset, what| Error::corrupt(path, offset, what);
        let reader = BlockReader {
            file,
            path,
            tag: header.tag,
        };
        let at = TableFooter::handle(header.version, file_bytes)
            .ok_or(damaged(0, "the file is cut short"))?;
        let footer = reader.read(at, BlockKind::Footer).await?;
        let footer = TableFooter::decode(header.version, &footer)
            .ok_or(damaged(at.offset, "the footer is malformed"))?;
        let root = reader.read(footer.root, BlockKind::Root).await?;
        let payload = reader
            .read(footer.properties, BlockKind::Properties)
            .await?;
        let mut rest = payload.as_ref();
        let id = header.named.map_or(TableId(0), |(_, id)| id);
        let named = (id, header.file);
        let meta = TableMeta::decode_properties(header.version, named, file_bytes, &mut rest)
            .filter(|_| rest.is_empty())
            .ok_or(damaged(
                footer.properties.offset,
                "the properties are malformed",
            ))?;
        let spans = footer.root.span() + footer.properties.span() + 2 * BLOCK_SIZE;
        Ok(Self {
            header,
            footer,
            root,
            meta,
            bytes: spans as u64,
        })
    }
}

/// Reads blocks of one file.
pub(super) struct BlockReader<'a> {
    file: &'a File,
    path: &'a Path,
    tag: u64,
}

impl BlockReader<'_> {
    async fn read(&self, handle: BlockHandle, kind: BlockKind) -> Result<Bytes> {
        let span = handle.span();
        let damaged = |what| Error::corrupt(self.path, handle.offset, what);
        if span <= IO_BYTES_MAX {
            let bytes = self.file.read_at(handle.offset, span).await?;
            return decode_block(self.tag, handle, kind, &bytes)
                .and_then(|stored| stored.to_bytes())
                .map_err(damaged);
        }
        let mut whole = BytesMut::with_capacity(span);
        while whole.len() < span {
            let len = (span - whole.len()).min(IO_BYTES_MAX);
            let at = handle.offset + whole.len() as u64;
            let bytes = self.file.read_at(at, len).await?;
            if bytes.len() < len {
                return Err(damaged("the file ends within a block"));
            }
            whole.extend_from_slice(&bytes);
            corelith_io::yield_if_needed().await;
        }
        let stored = decode_block(self.tag, handle, kind, &whole).map_err(damaged)?;
        if stored.whole.is_some() {
            return Err(damaged("a compressed block that cannot be"));
        }
        let payload = whole.freeze();
        Ok(payload.slice(BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + handle.len as usize))
    }
}

const _: () = assert!(BLOCK_HEADER_BYTES < BLOCK_SIZE);
