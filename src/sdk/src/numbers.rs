//! The numbers of a session's writes at one shard.
//!
//! Invariants: each number is given once; `answered_below` only rises, and every number below it is
//! settled; every number given is less than `answered_below + window`, since the shard remembers the
//! results of at most `window` writes.

use std::collections::VecDeque;

/// Gives write numbers and remembers which are settled. One per session.
#[derive(Debug)]
pub(crate) struct Numbers {
    window: u64,
    answered_below: u64,
    /// Entry `i` says whether number `answered_below + i` is settled, up to the last number given.
    settled: VecDeque<bool>,
}

impl Numbers {
    /// Numbers of a new session whose shard allows `window` writes in flight (at least 1).
    pub(crate) fn new(window: u32) -> Self {
        Self {
            window: u64::from(window.max(1)),
            answered_below: 1,
            settled: VecDeque::new(),
        }
    }

    /// The next number, `None` while the window is full.
    pub(crate) fn give(&mut self) -> Option<u64> {
        let ahead = self.settled.len() as u64;
        if ahead >= self.window {
            return None;
        }
        self.settled.push_back(false);
        let number = self.answered_below + ahead;
        assert!(
            number - self.answered_below < self.window,
            "{number} is beyond the window"
        );
        Some(number)
    }

    /// Every number below this is settled.
    pub(crate) fn answered_below(&self) -> u64 {
        self.answered_below
    }

    /// Settles `number`: it is answered, or abandoned and never sent again. Returns whether that made
    /// room in a full window.
    pub(crate) fn settle(&mut self, number: u64) -> bool {
        let was_full = self.settled.len() as u64 >= self.window;
        let place = number.checked_sub(self.answered_below).and_then(|at| {
            let at = usize::try_from(at).ok()?;
            self.settled.get_mut(at)
        });
        debug_assert!(
            place.is_some(),
            "number {number} was not given or is settled already"
        );
        if let Some(place) = place {
            *place = true;
        }
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.answered_below += 1;
        }
        assert_ne!(
            self.settled.front(),
            Some(&true),
            "what is settled is passed"
        );
        was_full && (self.settled.len() as u64) < self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_lowest_unsettled_number() {
        let mut numbers = Numbers::new(3);
        assert_eq!(
            [numbers.give(), numbers.give(), numbers.give()],
            [Some(1), Some(2), Some(3)]
        );
        assert_eq!(numbers.give(), None);
        assert!(!numbers.settle(2), "1 still holds the window");
        assert_eq!((numbers.answered_below(), numbers.give()), (1, None));
        assert!(numbers.settle(1));
        assert_eq!(numbers.answered_below(), 3);
        assert_eq!(
            [numbers.give(), numbers.give(), numbers.give()],
            [Some(4), Some(5), None]
        );
        assert!(!numbers.settle(5));
        assert!(numbers.settle(3));
        assert!(!numbers.settle(4));
        assert_eq!((numbers.answered_below(), numbers.give()), (6, Some(6)));
    }
}
