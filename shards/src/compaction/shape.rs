//! What a picker sees of a version.
//!
//! Invariants:
//! * Runs are ordered newest first: levels in order, and within a level runs in order. Of two versions
//!   of a key, the newer one is in an earlier run, or both are in the same table.
//! * The tables of a run are sorted, and no key is in two of them: a writer ends a table between two
//!   keys, never between two versions of one.
//! * Under the leveled policy each level but the first is on its way to one run.
//! * No table is read by two running tasks, and no two write the same keys to the same levels.

use super::task::{CompactionTask, KeySpan, LevelClaim};
use crate::ids::{LogIndex, TableId};
use crate::key::Space;
use bytes::Bytes;

/// An sstable, as far as picking goes.
#[derive(Clone, Debug)]
pub(crate) struct TableShape {
    pub(crate) id: TableId,
    /// Length of its file.
    pub(crate) file_bytes: u64,
    /// Versions in it, deletions included.
    pub(crate) entries: u64,
    /// Versions that say that the key is deleted.
    pub(crate) deletions: u64,
    /// Record bytes of the value log that it refers to.
    pub(crate) value_bytes: u64,
    /// Its first stored key.
    pub(crate) first: Bytes,
    /// Its last stored key.
    pub(crate) last: Bytes,
    /// Its newest version.
    pub(crate) highest: LogIndex,
    /// A running task reads it.
    pub(crate) busy: bool,
}

/// A sorted run: tables in key order that share no key.
#[derive(Clone, Debug)]
pub(crate) struct RunShape {
    pub(crate) id: u64,
    pub(crate) tables: Vec<TableShape>,
}

/// The runs of a level, newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct LevelShape {
    pub(crate) runs: Vec<RunShape>,
}

/// A version of the file set, and the tasks that run on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    /// Level 0, into which memtables are flushed, first. Missing levels are empty ones.
    pub(crate) levels: Vec<LevelShape>,
    /// What running tasks will write to; see [`Shape::start`].
    pub(crate) claims: Vec<LevelClaim>,
}

impl KeySpan {
    pub(crate) fn intersects(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The smallest range that holds both.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }

    /// The smallest range that holds all `tables`; `None` if there are none.
    pub(crate) fn of<'a>(tables: impl IntoIterator<Item = &'a TableShape>) -> Option<Self> {
        tables
            .into_iter()
            .map(TableShape::span)
            .reduce(KeySpan::hull)
    }
}

impl TableShape {
    /// Whether all its keys are those of chunks: the last space has tables of its own.
    pub(super) fn is_of_chunks(&self) -> bool {
        self.first.first() == Some(&Space::Chunk.tag())
    }

    pub(crate) fn span(&self) -> KeySpan {
        KeySpan {
            first: self.first.clone(),
            last: self.last.clone(),
        }
    }
}

/// Sums over tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) entries: u64,
    pub(super) deletions: u64,
    pub(super) value_bytes: u64,
}

impl Sum {
    pub(super) fn of<'a>(tables: impl IntoIterator<Item = &'a TableShape>) -> Self {
        let mut sum = Self::default();
        for table in tables {
            sum.bytes += table.file_bytes;
            sum.entries += table.entries;
            sum.deletions += table.deletions;
            sum.value_bytes += table.value_bytes;
        }
        sum
    }
}

impl RunShape {
    pub(super) fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.file_bytes).sum()
    }

    pub(super) fn busy(&self) -> bool {
        self.tables.iter().any(|table| table.busy)
    }

    /// The tables that may hold keys of `span`.
    pub(super) fn overlapping(&self, span: &KeySpan) -> &[TableShape] {
        let from = self.tables.partition_point(|table| table.last < span.first);
        let rest = self.tables.get(from..).unwrap_or_default();
        let count = rest.partition_point(|table| table.first <= span.last);
        rest.get(..count).unwrap_or_default()
    }
}

impl LevelShape {
    pub(super) fn tables(&self) -> impl Iterator<Item = &TableShape> {
        self.runs.iter().flat_map(|run| &run.tables)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(RunShape::bytes).sum()
    }
}

impl Shape {
    /// The runs of `level`, newest first.
    pub(super) fn runs(&self, level: usize) -> &[RunShape] {
        self.levels.get(level).map_or(&[], |level| &level.runs)
    }

    pub(super) fn level_bytes(&self, level: usize) -> u64 {
        self.levels.get(level).map_or(0, LevelShape::bytes)
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &TableShape> {
        self.levels.iter().flat_map(LevelShape::tables)
    }

    /// All runs with their levels, newest first.
    pub(super) fn ordered_runs(&self) -> impl DoubleEndedIterator<Item = (usize, &RunShape)> {
        self.levels
            .iter()
            .enumerate()
            .flat_map(|(number, level)| level.runs.iter().map(move |run| (number, run)))
    }

    pub(super) fn busy(&self) -> bool {
        self.tables().any(|table| table.busy)
    }

    /// Whether the tables of each run are in order and share no key.
    pub(super) fn is_in_order(&self) -> bool {
        self.ordered_runs().all(|(_, run)| {
            let pairs = run.tables.iter().zip(run.tables.iter().skip(1));
            pairs
                .into_iter()
                .all(|(before, after)| before.last < after.first)
        })
    }

    /// Whether a running task may write keys of `span` to a level from `top` to `bottom`, or read
    /// there what belongs between.
    pub(super) fn claimed(&self, top: usize, bottom: usize, span: &KeySpan) -> bool {
        self.claims
            .iter()
            .any(|claim| claim.top <= bottom && top <= claim.bottom && claim.span.intersects(span))
    }

    /// Marks what a started task works on. Whoever makes a shape from a version does this for every
    /// running task that is not a move: moves are done at once.
    pub(crate) fn start(&mut self, task: &CompactionTask) {
        for input in &task.inputs {
            let Some(level) = self.levels.get_mut(input.level) else {
                continue;
            };
            for run in level.runs.iter_mut().filter(|run| run.id == input.run) {
                for table in &mut run.tables {
                    let is_input = input.tables.contains(&table.id);
                    assert!(!(is_input && table.busy), "a table has two tasks");
                    table.busy |= is_input;
                }
            }
        }
        if let Some(claim) = task.claim() {
            let is_claimed = self.claimed(claim.top, claim.bottom, &claim.span);
            assert!(!is_claimed, "two tasks write the same keys to a level");
            self.claims.push(claim);
        }
    }
}
