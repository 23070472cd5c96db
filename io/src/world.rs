//! Which world the current thread is in.

use crate::uring;
use std::cell::RefCell;

/// The core whose task is being polled on this thread. The executor of each world sets it before a
/// poll (Sim) or once per thread (Uring).
#[derive(Clone)]
pub(crate) enum World {
    Uring(uring::Core),
    #[cfg(feature = "sim")]
    Sim(crate::sim::Core),
}

thread_local! {
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Sets the current core and returns the one that was current before.
pub(crate) fn set(world: Option<World>) -> Option<World> {
    CURRENT.with(|current| current.replace(world))
}

/// Calls `f` with the current core; `f` must not poll or drop futures.
///
/// # Panics
/// Outside of a core: a bug in the caller.
pub(crate) fn with<T>(f: impl FnOnce(&World) -> T) -> T {
    CURRENT.with(|current| match &*current.borrow() {
        Some(world) => f(world),
        None => panic!("corelith-io was used outside of a core"),
    })
}

/// Whether the calling code runs on a core.
pub(crate) fn is_current() -> bool {
    CURRENT.with(|current| current.borrow().is_some())
}

/// Whether the calling code runs on a simulated core.
#[cfg(feature = "sim")]
pub(crate) fn is_simulated() -> bool {
    CURRENT.with(|current| matches!(&*current.borrow(), Some(World::Sim(_))))
}

/// Returns the current core.
///
/// # Panics
/// Outside of a core: a bug in the caller.
pub(crate) fn current() -> World {
    with(World::clone)
}
