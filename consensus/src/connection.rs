//! What both ends of a peer connection do alike: gather what is to be sent and write it at once,
//! read as much as is there and cut it into frames.

use crate::limits::{PEER_BUFFER_BYTES_KEPT, PEER_IDLE_READ_BYTES, PEER_READ_BYTES};
use bytes::BytesMut;
use corelith_io::sync::notify::Notify;
use corelith_io::{Instant, ReadHalf, WriteHalf};
use corelith_wire::frame::{Accepts, FrameParser, Frames};
use corelith_wire::{FrameError, Outbox, ShardId};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Why a peer connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The socket failed or was closed.
    #[error(transparent)]
    Io(#[from] corelith_io::Error),
    /// The other side closed the connection.
    #[error("closed by the other side")]
    Closed,
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame's content makes no sense.
    #[error(transparent)]
    Content(#[from] corelith_wire::DecodeError),
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] corelith_wire::HandshakeError),
    /// A frame of a kind that has no business in this direction.
    #[error("unexpected frame of kind {0:#x}")]
    Unexpected(u16),
    /// An answer about another shard than was asked about.
    #[error("an answer about {0}, which was not asked about")]
    OtherShard(ShardId),
    /// This node does not know whoever is there.
    #[error("it is refused")]
    Stranger,
    /// Whoever is there does not know this node.
    #[error("it refuses this node")]
    RefusesUs,
    /// The peer has been met with a later start, or another store.
    #[error("another start of the peer was met since")]
    Replaced,
    /// The peer seems to lack what it had acknowledged: it is asked again.
    #[error("the peer seems to have lost entries")]
    Doubted,
    /// The peer's name is not known to the name service.
    #[error("it has no address")]
    Nowhere,
    /// Nothing came for too long although answers were due.
    #[error("no answer for too long")]
    Silent,
    /// It does not complete a frame, or does not take what is sent to it.
    #[error("it neither sends nor takes for too long what has begun")]
    Slow,
}

/// Frames on their way out. What is appended in one turn of the executor leaves in one write.
#[derive(Default)]
pub(crate) struct Outgoing {
    out: RefCell<Outbox>,
    ready: Notify,
    /// When the write under way began.
    writing_since: Cell<Option<Instant>>,
}

impl Outgoing {
    /// Lets `append` add frames, which are sent soon.
    pub(crate) fn send(&self, append: impl FnOnce(&mut Outbox)) {
        append(&mut self.out.borrow_mut());
        self.ready.notify_one();
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.out.borrow().len()
    }

    /// Since when the peer has been given bytes that it does not take.
    pub(crate) fn writing_since(&self) -> Option<Instant> {
        self.writing_since.get()
    }

    /// Throws away what waits.
    pub(crate) fn clear(&self) {
        self.out.borrow_mut().clear();
    }

    /// Writes what is appended until the connection fails. `last_call` may add to every write.
    pub(crate) async fn write_to(
        &self,
        mut write: WriteHalf,
        last_call: impl Fn(&mut Outbox),
    ) -> ConnectionError {
        let mut batch = Outbox::default();
        loop {
            while self.out.borrow().is_empty() {
                self.ready.notified().await;
                last_call(&mut self.out.borrow_mut());
            }
            std::mem::swap(&mut batch, &mut self.out.borrow_mut());
            for slice in batch.slices() {
                self.writing_since.set(Some(corelith_io::now()));
                if let Err(error) = write.write_all(slice).await {
                    return error.into();
                }
            }
            self.writing_since.set(None);
            if batch.buffer().capacity() > PEER_BUFFER_BYTES_KEPT {
                batch = Outbox::default();
            }
            batch.clear();
        }
    }
}

/// Cuts what a connection receives into frames.
pub(crate) struct FrameReader {
    read: ReadHalf,
    buffer: BytesMut,
    parser: FrameParser,
    /// The last read has filled its buffer: more is there.
    is_busy: bool,
    part_since: Rc<Cell<Option<Instant>>>,
}

impl FrameReader {
    /// Reads from `read`, after `leftover`.
    pub(crate) fn new(read: ReadHalf, leftover: BytesMut) -> Self {
        Self {
            read,
            buffer: leftover,
            parser: FrameParser::new(Accepts::Peer),
            is_busy: false,
            part_since: Rc::default(),
        }
    }

    /// Since when a frame is half there.
    pub(crate) fn part_since(&self) -> Rc<Cell<Option<Instant>>> {
        Rc::clone(&self.part_since)
    }

    /// All frames that are complete, at least one.
    pub(crate) async fn next(&mut self) -> Result<Frames, ConnectionError> {
        loop {
            let missing = self.parser.missing(&self.buffer)?;
            if missing == 0 {
                let frames = self.parser.take(&mut self.buffer);
                self.part_since.set(None);
                return Ok(frames);
            }
            if self.buffer.is_empty() && !self.is_busy {
                // Whoever is idle keeps a short buffer.
                self.buffer = BytesMut::with_capacity(PEER_IDLE_READ_BYTES);
            } else {
                self.buffer.reserve(missing.max(PEER_READ_BYTES));
                if !self.buffer.is_empty() && self.part_since.get().is_none() {
                    self.part_since.set(Some(corelith_io::now()));
                }
            }
            let read = self.read.read_buf(&mut self.buffer).await?;
            if read == 0 {
                return Err(ConnectionError::Closed);
            }
            self.is_busy = self.buffer.len() == self.buffer.capacity();
        }
    }
}
