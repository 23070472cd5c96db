//! Serving a client's connection: one task reads and dispatches, another writes what is ready.
//!
//! ```text
//! socket → receive buffer → all complete frames → Router → (handler | another core)
//!                                                                  │ Answer
//! socket ← one write ← outbox ← encoded where the connection lives ┘
//! ```
//!
//! No task is started and nothing is allocated per request on the way through here.

use super::connection::Connection;
use super::router::Router;
use crate::node::limits;
use bytes::BytesMut;
use corelith_io::{Instant, ReadHalf, WriteHalf};
use corelith_wire::frame::Accepts;
use corelith_wire::limits as wire_limits;
use corelith_wire::response::{Answer, Failure, ReplyMeta};
use corelith_wire::{FrameError, FrameParser, Head, Kind, Outbox, RequestId, ShardId};
use futures_util::future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

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
