//! Our engine as it is measured. All contact with `corelith-shards` is in this file.
//!
//! [`Ours`] does for one shard what the consensus layer does for a group of one replica: it appends what was
//! staged in a turn as one batch, applies entries in log order as soon as they are durable, and purges the
//! log behind every checkpoint.
//!
//! Body of an entry: length of the key u16 | key | value.

use crate::error::{BenchError, Result};
use crate::plan::Tuning;
use crate::subject::Statistics;
use bytes::{BufMut, Bytes, BytesMut};
use corelith_io::sync::notify::Notify;
use corelith_io::sync::oneshot;
use corelith_io::{JoinHandle, sleep, spawn, yield_if_needed, yield_now};
use corelith_shards::{
    BlockCache, Engine, Entry, Error, Log, LogId, LogIndex, ReplicaId, Shard, ShardId, ShardOptions,
    Space, Term, ValuePart,
};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// The store that all measurements pretend to be.
const STORE_ID: u64 = 0xbe7c;
/// Kind of the log's entries.
const KIND_PUT: u8 = 1;
/// Bytes of the log that are replayed at once.
const REPLAY_BYTES: u64 = 4 << 20;
/// A batch up to this long is applied by the task that found it durable; a longer one would hold up others.
const APPLY_AT_ONCE_MAX: usize = 32;
/// Entries appended, and applied, before other tasks get their turn: some 50 µs of work.
const APPEND_MAX: usize = 64;
/// See [`APPEND_MAX`].
const APPLY_TURN: usize = 32;

/// How often it is looked whether background work is done.
const SETTLE_POLL: Duration = Duration::from_millis(20);

type Done = Box<dyn FnOnce(Result<(), Error>)>;

/// A put on its way.
struct Write {
    entry: Entry,
    done: Done,
}

/// One shard with its writers. Belongs to one core; clones share it.
#[derive(Clone)]
pub(crate) struct Ours {
    inner: Rc<Inner>,
}

struct Inner {
    log: Log,
    engine: Engine,
    cache: BlockCache,
    /// Entries applied when it was opened.
    replayed: u64,
    next: Cell<LogIndex>,
    /// Not appended yet.
    staged: RefCell<Vec<Write>>,
    wake_appender: Notify,
    /// Durable and not applied yet, in log order.
    durable: RefCell<VecDeque<(LogIndex, Done)>>,
    wake_applier: Notify,
    /// Puts whose `done` was not called yet.
    in_flight: Cell<u64>,
    /// Called when there are none.
    all_done: Notify,
}

/// An open shard and its tasks, to be closed.
pub(crate) struct Opened {
    pub(crate) ours: Ours,
    shard: Shard,
    tasks: Vec<JoinHandle<()>>,
}

impl Opened {
    /// Opens shard `number` in `dir` and applies what its log holds beyond the last checkpoint.
    pub(crate) async fn open(dir: &Path, number: u32, tuning: Tuning) -> Result<Self> {
        let cache = BlockCache::new(tuning.cache_bytes);
        let options = ShardOptions {
            memtable_bytes: tuning.memtable_bytes,
            cache: cache.clone(),
            value_threshold: tuning.separate_bytes,
            ..ShardOptions::new(STORE_ID, ShardId(number))
        };
        let shard = Shard::open(dir, options).await?;
        let replayed = replay(&shard).await?;
        let last = shard.log.range().last;
        let inner = Rc::new(Inner {
            log: shard.log.clone(),
            engine: shard.engine.clone(),
            cache,
            replayed,
            next: Cell::new(LogIndex(last.map_or(1, |id| id.index.0 + 1))),
            staged: RefCell::default(),
            wake_appender: Notify::new(),
            durable: RefCell::default(),
            wake_applier: Notify::new(),
            in_flight: Cell::new(0),
            all_done: Notify::new(),
        });
        let tasks = vec![
            spawn(append_staged(Rc::clone(&inner))),
            spawn(apply_durable(Rc::clone(&inner))),
            spawn(purge_checkpointed(Rc::clone(&inner))),
        ];
        Ok(Self {
            ours: Ours { inner },
            shard,
            tasks,
        })
    }

    /// Waits for puts in flight and closes the shard.
    pub(crate) async fn close(self) -> Result<()> {
        self.ours.all_done().await;
        for task in &self.tasks {
            task.abort();
        }
        Ok(self.shard.close().await?)
    }
}

impl Ours {
    /// Puts a value; on return it is durable and applied.
    pub(crate) async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.put_nowait(key, value, move |result| {
            // Nobody waits any more when the measurement is over.
            let _ = sender.send(result);
        });
        Ok(receiver.await.map_err(|_| BenchError::Ended)??)
    }

    /// Puts a value; `done` is called when it is durable and applied, and must not put another one itself.
    pub(crate) fn put_nowait(
        &self,
        key: &[u8],
        value: &[u8],
        done: impl FnOnce(Result<(), Error>) + 'static,
    ) {
        let inner = &self.inner;
        let index = inner.next.get();
        inner.next.set(LogIndex(index.0 + 1));
        inner.in_flight.set(inner.in_flight.get() + 1);
        let write = Write {
            entry: entry(index, key, value),
            done: Box::new(done),
        };
        let mut staged = inner.staged.borrow_mut();
        staged.push(write);
        if staged.len() == 1 {
            inner.wake_appender.notify_one();
        }
    }

    /// A key's value.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.inner.engine.get(key).await?.map(|found| found.value))
    }

    /// Flushes what was put and waits until no background work is left.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.all_done().await;
        if let Some(checkpoint) = self.inner.engine.checkpoint().await? {
            self.inner.log.purge(checkpoint).await?;
        }
        self.inner.log.flush().await?;
        while !self.inner.engine.is_settled() {
            sleep(SETTLE_POLL).await;
        }
        Ok(())
    }

    /// See [`Statistics`].
    pub(crate) fn statistics(&self) -> Statistics {
        let engine = self.inner.engine.statistics();
        let cache = self.inner.cache.counters();
        Statistics {
            replayed: self.inner.replayed,
            cache_misses: cache.misses,
            false_positives: cache.false_positives,
            cache_bytes: cache.bytes,
            flushes_running: u64::from(engine.flush.running),
            flushes: engine.flush.jobs,
            compactions_running: u64::from(engine.compaction.running),
            compactions: engine.compaction.jobs,
            collections_running: u64::from(engine.collection.running),
            collections: engine.collection.jobs,
            ..Statistics::default()
        }
    }

    async fn all_done(&self) {
        loop {
            let all_done = self.inner.all_done.notified();
            if self.inner.in_flight.get() == 0 {
                return;
            }
            all_done.await;
        }
    }
}

fn log_id(index: LogIndex) -> LogId {
    LogId {
        term: Term(1),
        node: ReplicaId(1),
        index,
    }
}

/// The entry that puts a value, which ends its body.
fn entry(index: LogIndex, key: &[u8], value: &[u8]) -> Entry {
    let len = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let part = ValuePart {
        space: Space::User,
        start: len(2 + key.len()),
        len: len(value.len()),
        key_start: 2,
        key_len: len(key.len()),
    };
    let mut entry = Entry::new(log_id(index), KIND_PUT, body(key, value));
    entry.value = Some(part);
    entry
}

fn body(key: &[u8], value: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(2 + key.len() + value.len());
    body.put_u16_le(u16::try_from(key.len()).unwrap_or(u16::MAX));
    body.put_slice(key);
    body.put_slice(value);
    body.freeze()
}

/// Key and value of a body.
fn parts(body: &Bytes) -> Option<(&[u8], Bytes)> {
    let (len, rest) = body.split_first_chunk()?;
    let key = rest.get(..usize::from(u16::from_le_bytes(*len)))?;
    Some((key, body.slice(2 + key.len()..)))
}

fn apply(engine: &Engine, entry: &Entry) {
    if let Some((key, value)) = parts(&entry.body) {
        match entry.place {
            Some(place) => engine.put_separated(entry.id.index, key, place),
            None => engine.put(entry.id.index, key, value),
        }
    }
    engine.set_applied(entry.id, None);
}

/// Applies what the log holds beyond the checkpoint; returns how many entries it was.
async fn replay(shard: &Shard) -> Result<u64> {
    let Some(last) = shard.log.range().last else {
        return Ok(0);
    };
    let end = LogIndex(last.index.0 + 1);
    let applied = shard.engine.applied().0;
    let mut from = LogIndex(applied.map_or(1, |id| id.index.0 + 1));
    let count = end.0.saturating_sub(from.0);
    while from < end {
        for entry in shard.log.read_heads(from, end, REPLAY_BYTES).await? {
            shard.engine.wait_for_room().await?;
            apply(&shard.engine, &entry);
            from = LogIndex(entry.id.index.0 + 1);
            yield_if_needed().await;
        }
    }
    Ok(count)
}

/// Appends what tasks have staged, all of a turn at once.
async fn append_staged(inner: Rc<Inner>) {
    loop {
        inner.wake_appender.notified().await;
        // An error is final; every append is answered with it from here on.
        let _ = inner.log.wait_for_room().await;
        let (entries, done) = inner.take_staged();
        let indexes: Vec<LogIndex> = entries.iter().map(|entry| entry.id.index).collect();
        let inner_then = Rc::clone(&inner);
        inner.log.append(entries, move |result| match result {
            Ok(()) => inner_then.take_durable(&indexes, done),
            Err(error) => {
                for done in done {
                    inner_then.finish(done, Err(error.clone()));
                }
            }
        });
        if !inner.staged.borrow().is_empty() {
            inner.wake_appender.notify_one();
            yield_now().await;
        }
    }
}

impl Inner {
    /// The first of the staged writes, as many as are appended at once.
    fn take_staged(&self) -> (Vec<Entry>, Vec<Done>) {
        let mut writes = self.staged.borrow_mut();
        let count = writes.len().min(APPEND_MAX);
        writes
            .drain(..count)
            .map(|Write { entry, done }| (entry, done))
            .unzip()
    }

    fn take_durable(&self, indexes: &[LogIndex], done: Vec<Done>) {
        let first = self.durable.borrow().is_empty();
        let few = indexes.len() <= APPLY_AT_ONCE_MAX;
        self.durable
            .borrow_mut()
            .extend(indexes.iter().copied().zip(done));
        if !(first && few) {
            self.wake_applier.notify_one();
            return;
        }
        while self.apply_one() {}
        if !self.durable.borrow().is_empty() {
            self.wake_applier.notify_one();
        }
    }

    /// Applies the next durable entry if there is one in memory, and memtables have room.
    fn apply_one(&self) -> bool {
        if !self.engine.has_room() {
            return false;
        }
        let next = self.durable.borrow().front().map(|(index, _)| *index);
        let entry = next.and_then(|index| self.log.head_in_memory(index));
        entry.is_some_and(|entry| self.apply(&entry))
    }

    /// Applies the first durable entry, which is this one.
    fn apply(&self, entry: &Entry) -> bool {
        let next = self.durable.borrow_mut().pop_front();
        if let Some((_, done)) = next {
            apply(&self.engine, entry);
            self.finish(done, Ok(()));
        }
        true
    }

    async fn apply_from_disk(&self) {
        let next = self.durable.borrow().front().map(|(index, _)| *index);
        let Some(from) = next else { return };
        match self.log.read_heads(from, LogIndex(from.0 + 1), 0).await {
            Ok(entries) => {
                for entry in &entries {
                    self.apply(entry);
                }
            }
            Err(error) => {
                for (_, done) in self.durable.take() {
                    self.finish(done, Err(error.clone()));
                }
            }
        }
    }

    fn finish(&self, done: Done, result: Result<(), Error>) {
        done(result);
        self.in_flight.set(self.in_flight.get() - 1);
        if self.in_flight.get() == 0 {
            self.all_done.notify_waiters();
        }
    }
}

/// Applies what waited for room, or came in a long batch.
async fn apply_durable(inner: Rc<Inner>) {
    loop {
        inner.wake_applier.notified().await;
        let mut applied = 0_usize;
        while !inner.durable.borrow().is_empty() {
            if let Err(error) = inner.engine.wait_for_room().await {
                for (_, done) in inner.durable.take() {
                    inner.finish(done, Err(error.clone()));
                }
            }
            // What the cache of the log did not hold is read back.
            if !inner.apply_one() {
                inner.apply_from_disk().await;
            }
            applied += 1;
            match applied % APPLY_TURN {
                0 => yield_now().await,
                _ => yield_if_needed().await,
            }
        }
    }
}

/// Frees the log behind every checkpoint.
async fn purge_checkpointed(inner: Rc<Inner>) {
    let mut known = inner.engine.checkpointed();
    while let Some(checkpoint) = inner.engine.wait_checkpoint(known).await {
        known = Some(checkpoint);
        if inner.log.purge(checkpoint).await.is_err() {
            return;
        }
    }
}
