//! The client: the state that all operations share, and the loop that runs one operation.

use crate::error::{Cause, Error, Result};
use crate::limits::{DEADLINE, FIND_TIMEOUT, PROBE_TIMEOUT, REFRESH_ANSWERS_MAX, REFUSED_GRACE};
use crate::link::Clock;
use crate::operation::{Event, Operation, Request, Step};
use crate::replicas::{Probe, ReadFrom, Source};
use crate::resolve::Resolver;
use crate::seeds::{self, Patience};
use crate::session::{Question, Session, UploadAsk};
use crate::transport::{Alarm, Transport};
use crate::upload_ask;
use bytes::Bytes;
use corelith_wire::map::ClusterMap;
use corelith_wire::request::{Operation as WriteKind, encode_status};
use corelith_wire::response::Answer;
use corelith_wire::{
    ClusterId, Epoch, Head, Kind, NodeId, Outbox, RequestId, ShardId, UploadId,
    limits as wire_limits, placement, version,
};
use futures_util::FutureExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

/// A client of one cluster. Cheap to clone; clones share connections and sessions. It must be created
/// and used inside a tokio runtime.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

/// The state that all clones of a client share.
#[derive(Debug)]
struct Inner {
    session: Mutex<Session>,
    /// Per shard: operations that wait for its session, for room in its window, or for its leader.
    stirred: Vec<Notify>,
    transport: Transport,
    clock: Clock,
    deadline: Duration,
    read_from: ReadFrom,
    limits: Limits,
    /// Longest value that goes in one frame, in bytes.
    frame_value_bytes_max: u64,
    cluster: ClusterId,
    seeds: Vec<(String, u16)>,
}

/// The limits of the cluster, learned when the client connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes: 2 GiB, or 8 MiB in a cluster of a release without large values.
    pub value_bytes_max: u64,
}

/// Configures and makes a connection, see [`Client::builder`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    seeds: Vec<String>,
    deadline: Duration,
    connect_deadline: Option<Duration>,
    read_from: ReadFrom,
    resolver: Resolver,
}

/// Environment variable that [`ClientBuilder::seeds_from_env`] reads.
pub const SEEDS_VARIABLE: &str = "CORELITH_SEEDS";

impl ClientBuilder {
    /// Adds addresses (`host:port`) of any cores of any nodes. One that answers is enough: the client
    /// learns the others from it.
    #[must_use]
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Adds the addresses in the environment variable `CORELITH_SEEDS`, a list separated by commas.
    /// Adds none if it is not set.
    #[must_use]
    pub fn seeds_from_env(self) -> Self {
        let listed = std::env::var(SEEDS_VARIABLE).unwrap_or_default();
        let seeds: Vec<&str> = listed
            .split(',')
            .filter(|seed| !seed.trim().is_empty())
            .collect();
        self.seeds(seeds)
    }

    /// How long an operation may take from call to answer, unless it has a deadline of its own. It
    /// covers everything: resolving names, connecting, retries, waiting for leaders. An operation keeps
    /// trying within it even if all nodes refuse connections, since nodes may be restarting. Default:
    /// 15 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long [`connect`](Self::connect) may try, even if every seed refuses. Set it if the
    /// application may start before its cluster.
    ///
    /// Default: 5 s or the [`deadline`](Self::deadline), whichever is shorter, and half a second if
    /// every seed refuses: no port is open there, the name does not resolve, or the server is not a
    /// Corelith node.
    #[must_use]
    pub fn connect_deadline(mut self, deadline: Duration) -> Self {
        self.connect_deadline = Some(deadline);
        self
    }

    /// Which replicas reads ask, unless a read says otherwise. Default: the leader.
    #[must_use]
    pub fn read_from(mut self, read_from: ReadFrom) -> Self {
        self.read_from = read_from;
        self
    }

    /// Finds the cluster through the seeds, learns its map and limits, and returns a client. It asks
    /// the seeds in order, and the next one when one fails or is slow. Cancel safe: dropping the future
    /// ends the search.
    ///
    /// # Errors
    /// `Invalid` without seeds, `InvalidSeed` for a malformed seed, `NoSeed` if no seed leads to a
    /// cluster before the deadline; it lists each seed with the cause.
    pub async fn connect(self) -> Result<Client> {
        if self.seeds.is_empty() {
            return Err(Error::Invalid {
                what: "seeds: name at least one host:port",
            });
        }
        let seeds: Vec<_> = self
            .seeds
            .iter()
            .map(|s| seeds::split(s))
            .collect::<Result<_>>()?;
        let clock = Clock::start();
        let patience = match self.connect_deadline {
            Some(at_most) => Patience {
                at_most,
                refused: at_most,
            },
            None => Patience {
                at_most: FIND_TIMEOUT.min(self.deadline),
                refused: REFUSED_GRACE,
            },
        };
        let resolver = self.resolver;
        let found = seeds::find(&seeds, patience, clock, &resolver).await;
        let (map, welcome) = found.map_err(|met| seeds::none_found(&self.seeds, met))?;
        let has_large = welcome.version >= version::LARGE_VALUES;
        let frame_limit = wire_limits::VALUE_BYTES_MAX as u64;
        let limits = Limits {
            key_bytes_max: map.limits.key_bytes_max as usize,
            value_bytes_max: match has_large {
                true => wire_limits::LARGE_VALUE_BYTES_MAX,
                false => map.limits.value_bytes_max,
            },
        };
        let frame_value_bytes_max = map.limits.value_bytes_max.min(frame_limit);
        let cluster = ClusterId(map.cluster);
        let stirred: Vec<Notify> = map.shards.iter().map(|_| Notify::new()).collect();
        // Without system randomness, the address of a fresh allocation still distinguishes the clients
        // of one process; jitter and client tags need no more.
        let seed = getrandom::u64().unwrap_or_else(|_| std::ptr::from_ref(&stirred).addr() as u64);
        let session = Session::new(Arc::new(map), welcome.session_window, seed);
        let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
            let inner = inner.clone();
            let alarm = Alarm::new(move |node| doubt(&inner, node));
            Inner {
                session: Mutex::new(session),
                stirred,
                transport: Transport::new(cluster, clock, resolver, alarm),
                clock,
                deadline: self.deadline,
                read_from: self.read_from,
                limits,
                frame_value_bytes_max,
                cluster,
                seeds,
            }
        });
        Ok(Client { inner })
    }
}

impl Client {
    /// A builder with the defaults and no seeds.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            seeds: Vec::new(),
            deadline: DEADLINE,
            connect_deadline: None,
            read_from: ReadFrom::Leader,
            resolver: Resolver::system(),
        }
    }

    /// Connects with the defaults to the cluster of these addresses (`host:port`). Cancel safe.
    ///
    /// # Errors
    /// See [`ClientBuilder::connect`].
    pub async fn connect<S: Into<String>>(seeds: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::builder().seeds(seeds).connect().await
    }

    /// The cluster's limits on keys and values, in bytes.
    pub fn limits(&self) -> Limits {
        self.inner.limits
    }

    /// The newest cluster map that the client has.
    pub fn cluster_map(&self) -> Arc<ClusterMap> {
        Arc::clone(self.inner.session().map())
    }

    /// Asks for a newer map. Without an answer in time the known one has to do.
    pub(crate) async fn renew_map(&self) {
        let limit = FIND_TIMEOUT.min(self.inner.deadline);
        let _ = tokio::time::timeout(limit, self.inner.refresh()).await;
    }

    /// Longest value that goes in one frame, in bytes.
    pub(crate) fn frame_value_bytes_max(&self) -> u64 {
        self.inner.frame_value_bytes_max
    }

    /// Draws an id that no other upload has.
    pub(crate) fn draw_upload_id(&self) -> UploadId {
        let mut session = self.inner.session();
        let mut half = || session.next_of(usize::MAX) as u64;
        upload_ask::upload_id([half(), half()])
    }

    pub(crate) fn cluster_id(&self) -> ClusterId {
        self.inner.cluster
    }

    pub(crate) fn shard_of(&self, key: &[u8]) -> ShardId {
        placement::shard_of(key, self.inner.stirred.len() as u32)
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.inner.deadline
    }

    pub(crate) fn read_from(&self) -> ReadFrom {
        self.inner.read_from
    }

    pub(crate) fn clock(&self) -> Clock {
        self.inner.clock
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    /// Runs a request to its end: sends, retries and waits as the session decides.
    pub(crate) fn run(
        &self,
        request: Request,
        deadline: Option<Duration>,
    ) -> impl Future<Output = Result<Answer>> + Send {
        let leader = Source::From(ReadFrom::Leader);
        let running = self.run_from(request, deadline, leader);
        running.map(|result| result.map(|(answer, _)| answer))
    }

    /// As [`Client::run`], for a read from `source`; returns also the node that answered.
    pub(crate) fn run_from(
        &self,
        request: Request,
        deadline: Option<Duration>,
        source: Source,
    ) -> impl Future<Output = Result<(Answer, Option<NodeId>)>> + Send {
        let mut flight = self.flight(request, deadline, source);
        async move {
            let result = match flight.span.is_disabled() {
                true => flight.go().await,
                // Apart: most programs do not listen, and the future is moved about.
                false => {
                    let span = flight.span.clone();
                    Box::pin(flight.go().instrument(span)).await
                }
            };
            flight.record(outcome(&result));
            let asked = flight.operation.asked();
            result.map(|answer| (answer, asked))
        }
    }

    fn flight(&self, request: Request, deadline: Option<Duration>, source: Source) -> Flight<'_> {
        let inner = &self.inner;
        let deadline = inner.clock.now() + deadline.unwrap_or(inner.deadline);
        let operation = inner.session().operation(request, deadline);
        let operation = operation.read_from(source);
        Flight {
            span: span_of(&operation),
            inner,
            operation,
            deadline,
            attempts: 0,
        }
    }
}

impl Flight<'_> {
    async fn go(&mut self) -> Result<Answer> {
        let inner = self.inner;
        let flight = self;
        let mut step = flight.advance(Session::proceed);
        loop {
            step = match step {
                Step::Done(result) => return result,
                Step::Send { target, until } => {
                    flight.attempts += 1;
                    let address = || inner.session().address(target);
                    let event = match inner.transport.connection(target, address) {
                        Some(connection) => {
                            let encode = |out: &mut _, id| flight.operation.encode(out, id);
                            let shard = Some(flight.operation.shard());
                            let least = flight.operation.version_needed();
                            let end = flight.operation.travels_until();
                            connection.call_in(least, encode, shard, until, end).await
                        }
                        None => Event::NotSent(Cause::WrongNode),
                    };
                    flight.advance(|session, operation, now| session.report(operation, event, now))
                }
                // Apart: most operations wait for nothing, and their futures are moved about.
                wait => Box::pin(flight.wait(wait)).await,
            };
        }
    }

    /// Waits as a step says; the next one.
    async fn wait(&mut self, step: Step) -> Step {
        let inner = self.inner;
        match step {
            Step::Done(_) | Step::Send { .. } => step,
            Step::Pause { until } => {
                tokio::time::sleep_until(inner.clock.instant(until)).await;
                self.advance(Session::proceed)
            }
            Step::Seek { shard, .. } => {
                let Some(place) = inner.stirred.get(shard.0 as usize) else {
                    return Step::Done(Err(Error::Invalid { what: "shard" }));
                };
                // Created before the session is asked again, so that no leader is missed.
                let stirred = place.notified();
                match self.advance(Session::sought) {
                    Step::Seek { until, .. } => {
                        let until = inner.clock.instant(until);
                        // Whichever comes first, the session decides the next step.
                        let _ = tokio::time::timeout_at(until, stirred).await;
                        self.advance(Session::proceed)
                    }
                    other => other,
                }
            }
            Step::Park { shard } => {
                let Some(place) = inner.stirred.get(shard.0 as usize) else {
                    return Step::Done(Err(Error::Invalid { what: "shard" }));
                };
                // Created before the session is asked again, so that no notification is missed.
                let stirred = place.notified();
                match self.advance(Session::proceed) {
                    Step::Park { .. } => {
                        let until = inner.clock.instant(self.deadline);
                        // Whichever comes first, the session decides the next step.
                        let _ = tokio::time::timeout_at(until, stirred).await;
                        self.advance(Session::proceed)
                    }
                    other => other,
                }
            }
            Step::Refresh { until } => {
                let until = inner.clock.instant(until);
                // Without a newer map the operation continues with the current one.
                let _ = tokio::time::timeout_at(until, inner.refresh()).await;
                tokio::time::sleep_until(until).await;
                self.advance(Session::proceed)
            }
        }
    }
}

/// Begins a search for the leaders of the shards whose requests wait at `node`, unless there is one.
fn doubt(inner: &Weak<Inner>, node: NodeId) {
    let begins = |inner: Arc<Inner>| inner.session().doubt(node, inner.clock.now());
    if inner.upgrade().is_some_and(begins) {
        tokio::spawn(search(inner.clone(), node));
    }
}

/// Asks other nodes who leads, until nothing waits at `node` any more or the client is gone.
async fn search(client: Weak<Inner>, node: NodeId) {
    while let Some(inner) = client.upgrade() {
        let waiting = inner.transport.in_doubt(node);
        let now = inner.clock.now();
        let question = inner.session().question(node, &waiting, now);
        match question {
            Question::End => return,
            Question::Pause { until } => {
                let until = inner.clock.instant(until);
                drop(inner);
                tokio::time::sleep_until(until).await;
            }
            Question::Ask { target, until } => {
                let address = || inner.session().address(target);
                let Some(connection) = inner.transport.connection(target, address) else {
                    continue;
                };
                let epoch = Epoch(inner.session().map().epoch);
                let event = connection
                    .call(|out, id| ask(out, id, epoch), None, until)
                    .await;
                let moved = inner.session().learned(node, &event);
                if !moved.is_empty() {
                    tracing::debug!(node = node.0, ?moved, "other nodes lead now");
                }
                inner.transport.moved(node, &moved);
                moved.into_iter().for_each(|shard| inner.stir(Some(shard)));
            }
        }
    }
}

/// Appends the question who leads.
fn ask(out: &mut Outbox, request_id: RequestId, epoch: Epoch) {
    let head = Head {
        kind: Kind::STATUS,
        request_id,
        shard: ShardId(0),
        epoch,
    };
    encode_status(out, head);
}

/// A copy of a key.
pub(crate) fn own(key: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(key.as_ref())
}

impl Inner {
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stir(&self, shard: Option<ShardId>) {
        if let Some(place) = shard.and_then(|shard| self.stirred.get(shard.0 as usize)) {
            place.notify_waiters();
        }
    }

    /// Measures how far a node is away.
    async fn probe(&self, probe: Probe) {
        let began = self.clock.now();
        let address = || self.session().address(probe.target);
        let Some(connection) = self.transport.connection(probe.target, address) else {
            return;
        };
        let encode = |out: &mut _, id| probe.encode(out, id);
        let event = connection.call(encode, None, began + PROBE_TIMEOUT).await;
        let took = self.clock.now().saturating_sub(began);
        let answered = matches!(event, Event::Answer(_)).then_some(took);
        self.session().probed(&probe, answered);
    }

    /// Asks the nodes of the map, each time from another one on, and the seeds for a newer map.
    async fn refresh(&self) {
        let (map, first) = {
            let mut session = self.session();
            let count = session.map().nodes.len();
            let first = session.next_of(count);
            (Arc::clone(session.map()), first)
        };
        let nodes = map.nodes.iter().cycle().skip(first);
        let nodes = nodes.map(|node| (node.host.as_str(), node.base_port));
        let nodes = nodes.take(map.nodes.len());
        let seeds = self.seeds.iter().map(|(host, port)| (host.as_str(), *port));
        let mut answers = 0;
        for (host, port) in nodes.chain(seeds) {
            let resolver = self.transport.resolver();
            let asked = seeds::describe(host, port, self.cluster, self.clock, resolver);
            let Ok((map, _)) = asked.await else { continue };
            answers += 1;
            let is_newer = self.session().adopt(map);
            if is_newer {
                return self.follow_map();
            }
            if answers >= REFRESH_ANSWERS_MAX {
                return;
            }
        }
    }

    /// Closes the connections to where no core of the newest map is.
    fn follow_map(&self) {
        self.transport.keep(|target| self.session().address(target));
    }
}

/// An operation in flight. If it is dropped before its end (the caller dropped its future), it abandons
/// the operation in the session.
struct Flight<'a> {
    inner: &'a Arc<Inner>,
    operation: Operation,
    deadline: Duration,
    /// How often a request was sent, including requests to open a session.
    attempts: u32,
    span: Span,
}

/// Of a request that names an upload.
const NO_KEY: &[u8] = &[];

/// The span of an operation. A disabled span costs the check of a flag.
fn span_of(operation: &Operation) -> Span {
    macro_rules! span {
        ($name:literal, $key:expr) => {
            tracing::debug_span!(
                target: "corelith_client",
                $name,
                key_len = $key.len(),
                shard = operation.shard().0,
                attempts = Empty,
                outcome = Empty,
            )
        };
    }
    match &operation.request {
        Request::Write { key, kind, .. } => match kind {
            WriteKind::Put => span!("put", key),
            WriteKind::Delete => span!("delete", key),
        },
        Request::Get { key } => span!("get", key),
        Request::Head { key } => span!("head", key),
        Request::Scan { start, .. } => span!("scan_page", start),
        Request::Upload { ask, .. } => match ask {
            UploadAsk::Begin { key, .. } => span!("upload_begin", key),
            UploadAsk::Chunk { .. } => span!("upload_chunk", NO_KEY),
            UploadAsk::Status(_) => span!("upload_status", NO_KEY),
            UploadAsk::Commit(_) => span!("upload_commit", NO_KEY),
            UploadAsk::Abort(_) => span!("upload_abort", NO_KEY),
            UploadAsk::List(_) => span!("upload_list", NO_KEY),
            UploadAsk::Read(_) => span!("read_chunk", NO_KEY),
            UploadAsk::Hold(_) => span!("hold_value", NO_KEY),
        },
    }
}

fn outcome(result: &Result<Answer>) -> &'static str {
    match result {
        Ok(Answer::Conflict { .. }) => "conflict",
        Ok(Answer::NotFound { .. }) => "not found",
        Ok(_) => "ok",
        Err(error) => error.name(),
    }
}

impl Flight<'_> {
    fn record(&self, outcome: &'static str) {
        if !self.span.is_disabled() {
            self.span.record("attempts", self.attempts);
            self.span.record("outcome", outcome);
        }
    }

    fn advance(
        &mut self,
        decide: impl FnOnce(&mut Session, &mut Operation, Duration) -> Step,
    ) -> Step {
        let now = self.inner.clock.now();
        let mut session = self.inner.session();
        let step = decide(&mut session, &mut self.operation, now);
        let stirred = session.take_stirred();
        let probes: Vec<Probe> = std::iter::from_fn(|| session.take_probe()).collect();
        let has_moved = session.take_map_news();
        let wants_map = session.take_wish_for_map();
        drop(session);
        if wants_map {
            let inner = Arc::clone(self.inner);
            tokio::spawn(async move {
                // Whoever is gone may not even refuse.
                let _ = tokio::time::timeout(FIND_TIMEOUT, inner.refresh()).await;
            });
        }
        if has_moved {
            self.inner.follow_map();
        }
        self.inner.stir(stirred);
        for probe in probes {
            let inner = Arc::clone(self.inner);
            tokio::spawn(async move { inner.probe(probe).await });
        }
        step
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.operation.done {
            self.record("dropped");
            let mut session = self.inner.session();
            session.abandon(&mut self.operation);
            let stirred = session.take_stirred();
            drop(session);
            self.inner.stir(stirred);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::mpsc;

    fn builder(
        resolver: impl Fn(&str) -> io::Result<Vec<std::net::IpAddr>> + Send + Sync + 'static,
    ) -> ClientBuilder {
        ClientBuilder {
            resolver: Resolver::new(resolver),
            ..Client::builder().seeds(["db.example:7411"])
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_bounds_names_that_do_not_come_back() {
        let (end, ended) = mpsc::channel::<()>();
        let ended = Mutex::new(ended);
        let hanging = move |_: &str| {
            // Until the test is over.
            let _ = ended.lock().unwrap().recv();
            Err(io::Error::other("hung up"))
        };
        let deadline = Duration::from_millis(300);
        let before = tokio::time::Instant::now();
        let error = builder(hanging).deadline(deadline).connect().await;
        assert_eq!(before.elapsed(), deadline);
        assert!(matches!(error, Err(Error::NoSeed { .. })), "{error:?}");
        drop(end);
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_told_with_its_reason() {
        let builder = builder(|_| Err(io::Error::other("no such host is known")));
        let error = builder
            .connect_deadline(Duration::from_millis(20))
            .connect();
        let error = error.await.unwrap_err();
        let Error::NoSeed { tried } = &error else {
            panic!("{error}");
        };
        assert!(matches!(tried[0].cause, Cause::Resolve { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("db.example does not resolve: no such host"),
            "{text}"
        );
    }
}
