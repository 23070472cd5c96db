//! The connections on which other nodes send their beats: each is answered at once.

use super::{BeatsShared, InboundBeats};
use crate::connection::{ConnectionError, FrameReader};
use crate::limits::{BEATS_CONNECT_DEADLINE, PEER_TRANSFER_DEADLINE};
use corelith_io::{JoinHandle, WriteHalf};
use corelith_wire::peer::{self, Introduction, kinds};
use corelith_wire::{Frame, NodeId, Outbox};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// See the module.
pub(super) struct IncomingBeats {
    shared: Rc<BeatsShared>,
    /// Connections on which peers introduce themselves.
    greeted: RefCell<BTreeMap<NodeId, JoinHandle<()>>>,
    /// Connections of peers that are known.
    served: RefCell<BTreeMap<NodeId, JoinHandle<()>>>,
}

struct KnownPeer {
    reader: FrameReader,
    write: WriteHalf,
    theirs: Introduction,
}

impl IncomingBeats {
    pub(super) fn new(shared: Rc<BeatsShared>) -> Self {
        Self {
            shared,
            greeted: RefCell::default(),
            served: RefCell::default(),
        }
    }

    /// Takes a new connection. Once its peer is known it replaces the one before.
    pub(super) fn take(self: Rc<Self>, connection: InboundBeats) {
        let peer = connection.peer;
        let incoming = Rc::clone(&self);
        let greeting = corelith_io::spawn(async move {
            let greeting = incoming.greet(connection);
            match corelith_io::timeout(BEATS_CONNECT_DEADLINE, greeting).await {
                Ok(Ok(known)) => incoming.serve(peer, known),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no beats from the peer"),
                Err(corelith_io::Elapsed) => tracing::debug!(%peer, "it does not introduce itself"),
            }
        });
        if let Some(before) = self.greeted.borrow_mut().insert(peer, greeting) {
            before.abort();
        }
    }

    /// Ends all connections.
    pub(super) fn end(&self) {
        for connections in [&self.greeted, &self.served] {
            let connections = std::mem::take(&mut *connections.borrow_mut());
            connections.values().for_each(JoinHandle::abort);
        }
    }

    async fn greet(&self, connection: InboundBeats) -> Result<KnownPeer, ConnectionError> {
        let InboundBeats {
            peer,
            address,
            stream,
            leftover,
        } = connection;
        let (read, mut write) = stream.attach()?.into_split();
        let mut reader = FrameReader::new(read, leftover);
        let dialer = &self.shared.dialer;
        let receiving =
            dialer
                .acquaintances
                .receive(peer, address, dialer.epoch, &mut reader, &mut write);
        let theirs = receiving.await?;
        Ok(KnownPeer {
            reader,
            write,
            theirs,
        })
    }

    fn serve(&self, peer: NodeId, known: KnownPeer) {
        let shared = Rc::clone(&self.shared);
        shared.liveness.met(&known.theirs);
        shared.came(peer).notify_one();
        let serving = corelith_io::spawn(async move {
            let error = shared.answer_beats(known).await;
            shared.liveness.connection_ended(peer);
            tracing::debug!(%peer, %error, "the peer's beats end");
        });
        if let Some(before) = self.served.borrow_mut().insert(peer, serving) {
            before.abort();
        }
    }
}

impl BeatsShared {
    async fn answer_beats(&self, known: KnownPeer) -> ConnectionError {
        let KnownPeer {
            mut reader,
            mut write,
            theirs,
        } = known;
        let mut out = Outbox::default();
        loop {
            let frames = match reader.next().await {
                Ok(frames) => frames,
                Err(error) => return error,
            };
            for frame in frames {
                let answered = frame
                    .map_err(ConnectionError::from)
                    .and_then(|frame| self.answer_beat(&theirs, &frame, &mut out));
                if let Err(error) = answered {
                    return error;
                }
            }
            let writing = async {
                for slice in out.slices() {
                    write.write_all(slice).await?;
                }
                Ok::<_, corelith_io::Error>(())
            };
            match corelith_io::timeout(PEER_TRANSFER_DEADLINE, writing).await {
                Ok(Ok(())) => out.clear(),
                Ok(Err(error)) => return error.into(),
                Err(corelith_io::Elapsed) => return ConnectionError::Slow,
            }
            corelith_io::yield_if_needed().await;
        }
    }

    /// Answers one frame that a peer sent.
    fn answer_beat(
        &self,
        theirs: &Introduction,
        frame: &Frame,
        out: &mut Outbox,
    ) -> Result<(), ConnectionError> {
        let kind = frame.header.head.kind;
        if kind != kinds::BEAT {
            return Err(ConnectionError::Unexpected(kind.0));
        }
        let beat = peer::parse_beat(frame)?;
        if !self.is_last(theirs) {
            return Err(ConnectionError::Replaced);
        }
        let reply = self
            .liveness
            .take_beat(theirs.node, theirs.store, &beat, corelith_io::now());
        peer::encode_beat_reply(out, self.head(), &reply);
        Ok(())
    }
}
