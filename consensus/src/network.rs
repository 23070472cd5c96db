//! openraft's network: what one group says to one peer.

use crate::convert;
use crate::lease::Lease;
use crate::limits::{APPEND_BYTES_IN_FLIGHT_MAX, APPENDS_IN_FLIGHT_MAX, SNAPSHOT_PIECES_IN_FLIGHT};
use crate::link::Link;
use crate::snapshot::{Snapshot, SnapshotData, Transfers};
use crate::types::{AppendRequest, LogId, Types, Vote, VoteRequest, VoteResponse};
use corelith_io::sync::oneshot;
use corelith_wire::peer::{self, AppendResult, Heartbeat, Transfer, VoteAsk, kinds};
use corelith_wire::{DecodeError, Frame, ShardId};
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse,
};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long installing a snapshot may take at the follower, after all of it arrived.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// Makes the [`Peer`]s of one group.
pub(crate) struct Network {
    shard: ShardId,
    link_to: Rc<dyn Fn(u64) -> Rc<Link>>,
    timeout: Duration,
    lease: Rc<Lease>,
    transfers: Rc<Transfers>,
}

impl Network {
    /// For one group; `link_to` gives the link to a node's core that owns the shard.
    pub(crate) fn new(
        shard: ShardId,
        link_to: Rc<dyn Fn(u64) -> Rc<Link>>,
        timeout: Duration,
        lease: Rc<Lease>,
        transfers: Rc<Transfers>,
    ) -> Self {
        Self {
            shard,
            link_to,
            timeout,
            lease,
            transfers,
        }
    }

    fn peer(&self, target: u64, beats: bool) -> Peer {
        Peer {
            shard: self.shard,
            link: (self.link_to)(target),
            timeout: self.timeout,
            beats,
            lease: Rc::clone(&self.lease),
            transfers: Rc::clone(&self.transfers),
        }
    }
}

impl openraft::RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, (): &()) -> Peer {
        self.peer(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, (): &()) -> Peer {
        self.peer(target, true)
    }
}

/// One group's view of one peer.
pub(crate) struct Peer {
    shard: ShardId,
    link: Rc<Link>,
    timeout: Duration,
    /// Whether appends are heartbeats, which travel with those of other groups.
    beats: bool,
    lease: Rc<Lease>,
    transfers: Rc<Transfers>,
}

fn unreachable(why: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(why))
}

fn malformed(error: DecodeError) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&error))
}

/// What follows from an append's or heartbeat's answer.
fn append_outcome(result: AppendResult) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
    match result {
        AppendResult::Taken { matching } => Ok(Ok(matching.map(convert::log_id))),
        AppendResult::Conflict { at } => Ok(Err(StreamAppendError::Conflict(convert::log_id(at)))),
        AppendResult::HigherVote { vote } => {
            Ok(Err(StreamAppendError::HigherVote(convert::vote(vote))))
        }
        AppendResult::Unable => Err(unreachable("the peer takes no part in the group now")),
    }
}

impl Peer {
    async fn beat(
        &self,
        request: AppendRequest,
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let beat = Heartbeat {
            beat: 0,
            shard: self.shard.0,
            vote: convert::peer_vote(&request.vote),
            before: request.prev_log_id.map(convert::peer_log_id),
            committed: request.leader_commit.map(convert::peer_log_id),
        };
        let answer = self
            .link
            .beat(beat, self.lease.reader_waits())
            .map_err(unreachable)?;
        append_outcome(answer.await.map_err(unreachable)?)
    }

    async fn answer(&self, asked: oneshot::Receiver<Frame>) -> Result<Frame, RPCError<Types>> {
        let frame = asked.await.map_err(unreachable)?;
        if frame.header.head.kind == kinds::REFUSED {
            return Err(unreachable("the peer refused"));
        }
        Ok(frame)
    }

    async fn ask_vote(
        &self,
        request: VoteRequest,
        pre: bool,
        limit: Duration,
    ) -> Result<VoteResponse, RPCError<Types>> {
        let ask = VoteAsk {
            vote: convert::peer_vote(&request.vote),
            last: request.last_log_id.map(convert::peer_log_id),
            transfer: request.leadership_transfer,
        };
        self.link.wait_up(limit).await.map_err(unreachable)?;
        let asked = self
            .link
            .ask(self.shard, limit, |out, head| {
                peer::encode_vote(out, head, pre, &ask);
            })
            .map_err(unreachable)?;
        let answer = peer::parse_vote_reply(&self.answer(asked).await?).map_err(malformed)?;
        Ok(VoteResponse {
            vote: convert::vote(answer.vote),
            vote_granted: answer.granted,
            last_log_id: answer.last.map(convert::log_id),
        })
    }

    async fn send_snapshot(
        &self,
        vote: &Vote,
        snapshot: Snapshot,
    ) -> Result<Vote, StreamingError<Types>> {
        let SnapshotData::Local(mut pieces) = snapshot.snapshot else {
            return Err(NetworkError::from_string("a received snapshot is not sent on").into());
        };
        let vote = convert::peer_vote(vote);
        let transfer = corelith_io::random_u64();
        self.link.wait_up(self.timeout).await.map_err(unreachable)?;
        let ask = |kind, limit| {
            self.link
                .ask(self.shard, limit, |out, head| {
                    peer::encode_snapshot(out, head, kind, transfer, &vote);
                })
                .map_err(unreachable)
        };
        self.answer(ask(kinds::SNAPSHOT_BEGIN, self.timeout)?)
            .await?;
        let mut in_flight = VecDeque::new();
        while let Some(piece) = pieces
            .next_piece()
            .await
            .map_err(|error| NetworkError::new(&error))?
        {
            if in_flight.len() >= SNAPSHOT_PIECES_IN_FLIGHT
                && let Some(first) = in_flight.pop_front()
            {
                self.answer(first).await?;
            }
            let asked = self
                .link
                .ask(self.shard, self.timeout * 4, |out, head| {
                    peer::encode_snapshot_piece(out, head, transfer, piece);
                })
                .map_err(unreachable)?;
            in_flight.push_back(asked);
        }
        for asked in in_flight {
            self.answer(asked).await?;
        }
        let end = self
            .answer(ask(kinds::SNAPSHOT_END, INSTALL_LIMIT)?)
            .await?;
        let vote = peer::parse_snapshot_reply(&end).map_err(malformed)?;
        Ok(convert::vote(vote))
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let mut answers = self
            .stream_append(futures_util::stream::iter([request]), option)
            .await?;
        let answer = answers
            .next()
            .await
            .unwrap_or_else(|| Err(unreachable("the stream ended without an answer")))?;
        Ok(AppendEntriesResponse::from(answer))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendRequest> + Unpin + 'static,
    {
        Box::pin(async move {
            // Waiting here also keeps a peer that is down from being asked in a tight loop:
            // openraft backs off only where it builds requests.
            self.link
                .wait_up(option.soft_ttl())
                .await
                .map_err(unreachable)?;
            let answers: BoxStream<'s, _> = if self.beats {
                Box::pin(async_stream(async move {
                    let request = input.next().await?;
                    Some(self.beat(request).await)
                }))
            } else {
                Box::pin(Appends {
                    input: Some(input),
                    shard: self.shard,
                    link: Rc::clone(&self.link),
                    timeout: self.timeout,
                    in_flight: VecDeque::new(),
                    in_flight_bytes: 0,
                    failed: None,
                    ended: false,
                })
            };
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<Types>> {
        self.ask_vote(request, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<Types>> {
        self.ask_vote(request, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let _hold = self
            .transfers
            .hold(snapshot.meta.last_log_id.map_or(0, |id| id.index));
        let sending = pin!(self.send_snapshot(&vote, snapshot));
        match select(sending, pin!(cancel)).await {
            Either::Left((sent, _)) => Ok(SnapshotResponse::new(sent?)),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        // Those who get this forget the leader's lease, and so must the leader, before it leaves.
        self.lease.give_up(request.from_leader().leader_id);
        let transfer = Transfer {
            from: convert::peer_vote(request.from_leader()),
            to: *request.to_node_id(),
            last: request.last_log_id().copied().map(convert::peer_log_id),
        };
        let asked = self
            .link
            .ask(self.shard, option.hard_ttl(), |out, head| {
                peer::encode_transfer(out, head, &transfer);
            })
            .map_err(unreachable)?;
        self.answer(asked).await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        // The link itself pauses longer and longer between attempts to connect.
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
}

/// A stream of the one item that `future` gives, if any.
fn async_stream<T>(future: impl Future<Output = Option<T>>) -> impl Stream<Item = T> {
    futures_util::stream::once(future).filter_map(std::future::ready)
}

struct InFlight {
    answer: oneshot::Receiver<Frame>,
    last: Option<LogId>,
    bytes: usize,
}

/// Appends on their way to one peer, many at a time; answers in order of the requests.
struct Appends<S> {
    input: Option<S>,
    shard: ShardId,
    link: Rc<Link>,
    timeout: Duration,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Why a request could not be sent; told after the answers to those before it.
    failed: Option<RPCError<Types>>,
    ended: bool,
}

impl<S: Stream<Item = AppendRequest> + Unpin> Appends<S> {
    /// Sends what there is to send, within the bounds.
    fn poll_send(&mut self, cx: &mut Context<'_>) {
        while self.in_flight.is_empty()
            || (self.in_flight.len() < APPENDS_IN_FLIGHT_MAX
                && self.in_flight_bytes < APPEND_BYTES_IN_FLIGHT_MAX)
        {
            let Some(input) = &mut self.input else { return };
            match input.poll_next_unpin(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.input = None,
                Poll::Ready(Some(request)) => self.send(request),
            }
        }
    }

    fn send(&mut self, request: AppendRequest) {
        let last = request
            .entries
            .last()
            .map_or(request.prev_log_id, |entry| Some(entry.log_id()));
        let bytes = request
            .entries
            .iter()
            .map(|entry| entry.payload.body.len())
            .sum();
        let asked = self.link.ask(self.shard, self.timeout, |out, head| {
            let (append, entries) = convert::append(request);
            peer::encode_append(out, head, &append, entries);
        });
        match asked {
            Ok(answer) => {
                self.in_flight_bytes += bytes;
                self.in_flight.push_back(InFlight {
                    answer,
                    last,
                    bytes,
                });
            }
            Err(down) => {
                self.input = None;
                self.failed = Some(unreachable(down));
            }
        }
    }

    fn outcome(
        &mut self,
        last: Option<LogId>,
        answer: Result<Frame, oneshot::Closed>,
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let result = answer
            .map_err(unreachable)
            .and_then(|frame| peer::parse_append_reply(&frame).map_err(malformed))
            .and_then(append_outcome);
        // After anything but full success, what was sent behind it is void.
        self.ended = !matches!(&result, Ok(Ok(matching)) if *matching == last);
        result
    }
}

impl<S: Stream<Item = AppendRequest> + Unpin> Stream for Appends<S> {
    type Item = Result<StreamAppendResult<Types>, RPCError<Types>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        this.poll_send(cx);
        let Some(first) = this.in_flight.front_mut() else {
            return match (this.failed.take(), &this.input) {
                (Some(error), _) => {
                    this.ended = true;
                    Poll::Ready(Some(Err(error)))
                }
                (None, None) => Poll::Ready(None),
                (None, Some(_)) => Poll::Pending,
            };
        };
        match Pin::new(&mut first.answer).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(answer) => {
                let InFlight { last, bytes, .. } = *first;
                this.in_flight.pop_front();
                this.in_flight_bytes -= bytes;
                Poll::Ready(Some(this.outcome(last, answer)))
            }
        }
    }
}
