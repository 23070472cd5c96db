//! Serving a client's connection: one task reads and dispatches, another writes what is ready.
//!
//! ```text
//! socket → receive buffer → all complete frames → Router → (handler | another core)
//!                                                                  │ Answer
//! socket ← one write ← outbox ← encoded where the connection lives ┘
//! ```
//!
//! No task is started and nothing is allocated per request on the way through here.

use super::connection::{Answers, Connection};
use super::receive::{ReceiveBuffer, ReceiveError, Receiver};
use super::rejections::Rejections;
use super::router::Router;
use crate::node::limits;
use bytes::BytesMut;
use corelith_io::{ReadHalf, WriteHalf};
use corelith_wire::limits as wire_limits;
use corelith_wire::response::{Answer, Failure, ReplyMeta};
use corelith_wire::{Frame, FrameError, Head, Kind, RequestId, ShardId};
use futures_util::future;
use std::pin::pin;
use std::rc::Rc;

/// What serving a connection takes from its core.
pub(super) struct Surroundings {
    pub(super) router: Rc<Router>,
    pub(super) buffer: Rc<ReceiveBuffer>,
    pub(super) rejections: Rc<Rejections>,
}

/// Serves a client until either side closes. `leftover` is what was read beyond the handshake.
pub(super) async fn serve(
    connection: Rc<Connection>,
    surroundings: &Surroundings,
    read: ReadHalf,
    write: WriteHalf,
    leftover: BytesMut,
) {
    let mut writer = corelith_io::spawn(write_answers(Rc::clone(&connection), write));
    {
        let work = async {
            {
                let reading = read_requests(&connection, surroundings, read, leftover);
                future::select(pin!(reading), pin!(connection.refused.notified())).await;
            }
            connection.close();
            (&mut writer).await;
        };
        let cut = connection.cut.notified();
        future::select(pin!(work), pin!(cut)).await;
    }
    writer.abort();
    connection.forget_answers();
}

async fn read_requests(
    connection: &Rc<Connection>,
    surroundings: &Surroundings,
    read: ReadHalf,
    leftover: BytesMut,
) {
    let budget = connection.budget().clone();
    let buffer = Rc::clone(&surroundings.buffer);
    let mut receiver = Receiver::new(read, leftover, buffer, budget);
    let refused = loop {
        let mut batch = match receiver.next(connection).await {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(ReceiveError::Frame(error)) => break error,
            Err(ReceiveError::Io(error)) => {
                tracing::debug!(peer = %connection.peer, %error, "connection lost");
                return;
            }
        };
        connection.progress.completed();
        let mut error = None;
        for (count, frame) in batch.frames.by_ref().enumerate() {
            let frame = match frame {
                Ok(frame) => frame,
                Err(found) => {
                    error = Some(found);
                    break;
                }
            };
            if !connection.wait_for_room().await {
                return;
            }
            let permit = match batch.upload.take() {
                Some(permit) => permit,
                None => {
                    let bytes = frame.header.frame_bytes() + limits::REQUEST_BYTES;
                    connection.budget().requests.acquire(bytes).await
                }
            };
            surroundings
                .router
                .dispatch(connection, kept(frame), permit);
            if count % limits::FRAMES_PER_TURN == limits::FRAMES_PER_TURN - 1 {
                corelith_io::yield_if_needed().await;
            }
        }
        if let Some(error) = error {
            break error;
        }
    };
    surroundings.rejections.frame(connection.peer, &refused);
    refuse_stream(connection, &refused);
}

/// The frame as it may be kept for long: with bytes of its own if it shares those of its batch.
fn kept(frame: Frame) -> Frame {
    let is_short = frame.header.frame_bytes() <= limits::FRAME_BYTES_SMALL;
    let is_proposed = matches!(
        frame.header.head.kind,
        Kind::WRITE
            | Kind::OPEN_SESSION
            | Kind::UPLOAD_BEGIN
            | Kind::UPLOAD_CHUNK
            | Kind::UPLOAD_COMMIT
            | Kind::UPLOAD_ABORT
    );
    match is_short && is_proposed {
        true => frame.into_owned(),
        false => frame,
    }
}

/// Says why the connection is closed: after a bad frame nothing that follows can be trusted.
fn refuse_stream(connection: &Connection, error: &FrameError) {
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
        epoch: connection.commons.epoch(),
    };
    let meta = ReplyMeta::default();
    connection.refuse(head, &Answer::Failure { meta, failure });
}

/// Writes what is ready, as much as possible at a time, until the connection closes.
async fn write_answers(connection: Rc<Connection>, mut write: WriteHalf) {
    while let Some(answers) = connection.ready().await {
        let written = write_batch(&connection, &mut write, &answers).await;
        connection.written(answers);
        if let Err(error) = written {
            tracing::debug!(peer = %connection.peer, %error, "connection lost");
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
    answers: &Answers,
) -> corelith_io::Result<()> {
    for slice in answers.outbox.slices() {
        for piece in slice.chunks(limits::WRITE_PIECE_BYTES) {
            connection.progress.write_begins(corelith_io::now());
            write.write_all(piece).await?;
            connection.progress.taken(piece.len());
        }
    }
    connection.progress.write_ends(corelith_io::now());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::kept;
    use bytes::Bytes;
    use corelith_wire::frame::Accepts;
    use corelith_wire::request::Condition;
    use corelith_wire::upload::{
        AbortUpload, BeginUpload, CommitUpload, Digest, encode_abort, encode_begin, encode_chunk,
        encode_commit,
    };
    use corelith_wire::{
        ChunkId, Epoch, FrameParser, Head, Kind, Outbox, RequestId, ShardId, UploadId,
    };

    #[test]
    fn what_is_proposed_keeps_no_batch() {
        let head = Head {
            kind: Kind::GET,
            request_id: RequestId(1),
            shard: ShardId(0),
            epoch: Epoch(1),
        };
        let upload = UploadId(7);
        let mut out = Outbox::default();
        let begin = BeginUpload {
            upload,
            key: b"key",
            ttl_ms: 0,
            attributes: &[],
        };
        encode_begin(&mut out, head, &begin);
        let chunk = ChunkId {
            upload,
            part: 0,
            chunk: 0,
        };
        encode_chunk(&mut out, head, chunk, 1, &Bytes::from_static(b"short"));
        let commit = CommitUpload {
            upload,
            condition: Condition::Any,
            crc32c: 1,
            digest: Digest::default(),
            parts: Vec::new(),
        };
        encode_commit(&mut out, head, &commit);
        encode_abort(&mut out, head, AbortUpload { upload });
        let mut batch = out.buffer().split();
        let bytes = batch.as_ptr_range();
        let frames = FrameParser::new(Accepts::Requests).take(&mut batch);
        let mut count = 0;
        for frame in frames {
            let frame = kept(frame.unwrap());
            let place = frame.payload().as_ptr();
            assert!(!bytes.contains(&place), "{:?}", frame.header.head.kind);
            count += 1;
        }
        assert_eq!(count, 4);
    }
}
