//! Reading an sstable. The index root and the filter stay in memory; index leaves and data blocks
//! come through the cache; every block's checksum and place are checked whenever it is read.

use super::Value;
use super::block::{Block, BlockCursor, Damage};
use super::filter::Filter;
use super::format::{
    self, BLOCK_HEADER_BYTES, Footer, Handle, Kind, TableMeta, decode_block, decode_file_header,
};
use crate::cache::BlockCache;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{LogIndex, Owner};
use crate::limits::IO_BYTES_MAX;
use bytes::{Bytes, BytesMut};
use corelith_io::{BLOCK_SIZE, File};
use std::path::{Path, PathBuf};

/// An open table. Belongs to one core; shared by the versions and reads that hold it.
pub(crate) struct Table {
    meta: TableMeta,
    path: PathBuf,
    file: File,
    filter: Filter,
    root: Block,
    cache: BlockCache,
    /// Names this table in the cache.
    file_number: u64,
}

impl Table {
    /// Opens the table that the manifest describes as `meta`.
    pub(crate) async fn open(
        dir: &Path,
        owner: Owner,
        meta: TableMeta,
        cache: &BlockCache,
    ) -> Result<Self> {
        let path = FileName::Table(meta.id).path(dir);
        let (table, found) = Self::open_path(path, cache).await?;
        if found != owner {
            return Err(Error::OtherStore {
                file: table.path.display().to_string(),
                found: found.to_string(),
                expected: owner.to_string(),
            });
        }
        if table.meta != meta {
            return Err(table.damaged(0, "the manifest describes another table"));
        }
        Ok(table)
    }

    /// Opens the table at `path`, whatever it says of itself, and returns whose it is.
    pub(super) async fn open_path(path: PathBuf, cache: &BlockCache) -> Result<(Self, Owner)> {
        let file = File::open(&path).await?;
        let file_bytes = file.len().await?;
        let header = file.read_at(0, BLOCK_SIZE).await?;
        let (version, owner, id) = decode_file_header(&path, &header)?;
        let damaged = |offset, what| Error::corrupt(&path, offset, what);
        let reader = BlockReader {
            file: &file,
            path: &path,
            table: id,
        };

        let handle = Footer::handle(file_bytes).ok_or(damaged(0, "the file is cut short"))?;
        let footer = reader.read(handle, Kind::Footer).await?;
        let footer = Footer::decode(version, &footer)
            .ok_or(damaged(handle.offset, "the footer is malformed"))?;

        let root = reader.read(footer.root, Kind::Root).await?;
        let root = Block::new(root).map_err(|what| damaged(footer.root.offset, what))?;
        let filter = reader.read(footer.filter, Kind::Filter).await?;
        let filter =
            Filter::new(filter).ok_or(damaged(footer.filter.offset, "the filter is malformed"))?;
        let properties = reader.read(footer.properties, Kind::Properties).await?;
        let meta =
            TableMeta::decode_properties(version, id, file_bytes, &mut properties.as_ref()).ok_or(
                damaged(footer.properties.offset, "the properties are malformed"),
            )?;
        let table = Self {
            meta,
            path,
            file,
            filter,
            root,
            file_number: cache.next_file_number(),
            cache: cache.clone(),
        };
        Ok((table, owner))
    }

    pub(crate) fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// The name of its file, for messages.
    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn root(&self) -> &Block {
        &self.root
    }

    pub(super) fn damaged(&self, offset: u64, what: Damage) -> Error {
        Error::corrupt(&self.path, offset, what)
    }

    /// Whether the stored key with this hash may be here; `false` is certain.
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        self.filter.may_contain(hash)
    }

    pub(crate) async fn holds(
        &self,
        key: &[u8],
        hash: u64,
        at: LogIndex,
        pointer: crate::vlog::ValuePointer,
    ) -> Result<bool> {
        Ok(self.get(key, hash, at).await? == Some((at, Value::Separated(pointer))))
    }
    /// The version of a stored key that a read at `at` sees.
    pub(crate) fn excludes(&self, _key: &[u8], hash: u64) -> Option<bool> {
        Some(!self.may_contain(hash))
    }
    pub(crate) async fn get(
        &self,
        key: &[u8],
        hash: u64,
        at: LogIndex,
    ) -> Result<Option<(LogIndex, Value)>> {
        if key < &self.meta.first_key[..] || key > &self.meta.last_key[..] {
            return Ok(None);
        }
        let mut root = BlockCursor::new(self.root.clone());
        let mut leaf = self.descend(&mut root, (key, at), 0, Kind::Leaf).await?;
        let leaf_at = child_of(&root);
        let mut data = self
            .descend(&mut leaf, (key, at), leaf_at, Kind::Data)
            .await?;
        let data_at = child_of(&leaf);
        let found = data
            .seek(key, at)
            .map_err(|what| self.damaged(data_at, what))?;
        if found {
            return Ok((data.key() == key).then(|| (data.at(), data.value().clone())));
        }
        // The versions of a key may go on in the next block; its bound is then (key, n), n < at.
        if data.key() != key {
            return Ok(None);
        }
        let mut cursor = super::TableCursor::after(root, leaf);
        if cursor.next_block(self).await? && cursor.advance_in_block(self)? {
            let (found, at, value) = cursor.current();
            return Ok((found == key).then(|| (at, value.clone())));
        }
        Ok(None)
    }

    /// Goes to the child of `index` (a block at `index_at`) that holds the place of `target`.
    async fn descend(
        &self,
        index: &mut BlockCursor,
        target: (&[u8], LogIndex),
        index_at: u64,
        kind: Kind,
    ) -> Result<BlockCursor> {
        index
            .seek_at_or_before(target.0, target.1)
            .map_err(|what| self.damaged(index_at, what))?;
        self.child(index, kind).await
    }

    /// Reads the block that the current entry of an index refers to.
    pub(super) async fn child(&self, index: &BlockCursor, kind: Kind) -> Result<BlockCursor> {
        let Value::Stored(handle) = index.value() else {
            return Err(self.damaged(0, "an index entry without a block"));
        };
        let block = self.block(*handle, kind).await?;
        Ok(BlockCursor::new(block))
    }

    /// Reads a data or index block, through the cache.
    async fn block(&self, handle: Handle, kind: Kind) -> Result<Block> {
        let cached = self.cache.get(self.file_number, handle.offset);
        let payload = match cached {
            Some(payload) if payload.len() == handle.len as usize => payload,
            _ => {
                let payload = self.reader().read(handle, kind).await?;
                self.cache
                    .insert(self.file_number, handle.offset, payload.clone());
                payload
            }
        };
        Block::new(payload).map_err(|what| self.damaged(handle.offset, what))
    }

    /// Reads consecutive data blocks with one read, past the cache.
    pub(super) async fn blocks(&self, handles: &[Handle]) -> Result<Vec<Block>> {
        let (Some(first), Some(last)) = (handles.first(), handles.last()) else {
            return Ok(Vec::new());
        };
        let len = usize::try_from(last.end() - first.offset).unwrap_or(usize::MAX);
        debug_assert!(len <= IO_BYTES_MAX);
        let bytes = self.file.read_at(first.offset, len).await?;
        let mut blocks = Vec::with_capacity(handles.len());
        for handle in handles {
            let start = usize::try_from(handle.offset - first.offset).unwrap_or(usize::MAX);
            let bytes = bytes.get(start..).unwrap_or_default();
            let block = decode_block(self.meta.id, *handle, Kind::Data, bytes)
                .and_then(|payload| Block::new(Bytes::copy_from_slice(payload)))
                .map_err(|what| self.damaged(handle.offset, what))?;
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// The bytes of a [`Value::Stored`] found here.
    pub(crate) async fn stored(&self, handle: Handle) -> Result<Bytes> {
        self.reader().read(handle, Kind::Value).await
    }

    fn reader(&self) -> BlockReader<'_> {
        BlockReader {
            file: &self.file,
            path: &self.path,
            table: self.meta.id,
        }
    }
}

/// The offset of the block that the current entry of an index refers to.
fn child_of(index: &BlockCursor) -> u64 {
    match index.value() {
        Value::Stored(handle) => handle.offset,
        _ => 0,
    }
}

/// Reads blocks of one file.
struct BlockReader<'a> {
    file: &'a File,
    path: &'a Path,
    table: crate::ids::TableId,
}

impl BlockReader<'_> {
    async fn read(&self, handle: Handle, kind: Kind) -> Result<Bytes> {
        let span = handle.span();
        let damaged = |what| Error::corrupt(self.path, handle.offset, what);
        if span <= IO_BYTES_MAX {
            let bytes = self.file.read_at(handle.offset, span).await?;
            let payload = decode_block(self.table, handle, kind, &bytes).map_err(damaged)?;
            return Ok(Bytes::copy_from_slice(payload));
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
        decode_block(self.table, handle, kind, &whole).map_err(damaged)?;
        let payload = whole.freeze();
        Ok(payload.slice(BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + handle.len as usize))
    }
}

const _: () = assert!(format::BLOCK_HEADER_BYTES < BLOCK_SIZE);
