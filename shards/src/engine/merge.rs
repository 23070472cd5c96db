//! Merges memtables and tables in key order, as of a sequence number.

use super::{ItemValue, ReadView};
use crate::error::{Error, Result};
use crate::ids::LogIndex;
use crate::key::{Space, SpacedKey};
use crate::large::{LargeRef, StoredLarge};
use crate::limits::SCAN_BATCH_ENTRIES;
use crate::memtable::{self, Memtable};
use crate::sstable::{self, BlockHandle, Table, TableCursor};
use crate::version::{SortedRun, Version};
use crate::vlog::ValuePointer;
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Bound;
use std::rc::Rc;

/// Where a merge is to go.
#[derive(Clone)]
pub(super) struct ScanSpan {
    pub(super) space: Space,
    /// First key, without its space.
    pub(super) start: Bytes,
    /// First key beyond; empty: to the end of the space.
    pub(super) end: Bytes,
    /// What is seen.
    pub(super) at: LogIndex,
}

/// A version's value, and where its bytes are.
#[derive(Clone)]
enum MergedValue {
    Deleted,
    Inline(Bytes),
    InTable(Rc<Table>, BlockHandle),
    Separated(ValuePointer),
    Large(StoredLarge),
}

/// The newest visible version of a key.
pub(super) struct Merged {
    space: Space,
    pub(super) key: Bytes,
    pub(super) at: LogIndex,
    value: MergedValue,
}

impl Merged {
    pub(super) fn is_deleted(&self) -> bool {
        matches!(self.value, MergedValue::Deleted)
    }

    /// The key with its space.
    pub(super) fn spaced(&self) -> SpacedKey<'_> {
        self.space.key(&self.key)
    }

    /// What stands for the value, if it is large.
    pub(super) fn large(&self) -> Option<LargeRef> {
        match &self.value {
            MergedValue::Large(large) => Some(large.get()),
            _ => None,
        }
    }

    /// Length of the value in bytes; of a large one, of what stands for it.
    pub(super) fn value_len(&self) -> usize {
        match &self.value {
            MergedValue::Deleted => 0,
            MergedValue::Inline(bytes) => bytes.len(),
            MergedValue::InTable(_, handle) => handle.len as usize,
            MergedValue::Separated(pointer) => pointer.len as usize,
            MergedValue::Large(large) => large.as_slice().len(),
        }
    }

    /// The value, read as of the `view` that was merged; `None` if deleted.
    pub(super) async fn value(&self, view: &ReadView) -> Result<Option<ItemValue>> {
        let bytes = match &self.value {
            MergedValue::Deleted => return Ok(None),
            MergedValue::Large(large) => return Ok(Some(ItemValue::Large(large.get()))),
            MergedValue::Inline(bytes) => bytes.clone(),
            MergedValue::InTable(table, handle) => table.stored(*handle).await?,
            MergedValue::Separated(pointer) => {
                let read = view
                    .values
                    .read(&view.segments, *pointer, Some(self.spaced()));
                read.await?
            }
        };
        Ok(Some(ItemValue::Bytes(bytes)))
    }

    /// As [`Merged::value`], of a space whose values are bytes. A large one has none.
    pub(super) async fn bytes(&self, view: &ReadView) -> Result<Option<Bytes>> {
        let value = self.value(view).await?;
        Ok(value.and_then(ItemValue::into_bytes))
    }
}

/// The next entry of a source.
struct MergeHead {
    key: Bytes,
    at: LogIndex,
    value: MergedValue,
    source: usize,
}

// The heap gives its greatest first: the lowest key, and of one key the highest sequence number.
impl Ord for MergeHead {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = other.key.cmp(&self.key);
        by_key.then(self.at.cmp(&other.at))
    }
}

impl PartialOrd for MergeHead {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MergeHead {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for MergeHead {}

enum MergeSource {
    Memtable {
        memtable: Rc<Memtable>,
        batch: VecDeque<(Bytes, memtable::KeyVersion)>,
        /// Last key of the batch; `None` if nothing follows.
        last: Option<Bytes>,
    },
    Run {
        /// The tables of the run from the current one on, last first.
        tables: Vec<Rc<Table>>,
        cursor: Box<TableCursor>,
    },
}

/// The key after which a memtable is to be read on, if this batch was not its last.
fn last_of(batch: &VecDeque<(Bytes, memtable::KeyVersion)>) -> Option<Bytes> {
    let full = batch.len() >= SCAN_BATCH_ENTRIES;
    batch.back().filter(|_| full).map(|(key, _)| key.clone())
}

/// A merge under way.
pub(super) struct Merge {
    span: ScanSpan,
    sources: Vec<MergeSource>,
    heads: BinaryHeap<MergeHead>,
    /// The key returned last: its older versions are passed over.
    last_key: Option<Bytes>,
    /// Why there is no going on behind that.
    failure: Option<Error>,
}

impl Merge {
    /// Starts at the first key of `span`.
    pub(super) async fn start(view: &ReadView, span: ScanSpan) -> Result<Self> {
        Self::over(&view.memtables, &view.version, span).await
    }

    /// As [`Merge::start`], given what is merged.
    pub(super) async fn over(
        memtables: &[Rc<Memtable>],
        version: &Version,
        span: ScanSpan,
    ) -> Result<Self> {
        let mut merge = Self {
            span,
            sources: Vec::new(),
            heads: BinaryHeap::new(),
            last_key: None,
            failure: None,
        };
        for memtable in memtables {
            merge.add_memtable(Rc::clone(memtable));
        }
        for run in version.runs() {
            merge.add_run(run).await?;
        }
        Ok(merge)
    }

    fn add_memtable(&mut self, memtable: Rc<Memtable>) {
        let start = Bound::Included(self.span.start.as_ref());
        let batch = self.read_memtable(&memtable, start);
        self.sources.push(MergeSource::Memtable {
            memtable,
            last: last_of(&batch),
            batch,
        });
        self.push_from_memtable(self.sources.len() - 1);
    }

    fn read_memtable(
        &self,
        memtable: &Memtable,
        from: Bound<&[u8]>,
    ) -> VecDeque<(Bytes, memtable::KeyVersion)> {
        let end = match self.span.end.as_ref() {
            [] => Bound::Unbounded,
            end => Bound::Excluded(end),
        };
        // The map refuses a range that ends before it starts.
        let empty = match (from, end) {
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(end)) => from >= end,
            _ => false,
        };
        if empty {
            return VecDeque::new();
        }
        memtable
            .visible(
                self.span.space,
                (from, end),
                self.span.at,
                SCAN_BATCH_ENTRIES,
            )
            .into()
    }

    /// Puts the next entry of a memtable among the heads.
    fn push_from_memtable(&mut self, source: usize) {
        let Some(MergeSource::Memtable {
            memtable,
            batch,
            last,
        }) = self.sources.get(source)
        else {
            return;
        };
        if batch.is_empty()
            && let Some(from) = last
        {
            let memtable = Rc::clone(memtable);
            let more = self.read_memtable(&memtable, Bound::Excluded(from.as_ref()));
            if let Some(MergeSource::Memtable { batch, last, .. }) = self.sources.get_mut(source) {
                *last = last_of(&more);
                *batch = more;
            }
        }
        if let Some(MergeSource::Memtable { batch, .. }) = self.sources.get_mut(source)
            && let Some((key, version)) = batch.pop_front()
        {
            self.heads.push(MergeHead {
                key,
                at: version.at,
                value: match version.value {
                    memtable::Value::Deleted => MergedValue::Deleted,
                    memtable::Value::Inline(bytes) => MergedValue::Inline(bytes),
                    memtable::Value::Separated(pointer) => MergedValue::Separated(pointer),
                    memtable::Value::Large(large) => MergedValue::Large(large),
                },
                source,
            });
        }
    }

    async fn add_run(&mut self, run: &SortedRun) -> Result<()> {
        let start = self.span.space.stored_key(&self.span.start);
        let end = match self.span.end.as_ref() {
            [] => vec![self.span.space.tag() + 1],
            end => self.span.space.stored_key(end),
        };
        let in_span = |table: &&Rc<Table>| {
            let meta = table.meta();
            meta.last_key[..] >= start[..] && meta.first_key[..] < end[..]
        };
        let mut tables: Vec<Rc<Table>> = run.tables.iter().filter(in_span).cloned().collect();
        tables.reverse();
        while let Some(table) = tables.last() {
            if let Some(cursor) = TableCursor::seek(table, &start, self.span.at).await? {
                self.sources.push(MergeSource::Run {
                    tables,
                    cursor: Box::new(cursor),
                });
                self.push_from_run(self.sources.len() - 1);
                return Ok(());
            }
            tables.pop();
        }
        Ok(())
    }

    /// Puts the current entry of a run among the heads.
    fn push_from_run(&mut self, source: usize) {
        let Some(MergeSource::Run { tables, cursor }) = self.sources.get(source) else {
            return;
        };
        let (stored_key, at, value) = cursor.current();
        let (Some((space, key)), Some(table)) = (Space::of_stored(stored_key), tables.last())
        else {
            return;
        };
        let beyond = !self.span.end.is_empty() && key >= &self.span.end[..];
        if space != self.span.space || beyond {
            return;
        }
        let value = match value {
            sstable::Value::Deleted => MergedValue::Deleted,
            sstable::Value::Inline(bytes) => MergedValue::Inline(bytes.clone()),
            sstable::Value::Separated(pointer) => MergedValue::Separated(*pointer),
            sstable::Value::Stored(handle) => MergedValue::InTable(Rc::clone(table), *handle),
            sstable::Value::Large(large) => MergedValue::Large(*large),
        };
        self.heads.push(MergeHead {
            key: Bytes::copy_from_slice(key),
            at,
            value,
            source,
        });
    }

    /// Goes on in a run, and puts its next entry among the heads.
    async fn advance_run(&mut self, source: usize) -> Result<()> {
        let Some(MergeSource::Run { tables, cursor }) = self.sources.get_mut(source) else {
            return Ok(());
        };
        let Some(table) = tables.last() else {
            return Ok(());
        };
        if !cursor.advance(table).await? {
            tables.pop();
            let Some(table) = tables.last() else {
                return Ok(());
            };
            let first = table.meta().first_key.clone();
            match TableCursor::seek(table, &first, LogIndex(u64::MAX)).await? {
                Some(next) => **cursor = next,
                None => return Ok(()),
            }
        }
        self.push_from_run(source);
        Ok(())
    }

    /// The next key's newest visible version, deletions included; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Merged>> {
        loop {
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            let Some(head) = self.heads.pop() else {
                return Ok(None);
            };
            match self.sources.get(head.source) {
                Some(MergeSource::Run { .. }) => {
                    // What was met before it is intact.
                    self.failure = self.advance_run(head.source).await.err();
                }
                Some(MergeSource::Memtable { .. }) => self.push_from_memtable(head.source),
                None => {}
            }
            if head.at > self.span.at || self.last_key.as_ref() == Some(&head.key) {
                continue;
            }
            self.last_key = Some(head.key.clone());
            return Ok(Some(Merged {
                space: self.span.space,
                key: head.key,
                at: head.at,
                value: head.value,
            }));
        }
    }

    pub(super) fn space(&self) -> Space {
        self.span.space
    }

    /// Whether anything may follow.
    pub(super) fn may_go_on(&self) -> bool {
        !self.heads.is_empty()
    }
}
