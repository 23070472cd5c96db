//! Keys and values.

use crate::plan::Data;
use bytes::Bytes;
use corelith_bench::random::{Random, scramble};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Length of every key.
pub(crate) const KEY_BYTES: usize = 16;
/// Numbers of keys that are never written start here.
const ABSENT_FROM: u64 = 1 << 40;
/// Values are slices of this much randomness, which no engine finds twice within a block.
const POOL_BYTES: usize = 8 << 20;

/// The key of a number; numbers in order give keys in random order.
pub(crate) fn key(number: u64) -> [u8; KEY_BYTES] {
    let high = u128::from(scramble(number)) << 64;
    (high | u128::from(scramble(number ^ 0x5bd1_e995_0000_0000))).to_be_bytes()
}

/// Length of a key's value.
pub(crate) fn value_bytes(data: &Data, number: u64) -> usize {
    let large = data.large_every > 0 && scramble(!number).is_multiple_of(data.large_every);
    match large {
        true => data.large_bytes,
        false => data.value_bytes,
    }
}

/// Bytes of `keys` first keys and their values.
pub(crate) fn live_bytes(data: &Data, keys: u64) -> u64 {
    let per_key = KEY_BYTES as u64;
    if data.large_every == 0 {
        return keys * (per_key + data.value_bytes as u64);
    }
    (0..keys)
        .map(|number| per_key + value_bytes(data, number) as u64)
        .sum()
}

/// Random bytes to cut values from. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Values {
    pool: Bytes,
}

impl Values {
    /// A pool for values up to this length.
    pub(crate) fn new(seed: u64, value_bytes_max: usize) -> Self {
        let mut random = Random::new(scramble(seed));
        let words = (POOL_BYTES + value_bytes_max).div_ceil(8);
        let pool: Vec<u8> = (0..words)
            .flat_map(|_| random.next_u64().to_le_bytes())
            .collect();
        Self { pool: pool.into() }
    }

    /// A value of this length.
    pub(crate) fn cut(&self, random: &mut Random, len: usize) -> &[u8] {
        let start = usize::try_from(random.below(POOL_BYTES as u64)).unwrap_or(0);
        self.pool.get(start..start + len).unwrap_or_default()
    }
}

/// Which keys a role touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Each key once, in the order of their numbers, for ever or until the role's count.
    Fresh,
    /// Any of the loaded keys.
    Uniform,
    /// Keys that are not there.
    Absent,
}

/// A slice of the key numbers: those that leave `rest` when divided by `parts`. A core has the keys of its
/// shard, so that no load generator waits for another core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) parts: u64,
    pub(crate) rest: u64,
}

impl Part {
    pub(crate) const WHOLE: Self = Self { parts: 1, rest: 0 };

    /// This part of a number of things.
    pub(crate) fn share(self, count: u64) -> u64 {
        (count + self.parts - 1 - self.rest) / self.parts
    }
}

/// Draws the keys of one lane.
pub(crate) struct Picker {
    pub(crate) choice: Choice,
    pub(crate) keys: u64,
    pub(crate) part: Part,
    pub(crate) random: Random,
    /// Numbers that all lanes of a role have taken; at `count` there are no more.
    pub(crate) taken: Arc<AtomicU64>,
    pub(crate) count: u64,
}

impl Picker {
    /// The next key's number, if there is one.
    pub(crate) fn pick(&mut self) -> Option<u64> {
        let nth = match (self.choice, self.count) {
            (Choice::Uniform | Choice::Absent, u64::MAX) => 0,
            _ => self.taken.fetch_add(1, Ordering::Relaxed),
        };
        if nth >= self.count {
            return None;
        }
        let mine = self.part.share(self.keys);
        let place = match self.choice {
            Choice::Fresh => nth,
            Choice::Uniform => self.random.below(mine),
            Choice::Absent => ABSENT_FROM + self.random.below(ABSENT_FROM),
        };
        Some(place * self.part.parts + self.part.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn picker(choice: Choice, part: Part, count: u64) -> Picker {
        Picker {
            choice,
            keys: 10,
            part,
            random: Random::new(1),
            taken: Arc::default(),
            count,
        }
    }

    #[test]
    fn keys_differ() {
        let keys: BTreeSet<_> = (0..10_000).map(key).collect();
        assert_eq!(keys.len(), 10_000);
    }

    #[test]
    fn parts_have_every_key_once() {
        let mut seen = BTreeSet::new();
        for rest in 0..3 {
            let part = Part { parts: 3, rest };
            let mut picker = picker(Choice::Fresh, part, part.share(10));
            while let Some(number) = picker.pick() {
                assert!(seen.insert(number));
            }
        }
        assert_eq!(seen, (0..10).collect());
    }

    #[test]
    fn uniform_keys_exist_and_absent_ones_do_not() {
        let part = Part { parts: 2, rest: 1 };
        let mut present = picker(Choice::Uniform, part, u64::MAX);
        let mut absent = picker(Choice::Absent, part, u64::MAX);
        for _ in 0..1000 {
            let number = present.pick().unwrap();
            assert!(number < 10 && number % 2 == 1);
            assert!(absent.pick().unwrap() >= ABSENT_FROM);
        }
    }

    #[test]
    fn a_count_ends_any_choice() {
        for choice in [Choice::Fresh, Choice::Uniform, Choice::Absent] {
            let mut picker = picker(choice, Part::WHOLE, 7);
            assert_eq!(std::iter::from_fn(|| picker.pick()).count(), 7);
        }
    }

    #[test]
    fn live_bytes_are_those_of_the_values() {
        let data = Data {
            keys: 4000,
            value_bytes: 100,
            large_bytes: 5000,
            large_every: 4,
        };
        let large = (0..4000)
            .filter(|number| value_bytes(&data, *number) == 5000)
            .count() as u64;
        assert!((800..1200).contains(&large), "{large}");
        let expected = 4000 * 16 + large * 5000 + (4000 - large) * 100;
        assert_eq!(live_bytes(&data, 4000), expected);
        assert_eq!(live_bytes(&Data::uniform(9, 100), 9), 9 * 116);
    }

    #[test]
    fn values_have_their_length() {
        let values = Values::new(1, 1 << 20);
        let mut random = Random::new(2);
        for len in [0, 1, 256, 1 << 20] {
            assert_eq!(values.cut(&mut random, len).len(), len);
        }
    }
}
