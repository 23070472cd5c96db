//! The views of scans that take several pages: what the first page saw is kept for the next ones.
//!
//! Invariants:
//! * At most `SCAN_VIEWS_PER_CORE_MAX` views are kept. Beyond, the owner of the most gives up the one
//!   that it has not used for the longest time: nobody takes the views of those who hold few.
//! * A view is kept for `SCAN_VIEW_KEPT` after its last use, and for `SCAN_VIEW_ORPHANED` once its
//!   connection has closed: a client that connects again finds it, one that is gone leaves nothing.

use crate::node::limits;
use corelith_io::Instant;
use corelith_shards::Pin;
use corelith_shards::{LogIndex, ShardId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The views that a core keeps, by the address of the connection that uses them. Belongs to that core. A scan whose
/// view is gone is told so if what it saw is gone as well.
pub(crate) struct ScanViews<P = Pin> {
    views: RefCell<BTreeMap<(SocketAddr, ShardId, LogIndex), View<P>>>,
}

struct View<P> {
    _pin: P,
    until: Instant,
}

impl<P> Default for ScanViews<P> {
    fn default() -> Self {
        Self {
            views: RefCell::default(),
        }
    }
}

impl<P> ScanViews<P> {
    /// Keeps what `pin` sees, which is the shard as of `at`, from now on; also if it is kept already.
    pub(crate) fn keep(
        &self,
        owner: SocketAddr,
        shard: ShardId,
        at: LogIndex,
        pin: P,
        now: Instant,
    ) {
        let mut views = self.views.borrow_mut();
        let until = now + limits::SCAN_VIEW_KEPT;
        views.insert((owner, shard, at), View { _pin: pin, until });
        if views.len() > limits::SCAN_VIEWS_PER_CORE_MAX
            && let Some(key) = least_worth(&views)
        {
            views.remove(&key);
        }
        assert!(
            views.len() <= limits::SCAN_VIEWS_PER_CORE_MAX,
            "one view comes, one goes"
        );
    }

    /// Notes that a connection has closed.
    pub(crate) fn closed(&self, owner: SocketAddr, now: Instant) {
        let until = now + limits::SCAN_VIEW_ORPHANED;
        let mut views = self.views.borrow_mut();
        let first = (owner, ShardId(0), LogIndex(0));
        let last = (owner, ShardId(u32::MAX), LogIndex(u64::MAX));
        for (_, view) in views.range_mut(first..=last) {
            view.until = view.until.min(until);
        }
    }

    /// Lets go of views that were not used for long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.views.borrow_mut().retain(|_, view| view.until > now);
    }
}

/// Which of too many views goes.
fn least_worth<P>(
    views: &BTreeMap<(SocketAddr, ShardId, LogIndex), View<P>>,
) -> Option<(SocketAddr, ShardId, LogIndex)> {
    let mut counts = BTreeMap::<SocketAddr, usize>::new();
    for (owner, ..) in views.keys() {
        *counts.entry(*owner).or_default() += 1;
    }
    let (greediest, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let its = views.iter().filter(|((owner, ..), _)| *owner == greediest);
    its.min_by_key(|(_, view)| view.until).map(|(key, _)| *key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::time::Duration;

    const SHARD: ShardId = ShardId(3);

    fn owner(connection: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], connection))
    }

    /// Runs `test` with an instant to count from.
    fn at_some_time(test: impl FnOnce(Instant)) {
        corelith_io::core::run_here(async { test(corelith_io::now()) });
    }

    fn held(views: &ScanViews<Rc<()>>, connection: u16) -> usize {
        let views = views.views.borrow();
        let its = views.keys().filter(|(of, ..)| *of == owner(connection));
        its.count()
    }

    #[test]
    fn who_holds_most_gives_up_the_oldest() {
        at_some_time(|start| {
            let (views, pin) = (ScanViews::default(), Rc::new(()));
            let keep = |of, at, seconds| {
                let now = start + Duration::from_secs(seconds);
                views.keep(owner(of), SHARD, LogIndex(at), Rc::clone(&pin), now);
            };
            keep(1, 1, 0);
            keep(2, 1, 0);
            for at in 0..2 * limits::SCAN_VIEWS_PER_CORE_MAX as u64 {
                keep(9, at, 1 + at);
            }
            let all = limits::SCAN_VIEWS_PER_CORE_MAX;
            assert_eq!([held(&views, 1), held(&views, 2)], [1, 1]);
            assert_eq!(held(&views, 9), all - 2);
            assert_eq!(Rc::strong_count(&pin), all + 1, "the others let go");
            let newest = (owner(9), SHARD, LogIndex(2 * all as u64 - 1));
            assert!(views.views.borrow().contains_key(&newest));
        });
    }

    #[test]
    fn views_live_while_they_are_used_and_go_with_their_connection() {
        at_some_time(|start| {
            let (views, pin) = (ScanViews::default(), Rc::new(()));
            let after = |part: Duration| start + part;
            let keep = |of, now| views.keep(owner(of), SHARD, LogIndex(5), Rc::clone(&pin), now);
            let (kept, orphaned) = (limits::SCAN_VIEW_KEPT, limits::SCAN_VIEW_ORPHANED);
            keep(1, start);
            keep(2, start);
            keep(1, after(kept / 2));
            views.sweep(after(kept));
            assert_eq!([held(&views, 1), held(&views, 2)], [1, 0]);
            keep(2, after(kept));
            views.closed(owner(1), after(kept));
            views.sweep(after(kept + orphaned / 2));
            assert_eq!(
                [held(&views, 1), held(&views, 2)],
                [1, 1],
                "it may come back"
            );
            views.sweep(after(kept + orphaned));
            assert_eq!([held(&views, 1), held(&views, 2)], [0, 1]);
            views.sweep(after(3 * kept));
            assert_eq!(Rc::strong_count(&pin), 1);
        });
    }
}
