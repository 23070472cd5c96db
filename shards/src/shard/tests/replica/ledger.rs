//! The ledger of a shard under test: what was asked of it and what it answered, over all its lives.

use crate::engine::Statistics;
use crate::ids::{LogId, LogIndex, ReplicaId, Term};
use crate::wal::{Entry, ValuePart};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What one entry does: puts a value of that length, or deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::shard::tests) struct Write {
    pub(in crate::shard::tests) key: Vec<u8>,
    pub(in crate::shard::tests) len: Option<usize>,
}

/// Everything that was asked of a shard and answered by it.
#[derive(Clone, Default)]
pub(in crate::shard::tests) struct Ledger {
    /// All entries that its log may have held, by index and term.
    pub(super) written: BTreeMap<(u64, u64), Write>,
    /// The terms of its present entries, from index 1 on.
    pub(super) terms: Vec<u64>,
    pub(in crate::shard::tests) applied: u64,
    /// The shard has promised not to fall behind these.
    pub(in crate::shard::tests) acknowledged: u64,
    pub(in crate::shard::tests) checkpointed: u64,
    /// A snapshot up to here may have been installed, and holds entries of this term from the index
    /// after the shard's own on.
    pub(in crate::shard::tests) installing: Option<(u64, u64)>,
    pub(in crate::shard::tests) term: u64,
    /// What all lives did.
    pub(super) past: Done,
    pub(super) present: Done,
}

pub(in crate::shard::tests) type SharedLedger = Rc<RefCell<Ledger>>;

/// Background work done.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::shard::tests) struct Done {
    pub(in crate::shard::tests) flushes: u64,
    pub(in crate::shard::tests) merges: u64,
    pub(in crate::shard::tests) moves: u64,
    pub(in crate::shard::tests) rewrites: u64,
    pub(in crate::shard::tests) drops: u64,
}

impl Done {
    pub(super) fn of(statistics: &Statistics) -> Self {
        Self {
            flushes: statistics.flush.jobs,
            merges: statistics.compaction.jobs,
            moves: statistics.moves,
            rewrites: statistics.collection.jobs,
            drops: statistics.dropped_segments,
        }
    }

    pub(in crate::shard::tests) fn add(&mut self, other: Self) {
        self.flushes += other.flushes;
        self.merges += other.merges;
        self.moves += other.moves;
        self.rewrites += other.rewrites;
        self.drops += other.drops;
    }

    /// Everything happened at least `least` times.
    pub(in crate::shard::tests) fn assert_at_least(&self, least: u64) {
        let Self {
            flushes,
            merges,
            moves,
            rewrites,
            drops,
        } = *self;
        let all = [flushes, merges, moves, rewrites, drops];
        assert!(all.iter().all(|count| *count >= least), "{self:?}");
    }
}

/// The keys and values at some index, with their versions.
pub(in crate::shard::tests) type State = BTreeMap<Vec<u8>, (u64, Bytes)>;

pub(super) fn value(index: u64, term: u64, len: usize) -> Bytes {
    let seed = [index.to_le_bytes(), term.to_le_bytes()].concat();
    let mut value = seed.repeat(len.div_ceil(seed.len()));
    value.truncate(len);
    // No two pages alike, so that a page from elsewhere shows.
    for (number, page) in value.chunks_mut(1024).enumerate() {
        page[0] ^= number as u8;
    }
    value.into()
}

impl Ledger {
    pub(in crate::shard::tests) fn new() -> SharedLedger {
        Rc::new(RefCell::new(Self {
            term: 1,
            ..Self::default()
        }))
    }

    /// The same knowledge again, for a start that is undone.
    pub(in crate::shard::tests) fn copy(&self) -> SharedLedger {
        Rc::new(RefCell::new(self.clone()))
    }

    pub(in crate::shard::tests) fn last(&self) -> u64 {
        self.terms.len() as u64
    }

    pub(in crate::shard::tests) fn id(&self, index: u64) -> LogId {
        LogId {
            term: Term(self.terms[index as usize - 1]),
            node: ReplicaId(1),
            index: LogIndex(index),
        }
    }

    pub(super) fn write_of(&self, index: u64) -> &Write {
        &self.written[&(index, self.terms[index as usize - 1])]
    }

    /// The state after entry `at`.
    pub(in crate::shard::tests) fn state(&self, at: u64) -> State {
        let mut newest = BTreeMap::new();
        for index in 1..=at {
            let Write { key, len } = self.write_of(index);
            match len {
                Some(_) => newest.insert(key, index),
                None => newest.remove(key),
            };
        }
        let newest = newest.into_iter();
        let state = newest.map(|(key, index)| (key.clone(), (index, self.value_of(index))));
        state.collect()
    }

    /// The version of `key` after entry `at`.
    pub(in crate::shard::tests) fn version(&self, key: &[u8], at: u64) -> Option<u64> {
        let index = (1..=at).rev().find(|at| self.write_of(*at).key == key)?;
        self.write_of(index).len.map(|_| index)
    }

    /// The value that entry `index` put.
    pub(in crate::shard::tests) fn value_of(&self, index: u64) -> Bytes {
        let len = self.write_of(index).len.unwrap_or(0);
        value(index, self.terms[index as usize - 1], len)
    }

    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<_> = self
            .written
            .values()
            .map(|write| write.key.clone())
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Adds an entry after the last one.
    pub(in crate::shard::tests) fn push(&mut self, write: Write) -> Entry {
        let (index, term) = (self.last() + 1, self.term);
        self.terms.push(term);
        let entry = entry_of(index, term, &write);
        self.written.insert((index, term), write);
        entry
    }

    pub(in crate::shard::tests) fn cut(&mut self, last: u64) {
        self.terms.truncate(last as usize);
        self.acknowledged = self.acknowledged.min(last);
        self.term += 1;
    }

    /// Everything that lives before and this one did.
    pub(in crate::shard::tests) fn done(&self) -> Done {
        let mut done = self.past;
        done.add(self.present);
        done
    }
}

/// body = tag | key length | key | value
pub(super) fn entry_of(index: u64, term: u64, write: &Write) -> Entry {
    let mut body = vec![u8::from(write.len.is_some())];
    body.extend_from_slice(&(write.key.len() as u16).to_le_bytes());
    body.extend_from_slice(&write.key);
    let start = body.len() as u32;
    let len = write.len.unwrap_or(0);
    body.extend_from_slice(&value(index, term, len));
    let id = LogId {
        term: Term(term),
        node: ReplicaId(1),
        index: LogIndex(index),
    };
    let mut entry = Entry::new(id, 2, body.into());
    entry.value = (len > 0).then_some(ValuePart {
        space: crate::Space::User,
        start,
        len: len as u32,
        key_start: 3,
        key_len: write.key.len() as u32,
    });
    entry
}

pub(super) fn difference(found: &State, expected: &State) -> String {
    let brief = |value: Option<&(u64, Bytes)>| value.map(|(at, value)| (*at, value.len()));
    let keys = found.keys().chain(expected.keys());
    let different = keys.filter(|key| found.get(*key) != expected.get(*key));
    let lines = different.map(|key| {
        let (found, expected) = (brief(found.get(key)), brief(expected.get(key)));
        format!("{}: {found:?} instead of {expected:?}", key.escape_ascii())
    });
    lines.collect::<Vec<_>>().join("; ")
}
