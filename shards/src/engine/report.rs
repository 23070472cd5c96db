//! What a shard's storage looks like now, for people.

use super::{Damage, Engine, Returning, ScrubProgress, Statistics};
use crate::compaction::Policy;
use crate::vlog::GarbageReport;

/// The tables of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelReport {
    /// The level; 0 is what memtables are flushed to.
    pub level: usize,
    /// Sorted runs; a read may have to ask the filter of each.
    pub runs: usize,
    /// Tables.
    pub tables: usize,
    /// Length of their files in bytes.
    pub bytes: u64,
    /// Versions in them.
    pub entries: u64,
    /// How many of those are deletions.
    pub deletions: u64,
    /// Record bytes of the value log that they refer to.
    pub reference_bytes: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct StorageReport {
    /// How tables are compacted.
    pub policy: Policy,
    /// Levels with tables in them.
    pub levels: Vec<LevelReport>,
    /// The value log, segment by segment.
    pub garbage: GarbageReport,
    /// Space that will come back, and what it waits for.
    pub returning: Returning,
    /// Work done and to do.
    pub statistics: Statistics,
    /// Whether new values are refused because the device is full.
    pub is_disk_full: bool,
    /// How far the scrubber has come.
    pub scrub: ScrubProgress,
    /// Damage met since the shard was opened, in files that are still in use.
    pub damages: Vec<Damage>,
}

impl Engine {
    /// What the storage looks like now. Costs a walk over the metadata of all tables.
    pub fn report(&self) -> StorageReport {
        let state = self.inner.state.borrow();
        let mut levels = Vec::new();
        for (level, runs) in state.version.levels.iter().enumerate() {
            let mut report = LevelReport {
                level,
                runs: runs.len(),
                ..LevelReport::default()
            };
            for table in runs.iter().flat_map(|run| &run.tables) {
                let meta = table.meta();
                report.tables += 1;
                report.bytes += meta.file_bytes;
                report.entries += meta.entries;
                report.deletions += meta.deletions;
                report.reference_bytes += meta.reference_bytes();
            }
            if report.runs > 0 {
                levels.push(report);
            }
        }
        let policy = state.policy;
        drop(state);
        let garbage = self.garbage_report();
        StorageReport {
            policy,
            levels,
            returning: self.returning(&garbage),
            garbage,
            statistics: self.statistics(),
            is_disk_full: self.is_disk_full(),
            scrub: self.inner.scrubbing.progress(),
            damages: self.damages(),
        }
    }
}
