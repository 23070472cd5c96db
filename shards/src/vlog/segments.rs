//! The segments that hold values, as immutable snapshots.
//!
//! Invariants:
//! * A file is removed only when no snapshot holds its segment. A reader holds a snapshot.
//! * A segment's totals only grow, until it is sealed; then nothing of it changes any more.
//! * Within a segment's `end` every byte is durable.

use super::format::{self, FileHeader, Footer, SlotPlace};
use super::pointer::record_bytes;
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::ids::{FileId, FileSeries, LogIndex, Owner, ValueSegmentId};
use crate::limits::VLOG_INDEX_PAGES_CACHED_MAX;
use corelith_io::collections::HashMap;
use corelith_io::{BLOCK_SIZE, Buf, File, OpenOptions};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What the manifest says of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Its number.
    pub id: ValueSegmentId,
    /// How often it was collected.
    pub generation: u32,
    /// What names its content.
    pub file: FileId,
    /// Records in it.
    pub records: u64,
    /// Their bytes, without what aligns them.
    pub bytes: u64,
    /// Highest log index of a record, 0 if there is none.
    pub highest: LogIndex,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}

/// Records of a segment added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) highest: LogIndex,
}

impl Totals {
    pub(super) fn add(&mut self, key_len: usize, value_len: u32, at: LogIndex) {
        self.records += 1;
        self.bytes += record_bytes(key_len, value_len);
        self.highest = self.highest.max(at);
    }
}

/// The segments at one moment, by id. Shared by everybody on the core who reads.
pub type Segments = BTreeMap<ValueSegmentId, Rc<Segment>>;

/// A segment file. Belongs to the core of its value log.
pub struct Segment {
    id: ValueSegmentId,
    pub(super) header: FileHeader,
    pub(super) path: PathBuf,
    pub(super) file: File,
    totals: Cell<Totals>,
    end: Cell<u64>,
    sealed: Cell<bool>,
    /// Writes to it were perhaps in flight when the process ended.
    may_be_torn: bool,
    index: RefCell<Option<Rc<SlotIndex>>>,
}

impl Segment {
    /// Opens a sealed segment and checks that it is the one that the manifest means.
    pub(super) async fn open(dir: &Path, meta: SegmentMeta) -> Result<Self> {
        Self::open_at(
            FileName::ValueSegment(meta.id, meta.generation).path(dir),
            meta,
        )
        .await
    }

    /// As [`Segment::open`], wherever the file is.
    pub(super) async fn open_at(path: PathBuf, meta: SegmentMeta) -> Result<Self> {
        let file = match File::open(&path).await {
            Err(error) if error.kind() == corelith_io::ErrorKind::NotFound => {
                return Err(Error::corrupt(&path, 0, "the segment is missing"));
            }
            result => result?,
        };
        let header = read_header(&path, &file).await?;
        if (header.file, header.generation) != (meta.file, meta.generation) {
            return Err(Error::corrupt(
                &path,
                0,
                "another file is in the place of the segment",
            ));
        }
        let segment = Self::new(meta.id, header, path, file);
        segment.end.set(segment.file.len().await?);
        segment.take_for_sealed(meta)?;
        Ok(segment)
    }

    /// Opens the segment at `path`, of any shard; its totals are not known.
    pub(super) async fn open_path(path: &Path) -> Result<Self> {
        let file = File::open(path).await?;
        let block = file.read_at(0, BLOCK_SIZE).await?;
        let header = FileHeader::decode(path, &block)?;
        let end = file.len().await?;
        let number = path
            .file_name()
            .and_then(|name| FileName::parse(name.to_str()?));
        let id = match (header.named, number) {
            (Some((_, id)), _) | (None, Some(FileName::ValueSegment(id, _))) => id,
            _ => ValueSegmentId(0),
        };
        let segment = Self::new(id, header, path.to_path_buf(), file);
        segment.end.set(end);
        Ok(segment)
    }

    /// Opens the first generation of a segment that no manifest names, for reading alone.
    pub(super) async fn open_begun(
        dir: &Path,
        whose: (Owner, FileSeries),
        id: ValueSegmentId,
    ) -> Result<Self> {
        let path = FileName::ValueSegment(id, 0).path(dir);
        let file = File::open(&path).await?;
        let header = check_begun(&path, &file, whose, id).await?;
        Self::left(id, header, path, file).await
    }

    /// Opens a segment that was prepared, for writing.
    pub(super) async fn open_prepared(
        dir: &Path,
        id: ValueSegmentId,
        header: FileHeader,
    ) -> Result<Self> {
        let path = FileName::ValueSegment(id, 0).path(dir);
        let file = OpenOptions::new().write().dsync().open(&path).await?;
        Ok(Self::new(id, header, path, file))
    }

    /// Opens the first generation of a segment that no manifest names, for recovery.
    pub(super) async fn open_unnamed(
        dir: &Path,
        whose: (Owner, FileSeries),
        id: ValueSegmentId,
    ) -> Result<Self> {
        let path = FileName::ValueSegment(id, 0).path(dir);
        let file = OpenOptions::new().write().open(&path).await?;
        let header = check_begun(&path, &file, whose, id).await?;
        Self::left(id, header, path, file).await
    }

    /// A segment as a crash left it.
    async fn left(
        id: ValueSegmentId,
        header: FileHeader,
        path: PathBuf,
        file: File,
    ) -> Result<Self> {
        let mut segment = Self::new(id, header, path, file);
        segment.may_be_torn = true;
        segment.end.set(segment.file.len().await?);
        Ok(segment)
    }

    fn new(id: ValueSegmentId, header: FileHeader, path: PathBuf, file: File) -> Self {
        Self {
            id,
            header,
            path,
            file,
            totals: Cell::default(),
            end: Cell::new(format::RECORDS_START),
            sealed: Cell::new(false),
            may_be_torn: false,
            index: RefCell::new(None),
        }
    }

    /// Bytes of the file as they are.
    pub(crate) async fn read_raw(&self, offset: u64, len: usize) -> Result<Buf> {
        Ok(self.file.read_at(offset, len).await?)
    }

    /// Its number.
    pub fn id(&self) -> ValueSegmentId {
        self.id
    }

    /// How often it was collected.
    pub fn generation(&self) -> u32 {
        self.header.generation
    }

    /// Whether nothing is written to it any more.
    pub fn is_sealed(&self) -> bool {
        self.sealed.get()
    }

    /// What is durable of it, all of it once it is sealed.
    pub fn meta(&self) -> SegmentMeta {
        let totals = self.totals.get();
        SegmentMeta {
            id: self.id(),
            generation: self.generation(),
            file: self.header.file,
            records: totals.records,
            bytes: totals.bytes,
            highest: totals.highest,
            file_bytes: self.end.get(),
        }
    }

    /// Where its durable part ends.
    pub(super) fn end(&self) -> u64 {
        self.end.get()
    }

    /// Whether what is not whole in it may never have been written.
    pub(super) fn may_be_torn(&self) -> bool {
        self.may_be_torn
    }

    /// Notes what has become durable.
    pub(super) fn grow(&self, end: u64, totals: Totals) {
        assert!(!self.sealed.get(), "a sealed segment does not change");
        assert!(end >= self.end.get(), "a segment only grows");
        let before = self.totals.get();
        assert!(
            before.records <= totals.records && before.highest <= totals.highest,
            "the totals of a segment only grow"
        );
        self.end.set(end);
        self.totals.set(totals);
    }

    /// Notes what a recovery found in it, which is less than the file.
    pub(super) fn cut(&self, records_end: u64, totals: Totals) {
        let end = records_end.next_multiple_of(BLOCK_SIZE as u64);
        assert!(!self.sealed.get(), "a sealed segment does not change");
        assert!(
            end <= self.end.get(),
            "a recovery finds no more than there is"
        );
        self.end.set(end);
        self.totals.set(totals);
    }

    /// Gives what was not used back and makes the length durable; nothing may be in flight.
    pub(super) async fn seal(&self) -> Result<()> {
        assert!(!self.sealed.get(), "a segment is sealed once");
        assert!(self.end.get() >= format::RECORDS_START, "it has a header");
        self.file.set_len(self.end.get()).await?;
        self.file.sync().await?;
        self.sealed.set(true);
        Ok(())
    }

    /// Takes what a manifest says of it for true.
    pub(super) fn take_for_sealed(&self, meta: SegmentMeta) -> Result<()> {
        if self.end.get() < meta.file_bytes {
            let what = "the file is shorter than the manifest says";
            return Err(self.corrupt(meta.file_bytes, what));
        }
        self.totals.set(Totals {
            records: meta.records,
            bytes: meta.bytes,
            highest: meta.highest,
        });
        self.end.set(meta.file_bytes);
        self.sealed.set(true);
        Ok(())
    }

    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Error::corrupt(&self.path, offset, what)
    }

    /// The slot index of a later generation, read once.
    pub(super) async fn slot_index(&self) -> Result<Rc<SlotIndex>> {
        if let Some(index) = &*self.index.borrow() {
            return Ok(Rc::clone(index));
        }
        let index = Rc::new(SlotIndex::load(self).await?);
        *self.index.borrow_mut() = Some(Rc::clone(&index));
        Ok(index)
    }
}

/// The id of the file of a segment, as the file itself says it.
pub(crate) async fn file_id(path: &Path) -> Result<FileId> {
    Ok(read_header(path, &File::open(path).await?).await?.file)
}

async fn read_header(path: &Path, file: &File) -> Result<FileHeader> {
    let block = file.read_at(0, BLOCK_SIZE).await?;
    FileHeader::decode(path, &block)
}

/// Reads the header of the first generation of a segment that was begun here.
async fn check_begun(
    path: &Path,
    file: &File,
    (owner, series): (Owner, FileSeries),
    id: ValueSegmentId,
) -> Result<FileHeader> {
    let header = read_header(path, file).await?;
    let (is_ours, number) = match header.named {
        Some((found, number)) => (found == owner, number),
        None => (header.file == series.segment(id), id),
    };
    if !is_ours {
        return Err(Error::OtherStore {
            file: path.display().to_string(),
            found: header.whose(),
            expected: owner.to_string(),
        });
    }
    if (number, header.generation) != (id, 0) {
        return Err(Error::corrupt(path, 0, "the file is another segment"));
    }
    Ok(header)
}

/// What stays in memory of the slot index of a segment in use: 4 bytes per 4 KiB page.
pub(super) struct SlotIndex {
    pub(super) footer: Footer,
    index_offset: u64,
    /// The first slot of each page.
    firsts: Vec<u32>,
}

impl SlotIndex {
    async fn load(segment: &Segment) -> Result<Self> {
        let file_bytes = segment.end();
        let at = file_bytes.saturating_sub(BLOCK_SIZE as u64);
        let damaged = || segment.corrupt(at, "the footer is damaged");
        let block = segment.file.read_at(at, BLOCK_SIZE).await?;
        let footer = Footer::decode(segment.header, &block, file_bytes).ok_or_else(damaged)?;
        let (index_offset, fence_offset) = footer
            .index_offset()
            .zip(footer.fence_offset())
            .ok_or_else(damaged)?;
        let pages = footer.index_pages as usize;
        let fence = segment
            .file
            .read_at(fence_offset, format::fence_bytes(pages));
        let firsts = format::decode_fence(segment.header, pages, &fence.await?)
            .ok_or_else(|| segment.corrupt(fence_offset, "the fence of the index is damaged"))?;
        Ok(Self {
            footer,
            index_offset,
            firsts,
        })
    }

    pub(super) fn page_count(&self) -> u32 {
        self.footer.index_pages
    }

    /// The first slot of that page.
    pub(super) fn first_slot(&self, page: u32) -> Option<u32> {
        self.firsts.get(page as usize).copied()
    }

    /// The page that a slot is on, if it is on any.
    fn page_of(&self, slot: u32) -> Option<u32> {
        let after = self.firsts.partition_point(|first| *first <= slot);
        u32::try_from(after.checked_sub(1)?).ok()
    }

    /// Reads a page.
    pub(super) async fn page(&self, segment: &Segment, page: u32) -> Result<Vec<SlotPlace>> {
        let at = self.index_offset + u64::from(page) * BLOCK_SIZE as u64;
        let bytes = segment.file.read_at(at, BLOCK_SIZE).await?;
        format::decode_index_page(segment.header, page, &bytes)
            .ok_or_else(|| segment.corrupt(at, "a page of the slot index is damaged"))
    }
}

/// Index pages used lately, over all segments of a value log. Bounded by
/// [`VLOG_INDEX_PAGES_CACHED_MAX`]; the oldest go first.
#[derive(Default)]
pub(super) struct IndexCache {
    pages: HashMap<PageId, Rc<[SlotPlace]>>,
    order: VecDeque<PageId>,
}

type PageId = (ValueSegmentId, u32, u32);

impl IndexCache {
    fn insert(&mut self, id: PageId, page: Rc<[SlotPlace]>) {
        if self.pages.insert(id, page).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > VLOG_INDEX_PAGES_CACHED_MAX {
            let oldest = self.order.pop_front();
            oldest.and_then(|id| self.pages.remove(&id));
        }
    }
}

/// Where the record of a slot is; `None` if the segment has no such slot.
pub(super) async fn locate(
    cache: &RefCell<IndexCache>,
    segment: &Segment,
    slot: u32,
) -> Result<Option<u64>> {
    let index = segment.slot_index().await?;
    let Some(page) = index.page_of(slot) else {
        return Ok(None);
    };
    let id = (segment.id(), segment.generation(), page);
    let cached = cache.borrow().pages.get(&id).cloned();
    let places = match cached {
        Some(places) => places,
        None => {
            let places: Rc<[SlotPlace]> = index.page(segment, page).await?.into();
            cache.borrow_mut().insert(id, Rc::clone(&places));
            places
        }
    };
    let found = places.binary_search_by_key(&slot, |place| place.slot);
    Ok(found
        .ok()
        .and_then(|at| places.get(at))
        .map(|place| place.offset))
}
