//! Appends on their way to one peer, many at a time.
//!
//! Invariants:
//! * No more are sent while as many, or as many bytes, are in flight as the limits allow.
//! * Answers are given in order of the requests; after anything but success the stream ends.

use super::{Peer, malformed, unreachable};
use crate::admission::Sent;
use crate::convert;
use crate::limits::{APPEND_BYTES_IN_FLIGHT_MAX, APPENDS_IN_FLIGHT_MAX};
use crate::route::GroupMember;
use crate::types::{self, AppendRequest, Types};
use corelith_io::Instant;
use corelith_io::sync::oneshot;
use corelith_shards as shards;
use corelith_wire::Frame;
use corelith_wire::peer::{self, kinds};
use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::errors::RPCError;
use openraft::raft::StreamAppendResult;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

struct AppendInFlight {
    answer: oneshot::Receiver<Frame>,
    sent: Sent,
    /// Who was asked.
    there: GroupMember,
    at: Instant,
    bytes: usize,
}

/// Appends on their way to one peer, many at a time; answers in order of the requests.
pub(super) struct Appends<S> {
    input: Option<S>,
    peer: Peer,
    in_flight: VecDeque<AppendInFlight>,
    in_flight_bytes: usize,
    /// Why a request could not be sent; told after the answers to those before it.
    failed: Option<RPCError<Types>>,
    ended: bool,
}

impl<S: Stream<Item = AppendRequest> + Unpin> Appends<S> {
    /// Sends `input` to `peer`.
    pub(super) fn new(peer: Peer, input: S) -> Self {
        Self {
            input: Some(input),
            peer,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            failed: None,
            ended: false,
        }
    }

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
        let last = request.entries.last().map(RaftEntry::log_id);
        let sent = Sent {
            vote: convert::peer_vote(&request.vote),
            before: request.prev_log_id.map(types::shard_log_id),
            last: last.or(request.prev_log_id).map(types::shard_log_id),
        };
        let next = sent.before.map_or(0, |before| before.index.0 + 1);
        if request.entries.is_empty() && self.peer.unsendable.take(shards::LogIndex(next)) {
            self.input = None;
            self.failed = Some(unreachable("the next entry is damaged on this node"));
            return;
        }
        let bytes = request
            .entries
            .iter()
            .map(|entry| entry.payload.body.len())
            .sum();
        let peer = &self.peer;
        let Some(there) = peer.counted() else {
            self.input = None;
            self.failed = Some(Peer::unknown());
            return;
        };
        let at = corelith_io::now();
        peer.lease.note_sent(at);
        let committed = request.leader_commit.map(types::shard_log_id);
        peer.group.announced.raise(committed);
        let asked = peer.link().ask(
            peer.target(),
            peer.timeout,
            kinds::APPEND_REPLY,
            |out, head| {
                let (append, entries) = convert::append(request);
                peer::encode_append(out, head, &append, entries);
            },
        );
        match asked {
            Ok(answer) => {
                self.in_flight_bytes += bytes;
                self.in_flight.push_back(AppendInFlight {
                    answer,
                    sent,
                    there,
                    at,
                    bytes,
                });
                assert!(
                    self.in_flight.len() <= APPENDS_IN_FLIGHT_MAX,
                    "{} appends are in flight",
                    self.in_flight.len()
                );
            }
            Err(down) => {
                self.input = None;
                self.failed = Some(unreachable(down));
            }
        }
    }

    fn outcome(
        &mut self,
        sent: &Sent,
        there: GroupMember,
        at: Instant,
        answer: Result<Frame, oneshot::Closed>,
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let result = answer
            .map_err(unreachable)
            .and_then(|frame| self.peer.still_counts(there).map(|()| frame))
            .and_then(|frame| peer::parse_append_reply(&frame).map_err(malformed))
            .and_then(|answer| self.peer.append_outcome(sent, at, answer));
        // After anything but success, what was sent behind it is void.
        self.ended = !matches!(&result, Ok(Ok(_)));
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
                let AppendInFlight {
                    sent,
                    there,
                    at,
                    bytes,
                    ..
                } = *first;
                this.in_flight.pop_front();
                assert!(
                    this.in_flight_bytes >= bytes,
                    "{} bytes are in flight, among them {bytes}",
                    this.in_flight_bytes
                );
                this.in_flight_bytes -= bytes;
                Poll::Ready(Some(this.outcome(&sent, there, at, answer)))
            }
        }
    }
}
