//! What tells the pulse of a core that it has to look at its groups (`groups/pulse.rs`).

use std::cell::Cell;
use std::rc::Rc;

/// Counts what groups of a core do that their pulse may have to follow: writes to a log, and the end of a lead or of a
/// replica. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupActivity(Rc<Cell<u64>>);

impl GroupActivity {
    /// Notes that a group does something.
    pub(crate) fn note(&self) {
        self.0.set(self.0.get().wrapping_add(1));
    }

    /// How much was done so far: another number than before means that something was.
    pub(crate) fn count(&self) -> u64 {
        self.0.get()
    }
}
