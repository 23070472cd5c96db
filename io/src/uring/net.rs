//! TCP on io_uring.

use super::core::CoreExecutor;
use super::io_error;
use super::once::once;
use super::ring::socket::RingSocket;
use super::sys;
use super::{Core, task};
use crate::error::{Error, Result};
use crate::limits::LISTEN_BACKLOG;
use crate::world::{self, World};
use bytes::BytesMut;
use futures_util::io::{AsyncRead, AsyncWrite};
use glommio::net::{AcceptedTcpStream, TcpListener as Listener, TcpStream as Stream};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

type Accepting = Pin<Box<dyn Future<Output = io::Result<AcceptedTcpStream>>>>;

pub(crate) struct TcpListener {
    listener: RawListener,
    address: SocketAddr,
}

/// A listener as its core's executor has it.
enum RawListener {
    Glommio {
        listener: Rc<Listener>,
        /// An accept outlives the future that waits for it: a cancelled one could lose a connection.
        accepting: RefCell<Option<Accepting>>,
    },
    Ring(RingSocket),
}

/// The core that polls the calling task.
fn here() -> Core {
    match world::current() {
        World::Uring(core) => core,
        #[cfg(feature = "sim")]
        World::Sim(_) => unreachable!("the real network is asked in simulation"),
    }
}

impl TcpListener {
    pub(crate) fn bind(address: SocketAddr) -> Result<Self> {
        let (listener, address) =
            bind(address).map_err(|error| Error::new("listen at", address.to_string(), error))?;
        Ok(Self { listener, address })
    }

    #[expect(clippy::unnecessary_wraps, reason = "the same shape in both worlds")]
    pub(crate) fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.address)
    }

    pub(crate) async fn accept(&self) -> Result<TcpStream> {
        let accepted = match &self.listener {
            RawListener::Glommio {
                listener,
                accepting,
            } => accept_on_glommio(listener, accepting).await,
            RawListener::Ring(socket) => {
                let accepted = poll_fn(|cx| socket.poll_accept(cx)).await;
                accepted.and_then(|(fd, peer)| {
                    TcpStream::new(RawStream::Ring(socket.accepted(fd)?), peer)
                })
            }
        };
        accepted.map_err(|error| Error::new("accept at", self.address.to_string(), error))
    }
}

async fn accept_on_glommio(
    listener: &Rc<Listener>,
    accepting: &RefCell<Option<Accepting>>,
) -> io::Result<TcpStream> {
    let accepted = poll_fn(|cx| {
        let mut accepting = accepting.borrow_mut();
        let accept = accepting.get_or_insert_with(|| {
            let listener = Rc::clone(listener);
            Box::pin(once(async move {
                listener.shared_accept().await.map_err(io_error)
            }))
        });
        let accepted = accept.as_mut().poll(cx);
        if accepted.is_ready() {
            *accepting = None;
        }
        accepted
    });
    let stream = accepted.await?.bind_to_executor();
    sys::set_close_on_exec(&stream)?;
    let peer = stream.peer_addr().map_err(io_error)?;
    TcpStream::new(RawStream::Glommio(RefCell::new(stream)), peer)
}

/// Binds without `SO_REUSEPORT`, which glommio would set: it lets a second server share the port.
#[expect(unsafe_code, reason = "hands a socket to glommio")]
fn bind(address: SocketAddr) -> io::Result<(RawListener, SocketAddr)> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restarted server may listen while connections of the former one are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    let address = socket
        .local_addr()?
        .as_socket()
        .ok_or(io::ErrorKind::InvalidInput)?;
    if let CoreExecutor::Ring(ring) = here().executor() {
        let listener = RingSocket::new(ring.driver(), socket.into())?;
        return Ok((RawListener::Ring(listener), address));
    }
    // SAFETY: the descriptor is an open listening socket, and its ownership goes to the listener.
    let listener = unsafe { Listener::from_raw_fd(socket.into_raw_fd()) };
    let listener = RawListener::Glommio {
        listener: Rc::new(listener),
        accepting: RefCell::default(),
    };
    Ok((listener, address))
}

impl Drop for RawListener {
    fn drop(&mut self) {
        if let Self::Ring(socket) = self {
            socket.release();
        }
    }
}

pub(crate) struct TcpStream {
    connection: Rc<SharedStream>,
}

/// A connection that two halves share. Borrows last for one poll.
struct SharedStream {
    stream: RawStream,
    peer: SocketAddr,
    /// The connection goes on under another descriptor.
    detached: Cell<bool>,
}

/// A connection as its core's executor has it.
enum RawStream {
    Glommio(RefCell<Stream>),
    Ring(RingSocket),
}

impl AsRawFd for RawStream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Glommio(stream) => stream.borrow().as_raw_fd(),
            Self::Ring(socket) => socket.as_raw_fd(),
        }
    }
}

impl RawStream {
    fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Glommio(stream) => Pin::new(&mut *stream.borrow_mut()).poll_read(cx, bytes),
            Self::Ring(socket) => socket.poll_read(cx, bytes),
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Glommio(stream) => Pin::new(&mut *stream.borrow_mut()).poll_write(cx, bytes),
            Self::Ring(socket) => socket.poll_write(cx, bytes),
        }
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        if !self.detached.get() {
            // A poll in the ring keeps the socket open for a while after its descriptor is closed.
            let _ = sys::shutdown(&self.stream);
        }
    }
}

/// A connection of no core. glommio reads past the ring, which only polls: all that has arrived and was not
/// read is in the kernel.
pub(crate) struct DetachedStream {
    /// Present until it is attached.
    socket: Option<OwnedFd>,
    peer: SocketAddr,
}

impl DetachedStream {
    #[expect(unsafe_code, reason = "hands a socket to glommio")]
    pub(crate) fn attach(mut self) -> Result<TcpStream> {
        let Some(socket) = self.socket.take() else {
            unreachable!("a stream is attached once");
        };
        if let CoreExecutor::Ring(ring) = here().executor() {
            let attached = RingSocket::new(ring.driver(), socket);
            let attached =
                attached.map_err(|error| Error::new("attach to", self.peer.to_string(), error))?;
            return Ok(TcpStream::with_peer(RawStream::Ring(attached), self.peer));
        }
        // SAFETY: the descriptor is an open, connected socket, and its ownership goes to the stream.
        let stream = unsafe { Stream::from_raw_fd(socket.into_raw_fd()) };
        let stream = RawStream::Glommio(RefCell::new(stream));
        Ok(TcpStream::with_peer(stream, self.peer))
    }
}

impl Drop for DetachedStream {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            // As above: the ring of the core that it came from may still poll it.
            let _ = sys::shutdown(socket);
        }
    }
}

impl TcpStream {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = match here().executor() {
            CoreExecutor::Glommio(_) => {
                let stream = once(Stream::connect(address)).await.map_err(io_error);
                stream.map(|stream| RawStream::Glommio(RefCell::new(stream)))
            }
            CoreExecutor::Ring(ring) => {
                let socket = RingSocket::connect(ring.driver(), address).await;
                socket.map(RawStream::Ring)
            }
        };
        stream
            .and_then(|stream| Self::new(stream, address))
            .map_err(|error| Error::new("connect to", address.to_string(), error))
    }

    fn new(stream: RawStream, peer: SocketAddr) -> io::Result<Self> {
        match &stream {
            RawStream::Glommio(stream) => stream.borrow().set_nodelay(true).map_err(io_error)?,
            RawStream::Ring(socket) => socket.set_nodelay()?,
        }
        sys::keep_alive(&stream)?;
        Ok(Self::with_peer(stream, peer))
    }

    fn with_peer(stream: RawStream, peer: SocketAddr) -> Self {
        Self {
            connection: Rc::new(SharedStream {
                stream,
                peer,
                detached: Cell::new(false),
            }),
        }
    }

    /// The descriptor is a new one: glommio's stream closes its own, and takes its polls out of the ring.
    pub(crate) fn detach(self) -> Result<DetachedStream> {
        let connection = self.connection;
        let socket = sys::duplicate(&connection.stream)
            .map_err(|error| connection.failed("detach from", error))?;
        connection.detached.set(true);
        Ok(DetachedStream {
            socket: Some(socket),
            peer: connection.peer,
        })
    }

    #[expect(clippy::unnecessary_wraps, reason = "the same shape in both worlds")]
    pub(crate) fn peer_addr(&self) -> Result<SocketAddr> {
        Ok(self.connection.peer)
    }

    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        let read = ReadHalf {
            connection: Rc::clone(&self.connection),
        };
        let write = WriteHalf {
            connection: self.connection,
        };
        (read, write)
    }
}

impl SharedStream {
    fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        Error::new(operation, self.peer.to_string(), error)
    }
}

pub(crate) struct ReadHalf {
    connection: Rc<SharedStream>,
}

impl ReadHalf {
    /// `None` if the other half is of another connection.
    pub(crate) fn unsplit(self, write: WriteHalf) -> Option<TcpStream> {
        let is_one = Rc::ptr_eq(&self.connection, &write.connection);
        is_one.then_some(TcpStream {
            connection: self.connection,
        })
    }

    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        // A peer that sends without pause must not keep the core to itself.
        task::yield_if_needed(&here()).await;
        poll_fn(|cx| self.poll_read(cx, bytes)).await
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<Result<usize>> {
        loop {
            match self.connection.stream.poll_read(cx, bytes) {
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    return result.map_err(|error| self.connection.failed("receive from", error));
                }
            }
        }
    }

    /// Reads into the spare capacity of `bytes`, of which there is some.
    #[expect(
        unsafe_code,
        reason = "receives into memory that is not initialised yet"
    )]
    pub(crate) async fn read_buf(&mut self, bytes: &mut BytesMut) -> Result<usize> {
        let spare = bytes.spare_capacity_mut();
        // SAFETY: any byte is a valid u8, the memory is ours for as long as `bytes` is borrowed,
        // and recv(2) only writes to it.
        let spare =
            unsafe { std::slice::from_raw_parts_mut(spare.as_mut_ptr().cast::<u8>(), spare.len()) };
        let read = self.read(spare).await?;
        let len = bytes.len() + read;
        debug_assert!(len <= bytes.capacity());
        // SAFETY: recv(2) has filled the first `read` bytes after the present ones.
        unsafe { bytes.set_len(len) };
        Ok(read)
    }
}

pub(crate) struct WriteHalf {
    connection: Rc<SharedStream>,
}

impl WriteHalf {
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let write = poll_fn(|cx| self.connection.stream.poll_write(cx, bytes));
            let error = match write.await {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            return Err(self.connection.failed("send to", error));
        }
        Ok(())
    }

    #[expect(clippy::unused_async, reason = "the same shape in both worlds")]
    pub(crate) async fn shutdown(&mut self) -> Result<()> {
        match sys::shutdown(&self.connection.stream) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result.map_err(|error| self.connection.failed("shut down", error)),
        }
    }
}
