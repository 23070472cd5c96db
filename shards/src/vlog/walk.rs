//! Reading a segment from front to back, record by record, one read ahead.

use super::format::{
    HEAD_BYTES_MAX, Head, PageCheck, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RECORDS_START,
    RecordHeader, may_begin_record,
};
use super::segments::{Segment, Totals};
use crate::error::Result;
use crate::limits::{BACKGROUND_IO_BYTES, VLOG_GAP_BYTES_MAX};
use corelith_io::{BLOCK_SIZE, Buf, JoinHandle};
use std::rc::Rc;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// The bytes of a segment in order.
pub(super) struct Stream {
    segment: Rc<Segment>,
    end: u64,
    start: u64,
    window: Buf,
    ahead: Option<(u64, JoinHandle<corelith_io::Result<Buf>>)>,
}

impl Stream {
    pub(super) fn new(segment: Rc<Segment>, end: u64) -> Self {
        Self {
            segment,
            end,
            start: 0,
            window: Buf::alloc(0),
            ahead: None,
        }
    }

    /// Up to `max` bytes from `offset` on; none only at the end.
    pub(super) async fn chunk(&mut self, offset: u64, max: usize) -> Result<&[u8]> {
        let is_here = offset >= self.start && offset - self.start < self.window.len() as u64;
        if !is_here && offset < self.end {
            self.load(offset).await?;
        }
        let from = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let available = self.window.get(from..).unwrap_or_default();
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = available.len().min(max).min(left);
        Ok(available.get(..len).unwrap_or_default())
    }

    /// Fills `out` from `offset` on with up to `len` bytes.
    async fn collect(&mut self, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        while out.len() < len {
            let chunk = self
                .chunk(offset + out.len() as u64, len - out.len())
                .await?;
            if chunk.is_empty() {
                break;
            }
            out.extend_from_slice(chunk);
        }
        Ok(())
    }

    async fn load(&mut self, offset: u64) -> Result<()> {
        let start = offset - offset % BLOCK;
        let ahead = self.ahead.take().filter(|(at, _)| *at == start);
        let read = match ahead {
            Some((_, task)) => task.await,
            None => Some(self.segment.file.read_at(start, self.len_at(start)).await),
        };
        self.window = read.unwrap_or_else(|| Ok(Buf::alloc(0)))?;
        self.start = start;
        let next = start + self.window.len() as u64;
        let len = self.len_at(next);
        if len > 0 && self.window.len() == BACKGROUND_IO_BYTES {
            let segment = Rc::clone(&self.segment);
            let read = async move { segment.file.read_at(next, len).await };
            self.ahead = Some((next, corelith_io::spawn_background(read)));
        }
        Ok(())
    }

    fn len_at(&self, start: u64) -> usize {
        let left = self.end.saturating_sub(start);
        usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(BACKGROUND_IO_BYTES)
    }
}

/// What a walk comes to next.
pub(super) enum Step {
    /// A record, at that offset, whose head is intact. Its value is not checked.
    Record(u64, Head),
    /// Something at that offset that is no intact head, up to the next one or the end.
    Damage(u64, &'static str),
    /// Nothing more.
    End,
}

/// Goes from record to record.
pub(super) struct RecordWalk {
    pub(super) stream: Stream,
    segment: Rc<Segment>,
    seed: u32,
    at: u64,
    end: u64,
    scratch: Vec<u8>,
}

impl RecordWalk {
    /// Walks from the first record up to `end`.
    pub(super) fn new(segment: Rc<Segment>, end: u64) -> Self {
        Self {
            stream: Stream::new(Rc::clone(&segment), end),
            seed: segment.header.seed(),
            segment,
            at: RECORDS_START,
            end,
            scratch: Vec::new(),
        }
    }

    /// Walks over the records of a sealed segment.
    pub(super) async fn of_sealed(segment: &Rc<Segment>) -> Result<Self> {
        let end = match segment.generation() {
            0 => segment.end(),
            _ => segment.slot_index().await?.footer.records_end,
        };
        Ok(Self::new(Rc::clone(segment), end))
    }

    /// Where the walk is: behind the last record.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Goes on behind something at `offset` that is no intact head.
    async fn skip_damage(&mut self, offset: u64) -> Result<()> {
        self.at = self.next_intact(offset + 1).await?.unwrap_or(self.end);
        Ok(())
    }

    /// The next record. After [`Step::Damage`] the walk goes on behind it.
    pub(super) async fn next(&mut self) -> Result<Step> {
        let start = self.at.next_multiple_of(RECORD_ALIGNMENT);
        if let Some(head) = self.head_at(start).await? {
            self.at = start + head.header.record_len();
            return Ok(Step::Record(start, head));
        }
        // Between batches there are zeros.
        let batch = start.next_multiple_of(BLOCK);
        if !self.is_zero(self.at, batch.min(self.end)).await? {
            return self.damage(self.at, "a record is damaged").await;
        }
        if batch >= self.end {
            return Ok(Step::End);
        }
        if batch > start
            && let Some(head) = self.head_at(batch).await?
        {
            self.at = batch + head.header.record_len();
            return Ok(Step::Record(batch, head));
        }
        if self.is_zero(batch, (batch + BLOCK).min(self.end)).await? {
            // What was never written, unless something follows.
            return match self.next_intact(batch + 1).await? {
                Some(_) => self.damage(batch, "a record is missing").await,
                None => Ok(Step::End),
            };
        }
        self.damage(batch, "a record is damaged").await
    }

    async fn damage(&mut self, offset: u64, what: &'static str) -> Result<Step> {
        self.skip_damage(offset).await?;
        Ok(Step::Damage(offset, what))
    }

    /// The record at `offset`, if its head is intact.
    async fn head_at(&mut self, offset: u64) -> Result<Option<Head>> {
        let mut bytes = std::mem::take(&mut self.scratch);
        self.stream
            .collect(offset, RECORD_HEADER_BYTES, &mut bytes)
            .await?;
        let len = RecordHeader::decode(&bytes).map(|(header, _)| header.head_len());
        let mut head = None;
        if let Some(len) = len.filter(|len| *len <= HEAD_BYTES_MAX) {
            self.stream.collect(offset, len, &mut bytes).await?;
            head = Head::decode(self.seed, &bytes).filter(|head| self.fits(offset, head));
        }
        self.scratch = bytes;
        Ok(head)
    }

    fn fits(&self, offset: u64, head: &Head) -> bool {
        let in_place = self.segment.generation() > 0 || head.header.offset == offset;
        in_place && offset.saturating_add(head.header.record_len()) <= self.end
    }

    async fn is_zero(&mut self, from: u64, to: u64) -> Result<bool> {
        let mut at = from;
        while at < to {
            let max = usize::try_from(to - at).unwrap_or(usize::MAX);
            let chunk = self.stream.chunk(at, max).await?;
            if chunk.is_empty() {
                return Ok(true);
            }
            if chunk.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += chunk.len() as u64;
        }
        Ok(true)
    }

    /// Where the last bytes end that are not zero, as far behind `from` as writes may have been in flight.
    async fn written_end(&mut self, from: u64) -> Result<u64> {
        let limit = from.saturating_add(VLOG_GAP_BYTES_MAX).min(self.end);
        let (mut at, mut end) = (from, from);
        while at < limit {
            corelith_io::yield_if_needed().await;
            let chunk = self.stream.chunk(at, BACKGROUND_IO_BYTES).await?;
            if chunk.is_empty() {
                break;
            }
            if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += chunk.len() as u64;
        }
        debug_assert!(from <= end && end <= limit.max(from));
        Ok(end)
    }

    /// The next intact head at or behind `from`. None in later generations, where nothing may be
    /// missing.
    async fn next_intact(&mut self, from: u64) -> Result<Option<u64>> {
        let limit = from.saturating_add(VLOG_GAP_BYTES_MAX).min(self.end);
        let mut at = from.next_multiple_of(RECORD_ALIGNMENT);
        while self.segment.generation() == 0 && at < limit {
            corelith_io::yield_if_needed().await;
            let chunk = self.stream.chunk(at, BACKGROUND_IO_BYTES).await?;
            let mut units = chunk.chunks_exact(RECORD_ALIGNMENT as usize);
            let count = units.len() as u64;
            if count == 0 {
                break;
            }
            match units.position(may_begin_record) {
                None => at += count * RECORD_ALIGNMENT,
                Some(position) => {
                    at += position as u64 * RECORD_ALIGNMENT;
                    if self.head_at(at).await?.is_some() {
                        return Ok(Some(at));
                    }
                    at += RECORD_ALIGNMENT;
                }
            }
        }
        Ok(None)
    }

    /// Reads the value of the record just returned and checks it; `false` if it is damaged.
    pub(super) async fn check_value(&mut self, offset: u64, head: &Head) -> Result<bool> {
        let mut at = offset + head.header.head_len() as u64;
        let end = offset + head.header.record_len();
        let mut check = PageCheck::from_page(head, 0);
        while at < end {
            let max = usize::try_from(end - at).unwrap_or(usize::MAX);
            let chunk = self.stream.chunk(at, max.min(BACKGROUND_IO_BYTES)).await?;
            if chunk.is_empty() || check.update(chunk).is_err() {
                return Ok(false);
            }
            at += chunk.len() as u64;
            corelith_io::yield_if_needed().await;
        }
        Ok(check.finish().is_ok())
    }
}

/// What is in a segment that a crash left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    pub(super) totals: Totals,
    /// Where the last record ends.
    pub(super) end: u64,
    /// Where the last bytes end that are not zero, which is there or behind it.
    pub(super) written_end: u64,
    /// The first place without an intact head, if records follow it.
    pub(super) first_gap: Option<u64>,
}

/// Finds the records of a segment of generation 0 that was in use when the process ended.
///
/// Writes that were in flight at that moment may be there or not, in any order; so a place without a
/// record does not end the segment, and a record counts if its head is intact, whether or not its
/// value is. What was acknowledged says the log, whose entries name records and are verified.
pub(super) async fn scan(segment: &Rc<Segment>) -> Result<Scan> {
    let mut walk = RecordWalk::new(Rc::clone(segment), segment.end());
    let mut found = Scan {
        end: RECORDS_START,
        ..Scan::default()
    };
    let mut damage = None;
    loop {
        corelith_io::yield_if_needed().await;
        match walk.next().await? {
            Step::End => {
                found.written_end = walk.written_end(found.end).await?;
                return Ok(found);
            }
            Step::Damage(offset, _) => damage = damage.or(Some(offset)),
            Step::Record(_, head) => {
                let header = head.header;
                found
                    .totals
                    .add(header.key_len as usize, header.value_len, header.at);
                debug_assert!(found.end < walk.at(), "records are in order");
                found.end = walk.at();
                found.first_gap = found.first_gap.or(damage);
            }
        }
    }
}
