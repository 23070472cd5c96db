//! Leading: what a leader looks at while it leads, and how it leaves the lead.
//!
//! A leader resigns for good, for its whole term: it gives up its lease, tells the others, so that they need not
//! wait for a promise to run out, and follows. It does so when it hands the lead over and nobody takes it,
//! when its log stalls, and when no majority reaches it.
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
use corelith_shards::{NodeId, Term};
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
            if inner.pairs.is_empty() || corelith_io::now() >= until {
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

    /// Looks at what may need doing, as often as nodes send beats; `is_round` every half second.
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
        let leads = inner.raw_leading();
        if leads.is_none_or(|leader| inner.is_settled(leader, now)) {
            inner.lead.settled.set(Some(leads));
        }
        if is_round {
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
        if self.inner.vote_seen().node == node {
            self.inner.wake.notify_one();
        }
    }

    /// A connection to `node` is new: what was lost with the one before is sent again.
    pub(crate) fn connected(&self, node: NodeId) {
        if self.inner.leading().is_some() && self.inner.pairs.contains_key(&node) {
            self.inner.send_heartbeat();
        }
    }
}

impl GroupInner {
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
        if self.pairs.is_empty() {
            return;
        }
        if now - since >= promise {
            // Nothing is won if the others' disks do not answer either.
            if self.stalled_for(now) >= promise * 2 / 3 && self.could_another_lead() {
                return self.resign(leader, "its log stalls");
            }
            let needed = self.stores.voters() / 2;
            let others = self.pairs.keys();
            if others.filter(|node| self.has_answered(**node)).count() < needed {
                return self.resign(leader, "no majority reaches it");
            }
            // Beats go another way than what a leader sends.
            let others = self.pairs.keys();
            let linked = others.filter(|node| (self.link_to)(node.0).seen() == PeerSeen::Connected);
            if linked.count() >= needed {
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

    /// Whether this leader needs to be looked at only when something has changed, or some time later.
    fn is_settled(&self, leader: LeaderId, now: Instant) -> bool {
        let since = self.lead.since.get();
        let promise = self.liveness.options().promise;
        let is_new = since.is_none_or(|(known, since)| known != leader || now - since < promise);
        let is_linked = self.lead.unlinked_since.get().is_none();
        !is_new && is_linked && (self.pairs.is_empty() || self.lease.holds(leader, now))
    }

    /// Has followers told again what they may have missed: openraft says once that an entry is committed, and may
    /// have given up on one that lags. An idle group sends nothing.
    fn repair(&self) {
        let (is_behind, committed) = {
            let data = self.data.borrow_watched();
            let last = data.last_log;
            let mut others = self.pairs.keys().filter(|node| self.has_answered(**node));
            let is_behind = others.any(|node| self.matching(&data, *node) < last);
            (is_behind, data.local_committed)
        };
        if is_behind || self.lead.repeated.replace(committed) != committed {
            self.send_heartbeat();
        }
    }

    /// Whether another node is there and well.
    fn could_another_lead(&self) -> bool {
        let mut others = self.pairs.iter();
        others.any(|(node, pair)| self.has_answered(*node) && pair.health(self.shard_id).is_well())
    }

    /// Whether a write to the log takes long, or has within the last promise.
    pub(super) fn has_stalled_lately(&self) -> bool {
        let stalled = self.lead.stalled.get();
        let promise = self.liveness.options().promise;
        stalled.is_some_and(|stalled| corelith_io::now() - stalled < promise)
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
        } else if self.is_time_to_hand_back(now) {
            (Some(self.preferred), "the preferred leader is back")
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
        let others = self.pairs.iter();
        let others = others.filter(|(node, _)| self.could_lead(**node));
        let best = others.map(|(_, pair)| pair.write_us()).min();
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

    /// A log that takes less than this makes `node` slow beside it; 0 if `node` is never slow.
    fn slowest_of(&self, node: NodeId) -> u32 {
        let theirs = self.pairs.get(&node).map_or(0, |pair| pair.write_us());
        match theirs >= SLOW_LEAST_US {
            true => theirs / SLOW_TIMES,
            false => 0,
        }
    }

    /// Whether the preferred leader has been able to lead for long enough.
    fn is_time_to_hand_back(&self, now: Instant) -> bool {
        let Some(wanted) = self.options.lead_back_after else {
            return false;
        };
        let is_slow = self.write_us(now) < self.slowest_of(self.preferred);
        let is_able = self.preferred != self.me && !is_slow && self.could_lead(self.preferred);
        if !is_able || self.has_stalled_lately() {
            self.lead.able_since.set(None);
            return false;
        }
        let since = self.lead.able_since.get().unwrap_or(now);
        self.lead.able_since.set(Some(since));
        now - since >= wanted
    }

    /// The node that could lead and is furthest. One that lacks a committed entry would not be elected,
    /// and may wait for the very entry that is damaged.
    fn successor(&self) -> Option<NodeId> {
        let others = self.members.iter().copied();
        let others = others.filter(|node| *node != self.me && self.could_lead(*node));
        let data = self.data.borrow_watched();
        let matching = |node: NodeId| self.matching(&data, node).index();
        // The first of those that are equally far.
        let best = others.rev().max_by_key(|node| matching(*node))?;
        (matching(best) >= data.local_committed.index()).then_some(best)
    }

    /// The last entry that a follower is known to have.
    fn matching(&self, data: &RaftDataMetrics<Types>, node: NodeId) -> Option<LogId> {
        let replication = data.replication.as_ref()?;
        replication.get(&node.0).copied().flatten()
    }

    /// Whether this node leads, and `node` answers, is well and nearly caught up.
    fn could_lead(&self, node: NodeId) -> bool {
        let Some(pair) = self.pairs.get(&node) else {
            return false;
        };
        if self.leading().is_none() || !pair.health(self.shard_id).is_well() {
            return false;
        }
        let data = self.data.borrow_watched();
        let matching = self.matching(&data, node);
        let last = data.last_log.next_index();
        let lag = last - matching.next_index().min(last);
        matching.is_some() && lag <= LEAD_LAG_MAX && self.has_answered(node)
    }

    /// Whether the beats of `node` come.
    pub(super) fn has_answered(&self, node: NodeId) -> bool {
        let heard = self.pairs.get(&node).and_then(|pair| pair.heard());
        heard.is_some_and(|heard| corelith_io::now() - heard < self.liveness.options().promise)
    }

    /// Hands the lead over, after the lease was given up. If nobody has taken it when the promises to this node
    /// have run out, this replica follows again.
    pub(super) async fn hand_over(self: &Rc<Self>, leading: LeaderId, to: NodeId) {
        assert!(to != self.me, "{to} hands the lead to itself");
        assert!(self.members.contains(&to), "{to} is no member");
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
    fn resign(self: &Rc<Self>, leader: LeaderId, why: &'static str) {
        tracing::warn!(shard = %self.shard_id, why, "resigns as leader");
        self.lease.give_up(leader);
        self.readers
            .fail(&crate::GroupError::NotLeader { leader: None });
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
            let others = self.members.iter().filter(|node| **node != self.me);
            let others = others.filter(|node| self.has_answered(**node));
            others
                .copied()
                .max_by_key(|node| self.matching(&data, *node).index())
        };
        let first = self.members.iter().find(|node| **node != self.me);
        let Some(to) = furthest.or(first.copied()) else {
            return;
        };
        assert!(to != self.me, "{to} is to stand and has resigned");
        self.lease.give_up(leader);
        let transfer = Transfer {
            from: PeerVote {
                term: Term(leader.term),
                node: NodeId(leader.node_id),
                committed: true,
            },
            to,
            last: self.log.range().last,
        };
        for node in self.members.iter().filter(|node| **node != self.me) {
            let link = (self.link_to)(node.0);
            let limit = self.liveness.options().promise;
            if is_planted(Bug::KeepQuietWhenDeposed) {
                continue;
            }
            // Told again if it is lost.
            drop(link.ask(self.shard_id, limit, kinds::DONE, |out, head| {
                peer::encode_transfer(out, head, &transfer);
            }));
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
        let Some(other) = self.members.iter().find(|node| **node != self.me) else {
            return;
        };
        self.raise_term(*other, Term(leader.term + 1)).await;
    }
}
