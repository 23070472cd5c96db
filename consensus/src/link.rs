//! The connection that this core opened to one core of another node.
//!
//! All groups that the two cores share send their requests over it. It connects when it is made and
//! again whenever it fails, with growing, jittered pauses. Requests made while it is down fail at
//! once.
//!
//! The address is asked for before each attempt, since it may have changed. Every other attempt goes to
//! where the peer itself came from, if that is somewhere else. The link is up once both sides know each
//! other ([`Acquaintances`]).

use crate::admission::Refusal;
use crate::connection::{ConnectionError, FrameReader, Outgoing};
use crate::dial::{Dialed, Dialer, jittered};
use crate::introduction::Acquaintances;
use crate::limits::{PEER_QUEUE_BYTES_MAX, PEER_REQUESTS_MAX};
use crate::refusals::Refusals;
use crate::route::{Caller, NodeStore, Resolve, Target};
use corelith_io::Instant;
use corelith_io::collections::HashMap;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::{oneshot, watch};
use corelith_wire::handshake::Hello;
use corelith_wire::peer::{self, AppendResult, Heartbeat, Introduction, PromiseEpoch, kinds};
use corelith_wire::{Epoch, Frame, Head, Kind, NodeId, Outbox, RequestId, ShardId, StoreId};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// First pause before connecting again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause before connecting again.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// After so many attempts in a row, some five seconds, a peer that cannot be connected to is named.
const FAILURES_TO_NAME: u32 = 12;
/// How often overdue requests are looked for.
const OVERDUE_EVERY: Duration = Duration::from_millis(250);

/// Who this side is, and how it behaves.
#[derive(Clone)]
pub(crate) struct LinkConfig {
    /// Where refused answers are noted.
    pub(crate) refusals: Rc<Refusals>,
    /// Who this node is, and whom it knows.
    pub(crate) acquaintances: Rc<Acquaintances>,
    /// Where nodes are.
    pub(crate) resolve: Resolve,
    /// Generation of its cluster map.
    pub(crate) epoch: Epoch,
    /// How long a request may take.
    pub(crate) timeout: Duration,
    /// How long a heartbeat waits for those of other groups.
    pub(crate) gather: Duration,
}

/// The link is down, or too much waits on it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer is not connected")]
pub(crate) struct Down;

fn head(to: Target, id: u64) -> Head {
    Head {
        kind: Kind(0),
        request_id: RequestId(id),
        shard: to.shard,
        epoch: to.epoch(),
    }
}

/// When a peer was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerSeen {
    /// It is.
    Connected,
    /// So long ago.
    Before(Duration),
    /// Not since this node started.
    Never,
}

/// Who waits for an answer. When the request fails the sender is dropped.
enum AnswerWaiter {
    /// For an answer of that kind, or `REFUSED`.
    Frame(Kind, oneshot::Sender<Frame>),
    Beat(oneshot::Sender<(AppendResult, PromiseEpoch)>),
}

struct Waiting {
    waiter: AnswerWaiter,
    shard: ShardId,
    deadline: Instant,
}

/// See the module. Belongs to one core.
pub(crate) struct PeerLink {
    peer: NodeId,
    /// The peer's core.
    core: u16,
    /// Where the last attempt to connect went.
    address: Cell<Option<SocketAddr>>,
    /// Who is at the other end, while the link is up.
    theirs: Cell<Option<Introduction>>,
    config: LinkConfig,
    outgoing: Outgoing,
    waiting: RefCell<HashMap<u64, Waiting>>,
    next_id: Cell<u64>,
    /// Heartbeats that wait, by the generation of the replicas that they are for.
    beats: RefCell<BTreeMap<u16, Vec<Heartbeat>>>,
    beats_wait: Notify,
    /// Another connection is wanted.
    renewed: Notify,
    heard: Cell<Option<Instant>>,
    /// How often it has come up.
    ups: Cell<u64>,
    up: watch::Sender<bool>,
    closed: watch::Sender<bool>,
}

impl PeerLink {
    /// Makes a link and starts connecting.
    pub(crate) fn open(peer: NodeId, core: u16, config: LinkConfig) -> Rc<Self> {
        let link = Self::closed(peer, core, config);
        drop(corelith_io::spawn(Rc::clone(&link).run()));
        link
    }

    /// Makes a link that never connects.
    pub(crate) fn closed(peer: NodeId, core: u16, config: LinkConfig) -> Rc<Self> {
        Rc::new(Self {
            peer,
            core,
            address: Cell::new(None),
            theirs: Cell::new(None),
            config,
            outgoing: Outgoing::default(),
            waiting: RefCell::default(),
            next_id: Cell::new(1),
            beats: RefCell::default(),
            beats_wait: Notify::new(),
            renewed: Notify::new(),
            heard: Cell::new(None),
            ups: Cell::new(0),
            up: watch::channel(false).0,
            closed: watch::channel(false).0,
        })
    }

    /// Ends the link for good.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// When the peer was there.
    pub(crate) fn seen(&self) -> PeerSeen {
        match self.heard.get() {
            _ if *self.up.borrow() => PeerSeen::Connected,
            Some(heard) => PeerSeen::Before(corelith_io::now() - heard),
            None => PeerSeen::Never,
        }
    }

    /// Who is at the other end, while the link is up.
    pub(crate) fn caller(&self) -> Option<Caller> {
        let theirs = self.theirs.get()?;
        let at = NodeStore {
            node: theirs.node,
            store: theirs.store,
        };
        Some(Caller {
            at,
            start: theirs.start,
        })
    }

    /// How often the link has come up.
    pub(crate) fn ups(&self) -> u64 {
        self.ups.get()
    }

    /// The store at the other end, while the link is up.
    pub(crate) fn store(&self) -> Option<StoreId> {
        self.theirs.get().map(|theirs| theirs.store)
    }

    /// Waits for at most `limit` until the link is up.
    pub(crate) async fn wait_up(&self, limit: Duration) -> Result<(), Down> {
        if *self.up.borrow() {
            return Ok(());
        }
        let mut up = self.up.subscribe();
        let waited = corelith_io::timeout(limit, async { up.wait_for(|up| *up).await.is_ok() });
        match waited.await {
            Ok(true) => Ok(()),
            _ => Err(Down),
        }
    }

    /// Sends a request to a replica; `append` adds its frame. The answer is of the kind `expected` or
    /// `REFUSED`; it is lost (the sender dropped) when the link fails or takes longer than `limit`.
    pub(crate) fn ask(
        &self,
        to: Target,
        limit: Duration,
        expected: Kind,
        append: impl FnOnce(&mut Outbox, Head),
    ) -> Result<oneshot::Receiver<Frame>, Down> {
        let (sender, receiver) = oneshot::channel();
        let id = self.expect(to.shard, AnswerWaiter::Frame(expected, sender), limit)?;
        let head = head(to, id);
        self.outgoing.send(|out| append(out, head));
        Ok(receiver)
    }

    /// Sends a heartbeat to the replica of that generation, with those of other groups; soon, or at once if `hurry`. Its
    /// `beat` is set here.
    pub(crate) fn beat(
        &self,
        generation: u16,
        mut beat: Heartbeat,
        hurry: bool,
    ) -> Result<oneshot::Receiver<(AppendResult, PromiseEpoch)>, Down> {
        let (sender, receiver) = oneshot::channel();
        beat.beat = self.expect(beat.shard, AnswerWaiter::Beat(sender), self.config.timeout)?;
        self.beats
            .borrow_mut()
            .entry(generation)
            .or_default()
            .push(beat);
        if hurry {
            self.outgoing.send(|out| self.append_beats(out));
        } else {
            self.beats_wait.notify_one();
        }
        Ok(receiver)
    }

    fn expect(&self, shard: ShardId, waiter: AnswerWaiter, limit: Duration) -> Result<u64, Down> {
        let mut waiting = self.waiting.borrow_mut();
        let full = waiting.len() >= PEER_REQUESTS_MAX || self.outgoing.len() > PEER_QUEUE_BYTES_MAX;
        if !*self.up.borrow() || full {
            return Err(Down);
        }
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let deadline = corelith_io::now() + limit;
        let request = Waiting {
            waiter,
            shard,
            deadline,
        };
        let other = waiting.insert(id, request);
        assert!(other.is_none(), "two requests have the number {id}");
        assert!(
            waiting.len() <= PEER_REQUESTS_MAX,
            "{} requests wait",
            waiting.len()
        );
        Ok(id)
    }

    fn append_beats(&self, out: &mut Outbox) {
        // One frame for each generation: it is said once for all of a frame.
        for (generation, beats) in std::mem::take(&mut *self.beats.borrow_mut()) {
            let shard = ShardId(0);
            let to = Target { shard, generation };
            peer::encode_heartbeats(out, head(to, 0), &beats);
        }
    }

    async fn run(self: Rc<Self>) {
        let mut closed = self.closed.subscribe();
        let work = pin!(self.keep_connected());
        let closed = pin!(closed.wait_for(|closed| *closed));
        drop(select(work, closed).await);
        self.go_down();
    }

    /// A peer that stays away is named once: its address may be wrong.
    fn say_missing(&self, failures: u32, why: &dyn std::fmt::Display) {
        let (peer, address) = (self.peer, self.shown());
        if failures == FAILURES_TO_NAME {
            tracing::warn!(%peer, address, %why, "cannot connect to the peer, and goes on trying");
        } else {
            tracing::debug!(%peer, address, %why, "no peer");
        }
    }

    async fn keep_connected(&self) {
        let mut pause = PAUSE_MIN;
        let mut failures = 0_u32;
        loop {
            let connecting = self.connect(failures);
            match corelith_io::timeout(self.config.timeout, connecting).await {
                Ok(Ok(dialed)) => {
                    (pause, failures) = (PAUSE_MIN, 0);
                    let error = self.serve(dialed).await;
                    self.go_down();
                    tracing::info!(peer = %self.peer, address = self.shown(), %error, "peer lost");
                }
                Ok(Err(error)) => {
                    failures = failures.saturating_add(1);
                    self.say_missing(failures, &error);
                }
                Err(corelith_io::Elapsed) => {
                    failures = failures.saturating_add(1);
                    self.say_missing(failures, &"it does not answer in time");
                }
            }
            corelith_io::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn connect(&self, failures: u32) -> Result<Dialed, ConnectionError> {
        let LinkConfig {
            acquaintances,
            resolve,
            epoch,
            ..
        } = &self.config;
        let dialer = Dialer {
            acquaintances: Rc::clone(acquaintances),
            resolve: Rc::clone(resolve),
            epoch: *epoch,
        };
        let address = dialer.whereabouts(self.peer, self.core, failures).await?;
        self.address.set(Some(address));
        let me = acquaintances.me();
        let hello = Hello::peer(me.cluster.short(), me.node);
        dialer.connect(self.peer, address, hello).await
    }

    async fn serve(&self, dialed: Dialed) -> ConnectionError {
        let Dialed {
            reader,
            write,
            theirs,
        } = dialed;
        self.heard.set(Some(corelith_io::now()));
        self.theirs.set(Some(theirs));
        self.ups.set(self.ups.get() + 1);
        self.up.send_replace(true);
        tracing::debug!(peer = %self.peer, address = self.shown(), "peer connected");
        let reading = pin!(self.read_answers(reader, theirs));
        let writing = pin!(self.outgoing.write_to(write, |out| self.append_beats(out)));
        let gathering = pin!(self.gather_beats());
        let watching = pin!(self.watch(theirs));
        let io = pin!(select(reading, writing));
        let timers = pin!(select(gathering, watching));
        match select(io, timers).await {
            Either::Left((Either::Left((error, _)) | Either::Right((error, _)), _))
            | Either::Right((Either::Right((error, _)), _)) => error,
            Either::Right((Either::Left((never, _)), _)) => match never {},
        }
    }

    async fn gather_beats(&self) -> std::convert::Infallible {
        loop {
            self.beats_wait.notified().await;
            corelith_io::sleep(self.config.gather).await;
            if !self.beats.borrow().is_empty() {
                self.outgoing.send(|out| self.append_beats(out));
            }
        }
    }

    /// Fails requests that take too long; ends the connection if nothing at all comes, or another start
    /// of the peer was met since.
    async fn watch(&self, theirs: Introduction) -> ConnectionError {
        loop {
            let sleeping = pin!(corelith_io::sleep(OVERDUE_EVERY));
            if let Either::Right(_) = select(sleeping, pin!(self.renewed.notified())).await {
                return ConnectionError::Doubted;
            }
            if !self.config.acquaintances.is_last(&theirs) {
                return ConnectionError::Replaced;
            }
            let now = corelith_io::now();
            let before = self.waiting.borrow().len();
            self.waiting
                .borrow_mut()
                .retain(|_, waiting| waiting.deadline > now);
            let overdue = self.waiting.borrow().len() < before;
            let silent = self
                .heard
                .get()
                .is_none_or(|heard| now - heard > self.config.timeout);
            if overdue && silent {
                return ConnectionError::Silent;
            }
        }
    }

    async fn read_answers(&self, mut reader: FrameReader, theirs: Introduction) -> ConnectionError {
        loop {
            let frames = match reader.next().await {
                Ok(frames) => frames,
                Err(error) => return error,
            };
            self.heard.set(Some(corelith_io::now()));
            if !self.config.acquaintances.hear(&theirs) {
                return ConnectionError::Replaced;
            }
            for frame in frames {
                if let Err(error) = frame
                    .map_err(ConnectionError::from)
                    .and_then(|frame| self.answer(frame))
                {
                    return error;
                }
            }
        }
    }

    /// Hands an answer to whoever asked. One that does not fit what was asked under its number ends
    /// the connection: which answer belongs to whom cannot be told any more.
    fn answer(&self, frame: Frame) -> Result<(), ConnectionError> {
        let Head {
            kind,
            request_id,
            shard,
            ..
        } = frame.header.head;
        // Whoever asked may have given up.
        if kind == kinds::HEARTBEATS_REPLY {
            for reply in peer::parse_heartbeats_reply(&frame)? {
                match self.take(reply.beat, reply.shard)? {
                    Some(AnswerWaiter::Beat(sender)) => {
                        let _ = sender.send((reply.result, reply.epoch));
                    }
                    Some(AnswerWaiter::Frame(..)) => {
                        return Err(ConnectionError::Unexpected(kind.0));
                    }
                    None => {}
                }
            }
            return Ok(());
        }
        match self.take(request_id.0, shard)? {
            Some(AnswerWaiter::Frame(expected, sender))
                if kind == expected || kind == kinds::REFUSED =>
            {
                drop(sender.send(frame));
            }
            Some(_) => return Err(ConnectionError::Unexpected(kind.0)),
            None => {}
        }
        Ok(())
    }

    fn take(&self, id: u64, shard: ShardId) -> Result<Option<AnswerWaiter>, ConnectionError> {
        match self.waiting.borrow_mut().remove(&id) {
            Some(waiting) if waiting.shard != shard => Err(ConnectionError::OtherShard(shard)),
            waiting => Ok(waiting.map(|waiting| waiting.waiter)),
        }
    }

    /// Ends the connection; another one follows.
    pub(crate) fn renew(&self) {
        self.renewed.notify_one();
    }

    /// The store at the other end was found to lack what it had acknowledged.
    pub(crate) fn found_lost(&self, store: StoreId) {
        let node = self.peer;
        let store = NodeStore { node, store };
        self.config.acquaintances.found_lost(store);
    }

    /// Says that an answer about `shard` was refused.
    pub(crate) fn refused(&self, shard: ShardId, refusal: &Refusal) {
        let refusals = &self.config.refusals;
        refusals.note(shard, self.peer, self.address.get(), refusal);
    }

    fn shown(&self) -> Option<tracing::field::DisplayValue<SocketAddr>> {
        self.address.get().map(tracing::field::display)
    }

    fn go_down(&self) {
        self.theirs.set(None);
        self.up.send_replace(false);
        self.outgoing.clear();
        self.beats.borrow_mut().clear();
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        drop(waiting);
    }
}
