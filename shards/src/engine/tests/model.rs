//! Random runs against a model: every version of every key, kept for ever.

use super::{abandon, log_id, on_core, open, range};
use crate::engine::Engine;
use crate::error::Error;
use crate::ids::LogIndex;
use crate::pins::Pin;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: Vec<u8>,
        len: usize,
    },
    Delete {
        key: Vec<u8>,
    },
    Get {
        key: Vec<u8>,
    },
    Scan {
        start: Vec<u8>,
        end: Vec<u8>,
        items: usize,
        bytes: usize,
    },
    ScanAt {
        pin: usize,
        start: Vec<u8>,
    },
    Pin,
    Unpin {
        pin: usize,
    },
    Checkpoint,
    Reopen,
    Copy,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::collection::vec(0..4_u8, 0..3),
        4 => (0..40_u8).prop_map(|number| format!("key/{number:03}").into_bytes()),
        1 => (0..3_u8).prop_map(|number| vec![number; 300]),
    ]
}

fn value_len() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..200_usize, 2 => 1000..9000_usize, 1 => 16_000..40_000_usize]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (key(), value_len()).prop_map(|(key, len)| Step::Put { key, len }),
        6 => key().prop_map(|key| Step::Delete { key }),
        10 => key().prop_map(|key| Step::Get { key }),
        4 => (key(), key(), 1..20_usize, 1..20_000_usize)
            .prop_map(|(start, end, items, bytes)| Step::Scan { start, end, items, bytes }),
        4 => (0..4_usize, key()).prop_map(|(pin, start)| Step::ScanAt { pin, start }),
        2 => Just(Step::Pin),
        1 => (0..4_usize).prop_map(|pin| Step::Unpin { pin }),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => Just(Step::Copy),
    ]
}

/// Every version of every key; an empty option is a deletion.
#[derive(Default)]
struct Model {
    versions: BTreeMap<Vec<u8>, BTreeMap<u64, Option<Bytes>>>,
    last: u64,
}

impl Model {
    fn visible(&self, key: &[u8], at: u64) -> Option<(u64, Bytes)> {
        let (version, value) = self.versions.get(key)?.range(..=at).next_back()?;
        Some((*version, value.clone()?))
    }

    fn scan(&self, start: &[u8], end: &[u8], at: u64) -> Vec<(Vec<u8>, u64, Bytes)> {
        let inside = |key: &&Vec<u8>| key[..] >= *start && (end.is_empty() || key[..] < *end);
        let keys = self.versions.keys().filter(inside);
        keys.filter_map(|key| {
            let (version, value) = self.visible(key, at)?;
            Some((key.clone(), version, value))
        })
        .collect()
    }
}

/// Small enough that a run freezes many memtables.
const MEMTABLE_BYTES: usize = 6 << 10;

struct Run {
    dir: PathBuf,
    engine: Engine,
    model: Model,
    pins: Vec<Pin>,
    copies: u32,
}

impl Run {
    async fn write(&mut self, key: &[u8], value: Option<Bytes>) {
        self.engine.wait_for_room().await.unwrap();
        self.model.last += 1;
        apply(&self.engine, self.model.last, key, value.clone());
        let versions = self.model.versions.entry(key.to_vec()).or_default();
        versions.insert(self.model.last, value);
    }

    async fn check_scan(
        &self,
        start: &[u8],
        end: &[u8],
        at: Option<u64>,
        items: usize,
        bytes: usize,
    ) {
        let seen_at = at.unwrap_or(self.model.last);
        let expected = self.model.scan(start, end, seen_at);
        let at = at.map(LogIndex);
        let page = self
            .engine
            .scan(&range(start, end), at, items, bytes)
            .await
            .unwrap();
        assert_eq!(page.items.is_empty(), expected.is_empty());
        assert!(page.items.len() <= items);
        assert!(page.more || page.items.len() == expected.len());
        for (item, (key, version, value)) in page.items.iter().zip(expected) {
            assert_eq!(item.key, key);
            assert_eq!(item.version, LogIndex(version));
            assert!(*item.value.bytes().unwrap() == value);
        }
        let sizes = page
            .items
            .iter()
            .map(|item| item.key.len() + item.value.held_len());
        assert!(page.items.len() == 1 || sizes.sum::<usize>() <= bytes);
        let range = range(start, end);
        let heads = self.engine.scan_heads(&range, at, items, usize::MAX);
        let heads = heads.await.unwrap();
        assert!(heads.items.len() >= page.items.len());
        for (head, item) in heads.items.iter().zip(&page.items) {
            assert_eq!((&head.key, head.found.version), (&item.key, item.version));
            assert_eq!(head.found.len, item.value.held_len() as u64);
        }
    }

    /// Opens again and applies what the last checkpoint does not hold.
    async fn reopen(&mut self) {
        self.pins.clear();
        if self.model.last.is_multiple_of(2) {
            self.engine.close().await.unwrap();
        } else {
            // As after a crash: what is being flushed may get through or not.
            abandon(self.engine.clone()).await;
        }
        let dir = self.dir.with_extension("none");
        self.engine = open(&dir, MEMTABLE_BYTES).await.unwrap();
        let reopened = open(&self.dir, MEMTABLE_BYTES).await.unwrap();
        // One that is only dropped keeps its lock while a task of it waits.
        abandon(std::mem::replace(&mut self.engine, reopened)).await;
        let from = self.engine.applied().0.map_or(0, |id| id.index.0) + 1;
        for index in from..=self.model.last {
            self.engine.wait_for_room().await.unwrap();
            let written = self.model.versions.iter();
            let mut written =
                written.filter_map(|(key, versions)| Some((key, versions.get(&index)?)));
            let (key, value) = written.next().unwrap();
            apply(&self.engine, index, key, value.clone());
        }
    }

    /// Goes on with a copy of the state in another directory, made through a snapshot.
    async fn copy(&mut self) {
        if self.model.last == 0 {
            return;
        }
        self.copies += 1;
        let dir = self.dir.with_extension(format!("copy{}", self.copies));
        let copy = open(&dir, MEMTABLE_BYTES).await.unwrap();
        let mut received = copy.receive_snapshot().await.unwrap();
        let mut snapshot = self.engine.snapshot();
        while let Some(piece) = snapshot.next_piece().await.unwrap() {
            received.piece(piece).await.unwrap();
        }
        assert_eq!(received.finish().await.unwrap(), snapshot.applied());
        copy.install(received).await.unwrap();
        drop(snapshot);
        self.pins.clear();
        self.engine.close().await.unwrap();
        self.engine = copy;
        self.dir = dir;
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Put { key, len } => {
                let fill = (self.model.last + 1).to_le_bytes();
                let value: Vec<u8> = fill.into_iter().cycle().take(*len).collect();
                self.write(key, Some(value.into())).await;
            }
            Step::Delete { key } => self.write(key, None).await,
            Step::Get { key } => {
                let expected = self.model.visible(key, u64::MAX);
                let found = self.engine.get(key).await.unwrap();
                if let Some(in_memory) = self.engine.get_in_memory(key) {
                    assert_eq!(in_memory, found);
                }
                let version = self.engine.version_of(key).await.unwrap();
                assert_eq!(
                    version.map(|version| version.0),
                    expected.as_ref().map(|(at, _)| *at)
                );
                let found = found.map(|found| (found.version.0, found.value));
                assert!(found == expected, "{key:?}");
            }
            Step::Scan {
                start,
                end,
                items,
                bytes,
            } => {
                self.check_scan(start, end, None, *items, *bytes).await;
            }
            Step::ScanAt { pin, start } => {
                if let Some(pin) = self.pins.get(*pin) {
                    self.check_scan(start, b"", Some(pin.at().0), 1000, 1 << 30)
                        .await;
                } else if let Some(at) = self.model.last.checked_sub(1) {
                    let all = range(start, b"");
                    match self
                        .engine
                        .scan(&all, Some(LogIndex(at)), 1000, 1 << 30)
                        .await
                    {
                        Ok(_) => self.check_scan(start, b"", Some(at), 1000, 1 << 30).await,
                        Err(Error::SequenceGone { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::Pin => self.pins.push(self.engine.pin()),
            Step::Unpin { pin } => {
                if *pin < self.pins.len() {
                    self.pins.remove(*pin);
                }
            }
            Step::Checkpoint => {
                let checkpoint = self.engine.checkpoint().await.unwrap();
                assert_eq!(checkpoint.map_or(0, |id| id.index.0), self.model.last);
            }
            Step::Reopen => self.reopen().await,
            Step::Copy => self.copy().await,
        }
    }
}

fn apply(engine: &Engine, index: u64, key: &[u8], value: Option<Bytes>) {
    match value {
        Some(value) => engine.put(LogIndex(index), key, value),
        None => engine.delete(LogIndex(index), key),
    }
    engine.set_applied(log_id(index), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..150)) {
        on_core(move |dir| async move {
            let engine = open(&dir, MEMTABLE_BYTES).await.unwrap();
            let mut run = Run { dir, engine, model: Model::default(), pins: Vec::new(), copies: 0 };
            for step in &steps {
                run.step(step).await;
            }
            run.check_scan(b"", b"", None, 10_000, 1 << 30).await;
            run.pins.clear();
            run.engine.close().await.unwrap();
        });
    }
}

/// An engine that is abandoned has given its lock back, whatever its tasks were at.
#[test]
fn an_abandoned_engine_leaves_its_directory() {
    on_core(move |dir| async move {
        for round in 0..200 {
            let engine = open(&dir, MEMTABLE_BYTES).await;
            let engine = engine.unwrap_or_else(|error| panic!("{round}: {error}"));
            for _ in 0..round % 40 {
                corelith_io::yield_now().await;
            }
            abandon(engine).await;
        }
    });
}
