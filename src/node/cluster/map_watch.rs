//! The newest placement that a core knows, and waiting for a newer one.
//!
//! Invariant: its epoch never falls.

use super::placement::Placement;
use corelith_io::sync::watch;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// See the module. Belongs to one core.
pub(crate) struct MapWatch {
    now: RefCell<Arc<Placement>>,
    epoch: watch::Sender<u32>,
}

impl MapWatch {
    pub(crate) fn new(first: Arc<Placement>) -> Rc<Self> {
        let epoch = watch::channel(first.epoch).0;
        Rc::new(Self {
            now: RefCell::new(first),
            epoch,
        })
    }

    /// The newest placement.
    pub(crate) fn now(&self) -> Arc<Placement> {
        Arc::clone(&self.now.borrow())
    }

    /// Takes a placement if its map is newer, or the first one; whether it is.
    pub(crate) fn take(&self, next: Arc<Placement>) -> bool {
        let is_newer = {
            let now = self.now.borrow();
            next.epoch > now.epoch || (now.map().is_none() && next.map().is_some())
        };
        if is_newer {
            let epoch = next.epoch;
            assert!(epoch >= self.now.borrow().epoch, "the epoch never falls");
            *self.now.borrow_mut() = next;
            self.epoch.send_replace(epoch);
        }
        is_newer
    }

    /// Waits for a placement whose epoch is above that, and returns it.
    pub(crate) async fn after(&self, epoch: u32) -> Arc<Placement> {
        let mut news = self.epoch.subscribe();
        // An error means that the core ends, and this task with it.
        let is_there = news.wait_for(|now| *now > epoch).await.is_ok();
        if !is_there {
            return std::future::pending().await;
        }
        self.now()
    }
}
