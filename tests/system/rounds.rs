//! Every node is killed and restarted in turn while clients write: what they were told stays true.

use crate::cluster::{Cluster, NODES, SHARDS};
use crate::history::{self, Event, Observation};
use crate::positions::wait_until_equal;
use crate::waiting;
use corelith_client::{Client, Error};
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
            let name = format!("client-{client_number}");
            registering.push((
                register,
                tokio::spawn(write_and_read(client, register, name, progress)),
            ));
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
    let mut histories: Vec<Vec<Observation>> = vec![Vec::new(); REGISTERS];
    for (register, task) in registering {
        histories[register].extend(task.await.unwrap());
    }
    for (register, history) in histories.iter().enumerate() {
        assert!(
            history
                .iter()
                .any(|seen| matches!(seen.event, Event::Wrote { .. }))
        );
        if let Err(problem) = history::check(history) {
            panic!(
                "register {register}, {} operations: {problem}",
                history.len()
            );
        }
    }
    wait_until_equal(&client, NODES, SHARDS).await;
    let observed: usize = histories.iter().map(Vec::len).sum();
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

/// Writes values that nobody else writes to a register, conditionally and not, reads in between, and tells
/// everything it saw.
async fn write_and_read(
    client: Client,
    register: usize,
    name: String,
    progress: Arc<Progress>,
) -> Vec<Observation> {
    let key = format!("register/{register}");
    let mut observations = Vec::new();
    let mut seen = 0;
    let mut number = 0_u64;
    while !progress.done.load(Ordering::Relaxed) {
        number += 1;
        let start = Instant::now();
        let event = if number.is_multiple_of(2) {
            read(&client, &key).await
        } else {
            let value = format!("{name}-{number}");
            let condition = (number.is_multiple_of(3) && seen > 0).then_some(seen);
            write(&client, &key, value, condition).await
        };
        let Some(event) = event else { continue };
        match &event {
            Event::Wrote { version, .. } | Event::Read { version, .. } => seen = *version,
            _ => {}
        }
        if !matches!(event, Event::MaybeWrote { .. }) {
            progress.succeeded.fetch_add(1, Ordering::Relaxed);
        }
        observations.push(Observation {
            start,
            end: Instant::now(),
            event,
        });
    }
    observations
}

async fn read(client: &Client, key: &str) -> Option<Event> {
    match client.get(key).await {
        Ok(entry) => Some(Event::Read {
            value: String::from_utf8(entry.value.to_vec()).unwrap(),
            version: entry.version,
        }),
        Err(Error::NotFound) => Some(Event::ReadNothing),
        Err(error) => {
            assert!(error.is_retryable(), "{error:?}");
            None
        }
    }
}

async fn write(client: &Client, key: &str, value: String, condition: Option<u64>) -> Option<Event> {
    let put = client.put(key, value.clone());
    let put = match condition {
        Some(version) => put.if_version(version),
        None => put,
    };
    match put.await {
        Ok(written) => Some(Event::Wrote {
            value,
            version: written.version,
        }),
        Err(Error::Conflict { current }) => Some(Event::Refused {
            version: current.unwrap_or(0),
        }),
        Err(Error::Indeterminate { .. }) => Some(Event::MaybeWrote { value }),
        Err(error) => {
            assert!(error.is_retryable(), "{error:?}");
            None
        }
    }
}
