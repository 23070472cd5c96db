//! What a sequence of blocks amounts to: the pure part of a recovery.

use super::Vote;
use super::block::BlockEntries;
use super::format::{BlockHeader, FLAG_RECOVERED, FLAG_START, Fragment, Fragments, Record, State};
use super::index::{Index, Slot};
use crate::ids::{LogId, LogIndex, ValueSegmentId};
use crate::limits;
use crate::vlog::LoggedValue;
use std::collections::{BTreeMap, VecDeque};

/// Takes blocks in order, the first of which is the start of the oldest segment.
pub(super) struct Replay {
    pub(super) index: Index,
    vote: Option<Vote>,
    /// Highest commit index in a header.
    commit: Option<LogIndex>,
    /// Entries up to here lie in segments that are gone; a purge must have covered them.
    missing: Option<LogIndex>,
    /// The last entry in segments that are gone.
    gone: Option<LogId>,
    /// An entry of which bytes are still to come.
    pending: Option<Pending>,
    /// Only the end of an entry begun in a segment that is gone has been seen so far.
    orphans: bool,
    asked: Asked,
    /// The separated entries that are asked for, in order.
    separated: VecDeque<SeparatedEntry>,
    /// The last entry of each value segment that was not asked for, since it was flushed.
    flushed: BTreeMap<ValueSegmentId, SeparatedEntry>,
}

/// Which values a recovery asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Those of blocks that are not known to have been flushed, and of entries after this one: they may
    /// never have been written.
    Unproven {
        /// The log was durable up to this entry.
        after: Option<LogIndex>,
    },
    /// All of entries held.
    All,
}

/// A separated entry as a recovery asks for its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeparatedEntry {
    pub(super) index: LogIndex,
    /// The block in which it begins.
    pub(super) block: u64,
    pub(super) value: LoggedValue,
}

struct Pending {
    left: usize,
    /// The last entry before it.
    before: Option<LogId>,
}

/// What blocks amount to.
pub(super) struct Replayed {
    pub(super) index: Index,
    pub(super) state: State,
    pub(super) committed: Option<LogId>,
    /// Entries up to here are to be purged before anything else: they are missing, and a checkpoint covers them.
    pub(super) purge: Option<LogId>,
}

/// What is wrong with an intact block: not damage of the device, but of the order of things.
pub(super) type Fault = &'static str;

impl Replay {
    /// Begins with the state at the start of the oldest segment.
    pub(super) fn new(cache_bytes: usize, state: &State, asked: Asked) -> Self {
        let last = state.last.map(|id| id.index);
        let purged = state.purged.map(|id| id.index);
        Self {
            index: Index::continuing(cache_bytes, state),
            vote: state.vote,
            commit: None,
            missing: last.filter(|_| last > purged),
            gone: state.last,
            pending: None,
            orphans: true,
            asked,
            separated: VecDeque::new(),
            flushed: BTreeMap::new(),
        }
    }

    fn state(&self) -> State {
        let range = self.index.range();
        State {
            vote: self.vote,
            purged: range.purged,
            last: range.last,
        }
    }

    /// Takes the next block, which lies at `slot`.
    pub(super) fn block(
        &mut self,
        header: &BlockHeader,
        payload: &[u8],
        slot: Slot,
    ) -> Result<(), Fault> {
        self.commit = self.commit.max(header.commit);
        self.know_flushed(header.flushed_up_to);
        if header.flags & FLAG_START != 0 {
            return self.start(header, payload);
        }
        let mut entries = BlockEntries::default();
        for fragment in Fragments::new(payload) {
            match fragment.ok_or("a record cannot be read")? {
                Fragment::More(body) => self.more(body.len())?,
                Fragment::Begin(record, body) => {
                    if self.pending.is_some() {
                        return Err("a record ends too early");
                    }
                    self.orphans = false;
                    self.record(header.number, &record, body.len(), &mut entries)?;
                }
            }
        }
        self.index.add_block(entries, slot);
        Ok(())
    }

    fn start(&mut self, header: &BlockHeader, payload: &[u8]) -> Result<(), Fault> {
        let state = State::decode(payload).ok_or("the state of a segment cannot be read")?;
        if header.flags & FLAG_RECOVERED != 0 {
            self.drop_pending();
            self.drop_orphan(&state);
        }
        match state == self.state() {
            true => Ok(()),
            false => Err("the state of a segment is not what the log before it amounts to"),
        }
    }

    fn more(&mut self, len: usize) -> Result<(), Fault> {
        let Some(pending) = &mut self.pending else {
            return match self.orphans {
                true => Ok(()),
                false => Err("a record has no beginning"),
            };
        };
        pending.left = pending
            .left
            .checked_sub(len)
            .ok_or("a record is too long")?;
        if pending.left == 0 {
            self.pending = None;
        }
        Ok(())
    }

    fn record(
        &mut self,
        block: u64,
        record: &Record,
        stored_here: usize,
        entries: &mut BlockEntries,
    ) -> Result<(), Fault> {
        let range = self.index.range();
        match *record {
            Record::Entry(head) => {
                if !self.index.takes(head.id.index) {
                    return Err("an entry is out of order");
                }
                if head.whole_len() > limits::LOG_ENTRY_BYTES_MAX as u64 {
                    return Err("an entry is too long");
                }
                self.index.append(head.id);
                entries.begin(head.id.index, head.whole_len());
                self.separated
                    .extend(head.separated.map(|separated| SeparatedEntry {
                        index: head.id.index,
                        block,
                        value: LoggedValue {
                            place: separated.place,
                            key_len: separated.key_len,
                        },
                    }));
                let left = (head.stored_len as usize).saturating_sub(stored_here);
                self.pending = (left > 0).then_some(Pending {
                    left,
                    before: range.last,
                });
            }
            Record::Vote(vote) => self.vote = Some(vote),
            Record::TruncateAfter(last) => {
                let index = last.map(|id| id.index);
                if index < range.purged.map(|id| id.index) || index > range.last.map(|id| id.index)
                {
                    return Err("a truncation is out of range");
                }
                self.index.truncate_after(last);
                self.drop_separated_after(index);
                self.missing = self
                    .missing
                    .min(index.filter(|_| index > range.purged.map(|id| id.index)));
                entries.truncate_after(index);
            }
            Record::Purge(upto) => {
                if range
                    .purged
                    .is_some_and(|purged| purged.index >= upto.index)
                {
                    return Err("a purge goes back");
                }
                self.index.purge(upto);
                while let Some(first) = self.separated.front()
                    && first.index <= upto.index
                {
                    self.separated.pop_front();
                }
                self.missing = self.missing.filter(|missing| *missing > upto.index);
                entries.purge(upto.index);
            }
        }
        Ok(())
    }

    fn drop_pending(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.index.drop_after(pending.before);
            self.drop_separated_after(pending.before.map(|id| id.index));
        }
    }

    fn drop_separated_after(&mut self, last: Option<LogIndex>) {
        while let Some(entry) = self.separated.back()
            && Some(entry.index) > last
        {
            self.separated.pop_back();
        }
    }

    /// Blocks below `upto`, and entries that a checkpoint covers, were durable once, with their values.
    fn know_flushed(&mut self, upto: u64) {
        let Asked::Unproven { after } = self.asked else {
            return;
        };
        while let Some(entry) = self.separated.front()
            && (entry.block < upto || Some(entry.index) <= after)
        {
            let entry = *entry;
            self.separated.pop_front();
            if Some(entry.index) > after {
                self.flushed.insert(entry.value.place.segment, entry);
            }
        }
    }

    /// Of each value segment that must be there, an entry: values of it were flushed, and not all of them
    /// may have been given up since. A checkpoint speaks for the entries that it covers.
    pub(super) fn flushed(&self) -> impl Iterator<Item = SeparatedEntry> {
        let purged = self.index.range().purged.map(|id| id.index);
        let entries = self.flushed.values().copied();
        entries.filter(move |entry| Some(entry.index) > purged)
    }

    /// After the last block, and knowing that those below `flushed_up_to` were flushed: the separated
    /// entries that are held and asked for, in order.
    pub(super) fn separated(&mut self, flushed_up_to: u64) -> VecDeque<SeparatedEntry> {
        self.know_flushed(flushed_up_to);
        self.drop_pending();
        debug_assert!(self.separated.iter().is_sorted_by_key(|entry| entry.index));
        debug_assert!(self.separated.iter().is_sorted_by_key(|entry| entry.block));
        std::mem::take(&mut self.separated)
    }

    /// As [`Replay::drop_pending`], for an entry that began in a segment that is gone: nothing has
    /// begun since, and the recovery that dropped it tells what was left.
    fn drop_orphan(&mut self, state: &State) {
        let left = state.last.map(|id| id.index);
        if self.orphans && left < self.index.range().last.map(|id| id.index) {
            self.index.drop_after(state.last);
            self.missing = self
                .missing
                .min(left.filter(|_| left > state.purged.map(|id| id.index)));
        }
        self.orphans = false;
    }

    /// Ends the replay: an entry of which the end is missing was never acknowledged.
    ///
    /// # Errors
    /// When entries are missing that were never purged, and that no checkpoint covers.
    pub(super) fn finish(mut self) -> Result<Replayed, Fault> {
        self.drop_pending();
        let purge = match (self.missing, self.asked) {
            (None, _) => None,
            (Some(missing), Asked::Unproven { after }) if Some(missing) <= after => {
                let gone = self.gone.filter(|gone| gone.index == missing);
                Some(gone.ok_or("segments before this one are missing")?)
            }
            (Some(_), _) => return Err("segments before this one are missing"),
        };
        let state = self.state();
        let committed = self
            .commit
            .and_then(|commit| match (purge.or(state.purged), state.last) {
                (Some(purged), _) if commit <= purged.index => Some(purged),
                // The entries themselves may have been in the torn tail.
                (_, Some(last)) if commit >= last.index => Some(last),
                _ => self.index.id_at(commit),
            });
        Ok(Replayed {
            index: self.index,
            state,
            committed,
            purge,
        })
    }
}
