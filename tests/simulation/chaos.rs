//! Random operations of several clients under random faults.

use crate::client::{Client, Outcome};
use crate::cluster::{Cluster, Shape};
use crate::history::{self, Condition, Event, What};
use bytes::{BufMut, Bytes, BytesMut};
use corelith_client::Error;
use corelith_io::sim::{Sim, SimConfig};
use corelith_shards::ShardId;
use corelith_wire::map::ClusterMap;
use corelith_wire::request;
use corelith_wire::response::Answer;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const CLIENTS: usize = 6;
const KEYS: u64 = 10;
/// Short, so that operations end as unknown or failed while a fault lasts.
const DEADLINE: Duration = Duration::from_secs(2);
/// What an operation may take once all faults are gone.
const HEALED_DEADLINE: Duration = Duration::from_secs(10);

/// What a run did, so that a test can see that it did something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub trace_hash: u64,
    pub done: usize,
    pub unknown: usize,
    pub faults: usize,
}

/// What the clients share.
struct Shared {
    sim: Sim,
    map: Arc<ClusterMap>,
    history: RefCell<Vec<Event>>,
    next_value: Cell<u64>,
    stop: Cell<bool>,
    running: Cell<usize>,
}

/// Runs a cluster under random faults and checks what its clients saw.
pub(crate) fn run(seed: u64, steps: usize) -> Report {
    let rough = seed.is_multiple_of(3);
    let config = if rough {
        SimConfig::rough()
    } else {
        SimConfig::default()
    };
    let shape = Shape {
        nodes: 3,
        cores: 1 + (seed % 2) as u16,
        shards: 2 + (seed % 3) as u32,
    };
    let mut cluster = Cluster::start(seed, config, shape);
    cluster.wait_ready(Duration::from_secs(20));
    let shared = Rc::new(Shared {
        sim: cluster.sim.clone(),
        map: cluster.map(),
        history: RefCell::default(),
        next_value: Cell::new(1),
        stop: Cell::new(false),
        running: Cell::new(CLIENTS),
    });
    for core in 0..CLIENTS {
        let shared = Rc::clone(&shared);
        cluster
            .sim
            .start(cluster.outside, core as u32, move || work(shared));
    }
    let mut faults = 0;
    for _ in 0..steps {
        let pause = 20 + cluster.sim.random_below(700);
        cluster.sim.run_for(Duration::from_millis(pause));
        faults += usize::from(disturb(&mut cluster));
        cluster.check_events();
    }
    heal(&mut cluster);
    shared.stop.set(true);
    let ended = Rc::clone(&shared);
    let sim = cluster.sim.clone();
    let live = sim.run_until(|| ended.running.get() == 0, Duration::from_secs(60));
    assert!(
        live,
        "seed {seed}: the clients do not come to an end after the faults are gone"
    );
    read_everything(&cluster, &shared);
    cluster.check_events();
    let history = shared.history.borrow();
    if let Err(why) = history::check(&history) {
        panic!("seed {seed}: the history has no explanation: {why}");
    }
    let is_unknown = |event: &&Event| matches!(event.what, What::Unknown { .. });
    Report {
        trace_hash: cluster.sim.trace_hash(),
        done: history.len(),
        unknown: history.iter().filter(is_unknown).count(),
        faults,
    }
}

/// Does one random thing to the cluster; returns whether it is a fault.
fn disturb(cluster: &mut Cluster) -> bool {
    let at = cluster.sim.random_below(cluster.len() as u64) as usize;
    let node = cluster.node(at);
    let others: Vec<_> = cluster
        .nodes()
        .into_iter()
        .filter(|other| *other != node)
        .collect();
    if !cluster.is_running(at) {
        cluster.restart(at);
        return false;
    }
    let sim = cluster.sim.clone();
    match sim.random_below(14) {
        0 | 1 => cluster.crash(at),
        2 => cluster.kill(at),
        3 => sim.crash_at_io(node, 1 + sim.random_below(200)),
        4 => sim.net().isolate(node),
        5 => sim.net().deafen(node),
        6 => sim.net().mute(node),
        7 => others
            .iter()
            .take(1)
            .for_each(|other| sim.net().cut(node, *other)),
        8 => sim.net().cut(node, cluster.outside),
        9 => sim.net().reset_all(),
        10 => {
            sim.pause(node);
            sim.run_for(Duration::from_millis(100 + sim.random_below(3_000)));
            sim.resume(node);
        }
        11 => sim.disk(node).set_slowness(1 + sim.random_below(50) as u32),
        12 => {
            sim.disk(node).heal();
            sim.net().heal_all();
            return false;
        }
        _ => {
            sim.net().heal_all();
            return false;
        }
    }
    if !sim.is_up(node) && cluster.is_running(at) {
        cluster.crash(at);
    }
    true
}

fn heal(cluster: &mut Cluster) {
    cluster.sim.net().heal_all();
    for at in 0..cluster.len() {
        let node = cluster.node(at);
        cluster.sim.disk(node).heal();
        // A crash that was to come at some I/O and has not come yet, or has unseen.
        cluster.crash(at);
        cluster.restart(at);
    }
    cluster.wait_ready(Duration::from_secs(30));
}

/// Reads every key by a new client: what the whole cluster has in the end is in the history too.
fn read_everything(cluster: &Cluster, shared: &Rc<Shared>) {
    let reading = Rc::clone(shared);
    cluster.sim.block_on(cluster.outside, async move {
        let mut client = Client::new(Arc::clone(&reading.map));
        for key in 0..KEYS {
            let key = key_of(key);
            let began = reading.sim.now();
            let outcome = client.get(key.clone(), HEALED_DEADLINE).await;
            assert!(outcome.is_ok(), "seed {}: {outcome:?}", reading.sim.seed());
            reading.note(&key, began, asked_nothing(), &outcome);
        }
    });
}

fn key_of(number: u64) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

/// What a write asked for; a read asks for nothing.
type Asked = Option<(history::Value, Condition)>;

fn asked_nothing() -> Asked {
    None
}

/// One client: operations one after the other, until it is told to stop; then one more that must
/// succeed.
async fn work(shared: Rc<Shared>) {
    let mut client = Client::new(Arc::clone(&shared.map));
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    while !shared.stop.get() {
        step(&shared, &mut client, &mut seen).await;
        let pause = corelith_io::random_u64() % 30;
        corelith_io::sleep(Duration::from_millis(pause)).await;
    }
    let (key, value) = (
        key_of(corelith_io::random_u64() % KEYS),
        shared.take_value(),
    );
    let began = shared.sim.now();
    let outcome = client
        .put(
            key.clone(),
            encode(value),
            request::Condition::Any,
            HEALED_DEADLINE,
        )
        .await;
    let is_done = matches!(outcome, Ok(Answer::Written { .. }));
    assert!(
        is_done,
        "seed {}: after all faults are gone: {outcome:?}",
        shared.sim.seed()
    );
    shared.note(&key, began, Some((Some(value), Condition::Any)), &outcome);
    shared.running.set(shared.running.get() - 1);
}

async fn step(shared: &Shared, client: &mut Client, seen: &mut BTreeMap<u64, u64>) {
    let number = corelith_io::random_u64() % KEYS;
    let key = key_of(number);
    let began = shared.sim.now();
    let known = match seen.get(&number) {
        Some(0) | None => Condition::Absent,
        Some(version) => Condition::Version(*version),
    };
    let (asked, outcome) = match corelith_io::random_u64() % 100 {
        0..40 => (None, client.get(key.clone(), DEADLINE).await),
        draw @ 40..95 => {
            let condition = if draw < 70 { Condition::Any } else { known };
            let value = shared.take_value();
            let put = client.put(key.clone(), encode(value), on_wire(condition), DEADLINE);
            (Some((Some(value), condition)), put.await)
        }
        draw => {
            let condition = if draw < 98 { Condition::Any } else { known };
            (
                Some((None, condition)),
                client
                    .delete(key.clone(), on_wire(condition), DEADLINE)
                    .await,
            )
        }
    };
    match &outcome {
        Ok(Answer::Written { version, .. }) => {
            let is_delete = matches!(asked, Some((None, _)));
            seen.insert(number, if is_delete { 0 } else { *version });
        }
        Ok(Answer::Conflict { current, .. }) => {
            seen.insert(number, *current);
        }
        Ok(Answer::Value { version, .. }) => {
            seen.insert(number, *version);
        }
        Ok(Answer::NotFound { .. }) => {
            seen.insert(number, 0);
        }
        _ => {}
    }
    shared.note(&key, began, asked, &outcome);
}

fn on_wire(condition: Condition) -> request::Condition {
    match condition {
        Condition::Any => request::Condition::Any,
        Condition::Absent => request::Condition::Absent,
        Condition::Version(version) => request::Condition::Version(version),
    }
}

/// A value that names itself, of very different lengths.
fn encode(value: u64) -> Bytes {
    let len = match corelith_io::random_u64() % 50 {
        0 => 200_000,
        1..10 => 6_000,
        _ => 60,
    };
    let mut bytes = BytesMut::with_capacity(8 + len);
    bytes.put_u64_le(value);
    bytes.put_bytes(value as u8, len);
    bytes.freeze()
}

fn decode(bytes: &Bytes) -> u64 {
    let (value, rest) = bytes.split_first_chunk().expect("a value names itself");
    let value = u64::from_le_bytes(*value);
    assert!(
        rest.iter().all(|byte| *byte == value as u8),
        "a damaged value was served"
    );
    value
}

impl Shared {
    fn take_value(&self) -> u64 {
        self.next_value.replace(self.next_value.get() + 1)
    }

    fn note(&self, key: &Bytes, began: Duration, asked: Asked, outcome: &Outcome) {
        let what = match (outcome, asked) {
            (Ok(Answer::Written { version, .. }), Some((value, condition))) => What::Written {
                value,
                condition,
                version: *version,
            },
            (Ok(Answer::Conflict { meta, current }), Some((_, condition))) => What::Refused {
                condition,
                current: *current,
                index: meta.index,
            },
            (
                Ok(Answer::Value {
                    meta,
                    version,
                    value,
                }),
                None,
            ) => What::Read {
                found: Some((*version, decode(value))),
                index: meta.index.max(*version),
            },
            (Ok(Answer::NotFound { meta }), None) => What::Read {
                found: None,
                index: meta.index,
            },
            (Err(Error::Indeterminate { .. }), Some((value, condition))) => {
                What::Unknown { value, condition }
            }
            // Certainly without an effect: its value must never be seen.
            (Err(Error::Unavailable { .. } | Error::Throttled { .. }), _) => return,
            (outcome, asked) => panic!("asked {asked:?} and got {outcome:?}"),
        };
        let is_unknown = matches!(what, What::Unknown { .. });
        self.history.borrow_mut().push(Event {
            shard: ShardId(self.map.shard_of(key).0),
            key: key.to_vec(),
            began,
            ended: if is_unknown {
                Duration::MAX
            } else {
                self.sim.now()
            },
            what,
        });
    }
}
