//! A task in the making, and the choices that both policies make among runs and tables.

use super::shape::{RunShape, Shape, Sum, TableShape};
use super::task::{CompactionTask, Input, KeySpan, PickerOptions, TaskOutput};
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Range;

/// A table whose deletions are no longer needed is rewritten without them if they are at least one entry in
/// this many; fewer wait for the next merge.
const USELESS_DELETIONS: u64 = 16;

/// Only tables that have at least this fraction of the full length are moved as they are: a store that is
/// flushed often would be left with many small ones.
const MOVABLE: u64 = 8;

/// A table of a level is ended where it would overlap this many full tables of the level below.
const OVERLAP_TABLES_MAX: u64 = 8;

/// A run and the level it is in. Slices of these are ordered newest first.
#[derive(Clone, Copy)]
pub(super) struct PlacedRun<'a> {
    pub(super) level: usize,
    pub(super) run: &'a RunShape,
}

/// All runs, newest first.
pub(super) fn placed(shape: &Shape) -> Vec<PlacedRun<'_>> {
    shape
        .ordered_runs()
        .map(|(level, run)| PlacedRun { level, run })
        .collect()
}

/// Some tables of a run.
pub(super) type InputTables<'a> = (PlacedRun<'a>, &'a [TableShape]);

/// The tables of chunks of all runs that have some. Merged all together, none goes past an older one.
pub(super) fn of_chunks<'a>(runs: &[PlacedRun<'a>]) -> Vec<InputTables<'a>> {
    let of_chunks = |placed: &PlacedRun<'a>| {
        let tables: &'a [TableShape] = &placed.run.tables;
        let from = tables.partition_point(|table| !table.is_of_chunks());
        let tables = tables.get(from..).unwrap_or_default();
        debug_assert!(
            tables.iter().all(|table| table.is_of_chunks()),
            "the space of chunks is the last one"
        );
        (!tables.is_empty()).then_some((*placed, tables))
    };
    runs.iter().filter_map(of_chunks).collect()
}

/// Tables to be merged, and where to.
pub(super) struct Draft<'a> {
    /// Newest run first; the tables of one run adjacent.
    pub(super) inputs: Vec<(PlacedRun<'a>, &'a [TableShape])>,
    pub(super) output: TaskOutput,
}

impl<'a> Draft<'a> {
    /// Adjacent runs into one, in the place of the oldest of them; `None` if there are none.
    pub(super) fn of_runs(runs: &[PlacedRun<'a>]) -> Option<Self> {
        let oldest = runs.last()?;
        Some(Self {
            inputs: runs
                .iter()
                .map(|placed| (*placed, placed.run.tables.as_slice()))
                .collect(),
            output: TaskOutput {
                level: oldest.level,
                run: Some(oldest.run.id),
            },
        })
    }

    /// Bytes of all inputs.
    pub(super) fn bytes(&self) -> u64 {
        Sum::of(self.tables()).bytes
    }

    fn tables(&self) -> impl Iterator<Item = &'a TableShape> {
        self.inputs.iter().flat_map(|(_, tables)| tables.iter())
    }

    /// The task, unless it would meet one that is running.
    pub(super) fn finish(self, shape: &Shape, options: &PickerOptions) -> Option<CompactionTask> {
        assert!(
            self.inputs.iter().all(|(_, tables)| !tables.is_empty()),
            "a run without a table is no input"
        );
        let span = KeySpan::of(self.tables())?;
        let top = self.inputs.iter().map(|(from, _)| from.level).min()?;
        let (top, output) = (top.max(1), self.output);
        if self.tables().any(|table| table.busy)
            || (output.level >= top && shape.claimed(top, output.level, &span))
        {
            return None;
        }
        let bottom = !older_overlap(shape, output, &span);
        let sum = Sum::of(self.tables());
        let moves = matches!(self.inputs.as_slice(), [(from, _)] if Some(from.run.id) != output.run)
            && !(bottom && self.tables().any(|table| worth_cleaning(table, options)));
        Some(CompactionTask {
            cuts: cuts(shape, output.level, &span, options),
            mixed: mixed(&self.inputs),
            inputs: self.inputs.iter().map(input).collect(),
            output,
            span,
            bottom,
            moves,
            bytes: sum.bytes,
            entries: sum.entries,
        })
    }
}

fn input((from, tables): &(PlacedRun<'_>, &[TableShape])) -> Input {
    Input {
        level: from.level,
        run: from.run.id,
        tables: tables.iter().map(|table| table.id).collect(),
    }
}

/// Whether runs older than what is written to `output` may hold keys of `span`.
fn older_overlap(shape: &Shape, output: TaskOutput, span: &KeySpan) -> bool {
    let same_level = shape.runs(output.level);
    let position = same_level
        .iter()
        .position(|run| Some(run.id) == output.run)
        .map_or(same_level.len(), |position| position + 1);
    let behind = same_level.iter().skip(position);
    let below = shape.levels.iter().skip(output.level + 1);
    behind
        .chain(below.flat_map(|level| &level.runs))
        .any(|run| !run.overlapping(span).is_empty())
}

/// What a merge of `inputs` tells about the writes; see [`CompactionTask::mixed`].
fn mixed(inputs: &[(PlacedRun<'_>, &[TableShape])]) -> Vec<u64> {
    let Some((_, newer)) = inputs.split_last() else {
        return Vec::new();
    };
    if newer
        .iter()
        .any(|(from, tables)| from.run.tables.len() != tables.len())
    {
        return Vec::new();
    }
    let spans: Vec<Option<KeySpan>> = inputs
        .iter()
        .map(|(_, tables)| KeySpan::of(*tables))
        .collect();
    let met = |position: usize, span: &KeySpan| {
        spans
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != position)
            .any(|(_, other)| other.as_ref().is_some_and(|other| other.intersects(span)))
    };
    let mut mixed = Vec::new();
    for (position, (span, (_, tables))) in spans.iter().zip(inputs).enumerate() {
        if span.as_ref().is_some_and(|span| met(position, span)) {
            mixed.push(Sum::of(*tables).entries);
        }
    }
    mixed
}

/// Keys before which a table of `level` is best ended, because from one to the next as much of the
/// level below lies as one table should overlap.
fn cuts(shape: &Shape, level: usize, span: &KeySpan, options: &PickerOptions) -> Vec<Bytes> {
    let mut cuts = Vec::new();
    if level == 0 {
        return cuts;
    }
    let mut since = 0;
    for table in shape
        .runs(level + 1)
        .iter()
        .take(1)
        .flat_map(|run| run.overlapping(span))
    {
        if since >= options.table_bytes.saturating_mul(OVERLAP_TABLES_MAX) {
            cuts.push(table.first.clone());
            since = 0;
        }
        since += table.file_bytes;
    }
    debug_assert!(cuts.is_sorted(), "cuts are in key order");
    cuts
}

/// Whether the table has enough deletions to be rewritten without them once nothing older is left below it.
fn worth_cleaning(table: &TableShape, options: &PickerOptions) -> bool {
    table.deletions > 0
        && table.deletions.saturating_mul(USELESS_DELETIONS) >= table.entries
        && table.highest <= options.oldest_pin
}

/// Tables whose deletions hide nothing any more, each to be rewritten where it is.
pub(super) fn cleanings<'a>(runs: &[PlacedRun<'a>], options: &PickerOptions) -> Vec<Draft<'a>> {
    let mut found = Vec::new();
    for (position, placed) in runs.iter().enumerate() {
        let older = runs.get(position + 1..).unwrap_or_default();
        for table in &placed.run.tables {
            let span = table.span();
            if worth_cleaning(table, options)
                && older
                    .iter()
                    .all(|other| other.run.overlapping(&span).is_empty())
            {
                found.push(Draft {
                    inputs: vec![(*placed, std::slice::from_ref(table))],
                    output: TaskOutput {
                        level: placed.level,
                        run: Some(placed.run.id),
                    },
                });
            }
        }
    }
    found
}

/// Whether the table is long enough to be moved as it is.
pub(super) fn movable(table: &TableShape, options: &PickerOptions) -> bool {
    !table.busy && table.file_bytes >= options.table_bytes / MOVABLE
}

/// The adjacent runs that are merged at the lowest price, and what each run fewer costs in bytes
/// rewritten.
///
/// The price is the bytes rewritten by the square of how many runs fewer that leaves. It favours many
/// short runs, so that runs grow by a large factor from one merge to the next and the bytes written for
/// each byte of data grow with the logarithm of the data, as with tiers of a fixed fan-in; but all the
/// runs that are allowed are used. (By the plain number, a full tree would be kept going by merging the
/// two or three newest runs over and over; squared, it is once merged whole.)
pub(super) fn cheapest(
    runs: &[PlacedRun<'_>],
    usable: impl Fn(&RunShape) -> bool,
) -> Option<(Range<usize>, f64)> {
    let mut best: Option<(Range<usize>, f64, f64)> = None;
    for first in 0..runs.len() {
        let mut bytes = 0;
        for (position, placed) in runs.iter().enumerate().skip(first) {
            if !usable(placed.run) {
                break;
            }
            bytes += placed.run.bytes();
            let fewer = position - first;
            if fewer == 0 {
                continue;
            }
            let price = bytes as f64 / (fewer * fewer) as f64;
            let better = best.as_ref().is_none_or(|(range, lowest, _)| {
                price < *lowest || (price == *lowest && fewer >= range.len())
            });
            if better {
                let each = bytes as f64 / fewer as f64;
                best = Some((first..position + 1, price, each));
            }
        }
    }
    best.map(|(range, _, each)| {
        assert!(range.len() > 1, "a merge within a level takes several runs");
        (range, each)
    })
}

/// Adjacent tables of a run, up to `bytes_max` together, that overlap as little as possible of `below`
/// in proportion to their length. Among equals, the one written longest ago: thus all get their turn.
pub(super) fn window<'a>(
    tables: &'a [TableShape],
    below: &[TableShape],
    bytes_max: u64,
    usable: impl Fn(&[TableShape]) -> bool,
) -> Option<&'a [TableShape]> {
    /// Tables of one window.
    const TABLES_MAX: usize = 64;
    let mut ends = Vec::with_capacity(below.len() + 1);
    let mut total = 0;
    ends.push(0);
    for table in below {
        total += table.file_bytes;
        ends.push(total);
    }
    let before = |count: usize| ends.get(count).copied().unwrap_or(total);
    let mut best: Option<(f64, &'a [TableShape])> = None;
    for (position, first) in tables.iter().enumerate() {
        let from = below.partition_point(|table| table.last < first.first);
        let mut bytes = 0;
        for (count, last) in tables.iter().enumerate().skip(position).take(TABLES_MAX) {
            bytes += last.file_bytes;
            if last.busy || (bytes > bytes_max && count > position) {
                break;
            }
            let to = below.partition_point(|table| table.first <= last.last);
            let overlap = before(to).saturating_sub(before(from));
            let ratio = overlap as f64 / bytes.max(1) as f64;
            let better = best.is_none_or(|(lowest, found)| {
                let age = |tables: &[TableShape]| tables.first().map(|table| table.id);
                match ratio.total_cmp(&lowest) {
                    Ordering::Less => true,
                    Ordering::Equal => {
                        let (this, other) = (Some(first.id), age(found));
                        this < other || (this == other && count + 1 - position > found.len())
                    }
                    Ordering::Greater => false,
                }
            });
            let chosen = tables.get(position..count + 1).unwrap_or_default();
            if better && usable(chosen) {
                best = Some((ratio, chosen));
            }
        }
    }
    best.map(|(_, tables)| tables)
}
