//! Sleeping.

use super::Core;
use super::clock::{now, tick_of};
use super::timers::TimerSlot;
use crate::time::Instant;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A timer of the core that made it. It takes part in the core's clock from its first poll on.
pub(crate) struct Sleep {
    core: Core,
    deadline: Instant,
    slot: Option<TimerSlot>,
}

impl Sleep {
    pub(crate) fn until(core: &Core, deadline: Instant) -> Self {
        Self {
            core: core.clone(),
            deadline,
            slot: None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let clock = this.core.clock();
        if let Some(slot) = this.slot {
            let mut timers = clock.timers.borrow_mut();
            if !timers.waits(slot) {
                timers.remove(slot);
                this.slot = None;
                return Poll::Ready(());
            }
            timers.update(slot, cx.waker());
            return Poll::Pending;
        }
        let now = now();
        if now >= this.deadline {
            return Poll::Ready(());
        }
        let tick = tick_of(now, this.deadline);
        this.slot = Some(clock.insert(tick, cx.waker()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.core.clock().timers.borrow_mut().remove(slot);
        }
    }
}
