//! Noticing that the device is full, and that it no longer is, and what else comes by itself.

use super::Engine;
use crate::limits::SPACE_PERIOD;
use corelith_io::spawn_background;
use std::rc::Rc;

impl Engine {
    /// Whether the device was found full. What makes room goes on; new values should be refused.
    pub fn is_disk_full(&self) -> bool {
        !self.inner.reserve.is_held() || self.lacks_space()
    }

    /// Whether something waits for space.
    fn lacks_space(&self) -> bool {
        let inner = &self.inner;
        inner.state.borrow().disk_full || inner.values.is_disk_full() || (inner.log.lacks_space)()
    }

    /// Gives the reserve up while something lacks space, and takes it again when nothing does.
    pub(super) fn start_keeping_space(&self) {
        let weak = Rc::downgrade(&self.inner);
        drop(spawn_background(async move {
            loop {
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self { inner };
                if engine.inner.state.borrow().closed {
                    return;
                }
                {
                    let _working = engine.working();
                    engine.keep_space().await;
                    engine.wake_for_circumstances();
                }
                let changed = Rc::clone(&engine.inner.changed);
                let lacking = engine.lacks_space();
                drop(engine);
                let woken = changed.notified();
                if lacking {
                    corelith_io::sleep(SPACE_PERIOD).await;
                } else {
                    let _ = corelith_io::timeout(SPACE_PERIOD, woken).await;
                }
            }
        }));
    }

    async fn keep_space(&self) {
        let reserve = &self.inner.reserve;
        if let Ok(space) = corelith_io::space(&self.inner.dir).await
            && space.total > 0
        {
            let fraction = space.free as f64 / space.total as f64;
            self.inner.free_fraction.set(fraction);
        }
        let was_held = reserve.is_held();
        let result = if self.lacks_space() {
            reserve.give_up().await
        } else {
            reserve.take().await
        };
        if let Err(error) = result {
            tracing::warn!(shard = %self.inner.owner, %error, "the reserve of space");
        }
        if was_held && !reserve.is_held() {
            tracing::warn!(shard = %self.inner.owner, "the device is full: new values are refused");
        } else if !was_held && reserve.is_held() {
            tracing::info!(shard = %self.inner.owner, "there is room on the device again");
        }
    }
}
