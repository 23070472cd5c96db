//! Puts a damaged range in anew, from what another replica holds of it; and writes anew what is damaged without any
//! loss.
//!
//! A replica's live versions as of an index are all that can be seen there. So if they take the place of everything that
//! this replica holds of the range up to that index, in whatever table, nothing is lost, and nothing that is
//! gone comes back: with the deletions of the range go all versions that they hide.
//!
//! Why the damage itself cannot hold more. It was met before the heal began, and compactions rest from before that on,
//! so the damaged tables hold no version newer than what was applied then. Every part of the range is as of that index
//! or later, this replica waits until it has applied as much itself, and flushes it: what is newer is in memtables or in
//! tables with newer versions, which are read.
//!
//! Invariants:
//! * No compaction runs over the range, and none begins, from before the parts are fetched until the edit is made: a
//!   deletion newer than the parts could be dropped as the last of its key otherwise.
//! * Each table is rewritten within its run. The fetched versions go to the oldest run: they are older than all else that
//!   is left of their keys.
//! * All of it is one manifest edit.

mod rewrite;

use super::install::Reception;
use super::{Damage, Engine, Fetched, ItemValue};
use crate::error::{Error, Result};
use crate::ids::{LogIndex, TableId, Ticket, ValueSegmentId};
use crate::limits::{HEAL_BYTES_MAX, KEY_BYTES_MAX, SEAL_LOOK_EVERY, SEAL_WAIT, VALUE_BYTES_MAX};
use crate::planted::{Bug, is_planted};
use crate::sstable::Table;
use bytes::Bytes;
use rewrite::{Rewriting, StagedValue, StagedVersion, StoredRange};
use std::cell::Cell;
use std::rc::Rc;

/// How many keep compactions from beginning. Belongs to one core.
#[derive(Default)]
pub(super) struct Holds(Cell<usize>);

impl Holds {
    pub(super) fn is_held(&self) -> bool {
        self.0.get() > 0
    }
}

/// While it lives, no compaction begins.
struct CompactionHold(Engine);

impl CompactionHold {
    fn begin(engine: &Engine) -> Self {
        engine.inner.holds.0.update(|holds| holds + 1);
        Self(engine.clone())
    }
}

impl Drop for CompactionHold {
    fn drop(&mut self) {
        let holds = &self.0.inner.holds.0;
        assert!(holds.get() > 0, "a hold ends once");
        holds.update(|holds| holds - 1);
        self.0.inner.background.wake();
    }
}

/// See the module and [`Engine::begin_heal`]. Belongs to one core.
pub struct Heal {
    engine: Engine,
    /// In order, with other keys between them.
    ranges: Vec<StoredRange>,
    /// The range of which parts are still to come.
    current: usize,
    /// What every part must have reached.
    least: LogIndex,
    /// Up to which key, included, parts are here, and as of which index each is.
    parts: Vec<(Bytes, LogIndex)>,
    versions: Vec<StagedVersion>,
    /// Bytes of keys and of values that are here.
    bytes: usize,
    /// Up to here values must be durable before the tables may count.
    values: Ticket,
    receiving: Reception,
    hold: CompactionHold,
}

/// Ranges in order, those that have keys in common made one.
fn joined(ranges: Vec<(Bytes, Bytes)>) -> Vec<StoredRange> {
    let mut ranges: Vec<StoredRange> = ranges
        .into_iter()
        .map(|(first, last)| StoredRange { first, last })
        .collect();
    ranges.sort_by(|left, right| left.first.cmp(&right.first));
    let mut joined: Vec<StoredRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        assert!(
            range.first <= range.last && !range.first.is_empty(),
            "a range of stored keys"
        );
        match joined.last_mut() {
            Some(before) if range.first <= before.last => {
                before.last = before.last.clone().max(range.last);
            }
            _ => joined.push(range),
        }
    }
    assert!(
        joined.is_sorted_by(|before, range| before.last < range.first),
        "ranges have other keys between them"
    );
    joined
}

impl Engine {
    /// Begins to put ranges of stored keys in anew, each from its first key to its last one, all at once. Waits until no
    /// compaction runs over them; none begins until it is finished or dropped.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn begin_heal(&self, ranges: Vec<(Bytes, Bytes)>) -> Result<Heal> {
        let hold = CompactionHold::begin(self);
        let ranges = joined(ranges);
        assert!(!ranges.is_empty(), "there is something to heal");
        self.wait_uncompacted(&ranges).await?;
        let least = self.inner.state.borrow().applied.index();
        let least = least.unwrap_or_default();
        Ok(Heal {
            engine: self.clone(),
            ranges,
            current: 0,
            least,
            parts: Vec::new(),
            versions: Vec::new(),
            bytes: 0,
            values: Ticket::default(),
            receiving: Reception::begin(self),
            hold,
        })
    }

    async fn wait_uncompacted(&self, ranges: &[StoredRange]) -> Result<()> {
        loop {
            let changed = self.inner.changed.notified();
            self.check_usable()?;
            let overlaps = {
                let running = self.inner.compacting.borrow();
                let mut spans = running.iter().map(|task| &task.span);
                spans.any(|span| {
                    let mut ranges = ranges.iter();
                    ranges.any(|range| range.overlaps(&span.first, &span.last))
                })
            };
            if !overlaps {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Writes a table anew whose entries are all intact, in its place; `false` if it is gone.
    ///
    /// # Errors
    /// `Corrupt` if they are not, `Io`, `Fenced`, `Closed`.
    pub async fn rewrite_table(&self, id: TableId) -> Result<bool> {
        let Some(table) = self.table(id) else {
            return Ok(false);
        };
        let hold = CompactionHold::begin(self);
        let meta = table.meta();
        let (first, last) = (meta.first_key.clone(), meta.last_key.clone());
        self.wait_uncompacted(&[StoredRange { first, last }])
            .await?;
        let rewriting = Rewriting {
            ranges: Vec::new(),
            parts: Vec::new(),
            evacuated: None,
        };
        let only = move |table: &Rc<Table>| table.meta().id == id;
        self.rewrite_in_task(rewriting, Vec::new(), only, hold)
            .await
    }

    /// Moves all values that are left in a segment of the value log elsewhere, so that it can be dropped once the
    /// log refers to it no more; `false` if something else has changed its tables.
    ///
    /// # Errors
    /// `Corrupt` if one of them is damaged, `Io`, `Fenced`, `Closed`.
    pub async fn evacuate_segment(&self, id: ValueSegmentId) -> Result<bool> {
        if !self.wait_sealed(id).await? {
            return Ok(false);
        }
        self.checkpoint().await?;
        let held = (CompactionHold::begin(self), Reception::begin(self));
        let (first, last) = (Bytes::from_static(&[0]), Bytes::from_static(&[u8::MAX]));
        self.wait_uncompacted(&[StoredRange { first, last }])
            .await?;
        let rewriting = Rewriting {
            ranges: Vec::new(),
            parts: Vec::new(),
            evacuated: Some(id),
        };
        let refers = move |table: &Rc<Table>| table.refers_to(id);
        self.rewrite_in_task(rewriting, Vec::new(), refers, held)
            .await
    }

    /// Has nothing more written to a segment of the value log; `false` if something is for too long.
    pub(super) async fn wait_sealed(&self, id: ValueSegmentId) -> Result<bool> {
        let begun = corelith_io::now();
        while begun.elapsed() < SEAL_WAIT {
            self.check_usable()?;
            match self.inner.values.segments().get(&id) {
                Some(segment) if !segment.is_sealed() => self.inner.values.end_segment(id),
                _ => return Ok(true),
            }
            corelith_io::sleep(SEAL_LOOK_EVERY).await;
        }
        Ok(false)
    }
}

impl Heal {
    /// What each part must have reached.
    pub fn least(&self) -> LogIndex {
        self.least
    }

    /// What the next part is to hold: the first and last stored key of its range, and the key in it after which it begins
    /// (empty: the first one); `None` if all are here.
    pub fn wanted(&self) -> Option<(Bytes, Bytes, Bytes)> {
        let range = self.ranges.get(self.current)?;
        Some((range.first.clone(), range.last.clone(), self.after(range)))
    }

    fn after(&self, range: &StoredRange) -> Bytes {
        let last = self.parts.last().map(|(last, _)| last);
        let last = last.filter(|last| range.contains(last));
        last.cloned().unwrap_or_default()
    }

    /// Whether all parts of all ranges are here.
    pub fn is_complete(&self) -> bool {
        self.current == self.ranges.len()
    }

    /// The highest index as of which a part is: to be applied here before [`Heal::finish`].
    pub fn most(&self) -> LogIndex {
        let parts = self.parts.iter().map(|(_, as_of)| *as_of);
        let parts = parts.filter(|_| !is_planted(Bug::HealWithoutWaiting));
        parts.max().unwrap_or(self.least)
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// `BadPiece` if it cannot be; nothing of it is taken then. `Io`, `Fenced`.
    pub async fn add(&mut self, fetched: Fetched) -> Result<()> {
        let number = self.parts.len() as u64;
        let bad = |what| Error::BadPiece { number, what };
        let Fetched { as_of, keys, end } = fetched;
        if as_of < self.least {
            return Err(bad("as of an index before the damage"));
        }
        let Some(range) = self.ranges.get(self.current) else {
            return Err(bad("nothing more is wanted"));
        };
        let after = self.after(range);
        let keys_before = std::iter::once(&after).chain(keys.iter().map(|key| &key.stored_key));
        let is_in_order = keys_before
            .zip(keys.iter().map(|key| &key.stored_key))
            .all(|(before, key)| before < key);
        let is_possible = |key: &super::FetchedKey| {
            let len = 1..=KEY_BYTES_MAX + 1;
            let engine = &self.engine;
            engine.separated_key(&key.stored_key, &key.value).is_ok()
                && range.contains(&key.stored_key)
                && len.contains(&key.stored_key.len())
                && key.value.held_len() <= VALUE_BYTES_MAX
                && key.at <= as_of
        };
        if !is_in_order || !keys.iter().all(is_possible) {
            return Err(bad("a record that cannot be"));
        }
        let is_last = end == super::FetchedEnd::Complete;
        let through = match keys.last() {
            _ if is_last => range.last.clone(),
            Some(last) => last.stored_key.clone(),
            None => return Ok(()),
        };
        for key in keys {
            self.stage(key.stored_key, key.at, key.value).await?;
        }
        let before = self.parts.last().map(|(before, _)| before);
        assert!(before.is_none_or(|before| *before <= through), "in order");
        self.parts.push((through, as_of));
        self.current += usize::from(is_last);
        Ok(())
    }

    async fn stage(&mut self, stored_key: Bytes, at: LogIndex, value: ItemValue) -> Result<()> {
        let separated = self.engine.separated_key(&stored_key, &value);
        let value = match (separated.ok().flatten(), &value) {
            (Some(key), ItemValue::Bytes(value)) => {
                let values = &self.engine.inner.values;
                values.wait_for_room().await?;
                let (pointer, ticket) = values.stage(at, key, value)?;
                self.values = ticket;
                StagedValue::Separated(pointer)
            }
            (_, ItemValue::Bytes(value)) => {
                self.bytes += value.len();
                StagedValue::Here(Bytes::copy_from_slice(value))
            }
            (_, ItemValue::Large(large)) => {
                self.bytes += value.held_len();
                StagedValue::Large((*large).into())
            }
        };
        self.bytes += stored_key.len();
        if self.bytes > HEAL_BYTES_MAX {
            return Err(Error::Full {
                what: "bytes of a damaged range",
                used: self.bytes as u64,
                limit: HEAL_BYTES_MAX as u64,
            });
        }
        self.versions.push(StagedVersion {
            stored_key: Bytes::copy_from_slice(&stored_key),
            at,
            value,
        });
        corelith_io::yield_if_needed().await;
        Ok(())
    }

    /// Puts the ranges in; what is applied here must have reached [`Heal::most`]. `false`: something else has replaced the
    /// tables meanwhile.
    ///
    /// # Errors
    /// `Corrupt` if more is damaged than the ranges, `Io`, `Fenced`, `Closed`. Nothing has changed then.
    ///
    /// # Panics
    /// If parts are missing, or not as much is applied: a bug in the caller.
    pub async fn finish(self) -> Result<bool> {
        assert!(self.is_complete(), "all parts of the ranges are here");
        let Self {
            engine,
            ranges,
            parts,
            versions,
            values,
            receiving,
            hold,
            ..
        } = self;
        let all = ranges.iter();
        let all: Vec<_> = all
            .map(|range| (range.first.clone(), range.last.clone()))
            .collect();
        let rewriting = Rewriting {
            ranges,
            parts,
            evacuated: None,
        };
        let applied = engine.inner.state.borrow().applied.index();
        assert!(
            applied >= Some(rewriting.most()) || is_planted(Bug::HealWithoutWaiting),
            "a range as of {:?} where {applied:?} is applied",
            rewriting.most()
        );
        engine.checkpoint().await?;
        engine.inner.values.wait_durable(values).await?;
        let read = joined(all.clone());
        let overlaps = move |table: &Rc<Table>| {
            let meta = table.meta();
            let mut ranges = read.iter();
            ranges.any(|range| range.overlaps(&meta.first_key, &meta.last_key))
        };
        let made = engine
            .rewrite_in_task(rewriting, versions, overlaps, (receiving, hold))
            .await?;
        if made {
            let healed = joined(all);
            engine.damage_healed(|damage: &Damage| {
                let mut ranges = healed.iter();
                !damage.first_key.is_empty()
                    && ranges.any(|range| {
                        range.contains(&damage.first_key) && range.contains(&damage.last_key)
                    })
            });
        }
        Ok(made)
    }
}
