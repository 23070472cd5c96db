//! Spreads work over time: a bucket of tokens that fills at a rate and is drawn from after each step of the
//! work. An empty bucket says how long to wait.
//!
//! Invariants:
//! * Over any time `t`, no more than `rate * (t + ahead) + step` is taken, but for what a cap on the wait
//!   forgives.
//! * Work that was held up, or was not there, is given no more for it than `ahead`.
//! * No wait is longer than the cap, and nothing is owed for longer than [`OWED_MAX`].

use corelith_io::Instant;
use std::cell::Cell;
use std::time::Duration;

/// How a bucket deals with time that was not used, and with waits that are too short or too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Time before now whose tokens may still be taken. Much of it would let each job begin with a burst.
    pub(crate) ahead: Duration,
    /// A shorter wait costs more than it is worth: it is put off until waits add up to this.
    pub(crate) wait_min: Duration,
    /// A longer wait is cut here.
    pub(crate) wait_max: Duration,
    /// Whether what a cut leaves is waited for with the next step, at the rate of then, or forgiven.
    pub(crate) forgives: bool,
}

/// See the module. Belongs to one core.
#[derive(Debug)]
pub(crate) struct Bucket {
    terms: Terms,
    /// When all that was taken is paid for.
    due: Cell<Option<Instant>>,
}

impl Bucket {
    pub(crate) const fn new(terms: Terms) -> Self {
        Self {
            terms,
            due: Cell::new(None),
        }
    }

    /// Takes `count` tokens, of which `rate` come in each second, and returns how long to wait at `now`
    /// before the next step. Without a rate there is no wait, and nothing is owed afterwards.
    pub(crate) fn take(&self, now: Instant, count: u64, rate: Option<u64>) -> Duration {
        let Some(rate) = rate else {
            self.reset();
            return Duration::ZERO;
        };
        let Terms {
            ahead,
            wait_min,
            wait_max,
            forgives,
        } = self.terms;
        let nanos = u128::from(count) * 1_000_000_000 / u128::from(rate.max(1));
        let taken = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let begun = self.due.get().map_or(now, |due| due.max(now - ahead));
        // Centuries are no time to add to a clock.
        let mut due = begun + taken.min(OWED_MAX);
        if forgives {
            due = due.min(now + wait_max.min(OWED_MAX));
        }
        self.due.set(Some(due));
        assert!(due >= begun || forgives, "tokens are taken");
        let wait = due.saturating_duration_since(now).min(wait_max);
        match wait < wait_min {
            true => Duration::ZERO,
            false => wait,
        }
    }

    /// Forgets what is owed and what was saved.
    pub(crate) fn reset(&self) {
        self.due.set(None);
    }
}

/// No step is owed for longer.
const OWED_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::instant;

    const MS: Duration = Duration::from_millis(1);
    const TERMS: Terms = Terms {
        ahead: Duration::from_millis(10),
        wait_min: Duration::from_millis(3),
        wait_max: Duration::from_millis(50),
        forgives: false,
    };

    /// Steps of (milliseconds since the one before, tokens, tokens a second) and how many milliseconds
    /// each waits.
    fn check(what: &str, terms: Terms, steps: &[(u32, u64, Option<u64>, u32)]) {
        let bucket = Bucket::new(terms);
        let mut at = instant();
        for (number, (since, count, rate, expected)) in steps.iter().enumerate() {
            at = at + MS * *since;
            let wait = bucket.take(at, *count, *rate);
            assert_eq!(wait, MS * *expected, "{what}, step {number}");
        }
    }

    #[test]
    fn a_step_waits_for_what_it_took() {
        let k = Some(1000);
        check("evenly", TERMS, &[(0, 5, k, 5), (5, 5, k, 5), (5, 5, k, 5)]);
        check(
            "late steps make up a little",
            TERMS,
            &[(0, 5, k, 5), (1000, 12, k, 0), (0, 8, k, 10)],
        );
        check(
            "short waits gather",
            TERMS,
            &[(0, 1, k, 0), (0, 1, k, 0), (0, 1, k, 3)],
        );
        check(
            "a long wait is waited for in parts",
            TERMS,
            &[(0, 80, k, 50), (50, 0, k, 30), (30, 0, k, 0)],
        );
        check(
            "without a rate nothing is owed",
            TERMS,
            &[(0, 80, k, 50), (0, 9, None, 0), (0, 9, k, 9)],
        );
        check("a rate of nothing", TERMS, &[(0, u64::MAX, Some(0), 50)]);
    }

    #[test]
    fn what_is_cut_may_be_forgiven() {
        let terms = Terms {
            ahead: Duration::ZERO,
            wait_min: Duration::ZERO,
            forgives: true,
            ..TERMS
        };
        let k = Some(1000);
        check(
            "forgiven",
            terms,
            &[(0, 500, k, 50), (50, 1, k, 1), (20, 2, k, 2)],
        );
    }
}
