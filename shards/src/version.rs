//! The file set of a shard at one moment: levels of sorted runs of tables. It never changes; an edit
//! of the manifest makes the next one, and readers of an old one keep its tables alive.
//!
//! Invariants:
//! * Of two versions of a key, the newer one is in an earlier level, or in an earlier run of the
//!   same level.
//! * The tables of a run are in order of their keys and no key is in two of them.

use crate::ids::{RunId, TableId};
use crate::key::Prefixes;
use crate::manifest::PlacedTable;
use crate::sstable::{Table, TableMeta};
use bytes::Bytes;
use std::rc::Rc;

/// Tables in order of their keys, no key in two of them.
pub(crate) struct SortedRun {
    pub(crate) id: RunId,
    pub(crate) tables: Vec<Rc<Table>>,
    /// First and last stored key of the run.
    first: Bytes,
    last: Bytes,
    /// Of the tables' last keys.
    ends: Prefixes,
}

impl SortedRun {
    fn new(id: RunId, tables: Vec<Rc<Table>>) -> Self {
        assert!(!tables.is_empty(), "a run has tables");
        let key = |table: Option<&Rc<Table>>, end: fn(&TableMeta) -> &Bytes| {
            table.map_or_else(Bytes::new, |table| end(table.meta()).clone())
        };
        let first = key(tables.first(), |meta| &meta.first_key);
        let last = key(tables.last(), |meta| &meta.last_key);
        let ends = tables.iter().map(|table| &table.meta().last_key[..]);
        Self {
            id,
            ends: Prefixes::new(&first, &last, ends),
            first,
            last,
            tables,
        }
    }

    /// The table that may hold `stored_key`.
    pub(crate) fn table_for(&self, stored_key: &[u8]) -> Option<&Rc<Table>> {
        if stored_key < &self.first[..] || stored_key > &self.last[..] {
            return None;
        }
        let undecided = self.ends.undecided(stored_key);
        let below = self.tables.get(undecided.clone()).unwrap_or_default();
        let below = below.partition_point(|table| &table.meta().last_key[..] < stored_key);
        let table = self.tables.get(undecided.start + below)?;
        (&table.meta().first_key[..] <= stored_key).then_some(table)
    }
}

/// See the module. Belongs to one core; shared by the engine and its readers.
#[derive(Default)]
pub(crate) struct Version {
    /// Level 0 first; the runs of each, newest first.
    pub(crate) levels: Vec<Vec<SortedRun>>,
}

impl Version {
    /// Puts the tables of a manifest in their places; `table` hands out the open ones.
    ///
    /// # Panics
    /// If the manifest's order is broken: it was checked when it was decoded or made here.
    pub(crate) fn new(placed: &[PlacedTable], mut table: impl FnMut(TableId) -> Rc<Table>) -> Self {
        let mut version = Self::default();
        let is_same_run = |one: &PlacedTable, other: &PlacedTable| {
            one.level == other.level && one.run == other.run
        };
        for run in placed.chunk_by(is_same_run) {
            let Some(place) = run.first() else { continue };
            let level = usize::from(place.level);
            assert!(version.levels.len() <= level + 1, "levels are in order");
            if version.levels.len() <= level {
                version.levels.resize_with(level + 1, Vec::new);
            }
            let tables: Vec<Rc<Table>> = run.iter().map(|place| table(place.meta.id)).collect();
            let pairs = tables.iter().zip(tables.iter().skip(1));
            for (before, after) in pairs {
                let in_order = before.meta().last_key < after.meta().first_key;
                assert!(in_order, "tables of a run overlap");
            }
            if let Some(runs) = version.levels.get_mut(level) {
                runs.push(SortedRun::new(place.run, tables));
            }
        }
        version
    }

    /// All runs, newest first.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &SortedRun> {
        self.levels.iter().flatten()
    }

    /// All tables, those of newer runs first.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Rc<Table>> {
        self.runs().flat_map(|run| run.tables.iter())
    }

    /// The tables that may hold `stored_key`, newest first.
    pub(crate) fn candidates<'a>(
        &'a self,
        stored_key: &'a [u8],
    ) -> impl Iterator<Item = &'a Rc<Table>> {
        self.runs().filter_map(|run| run.table_for(stored_key))
    }
}
