//! The file set of a shard at one moment: levels of sorted runs of tables. It never changes; an edit
//! of the manifest makes the next one, and whoever reads an old one keeps its tables alive.
//!
//! Invariants:
//! * Of two versions of a key, the newer one is in an earlier level, or in an earlier run of the
//!   same level.
//! * The tables of a run are in order of their keys and no key is in two of them.

use crate::ids::{RunId, TableId};
use crate::manifest::Placed;
use crate::sstable::Table;
use std::rc::Rc;

/// Tables in order of their keys, no key in two of them.
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) tables: Vec<Rc<Table>>,
}

impl Run {
    /// The table that may hold `stored_key`.
    pub(crate) fn table_for(&self, stored_key: &[u8]) -> Option<&Rc<Table>> {
        let after = self
            .tables
            .partition_point(|table| &table.meta().last_key[..] < stored_key);
        let table = self.tables.get(after)?;
        (&table.meta().first_key[..] <= stored_key).then_some(table)
    }
}

/// See the module. Belongs to one core; shared by the engine and its readers.
#[derive(Default)]
pub(crate) struct Version {
    /// Level 0 first; the runs of each, newest first.
    pub(crate) levels: Vec<Vec<Run>>,
}

impl Version {
    /// Puts the tables of a manifest in their places; `table` hands out the open ones.
    ///
    /// # Panics
    /// If the manifest's order is broken: it was checked when it was decoded or made here.
    pub(crate) fn new(placed: &[Placed], mut table: impl FnMut(TableId) -> Rc<Table>) -> Self {
        let mut version = Self::default();
        for place in placed {
            let level = usize::from(place.level);
            if version.levels.len() <= level {
                version.levels.resize_with(level + 1, Vec::new);
            }
            let Some(runs) = version.levels.get_mut(level) else {
                continue;
            };
            let table = table(place.meta.id);
            match runs.last_mut() {
                Some(run) if run.id == place.run => {
                    let before = run.tables.last();
                    let in_order =
                        before.is_none_or(|before| before.meta().last_key < table.meta().first_key);
                    assert!(in_order, "tables of a run overlap");
                    run.tables.push(table);
                }
                _ => runs.push(Run {
                    id: place.run,
                    tables: vec![table],
                }),
            }
        }
        version
    }

    /// All runs, newest first.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &Run> {
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
