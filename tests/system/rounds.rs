//! Every node is killed and restarted in turn while clients write: what they were told stays true.

use crate::cluster::{Cluster, NODES, SHARDS};
use crate::positions::wait_until_equal;
use crate::waiting;
use corelith_client::{Client, Error};
use corelith_history::{LogPoint, Observation, What, WriteCondition, lines};
use corelith_wire::placement;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const COUNTERS: usize = 3;
const REGISTERS: usize = 6;
const CLIENTS_PER_KEY: usize = 3;
/// Successful operations before and after each kill, so that every kill meets work in progress.
const OPERATIONS_BETWEEN: u64 = 200;

/// What the clients of a run share.
#[derive(Default)]
struct Progress {
    done: AtomicBool,
    succeeded: AtomicU64,
    values: AtomicU64,
}

impl Progress {
    async fn wait_for_more(&self, what: &str) {
        let goal = self.succeeded.load(Ordering::Relaxed) + OPERATIONS_BETWEEN;
        waiting::until_async(what, || async {
            let now = self.succeeded.load(Ordering::Relaxed);
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal}"))
            }
        })
        .await;
    }
}

/// Increments that one client made of one counter.
#[derive(Debug, Default)]
struct Increments {
    made: u64,
    unknown: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_of_kills_lose_nothing_and_apply_nothing_twice() {
    let rounds = std::env::var("CORELITH_ROUNDS").map_or(3, |text| text.parse().unwrap());
    let mut cluster = Cluster::start();
    let progress = Arc::new(Progress::default());
    let origin = Instant::now();
    let mut counting = Vec::new();
    let mut registering = Vec::new();
    for client_number in 0..CLIENTS_PER_KEY {
        let client = cluster.client().await;
        for counter in 0..COUNTERS {
            let (client, progress) = (client.clone(), Arc::clone(&progress));
            counting.push((counter, tokio::spawn(increment(client, counter, progress))));
        }
        for register in 0..REGISTERS {
            let (client, progress) = (client.clone(), Arc::clone(&progress));
            let worker = Worker {
                client,
                name: (client_number * REGISTERS + register) as u64,
                key: format!("register/{register}"),
                origin,
                progress,
            };
            registering.push(tokio::spawn(worker.write_and_read()));
        }
    }
    for round in 0..rounds {
        let node = round % NODES + 1;
        progress
            .wait_for_more(&format!("work before kill {round}"))
            .await;
        cluster.kill(node);
        progress
            .wait_for_more(&format!("work without node {node}"))
            .await;
        cluster.start_node(node);
    }
    progress.wait_for_more("work after the last restart").await;
    progress.done.store(true, Ordering::Relaxed);

    let client = cluster.client().await;
    let mut totals: Vec<Increments> = (0..COUNTERS).map(|_| Increments::default()).collect();
    for (counter, task) in counting {
        let increments = task.await.unwrap();
        totals[counter].made += increments.made;
        totals[counter].unknown += increments.unknown;
    }
    for (counter, total) in totals.iter().enumerate() {
        let value = count(&client, &counter_key(counter)).await.0;
        assert!(total.made > 0, "counter {counter}: {total:?}");
        assert!(
            (total.made..=total.made + total.unknown).contains(&value),
            "counter {counter} is {value}, its clients made {total:?}"
        );
    }
    let mut history = Vec::new();
    for task in registering {
        history.extend(task.await.unwrap());
    }
    let is_write = |one: &&Observation| matches!(one.what, What::Written { .. });
    assert!(history.iter().filter(is_write).count() > REGISTERS * CLIENTS_PER_KEY);
    check_history(rounds, &history);
    wait_until_equal(&client, NODES, SHARDS).await;
    let observed = history.len();
    println!("{rounds} kills; increments {totals:?}; {observed} operations on registers");
}

fn counter_key(counter: usize) -> String {
    format!("counter/{counter}")
}

/// The value of a counter and its version, 0 and 0 if there is none.
async fn count(client: &Client, key: &str) -> (u64, u64) {
    loop {
        match client.get(key).await {
            Ok(entry) => {
                let text = std::str::from_utf8(&entry.value).unwrap();
                return (text.parse().unwrap(), entry.version);
            }
            Err(Error::NotFound) => return (0, 0),
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
}

/// Adds one to a counter, again and again, by conditional writes. A write that was retried inside the SDK
/// and applied twice would show as a conflict with itself, and the counter would be too high.
async fn increment(client: Client, counter: usize, progress: Arc<Progress>) -> Increments {
    let key = counter_key(counter);
    let mut increments = Increments::default();
    while !progress.done.load(Ordering::Relaxed) {
        let (value, version) = count(&client, &key).await;
        let put = client.put(key.clone(), (value + 1).to_string());
        let put = if version == 0 {
            put.if_absent()
        } else {
            put.if_version(version)
        };
        match put.await {
            Ok(_) => {
                increments.made += 1;
                progress.succeeded.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Conflict { .. }) => {}
            Err(Error::Indeterminate { .. }) => increments.unknown += 1,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
    increments
}

/// Checks what was seen. The file of a history that is refused outlasts the test.
fn check_history(rounds: usize, history: &[Observation]) {
    let checked = corelith_history::check(history);
    let (origin, directory) = (format!("{rounds} kills"), env!("CARGO_TARGET_TMPDIR"));
    let otherwise = checked.is_err().then(|| Path::new(directory));
    let saved = lines::save(&origin, "rounds", history, otherwise).unwrap();
    if let Err(refusal) = checked {
        panic!("{} operations: {refusal} ({saved:?})", history.len());
    }
}

/// One client that works on one register.
struct Worker {
    client: Client,
    name: u64,
    key: String,
    /// When all of them began.
    origin: Instant,
    progress: Arc<Progress>,
}

impl Worker {
    /// Writes values that nobody else writes, conditionally and not, reads in between, and tells everything it saw.
    async fn write_and_read(self) -> Vec<Observation> {
        let mut history = Vec::new();
        let mut seen = 0;
        let mut number = 0_u64;
        while !self.progress.done.load(Ordering::Relaxed) {
            number += 1;
            let began = self.now();
            let observed = if number.is_multiple_of(2) {
                self.read().await
            } else {
                let is_conditional = number.is_multiple_of(3) && seen > 0;
                self.write(is_conditional.then_some(seen)).await
            };
            let Some((shard, what)) = observed else {
                continue;
            };
            match &what {
                What::Written { at, .. } => seen = at.index,
                What::Read {
                    found: Some((version, _)),
                    ..
                } => seen = *version,
                _ => {}
            }
            let is_unknown = matches!(what, What::Unknown { .. });
            if !is_unknown {
                self.progress.succeeded.fetch_add(1, Ordering::Relaxed);
            }
            history.push(Observation {
                client: self.name,
                shard,
                key: self.key.clone(),
                began,
                ended: (!is_unknown).then(|| self.now()),
                node: 0,
                what,
            });
        }
        history
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap()
    }

    async fn read(&self) -> Option<(u32, What)> {
        match self.client.get(&self.key).lookup().await {
            Ok(read) => {
                let found = read.entry.map(|entry| {
                    let text = std::str::from_utf8(&entry.value).unwrap();
                    (entry.version, text.parse().unwrap())
                });
                let at = LogPoint {
                    term: read.term,
                    index: read.index,
                };
                Some((read.shard, What::Read { found, at }))
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                None
            }
        }
    }

    async fn write(&self, expected: Option<u64>) -> Option<(u32, What)> {
        let value = self.progress.values.fetch_add(1, Ordering::Relaxed) + 1;
        let shard = placement::shard_of(self.key.as_bytes(), SHARDS).0;
        let put = self.client.put(self.key.clone(), value.to_string());
        let (put, condition) = match expected {
            Some(version) => (put.if_version(version), WriteCondition::Version(version)),
            None => (put, WriteCondition::Any),
        };
        let value = Some(value);
        let what = match put.await {
            Ok(written) => What::Written {
                value,
                condition,
                at: LogPoint {
                    term: written.term,
                    index: written.index,
                },
            },
            Err(Error::Conflict { current }) => What::Refused {
                condition,
                current: current.unwrap_or(0),
                at: None,
            },
            Err(Error::Indeterminate { .. }) => What::Unknown { value, condition },
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                return None;
            }
        };
        Some((shard, what))
    }
}
