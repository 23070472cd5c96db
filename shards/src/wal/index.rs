//! What is in the log, in memory: the ids of all entries, the blocks they begin in, and the most
//! recent entries themselves. Pure: no I/O.
//!
//! Invariants:
//! * Entries are held from `first` to `last` without a gap; `purged` is just before `first`.
//! * `runs` name the leader of every held index; their first indexes ascend, neighbours differ.
//! * `slots` name every submitted block in which a held entry begins, in order of their first
//!   index: the entry `i` begins in the last slot whose first index is at most `i`.
//! * `cache` holds the last entries, without a gap, up to `last`. It may begin with purged ones, which are
//!   not read any more.
//! * `cache_bytes` bounds the memory that the cache holds, but for two pieces of the arena: no entry holds
//!   a buffer that is longer than what it is charged.

use super::block::BlockEntries;
use super::format::State;
use super::{Entry, LogRange, Want};
use crate::arena::Arena;
use crate::ids::{LogId, LogIndex, ReplicaId, SegmentId, Term};
use crate::limits::{LOG_CACHE_CHUNK_BYTES, LOG_KEPT_BODY_BYTES_MIN, LOG_OWN_BODY_BYTES_MIN};
use std::collections::VecDeque;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// First entry that begins in it.
    pub(crate) first: LogIndex,
    /// Its segment, as in the block's header.
    pub(crate) segment: u32,
    /// Its offset in units of `BLOCK_SIZE`.
    pub(crate) offset_units: u32,
    /// Its length in units of `BLOCK_SIZE`.
    pub(crate) len_units: u32,
    /// Bytes of the entries that begin in it or in a slot before it, values included, counted from
    /// some slot on.
    pub(crate) bytes_up_to: u64,
}

impl Slot {
    pub(crate) fn segment_id(&self) -> SegmentId {
        SegmentId(u64::from(self.segment))
    }
}

/// Consecutive entries of one leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: LogIndex,
    term: Term,
    node: ReplicaId,
}

/// An entry kept in memory, and the sequence number of the block in which it ends.
struct Cached {
    entry: Entry,
    sequence: u64,
}

/// What an entry in the cache is charged beyond its body.
const ENTRY_CHARGE_BYTES: usize = 64;

/// See the module.
pub(crate) struct Index {
    range: LogRange,
    runs: VecDeque<Run>,
    slots: VecDeque<Slot>,
    cache: VecDeque<Cached>,
    /// Where the bodies of short entries are.
    arena: Arena,
    /// Purged entries that were cached, and those after them are none that follow.
    gone: VecDeque<Cached>,
    /// Of both.
    cache_bytes: usize,
    cache_bytes_max: usize,
}

impl Index {
    pub(crate) fn new(cache_bytes_max: usize) -> Self {
        Self {
            range: LogRange::default(),
            runs: VecDeque::new(),
            slots: VecDeque::new(),
            cache: VecDeque::new(),
            arena: Arena::new(LOG_CACHE_CHUNK_BYTES, LOG_OWN_BODY_BYTES_MIN),
            gone: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
        }
    }

    /// Makes an index of a log whose entries up to `state.last` lie in segments that are gone.
    pub(crate) fn continuing(cache_bytes_max: usize, state: &State) -> Self {
        let mut index = Self::new(cache_bytes_max);
        index.range = LogRange {
            purged: state.purged,
            last: state.last,
        };
        index
    }

    pub(crate) fn range(&self) -> LogRange {
        self.range
    }

    /// The first held entry, if there is one.
    pub(crate) fn first(&self) -> Option<LogIndex> {
        self.runs.front().map(|run| run.first)
    }

    /// Whether an entry with this index may come next.
    pub(crate) fn takes(&self, index: LogIndex) -> bool {
        self.range
            .last
            .is_none_or(|last| index.0 == last.index.0 + 1)
    }

    /// Appends an entry's id.
    pub(crate) fn append(&mut self, id: LogId) {
        assert!(
            self.takes(id.index),
            "{id} appended after {:?}",
            self.range.last
        );
        let same_leader = self
            .runs
            .back()
            .is_some_and(|run| run.term == id.term && run.node == id.node);
        if !same_leader {
            let before = self.runs.back().map(|run| run.first);
            debug_assert!(before < Some(id.index), "runs ascend");
            self.runs.push_back(Run {
                first: id.index,
                term: id.term,
                node: id.node,
            });
        }
        self.range.last = Some(id);
    }

    /// Keeps in memory an entry just appended, which ends in block `sequence`.
    pub(crate) fn keep(&mut self, mut entry: Entry, sequence: u64) {
        assert_eq!(self.range.last, Some(entry.id), "entries are kept in order");
        let before = self.cache.back().map(|cached| cached.entry.id.index.0 + 1);
        debug_assert!(
            before.is_none_or(|next| next == entry.id.index.0),
            "a gap in the cache before {}",
            entry.id
        );
        if entry.body.len() < LOG_KEPT_BODY_BYTES_MIN {
            entry.body = self.arena.copy(&entry.body);
        }
        self.cache_bytes += charge(&entry);
        self.cache.push_back(Cached { entry, sequence });
    }

    /// Drops the oldest entries of the cache until it is within its bound. Entries that end after
    /// block `durable` stay, since they cannot be read from disk.
    pub(crate) fn evict(&mut self, durable: u64) {
        while self.cache_bytes > self.cache_bytes_max {
            if self.forget_purged(1) {
                continue;
            }
            match self.cache.front() {
                Some(oldest) if oldest.sequence <= durable => {
                    self.cache_bytes -= charge(&oldest.entry);
                    self.cache.pop_front();
                }
                _ => return,
            }
        }
    }

    /// Notes a submitted block.
    pub(crate) fn add_block(&mut self, entries: BlockEntries, mut slot: Slot) {
        if let Some(last) = entries.cut {
            self.cut_slots(last);
        }
        // Entries purged between staging and submission count too: they are on disk until the purge
        // is durable.
        if let Some((first, _)) = entries.held {
            slot.first = first;
            let before = self.slots.back().map_or(0, |before| before.bytes_up_to);
            slot.bytes_up_to = before + entries.bytes;
            debug_assert!(self.slots.back().is_none_or(|before| before.first < first));
            self.slots.push_back(slot);
        }
    }

    /// Removes all entries after `last` and the blocks that held only them.
    pub(crate) fn drop_after(&mut self, last: Option<LogId>) {
        self.truncate_after(last);
        self.cut_slots(last.map(|id| id.index));
    }

    fn cut_slots(&mut self, last: Option<LogIndex>) {
        while let Some(slot) = self.slots.back()
            && last.is_none_or(|last| slot.first > last)
        {
            self.slots.pop_back();
        }
    }

    /// Removes all entries after `last`; the slots follow when the record that says so is
    /// submitted ([`Index::add_block`]).
    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        while let Some(run) = self.runs.back()
            && last.is_none_or(|last| run.first > last.index)
        {
            self.runs.pop_back();
        }
        while let Some(Cached { entry, .. }) = self.cache.back()
            && last.is_none_or(|last| entry.id.index > last.index)
        {
            self.cache_bytes -= charge(entry);
            self.cache.pop_back();
        }
        self.range.last = last.or(self.range.purged);
    }

    /// Removes all entries up to `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) {
        let next = LogIndex(upto.index.0 + 1);
        if self.range.last.is_none_or(|last| last.index <= upto.index) {
            self.runs.clear();
            self.range.last = Some(upto);
            self.gone.append(&mut self.cache);
        }
        while self.runs.get(1).is_some_and(|second| second.first <= next) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(next);
        }
        self.range.purged = Some(upto);
        debug_assert!(self.first().is_none_or(|first| first >= next));
    }

    /// Drops up to `count` purged entries from memory; `false` if there were fewer. Dropping all at once
    /// would hold up the core.
    pub(crate) fn forget_purged(&mut self, count: usize) -> bool {
        let purged = self.range.purged.map(|id| id.index);
        for _ in 0..count {
            let cached = self.gone.pop_front().or_else(|| {
                self.cache
                    .pop_front_if(|cached| Some(cached.entry.id.index) <= purged)
            });
            let Some(Cached { entry, .. }) = cached else {
                self.gone = VecDeque::new();
                debug_assert!(self.cache_bytes == 0 || !self.cache.is_empty());
                return false;
            };
            self.cache_bytes -= charge(&entry);
        }
        true
    }

    /// Forgets the blocks of which every entry is at or below `purged`, and returns the first
    /// segment that is still needed, if any is.
    pub(crate) fn release_slots(&mut self, purged: LogIndex) -> Option<SegmentId> {
        let next = LogIndex(purged.0 + 1);
        while self.slots.get(1).is_some_and(|second| second.first <= next) {
            self.slots.pop_front();
        }
        let last_is_purged = self.range.last.is_none_or(|last| last.index <= purged);
        if last_is_purged && self.slots.len() == 1 {
            self.slots.clear();
        }
        self.slots.front().map(Slot::segment_id)
    }

    /// The id of the entry at `index`, if it is held.
    pub(crate) fn id_at(&self, index: LogIndex) -> Option<LogId> {
        let last = self.range.last?;
        if index > last.index {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        let run = self.runs.get(after.checked_sub(1)?)?;
        Some(LogId {
            term: run.term,
            node: run.node,
            index,
        })
    }

    /// The last entry before the blocks in which the last `bytes` of entries begin; `None` if all
    /// entries are fewer.
    pub(crate) fn before_last_bytes(&self, bytes: u64) -> Option<LogIndex> {
        let all = self.slots.back()?.bytes_up_to;
        let limit = all.checked_sub(bytes)?;
        let gone = self.slots.partition_point(|slot| slot.bytes_up_to <= limit);
        match self.slots.get(gone) {
            Some(_) if gone == 0 => None,
            Some(kept) => kept.first.0.checked_sub(1).map(LogIndex),
            None => self.range.last.map(|last| last.index),
        }
    }

    /// The part of `from..to` that is held.
    pub(crate) fn clip(&self, from: LogIndex, to: LogIndex) -> (LogIndex, LogIndex) {
        match (self.first(), self.range.last) {
            (Some(first), Some(last)) => (from.max(first), to.min(LogIndex(last.index.0 + 1))),
            _ => (from, from),
        }
    }

    /// The entries of `from..to` (held ones) if all of those wanted are in the cache: they end
    /// early after `max_bytes` of what is wanted.
    pub(crate) fn cached(
        &self,
        from: LogIndex,
        to: LogIndex,
        max_bytes: u64,
        want: Want,
    ) -> Option<Vec<Entry>> {
        let skip = from.0.checked_sub(self.cache.front()?.entry.id.index.0)?;
        let mut bytes = 0;
        let mut entries = Vec::new();
        for Cached { entry, .. } in self.cache.range(usize::try_from(skip).ok()?..) {
            if entry.id.index >= to || (bytes > max_bytes && !entries.is_empty()) {
                break;
            }
            let entry = want.part_of(entry.clone());
            bytes += want.len_of(&entry);
            debug_assert_eq!(entry.id.index.0, from.0 + entries.len() as u64);
            entries.push(entry);
        }
        Some(entries)
    }

    /// The entry at `index` without a separated value, if it is held and in the cache.
    pub(crate) fn cached_one(&self, index: LogIndex) -> Option<Entry> {
        self.first().filter(|first| *first <= index)?;
        let skip = index.0.checked_sub(self.cache.front()?.entry.id.index.0)?;
        let cached = self.cache.get(usize::try_from(skip).ok()?)?;
        debug_assert_eq!(cached.entry.id.index, index, "a gap in the cache");
        Some(cached.entry.clone().without_separated_value())
    }

    /// The first held entry in the cache; all after it are there too.
    pub(crate) fn first_cached(&self) -> Option<LogIndex> {
        let first = self.first()?;
        let cached = self.cache.front()?;
        Some(cached.entry.id.index.max(first))
    }

    /// The block in which the entry `index` begins, and the first index that does not begin there.
    pub(crate) fn slot_of(&self, index: LogIndex) -> Option<(Slot, LogIndex)> {
        let last = self.range.last?;
        let after = self.slots.partition_point(|slot| slot.first <= index);
        let slot = self.slots.get(after.checked_sub(1)?)?;
        debug_assert!(slot.first <= index, "blocks are in order of their entries");
        let end = self
            .slots
            .get(after)
            .map_or(LogIndex(last.index.0 + 1), |next| next.first);
        Some((*slot, end))
    }
}

/// What an entry in the cache is charged: the memory that it holds, and a little for itself.
fn charge(entry: &Entry) -> usize {
    let len = entry.body.len();
    let held = if len < LOG_KEPT_BODY_BYTES_MIN {
        len
    } else {
        2 * len
    };
    held + ENTRY_CHARGE_BYTES
}

#[cfg(test)]
mod tests;
