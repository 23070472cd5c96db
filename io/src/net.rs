//! TCP. Connections have `TCP_NODELAY` set.

use crate::error::Result;
use std::net::SocketAddr;

/// A listening socket.
pub struct TcpListener {
    _todo: (),
}

impl TcpListener {
    /// Listens at `address`; port 0 picks a free one.
    ///
    /// # Errors
    /// `AddressInUse` when another socket has the port.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let _ = address;
        todo!()
    }

    /// The address it listens at.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        todo!()
    }

    /// Waits for the next connection.
    pub async fn accept(&self) -> Result<TcpStream> {
        todo!()
    }
}

/// A connection.
pub struct TcpStream {
    _todo: (),
}

impl TcpStream {
    /// Connects to `address`.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let _ = address;
        todo!()
    }

    /// The address of the other side.
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        todo!()
    }

    /// Splits the connection so that one task reads while another writes. The connection closes
    /// when both halves are dropped.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        todo!()
    }
}

/// The reading side of a connection.
pub struct ReadHalf {
    _todo: (),
}

impl ReadHalf {
    /// Reads at least one byte into `bytes` and returns how many; 0 means the peer has closed its
    /// side.
    pub async fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let _ = bytes;
        todo!()
    }
}

/// The writing side of a connection.
pub struct WriteHalf {
    _todo: (),
}

impl WriteHalf {
    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let _ = bytes;
        todo!()
    }

    /// Closes the connection in both directions, waking the reading side.
    pub async fn shutdown(&mut self) -> Result<()> {
        todo!()
    }
}
