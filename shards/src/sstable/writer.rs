//! Writing an sstable: a stream of sorted versions into a file, in a few large writes at a time.
//!
//! Invariants:
//! * Entries come in the order of `key::compare`, none twice.
//! * Nothing refers to the table before [`TableWriter::finish`] has returned and the directory is
//!   synced.

use super::block::{BlockBuilder, Put, common_prefix};
use super::filter::{FilterBuilder, hash_of};
use super::format::{
    Footer, Handle, Kind, Reference, TableMeta, encode_block_header, encode_file_header,
};
use super::{Content, TableOptions};
use crate::error::Result;
use crate::filename::FileName;
use crate::ids::{LogIndex, Owner, TableId, ValueSegmentId};
use crate::key::compare;
use crate::limits::{
    BLOCK_PAYLOAD_BYTES_MAX, INLINE_VALUE_BYTES_MAX, IO_BYTES_MAX, TABLE_BLOCK_BYTES,
    TABLE_ENTRIES_MAX, TABLE_WRITES_IN_FLIGHT_MAX,
};
use crate::vlog::record_bytes;
use bytes::Bytes;
use corelith_io::collections::HashMap;
use corelith_io::{BLOCK_SIZE, Buf, File, JoinHandle, OpenOptions};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;

/// A table being written. Dropped unfinished, its file is an orphan.
pub(crate) struct TableWriter {
    id: TableId,
    output: Output,
    data: BlockBuilder,
    /// Lower bound of the data block being filled, above all keys before it.
    data_bound: (Vec<u8>, LogIndex),
    leaf: BlockBuilder,
    /// Lower bound of the first data block of the leaf being filled.
    leaf_bound: (Vec<u8>, LogIndex),
    root: BlockBuilder,
    hashes: Vec<u64>,
    last: Option<(Vec<u8>, LogIndex)>,
    references: References,
    meta: TableMeta,
}

impl TableWriter {
    /// Starts the table `id` in `dir`.
    pub(crate) async fn create(
        dir: &Path,
        owner: Owner,
        id: TableId,
        _options: TableOptions,
    ) -> Result<Self> {
        let path = FileName::Table(id).path(dir);
        let file = OpenOptions::new().write().create_new().open(&path).await?;
        let mut output = Output::new(file);
        output.write(&encode_file_header(owner, id)).await?;
        output.pad().await?;
        Ok(Self {
            id,
            output,
            data: BlockBuilder::default(),
            data_bound: (Vec::new(), LogIndex(0)),
            leaf: BlockBuilder::default(),
            leaf_bound: (Vec::new(), LogIndex(0)),
            root: BlockBuilder::default(),
            hashes: Vec::new(),
            last: None,
            references: References::default(),
            meta: TableMeta {
                id,
                file_bytes: 0,
                entries: 0,
                deletions: 0,
                value_bytes: 0,
                lowest: LogIndex(u64::MAX),
                highest: LogIndex(0),
                first_key: Bytes::new(),
                last_key: Bytes::new(),
                references: Vec::new(),
            },
        })
    }

    /// Length of the file so far.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.output.offset
    }

    /// Versions so far.
    pub(crate) fn entries(&self) -> u64 {
        self.meta.entries
    }

    /// Adds a version of a stored key.
    pub(crate) async fn add(
        &mut self,
        key: &[u8],
        at: LogIndex,
        content: Content<'_>,
    ) -> Result<()> {
        assert!(self.meta.entries < TABLE_ENTRIES_MAX, "a table is bounded");
        let mut same_key = false;
        if let Some((last_key, last_at)) = &self.last {
            let order = compare((last_key, *last_at), (key, at));
            assert!(order == Ordering::Less, "entries are written in order");
            same_key = last_key == key;
        }
        let put = match content {
            Content::Deleted => Put::Deleted,
            Content::Inline(value) if value.len() <= INLINE_VALUE_BYTES_MAX => Put::Inline(value),
            Content::Inline(value) => Put::Stored(self.write_block(Kind::Value, value).await?),
            Content::Separated(pointer) => Put::Separated(pointer),
        };
        let inline = match put {
            Put::Inline(value) => value.len(),
            _ => 0,
        };
        if !self.data.is_empty() && self.data.len() + key.len() + inline > TABLE_BLOCK_BYTES {
            self.finish_data_block().await?;
        }
        if self.data.is_empty() {
            self.data_bound = self.bound_before(key, at);
        }
        self.data.add(key, at, put);

        self.meta.entries += 1;
        match content {
            Content::Deleted => self.meta.deletions += 1,
            Content::Inline(value) => self.meta.value_bytes += value.len() as u64,
            Content::Separated(pointer) => {
                self.meta.value_bytes += u64::from(pointer.len);
                // Without the space.
                let record = record_bytes(key.len().saturating_sub(1), pointer.len);
                self.references.add(pointer.segment, record);
            }
        }
        self.meta.lowest = self.meta.lowest.min(at);
        self.meta.highest = self.meta.highest.max(at);
        if !same_key {
            self.hashes.push(hash_of(key));
        }
        let mut last = self.last.take().unwrap_or_default();
        if self.meta.entries == 1 {
            self.meta.first_key = Bytes::copy_from_slice(key);
        }
        if !same_key {
            last.0.clear();
            last.0.extend_from_slice(key);
        }
        last.1 = at;
        self.last = Some(last);
        Ok(())
    }

    /// The shortest key above the last one and not above (`key`, `at`).
    fn bound_before(&self, key: &[u8], at: LogIndex) -> (Vec<u8>, LogIndex) {
        match &self.last {
            Some((last, _)) if last != key => {
                let shared = common_prefix(last, key);
                let bound = key.get(..=shared).unwrap_or(key).to_vec();
                (bound, LogIndex(u64::MAX))
            }
            _ => (key.to_vec(), at),
        }
    }

    async fn finish_data_block(&mut self) -> Result<()> {
        let payload = self.data.finish();
        let handle = self.write_block(Kind::Data, &payload).await?;
        let bound = std::mem::take(&mut self.data_bound);
        if !self.leaf.is_empty() && self.leaf.len() + bound.0.len() > TABLE_BLOCK_BYTES {
            self.finish_leaf().await?;
        }
        if self.leaf.is_empty() {
            self.leaf_bound = bound.clone();
        }
        self.leaf.add(&bound.0, bound.1, Put::Stored(handle));
        Ok(())
    }

    async fn finish_leaf(&mut self) -> Result<()> {
        let payload = self.leaf.finish();
        let handle = self.write_block(Kind::Leaf, &payload).await?;
        let (key, at) = std::mem::take(&mut self.leaf_bound);
        self.root.add(&key, at, Put::Stored(handle));
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
        let root = self.write_block(Kind::Root, &root).await?;

        let mut filter = FilterBuilder::new(self.hashes.len());
        for hashes in self.hashes.chunks(1024) {
            hashes.iter().for_each(|hash| filter.add(*hash));
            corelith_io::yield_if_needed().await;
        }
        let filter = self.write_block(Kind::Filter, &filter.finish()).await?;

        let (last_key, _) = self.last.take().unwrap_or_default();
        self.meta.last_key = last_key.into();
        self.meta.references = self.references.finish();
        let mut properties = Vec::new();
        self.meta.encode_properties(&mut properties);
        let properties = self.write_block(Kind::Properties, &properties).await?;

        let footer = Footer {
            root,
            filter,
            properties,
        };
        self.write_block(Kind::Footer, &footer.encode()).await?;
        self.meta.file_bytes = self.output.finish().await?;
        Ok(self.meta)
    }

    async fn write_block(&mut self, kind: Kind, payload: &[u8]) -> Result<Handle> {
        assert!(
            payload.len() <= BLOCK_PAYLOAD_BYTES_MAX,
            "a block is bounded"
        );
        let handle = Handle {
            offset: self.output.offset,
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        };
        let header = encode_block_header(self.id, handle, kind, payload);
        self.output.write(&header).await?;
        self.output.write(payload).await?;
        self.output.pad().await?;
        debug_assert_eq!(self.output.offset, handle.end());
        Ok(handle)
    }
}

/// Counts what a table refers to in the value log. Values of neighbouring keys tend to be in one
/// segment, so the last one is kept at hand.
#[derive(Default)]
struct References {
    last: Option<Reference>,
    others: HashMap<ValueSegmentId, Reference>,
}

impl References {
    fn add(&mut self, segment: ValueSegmentId, record_bytes: u64) {
        let last = match &mut self.last {
            Some(last) if last.segment == segment => last,
            last => {
                let next = self.others.remove(&segment).unwrap_or(Reference {
                    segment,
                    values: 0,
                    bytes: 0,
                });
                if let Some(before) = last.replace(next) {
                    self.others.insert(before.segment, before);
                }
                match last {
                    Some(last) => last,
                    None => return,
                }
            }
        };
        last.values += 1;
        last.bytes += record_bytes;
    }

    /// In order of segment.
    fn finish(&mut self) -> Vec<Reference> {
        let others = std::mem::take(&mut self.others);
        let mut all: Vec<_> = others.into_values().chain(self.last.take()).collect();
        all.sort_unstable_by_key(|reference| reference.segment);
        all
    }
}

/// The end of the file being written: one buffer that fills, and a few that are on their way.
struct Output {
    file: Rc<File>,
    /// Where the next byte goes.
    offset: u64,
    buffer: Buf,
    filled: usize,
    in_flight: VecDeque<JoinHandle<corelith_io::Result<()>>>,
}

impl Output {
    fn new(file: File) -> Self {
        Self {
            file: Rc::new(file),
            offset: 0,
            buffer: Buf::alloc(IO_BYTES_MAX),
            filled: 0,
            in_flight: VecDeque::new(),
        }
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let free = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let len = free.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            if let Some(place) = free.get_mut(..len) {
                place.copy_from_slice(now);
            }
            bytes = later;
            self.advance(len).await?;
        }
        Ok(())
    }

    /// Writes zeros up to the next multiple of the block size.
    async fn pad(&mut self) -> Result<()> {
        let len = self.filled.next_multiple_of(BLOCK_SIZE) - self.filled;
        let free = self.buffer.get_mut(self.filled..).unwrap_or_default();
        if let Some(place) = free.get_mut(..len) {
            place.fill(0);
        }
        self.advance(len).await
    }

    /// Counts `len` bytes that were put into the buffer, and sends it off when it is full.
    async fn advance(&mut self, len: usize) -> Result<()> {
        self.filled += len;
        self.offset += len as u64;
        if self.filled == self.buffer.len() {
            let next = Buf::alloc(IO_BYTES_MAX);
            let full = std::mem::replace(&mut self.buffer, next);
            self.send(full).await?;
            corelith_io::yield_if_needed().await;
        }
        Ok(())
    }

    /// Starts the write of `buffer`, whose last byte is the last one counted.
    async fn send(&mut self, buffer: Buf) -> Result<()> {
        if self.in_flight.len() >= TABLE_WRITES_IN_FLIGHT_MAX {
            self.await_oldest().await?;
        }
        let at = self.offset - buffer.len() as u64;
        let file = Rc::clone(&self.file);
        let write = async move { file.write_at(at, buffer).await };
        self.in_flight
            .push_back(corelith_io::spawn_background(write));
        self.filled = 0;
        Ok(())
    }

    async fn await_oldest(&mut self) -> Result<()> {
        if let Some(oldest) = self.in_flight.pop_front()
            && let Some(result) = oldest.await
        {
            result?;
        }
        Ok(())
    }

    /// Writes the rest, makes the file durable and returns its length.
    async fn finish(mut self) -> Result<u64> {
        if self.filled > 0 {
            let mut rest = std::mem::replace(&mut self.buffer, Buf::alloc(0));
            rest.truncate(self.filled);
            self.send(rest).await?;
        }
        while !self.in_flight.is_empty() {
            self.await_oldest().await?;
        }
        self.file.sync().await?;
        Ok(self.offset)
    }
}
