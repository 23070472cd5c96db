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

use crate::types::LeaderId;
use corelith_io::Instant;
use std::cell::Cell;
use std::time::Duration;

/// The lease of one group. Belongs to one core.
#[derive(Debug)]
pub(crate) struct Lease {
    length: Duration,
    given_up: Cell<Option<LeaderId>>,
    reader_waits: Cell<bool>,
}

impl Lease {
    /// A lease that is trusted for `length`.
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            length,
            given_up: Cell::new(None),
            reader_waits: Cell::new(false),
        }
    }

    /// Gives up the lease of a leader for good.
    pub(crate) fn give_up(&self, leader: LeaderId) {
        self.given_up.set(Some(leader));
    }

    /// Whether `leader`, last acknowledged by a majority at `acked`, holds its lease at `now`.
    pub(crate) fn holds(&self, leader: LeaderId, acked: Option<Instant>, now: Instant) -> bool {
        self.given_up.get() != Some(leader) && acked.is_some_and(|acked| now < acked + self.length)
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
