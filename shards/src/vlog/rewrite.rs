//! Collecting a segment: its live records written anew, as the next generation.
//!
//! The order of a collection, each step durable before the next: the new file
//! ([`ValueLog::rewrite`]), the manifest that names it instead of the old one (the caller's), then
//! [`ValueLog::install_rewritten`] and [`ValueLog::remove_obsolete`]. A crash in between leaves a
//! file that no manifest names.

use super::format::{
    self, FileHeader, Footer, Head, INDEX_PAGE_ENTRIES, PageCheck, RECORD_ALIGNMENT, SlotPlace,
};
use super::pointer::ValuePointer;
use super::segments::{Segment, SegmentMeta, Totals};
use super::walk::{RecordWalk, Step};
use super::{Shared, ValueLog};
use crate::error::Result;
use crate::filename::FileName;
use crate::ids::{LogIndex, ValueSegmentId};
use crate::key::SpacedKey;
use crate::length;
use crate::limits::BACKGROUND_IO_BYTES;
use crate::output::Output;
use crate::planted::{Bug, is_planted};
use crate::removal::{Removals, remove_if_there};
use corelith_io::{BLOCK_SIZE, OpenOptions};
use std::path::PathBuf;
use std::rc::Rc;

/// A record that a collection has come to.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// The key.
    pub key: SpacedKey<'a>,
    /// The log index of the write.
    pub at: LogIndex,
    /// What names the record.
    pub pointer: ValuePointer,
}

/// A segment written anew, not yet in use. Dropped, its file is removed by the next
/// [`ValueLog::remove_obsolete`].
pub struct Rewritten {
    old: Rc<Segment>,
    new: Rc<Segment>,
    file: NewFile,
}

impl Rewritten {
    /// What the manifest is to say of the new generation.
    pub fn meta(&self) -> SegmentMeta {
        self.new.meta()
    }

    /// Leaves the file where it is, out of use: a manifest on disk may name it.
    pub fn keep(mut self) {
        self.file.path = None;
    }
}

/// A file that is garbage unless it is installed.
struct NewFile {
    shared: Rc<Shared>,
    path: Option<PathBuf>,
}

impl Drop for NewFile {
    fn drop(&mut self) {
        self.shared.garbage.borrow_mut().extend(self.path.take());
    }
}

impl ValueLog {
    /// Writes the records of `segment` of which `is_live` says so into its next generation, and
    /// checks every byte of them. Nothing in memory changes; the new file is durable on return.
    ///
    /// # Errors
    /// `Corrupt` if any record that may be live is damaged, what `is_live` returns, `Io`; the new
    /// file is then garbage.
    ///
    /// # Panics
    /// If the segment is not sealed: a bug in the caller.
    pub async fn rewrite(
        &self,
        segment: &Rc<Segment>,
        is_live: impl AsyncFn(&RecordRef<'_>) -> Result<bool>,
    ) -> Result<Rewritten> {
        assert!(segment.is_sealed(), "only sealed segments are collected");
        let shared = self.shared();
        let header = segment.header.next();
        let path = FileName::ValueSegment(segment.id(), header.generation).path(&shared.dir);
        let removing = shared.removing.acquire(1).await;
        // One of that name is of a collection that was broken off.
        remove_if_there(&path).await?;
        shared.garbage.borrow_mut().retain(|other| *other != path);
        let file = NewFile {
            shared: Rc::clone(shared),
            path: Some(path.clone()),
        };
        let options = OpenOptions::new().write().create_new();
        let mut output = Output::new(options.open(&path).await?);
        drop(removing);
        output.write(&header.encode()).await?;
        output.align(BLOCK_SIZE).await?;
        let mut copy = Copy {
            segment,
            output,
            slots: Vec::new(),
            totals: Totals::default(),
        };
        copy.records(is_live).await?;
        let meta = copy.finish(header).await?;
        shared.dir.sync().await?;
        let new = Rc::new(Segment::open(&shared.dir, meta).await?);
        Ok(Rewritten {
            old: Rc::clone(segment),
            new,
            file,
        })
    }

    /// Puts a segment written anew in the place of the old one, which is removed once no reader holds
    /// it. The manifest must name the new one durably.
    ///
    /// # Panics
    /// If the old one is in use no more: a bug in the caller.
    pub fn install_rewritten(&self, rewritten: Rewritten) {
        let Rewritten { old, new, mut file } = rewritten;
        file.path = None;
        self.replace(&old, Some(new));
    }

    /// Takes a segment out of use; it is removed once no reader holds it. The manifest must name it no
    /// more, durably.
    pub fn drop_segment(&self, id: ValueSegmentId) {
        let held = self.segments().get(&id).cloned();
        if let Some(segment) = held {
            assert!(segment.is_sealed(), "only sealed segments are dropped");
            self.replace(&segment, None);
        }
    }

    fn replace(&self, old: &Rc<Segment>, new: Option<Rc<Segment>>) {
        let shared = self.shared();
        let id = old.id();
        shared.change_segments(|segments| {
            let replaced = match new {
                Some(new) => segments.insert(id, new),
                None => segments.remove(&id),
            };
            let is_old = replaced.is_some_and(|replaced| Rc::ptr_eq(&replaced, old));
            assert!(is_old, "a segment was collected that is not in use");
        });
        shared.obsolete.borrow_mut().push(Rc::clone(old));
    }

    /// Removes the files that are out of use and that no reader holds. What fails is tried again, at
    /// the latest by the next start.
    pub async fn remove_obsolete(&self, removals: &Removals) {
        let shared = self.shared();
        let _removing = shared.removing.acquire(1).await;
        let mut paths = std::mem::take(&mut *shared.garbage.borrow_mut());
        shared.obsolete.borrow_mut().retain(|segment| {
            let is_held = Rc::strong_count(segment) > 1 && !is_planted(Bug::RemoveWhileHeld);
            if !is_held {
                paths.push(segment.path.clone());
            }
            is_held
        });
        for path in paths {
            if let Err(error) = removals.remove(&path, u64::MAX).await {
                tracing::warn!(%error, "an unused segment of the value log stays");
                shared.garbage.borrow_mut().push(path);
            }
        }
    }
}

/// A collection going on.
struct Copy<'a> {
    segment: &'a Rc<Segment>,
    output: Output,
    slots: Vec<SlotPlace>,
    totals: Totals,
}

impl Copy<'_> {
    /// Copies the live records.
    async fn records(
        &mut self,
        is_live: impl AsyncFn(&RecordRef<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut walk = RecordWalk::of_sealed(self.segment).await?;
        let mut seen = Totals::default();
        let mut damage = None;
        loop {
            corelith_io::yield_if_needed().await;
            let (offset, head) = match walk.next().await? {
                Step::End => break,
                Step::Damage(offset, what) => {
                    damage = damage.or(Some((offset, what)));
                    continue;
                }
                Step::Record(offset, head) => (offset, head),
            };
            seen.add(head.key().key.len(), head.header.value_len, head.header.at);
            let record = record_ref(self.segment, &head);
            if is_live(&record).await? {
                self.record(&mut walk, offset, &head).await?;
            }
        }
        // A hole that a crash left is no damage: what was intact then was counted, and is still.
        let meta = self.segment.meta();
        if (seen.records, seen.bytes) != (meta.records, meta.bytes) {
            let (offset, what) = damage.unwrap_or((walk.at(), "records are missing"));
            return Err(self.segment.corrupt(offset, what));
        }
        Ok(())
    }

    /// Copies a record as it is, and checks its value on the way.
    async fn record(&mut self, walk: &mut RecordWalk, offset: u64, head: &Head) -> Result<()> {
        let last = self.slots.last();
        if last.is_some_and(|last| last.slot >= head.header.slot) {
            return Err(self.segment.corrupt(offset, "a slot is out of order"));
        }
        self.output.align(RECORD_ALIGNMENT as usize).await?;
        self.slots.push(SlotPlace {
            slot: head.header.slot,
            offset: self.output.offset(),
        });
        self.totals
            .add(head.key().key.len(), head.header.value_len, head.header.at);
        self.output.write(&head.bytes).await?;
        let damaged = |page: usize| {
            let at = offset + head.bytes.len() as u64 + (page * format::PAGE_BYTES) as u64;
            self.segment.corrupt(at, "a page of a value is damaged")
        };
        let mut check = PageCheck::from_page(head, 0);
        let mut at = offset + head.bytes.len() as u64;
        let end = offset + head.header.record_len();
        while at < end {
            let max = usize::try_from(end - at).unwrap_or(usize::MAX);
            let chunk = walk.stream.chunk(at, max.min(BACKGROUND_IO_BYTES)).await?;
            if chunk.is_empty() {
                return Err(self.segment.corrupt(at, "the file ends within a record"));
            }
            check.update(chunk).map_err(damaged)?;
            self.output.write(chunk).await?;
            at += chunk.len() as u64;
            corelith_io::yield_if_needed().await;
        }
        check.finish().map_err(damaged)
    }

    /// Writes the slot index and makes the file durable.
    async fn finish(mut self, header: FileHeader) -> Result<SegmentMeta> {
        let records_end = self.output.offset();
        self.output.align(BLOCK_SIZE).await?;
        let mut firsts = Vec::new();
        for (number, slots) in (0..).zip(self.slots.chunks(INDEX_PAGE_ENTRIES)) {
            firsts.extend(slots.first().map(|place| place.slot));
            let page = format::encode_index_page(header, number, slots);
            self.output.write(&page).await?;
            corelith_io::yield_if_needed().await;
        }
        self.output
            .write(&format::encode_fence(header, &firsts))
            .await?;
        self.output.align(BLOCK_SIZE).await?;
        let footer = Footer {
            index_pages: length::stored(firsts.len()),
            records_end,
            records: self.totals.records,
            bytes: self.totals.bytes,
            highest: self.totals.highest,
        };
        self.output.write(&footer.encode(header)).await?;
        let file_bytes = self.output.offset();
        assert_eq!(
            footer.file_bytes(),
            Some(file_bytes),
            "the index has its size"
        );
        self.output.finish().await?;
        Ok(SegmentMeta {
            id: self.segment.id(),
            generation: header.generation,
            file: header.file,
            records: self.totals.records,
            bytes: self.totals.bytes,
            highest: self.totals.highest,
            file_bytes,
        })
    }
}

/// What `is_live` is asked about.
pub(super) fn record_ref<'a>(segment: &Segment, head: &'a Head) -> RecordRef<'a> {
    RecordRef {
        key: head.key(),
        at: head.header.at,
        pointer: ValuePointer {
            segment: segment.id(),
            slot: head.header.slot,
            offset: head.header.offset,
            len: head.header.value_len,
            crc: head.crc,
        },
    }
}
