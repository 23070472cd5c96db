//! TCP on io_uring.

use crate::error::Result;
use std::net::SocketAddr;

pub(crate) struct TcpListener {}

impl TcpListener {
    pub(crate) fn bind(_address: SocketAddr) -> Result<Self> {
        todo!()
    }

    pub(crate) fn local_addr(&self) -> Result<SocketAddr> {
        todo!()
    }

    pub(crate) async fn accept(&self) -> Result<TcpStream> {
        todo!()
    }
}

pub(crate) struct TcpStream {}

impl TcpStream {
    pub(crate) async fn connect(_address: SocketAddr) -> Result<Self> {
        todo!()
    }

    pub(crate) fn peer_addr(&self) -> Result<SocketAddr> {
        todo!()
    }

    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        todo!()
    }
}

pub(crate) struct ReadHalf {}

impl ReadHalf {
    pub(crate) async fn read(&mut self, _bytes: &mut [u8]) -> Result<usize> {
        todo!()
    }
}

pub(crate) struct WriteHalf {}

impl WriteHalf {
    pub(crate) async fn write_all(&mut self, _bytes: &[u8]) -> Result<()> {
        todo!()
    }

    pub(crate) async fn shutdown(&mut self) -> Result<()> {
        todo!()
    }
}
