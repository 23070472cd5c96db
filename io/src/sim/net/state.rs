//! The network of a simulated world: links between nodes, listeners and connections.
//!
//! A connection carries two streams of segments. A segment arrives in order, after its link's
//! latency; a lost one arrives late, and those behind it wait. While a link is cut nothing arrives
//! over it, nor do the acknowledgements of what the other direction carried, so that a one-way cut
//! stalls both streams once their buffers are full.
//!
//! A machine that lost its power says nothing: its peers find out when it is up again and resets
//! what it does not know. A process that ends has its connections closed by its kernel.
//!
//! Invariants:
//! * The segments in flight of a stream are in order of arrival, and nothing arrives after its end.
//! * `unacknowledged` counts at least `unheard` and what the other side has not read.
//! * A machine without power has no listeners, and has forgotten its connections.

use super::super::events::SimEvent;
use super::super::world::{Node, TraceStep, World, fingerprint};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;

/// How many connections wait to be accepted before further ones must try again.
const BACKLOG: usize = 128;
const FIRST_EPHEMERAL_PORT: u16 = 32768;

/// What happens to traffic from one node to another.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct LinkFaults {
    pub(in super::super) cut: bool,
    pub(in super::super) clog: u64,
}

pub(in super::super) struct Listener {
    pub(in super::super) backlog: VecDeque<u64>,
    pub(in super::super) waiting: Option<Waker>,
}

#[derive(Default)]
pub(in super::super) struct Net {
    pub(in super::super) links: BTreeMap<(u32, u32), LinkFaults>,
    pub(in super::super) listeners: BTreeMap<(u32, u16), Listener>,
    pub(in super::super) connections: BTreeMap<u64, SimConnection>,
    next_connection: u64,
    next_port: u16,
    /// Overrides the configured chance of a lost segment.
    pub(in super::super) packet_loss: Option<f64>,
    /// Segments that were sent.
    pub(in super::super) sent: u64,
}

/// Side 0 has connected, side 1 has accepted.
pub(in super::super) struct SimConnection {
    pub(in super::super) ends: [Endpoint; 2],
}

pub(in super::super) enum TcpSegment {
    Data(Vec<u8>),
    /// The sender closed its connection.
    Fin,
    /// The sender broke it off.
    Reset,
}

/// One end of a connection.
pub(in super::super) struct Endpoint {
    pub(in super::super) node: u32,
    pub(in super::super) address: SocketAddr,
    /// Arrived and not read yet; `inbox_read` bytes of the first chunk have been read.
    pub(in super::super) inbox: VecDeque<Vec<u8>>,
    pub(in super::super) inbox_read: usize,
    /// The other side has closed, and all it sent before is in the inbox.
    pub(in super::super) eof: bool,
    /// Reset: by the other side, or by a fault.
    pub(in super::super) broken: bool,
    /// Closed by its own side.
    pub(in super::super) shut: bool,
    /// Its machine lost power and knows nothing of it any more.
    pub(in super::super) forgotten: bool,
    /// Sent, not arrived; with the time of arrival.
    flight: VecDeque<(u64, TcpSegment)>,
    last_arrival: u64,
    /// Bytes sent that the other side has not read, as far as this side knows.
    pub(in super::super) unacknowledged: usize,
    /// Bytes the other side has read while its acknowledgements could not pass.
    unheard: usize,
    pub(in super::super) reader: Option<Waker>,
    pub(in super::super) writer: Option<Waker>,
}

impl Endpoint {
    fn new(node: u32, address: SocketAddr) -> Self {
        Self {
            node,
            address,
            inbox: VecDeque::new(),
            inbox_read: 0,
            eof: false,
            broken: false,
            shut: false,
            forgotten: false,
            flight: VecDeque::new(),
            last_arrival: 0,
            unacknowledged: 0,
            unheard: 0,
            reader: None,
            writer: None,
        }
    }

    fn is_gone(&self) -> bool {
        self.forgotten || self.shut
    }

    fn wake(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.reader.take());
        wakers.extend(self.writer.take());
    }

    fn break_off(&mut self, wakers: &mut Vec<Waker>) {
        self.broken = true;
        self.flight.clear();
        self.wake(wakers);
    }
}

impl Net {
    fn is_cut(&self, from: u32, to: u32) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.cut)
    }

    pub(in super::super) fn free_port(&mut self, node: u32) -> u16 {
        loop {
            self.next_port = self
                .next_port
                .checked_add(1)
                .unwrap_or(0)
                .max(FIRST_EPHEMERAL_PORT);
            if !self.listeners.contains_key(&(node, self.next_port)) {
                return self.next_port;
            }
        }
    }

    pub(in super::super) fn end(&mut self, connection: u64, side: usize) -> Option<&mut Endpoint> {
        self.connections.get_mut(&connection)?.ends.get_mut(side)
    }

    /// The ends of connections at a node.
    fn ends_of(&self, node: u32) -> impl Iterator<Item = &Endpoint> {
        let ends = self.connections.values().flat_map(|it| &it.ends);
        ends.filter(move |end| end.node == node)
    }

    /// Forgets a connection that neither side can notice any more.
    fn retire(&mut self, connection: u64) {
        let over = self.connections.get(&connection).is_some_and(|connection| {
            let over = |end: &Endpoint| end.is_gone() && (end.flight.is_empty() || end.forgotten);
            let [a, b] = &connection.ends;
            (over(a) || a.broken && a.is_gone()) && (over(b) || b.broken && b.is_gone())
        });
        if over {
            self.connections.remove(&connection);
        }
    }
}

/// The outcome of an attempt to connect.
pub(in super::super) enum Attempt {
    Connected(u64),
    /// No answer: try again later.
    Silence,
    Refused,
}

impl World {
    pub(in super::super) fn one_way(&self, from: u32, to: u32) -> u64 {
        if from == to {
            return self.draw(&self.config.loopback_latency);
        }
        let clog = self
            .net
            .borrow()
            .links
            .get(&(from, to))
            .map_or(0, |link| link.clog);
        self.draw(&self.config.network_latency) + clog
    }

    /// A connection request arrives.
    pub(in super::super) fn try_connect(&self, from: &Node, to: &Node, port: u16) -> Attempt {
        let mut net = self.net.borrow_mut();
        if net.is_cut(from.id, to.id) || net.is_cut(to.id, from.id) || !to.is_awake() {
            return Attempt::Silence;
        }
        let id = net.next_connection;
        let Some(listener) = net.listeners.get_mut(&(to.id, port)) else {
            return Attempt::Refused;
        };
        if listener.backlog.len() >= BACKLOG {
            return Attempt::Silence;
        }
        listener.backlog.push_back(id);
        let waiting = listener.waiting.take();
        net.next_connection += 1;
        let client = from.address(net.free_port(from.id));
        let ends = [
            Endpoint::new(from.id, client),
            Endpoint::new(to.id, to.address(port)),
        ];
        let before = net.connections.insert(id, SimConnection { ends });
        assert!(before.is_none(), "a connection's number is its own");
        drop(net);
        self.note(
            TraceStep::Connect,
            from.id,
            [id, u64::from(to.id), u64::from(port)],
        );
        if let Some(waker) = waiting {
            waker.wake();
        }
        Attempt::Connected(id)
    }

    /// Puts a segment on its way.
    pub(in super::super) fn send(
        self: &Rc<Self>,
        connection: u64,
        side: usize,
        segment: TcpSegment,
    ) {
        let Some((from, to)) = self
            .net
            .borrow()
            .connections
            .get(&connection)
            .map(|connection| (connection.ends[side].node, connection.ends[1 - side].node))
        else {
            return;
        };
        let mut arrival = self.now() + self.one_way(from, to);
        if from != to {
            let loss = self
                .net
                .borrow()
                .packet_loss
                .unwrap_or(self.config.packet_loss);
            let mut wait = super::super::world::nanos(self.config.retransmit_after);
            while self.rng.chance(loss) && wait < 60_000_000_000 {
                arrival += wait;
                wait *= 2;
            }
        }
        let segment = match from != to && self.rng.chance(self.config.reset_chance) {
            true => TcpSegment::Reset,
            false => segment,
        };
        let detail = match &segment {
            TcpSegment::Data(bytes) => fingerprint(bytes),
            TcpSegment::Fin => 1,
            TcpSegment::Reset => 2,
        };
        let mut net = self.net.borrow_mut();
        net.sent += 1;
        let Some(end) = net.end(connection, side) else {
            return;
        };
        arrival = arrival.max(end.last_arrival);
        end.last_arrival = arrival;
        if let TcpSegment::Data(bytes) = &segment {
            end.unacknowledged += bytes.len();
        }
        assert!(
            end.flight.back().is_none_or(|(last, _)| *last <= arrival),
            "a stream is in order"
        );
        end.flight.push_back((arrival, segment));
        drop(net);
        self.note(
            TraceStep::Send,
            from,
            [connection << 1 | side as u64, detail, arrival],
        );
        self.schedule_delivery(connection, side, arrival);
    }

    fn schedule_delivery(self: &Rc<Self>, connection: u64, side: usize, at: u64) {
        self.executor
            .schedule(at, SimEvent::Arrival { connection, side });
    }

    /// Lets the segments arrive whose time has come. Those that cannot now (a cut link, a machine
    /// without power or asleep) stay in flight; [`World::retransmit`] calls again when that has changed.
    pub(in super::super) fn deliver(self: &Rc<Self>, connection: u64, side: usize) {
        let mut wakers = Vec::new();
        loop {
            let mut net = self.net.borrow_mut();
            let net = &mut *net;
            let Some(SimConnection { ends }) = net.connections.get_mut(&connection) else {
                break;
            };
            let [a, b] = ends;
            let (from, to) = if side == 0 { (a, b) } else { (b, a) };
            let due = from
                .flight
                .front()
                .is_some_and(|(arrival, _)| *arrival <= self.now());
            let cut = net
                .links
                .get(&(from.node, to.node))
                .is_some_and(|link| link.cut);
            if !due || cut || !self.node(to.node).is_awake() {
                break;
            }
            let Some((_, segment)) = from.flight.pop_front() else {
                break;
            };
            self.note(
                TraceStep::Deliver,
                to.node,
                [connection << 1 | side as u64, 0, 0],
            );
            match segment {
                TcpSegment::Data(_) if to.is_gone() => {
                    // A reset comes back, by the time of a round trip; sooner is as good.
                    from.break_off(&mut wakers);
                }
                TcpSegment::Data(bytes) => {
                    assert!(!to.eof, "data arrives after the end of its stream");
                    to.inbox.push_back(bytes);
                    wakers.extend(to.reader.take());
                }
                TcpSegment::Fin => {
                    to.eof = true;
                    to.wake(&mut wakers);
                }
                TcpSegment::Reset => {
                    to.break_off(&mut wakers);
                    from.break_off(&mut wakers);
                }
            }
        }
        self.net.borrow_mut().retire(connection);
        for waker in wakers {
            waker.wake();
        }
    }

    /// The end `side` has read `count` bytes; tells the sender, if an acknowledgement can pass.
    pub(in super::super) fn acknowledge(&self, connection: u64, side: usize, count: usize) {
        let mut net = self.net.borrow_mut();
        let Some(SimConnection { ends }) = net.connections.get(&connection) else {
            return;
        };
        let cut = net.is_cut(ends[side].node, ends[1 - side].node);
        let Some(sender) = net.end(connection, 1 - side) else {
            return;
        };
        assert!(
            sender.unheard + count <= sender.unacknowledged,
            "more was read than was sent"
        );
        let waker = if cut {
            sender.unheard += count;
            None
        } else {
            sender.unacknowledged -= count;
            sender.writer.take()
        };
        drop(net);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A side closes its connection.
    pub(in super::super) fn close(self: &Rc<Self>, connection: u64, side: usize) {
        let unread = {
            let mut net = self.net.borrow_mut();
            let Some(end) = net.end(connection, side) else {
                return;
            };
            if end.shut || end.forgotten {
                return;
            }
            end.shut = true;
            !std::mem::take(&mut end.inbox).is_empty()
        };
        // As Linux does it: closing with unread data tells the sender that it was not read.
        self.send(
            connection,
            side,
            if unread {
                TcpSegment::Reset
            } else {
                TcpSegment::Fin
            },
        );
    }

    /// Links or machines have come back: what could not arrive is sent again, a little later.
    pub(in super::super) fn retransmit(self: &Rc<Self>, concerns: impl Fn(u32, u32) -> bool) {
        let mut wakers = Vec::new();
        let mut stalled = Vec::new();
        {
            let mut net = self.net.borrow_mut();
            let net = &mut *net;
            for (id, SimConnection { ends }) in &mut net.connections {
                for side in 0..2 {
                    let (from, to) = (ends[side].node, ends[1 - side].node);
                    if concerns(from, to) && !ends[side].flight.is_empty() {
                        stalled.push((*id, side));
                    }
                    let heard = concerns(to, from)
                        && !net.links.get(&(to, from)).is_some_and(|link| link.cut);
                    if heard && ends[side].unheard > 0 {
                        let end = &mut ends[side];
                        let heard = std::mem::take(&mut end.unheard);
                        assert!(heard <= end.unacknowledged, "more was read than was sent");
                        end.unacknowledged -= heard;
                        wakers.extend(end.writer.take());
                    }
                }
            }
        }
        let retransmit_after = super::super::world::nanos(self.config.retransmit_after);
        for (connection, side) in stalled {
            let at = self.now() + self.rng.below(retransmit_after.max(1));
            self.schedule_delivery(connection, side, at);
        }
        for waker in wakers {
            waker.wake();
        }
    }

    /// Breaks the connections that `concerns` chooses by the nodes of their ends, at both ends.
    pub(in super::super) fn reset_connections(&self, concerns: impl Fn(u32, u32) -> bool) {
        let mut wakers = Vec::new();
        for SimConnection { ends: [a, b] } in self.net.borrow_mut().connections.values_mut() {
            if concerns(a.node, b.node) {
                a.break_off(&mut wakers);
                b.break_off(&mut wakers);
            }
        }
        for waker in wakers {
            waker.wake();
        }
    }

    /// A machine has lost its power: its ends are gone, and their peers are not told.
    pub(in super::super) fn forget_sockets(&self, node: u32) {
        let mut net = self.net.borrow_mut();
        net.listeners.retain(|(at, _), _| *at != node);
        for SimConnection { ends } in net.connections.values_mut() {
            for end in ends.iter_mut().filter(|end| end.node == node) {
                end.forgotten = true;
                end.inbox.clear();
                (end.reader, end.writer) = (None, None);
                // What is on the wire already arrives, as far as it got.
                let arriving = self.rng.below(end.flight.len() as u64 + 1);
                end.flight.truncate(usize::try_from(arriving).unwrap_or(0));
            }
        }
        let ids: Vec<u64> = net.connections.keys().copied().collect();
        for id in ids {
            net.retire(id);
        }
        debug_assert!(
            net.ends_of(node).all(|end| end.forgotten),
            "a machine without power knows a connection"
        );
    }

    /// A process has ended: its kernel closes what it had open.
    pub(in super::super) fn close_sockets(self: &Rc<Self>, node: u32) {
        let mut open = Vec::new();
        {
            let mut net = self.net.borrow_mut();
            net.listeners.retain(|(at, _), _| *at != node);
            for (id, SimConnection { ends }) in &mut net.connections {
                for (side, end) in ends
                    .iter_mut()
                    .enumerate()
                    .filter(|(_, end)| end.node == node)
                {
                    (end.reader, end.writer) = (None, None);
                    open.push((*id, side));
                }
            }
        }
        for (connection, side) in open {
            self.close(connection, side);
        }
        debug_assert!(
            self.net.borrow().ends_of(node).all(Endpoint::is_gone),
            "a connection outlived its process"
        );
    }

    /// A listener is closed: what it has not accepted is reset.
    pub(in super::super) fn close_listener(self: &Rc<Self>, node: u32, port: u16) {
        let listener = self.net.borrow_mut().listeners.remove(&(node, port));
        for connection in listener.into_iter().flat_map(|listener| listener.backlog) {
            if let Some(end) = self.net.borrow_mut().end(connection, 1) {
                end.shut = true;
            }
            self.send(connection, 1, TcpSegment::Reset);
        }
    }
}

pub(super) fn reset_error() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}
