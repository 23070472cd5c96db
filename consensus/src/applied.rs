//! How far a replica has applied its log, for those who wait for it.

use corelith_io::sync::watch;
use corelith_shards::{LogId, LogIndex};
use std::cell::Cell;

/// Written by the state machine, read by the group; both on the same core.
///
/// Invariant: the engine holds everything up to [`Applied::last`], and no write is answered before
/// `last` covers it.
pub(crate) struct Applied {
    last: Cell<Option<LogId>>,
    /// Raised once per batch of entries, to wake those who wait.
    announced: watch::Sender<Option<LogIndex>>,
}

impl Applied {
    /// Starts at what the engine has.
    pub(crate) fn new(last: Option<LogId>) -> Self {
        let (announced, _) = watch::channel(last.map(|id| id.index));
        Self {
            last: Cell::new(last),
            announced,
        }
    }

    /// The last applied entry.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.last.get()
    }

    /// Notes that `id` is applied; [`Applied::announce`] tells those who wait.
    pub(crate) fn advance(&self, id: LogId) {
        let last = self.last.get();
        assert!(
            last.is_none_or(|last| last.index < id.index),
            "{id} is applied after {last:?}"
        );
        self.last.set(Some(id));
    }

    /// Wakes those who wait.
    pub(crate) fn announce(&self) {
        let last = self.last.get().map(|id| id.index);
        let before = self.announced.send_replace(last);
        assert!(
            before <= last,
            "{before:?} was announced, and then {last:?}"
        );
    }

    /// Waits until the entry at `index` is applied; `false` if that will not happen any more.
    pub(crate) async fn wait(&self, index: LogIndex) -> bool {
        let mut announced = self.announced.subscribe();
        announced
            .wait_for(|applied| applied.is_some_and(|applied| applied >= index))
            .await
            .is_ok()
    }
}
