//! What the clients of a simulated cluster do, and what they note of it.

use crate::client::{Client, Outcome, some_replica};
use crate::large;
use crate::notes::{Asked, Notes, Question, encode};
use crate::plan::Plan;
use bytes::{BufMut, Bytes, BytesMut};
use corelith_client::Error;
use corelith_client::session::{ReadFrom, Request, Source};
use corelith_history::{ValueId, WriteCondition};
use corelith_io::random_u64;
use corelith_io::sim::{Sim, SimNode};
use corelith_shards::ShardId;
use corelith_wire::NodeId;
use corelith_wire::map::ClusterMap;
use corelith_wire::response::Answer;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

mod upload;

/// What an operation may take once all faults are gone.
pub(crate) const HEALED_DEADLINE: Duration = Duration::from_secs(15);

/// What the clients of one run share.
pub(crate) struct Workload {
    pub sim: Sim,
    pub plan: Plan,
    pub map: Arc<ClusterMap>,
    /// What a new client starts with.
    pub newest: RefCell<Arc<ClusterMap>>,
    pub notes: Notes,
    pub stop: Cell<bool>,
    /// Lanes that have not come to their end.
    pub running: Cell<u32>,
    clients: Cell<u64>,
}

/// What the lanes of one client share.
struct Lane {
    workload: Rc<Workload>,
    client: Client,
    /// Of the client.
    name: u64,
    /// The version that each key was seen with last, 0 for none.
    seen: Rc<RefCell<BTreeMap<u64, u64>>>,
}

impl Workload {
    pub(crate) fn new(sim: &Sim, plan: &Plan, map: Arc<ClusterMap>) -> Rc<Self> {
        Rc::new(Self {
            sim: sim.clone(),
            plan: plan.clone(),
            notes: Notes::new(sim, plan.seed, Arc::clone(&map)),
            newest: RefCell::new(Arc::clone(&map)),
            map,
            stop: Cell::new(false),
            running: Cell::new(plan.clients * plan.lanes),
            clients: Cell::new(0),
        })
    }

    /// One more client, on a machine of its own.
    pub(crate) fn join(self: &Rc<Self>, machine: SimNode) {
        self.running.set(self.running.get() + self.plan.lanes);
        let workload = Rc::clone(self);
        self.sim.start(machine, 0, move || workload.run_client());
    }

    /// One client: its lanes work side by side until they are told to stop.
    pub(crate) async fn run_client(self: Rc<Self>) {
        let client = Client::new(Arc::clone(&self.newest.borrow()));
        let name = self.take_client();
        let seen = Rc::<RefCell<_>>::default();
        for _ in 0..self.plan.lanes {
            let lane = Lane {
                workload: Rc::clone(&self),
                client: client.clone(),
                name,
                seen: Rc::clone(&seen),
            };
            drop(corelith_io::spawn(lane.run()));
        }
    }

    /// Reads every key by a new client: what the whole cluster has in the end is in the history too.
    pub(crate) async fn read_everything(self: Rc<Self>) {
        let client = Client::new(Arc::clone(&self.newest.borrow()));
        let name = self.take_client();
        for key in 0..self.plan.keys {
            let read = self.notes.ask(name, &key_of(key), Asked::Read);
            let outcome = self
                .notes
                .carry(&client, &read, |_| Bytes::new(), HEALED_DEADLINE)
                .await;
            assert!(outcome.is_ok(), "a read in the end: {outcome:?}");
            if let Ok(Answer::Large(large)) = &outcome {
                let key = key_of(key);
                let is_whole = large::read_bytes(&client, &key, large, HEALED_DEADLINE).await;
                assert!(is_whole, "{key:?} has bytes in the end");
                self.notes.read_whole.set(self.notes.read_whole.get() + 1);
            }
        }
    }

    /// A name that no other client of the run has.
    pub(crate) fn take_client(&self) -> u64 {
        self.clients.replace(self.clients.get() + 1)
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
        let until = workload.sim.now() + HEALED_DEADLINE;
        let outcome = loop {
            let value = Some(workload.notes.take_value());
            match self
                .write_value(&key, value, WriteCondition::Any, HEALED_DEADLINE)
                .await
            {
                Err(Error::DiskFull) if workload.sim.now() < until => {
                    corelith_io::sleep(Duration::from_millis(100)).await;
                }
                outcome => break outcome,
            }
        };
        let is_done = matches!(outcome, Ok(Answer::Written { .. }));
        assert!(
            is_done,
            "after all faults are gone: {outcome:?}, by {:?}",
            self.client.map()
        );
        workload.running.set(workload.running.get() - 1);
    }

    async fn step(&self) {
        let number = random_u64() % self.workload.plan.keys;
        let uploads = self.workload.plan.uploads;
        if uploads > 0 && random_u64() % 100 < uploads {
            return self.upload(number).await;
        }
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
        let notes = &self.workload.notes;
        let read = notes.ask(self.name, &key_of(number), Asked::Read);
        let carried = notes.carry(&self.client, &read, |_| Bytes::new(), Self::deadline());
        let outcome = carried.await;
        self.look(number, &outcome);
        if let Ok(Answer::Large(large)) = &outcome {
            let key = key_of(number);
            let within = Self::deadline();
            if large::read_bytes(&self.client, &key, large, within).await {
                notes.read_whole.set(notes.read_whole.get() + 1);
            }
        }
    }

    fn condition(&self, number: u64) -> WriteCondition {
        match (random_u64() % 100, self.seen.borrow().get(&number)) {
            (0..60, _) => WriteCondition::Any,
            (_, Some(0) | None) => WriteCondition::Absent,
            (_, Some(version)) => WriteCondition::Version(*version),
        }
    }

    async fn write(&self, number: u64, is_delete: bool) {
        let condition = self.condition(number);
        let value = (!is_delete).then(|| self.workload.notes.take_value());
        let outcome = self
            .write_value(&key_of(number), value, condition, Self::deadline())
            .await;
        self.look(number, &outcome);
        if is_delete && matches!(outcome, Ok(Answer::Written { .. })) {
            self.seen.borrow_mut().insert(number, 0);
        }
    }

    async fn write_value(
        &self,
        key: &Bytes,
        value: ValueId,
        condition: WriteCondition,
        within: Duration,
    ) -> Outcome {
        let notes = &self.workload.notes;
        let write = notes.ask(self.name, key, Asked::Write(value, condition));
        let encode = |value| self.encode(value);
        notes.carry(&self.client, &write, encode, within).await
    }

    /// A write whose caller does not wait for the answer.
    async fn write_and_leave(&self, number: u64) {
        let notes = &self.workload.notes;
        let asked = Asked::Write(Some(notes.take_value()), self.condition(number));
        let write = notes.ask(self.name, &key_of(number), asked);
        let patience = Duration::from_micros(random_u64() % 5_000);
        let encode = |value| self.encode(value);
        let carried = notes.carry(&self.client, &write, encode, Self::deadline());
        if corelith_io::timeout(patience, carried).await.is_err() {
            notes.note_unknown(&write);
        }
    }

    fn look(&self, number: u64, outcome: &Outcome) {
        let version = match outcome {
            Ok(Answer::Written { version, .. } | Answer::Value { version, .. }) => *version,
            Ok(Answer::Large(large)) => large.version,
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
        let mut at_version = 0;
        // Its pages show one moment, which other operations of the client may be past: it is a client of its own.
        let began = workload
            .notes
            .ask(workload.take_client(), &start, Asked::Read);
        let from_node = some_replica();
        let mut source = Source::From(from_node);
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
            let from = Question {
                key: start.clone(),
                ..began.clone()
            };
            let notes = &workload.notes;
            let (outcome, node) = self.client.carry(request, Self::deadline(), source).await;
            let page = match outcome {
                Ok(Answer::ScanPage(page)) => page,
                Err(Error::ScanExpired) => return notes.refused("scan expired"),
                outcome => return notes.note(&from, node, &outcome),
            };
            assert!(at_version == 0 || page.at_version == at_version);
            let keys = (0..workload.plan.keys).map(key_of);
            notes.note_page(&from, node, shard, &page, keys);
            let Some(last) = page.items.last().filter(|_| page.more) else {
                return;
            };
            at_version = page.at_version;
            if node != 0 && from_node != ReadFrom::Leader {
                source = Source::At(NodeId(node));
            }
            let mut next = BytesMut::from(last.key.as_ref());
            next.put_u8(0);
            start = next.freeze();
            corelith_io::sleep(Duration::from_millis(random_u64() % 40)).await;
        }
    }

    /// Values are of very different lengths.
    fn encode(&self, value: u64) -> Bytes {
        let len = match random_u64() % self.workload.plan.long_every {
            0 => 100_000,
            1..3 => 6_000,
            _ => 60,
        };
        encode(value, len)
    }
}

pub(crate) fn key_of(number: u64) -> Bytes {
    Bytes::from(format!("key-{number:02}"))
}
