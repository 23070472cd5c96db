//! Connecting to a core of another node: where it is, hello and welcome, and getting to know each other.

use crate::connection::{ConnectionError, FrameReader};
use crate::introduction::Acquaintances;
use crate::route::Resolve;
use bytes::BytesMut;
use corelith_io::{TcpStream, WriteHalf};
use corelith_wire::handshake::{HELLO_BYTES, Hello, WELCOME_BYTES, Welcome};
use corelith_wire::peer::Introduction;
use corelith_wire::{Epoch, NodeId};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const _: () = assert!(HELLO_BYTES > 0);

/// What it takes to connect.
#[derive(Clone)]
pub(crate) struct Dialer {
    /// Who this node is, and whom it knows.
    pub(crate) acquaintances: Rc<Acquaintances>,
    /// Where nodes are.
    pub(crate) resolve: Resolve,
    /// Generation of the cluster map.
    pub(crate) epoch: Epoch,
}

/// A connection whose ends know each other.
pub(crate) struct Dialed {
    pub(crate) reader: FrameReader,
    pub(crate) write: WriteHalf,
    /// Who is at the other end.
    pub(crate) theirs: Introduction,
}

impl Dialer {
    /// Where to connect to a core after that many failures: every other time to where the peer came from, if
    /// that is not where it is said to be.
    pub(crate) async fn whereabouts(
        &self,
        peer: NodeId,
        core: u16,
        failures: u32,
    ) -> Result<SocketAddr, ConnectionError> {
        let came_from = self.acquaintances.place_of(peer, core);
        if failures % 2 == 1
            && let Some(place) = came_from
        {
            return Ok(place);
        }
        let resolved = (self.resolve)(peer, core).await;
        resolved.or(came_from).ok_or(ConnectionError::Nowhere)
    }

    /// Connects to `peer` at `address`, and introduces this node.
    pub(crate) async fn connect(
        &self,
        peer: NodeId,
        address: SocketAddr,
        hello: Hello,
    ) -> Result<Dialed, ConnectionError> {
        let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
        write.write_all(&hello.encode()).await?;
        let mut received = BytesMut::new();
        let welcome = loop {
            if let Some(welcome) = received.first_chunk::<WELCOME_BYTES>() {
                break Welcome::parse(welcome)?;
            }
            if read.read_buf(&mut received).await? == 0 {
                return Err(ConnectionError::Closed);
            }
        };
        welcome.accepted(&hello)?;
        if welcome.node != peer {
            // Another node answers there: its votes must not be counted as this peer's.
            return Err(ConnectionError::Unexpected(0));
        }
        let rest = received.split_off(WELCOME_BYTES);
        let mut reader = FrameReader::new(read, rest);
        let introducing = self
            .acquaintances
            .introduce(peer, self.epoch, &mut reader, &mut write);
        let theirs = introducing.await?;
        Ok(Dialed {
            reader,
            write,
            theirs,
        })
    }
}

/// Half to one and a half of `pause`, so that nodes do not connect in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let random = u32::try_from(corelith_io::random_u64() >> 48).unwrap_or(0);
    half + pause * random / 65_536
}
