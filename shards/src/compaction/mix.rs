//! How much of what is written replaces something.
//!
//! A store that is being filled gains nothing from merging early; one that is being overwritten gets its
//! space back. The shape alone does not tell them apart, the results of merges do: if runs hold keys drawn
//! from a set, the number of keys that they share gives an estimate of the size of the set (capture and
//! recapture). The size of the set then gives an estimate of what another merge would drop.
//!
//! Keys are rarely drawn evenly. If a few are written to most often, the set seems smaller and a merge
//! more rewarding than it is; the estimate is therefore limited to what could be at most.
//!
//! It is kept in memory only. After a start nothing is known until the first merge.
//!
//! Invariant: both counts are finite and not negative.

/// Weight of what was known before a merge, against a merge of the same size.
const REMEMBERED: f64 = 0.5;

/// Steps of a bisection that starts with a factor of 2^60.
const BISECTIONS: usize = 60;

/// An estimate of the number of keys that are written to. Belongs to a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WriteMix {
    /// Pairs of entries of different runs that were merged.
    pairs: f64,
    /// Of these pairs, those of the same key.
    same: f64,
}

/// How many entries a merge of runs with these numbers of entries drops, if keys are drawn from `keys`.
fn expected(runs: &[u64], keys: f64) -> f64 {
    let all: f64 = runs.iter().map(|entries| *entries as f64).sum();
    // Logarithm of the share of the keys that no run holds; exact where that is nearly all.
    let absent: f64 = runs
        .iter()
        .map(|entries| (-(*entries as f64 / keys).min(1.0)).ln_1p())
        .sum();
    all + keys * absent.exp_m1()
}

impl WriteMix {
    /// Whether any merge has told something.
    pub(crate) fn is_known(&self) -> bool {
        self.pairs > 0.0
    }

    /// Takes account of a merge of runs with these numbers of entries, of which `dropped` were dropped.
    pub(crate) fn merged(&mut self, runs: &[u64], dropped: u64) {
        let mut pairs = 0.0;
        let mut newer = 0.0;
        for entries in runs {
            pairs += newer * *entries as f64;
            newer += *entries as f64;
        }
        if pairs <= 0.0 {
            return;
        }
        self.pairs = self.pairs * REMEMBERED + pairs;
        self.same *= REMEMBERED;
        if dropped > 0 {
            let mut least = runs.iter().max().map_or(1.0, |entries| *entries as f64);
            let mut most = least * (1_u64 << 60) as f64;
            for _ in 0..BISECTIONS {
                let keys = (least * most).sqrt();
                if expected(runs, keys) > dropped as f64 {
                    least = keys;
                } else {
                    most = keys;
                }
            }
            self.same += pairs / least;
        }
        let is_count = |count: f64| count.is_finite() && count >= 0.0;
        assert!(
            is_count(self.pairs) && is_count(self.same),
            "pairs are counted: {self:?}"
        );
    }

    /// How many of the entries of runs, newest first, a merge of them would drop; `None` if nothing is
    /// known. Never more than the newer runs have, as each entry replaces at most one.
    pub(crate) fn dropped(&self, runs: &[u64]) -> Option<f64> {
        if !self.is_known() {
            return None;
        }
        let keys = self.pairs / self.same;
        if !keys.is_finite() {
            return Some(0.0);
        }
        let older = runs.iter().rev().skip(1);
        let newer: f64 = older.map(|entries| *entries as f64).sum();
        Some(expected(runs, keys).clamp(0.0, newer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_merge_tells_about_the_next() {
        // Runs that were merged and what was dropped; runs to be merged and what is expected.
        type Case<'a> = (&'a str, &'a [u64], u64, &'a [u64], f64);
        let cases: [Case<'_>; 6] = [
            ("only new keys", &[1000, 1000], 0, &[1000, 9000], 0.0),
            (
                "one set of 10,000",
                &[1000, 1000],
                100,
                &[1000, 10_000],
                1000.0,
            ),
            (
                "the same, half full",
                &[1000, 1000],
                100,
                &[1000, 5000],
                500.0,
            ),
            ("new and older runs", &[1000, 1000], 100, &[1000; 2], 100.0),
            (
                "all overwritten",
                &[1000, 10_000],
                1000,
                &[1000, 10_000],
                1000.0,
            ),
            (
                "few keys, much written",
                &[1000, 1000],
                1000,
                &[2000, 90_000],
                2000.0,
            ),
        ];
        for (what, merged, dropped, runs, expected) in cases {
            let mut mix = WriteMix::default();
            assert_eq!(mix.dropped(runs), None);
            mix.merged(merged, dropped);
            let is = mix.dropped(runs).unwrap();
            let within = expected * 0.01 + 1.0;
            assert!(
                (is - expected).abs() <= within,
                "{what}: {is}, not {expected}"
            );
        }
    }

    #[test]
    fn what_changes_is_noticed() {
        let mut mix = WriteMix::default();
        for _ in 0..10 {
            mix.merged(&[1000, 10_000], 1000);
        }
        for _ in 0..10 {
            mix.merged(&[1000, 10_000], 0);
        }
        assert!(mix.dropped(&[1000, 10_000]).unwrap() < 2.0);
    }

    #[test]
    fn runs_that_share_no_keys_tell_nothing() {
        let mut mix = WriteMix::default();
        mix.merged(&[1000], 0);
        mix.merged(&[], 0);
        assert_eq!(mix, WriteMix::default());
    }
}
