//! How many writes may be applied whatever lags behind: those that fit into the memtables.

use super::Engine;
use crate::compaction::Throttle;
use crate::error::Result;

impl Engine {
    /// Waits while all memtables are full. Unlike [`Engine::wait_for_room`] it does not slow anybody:
    /// that is for those who have yet to write what will be applied.
    ///
    /// # Errors
    /// `Fenced` or `Closed`.
    pub async fn wait_while_full(&self) -> Result<()> {
        loop {
            let changed = self.inner.changed.notified();
            self.check_usable()?;
            if self.throttle() != Throttle::Stop {
                return Ok(());
            }
            self.ask_for_share();
            changed.await;
        }
    }

    /// Bytes at which a memtable is full.
    pub fn memtable_bytes_max(&self) -> usize {
        self.inner.options.memtable_bytes
    }
}
