//! One question about the formation and its answer, over a connection of their own.

use crate::node::limits::{FORMATION_FRAME_BYTES_MAX, HANDSHAKE_BUFFER_BYTES};
use bytes::BytesMut;
use corelith_io::{ReadHalf, TcpStream, WriteHalf};
use corelith_wire::frame::Accepts;
use corelith_wire::handshake::{HELLO_BYTES, Hello, Status, WELCOME_BYTES, Welcome};
use corelith_wire::limits::CLUSTER_MAP_BYTES_MAX;
use corelith_wire::peer::{self, FormationAsk, FormationReply, FormationStep};
use corelith_wire::{Epoch, Frame, FrameParser, Head, Kind, Outbox, RequestId, ShardId};
use std::future::Future;
use std::net::SocketAddr;

const HEAD: Head = Head {
    kind: Kind(0),
    request_id: RequestId(0),
    shard: ShardId(0),
    epoch: Epoch(0),
};

/// Asks the node at `address`; `None` if it does not answer, or something else.
pub(super) async fn ask(address: SocketAddr, ask: &FormationAsk) -> Option<FormationReply> {
    let (mut read, mut write) = TcpStream::connect(address).await.ok()?.into_split();
    let hello = Hello::formation(ask.from.node).encode();
    write.write_all(&hello).await.ok()?;
    let mut buffer = BytesMut::with_capacity(HANDSHAKE_BUFFER_BYTES);
    let welcome = take(&mut read, &mut buffer, WELCOME_BYTES).await?;
    let welcome = Welcome::parse(welcome.first_chunk()?).ok()?;
    if welcome.status != Status::Welcome {
        return None;
    }
    send(&mut write, |out| peer::encode_formation(out, HEAD, ask)).await?;
    let longest = match ask.step {
        // The answer may have the map.
        FormationStep::Join(_) => CLUSTER_MAP_BYTES_MAX + FORMATION_FRAME_BYTES_MAX,
        _ => FORMATION_FRAME_BYTES_MAX,
    };
    let frame = frame(&mut read, &mut buffer, longest).await?;
    if frame.header.head.kind != peer::kinds::FORM_REPLY {
        return None;
    }
    peer::parse_formation_reply(&frame).ok()
}

/// Reads the hello of whoever has connected.
pub(super) async fn hello(read: &mut ReadHalf, buffer: &mut BytesMut) -> Option<Hello> {
    let hello = take(read, buffer, HELLO_BYTES).await?;
    Hello::parse(hello.first_chunk()?).ok()
}

/// Answers the question that comes over a connection that was welcomed; `buffer` is what was read beyond the
/// handshake.
pub(crate) async fn serve<A: Future<Output = Option<FormationReply>>>(
    read: &mut ReadHalf,
    write: &mut WriteHalf,
    buffer: &mut BytesMut,
    answer: impl FnOnce(FormationAsk) -> A,
) -> Option<()> {
    let frame = frame(read, buffer, FORMATION_FRAME_BYTES_MAX).await?;
    if frame.header.head.kind != peer::kinds::FORM {
        return None;
    }
    let reply = answer(peer::parse_formation(&frame).ok()?).await?;
    send(write, |out| peer::encode_formation_reply(out, HEAD, &reply)).await?;
    write.shutdown().await.ok()
}

async fn send(write: &mut WriteHalf, append: impl FnOnce(&mut Outbox)) -> Option<()> {
    let mut out = Outbox::default();
    append(&mut out);
    for slice in out.slices() {
        write.write_all(slice).await.ok()?;
    }
    Some(())
}

/// The next `len` bytes.
async fn take(read: &mut ReadHalf, buffer: &mut BytesMut, len: usize) -> Option<BytesMut> {
    while buffer.len() < len {
        if read.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    Some(buffer.split_to(len))
}

/// The next frame, if it is no longer than that.
async fn frame(read: &mut ReadHalf, buffer: &mut BytesMut, longest: usize) -> Option<Frame> {
    let parser = FrameParser::new(Accepts::Peer);
    loop {
        let missing = parser.missing(buffer).ok()?;
        if buffer.len() + missing > longest {
            return None;
        }
        if missing == 0 {
            return parser.take(buffer).next()?.ok();
        }
        buffer.reserve(missing);
        if read.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
