//! Histories of a store that does as it should, in which clients' operations overlap, are lost and are retried.

use crate::{LogPoint, Observation, What, WriteCondition};
use std::collections::BTreeMap;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A history of one shard.
pub(super) fn history(seed: u64) -> Vec<Observation> {
    let mut dice = Dice(seed);
    let (keys, lossy) = (1 + dice.below(3), dice.below(3) == 0);
    let mut store: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let (mut index, mut term, mut now) = (4, 1, 0);
    let mut history = Vec::new();
    for value in 1..=8 + dice.below(30) {
        if dice.below(20) == 0 {
            (term, index) = (term + 1, index + 1);
        }
        // Whatever others did of which nothing is in the history.
        index += dice.below(3);
        now += 1 + dice.below(4);
        let key = dice.below(keys);
        let (began, ended) = (now - dice.below(now.min(12)), now + dice.below(12));
        let (version, found) = store.get(&key).copied().unwrap_or_default();
        let condition = match dice.below(6) {
            0 => WriteCondition::Absent,
            1 => WriteCondition::Version(version),
            2 => WriteCondition::Version(version.saturating_sub(1)),
            _ => WriteCondition::Any,
        };
        let is_lost = lossy && dice.below(4) == 0;
        let mut write = |value: Option<u64>, dice: &mut Dice| {
            let applies = condition.holds(version) && !(is_lost && dice.below(2) == 0);
            index += 1;
            let at = LogPoint { term, index };
            match value {
                _ if !applies => {}
                Some(value) => drop(store.insert(key, (index, value))),
                None => drop(store.remove(&key)),
            }
            match (is_lost, condition.holds(version)) {
                (true, _) => What::Unknown { value, condition },
                (false, true) => What::Written {
                    value,
                    condition,
                    at,
                },
                (false, false) => What::Refused {
                    condition,
                    current: version,
                    at: (dice.below(4) > 0).then_some(at),
                },
            }
        };
        let what = match dice.below(10) {
            0..4 => write(Some(value), &mut dice),
            4..6 => write(None, &mut dice),
            _ => What::Read {
                found: (version > 0).then_some((version, found)),
                at: LogPoint { term, index },
            },
        };
        let is_unknown = matches!(what, What::Unknown { .. });
        history.push(Observation {
            client: value,
            shard: 0,
            key: format!("key-{key}"),
            began,
            ended: (!is_unknown).then_some(ended),
            node: 0,
            what,
        });
    }
    history
}

/// Such a history with something small changed in it, which it may well bear.
pub(super) fn broken(seed: u64) -> Vec<Observation> {
    let mut history = history(seed % 5_000);
    let mut dice = Dice(!seed);
    let at = dice.below(history.len() as u64) as usize;
    let observation = &mut history[at];
    let nudge = dice.below(5);
    let nudged = |number: u64| (number + nudge).saturating_sub(2).max(1);
    match (&mut observation.what, dice.below(4)) {
        (_, 0) => observation.began = nudged(observation.began),
        (What::Written { at, .. }, 1) => at.index = nudged(at.index),
        (What::Written { value, .. }, 2) => *value = None,
        (What::Written { condition, at, .. }, _) => {
            *condition = WriteCondition::Version(nudged(at.index).saturating_sub(3));
        }
        (What::Read { found, .. }, 1) => *found = None,
        (
            What::Read {
                found: Some((version, _)),
                ..
            },
            2,
        ) => *version = nudged(*version),
        (What::Read { at, .. }, _) => at.index = nudged(at.index),
        (What::Refused { current, .. }, 1) => *current = nudged(*current),
        (What::Refused { at, .. }, _) => *at = None,
        (What::Unknown { condition, .. }, 1) => *condition = WriteCondition::Absent,
        (What::Unknown { value, .. }, _) => *value = None,
    }
    observation.began = observation.began.min(observation.end());
    history
}
