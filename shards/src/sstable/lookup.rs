//! Finding one key in a table.
//!
//! A search is a plain function over blocks in memory and looks at each once. A block that is missing ends it
//! with the handle of that block; the block is read, and the search continues from there. So a search that
//! the cache can answer never waits, there is one search for both cases, and nothing is allocated or awaited
//! for the rare one.

use super::Value;
use super::block::{Damage, Partition, find};
use super::filter::passes;
use super::format::{BlockHandle, BlockKind};
use super::reader::Table;
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::vlog::ValuePointer;
use bytes::Bytes;

/// A version of a key as it was found.
pub(crate) type Found = (LogIndex, Value);

/// Why a search ended early.
enum Stop {
    Missing(BlockHandle, BlockKind),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a table says of a key without I/O: whether its filter lets it pass, if that is in memory.
pub(crate) struct FilterAnswer {
    place: usize,
    passed: Option<bool>,
}

impl FilterAnswer {
    /// Whether the key is certainly not in the table. Otherwise it takes [`Table::get_asked`] to know.
    pub(crate) fn excludes(&self) -> bool {
        self.passed == Some(false)
    }
}

struct TableSearch<'a> {
    table: &'a Table,
    key: &'a [u8],
    hash: u64,
    at: LogIndex,
    use_cache: bool,
    /// The block read last, which the search goes on with, whatever the cache does.
    read: Option<(BlockHandle, Bytes)>,
    hits: u64,
    misses: u64,
    /// The place of the key's partition in the root.
    place: usize,
    /// What the filter said.
    passed: Option<bool>,
    stage: SearchStage,
}

/// How far a search has come.
#[derive(Clone, Copy)]
enum SearchStage {
    Filter,
    /// At the leaf of the key's partition.
    Leaf(BlockHandle),
    Data(BlockHandle, Beyond),
    /// At the leaf of the next partition, which begins with versions of the key.
    NextLeaf(BlockHandle),
}

/// What the first entry of a data block is that is not before the one wanted.
enum First {
    Wanted(Found),
    OtherKey,
    /// All entries of the block are before it.
    Nothing,
}

/// Where the versions of the key may go on behind a data block.
#[derive(Clone, Copy)]
enum Beyond {
    Nowhere,
    Data(BlockHandle),
    /// In the next partition, if that begins with them.
    NextPartition,
}

impl Table {
    /// Asks the filter for the stored key with this hash, if it is in memory. This is all that a read
    /// wants of most runs, so it keeps nothing at hand for what might follow.
    pub(crate) fn ask(&self, key: &[u8], hash: u64, at: LogIndex) -> FilterAnswer {
        let place = self.partition_of(key, at);
        let filter = self.partition(place).and_then(|it| it.partition.filter);
        let look = |payload: &Bytes| passes(payload, hash);
        let said = match (filter, self.whole_filter()) {
            (Some(handle), _) => self.cache().with(self.file_number(), handle.offset, look),
            (None, Some(filter)) => Some(Some(filter.may_contain(hash))),
            (None, None) => None,
        };
        // A search names the damage of a malformed one.
        let passed = said.flatten();
        self.cache().count(|counters| {
            counters.hits += u64::from(filter.is_some() && passed.is_some());
            counters.filter_negatives += u64::from(passed == Some(false));
        });
        FilterAnswer { place, passed }
    }

    /// As [`Table::get_asked`] if everything that it needs is in memory; otherwise `None`.
    pub(crate) fn get_cached(
        &self,
        key: &[u8],
        hash: u64,
        at: LogIndex,
        asked: &FilterAnswer,
    ) -> Option<Result<Option<Found>>> {
        if asked.excludes() || !self.covers(key) {
            return Some(Ok(None));
        }
        let mut search = self.search(key, hash, at, asked);
        let found = match search.version() {
            Ok(found) => Ok(found),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Missing(..)) => return None,
        };
        search.count(&found);
        Some(found)
    }

    /// [`Table::ask`] and [`Table::get_asked`].
    #[cfg(test)]
    pub(crate) async fn get(&self, key: &[u8], hash: u64, at: LogIndex) -> Result<Option<Found>> {
        let asked = self.ask(key, hash, at);
        self.get_asked(key, hash, at, &asked).await
    }

    /// The version of a stored key, with that hash, that a read at `at` sees, after it was asked for.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(crate) async fn get_asked(
        &self,
        key: &[u8],
        hash: u64,
        at: LogIndex,
        asked: &FilterAnswer,
    ) -> Result<Option<Found>> {
        if asked.excludes() || !self.covers(key) {
            return Ok(None);
        }
        self.search(key, hash, at, asked).run().await
    }

    /// Whether the version of a stored key written at `at` is here, with its value in that segment
    /// and slot of the value log. `use_cache` is for few questions: many would displace what
    /// readers use.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(crate) async fn holds(
        &self,
        key: &[u8],
        at: LogIndex,
        pointer: ValuePointer,
        use_cache: bool,
    ) -> Result<bool> {
        let versions = self.meta().lowest..=self.meta().highest;
        if !self.covers(key) || !versions.contains(&at) || !self.refers_to(pointer.segment) {
            return Ok(false);
        }
        let hash = super::hash_of(key);
        let asked = FilterAnswer {
            place: self.partition_of(key, at),
            passed: None,
        };
        let mut search = self.search(key, hash, at, &asked);
        search.use_cache = use_cache;
        let found = search.run().await?;
        Ok(match found {
            Some((found_at, Value::Separated(found))) => {
                found_at == at && (found.segment, found.slot) == (pointer.segment, pointer.slot)
            }
            _ => false,
        })
    }

    /// Whether `key` is between the first and the last key.
    fn covers(&self, key: &[u8]) -> bool {
        let meta = self.meta();
        meta.first_key <= key && key <= &meta.last_key[..]
    }

    fn search<'a>(
        &'a self,
        key: &'a [u8],
        hash: u64,
        at: LogIndex,
        asked: &FilterAnswer,
    ) -> TableSearch<'a> {
        TableSearch {
            table: self,
            key,
            hash,
            at,
            use_cache: true,
            read: None,
            hits: 0,
            misses: 0,
            place: asked.place,
            passed: asked.passed,
            stage: SearchStage::Filter,
        }
    }
}

impl TableSearch<'_> {
    async fn run(mut self) -> Result<Option<Found>> {
        loop {
            let (handle, kind) = match self.version() {
                Ok(found) => {
                    let found = Ok(found);
                    self.count(&found);
                    return found;
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Missing(handle, kind)) => (handle, kind),
            };
            let payload = self.table.read(handle, kind).await?;
            self.misses += 1;
            if self.use_cache {
                self.table.keep(handle, kind, payload.clone());
            }
            self.read = Some((handle, payload));
        }
    }

    /// Counts a search that came to its end.
    fn count(&self, found: &Result<Option<Found>>) {
        if !self.use_cache {
            return;
        }
        self.table.cache().count(|counters| {
            counters.hits += self.hits;
            counters.misses += self.misses;
            match self.passed {
                Some(false) => counters.filter_negatives += 1,
                Some(true) => counters.filter_positives += 1,
                None => {}
            }
            let nothing = matches!(found, Ok(None));
            counters.false_positives += u64::from(self.passed == Some(true) && nothing);
        });
    }

    /// What `look` sees in the payload of a block that is in memory.
    fn look<T>(
        &mut self,
        handle: BlockHandle,
        kind: BlockKind,
        look: impl FnOnce(&Bytes) -> Result<T, Damage>,
    ) -> Result<T, Stop> {
        let table = self.table;
        let seen = match &self.read {
            Some((read, payload)) if *read == handle => look(payload),
            _ => {
                let cached = match self.use_cache {
                    true => table.cache().with(table.file_number(), handle.offset, look),
                    false => None,
                };
                let seen = cached.ok_or(Stop::Missing(handle, kind))?;
                self.hits += 1;
                seen
            }
        };
        seen.map_err(|what| table.damaged(handle.offset, what).into())
    }

    /// The key's partition, unless its filter excludes the key.
    fn partition(&mut self) -> Result<Option<Partition>, Stop> {
        let table = self.table;
        let Some(bounded) = table.partition(self.place) else {
            return Err(table.root_damaged("a root without leaves").into());
        };
        let partition = bounded.partition;
        let passed = match (self.passed, partition.filter, table.whole_filter()) {
            (Some(passed), _, _) => passed,
            (None, Some(handle), _) => self.passes(handle)?,
            (None, None, Some(filter)) => filter.may_contain(self.hash),
            (None, None, None) => return Err(table.root_damaged("a leaf without a filter").into()),
        };
        self.passed = Some(passed);
        Ok(passed.then_some(partition))
    }

    /// What a filter in memory says.
    fn passes(&mut self, handle: BlockHandle) -> Result<bool, Stop> {
        let hash = self.hash;
        self.look(handle, BlockKind::Filter, |payload| {
            passes(payload, hash).ok_or("the filter is malformed")
        })
    }

    /// Goes on from where the search has come to.
    fn version(&mut self) -> Result<Option<Found>, Stop> {
        let (key, at) = (self.key, self.at);
        loop {
            self.stage = match self.stage {
                SearchStage::Filter => match self.partition()? {
                    Some(partition) => SearchStage::Leaf(partition.leaf),
                    None => return Ok(None),
                },
                SearchStage::Leaf(leaf) => self.look(leaf, BlockKind::Leaf, |payload| {
                    let led = find::lead(payload, key, at)?;
                    let beyond = match led.beyond {
                        None => Beyond::NextPartition,
                        Some(hit) if hit.is_key => Beyond::Data(hit.held.child()?),
                        Some(_) => Beyond::Nowhere,
                    };
                    Ok(SearchStage::Data(led.to.held.child()?, beyond))
                })?,
                SearchStage::Data(block, beyond) => match self.first_in(block)? {
                    First::Wanted(found) => return Ok(Some(found)),
                    First::OtherKey => return Ok(None),
                    First::Nothing => match self.stage_beyond(beyond) {
                        Some(stage) => stage,
                        None => return Ok(None),
                    },
                },
                SearchStage::NextLeaf(leaf) => self.look(leaf, BlockKind::Leaf, |payload| {
                    let block = find::lead(payload, key, at)?.to.held.child()?;
                    Ok(SearchStage::Data(block, Beyond::Nowhere))
                })?,
            };
        }
    }

    /// The first entry of a data block that is not before the one wanted.
    fn first_in(&mut self, handle: BlockHandle) -> Result<First, Stop> {
        let (table, key, at) = (self.table, self.key, self.at);
        self.look(handle, BlockKind::Data, |payload| {
            Ok(match find::first_at_or_after(payload, key, at)? {
                None => First::Nothing,
                Some(hit) if hit.is_key => {
                    First::Wanted((hit.at, table.local_value(hit.held.value(payload)?)))
                }
                Some(_) => First::OtherKey,
            })
        })
    }

    fn stage_beyond(&self, beyond: Beyond) -> Option<SearchStage> {
        match beyond {
            Beyond::Nowhere => None,
            Beyond::Data(block) => Some(SearchStage::Data(block, Beyond::Nowhere)),
            Beyond::NextPartition => {
                let next = self.table.partition(self.place + 1)?;
                (next.key() == self.key).then_some(SearchStage::NextLeaf(next.partition.leaf))
            }
        }
    }
}
