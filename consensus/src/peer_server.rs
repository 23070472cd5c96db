//! Serving the requests of one peer's core.
//!
//! Requests about one shard reach its group in the order they came, without waiting for each other
//! or for other shards; answers go out as they are ready, all that are ready in one write.

use crate::connection::{ConnectionError, FrameReader, Outgoing};
use crate::convert;
use crate::group::Group;
use crate::groups::Groups;
use crate::limits::{
    PEER_ANSWERS_BYTES_MAX, PEER_LOOK_EVERY, PEER_TRANSFER_DEADLINE, SNAPSHOT_PIECES_IN_FLIGHT,
};
use crate::snapshot::{Snapshot, SnapshotData};
use crate::state_machine::stored_membership;
use crate::types::{self, AppendRequest, SnapshotMeta, Types, VoteRequest};
use bytes::{Bytes, BytesMut};
use corelith_io::sync::mpsc;
use corelith_io::{Instant, ReadHalf, WriteHalf};
use corelith_shards as shards;
use corelith_wire::peer::{self, AppendResult, HeartbeatReply, PeerVote, VoteAnswer, kinds};
use corelith_wire::{Epoch, Frame, Head, Kind, Outbox, RequestId, ShardId};
use futures_util::future::{Either, select};
use openraft::entry::RaftEntry;
use openraft::raft::{StreamAppendError, TransferLeaderRequest};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

/// One connection of a peer.
struct Server {
    groups: Groups,
    outgoing: Outgoing,
    beat_replies: RefCell<Vec<HeartbeatReply>>,
    /// The snapshot that is being received for each shard, by the number of its transfer.
    receiving: RefCell<BTreeMap<ShardId, Receiving>>,
}

struct Receiving {
    transfer: u64,
    parts: mpsc::Sender<(Head, Part)>,
}

enum Part {
    Piece(Bytes),
    End(PeerVote),
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    groups: Groups,
    read: ReadHalf,
    write: WriteHalf,
    leftover: BytesMut,
) -> ConnectionError {
    let server = Rc::new(Server {
        groups,
        outgoing: Outgoing::default(),
        beat_replies: RefCell::default(),
        receiving: RefCell::default(),
    });
    let reader = FrameReader::new(read, leftover);
    let watching = pin!(server.watch(reader.part_since()));
    let reading = pin!(server.read(reader));
    let writing = pin!(
        server
            .outgoing
            .write_to(write, |out| server.append_beat_replies(out))
    );
    let io = pin!(select(reading, writing));
    let error = match select(io, watching).await {
        Either::Left((Either::Left((error, _)) | Either::Right((error, _)), _))
        | Either::Right((error, _)) => error,
    };
    server.receiving.borrow_mut().clear();
    error
}

impl Server {
    async fn read(self: &Rc<Self>, mut reader: FrameReader) -> ConnectionError {
        loop {
            let frames = match reader.next().await {
                Ok(frames) => frames,
                Err(error) => return error,
            };
            for frame in frames {
                if let Err(error) = frame
                    .map_err(ConnectionError::from)
                    .and_then(|frame| self.handle(&frame))
                {
                    return error;
                }
            }
            corelith_io::yield_if_needed().await;
        }
    }

    /// Waits until the peer is too slow with what has begun.
    async fn watch(&self, part_since: Rc<Cell<Option<Instant>>>) -> ConnectionError {
        loop {
            corelith_io::sleep(PEER_LOOK_EVERY).await;
            let now = corelith_io::now();
            let is_slow = |since: Option<Instant>| {
                since.is_some_and(|since| now - since > PEER_TRANSFER_DEADLINE)
            };
            if is_slow(part_since.get())
                || is_slow(self.outgoing.writing_since())
                || self.outgoing.len() > PEER_ANSWERS_BYTES_MAX
            {
                return ConnectionError::Slow;
            }
        }
    }

    fn handle(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        match head.kind {
            kinds::APPEND => self.append(frame)?,
            kinds::HEARTBEATS => {
                for beat in peer::parse_heartbeats(frame)? {
                    self.beat(&beat);
                }
            }
            kinds::VOTE | kinds::PRE_VOTE => self.vote(frame)?,
            kinds::TRANSFER => self.transfer(frame)?,
            kinds::SNAPSHOT_BEGIN => {
                let (transfer, _) = peer::parse_snapshot(frame)?;
                self.begin_snapshot(head, transfer);
            }
            kinds::SNAPSHOT_PIECE => {
                let (transfer, piece) = peer::parse_snapshot_piece(frame)?;
                self.snapshot_part(head, transfer, Part::Piece(piece));
            }
            kinds::SNAPSHOT_END => {
                let (transfer, vote) = peer::parse_snapshot(frame)?;
                self.snapshot_part(head, transfer, Part::End(vote));
            }
            other => return Err(ConnectionError::Unexpected(other.0)),
        }
        Ok(())
    }

    fn group(&self, shard: ShardId) -> Option<Group> {
        self.groups.group(shards::ShardId(shard.0))
    }

    fn plain(&self, head: Head, kind: Kind) {
        self.outgoing
            .send(|out| peer::encode_plain(out, head, kind));
    }

    /// Starts `work` now, which keeps the order of requests, and finishes it in a task of its own
    /// if it has to wait.
    fn start(work: impl Future<Output = ()> + 'static) {
        let mut work = Box::pin(work);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if work.as_mut().poll(&mut context).is_pending() {
            drop(corelith_io::spawn(work));
        }
    }

    fn append(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        let (append, entries) = peer::parse_append(frame)?;
        let malformed = corelith_wire::DecodeError::Malformed { what: "append" };
        let request = convert::append_request(&append, entries).ok_or(malformed)?;
        let group = self.group(head.shard);
        let server = Rc::clone(self);
        Self::start(async move {
            let result = take_append(group, request).await;
            server
                .outgoing
                .send(|out| peer::encode_append_reply(out, head, &result));
        });
        Ok(())
    }

    fn beat(self: &Rc<Self>, beat: &peer::Heartbeat) {
        let (id, shard) = (beat.beat, beat.shard);
        let group = self.group(ShardId(shard));
        let request = convert::heartbeat_request(beat);
        let server = Rc::clone(self);
        Self::start(async move {
            let result = take_append(group, request).await;
            server.beat_replies.borrow_mut().push(HeartbeatReply {
                beat: id,
                shard,
                result,
            });
            server.outgoing.send(|out| server.append_beat_replies(out));
        });
    }

    fn append_beat_replies(&self, out: &mut Outbox) {
        let mut replies = self.beat_replies.borrow_mut();
        if !replies.is_empty() {
            let head = Head {
                kind: kinds::HEARTBEATS_REPLY,
                request_id: RequestId(0),
                shard: ShardId(0),
                epoch: Epoch(0),
            };
            peer::encode_heartbeats_reply(out, head, &replies);
            replies.clear();
        }
    }

    fn vote(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        let ask = peer::parse_vote(frame)?;
        let Some(group) = self.group(head.shard).filter(|group| !group.embargoed()) else {
            self.plain(head, kinds::REFUSED);
            return Ok(());
        };
        let request = VoteRequest {
            vote: convert::vote(ask.vote),
            last_log_id: ask.last.map(convert::log_id),
            leadership_transfer: ask.transfer,
        };
        let server = Rc::clone(self);
        Self::start(async move {
            let answered = if head.kind == kinds::PRE_VOTE {
                group.raft().pre_vote(request).await
            } else {
                group.raft().vote(request).await
            };
            match answered {
                Ok(answer) => {
                    let answer = VoteAnswer {
                        vote: convert::peer_vote(&answer.vote),
                        last: answer.last_log_id.map(convert::peer_log_id),
                        granted: answer.vote_granted,
                    };
                    server
                        .outgoing
                        .send(|out| peer::encode_vote_reply(out, head, &answer));
                }
                Err(_) => server.plain(head, kinds::REFUSED),
            }
        });
        Ok(())
    }

    fn transfer(self: &Rc<Self>, frame: &Frame) -> Result<(), ConnectionError> {
        let head = frame.header.head;
        let transfer = peer::parse_transfer(frame)?;
        let Some(group) = self.group(head.shard).filter(|group| !group.embargoed()) else {
            self.plain(head, kinds::REFUSED);
            return Ok(());
        };
        let request = TransferLeaderRequest::<Types>::new(
            convert::vote(transfer.from),
            transfer.to,
            transfer.last.map(convert::log_id),
        );
        let server = Rc::clone(self);
        Self::start(async move {
            let done = group.raft().handle_transfer_leader(request).await;
            let kind = if matches!(done, Ok(Ok(()))) {
                kinds::DONE
            } else {
                kinds::REFUSED
            };
            server.plain(head, kind);
        });
        Ok(())
    }

    fn begin_snapshot(self: &Rc<Self>, head: Head, transfer: u64) {
        let Some(group) = self.group(head.shard) else {
            self.plain(head, kinds::REFUSED);
            return;
        };
        let (parts, queue) = mpsc::channel(2 * SNAPSHOT_PIECES_IN_FLIGHT + 1);
        // An earlier transfer ends when its queue does.
        self.receiving
            .borrow_mut()
            .insert(head.shard, Receiving { transfer, parts });
        drop(corelith_io::spawn(
            Rc::clone(self).receive_snapshot(group, head, queue),
        ));
    }

    fn snapshot_part(&self, head: Head, transfer: u64, part: Part) {
        let queued = match self.receiving.borrow().get(&head.shard) {
            Some(receiving) if receiving.transfer == transfer => {
                receiving.parts.try_send((head, part)).is_ok()
            }
            _ => false,
        };
        if !queued {
            self.plain(head, kinds::REFUSED);
        }
    }

    async fn receive_snapshot(
        self: Rc<Self>,
        group: Group,
        begin: Head,
        mut parts: mpsc::Receiver<(Head, Part)>,
    ) {
        let mut writer = match group.engine().receive_snapshot().await {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!(shard = %begin.shard, %error, "cannot receive a snapshot");
                self.plain(begin, kinds::REFUSED);
                return;
            }
        };
        self.plain(begin, kinds::DONE);
        while let Some((head, part)) = parts.recv().await {
            match part {
                Part::Piece(piece) => {
                    if let Err(error) = writer.piece(piece).await {
                        tracing::warn!(shard = %begin.shard, %error, "snapshot piece refused");
                        self.plain(head, kinds::REFUSED);
                        return;
                    }
                    self.plain(head, kinds::DONE);
                }
                Part::End(vote) => {
                    match install(&group, writer, vote).await {
                        Some(vote) => self
                            .outgoing
                            .send(|out| peer::encode_snapshot_reply(out, head, &vote)),
                        None => self.plain(head, kinds::REFUSED),
                    }
                    return;
                }
            }
        }
    }
}

/// Installs a received snapshot through openraft, and returns the vote to answer with.
async fn install(
    group: &Group,
    mut writer: shards::SnapshotWriter,
    vote: PeerVote,
) -> Option<PeerVote> {
    let (applied, membership) = match writer.finish().await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(shard = %group.shard(), %error, "snapshot refused");
            return None;
        }
    };
    let snapshot = Snapshot {
        meta: SnapshotMeta {
            last_log_id: applied.map(types::log_id),
            last_membership: stored_membership(membership).ok()?,
        },
        snapshot: SnapshotData::Received(Box::new(writer)),
    };
    let installed = group
        .raft()
        .install_full_snapshot(convert::vote(vote), snapshot)
        .await;
    installed
        .ok()
        .map(|response| convert::peer_vote(&response.vote))
}

/// Hands an append or heartbeat to its group.
async fn take_append(group: Option<Group>, request: AppendRequest) -> AppendResult {
    let Some(group) = group else {
        return AppendResult::Unable;
    };
    let before = request.prev_log_id;
    let last = request
        .entries
        .last()
        .map_or(before, |entry| Some(entry.log_id()));
    let Ok(response) = group.raft().append_entries(request).await else {
        return AppendResult::Unable;
    };
    match response.into_stream_result(before, last) {
        Ok(matching) => AppendResult::Taken {
            matching: matching.map(convert::peer_log_id),
        },
        Err(StreamAppendError::Conflict(at)) => AppendResult::Conflict {
            at: convert::peer_log_id(at),
        },
        Err(StreamAppendError::HigherVote(vote)) => AppendResult::HigherVote {
            vote: convert::peer_vote(&vote),
        },
    }
}
