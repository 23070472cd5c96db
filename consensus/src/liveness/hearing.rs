//! Whether another node hears this one: whether its beats name the replies that it must have by now.
//!
//! A node that sends and does not hear leads nobody well. Its beats would have promises renewed for as long as the
//! last reply that it heard is believed to be recent; so the window is no longer than a reply takes. A reply that
//! comes late costs one renewal, which the next beat makes good.
//!
//! Invariants:
//! * A beat that names what was not said yet is not believed: it means another start, or errs.
//! * What is named is never older than one promise.

use corelith_io::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Replies that are remembered: those of the longest window at the shortest time between beats.
const REPLIES_MAX: usize = 64;
/// A reply has this part of a promise, at least, to be named.
const WINDOW_PART: u32 = 8;
/// A way there and back counts this much more than it took, in percent.
const SLACK_PERCENT: u32 = 150;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Hearing {
    /// When replies were given whose time has not passed, and the last one of which it has.
    replies: VecDeque<Instant>,
    /// How long a way there and back takes: it rises at once and falls slowly.
    round_trip: Duration,
}

impl Hearing {
    /// A beat of this node was replied to after that time.
    pub(super) fn replied_within(&mut self, took: Duration) {
        self.round_trip = took.max(self.round_trip * 7 / 8);
    }

    /// A beat that names the reply of `heard` (0 for none) came at `now` and is replied to; whether the other node
    /// hears. `promise` is the length of a promise.
    pub(super) fn beat(&mut self, heard: u64, now: Instant, promise: Duration) -> bool {
        let window = self.window(promise);
        let is_due = |reply: &Instant| now.saturating_duration_since(*reply) >= window;
        while self.replies.get(1).is_some_and(is_due) {
            self.replies.pop_front();
        }
        let due = self.replies.front().copied().filter(is_due);
        if self.replies.len() == REPLIES_MAX {
            self.replies.pop_front();
        }
        self.replies.push_back(now);
        assert!(self.replies.len() <= REPLIES_MAX, "one comes, one goes");
        let heard = Some(heard)
            .filter(|heard| *heard != 0)
            .map(Instant::from_nanos);
        heard.is_some_and(|heard| {
            heard <= now && now - heard <= promise && due.is_none_or(|due| heard >= due)
        })
    }

    /// How long after it was given a reply is named, if it was heard.
    fn window(&self, promise: Duration) -> Duration {
        let takes = self.round_trip * SLACK_PERCENT / 100;
        let window = takes.max(promise / WINDOW_PART).min(promise);
        assert!(window <= promise, "what is named is within a promise");
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: Duration = Duration::from_millis(300);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// Beats as `(at, heard)` in milliseconds, and whether each shows that the other node hears.
    fn run(round_trip: u64, beats: &[(u64, u64)]) -> Vec<bool> {
        let mut hearing = Hearing::default();
        hearing.replied_within(Duration::from_millis(round_trip));
        let beat = |(now, heard): &(u64, u64)| hearing.beat(heard * 1_000_000, at(*now), L);
        beats.iter().map(beat).collect()
    }

    #[test]
    fn a_node_hears_while_it_names_what_it_must_have_heard() {
        type Case = (&'static str, u64, &'static [(u64, u64)], &'static [bool]);
        let table: &[Case] = &[
            (
                "first beats, then each names the reply before",
                1,
                &[(1000, 0), (1050, 1000), (1100, 1050), (1150, 1100)],
                &[false, true, true, true],
            ),
            (
                "deaf after the second",
                1,
                &[
                    (1000, 0),
                    (1050, 1000),
                    (1100, 1050),
                    (1150, 1050),
                    (1200, 1050),
                ],
                &[false, true, true, false, false],
            ),
            (
                "one reply is late, the next beat makes it good",
                1,
                &[(1000, 0), (1050, 1000), (1100, 1000), (1150, 1100)],
                &[false, true, false, true],
            ),
            (
                "the sender paused, and names what it heard before",
                1,
                &[(1000, 0), (1050, 1000), (1250, 1050), (1300, 1250)],
                &[false, true, true, true],
            ),
            (
                "a long way",
                80,
                &[
                    (1000, 0),
                    (1050, 0),
                    (1100, 1000),
                    (1150, 1050),
                    (1200, 1050),
                ],
                &[false, false, true, true, true],
            ),
            (
                "what was not said, and what is older than a promise",
                1,
                &[(1000, 1001), (1500, 1100)],
                &[false, false],
            ),
        ];
        for (what, round_trip, beats, expected) in table {
            assert_eq!(run(*round_trip, beats), *expected, "{what}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut hearing = Hearing::default();
        for now in 1..10_000 {
            hearing.beat(now * 1_000_000, at(now), L);
            assert!(hearing.replies.len() <= REPLIES_MAX);
        }
    }

    #[test]
    fn a_round_trip_rises_at_once_and_falls_slowly() {
        let mut hearing = Hearing::default();
        hearing.replied_within(Duration::from_millis(160));
        assert_eq!(hearing.window(L), Duration::from_millis(240));
        hearing.replied_within(Duration::from_millis(1));
        assert_eq!(hearing.window(L), Duration::from_millis(210));
        for _ in 0..100 {
            hearing.replied_within(Duration::from_millis(1));
        }
        assert_eq!(hearing.window(L), L / WINDOW_PART);
        hearing.replied_within(Duration::from_secs(9));
        assert_eq!(hearing.window(L), L);
    }
}
