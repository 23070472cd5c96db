//! Goes over all versions of several runs at once, for a compaction.
//!
//! Invariant: the heap names each source that has an entry left, once.

use crate::error::Result;
use crate::ids::LogIndex;
use crate::key::compare;
use crate::sstable::{EntryRef, SequentialCursor, Table};
use std::cmp::Ordering;
use std::rc::Rc;

/// A run, from its current entry on.
struct InputRun {
    /// The tables after the current one, last first.
    tables: Vec<Rc<Table>>,
    cursor: SequentialCursor,
}

impl InputRun {
    /// Starts at the first entry of `tables`, which are in order.
    async fn start(mut tables: Vec<Rc<Table>>) -> Result<Option<Self>> {
        tables.reverse();
        while let Some(first) = tables.pop() {
            if let Some(cursor) = SequentialCursor::start(first, &[]).await? {
                return Ok(Some(Self { tables, cursor }));
            }
        }
        Ok(None)
    }

    /// Goes to the next entry; `false` after the last.
    async fn advance(&mut self) -> Result<bool> {
        if self.cursor.advance().await? {
            return Ok(true);
        }
        while let Some(next) = self.tables.pop() {
            if let Some(cursor) = SequentialCursor::start(next, &[]).await? {
                self.cursor = cursor;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn head(&self) -> (&[u8], LogIndex) {
        let entry = self.cursor.current();
        (entry.key, entry.at)
    }
}

/// See the module. Belongs to one compaction.
pub(super) struct Inputs {
    sources: Vec<InputRun>,
    /// A binary heap of places in `sources`, the one with the first entry in front.
    heap: Vec<usize>,
}

impl Inputs {
    /// Starts at the first of all entries of `runs`; waits for `begun` after the first reads of each.
    pub(super) async fn start(runs: Vec<Vec<Rc<Table>>>, begun: impl AsyncFn()) -> Result<Self> {
        let mut sources = Vec::with_capacity(runs.len());
        for tables in runs {
            sources.extend(InputRun::start(tables).await?);
            begun().await;
        }
        let mut inputs = Self {
            heap: (0..sources.len()).collect(),
            sources,
        };
        for place in (0..inputs.heap.len() / 2).rev() {
            inputs.sift_down(place);
        }
        Ok(inputs)
    }

    /// The current entry and its table; `None` at the end.
    pub(super) fn current(&self) -> Option<(EntryRef<'_>, &Rc<Table>)> {
        let source = self.sources.get(*self.heap.first()?)?;
        Some((source.cursor.current(), source.cursor.table()))
    }

    /// Goes to the next entry.
    pub(super) async fn advance(&mut self) -> Result<()> {
        let Some(source) = self.heap.first().copied() else {
            return Ok(());
        };
        let goes_on = match self.sources.get_mut(source) {
            // Nearly always the next entry is at hand.
            Some(source) => source.cursor.advance_in_block()? || source.advance().await?,
            None => false,
        };
        if !goes_on {
            self.heap.swap_remove(0);
        }
        debug_assert!(self.heap.len() <= self.sources.len());
        self.sift_down(0);
        Ok(())
    }

    /// Whether the source at one place of the heap comes before that at another.
    fn is_before(&self, left: usize, right: usize) -> bool {
        let head = |place: usize| {
            let source = self.sources.get(*self.heap.get(place)?)?;
            Some(source.head())
        };
        match (head(left), head(right)) {
            (Some(left), Some(right)) => compare(left, right) == Ordering::Less,
            (left, _) => left.is_some(),
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let mut first = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.is_before(child, first) {
                    first = child;
                }
            }
            if first == place {
                return;
            }
            self.heap.swap(place, first);
            place = first;
        }
    }
}
