//! What a picker decides from, and what it chooses.

use super::mix::WriteMix;
use crate::ids::{LogIndex, TableId};
use bytes::Bytes;

/// What the pickers decide from, beside the shape.
#[derive(Clone, Debug)]
pub(crate) struct PickerOptions {
    /// Levels, the one of flushes included.
    pub(crate) levels: usize,
    /// A table is ended at this length.
    pub(crate) table_bytes: u64,
    /// How much longer a level may be than the one above it.
    pub(crate) level_ratio: u64,
    /// A level whose target is shorter than this is left out: level 0 is merged past it.
    pub(crate) base_bytes: u64,
    /// A merge of level 0 into the next level that would read more than this is done in pieces. It takes
    /// a change of policy or a received snapshot to get there.
    pub(crate) whole_bytes_max: u64,
    /// Runs, over all levels, up to which a leveled shape is left alone. A read of an absent key asks
    /// the filter of each.
    pub(crate) leveled_runs_max: usize,
    /// The same of a tiered shape.
    pub(crate) tiered_runs_max: usize,
    /// What merges so far told about the writes.
    pub(crate) mix: WriteMix,
    /// Reads that had to ask several runs since level 0 was merged last.
    pub(crate) searches: u64,
    /// Whether space matters more than rewriting: next to nothing is written, or the device is full.
    pub(crate) is_eager: bool,
    /// The lowest pinned sequence number, the highest possible one if there is none: a deletion at or
    /// below it can be dropped once nothing older is left.
    pub(crate) oldest_pin: LogIndex,
}

impl Default for PickerOptions {
    fn default() -> Self {
        Self {
            levels: 7,
            table_bytes: crate::limits::TABLE_BYTES,
            level_ratio: 10,
            base_bytes: 1 << 30,
            whole_bytes_max: 32 << 30,
            leveled_runs_max: 12,
            tiered_runs_max: 20,
            mix: WriteMix::default(),
            searches: 0,
            is_eager: false,
            oldest_pin: LogIndex(u64::MAX),
        }
    }
}

/// Tables of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) level: usize,
    pub(crate) run: u64,
    /// In key order.
    pub(crate) tables: Vec<TableId>,
}

/// Where the result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskOutput {
    pub(crate) level: usize,
    /// The run whose place in the level it takes, together with the tables of that run that are not
    /// inputs. `None`, or a run that has gone meanwhile: the only run of the level, made if there is
    /// none.
    pub(crate) run: Option<u64>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompactionTask {
    /// Newest run first.
    pub(crate) inputs: Vec<Input>,
    pub(crate) output: TaskOutput,
    /// The keys of all inputs.
    pub(crate) span: KeySpan,
    /// Nothing older than the inputs holds any of these keys: deletions need not be kept.
    pub(crate) bottom: bool,
    /// The tables change their level without being rewritten, which is done at once.
    pub(crate) moves: bool,
    /// Tables of the output are best ended before these keys, so that none of them overlaps too much
    /// of the next level.
    pub(crate) cuts: Vec<Bytes>,
    /// Bytes of all inputs.
    pub(crate) bytes: u64,
    /// Entries of all inputs.
    pub(crate) entries: u64,
    /// Entries of each input run that shares a range with another, newest first; empty if only parts of
    /// the newer runs are merged. Once the task is done, [`WriteMix::merged`] is told these, and
    /// how many entries went because a newer version of their key was among the inputs.
    pub(crate) mixed: Vec<u64>,
}

impl CompactionTask {
    /// What others must keep off while it runs. Level 0 is not part of it: there, runs are merged
    /// whole or from the oldest on, and the chunks of all runs together, so that its busy tables tell enough.
    pub(super) fn claim(&self) -> Option<LevelClaim> {
        let top = self.inputs.iter().map(|input| input.level).min()?.max(1);
        (self.output.level >= top).then(|| LevelClaim {
            top,
            bottom: self.output.level,
            span: self.span.clone(),
        })
    }
}

/// What compaction is behind by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Debt {
    /// An estimate of the bytes that have to be rewritten until nothing is left to do.
    pub(crate) bytes: u64,
    /// Runs that a read may have to ask, beside one per level.
    pub(crate) runs: usize,
    /// How many times over its bound the worst part of the shape is; up to 1 there is nothing to do.
    pub(crate) score: f64,
}

/// A range of stored keys, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeySpan {
    pub(crate) first: Bytes,
    pub(crate) last: Bytes,
}

/// The levels below the first one that a running task reads or writes, and the keys it may write
/// there. A key range without a table may still get one: busy tables alone do not tell.
#[derive(Clone, Debug)]
pub(crate) struct LevelClaim {
    pub(crate) top: usize,
    pub(crate) bottom: usize,
    pub(crate) span: KeySpan,
}
