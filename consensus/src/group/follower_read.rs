//! Linearizable reads at a follower, and what they ask of the leader's own.
//!
//! A follower collects the reads that come, asks its leader for a read point with one question for all that wait, waits
//! until it has applied that far, and answers from its own engine. At most one question of a group is on its way.
//!
//! Why an answer is never old. The log orders everything: a write lies at its index, a read at the index that was applied
//! where it looked. So a read must lie at or behind each operation that ended before the read began.
//! * *A write before a read.* It was answered after its leader had applied it. The question leaves after the read came, and
//!   the leader answers under a lease checked after the question came (or after a majority has confirmed it): it was the
//!   only leader then. It has applied an entry of its own term, which lies behind what earlier leaders committed, and
//!   the point is at least what it has applied.
//! * *A follower's read before a follower's read.* A follower applies what is committed, maybe before its leader has, and
//!   answers with it. What a follower knows to be committed comes from its leader, from an earlier leader, from a
//!   snapshot or, after a restart, from its own log, where it came from one of these. The leader notes what it is about
//!   to announce before it leaves ([`Announced`](crate::announced::Announced)), and a point is at least that. What
//!   earlier leaders announced was committed in their terms, and lies before the entry of the own term. A snapshot holds
//!   what its sender had applied.
//! * *A follower's read before a leader's read.* For the same reason the leader answers a read only when it has applied
//!   all that it has announced.
//! * *Any read before a write.* A read shows what is committed, and a later write gets a higher index.
//!
//! A change of leaders between the point and the answer does no harm: what the point names is committed and stays, and
//! the read only had to see what was answered before it came. A new leader's own points and reads are held to its own
//! first entry, behind everything that a follower can have shown before it took that entry.
//!
//! Invariants:
//! * A question leaves after all reads came that it is for: those that come while one is on its way share the next.
//! * A point is an entry of the own term of the leader that names it.
//! * No more than [`READERS_WAITING_MAX`] reads wait, and none longer than a request to a peer may take.

use super::read::{ReadPoint, Reply};
use super::{Group, GroupInner};
use crate::admission::{self, Refusal};
use crate::convert;
use crate::error::GroupError;
use crate::limits::{
    FOLLOWER_ASK_PARTS, FOLLOWER_FEED_EVERY, FOLLOWER_GATHER_FROM, FOLLOWER_GATHER_MAX,
    FOLLOWER_PAUSE, READERS_WAITING_MAX,
};
use crate::planted::{Bug, is_planted};
use crate::route::{GroupMember, NodeStore};
use crate::stores::Standing;
use crate::types::LeaderId;
use corelith_io::sync::oneshot;
use corelith_io::{Instant, sleep, spawn, timeout};
use corelith_shards::{LogId, LogIndex};
use corelith_wire::peer::{self, AppendHead, GivenPoint, PeerVote, kinds};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

/// A read that waits.
struct FollowerReader {
    came: Instant,
    reply: Reply,
}

/// The reads that wait for a read point of the leader, or until one is applied here.
#[derive(Default)]
pub(super) struct FollowerReads {
    /// Those that no question on its way is for.
    arrived: RefCell<Vec<FollowerReader>>,
    /// Those that the question on its way is for.
    asked: RefCell<Vec<FollowerReader>>,
    /// Those that wait until an index is applied.
    behind: RefCell<BTreeMap<LogIndex, Vec<FollowerReader>>>,
    /// How many wait in all.
    waiting: Cell<usize>,
    /// The last point that the leader named.
    given: Cell<Option<GivenPoint>>,
    is_asking: Cell<bool>,
    is_applying: Cell<bool>,
    is_feeding: Cell<bool>,
    /// Questions that left.
    #[cfg(test)]
    questions: Cell<u64>,
}

impl FollowerReads {
    /// Answers reads that wait no more.
    fn answer(&self, readers: Vec<FollowerReader>, answer: &Result<ReadPoint, GroupError>) {
        self.leave(readers.len());
        for reader in readers {
            (reader.reply)(answer.clone());
        }
    }

    fn leave(&self, count: usize) {
        let waiting = self.waiting.get();
        assert!(waiting >= count, "{count} of {waiting} reads go");
        self.waiting.set(waiting - count);
    }

    /// Ends all reads that wait.
    pub(super) fn fail(&self, error: &GroupError) {
        let mut all = std::mem::take(&mut *self.arrived.borrow_mut());
        all.append(&mut self.asked.borrow_mut());
        let behind = std::mem::take(&mut *self.behind.borrow_mut());
        all.extend(behind.into_values().flatten());
        self.answer(all, &Err(error.clone()));
    }

    /// Takes those out of `readers` that have waited for `limit`.
    fn take_late(readers: &mut Vec<FollowerReader>, limit: Duration) -> Vec<FollowerReader> {
        let now = corelith_io::now();
        let is_late =
            |reader: &mut FollowerReader| now.saturating_duration_since(reader.came) >= limit;
        readers.extract_if(.., is_late).collect()
    }

    /// Takes those out whose index is applied.
    fn take_applied(&self, applied: Option<LogIndex>) -> Vec<FollowerReader> {
        let mut behind = self.behind.borrow_mut();
        let mut ready = Vec::new();
        while let Some(first) = behind.first_entry()
            && Some(*first.key()) <= applied
        {
            ready.append(&mut first.remove());
        }
        ready
    }
}

impl Group {
    /// A read point of this replica, whether it leads or follows: a leader's as by [`Group::on_read_point`], a follower's
    /// when its leader has named one that is applied here. `reply` is called exactly once, maybe before this returns.
    ///
    /// A follower that learns of no point in time answers `NotLeader`.
    pub fn on_replica_read_point(
        &self,
        reply: impl FnOnce(Result<ReadPoint, GroupError>) + 'static,
    ) {
        let inner = &*self.inner;
        if *inner.closing.borrow() || inner.is_stopped() {
            return reply(Err(inner.why_stopped()));
        }
        if inner.leading().is_some() {
            return self.on_read_point(reply);
        }
        if is_planted(Bug::FollowerAsksNobody) {
            return reply(inner.applied_point());
        }
        if !self.has_room_for_a_reader() {
            return reply(Err(GroupError::Throttled));
        }
        let reads = &inner.follower_reads;
        let readers = match is_planted(Bug::ShareQuestionOnItsWay) && reads.is_asking.get() {
            true => &reads.asked,
            false => &reads.arrived,
        };
        readers
            .borrow_mut()
            .push(FollowerReader::new(Box::new(reply)));
        if !reads.is_asking.replace(true) {
            drop(spawn(self.clone().ask_for_readers()));
        }
    }

    /// [`Group::on_replica_read_point`] as a future.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn replica_read_barrier(&self) -> Result<ReadPoint, GroupError> {
        let (sender, receiver) = oneshot::channel();
        self.on_replica_read_point(|point| super::note(sender, point));
        receiver.await.unwrap_or(Err(GroupError::Shutdown))
    }

    /// Counts one more reader, if that is not one too many.
    fn has_room_for_a_reader(&self) -> bool {
        let waiting = &self.inner.follower_reads.waiting;
        let has_room = waiting.get() < READERS_WAITING_MAX;
        if has_room {
            waiting.set(waiting.get() + 1);
        }
        has_room
    }

    /// Answers a read once `index` is applied.
    pub(super) fn answer_once_applied(&self, index: LogIndex, reply: Reply) {
        if !self.has_room_for_a_reader() {
            return reply(Err(GroupError::Throttled));
        }
        self.wait_applied(index, vec![FollowerReader::new(reply)]);
    }

    fn wait_applied(&self, index: LogIndex, readers: Vec<FollowerReader>) {
        let reads = &self.inner.follower_reads;
        if self.inner.applied_index() >= Some(index) {
            return reads.answer(readers, &self.inner.applied_point());
        }
        let mut behind = reads.behind.borrow_mut();
        behind.entry(index).or_default().extend(readers);
        if !reads.is_applying.replace(true) {
            drop(spawn(self.clone().answer_as_applied()));
        }
    }

    /// Asks the leader again and again, until nobody waits for a point.
    async fn ask_for_readers(self) {
        let reads = &self.inner.follower_reads;
        loop {
            let mut arrived = std::mem::take(&mut *reads.arrived.borrow_mut());
            reads.asked.borrow_mut().append(&mut arrived);
            if reads.asked.borrow().is_empty() {
                break;
            }
            let asked_at = corelith_io::now();
            let given = self.ask_leader().await;
            let took = corelith_io::now().saturating_duration_since(asked_at);
            let mut readers = std::mem::take(&mut *reads.asked.borrow_mut());
            if let Some(given) = given {
                reads.given.set(Some(given));
                let pause = gathers_for(readers.len(), took);
                self.wait_applied(given.upto.index, readers);
                if let Some(pause) = pause {
                    sleep(pause).await;
                }
                continue;
            }
            if self.inner.leading().is_some() {
                reads.leave(readers.len());
                readers
                    .into_iter()
                    .for_each(|reader| self.on_read_point(reader.reply));
                continue;
            }
            let late = FollowerReads::take_late(&mut readers, self.ask_limit());
            reads.answer(late, &Err(self.inner.not_leading()));
            readers.append(&mut reads.arrived.borrow_mut());
            *reads.arrived.borrow_mut() = readers;
            sleep(FOLLOWER_PAUSE).await;
        }
        reads.is_asking.set(false);
    }

    /// How long a follower looks for a leader that names a point: one that is cut off should not keep
    /// clients from asking elsewhere.
    fn ask_limit(&self) -> Duration {
        self.inner.options.peer_timeout / FOLLOWER_ASK_PARTS
    }

    /// Asks the leader once; `None` if there is none, or none that answers with a point.
    async fn ask_leader(&self) -> Option<GivenPoint> {
        let inner = &*self.inner;
        let leader = inner
            .current_leader()
            .filter(|leader| *leader != inner.me)?;
        let link = (inner.link_to)(leader.node());
        let there = GroupMember {
            replica: leader,
            store: link.store()?,
        };
        if !inner.stores.counts(there) {
            return None;
        }
        let (expected, limit) = (kinds::READ_POINT_REPLY, self.ask_limit());
        let target = inner.target(leader);
        let asked = link.ask(target, limit, expected, peer::encode_read_point);
        let asked = asked.ok()?;
        #[cfg(test)]
        inner.follower_reads.questions.update(|count| count + 1);
        // The link looks only now and then who has waited for too long.
        let frame = timeout(limit, asked).await.ok()?.ok()?;
        if frame.header.head.kind != expected {
            return None;
        }
        let given = peer::parse_read_point_reply(&frame).ok()?;
        let from = NodeStore {
            node: leader.node(),
            store: there.store,
        };
        let verdict = match self.known(from, leader) {
            Ok(known) => admission::read_point(&known, &given),
            Err(refusal) => Err(refusal),
        };
        match verdict {
            Ok(()) => Some(given),
            Err(refusal) => {
                link.refused(inner.shard_id, &refusal);
                None
            }
        }
    }

    /// Answers reads as what they wait for is applied, until none waits.
    async fn answer_as_applied(self) {
        let (inner, reads) = (&*self.inner, &self.inner.follower_reads);
        loop {
            let ready = reads.take_applied(inner.applied_index());
            reads.answer(ready, &inner.applied_point());
            let next = reads.behind.borrow().keys().next().copied();
            let Some(next) = next else { break };
            let applied = inner.applied.wait(next);
            if timeout(FOLLOWER_FEED_EVERY, applied).await.is_err() {
                self.end_late();
                self.feed();
            }
        }
        reads.is_applying.set(false);
    }

    /// Ends reads that have waited as long as a request to a peer may take.
    fn end_late(&self) {
        let (inner, reads) = (&*self.inner, &self.inner.follower_reads);
        let limit = inner.options.peer_timeout;
        let mut late = Vec::new();
        reads.behind.borrow_mut().retain(|_, readers| {
            late.append(&mut FollowerReads::take_late(readers, limit));
            !readers.is_empty()
        });
        let error = match inner.leading() {
            Some(_) => GroupError::Unavailable,
            None => inner.not_leading(),
        };
        reads.answer(late, &Err(error));
    }

    /// Takes the last point for the news that so much is committed: the leader's own news may have been lost,
    /// and openraft sends it once. It commits only what this leader has shown here.
    fn feed(&self) {
        let inner = &*self.inner;
        let Some(given) = inner.follower_reads.given.get() else {
            return;
        };
        let leader = given.vote.node;
        let there = (inner.link_to)(leader.node()).caller();
        let is_behind = inner.applied_index() < Some(given.upto.index);
        let (true, Some(there)) = (is_behind && inner.leading().is_none(), there) else {
            return;
        };
        if inner.follower_reads.is_feeding.replace(true) {
            return;
        }
        let group = self.clone();
        drop(spawn(async move {
            let news = AppendHead {
                vote: given.vote,
                before: None,
                committed: Some(given.upto),
                count: 0,
            };
            if let Err(refusal) = group.take_beat(there, news).await {
                let shard = group.shard();
                tracing::debug!(%shard, %refusal, "a read point does not fit the log");
            }
            group.inner.follower_reads.is_feeding.set(false);
        }));
    }

    /// A read point for a follower: from where on it may answer what waits there. `None`: this replica does not
    /// lead, or cannot tell.
    pub(crate) async fn give_read_point(
        &self,
        follower: NodeStore,
    ) -> Result<Option<GivenPoint>, Refusal> {
        self.listen_to(follower)?;
        if self.inner.stores.standing_of(follower) != Standing::Member {
            return Ok(None);
        }
        if self.under_lease().is_some() {
            return Ok(self.inner.point_to_give());
        }
        // Whoever leads after this led when it was confirmed, or has applied an entry of a later term.
        let confirmed = self.read_barrier().await;
        Ok(confirmed.ok().and_then(|_| self.inner.point_to_give()))
    }

    /// How many questions for read points left.
    #[cfg(test)]
    pub(crate) fn questions(&self) -> u64 {
        self.inner.follower_reads.questions.get()
    }
}

/// How long reads gather before the next question, after one for `readers` that `took` so long. Where many read, a
/// question for twice as many costs the leader half, and a read waits by half a question longer; alone, it never
/// waits.
fn gathers_for(readers: usize, took: Duration) -> Option<Duration> {
    (readers >= FOLLOWER_GATHER_FROM).then(|| took.min(FOLLOWER_GATHER_MAX))
}

impl FollowerReader {
    fn new(reply: Reply) -> Self {
        let came = corelith_io::now();
        Self { came, reply }
    }
}

impl GroupInner {
    /// The last applied entry, if this replica leads and the entry is of its own term, so that everything is
    /// applied here that earlier leaders committed.
    pub(super) fn own_applied(&self, leader: LeaderId) -> Option<LogId> {
        let applied = self.applied.last()?;
        let own = applied.term.0 == leader.term && applied.node.0 == leader.node_id;
        (own || is_planted(Bug::ReadBeforeOwnTerm)).then_some(applied)
    }

    /// What a read at this leader must see, if that is more than what is `applied`.
    pub(super) fn announced_beyond(&self, applied: LogIndex) -> Option<LogIndex> {
        let announced = self.peers.announced.last()?.index;
        (announced > applied && !is_planted(Bug::AnswerBehindFollowers)).then_some(announced)
    }

    /// What is applied now, as a read point.
    fn applied_point(&self) -> Result<ReadPoint, GroupError> {
        match self.applied.last() {
            Some(applied) => Ok(ReadPoint {
                term: applied.term,
                index: applied.index,
            }),
            None => Err(self.not_leading()),
        }
    }

    /// The point from which on followers may read, if this replica leads.
    fn point_to_give(&self) -> Option<GivenPoint> {
        let leader = self.leading()?;
        let applied = self.own_applied(leader)?;
        let announced = self.peers.announced.last();
        let beyond = announced.filter(|announced| announced.index > applied.index);
        let upto = match is_planted(Bug::PointBehindFollowers) {
            true => applied,
            false => beyond.unwrap_or(applied),
        };
        let vote = convert::peer_vote(&openraft::Vote {
            leader_id: leader,
            committed: true,
        });
        assert!(
            is_of(&vote, upto) || is_planted(Bug::ReadBeforeOwnTerm),
            "{upto:?} is no entry of {vote:?}"
        );
        Some(GivenPoint { vote, upto })
    }
}

/// Whether the leader with that vote made the entry.
fn is_of(vote: &PeerVote, entry: LogId) -> bool {
    (entry.term, entry.node) == (vote.term, vote.node)
}
