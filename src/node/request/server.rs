//! The listening side of a core: accepts, shakes hands, hands on by role.
//!
//! Invariants:
//! * Strangers, clients and each peer have places of their own, so that none of them keeps the others out: the
//!   oldest stranger goes for a new one, the oldest connection of a peer for its newest one.
//! * Only want of descriptors or memory makes the accepting pause.

use super::budget::Budget;
use super::connection::{Commons, Connection};
use super::places::{Place, Places};
use super::receive::ReceiveBuffer;
use super::rejections::Rejections;
use super::router::Router;
use super::serve::{self, Surroundings};
use crate::node::admission::desk::Desk;
use crate::node::admission::exchange;
use crate::node::limits;
use crate::node::mesh::ConnectionId;
use bytes::BytesMut;
use corelith_consensus::{Groups, InboundBeats};
use corelith_io::{ErrorKind, Instant, ReadHalf, Sender, TcpListener, TcpStream, WriteHalf};
use corelith_wire::handshake::{HELLO_BYTES, Hello, Role, Status, Welcome};
use corelith_wire::{Epoch, HandshakeError, NodeId};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// The connections of one core. Belongs to that core.
pub(crate) struct Server {
    surroundings: Surroundings,
    groups: Groups,
    desk: Rc<Desk>,
    /// To the core of the beats, on the first core of a node that has one.
    hand_over: Option<Sender<InboundBeats>>,
    commons: Rc<Commons>,
    /// How long a client may do nothing.
    idle_max: Option<Duration>,
    next: Cell<u64>,
    clients: RefCell<BTreeMap<ConnectionId, Rc<Connection>>>,
    /// Who has not introduced itself yet.
    strangers: Places,
    peers: RefCell<BTreeMap<NodeId, Places>>,
    memory: Trim,
}

/// When to give freed memory back to the system: once much less has been in use for a while than before.
#[derive(Debug, Default)]
struct Trim {
    peak: Cell<usize>,
    /// Looks in a row that found much less.
    looks: Cell<u32>,
}

impl Trim {
    /// Looks at it, every `DEADLINE_SWEEP`.
    fn is_due(&self, used: usize) -> bool {
        let peak = self.peak.get().max(used);
        let is_less = peak - used >= limits::TRIM_BYTES;
        let looks = if is_less { self.looks.get() + 1 } else { 0 };
        let is_due = looks >= limits::TRIM_AFTER_LOOKS;
        self.peak.set(if is_due { used } else { peak });
        self.looks.set(if is_due { 0 } else { looks });
        is_due
    }
}

/// How long to wait after an accept that failed, the `failures`-th in a row.
fn accept_pause(kind: ErrorKind, failures: u32) -> Option<Duration> {
    match kind {
        ErrorKind::Exhausted => Some(limits::ACCEPT_PAUSE),
        // The client has closed its connection before it was accepted.
        ErrorKind::Disconnected | ErrorKind::Invalid => None,
        // Unknown, and maybe for good: not in a circle.
        _ => (failures > limits::ACCEPT_FAILURES_MAX).then_some(limits::ACCEPT_PAUSE),
    }
}

impl Server {
    pub(crate) fn new(
        router: Rc<Router>,
        groups: Groups,
        desk: Rc<Desk>,
        hand_over: Option<Sender<InboundBeats>>,
        budget: Budget,
        idle_max: Option<Duration>,
    ) -> Rc<Self> {
        let map = Rc::clone(&router.map);
        Rc::new(Self {
            surroundings: Surroundings {
                router,
                buffer: ReceiveBuffer::new(),
                rejections: Rc::new(Rejections::new(corelith_io::now())),
            },
            groups,
            desk,
            hand_over,
            commons: Commons::new(map, budget),
            idle_max,
            next: Cell::new(1),
            clients: RefCell::default(),
            strangers: Places::default(),
            peers: RefCell::default(),
            memory: Trim::default(),
        })
    }

    /// Accepts connections; never returns.
    pub(crate) async fn accept(self: Rc<Self>, listener: TcpListener) {
        let mut failures = 0;
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    failures = 0;
                    let serving = Rc::clone(&self).serve(stream);
                    // A task has room for its largest moment, for as long as it lives: what is large is boxed.
                    assert!(
                        size_of_val(&serving) <= limits::CONNECTION_TASK_BYTES_MAX,
                        "a connection's task takes {} bytes",
                        size_of_val(&serving)
                    );
                    corelith_io::spawn(serving);
                }
                Err(error) => {
                    failures += 1;
                    match accept_pause(error.kind(), failures) {
                        Some(pause) => {
                            tracing::warn!(%error, "cannot accept a connection");
                            corelith_io::sleep(pause).await;
                        }
                        None => {
                            tracing::debug!(%error, "a connection has ended before it began");
                            corelith_io::yield_now().await;
                        }
                    }
                }
            }
        }
    }

    /// Closes connections that are past a deadline or idle for too long, and gives back memory. Every
    /// `DEADLINE_SWEEP`; others get their turns meanwhile.
    pub(crate) async fn sweep(&self, now: Instant) {
        let max = self.commons.budget.connections_max();
        let excess = self.clients.borrow().len().saturating_sub(max - max / 16);
        let mut idle: Vec<(Duration, Rc<Connection>)> = Vec::new();
        let mut from = ConnectionId(0);
        loop {
            let clients: Vec<(ConnectionId, Rc<Connection>)> = {
                let clients = self.clients.borrow();
                let some = clients.range(from..).take(limits::CONNECTIONS_PER_TURN);
                some.map(|(id, client)| (*id, Rc::clone(client))).collect()
            };
            let Some((last, _)) = clients.last() else {
                break;
            };
            from = ConnectionId(last.0 + 1);
            for (_, client) in clients {
                client.check_deadlines(now);
                let idle_for = client.idle_since().map(|since| now - since);
                let is_candidate = |idle: &Duration| {
                    self.is_idle_too_long(*idle) || (excess > 0 && *idle >= limits::IDLE_MIN)
                };
                if let Some(idle_for) = idle_for.filter(is_candidate) {
                    idle.push((idle_for, client));
                }
            }
            corelith_io::yield_if_needed().await;
        }
        self.close_idle(idle, excess);
        let connections = self.clients.borrow().len() * limits::CONNECTION_BYTES;
        if self.memory.is_due(self.commons.budget.used() + connections) {
            corelith_io::probe::trim_memory().await;
        }
    }

    fn is_idle_too_long(&self, idle: Duration) -> bool {
        self.idle_max.is_some_and(|max| idle >= max)
    }

    /// Of connections that may go closes those that were idle for too long, and the longest idle ones when there
    /// are nearly too many.
    fn close_idle(&self, mut idle: Vec<(Duration, Rc<Connection>)>, excess: usize) {
        idle.sort_by_key(|(idle, _)| std::cmp::Reverse(*idle));
        for (count, (idle, client)) in idle.into_iter().enumerate() {
            if count < excess || self.is_idle_too_long(idle) {
                tracing::debug!(peer = %client.peer, "closing an idle connection");
                client.cut();
            }
        }
    }

    /// Lets the clients' connections write what is ready, then closes them.
    pub(crate) async fn drain(&self) {
        for connection in self.clients.borrow().values() {
            connection.close();
        }
        let deadline = corelith_io::now() + limits::DRAIN_DEADLINE;
        while !self.clients.borrow().is_empty() && corelith_io::now() < deadline {
            corelith_io::sleep(limits::READY_POLL).await;
        }
        for connection in self.clients.borrow().values() {
            connection.cut();
        }
    }

    async fn serve(self: Rc<Self>, stream: TcpStream) {
        let Ok(from) = stream.peer_addr() else { return };
        let (mut read, mut write) = stream.into_split();
        let shaken = {
            let place = self.strangers.take(limits::STRANGERS_PER_CORE_MAX);
            // What the handshake takes is freed after it.
            let hands = Box::pin(self.shake_hands(&mut read, &mut write, from));
            while_placed(
                &place,
                corelith_io::timeout(limits::HANDSHAKE_DEADLINE, hands),
            )
            .await
        };
        let (hello, version, leftover) = match shaken {
            Some(Ok(Some(shaken))) => shaken,
            Some(Ok(None)) => return,
            Some(Err(_)) => {
                let rejections = &self.surroundings.rejections;
                return rejections.other(from, "it did not introduce itself in time");
            }
            None => {
                let rejections = &self.surroundings.rejections;
                return rejections.other(from, "too many others have not introduced themselves");
            }
        };
        match hello.role {
            Role::Peer => Box::pin(self.serve_peer(read, write, leftover, hello.node, from)).await,
            Role::Client | Role::Bulk => {
                Box::pin(self.serve_client(read, write, leftover, from, version)).await;
            }
            Role::Formation => Box::pin(self.serve_formation(read, write, leftover)).await,
            Role::Beats => self.hand_over(read, write, leftover, hello.node, from),
        }
    }

    /// Gives a connection to the core of the beats, which lets the peer introduce itself. If too many are on
    /// their way the peer connects again.
    fn hand_over(
        &self,
        read: ReadHalf,
        write: WriteHalf,
        leftover: BytesMut,
        peer: NodeId,
        from: SocketAddr,
    ) {
        let Some(beats) = &self.hand_over else { return };
        let handed_over = read.unsplit(write).detach().map(|stream| {
            let connection = InboundBeats {
                peer,
                address: Some(from),
                stream,
                leftover,
            };
            beats.try_send(connection).is_ok()
        });
        match handed_over {
            Ok(true) => {}
            Ok(false) => tracing::debug!(%peer, "too many connections with beats are on their way"),
            Err(error) => tracing::debug!(%peer, %error, "a connection with beats is lost"),
        }
    }

    async fn serve_peer(
        &self,
        read: ReadHalf,
        write: WriteHalf,
        leftover: BytesMut,
        peer: NodeId,
        from: SocketAddr,
    ) {
        let liveness = self.groups.liveness();
        let map = self.surroundings.router.map.now();
        let cores = liveness
            .cores_of(peer)
            .max(map.member(peer).map(|member| member.cores));
        let cores = usize::from(cores.unwrap_or(1));
        let place = {
            let mut peers = self.peers.borrow_mut();
            let places = peers.entry(peer).or_default();
            places.take(cores * limits::CONNECTIONS_PER_PEER_CORE_MAX)
        };
        let served = self
            .groups
            .serve_peer(read, write, leftover, peer, Some(from));
        while_placed(&place, served).await;
    }

    async fn serve_formation(&self, mut read: ReadHalf, mut write: WriteHalf, leftover: BytesMut) {
        let place = self.strangers.take(limits::STRANGERS_PER_CORE_MAX);
        let mut buffer = leftover;
        let desk = &self.desk;
        let answer = |ask| desk.answer(ask);
        let serving = exchange::serve(&mut read, &mut write, &mut buffer, answer);
        // Whoever is too slow asks again.
        let serving = corelith_io::timeout(limits::HANDSHAKE_DEADLINE, serving);
        let _ = while_placed(&place, serving).await;
    }

    async fn serve_client(
        &self,
        read: ReadHalf,
        write: WriteHalf,
        leftover: BytesMut,
        from: SocketAddr,
        version: u16,
    ) {
        let id = ConnectionId(self.next.get());
        self.next.set(id.0 + 1);
        let connection = Connection::new(from, version, Rc::clone(&self.commons));
        let former = self.clients.borrow_mut().insert(id, Rc::clone(&connection));
        assert!(former.is_none(), "the id {id:?} was used twice");
        serve::serve(connection, &self.surroundings, read, write, leftover).await;
        self.surroundings.router.handler.closed(from);
        let removed = self.clients.borrow_mut().remove(&id);
        assert!(removed.is_some(), "{id:?} has its place until it ends");
    }

    /// Reads the hello and answers it; returns it with the version to speak and what was read beyond it, or `None`
    /// if the connection is not to be served.
    async fn shake_hands(
        &self,
        read: &mut ReadHalf,
        write: &mut WriteHalf,
        from: SocketAddr,
    ) -> Option<(Hello, u16, BytesMut)> {
        let mut buffer = BytesMut::with_capacity(limits::HANDSHAKE_BUFFER_BYTES);
        while buffer.len() < HELLO_BYTES {
            match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        let bytes = buffer.split_to(HELLO_BYTES);
        let hello = bytes
            .first_chunk::<HELLO_BYTES>()
            .ok_or(HandshakeError::NotCorelith)
            .and_then(Hello::parse);
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => {
                self.surroundings.rejections.handshake(from, &error);
                return None;
            }
        };
        let welcome = self.answer(&hello);
        match welcome.status {
            Status::Welcome => {}
            Status::RoleRefused => self.surroundings.rejections.role(from),
            status => self
                .surroundings
                .rejections
                .other(from, &format!("{status:?}")),
        }
        write.write_all(&welcome.encode()).await.ok()?;
        (welcome.status == Status::Welcome).then_some((hello, welcome.version, buffer))
    }

    fn answer(&self, hello: &Hello) -> Welcome {
        let router = &self.surroundings.router;
        let placement = router.map.now();
        let mut welcome = Welcome::answer(
            hello,
            placement.cluster,
            Epoch(placement.epoch),
            placement.me,
            router.core,
        );
        if welcome.status == Status::Welcome {
            let is_full = self.clients.borrow().len() >= self.commons.budget.connections_max();
            // One that was removed is told so once it has introduced itself.
            let is_node =
                placement.member(hello.node).is_some() || placement.was_removed(hello.node);
            let other_node = hello.node != placement.me && is_node;
            welcome.status = match hello.role {
                Role::Client if is_full => Status::Busy,
                Role::Client => Status::Welcome,
                Role::Peer if other_node && hello.cluster.0 != 0 => Status::Welcome,
                // Who joins is no node yet.
                Role::Formation if hello.node != placement.me => Status::Welcome,
                Role::Beats if other_node && hello.cluster.0 != 0 && self.hand_over.is_some() => {
                    Status::Welcome
                }
                Role::Peer | Role::Bulk | Role::Formation | Role::Beats => Status::RoleRefused,
            };
        }
        welcome
    }
}

/// Does `work` for as long as nobody else gets the place.
async fn while_placed<T>(place: &Place, work: impl Future<Output = T>) -> Option<T> {
    match select(pin!(work), pin!(place.lost())).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(((), _)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Trim, accept_pause};
    use crate::node::limits::{ACCEPT_FAILURES_MAX, ACCEPT_PAUSE, TRIM_AFTER_LOOKS, TRIM_BYTES};
    use corelith_io::ErrorKind;

    #[test]
    fn only_want_makes_the_accepting_pause() {
        let table = [
            (ErrorKind::Disconnected, 1, None),
            (ErrorKind::Disconnected, 100_000, None),
            (ErrorKind::Invalid, 1, None),
            (ErrorKind::Exhausted, 1, Some(ACCEPT_PAUSE)),
            (ErrorKind::Device, 1, None),
            (
                ErrorKind::Device,
                ACCEPT_FAILURES_MAX + 1,
                Some(ACCEPT_PAUSE),
            ),
        ];
        for (kind, failures, expected) in table {
            assert_eq!(
                accept_pause(kind, failures),
                expected,
                "{kind:?} {failures}"
            );
        }
    }

    #[test]
    fn memory_is_given_back_after_a_peak() {
        let trim = Trim::default();
        let table = [
            // (bytes in use, number of looks, how often memory is given back)
            (0, 100, 0),
            (TRIM_BYTES - 1, 100, 0),
            (0, 100, 0),
            (3 * TRIM_BYTES, 1, 0),
            (TRIM_BYTES, TRIM_AFTER_LOOKS - 1, 0),
            (3 * TRIM_BYTES, 1, 0),
            (TRIM_BYTES, 100, 1),
            (0, 100, 1),
        ];
        for (used, looks, expected) in table {
            let due = (0..looks).filter(|_| trim.is_due(used)).count();
            assert_eq!(due, expected, "{used}");
        }
    }
}
