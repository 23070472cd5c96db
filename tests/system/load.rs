//! Clients that write and read all the time, and take no error for an answer.

use crate::waiting;
use corelith_client::Client;
use futures_util::StreamExt as _;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::xxh3_64;

const WRITERS: u64 = 6;
const READERS: u64 = 3;
/// Keys of each writer.
const KEYS: u64 = 150;
/// Operations that show that work goes on.
const OPERATIONS: u64 = 300;
/// A client leaves the others some of the machine.
const PAUSE: Duration = Duration::from_millis(2);
const HEADER_BYTES: usize = 24;

/// What the clients share.
struct Shared {
    /// The last version of each key whose write was acknowledged, and the last that was begun.
    keys: Vec<(AtomicU64, AtomicU64)>,
    done: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    scans: AtomicU64,
    slowest_ms: AtomicU64,
    /// What clients were told that they must not be.
    wrong: Mutex<Vec<String>>,
}

/// The clients.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

fn name(key: u64) -> String {
    format!("load/{key:08}")
}

/// What a key holds in a version: the key, the version, a checksum of all, and bytes up to a length of its own.
fn value(key: u64, version: u64) -> Vec<u8> {
    let draw = xxh3_64(&[key.to_le_bytes(), version.to_le_bytes()].concat());
    let len = match draw % 40 {
        0 => 96 << 10,
        _ => 64 + draw as usize % 1500,
    };
    let mut value = vec![draw as u8; len];
    value[..8].copy_from_slice(&key.to_le_bytes());
    value[8..16].copy_from_slice(&version.to_le_bytes());
    value[16..HEADER_BYTES].fill(0);
    let checksum = xxh3_64(&value);
    value[16..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    value
}

/// The version of a value, if it is whole and that key's.
fn version_of(key: u64, found: &[u8]) -> Option<u64> {
    let version = u64::from_le_bytes(found.get(8..16)?.try_into().ok()?);
    (found == value(key, version)).then_some(version)
}

impl Shared {
    fn is_wrong(&self, what: String) {
        eprintln!("{what}");
        self.wrong.lock().unwrap().push(what);
    }

    fn took<T, E: Debug>(&self, what: &str, began: Instant, result: Result<T, E>) -> Option<T> {
        let took = u64::try_from(began.elapsed().as_millis()).unwrap();
        self.slowest_ms.fetch_max(took, Ordering::Relaxed);
        match result {
            Ok(found) => Some(found),
            Err(error) => {
                self.is_wrong(format!("{what} after {took} ms: {error:?}"));
                None
            }
        }
    }

    async fn write(&self, client: &Client, key: u64) {
        let (acknowledged, begun) = &self.keys[key as usize];
        let version = begun.load(Ordering::SeqCst) + 1;
        begun.store(version, Ordering::SeqCst);
        let began = Instant::now();
        let written = client.put(name(key), value(key, version)).await;
        if self.took(&format!("put {key}"), began, written).is_some() {
            acknowledged.store(version, Ordering::SeqCst);
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether what was found is no older than what was acknowledged before, and was written at all.
    fn check(&self, key: u64, least: u64, found: Option<&[u8]>) {
        let version = match found {
            None => Some(0),
            Some(found) => version_of(key, found),
        };
        let most = self.keys[key as usize].1.load(Ordering::SeqCst);
        if !version.is_some_and(|version| (least..=most).contains(&version)) {
            self.is_wrong(format!(
                "key {key} has version {version:?}, not {least} to {most}"
            ));
        }
    }

    fn acknowledged(&self, key: u64) -> u64 {
        self.keys[key as usize].0.load(Ordering::SeqCst)
    }

    async fn read(&self, client: &Client, key: u64) {
        let least = self.acknowledged(key);
        let began = Instant::now();
        let read = client.get(name(key)).lookup().await;
        if let Some(read) = self.took(&format!("get {key}"), began, read) {
            self.check(
                key,
                least,
                read.entry.as_ref().map(|entry| entry.value.as_ref()),
            );
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Looks through all keys.
    async fn scan(&self, client: &Client) {
        let least: Vec<u64> = (0..self.keys.len() as u64)
            .map(|key| self.acknowledged(key))
            .collect();
        let mut found = BTreeMap::new();
        let mut scan = client.scan("load/");
        loop {
            let began = Instant::now();
            match self.took("scan", began, scan.next().await.transpose()) {
                Some(Some(entry)) => found.insert(entry.key, entry.value),
                Some(None) => break,
                None => return,
            };
        }
        for (key, least) in (0..).zip(least) {
            let found = found.get(name(key).as_bytes());
            let bytes = found.map(|value| value.bytes().expect("all are short").as_ref());
            self.check(key, least, bytes);
        }
        self.scans.fetch_add(1, Ordering::Relaxed);
    }

    fn operations(&self) -> u64 {
        self.writes
            .load(Ordering::Relaxed)
            .min(self.reads.load(Ordering::Relaxed))
    }

    fn nothing_is_wrong(&self, when: &str) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{when}: {wrong:#?}");
    }
}

impl Load {
    /// Begins; all clients are clones of one.
    pub(crate) fn start(client: &Client, scale: u64) -> Self {
        let (writers, readers) = (WRITERS * scale, READERS * scale);
        let keys = writers * KEYS;
        let shared = Arc::new(Shared {
            keys: (0..keys).map(|_| Default::default()).collect(),
            done: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            scans: AtomicU64::new(0),
            slowest_ms: AtomicU64::new(0),
            wrong: Mutex::default(),
        });
        let mut tasks = Vec::new();
        for writer in 0..writers {
            let (client, shared) = (client.clone(), Arc::clone(&shared));
            tasks.push(tokio::spawn(async move {
                for round in 0.. {
                    if shared.done.load(Ordering::Relaxed) {
                        break;
                    }
                    shared.write(&client, writer * KEYS + round % KEYS).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }));
        }
        for reader in 0..readers {
            let (client, shared) = (client.clone(), Arc::clone(&shared));
            tasks.push(tokio::spawn(async move {
                let mut draw = reader;
                while !shared.done.load(Ordering::Relaxed) {
                    draw = xxh3_64(&draw.to_le_bytes());
                    shared.read(&client, draw % keys).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }));
        }
        let (client, scanning) = (client.clone(), Arc::clone(&shared));
        tasks.push(tokio::spawn(async move {
            while !scanning.done.load(Ordering::Relaxed) {
                scanning.scan(&client).await;
                tokio::time::sleep(100 * PAUSE).await;
            }
        }));
        Self { shared, tasks }
    }

    /// Waits until the clients have done some work more; nothing may have gone wrong.
    pub(crate) async fn goes_on(&self, when: &str) {
        let goal = self.shared.operations() + OPERATIONS;
        waiting::until_async(&format!("work while {when}"), || async {
            match self.shared.operations() {
                now if now >= goal => Ok(()),
                now => Err(format!("{now} of {goal}")),
            }
        })
        .await;
        self.shared.nothing_is_wrong(when);
        let slowest = self.shared.slowest_ms.swap(0, Ordering::Relaxed);
        let (writes, reads) = (&self.shared.writes, &self.shared.reads);
        println!(
            "{when}: {writes:?} writes, {reads:?} reads, the slowest operation took {slowest} ms"
        );
    }

    /// Ends, and looks for every value that was acknowledged.
    pub(crate) async fn end(self, client: &Client) {
        self.shared.done.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let shared = self.shared;
        for (key, (acknowledged, begun)) in (0..).zip(&shared.keys) {
            assert_eq!(
                acknowledged.load(Ordering::SeqCst),
                begun.load(Ordering::SeqCst),
                "key {key}"
            );
            shared.read(client, key).await;
        }
        shared.scan(client).await;
        shared.nothing_is_wrong("in the end");
        assert!(shared.scans.load(Ordering::Relaxed) > 1);
        println!(
            "{:?} writes, {:?} reads, {:?} scans",
            shared.writes, shared.reads, shared.scans
        );
    }
}
