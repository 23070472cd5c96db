//! Space that will come back, what it waits for, and how it comes back without writes.
//!
//! Writes drive flushes, merges and collections. A shard without writes, or with few, would never start one. So
//! memtables are flushed by age, the sooner if they delete much, and garbage is merged away and collected that
//! under load waits until there is more of it.

use super::{Engine, edit};
use crate::compaction::{InMemory, hidden_bytes};
use crate::ids::{LogIndex, ValueSegmentId};
use crate::limits::{
    DROPPED_AGE, DROPPED_CHUNKS_MIN, DROPPED_OUTLOOK, DROPPED_OUTLOOK_PERIOD, MEMTABLE_AGE_MAX,
    MEMTABLE_AGE_PINNING, OUTLOOK_PERIOD, PINNED_BYTES_MIN, QUIET_AFTER,
};
use crate::vlog::GarbageReport;
use corelith_io::{Instant, now};
use std::cell::Cell;
use std::fmt;
use std::time::Duration;

/// Bytes that will come back to the device, by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returning {
    /// Values that newer entries seem to delete or replace, an estimate: it is known once memtables are
    /// flushed and their tables merged.
    pub hidden_bytes: u64,
    /// Values that only the log refers to, until it is purged.
    pub logged_bytes: u64,
    /// Values that nothing refers to in the segment that is written to, until it is ended.
    pub unsealed_bytes: u64,
    /// Values that nothing refers to, in segments that collection is to drop or to rewrite.
    pub collected_bytes: u64,
    /// Files out of use that are still read from.
    pub read_bytes: u64,
    /// Removed files, which give their space back in steps.
    pub removed_bytes: u64,
}

/// What space waits for before it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Flushes and merges, which find what is hidden.
    Merges,
    /// The purge of the log.
    Log,
    /// The end of the segment that is written to.
    Segment,
    /// The collection of the value log.
    Collection,
    /// The end of reads, scans and snapshots.
    Readers,
    /// The removal of files in steps.
    Removal,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Merges => "merges",
            Self::Log => "log",
            Self::Segment => "segment",
            Self::Collection => "collection",
            Self::Readers => "readers",
            Self::Removal => "removal",
        })
    }
}

impl Returning {
    fn parts(&self) -> [(Wait, u64); 6] {
        [
            (Wait::Merges, self.hidden_bytes),
            (Wait::Log, self.logged_bytes),
            (Wait::Segment, self.unsealed_bytes),
            (Wait::Collection, self.collected_bytes),
            (Wait::Readers, self.read_bytes),
            (Wait::Removal, self.removed_bytes),
        ]
    }

    /// All of it.
    pub fn bytes(&self) -> u64 {
        let parts = self.parts().into_iter();
        parts.fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    /// What most of it waits for; `None` if nothing is to come.
    pub fn waits_for(&self) -> Option<Wait> {
        let waiting = self.parts().into_iter().filter(|(_, bytes)| *bytes > 0);
        let most = waiting.max_by_key(|(_, bytes)| *bytes);
        most.map(|(wait, _)| wait)
    }
}

/// Whether a memtable is flushed although it is not full: `age` has passed since its first entry, and
/// `pinned` bytes come back only after it is flushed.
fn is_flush_due(age: Duration, pinned: u64) -> bool {
    age >= MEMTABLE_AGE_MAX || (age >= MEMTABLE_AGE_PINNING && pinned >= PINNED_BYTES_MIN)
}

/// Whether a memtable is flushed because of the chunks that it deletes.
fn is_drop_due(age: Duration, dropped_chunks: u64) -> bool {
    age >= DROPPED_AGE && dropped_chunks >= DROPPED_CHUNKS_MIN
}

/// What the engine saw at its last look. Belongs to one core.
#[derive(Default)]
pub(super) struct Outlook {
    looked: Cell<Option<Instant>>,
    seen: Cell<Option<OutlookBasis>>,
    is_log_in_the_way: Cell<bool>,
    /// When a memtable that deletes many chunks was frozen last.
    dropped: Cell<Option<Instant>>,
}

/// What the outlook is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OutlookBasis {
    generation: u64,
    applied: Option<LogIndex>,
    purged: Option<LogIndex>,
    first_unsealed: ValueSegmentId,
    is_eager: bool,
}

impl Engine {
    /// Whether space matters more than what it costs to get it back: the device or the shard is full, or next
    /// to nothing has been written for a while.
    pub(super) fn is_eager(&self) -> bool {
        let slow_since = self.inner.pace.meter.slow_since();
        let is_quiet = slow_since.is_some_and(|since| since.elapsed() >= QUIET_AFTER);
        self.is_disk_full() || self.inner.was_full.get() || is_quiet
    }

    /// Whether values come back only if the log is purged of entries that are in tables: more than it
    /// keeps for replicas that are behind, should all have them.
    pub fn is_log_in_the_way(&self) -> bool {
        self.inner.outlook.is_log_in_the_way.get()
    }

    /// Flushes a memtable by age, and finds out whether the log keeps values from being collected.
    pub(super) fn look_out(&self) {
        let now = now();
        let outlook = &self.inner.outlook;
        self.flush_dropped(now);
        let dropped = outlook.dropped.get();
        let has_dropped =
            dropped.is_some_and(|at| now.saturating_duration_since(at) < DROPPED_OUTLOOK);
        let period = match has_dropped {
            true => DROPPED_OUTLOOK_PERIOD,
            false => OUTLOOK_PERIOD,
        };
        let looked = outlook.looked.get();
        if looked.is_some_and(|looked| now.saturating_duration_since(looked) < period) {
            return;
        }
        outlook.looked.set(Some(now));
        let (age, circumstances, checkpointed) = {
            let state = self.inner.state.borrow();
            let since = state.unfrozen_since.filter(|_| state.frozen.is_empty());
            let circumstances = OutlookBasis {
                generation: state.manifest.generation,
                applied: state.applied.index(),
                purged: (self.inner.log.purged)(),
                first_unsealed: self.inner.values.first_unsealed(),
                is_eager: self.is_eager(),
            };
            (
                since.map(|since| now.saturating_duration_since(since)),
                circumstances,
                state.manifest.checkpoint.index(),
            )
        };
        let is_old = age.is_some_and(|age| age >= MEMTABLE_AGE_PINNING);
        let is_new = outlook.seen.replace(Some(circumstances)) != Some(circumstances);
        let wants_space = circumstances.is_eager || has_dropped;
        if !wants_space {
            outlook.is_log_in_the_way.set(false);
        }
        let has_cause = is_old || (is_new && wants_space);
        if !has_cause {
            return;
        }
        let report = self.garbage_report();
        let waiting = |is_flushed: bool| -> u64 {
            let segments = report.segments.iter();
            let counted =
                segments.filter(|segment| (Some(segment.highest) <= checkpointed) == is_flushed);
            counted.map(|segment| segment.waiting).sum()
        };
        let in_the_way = wants_space && waiting(true) >= PINNED_BYTES_MIN;
        outlook.is_log_in_the_way.set(in_the_way);
        let (hidden, by_tables) = self.hidden();
        let by_memtables = hidden.saturating_sub(by_tables);
        let pinned = waiting(false).saturating_add(by_memtables);
        if age.is_some_and(|age| is_flush_due(age, pinned)) {
            self.freeze();
        }
    }

    /// Whether a memtable is to be flushed by its age, or what was dropped lately may be in the way of space.
    pub(super) fn awaits_space(&self) -> bool {
        let dropped = self.inner.outlook.dropped.get();
        dropped.is_some_and(|at| at.elapsed() < DROPPED_OUTLOOK)
            || self.inner.state.borrow().unfrozen_since.is_some()
    }

    /// Flushes a memtable that deletes many chunks: what comes back is known without an estimate, and is much.
    fn flush_dropped(&self, now: Instant) {
        let is_due = {
            let state = self.inner.state.borrow();
            let since = state.unfrozen_since.filter(|_| state.frozen.is_empty());
            since.is_some_and(|since| {
                let age = now.saturating_duration_since(since);
                is_drop_due(age, state.active.dropped_chunks())
            })
        };
        if is_due {
            self.freeze();
            self.inner.outlook.dropped.set(Some(now));
        }
    }

    /// See [`Returning::hidden_bytes`]; how much of it there would be without the memtables, too.
    fn hidden(&self) -> (u64, u64) {
        let state = self.inner.state.borrow();
        let mut memory = InMemory::default();
        for memtable in state.memtables() {
            let deletions = memtable.deletions();
            let dropped = memtable.dropped_chunks().min(deletions);
            memory.dropped_chunks += dropped;
            memory.deletions += deletions - dropped;
            memory.puts += memtable.versions().saturating_sub(deletions);
            memtable.for_references(|_, bytes| memory.value_bytes += bytes);
        }
        let shape = edit::shape_of(&state.version);
        let mix = self.inner.mix.get();
        let hidden = |memory| hidden_bytes(&shape, &mix, memory);
        (hidden(memory), hidden(InMemory::default()))
    }

    /// Values that will be garbage but are not known as such yet.
    pub(super) fn hidden_garbage(&self, garbage: &GarbageReport) -> u64 {
        self.hidden().0.saturating_add(garbage.waiting)
    }

    /// What will come back.
    pub(super) fn returning(&self, garbage: &GarbageReport) -> Returning {
        let values = &self.inner.values;
        let mut returning = Returning {
            hidden_bytes: self.hidden().0,
            read_bytes: values.obsolete_bytes(),
            removed_bytes: self.inner.removals.held_bytes(),
            ..Returning::default()
        };
        for segment in &garbage.segments {
            match segment.sealed {
                true => returning.logged_bytes += segment.waiting,
                false => returning.unsealed_bytes += segment.waiting,
            }
            returning.collected_bytes += segment.reclaimed;
        }
        let state = self.inner.state.borrow();
        let obsolete = state.obsolete.iter().map(|table| table.meta().file_bytes);
        returning.read_bytes += obsolete.sum::<u64>();
        returning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memtable_is_flushed_by_age_and_by_what_it_pins() {
        let (early, pinning, late) = (
            MEMTABLE_AGE_PINNING / 2,
            MEMTABLE_AGE_PINNING,
            MEMTABLE_AGE_MAX,
        );
        let cases = [
            (early, u64::MAX, false),
            (pinning, 0, false),
            (pinning, PINNED_BYTES_MIN - 1, false),
            (pinning, PINNED_BYTES_MIN, true),
            (late, 0, true),
        ];
        for (age, pinned, is_due) in cases {
            assert_eq!(is_flush_due(age, pinned), is_due, "{age:?} {pinned}");
        }
    }

    #[test]
    fn a_memtable_is_flushed_by_the_chunks_that_it_deletes() {
        for (age, dropped, is_due) in [
            (DROPPED_AGE / 2, u64::MAX, false),
            (DROPPED_AGE, DROPPED_CHUNKS_MIN - 1, false),
            (DROPPED_AGE, DROPPED_CHUNKS_MIN, true),
        ] {
            assert_eq!(is_drop_due(age, dropped), is_due, "{age:?} {dropped}");
        }
    }

    #[test]
    fn what_comes_back_waits_for_what_holds_most_of_it() {
        let mut returning = Returning::default();
        assert_eq!((returning.bytes(), returning.waits_for()), (0, None));
        returning.removed_bytes = 5;
        assert_eq!(returning.waits_for(), Some(Wait::Removal));
        returning.hidden_bytes = 6;
        assert_eq!(returning.waits_for(), Some(Wait::Merges));
        assert_eq!(returning.bytes(), 11);
    }
}
