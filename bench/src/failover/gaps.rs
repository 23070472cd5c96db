//! Times without an answered write. Pure: the caller brings the clock.

use std::time::Instant;

/// A time without an answered write of some shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The last answer before it.
    pub(crate) from: Instant,
    /// The first answer after it.
    pub(crate) to: Instant,
}

impl Gap {
    /// Its length in milliseconds.
    pub(crate) fn ms(self) -> f64 {
        self.to.saturating_duration_since(self.from).as_secs_f64() * 1e3
    }

    fn longer(self, other: Self) -> Self {
        let length = |gap: Self| gap.to.saturating_duration_since(gap.from);
        if length(other) > length(self) {
            other
        } else {
            self
        }
    }
}

/// One sequence of answers: its last one, and its longest gap since the last reset.
#[derive(Clone, Copy, Debug)]
struct GapAnswers {
    last: Instant,
    longest: Gap,
}

impl GapAnswers {
    fn new(now: Instant) -> Self {
        Self {
            last: now,
            longest: Gap { from: now, to: now },
        }
    }

    fn answered(&mut self, now: Instant) {
        let gap = Gap {
            from: self.last,
            to: now,
        };
        self.longest = self.longest.longer(gap);
        self.last = self.last.max(now);
    }
}

/// Answers to all writers, since the last [`Gaps::begin`]. Shared by the writers behind a lock.
#[derive(Debug)]
pub(crate) struct Gaps {
    shards: Vec<GapAnswers>,
    all: GapAnswers,
    longest_put_ms: f64,
    errors: u64,
    answers: u64,
}

impl Gaps {
    pub(crate) fn new(shards: u32, now: Instant) -> Self {
        Self {
            shards: (0..shards).map(|_| GapAnswers::new(now)).collect(),
            all: GapAnswers::new(now),
            longest_put_ms: 0.0,
            errors: 0,
            answers: 0,
        }
    }

    /// Notes that a put to `shard` that began at `from` was answered.
    pub(crate) fn answered(&mut self, shard: u32, from: Instant, now: Instant) {
        if let Some(answers) = self.shards.get_mut(shard as usize) {
            answers.answered(now);
        }
        self.all.answered(now);
        self.put(from, now);
        self.answers += 1;
    }

    /// Notes that a put that began at `from` failed.
    pub(crate) fn failed(&mut self, from: Instant, now: Instant) {
        self.put(from, now);
        self.errors += 1;
    }

    fn put(&mut self, from: Instant, now: Instant) {
        let took = now.saturating_duration_since(from).as_secs_f64() * 1e3;
        self.longest_put_ms = self.longest_put_ms.max(took);
    }

    /// Begins a window: forgets the gaps so far. One that is still open counts as a whole.
    pub(crate) fn begin(&mut self) {
        for answers in self.shards.iter_mut().chain([&mut self.all]) {
            answers.longest = Gap {
                from: answers.last,
                to: answers.last,
            };
        }
        self.longest_put_ms = 0.0;
        self.errors = 0;
        self.answers = 0;
    }

    /// The longest gap of any of `shards` in the window, which ends now.
    pub(crate) fn longest_of(&self, shards: &[u32], now: Instant) -> Gap {
        let of = |answers: &GapAnswers| {
            answers.longest.longer(Gap {
                from: answers.last,
                to: now,
            })
        };
        let each = shards
            .iter()
            .filter_map(|shard| self.shards.get(*shard as usize));
        each.map(of)
            .reduce(Gap::longer)
            .unwrap_or(Gap { from: now, to: now })
    }

    /// The longest time in which no write at all was answered.
    pub(crate) fn longest_of_all(&self, now: Instant) -> Gap {
        self.all.longest.longer(Gap {
            from: self.all.last,
            to: now,
        })
    }

    /// The longest put of the window, in milliseconds.
    pub(crate) fn longest_put_ms(&self) -> f64 {
        self.longest_put_ms
    }

    /// Puts that failed in the window.
    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    /// Puts that were answered in the window.
    pub(crate) fn answers(&self) -> u64 {
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_longest_gap_is_that_of_the_shard_asked_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut gaps = Gaps::new(2, start);
        // (shard, answered at)
        for (shard, ms) in [(0, 10), (1, 20), (0, 30), (1, 200), (1, 210)] {
            gaps.answered(shard, at(ms - 5), at(ms));
        }
        let ms = |gap: Gap| gap.ms().round();
        assert_eq!(ms(gaps.longest_of(&[0], at(215))), 185.0, "still open");
        assert_eq!(ms(gaps.longest_of(&[1], at(215))), 180.0);
        assert_eq!(ms(gaps.longest_of(&[0, 1], at(215))), 185.0);
        assert_eq!(ms(gaps.longest_of_all(at(215))), 170.0);
        assert_eq!(gaps.longest_put_ms().round(), 5.0);
    }

    #[test]
    fn a_window_counts_the_gap_in_which_it_begins_and_none_before() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut gaps = Gaps::new(1, start);
        gaps.answered(0, start, at(500));
        gaps.begin();
        gaps.answered(0, at(520), at(540));
        gaps.answered(0, at(540), at(550));
        assert_eq!(gaps.longest_of(&[0], at(551)).ms().round(), 40.0);
        assert_eq!((gaps.answers(), gaps.errors()), (2, 0));
    }
}
