//! TCP between simulated nodes, as tasks use it.

pub(super) mod control;
pub(super) mod state;

use super::time::Delay;
use super::world::{Core, nanos};
use crate::error::{Error, Result};
use crate::world::{self, World as CurrentWorld};
use bytes::BytesMut;
use state::{Attempt, Listener, TcpSegment, reset_error};
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The kernel gives up connecting after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(127);

pub(crate) struct TcpListener {
    core: Core,
    address: SocketAddr,
}

impl TcpListener {
    pub(crate) fn bind(core: Core, address: SocketAddr) -> Result<Self> {
        let own = core.node.ip();
        let ip = address.ip();
        if !ip.is_unspecified() && !ip.is_loopback() && ip != own {
            let error = io::Error::from(io::ErrorKind::AddrNotAvailable);
            return Err(Error::new("listen at", address.to_string(), error));
        }
        let mut net = core.world.net.borrow_mut();
        let port = match address.port() {
            0 => net.free_port(core.node.id),
            port => port,
        };
        if net.listeners.contains_key(&(core.node.id, port)) {
            let error = io::Error::from(io::ErrorKind::AddrInUse);
            return Err(Error::new("listen at", address.to_string(), error));
        }
        if core.is_alive() {
            let listener = Listener {
                backlog: VecDeque::new(),
                waiting: None,
            };
            net.listeners.insert((core.node.id, port), listener);
        }
        drop(net);
        let ip = if ip.is_unspecified() { own } else { ip };
        Ok(Self {
            core,
            address: SocketAddr::new(ip, port),
        })
    }

    pub(crate) fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.address)
    }

    pub(crate) async fn accept(&self) -> Result<TcpStream> {
        let connection = poll_fn(|cx| {
            let mut net = self.core.world.net.borrow_mut();
            let key = (self.core.node.id, self.address.port());
            let listener = net.listeners.get_mut(&key).filter(|_| self.core.is_alive());
            let Some(listener) = listener else {
                return Poll::Pending;
            };
            match listener.backlog.pop_front() {
                Some(connection) => Poll::Ready(connection),
                None => {
                    listener.waiting = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        Ok(TcpStream::new(self.core.clone(), connection, 1))
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if self.core.is_alive() {
            self.core
                .world
                .close_listener(self.core.node.id, self.address.port());
        }
    }
}

/// One end of a connection; it closes when the last of its halves is dropped.
struct Socket {
    core: Core,
    connection: u64,
    side: usize,
    peer: SocketAddr,
    shut: Cell<bool>,
    detached: Cell<bool>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.core.is_alive() && !self.detached.get() {
            self.core.world.close(self.connection, self.side);
        }
    }
}

/// One end of a connection that belongs to a process but to none of its cores.
pub(crate) struct DetachedStream {
    node: u32,
    incarnation: u32,
    connection: u64,
    side: usize,
    peer: SocketAddr,
    shut: bool,
    attached: bool,
}

impl DetachedStream {
    #[expect(clippy::unnecessary_wraps, reason = "the same shape in both worlds")]
    pub(crate) fn attach(mut self, core: Core) -> Result<TcpStream> {
        assert!(self.is_of(&core), "a connection belongs to one process");
        self.attached = true;
        Ok(TcpStream {
            socket: Rc::new(Socket {
                core,
                connection: self.connection,
                side: self.side,
                peer: self.peer,
                shut: Cell::new(self.shut),
                detached: Cell::new(false),
            }),
        })
    }

    fn is_of(&self, core: &Core) -> bool {
        (core.node.id, core.incarnation) == (self.node, self.incarnation)
    }
}

impl Drop for DetachedStream {
    /// Closes the connection if a task of its process drops it, as tasks do; the process's end closes it anyway.
    fn drop(&mut self) {
        if self.attached || !world::is_current() {
            return;
        }
        if let CurrentWorld::Sim(core) = world::current()
            && self.is_of(&core)
            && core.is_alive()
        {
            core.world.close(self.connection, self.side);
        }
    }
}

impl Socket {
    fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        Error::new(operation, self.peer.to_string(), error)
    }

    /// Hands what has arrived, at most `len` bytes of it, to `take`, piece by piece.
    fn poll_take(
        &self,
        len: usize,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let world = &self.core.world;
        if !self.core.is_alive() {
            return Poll::Pending;
        }
        let mut net = world.net.borrow_mut();
        let Some(end) = net.end(self.connection, self.side) else {
            return Poll::Ready(if self.shut.get() {
                Ok(0)
            } else {
                Err(reset_error())
            });
        };
        if self.shut.get() {
            return Poll::Ready(Ok(0));
        }
        if end.inbox.is_empty() {
            if end.broken {
                return Poll::Ready(Err(reset_error()));
            }
            if end.eof {
                return Poll::Ready(Ok(0));
            }
            end.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut room = len;
        if room > 1 && world.rng.chance(world.config.short_read_chance) {
            room = 1 + usize::try_from(world.rng.below(room as u64 - 1)).unwrap_or(0);
        }
        let mut done = 0;
        while let Some(chunk) = end.inbox.front().filter(|_| done < room) {
            let rest = &chunk[end.inbox_read..];
            let count = rest.len().min(room - done);
            take(&rest[..count]);
            done += count;
            end.inbox_read += count;
            if end.inbox_read == chunk.len() {
                end.inbox_read = 0;
                end.inbox.pop_front();
            }
        }
        drop(net);
        world.acknowledge(self.connection, self.side, done);
        Poll::Ready(Ok(done))
    }

    /// Sends as much as there is room for.
    fn poll_write(&self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let world = &self.core.world;
        if !self.core.is_alive() {
            return Poll::Pending;
        }
        let count = {
            let mut net = world.net.borrow_mut();
            let end = net
                .end(self.connection, self.side)
                .filter(|end| !end.broken);
            let Some(end) = end else {
                return Poll::Ready(Err(reset_error()));
            };
            if end.shut {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
            }
            let room = world
                .config
                .socket_buffer_bytes
                .saturating_sub(end.unacknowledged);
            if room == 0 {
                end.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            room.min(bytes.len())
        };
        world.send(
            self.connection,
            self.side,
            TcpSegment::Data(bytes[..count].to_vec()),
        );
        Poll::Ready(Ok(count))
    }
}

pub(crate) struct TcpStream {
    socket: Rc<Socket>,
}

impl TcpStream {
    fn new(core: Core, connection: u64, side: usize) -> Self {
        let peer = core
            .world
            .net
            .borrow_mut()
            .end(connection, 1 - side)
            .map_or_else(|| core.node.address(0), |end| end.address);
        Self {
            socket: Rc::new(Socket {
                core,
                connection,
                side,
                peer,
                shut: Cell::new(false),
                detached: Cell::new(false),
            }),
        }
    }

    pub(crate) async fn connect(core: Core, address: SocketAddr) -> Result<Self> {
        let failed = |kind| Error::new("connect to", address.to_string(), io::Error::from(kind));
        let world = Rc::clone(&core.world);
        let started = world.now();
        let to = match address.ip().is_loopback() {
            true => Some(Rc::clone(&core.node)),
            false => world.node_at(address.ip()),
        };
        let mut patience = 1_000_000_000;
        loop {
            if !core.is_alive() {
                std::future::pending::<()>().await;
            }
            if let Some(to) = &to {
                Delay::new(&world, world.one_way(core.node.id, to.id)).await;
                match world.try_connect(&core.node, to, address.port()) {
                    Attempt::Connected(id) => {
                        // Owned from here on, so that giving up during the way back closes it.
                        let stream = Self::new(core.clone(), id, 0);
                        Delay::new(&world, world.one_way(to.id, core.node.id)).await;
                        return Ok(stream);
                    }
                    Attempt::Refused => {
                        Delay::new(&world, world.one_way(to.id, core.node.id)).await;
                        return Err(failed(io::ErrorKind::ConnectionRefused));
                    }
                    Attempt::Silence => {}
                }
            }
            if world.now() - started > nanos(CONNECT_TIMEOUT) {
                return Err(failed(io::ErrorKind::TimedOut));
            }
            Delay::new(&world, patience).await;
            patience *= 2;
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the same shape in both worlds")]
    pub(crate) fn detach(self) -> Result<DetachedStream> {
        let socket = &self.socket;
        assert_eq!(
            Rc::strong_count(socket),
            1,
            "a stream that is whole has one owner"
        );
        let detached = DetachedStream {
            node: socket.core.node.id,
            incarnation: socket.core.incarnation,
            connection: socket.connection,
            side: socket.side,
            peer: socket.peer,
            shut: socket.shut.get(),
            attached: false,
        };
        socket.detached.set(true);
        if let Some(end) = (socket.core.world.net.borrow_mut()).end(socket.connection, socket.side)
        {
            // Tasks of the core that it leaves wait no more.
            end.reader = None;
            end.writer = None;
        }
        Ok(detached)
    }

    pub(crate) fn peer_addr(&self) -> Result<SocketAddr> {
        Ok(self.socket.peer)
    }

    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        let read = ReadHalf {
            socket: Rc::clone(&self.socket),
        };
        (
            read,
            WriteHalf {
                socket: self.socket,
            },
        )
    }
}

pub(crate) struct ReadHalf {
    socket: Rc<Socket>,
}

impl ReadHalf {
    /// `None` if the other half is of another connection.
    pub(crate) fn unsplit(self, write: WriteHalf) -> Option<TcpStream> {
        let is_one = Rc::ptr_eq(&self.socket, &write.socket);
        is_one.then_some(TcpStream {
            socket: self.socket,
        })
    }

    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        poll_fn(|cx| self.poll_read(cx, bytes)).await
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<Result<usize>> {
        let mut done = 0;
        let read = self.socket.poll_take(bytes.len(), cx, |piece| {
            bytes[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        });
        read.map_err(|error| self.socket.failed("read from", error))
    }

    /// Reads into the spare capacity of `bytes`, of which there is some.
    pub(crate) async fn read_buf(&mut self, bytes: &mut BytesMut) -> Result<usize> {
        let read = poll_fn(|cx| {
            let room = bytes.capacity() - bytes.len();
            let append = |piece: &[u8]| bytes.extend_from_slice(piece);
            self.socket.poll_take(room, cx, append)
        });
        let read = read.await;
        read.map_err(|error| self.socket.failed("read from", error))
    }
}

pub(crate) struct WriteHalf {
    socket: Rc<Socket>,
}

impl WriteHalf {
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            done += poll_fn(|cx| self.socket.poll_write(&bytes[done..], cx))
                .await
                .map_err(|error| self.socket.failed("write to", error))?;
        }
        Ok(())
    }

    pub(crate) async fn shutdown(&mut self) -> Result<()> {
        let socket = &self.socket;
        if socket.core.is_alive() && !socket.shut.replace(true) {
            let world = &socket.core.world;
            let reader = world
                .net
                .borrow_mut()
                .end(socket.connection, socket.side)
                .and_then(|end| end.reader.take());
            world.close(socket.connection, socket.side);
            if let Some(reader) = reader {
                reader.wake();
            }
        }
        Ok(())
    }
}
