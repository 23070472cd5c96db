//! Known bugs that tests switch on to see that they would be found. Absent from release builds.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log calls back before the entries are durable.
    AcknowledgeBeforeDurable,
    /// The log calls back when its blocks are durable, whether the values they refer to are or not.
    AcknowledgeBeforeValues,
    /// New names are not made durable.
    SkipDirectorySync,
    /// Files that a new manifest does not name are removed before it is durable.
    RemoveBeforeManifest,
    /// Collection keeps only the newest version of a key, even if a pin sees an older one.
    IgnorePinsOfSegments,
    /// The end of the durable prefix is the last block that was written, gaps before it or not.
    IgnoreGaps,
    /// A truncation happens in memory alone.
    ForgetTruncation,
    /// Whatever block is damaged, the log ends there.
    TakeDamageForTorn,
    /// A vote is answered before it is durable.
    VoteBeforeDurable,
    /// A vote is answered when it is durable, whether damage to it could be told from a torn tail or
    /// not.
    VoteWithoutProof,
    /// A segment of the log is freed when its purge is staged.
    ReleaseEarly,
    /// What a recovery has read is taken for durable.
    SkipSettling,
    /// A failed write of the log counts as done.
    IgnoreFailedWrites,
    /// A flush does not wait for the log.
    SkipBarrier,
    /// A checkpoint covers everything applied, flushed or not.
    CheckpointAhead,
    /// A manifest names files that are not durable.
    SkipFileSync,
    /// A flush puts its run behind the others.
    RunBehind,
    /// Readers of old sequence numbers are not counted.
    ForgetPins,
    /// Collection drops live records too.
    IgnoreReferences,
    /// Collection takes segments whose entries the log still holds.
    CollectUnpurged,
    /// New values are taken although the reserve is given up.
    SpendReserve,
    /// Checkpoints hold no sessions.
    ForgetSessions,
    /// Snapshots hold no sessions.
    SnapshotWithoutSessions,
    /// Files are removed although a reader or a snapshot holds them.
    RemoveWhileHeld,
    /// Pieces of received files are taken whatever their checksums say, and so are the files.
    TakeUncheckedPieces,
    /// Sessions are stored without the results of their writes.
    ForgetResults,
    /// A number below the window counts as new.
    ForgetFloor,
    /// What another replica has sent in the place of damage is put in without waiting until this one has come as far.
    HealWithoutWaiting,
    /// A range that is put in anew keeps what its other tables hold of it.
    HealKeepsOldVersions,
}

#[cfg(any(test, feature = "planted"))]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in the shards of this thread, or takes it out.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.with(|planted| planted.set(bug));
    }

    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.with(Cell::get) == Some(bug)
    }
}

#[cfg(any(test, feature = "planted"))]
pub(crate) use switch::is_planted;
#[cfg(any(test, feature = "planted"))]
pub use switch::plant;

#[cfg(not(any(test, feature = "planted")))]
pub(crate) fn is_planted(_bug: Bug) -> bool {
    false
}
