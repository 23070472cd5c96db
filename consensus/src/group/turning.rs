//! Whom a replica follows, and when it may turn from it: vote for another node, or stand itself.
//!
//! Invariants:
//! * While this node's promise to the node of a leader runs, a replica that has acknowledged the leader since
//!   this node started turns from it only if that leader has handed its lead over, or leads no more.
//! * Before it turns the epoch of the promise is raised, unless the lead was handed over: see `lease.rs`.
//! * What is decided holds until openraft has the vote: nothing else gets to openraft in between (the turn of
//!   `door.rs`), and openraft has done all that came before.

use super::{Group, GroupInner};
use crate::admission::{Leader, Refusal, leader_of_vote};
use crate::liveness::PromiseKeeps;
use crate::planted::{Bug, is_planted};
use crate::route::{Caller, NodeStore};
use corelith_io::Instant;
use corelith_shards::{LogId, ReplicaId, Term};
use corelith_wire::peer::{self, PeerVote, Transfer, kinds};
use corelith_wire::{Start, StoreId};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How often a leader is asked whether it leads for those who come to its followers.
const DOUBT_EVERY: Duration = Duration::from_secs(1);
/// How often a replica that is to lead looks whether it has its leader's last entry.
const LAST_EVERY: Duration = Duration::from_millis(1);

/// A leader that this replica has acknowledged, or is about to.
#[derive(Clone, Copy, Debug)]
struct Followed {
    leader: Leader,
    store: StoreId,
    start: Start,
    since: Instant,
}

/// See the module. Belongs to one group.
#[derive(Default)]
pub(super) struct Turning {
    followed: Cell<Option<Followed>>,
    /// A leader that has said that it leads no more.
    released: Cell<Option<Leader>>,
    /// A leader that has handed its lead over to another replica.
    left_to_another: Cell<Option<Leader>>,
    /// Whether the leader is being asked whether it leads.
    is_asking: Cell<bool>,
    /// The latest term in which another replica was when it was asked for its vote.
    highest: Cell<Term>,
    /// When it was asked last because somebody came here for what it does.
    doubted: Cell<Option<Instant>>,
    /// The leader that has handed its lead over to this replica.
    authorised: Rc<Cell<Option<Leader>>>,
}

/// What keeps a replica from turning from its leader, or has to be done before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    /// It follows nobody that could count on it.
    Free,
    /// The leader has handed its lead over.
    Excused,
    /// The leader leads no more.
    Over,
    /// The promise has run out.
    Lapsed,
    /// The promise runs until then.
    Bound(Instant),
}

impl Turning {
    /// Where the network looks who has handed its lead over to this replica.
    pub(super) fn authorised(&self) -> Rc<Cell<Option<Leader>>> {
        Rc::clone(&self.authorised)
    }

    /// Notes that openraft is about to get something of a leader.
    pub(super) fn follow(&self, vote: &PeerVote, from: Caller) {
        let leader = leader_of_vote(vote);
        // What an older leader sends changes nothing.
        if self
            .followed
            .get()
            .is_none_or(|followed| followed.leader < leader)
        {
            self.followed.set(Some(Followed {
                since: corelith_io::now(),
                leader,
                store: from.at.store,
                start: from.start,
            }));
        }
    }

    /// Whether the replica has acknowledged that leader, or may have, since this node started.
    pub(super) fn follows(&self, leader: Leader) -> bool {
        self.followed
            .get()
            .is_some_and(|followed| followed.leader == leader)
    }

    /// Until when a leader, if it is followed, is left alone although its node may not have a promise yet.
    pub(super) fn is_new_until(&self, leader: Leader, promise: Duration) -> Option<Instant> {
        let followed = self.followed.get();
        let followed = followed.filter(|followed| followed.leader == leader);
        followed.map(|followed| followed.since + promise)
    }

    /// Notes that a leader leads no more.
    pub(super) fn release(&self, leader: Leader) {
        self.released.set(self.released.get().max(Some(leader)));
        assert!(self.is_released(leader), "{leader:?} is still followed");
    }

    /// Whether a leader has handed its lead over to another replica, which is to stand first.
    pub(super) fn is_left_to_another(&self, leader: Leader) -> bool {
        self.left_to_another.get() == Some(leader)
    }

    /// The latest term in which another replica was when it was asked for its vote.
    pub(super) fn highest_term(&self) -> Term {
        self.highest.get()
    }

    /// Notes in which term another replica is.
    pub(super) fn heard_term(&self, term: Term) {
        self.highest.set(self.highest.get().max(term));
    }

    /// Whether a leader is known to lead no more.
    pub(super) fn is_released(&self, leader: Leader) -> bool {
        self.released.get() >= Some(leader)
    }
}

impl GroupInner {
    /// Whether a replica whose vote is `vote` may turn from whom it follows to `candidate`, who says that
    /// `by` has handed its lead over.
    pub(super) fn may_turn(
        &self,
        vote: &PeerVote,
        candidate: ReplicaId,
        by: Option<Leader>,
    ) -> Tie {
        let leader = leader_of_vote(vote);
        if !vote.committed || vote.node == self.me || vote.node == candidate {
            return Tie::Free;
        }
        let followed = self.turning.followed.get();
        let Some(followed) = followed.filter(|followed| followed.leader == leader) else {
            return Tie::Free;
        };
        if by.is_some_and(|by| by >= leader || is_planted(Bug::HandOverOfAnyTerm)) {
            return Tie::Excused;
        }
        let Some(pair) = self.pairs.of(vote.node) else {
            return Tie::Free;
        };
        let has_restarted = pair.who().is_some_and(|(store, start)| {
            store == followed.store && start.incarnation > followed.start.incarnation
        });
        let is_noticed = has_restarted && !is_planted(Bug::KeepQuietWhenDeposed);
        if is_noticed || self.turning.is_released(leader) {
            return Tie::Over;
        }
        let core = (self.core_of)(vote.node.node());
        match pair.promised_until(followed.store, core) {
            Some(until) if corelith_io::now() < until => Tie::Bound(until),
            _ => Tie::Lapsed,
        }
    }

    /// Does what has to be done before a replica whose vote is `vote` turns from whom it follows; whether it
    /// may.
    pub(super) fn turn(&self, vote: &PeerVote, turn: Tie) -> bool {
        let pair = self.pairs.of(vote.node);
        let turned = match (turn, pair) {
            (Tie::Free | Tie::Excused, _) | (_, None) => return true,
            (Tie::Over, Some(pair)) => pair.forget(),
            (Tie::Lapsed | Tie::Bound(_), Some(pair)) => {
                let followed = self.turning.followed.get();
                let store = followed.map_or(StoreId::UNCLAIMED, |followed| followed.store);
                pair.turn(store, (self.core_of)(vote.node.node()), corelith_io::now())
            }
        };
        match turned {
            Ok(()) => true,
            Err(PromiseKeeps::Until(_)) => false,
            Err(PromiseKeeps::ForGood) => {
                tracing::error!(shard = %self.shard_id, "no epoch is left: restart this node");
                false
            }
        }
    }

    /// Waits for the leader's last entry, which may be on its way, for at most half a promise.
    async fn wait_for_last(&self, last: Option<LogId>) {
        let until = corelith_io::now() + self.liveness.options().promise / 2;
        while self.log.range().last < last && corelith_io::now() < until {
            corelith_io::sleep(LAST_EVERY).await;
        }
    }

    /// Somebody has asked this replica for what the leader does: asks the leader now and then whether it still
    /// leads. Nothing else would tell while no promise runs out.
    pub(super) fn doubt_now_and_then(self: &Rc<Self>) {
        let now = corelith_io::now();
        let doubted = self.turning.doubted.get();
        let vote = self.vote_seen();
        let is_due = doubted.is_none_or(|at| now - at >= DOUBT_EVERY);
        if is_due && matches!(self.may_turn(&vote, self.me, None), Tie::Bound(_)) {
            self.turning.doubted.set(Some(now));
            self.doubt(&vote);
        }
    }

    /// Asks the leader that this replica follows whether it still leads, unless that is being asked.
    pub(super) fn doubt(self: &Rc<Self>, vote: &PeerVote) {
        if self.turning.is_asking.replace(true) {
            return;
        }
        let (group, vote) = (Rc::clone(self), *vote);
        drop(corelith_io::spawn(async move {
            if group.leads_no_more(&vote).await == Some(true) {
                group.turning.release(leader_of_vote(&vote));
                group.wake.notify_one();
            }
            group.turning.is_asking.set(false);
        }));
    }

    /// Whether the leader with `vote` says that it leads no more; `None` if it does not answer.
    async fn leads_no_more(&self, vote: &PeerVote) -> Option<bool> {
        let link = (self.link_to)(vote.node.node());
        let limit = self.liveness.options().promise;
        let asked = link.ask(
            self.target(vote.node),
            limit,
            kinds::LEAD_REPLY,
            |out, head| {
                peer::encode_lead(out, head, vote);
            },
        );
        let frame = asked.ok()?.await.ok()?;
        let followed = self.turning.followed.get();
        let is_theirs = followed.is_some_and(|followed| {
            followed.leader == leader_of_vote(vote) && Some(followed.store) == link.store()
        });
        if frame.header.head.kind != kinds::LEAD_REPLY || !is_theirs {
            return None;
        }
        peer::parse_lead_reply(&frame).ok().map(|leads| !leads)
    }
}

impl Group {
    /// Whether this replica leads with that vote and goes on to. If not it never relies on that lead again.
    ///
    /// # Errors
    /// The asker is no member, or asks about a vote that this replica has never given.
    pub(crate) async fn take_lead_question(
        &self,
        peer: NodeStore,
        vote: PeerVote,
    ) -> Result<bool, Refusal> {
        let inner = &self.inner;
        self.listen_to(peer)?;
        let leader = crate::convert::vote(vote).leader_id;
        if is_planted(Bug::KeepQuietWhenDeposed) {
            return Ok(true);
        }
        let Some((own, _)) = inner.caught_up().await else {
            inner.lease.give_up(leader);
            return Ok(false);
        };
        if vote.node != inner.me || leader_of_vote(&vote) > leader_of_vote(&own) {
            return Err(Refusal::WrongVote(vote.node));
        }
        if inner.lease.is_given_up(leader) {
            return Ok(false);
        }
        // Of the metrics the last ones may be from before it was elected.
        let state = inner.raft.with_raft_state(move |state| {
            let is_of_vote = crate::convert::peer_vote(state.vote_ref()) == vote;
            is_of_vote && state.server_state == openraft::ServerState::Leader
        });
        let leads = inner.leading() == Some(leader) || state.await.unwrap_or(false);
        let leads = leads && !inner.is_stopped() && !*inner.closing.borrow();
        if !leads {
            inner.lease.give_up(leader);
        }
        Ok(leads)
    }

    /// Takes note that the leader hands over its lead; whether this replica does its part.
    pub(crate) async fn take_transfer(
        &self,
        peer: NodeStore,
        transfer: Transfer,
    ) -> Result<bool, Refusal> {
        crate::admission::transfer(&self.known(peer, transfer.from.node)?, &transfer)?;
        let inner = &self.inner;
        if transfer.to == inner.me {
            inner.wait_for_last(transfer.last).await;
        }
        let turn = inner.door.turn().await;
        let Some((vote, _)) = inner.caught_up().await else {
            return Ok(false);
        };
        let leader = leader_of_vote(&transfer.from);
        let is_of_now = vote == transfer.from || is_planted(Bug::HandOverOfAnyTerm);
        if !is_of_now {
            return Ok(false);
        }
        inner.turning.release(leader);
        if transfer.to != inner.me {
            inner.turning.left_to_another.set(Some(leader));
            inner.wake.notify_one();
            return Ok(true);
        }
        let has_all = inner.log.range().last >= transfer.last;
        if inner.is_embargoed() || !inner.stores.may_stand() || !has_all {
            inner.wake.notify_one();
            return Ok(false);
        }
        inner.turning.authorised.set(Some(leader));
        let stands = inner.raft.trigger().elect(false).await.is_ok();
        drop(turn);
        Ok(stands)
    }
}
