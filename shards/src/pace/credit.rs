//! Bytes that a flush may write without a wait, earned by writes that came in since it began: it must end
//! before the next memtable is full, however fast that fills.

use std::cell::Cell;

/// How many times faster than a memtable fills, the one before it is flushed.
const FLUSHED_PER_INLINE_BYTE: u64 = 4;

/// See the module. Belongs to one core.
#[derive(Default)]
pub(crate) struct Credit {
    /// Bytes that had come in at the last look.
    came_before: Cell<u64>,
    left: Cell<u64>,
}

impl Credit {
    /// Begins anew when `came` bytes have come in.
    pub(crate) fn begin(&self, came: u64) {
        self.came_before.set(came);
        self.left.set(0);
    }

    /// Takes `written` bytes, now that `came` have come in, and returns those for which there was no
    /// credit.
    pub(crate) fn beyond(&self, came: u64, written: u64) -> u64 {
        let before = self.came_before.replace(came);
        assert!(came >= before, "what came in does not go");
        let since = came - before;
        let earned = since.saturating_mul(FLUSHED_PER_INLINE_BYTE);
        let credit = self.left.get().saturating_add(earned);
        self.left.set(credit.saturating_sub(written));
        written.saturating_sub(credit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_may_write_for_all_that_came_in_since_it_began() {
        let credit = Credit::default();
        credit.begin(1000);
        assert_eq!(credit.beyond(1000, 10), 10);
        // The core writes in turns: most looks see nothing come in.
        assert_eq!(credit.beyond(1100, 0), 0);
        assert_eq!(credit.beyond(1100, 150), 0);
        assert_eq!(credit.beyond(1100, 150), 0);
        assert_eq!(credit.beyond(1100, 150), 50);
        credit.begin(1200);
        assert_eq!(credit.beyond(1200, 7), 7);
        assert_eq!(credit.beyond(u64::MAX, u64::MAX), 0);
    }
}
