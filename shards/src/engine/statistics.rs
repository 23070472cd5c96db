//! What the engine counts of its work.

use corelith_io::{Instant, now};
use std::cell::Cell;

/// A count that only grows.
#[derive(Default)]
pub(super) struct Counter(Cell<u64>);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.set(self.0.get() + count);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.get()
    }
}

/// One kind of background work.
#[derive(Default)]
pub(super) struct Work {
    running: Cell<u32>,
    jobs: Counter,
    read_bytes: Counter,
    written_bytes: Counter,
    /// How long jobs ran, in nanoseconds.
    busy_nanos: Counter,
}

impl Work {
    /// Counts a job, which runs until the guard is dropped.
    pub(super) fn start(&self) -> RunningJob<'_> {
        self.jobs.add(1);
        self.running.set(self.running.get() + 1);
        RunningJob {
            work: self,
            since: now(),
        }
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read_bytes.add(bytes);
    }

    pub(super) fn wrote(&self, bytes: u64) {
        self.written_bytes.add(bytes);
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.get() > 0
    }

    fn statistics(&self) -> WorkStatistics {
        WorkStatistics {
            running: self.is_running(),
            jobs: self.jobs.get(),
            read_bytes: self.read_bytes.get(),
            written_bytes: self.written_bytes.get(),
        }
    }
}

/// A job under way.
pub(super) struct RunningJob<'a> {
    work: &'a Work,
    since: Instant,
}

impl Drop for RunningJob<'_> {
    fn drop(&mut self) {
        let Self { work, since } = self;
        assert!(work.running.get() > 0, "a job ends once");
        work.running.set(work.running.get() - 1);
        let nanos = now().saturating_duration_since(*since).as_nanos();
        work.busy_nanos
            .add(u64::try_from(nanos).unwrap_or(u64::MAX));
    }
}

/// See [`Statistics`]. Belongs to one core.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) flush: Work,
    pub(super) compaction: Work,
    pub(super) collection: Work,
    pub(super) edits: Counter,
    /// Compactions that only moved tables.
    pub(super) moves: Counter,
    /// Value segments removed because nothing referred to them.
    pub(super) dropped_segments: Counter,
}

impl Counters {
    /// Bytes per second that flushes and compactions wrote while they ran; 0 if none has yet.
    pub(super) fn background_rate(&self) -> u64 {
        let work = [&self.flush, &self.compaction];
        let bytes: u64 = work.iter().map(|work| work.written_bytes.get()).sum();
        let nanos: u64 = work.iter().map(|work| work.busy_nanos.get()).sum();
        let rate = u128::from(bytes) * 1_000_000_000 / u128::from(nanos.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// One kind of background work since the shard was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkStatistics {
    /// Whether a job runs now.
    pub running: bool,
    /// Jobs begun.
    pub jobs: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// What an engine has done since it was opened, and what it has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Flushes of memtables.
    pub flush: WorkStatistics,
    /// Compactions.
    pub compaction: WorkStatistics,
    /// Collections of the value log.
    pub collection: WorkStatistics,
    /// Manifests written.
    pub edits: u64,
    /// Compactions that moved tables to another level without rewriting them.
    pub moves: u64,
    /// Segments of the value log that were removed as a whole.
    pub dropped_segments: u64,
    /// Bytes that compaction has yet to rewrite.
    pub debt_bytes: u64,
    /// Memory that memtables hold, in bytes.
    pub memtable_bytes: u64,
    /// Length of all tables in bytes.
    pub table_bytes: u64,
    /// Number of tables.
    pub tables: u64,
    /// Record bytes in the value log.
    pub value_bytes: u64,
    /// How many of them nothing refers to.
    pub garbage_bytes: u64,
    /// How many more seem to be garbage that is not known as such yet: deleted or replaced in memory or in
    /// tables that are not merged, or held by the log alone. An estimate.
    pub hidden_garbage_bytes: u64,
}

impl super::Engine {
    /// What the engine has done and has to do.
    pub fn statistics(&self) -> Statistics {
        let counters = &self.inner.counters;
        let (tables, table_bytes) = self.tables();
        let garbage = self.garbage_report();
        Statistics {
            flush: counters.flush.statistics(),
            compaction: counters.compaction.statistics(),
            collection: counters.collection.statistics(),
            edits: counters.edits.get(),
            moves: counters.moves.get(),
            dropped_segments: counters.dropped_segments.get(),
            debt_bytes: self.inner.backlog.debt.get().bytes,
            memtable_bytes: self.memtable_bytes() as u64,
            table_bytes,
            tables: tables as u64,
            value_bytes: garbage.bytes,
            garbage_bytes: garbage.garbage,
            hidden_garbage_bytes: self.hidden_garbage(&garbage),
        }
    }
}
