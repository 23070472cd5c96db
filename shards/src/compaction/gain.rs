//! What a merge would do away with, as far as can be told beforehand.

use super::draft::Placed;
use super::picker::Options;
use super::shape::{Sum, TableShape};
use std::ops::Add;

/// A merge for the sake of values is cheap up to so many table bytes for each byte of values that the
/// newer tables refer to.
const VALUES_PRICE: f64 = 0.02;

/// A cheap merge is due when the newer tables refer to this fraction of the value log: values that they
/// replace cannot be told from live ones before.
const VALUES_HIDDEN: f64 = 0.05;

/// The share of new entries that is assumed to replace something as long as nothing is known: half,
/// but all where it is about values, since that costs little.
const UNKNOWN_TABLES: f64 = 0.5;
/// See [`UNKNOWN_TABLES`].
const UNKNOWN_VALUES: f64 = 1.0;

/// What a deletion takes in a table, beside its key.
const DELETION_BYTES: u64 = 8;

/// What a merge of newer tables with older ones would do away with, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Gain {
    pub(super) tables: f64,
    pub(super) values: f64,
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

/// What goes because `newer` runs hold later versions of keys in each other and in `next`.
pub(super) fn by_replacing(newer: &[Placed<'_>], next: Sum, options: &Options) -> Gain {
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
}

/// What goes because of deletions in `newer`, which `next` is merged with. What they hide is in
/// `below`, that is `next` and everything older in the same range, or, if `newer` is of several runs,
/// in these.
pub(super) fn by_deleting<'a>(
    newer: impl Iterator<Item = &'a TableShape> + Clone,
    runs: usize,
    next: Sum,
    below: Sum,
    options: &Options,
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
