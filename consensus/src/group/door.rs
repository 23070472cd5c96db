//! What comes from peers, on its way to openraft.
//!
//! Every request is held against [`admission`]. Appends also against the log, for which the log must
//! be what openraft goes by when the append gets there: an append that goes on where its leader
//! stopped needs nothing more than what the leader has shown so far ([`LeaderLine`]); any other one
//! waits until openraft has done all that came before, and those behind it wait too.
//!
//! An openraft that has stopped is told nothing: it would log each message.

use super::Group;
use super::election::in_millis;
use super::turning::Tie;
use crate::admission::{
    self, AppendPlace, HeldLog, Known, LeaderLine, Reach, Refusal, leader_of_vote,
};
use crate::convert;
use crate::planted::{Bug, is_planted};
use crate::route::{Caller, GroupMember, NodeStore};
use crate::snapshot::{Snapshot, SnapshotData};
use crate::state_machine::stored_membership;
use crate::stores::Standing;
use crate::types::{self, Payload, SnapshotMeta, VoteRequest};
use bytes::Bytes;
use corelith_io::Instant;
use corelith_io::sync::semaphore::{Permit, Semaphore};
use corelith_shards::{self as shards, LogIndex, NodeId, ReplicaId, Term};
use corelith_wire::peer::{AppendHead, AppendResult, PeerEntry, PeerVote, VoteAnswer, VoteAsk};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::StreamAppendError;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

/// Where appends of a group come in.
pub(super) struct Door {
    /// Appends wait for room in the order in which they came: one that is overtaken is answered with a
    /// conflict, which its leader would take for lost entries. Heartbeats do not wait; what comes before
    /// them is acknowledged.
    queue: Semaphore,
    /// Appends and heartbeats enter one after the other.
    turn: Semaphore,
    /// What the leader of the last append has shown.
    line: Cell<Option<LeaderLine>>,
    /// What the appends that were let in have committed and is not applied yet, ascending: each is
    /// a batch in openraft's queue.
    to_apply: RefCell<VecDeque<LogIndex>>,
    /// What peers claim that is out of reach.
    reach: RefCell<Reach>,
    /// When each peer was last heard here.
    heard: RefCell<BTreeMap<NodeId, Instant>>,
}

impl Door {
    /// Waits until nothing else enters openraft, and keeps it so.
    pub(super) async fn turn(&self) -> Permit {
        self.turn.acquire(1).await
    }

    /// When a peer was last heard here.
    pub(super) fn heard(&self, peer: NodeId) -> Option<Instant> {
        self.heard.borrow().get(&peer).copied()
    }
}

impl Default for Door {
    fn default() -> Self {
        Self {
            queue: Semaphore::new(1),
            turn: Semaphore::new(1),
            line: Cell::new(None),
            to_apply: RefCell::default(),
            reach: RefCell::default(),
            heard: RefCell::default(),
        }
    }
}

impl Group {
    /// What the group knows when `peer` says something in the name of a replica.
    ///
    /// # Errors
    /// The replica is of another node, or the group has another store in its slot, or in that of this one: see
    /// `stores.rs`.
    pub(super) fn known(&self, peer: NodeStore, claimed: ReplicaId) -> Result<Known<'_>, Refusal> {
        let stores = &self.inner.stores;
        if claimed.node() != peer.node {
            let peer = peer.node;
            return Err(Refusal::NotTheSender { peer, claimed });
        }
        for of in [peer.as_member(claimed), stores.me()] {
            if stores.standing(of) == Standing::Stranger {
                return Err(Refusal::NotTheStore(of.replica, of.store));
            }
        }
        let mut heard = self.inner.door.heard.borrow_mut();
        heard.insert(peer.node, corelith_io::now());
        Ok(Known {
            me: self.inner.me,
            peer: claimed,
            term: Term(self.inner.server.borrow_watched().vote.leader_id.term),
            stores,
        })
    }

    /// Listens to a peer that does not say as which replica it asks.
    ///
    /// # Errors
    /// The group has other stores for the replicas of its node, or in the slot of this one.
    pub(super) fn listen_to(&self, peer: NodeStore) -> Result<(), Refusal> {
        let stores = &self.inner.stores;
        if stores.standing_of(peer) == Standing::Stranger {
            let first = ReplicaId(peer.node.0);
            return Err(Refusal::NotTheStore(first, peer.store));
        }
        let me = stores.me();
        if stores.standing(me) == Standing::Stranger {
            return Err(Refusal::NotTheStore(me.replica, me.store));
        }
        let mut heard = self.inner.door.heard.borrow_mut();
        heard.insert(peer.node, corelith_io::now());
        Ok(())
    }

    /// Whether this replica could vote for a candidate: not for one that it knows no store of, unless that has entries
    /// that are not here. There its store may be bound, or it is taken in.
    ///
    /// # Errors
    /// Its slot is nobody's yet.
    fn could_elect(&self, peer: GroupMember, ask: &VoteAsk) -> Result<bool, Refusal> {
        let knows_more = ask.last > self.inner.log.range().last;
        match self.inner.stores.standing(peer) {
            Standing::Member => Ok(true),
            Standing::Absent => Ok(knows_more),
            _ if knows_more => Ok(true),
            _ => Err(Refusal::NotTheStore(peer.replica, peer.store)),
        }
    }

    /// Hands the verdict on a claim of `peer` on. If the claim is out of reach again and again, this
    /// replica's term rises towards it.
    async fn weigh<T>(
        &self,
        peer: NodeStore,
        claim: &PeerVote,
        verdict: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let peer = peer.as_member(claim.node);
        // Who was removed and stands again and again is no reason.
        let is_nobody = !claim.committed && self.inner.stores.standing(peer) == Standing::Absent;
        let peer = peer.replica;
        let risen = {
            let mut reach = self.inner.door.reach.borrow_mut();
            match &verdict {
                Err(Refusal::Term { ours, .. }) if !is_nobody => reach.refused(*claim, *ours),
                _ => {
                    reach.heard(peer);
                    None
                }
            }
        };
        if let Some(term) = risen {
            // Boxed, as all that is rare and large: each append has a task of its own.
            Box::pin(self.rise(peer, term)).await;
        }
        verdict
    }

    /// Has this replica's term rise as if `peer` asked for its vote in `term`: openraft keeps to a leader
    /// that it hears or that is followed. The peer is far beyond that term and counts no vote of it.
    async fn rise(&self, peer: ReplicaId, term: Term) {
        if self.inner.is_embargoed() || self.inner.is_stopped() {
            return;
        }
        let _entering = self.inner.door.turn().await;
        let Some((vote, _)) = self.inner.caught_up().await else {
            return;
        };
        let turn = self.inner.may_turn(&vote, peer, None);
        if matches!(turn, Tie::Bound(_)) || self.inner.leads_well() || !self.inner.turn(&vote, turn)
        {
            return;
        }
        self.inner.give_up_own_lead(&vote);
        tracing::warn!(shard = %self.shard(), %peer, %term, "the term rises towards that of a peer");
        self.inner.raise_term(peer, term).await;
    }

    /// Takes a heartbeat.
    pub(crate) async fn take_beat(
        &self,
        from: Caller,
        head: AppendHead,
    ) -> Result<AppendResult, Refusal> {
        let verdict = admission::append(&self.known(from.at, head.vote.node)?, &head, &[]);
        self.weigh(from.at, &head.vote, verdict).await?;
        self.let_in(from, head, Vec::new(), Vec::new(), None).await
    }

    /// Takes an append.
    pub(crate) async fn take_append(
        &self,
        from: Caller,
        head: AppendHead,
        entries: Vec<PeerEntry>,
    ) -> Result<AppendResult, Refusal> {
        let verdict = admission::append(&self.known(from.at, head.vote.node)?, &head, &entries);
        let payloads = self.weigh(from.at, &head.vote, verdict).await?;
        let place = self.inner.door.queue.acquire(1).await;
        if self.has_too_much_to_apply() && !Box::pin(self.wait_for_applies()).await {
            return Ok(AppendResult::Unable);
        }
        self.let_in(from, head, entries, payloads, Some(place))
            .await
    }

    /// Hands an append or heartbeat to openraft when its turn has come, and then gives its place up.
    async fn let_in(
        &self,
        from: Caller,
        mut head: AppendHead,
        entries: Vec<PeerEntry>,
        payloads: Vec<Payload>,
        place: Option<Permit>,
    ) -> Result<AppendResult, Refusal> {
        let door = &self.inner.door;
        let turn = door.turn.acquire(1).await;
        if self.inner.is_stopped() {
            return Ok(AppendResult::Unable);
        }
        let place_in_log = match self.place_in_line(&head, &entries) {
            Some(place) => place,
            None => match Box::pin(self.place(&head, &entries)).await? {
                Some(place) => place,
                None => return Ok(AppendResult::Unable),
            },
        };
        let committed = place_in_log.committed;
        assert!(
            committed.is_none() || place_in_log.line.is_some(),
            "{head:?} is refused and commits {committed:?}"
        );
        head.committed = committed;
        let line_before = door.line.get();
        door.line.set(place_in_log.line_after(line_before, &head));
        if let Some(committed) = committed {
            self.inner.will_apply(committed.index);
        }
        let (before, vote) = (head.before, head.vote);
        let last = entries.last().map(|entry| entry.id).or(before);
        self.inner.turning.follow(&head.vote, from);
        let request = convert::append_request(&head, &entries, payloads);
        // Enters the mailbox when it is polled first; the next one may follow.
        let mut answer = Box::pin(self.inner.raft.append_entries(request));
        let at_once = std::future::poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
        drop((turn, place));
        let answer = match at_once {
            Poll::Ready(answer) => answer,
            Poll::Pending => answer.await,
        };
        let result = match answer {
            Err(_) => AppendResult::Unable,
            Ok(response) => {
                let (before, last) = (before.map(types::log_id), last.map(types::log_id));
                match response.into_stream_result(before, last) {
                    Ok(matching) => AppendResult::Taken {
                        matching: matching.map(types::shard_log_id),
                    },
                    Err(StreamAppendError::Conflict(at)) => AppendResult::Conflict {
                        at: types::shard_log_id(at),
                    },
                    Err(StreamAppendError::HigherVote(vote)) => AppendResult::HigherVote {
                        vote: convert::peer_vote(&vote),
                    },
                }
            }
        };
        if let Some(line) = door.line.get().filter(|line| line.is_of(&vote)) {
            let before = line_before.filter(|line| line.is_of(&vote));
            door.line.set(match result {
                AppendResult::Taken { .. } => Some(line),
                AppendResult::Conflict { .. } => before.map(|before| before.without(line)),
                AppendResult::HigherVote { .. }
                | AppendResult::Unable
                | AppendResult::Contradiction { .. } => None,
            });
        }
        Ok(result)
    }

    /// How many batches of entries wait to be applied.
    #[cfg(test)]
    pub(crate) fn applies_waiting(&self) -> usize {
        self.inner.applies_waiting()
    }

    /// Whether too many batches of entries wait to be applied.
    fn has_too_much_to_apply(&self) -> bool {
        self.inner.applies_waiting() >= self.inner.options.applies_waiting
    }

    /// Waits, a little, until some of them are applied; whether they are.
    async fn wait_for_applies(&self) -> bool {
        let inner = &self.inner;
        let oldest = inner.door.to_apply.borrow().front().copied();
        let applied = inner.applied.wait(oldest.unwrap_or_default());
        let waited = corelith_io::timeout(inner.options.peer_timeout / 2, applied).await;
        waited.is_ok() && !self.has_too_much_to_apply()
    }

    /// Where an append goes that continues what its leader has shown.
    fn place_in_line(&self, head: &AppendHead, entries: &[PeerEntry]) -> Option<AppendPlace> {
        let log = &self.inner.log;
        let line = self.inner.door.line.get()?;
        let held = HeldLog {
            purged: log.range().purged,
            settled: None,
            id_at: &|index: LogIndex| log.id_at(index),
        };
        admission::in_line(&line, head, entries, &held)
    }

    /// Where any other append goes; `None` if openraft has stopped.
    async fn place(
        &self,
        head: &AppendHead,
        entries: &[PeerEntry],
    ) -> Result<Option<AppendPlace>, Refusal> {
        let line = self.inner.door.line.get();
        let Some((vote, committed)) = self.inner.caught_up().await else {
            return Ok(None);
        };
        let log = &self.inner.log;
        let line = line.filter(|line| line.is_of(&head.vote));
        let settled = committed
            .map(|id| id.index)
            .max(line.and_then(|line| line.tail()));
        let held = HeldLog {
            purged: log.range().purged,
            settled,
            id_at: &|index: LogIndex| log.id_at(index),
        };
        let place = admission::place(&vote, head, entries, &held);
        if matches!(place, Err(Refusal::Contradicts(_))) {
            // Either this or what was shown before was changed on its way. What the leader takes for
            // acknowledged, as its next message says, begins the line anew.
            self.inner.door.line.set(None);
        }
        place.map(Some)
    }

    /// Asks for a vote, or whether it would be granted (`pre`); `None` if openraft has stopped or the
    /// replica may not vote yet. A request that is refused for a promise does not get to openraft.
    pub(crate) async fn take_vote(
        &self,
        peer: NodeStore,
        pre: bool,
        ask: VoteAsk,
    ) -> Result<Option<VoteAnswer>, Refusal> {
        let verdict = admission::vote(&self.known(peer, ask.vote.node)?, pre, &ask);
        self.weigh(peer, &ask.vote, verdict).await?;
        let peer = peer.as_member(ask.vote.node);
        let could_elect = self.could_elect(peer, &ask)?;
        let inner = &self.inner;
        if inner.is_embargoed() || inner.is_stopped() || !inner.stores.may_vote() {
            return Ok(None);
        }
        if pre {
            let mut answer = inner.would_grant(&ask);
            answer.granted &= could_elect;
            if answer.promised_ms > 0 && is_planted(Bug::RefusedVoteMovesTerm) {
                let _entering = inner.door.turn().await;
                inner.raise_term(peer.replica, ask.vote.term).await;
            }
            return Ok(Some(answer));
        }
        let entering = inner.door.turn().await;
        let Some((vote, _)) = inner.caught_up().await else {
            return Ok(None);
        };
        let last = inner.log.range().last;
        let refused = |promised_ms| VoteAnswer {
            vote,
            last,
            granted: false,
            promised_ms,
        };
        let asks_again = ask.vote == vote;
        let is_newer = leader_of_vote(&ask.vote) > leader_of_vote(&vote);
        // What is known of the candidate may have changed while this waited for its turn.
        let could_elect = self.could_elect(peer, &ask)?;
        if !(asks_again || is_newer) || ask.last < last || !could_elect {
            return Ok(Some(refused(0)));
        }
        let turn = inner.may_turn(&vote, ask.vote.node, ask.handed_over_by);
        if let Tie::Bound(until) = turn
            && !is_planted(Bug::VoteWhilePromised)
        {
            if is_planted(Bug::RefusedVoteMovesTerm) {
                inner.raise_term(peer.replica, ask.vote.term).await;
            }
            inner.doubt(&vote);
            return Ok(Some(refused(in_millis(until - corelith_io::now()))));
        }
        // One that has handed over its lead does not lead any more.
        if inner.leads_well() || inner.is_embargoed() || !inner.turn(&vote, turn) {
            return Ok(Some(refused(0)));
        }
        assert!(
            !inner.is_embargoed(),
            "a vote for {peer:?} within the embargo"
        );
        inner.give_up_own_lead(&vote);
        let request = VoteRequest {
            vote: convert::vote(ask.vote),
            last_log_id: ask.last.map(types::log_id),
            // What keeps a replica from voting is looked at here: openraft is not to look at its leases.
            leadership_transfer: true,
        };
        let mut answer = pin!(inner.raft.vote(request));
        // Enters the mailbox when it is polled first.
        let at_once = std::future::poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
        drop(entering);
        let answer = match at_once {
            Poll::Ready(answer) => answer,
            Poll::Pending => answer.await,
        };
        Ok(answer.ok().map(|answer| VoteAnswer {
            vote: convert::peer_vote(&answer.vote),
            last: answer.last_log_id.map(types::shard_log_id),
            granted: answer.vote_granted,
            promised_ms: 0,
        }))
    }

    /// Whether a snapshot under that vote may be received.
    pub(crate) fn admit_snapshot(&self, peer: NodeStore, vote: &PeerVote) -> Result<(), Refusal> {
        admission::snapshot_vote(&self.known(peer, vote.node)?, vote)
    }

    /// Installs a received snapshot of that log id and membership through openraft, and returns the vote to
    /// answer with; `None` if openraft has stopped.
    pub(crate) async fn install(
        &self,
        from: Caller,
        (applied, membership): (Option<shards::LogId>, Option<(shards::LogId, Bytes)>),
        data: SnapshotData,
        vote: PeerVote,
    ) -> Result<Option<PeerVote>, Refusal> {
        // No append changes what is committed between the check and the installation.
        let _turn = self.inner.door.turn.acquire(1).await;
        let Some((_, committed)) = self.inner.caught_up().await else {
            return Ok(None);
        };
        let known = self.known(from.at, vote.node)?;
        admission::snapshot(&known, &vote, applied, membership.as_ref(), committed)?;
        self.inner.door.line.set(None);
        self.inner.turning.follow(&vote, from);
        let Ok(last_membership) = stored_membership(membership) else {
            return Err(Refusal::Snapshot);
        };
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                last_log_id: applied.map(types::log_id),
                last_membership,
            },
            snapshot: data,
        };
        let installed = self
            .inner
            .raft
            .install_full_snapshot(convert::vote(vote), snapshot)
            .await;
        Ok(installed
            .ok()
            .map(|response| convert::peer_vote(&response.vote)))
    }
}

impl Group {
    /// The vote to answer a snapshot with that covers no more than is applied here, and so has nothing to install: its
    /// sender goes on behind it. `None` if this replica does not follow the sender yet.
    pub(crate) async fn answer_to_old_snapshot(&self, sender: PeerVote) -> Option<PeerVote> {
        let _turn = self.inner.door.turn.acquire(1).await;
        let (vote, _) = self.inner.caught_up().await?;
        let is_up_to_it = vote == sender || leader_of_vote(&vote) > leader_of_vote(&sender);
        is_up_to_it.then_some(vote)
    }
}

impl super::GroupInner {
    /// Gives up the lease before this replica, whose vote is `vote`, votes for somebody else: a leader counts
    /// itself, and openraft's metrics, by which it knows that it leads, say later that it does not.
    fn give_up_own_lead(&self, vote: &PeerVote) {
        if vote.committed && vote.node == self.me {
            self.lease.give_up(convert::vote(*vote).leader_id);
        }
        if let Some(leader) = self.raw_leading() {
            self.lease.give_up(leader);
        }
        assert!(
            self.leading().is_none() || is_planted(Bug::KeepLeaseAtHandOver),
            "a leader votes against itself under its lease"
        );
    }

    /// As if `peer` had asked for its vote in `term` and nothing kept this replica from it.
    #[cfg(test)]
    pub(crate) async fn vote_away(&self, peer: ReplicaId, term: Term) {
        let _entering = self.door.turn().await;
        if let Some((vote, _)) = self.caught_up().await {
            self.give_up_own_lead(&vote);
            self.raise_term(peer, term).await;
        }
    }

    /// Has this replica's term rise to `term`, as if it voted there for `peer`, who is told nothing of it. A
    /// leader leads no more then.
    pub(super) async fn raise_term(&self, peer: ReplicaId, term: Term) {
        let vote = PeerVote {
            term,
            node: peer,
            committed: false,
        };
        let request = VoteRequest {
            vote: convert::vote(vote),
            last_log_id: self.log.range().last.map(types::log_id),
            leadership_transfer: true,
        };
        // An error says that openraft has stopped.
        let _ = self.raft.vote(request).await;
    }

    /// Notes that openraft will apply what comes up to `index`.
    fn will_apply(&self, index: LogIndex) {
        self.applies_waiting();
        let mut to_apply = self.door.to_apply.borrow_mut();
        let news = to_apply.back().is_none_or(|last| *last < index);
        if news && self.applied_index() < Some(index) {
            to_apply.push_back(index);
        }
        assert!(
            to_apply.front() <= to_apply.back(),
            "batches to apply ascend: {to_apply:?}"
        );
    }

    /// How many batches wait to be applied.
    fn applies_waiting(&self) -> usize {
        let applied = self.applied_index();
        let mut to_apply = self.door.to_apply.borrow_mut();
        while to_apply
            .pop_front_if(|index| Some(*index) <= applied)
            .is_some()
        {}
        to_apply.len()
    }

    /// This replica's vote and what it knows to be committed, after openraft has done all that came in
    /// before; `None` if it has stopped.
    pub(super) async fn caught_up(&self) -> Option<(PeerVote, Option<shards::LogId>)> {
        if self.is_stopped() {
            return None;
        }
        let state = self.raft.with_raft_state(|state| {
            let committed = state.local_committed().copied();
            (convert::peer_vote(state.vote_ref()), committed)
        });
        let (vote, committed) = state.await.ok()?;
        Some((vote, committed.map(types::shard_log_id)))
    }
}
