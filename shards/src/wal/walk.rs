//! The walk along the chain of blocks after a start, and what its end means.
//!
//! Invariants:
//! * Blocks are taken in order of their numbers, each of which names the one before.
//! * Nothing below the highest `flushed up to` is given up.

use super::files::{Begun, LogFile, SEARCH_BYTES};
use super::format;
use super::index::Slot;
use super::replay::{Asked, Replay, SeparatedEntry};
use super::scan::{self, Evidence, Seen, Window};
use super::segment::units;
use crate::error::{Error, Result};
use crate::ids::{LogIndex, Owner};
use crate::limits;
use crate::planted::{Bug, is_planted};
use crate::vlog::{LoggedValue, ValueState};
use corelith_io::BLOCK_SIZE;
use std::collections::BTreeSet;
use std::path::Path;

/// Where the chain of blocks broke.
pub(super) struct Break {
    pub(super) file: usize,
    pub(super) offset: u64,
}

/// The walk along the chain of blocks.
pub(super) struct ChainWalk<'a> {
    pub(super) owner: Owner,
    pub(super) files: &'a [LogFile],
    /// The log ends before this block.
    pub(super) bound: u64,
    pub(super) replay: Replay,
    pub(super) next_number: u64,
    pub(super) previous: u32,
    /// Per walked segment: its place in `files`, its first number, and the bytes that count.
    pub(super) ends: Vec<(usize, u64, u64)>,
    /// Entries of acknowledged blocks whose values are not whole; filled if all are asked for.
    pub(super) lost: Vec<SeparatedEntry>,
    pub(super) evidence: Evidence,
    pub(super) window: Window,
}

impl<'a> ChainWalk<'a> {
    /// A walk from the start of the oldest segment that counts, up to the block `bound`.
    pub(super) fn new(
        owner: Owner,
        files: &'a [LogFile],
        oldest: Begun,
        replay: Replay,
        bound: u64,
    ) -> Self {
        assert!(oldest.number < bound, "a walk begins before it ends");
        Self {
            owner,
            files,
            bound,
            replay,
            next_number: oldest.number,
            previous: oldest.previous,
            ends: Vec::new(),
            lost: Vec::new(),
            evidence: Evidence::default(),
            window: Window::default(),
        }
    }

    /// Walks the `live` segments until their end, the first break or the bound.
    pub(super) async fn run(&mut self, live: &[usize]) -> Result<Option<Break>> {
        for (nth, &at) in live.iter().enumerate() {
            if self.next_number == self.bound {
                return Ok(None);
            }
            let next = live
                .get(nth + 1)
                .and_then(|next| self.files.get(*next)?.begun);
            if let Some(broken) = self.segment(at, next).await? {
                return Ok(Some(broken));
            }
        }
        Ok(None)
    }

    /// Walks one segment up to where the `next` one begins.
    async fn segment(&mut self, at: usize, next: Option<Begun>) -> Result<Option<Break>> {
        let Some(file) = self.files.get(at) else {
            return Ok(None);
        };
        self.window.clear();
        let first_number = self.next_number;
        let mut offset = 0;
        let broken = loop {
            if let Some(next) = next
                && next.number == self.next_number
            {
                if next.previous != self.previous {
                    let what = "the next segment does not continue this one";
                    return Err(Error::corrupt(&file.path, offset, what));
                }
                break None;
            }
            if self.next_number == self.bound {
                break None;
            }
            if offset >= file.len {
                break Some(Break { file: at, offset });
            }
            match self.block(file, offset).await? {
                Some(len) => offset += len,
                None => break Some(Break { file: at, offset }),
            }
            corelith_io::yield_if_needed().await;
        };
        self.ends.push((at, first_number, offset));
        Ok(broken)
    }

    /// Takes the block at `offset` and returns its length, or `None` if it does not continue the
    /// chain.
    async fn block(&mut self, file: &LogFile, offset: u64) -> Result<Option<u64>> {
        let bytes = self
            .window
            .get(
                &file.file,
                offset,
                limits::LOG_BLOCK_BYTES_MAX,
                limits::IO_BYTES_MAX,
            )
            .await?;
        let (header, crc, payload) = match scan::look(bytes, file.id, self.owner) {
            Seen::Block(header, crc, payload) => (header, crc, payload),
            Seen::Newer(version) => return Err(scan::newer(&file.path, version)),
            Seen::Stale | Seen::Foreign(_) | Seen::Nothing => return Ok(None),
        };
        if header.number != self.next_number || header.previous != self.previous {
            return Ok(None);
        }
        let len = header.used_len().next_multiple_of(BLOCK_SIZE) as u64;
        let slot = Slot {
            first: LogIndex(0),
            segment: format::segment_number(file.id),
            offset_units: units(offset),
            len_units: units(len),
            bytes_up_to: 0,
        };
        self.replay
            .block(&header, payload, slot)
            .map_err(|fault| Error::corrupt(&file.path, offset, fault))?;
        self.evidence.add(&header);
        assert!(
            self.next_number < self.bound,
            "the log ends before its bound"
        );
        self.next_number += 1;
        self.previous = crc;
        Ok(Some(len))
    }

    /// The first block that ends the log because a value that it refers to is not whole.
    pub(super) async fn first_without_value(
        &mut self,
        value_of: &impl AsyncFn(LoggedValue) -> Result<ValueState>,
    ) -> Result<Option<u64>> {
        let proven = self.evidence.flushed_up_to;
        let asked = self.replay.separated(proven);
        let flushed = self.replay.flushed();
        let mut known: BTreeSet<_> = flushed.map(|entry| entry.value.place.segment).collect();
        for entry in asked {
            let state = value_of(entry.value).await?;
            if entry.block < proven {
                known.insert(entry.value.place.segment);
                if !matches!(state, ValueState::Whole) {
                    self.lost.push(entry);
                }
                continue;
            }
            debug_assert!(entry.block < self.next_number, "of a block that was taken");
            match state {
                ValueState::Whole => {}
                ValueState::Missing(error) if known.contains(&entry.value.place.segment) => {
                    return Err(error);
                }
                ValueState::Torn | ValueState::Missing(_) => return Ok(Some(entry.block)),
                ValueState::Damaged(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Refuses a log of which entries were flushed to a value segment that is not there: its number would be
    /// given to another one.
    pub(super) async fn refuse_missing_segments(
        &self,
        value_of: &impl AsyncFn(LoggedValue) -> Result<ValueState>,
    ) -> Result<()> {
        for entry in self.replay.flushed() {
            if let ValueState::Missing(error) = value_of(entry.value).await? {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives up a last segment that holds nothing but its start, so that a node that crashes again
    /// and again does not leave a file each time.
    pub(super) fn give_up_empty(&mut self) {
        if let [.., _, (at, number, _)] = *self.ends.as_slice()
            && self.next_number == number + 1
            // A file that is not free yet would otherwise prove the loss of the start just given up.
            && self.evidence.flushed_up_to <= number
            && let Some(begun) = self.files.get(at).and_then(|file| file.begun)
        {
            assert!(self.evidence.flushed_up_to <= number, "it is given up");
            self.next_number = number;
            self.previous = begun.previous;
            self.ends.pop();
        }
    }

    /// A block that is missing before the end of what a checkpoint covers was acknowledged, whether or not
    /// another block says so.
    pub(super) fn refuse_lost_entries(&self, broken: &Break, asked: Asked) -> Result<()> {
        let Asked::Unproven { after } = asked else {
            return Ok(());
        };
        let last = self.replay.index.range().last.map(|id| id.index);
        match self.files.get(broken.file) {
            Some(file) if last < after => {
                let what = "a block of entries that a checkpoint covers is damaged or missing";
                Err(Error::corrupt(&file.path, broken.offset, what))
            }
            _ => Ok(()),
        }
    }

    /// Decides whether the break is damage (an error) or the end of the log, and returns how many
    /// intact blocks lie beyond it.
    pub(super) async fn judge(&mut self, broken: &Break) -> Result<u64> {
        let mut beyond = Evidence::default();
        let mut lost_start = None;
        for (at, file) in self.files.iter().enumerate().skip(broken.file) {
            let (from, to) = match (at == broken.file, file.begun) {
                (true, _) => (broken.offset + BLOCK_SIZE as u64, file.len),
                (false, Some(_)) => (0, file.len),
                (false, None) => (0, file.len.min(SEARCH_BYTES)),
            };
            let before = beyond;
            scan::search(
                &file.file,
                &file.path,
                file.id,
                self.owner,
                from,
                to,
                &mut beyond,
            )
            .await?;
            let continues = at != broken.file && file.begun.is_none();
            if continues && lost_start.is_none() && beyond != before {
                lost_start = Some(&file.path);
            }
        }
        let known = &mut self.evidence.flushed_up_to;
        *known = beyond.flushed_up_to.max(*known);
        if *known <= self.next_number || is_planted(Bug::TakeDamageForTorn) {
            return Ok(beyond.blocks);
        }
        let what = "an acknowledged block is damaged or missing";
        let in_this_file = match self.files.get(broken.file) {
            Some(file) => {
                let bytes = file.file.read_at(broken.offset, BLOCK_SIZE).await?;
                let is_used = bytes.iter().any(|byte| *byte != 0);
                (is_used || lost_start.is_none()).then_some(&file.path)
            }
            None => None,
        };
        Err(match (in_this_file, lost_start) {
            (Some(path), _) => Error::corrupt(path, broken.offset, what),
            (None, Some(path)) => Error::corrupt(path, 0, what),
            (None, None) => Error::corrupt(Path::new(""), 0, what),
        })
    }
}
