//! Leading: what a leader looks at while it leads, and how it leaves the lead.
//!
//! A leader resigns for good, for its whole term: it gives up its lease, tells the others, so that they need not
//! wait for a promise to run out, and follows. It does so when it hands the lead over and nobody takes it,
//! when its log stalls, when no majority reaches it, and when its log contradicts that of a majority.
//!
//! Invariants:
//! * A leader that resigned neither answers nor proposes in that term, and says to whoever asks that it leads no
//!   more.
//! * A hand-over that failed is not repeated at once.

use super::{Group, GroupInner};
use crate::convert;
use crate::link::PeerSeen;
use crate::planted::{Bug, is_planted};
use crate::types::{LeaderId, LogId, Types};
use corelith_io::Instant;
use corelith_shards::{NodeId, ReplicaId, Term};
use corelith_wire::peer::{self, Health, PeerVote, Transfer, kinds};
use openraft::LogIdOptionExt;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How far behind a node may be when it gets the lead, in entries: few enough that it catches up at
/// once.
const LEAD_LAG_MAX: u64 = 1000;
/// First pause after a hand-over that failed; it doubles.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(2);
/// Longest such pause.
const HAND_OVER_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A leader whose writes take so many times as long as those of another node is slow,
const SLOW_TIMES: u32 = 10;
/// if they take at least so long,
const SLOW_LEAST_US: u32 = 4_000;
/// for so long.
const SLOW_FOR: Duration = Duration::from_secs(2);
/// A write to the log takes long after this part of a promise.
pub(crate) const STALLED_PART: u32 = 3;
/// For so many promises a leader whose log was contradicted does not stand.
const CONTRADICTED_PROMISES: u32 = 20;
/// How often a resignation is told again while there is no other leader.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What a leader remembers of its lead.
#[derive(Default)]
pub(super) struct Lead {
    /// This replica leads since then.
    since: Cell<Option<(LeaderId, Instant)>>,
    /// Since when the preferred leader could lead.
    able_since: Cell<Option<Instant>>,
    /// Since when this node is slower than another one.
    slow_since: Cell<Option<Instant>>,
    /// Before then no hand-over is tried, and how long the pause was.
    pause: Cell<Option<(Instant, Duration)>>,
    /// Since when it has no connection to a majority.
    unlinked_since: Cell<Option<Instant>>,
    /// When it resigned for that: nobody could be told so, other than by beats that do not vouch for its core.
    cut_off_at: Cell<Option<Instant>>,
    /// When it was told that this replica has resigned.
    told: Cell<Option<Instant>>,
    /// The last entry that followers were told twice to be committed.
    repeated: Cell<Option<LogId>>,
    /// When the core looked at it last.
    seen_at: Cell<Option<Instant>>,
    /// Nothing was left to do when it was looked at last, and who led then.
    settled: Cell<Option<Option<LeaderId>>>,
    /// When it resigned because the others hold something else.
    contradicted_at: Cell<Option<Instant>>,
    /// When a write to the log was seen to take long, whoever leads.
    stalled: Cell<Option<Instant>>,
}

impl Lead {
    /// Notes that this replica leads as `leader` since `now`.
    fn begin(&self, leader: LeaderId, now: Instant) {
        let before = self.since.get().map(|(before, _)| before);
        assert!(
            before.is_none_or(|before| before < leader),
            "{leader} leads after {before:?}"
        );
        self.since.set(Some((leader, now)));
        for since in [&self.able_since, &self.slow_since, &self.unlinked_since] {
            since.set(None);
        }
    }
}

impl Group {
    /// Hands the lead over, if this replica has it and another can take it, and waits until it is gone, for
    /// at most as long as the promises to this node run anyway.
    pub(crate) async fn give_lead_away(&self) {
        let inner = &self.inner;
        let until = corelith_io::now() + inner.liveness.options().promise;
        let (leading, to) = loop {
            let Some(leading) = inner.leading() else {
                return;
            };
            if let Some(to) = inner.successor() {
                break (leading, to);
            }
            // What was written last may not have reached the others yet.
            if inner.stores.is_alone() || corelith_io::now() >= until {
                return;
            }
            corelith_io::sleep(inner.liveness.options().beat / 10).await;
        };
        let mut server = inner.server.clone();
        inner.hand_over(leading, to).await;
        let gone = async {
            while inner.is_leader(leading) && server.changed().await.is_ok() {
                server.borrow_and_update();
            }
        };
        if corelith_io::timeout(inner.liveness.options().promise, gone)
            .await
            .is_err()
        {
            tracing::info!(shard = %inner.shard_id, %to, "the lead was not taken before the stop");
        }
    }

    /// Whether nothing has come up since it was looked at last, as long as nothing is being written, all of its members
    /// answer and are connected to, and the node has no news.
    pub(crate) fn is_at_rest(&self) -> bool {
        let inner = &self.inner;
        let leads = inner.raw_leading();
        let goes_on = leads.is_none_or(|leader| !inner.lease.is_given_up(leader));
        inner.lead.settled.get() == Some(leads) && goes_on && !inner.is_stopped()
    }

    /// Looks at what may need doing, as often as nodes send beats; `is_round` every half second, or every two seconds at rest.
    pub(crate) fn look(&self, now: Instant, has_news: bool, is_round: bool) {
        let inner = &self.inner;
        inner.lead.seen_at.set(Some(now));
        inner.lead.settled.set(None);
        if inner.stalled_for(now) >= inner.liveness.options().promise / STALLED_PART {
            inner.lead.stalled.set(Some(now));
        }
        match inner.raw_leading() {
            Some(leader) if inner.lease.is_given_up(leader) => inner.tell_resignation(leader, now),
            Some(leader) if inner.is_stopped() => inner.tell_resignation(leader, now),
            Some(leader) => inner.look_at_lead(leader, now, has_news, is_round),
            None => {
                inner.lead.since.set(None);
                if has_news {
                    inner.wake.notify_one();
                }
            }
        }
        if inner.leading().is_none() {
            inner.lane.fail_if_any(|| inner.not_leading());
        }
        let leads = inner.raw_leading();
        if leads.is_none_or(|leader| inner.is_settled(leader, now)) {
            inner.lead.settled.set(Some(leads));
        }
        if is_round {
            self.keep_uploads(now);
            inner.say_what_it_waits_for(now);
            if inner.engine.is_disk_full() || inner.engine.is_log_in_the_way() {
                inner.purge_wanted.notify_one();
            }
        }
    }

    /// Whether this replica has resigned a moment ago without being able to say so.
    pub(crate) fn is_cut_off(&self, now: Instant) -> bool {
        let promise = self.inner.liveness.options().promise;
        let cut_off = self.inner.lead.cut_off_at.get();
        cut_off.is_some_and(|at| now - at < promise * 2)
    }

    /// A promise of this node to `node` has run out.
    pub(crate) fn promise_ran_out(&self, node: NodeId) {
        if self.inner.vote_seen().node.node() == node {
            self.inner.wake.notify_one();
        }
    }

    /// A connection to `node` is new: what was lost with the one before is sent again.
    pub(crate) fn connected(&self, node: NodeId) {
        let inner = &self.inner;
        let is_member = |replica: &ReplicaId| replica.node() == node;
        if inner.leading().is_some() && inner.stores.others().iter().any(is_member) {
            inner.send_heartbeat();
        }
    }
}

impl GroupInner {
    /// Since when this replica leads as `leader`, as far as was noticed.
    pub(super) fn leads_since(&self, leader: LeaderId) -> Option<Instant> {
        let since = self.lead.since.get();
        since.and_then(|(known, since)| (known == leader).then_some(since))
    }

    /// This node's lead as openraft has it, resigned or not.
    pub(super) fn raw_leading(&self) -> Option<LeaderId> {
        let server = self.server.borrow_watched();
        let vote = &server.vote;
        let mine = vote.committed && vote.leader_id.node_id == self.me.0;
        (mine && server.state == ServerState::Leader).then_some(vote.leader_id)
    }

    /// Whether openraft leads as `leader`.
    pub(super) fn is_leader(&self, leader: LeaderId) -> bool {
        self.raw_leading() == Some(leader) && !self.is_stopped()
    }

    /// This node's lead, if it has one and goes on to.
    pub(super) fn leading(&self) -> Option<LeaderId> {
        self.raw_leading()
            .filter(|leader| !self.is_stopped() && !self.lease.is_given_up(*leader))
            // Peers are told that a group which closes leads nothing.
            .filter(|_| !*self.closing.borrow())
    }

    /// Whether this node leads with a majority, or has only just begun to.
    pub(super) fn leads_well(&self) -> bool {
        let Some(leader) = self.leading() else {
            return false;
        };
        let now = corelith_io::now();
        let since = self.lead.since.get().filter(|(known, _)| *known == leader);
        let is_new = since.is_none_or(|(_, since)| now - since < self.liveness.options().promise);
        is_new || self.lease.holds(leader, now)
    }

    /// Whether this leader has applied an entry of its own.
    pub(super) fn has_applied_own(&self, leader: LeaderId) -> bool {
        let applied = self.applied.last();
        applied.is_some_and(|id| (id.term.0, id.node.0) == (leader.term, leader.node_id))
    }

    /// When the core looked at the lead last.
    pub(super) fn lead_seen_at(&self) -> Instant {
        self.lead.seen_at.get().unwrap_or_else(corelith_io::now)
    }

    /// Has all followers acknowledge that this node leads.
    pub(super) fn send_heartbeat(&self) {
        let raft = self.raft.clone();
        drop(corelith_io::spawn(async move {
            // An error says that openraft has stopped.
            let _ = raft.trigger().heartbeat().await;
        }));
    }

    fn look_at_lead(self: &Rc<Self>, leader: LeaderId, now: Instant, has_news: bool, round: bool) {
        let promise = self.liveness.options().promise;
        let since = match self.lead.since.get() {
            Some((known, since)) if known == leader => since,
            _ => {
                self.lead.begin(leader, now);
                now
            }
        };
        if round {
            self.look_at_members(leader);
        }
        let others = self.stores.others();
        if others.is_empty() {
            return;
        }
        if now - since >= promise {
            // Nothing is won if the others' disks do not answer either.
            if self.stalled_for(now) >= promise * 2 / 3 && self.could_another_lead() {
                return self.resign(leader, "its log stalls");
            }
            if !self.is_reached() {
                return self.resign(leader, "no majority reaches it");
            }
            let against = self.peers.contradictions.of(self.vote_seen());
            if !against.is_empty() && !self.stores.is_majority(|voter| !against.contains(&voter)) {
                self.lead.contradicted_at.set(Some(now));
                return self.resign(leader, "what a majority holds contradicts its log");
            }
            // Beats go another way than what a leader sends.
            let is_linked = self.stores.is_majority(|voter| {
                voter == self.me || (self.link_to)(voter.node()).seen() == PeerSeen::Connected
            });
            if is_linked {
                self.lead.unlinked_since.set(None);
            } else {
                let since = self.lead.unlinked_since.get().unwrap_or(now);
                self.lead.unlinked_since.set(Some(since));
                if now - since >= promise {
                    self.lead.cut_off_at.set(Some(now));
                    return self.resign(leader, "it has no connection to a majority");
                }
            }
        }
        if (has_news || !self.lease.holds(leader, now)) && self.lease.is_outdated(leader) {
            self.send_heartbeat();
        }
        if round {
            self.repair();
            self.look_for_successor(leader, now);
        }
    }

    /// Whether a majority of the voters answers, this replica included.
    pub(super) fn is_reached(&self) -> bool {
        let is_there = |voter: ReplicaId| voter == self.me || self.has_answered(voter);
        self.stores.is_majority(is_there)
    }

    /// Whether this leader needs to be looked at only when something has changed, or some time later.
    fn is_settled(&self, leader: LeaderId, now: Instant) -> bool {
        let since = self.lead.since.get();
        let promise = self.liveness.options().promise;
        let is_new = since.is_none_or(|(known, since)| known != leader || now - since < promise);
        let is_linked = self.lead.unlinked_since.get().is_none();
        !is_new && is_linked && (self.stores.is_alone() || self.lease.holds(leader, now))
    }

    /// Has followers told again what they may have missed: openraft says once that an entry is committed, and may
    /// have given up on one that lags. An idle group sends nothing.
    fn repair(&self) {
        let (is_behind, committed) = {
            let data = self.data.borrow_watched();
            let last = data.last_log;
            let others = self.stores.others().into_iter();
            let mut others = others.filter(|replica| self.has_answered(*replica));
            let is_behind = others.any(|replica| self.matching(&data, replica) < last);
            (is_behind, data.local_committed)
        };
        if is_behind || self.lead.repeated.replace(committed) != committed {
            self.send_heartbeat();
        }
    }

    /// Whether another node is there and well.
    fn could_another_lead(&self) -> bool {
        let mut others = self.stores.other_voters().into_iter();
        others.any(|voter| self.has_answered(voter) && self.is_well(voter))
    }

    /// Whether a write to the log takes long, or has within the last promise.
    pub(super) fn has_stalled_lately(&self) -> bool {
        let stalled = self.lead.stalled.get();
        let promise = self.liveness.options().promise;
        stalled.is_some_and(|stalled| corelith_io::now() - stalled < promise)
    }

    /// Whether others held something else than this replica while it led, not long ago: it lets them go on, and
    /// then takes what they have.
    pub(super) fn is_contradicted(&self) -> bool {
        let at = self.lead.contradicted_at.get();
        let pause = self.liveness.options().promise * CONTRADICTED_PROMISES;
        at.is_some_and(|at| corelith_io::now() - at < pause)
    }

    /// How long the oldest write to the log has taken so far.
    pub(super) fn stalled_for(&self, now: Instant) -> Duration {
        let oldest = self.log.pulse().oldest;
        oldest.map_or(Duration::ZERO, |oldest| now - oldest)
    }

    /// Hands the lead over if there is a reason to.
    fn look_for_successor(self: &Rc<Self>, leader: LeaderId, now: Instant) {
        if self.lead.pause.get().is_some_and(|(until, _)| now < until) {
            return;
        }
        let (to, why) = if let Some(why) = self.why_not_lead(now) {
            (self.successor(), why)
        } else if let Some(preferred) = self.is_time_to_hand_back(now) {
            (Some(preferred), "the preferred leader is back")
        } else {
            return;
        };
        let Some(to) = to else { return };
        tracing::info!(shard = %self.shard_id, %to, why, "hands the lead over");
        let group = Rc::clone(self);
        drop(corelith_io::spawn(async move {
            group.hand_over(leader, to).await;
        }));
    }

    /// What speaks against this replica's leading, if anything does.
    fn why_not_lead(&self, now: Instant) -> Option<&'static str> {
        let Health {
            is_damaged,
            is_disk_full,
            ..
        } = self.health();
        if is_damaged {
            return Some("files are damaged here");
        }
        if is_disk_full {
            return Some("there is no room here");
        }
        let mine = self.write_us(now);
        let others = self.stores.other_voters().into_iter();
        let others = others.filter(|voter| self.could_lead(*voter));
        let others = others.filter_map(|voter| self.pairs.of(voter));
        let best = others.map(|pair| pair.write_us()).min();
        let is_slow = mine >= SLOW_LEAST_US && best.is_some_and(|best| mine / SLOW_TIMES > best);
        if !is_slow {
            self.lead.slow_since.set(None);
            return None;
        }
        let since = self.lead.slow_since.get().unwrap_or(now);
        self.lead.slow_since.set(Some(since));
        (now - since >= SLOW_FOR).then_some("the disk is much slower than that of another node")
    }

    /// How long this node's log takes to make a write durable, in microseconds.
    fn write_us(&self, now: Instant) -> u32 {
        let took = self.log.pulse().latency.max(self.stalled_for(now));
        u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
    }

    /// A log that takes less than this makes that of `voter` slow beside it; 0 if it is never slow.
    fn slowest_of(&self, voter: ReplicaId) -> u32 {
        let theirs = self.pairs.of(voter).map_or(0, |pair| pair.write_us());
        match theirs >= SLOW_LEAST_US {
            true => theirs / SLOW_TIMES,
            false => 0,
        }
    }

    /// The preferred leader, if another than this replica is and has been able to lead for long enough.
    fn is_time_to_hand_back(&self, now: Instant) -> Option<ReplicaId> {
        let wanted = self.options.lead_back_after?;
        let preferred = self.voter_on(self.preferred.get());
        let preferred = preferred.filter(|preferred| *preferred != self.me);
        let able = preferred.filter(|preferred| {
            let is_slow = self.write_us(now) < self.slowest_of(*preferred);
            !is_slow && self.could_lead(*preferred)
        });
        if able.is_none() || self.has_stalled_lately() {
            self.lead.able_since.set(None);
            return None;
        }
        let since = self.lead.able_since.get().unwrap_or(now);
        self.lead.able_since.set(Some(since));
        able.filter(|_| now - since >= wanted)
    }

    /// The voter of a node, of those that stay.
    pub(super) fn voter_on(&self, node: NodeId) -> Option<ReplicaId> {
        let mut staying = self.stores.staying().into_iter();
        staying.find(|voter| voter.node() == node)
    }

    /// The voter that could lead and is furthest. One that lacks a committed entry would not be elected,
    /// and may wait for the very entry that is damaged.
    pub(super) fn successor(&self) -> Option<ReplicaId> {
        self.successor_among(|_| true)
    }

    /// The same, of those that are wanted.
    pub(super) fn successor_among(&self, wanted: impl Fn(ReplicaId) -> bool) -> Option<ReplicaId> {
        let others = self.stores.staying().into_iter();
        let others = others.filter(|one| *one != self.me && wanted(*one) && self.could_lead(*one));
        let data = self.data.borrow_watched();
        let matching = |voter: ReplicaId| self.matching(&data, voter).index();
        // The first of those that are equally far.
        let best = others.rev().max_by_key(|voter| matching(*voter))?;
        (matching(best) >= data.local_committed.index()).then_some(best)
    }

    /// The last entry that a follower is known to have.
    pub(super) fn matching(
        &self,
        data: &RaftDataMetrics<Types>,
        follower: ReplicaId,
    ) -> Option<LogId> {
        let replication = data.replication.as_ref()?;
        replication.get(&follower.0).copied().flatten()
    }

    /// Whether the node of a replica says that the replica is well.
    fn is_well(&self, replica: ReplicaId) -> bool {
        let pair = self.pairs.of(replica);
        pair.is_some_and(|pair| pair.health(self.shard_id).is_well())
    }

    /// Whether this replica leads, and `voter` answers, is well and nearly caught up.
    pub(super) fn could_lead(&self, voter: ReplicaId) -> bool {
        if self.leading().is_none() || !self.is_well(voter) {
            return false;
        }
        let data = self.data.borrow_watched();
        let matching = self.matching(&data, voter);
        let last = data.last_log.next_index();
        let lag = last - matching.next_index().min(last);
        matching.is_some() && lag <= LEAD_LAG_MAX && self.has_answered(voter)
    }

    /// Whether the beats of a replica's node come.
    pub(super) fn has_answered(&self, replica: ReplicaId) -> bool {
        let heard = self.pairs.of(replica).and_then(|pair| pair.heard());
        heard.is_some_and(|heard| corelith_io::now() - heard < self.liveness.options().promise)
    }

    /// Hands the lead over, after the lease was given up. If nobody has taken it when the promises to this node
    /// have run out, this replica follows again.
    pub(super) async fn hand_over(self: &Rc<Self>, leading: LeaderId, to: ReplicaId) {
        assert!(to != self.me, "{to} hands the lead to itself");
        self.lease.give_up(leading);
        assert!(
            self.lease.is_given_up(leading) || is_planted(Bug::KeepLeaseAtHandOver),
            "{leading} leaves with its lease"
        );
        self.lead.told.set(Some(corelith_io::now()));
        drop(self.raft.trigger().transfer_leader(to.0).await);
        let group = Rc::clone(self);
        drop(corelith_io::spawn(async move {
            corelith_io::sleep(group.liveness.options().promise).await;
            if !group.is_leader(leading) {
                group.lead.pause.set(None);
                return;
            }
            let now = corelith_io::now();
            let pause = group.lead.pause.get();
            let pause = pause.map_or(HAND_OVER_PAUSE, |(_, pause)| pause * 2);
            let pause = pause.min(HAND_OVER_PAUSE_MAX);
            group.lead.pause.set(Some((now + pause, pause)));
            tracing::warn!(shard = %group.shard_id, %to, "the lead was not taken");
            if is_planted(Bug::ResumeLease) {
                return group.lease.resume();
            }
            group.step_down(leading).await;
        }));
    }

    /// Leads no more, for a reason other than that somebody else takes over.
    pub(super) fn resign(self: &Rc<Self>, leader: LeaderId, why: &'static str) {
        tracing::warn!(shard = %self.shard_id, why, "resigns as leader");
        self.lease.give_up(leader);
        self.readers
            .fail(&crate::GroupError::NotLeader { leader: None });
        self.lane.fail_if_any(|| self.not_leading());
        self.tell_resignation(leader, corelith_io::now());
        let group = Rc::clone(self);
        drop(corelith_io::spawn(
            async move { group.step_down(leader).await },
        ));
    }

    /// Tells the others that this replica leads no more, and asks the one that is furthest to stand.
    fn tell_resignation(self: &Rc<Self>, leader: LeaderId, now: Instant) {
        let told = self.lead.told.get();
        if told.is_some_and(|told| now - told < TELL_EVERY) {
            return;
        }
        self.lead.told.set(Some(now));
        let furthest = {
            let data = self.data.borrow_watched();
            let others = self.stores.staying().into_iter();
            let others = others.filter(|voter| *voter != self.me && self.has_answered(*voter));
            others.max_by_key(|voter| self.matching(&data, *voter).index())
        };
        let others = self.stores.others();
        let others_voting = self.stores.other_voters();
        let first = others_voting.first().or(others.first()).copied();
        let Some(to) = furthest.or(first) else {
            return;
        };
        assert!(to != self.me, "{to} is to stand and has resigned");
        self.lease.give_up(leader);
        let transfer = Transfer {
            from: PeerVote {
                term: Term(leader.term),
                node: ReplicaId(leader.node_id),
                committed: true,
            },
            to,
            last: self.log.range().last,
        };
        for other in others {
            let link = (self.link_to)(other.node());
            let limit = self.liveness.options().promise;
            if is_planted(Bug::KeepQuietWhenDeposed) {
                continue;
            }
            // Told again if it is lost.
            drop(
                link.ask(self.target(other), limit, kinds::DONE, |out, head| {
                    peer::encode_transfer(out, head, &transfer);
                }),
            );
        }
    }

    /// Has openraft lead no more, if it still leads as `leader`.
    async fn step_down(&self, leader: LeaderId) {
        let _entering = self.door.turn().await;
        let Some((vote, _)) = self.caught_up().await else {
            return;
        };
        if convert::vote(vote).leader_id != leader || !vote.committed {
            return;
        }
        let Some(other) = self.stores.others().first().copied() else {
            return;
        };
        self.raise_term(other, Term(leader.term + 1)).await;
    }
}
