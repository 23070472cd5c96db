//! A client's connection: one task reads and dispatches, another writes what is ready.
//!
//! ```text
//! socket → receive buffer → all complete frames → Router → (handler | another core)
//!                                                                  │ Answer
//! socket ← one write ← outbox ← encoded where the connection lives ┘
//! ```
//!
//! Invariants:
//! * Every dispatched request gets exactly one answer, or its connection is closed.
//! * `in_flight` counts dispatched requests without an answer; while it or the waiting answers are
//!   at their bound the socket is not read, so a client that sends too much or reads too slowly
//!   stops itself.
//! * The core's budget counts the bytes of requests in flight and of waiting answers.
//! * No task is started and nothing is allocated per request on the way through here.

use crate::budget::Budget;
use crate::limits;
use crate::router::Router;
use bytes::BytesMut;
use corelith_io::sync::notify::Notify;
use corelith_io::{Instant, ReadHalf, WriteHalf};
use corelith_wire::frame::Accepts;
use corelith_wire::limits as wire_limits;
use corelith_wire::response::{self, Answer, Failure, ReplyMeta};
use corelith_wire::{Epoch, FrameError, FrameParser, Head, Kind, Outbox, RequestId, ShardId};
use futures_util::future;
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Names a connection on its core, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What reader, writer and answers share of a connection. Belongs to one core.
pub(crate) struct Connection {
    id: ConnectionId,
    epoch: Epoch,
    budget: Budget,
    outbox: RefCell<Outbox>,
    /// Bytes in `outbox`, and in the batch that is being written.
    waiting_bytes: Cell<usize>,
    in_flight: Cell<u32>,
    /// Bytes of the requests in flight, as counted in the budget.
    request_bytes: Cell<usize>,
    /// Set once: nothing is read any more, what is ready is written, then the socket is closed.
    closing: Cell<bool>,
    /// When the frame that is half there must be complete.
    frame_deadline: Cell<Option<Instant>>,
    /// When the write under way must have made progress.
    write_deadline: Cell<Option<Instant>>,
    to_write: Notify,
    room: Notify,
    cut: Notify,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, epoch: Epoch, budget: Budget) -> Rc<Self> {
        Rc::new(Self {
            id,
            epoch,
            budget,
            outbox: RefCell::new(Outbox::with_capacity(limits::ANSWER_BUFFER_BYTES)),
            waiting_bytes: Cell::new(0),
            in_flight: Cell::new(0),
            request_bytes: Cell::new(0),
            closing: Cell::new(false),
            frame_deadline: Cell::new(None),
            write_deadline: Cell::new(None),
            to_write: Notify::new(),
            room: Notify::new(),
            cut: Notify::new(),
        })
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Stops reading; what is ready is still written.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.to_write.notify_one();
        self.room.notify_one();
    }

    /// Closes at once, whatever is under way.
    pub(crate) fn cut(&self) {
        self.closing.set(true);
        self.cut.notify_one();
    }

    /// Closes if a deadline has passed.
    pub(crate) fn check_deadlines(&self, now: Instant) {
        let passed = |deadline: &Cell<Option<Instant>>| deadline.get().is_some_and(|at| at < now);
        if passed(&self.frame_deadline) || passed(&self.write_deadline) {
            tracing::info!(
                connection = self.id.0,
                "closing a connection that is too slow"
            );
            self.cut();
        }
    }

    /// Counts a request as in flight if there is room for it in the core's memory.
    pub(crate) fn admit(&self, len: usize) -> bool {
        if !self.budget.has_room(len) {
            return false;
        }
        self.budget.add(len);
        self.request_bytes.set(self.request_bytes.get() + len);
        self.in_flight.set(self.in_flight.get() + 1);
        true
    }

    /// Appends the answer to a request of `request_len` bytes that was admitted.
    pub(crate) fn answer(&self, head: Head, request_len: usize, answer: &Answer) {
        self.budget.sub(request_len);
        self.request_bytes
            .set(self.request_bytes.get() - request_len);
        self.in_flight.set(self.in_flight.get() - 1);
        self.refuse(head, answer);
        self.room.notify_one();
    }

    /// Appends the answer to a request that was not admitted.
    pub(crate) fn refuse(&self, head: Head, answer: &Answer) {
        if self.closing.get() {
            return;
        }
        let mut outbox = self.outbox.borrow_mut();
        let before = outbox.len();
        encode(&mut outbox, head.answer(head.kind, self.epoch), answer);
        let added = outbox.len() - before;
        self.budget.add(added);
        self.waiting_bytes.set(self.waiting_bytes.get() + added);
        self.to_write.notify_one();
    }

    fn may_read(&self) -> bool {
        self.in_flight.get() < limits::IN_FLIGHT_PER_CONNECTION_MAX
            && self.waiting_bytes.get() < limits::ANSWERS_PER_CONNECTION_BYTES_MAX
    }

    /// Waits until more may be read; returns whether the connection is still open.
    async fn wait_for_room(&self) -> bool {
        while !self.closing.get() && !self.may_read() {
            self.room.notified().await;
        }
        !self.closing.get()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.budget
            .sub(self.waiting_bytes.get() + self.request_bytes.get());
    }
}

fn encode(out: &mut Outbox, head: Head, answer: &Answer) {
    match answer {
        Answer::Written { meta, version } => response::encode_written(out, head, *meta, *version),
        Answer::Conflict { meta, current } => response::encode_conflict(out, head, *meta, *current),
        Answer::NotFound { meta } => response::encode_not_found(out, head, *meta),
        Answer::Value {
            meta,
            version,
            value,
        } => {
            response::encode_value(out, head, *meta, *version, value);
        }
        Answer::ScanPage(page) => response::encode_scan_page(out, head, page),
        Answer::SessionOpened { meta, session } => {
            response::encode_session_opened(out, head, *meta, *session);
        }
        Answer::Status(status) => response::encode_status_reply(out, head, status),
        Answer::Storage(storage) => response::encode_storage_reply(out, head, storage),
        Answer::Map(map) => response::encode_map(out, head, map),
        Answer::Failure { meta, failure } => {
            response::encode_failure(out, head, *meta, failure.clone());
        }
    }
}

/// Serves a client until either side closes. `buffer` is what was read beyond the handshake.
pub(crate) async fn serve(
    connection: Rc<Connection>,
    router: Rc<Router>,
    read: ReadHalf,
    write: WriteHalf,
    buffer: BytesMut,
) {
    let mut writer = corelith_io::spawn(write_answers(Rc::clone(&connection), write));
    {
        let work = async {
            read_requests(&connection, &router, read, buffer).await;
            connection.close();
            (&mut writer).await;
        };
        let cut = connection.cut.notified();
        future::select(pin!(work), pin!(cut)).await;
    }
    writer.abort();
}

async fn read_requests(
    connection: &Rc<Connection>,
    router: &Router,
    mut read: ReadHalf,
    mut buffer: BytesMut,
) {
    let parser = FrameParser::new(Accepts::Requests);
    loop {
        let before = buffer.len();
        for (count, frame) in parser.take(&mut buffer).enumerate() {
            match frame {
                Ok(frame) => router.dispatch(connection, frame),
                Err(error) => return refuse_stream(connection, &error),
            }
            if count % limits::FRAMES_PER_TURN == limits::FRAMES_PER_TURN - 1 {
                corelith_io::yield_if_needed().await;
            }
        }
        if buffer.len() < before {
            // Another frame has begun since.
            connection.frame_deadline.set(None);
        }
        if !prepare_read(connection, parser, &mut buffer) || !connection.wait_for_room().await {
            return;
        }
        match read.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) if connection.closing.get() => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(connection = connection.id.0, %error, "connection lost");
                return;
            }
        }
    }
}

/// Makes room for the next read and notes by when a frame that is half there must be complete.
/// Returns whether the stream is still good.
fn prepare_read(connection: &Connection, parser: FrameParser, buffer: &mut BytesMut) -> bool {
    let missing = match parser.missing(buffer) {
        Ok(missing) => missing,
        Err(error) => {
            refuse_stream(connection, &error);
            return false;
        }
    };
    if buffer.is_empty() {
        connection.frame_deadline.set(None);
    } else if connection.frame_deadline.get().is_none() {
        connection
            .frame_deadline
            .set(Some(transfer_deadline(missing)));
    }
    if buffer.capacity() - buffer.len() < missing.max(limits::RECEIVE_SPACE_BYTES_MIN) {
        buffer.reserve(missing.max(limits::RECEIVE_BUFFER_BYTES));
    }
    true
}

/// By when `len` bytes must have gone through the socket.
fn transfer_deadline(len: usize) -> Instant {
    let transfer = Duration::from_secs(len as u64 / limits::TRANSFER_BYTES_PER_SECOND_MIN);
    corelith_io::now() + limits::TRANSFER_DEADLINE + transfer
}

/// Says why the connection is closed: after a bad frame nothing that follows can be trusted.
fn refuse_stream(connection: &Connection, error: &FrameError) {
    tracing::info!(connection = connection.id.0, %error, "closing a connection");
    let failure = match error {
        FrameError::TooLong { .. } => Failure::TooLarge {
            limit: wire_limits::VALUE_BYTES_MAX as u64,
        },
        _ => Failure::Malformed,
    };
    let head = Head {
        kind: Kind::FAILURE,
        request_id: RequestId(0),
        shard: ShardId(0),
        epoch: connection.epoch,
    };
    let meta = ReplyMeta::default();
    connection.refuse(head, &Answer::Failure { meta, failure });
}

/// Writes what is ready, as much as possible at a time, until the connection closes.
async fn write_answers(connection: Rc<Connection>, mut write: WriteHalf) {
    let mut batch = Outbox::with_capacity(limits::ANSWER_BUFFER_BYTES);
    loop {
        if connection.outbox.borrow().is_empty() {
            if connection.closing.get() {
                break;
            }
            connection.to_write.notified().await;
            continue;
        }
        std::mem::swap(&mut *connection.outbox.borrow_mut(), &mut batch);
        let written = write_batch(&connection, &mut write, &batch).await;
        let len = batch.len();
        connection.budget.sub(len);
        connection
            .waiting_bytes
            .set(connection.waiting_bytes.get() - len);
        connection.room.notify_one();
        if batch.buffer().capacity() > limits::ANSWERS_PER_CONNECTION_BYTES_MAX {
            batch = Outbox::with_capacity(limits::ANSWER_BUFFER_BYTES);
        }
        batch.clear();
        if let Err(error) = written {
            tracing::debug!(connection = connection.id.0, %error, "connection lost");
            break;
        }
    }
    connection.close();
    // The socket may be gone already, and closing it is all that is wanted.
    let _ = write.shutdown().await;
}

async fn write_batch(
    connection: &Connection,
    write: &mut WriteHalf,
    batch: &Outbox,
) -> corelith_io::Result<()> {
    for slice in batch.slices() {
        connection
            .write_deadline
            .set(Some(transfer_deadline(slice.len())));
        write.write_all(slice).await?;
    }
    connection.write_deadline.set(None);
    Ok(())
}
