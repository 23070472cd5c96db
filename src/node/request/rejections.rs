//! What is logged of strangers: who was turned away and why, so often that it is seen and no more.

use crate::node::limits::{REJECTIONS_LOGGED_EVERY, REJECTIONS_LOGGED_MAX};
use corelith_io::Instant;
use corelith_wire::{FrameError, HandshakeError};
use std::cell::Cell;
use std::net::SocketAddr;

/// Counts what is logged. Belongs to one core.
#[derive(Debug)]
pub(crate) struct Rejections {
    since: Cell<Instant>,
    logged: Cell<u32>,
    untold: Cell<u64>,
}

impl Rejections {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: Cell::new(now),
            logged: Cell::new(0),
            untold: Cell::new(0),
        }
    }

    /// Tells of a frame that was refused; its connection is closed.
    pub(super) fn frame(&self, peer: SocketAddr, error: &FrameError) {
        if let Some(untold) = self.may_tell(corelith_io::now()) {
            tracing::warn!(%peer, %error, untold, "closing a connection: what it sent is no request");
        }
    }

    /// Tells of a connection that did not introduce itself as it should.
    pub(super) fn handshake(&self, peer: SocketAddr, error: &HandshakeError) {
        if let Some(untold) = self.may_tell(corelith_io::now()) {
            tracing::warn!(%peer, %error, untold, "refusing a connection");
        }
    }

    /// Tells of a connection that was turned away for another reason.
    pub(super) fn other(&self, peer: SocketAddr, why: &str) {
        if let Some(untold) = self.may_tell(corelith_io::now()) {
            tracing::warn!(%peer, why, untold, "refusing a connection");
        }
    }

    /// Tells of a node that may not take part as it wants to yet: as long as it joins, that is no fault.
    pub(super) fn role(&self, peer: SocketAddr) {
        if let Some(untold) = self.may_tell(corelith_io::now()) {
            tracing::info!(%peer, untold, "a node is not in the map that is known here, and is asked to wait");
        }
    }

    /// Whether one more may be told, and how many were not told since the last one.
    fn may_tell(&self, now: Instant) -> Option<u64> {
        if now - self.since.get() >= REJECTIONS_LOGGED_EVERY {
            self.since.set(now);
            self.logged.set(0);
        }
        if self.logged.get() >= REJECTIONS_LOGGED_MAX {
            self.untold.set(self.untold.get() + 1);
            return None;
        }
        self.logged.set(self.logged.get() + 1);
        Some(self.untold.take())
    }
}

#[cfg(test)]
mod tests {
    use super::Rejections;
    use crate::node::limits::{REJECTIONS_LOGGED_EVERY, REJECTIONS_LOGGED_MAX};
    use corelith_io::sim::Sim;

    #[test]
    fn a_flood_is_told_in_a_few_lines_and_a_number() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async {
            let start = corelith_io::now();
            let rejections = Rejections::new(start);
            let told = (0..1000).filter(|_| rejections.may_tell(start).is_some());
            assert_eq!(told.count(), REJECTIONS_LOGGED_MAX as usize);
            let untold = 1000 - u64::from(REJECTIONS_LOGGED_MAX);
            let later = start + REJECTIONS_LOGGED_EVERY;
            assert_eq!(rejections.may_tell(later), Some(untold));
            assert_eq!(rejections.may_tell(later), Some(0));
        });
    }
}
