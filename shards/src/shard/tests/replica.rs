//! A whole shard under test: log, value log and engine, and the ledger of what it was asked to keep.
//!
//! Entries are applied as consensus does it: appended, read back as heads, applied with the places of
//! their values. The ledger outlives crashes; what a start finds is held against it.

mod ledger;

pub(super) use ledger::{Done, Ledger, SharedLedger, State, Write};

use crate::capacity::Capacity;
use crate::compaction::{self, Policy};
use crate::engine::tests::crash::{membership, use_sessions};
use crate::engine::tests::settle;
use crate::engine::{FoundRange, ScanRange};
use crate::error::Result;
use crate::ids::{LogId, LogIndex, ShardId};
use crate::session::SessionTable;
use crate::session::tests::contents;
use crate::shard::{Shard, ShardOptions};
use crate::sstable::Compression;
use crate::wal::Entry;
use bytes::Bytes;
use ledger::{difference, entry_of};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How a shard is opened.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) memtable_bytes: usize,
    pub(super) threshold: usize,
    pub(super) policy: Policy,
    pub(super) compression: Compression,
    pub(super) reserve_bytes: u64,
    pub(super) capacity: Capacity,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memtable_bytes: 6 << 10,
            threshold: 512,
            policy: Policy::Leveled,
            compression: Compression::None,
            reserve_bytes: 0,
            capacity: Capacity::default(),
        }
    }
}

/// An open shard and its ledger.
pub(super) struct Replica {
    pub(super) shard: Shard,
    pub(super) ledger: SharedLedger,
    pub(super) dir: PathBuf,
}

impl Replica {
    /// Opens what is in `dir`, holds it against the ledger and applies what the checkpoint lacks.
    pub(super) async fn open(dir: &Path, config: &Config, ledger: &SharedLedger) -> Result<Self> {
        let options = ShardOptions {
            memtable_bytes: config.memtable_bytes,
            segment_bytes: 64 << 10,
            log_cache_bytes: 8 << 10,
            policy: config.policy,
            compression: config.compression,
            value_threshold: config.threshold,
            value_segment_bytes: 64 << 10,
            reserve_bytes: config.reserve_bytes,
            capacity: config.capacity,
            removal_step_bytes: 8 << 10,
            ..ShardOptions::new(7, ShardId(1))
        };
        let compaction = compaction::PickerOptions {
            table_bytes: 16 << 10,
            level_ratio: 4,
            base_bytes: 32 << 10,
            leveled_runs_max: 4,
            tiered_runs_max: 6,
            ..compaction::PickerOptions::default()
        };
        let shard = Shard::open_tuned(dir, options, compaction).await?;
        let replica = Self {
            shard,
            ledger: Rc::clone(ledger),
            dir: dir.to_path_buf(),
        };
        replica.compare_log().await?;
        replica.apply().await?;
        Ok(replica)
    }

    /// Finds the log that is there among those that may be, and takes it for the truth from now on.
    async fn compare_log(&self) -> Result<()> {
        let Shard { log, engine } = &self.shard;
        let range = log.range();
        let at = |id: Option<LogId>| id.map_or(0, |id| id.index.0);
        let (purged, last) = (at(range.purged), at(range.last));
        let (from, to) = (LogIndex(purged + 1), LogIndex(u64::MAX));
        let mut entries = Vec::new();
        while entries.len() as u64 != last - purged {
            let from = LogIndex(from.0 + entries.len() as u64);
            let more = log.read(from, to, 50_000).await?;
            assert!(!more.is_empty(), "entries from {from} are missing");
            entries.extend(more);
        }
        let ledger = &mut *self.ledger.borrow_mut();
        ledger.past = ledger.done();
        ledger.present = Done::default();
        let applied = engine.applied().0;
        if let Some((installed, term)) = ledger.installing.take()
            && at(applied) == installed
        {
            // The installation was durable before it could say so.
            ledger.terms.resize(installed as usize, term);
        }
        assert!(
            at(applied) >= ledger.checkpointed,
            "the checkpoint fell back"
        );
        assert!(
            last >= ledger.acknowledged,
            "{last} of {}",
            ledger.acknowledged
        );
        assert!(purged <= at(applied), "purged beyond the checkpoint");
        assert!(applied.is_none_or(|id| id == ledger.id(id.index.0)));
        for (index, mut entry) in (purged + 1..).zip(entries) {
            let term = entry.id.term.0;
            assert_eq!(entry.id.index.0, index);
            let write = ledger.written.get(&(index, term)).expect("a known entry");
            let known = entry_of(index, term, write);
            assert!(entry.is_whole(), "entry {index} is not whole");
            (entry.value, entry.place) = (known.value, None);
            assert!(entry == known, "entry {index} is another one");
            match ledger.terms.get_mut(index as usize - 1) {
                Some(present) if *present == term => {}
                Some(present) => {
                    assert!(index > ledger.acknowledged, "entry {index} was replaced");
                    *present = term;
                }
                None => ledger.terms.push(term),
            }
            ledger.term = ledger.term.max(term);
        }
        ledger.terms.truncate(last as usize);
        ledger.term += 1;
        (ledger.acknowledged, ledger.checkpointed) = (last, at(applied));
        ledger.applied = at(applied);
        Ok(())
    }

    /// Appends entries without waiting for them.
    pub(super) async fn append(&self, writes: Vec<Write>) -> Result<()> {
        self.shard.log.wait_for_room().await?;
        let (entries, last, term) = {
            let ledger = &mut *self.ledger.borrow_mut();
            let entries: Vec<Entry> = writes.into_iter().map(|write| ledger.push(write)).collect();
            (entries, ledger.last(), ledger.term)
        };
        let told = Rc::clone(&self.ledger);
        self.shard.log.append(entries, move |result| {
            let ledger = &mut *told.borrow_mut();
            // It may be cut off by now.
            if result.is_ok() && ledger.terms.get(last as usize - 1) == Some(&term) {
                ledger.acknowledged = ledger.acknowledged.max(last);
            }
        });
        Ok(())
    }

    /// Applies what is in the log.
    pub(super) async fn apply(&self) -> Result<()> {
        let Shard { log, engine } = &self.shard;
        loop {
            let (from, last) = {
                let ledger = self.ledger.borrow();
                (ledger.applied + 1, ledger.last())
            };
            if from > last {
                break;
            }
            let heads = log.read_heads(LogIndex(from), LogIndex(last + 1), 10_000);
            let heads = heads.await?;
            assert!(!heads.is_empty(), "entry {from} of {last} is missing");
            for head in heads {
                engine.wait_for_room().await?;
                self.apply_head(&head);
            }
        }
        if let Some(id) = engine.applied().0 {
            log.note_committed(id);
        }
        self.note();
        Ok(())
    }

    fn apply_head(&self, head: &Entry) {
        let engine = &self.shard.engine;
        let (at, index) = (head.id.index, head.id.index.0);
        use_sessions(&mut engine.sessions(), index);
        let key_len = usize::from(u16::from_le_bytes([head.body[1], head.body[2]]));
        let key = &head.body[3..3 + key_len];
        match (head.body[0], head.place) {
            (0, _) => engine.delete(at, key),
            (_, Some(place)) => engine.put_separated(at, key, place),
            (_, None) => engine.put(at, key, head.body.slice(3 + key_len..)),
        }
        engine.set_applied(head.id, membership(index));
        self.ledger.borrow_mut().applied = index;
    }

    /// Appends and applies.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<()> {
        self.append(writes).await?;
        self.apply().await
    }

    /// Notes what the shard says of itself.
    pub(super) fn note(&self) {
        let engine = &self.shard.engine;
        let ledger = &mut *self.ledger.borrow_mut();
        let checkpointed = engine.checkpointed().map_or(0, |id| id.index.0);
        ledger.checkpointed = ledger.checkpointed.max(checkpointed);
        ledger.present = Done::of(&engine.statistics());
    }

    pub(super) async fn checkpoint(&self) -> Result<()> {
        self.shard.engine.checkpoint().await?;
        self.note();
        Ok(())
    }

    /// Has the log forget all but the last `keep` entries of the checkpoint.
    pub(super) async fn purge(&self, keep: u64) -> Result<()> {
        let upto = {
            let ledger = self.ledger.borrow();
            let purged = self.shard.log.range().purged.map_or(0, |id| id.index.0);
            let upto = ledger.checkpointed.saturating_sub(keep);
            (upto > purged).then(|| ledger.id(upto))
        };
        match upto {
            Some(upto) => self.shard.log.purge(upto).await,
            None => Ok(()),
        }
    }

    /// Appends entries that a new leader then cuts off, durable or not; nothing of them is applied.
    pub(super) async fn cut_off(&self, writes: Vec<Write>, flush: bool) -> Result<()> {
        let keep = self.ledger.borrow().last();
        self.append(writes).await?;
        if flush {
            self.shard.log.flush().await?;
        }
        let last = {
            let ledger = &mut *self.ledger.borrow_mut();
            ledger.cut(keep);
            (keep > 0).then(|| ledger.id(keep))
        };
        self.shard.log.truncate_after(last).await
    }

    /// Replaces the state by a snapshot of `terms.len()` entries, and purges the log up to it.
    pub(super) async fn install(&self, pieces: &[Bytes], source: &SharedLedger) -> Result<()> {
        let (upto, term) = {
            let source = source.borrow();
            let ledger = &mut *self.ledger.borrow_mut();
            let known = ledger.last() as usize;
            assert_eq!(ledger.terms[..], source.terms[..known]);
            ledger.written.extend(source.written.clone());
            let term = *source.terms.last().unwrap();
            assert!(source.terms[known..].iter().all(|other| *other == term));
            let upto = source.last();
            ledger.installing = Some((upto, term));
            (source.id(upto), term)
        };
        let mut received = self.shard.engine.receive_snapshot().await?;
        for piece in pieces {
            received.piece(piece.clone()).await?;
        }
        received.finish().await?;
        self.shard.engine.install(received).await?;
        {
            let ledger = &mut *self.ledger.borrow_mut();
            ledger.installing = None;
            ledger.terms.resize(upto.index.0 as usize, term);
            ledger.term = ledger.term.max(term);
            (ledger.applied, ledger.checkpointed) = (upto.index.0, upto.index.0);
            ledger.acknowledged = upto.index.0;
        }
        self.shard.log.purge(upto).await?;
        self.note();
        Ok(())
    }

    /// As [`Replica::install`], into a shard that never held anything.
    pub(super) async fn install_copy(&self, pieces: &[Bytes], source: &SharedLedger) -> Result<()> {
        let mut received = self.shard.engine.receive_snapshot().await?;
        for piece in pieces {
            received.piece(piece.clone()).await?;
        }
        received.finish().await?;
        self.shard.engine.install(received).await?;
        let upto = {
            let source = source.borrow();
            let ledger = &mut *self.ledger.borrow_mut();
            ledger.written = source.written.clone();
            ledger.terms = source.terms[..source.applied as usize].to_vec();
            ledger.term = source.term;
            ledger.applied = source.applied;
            (ledger.acknowledged, ledger.checkpointed) = (source.applied, source.applied);
            source.id(source.applied)
        };
        self.shard.log.purge(upto).await?;
        self.note();
        Ok(())
    }

    /// The pieces of a snapshot of the present state.
    pub(super) async fn snapshot(&self) -> Result<Vec<Bytes>> {
        let mut snapshot = self.shard.engine.snapshot();
        let mut pieces = Vec::new();
        while let Some(piece) = snapshot.next_piece().await? {
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// Reads everything by scans in pages, as of `at` or now.
    pub(super) async fn scan(&self, at: Option<u64>, page_items: usize) -> Result<State> {
        let mut found = State::new();
        let mut range = ScanRange::default();
        loop {
            let engine = &self.shard.engine;
            let page = engine.scan(&range, at.map(LogIndex), page_items, 100_000);
            let page = page.await?;
            for item in &page.items {
                let (version, value) = (item.version.0, item.value.bytes().unwrap().clone());
                found.insert(item.key.to_vec(), (version, value));
            }
            let Some(last) = page.items.last().filter(|_| page.more) else {
                return Ok(found);
            };
            range.start = [&last.key[..], &[0]].concat().into();
        }
    }

    /// Checks one key.
    pub(super) async fn check_key(
        &self,
        key: &[u8],
        expected: Option<&(u64, Bytes)>,
    ) -> Result<()> {
        let engine = &self.shard.engine;
        let found = engine.get(key).await?;
        let found = found.map(|found| (found.version.0, found.value));
        let brief = |value: Option<&(u64, Bytes)>| value.map(|(at, value)| (*at, value.len()));
        assert!(
            found.as_ref() == expected,
            "{}: {:?} instead of {:?}",
            key.escape_ascii(),
            brief(found.as_ref()),
            brief(expected)
        );
        if let Some(found) = engine.get_in_memory(key) {
            let found = found.map(|found| (found.version.0, found.value));
            assert!(found.as_ref() == expected, "{}", key.escape_ascii());
        }
        let version = engine.version_of(key).await?.map(|at| at.0);
        assert_eq!(version, expected.map(|(at, _)| *at));
        Ok(())
    }

    /// Checks a part of the value of a key.
    pub(super) async fn check_range(
        &self,
        key: &[u8],
        range: std::ops::Range<u64>,
        expected: Option<&(u64, Bytes)>,
    ) -> Result<()> {
        let found = self.shard.engine.get_range(key, range.clone()).await?;
        let expected = expected.map(|(version, value)| {
            let len = value.len() as u64;
            let (start, end) = (range.start.min(len), range.end.min(len));
            FoundRange {
                version: LogIndex(*version),
                len,
                bytes: value.slice(start as usize..end.max(start) as usize),
            }
        });
        assert!(found == expected, "{} {range:?}", key.escape_ascii());
        Ok(())
    }

    /// Checks everything that the shard holds.
    pub(super) async fn check(&self) -> Result<()> {
        let (at, state, keys, members) = {
            let ledger = self.ledger.borrow();
            let at = ledger.applied;
            let members = (1..=at)
                .rev()
                .find_map(|index| Some((ledger.id(index), membership(index)?)));
            (at, ledger.state(at), ledger.keys(), members)
        };
        let engine = &self.shard.engine;
        let applied = engine.applied();
        assert_eq!(applied.0.map_or(0, |id| id.index.0), at);
        assert_eq!(applied.1, members);
        let mut sessions = SessionTable::default();
        (1..=at).for_each(|index| use_sessions(&mut sessions, index));
        // Their records may have lost the same on both sides.
        assert_eq!(contents(&engine.sessions()), contents(&sessions));
        let found = self.scan(None, 7).await?;
        assert!(found == state, "{}", difference(&found, &state));
        for key in keys {
            self.check_key(&key, state.get(&key)).await?;
            self.check_range(&key, 700..1900, state.get(&key)).await?;
        }
        Ok(())
    }

    /// Once settled, the directory holds what is in use and nothing else.
    pub(super) async fn check_files(&self) -> Result<()> {
        let engine = &self.shard.engine;
        settle(engine).await;
        engine.wait_for_room().await?;
        self.note();
        let names = corelith_io::list_dir(&self.dir).await?;
        let names: Vec<String> = names.into_iter().map(|entry| entry.name).collect();
        let has_end = |end: &'static str| names.iter().filter(move |name| name.ends_with(end));
        let (tables, _) = engine.tables();
        assert_eq!(has_end(".sst").count(), tables, "{names:?}");
        // One that is written to or prepared may not be listed yet.
        let values = engine.report().garbage.segments;
        let unused = has_end(".vlog").filter(|name| {
            let is = |id: u64| name.starts_with(&format!("{id:012}."));
            !values.iter().any(|segment| is(segment.id.0))
        });
        assert!(unused.count() <= 2, "{names:?}, {values:?}");
        assert!(has_end(".vlog").count() <= values.len() + 2, "{names:?}");
        let known = ["LOCK", "MANIFEST", "RESERVE"];
        let others = names.iter().filter(|name| {
            // Spare segments may be under preparation.
            let ends = [".sst", ".vlog", ".vlog.tmp", ".log", ".log.tmp"];
            !known.contains(&&name[..]) && !ends.iter().any(|end| name.ends_with(end))
        });
        assert_eq!(others.count(), 0, "{names:?}");
        Ok(())
    }

    pub(super) async fn close(self) -> Result<()> {
        let last = self.ledger.borrow().last();
        self.note();
        self.shard.close().await?;
        let ledger = &mut *self.ledger.borrow_mut();
        assert_eq!(
            ledger.acknowledged, last,
            "closing makes everything durable"
        );
        ledger.checkpointed = ledger.checkpointed.max(ledger.applied);
        Ok(())
    }
}
