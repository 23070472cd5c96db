//! Tiered compaction: runs are merged with their neighbours, and only when there are too many of them.
//!
//! Levels do not matter: all runs are one sequence, newest first, and a merge leaves its result in
//! the place of the oldest run it took. Space is bounded by merging everything when what is replaced or
//! deleted, as far as merges have told, comes to as much as the rest. Chunks are far longer than what their tables have of
//! them: when enough of them are deleted, their tables are merged by themselves.

use super::draft::{self, Draft, PlacedRun};
use super::gain::{by_deleting, by_replacing, dropped_score, eager_score, hidden_values};
use super::shape::{Shape, Sum};
use super::task::{CompactionTask, Debt, KeySpan, PickerOptions, TaskOutput};

/// Everything is merged when what is replaced or deleted comes to this many times the rest.
const GARBAGE: f64 = 1.0;

/// Everything is merged when this fraction of the value log is hidden, unless the tables are long.
const VALUES_GARBAGE: f64 = 0.2;

/// The score of tables of deletions that hide nothing.
const CLEANING: f64 = 2.0;

pub(super) fn pick(shape: &Shape, options: &PickerOptions) -> Option<CompactionTask> {
    let runs = draft::placed(shape);
    let finish = |draft: Draft<'_>| draft.finish(shape, options);
    // One whose deletions are to go first is rewritten where it is instead.
    let mut joined = joined(&runs, options).filter_map(finish);
    if let Some(task) = joined.find(|task| task.moves) {
        return Some(task);
    }
    if whole_score(&runs, options) > 1.0
        && let Some(task) = Draft::of_runs(&runs).and_then(finish)
    {
        return Some(task);
    }
    if let Some((score, draft)) = chunks(&runs, options)
        && score > 1.0
        && let Some(task) = finish(draft)
    {
        return Some(task);
    }
    let merging = runs.iter().filter(|placed| placed.run.busy()).count();
    if runs.len() - merging + merging.min(1) > options.tiered_runs_max
        && let Some((range, _)) = draft::cheapest(&runs, |run| !run.busy())
        && let Some(task) = runs.get(range).and_then(Draft::of_runs).and_then(finish)
    {
        return Some(task);
    }
    draft::cleanings(&runs, options)
        .into_iter()
        .find_map(finish)
}

/// Runs that share no key with the next older one, each to become part of it as it is: keys that came
/// in order.
fn joined<'a>(runs: &[PlacedRun<'a>], options: &PickerOptions) -> impl Iterator<Item = Draft<'a>> {
    let pairs = runs.iter().zip(runs.iter().skip(1)).rev();
    pairs.filter_map(|(newer, older)| {
        let whole = newer.run.tables.as_slice();
        let movable = whole.iter().all(|table| draft::movable(table, options))
            && older.run.tables.iter().all(|table| !table.busy)
            && KeySpan::of(whole).is_some_and(|span| older.run.overlapping(&span).is_empty());
        movable.then(|| Draft {
            inputs: vec![(*newer, whole)],
            output: TaskOutput {
                level: older.level,
                run: Some(older.run.id),
            },
        })
    })
}

/// How much a merge of all chunks is due for the sake of the deletions among them. It goes to the oldest run that has some.
fn chunks<'a>(runs: &[PlacedRun<'a>], options: &PickerOptions) -> Option<(f64, Draft<'a>)> {
    let inputs = draft::of_chunks(runs);
    let ((oldest, next), newer) = inputs.split_last()?;
    let tables = || newer.iter().flat_map(|(_, tables)| tables.iter());
    let (upper, next) = (Sum::of(tables()), Sum::of(*next));
    if upper.deletions == 0 {
        return None;
    }
    let deleted = by_deleting(tables(), newer.len(), next, next, options);
    let score = dropped_score(deleted, upper, next, options);
    assert!(score >= 0.0, "a score is a number: {score}");
    let output = TaskOutput {
        level: oldest.level,
        run: Some(oldest.run.id),
    };
    Some((score, Draft { inputs, output }))
}

/// How much a merge of everything is due.
fn whole_score(runs: &[PlacedRun<'_>], options: &PickerOptions) -> f64 {
    let Some((oldest, newer)) = runs.split_last() else {
        return 0.0;
    };
    let tables = || newer.iter().flat_map(|placed| &placed.run.tables);
    let upper = Sum::of(tables());
    let lower = Sum::of(&oldest.run.tables);
    if upper.entries == 0 || lower.entries == 0 {
        return 0.0;
    }
    let replaced = by_replacing(newer, lower, options);
    let deleted = by_deleting(tables(), newer.len(), lower, lower, options);
    let gain = replaced + deleted;
    let values = (upper.value_bytes + lower.value_bytes).max(1) as f64;
    let rest = (upper.bytes + lower.bytes) as f64 - gain.tables;
    let of_tables = gain.tables / rest.max(1.0);
    // Many tables are not rewritten for a few values.
    let of_values = (gain.values / (values * VALUES_GARBAGE))
        .min(gain.values / (upper.bytes + lower.bytes).max(1) as f64);
    let hidden = hidden_values(upper, lower, upper.value_bytes + lower.value_bytes);
    let cost = (upper.bytes + lower.bytes).max(1) as f64;
    (of_tables / GARBAGE)
        .max(of_values)
        .max(hidden)
        .max(eager_score(replaced, deleted, cost, options))
}

pub(super) fn debt(shape: &Shape, options: &PickerOptions) -> Debt {
    let runs = draft::placed(shape);
    let whole = whole_score(&runs, options);
    let allowed = options.tiered_runs_max.max(1);
    let mut debt = Debt {
        bytes: 0,
        runs: runs.len(),
        score: whole.max(runs.len() as f64 / allowed as f64),
    };
    if whole > 1.0 {
        debt.bytes = runs.iter().map(|placed| placed.run.bytes()).sum();
    } else if runs.len() > allowed
        && let Some((_, each)) = draft::cheapest(&runs, |_| true)
    {
        debt.bytes = (each * (runs.len() - allowed) as f64) as u64;
    }
    if let Some((score, draft)) = chunks(&runs, options)
        && score > 1.0
    {
        debt.bytes += draft.bytes();
        debt.score = debt.score.max(score);
    }
    for draft in draft::cleanings(&runs, options) {
        debt.bytes += draft.bytes();
        debt.score = debt.score.max(CLEANING);
    }
    debt
}
