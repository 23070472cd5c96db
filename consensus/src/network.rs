//! openraft's network: what one group says to one peer.

mod appends;

use crate::admission::{self, Known, Leader, Refusal, Sent};
use crate::announced::Announced;
use crate::contradictions::Contradictions;
use crate::convert;
use crate::doubts::{Doubt, Follower, StoreDoubts};
use crate::lease::Lease;
use crate::limits::FILES_SILENCE_MAX;
use crate::link::PeerLink;
use crate::log_store::Unsendable;
use crate::planted::{Bug, is_planted};
use crate::route::{GroupMember, Target};
use crate::snapshot::{Snapshot, SnapshotData, Transfers};
use crate::stores::Stores;
use crate::types::{self, AppendRequest, Types, Vote, VoteRequest, VoteResponse};
use appends::Appends;
use corelith_io::Instant;
use corelith_io::sync::oneshot;
use corelith_shards as shards;
use corelith_wire::peer::{
    self, AppendResult, Heartbeat, PeerVote, PromiseEpoch, Transfer, VoteAsk, kinds,
};
use corelith_wire::{DecodeError, Frame, NodeId, ReplicaId, ShardId, StoreId, Term};
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long an offer of files may stand.
const OFFER_LIMIT: Duration = Duration::from_secs(30 * 86_400);
/// Pause before a snapshot is offered again.
const OFFER_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Which group it is that talks.
#[derive(Debug)]
pub(crate) struct GroupOfPeers {
    pub(crate) me: ReplicaId,
    pub(crate) shard: ShardId,
    pub(crate) stores: Rc<Stores>,
    /// What it has told followers to be committed.
    pub(crate) announced: Announced,
    /// Which of them refuse what this replica sends them as leader.
    pub(crate) contradictions: Contradictions,
}

/// The leader that has handed its lead over to this replica.
pub(crate) type Authorised = Rc<Cell<Option<Leader>>>;

/// Makes the [`Peer`]s of one group.
pub(crate) struct Network {
    group: Rc<GroupOfPeers>,
    matched: Rc<Matched>,
    doubts: Rc<StoreDoubts>,
    authorised: Authorised,
    link_to: Rc<dyn Fn(NodeId) -> Rc<PeerLink>>,
    timeout: Duration,
    lease: Rc<Lease>,
    transfers: Rc<Transfers>,
    unsendable: Rc<Unsendable>,
}

impl Network {
    /// For one group; `link_to` gives the link to a node's core that owns the shard.
    pub(crate) fn new(
        group: Rc<GroupOfPeers>,
        authorised: Authorised,
        link_to: Rc<dyn Fn(NodeId) -> Rc<PeerLink>>,
        timeout: Duration,
        lease: Rc<Lease>,
        transfers: Rc<Transfers>,
        unsendable: Rc<Unsendable>,
    ) -> Self {
        Self {
            group,
            matched: Rc::default(),
            doubts: Rc::default(),
            authorised,
            link_to,
            timeout,
            lease,
            transfers,
            unsendable,
        }
    }

    fn peer(&self, replica: ReplicaId, beats: bool) -> Peer {
        Peer {
            replica,
            group: Rc::clone(&self.group),
            matched: Rc::clone(&self.matched),
            doubts: Rc::clone(&self.doubts),
            authorised: Rc::clone(&self.authorised),
            link_to: Rc::clone(&self.link_to),
            timeout: self.timeout,
            beats,
            lease: Rc::clone(&self.lease),
            transfers: Rc::clone(&self.transfers),
            unsendable: Rc::clone(&self.unsendable),
        }
    }
}

impl openraft::RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &StoreId) -> Peer {
        self.peer(ReplicaId(target), false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &StoreId) -> Peer {
        self.peer(ReplicaId(target), true)
    }
}

/// The last entry that each peer has acknowledged, and to which leader.
#[derive(Debug, Default)]
struct Matched(RefCell<BTreeMap<ReplicaId, (PeerVote, Option<shards::LogId>)>>);

impl Matched {
    fn of(&self, peer: ReplicaId, vote: PeerVote) -> Option<shards::LogId> {
        let matched = self.0.borrow();
        let (leader, matching) = matched.get(&peer)?;
        (*leader == vote).then_some(*matching)?
    }

    fn raise(&self, peer: ReplicaId, vote: PeerVote, matching: Option<shards::LogId>) {
        let known = self.of(peer, vote);
        let higher = known.max(matching);
        self.0.borrow_mut().insert(peer, (vote, higher));
    }
}

/// One group's view of one peer.
#[derive(Clone)]
pub(crate) struct Peer {
    /// Who it is.
    replica: ReplicaId,
    group: Rc<GroupOfPeers>,
    matched: Rc<Matched>,
    doubts: Rc<StoreDoubts>,
    authorised: Authorised,
    /// The link to the core of the node that has the replica: another one after the node starts with other cores.
    link_to: Rc<dyn Fn(NodeId) -> Rc<PeerLink>>,
    timeout: Duration,
    /// Whether appends are heartbeats, which travel with those of other groups.
    beats: bool,
    lease: Rc<Lease>,
    transfers: Rc<Transfers>,
    unsendable: Rc<Unsendable>,
}

/// Whether a hand-over in `term` is what has the candidate stand.
fn is_of_term(term: Term, request: &VoteRequest) -> bool {
    let stands_in = request.vote.leader_id.term;
    term.0 + 1 == stands_in || (term.0 < stands_in && is_planted(Bug::HandOverOfAnyTerm))
}

fn unreachable(why: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(why))
}

fn malformed(error: DecodeError) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&error))
}

impl Peer {
    /// The link to the replica.
    fn link(&self) -> Rc<PeerLink> {
        (self.link_to)(self.replica.node())
    }

    /// What this node knows of a group that it leads, or stands in, under `vote`.
    fn known(&self, vote: &PeerVote) -> Known<'_> {
        Known {
            me: self.group.me,
            peer: self.replica,
            term: vote.term,
            stores: &self.group.stores,
        }
    }

    /// The store at the other end now, if what it says counts.
    fn counted(&self) -> Option<GroupMember> {
        let replica = self.replica;
        let store = self.link().store()?;
        let there = GroupMember { replica, store };
        self.group.stores.counts(there).then_some(there)
    }

    /// The replica, as frames name it.
    fn target(&self) -> Target {
        Target::of(self.group.shard, self.replica)
    }

    /// Waits for at most `limit` until the peer is connected and counts.
    async fn wait_ready(&self, limit: Duration) -> Result<GroupMember, RPCError<Types>> {
        let until = corelith_io::now() + limit;
        let link = self.link();
        link.wait_up(limit).await.map_err(unreachable)?;
        let left = until.saturating_duration_since(corelith_io::now());
        let stores = &self.group.stores;
        stores.wait(left, |_| self.counted().is_some()).await;
        self.counted().ok_or_else(Self::unknown)
    }

    /// What an answer of a store is as good as that does not count, now that it has come.
    fn still_counts(&self, there: GroupMember) -> Result<(), RPCError<Types>> {
        match self.group.stores.counts(there) {
            true => Ok(()),
            false => Err(Self::unknown()),
        }
    }

    fn unknown() -> RPCError<Types> {
        unreachable("the group does not count the peer's store")
    }

    /// Passes an answer on that was admitted.
    fn admitted<T>(&self, answer: T, verdict: Result<(), Refusal>) -> Result<T, RPCError<Types>> {
        match verdict {
            Ok(()) => Ok(answer),
            Err(refusal) => {
                self.link().refused(self.group.shard, &refusal);
                Err(unreachable(refusal))
            }
        }
    }

    /// What follows from the answer to an append or heartbeat that was sent at `at`, or later.
    fn append_outcome(
        &self,
        sent: &Sent,
        at: Instant,
        (result, epoch): (AppendResult, PromiseEpoch),
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let peer = self.replica;
        let matched = self.matched.of(peer, sent.vote);
        let verdict = admission::append_answer(&self.known(&sent.vote), sent, matched, &result);
        if let Err(Refusal::Lost(at)) = verdict {
            self.doubt(sent.vote, at);
        }
        match self.admitted(result, verdict)? {
            AppendResult::Taken { matching } => {
                self.doubts.dispel(peer);
                self.group.contradictions.took(peer);
                if let Some(last) = matching.filter(|_| sent.last > sent.before)
                    && let Some(follower) = self.follower(sent.vote)
                {
                    self.doubts.took(follower, last);
                }
                self.matched.raise(peer, sent.vote, matching);
                let leader = convert::vote(sent.vote).leader_id;
                self.lease.acknowledge(leader, peer, at, epoch);
                Ok(Ok(matching.map(types::log_id)))
            }
            AppendResult::Conflict { at } => {
                Ok(Err(StreamAppendError::Conflict(types::log_id(at))))
            }
            AppendResult::HigherVote { vote } => {
                let vote = self.known(&sent.vote).as_heard(vote, &sent.vote);
                Ok(Err(StreamAppendError::HigherVote(convert::vote(vote))))
            }
            AppendResult::Unable => Err(unreachable("the peer takes no part in the group now")),
            AppendResult::Contradiction { at } => {
                self.group.contradictions.refused(peer, sent.vote);
                Err(unreachable(Refusal::Contradicts(at)))
            }
        }
    }

    /// Who is at the other end now, as a follower of the leader by `vote`.
    fn follower(&self, vote: PeerVote) -> Option<Follower> {
        let replica = self.replica;
        let store = self.link().store()?;
        Some(Follower {
            replica,
            store,
            vote,
        })
    }

    /// The peer says that it lacks the entry `at`, which it had acknowledged to the leader by `vote`.
    fn doubt(&self, vote: PeerVote, at: shards::LogId) {
        let Some(follower) = self.follower(vote) else {
            return;
        };
        match self.doubts.lost(follower, at, self.link().ups()) {
            Doubt::None => {}
            Doubt::Again => self.link().renew(),
            Doubt::Proven => {
                let (shard, peer, store) = (self.group.shard, follower.replica, follower.store);
                tracing::error!(
                    %shard, %peer, %at,
                    "the store of the peer lacks entries that it had acknowledged: it is an old state, and excluded"
                );
                self.link().found_lost(store);
            }
        }
    }

    async fn beat(
        &self,
        request: AppendRequest,
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let beat = Heartbeat {
            beat: 0,
            shard: self.group.shard,
            vote: convert::peer_vote(&request.vote),
            before: request.prev_log_id.map(types::shard_log_id),
            committed: request.leader_commit.map(types::shard_log_id),
        };
        let sent = Sent {
            vote: beat.vote,
            before: beat.before,
            last: beat.before,
        };
        // What comes before a heartbeat is what the peer has acknowledged.
        self.matched.raise(self.replica, sent.vote, sent.before);
        let at = corelith_io::now();
        self.lease.note_sent(at);
        let there = self.counted().ok_or_else(Self::unknown)?;
        self.group.announced.raise(beat.committed);
        let answer = self
            .link()
            .beat(self.replica.generation(), beat, self.lease.reader_waits())
            .map_err(unreachable)?;
        let answer = answer.await.map_err(unreachable)?;
        self.still_counts(there)?;
        self.append_outcome(&sent, at, answer)
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
            last: request.last_log_id.map(types::shard_log_id),
            handed_over_by: self
                .authorised
                .get()
                .filter(|(term, _)| !pre && is_of_term(*term, &request)),
        };
        let there = self.wait_ready(limit).await?;
        let asked = self
            .link()
            .ask(self.target(), limit, kinds::VOTE_REPLY, |out, head| {
                peer::encode_vote(out, head, pre, &ask);
            })
            .map_err(unreachable)?;
        let answer = peer::parse_vote_reply(&self.answer(asked).await?).map_err(malformed)?;
        self.still_counts(there)?;
        let verdict = admission::vote_answer(&self.known(&ask.vote), pre, &ask.vote, &answer);
        let answer = self.admitted(answer, verdict)?;
        Ok(VoteResponse {
            vote: convert::vote(self.known(&ask.vote).as_heard(answer.vote, &ask.vote)),
            vote_granted: answer.granted,
            last_log_id: answer.last.map(types::log_id),
        })
    }

    /// Offers the files of a snapshot, and waits until they are installed.
    async fn send_snapshot(
        &self,
        vote: &Vote,
        snapshot: Snapshot,
    ) -> Result<Vote, StreamingError<Types>> {
        let SnapshotData::Local(local) = snapshot.snapshot else {
            return Err(NetworkError::from_string("a received snapshot is not sent on").into());
        };
        let files = local.files.map_err(|error| NetworkError::new(&error))?;
        let vote = convert::peer_vote(vote);
        let transfer = corelith_io::random_u64();
        let there = self.wait_ready(self.timeout).await?;
        let covered = snapshot.meta.last_log_id.map(types::shard_log_id);
        let offered = self.transfers.offer(transfer, there.replica.node(), files);
        let asked = self
            .link()
            .ask(
                self.target(),
                OFFER_LIMIT,
                kinds::SNAPSHOT_REPLY,
                |out, head| peer::encode_snapshot_offer(out, head, transfer, &vote),
            )
            .map_err(unreachable)?;
        let answering = pin!(self.answer(asked));
        let silence = pin!(async {
            while offered.offer.idle() < FILES_SILENCE_MAX {
                corelith_io::sleep(FILES_SILENCE_MAX / 8).await;
            }
        });
        let end = match select(answering, silence).await {
            Either::Left((answer, _)) => answer?,
            Either::Right(_) => return Err(unreachable("the receiver is silent").into()),
        };
        let answered = peer::parse_snapshot_reply(&end).map_err(malformed)?;
        let verdict = admission::snapshot_answer(&self.known(&vote), &vote, &answered);
        let answered = self.admitted(answered, verdict)?;
        self.still_counts(there)?;
        if answered == vote {
            self.matched.raise(self.replica, vote, covered);
        }
        Ok(convert::vote(self.known(&vote).as_heard(answered, &vote)))
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
            self.wait_ready(option.soft_ttl()).await?;
            let answers: BoxStream<'s, _> = if self.beats {
                Box::pin(async_stream(async move {
                    let request = input.next().await?;
                    Some(self.beat(request).await)
                }))
            } else {
                Box::pin(Appends::new(self.clone(), input))
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
        let sending = pin!(async {
            let sent = self.send_snapshot(&vote, snapshot).await;
            if sent.is_err() {
                // openraft tries again at once, and what kept it from going may last.
                corelith_io::sleep(OFFER_AGAIN_AFTER).await;
            }
            sent
        });
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
        let leader = request.from_leader().leader_id;
        self.lease.give_up(leader);
        assert!(
            self.lease.is_given_up(leader) || is_planted(Bug::KeepLeaseAtHandOver),
            "{leader} leaves with its lease"
        );
        let transfer = Transfer {
            from: convert::peer_vote(request.from_leader()),
            to: ReplicaId(*request.to_node_id()),
            last: request.last_log_id().copied().map(types::shard_log_id),
        };
        self.counted().ok_or_else(Self::unknown)?;
        let asked = self
            .link()
            .ask(
                self.target(),
                option.hard_ttl(),
                kinds::DONE,
                |out, head| {
                    peer::encode_transfer(out, head, &transfer);
                },
            )
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
