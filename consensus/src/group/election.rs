//! Standing for election: openraft stands when this says so.
//!
//! A replica stands when it follows nobody, or nobody that may count on it any more (`turning.rs`): at once when
//! the promise to the leader's node has run out. Those that are well and preferred stand a moment before the
//! others. A candidate first asks the others whether they would vote for it, which changes nothing anywhere; so
//! a replica that cannot win raises no term.
//!
//! A group without anything to do has no timer here: it is woken when openraft says something new, or when
//! the core finds that a promise has run out ([`super::Group::look`], `groups.rs`).

use super::GroupInner;
use super::turning::Tie;
use crate::admission::{self, Known, leader_of_vote};
use crate::convert;
use crate::planted::{Bug, is_planted};
use crate::route::GroupMember;
use corelith_io::{Instant, sleep};
use corelith_shards::{ReplicaId, Term};
use corelith_wire::peer::{self, PeerVote, VoteAnswer, VoteAsk, kinds};
use futures_util::future::select;
use futures_util::stream::{FuturesUnordered, StreamExt};
use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How many candidate steps a candidate is left that has a vote, before another one stands.
const STEPS_OF_A_CANDIDATE: u32 = 6;
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Whether a replica is to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Not before something changes.
    None,
    /// Not before then.
    At(Instant),
    /// After the others had their turn.
    Now,
}

#[cfg(test)]
impl super::Group {
    /// As if `peer` had asked for its vote in `term` and nothing kept this replica from it.
    pub(crate) async fn vote_away(&self, peer: ReplicaId, term: Term) {
        self.inner.vote_away(peer, term).await;
    }

    /// Whether it wants to stand, and what keeps it from turning from whom it follows.
    pub(crate) fn stands_for(&self) -> String {
        let inner = &self.inner;
        let turn = inner.may_turn(&inner.vote_seen(), inner.me, None);
        let lead = inner
            .raw_leading()
            .map(|leader| inner.lease.is_given_up(leader));
        let pairs = inner.stores.others().into_iter();
        let pairs = pairs.filter_map(|replica| Some((replica.0, inner.pairs.of(replica)?)));
        let heard = pairs.map(|(id, pair)| (id, pair.heard(), pair.who(), pair.promises()));
        let heard: Vec<_> = heard.collect();
        format!(
            "{:?} {turn:?} resigned {lead:?} now {:?} heard {heard:?}",
            inner.wish(),
            corelith_io::now()
        )
    }
}

/// How long a promise runs, as it is told: not shorter than it is.
pub(super) fn in_millis(promised: Duration) -> u32 {
    u32::try_from(promised.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// How an attempt to lead ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Campaign {
    /// It was too early: others had a promise to keep, which has run out meanwhile.
    Early,
    /// It was won, or lost.
    Over,
}

/// What the others answered to the question whether they would vote.
#[derive(Debug)]
struct Poll {
    /// Those that would, this replica included.
    granted: BTreeSet<ReplicaId>,
    /// The shortest time for which a promise keeps one of them from it.
    promised: Option<Duration>,
    /// The latest term that one of them is in.
    highest: Term,
}

impl Poll {
    fn count(&mut self, voter: ReplicaId, answer: Option<VoteAnswer>) {
        let term = answer.map_or(Term(0), |answer| answer.vote.term);
        self.highest = self.highest.max(term);
        match answer {
            Some(answer) if answer.granted => {
                self.granted.insert(voter);
            }
            Some(answer) if answer.promised_ms > 0 => {
                let promised = Duration::from_millis(answer.promised_ms.into());
                let shortest = self.promised.map_or(promised, |known| known.min(promised));
                self.promised = Some(shortest);
            }
            _ => {}
        }
    }
}

impl GroupInner {
    /// Has the replica stand whenever it is to.
    pub(super) async fn stand_when_needed(self: Rc<Self>) {
        let mut server = self.server.clone();
        let mut attempts = 0_u32;
        loop {
            server.borrow_and_update();
            let woken = self.wake.notified();
            match self.wish() {
                Wish::None => {
                    attempts = 0;
                    let changed = pin!(server.changed());
                    if let futures_util::future::Either::Left((Err(_), _)) =
                        select(changed, pin!(woken)).await
                    {
                        return;
                    }
                    continue;
                }
                Wish::At(until) => {
                    let _ = corelith_io::timeout(until - corelith_io::now(), woken).await;
                    continue;
                }
                Wish::Now => {}
            }
            let before = self.vote_seen();
            sleep(self.turn_among_candidates(&before, attempts)).await;
            if self.vote_seen() != before || self.wish() != Wish::Now {
                continue;
            }
            if self.has_stalled_lately() || self.is_contradicted() {
                // It could not lead either, and perhaps the leader goes on as its disk does.
                sleep(self.liveness.options().beat).await;
                continue;
            }
            if self.campaign().await == Campaign::Over {
                attempts = attempts.saturating_add(1);
            }
        }
    }

    /// This replica's vote, as openraft said last.
    pub(super) fn vote_seen(&self) -> PeerVote {
        convert::peer_vote(&self.server.borrow_watched().vote)
    }

    fn wish(&self) -> Wish {
        let is_formed = {
            let server = self.server.borrow_watched();
            server.membership_config.log_id().is_some()
        };
        if self.is_stopped()
            || !is_formed
            || !self.stores.may_stand()
            || self.raw_leading().is_some()
        {
            return Wish::None;
        }
        if let Some(until) = self.liveness.embargo_until() {
            return Wish::At(until);
        }
        let vote = self.vote_seen();
        match self.may_turn(&vote, self.me, None) {
            Tie::Bound(_) if !is_planted(Bug::StandWhilePromised) => Wish::None,
            Tie::Lapsed => match self.new_leader_until(&vote) {
                Some(until) => Wish::At(until),
                None => Wish::Now,
            },
            _ => Wish::Now,
        }
    }

    /// Until when the leader with `vote` is so new that its node may not have a promise yet.
    fn new_leader_until(&self, vote: &PeerVote) -> Option<Instant> {
        let promise = self.liveness.options().promise;
        let until = self.turning.is_new_until(leader_of_vote(vote), promise);
        until.filter(|until| corelith_io::now() < *until)
    }

    /// How long this replica lets others go first.
    fn turn_among_candidates(&self, vote: &PeerVote, attempts: u32) -> Duration {
        let step = self.options.candidate_step;
        let promise = self.liveness.options().promise;
        let now = corelith_io::now();
        let order = self.in_order();
        let others = order.iter().take_while(|voter| **voter != self.me);
        let gone = |voter: ReplicaId| vote.committed && vote.node == voter;
        let is_there = |voter: ReplicaId| {
            let pair = self.pairs.of(voter);
            pair.is_some_and(|pair| {
                pair.heard().is_some_and(|heard| now - heard < promise)
                    && pair.health(self.shard_id).is_well()
            })
        };
        let before = others
            .filter(|voter| !gone(**voter) && is_there(**voter))
            .count();
        let mut steps = u32::try_from(before).unwrap_or(u32::MAX);
        if !self.health().is_well() {
            steps += u32::try_from(order.len()).unwrap_or(0);
        }
        let has_candidate = !vote.committed && vote.node != self.me && vote.term > Term(0);
        if has_candidate || self.turning.is_left_to_another(leader_of_vote(vote)) {
            steps += STEPS_OF_A_CANDIDATE;
        }
        let pause = match attempts {
            0 => Duration::ZERO,
            again => {
                let longest = (step * 2_u32.saturating_pow(again.min(6))).min(PAUSE_MAX);
                longest / 2 + longest / 2 * (corelith_io::random_u64() >> 56) as u32 / 256
            }
        };
        step * steps + pause
    }

    /// The voters, the preferred one first and the others as they follow it.
    fn in_order(&self) -> Vec<ReplicaId> {
        let mut order = self.stores.voters();
        order.sort_by_key(|voter| voter.node());
        let preferred = self.preferred.get();
        let first = order.iter().position(|voter| voter.node() == preferred);
        order.rotate_left(first.unwrap_or(0));
        order
    }

    /// Asks the others, and stands if a majority would vote for this replica; then waits for what comes of it,
    /// or until those have no promise to keep any more that have one.
    async fn campaign(self: &Rc<Self>) -> Campaign {
        let limit = self.liveness.options().promise;
        let Some((before, _)) = self.caught_up().await else {
            return Campaign::Over;
        };
        // Those who stood in vain may be in a later term, and vote for nobody below it.
        let term = Term(before.term.max(self.turning.highest_term()).0 + 1);
        let poll = self.poll_others(term, limit).await;
        self.turning.heard_term(poll.highest);
        if !self.is_enough(&poll) {
            return match poll.promised {
                Some(promised) => {
                    sleep(promised.min(limit)).await;
                    Campaign::Early
                }
                None => Campaign::Over,
            };
        }
        let mut server = self.server.clone();
        server.borrow_and_update();
        if !self.stand(&before, term).await {
            return Campaign::Over;
        }
        let decided = async {
            while !self.vote_seen().committed && server.changed().await.is_ok() {
                server.borrow_and_update();
            }
        };
        // If it is not decided by then another attempt is made.
        let _ = corelith_io::timeout(limit, decided).await;
        Campaign::Over
    }

    /// Whether those that would vote for this replica are a majority.
    fn is_enough(&self, poll: &Poll) -> bool {
        self.stores
            .is_majority(|voter| poll.granted.contains(&voter))
    }

    /// Asks the others whether they would vote for this replica in `term`.
    async fn poll_others(self: &Rc<Self>, term: Term, limit: Duration) -> Poll {
        let ask = VoteAsk {
            vote: PeerVote {
                term,
                node: self.me,
                committed: false,
            },
            last: self.log.range().last,
            handed_over_by: None,
        };
        let others = self.stores.other_voters().into_iter();
        let mut asked: FuturesUnordered<_> = others
            .map(|voter| async move { (voter, self.would_vote(voter, ask, limit).await) })
            .collect();
        let mut poll = Poll {
            granted: [self.me].into(),
            promised: None,
            highest: Term(0),
        };
        let until = corelith_io::now() + limit;
        while !self.is_enough(&poll) {
            // One that is gone does not answer: those that are there are not kept waiting for it.
            let patience = match asked.len() > 1 {
                true => until - corelith_io::now(),
                false => self.liveness.options().beat.min(until - corelith_io::now()),
            };
            match corelith_io::timeout(patience, asked.next()).await {
                Ok(Some((voter, answer))) => poll.count(voter, answer),
                Ok(None) | Err(corelith_io::Elapsed) => break,
            }
        }
        poll
    }

    /// What a peer answers to the question whether it would vote.
    async fn would_vote(
        &self,
        replica: ReplicaId,
        ask: VoteAsk,
        limit: Duration,
    ) -> Option<VoteAnswer> {
        let link = (self.link_to)(replica.node());
        let target = self.target(replica);
        let asked = link.ask(target, limit, kinds::VOTE_REPLY, |out, head| {
            peer::encode_vote(out, head, true, &ask);
        });
        let store = link.store()?;
        let frame = asked.ok()?.await.ok()?;
        if frame.header.head.kind != kinds::VOTE_REPLY
            || !self.stores.counts(GroupMember { replica, store })
        {
            return None;
        }
        let answer = peer::parse_vote_reply(&frame).ok()?;
        let known = Known {
            me: self.me,
            peer: replica,
            term: ask.vote.term,
            stores: &self.stores,
        };
        match admission::vote_answer(&known, true, &ask.vote, &answer) {
            Ok(()) => Some(answer),
            Err(refusal) => {
                link.refused(self.shard_id, &refusal);
                None
            }
        }
    }

    /// Has openraft stand in `term`, if nothing keeps this replica from turning from whom it follows.
    /// Not if its vote is another one than `before`, when the others were asked: it has voted for somebody since.
    async fn stand(&self, before: &PeerVote, term: Term) -> bool {
        let entering = self.door.turn().await;
        let Some((vote, _)) = self.caught_up().await else {
            return false;
        };
        if vote != *before {
            return false;
        }
        if self.is_embargoed() || !self.stores.may_stand() || self.raw_leading().is_some() {
            return false;
        }
        let turn = self.may_turn(&vote, self.me, None);
        let turn = match turn {
            Tie::Bound(_) if is_planted(Bug::StandWhilePromised) => Tie::Over,
            turn => turn,
        };
        if !self.turn(&vote, turn) {
            return false;
        }
        self.turning.authorised().set(None);
        tracing::debug!(shard = %self.shard_id, %term, ?turn, "stands for election");
        let other = self.stores.other_voters().first().copied();
        if term.0 > vote.term.0 + 1
            && let Some(other) = other
        {
            self.raise_term(other, Term(term.0 - 1)).await;
        }
        let stood = self.raft.trigger().elect(false).await.is_ok();
        drop(entering);
        stood
    }

    /// What this replica answers when `ask` asks whether it would vote for the asker.
    pub(super) fn would_grant(self: &Rc<Self>, ask: &VoteAsk) -> VoteAnswer {
        let vote = self.vote_seen();
        let last = self.log.range().last;
        let turn = self.may_turn(&vote, ask.vote.node, None);
        // As when it is asked for the vote itself: one that was given is given again.
        let is_newer = leader_of_vote(&ask.vote) > leader_of_vote(&vote) || ask.vote == vote;
        let is_left_alone = turn == Tie::Lapsed && self.new_leader_until(&vote).is_some();
        let is_wanted = !self.is_embargoed() && !self.leads_well() && !is_left_alone;
        let promised = match turn {
            Tie::Bound(until) => {
                self.doubt(&vote);
                until - corelith_io::now()
            }
            _ => Duration::ZERO,
        };
        let is_bound = promised > Duration::ZERO && !is_planted(Bug::VoteWhilePromised);
        VoteAnswer {
            vote,
            last,
            granted: is_newer && is_wanted && !is_bound && ask.last >= last,
            promised_ms: in_millis(promised),
        }
    }
}
