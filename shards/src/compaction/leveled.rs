//! Leveled compaction, lazy at the top.
//!
//! The last level that has tables holds nearly everything in one run. Upwards from its real length,
//! each level may be [`PickerOptions::level_ratio`] times shorter; the shallowest one whose target is at least
//! [`PickerOptions::base_bytes`] is the base, and the levels between it and level 0 are empty. A level beyond
//! its target gives some of its tables to the next one.
//!
//! Level 0 collects flushes. As long as no more than [`PickerOptions::leveled_runs_max`] runs have to be read,
//! merging it into the next level must pay: because it has become long enough in comparison, because
//! enough of what lies below is known to be replaced or deleted by it, or because the tables are so
//! small in comparison with the values they refer to that it costs next to nothing. When there are too
//! many runs before it pays, the cheapest merge within level 0 makes room.
//!
//! Runs cost reads. When reads have asked so many runs that a merge would have taken no more time, level 0 is
//! merged into one run. (The ski rental problem: renting until the rents add up to the price, and buying then,
//! costs at most twice the optimum.) A store that is only written to never does it, one that is only read
//! does it once.

use super::draft::{self, Draft, InputTables, PlacedRun};
use super::gain::{Gain, by_deleting, by_replacing, dropped_score, eager_score, hidden_values};
use super::shape::{Shape, Sum, TableShape};
use super::task::{CompactionTask, Debt, KeySpan, PickerOptions, TaskOutput};

/// Level 0 is merged into the last level when it is this many times as long: each byte written is then
/// rewritten at most half a time more. Only a store that is filled with new keys gets there.
const FILLED: u64 = 2;

/// Level 0 is merged when it is this many times [`PickerOptions::base_bytes`] long, whatever it is merged
/// with: the longest merge there is in the ordinary course of things reads this and a base level.
const FIRST_LEVEL_BASES_MAX: u64 = 4;

/// A merge pays when this fraction of what it reads goes. An overwritten store is then at most
/// 1 / (1 - 0.2) = 1.25 times as long as what is in it.
const GARBAGE: f64 = 0.2;

/// Runs that level 0 may have however many levels there are.
const FIRST_LEVEL_RUNS_MIN: usize = 4;

/// Tables of a level are moved down in pieces of up to this many full tables.
const PIECE_TABLES: u64 = 2;

/// What a merge costs, in the time that asking one more run for its filter takes (estimated at 0.3 to 0.6
/// µs from gets of stores with few and with many runs): this for each entry, and one for each
/// [`BYTES_PER_SEARCH`].
const SEARCHES_PER_ENTRY: u64 = 1;
/// See [`SEARCHES_PER_ENTRY`].
const BYTES_PER_SEARCH: u64 = 320;

/// The score of a level that is to be emptied.
const MISPLACED: f64 = 100.0;

/// The score of tables of deletions that hide nothing.
const CLEANING: f64 = 2.0;

/// A shape under this policy.
struct Leveled<'a> {
    shape: &'a Shape,
    options: &'a PickerOptions,
    /// The length that each level should not exceed.
    targets: Vec<u64>,
    last: usize,
    /// The level into which level 0 is merged.
    output: usize,
    runs: Vec<PlacedRun<'a>>,
    /// How many of `runs` are in level 0.
    first_runs: usize,
}

pub(super) fn pick(shape: &Shape, options: &PickerOptions) -> Option<CompactionTask> {
    let leveled = Leveled::new(shape, options);
    leveled
        .move_down()
        .or_else(|| leveled.make_room())
        .or_else(|| leveled.best())
        .or_else(|| leveled.for_reads())
}

pub(super) fn searches_due(shape: &Shape, options: &PickerOptions) -> Option<u64> {
    Leveled::new(shape, options).searches_due()
}

pub(super) fn debt(shape: &Shape, options: &PickerOptions) -> Debt {
    Leveled::new(shape, options).debt()
}

impl<'a> Leveled<'a> {
    fn new(shape: &'a Shape, options: &'a PickerOptions) -> Self {
        let last = options.levels.max(2) - 1;
        let mut targets = vec![0; last + 1];
        let mut target = shape.level_bytes(last);
        let mut base = last;
        for level in (1..=last).rev() {
            if target >= options.base_bytes {
                base = level;
            }
            // A level above the base is given up only when it is much too short, so that a length
            // near the bound does not make it come and go.
            if let Some(slot) = targets.get_mut(level)
                && target >= options.base_bytes / options.level_ratio.max(1)
            {
                *slot = target;
            }
            target /= options.level_ratio.max(2);
        }
        let filled = (1..=base).find(|level| shape.level_bytes(*level) > 0);
        assert!(
            (1..=last).contains(&base),
            "level 0 is merged into a level below it"
        );
        Self {
            shape,
            options,
            targets,
            last,
            output: filled.unwrap_or(base),
            runs: draft::placed(shape),
            first_runs: shape.runs(0).len(),
        }
    }

    fn first_level(&self) -> &[PlacedRun<'a>] {
        self.runs.get(..self.first_runs).unwrap_or_default()
    }

    /// The run of a level below the first, if it has exactly one.
    fn only_run(&self, level: usize) -> Option<PlacedRun<'a>> {
        match self.shape.runs(level) {
            [run] => Some(PlacedRun { level, run }),
            _ => None,
        }
    }

    /// The tables of the only run of `level` that may hold keys of `span`.
    fn overlapping(&self, level: usize, span: &KeySpan) -> &'a [TableShape] {
        self.only_run(level)
            .map_or(&[], |placed| placed.run.overlapping(span))
    }

    /// What the levels from `level` on hold of `span`.
    fn below(&self, level: usize, span: &KeySpan) -> Sum {
        let levels = self.shape.levels.iter().skip(level);
        let runs = levels.flat_map(|level| &level.runs);
        Sum::of(runs.flat_map(|run| run.overlapping(span)))
    }

    /// Tables of `from` into the run of `level`.
    fn into(
        &self,
        inputs: Vec<(PlacedRun<'a>, &'a [TableShape])>,
        level: usize,
    ) -> Option<Draft<'a>> {
        let span = KeySpan::of(inputs.iter().flat_map(|(_, tables)| tables.iter()))?;
        let mut inputs = inputs;
        if let Some(placed) = self.only_run(level) {
            let overlapping = placed.run.overlapping(&span);
            if !overlapping.is_empty() {
                inputs.push((placed, overlapping));
            }
        } else if !self.shape.runs(level).is_empty() {
            return None;
        }
        let run = self.only_run(level).map(|placed| placed.run.id);
        Some(Draft {
            inputs,
            output: TaskOutput { level, run },
        })
    }

    /// Tables of level 0 that meet nothing on their way down: keys that came in order.
    fn move_down(&self) -> Option<CompactionTask> {
        for (position, placed) in self.first_level().iter().enumerate().rev() {
            let older = self.runs.get(position + 1..).unwrap_or_default();
            let free = |span: &KeySpan| {
                older
                    .iter()
                    .take_while(|other| other.level <= self.output)
                    .all(|other| other.run.overlapping(span).is_empty())
                    && !self.shape.claimed(1, self.output, span)
            };
            let tables = placed.run.tables.as_slice();
            let movable =
                |table: &TableShape| draft::movable(table, self.options) && free(&table.span());
            let Some(from) = tables.iter().position(movable) else {
                continue;
            };
            let rest = tables.get(from..).unwrap_or_default();
            let mut count = 0;
            while let Some(stretch) = rest.get(..count + 1)
                && stretch.last().is_some_and(movable)
                && KeySpan::of(stretch).is_some_and(|span| free(&span))
            {
                count += 1;
            }
            let stretch = rest.get(..count).unwrap_or_default();
            let task = self
                .into(vec![(*placed, stretch)], self.output)
                .and_then(|draft| draft.finish(self.shape, self.options));
            if task.is_some() {
                return task;
            }
        }
        None
    }

    /// The runs that level 0 may have.
    fn room(&self) -> usize {
        let levels = (1..=self.last).filter(|level| !self.shape.runs(*level).is_empty());
        self.options
            .leveled_runs_max
            .saturating_sub(levels.count())
            .max(FIRST_LEVEL_RUNS_MIN)
    }

    /// If level 0 has too many runs: it is merged into the next level if that pays, else some of it
    /// together. Runs that are being merged count as one.
    fn make_room(&self) -> Option<CompactionTask> {
        let busy = |placed: &&PlacedRun<'_>| placed.run.busy();
        let merging = self.first_level().iter().filter(busy).count();
        if self.first_runs - merging + merging.min(1) <= self.room() {
            return None;
        }
        let down = self.first_level_down().filter(|(score, _)| *score > 1.0);
        down.and_then(|(_, inputs)| self.merge_down(inputs))
            .or_else(|| {
                let (range, _) = draft::cheapest(self.first_level(), |run| !run.busy())?;
                Draft::of_runs(self.first_level().get(range)?)?.finish(self.shape, self.options)
            })
    }

    /// The runs of level 0 whose merge spares reads the most: without an oldest one that outweighs all
    /// newer ones.
    fn runs_for_reads(&self) -> &[PlacedRun<'a>] {
        let mut runs = self.first_level();
        let bytes = |placed: &PlacedRun<'_>| Sum::of(&placed.run.tables).bytes;
        while let Some((oldest, newer)) = runs.split_last()
            && bytes(oldest) > newer.iter().map(bytes).sum()
        {
            runs = newer;
        }
        runs
    }

    fn searches_due(&self) -> Option<u64> {
        let runs = self.runs_for_reads();
        let spared = u64::try_from(runs.len().checked_sub(1)?).ok()?;
        let sum = Sum::of(runs.iter().flat_map(|placed| &placed.run.tables));
        let price = sum.entries * SEARCHES_PER_ENTRY + sum.bytes / BYTES_PER_SEARCH;
        // One run spares nothing.
        price.checked_div(spared)
    }

    /// Level 0 into one run, if reads have paid for it.
    fn for_reads(&self) -> Option<CompactionTask> {
        if self.options.searches < self.searches_due()? {
            return None;
        }
        Draft::of_runs(self.runs_for_reads())?.finish(self.shape, self.options)
    }

    /// How much a merge of level 0 into the next level is due, and what it would take from level 0:
    /// all runs from the oldest on that are not busy.
    fn first_level_down(&self) -> Option<(f64, &[PlacedRun<'a>])> {
        let idle = self
            .first_level()
            .iter()
            .rev()
            .take_while(|placed| !placed.run.busy())
            .count();
        let inputs = self.first_level().get(self.first_runs - idle..)?;
        Some((self.first_level_score(inputs)?, inputs))
    }

    fn first_level_score(&self, inputs: &[PlacedRun<'_>]) -> Option<f64> {
        let tables = inputs.iter().flat_map(|placed| &placed.run.tables);
        let span = KeySpan::of(tables.clone())?;
        let bytes = Sum::of(tables).bytes;
        let mut next = Sum::of(self.overlapping(self.output, &span));
        let mut below = self.below(self.output, &span);
        let ratio = if self.output == self.last { FILLED } else { 1 };
        let long_enough = (next.bytes * ratio).clamp(
            self.options.base_bytes,
            self.options.base_bytes * FIRST_LEVEL_BASES_MAX,
        );
        let filled = bytes as f64 / long_enough.max(1) as f64;

        // As long as the level below is empty, the oldest run stands for it.
        let mut newer = inputs;
        if below.entries == 0
            && let Some((oldest, others)) = inputs.split_last()
        {
            newer = others;
            next = Sum::of(&oldest.run.tables);
            below = next;
        }
        let tables = newer.iter().flat_map(|placed| &placed.run.tables);
        let upper = Sum::of(tables.clone());
        let replaced = by_replacing(newer, next, self.options);
        let deleted = by_deleting(tables, newer.len(), next, below, self.options);
        let values = self.shape.tables().map(|table| table.value_bytes).sum();
        Some(
            filled
                .max(self.garbage_score(replaced, deleted, upper, next, below))
                .max(hidden_values(upper, next, values)),
        )
    }

    /// What goes in proportion to what has to go for a merge of `upper` with `next` to pay.
    fn garbage_score(
        &self,
        replaced: Gain,
        deleted: Gain,
        upper: Sum,
        next: Sum,
        below: Sum,
    ) -> f64 {
        let cost = (upper.bytes + next.bytes).max(1) as f64;
        let eager = eager_score(replaced, deleted, cost, self.options);
        let gain = replaced + deleted;
        let values = (upper.value_bytes + below.value_bytes).max(1) as f64;
        // Many tables are not rewritten for a few values.
        let of_values = (gain.values / values).min((gain.tables + gain.values) / cost);
        (of_values.max(gain.tables / cost) / GARBAGE).max(eager)
    }

    fn merge_down(&self, inputs: &[PlacedRun<'a>]) -> Option<CompactionTask> {
        let whole = inputs
            .iter()
            .map(|placed| (*placed, placed.run.tables.as_slice()))
            .collect();
        let draft = self.into(whole, self.output)?;
        if draft.bytes() > self.options.whole_bytes_max
            && let Some(task) = self.piece(*inputs.last()?, self.output)
        {
            return Some(task);
        }
        draft.finish(self.shape, self.options)
    }

    /// Some tables of `from` into the run of `level`, those with the least to rewrite.
    fn piece(&self, from: PlacedRun<'a>, level: usize) -> Option<CompactionTask> {
        let below = self.only_run(level);
        let tables: &'a [TableShape] = &from.run.tables;
        let top = from.level.max(1);
        let usable = |window: &[TableShape]| {
            KeySpan::of(window).is_some_and(|span| {
                let next = self.overlapping(level, &span);
                let span = KeySpan::of(next).map_or(span.clone(), |other| other.hull(span));
                next.iter().all(|table| !table.busy) && !self.shape.claimed(top, level, &span)
            })
        };
        let chosen = draft::window(
            tables,
            below.map_or(&[], |placed| placed.run.tables.as_slice()),
            self.options.table_bytes.saturating_mul(PIECE_TABLES),
            usable,
        )?;
        self.into(vec![(from, chosen)], level)?
            .finish(self.shape, self.options)
    }

    /// The most urgent of what is due and can run.
    fn best(&self) -> Option<CompactionTask> {
        let mut due: Vec<(f64, Due<'a, '_>)> = Vec::new();
        if let Some((score, inputs)) = self.first_level_down() {
            due.push((score, Due::FirstLevel(inputs)));
        }
        for level in 1..=self.last {
            due.push((
                self.level_score(level, |table| !table.busy),
                Due::Level(level),
            ));
        }
        due.extend(
            self.chunks_down()
                .map(|(score, inputs)| (score, Due::Chunks(inputs))),
        );
        due.extend(
            self.deletions()
                .map(|(score, from, table)| (score, Due::Table(from, table))),
        );
        due.retain(|(score, _)| *score > 1.0);
        due.sort_by(|(left, _), (right, _)| right.total_cmp(left));
        due.into_iter()
            .find_map(|(_, due)| self.task(due))
            .or_else(|| {
                draft::cleanings(&self.runs, self.options)
                    .into_iter()
                    .find_map(|draft| draft.finish(self.shape, self.options))
            })
    }

    fn task(&self, due: Due<'a, '_>) -> Option<CompactionTask> {
        match due {
            Due::FirstLevel(inputs) => self.merge_down(inputs),
            Due::Level(level) => match self.only_run(level) {
                Some(placed) => self.piece(placed, level + 1),
                None => {
                    let same = |placed: &&PlacedRun<'a>| placed.level == level;
                    let runs: Vec<_> = self.runs.iter().filter(same).copied().collect();
                    Draft::of_runs(&runs)?.finish(self.shape, self.options)
                }
            },
            Due::Chunks(inputs) => self
                .into(inputs, self.output)?
                .finish(self.shape, self.options),
            Due::Table(from, table) => self
                .into(vec![(from, table)], from.level + 1)?
                .finish(self.shape, self.options),
        }
    }

    /// How many times over its target a level is, counting tables of which `counts` says so.
    fn level_score(&self, level: usize, counts: impl Fn(&TableShape) -> bool) -> f64 {
        if self.shape.runs(level).len() > 1 {
            return MISPLACED;
        }
        let tables = self.shape.levels.get(level).into_iter();
        let tables = tables.flat_map(|level| level.tables());
        let bytes = Sum::of(tables.filter(|table| counts(table))).bytes;
        let target = self.targets.get(level).copied().unwrap_or_default();
        match (bytes, target) {
            _ if level == self.last => 0.0,
            (0, _) => 0.0,
            (_, 0) => MISPLACED,
            _ => (bytes as f64 / target as f64).min(MISPLACED),
        }
    }

    /// How much a merge of the chunks in level 0 into the next level is due for the sake of the deletions among them,
    /// and what it would take: the tables of chunks of all runs, so that none goes past an older one.
    ///
    /// Chunks have tables of their own, which are short and refer to much: these merges cost next to nothing in
    /// comparison with what comes back, and with a merge of whole runs.
    fn chunks_down(&self) -> Option<(f64, Vec<InputTables<'a>>)> {
        let inputs = draft::of_chunks(self.first_level());
        let tables = inputs.iter().flat_map(|(_, tables)| tables.iter());
        if tables.clone().all(|table| table.deletions == 0)
            || tables.clone().any(|table| table.busy)
        {
            return None;
        }
        let span = KeySpan::of(tables.clone())?;
        let next = Sum::of(self.overlapping(self.output, &span));
        let below = self.below(self.output, &span);
        let deleted = by_deleting(tables.clone(), inputs.len(), next, below, self.options);
        let upper = Sum::of(tables);
        Some((dropped_score(deleted, upper, next, self.options), inputs))
    }

    /// Tables below level 0 whose deletions are worth a merge with the next level.
    fn deletions(&self) -> impl Iterator<Item = (f64, PlacedRun<'a>, &'a [TableShape])> {
        let runs = self.runs.iter().skip(self.first_runs);
        // Past another run of its level, a table must not go.
        runs.filter(|placed| placed.level < self.last && self.only_run(placed.level).is_some())
            .flat_map(|placed| placed.run.tables.iter().map(move |table| (*placed, table)))
            .filter(|(_, table)| table.deletions > 0 && !table.busy)
            .map(move |(placed, table)| {
                let span = table.span();
                let next = Sum::of(self.overlapping(placed.level + 1, &span));
                let below = self.below(placed.level + 1, &span);
                let deleted = by_deleting([table].into_iter(), 1, next, below, self.options);
                let none = Gain::default();
                let upper = Sum::of([table]);
                let mut score = self.garbage_score(none, deleted, upper, next, below);
                if table.is_of_chunks() {
                    score = score.max(dropped_score(deleted, upper, next, self.options));
                }
                (score, placed, std::slice::from_ref(table))
            })
    }

    fn debt(&self) -> Debt {
        let mut debt = Debt {
            runs: self.first_runs,
            ..Debt::default()
        };
        let arriving = self.first_level_debt(&mut debt);
        for level in 1..=self.last {
            let arriving = if level == self.output { arriving } else { 0 };
            self.level_debt(level, arriving, &mut debt);
        }
        if let Some((score, inputs)) = self.chunks_down().filter(|(score, _)| *score > 1.0) {
            debt.score = debt.score.max(score);
            debt.bytes += Sum::of(inputs.iter().flat_map(|(_, tables)| tables.iter())).bytes;
        }
        for (score, placed, tables) in self.deletions() {
            if score > 1.0 {
                let next =
                    KeySpan::of(tables).map(|span| self.overlapping(placed.level + 1, &span));
                debt.score = debt.score.max(score);
                debt.bytes += Sum::of(tables.iter().chain(next.unwrap_or_default())).bytes;
            }
        }
        for draft in draft::cleanings(&self.runs, self.options) {
            debt.score = debt.score.max(CLEANING);
            debt.bytes += draft.bytes();
        }
        debt
    }

    /// What level 0 adds to `debt`, and the bytes that are to arrive in the next level.
    fn first_level_debt(&self, debt: &mut Debt) -> u64 {
        let room = self.room();
        debt.score = self.first_runs as f64 / room.max(1) as f64;
        let Some(score) = self.first_level_score(self.first_level()) else {
            return 0;
        };
        debt.score = debt.score.max(score);
        if score > 1.0 {
            let bytes = self.shape.level_bytes(0);
            let tables = self.first_level().iter();
            let span = KeySpan::of(tables.flat_map(|placed| &placed.run.tables));
            let next = span.map(|span| self.overlapping(self.output, &span));
            debt.bytes += bytes + Sum::of(next.unwrap_or_default()).bytes;
            return bytes;
        }
        if self.first_runs > room
            && let Some((_, each)) = draft::cheapest(self.first_level(), |_| true)
        {
            debt.bytes += (each * (self.first_runs - room) as f64) as u64;
        }
        0
    }

    /// What a deeper level adds to `debt` once `arriving` bytes have arrived in it. What it passes on may
    /// in turn be too much for the next level; that is left out.
    fn level_debt(&self, level: usize, arriving: u64, debt: &mut Debt) {
        let bytes = self.shape.level_bytes(level);
        let runs = self.shape.runs(level).len();
        if runs > 1 {
            debt.runs += runs - 1;
            debt.bytes += bytes;
        }
        let score = self.level_score(level, |_| true);
        debt.score = debt.score.max(score);
        if level == self.last || (score <= 1.0 && arriving == 0) {
            return;
        }
        let target = self.targets.get(level).copied().unwrap_or_default();
        let excess = (bytes + arriving).saturating_sub(target);
        let next = self.shape.level_bytes(level + 1) as f64;
        if next > 0.0 {
            let overlap = excess as f64 / (bytes + arriving).max(1) as f64 * next;
            debt.bytes += excess + overlap as u64;
        }
    }
}

/// What may be due.
enum Due<'a, 's> {
    /// These runs of level 0 into the next level.
    FirstLevel(&'s [PlacedRun<'a>]),
    /// Some of a level into the next one, or its runs into one.
    Level(usize),
    /// Tables of chunks of runs of level 0 into the next level.
    Chunks(Vec<InputTables<'a>>),
    /// These tables into the level below theirs.
    Table(PlacedRun<'a>, &'a [TableShape]),
}
