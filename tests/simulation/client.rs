//! A client of a simulated cluster: the SDK's decisions, over simulated sockets. Any number of its
//! operations are in flight at a time.

use crate::link::Connection;
use bytes::Bytes;
use corelith_client::Cause;
use corelith_client::session::{
    Event, Operation, Probe, Question, ReadFrom, Request, Session, Source, Step, Target,
};
use corelith_io::sync::notify::Notify;
use corelith_io::{Instant, random_u64};
use corelith_wire::map::ClusterMap;
use corelith_wire::request::{Condition, Operation as WriteKind, encode_describe, encode_status};
use corelith_wire::response::Answer;
use corelith_wire::{ClusterId, Epoch, Head, Kind, NodeId, Outbox, RequestId, ShardId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// The server's window of a session.
const WINDOW: u32 = 4096;
/// One attempt of this many goes to another core of its node.
const ASTRAY_EVERY: u64 = 12;

/// The clock of a client: time since its start.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(corelith_io::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn instant(self, at: Duration) -> Instant {
        self.0 + at
    }

    /// Waits for `work`, at most until then.
    pub(crate) async fn within<T>(
        self,
        until: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let left = until.saturating_sub(self.now());
        corelith_io::timeout(left, work).await.ok()
    }
}

/// A client. Lives on one core of one simulated machine; clones are the same one.
#[derive(Clone)]
pub(crate) struct Client {
    inner: Rc<Inner>,
}

struct Inner {
    session: RefCell<Session>,
    /// Per shard: its parked operations must ask again.
    stirred: Vec<Notify>,
    connections: RefCell<BTreeMap<Target, Rc<Connection>>>,
    /// For the searches that its connections begin.
    me: Weak<Inner>,
    cluster: ClusterId,
    clock: Clock,
}

/// How long a probe waits for its answer.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long it looks for a newer map.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client got for an operation.
pub(crate) type Outcome = Result<Answer, corelith_client::Error>;

impl Client {
    /// A client that goes by `map`.
    pub(crate) fn new(map: Arc<ClusterMap>) -> Self {
        let inner = Rc::new_cyclic(|me| Inner {
            me: me.clone(),
            cluster: ClusterId(map.cluster),
            stirred: map.shards.iter().map(|_| Notify::new()).collect(),
            session: RefCell::new(Session::new(map, WINDOW, random_u64())),
            connections: RefCell::default(),
            clock: Clock::start(),
        });
        Self { inner }
    }

    /// The map that it goes by.
    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(self.inner.session.borrow().map())
    }

    pub(crate) async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        condition: Condition,
        within: Duration,
    ) -> Outcome {
        let kind = WriteKind::Put;
        let request = Request::Write {
            key,
            value,
            condition,
            kind,
        };
        self.run(request, within).await
    }

    pub(crate) async fn get(&self, key: Bytes, within: Duration) -> Outcome {
        self.run(Request::Get { key }, within).await
    }

    /// Carries an operation to its end. Dropped before, the operation is given up as the SDK does.
    pub(crate) async fn run(&self, request: Request, within: Duration) -> Outcome {
        let leader = Source::From(ReadFrom::Leader);
        self.run_from(request, within, leader).await.0
    }

    /// As [`Client::run_from`]; tells the node that the operation was sent to last as a number, 0 if it was not
    /// sent.
    pub(crate) async fn carry(
        &self,
        request: Request,
        within: Duration,
        source: Source,
    ) -> (Outcome, u64) {
        let (outcome, node) = self.run_from(request, within, source).await;
        (outcome, node.map_or(0, |node| node.0))
    }

    /// As [`Client::run`], for a read from `source`; returns also who was asked last.
    pub(crate) async fn run_from(
        &self,
        request: Request,
        within: Duration,
        source: Source,
    ) -> (Outcome, Option<NodeId>) {
        let inner = &self.inner;
        let deadline = inner.clock.now() + within;
        let operation = inner.session.borrow().operation(request, deadline);
        let operation = operation.read_from(source);
        let mut flight = Flight { inner, operation };
        let mut step = flight.advance(Session::proceed);
        loop {
            step = match step {
                Step::Done(outcome) => return (outcome, flight.operation.asked()),
                Step::Send { target, until } => {
                    let event = inner.attempt(target, &flight.operation, until).await;
                    flight.advance(|session, operation, now| session.report(operation, event, now))
                }
                Step::Pause { until } => {
                    corelith_io::sleep_until(inner.clock.instant(until)).await;
                    flight.advance(Session::proceed)
                }
                Step::Seek { shard, .. } => {
                    // Made before asking once more, so that no leader is missed.
                    let stirred = inner.stirred[shard.0 as usize].notified();
                    match flight.advance(Session::sought) {
                        Step::Seek { until, .. } => {
                            inner.clock.within(until, stirred).await;
                            flight.advance(Session::proceed)
                        }
                        other => other,
                    }
                }
                Step::Park { shard } => {
                    // Made before asking once more, so that no notice between the two is missed.
                    let stirred = inner.stirred[shard.0 as usize].notified();
                    match flight.advance(Session::proceed) {
                        Step::Park { .. } => {
                            inner.clock.within(deadline, stirred).await;
                            flight.advance(Session::proceed)
                        }
                        other => other,
                    }
                }
                Step::Refresh { until } => {
                    inner.clock.within(until, inner.refresh()).await;
                    corelith_io::sleep_until(inner.clock.instant(until)).await;
                    flight.advance(Session::proceed)
                }
            };
        }
    }
}

impl Inner {
    async fn attempt(&self, target: Target, operation: &Operation, until: Duration) -> Event {
        let target = self.lead_astray(target);
        let Some(connection) = self.connection(target) else {
            return Event::NotSent(Cause::WrongNode);
        };
        let encode = |out: &mut Outbox, id| operation.encode(out, id);
        let shard = Some(operation.shard());
        connection.call(encode, shard, until).await
    }

    /// Now and then another core of the same node, which has to pass the request on.
    fn lead_astray(&self, target: Target) -> Target {
        let session = self.session.borrow();
        let cores = session.map().node(target.node).map_or(1, |node| node.cores);
        if !random_u64().is_multiple_of(ASTRAY_EVERY) {
            return target;
        }
        let core = (random_u64() % u64::from(cores)) as u16;
        Target { core, ..target }
    }

    fn connection(&self, target: Target) -> Option<Rc<Connection>> {
        if let Some(known) = self.connections.borrow().get(&target) {
            return Some(Rc::clone(known));
        }
        let (host, port) = self.session.borrow().address(target)?;
        let address = format!("{host}:{port}").parse().unwrap();
        let (me, node) = (self.me.clone(), target.node);
        let doubt = Box::new(move || doubt(&me, node));
        let connection = Rc::new(Connection::new(address, self.cluster, self.clock, doubt));
        let mut connections = self.connections.borrow_mut();
        connections.insert(target, Rc::clone(&connection));
        Some(connection)
    }

    /// Measures how far a node is away.
    async fn probe(&self, probe: Probe) {
        let Some(connection) = self.connection(probe.target) else {
            return;
        };
        let began = self.clock.now();
        let encode = |out: &mut Outbox, id| probe.encode(out, id);
        let event = connection.call(encode, None, began + PROBE_TIMEOUT).await;
        let answered = matches!(event, Event::Answer(_));
        let took = answered.then_some(self.clock.now() - began);
        self.session.borrow_mut().probed(&probe, took);
    }

    /// Asks the nodes, each time from another one on, for a newer map.
    async fn refresh(&self) {
        let (map, first) = {
            let mut session = self.session.borrow_mut();
            let count = session.map().nodes.len();
            let first = session.next_of(count);
            (Arc::clone(session.map()), first)
        };
        let nodes = map.nodes.iter().cycle().skip(first);
        for node in nodes.take(map.nodes.len()) {
            let target = Target {
                node: corelith_wire::NodeId(node.id),
                core: 0,
            };
            let Some(connection) = self.connection(target) else {
                continue;
            };
            let until = self.clock.now() + corelith_client::connection::CONNECT_TIMEOUT;
            let event = connection.call(ask_for_map, None, until).await;
            if let Event::Answer(Answer::Map(map)) = event
                && self.session.borrow_mut().adopt(map)
            {
                return;
            }
        }
    }
}

/// Appends the question for the map.
pub(crate) fn ask_for_map(out: &mut Outbox, request_id: RequestId) {
    let head = Head {
        kind: Kind::DESCRIBE,
        request_id,
        shard: ShardId(0),
        epoch: Epoch(0),
    };
    encode_describe(out, head);
}

/// Begins a search for the leaders of the shards whose requests wait at `node`, unless there is one.
fn doubt(client: &Weak<Inner>, node: NodeId) {
    let Some(inner) = client.upgrade() else {
        return;
    };
    if inner.session.borrow_mut().doubt(node, inner.clock.now()) {
        corelith_io::spawn(search(client.clone(), node));
    }
}

/// Asks other nodes who leads, until nothing waits at `node` any more or the client is gone.
async fn search(client: Weak<Inner>, node: NodeId) {
    while let Some(inner) = client.upgrade() {
        let connections: Vec<_> = inner.connections.borrow().clone().into_iter().collect();
        let here = connections.iter().filter(|(target, _)| target.node == node);
        let here: Vec<_> = here.map(|(_, connection)| connection).collect();
        let waiting: BTreeSet<ShardId> = here.iter().flat_map(|to| to.in_doubt()).collect();
        let now = inner.clock.now();
        let question = inner.session.borrow_mut().question(node, &waiting, now);
        match question {
            Question::End => return,
            Question::Pause { until } => {
                let until = inner.clock.instant(until);
                drop(inner);
                corelith_io::sleep_until(until).await;
            }
            Question::Ask { target, until } => {
                let connection = inner.connection(target).unwrap();
                let epoch = Epoch(inner.session.borrow().map().epoch);
                let encode = |out: &mut Outbox, request_id: RequestId| {
                    let head = Head {
                        kind: Kind::STATUS,
                        request_id,
                        shard: ShardId(0),
                        epoch,
                    };
                    encode_status(out, head);
                };
                let event = connection.call(encode, None, until).await;
                let moved = inner.session.borrow_mut().learned(node, &event);
                here.iter().for_each(|connection| connection.moved(&moved));
                for shard in moved {
                    inner.stirred[shard.0 as usize].notify_waiters();
                }
            }
        }
    }
}

/// An operation under way.
struct Flight<'a> {
    inner: &'a Rc<Inner>,
    operation: Operation,
}

impl Flight<'_> {
    fn advance(
        &mut self,
        decide: impl FnOnce(&mut Session, &mut Operation, Duration) -> Step,
    ) -> Step {
        let now = self.inner.clock.now();
        let step = decide(
            &mut self.inner.session.borrow_mut(),
            &mut self.operation,
            now,
        );
        self.stir();
        if self.wants_map() {
            let inner = Rc::clone(self.inner);
            drop(corelith_io::spawn(async move {
                let _ = corelith_io::timeout(REFRESH_TIMEOUT, inner.refresh()).await;
            }));
        }
        while let Some(probe) = self.take_probe() {
            let inner = Rc::clone(self.inner);
            drop(corelith_io::spawn(async move { inner.probe(probe).await }));
        }
        step
    }

    fn wants_map(&self) -> bool {
        self.inner.session.borrow_mut().take_wish_for_map()
    }

    fn take_probe(&self) -> Option<Probe> {
        self.inner.session.borrow_mut().take_probe()
    }

    fn stir(&self) {
        let stirred = self.inner.session.borrow_mut().take_stirred();
        if let Some(shard) = stirred {
            self.inner.stirred[shard.0 as usize].notify_waiters();
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut session = self.inner.session.borrow_mut();
        session.abandon(&mut self.operation);
        drop(session);
        self.stir();
    }
}

/// A third of the reads each from the leader, the nearest replica and all in turn.
pub(crate) fn some_replica() -> ReadFrom {
    match random_u64() % 3 {
        0 => ReadFrom::Leader,
        1 => ReadFrom::Nearest,
        _ => ReadFrom::Any,
    }
}
