//! What can be set about consensus.

use crate::error::OpenError;
use crate::limits;
use crate::planted;
use std::time::Duration;

/// What a leader relies on when it answers a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// Promises of other nodes not to vote: clocks run alike, within 1 %.
    #[default]
    Lease,
    /// A confirmation of a majority for each read, or batch of reads: no clock at all.
    Quorum,
}

/// How the groups of a core behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// What a leader relies on when it answers a read.
    pub reads: Reads,
    /// How long candidates let the one before them go first.
    pub candidate_step: Duration,
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
            reads: Reads::default(),
            candidate_step: Duration::from_millis(15),
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
}
