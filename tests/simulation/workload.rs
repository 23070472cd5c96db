//! What the clients of a simulated cluster do, and what they note of it.

use crate::client::{Client, Outcome, some_replica};
use crate::history::{Condition, Event, Value, What};
use crate::plan::Plan;
use bytes::{BufMut, Bytes, BytesMut};
use corelith_client::Error;
use corelith_client::session::{ReadFrom, Request, Source};
use corelith_io::random_u64;
use corelith_io::sim::Sim;
use corelith_shards::ShardId;
use corelith_wire::map::ClusterMap;
use corelith_wire::request;
use corelith_wire::response::{Answer, ScanPage};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What an operation may take once all faults are gone.
pub(crate) const HEALED_DEADLINE: Duration = Duration::from_secs(15);

/// What an operation asks for, as far as the history is concerned.
enum Asked {
    Read,
    Write(Value, Condition),
}

/// What the clients of one run share.
pub(crate) struct Workload {
    pub sim: Sim,
    pub plan: Plan,
    pub map: Arc<ClusterMap>,
    pub history: RefCell<Vec<Event>>,
    pub stop: Cell<bool>,
    /// Lanes that have not come to their end.
    pub running: Cell<u32>,
    /// How operations that were refused were refused.
    pub refusals: RefCell<BTreeMap<&'static str, usize>>,
    next_value: Cell<u64>,
}

/// What the lanes of one client share.
struct Lane {
    workload: Rc<Workload>,
    client: Client,
    /// The version that each key was seen with last, 0 for none.
    seen: Rc<RefCell<BTreeMap<u64, u64>>>,
}

impl Workload {
    pub(crate) fn new(sim: &Sim, plan: &Plan, map: Arc<ClusterMap>) -> Rc<Self> {
        Rc::new(Self {
            sim: sim.clone(),
            plan: plan.clone(),
            map,
            history: RefCell::default(),
            stop: Cell::new(false),
            running: Cell::new(plan.clients * plan.lanes),
            refusals: RefCell::default(),
            next_value: Cell::new(1),
        })
    }

    /// One client: its lanes work side by side until they are told to stop.
    pub(crate) async fn run_client(self: Rc<Self>) {
        let client = Client::new(Arc::clone(&self.map));
        let seen = Rc::<RefCell<_>>::default();
        for _ in 0..self.plan.lanes {
            let lane = Lane {
                workload: Rc::clone(&self),
                client: client.clone(),
                seen: Rc::clone(&seen),
            };
            drop(corelith_io::spawn(lane.run()));
        }
    }

    /// Reads every key by a new client: what the whole cluster has in the end is in the history too.
    pub(crate) async fn read_everything(self: Rc<Self>) {
        let client = Client::new(Arc::clone(&self.map));
        for key in 0..self.plan.keys {
            let key = key_of(key);
            let began = self.sim.now();
            let getting = client.get_from_some(key.clone(), HEALED_DEADLINE);
            let outcome = getting.await;
            let seed = self.plan.seed;
            assert!(
                outcome.is_ok(),
                "seed {seed}: a read in the end: {outcome:?}"
            );
            self.note(&key, began, &Asked::Read, &outcome);
        }
    }

    fn take_value(&self) -> u64 {
        self.next_value.replace(self.next_value.get() + 1)
    }

    fn push(&self, key: &[u8], began: Duration, ended: Duration, what: What) {
        self.history.borrow_mut().push(Event {
            shard: ShardId(self.map.shard_of(key).0),
            key: key.to_vec(),
            began,
            ended,
            what,
        });
    }

    fn note_unknown(&self, key: &[u8], began: Duration, value: Value, condition: Condition) {
        let what = What::Unknown { value, condition };
        self.push(key, began, Duration::MAX, what);
    }

    fn refused(&self, how: &'static str) {
        *self.refusals.borrow_mut().entry(how).or_insert(0) += 1;
    }

    fn note(&self, key: &[u8], began: Duration, asked: &Asked, outcome: &Outcome) {
        let what = match (outcome, asked) {
            (Ok(Answer::Written { version, .. }), Asked::Write(value, condition)) => {
                What::Written {
                    value: *value,
                    condition: *condition,
                    version: *version,
                }
            }
            (Ok(Answer::Conflict { meta, current }), Asked::Write(_, condition)) => What::Refused {
                condition: *condition,
                current: *current,
                index: meta.index,
            },
            (
                Ok(Answer::Value {
                    meta,
                    version,
                    value,
                }),
                Asked::Read,
            ) => What::Read {
                found: Some((*version, decode(value))),
                index: meta.index,
            },
            (Ok(Answer::NotFound { meta }), Asked::Read) => What::Read {
                found: None,
                index: meta.index,
            },
            (Err(Error::Indeterminate { .. }), Asked::Write(value, condition)) => {
                return self.note_unknown(key, began, *value, *condition);
            }
            // Certainly without an effect: its value must never be seen.
            (Err(Error::Unavailable { .. }), _) => return self.refused("unavailable"),
            (Err(Error::Throttled { .. }), _) => return self.refused("throttled"),
            (Err(Error::DiskFull), Asked::Write(Some(_), _)) => return self.refused("disk full"),
            (outcome, _) => panic!("seed {}: {outcome:?}", self.plan.seed),
        };
        self.push(key, began, self.sim.now(), what);
    }

    fn note_page(&self, began: Duration, shard: ShardId, start: &[u8], page: &ScanPage) {
        let last = page.items.last().map(|item| item.key.clone());
        let rises = page.items.is_sorted_by(|a, b| a.key < b.key);
        assert!(rises, "a page out of order");
        let items: BTreeMap<&[u8], (u64, u64)> = page
            .items
            .iter()
            .map(|item| (item.key.as_ref(), (item.version, decode(&item.value))))
            .collect();
        let mut met = 0;
        for key in (0..self.plan.keys).map(key_of) {
            let is_covered = key.as_ref() >= start && (!page.more || Some(&key) <= last.as_ref());
            if !is_covered || self.map.shard_of(&key).0 != shard.0 {
                continue;
            }
            let found = items.get(key.as_ref()).copied();
            met += usize::from(found.is_some());
            let what = What::Read {
                found,
                index: page.at_version,
            };
            self.push(&key, began, self.sim.now(), what);
        }
        assert_eq!(met, items.len(), "a scan found keys that nobody wrote");
    }
}

impl Lane {
    async fn run(self) {
        let workload = Rc::clone(&self.workload);
        while !workload.stop.get() {
            self.step().await;
            let pause = random_u64() % workload.plan.pause_ms;
            corelith_io::sleep(Duration::from_millis(pause)).await;
        }
        // All faults are gone: this must succeed, once a shard has noticed that its disk has room again.
        let key = key_of(random_u64() % workload.plan.keys);
        let (value, began) = (workload.take_value(), workload.sim.now());
        let bytes = self.encode(value);
        let until = began + HEALED_DEADLINE;
        let outcome = loop {
            let (key, bytes) = (key.clone(), bytes.clone());
            let put = self
                .client
                .put(key, bytes, request::Condition::Any, HEALED_DEADLINE);
            match put.await {
                Err(Error::DiskFull) if workload.sim.now() < until => {
                    corelith_io::sleep(Duration::from_millis(100)).await;
                }
                outcome => break outcome,
            }
        };
        let is_done = matches!(outcome, Ok(Answer::Written { .. }));
        let seed = workload.plan.seed;
        assert!(
            is_done,
            "seed {seed}: after all faults are gone: {outcome:?}"
        );
        let asked = Asked::Write(Some(value), Condition::Any);
        workload.note(&key, began, &asked, &outcome);
        workload.running.set(workload.running.get() - 1);
    }

    async fn step(&self) {
        let number = random_u64() % self.workload.plan.keys;
        match random_u64() % 100 {
            0..34 => self.get(number).await,
            34..80 => self.write(number, false).await,
            80..92 => self.write(number, true).await,
            92..97 => self.scan().await,
            _ => self.write_and_leave(number).await,
        }
    }

    /// Short deadlines, so that operations end as unknown or failed while a fault lasts; some long
    /// ones, so that they are repeated.
    fn deadline() -> Duration {
        Duration::from_millis(300 + random_u64() % 1_700 + random_u64() % 4 / 3 * 4_000)
    }

    async fn get(&self, number: u64) {
        let (key, began) = (key_of(number), self.workload.sim.now());
        let getting = self.client.get_from_some(key.clone(), Self::deadline());
        let outcome = getting.await;
        self.look(number, &outcome);
        self.workload.note(&key, began, &Asked::Read, &outcome);
    }

    fn condition(&self, number: u64) -> Condition {
        match (random_u64() % 100, self.seen.borrow().get(&number)) {
            (0..60, _) => Condition::Any,
            (_, Some(0) | None) => Condition::Absent,
            (_, Some(version)) => Condition::Version(*version),
        }
    }

    async fn write(&self, number: u64, is_delete: bool) {
        let (key, began) = (key_of(number), self.workload.sim.now());
        let condition = self.condition(number);
        let value = (!is_delete).then(|| self.workload.take_value());
        let outcome = self.send(&key, value, condition, Self::deadline()).await;
        self.look(number, &outcome);
        if is_delete && matches!(outcome, Ok(Answer::Written { .. })) {
            self.seen.borrow_mut().insert(number, 0);
        }
        let asked = Asked::Write(value, condition);
        self.workload.note(&key, began, &asked, &outcome);
    }

    /// A write whose caller does not wait for the answer.
    async fn write_and_leave(&self, number: u64) {
        let (key, began) = (key_of(number), self.workload.sim.now());
        let (value, condition) = (self.workload.take_value(), self.condition(number));
        let patience = Duration::from_micros(random_u64() % 5_000);
        let sending = self.send(&key, Some(value), condition, Self::deadline());
        match corelith_io::timeout(patience, sending).await {
            Ok(outcome) => {
                let asked = Asked::Write(Some(value), condition);
                self.workload.note(&key, began, &asked, &outcome);
            }
            Err(_) => self
                .workload
                .note_unknown(&key, began, Some(value), condition),
        }
    }

    async fn send(
        &self,
        key: &Bytes,
        value: Value,
        condition: Condition,
        within: Duration,
    ) -> Outcome {
        let (key, condition) = (key.clone(), on_wire(condition));
        match value {
            Some(value) => {
                let bytes = self.encode(value);
                self.client.put(key, bytes, condition, within).await
            }
            None => self.client.delete(key, condition, within).await,
        }
    }

    fn look(&self, number: u64, outcome: &Outcome) {
        let version = match outcome {
            Ok(Answer::Written { version, .. } | Answer::Value { version, .. }) => *version,
            Ok(Answer::Conflict { current, .. }) => *current,
            Ok(Answer::NotFound { .. }) => 0,
            _ => return,
        };
        self.seen.borrow_mut().insert(number, version);
    }

    /// Reads the keys of one shard from some key on, in small pages of one state.
    async fn scan(&self) {
        let workload = &self.workload;
        let shard = ShardId((random_u64() % workload.map.shards.len() as u64) as u32);
        let mut start = key_of(random_u64() % workload.plan.keys);
        let (mut at_version, began) = (0, workload.sim.now());
        let from = some_replica();
        let mut source = Source::From(from);
        loop {
            let request = Request::Scan {
                shard,
                start: start.clone(),
                end: Bytes::new(),
                limit_items: 1 + (random_u64() % 6) as u32,
                max_bytes: 64 << 10,
                at_version,
                keys_only: false,
            };
            let running = self.client.run_from(request, Self::deadline(), source);
            let (outcome, node) = running.await;
            let page = match outcome {
                Ok(Answer::ScanPage(page)) => page,
                Err(Error::ScanExpired) => return workload.refused("scan expired"),
                outcome => return workload.note(&start, began, &Asked::Read, &outcome),
            };
            assert!(at_version == 0 || page.at_version == at_version);
            workload.note_page(began, shard, &start, &page);
            let Some(last) = page.items.last().filter(|_| page.more) else {
                return;
            };
            at_version = page.at_version;
            if let Some(node) = node.filter(|_| from != ReadFrom::Leader) {
                source = Source::At(node);
            }
            let mut next = BytesMut::from(last.key.as_ref());
            next.put_u8(0);
            start = next.freeze();
            corelith_io::sleep(Duration::from_millis(random_u64() % 40)).await;
        }
    }

    /// A value that names itself, of very different lengths.
    fn encode(&self, value: u64) -> Bytes {
        let len = match random_u64() % self.workload.plan.long_every {
            0 => 100_000,
            1..3 => 6_000,
            _ => 60,
        };
        let mut bytes = BytesMut::with_capacity(8 + len);
        bytes.put_u64_le(value);
        bytes.put_bytes(value as u8, len);
        bytes.freeze()
    }
}

fn key_of(number: u64) -> Bytes {
    Bytes::from(format!("key-{number:02}"))
}

fn on_wire(condition: Condition) -> request::Condition {
    match condition {
        Condition::Any => request::Condition::Any,
        Condition::Absent => request::Condition::Absent,
        Condition::Version(version) => request::Condition::Version(version),
    }
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
