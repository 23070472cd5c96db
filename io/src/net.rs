//! TCP. Connections have `TCP_NODELAY` set, and keepalive: one whose other side has vanished fails within a
//! minute or so, whether it is idle or has bytes under way.

use crate::error::Result;
use crate::limits::READ_LEN_MIN;
#[cfg(feature = "sim")]
use crate::sim;
use crate::uring;
use crate::world::{self, World};
use bytes::BytesMut;
use std::net::SocketAddr;
use std::task::{Context, Poll};

/// A listening socket.
pub struct TcpListener {
    inner: ListenerInner,
}

enum ListenerInner {
    Uring(uring::net::TcpListener),
    #[cfg(feature = "sim")]
    Sim(sim::net::TcpListener),
}

impl TcpListener {
    /// Listens at `address`; port 0 picks a free one.
    ///
    /// # Errors
    /// `AddressInUse` when another socket has the port.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let inner = match world::current() {
            World::Uring(_) => ListenerInner::Uring(uring::net::TcpListener::bind(address)?),
            #[cfg(feature = "sim")]
            World::Sim(core) => ListenerInner::Sim(sim::net::TcpListener::bind(core, address)?),
        };
        Ok(Self { inner })
    }

    /// The address it listens at.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        match &self.inner {
            ListenerInner::Uring(inner) => inner.local_addr(),
            #[cfg(feature = "sim")]
            ListenerInner::Sim(inner) => inner.local_addr(),
        }
    }

    /// Waits for the next connection.
    pub async fn accept(&self) -> Result<TcpStream> {
        let inner = match &self.inner {
            ListenerInner::Uring(inner) => StreamInner::Uring(inner.accept().await?),
            #[cfg(feature = "sim")]
            ListenerInner::Sim(inner) => StreamInner::Sim(inner.accept().await?),
        };
        Ok(TcpStream { inner })
    }
}

/// A connection.
pub struct TcpStream {
    inner: StreamInner,
}

enum StreamInner {
    Uring(uring::net::TcpStream),
    #[cfg(feature = "sim")]
    Sim(sim::net::TcpStream),
}

impl TcpStream {
    /// Connects to `address`.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let inner = match world::current() {
            World::Uring(_) => StreamInner::Uring(uring::net::TcpStream::connect(address).await?),
            #[cfg(feature = "sim")]
            World::Sim(core) => {
                StreamInner::Sim(sim::net::TcpStream::connect(core, address).await?)
            }
        };
        Ok(Self { inner })
    }

    /// The address of the other side.
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        match &self.inner {
            StreamInner::Uring(inner) => inner.peer_addr(),
            #[cfg(feature = "sim")]
            StreamInner::Sim(inner) => inner.peer_addr(),
        }
    }

    /// Takes the connection off its core, so that another core of the process goes on with it. What has arrived
    /// and was not read goes along; the caller hands over itself what it has read beyond its own part.
    ///
    /// # Errors
    /// `Exhausted` when no file descriptor is left; the connection closes.
    pub fn detach(self) -> Result<DetachedStream> {
        let inner = match self.inner {
            StreamInner::Uring(inner) => DetachedInner::Uring(inner.detach()?),
            #[cfg(feature = "sim")]
            StreamInner::Sim(inner) => DetachedInner::Sim(inner.detach()?),
        };
        Ok(DetachedStream { inner })
    }

    /// Splits the connection so that one task reads while another writes. The connection closes
    /// when both halves are dropped.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        let (read, write) = match self.inner {
            StreamInner::Uring(inner) => {
                let (read, write) = inner.into_split();
                (ReadInner::Uring(read), WriteInner::Uring(write))
            }
            #[cfg(feature = "sim")]
            StreamInner::Sim(inner) => {
                let (read, write) = inner.into_split();
                (ReadInner::Sim(read), WriteInner::Sim(write))
            }
        };
        (ReadHalf { inner: read }, WriteHalf { inner: write })
    }
}

/// A connection on its way from one core of a process to another. It closes when it is dropped.
pub struct DetachedStream {
    inner: DetachedInner,
}

enum DetachedInner {
    Uring(uring::net::DetachedStream),
    #[cfg(feature = "sim")]
    Sim(sim::net::DetachedStream),
}

/// It moves between the threads of two cores.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<DetachedStream>();
};

impl DetachedStream {
    /// Goes on with the connection on the current core.
    ///
    /// # Panics
    /// On a core of another world, or of another simulated process: a bug in the caller.
    pub fn attach(self) -> Result<TcpStream> {
        let inner = match (self.inner, world::current()) {
            (DetachedInner::Uring(inner), World::Uring(_)) => StreamInner::Uring(inner.attach()?),
            #[cfg(feature = "sim")]
            (DetachedInner::Sim(inner), World::Sim(core)) => StreamInner::Sim(inner.attach(core)?),
            #[cfg(feature = "sim")]
            _ => panic!("a connection stays in its world"),
        };
        Ok(TcpStream { inner })
    }
}

/// The reading side of a connection.
pub struct ReadHalf {
    inner: ReadInner,
}

enum ReadInner {
    Uring(uring::net::ReadHalf),
    #[cfg(feature = "sim")]
    Sim(sim::net::ReadHalf),
}

impl ReadHalf {
    /// Puts the two halves of a connection together again.
    ///
    /// # Panics
    /// When they are halves of two connections: a bug in the caller.
    pub fn unsplit(self, write: WriteHalf) -> TcpStream {
        let whole = match (self.inner, write.inner) {
            (ReadInner::Uring(read), WriteInner::Uring(write)) => {
                read.unsplit(write).map(StreamInner::Uring)
            }
            #[cfg(feature = "sim")]
            (ReadInner::Sim(read), WriteInner::Sim(write)) => {
                read.unsplit(write).map(StreamInner::Sim)
            }
            #[cfg(feature = "sim")]
            _ => None,
        };
        match whole {
            Some(inner) => TcpStream { inner },
            None => panic!("two halves are of two connections"),
        }
    }

    /// Reads at least one byte into `bytes` and returns how many; 0 means the peer has closed its
    /// side.
    pub async fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        match &mut self.inner {
            ReadInner::Uring(inner) => inner.read(bytes).await,
            #[cfg(feature = "sim")]
            ReadInner::Sim(inner) => inner.read(bytes).await,
        }
    }

    /// Reads what is there into `bytes`, or has the task woken when something is. `bytes` is not touched
    /// after this returns, so that connections may share a buffer. 0 means the peer has closed its side.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<Result<usize>> {
        match &mut self.inner {
            ReadInner::Uring(inner) => inner.poll_read(cx, bytes),
            #[cfg(feature = "sim")]
            ReadInner::Sim(inner) => inner.poll_read(cx, bytes),
        }
    }

    /// Reads at least one byte into the spare capacity of `bytes`, as much as is there, and returns
    /// how many; 0 means the peer has closed its side. Without spare capacity some is reserved.
    pub async fn read_buf(&mut self, bytes: &mut BytesMut) -> Result<usize> {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(READ_LEN_MIN);
        }
        match &mut self.inner {
            ReadInner::Uring(inner) => inner.read_buf(bytes).await,
            #[cfg(feature = "sim")]
            ReadInner::Sim(inner) => inner.read_buf(bytes).await,
        }
    }
}

/// The writing side of a connection.
pub struct WriteHalf {
    inner: WriteInner,
}

enum WriteInner {
    Uring(uring::net::WriteHalf),
    #[cfg(feature = "sim")]
    Sim(sim::net::WriteHalf),
}

impl WriteHalf {
    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.inner {
            WriteInner::Uring(inner) => inner.write_all(bytes).await,
            #[cfg(feature = "sim")]
            WriteInner::Sim(inner) => inner.write_all(bytes).await,
        }
    }

    /// Closes the connection in both directions, waking the reading side.
    pub async fn shutdown(&mut self) -> Result<()> {
        match &mut self.inner {
            WriteInner::Uring(inner) => inner.shutdown().await,
            #[cfg(feature = "sim")]
            WriteInner::Sim(inner) => inner.shutdown().await,
        }
    }
}
