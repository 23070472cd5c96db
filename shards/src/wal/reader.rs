//! Reading entries back, from memory or from disk.
//!
//! Invariant: nothing is read that is not durable, not even ahead. A block that is being written may be
//! seen in part, and what was seen of it would be taken for damage once it is durable.

use super::format::{EntryHead, Fragment, Fragments, Record};
use super::scan::{self, Seen, Window};
use super::segment::Segment;
use super::shared::Shared;
use super::{Entry, Want};
use crate::error::{Error, Result};
use crate::ids::{LogIndex, Owner};
use crate::limits;
use bytes::{Bytes, BytesMut};
use corelith_io::BLOCK_SIZE;

/// Reads the held entries of `from..to`, ending early after `max_bytes` of what is wanted. Of
/// separated entries that are not in memory it reads the heads.
pub(super) async fn read(
    shared: &Shared,
    from: LogIndex,
    to: LogIndex,
    max_bytes: u64,
    want: Want,
) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    let mut next = from;
    let mut reader = Reader::new(shared);
    loop {
        let located = {
            let pipeline = shared.pipeline.borrow();
            let (first, end) = pipeline.index.clip(next, to);
            // Purged or truncated while this was reading: what was read before stands.
            if first >= end || (first > next && !entries.is_empty()) {
                return Ok(entries);
            }
            next = first;
            let rest = max_bytes.saturating_sub(bytes);
            if let Some(cached) = pipeline.index.cached(next, end, rest, want) {
                entries.extend(cached);
                return Ok(entries);
            }
            pipeline.index.slot_of(next).and_then(|(slot, slot_end)| {
                let segment = pipeline.segments.get(slot.segment_id())?.clone();
                // What is in memory may not have been submitted yet.
                let end = end.min(pipeline.index.first_cached().unwrap_or(end));
                Some((segment, slot, slot_end.min(end)))
            })
        };
        let Some((segment, slot, end)) = located else {
            panic!("entry {next} is neither in memory nor on disk");
        };
        let offset = u64::from(slot.offset_units) * BLOCK_SIZE as u64;
        for entry in reader.block(segment, offset, next, end).await? {
            // It may have been replaced while it was read.
            if shared.pipeline.borrow().index.id_at(entry.id.index) != Some(entry.id) {
                return Ok(entries);
            }
            bytes += want.len_of(&entry);
            next = LogIndex(entry.id.index.0 + 1);
            entries.push(entry);
            if bytes > max_bytes {
                return Ok(entries);
            }
        }
    }
}

/// Reads blocks from segment files, in order more often than not.
struct Reader<'a> {
    shared: &'a Shared,
    owner: Owner,
    window: Window,
    segment: Option<Segment>,
}

/// Puts entries together from fragments.
#[derive(Default)]
struct Assembly {
    entries: Vec<Entry>,
    open: Option<(EntryHead, BytesMut)>,
}

impl Assembly {
    /// Takes a fragment; `None` if it does not fit.
    fn take(&mut self, fragment: Fragment<'_>) -> Option<()> {
        match fragment {
            Fragment::Begin(Record::Entry(head), stored) => {
                if head.whole_len() > limits::LOG_ENTRY_BYTES_MAX as u64 {
                    return None;
                }
                let len = head.stored_len as usize;
                if stored.len() == len {
                    self.push(&head, Bytes::copy_from_slice(stored));
                } else {
                    let mut whole = BytesMut::with_capacity(len);
                    whole.extend_from_slice(stored);
                    self.open = Some((head, whole));
                }
            }
            Fragment::Begin(Record::TruncateAfter(last), _) => {
                let last = last.map(|id| id.index);
                self.entries.retain(|entry| Some(entry.id.index) <= last);
            }
            Fragment::Begin(Record::Vote(_) | Record::Purge(_), _) => {}
            Fragment::More(stored) => {
                // The end of an entry that begins in an earlier block.
                let Some((head, mut whole)) = self.open.take() else {
                    return Some(());
                };
                whole.extend_from_slice(stored);
                let len = head.stored_len as usize;
                match whole.len() {
                    got if got < len => self.open = Some((head, whole)),
                    got if got == len => self.push(&head, whole.freeze()),
                    _ => return None,
                }
            }
        }
        Some(())
    }

    fn is_open_before(&self, end: LogIndex) -> bool {
        self.open
            .as_ref()
            .is_some_and(|(head, _)| head.id.index < end)
    }

    fn push(&mut self, head: &EntryHead, stored: Bytes) {
        self.entries.push(Entry::from_record(head, stored));
    }
}

impl<'a> Reader<'a> {
    fn new(shared: &'a Shared) -> Self {
        let pipeline = shared.pipeline.borrow();
        let owner = Owner {
            store_id: pipeline.options().store_id,
            shard: pipeline.options().shard,
        };
        Self {
            shared,
            owner,
            window: Window::default(),
            segment: None,
        }
    }

    /// Returns the entries `from..end`, all of which begin in the block at `offset` of `segment`.
    async fn block(
        &mut self,
        segment: Segment,
        offset: u64,
        from: LogIndex,
        end: LogIndex,
    ) -> Result<Vec<Entry>> {
        if self
            .segment
            .as_ref()
            .is_none_or(|last| last.id != segment.id)
        {
            self.window.clear();
        }
        assert!(from < end, "something is read");
        let (mut segment, mut offset) = (segment, offset);
        let mut assembly = Assembly::default();
        assert!(
            offset < segment.durable_end,
            "what is not durable is in memory"
        );
        offset += self.feed(&segment, offset, &mut assembly, false).await?;
        // An entry from `end` on is not wanted, and may not be written to its end yet.
        while assembly.is_open_before(end) {
            if offset >= segment.durable_end {
                segment = self.segment_after(&segment)?;
                self.window.clear();
                // The start block holds no records.
                offset = BLOCK_SIZE as u64;
            }
            offset += self.feed(&segment, offset, &mut assembly, true).await?;
        }
        let path = segment.path.clone();
        self.segment = Some(segment);
        let mut entries = assembly.entries;
        entries.retain(|entry| (from..end).contains(&entry.id.index));
        let is_complete = entries.len() as u64 == end.0 - from.0;
        match is_complete {
            true => Ok(entries),
            false => Err(Error::corrupt(
                &path,
                offset,
                "entries of a block are missing",
            )),
        }
    }

    fn segment_after(&self, segment: &Segment) -> Result<Segment> {
        let pipeline = self.shared.pipeline.borrow();
        match pipeline.segments.after(segment.id) {
            Some(next) => Ok(next.clone()),
            None => {
                let what = "the end of an entry is missing";
                Err(Error::corrupt(&segment.path, segment.durable_end, what))
            }
        }
    }

    /// Feeds the block at `offset` to `assembly` and returns its length. With `only_open`, feeds no
    /// more than ends the open entry.
    async fn feed(
        &mut self,
        segment: &Segment,
        offset: u64,
        assembly: &mut Assembly,
        only_open: bool,
    ) -> Result<u64> {
        let left = segment.durable_end.saturating_sub(offset);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let len = left.min(limits::LOG_BLOCK_BYTES_MAX);
        let ahead = left.min(limits::IO_BYTES_MAX);
        let bytes = self.window.get(&segment.file, offset, len, ahead).await?;
        let damaged = || Error::corrupt(&segment.path, offset, "a block is damaged");
        let Seen::Block(header, _, payload) = scan::look(bytes, segment.id, self.owner) else {
            return Err(damaged());
        };
        for fragment in Fragments::new(payload) {
            if only_open && assembly.open.is_none() {
                break;
            }
            fragment
                .and_then(|fragment| assembly.take(fragment))
                .ok_or_else(damaged)?;
        }
        Ok(header.used_len().next_multiple_of(BLOCK_SIZE) as u64)
    }
}
