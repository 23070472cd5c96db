//! What can be set about consensus.

use crate::error::OpenError;
use crate::limits;
use crate::planted::{self, Bug, is_planted};
use std::time::Duration;

/// How the groups of a core behave. The same on all nodes of a cluster as far as time is concerned.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often a leader tells its followers that it lives.
    pub heartbeat: Duration,
    /// Least time after the end of a leader's lease before a follower stands for election.
    pub election_timeout_min: Duration,
    /// Most such time; it is also the length of a leader's lease, and of the embargo after a start.
    pub election_timeout_max: Duration,
    /// By how much the clocks of two nodes may differ in rate, in percent: a leader trusts its lease
    /// for that much less than its followers do, and the embargo is that much longer.
    pub clock_drift_percent: u32,
    /// How long a request to a peer may take.
    pub peer_timeout: Duration,
    /// Proposals in flight per group, at most [`limits::PROPOSALS_IN_FLIGHT_MAX`].
    pub proposals_in_flight: usize,
    /// Bytes of proposals in flight per group.
    pub proposal_bytes_in_flight: usize,
    /// Appends that a follower takes before what earlier ones have committed is applied, at most
    /// [`limits::APPLIES_WAITING_MAX`].
    pub applies_waiting: usize,
    /// Bytes of applied entries that the log keeps for followers that lag.
    pub catch_up_bytes: u64,
    /// Entries that the log keeps for followers that lag.
    pub catch_up_entries: u64,
    /// How long the preferred leader must have been caught up before it is given the lead back;
    /// `None` leaves the lead where elections put it.
    pub lead_back_after: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_timeout_min: Duration::from_millis(450),
            election_timeout_max: Duration::from_millis(900),
            clock_drift_percent: 10,
            peer_timeout: Duration::from_secs(2),
            proposals_in_flight: limits::PROPOSALS_IN_FLIGHT_MAX,
            proposal_bytes_in_flight: limits::PROPOSAL_BYTES_IN_FLIGHT_MAX,
            applies_waiting: limits::APPLIES_WAITING_MAX,
            catch_up_bytes: 256 << 20,
            catch_up_entries: planted::kept_entries().unwrap_or(1 << 20),
            lead_back_after: Some(Duration::from_secs(5)),
        }
    }
}

impl Options {
    /// Checks that the values fit together.
    ///
    /// # Errors
    /// `Options` says which do not.
    pub fn validate(&self) -> Result<(), OpenError> {
        let wrong = |what| Err(OpenError::Options(what));
        if self.heartbeat < Duration::from_millis(10) {
            return wrong("the heartbeat must be at least 10 ms");
        }
        if self.election_timeout_min < self.heartbeat * 3 {
            return wrong("the least election timeout must be at least three heartbeats");
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return wrong("the greatest election timeout must exceed the least");
        }
        if self.clock_drift_percent > 50 {
            return wrong("the clock drift must be at most 50 %");
        }
        if self.proposals_in_flight == 0
            || self.proposals_in_flight > limits::PROPOSALS_IN_FLIGHT_MAX
        {
            return wrong("the proposals in flight must be between 1 and 16384");
        }
        if self.applies_waiting == 0 || self.applies_waiting > limits::APPLIES_WAITING_MAX {
            return wrong("the applies that wait must be between 1 and 32768");
        }
        if self.proposal_bytes_in_flight == 0 {
            return wrong("the bytes of proposals in flight must not be 0");
        }
        Ok(())
    }

    /// How long a leader trusts an acknowledgement of a majority.
    pub fn lease(&self) -> Duration {
        if is_planted(Bug::IgnoreDrift) {
            return self.election_timeout_max;
        }
        if is_planted(Bug::LeaseOfDoubleLength) {
            return self.election_timeout_max * 2;
        }
        let lease =
            self.election_timeout_max / 100 * 100_u32.saturating_sub(self.clock_drift_percent);
        assert!(
            lease <= self.election_timeout_max,
            "the lease outlives the promise"
        );
        lease
    }

    /// How long after its start a node neither votes nor stands.
    pub fn embargo(&self) -> Duration {
        let embargo = self.election_timeout_max / 100 * (100 + self.clock_drift_percent);
        assert!(
            embargo >= self.lease() || is_planted(Bug::LeaseOfDoubleLength),
            "the promise outlives the embargo"
        );
        embargo
    }
}
