//! Sockets: system calls that do not wait, and polls in the ring that say when they are worth trying.
//!
//! The ring tells of everything that arrives after a read poll was set, so that one poll lasts for the life of a
//! connection, and a read that got less than it had room for need not be tried again before the next word of it.

use super::Driver;
use super::driver::{Direction, Readiness};
use socket2::{Domain, Protocol, SockAddr, Socket as Raw, Type};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A socket of one core.
pub(crate) struct RingSocket {
    fd: Rc<OwnedFd>,
    driver: Rc<Driver>,
    read: Rc<Readiness>,
    write: Rc<Readiness>,
}

impl AsRawFd for RingSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        self.driver.forget(&self.read);
        self.driver.forget(&self.write);
    }
}

impl RingSocket {
    pub(crate) fn new(driver: &Rc<Driver>, fd: OwnedFd) -> io::Result<Self> {
        socket2::SockRef::from(&fd).set_nonblocking(true)?;
        Ok(Self {
            fd: Rc::new(fd),
            driver: Rc::clone(driver),
            read: Readiness::untried(),
            write: Readiness::untried(),
        })
    }

    pub(crate) async fn connect(driver: &Rc<Driver>, address: SocketAddr) -> io::Result<Self> {
        let raw = Raw::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        let socket = Self::new(driver, raw.into())?;
        match socket.raw().connect(&SockAddr::from(address)) {
            Ok(()) => return Ok(socket),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        socket.write.exhaust();
        poll_fn(|cx| socket.poll_ready(cx, &socket.write, Direction::Write)).await;
        match socket.raw().take_error()? {
            Some(error) => Err(error),
            None => Ok(socket),
        }
    }

    fn raw(&self) -> socket2::SockRef<'_> {
        socket2::SockRef::from(&*self.fd)
    }

    /// A connection that this listener has accepted.
    pub(crate) fn accepted(&self, fd: OwnedFd) -> io::Result<Self> {
        Self::new(&self.driver, fd)
    }

    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        self.raw().set_tcp_nodelay(true)
    }

    /// Takes the socket out of the ring now, so that closing it has effect at once.
    pub(crate) fn release(&self) {
        self.driver.forget(&self.read);
        self.driver.forget(&self.write);
        self.driver.turn(Duration::ZERO);
    }

    fn poll_ready(
        &self,
        cx: &mut Context<'_>,
        readiness: &Rc<Readiness>,
        direction: Direction,
    ) -> Poll<()> {
        readiness.poll_ready(cx, &self.driver, &self.fd, direction)
    }

    /// Accepts a connection.
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(OwnedFd, SocketAddr)>> {
        loop {
            std::task::ready!(self.poll_ready(cx, &self.read, Direction::Read));
            match self.raw().accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.read.exhaust(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok((accepted, peer)) => {
                    let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidInput);
                    return Poll::Ready(
                        peer.map_err(io::Error::from)
                            .map(|peer| (accepted.into(), peer)),
                    );
                }
            }
        }
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(self.poll_ready(cx, &self.read, Direction::Read));
            match self.raw().recv(uninitialised(bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.read.exhaust(),
                Ok(read) => {
                    if read > 0 && read < bytes.len() {
                        self.read.drain();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(self.poll_ready(cx, &self.write, Direction::Write));
            match self.raw().send_with_flags(bytes, libc::MSG_NOSIGNAL) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.write.exhaust(),
                result => return Poll::Ready(result),
            }
        }
    }
}

/// The same memory, as a receiving call takes it: it writes initialised bytes only.
#[expect(
    unsafe_code,
    reason = "socket2 receives into memory that need not be initialised"
)]
fn uninitialised(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    let (start, len) = (bytes.as_mut_ptr().cast(), bytes.len());
    // SAFETY: it is the same memory with the same layout, and only recv(2) writes to it.
    unsafe { std::slice::from_raw_parts_mut(start, len) }
}
