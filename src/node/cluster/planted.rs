//! Bugs that tests plant, to see that they are found. There are none outside of tests.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanBug {
    /// An edit leaves the map's epoch as it was.
    EpochNotRaised,
    /// Changes begin however many there are.
    MovesUnbounded,
    /// A change whose target is dead is waited for.
    NeverUndone,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<PlanBug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or removes it.
#[cfg(test)]
pub(crate) fn plant(bug: Option<PlanBug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted.
pub(crate) fn has(bug: PlanBug) -> bool {
    #[cfg(test)]
    return PLANTED.get() == Some(bug);
    #[cfg(not(test))]
    {
        let _ = bug;
        false
    }
}
