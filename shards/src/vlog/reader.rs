//! Values read back.
//!
//! Invariant: no byte is returned whose page was not checked against the record's head, and that
//! against the pointer.

use super::format::{Head, PAGE_BYTES, PageCheck, RECORD_HEADER_BYTES, page_count};
use super::pointer::ValuePointer;
use super::segments::{self, IndexCache, Segment, Segments};
use super::{Shared, ValueLog};
use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::flight;
use crate::key::SpacedKey;
use crate::limits::{IO_BYTES_MAX, KEY_BYTES_MAX, VLOG_NEAR_FRONT_BYTES, VLOG_READS_IN_FLIGHT_MAX};
use bytes::{Bytes, BytesMut};
use corelith_io::Buf;
use futures_util::future::try_join;
use futures_util::stream::{StreamExt, iter};
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// Pages read by one I/O.
pub(super) const PIECE_PAGES: usize = IO_BYTES_MAX / PAGE_BYTES;

impl ValueLog {
    /// Reads a whole value and checks all of it, and that it was written for `key` if one is given.
    /// One that is staged and not durable yet is waited for.
    ///
    /// # Errors
    /// `Corrupt`, `Io`; `Fenced` if it was waited for and never became durable.
    pub async fn read(
        &self,
        segments: &Segments,
        pointer: ValuePointer,
        key: Option<SpacedKey<'_>>,
    ) -> Result<Bytes> {
        let place = self.shared().place(segments, pointer).await?;
        let key_len = key.map_or(KEY_BYTES_MAX, |key| key.key.len());
        let len = pointer.len as usize;
        let whole = fixed_len(pointer) + key_len + len;
        let first = place.read_at(0, whole.min(IO_BYTES_MAX)).await?;
        let head = place.head(&first)?;
        if key.is_some_and(|key| key != head.key()) {
            return Err(place.corrupt(0, "the record is of another key"));
        }
        let here = first.get(head.bytes.len()..).unwrap_or_default();
        if let Some(value) = here.get(..len) {
            place.check(&head, 0, value)?;
            return Ok(Bytes::copy_from_slice(value));
        }
        let pages = here.len() / PAGE_BYTES;
        let start = here.get(..pages * PAGE_BYTES).unwrap_or_default();
        place.check(&head, 0, start)?;
        let mut value = BytesMut::with_capacity(len);
        value.extend_from_slice(start);
        drop(first);
        place
            .read_pages(&head, pages..page_count(pointer.len), &mut value)
            .await?;
        assert_eq!(value.len(), len, "a value is read whole");
        Ok(value.freeze())
    }

    /// Reads the bytes `range` of a value, as far as it has them, and checks the pages they are in.
    ///
    /// # Errors
    /// As [`ValueLog::read`].
    pub async fn read_range(
        &self,
        segments: &Segments,
        pointer: ValuePointer,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let len = u64::from(pointer.len);
        let (start, end) = (range.start.min(len), range.end.min(len));
        if start >= end {
            return Ok(Bytes::new());
        }
        let (start, end) = (start as usize, end as usize);
        let place = self.shared().place(segments, pointer).await?;
        let pages = start / PAGE_BYTES..end.div_ceil(PAGE_BYTES);
        let skip = start - pages.start * PAGE_BYTES;
        let bytes = place.pages(pages).await?;
        Ok(bytes.slice(skip..skip + (end - start)))
    }
}

/// Bytes of the head of a record without its key.
pub(super) fn fixed_len(pointer: ValuePointer) -> usize {
    RECORD_HEADER_BYTES + 4 * page_count(pointer.len)
}

/// Where a page of a value ends, in bytes of the value.
pub(super) fn page_end(pointer: ValuePointer, page: usize) -> usize {
    (page * PAGE_BYTES).min(pointer.len as usize)
}

impl Shared {
    /// Finds the record that `pointer` names, in a snapshot of the segments or, if it was staged
    /// later than that, in the newest one.
    async fn place(&self, segments: &Segments, pointer: ValuePointer) -> Result<Place> {
        self.wait_for_record(pointer).await?;
        let held = segments.get(&pointer.segment).cloned();
        let newest = || self.segments.borrow().get(&pointer.segment).cloned();
        Place::find(&self.dir, held.or_else(newest), &self.index_cache, pointer).await
    }

    /// A committed value may be read before this replica's own write of it is durable.
    pub(super) async fn wait_for_record(&self, pointer: ValuePointer) -> Result<()> {
        flight::until(&self.progress, || {
            let pipeline = self.pipeline.borrow();
            match pipeline.is_pending(pointer.segment, pointer.offset) {
                false => Some(Ok(())),
                true => pipeline.fence.failure().map(Err),
            }
        })
        .await
    }
}

/// A record and where it is.
pub(super) struct Place {
    pub(super) segment: Rc<Segment>,
    pub(super) offset: u64,
    pub(super) pointer: ValuePointer,
}

impl Place {
    /// The place in its segment of the record that `pointer` names, if there is that segment.
    pub(super) async fn find(
        dir: &Path,
        segment: Option<Rc<Segment>>,
        index_cache: &RefCell<IndexCache>,
        pointer: ValuePointer,
    ) -> Result<Self> {
        let Some(segment) = segment else {
            let path = FileName::ValueSegment(pointer.segment, 0).path(dir);
            return Err(Error::corrupt(&path, 0, "there is no such segment"));
        };
        let offset = match segment.generation() {
            0 => Some(pointer.offset),
            _ => segments::locate(index_cache, &segment, pointer.slot).await?,
        };
        let offset = offset.ok_or_else(|| segment.corrupt(0, "there is no such record"))?;
        Ok(Self {
            segment,
            offset,
            pointer,
        })
    }

    pub(super) fn corrupt(&self, at: usize, what: &'static str) -> Error {
        self.segment
            .corrupt(self.offset.saturating_add(at as u64), what)
    }

    /// Reads from the record, at most to the end of the segment.
    pub(super) async fn read_at(&self, at: usize, len: usize) -> Result<Buf> {
        let start = self.offset.saturating_add(at as u64);
        Ok(self.segment.file.read_at(start, len).await?)
    }

    /// Checks the head of the record against the pointer.
    pub(super) fn head(&self, bytes: &[u8]) -> Result<Head> {
        let head = Head::decode(self.segment.header.seed(), bytes)
            .ok_or_else(|| self.corrupt(0, "the head of a record is damaged"))?;
        let (header, pointer) = (head.header, self.pointer);
        let matches = head.crc == pointer.crc
            && header.slot == pointer.slot
            && header.value_len == pointer.len
            && header.offset == pointer.offset;
        if !matches {
            return Err(self.corrupt(0, "another record is in this place"));
        }
        if self.offset.saturating_add(header.record_len()) > self.segment.end() {
            return Err(self.corrupt(0, "the segment ends within a record"));
        }
        Ok(head)
    }

    /// Checks bytes of the value that begin with that page and end with a page or the value.
    pub(super) fn check(&self, head: &Head, page: usize, bytes: &[u8]) -> Result<()> {
        let mut check = PageCheck::from_page(head, page);
        let damaged = |page: usize| {
            let at = head.bytes.len() + page * PAGE_BYTES;
            self.corrupt(at, "a page of a value is damaged")
        };
        check.update(bytes).map_err(damaged)?;
        check.finish().map_err(damaged)
    }

    /// Reads whole pages with as few I/Os as possible.
    pub(super) async fn pages(&self, pages: Range<usize>) -> Result<Bytes> {
        let fixed = fixed_len(self.pointer);
        let start = pages.start * PAGE_BYTES;
        let end = page_end(self.pointer, pages.end);
        // How long the key is says the head only, so up to that much is read in addition.
        let head_max = fixed + KEY_BYTES_MAX;
        if end <= VLOG_NEAR_FRONT_BYTES {
            let bytes = self.read_at(0, head_max + end).await?;
            let head = self.head(&bytes)?;
            return self.take(
                &head,
                pages.start,
                &bytes,
                head.bytes.len() + start..head.bytes.len() + end,
            );
        }
        let span = end - start + KEY_BYTES_MAX;
        if span <= IO_BYTES_MAX {
            let head = self.read_at(0, head_max);
            let body = self.read_at(fixed + start, span);
            let (head, body) = try_join(head, body).await?;
            let head = self.head(&head)?;
            let key_len = head.key().key.len();
            return self.take(&head, pages.start, &body, key_len..key_len + end - start);
        }
        let head = self.head(&self.read_at(0, head_max).await?)?;
        let mut value = BytesMut::with_capacity(end - start);
        self.read_pages(&head, pages, &mut value).await?;
        Ok(value.freeze())
    }

    /// Checks a part of what was read, which begins with that page.
    fn take(&self, head: &Head, page: usize, bytes: &[u8], part: Range<usize>) -> Result<Bytes> {
        let part = bytes
            .get(part)
            .ok_or_else(|| self.corrupt(0, "the file ends within a record"))?;
        self.check(head, page, part)?;
        Ok(Bytes::copy_from_slice(part))
    }

    /// Reads pages in pieces, several at once, and appends them to `out` in order.
    async fn read_pages(&self, head: &Head, pages: Range<usize>, out: &mut BytesMut) -> Result<()> {
        let piece = |first: usize| {
            let start = page_end(self.pointer, first);
            let last = (first + PIECE_PAGES).min(pages.end);
            let len = page_end(self.pointer, last) - start;
            async move {
                let bytes = self.read_at(head.bytes.len() + start, len).await?;
                let is_whole = bytes.len() == len;
                let whole = is_whole.then_some((first, bytes));
                whole.ok_or_else(|| self.corrupt(0, "the file ends within a record"))
            }
        };
        let firsts = pages.clone().step_by(PIECE_PAGES);
        let mut pieces = iter(firsts.map(piece)).buffered(VLOG_READS_IN_FLIGHT_MAX);
        while let Some(read) = pieces.next().await {
            let (first, bytes) = read?;
            self.check(head, first, &bytes)?;
            debug_assert!(out.len() + bytes.len() <= self.pointer.len as usize);
            out.extend_from_slice(&bytes);
            corelith_io::yield_if_needed().await;
        }
        Ok(())
    }
}
