//! The views of scans that take several pages: what the first page saw is kept for the next ones.

use crate::node::limits;
use corelith_io::Instant;
use corelith_shards::Pin;
use corelith_shards::{LogIndex, ShardId};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Views kept for a while after their last use, at most `SCAN_VIEWS_PER_CORE_MAX`. Belongs to one
/// core. A scan whose view is gone is told so and starts again where it was.
#[derive(Default)]
pub(crate) struct ScanViews {
    views: RefCell<BTreeMap<(ShardId, LogIndex), View>>,
}

struct View {
    _pin: Pin,
    until: Instant,
}

impl ScanViews {
    /// Keeps what `pin` sees.
    pub(crate) fn keep(&self, shard: ShardId, pin: Pin) {
        let mut views = self.views.borrow_mut();
        if views.len() >= limits::SCAN_VIEWS_PER_CORE_MAX {
            let oldest = views.iter().min_by_key(|(_, view)| view.until);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                views.remove(&oldest);
            }
        }
        let until = corelith_io::now() + limits::SCAN_VIEW_KEPT;
        views.insert((shard, pin.at()), View { _pin: pin, until });
    }

    /// Notes that the scan as of `at` goes on.
    pub(crate) fn use_again(&self, shard: ShardId, at: LogIndex) {
        if let Some(view) = self.views.borrow_mut().get_mut(&(shard, at)) {
            view.until = corelith_io::now() + limits::SCAN_VIEW_KEPT;
        }
    }

    /// Lets go of views that were not used for long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.views.borrow_mut().retain(|_, view| view.until > now);
    }
}
