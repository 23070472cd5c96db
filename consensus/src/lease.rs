//! Whether a leader may answer a read without asking anybody.
//!
//! A leader counts a follower while the follower's node has promised this one that no replica there votes
//! against it ([`crate::liveness`]), and the follower has acknowledged the leader in the epoch that the promise
//! has. While it counts a majority, itself included, nobody else can be elected: any other majority has a
//! member in common with it, which would have to turn from the leader, and before that its node raises the
//! epoch, which it does not while the promise runs.
//!
//! What a majority is says the last membership in the leader's log, committed or not. While that is joint it is one of each
//! of the two configurations. Why that is enough: whoever else can be elected goes by a membership that has a
//! majority in common with every majority of the leader's. A membership is proposed when the one before is committed, and by
//! steps that keep it so: a candidate that knows the one before at most finds its log shorter than that of a
//! majority which has it, and who knows the same or the next one needs, of one of its configurations, a majority of the same
//! voters. A leader that is a voter no more does not count itself.
//!
//! Invariants:
//! * What voids a promise voids the lease first: before a leader tells anybody that it hands over the lead,
//!   or that it does not lead, it gives up the lease for the whole term, and never relies on it again.
//! * The epoch of an acknowledgement is from before openraft got what is acknowledged; an older one counts for
//!   nothing.
//! * The lease is checked against a clock that is read after the request was taken from its connection.
//! * A confirmation counts from when its own request was sent. openraft's time of the last acknowledgement
//!   does not do: it credits an answer to several requests, or one that lay unread while the process was
//!   stopped, with the time at which the last request was sent.

use crate::activity::GroupActivity;
use crate::limits::MEMBERS_MAX;
use crate::pairs::Pairs;
use crate::planted::{Bug, is_planted};
use crate::stores::Stores;
use crate::types::LeaderId;
use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_wire::ReplicaId;
use corelith_wire::peer::PromiseEpoch;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a follower has acknowledged last.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    leader: LeaderId,
    /// When that was sent which it acknowledged.
    sent: Instant,
    epoch: PromiseEpoch,
}

/// The lease of one group. Belongs to one core.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The core of this node on which the group is.
    core: u16,
    /// The nodes of the other members.
    pairs: Rc<Pairs>,
    /// Who the members are.
    stores: Rc<Stores>,
    activity: GroupActivity,
    acknowledged: RefCell<BTreeMap<ReplicaId, Acknowledged>>,
    progress: Notify,
    /// This leader, and all of the node's before it, have given up their leases.
    given_up: Cell<Option<LeaderId>>,
    reader_waits: Cell<bool>,
    /// When a follower was sent something last.
    last_sent: Cell<Option<Instant>>,
}

impl Lease {
    /// A lease of a group with these members, on a core of this node.
    pub(crate) fn new(
        core: u16,
        pairs: Rc<Pairs>,
        stores: Rc<Stores>,
        activity: GroupActivity,
    ) -> Self {
        Self {
            core,
            pairs,
            stores,
            activity,
            acknowledged: RefCell::default(),
            progress: Notify::new(),
            given_up: Cell::new(None),
            reader_waits: Cell::new(false),
            last_sent: Cell::new(None),
        }
    }

    /// Notes that a follower is sent something.
    pub(crate) fn note_sent(&self, at: Instant) {
        self.last_sent.set(Some(at));
    }

    /// Gives up the lease of a leader for good.
    pub(crate) fn give_up(&self, leader: LeaderId) {
        if is_planted(Bug::KeepLeaseAtHandOver) {
            return;
        }
        self.activity.note();
        self.given_up.set(self.given_up.get().max(Some(leader)));
        assert!(self.is_given_up(leader), "{leader} keeps its lease");
    }

    /// Whether the leader gave up its lease, as it must before it tells anybody that it leads no more.
    pub(crate) fn is_given_up(&self, leader: LeaderId) -> bool {
        self.given_up.get() >= Some(leader)
    }

    /// Relies on the lease again that was given up.
    pub(crate) fn resume(&self) {
        assert!(is_planted(Bug::ResumeLease), "a lease is given up for good");
        self.given_up.set(None);
    }

    /// Notes that `follower` has acknowledged what `leader` sent it at `sent`, in that epoch.
    pub(crate) fn acknowledge(
        &self,
        leader: LeaderId,
        follower: ReplicaId,
        sent: Instant,
        epoch: PromiseEpoch,
    ) {
        let mut acknowledged = self.acknowledged.borrow_mut();
        let sent = match is_planted(Bug::CreditLaterSends) {
            true => self.last_sent.get().unwrap_or(sent),
            false => sent,
        };
        let news = Acknowledged {
            leader,
            sent,
            epoch,
        };
        let known = acknowledged.entry(follower).or_insert(news);
        if (known.leader, known.sent) <= (leader, sent) {
            *known = news;
        }
        if acknowledged.len() > MEMBERS_MAX {
            // Replicas that were members once.
            acknowledged.retain(|follower, _| self.stores.slot(*follower).is_some());
        }
        drop(acknowledged);
        self.progress.notify_waiters();
    }

    /// Whether `leader` holds its lease at `now`.
    pub(crate) fn holds(&self, leader: LeaderId, now: Instant) -> bool {
        if self.is_given_up(leader) {
            return false;
        }
        self.stores
            .is_majority(|voter| self.is_me(voter) || self.counts(leader, voter, now))
    }

    /// Whether it is this replica, which is with itself where it is a voter.
    fn is_me(&self, voter: ReplicaId) -> bool {
        voter == self.stores.me().replica
    }

    /// Whether `leader` counts that follower at `now`.
    fn counts(&self, leader: LeaderId, follower: ReplicaId, now: Instant) -> bool {
        let Some(pair) = self.pairs.of(follower) else {
            return false;
        };
        let counted = pair.counted();
        if is_planted(Bug::CountUnacknowledged) {
            let epoch = counted.epoch();
            return epoch.is_some_and(|epoch| counted.holds(self.core, epoch, now));
        }
        let acknowledged = self.acknowledged.borrow();
        let known = acknowledged.get(&follower);
        let known = known.filter(|known| known.leader == leader);
        known.is_some_and(|known| counted.holds(self.core, known.epoch, now))
    }

    /// The followers that `leader` counts at `now`.
    #[cfg(any(test, feature = "planted"))]
    pub(crate) fn counted(&self, leader: LeaderId, now: Instant) -> Vec<ReplicaId> {
        let mut counted = self.stores.other_voters();
        counted.retain(|voter| self.counts(leader, *voter, now));
        counted
    }

    /// Whether some follower must acknowledge `leader` again before it counts: its node's promise has another
    /// epoch by now.
    pub(crate) fn is_outdated(&self, leader: LeaderId) -> bool {
        let acknowledged = self.acknowledged.borrow();
        let others = self.stores.other_voters();
        others.into_iter().any(|voter| {
            let epoch = self.pairs.of(voter).and_then(|pair| pair.counted().epoch());
            let known = acknowledged.get(&voter);
            let known = known.filter(|known| known.leader == leader);
            epoch.is_some_and(|epoch| known.is_none_or(|known| known.epoch != epoch))
        })
    }

    /// Waits until a majority has acknowledged what `leader` sent at `since` or later.
    pub(crate) async fn confirmed_since(&self, leader: LeaderId, since: Instant) {
        loop {
            let progress = self.progress.notified();
            if self.is_confirmed_since(leader, since) {
                return;
            }
            progress.await;
        }
    }

    fn is_confirmed_since(&self, leader: LeaderId, since: Instant) -> bool {
        let acknowledged = self.acknowledged.borrow();
        let has_confirmed = |voter: ReplicaId| {
            let known = acknowledged.get(&voter);
            known.is_some_and(|known| known.leader == leader && known.sent >= since)
        };
        self.stores
            .is_majority(|voter| self.is_me(voter) || has_confirmed(voter))
    }

    /// Notes whether a reader waits for a round of heartbeats, which then should not wait for those
    /// of other groups.
    pub(crate) fn set_reader_waits(&self, waits: bool) {
        self.reader_waits.set(waits);
    }

    /// Whether a reader waits.
    pub(crate) fn reader_waits(&self) -> bool {
        self.reader_waits.get()
    }
}
