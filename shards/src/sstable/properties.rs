//! What a table says of itself, and the manifest of it.
//!
//! ```text
//! properties = entries u64 | deletions u64 | value bytes u64 | lowest sequence number u64 |
//!              highest u64 | first stored key (u32 len, bytes) | last stored key (u32 len, bytes) |
//!              reference count u32 | reference ...
//! reference  = value segment u64 | values u64 | bytes of their records u64
//! ```
//! Those of version 1 have no references.

use crate::ids::{FileId, LogIndex, TableId, ValueSegmentId};
use crate::length;
use crate::limits::{KEY_BYTES_MAX, TABLE_REFERENCES_MAX};
use crate::vlog::{ValuePointer, record_bytes};
use bytes::{Buf, Bytes};
use corelith_io::collections::HashMap;
use std::collections::BTreeSet;
use std::fmt;

/// From this version on, properties list references.
const VERSION_OF_REFERENCES: u32 = 2;
/// No segment has this number.
const NO_SEGMENT: ValueSegmentId = ValueSegmentId(u64::MAX);

/// How much of a value segment a table refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The segment.
    pub(crate) segment: ValueSegmentId,
    /// How many values.
    pub(crate) values: u64,
    /// Length of their records, see [`crate::vlog::record_bytes`].
    pub(crate) bytes: u64,
}

impl Reference {
    const STORED_BYTES: usize = 24;

    fn none(segment: ValueSegmentId) -> Self {
        Self {
            segment,
            values: 0,
            bytes: 0,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            values,
            bytes,
        } = self;
        write!(f, "{values} in value segment {segment}, {bytes} bytes")
    }
}

/// What properties count of a value.
pub(super) enum Counted {
    Deleted,
    /// In the table, with its length.
    Here(u64),
    Separated(ValuePointer),
}

/// What the manifest and the table itself say of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableMeta {
    /// Its number in the shard; the file does not say it.
    pub(crate) id: TableId,
    /// What names its content.
    pub(crate) file: FileId,
    /// Length of the file in bytes.
    pub(crate) file_bytes: u64,
    /// Versions in it.
    pub(crate) entries: u64,
    /// How many of them are deletions.
    pub(crate) deletions: u64,
    /// Sum of the values' lengths, wherever the values are.
    pub(crate) value_bytes: u64,
    /// Lowest sequence number.
    pub(crate) lowest: LogIndex,
    /// Highest sequence number.
    pub(crate) highest: LogIndex,
    /// First stored key.
    pub(crate) first_key: Bytes,
    /// Last stored key.
    pub(crate) last_key: Bytes,
    /// What it refers to in the value log, in order of segment, none twice; with the numbers that the file
    /// has. See [`TableMeta::referenced`].
    pub(crate) references: Vec<Reference>,
    /// The numbers that these segments have here, if the file was written elsewhere; else none. The file does
    /// not say them.
    pub(crate) renumbered: Vec<ValueSegmentId>,
}

impl TableMeta {
    /// Bytes of the value log that the table refers to.
    pub(crate) fn reference_bytes(&self) -> u64 {
        self.references
            .iter()
            .map(|reference| reference.bytes)
            .sum()
    }

    /// What it refers to in the value log, with the numbers that segments have here.
    pub(crate) fn referenced(&self) -> impl Iterator<Item = Reference> {
        let pairs = self.references.iter().enumerate();
        pairs.map(|(at, reference)| Reference {
            segment: self
                .renumbered
                .get(at)
                .copied()
                .unwrap_or(reference.segment),
            ..*reference
        })
    }

    /// The segments of [`TableMeta::referenced`].
    pub(crate) fn segments(&self) -> BTreeSet<ValueSegmentId> {
        self.referenced()
            .map(|reference| reference.segment)
            .collect()
    }

    /// Gives the segments that it refers to other numbers.
    ///
    /// # Errors
    /// `None`: `number_of` does not know one.
    pub(crate) fn renumber(
        &mut self,
        number_of: impl Fn(ValueSegmentId) -> Option<ValueSegmentId>,
    ) -> Option<()> {
        let numbers = self
            .referenced()
            .map(|reference| number_of(reference.segment));
        self.renumbered = numbers.collect::<Option<Vec<_>>>()?;
        Some(())
    }

    /// A pointer as it is in the file, with the number that its segment has here. One of a segment that the
    /// properties do not name leads nowhere.
    pub(super) fn local(&self, pointer: ValuePointer) -> ValuePointer {
        let references = &self.references;
        let at = references.binary_search_by_key(&pointer.segment, |reference| reference.segment);
        let segment = at.ok().and_then(|at| self.renumbered.get(at));
        ValuePointer {
            segment: segment.copied().unwrap_or(NO_SEGMENT),
            ..pointer
        }
    }

    /// Whether the file that says this of itself is the one that a manifest describes.
    pub(crate) fn is_of_file(&self, described: &Self) -> bool {
        let as_described = Self {
            id: described.id,
            renumbered: described.renumbered.clone(),
            ..self.clone()
        };
        as_described == *described
    }

    /// What a table without entries would say.
    pub(super) fn empty(id: TableId, file: FileId) -> Self {
        Self {
            id,
            file,
            renumbered: Vec::new(),
            file_bytes: 0,
            entries: 0,
            deletions: 0,
            value_bytes: 0,
            lowest: LogIndex(u64::MAX),
            highest: LogIndex(0),
            first_key: Bytes::new(),
            last_key: Bytes::new(),
            references: Vec::new(),
        }
    }

    /// Counts an entry; entries come in order. The last key is the caller's to set.
    pub(super) fn count(
        &mut self,
        key: &[u8],
        at: LogIndex,
        value: Counted,
        references: &mut References,
    ) {
        if self.entries == 0 {
            self.first_key = Bytes::copy_from_slice(key);
        }
        self.entries += 1;
        self.lowest = self.lowest.min(at);
        self.highest = self.highest.max(at);
        match value {
            Counted::Deleted => self.deletions += 1,
            Counted::Here(len) => self.value_bytes += len,
            Counted::Separated(pointer) => {
                self.value_bytes += u64::from(pointer.len);
                // The record has the key without its space.
                let record = record_bytes(key.len().saturating_sub(1), pointer.len);
                references.add(pointer.segment, record);
            }
        }
    }

    /// Appends the stored form.
    ///
    /// # Panics
    /// If it would not be read.
    pub(crate) fn encode_properties(&self, out: &mut Vec<u8>) {
        let references = &self.references;
        assert!(
            references.len() <= TABLE_REFERENCES_MAX,
            "the references of a table are bounded"
        );
        assert!(
            references.is_sorted_by(|one, next| one.segment < next.segment),
            "references are in order of segment"
        );
        for number in [
            self.entries,
            self.deletions,
            self.value_bytes,
            self.lowest.0,
            self.highest.0,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for key in [&self.first_key, &self.last_key] {
            assert!(key.len() <= KEY_BYTES_MAX + 1, "a stored key is bounded");
            let len = length::stored(key.len());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(key);
        }
        let count = length::stored(self.references.len());
        out.extend_from_slice(&count.to_le_bytes());
        for reference in &self.references {
            for number in [reference.segment.0, reference.values, reference.bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
    }

    /// Takes properties from the front of `bytes`, as that version of tables has them.
    pub(crate) fn decode_properties(
        version: u32,
        (id, file): (TableId, FileId),
        file_bytes: u64,
        bytes: &mut &[u8],
    ) -> Option<Self> {
        Some(Self {
            id,
            file,
            renumbered: Vec::new(),
            file_bytes,
            entries: bytes.try_get_u64_le().ok()?,
            deletions: bytes.try_get_u64_le().ok()?,
            value_bytes: bytes.try_get_u64_le().ok()?,
            lowest: LogIndex(bytes.try_get_u64_le().ok()?),
            highest: LogIndex(bytes.try_get_u64_le().ok()?),
            first_key: take_key(bytes)?,
            last_key: take_key(bytes)?,
            references: match version {
                VERSION_OF_REFERENCES.. => take_references(bytes)?,
                _ => Vec::new(),
            },
        })
    }
}

fn take_key(bytes: &mut &[u8]) -> Option<Bytes> {
    let len = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    if len > KEY_BYTES_MAX + 1 {
        return None;
    }
    let (key, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(Bytes::copy_from_slice(key))
}

fn take_references(bytes: &mut &[u8]) -> Option<Vec<Reference>> {
    let count = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    if count > TABLE_REFERENCES_MAX || bytes.len() < count * Reference::STORED_BYTES {
        return None;
    }
    let mut references: Vec<Reference> = Vec::with_capacity(count);
    for _ in 0..count {
        let reference = Reference {
            segment: ValueSegmentId(bytes.try_get_u64_le().ok()?),
            values: bytes.try_get_u64_le().ok()?,
            bytes: bytes.try_get_u64_le().ok()?,
        };
        let last = references.last();
        if last.is_some_and(|last| last.segment >= reference.segment) {
            return None;
        }
        references.push(reference);
    }
    Some(references)
}

/// Counts what a table refers to in the value log. Neighbouring keys tend to have their values in
/// one segment, so the last one is kept at hand.
#[derive(Default)]
pub(super) struct References {
    last: Option<Reference>,
    others: HashMap<ValueSegmentId, Reference>,
}

impl References {
    /// Segments so far.
    pub(super) fn len(&self) -> usize {
        self.others.len() + usize::from(self.last.is_some())
    }

    pub(super) fn add(&mut self, segment: ValueSegmentId, record_bytes: u64) {
        let mut reference = match self.last.take() {
            Some(last) if last.segment == segment => last,
            last => {
                self.others.extend(last.map(|last| (last.segment, last)));
                let known = self.others.remove(&segment);
                known.unwrap_or(Reference::none(segment))
            }
        };
        reference.values += 1;
        reference.bytes += record_bytes;
        self.last = Some(reference);
    }

    /// In order of segment.
    pub(super) fn finish(&mut self) -> Vec<Reference> {
        let others = std::mem::take(&mut self.others);
        let mut all: Vec<_> = others.into_values().chain(self.last.take()).collect();
        all.sort_unstable_by_key(|reference| reference.segment);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_counted_per_segment_and_read_back() {
        let mut references = References::default();
        for (segment, bytes) in [(4, 10), (4, 20), (1, 5), (4, 1), (u64::MAX, 9), (1, 6)] {
            references.add(ValueSegmentId(segment), bytes);
        }
        assert_eq!(references.len(), 3);
        let mut meta = TableMeta::empty(TableId(3), FileId(7));
        meta.references = references.finish();
        let found: Vec<_> = meta
            .references
            .iter()
            .map(|found| (found.segment.0, found.values, found.bytes))
            .collect();
        assert_eq!(found, [(1, 2, 11), (4, 3, 31), (u64::MAX, 1, 9)]);

        let mut bytes = Vec::new();
        meta.encode_properties(&mut bytes);
        let read = |bytes: &[u8]| {
            let mut rest = bytes;
            let read = TableMeta::decode_properties(2, (TableId(3), FileId(7)), 0, &mut rest);
            read.filter(|_| rest.is_empty())
        };
        assert_eq!(read(&bytes), Some(meta.clone()));
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), None);
        }
        let stored = bytes.len() - meta.references.len() * Reference::STORED_BYTES;
        let (first, rest) = bytes[stored..].split_at_mut(Reference::STORED_BYTES);
        first.swap_with_slice(&mut rest[..Reference::STORED_BYTES]);
        assert_eq!(read(&bytes), None, "out of order");
    }
}
