//! An estimate of what a merge would drop.

use super::draft::PlacedRun;
use super::mix::WriteMix;
use super::shape::{Shape, Sum, TableShape};
use super::task::PickerOptions;
use std::ops::Add;

/// Table bytes that a merge for the sake of values may rewrite, for each byte of values that the newer tables
/// refer to.
const VALUES_PRICE: f64 = 0.02;

/// A cheap merge is due when the newer tables refer to this fraction of the value log: values that they
/// replace cannot be told from live ones before.
const VALUES_HIDDEN: f64 = 0.04;

/// The share of new entries that is assumed to replace something as long as nothing is known: half,
/// but all where it is about values, since that costs little.
const UNKNOWN_TABLES: f64 = 0.5;
/// See [`UNKNOWN_TABLES`].
const UNKNOWN_VALUES: f64 = 1.0;

/// What a deletion takes in a table, beside its key.
const DELETION_BYTES: u64 = 8;

/// What a merge of newer tables with older ones would drop, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Gain {
    pub(super) tables: f64,
    pub(super) values: f64,
}

impl Gain {
    fn checked(self) -> Self {
        let is_amount = |bytes: f64| bytes.is_finite() && bytes >= 0.0;
        assert!(
            is_amount(self.tables) && is_amount(self.values),
            "a gain is a number of bytes: {self:?}"
        );
        self
    }
}

impl Add for Gain {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            tables: self.tables + other.tables,
            values: self.values + other.values,
        }
    }
}

fn mean(bytes: u64, entries: u64) -> f64 {
    bytes as f64 / entries.max(1) as f64
}

/// What is dropped because `newer` runs hold later versions of keys of each other and of `next`.
pub(super) fn by_replacing(newer: &[PlacedRun<'_>], next: Sum, options: &PickerOptions) -> Gain {
    let sums = newer.iter().map(|placed| Sum::of(&placed.run.tables));
    let puts = |sum: Sum| sum.entries.saturating_sub(sum.deletions);
    let mut runs: Vec<u64> = sums.clone().map(puts).collect();
    let new: u64 = runs.iter().sum();
    runs.push(puts(next));
    let mut all = next;
    for sum in sums {
        all.bytes += sum.bytes;
        all.entries += sum.entries;
        all.value_bytes += sum.value_bytes;
    }
    let dropped = options.mix.dropped(&runs);
    let assumed = |share: f64| (share * new as f64).min(next.entries as f64);
    Gain {
        tables: dropped.unwrap_or_else(|| assumed(UNKNOWN_TABLES)) * mean(all.bytes, all.entries),
        values: dropped.unwrap_or_else(|| assumed(UNKNOWN_VALUES))
            * mean(all.value_bytes, all.entries),
    }
    .checked()
}

/// What is dropped because of deletions in `newer`, which is merged with `next`. What they hide is in
/// `below`, that is `next` and everything older in the same range, or, if `newer` is of several runs,
/// in these.
pub(super) fn by_deleting<'a>(
    newer: impl Iterator<Item = &'a TableShape> + Clone,
    runs: usize,
    next: Sum,
    below: Sum,
    options: &PickerOptions,
) -> Gain {
    let mut deletions = 0;
    let mut deletion_bytes = 0;
    for table in newer.clone() {
        let key_bytes = table.first.len().midpoint(table.last.len()) as u64;
        let bytes = table.deletions.saturating_mul(key_bytes + DELETION_BYTES);
        deletion_bytes += bytes.min(table.file_bytes);
        // A reader may still see what younger deletions hide.
        if table.highest <= options.oldest_pin {
            deletions += table.deletions;
        }
    }
    let upper = Sum::of(newer);
    let mut hiding = below;
    if runs > 1 {
        hiding.entries += upper.entries.saturating_sub(upper.deletions);
        hiding.bytes += upper.bytes.saturating_sub(deletion_bytes);
        hiding.value_bytes += upper.value_bytes;
    }
    let deleted = deletions.min(hiding.entries) as f64;
    let mut tables = deleted * mean(hiding.bytes, hiding.entries);
    if next == below {
        // At the bottom, the deletions go as well.
        tables += deletions as f64 * mean(deletion_bytes, upper.deletions);
    }
    Gain {
        tables,
        values: deleted * mean(hiding.value_bytes, hiding.entries),
    }
    .checked()
}

/// How much a merge of `upper` with `next` is due for the sake of the values that `upper` may hide, of
/// `all` that there are.
pub(super) fn hidden_values(upper: Sum, next: Sum, all: u64) -> f64 {
    let price = (upper.bytes + next.bytes) as f64;
    if next.value_bytes == 0 || price > VALUES_PRICE * upper.value_bytes as f64 {
        return 0.0;
    }
    upper.value_bytes as f64 / (VALUES_HIDDEN * all.max(1) as f64)
}

/// How much a merge of chunks is due for the sake of the deletions among them, whatever part of all values they are.
pub(super) fn dropped_score(deleted: Gain, upper: Sum, next: Sum, options: &PickerOptions) -> f64 {
    let cost = (upper.bytes + next.bytes).max(1) as f64;
    let of_values = deleted.values * VALUES_PRICE / cost;
    of_values.max(eager_score(Gain::default(), deleted, cost, options))
}

/// How much a merge that reads `cost` bytes is due where space matters more than rewriting: it pays when
/// more goes than it reads. What is only assumed to be replaced does not count.
pub(super) fn eager_score(
    replaced: Gain,
    deleted: Gain,
    cost: f64,
    options: &PickerOptions,
) -> f64 {
    let gain = match options.mix.is_known() {
        true => replaced + deleted,
        false => deleted,
    };
    match options.is_eager {
        true => (gain.tables + gain.values) / cost,
        false => 0.0,
    }
}

/// What memtables hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InMemory {
    /// Those of chunks left out.
    pub(crate) deletions: u64,
    pub(crate) dropped_chunks: u64,
    pub(crate) puts: u64,
    /// Record bytes that they refer to.
    pub(crate) value_bytes: u64,
}

/// An estimate of the record bytes that tables refer to although something newer deletes them, or, in
/// memory or in level 0, replaces them.
pub(crate) fn hidden_bytes(shape: &Shape, mix: &WriteMix, memory: InMemory) -> u64 {
    // The values of chunks are far longer than others: neither tells of the other's.
    let is_other = |table: &&TableShape| !table.is_of_chunks();
    let chunks = Sum::of(shape.tables().filter(|table| table.is_of_chunks()));
    let all = Sum::of(shape.tables().filter(is_other));
    let puts = |sum: Sum| sum.entries.saturating_sub(sum.deletions);
    let mut newer: Vec<Sum> = shape
        .runs(0)
        .iter()
        .map(|run| Sum::of(run.tables.iter().filter(is_other)))
        .collect();
    if newer.len() == shape.ordered_runs().count() {
        newer.pop();
    }
    let mean = mean(all.value_bytes, puts(all));
    let newer_puts: u64 = newer.iter().copied().map(puts).sum();
    let newer_bytes: u64 = newer.iter().map(|sum| sum.value_bytes).sum();
    let mut runs = vec![memory.puts];
    runs.extend(newer.into_iter().map(puts));
    runs.push(puts(all).saturating_sub(newer_puts));
    let replaced = mix.dropped(&runs).unwrap_or(0.0) * mean;
    // What replaces a separated value is mostly one itself.
    let replaced = replaced.min((memory.value_bytes + newer_bytes) as f64);
    let deleted = memory.deletions.saturating_add(all.deletions) as f64 * mean;
    let dropped = memory.dropped_chunks.saturating_add(chunks.deletions) as f64
        * self::mean(chunks.value_bytes, puts(chunks));
    let others = (deleted + replaced).min(all.value_bytes as f64);
    (others + dropped.min(chunks.value_bytes as f64)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::tests::text::parse;

    #[test]
    fn what_is_hidden_is_estimated() {
        let shape = parse(
            "L0: 3 0-999 1KiB entries=100 deletions=100
             L6: 2 0-999 40KiB entries=1000 values=1000KiB",
        );
        let kib = |bytes: u64| bytes.div_ceil(1 << 10);
        let unknown = WriteMix::default();
        let with = |deletions, puts, value_bytes| InMemory {
            deletions,
            dropped_chunks: 0,
            puts,
            value_bytes,
        };
        // (in memory, KiB hidden)
        let cases = [
            (with(0, 0, 0), 100),
            (with(50, 500, 500 << 10), 150),
            (with(5000, 0, 0), 1000),
        ];
        for (memory, expected) in cases {
            let hidden = hidden_bytes(&shape, &unknown, memory);
            assert_eq!(kib(hidden), expected, "{memory:?}");
        }
        let mut with_chunks = shape.clone();
        if let Some(table) = with_chunks.levels[0].runs[0].tables.first_mut() {
            let tag = crate::Space::Chunk.tag();
            (table.first, table.last) = (vec![tag, 1].into(), vec![tag, 2].into());
            (table.deletions, table.value_bytes) = (10, 90 << 20);
        }
        let dropped = |dropped_chunks| {
            let memory = InMemory {
                dropped_chunks,
                ..InMemory::default()
            };
            hidden_bytes(&with_chunks, &unknown, memory) >> 20
        };
        assert_eq!((dropped(0), dropped(10), dropped(1000)), (10, 20, 90));
        let mut all_replaced = WriteMix::default();
        all_replaced.merged(&[100, 1000], 100);
        let hidden = |value_bytes| {
            kib(hidden_bytes(
                &shape,
                &all_replaced,
                with(0, 200, value_bytes),
            ))
        };
        assert!((290..=310).contains(&hidden(200 << 10)));
        assert_eq!(hidden(0), 100, "without values they replace none");
    }
}
