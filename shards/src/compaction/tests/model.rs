//! A tree of real keys, with as little of a store as picking needs: flushes, merges, and what is true
//! of them.

use crate::compaction::{
    CompactionTask, Debt, LevelShape, PickerOptions, Policy, RunShape, Shape, TableShape, debt,
    pick,
};
use crate::ids::{LogIndex, TableId};
use crate::key::Space;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: u32,
    pub(super) at: u64,
    pub(super) deleted: bool,
}

/// How long things are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// A put in a table.
    pub(super) put: u64,
    /// A deletion in a table.
    pub(super) deletion: u64,
    /// The value of a put in the value log.
    pub(super) value: u64,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) id: u64,
    pub(super) records: Vec<Record>,
    shape: TableShape,
}

#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) id: u64,
    pub(super) tables: Vec<Rc<Table>>,
}

/// The value of a chunk.
const CHUNK_BYTES: u64 = 64 << 10;

pub(super) struct Tree {
    /// Keys from here on are those of chunks.
    pub(super) chunks_from: u32,
    pub(super) levels: Vec<Vec<Run>>,
    pub(super) policy: Policy,
    pub(super) options: PickerOptions,
    pub(super) sizes: Sizes,
    /// The newest version of every key that was ever written.
    pub(super) truth: BTreeMap<u32, Record>,
    pub(super) running: Vec<CompactionTask>,
    pub(super) figures: Figures,
    next_id: u64,
    next_at: u64,
}

/// What it took so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) flushed: u64,
    pub(super) rewritten: u64,
    pub(super) values: u64,
    pub(super) merges: u64,
    pub(super) moves: u64,
    pub(super) runs_max: usize,
    /// Of trees in which nothing was left to do.
    pub(super) space_max: f64,
    /// The same.
    pub(super) settled_runs_max: usize,
    pub(super) longest: u64,
}

impl Figures {
    /// Bytes of tables written for each byte of tables flushed.
    pub(super) fn amplification(&self) -> f64 {
        1.0 + self.rewritten as f64 / self.flushed as f64
    }
}

impl Tree {
    pub(super) fn new(policy: Policy, sizes: Sizes) -> Self {
        let options = PickerOptions::default();
        Self {
            chunks_from: u32::MAX,
            levels: vec![Vec::new(); options.levels],
            policy,
            options,
            sizes,
            truth: BTreeMap::new(),
            running: Vec::new(),
            figures: Figures::default(),
            next_id: 1,
            next_at: 1,
        }
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn stored(&self, key: u32) -> Bytes {
        let is_chunk = key >= self.chunks_from;
        let space = if is_chunk { Space::Chunk } else { Space::User };
        let mut stored = vec![0; 12];
        stored.extend_from_slice(&key.to_be_bytes());
        space.stored_key(&stored).into()
    }

    fn bytes(&self, record: &Record) -> u64 {
        if record.deleted {
            self.sizes.deletion
        } else {
            self.sizes.put
        }
    }

    pub(super) fn shape(&self) -> Shape {
        let run = |run: &Run| RunShape {
            id: run.id,
            tables: run.tables.iter().map(|table| table.shape.clone()).collect(),
        };
        let mut shape = Shape {
            levels: self
                .levels
                .iter()
                .map(|runs| LevelShape {
                    runs: runs.iter().map(run).collect(),
                })
                .collect(),
            claims: Vec::new(),
        };
        for task in &self.running {
            shape.start(task);
        }
        shape
    }

    fn table(&mut self, records: Vec<Record>) -> Rc<Table> {
        let id = self.id();
        let deletions = records.iter().filter(|record| record.deleted).count() as u64;
        let entries = records.len() as u64;
        let value_bytes = match records[0].key >= self.chunks_from {
            true => CHUNK_BYTES,
            false => self.sizes.value,
        };
        let shape = TableShape {
            id: TableId(id),
            file_bytes: records.iter().map(|record| self.bytes(record)).sum(),
            entries,
            deletions,
            value_bytes: (entries - deletions) * value_bytes,
            first: self.stored(records[0].key),
            last: self.stored(records[records.len() - 1].key),
            highest: LogIndex(records.iter().map(|record| record.at).max().unwrap()),
            busy: false,
        };
        Rc::new(Table { id, records, shape })
    }

    /// Sorted, deduplicated records into tables.
    fn tables(&mut self, records: &[Record], cuts: &[Bytes]) -> Vec<Rc<Table>> {
        let mut tables = Vec::new();
        let mut records_of_table: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let mut cuts = cuts.iter().peekable();
        for record in records {
            let last = records_of_table.last();
            let is_chunk = record.key >= self.chunks_from;
            let mut cut = last.is_some_and(|last| (last.key >= self.chunks_from) != is_chunk);
            let stored = self.stored(record.key);
            while cuts.next_if(|cut| **cut <= stored).is_some() {
                cut = true;
            }
            if !records_of_table.is_empty() && (cut || bytes >= self.options.table_bytes) {
                let records = std::mem::take(&mut records_of_table);
                tables.push(self.table(records));
                bytes = 0;
            }
            records_of_table.push(*record);
            bytes += self.bytes(record);
        }
        if !records_of_table.is_empty() {
            tables.push(self.table(records_of_table));
        }
        tables
    }

    /// Writes `keys` as one memtable.
    pub(super) fn flush(&mut self, keys: impl IntoIterator<Item = (u32, bool)>) {
        let mut memtable = BTreeMap::new();
        for (key, deleted) in keys {
            memtable.insert(key, self.write(key, deleted));
            if !deleted {
                self.figures.values += self.sizes.value;
            }
        }
        let records: Vec<Record> = memtable.into_values().collect();
        self.figures.flushed += records.iter().map(|record| self.bytes(record)).sum::<u64>();
        self.add(0, &records);
    }

    /// A record that is newer than all before.
    pub(super) fn write(&mut self, key: u32, deleted: bool) -> Record {
        let at = self.next_at;
        self.next_at += 1;
        let record = Record { key, at, deleted };
        self.truth.insert(key, record);
        record
    }

    /// Adds a run at the front of `level`.
    pub(super) fn add(&mut self, level: usize, records: &[Record]) {
        let tables = self.tables(records, &[]);
        let id = self.id();
        self.levels[level].insert(0, Run { id, tables });
        self.figures.runs_max = self.figures.runs_max.max(self.runs());
    }

    pub(super) fn runs(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
    }

    pub(super) fn pick(&self) -> Option<CompactionTask> {
        pick(&self.shape(), self.policy, &self.options)
    }

    pub(super) fn debt(&self) -> Debt {
        debt(&self.shape(), self.policy, &self.options)
    }

    pub(super) fn apply(&mut self, task: &CompactionTask) {
        let mut inputs: Vec<Rc<Table>> = Vec::new();
        for input in &task.inputs {
            let run = self.levels[input.level]
                .iter_mut()
                .find(|run| run.id == input.run)
                .expect("a run that is an input stays");
            for id in &input.tables {
                let position = run.tables.iter().position(|table| TableId(table.id) == *id);
                inputs.push(run.tables.remove(position.expect("an input stays")));
            }
        }
        let outputs = if task.moves {
            self.figures.moves += 1;
            inputs
        } else {
            self.merge(task, &inputs)
        };
        let runs = &mut self.levels[task.output.level];
        let position = runs.iter().position(|run| Some(run.id) == task.output.run);
        let position = position.unwrap_or_else(|| {
            if runs.is_empty() {
                self.next_id += 1;
                let id = self.next_id;
                let tables = Vec::new();
                runs.push(Run { id, tables });
            }
            assert_eq!(runs.len(), 1, "{task:?}");
            0
        });
        let tables = &mut runs[position].tables;
        tables.extend(outputs);
        tables.sort_by_key(|table| table.records[0].key);
        for runs in &mut self.levels {
            runs.retain(|run| !run.tables.is_empty());
        }
    }

    fn merge(&mut self, task: &CompactionTask, inputs: &[Rc<Table>]) -> Vec<Rc<Table>> {
        // The first of a key is the newest, as the order of runs says: the sort is stable.
        let mut merged: Vec<Record> = Vec::new();
        for table in inputs {
            merged.extend_from_slice(&table.records);
        }
        merged.sort_by_key(|record| record.key);
        merged.dedup_by_key(|record| record.key);
        let before: usize = inputs.iter().map(|table| table.records.len()).sum();
        let dropped = (before - merged.len()) as u64;
        let pin = self.options.oldest_pin;
        merged.retain(|record| !(task.bottom && record.deleted && LogIndex(record.at) <= pin));
        self.options.mix.merged(&task.mixed, dropped);
        let records = merged;
        self.figures.merges += 1;
        self.figures.rewritten += records.iter().map(|record| self.bytes(record)).sum::<u64>();
        self.figures.longest = self.figures.longest.max(task.bytes);
        self.tables(&records, &task.cuts)
    }

    /// Compacts until nothing is left to do, and tells after how many tasks.
    pub(super) fn settle(&mut self) -> usize {
        for tasks in 0..20_000 {
            let Some(task) = self.pick() else {
                let debt = self.debt();
                assert_eq!(debt.bytes, 0, "{debt:?} with nothing to do");
                let figures = &self.figures;
                let space_max = figures.space_max.max(self.space());
                let settled_runs_max = figures.settled_runs_max.max(self.runs());
                self.figures.space_max = space_max;
                self.figures.settled_runs_max = settled_runs_max;
                return tasks;
            };
            assert!(task.moves || self.debt().bytes > 0, "no debt, yet {task:?}");
            self.apply(&task);
        }
        panic!("it never settles: {}", self.picture());
    }

    fn live(&self) -> u64 {
        self.truth.values().filter(|record| !record.deleted).count() as u64
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.levels
            .iter()
            .flatten()
            .flat_map(|run| &run.tables)
            .flat_map(|table| &table.records)
    }

    pub(super) fn table_bytes(&self) -> u64 {
        self.records().map(|record| self.bytes(record)).sum()
    }

    /// Bytes of tables for each byte of live records.
    pub(super) fn space(&self) -> f64 {
        self.table_bytes() as f64 / (self.live() * self.sizes.put).max(1) as f64
    }

    /// Values that are referred to but not live, in proportion to those that are.
    pub(super) fn hidden(&self) -> f64 {
        let puts = self.records().filter(|record| !record.deleted).count() as u64;
        (puts - self.live().min(puts)) as f64 / self.live().max(1) as f64
    }

    /// What must be true of every tree: runs are sorted and share no key, versions of a key are newest
    /// first, and every key reads as it should.
    pub(super) fn check(&self) {
        let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
        let mut found: BTreeMap<u32, Record> = BTreeMap::new();
        for run in self.levels.iter().flatten() {
            let records: Vec<&Record> =
                run.tables.iter().flat_map(|table| &table.records).collect();
            for pair in records.windows(2) {
                assert!(
                    pair[0].key < pair[1].key,
                    "a run is out of order: {}",
                    self.picture()
                );
            }
            for record in records {
                if let Some(newer) = seen.insert(record.key, record.at) {
                    assert!(newer > record.at, "an older version hides a newer one");
                }
                found.entry(record.key).or_insert(*record);
            }
        }
        for (key, record) in &self.truth {
            match found.get(key) {
                Some(read) => assert_eq!(read, record),
                None => assert!(record.deleted, "{record:?} was lost"),
            }
        }
        assert!(found.keys().all(|key| self.truth.contains_key(key)));
    }

    /// For a person: the length of every run in MiB.
    pub(super) fn picture(&self) -> String {
        let mut picture = String::new();
        for (level, runs) in self.levels.iter().enumerate() {
            if runs.is_empty() {
                continue;
            }
            picture += &format!(" L{level}:");
            for run in runs {
                let records = run.tables.iter().flat_map(|table| &table.records);
                let bytes: u64 = records.map(|record| self.bytes(record)).sum();
                picture += &format!(" {}", bytes >> 20);
            }
        }
        picture
    }
}

/// Random numbers that repeat (xorshift64*).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        ((high * u64::from(bound)) >> 32) as u32
    }
}
