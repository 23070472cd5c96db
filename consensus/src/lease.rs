//! Whether a leader may answer reads without asking anybody.
//!
//! A follower that acknowledges its leader at a time votes for nobody else for one election timeout
//! from then. So a leader that was acknowledged by a majority at `t` (the time it *sent* what they
//! acknowledged) is the only leader until `t` + election timeout, less an allowance for clocks that
//! run at different rates.
//!
//! Invariants:
//! * What voids the promise voids the lease first: before a leader tells anybody that it hands over
//!   the lead it gives up its lease for the whole term, since that message may arrive at any time.
//! * A follower keeps its promise over a restart: see the embargo in `group.rs`.
//! * An answer counts from when its own request was sent. openraft's time of the last acknowledgement
//!   does not do: it credits an answer to several requests, or one that lay unread while the process was
//!   stopped, with the time at which the last request was sent.

use crate::planted::{Bug, is_planted};
use crate::types::LeaderId;
use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_wire::NodeId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

/// The lease of one group. Belongs to one core.
#[derive(Debug)]
pub(crate) struct Lease {
    length: Duration,
    members: usize,
    /// Followers that make a majority with this node.
    followers_needed: usize,
    /// When each follower was sent what it has acknowledged last, and by whom.
    acknowledged: RefCell<BTreeMap<NodeId, (LeaderId, Instant)>>,
    progress: Notify,
    given_up: Cell<Option<LeaderId>>,
    reader_waits: Cell<bool>,
}

impl Lease {
    /// A lease that is trusted for `length`, in a group of `members`.
    pub(crate) fn new(length: Duration, members: usize) -> Self {
        assert!(members > 0, "a group of nobody");
        Self {
            length,
            members,
            followers_needed: members / 2,
            acknowledged: RefCell::default(),
            progress: Notify::new(),
            given_up: Cell::new(None),
            reader_waits: Cell::new(false),
        }
    }

    /// Gives up the lease of a leader for good.
    pub(crate) fn give_up(&self, leader: LeaderId) {
        if !is_planted(Bug::KeepLeaseAtHandOver) {
            self.given_up.set(Some(leader));
        }
    }

    /// Whether the leader gave up its lease, as it must before it tells anybody that it hands over.
    pub(crate) fn is_given_up(&self, leader: LeaderId) -> bool {
        self.given_up.get() == Some(leader) || is_planted(Bug::KeepLeaseAtHandOver)
    }

    /// Notes that `follower` has acknowledged what `leader` sent it at `sent`.
    pub(crate) fn acknowledge(&self, leader: LeaderId, follower: NodeId, sent: Instant) {
        let mut acknowledged = self.acknowledged.borrow_mut();
        let known = acknowledged.entry(follower).or_insert((leader, sent));
        if known.0 == leader {
            known.1 = known.1.max(sent);
        } else if known.0 < leader {
            *known = (leader, sent);
        }
        assert!(
            acknowledged.len() < self.members,
            "{} followers in a group of {}",
            acknowledged.len(),
            self.members
        );
        drop(acknowledged);
        self.progress.notify_waiters();
    }

    /// Whether `leader` holds its lease at `now`.
    pub(crate) fn holds(&self, leader: LeaderId, now: Instant) -> bool {
        self.given_up.get() != Some(leader)
            && self.has_majority(leader, |sent| now < sent + self.length)
    }

    /// As [`Lease::holds`], for a majority that acknowledged at `acked`.
    pub(crate) fn holds_from(&self, leader: LeaderId, acked: Instant, now: Instant) -> bool {
        self.given_up.get() != Some(leader) && now < acked + self.length
    }

    /// Waits until a majority has acknowledged what `leader` sent at `since` or later.
    pub(crate) async fn confirmed_since(&self, leader: LeaderId, since: Instant) {
        loop {
            let progress = self.progress.notified();
            if self.has_majority(leader, |sent| sent >= since) {
                return;
            }
            progress.await;
        }
    }

    fn has_majority(&self, leader: LeaderId, is_good: impl Fn(Instant) -> bool) -> bool {
        let acknowledged = self.acknowledged.borrow();
        let good = acknowledged
            .values()
            .filter(|(by, sent)| *by == leader && is_good(*sent));
        good.count() >= self.followers_needed
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
