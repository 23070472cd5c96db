//! Up to where this replica has told followers that entries are committed.

use corelith_shards::LogId;
use std::cell::Cell;

/// Raised before each append and heartbeat leaves; read by reads. Both on the same core.
///
/// Invariant: no follower has heard from this replica that more is committed. See `group/follower_read.rs`.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    last: Cell<Option<LogId>>,
}

impl Announced {
    /// Notes what an append or heartbeat says that is about to leave.
    pub(crate) fn raise(&self, committed: Option<LogId>) {
        let last = self.last.get();
        let is_news = committed.map(|id| id.index) > last.map(|id| id.index);
        if is_news {
            self.last.set(committed);
        }
        assert!(
            self.last.get().map(|id| id.index) >= committed.map(|id| id.index),
            "{committed:?} leaves unnoted"
        );
    }

    /// The last entry of which a follower may know that it is committed.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.last.get()
    }
}
