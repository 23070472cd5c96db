//! The memory budget of a core for requests and answers.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes of requests and answers held by one core; clones share it. It counts, it does not wait: a
/// full budget is answered with `Throttled`.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        let used = Cell::new(0);
        Self {
            shared: Rc::new(Shared { limit, used }),
        }
    }

    /// Whether `len` more bytes fit.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.shared.used.get().saturating_add(len) <= self.shared.limit
    }

    /// Counts bytes that are held now. An answer that is ready is held whether it fits or not.
    pub(crate) fn add(&self, len: usize) {
        self.shared.used.set(self.shared.used.get() + len);
    }

    /// Counts bytes that are held no more.
    pub(crate) fn sub(&self, len: usize) {
        let used = self.shared.used.get();
        assert!(used >= len, "more bytes were given back than were taken");
        self.shared.used.set(used - len);
    }
}
