//! Known bugs that tests switch on to see that they would be found. Absent from release builds.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A replica votes and stands right after a restart.
    VoteAfterRestart,
    /// Conditional writes apply whatever their condition says.
    SkipConditions,
    /// A condition is decided by what is in memory alone.
    DecideFromMemory,
    /// A leader trusts its lease as long as its followers do, by its own clock.
    IgnoreDrift,
    /// A promise counts for twice as long.
    LeaseOfDoubleLength,
    /// A leader answers reads whether it holds its lease or not.
    ReadWithoutLease,
    /// A leader that hands over the lead keeps its lease.
    KeepLeaseAtHandOver,
    /// A leader answers reads before it has applied an entry of its own term.
    ReadBeforeOwnTerm,
    /// A leader answers reads before it has applied all that followers may have shown.
    AnswerBehindFollowers,
    /// A read point is no further than what its leader has applied.
    PointBehindFollowers,
    /// A follower answers reads from what it has.
    FollowerAsksNobody,
    /// A read at a follower shares a question that left before the read came.
    ShareQuestionOnItsWay,
    /// An acknowledgement from before a read confirms the leadership for it.
    ConfirmByOldAnswers,
    /// An answer counts from when the last request before it was sent.
    CreditLaterSends,
    /// Something not simulated has a say: an address in memory delays a start.
    DelayByAddress,
    /// A replica votes although a promise to its leader's node runs.
    VoteWhilePromised,
    /// A replica stands although a promise to its leader's node runs.
    StandWhilePromised,
    /// A request for a vote that is refused for a promise moves the term all the same, and the leader is
    /// forgotten.
    RefusedVoteMovesTerm,
    /// A follower counts that has not acknowledged the leader's term.
    CountUnacknowledged,
    /// A follower counts whatever the epoch of its promise.
    IgnoreEpoch,
    /// A replica turns from its leader, and the epoch stays.
    KeepEpoch,
    /// A promise counts from when the reply came.
    CountFromReceipt,
    /// A promise ends with the connection.
    ShortenPromise,
    /// The embargo after a start is half as long as the longest promise.
    ShortEmbargo,
    /// A leader that handed over the lead in vain relies on its lease again.
    ResumeLease,
    /// A hand-over excuses votes against the leader of any term.
    HandOverOfAnyTerm,
    /// A leader that restarts goes on leading.
    RestoreLead,
    /// Nothing says that a leader leads no more: it neither tells nor answers so, and its restart is not noticed.
    KeepQuietWhenDeposed,
    /// The lease is checked against a time from before the read came.
    CachedClock,
    /// A group counts any store of a member's node.
    TrustAnyStore,
    /// Of a joint membership the second configuration alone counts.
    OneConfigurationCounts,
    /// Learners count as voters do.
    LearnersCount,
    /// A replica answers for earlier replicas of its node.
    AnswerForEarlierReplicas,
    /// A replica that was taken in votes before its log says so.
    VoteBeforeMembership,
    /// The budget takes any number of proposals.
    UnboundedProposals,
    /// An upload is committed whatever chunks it has.
    CommitIncomplete,
    /// An upload is committed whatever its condition says.
    CommitWithoutCondition,
    /// A chunk takes the place of another one with other content.
    TakeOtherContent,
    /// A replica that installs a snapshot goes on with the uploads that it knew.
    KeepUploadsAtInstall,
    /// A replaced value is dropped although readers hold it, or may.
    DropHeldValue,
    /// A write leaves the large value alone that it replaces.
    ForgetReplaced,
}

#[cfg(any(test, feature = "planted"))]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
        static CATCH_UP_ENTRIES: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Plants a bug in the groups of this thread, or takes it out.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.with(|planted| planted.set(bug));
    }

    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.with(Cell::get) == Some(bug)
    }

    /// The bug that is planted.
    #[cfg(test)]
    pub(crate) fn planted() -> Option<Bug> {
        PLANTED.with(Cell::get)
    }

    /// Lets the logs of this thread's groups keep fewer entries for followers that lag, so that
    /// snapshots are sent within a short simulation.
    pub fn keep_entries(count: Option<u64>) {
        CATCH_UP_ENTRIES.with(|entries| entries.set(count));
    }

    pub(crate) fn kept_entries() -> Option<u64> {
        CATCH_UP_ENTRIES.with(Cell::get)
    }
}

#[cfg(test)]
pub(crate) use switch::planted;
#[cfg(any(test, feature = "planted"))]
pub(crate) use switch::{is_planted, kept_entries};
#[cfg(any(test, feature = "planted"))]
pub use switch::{keep_entries, plant};

#[cfg(not(any(test, feature = "planted")))]
pub(crate) fn is_planted(_bug: Bug) -> bool {
    false
}

#[cfg(not(any(test, feature = "planted")))]
pub(crate) fn kept_entries() -> Option<u64> {
    None
}
