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
    /// Collection keeps only the newest version of a key, whoever sees an older one.
    IgnorePinsOfSegments,
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
